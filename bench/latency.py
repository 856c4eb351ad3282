"""Scenarios of bench/runtime.py: how soon something is elsewhere, and how soon one can begin."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import UUID

from realplane import DATA, ROOT, VALUE, Plane, Table, p95

import holdfast

if TYPE_CHECKING:
    from holdfast.kv.entry import Position

POLLING_MS, WOKEN_MS, LAG_MS, IMPORT_MS, CONNECT_MS = 50, 15, 200, 100, 50
_EVENTS, _RATE, _LAG_S, _AGENTS = 200, 1000, 8.0, 64

_IMPORT = """
import sys, time
start = time.perf_counter()
import holdfast
print(time.perf_counter() - start)
assert not {"nats", "psycopg"} & set(sys.modules)
"""
_OURS = """
import asyncio, os, time
start = time.perf_counter()
import holdfast
async def main():
    async with holdfast.connect():
        print(time.perf_counter() - start, flush=True)
        os._exit(0)
asyncio.run(main())
"""
#: One connection to each server and the imports: what any program with these two drivers does.
_BARE = """
import asyncio, os, time
start = time.perf_counter()
import nats, psycopg, psycopg_pool
async def main():
    await nats.connect(os.environ["NATS_SERVERS"])
    e = os.environ
    await psycopg.AsyncConnection.connect(
        host=e["PG_HOST"], port=e["PG_PORT"], dbname=e["PG_DATABASE"], user="app_primary",
        password=e["PRIMARY_DB_PASSWORD"])
    print(time.perf_counter() - start, flush=True)
    os._exit(0)
