"""Beds with rolling sets, on every server that is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from provision.embedded import postgres
from tests.migrate.partitions_bed import Bed, debian


@pytest.fixture
def bed(tmp_path: Path, pg_database: dict[str, Any]) -> Bed:
    return Bed(tmp_path / "bed", pg_database)


@pytest.fixture(scope="module")
def fifteen(server_root: Path) -> Iterator[postgres.Server]:
    """PostgreSQL 15, where the machine has it."""
    with debian(15, server_root) as server:
        yield server


@pytest.fixture(params=[18, 16, 15])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Bed:
    """The same on every server that is at hand."""
    if request.param == 15:
        server: postgres.Server = request.getfixturevalue("fifteen")
        server.create_database(name := f"t{uuid4().hex[:12]}")
        return Bed(tmp_path / "bed", server.dsn(name))
    return Bed(tmp_path / "bed", request.getfixturevalue("pg_database" if request.param == 18 else "pg16_database"))
