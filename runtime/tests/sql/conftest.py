"""Pools on the plane of the tests."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from holdfast.contract import Contract
from holdfast.settings import Settings


@pytest.fixture
def contract(contract_text: str) -> Contract:
    """The plane's contract."""
    return Contract.parse(contract_text)


@pytest.fixture
def settings(environ: Mapping[str, str]) -> Settings:
    """The environment of the plane."""
    return Settings.from_environment(environ)
