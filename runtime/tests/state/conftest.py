"""A plane whose bucket forgets after five seconds, whose journal holds little, and programs that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Servers

TTL_S = 5.0
JOURNAL = 800
#: What a killed flusher held is dealt out again soon.
_SOON = "consumers: {flusher: {ack_wait: 3s}}"
_HERE = Path(__file__).parent


def _make_small(specs: Path) -> None:
    environment = specs / "environments" / "dev.yaml"
    text = environment.read_text()
    journal = "AGENT_STATE_JOURNAL: {replicas: 1,"
    bucket = "AGENT_STATE: {replicas: 1, placement: null, max_bytes: 64MiB"
    assert journal in text
    text = text.replace(journal, f"AGENT_STATE_JOURNAL: {{{_SOON}, max_msgs: {JOURNAL}, replicas: 1,")
    streams, buckets = text.split("  buckets:")
    assert bucket in buckets
    small = f"AGENT_STATE: {{ttl: {TTL_S:g}s, replicas: 1, placement: null, max_bytes: 8MiB"
    text = f"{streams}  buckets:{buckets.replace(bucket, small, 1)}"
    environment.write_text(text.replace("  runtime:\n", "  runtime:\n    lease_ttl: 3s\n"))


@pytest.fixture(scope="session")
def small(make_plane: Callable[[Callable[[Path], None]], Servers]) -> Servers:
    """A plane of its own: the bucket's TTL is 5 s and it holds 8 MiB, the journal 800 messages; a lease lasts 3 s."""
    return make_plane(_make_small)


class Database:
    """What agents.state has, as the superuser sees it."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self._servers.admin) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def values(self, agent_id: UUID | str) -> dict[str, Any]:
        """Living keys, without the library's own."""
        rows = self.query(
            "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND deleted_at IS NULL"
            " AND NOT starts_with(state_key, 'holdfast.')",
            agent_id,
        )
        return dict(rows)


@pytest.fixture
def database(servers: Servers) -> Database:
    return Database(servers)


@pytest.fixture
def small_database(small: Servers) -> Database:
    return Database(small)


class Program:
    """A process that writes (see ``crashing.py``); every line it prints is something that it was promised."""

    def __init__(self, environ: Mapping[str, str], *arguments: str) -> None:
        env = {**os.environ, **environ, "PYTHONPATH": str(_HERE.parents[1])}
        command = [sys.executable, str(_HERE / "crashing.py"), *arguments]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, timeout_s: float = 60) -> list[Any]:
        """Wait until it has killed itself. Returns what was promised to it."""
        out, errors = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == -9, errors
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start a program; what still runs at the end is killed."""
    started: list[Program] = []

    def start(environ: Mapping[str, str], *arguments: str) -> Program:
        started.append(Program(environ, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
