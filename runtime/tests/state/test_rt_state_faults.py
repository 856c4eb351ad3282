"""No acknowledged write is lost: databases away, a journal that is full, owners that slept; and guards taken out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

import holdfast
from holdfast.errors import BackPressure, CircuitOpen, Fenced, HoldfastError
from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import EPOCH, Position
from holdfast.state import flush_sql
from holdfast.state.flusher import Flusher
from holdfast.state.rebuilt import read_mark
from holdfast.state.writer import Writer

if TYPE_CHECKING:
    from conftest import Servers
    from state.conftest import Database, Program

Start = Callable[..., "Program"]


async def drained(plane: holdfast.Plane, within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while (await plane.home.journal.look()).messages or (await plane.home.journal.look()).unsourced:
        assert time.monotonic() < deadline, "the journal is not emptied"
        await asyncio.sleep(0.05)


@pytest.mark.req("F1.1")
def test_what_a_killed_flusher_held_is_repaired_long_before_it_is_dealt_out_again(
    servers: Servers, database: Database, program: Start
) -> None:
    agent_id = str(uuid4())

    async def follow() -> None:
        """A plane's first flusher reads the whole bucket, which would do the repairing."""
        async with holdfast.connect(servers.environ) as plane:
            while True:
                mark = await plane.home.bucket.get("holdfast.flusher")
                if mark is not None and read_mark(mark.value or b"")[1]:
                    return
                await asyncio.sleep(0.1)

    asyncio.run(follow())
    # Each key is written once: whatever the flusher holds when it is killed is the newest of its key.
    promised = program(servers.environ, "put", agent_id, "flush.read", "1", "5").finish()

    async def main() -> None:
        async with holdfast.connect(servers.environ) as plane, plane.agent(agent_id, owned=False) as reader:
            found = await reader.items()
            assert all(found[key] >= number for key, number in promised)
            assert (await plane.home.journal.ack_wait_s("flusher")) == 30
            deadline = time.monotonic() + 15
            while database.values(agent_id) != found:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert (await plane.consistency()).violations > 0
            assert plane.monitor.repaired > 0

    asyncio.run(main())


@pytest.mark.req("D1.2", "D2.4")
@pytest.mark.timeout(240)
def test_a_database_that_is_away_for_three_times_the_ttl_loses_nothing(
    small: Servers, small_database: Database
) -> None:
    agent_id = uuid4()
    told: dict[str, int] = {}

    async def main() -> None:
        async with holdfast.connect(small.environ) as plane:
            async with plane.agent(agent_id, wait_s=10) as agent:
                await agent.put("early", 1)
                await asyncio.to_thread(small.kill, "postgres")
                start = time.monotonic()
                for number in range(150):
                    await agent.put(f"k{number % 50}", number)
                    told[f"k{number % 50}"] = number
                    await asyncio.sleep(0.1)
                assert time.monotonic() - start > 3 * 5 - 1
                entry = await plane.home.bucket.get(f"{agent_id}.state.early")
                assert entry is None
            async with plane.agent(agent_id, wait_s=10) as second:
                # Nobody knows what the database has: nothing is served for a key that may be there.
                with pytest.raises(HoldfastError):
                    await second.get("early")
                assert await second.get("k49") == told["k49"]
                await asyncio.to_thread(small.start)
                async with asyncio.timeout(10):
                    while True:
                        try:
                            assert await second.get("early") == 1
                            break
                        except CircuitOpen:  # the pool is tried again soon
                            await asyncio.sleep(0.1)
                assert {k: v for k, v in (await second.items()).items() if k != "early"} == told
            await drained(plane)
            assert small_database.values(agent_id) == {"early": 1, **told}

    try:
        asyncio.run(main())
    finally:
        small.start()


