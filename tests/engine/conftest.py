"""A Kubernetes API server that knows CloudNativePG's kinds, for make soak."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import kube, tools


@pytest.fixture(scope="session")
def cluster(server_root: Path) -> Iterator[kube.Cluster]:
    """The API server, running; its programs are built now if they are not there."""
    with kube.running(server_root.parent, tools.built("kubernetes")) as running:
        running.define(tools.built("schemas") / "cloudnative-pg")
        yield running
