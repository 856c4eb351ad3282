"""Scenarios of bench/runtime.py: what is called often."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from typing import TYPE_CHECKING
from uuid import UUID

from realplane import DATA, VALUE, Plane, Table, once, p95, times

import holdfast
from holdfast.kv.entry import Position
from holdfast.state.flush_sql import Change

if TYPE_CHECKING:
    from holdfast.plane import Plane as Connected
    from holdfast.state.agent import AgentState

HOT, READ_S, FLUSH = 1.3, 5e-6, 1.5
_KEYS, _PUTS, _BATCH, _AT_ONCE, _MANY = 50, 300, 50, 64, 1000


async def hot(plane: Plane, table: Table, rounds: int) -> None:
    """One write after the other."""
    for background, where in ((False, "flusher elsewhere"), (True, "flusher in this process")):
        pairs = await _puts(plane, rounds, background=background)
        table.ratio(f"put, 1 KiB, {where} ÷ bare KV put, p50", pairs, HOT)


async def _puts(plane: Plane, rounds: int, *, background: bool) -> list[tuple[float, float]]:
    client = await plane.nats()
    floor = await plane.floor_bucket(client)
    [agent_id] = await plane.register(1)
    pairs = []
    async with (
        holdfast.connect(plane.environ, background=background) as connected,
        connected.agent(agent_id) as agent,
    ):

        async def ours(number: int) -> None:
            await agent.put(f"k{number % _KEYS}", VALUE)

        async def bare(number: int) -> None:
            await floor.put(f"bench.k{number % _KEYS}", DATA)

        await times(_KEYS, ours)
        await times(_KEYS, bare)
        for _ in range(rounds):
            if background:
                await agent.flush()
            await asyncio.sleep(0.05)
            low = statistics.median(await times(_PUTS, bare))
            pairs.append((statistics.median(await times(_PUTS, ours)), low))
    await client.close()
    return pairs


async def read(plane: Plane, table: Table, rounds: int) -> None:
    """What memory answers."""
    async with holdfast.connect(plane.environ, background=False) as connected:
        [agent_id] = await plane.register(1)
        cached = await connected.stores.cached_agents()
        async with connected.agent(agent_id) as agent:
            await agent.put("k", VALUE)
            await cached.find(agent_id)

            async def from_agent(_: int) -> None:
                await agent.get("k")

            async def from_cache(_: int) -> None:
                await cached.find(agent_id)

            for name, one in (("an owner's get, 1 KiB", from_agent), ("cached entity", from_cache)):
                found = [statistics.median(await times(2000, one)) for _ in range(rounds)]
                table.bar(f"{name}, p50", statistics.median(found) * 1e6, READ_S * 1e6, "µs")


async def flush(plane: Plane, table: Table, rounds: int) -> None:
    """The same fifty new rows, by the flusher's writer and by one bare statement."""
    statement = """
        INSERT INTO agents.state (agent_id, state_key, state_value, version)
        SELECT n.agent_id, n.state_key, n.state_value::jsonb, 1
          FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS n (agent_id, state_key, state_value)"""
    pairs = []
    async with holdfast.connect(plane.environ) as connected, await plane.postgres() as connection:
        flusher = connected.home.flusher
        assert flusher is not None
        for number in range(3 * rounds):
            theirs, mine = await plane.register(2)
            changes = [Change(mine, f"k{n}", DATA, Position(1, n + 1), 1) for n in range(_BATCH)]
            # That the writer has met the agent before is the usual case.
            await flusher.write_directly([Change(mine, "first", DATA, Position(1, 1), 1)])
            columns = [[theirs] * _BATCH, [f"k{n}" for n in range(_BATCH)], [DATA.decode()] * _BATCH]

            async def bare(columns: object = columns) -> None:
                await connection.execute(statement, columns)

            async def ours(changes: list[Change] = changes) -> None:
                await flusher.write_directly(changes)

            # In turn, so that neither is always the first after a pause.
            found = {work: await once(work) for work in ((bare, ours) if number % 2 else (ours, bare))}
            pairs.append((found[ours], found[bare]))
    table.ratio("flush of 50 keys ÷ one bare INSERT … SELECT unnest", pairs[6:], FLUSH)


async def many(plane: Plane, table: Table, rounds: int) -> None:
    """Many agents, many keys."""
    async with holdfast.connect(plane.environ, background=False) as connected:
        await _hydration(plane, connected, table, rounds, "none of them flushed")
    async with holdfast.connect(plane.environ) as connected:
        await _hydration(plane, connected, table, rounds, "all of them flushed")
        await _at_once(plane, connected, table, rounds)
        await _handles(plane, connected, table)