@pytest.mark.req("D1.5")
@pytest.mark.timeout(240)
def test_a_journal_that_fills_slows_writes_then_refuses_them_and_loses_none(
    small: Servers, small_database: Database
) -> None:
    agent_id = uuid4()
    told: dict[str, int] = {}

    async def main() -> None:
        async with holdfast.connect(small.environ) as plane:
            await drained(plane)
            async with plane.agent(agent_id, wait_s=10) as agent:
                await asyncio.to_thread(small.kill, "postgres")
                refused = 0
                for number in range(2000):
                    try:
                        await agent.put(f"k{number}", number)
                        told[f"k{number}"] = number
                    except BackPressure:
                        refused += 1
                        if refused > 20:
                            break
                    await asyncio.sleep(0.001)
                assert refused > 20
                look = await plane.home.journal.look()
                assert 0.74 <= look.fullness < 1
                await asyncio.to_thread(small.start)
                for _ in range(200):
                    try:
                        await agent.put("late", 1)
                        break
                    except BackPressure:
                        await asyncio.sleep(0.1)
                told["late"] = 1
                await agent.flush()
                assert await agent.items() == told
            assert small_database.values(agent_id) == told

    try:
        asyncio.run(main())
    finally:
        small.start()


async def fill(agent: holdfast.AgentState[Any], told: dict[str, str]) -> None:
    """Put what is more than the bucket holds, and note what was acknowledged."""
    for number in range(300):
        await agent.put(f"k{number}", "y" * 100_000)
        told[f"k{number}"] = "y" * 100_000


@pytest.mark.req("D1.5", "D2.1")
def test_a_bucket_that_fills_refuses_values_and_has_room_for_leases_and_deletes(
    small: Servers, small_database: Database
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ) as plane, plane.agent(agent_id, wait_s=10) as agent:
            told: dict[str, str] = {}
            with pytest.raises(BackPressure, match="the bucket is three quarters full"):
                await fill(agent, told)
            assert 0.7 < (await plane.home.journal.look()).bucket_fullness < 0.85
            assert await agent.items() == told
            await agent.delete("k0")
            async with plane.agent(uuid4(), wait_s=10) as other:
                assert await other.items() == {}
            del told["k0"]
            await agent.flush()
        assert small_database.values(agent_id) == told
        async with holdfast.connect(small.environ) as plane, plane.agent(uuid4()) as other:
            # What an operator does for an agent that is no more: its values and its lease go.
            unwanted = json.dumps({"filter": f"$KV.AGENT_STATE.{agent_id}.>"}).encode()
            await plane.nc.request("$JS.API.STREAM.PURGE.KV_AGENT_STATE", unwanted, timeout=5)
            await asyncio.sleep(0.2)  # it is looked at ten times a second
            await other.put("k", "y" * 100_000, ack="sql")

    asyncio.run(main())


@pytest.mark.req("D2.1")
def test_an_idle_agent_expires_and_comes_back(small: Servers) -> None:
    async def main() -> None:
        async with holdfast.connect(small.environ) as plane, plane.agent(uuid4(), wait_s=10) as agent:
            await agent.put("k", 1)
            assert await agent.items() == {"k": 1}
            await agent.flush()
            await asyncio.sleep(6.5)
            assert str(agent.status) == "expired"
            start = time.monotonic()
            assert await agent.get("k") == 1
            assert str(agent.status) == "active"
            await agent.put("k", 2, ack="sql")
            assert time.monotonic() - start < 2

    asyncio.run(main())


@pytest.mark.req("D1.4", "D2.5")
def test_an_owner_that_slept_through_a_takeover_neither_writes_nor_reads(
    small: Servers, small_database: Database
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ) as one, holdfast.connect(small.environ) as two:
            old = await one.agent(agent_id, wait_s=10).__aenter__()
            await old.put("k", "old")
            await old.lease.stop_renewing()
            async with two.agent(agent_id, wait_s=10) as new:
                assert await new.get("k") == "old"
                await new.put("other", "new")
                # First the key that its successor never wrote: only the subtree tells of the takeover.
                for attempt in (old.put("third", 1), old.put("k", "lost"), old.get("k"), old.items()):
                    with pytest.raises(Fenced):
                        await attempt
                await new.flush()
                assert small_database.values(agent_id) == {"k": "old", "other": "new"}
            await old.close()

    asyncio.run(main())


