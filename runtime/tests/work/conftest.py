"""Work that the tests do, here and in processes that end in the middle of it: python conftest.py KIND PLACE TIMES ID.

The piece of work ``ID``: key ``test.ID.a`` goes from "old" to "new", key ``test.ID.b`` from nothing to "new", the task
ID goes from name "old" to "new", and an event tells of it. All of that, or nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

BUCKETS = ("AGENT_CONFIG", "SESSION_DATA")


@dataclass
class Workshop:
    contract: Any
    pools: Any
    client: Any
    stores: Mapping[str, Any]
    store_of: Any
    sagas: Any
    two_phase: Any

    async def execute(self, statement: str, values: Any = None) -> list[Any]:
        async with self.pools.primary.connection() as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    def recoverer(self, stale_s: float = 0.0) -> Any:
        from holdfast.work.recoverer import Recoverer

        return Recoverer(self.pools.primary, self.sagas, self.contract, two_phase=self.two_phase, stale_s=stale_s)

    async def settle(self, tries: int = 40) -> list[Any]:
        """Let a recoverer work until nothing is left."""
        results = []
        recoverer = self.recoverer()
        for _ in range(tries):
            results += await recoverer.step()
            [[left]] = await self.execute(
                "SELECT (SELECT count(*) FROM runtime.sagas WHERE state IN ('running', 'compensating'))"
                " + (SELECT count(*) FROM pg_prepared_xacts)"
                " + (SELECT count(*) FROM runtime.decisions WHERE finished_at IS NULL)"
            )
            if not left:
                return results
            await asyncio.sleep(0.1)
        raise AssertionError("the recoverer does not come to an end")

    def steps(self, name: str, *, fails: bool = False) -> list[Any]:
        """The piece of work, or one whose last change of rows is refused."""
        return steps(name, fails=fails)

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        head = await self.stores[bucket].head(key)
        await self.stores[bucket].write(key, value, expect=head.position.revision if head else 0)

    async def value(self, bucket: str, key: str) -> bytes | None:
        entry = await self.stores[bucket].get(key)
        return entry.value if entry else None

    async def prepare(self, name: str) -> None:
        """The state before the piece of work."""
        await self.put("AGENT_CONFIG", f"test.{name}.a", b"old")
        await self.execute(
            "INSERT INTO tasks.queue (task_id, task_type, task_name) VALUES (%s, 'inference', 'old')", [name]
        )

    async def state(self, name: str) -> dict[str, Any]:
        """What there is of the piece of work."""
        rows = await self.execute("SELECT task_name FROM tasks.queue WHERE task_id = %s", [name])
        events = await self.execute("SELECT 1 FROM runtime.outbox WHERE subject = %s", [f"tasks.updated.{name}"])
        return {
            "a": await self.value("AGENT_CONFIG", f"test.{name}.a"),
            "b": await self.value("SESSION_DATA", f"test.{name}.b"),
            "row": rows[0][0] if rows else None,
            "events": len(events),
        }

    async def check_whole(self, name: str) -> str:
        """The invariant: all of it or nothing. Gives which."""
        state = await self.state(name)
        if state == {"a": b"new", "b": b"new", "row": "new", "events": 1}:
            return "all"
        assert state == {"a": b"old", "b": None, "row": "old", "events": 0}, f"half of the work is done: {state}"
        return "nothing"


def steps(name: str, *, fails: bool = False) -> list[Any]:
    from holdfast.work.steps import Emit, KvPut, SqlInsert, SqlUpdate

    key = {"task_id": name, "task_type": "inference"}
    work: list[Any] = [
        KvPut("AGENT_CONFIG", f"test.{name}.a", b"new"),
        KvPut("SESSION_DATA", f"test.{name}.b", b"new"),
        SqlUpdate("tasks.queue", key, {"task_name": "new"}),
        Emit(f"tasks.updated.{name}", {"task_id": name}),
    ]
    if fails:
        work.append(SqlInsert("tasks.queue", {**key, "retry_count": -1}, ["task_id", "task_type"]))
    return work


@asynccontextmanager
async def workshop(environ: Mapping[str, str]) -> AsyncIterator[Workshop]:
    from nats.aio.client import Client

    from holdfast.contract import fetch_contract
    from holdfast.kv.bucket import Bucket
    from holdfast.settings import Settings
    from holdfast.sql.pools import Pools
    from holdfast.work.saga import Sagas
    from holdfast.work.two_phase import TwoPhase

    client = Client()
    await client.connect(
        environ["NATS_SERVERS"], connect_timeout=5, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=_quiet
    )
    try:
        contract = await fetch_contract(client, environ["HOLDFAST_PLANE"], environ["HOLDFAST_ENV"])
        stores = {name: await Bucket.open(client, contract.buckets[name], timeout_s=10.0) for name in BUCKETS}

        @asynccontextmanager
        async def store_of(step: Any, *, writes: bool = True) -> AsyncIterator[Any]:
            yield stores[step.bucket]

        async with await Pools.open(contract, Settings.from_environment(environ)) as pools:
            yield Workshop(
                contract,
                pools,
                client,
                stores,
                store_of,
                Sagas(pools.primary, store_of, contract),
                TwoPhase(pools.primary, store_of, contract),
            )
    finally:
        await client.close()


async def _quiet(error: Exception) -> None:
    """Servers are killed here: what the client says of it is no news."""


@pytest.fixture
def open_workshop(servers: Any, environ: Any) -> Callable[[], AbstractAsyncContextManager[Workshop]]:
    """A function that opens the plane with buckets and coordinators; the journals begin empty."""
    import psycopg

    with psycopg.connect(**servers.admin, autocommit=True) as connection:
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            connection.execute(f"ROLLBACK PREPARED '{gid}'")
        connection.execute("TRUNCATE runtime.sagas, runtime.saga_steps, runtime.decisions, runtime.outbox")
    return lambda: workshop(environ)


async def short_lived(environ: Mapping[str, str]) -> Any:
    """The contract of the plane with leases of a second, after which work counts as left."""
    import holdfast

    async with holdfast.connect(environ, background=False) as plane:
        return replace(plane.contract, limits=replace(plane.contract.limits, lease_ttl=1.0))


async def on_agent(environ: Mapping[str, str], name: str, ready: Callable[[], None]) -> Any:
    """The piece of work, and one more key: "step" of the agent ``name`` goes from "old" to "new", as its owner."""
    import holdfast

    contract = await short_lived(environ)
    async with (
        holdfast.connect(environ, contract=contract, background=False) as plane,
        plane.agent(name, wait_s=5) as agent,
    ):
        await agent.put("step", "old")
        ready()
        return await plane.work.run("test", [holdfast.KvPut.on(agent, "step", "new"), *steps(name)])


async def main(kind: str, place: str, times: int, name: str) -> None:
    from holdfast import points
    from holdfast.work.result import Strategy

    left = times

    def hook(reached: str) -> None:
        nonlocal left
        left -= reached == place
        if left == 0 and reached == place:
            os._exit(77)

    if kind == "agent":
        await on_agent(os.environ, name, lambda: points.set_hook(hook))
        os._exit(0)
    async with workshop(os.environ) as shop:
        points.set_hook(hook)
        if kind == "two_phase":
            await shop.two_phase.run(steps(name), timeout_s=1.0)
        elif kind == "eventual":
            await shop.sagas.run("test", steps(name), strategy=Strategy.EVENTUAL_CONSISTENCY)
        else:
            await shop.sagas.run("test", steps(name, fails=kind == "failing"))
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