asyncio.run(main())
"""


async def start(plane: Plane, table: Table, rounds: int) -> None:
    """A process of its own for each figure; modules are compiled."""
    imports, more = [], []
    for number in range(rounds + 1):
        found = [await asyncio.to_thread(_process, code, plane.environ) for code in (_IMPORT, _OURS, _BARE)]
        if number:
            imports.append(found[0])
            more.append((found[1], found[2]))
    table.bar("import holdfast", statistics.median(imports) * 1e3, IMPORT_MS, "ms")
    ours, bare = (statistics.median(side) * 1e3 for side in zip(*more, strict=True))
    late = statistics.median(mine - low for mine, low in more) * 1e3
    table.bar(
        "first connect() less bare connections with imports", late, CONNECT_MS, "ms", f"{ours:.0f} ms - {bare:.0f} ms"
    )


def _process(code: str, environ: Mapping[str, str]) -> float:
    kept = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    env = kept | {"PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


async def outbox(plane: Plane, table: Table, rounds: int) -> None:
    """The server's time of the message less the time just before COMMIT, both of this machine's clock."""
    switch = "ALTER TABLE runtime.outbox {} TRIGGER outbox_wake"
    async with await plane.postgres(admin=True) as admin:
        for name, does, bar in (("polling", "DISABLE", POLLING_MS), ("with wake-up", "ENABLE", WOKEN_MS)):
            await admin.execute(switch.format(does))
            delays = await _delays(plane, is_woken=does == "ENABLE")
            await admin.execute(switch.format("DISABLE"))
            detail = f"p50 {statistics.median(delays) * 1e3:.1f} ms, {len(delays)} events"
            table.bar(f"outbox, COMMIT to stream, {name}, p95", p95(delays) * 1e3, bar, "ms", detail)


async def _delays(plane: Plane, *, is_woken: bool) -> list[float]:
    committed: dict[str, int] = {}
    stored: dict[str, int] = {}
    async with (
        holdfast.connect(plane.environ, background=False) as connected,
        connected.relay as relay,
        await plane.postgres() as connection,
    ):
        outbox = connected.outbox
        deadline = time.monotonic() + 10
        while is_woken and not (await relay.status()).woken:
            assert time.monotonic() < deadline, "the relay does not hear notifications"
            await asyncio.sleep(0.05)
        stream = json.loads((await connected.nc.request("$JS.API.STREAM.INFO.AGENT_STATE", b"", timeout=5)).data)
        first = stream["state"]["last_seq"] + 1
        for _ in range(_EVENTS):
            async with connection.transaction():
                told = await outbox.add(connection, "agents.lifecycle.bench", {"bench": 1})
                committed[str(told)] = time.time_ns()
            await asyncio.sleep(random.uniform(0.005, 0.045))  # anywhere between two polls
        jetstream = connected.nc.jetstream()
        while len(stored) < _EVENTS:
            assert time.monotonic() < deadline + 60, "events are missing"
            try:
                message = await jetstream.get_msg("AGENT_STATE", first)
            except Exception:
                await asyncio.sleep(0.1)
                continue
            first += 1
            stored[(message.headers or {})["Nats-Msg-Id"]] = _nanoseconds(message.time)
    return [(stored[told] - at) / 1e9 for told, at in committed.items()]


def _nanoseconds(when: object) -> int:
    from datetime import datetime

    assert isinstance(when, datetime)
    return int(when.timestamp() * 1e9)


async def lag(plane: Plane, table: Table, rounds: int) -> None:
    """Writers at a steady rate, and how late the flusher tells that each write is committed."""
    bare = await _bare_rate(plane)
    rate = _RATE if bare >= 2 * _RATE else bare / 2
    #: Of each row, what the bucket has acknowledged and the database has not, oldest first; and what it has by now.
    waiting: dict[tuple[UUID, str], list[tuple[Position, float]]] = defaultdict(list)
    held: dict[tuple[UUID, str], Position] = {}
    late: list[float] = []
    async with holdfast.connect(plane.environ) as connected, AsyncExitStack() as stack:
        flusher = connected.home.flusher
        assert flusher is not None
        tell = flusher.flushed

        def flushed(positions: Mapping[tuple[UUID, str], Position]) -> None:
            now = time.perf_counter()
            for row, position in positions.items():
                held[row] = position
                late.extend(now - since for at, since in waiting[row] if at <= position)
                waiting[row] = [each for each in waiting[row] if each[0] > position]
            tell(positions)

        flusher.flushed = flushed
        agents = [await stack.enter_async_context(connected.agent(i)) for i in await plane.register(_AGENTS)]
        each = int(rate * _LAG_S / _AGENTS)
        begin = time.perf_counter()

        async def write(which: int) -> None:
            for number in range(each):
                await asyncio.sleep(max(0.0, begin + (number + which / _AGENTS) * _AGENTS / rate - time.perf_counter()))
                row = agents[which].agent_id, f"k{number % 50}"
                written = await agents[which].put(row[1], VALUE)
                if row in held and held[row] >= written.position:
                    late.append(0.0)
                else:
                    waiting[row].append((written.position, time.perf_counter()))

        await asyncio.gather(*map(write, range(_AGENTS)))
        reached = each * _AGENTS / (time.perf_counter() - begin)
        await asyncio.gather(*(agent.flush() for agent in agents))
    assert len(late) == each * _AGENTS
    said = f"p50 {statistics.median(late) * 1e3:.0f} ms, {reached:,.0f} writes/s; bare puts reach {bare:,.0f}/s"
    if rate < _RATE:
        said += ", so half of that"
    table.bar("lag from bucket to database, sync_interval: always, p95", p95(late) * 1e3, LAG_MS, "ms", said)
    table.bar("writes a second asked for ÷ reached", rate / reached, 1.05, "x")


async def _bare_rate(plane: Plane) -> float:
    """Bare puts a second with 64 in flight."""
    client = await plane.nats()
    floor = await plane.floor_bucket(client)
    end = time.perf_counter() + 3

    async def put(which: int) -> int:
        done = 0
        while time.perf_counter() < end:
            await floor.put(f"b{which}.k{done % 50}", DATA)
            done += 1
        return done

    done = sum(await asyncio.gather(*map(put, range(64))))
    await client.close()
    return done / 3
