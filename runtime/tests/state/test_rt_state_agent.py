"""What an agent's state promises to those who use it, on a real plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

import holdfast
from holdfast.errors import (
    CodecError,
    ConsistencyViolation,
    DuplicateKey,
    LeaseHeld,
    NotFound,
    Unsupported,
    VersionConflict,
)

if TYPE_CHECKING:
    from conftest import Servers


class Mood(Enum):
    CALM = 1
    BUSY = 2


@dataclass
class Step:
    name: str
    cost: Decimal


@dataclass
class Plan:
    goal: str = ""
    mood: Mood = Mood.CALM
    steps: list[Step] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def rows_of(servers: Servers, agent_id: UUID) -> dict[str, tuple[Any, ...]]:
    with psycopg.connect(**servers.admin) as connection:
        found = connection.execute(
            "SELECT state_key, state_value, version, deleted_at IS NOT NULL, checksum, kv_revision, owner_epoch"
            " FROM agents.state WHERE agent_id = %s",
            [agent_id],
        ).fetchall()
    return {row[0]: row[1:] for row in found}


@pytest.mark.req("D1.1", "D1.3", "D2.3")
def test_a_write_is_read_at_once_and_reaches_the_database(servers: Servers, environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id, name="planner") as agent:
            first = await agent.put("plan", {"goal": "tea"})
            assert first.durability == "kv"
            assert await agent.get("plan") == {"goal": "tea"}
            second = await agent.put("plan", {"goal": "cake"}, ack="sql")
            assert second.durability == "sql"
            assert second.position > first.position
            held = rows_of(servers, agent_id)["plan"]
            assert held[0] == {"goal": "cake"}
            assert held[4] == second.position.revision
            assert held[5] == agent.lease.epoch.revision

    asyncio.run(main())
    with psycopg.connect(**servers.admin) as connection:
        named = connection.execute("SELECT agent_name FROM agents.registry WHERE agent_id = %s", [agent_id]).fetchone()
    assert named == ("planner",)


@pytest.mark.req("D1.2")
def test_few_keys_are_flushed_without_being_asked(servers: Servers, environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("k", 1)
            for _ in range(40):
                await asyncio.sleep(0.05)
                if "k" in rows_of(servers, agent_id):
                    break
            assert rows_of(servers, agent_id)["k"][0] == 1
            assert not agent.unflushed.kept

    asyncio.run(main())


@pytest.mark.req("D2.4")
def test_a_delete_reaches_the_database_and_stays_deleted(servers: Servers, environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id) as agent:
                await agent.put("k", "v", ack="sql")
                await agent.put("other", 1)
                await agent.delete("k", ack="sql")
                with pytest.raises(NotFound):
                    await agent.get("k")
                assert await agent.get("k", None) is None
            assert rows_of(servers, agent_id)["k"][2] is True
            async with plane.agent(agent_id) as again:
                assert await again.items() == {"other": 1}
                await again.put("k", "new", ack="sql")
            assert rows_of(servers, agent_id)["k"][:3] == ("new", 3, False)

    asyncio.run(main())


@pytest.mark.req("D2.1", "D2.2", "D2.6")
def test_state_is_read_from_the_database_when_the_bucket_has_none(servers: Servers, environ: Mapping[str, str]) -> None:
    agent_id = uuid4()
    values = {"a": 1, "b": [1.5, 1e300, -0.0], "c.d": "é\0\ud800", "": None} | {f"k{i}": i for i in range(60)}
    del values[""]

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id) as agent:
                for key, value in values.items():
                    await agent.put(key, value)
                await agent.flush()
            await purge(plane.nc, agent_id)
            async with plane.agent(agent_id) as agent:
                seen: list[str] = []
                follower = asyncio.create_task(follow(agent, seen))
                await asyncio.sleep(0)
                assert str(agent.status) == "cold"
                assert await agent.items() == values
                assert str(agent.status) in ("active", "flushing")
                assert str((await agent.get("b"))[2]) == "-0.0"
                entry = await plane.home.bucket.get(f"{agent_id}.state.a")
                assert entry is not None
                assert entry.headers["Holdfast-Origin"] == "sql"
                before = rows_of(servers, agent_id)
                await asyncio.sleep(0.4)
                assert rows_of(servers, agent_id) == before
                await agent.put("a", 2, ack="sql")
            await follower
            assert seen[:3] == ["cold", "hydrating", "active"]
            assert "flushing" in seen

    asyncio.run(main())


async def follow(agent: holdfast.AgentState[Any], seen: list[str]) -> None:
    async for status in agent.statuses():
        seen.append(str(status))  # noqa: PERF401 - it is read while it grows


async def purge(nc: Any, agent_id: UUID) -> None:
    """Take an agent's keys out of the bucket, as its time to live would."""
    subject = "$JS.API.STREAM.PURGE.KV_AGENT_STATE"
    answer = await nc.request(subject, json.dumps({"filter": f"$KV.AGENT_STATE.{agent_id}.>"}).encode(), timeout=5)
    assert "error" not in json.loads(answer.data)


