"""Real servers for tests: started once for each worker, emptied between tests."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from provision.embedded import nats, postgres

_PREFIX = "holdfast-tests-"
#: Data in memory where the machine has it: tests then wait for no disk.
_MEMORY = Path("/dev/shm")


def _sweep(parent: Path) -> None:
    """End the servers and delete the folders of test runs that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            continue
        for home in folder.glob("postgres-*"):
            postgres.Server(home).remove()
        for home in folder.glob("nats-*"):
            nats.Server(home).remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_root() -> Iterator[Path]:
    """A short folder in memory that PostgreSQL's account can reach."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_server(server_root: Path) -> Iterator[postgres.Server]:
    """PostgreSQL 18, running."""
    with postgres.Server(server_root / "postgres-18", major=18, fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def pg16_server(server_root: Path) -> Iterator[postgres.Server]:
    """PostgreSQL 16, running."""
    with postgres.Server(server_root / "postgres-16", major=16, fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server(server_root: Path) -> Iterator[nats.Server]:
    """The NATS server of the lock file, running."""
    config = {"jetstream": {"sync_interval": "1m"}}
    with nats.Server(server_root / "nats-latest", config=config) as server:
        yield server


def _fresh_database(server: postgres.Server) -> Iterator[dict[str, Any]]:
    name = f"test_{uuid4().hex[:12]}"
    server.create_database(name)
    yield server.dsn(name)
    server.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    roles = server.query(
        "SELECT format('DROP ROLE %I;', rolname) FROM pg_roles"
        f" WHERE rolname !~ '^pg_' AND rolname <> '{postgres.SUPERUSER}'"
    )
    if roles:
        server.query("\n".join(row[0] for row in roles))


@pytest.fixture
def pg_database(pg_server: postgres.Server) -> Iterator[dict[str, Any]]:
    """Connection keywords (host, port, user, password, dbname) of an empty database; its roles go with it."""
    yield from _fresh_database(pg_server)


@pytest.fixture
def pg16_database(pg16_server: postgres.Server) -> Iterator[dict[str, Any]]:
    """The same on PostgreSQL 16."""
    yield from _fresh_database(pg16_server)


async def _delete_streams(url: str) -> None:
    from nats.aio.client import Client

    client = Client()
    await client.connect(url, connect_timeout=5)
    try:
        while True:
            answer = await client.request("$JS.API.STREAM.NAMES", b"{}", timeout=10)
            names = json.loads(answer.data).get("streams") or []
            if not names:
                return
            for name in names:
                await client.request(f"$JS.API.STREAM.DELETE.{name}", b"", timeout=10)
    finally:
        await client.close()


@pytest.fixture
def nats_url(nats_server: nats.Server) -> str:
    """The URL of a server without any stream."""
    asyncio.run(_delete_streams(nats_server.url))
    return nats_server.url
