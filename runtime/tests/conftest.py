"""One plane for the tests of the library: real servers with everything of ``specs/``, started once for each session.

Where it comes from, in this order:

- ``HOLDFAST_TEST_ENV`` names a file of shell lines such as ``holdfast dev env`` prints: the plane is there already.
- The command ``holdfast`` is installed: it starts servers in a folder in memory and applies ``HOLDFAST_TEST_SPECS``,
  or the ``specs/`` of the repository around these tests. Workers of pytest-xdist start one plane each.
- Else the tests that need servers are skipped and say so.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest

_PREFIX = "holdfast-rt-"
_MEMORY = Path("/dev/shm")
_ADMIN = "holdfast_admin"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known where the library is tested without the repository around it."""
    config.addinivalue_line("markers", "req(*ids): rows of the requirements that this test proves")
    config.addinivalue_line("markers", "soak: takes long or needs downloads; run by make soak")


@dataclass(frozen=True)
class Servers:
    """A plane that runs. ``environ`` reaches it; ``folder`` is its project, or None when others run the servers."""

    environ: Mapping[str, str]
    folder: Path | None = None

    @property
    def nats_url(self) -> str:
        return self.environ["NATS_SERVERS"]

    @property
    def admin(self) -> dict[str, Any]:
        """Keywords of a libpq connection as the superuser of the embedded server."""
        return {
            "host": self.environ["PG_HOST"],
            "port": int(self.environ["PG_PORT"]),
            "user": _ADMIN,
            "password": self._private("HOLDFAST_ADMIN_PASSWORD"),
            "dbname": self.environ["PG_DATABASE"],
        }

    def kill(self, system: str) -> None:
        """End ``nats`` or ``postgres`` with SIGKILL, as a crash would, and wait until it is gone."""
        os.kill(self.pid(system), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while "down" not in self._state(system):
            assert time.monotonic() < deadline, f"{system} does not die"
            time.sleep(0.05)

    def start(self) -> None:
        """Start again what is down, at the same ports."""
        _holdfast(self.project, "dev", "up")

    def pid(self, system: str) -> int:
        """The process of ``nats`` or ``postgres``."""
        return int(self._state(system).rpartition(" ")[2])

    @property
    def project(self) -> Path:
        """The folder; the test is skipped where the servers are not ours to stop."""
        if self.folder is None:
            pytest.skip("the servers of HOLDFAST_TEST_ENV are not ours to stop")
        return self.folder

    def _state(self, system: str) -> str:
        lines = _holdfast(self.project, "dev", "status", check=False).splitlines()
        return next(line for line in lines if line.startswith(system))

    def _private(self, name: str) -> str:
        if name in self.environ:
            return self.environ[name]
        return _variables((self.project / ".holdfast" / "dev" / "secrets.env").read_text())[name]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The plane. Tests that kill a server of it bring it back: ``servers.start()`` in a finally clause."""
    given = os.environ.get("HOLDFAST_TEST_ENV")
    if given:
        yield Servers(MappingProxyType(_variables(Path(given).read_text())))
        return
    folder = _new_folder()
    try:
        shutil.copytree(_specs(), folder / "specs")
        _holdfast(folder, "dev", "up")
        _holdfast(folder, "apply", "--yes")
        yield Servers(MappingProxyType(_variables(_holdfast(folder, "dev", "env"))), folder)
    finally:
        _remove(folder)


@pytest.fixture(scope="session")
def make_plane() -> Iterator[Callable[[Callable[[Path], None]], Servers]]:
    """A function that starts a plane of its own from ``specs/`` after its argument has changed the copied folder."""
    folders: list[Path] = []

    def make(change: Callable[[Path], None]) -> Servers:
        folder = _new_folder()
        folders.append(folder)
        shutil.copytree(_specs(), folder / "specs")
        change(folder / "specs")
        _holdfast(folder, "dev", "up")
        _holdfast(folder, "apply", "--yes")
        return Servers(MappingProxyType(_variables(_holdfast(folder, "dev", "env"))), folder)

    yield make
    for folder in folders:
        _remove(folder)


@pytest.fixture(scope="session")
def environ(servers: Servers) -> Mapping[str, str]:
    """The environment variables that reach the plane: NATS_SERVERS, HOLDFAST_PLANE, PG_HOST, passwords, …"""
    return servers.environ


@pytest.fixture
def agent_id(servers: Servers) -> str:
    """The id of a fresh agent, with its row in agents.registry."""
    return _register(servers)


@pytest.fixture
def new_agent(servers: Servers) -> Callable[[], str]:
    """A function that gives the id of a fresh agent, with its row in agents.registry."""
    return lambda: _register(servers)


def _register(servers: Servers) -> str:
    import psycopg

    agent_id = str(uuid4())
    environ = servers.environ
    with psycopg.connect(
        host=environ["PG_HOST"],
        port=environ["PG_PORT"],
        dbname=environ["PG_DATABASE"],
        user="app_primary",
        password=environ["PRIMARY_DB_PASSWORD"],
        connect_timeout=10,
    ) as connection:
        connection.execute(
            "INSERT INTO agents.registry (agent_id, agent_type, agent_name) VALUES (%s, 'test', %s)",
            [agent_id, f"test-{agent_id}"],
        )
    return agent_id


# Servers by the command line --------------------------------------------------------------------------------


def _command() -> str:
    beside = Path(sys.executable).with_name("holdfast")
    found = str(beside) if beside.exists() else shutil.which("holdfast")
    if found is None:
        pytest.skip("no plane: set HOLDFAST_TEST_ENV, or pip install 'holdfast[cli]' with embedded servers")
    return found


def _specs() -> Path:
    given = os.environ.get("HOLDFAST_TEST_SPECS")
    specs = Path(given) if given else Path(__file__).resolve().parents[2] / "specs"
    if not (specs / "runtime.yaml").exists():
        pytest.skip("no plane: HOLDFAST_TEST_SPECS must name the specs to apply, or HOLDFAST_TEST_ENV a plane")
    return specs


def _holdfast(folder: Path, *arguments: str, check: bool = True) -> str:
    command = [_command(), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=170)
    if check and done.returncode != 0:
        pytest.fail(f"holdfast {' '.join(arguments)} failed:\n{done.stderr}", pytrace=False)
    return done.stdout


def _variables(text: str) -> dict[str, str]:
    """Read shell lines such as ``export NAME='value'``."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.isidentifier():
            found[name] = "".join(shlex.split(value))
    return found


def _new_folder() -> Path:
    """A folder in memory that PostgreSQL's account can pass; those of runs that were killed go first."""
    _command()
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for stale in parent.glob(f"{_PREFIX}*"):
        pid = stale.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").is_dir():
            _remove(stale)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    folder.chmod(0o711)
    return folder


def _remove(folder: Path) -> None:
    if (folder / ".holdfast").exists():
        _holdfast(folder, "dev", "reset", "--yes", check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def contract_text(servers: Servers) -> str:
    """The plane's contract as apply wrote it, JSON."""
    import asyncio

    async def read() -> str:
        from nats.aio.client import Client

        client = Client()
        await client.connect(servers.nats_url, connect_timeout=5)
        try:
            jetstream = client.jetstream()
            key = f"contract.{servers.environ['HOLDFAST_PLANE']}.{servers.environ['HOLDFAST_ENV']}"
            found = await jetstream.get_last_msg("KV_HOLDFAST", f"$KV.HOLDFAST.{key}")
            return (found.data or b"").decode()
        finally:
            await client.close()

    text = asyncio.run(read())
    assert json.loads(text)["contract_version"]
    return text