async def _at_once(plane: Plane, connected: Connected, table: Table, rounds: int) -> None:
    client = await plane.nats()
    floor = await plane.floor_bucket(client)
    agents = [connected.agent(i) for i in await plane.register(_AT_ONCE)]
    await asyncio.gather(*(agent.__aenter__() for agent in agents))
    each = 20

    async def ours(which: int) -> list[float]:
        return await times(each, lambda n: agents[which].put(f"k{n % 5}", VALUE))

    async def bare(which: int) -> list[float]:
        return await times(each, lambda n: floor.put(f"b{which}.k{n % 5}", DATA))

    slow, total = [], []
    for _ in range(rounds):
        await asyncio.gather(*(agent.flush() for agent in agents))
        start = time.perf_counter()
        low = await asyncio.gather(*map(bare, range(_AT_ONCE)))
        middle = time.perf_counter()
        mine = await asyncio.gather(*map(ours, range(_AT_ONCE)))
        end = time.perf_counter()
        slow.append((p95([t for each_ in mine for t in each_]), p95([t for each_ in low for t in each_])))
        total.append(((end - middle) / _AT_ONCE / each, (middle - start) / _AT_ONCE / each))
    await asyncio.gather(*(agent.close() for agent in agents))
    await client.close()
    table.ratio(f"{_AT_ONCE} agents put at once ÷ bare puts, p95", slow)
    table.ratio(f"{_AT_ONCE} agents put at once ÷ bare puts, time for each put", total)


async def _hydration(plane: Plane, connected: Connected, table: Table, rounds: int, how: str) -> None:
    """Reading a whole state: from bucket, journal and database, beside reading the bucket alone with nats-py."""
    [agent_id] = await plane.register(1)
    client = await plane.nats()
    floor = await plane.floor_bucket(client)
    async with connected.agent(agent_id) as agent:
        for first in range(0, _MANY, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, _MANY))
            await asyncio.gather(*(agent.put(f"k{n}", VALUE) for n in some))
            await asyncio.gather(*(floor.put(f"{agent_id}.k{n}", DATA) for n in some))
        if connected.home.flusher is not None:
            await agent.flush()

        async def bare() -> None:
            watcher = await floor.watch(f"{agent_id}.>")
            seen = 0
            while await watcher.updates() is not None:
                seen += 1
            await watcher.stop()
            assert seen == _MANY

        async def ours() -> None:
            async with connected.agent(agent_id, owned=False) as reader:
                assert len(await reader.items()) == _MANY

        pairs = [(await once(ours), await once(bare)) for _ in range(rounds)]
    await client.close()
    table.ratio(f"{_MANY:,} keys read, {how} ÷ bare watch of them", pairs)


async def _handles(plane: Plane, connected: Connected, table: Table) -> None:
    """What an open handle costs that does nothing, and what a thousand of them cost the one that works."""
    ids = await plane.register(_MANY + 1)
    busy = connected.agent(ids.pop())
    await busy.__aenter__()
    alone = await _busy(busy)
    quiet = await _cpu(3.0)
    gate = asyncio.Semaphore(32)

    async def opened(agent_id: UUID) -> AgentState[object]:
        async with gate:
            agent = connected.agent(agent_id)
            await agent.__aenter__()
            await agent.put("k", 1)
            return agent

    tracemalloc.start()
    agents = await asyncio.gather(*map(opened, ids))
    await asyncio.gather(*(agent.flush() for agent in agents))
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Longer than a third of the lease's time, in which each is renewed once.
    idle = await _cpu(connected.contract.limits.lease_ttl / 3 + 1) - quiet
    crowded = await _busy(busy)
    await asyncio.gather(*(agent.close() for agent in (*agents, busy)))
    table.note("memory of an open handle with one key", f"{grown / _MANY / 1024:8.1f} KiB")
    table.note("processor time of an idle handle", f"{idle / _MANY * 1e6:8.1f} µs for each second")
    table.ratio(f"put beside {_MANY:,} idle handles ÷ alone, p50", [(crowded, alone)])


async def _busy(agent: AgentState[object]) -> float:
    await asyncio.sleep(0.2)
    return statistics.median(await times(1000, lambda n: agent.put(f"k{n % _KEYS}", VALUE)))


async def _cpu(seconds: float) -> float:
    """Processor time that this process takes for each second while nobody asks anything of it."""
    await asyncio.sleep(0.5)
    start = time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - start) / seconds
