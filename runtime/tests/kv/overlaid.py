"""A plane whose NATS servers are a test's own, of any release, one or three; its PostgreSQL is the embedded one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from holdfast.plane import Plane

_EMBEDDED = "main: {kind: embedded, max_payload: 8MiB}"
LEASE_S = 0.5
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Overlaid:
    """``site`` has the NATS servers, ``admin`` reaches the database, ``environ`` is for ``holdfast.connect``."""

    site: Any
    environ: Mapping[str, str]
    admin: Mapping[str, Any]

    def rows(self, agent_id: object) -> dict[str, Any]:
        """Living rows of agents.state, without the library's own."""
        with psycopg.connect(**self.admin) as connection:
            return dict(
                connection.execute(
                    "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND deleted_at IS NULL"
                    " AND NOT starts_with(state_key, 'holdfast.')",
                    [agent_id],
                ).fetchall()
            )

    def program(self, *arguments: object) -> subprocess.Popen[str]:
        """Start ``owning.py``, which prints what it was promised."""
        env = {**os.environ, **self.environ, "PYTHONPATH": str(_HERE.parents[1])}
        command = [sys.executable, str(_HERE / "owning.py"), *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def told(program: subprocess.Popen[str], timeout_s: float = 90) -> list[Any]:
    """Wait until a program has ended, killed or not. Returns its lines."""
    out, errors = program.communicate(timeout=timeout_s)
    assert program.returncode in (0, -9), errors
    return [json.loads(line) for line in out.splitlines() if line.endswith("]")]


async def drained(plane: Plane, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while True:
        look = await plane.home.journal.look()
        if not (look.messages or look.unsourced):
            return
        assert time.monotonic() < deadline, f"the journal keeps {look.messages}, its source lags {look.unsourced}"
        await asyncio.sleep(0.1)


def overlay(site: Any, make_plane: Callable[..., Any], ttl_s: int, lease_s: float) -> Overlaid:
    """Apply the plane's specs to the servers of ``site``; ``ttl_s`` is that of the state bucket."""
    replicas = f"replicas: {site.replicas}"
    urls = [server.url for server in site.servers]

    def change(specs: Path) -> None:
        path = specs / "environments" / "dev.yaml"
        text = path.read_text()
        assert _EMBEDDED in text
        text = text.replace(_EMBEDDED, f"main: {{kind: external, urls: {json.dumps(urls)}, max_payload: 8MiB}}")
        # What a stopped flusher held is dealt out again soon.
        journal = "AGENT_STATE_JOURNAL: {consumers: {flusher: {ack_wait: 3s}}, "
        text = text.replace("AGENT_STATE_JOURNAL: {replicas: 1", f"{journal}{replicas}")
        streams, buckets = text.split("  buckets:")
        buckets = buckets.replace("AGENT_STATE: {replicas: 1", f"AGENT_STATE: {{ttl: {ttl_s}s, {replicas}")
        text = f"{streams}  buckets:{buckets}".replace(
            "  runtime:\n", f"  runtime:\n    lease_ttl: {lease_s * 1000:g}ms\n"
        )
        path.write_text(text)

    servers = make_plane(change)
    environ = {**servers.environ, "NATS_SERVERS": ",".join(urls)}
    return Overlaid(site, MappingProxyType(environ), MappingProxyType(servers.admin))
