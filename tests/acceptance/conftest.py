"""The plane of specs/, applied once through the command line to servers of its own.

Expectations in this folder are written by hand from the requirements, in SQL and in the server's own JSON;
they know nothing of specs/ or of our types.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.plane import SPECS, Plane, Request, holdfast, requester, succeed


@pytest.fixture(scope="session")
def applied_plane(server_root: Path) -> Iterator[Plane]:
    """specs/ in the environment dev: servers started, everything applied."""
    from provision.reconcile import local

    specs = server_root / "plane" / "specs"
    shutil.copytree(SPECS, specs)
    try:
        succeed(holdfast(specs, "dev", "dev", "up"))
        succeed(holdfast(specs, "dev", "apply", "--yes"))
        running = local.status(specs, "dev")
        assert running is not None
        yield Plane(specs, running.postgres["main"].dsn(), running.nats["main"].url)
    finally:
        holdfast(specs, "dev", "dev", "reset", "--yes")


@pytest.fixture
def sql(applied_plane: Plane) -> Iterator[psycopg.Connection[Any]]:
    """A session as the administrator, in UTC; whatever a test writes is rolled back."""
    with psycopg.connect(**applied_plane.postgres, options="-c timezone=UTC") as session:
        yield session
        session.rollback()


@pytest.fixture
def js(applied_plane: Plane) -> Request:
    """Ask the plane's NATS server: ``js("$JS.API.INFO")``."""
    return requester(applied_plane.nats)
