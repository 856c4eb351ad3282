"""A plane on servers that a test may kill one by one: one NATS server or three, PostgreSQL and perhaps a standby."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.embedded.nats import Server as Nats
    from provision.embedded.postgres import Server as Postgres

_TAGS = ("agent-state", "task-execution", "messaging", "session-data", "configuration", "cache")
_PASSWORDS = ("PRIMARY_DB_PASSWORD", "REPLICA_DB_PASSWORD", "BACKGROUND_DB_PASSWORD", "ANALYTICS_DB_PASSWORD")
_DATABASE = "mister_smith"


class Bed:
    """Servers and what reaches them. ``second`` is a standby once ``add_standby`` made it."""

    def __init__(self, root: Path, members: list[Nats], first: Postgres, second: Postgres) -> None:
        self.root, self.members, self.first, self.second = root, members, first, second
        self.environ: Mapping[str, str] = {
            "NATS_SERVERS": ",".join(member.url for member in members),
            "HOLDFAST_PLANE": "agents",
            "HOLDFAST_ENV": "dev",
            **{name: secrets.token_urlsafe(12) for name in _PASSWORDS},
        }

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the server that is the primary now, as the superuser."""
        import psycopg

        for server in (self.second, self.first):
            if server.pid is None:
                continue
            with psycopg.connect(**server.dsn(_DATABASE)) as connection:
                if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                    cursor = connection.execute(statement.encode(), parameters or None)
                    return cursor.fetchall() if cursor.description else []
        raise AssertionError("there is no primary")

    # NATS ----------------------------------------------------------------------------------------------------

    def bounce(self, member: Nats, away_s: float) -> None:
        """SIGKILL, and up again after so many seconds."""
        _kill(member)
        time.sleep(away_s)
        member.start()

    async def leader(self, client: Any, stream: str) -> str:
        """The name of a stream's leader, once it has one and all its followers are current."""
        deadline = time.monotonic() + 60
        while True:
            info: dict[str, Any] = {}
            try:
                info = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=2)).data)
            except Exception:  # a cluster that elects says nothing, or that it cannot
                await asyncio.sleep(0.2)
            cluster = info.get("cluster", {})
            followers = cluster.get("replicas", [])
            if cluster.get("leader") and all(f.get("current") and not f.get("offline") for f in followers):
                return str(cluster["leader"])
            assert time.monotonic() < deadline, f"{stream} does not recover: {info}"
            await asyncio.sleep(0.1)

    def member(self, name: str) -> Nats:
        return next(member for member in self.members if member.name == name)

    # PostgreSQL ----------------------------------------------------------------------------------------------

    def add_standby(self) -> None:
        """Copy the first server; the copy follows synchronously, so that it has what was acknowledged."""
        first, second = self.first, self.second
        second.account.make_folder(second.home)
        command: list[Any] = [first.bin_dir / "pg_basebackup", "--pgdata", second.data_dir, "--write-recovery-conf"]
        command += ["--checkpoint=fast", "--no-sync"]
        command += ["--dbname", f"host=127.0.0.1 port={first.port} user={first.dsn()['user']}"]
        done = second.account.run(command, env={"PGPASSWORD": first.password})
        assert done.returncode == 0, done.stderr
        second.start()
        first.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        first.query("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 30
        while first.query("SELECT sync_state FROM pg_stat_replication") != [["sync"]]:
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.05)

    def promote(self) -> None:
        """The standby becomes the primary, and waits for nobody."""
        assert self.second.query("SELECT pg_promote(true, 30)") == [["t"]]
        self.second.query("ALTER SYSTEM RESET synchronous_standby_names")
        self.second.query("SELECT pg_reload_conf()")


@contextmanager
def bed(*, servers: int = 1, runtime: Mapping[str, Any] | None = None, **overrides: Any) -> Iterator[Bed]:
    """Start servers and apply ``specs/`` to them, on three with the replicas of production.

    ``runtime`` and ``overrides`` (streams, buckets) are laid over what the environment dev overrides.
    """
    nats = pytest.importorskip("provision.embedded.nats", reason="needs holdfast-provision[embedded]")
    postgres = pytest.importorskip("provision.embedded.postgres", reason="needs holdfast-provision[embedded]")
    parent = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix=f"holdfast-rt-{os.getpid()}-", dir=parent))
    root.chmod(0o711)
    config = {"max_payload": 8 * 2**20}
    cluster = nats.Cluster(root / "nats", tags=(_TAGS,) * servers, config=config) if servers > 1 else None
    members = cluster.servers if cluster else [nats.Server(root / "nats", config=config)]
    first = postgres.Server(root / "first", fsync=False)
    second = postgres.Server(root / "second", fsync=False, password=first.password)
    try:
        (cluster or members[0]).start()
        first.start()
        first.create_database(_DATABASE)
        second.port = _free_port()
        found = Bed(root, members, first, second)
        _apply(found, runtime or {}, overrides)
        yield found
    finally:
        second.remove()
        first.remove()
        for member in members:
            _kill(member)
        shutil.rmtree(root, ignore_errors=True)


def _apply(made: Bed, runtime: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    import yaml

    specs = Path(os.environ.get("HOLDFAST_TEST_SPECS") or Path(__file__).resolve().parents[3] / "specs")
    shutil.copytree(specs, made.root / "specs")
    file = made.root / "specs" / "environments" / "dev.yaml"
    content = yaml.safe_load(file.read_text())
    laid = content["override"]
    if len(made.members) > 1:
        for kind in ("streams", "buckets"):
            for settings in laid[kind].values():
                settings.pop("replicas", None)
                settings.pop("placement", None)
    for kind, entries in {"runtime": {"": runtime}, **overrides}.items():
        for name, settings in entries.items():
            (laid[kind][name] if name else laid[kind]).update(settings)
    laid["pools"]["replica"].pop("endpoint")
    tags = {"cluster": "nats-cluster", "tags": list(_TAGS)} if len(made.members) > 1 else {}
    places = {"primary": made.first.port, "replica": made.second.port}
    content["targets"] = {
        "nats": {"main": {"kind": "external", "urls": [m.url for m in made.members], "servers": len(made.members),
                          "max_payload": "8MiB", **tags}},
        "postgres": {"main": {
            "kind": "external", "form": "local", "host": "127.0.0.1", "port": made.first.port,
            "user": made.first.dsn()["user"], "password": {"env": "BED_PASSWORD"}, "database": _DATABASE,
            "endpoints": {name: f"127.0.0.1:{port}" for name, port in places.items()}}},
    }  # fmt: skip
    file.write_text(json.dumps(content))
    command = [str(Path(sys.executable).with_name("holdfast")), "apply", "--yes"]
    environment = {**os.environ, **made.environ, "BED_PASSWORD": made.first.password}
    done = subprocess.run(
        command, cwd=made.root, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _kill(member: Nats) -> None:
    import signal

    from provision.embedded.process import end

    if member.pid is not None:
        end(member.pid, "nats-server", member.home, signal.SIGKILL, 30)


def _free_port() -> int:
    import socket

    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])