# The checker itself ------------------------------------------------------------------------------------------


class NoGuard(Writer):
    guard = "true"


class NoSubtree(Bucket):
    """An owner's first write of a key compares with nothing but that there is none."""

    def prepare(self, key: str, value: bytes | None, **options: Any) -> Any:
        if key.endswith(".state.third"):
            options |= {"subtree": None, "expect": 0}
        return super().prepare(key, value, **options)


@pytest.mark.req("D1.4", "D3.3")
def test_without_the_subtree_header_an_old_owner_writes_a_key_that_its_successor_never_wrote(small: Servers) -> None:
    """The guard taken out: what the test of the owner that slept refuses is stored."""
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ) as one, holdfast.connect(small.environ) as two:
            one.home.bucket.__class__ = NoSubtree
            old = await one.agent(agent_id).__aenter__()
            await old.put("k", "old")
            await old.lease.stop_renewing()
            async with two.agent(agent_id, wait_s=10) as new:
                await new.put("other", "new")
                await old.put("third", "old")
                lease = await two.home.bucket.get(f"{agent_id}.lease")
                third = await two.home.bucket.get(f"{agent_id}.state.third")
                assert lease is not None
                assert third is not None
                # What an earlier owner wrote lies behind the lease of the present one.
                assert Position.parse(third.headers[EPOCH]) < Position.parse(
                    lease.headers.get(EPOCH, str(lease.position))
                )
            await old.close()

    asyncio.run(main())


class AcknowledgeFirst(Flusher):
    async def settle(self, batch: Any) -> None:
        await self._acknowledge(batch)
        await self._write(batch)


async def late_then_crash(environ: Mapping[str, str], agent_id: UUID, *, writer: type[Writer]) -> Any:
    """Two flushers hold two revisions of one key; the one with the older comes last."""
    async with holdfast.connect(environ, background=False) as plane, plane.agent(agent_id, wait_s=10) as agent:
        home = plane.home
        older = (await agent.put("k", "older")).position
        newer = (await agent.put("k", "newer")).position
        changes = {
            position: flush_sql.Change(agent_id, "k", json.dumps(value).encode(), position)
            for position, value in ((older, "older"), (newer, "newer"))
        }
        one = writer(plane.contract, plane.pools.background)
        await one.write([changes[newer]])
        await one.write([changes[older]])
        assert home.flusher is None


@pytest.mark.req("D2.4")
@pytest.mark.parametrize(("writer", "holds"), [(Writer, True), (NoGuard, False)])
def test_the_revision_guard_is_what_keeps_an_older_write_from_winning(
    servers: Servers, database: Database, environ: Mapping[str, str], writer: type[Writer], holds: bool
) -> None:
    agent_id = uuid4()
    asyncio.run(late_then_crash(environ, agent_id, writer=writer))
    assert (database.values(agent_id)["k"] == "newer") is holds


@pytest.mark.req("D2.3")
@pytest.mark.parametrize(("kind", "holds"), [(Flusher, True), (AcknowledgeFirst, False)])
def test_acknowledging_after_the_commit_is_what_keeps_writes_over_a_dead_database(
    small: Servers, small_database: Database, kind: type[Flusher], holds: bool
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ, background=False) as plane:
            async with plane.agent(agent_id, wait_s=10) as agent:
                await agent.put("k", 1)
                home = plane.home
                await asyncio.to_thread(small.kill, "postgres")
                flusher = kind(plane.nc, plane.contract, home.bucket, home.journal, home.writer)
                flusher.start()
                async with asyncio.timeout(30):
                    while not flusher.stats.failures:
                        await asyncio.sleep(0.05)
                    # What is still in the bucket, the next flusher would find there.
                    while not holds and await home.bucket.get(f"{agent_id}.state.k") is not None:
                        await asyncio.sleep(0.1)
                await flusher.stop(0.1)
            await asyncio.to_thread(small.start)
        async with holdfast.connect(small.environ) as plane:
            await drained(plane)

    try:
        asyncio.run(main())
    finally:
        small.start()
    assert (small_database.values(agent_id) == {"k": 1}) is holds