@pytest.mark.req("D2.6")
def test_a_damaged_row_is_not_served_and_blocks_no_other_key(servers: Servers, environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id) as agent:
                await agent.put("good", 1)
                await agent.put("bad", 1, ack="sql")
                await agent.flush()
            with psycopg.connect(**servers.admin) as connection:
                statement = "UPDATE agents.state SET state_value = '2' WHERE agent_id = %s AND state_key = 'bad'"
                connection.execute(statement, [agent_id])
            await purge(plane.nc, agent_id)
            async with plane.agent(agent_id) as agent:
                assert await agent.get("good") == 1
                with pytest.raises(ConsistencyViolation):
                    await agent.get("bad")
                await agent.put("bad", 3)
                assert await agent.items() == {"good": 1, "bad": 3}

    asyncio.run(main())


@pytest.mark.req("D11.1", "D11.2", "D11.3")
def test_going_back_to_a_checkpoint_brings_bucket_and_database_back_together(
    servers: Servers, environ: Mapping[str, str]
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("a", 1)
            await agent.put("b", {"x": 1.0})
            kept = await agent.checkpoint("before")
            await agent.checkpoint("other")
            await agent.put("a", 2)
            await agent.put("c", 3)
            await agent.delete("b")
            back = await agent.restore("before")
            assert back == kept
            assert await agent.items() == {"a": 1, "b": {"x": 1.0}}
            rows = {k: r[0] for k, r in rows_of(servers, agent_id).items() if not r[2] and "holdfast" not in k}
            assert rows == {"a": 1, "b": {"x": 1.0}}
            assert [c.name for c in await agent.checkpoints()] == ["other", "before"]
            with pytest.raises(NotFound):
                await agent.restore("none")
            assert (await agent.restore(kept.checkpoint_id)).name == "before"

    asyncio.run(main())
    with psycopg.connect(**servers.admin) as connection:
        events = connection.execute(
            "SELECT event_type, event_data ->> 'checkpoint_name' FROM agents.lifecycle_events WHERE agent_id = %s"
            " ORDER BY created_at",
            [agent_id],
        ).fetchall()
    assert events == [("checkpointed", "before"), ("checkpointed", "other"), *[("rolled_back", "before")] * 2]


@pytest.mark.req("D11.2")
def test_a_fork_has_the_state_and_goes_its_own_way(environ: Mapping[str, str]) -> None:
    agent_id, other_id = uuid4(), uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("a", 1)
            await agent.put("b", 2)
            await agent.fork(other_id)
            async with plane.agent(other_id) as other:
                await other.put("a", 9)
                assert await other.items() == {"a": 9, "b": 2}
            assert await agent.items() == {"a": 1, "b": 2}
            with pytest.raises(DuplicateKey):
                await agent.fork(other_id)

    asyncio.run(main())


@pytest.mark.req("D2.5", "D2.3")
def test_typed_edits_write_what_changed_and_nothing_after_an_exception(
    servers: Servers, environ: Mapping[str, str]
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id, Plan) as agent:
                async with agent.edit() as plan:
                    plan.goal = "tea"
                    plan.steps.append(Step("boil", Decimal("0.10")))
                    plan.seen |= {"kettle", "cup"}
                await agent.flush()
                before = rows_of(servers, agent_id)
                editing = agent.edit(ack="sql")
                async with editing as plan:
                    plan.mood = Mood.BUSY
                assert editing.written is not None
                after = rows_of(servers, agent_id)
                assert {key for key in after if after[key] != before[key]} == {"mood"}
                with contextlib.suppress(ZeroDivisionError):
                    async with agent.edit() as plan:
                        plan.goal = "never"
                        _ = 1 / 0
            await purge(plane.nc, agent_id)
            async with plane.agent(agent_id, Plan) as agent, agent.edit() as plan:
                assert plan == Plan("tea", Mood.BUSY, [Step("boil", Decimal("0.10"))], {"kettle", "cup"})

    asyncio.run(main())


@pytest.mark.req("D1.4")
def test_two_edits_at_once_do_not_overwrite_each_other(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4(), Plan) as agent:
            slow, fast = agent.edit(), agent.edit()
            (await slow.__aenter__()).goal = "slow"
            (await fast.__aenter__()).goal = "fast"
            await fast.__aexit__(None, None, None)
            with pytest.raises(VersionConflict):
                await slow.__aexit__(None, None, None)
            assert await agent.get("goal") == "fast"
            await agent.put("n", 0)
            await asyncio.gather(*(agent.update("n", lambda n: n + 1) for _ in range(50)))
            assert await agent.get("n") == 50

    asyncio.run(main())


@pytest.mark.req("D1.4")
def test_there_is_one_owner_and_any_number_of_readers(environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("k", 1)
            with pytest.raises(LeaseHeld):
                async with plane.agent(agent_id):
                    pass
            async with plane.agent(agent_id, owned=False) as reader:
                assert await reader.get("k") == 1
                assert await reader.get("none", 7) == 7
                assert await reader.items() == {"k": 1}
                with pytest.raises(Unsupported):
                    await reader.put("k", 2)

    asyncio.run(main())


@pytest.mark.req("D1.1")
def test_a_watch_tells_of_writes_and_deletes(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            await agent.put("a", 1)
            found = []

            async def watch() -> None:
                async with contextlib.aclosing(agent.watch()) as changes:
                    async for change in changes:
                        found.append((change.key, change.value, change.deleted))
                        if len(found) == 3:
                            return

            task = asyncio.create_task(watch())
            await asyncio.sleep(0.3)
            await agent.put("b.c d", datetime(2026, 1, 1, tzinfo=UTC))
            await agent.delete("a")
            await asyncio.wait_for(task, 5)
            assert found == [("a", 1, False), ("b.c d", datetime(2026, 1, 1, tzinfo=UTC), False), ("a", None, True)]

    asyncio.run(main())


@pytest.mark.req("F1.1", "F1.3")
def test_consistency_tells_what_lags(environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, plane.agent(agent_id) as agent:
            await agent.put("a", 1)
            await asyncio.sleep(0.7)
            found = await plane.consistency()
            assert found.lag_ms[agent_id] > 500
            assert found.dirty_entries >= 1
            assert found.violations >= 1
            async with holdfast.connect(environ):
                await agent.flush()
                assert not agent.unflushed.kept
            found = await plane.consistency()
            assert agent_id not in found.lag_ms
            assert found.sql_rows >= 1
            assert found.kv_entries >= 1

    asyncio.run(main())


def test_keys_and_values_that_cannot_be_kept_are_refused_before_anything_is_sent(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            with pytest.raises(CodecError):
                await agent.put("k", object())
            for key in ("", "x" * 256, "holdfast.edit", "a\0"):
                with pytest.raises(CodecError):
                    await agent.put(key, 1)
            for key in (".a", "a.", "a..b", "ключ", "a b*>", "%=", "x" * 255):
                await agent.put(key, key)
            assert set(await agent.items()) == {".a", "a.", "a..b", "ключ", "a b*>", "%=", "x" * 255}

    asyncio.run(main())


@pytest.mark.req("D1.4")
def test_a_cancelled_write_counts_or_does_not_and_memory_knows_which(
    servers: Servers, environ: Mapping[str, str]
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("k", -1)
            for number in range(60):
                task = asyncio.create_task(agent.put("k", number))
                for _ in range(number % 6):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.00002 * number)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                entry = await plane.home.bucket.get(f"{agent_id}.state.k")
                assert entry is not None
                assert await agent.get("k") == json.loads(entry.value or b"")
            await agent.flush()
            assert rows_of(servers, agent_id)["k"][0] == await agent.get("k")

    asyncio.run(main())
