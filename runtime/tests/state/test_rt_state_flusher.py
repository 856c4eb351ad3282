"""The flusher beside everything else: bad data, several flushers, events, a bucket that is made anew, and how fast."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

import holdfast
from holdfast.errors import HoldfastError, OperationTimeout
from holdfast.kv.entry import ORIGIN
from holdfast.state.core import AgentCore
from holdfast.state.keys import EDIT_KEY

if TYPE_CHECKING:
    from conftest import Servers
    from state.conftest import Database


async def eventually(check: Any, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.req("D1.5", "D2.3")
def test_a_value_that_the_database_refuses_is_parked_and_holds_nobody_up(
    environ: Mapping[str, str], database: Database
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            told = "SELECT count(*) FROM agents.lifecycle_events WHERE event_type = 'flush_refused' AND agent_id = %s"
            # What our codec never writes: a program of others' wrote it.
            await agent.lease.writer.write(f"{agent_id}.state.bad", b'"\\u0000"')
            await agent.lease.writer.write(f"{agent_id}.state.worse", b"no json")
            for number in range(30):
                await agent.put(f"k{number}", number)
            await agent.flush(5)
            assert database.values(agent_id) == {f"k{number}": number for number in range(30)}
            flusher = plane.home.flusher
            assert flusher is not None
            await eventually(lambda: len(flusher.parked) == 2)
            assert {parked.state_key for parked in flusher.parked.values()} == {"bad", "worse"}
            assert {parked.state_key for parked in (await plane.consistency()).parked} == {"bad", "worse"}
            await eventually(lambda: database.query(told, agent_id) == [(2,)])
            await agent.put("bad", "good", ack="sql")
            await agent.put("worse", "better", ack="sql")
            assert not flusher.parked

    asyncio.run(main())


@contextmanager
def trigger(database: Database, agent_id: UUID, body: str) -> Iterator[None]:
    """Have each row of an agent pass some PL/pgSQL."""
    name = f"test_{agent_id.hex}"
    database.query(
        f"CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN new; END $$"
    )
    database.query(
        f"CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON agents.state FOR EACH ROW"
        f" WHEN (new.agent_id = '{agent_id}') EXECUTE FUNCTION public.{name}()"
    )
    try:
        yield
    finally:
        database.query(f"DROP FUNCTION public.{name} CASCADE")


@pytest.mark.req("D1.5", "D2.3")
def test_a_row_that_a_trigger_refuses_is_parked_and_holds_nobody_up(
    environ: Mapping[str, str], database: Database
) -> None:
    agent_id, other_id = uuid4(), uuid4()

    async def main() -> None:
        async with (
            holdfast.connect(environ) as plane,
            plane.agent(agent_id) as agent,
            plane.agent(other_id) as other,
        ):
            flusher = plane.home.flusher
            assert flusher is not None
            with trigger(database, agent_id, "IF new.state_key = 'bad' THEN RAISE 'no'; END IF;"):
                await agent.put("bad", 1)
                await agent.put("fine", 1)
                await other.put("good", 1)
                await other.flush(5)
                await eventually(lambda: [row.state_key for row in flusher.parked.values()] == ["bad"])
            await agent.put("bad", 2, ack="sql")
            assert database.values(agent_id) == {"bad": 2, "fine": 1}

    asyncio.run(main())


@pytest.mark.req("D1.5")
def test_a_batch_that_is_not_written_in_time_is_tried_in_smaller_parts(
    environ: Mapping[str, str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 ms a row and 0.3 s a statement: what is due at once never fits into one."""
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("first", 0, ack="sql")
            monkeypatch.setattr("holdfast.state.writer._STATEMENT_S", 0.3)
            with trigger(database, agent_id, "PERFORM pg_sleep(0.01);"):
                await asyncio.gather(*(agent.put(f"k{number}", number) for number in range(80)))
                await agent.flush(15)

    asyncio.run(main())
    assert len(database.values(agent_id)) == 81


@pytest.mark.req("D2.3")
def test_the_journal_is_asked_once_for_a_key_however_much_of_it_waits(environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, plane.agent(agent_id) as agent:
            journal, created = plane.home.journal, plane.home.bucket.incarnation
            for number in range(100):
                await agent.put("hot", number)
            subject = f"$KV.{journal.bucket}.{agent_id}.state.hot"
            asked: list[str] = []
            ask = journal.ask

            async def counted(
                subject: str, body: Mapping[str, Any] | None = None, *, is_patient: bool = True
            ) -> dict[str, Any]:
                asked.append(subject)
                return await ask(subject, body, is_patient=is_patient)

            async def newest(messages: int) -> list[bytes | None]:
                async with asyncio.timeout(10):
                    while (await journal._subjects(subject)).get(subject, 0) < messages:
                        await asyncio.sleep(0.02)
                asked.clear()
                return [change.value for change in await journal.unflushed(agent_id, created)]

            journal.ask = counted  # type: ignore[method-assign]
            assert await newest(100) == [b"99"]
            assert len(asked) <= 3, len(asked)
            # What hydration put back is no write: the one before it is still to be flushed.
            await agent.lease.writer.write(f"{agent_id}.state.hot", b"1", headers={ORIGIN: "sql"})
            assert (await newest(101))[-1] == b"99"

    asyncio.run(main())


@pytest.mark.req("D1.5")
def test_an_agent_that_nobody_registered_or_that_was_deleted_is_registered(
    environ: Mapping[str, str], database: Database
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("a", 1, ack="sql")
            database.query("DELETE FROM agents.registry WHERE agent_id = %s", agent_id)
            await agent.put("b", 2, ack="sql")

    asyncio.run(main())
    assert database.values(agent_id) == {"b": 2}


@pytest.mark.req("D1.5")
def test_several_flushers_share_the_work_and_every_owner_learns_of_it(
    environ: Mapping[str, str], database: Database
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with (
            holdfast.connect(environ) as one,
            holdfast.connect(environ) as two,
            one.agent(agent_id) as agent,
        ):
            for number in range(600):
                await agent.put(f"k{number % 60}", number)
            await agent.flush(10)
            assert not agent.unflushed.kept
            for plane in (one, two):
                flusher = plane.home.flusher
                assert flusher is not None
                assert flusher.stats.written > 0
            assert database.values(agent_id) == await agent.items()

    asyncio.run(main())


@pytest.mark.req("E1.1", "E1.5", "E1.9")
def test_each_change_leaves_as_an_event_when_that_is_on(environ: Mapping[str, str], database: Database) -> None:
    agent_id = uuid4()
    found: list[Any] = []

    async def main() -> None:
        async with holdfast.connect(environ, events=True) as plane, plane.agent(agent_id) as agent:
            subscription = await plane.nc.subscribe(f"agents.state.{agent_id}")
            await agent.put("k", 1, ack="sql", correlation_id="c-1")
            await agent.put("k", 2, ack="sql")
            await agent.delete("k", ack="sql")
            for _ in range(3):
                message = await subscription.next_msg(timeout=5)
                found.append((json.loads(message.data), message.headers or {}))

    asyncio.run(main())
    bodies = [body for body, _ in found]
    assert [(b["operation"], b["old_value"], b["new_value"], b["version"]) for b in bodies] == [
        ("INSERT", None, 1, 1),
        ("UPDATE", 1, 2, 2),
        ("DELETE", 2, None, 3),
    ]
    assert {b["state_key"] for b in bodies} == {"k"}
    assert abs(bodies[0]["timestamp"] - time.time()) < 60
    assert found[0][1]["Holdfast-Correlation-Id"] == "c-1"


@pytest.mark.req("D2.5")
def test_state_of_an_older_schema_is_brought_up_once(environ: Mapping[str, str], database: Database) -> None:
    agent_id = uuid4()

    def old_model() -> type[Any]:
        @dataclass
        class Task:
            timeout_s: int = 2
            name: str = "n"

        return Task

    def new_model() -> type[Any]:
        @dataclass
        class Task:
            timeout_ms: int = 0
            name: str = ""

        @holdfast.upcaster(Task, from_version=1)
        def in_milliseconds(old: dict[str, Any]) -> dict[str, Any]:
            return {"timeout_ms": old["timeout_s"] * 1000, "name": old["name"]}

        return Task

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id, old_model()) as agent, agent.edit():
                pass
            for _ in range(2):
                async with plane.agent(agent_id, new_model()) as agent, agent.edit(ack="sql") as task:
                    assert task.timeout_ms == 2000
            assert database.values(agent_id) == {"timeout_ms": 2000, "name": "n"}
            async with plane.agent(agent_id, old_model()) as agent:
                with pytest.raises(HoldfastError, match="version 2"):
                    async with agent.edit():
                        pass

    asyncio.run(main())


async def rebuild(nc: Any) -> None:
    """Delete the bucket and make it again as it was."""
    answer = json.loads((await nc.request("$JS.API.STREAM.INFO.KV_AGENT_STATE", b"", timeout=5)).data)
    config = answer["config"]
    await nc.request("$JS.API.STREAM.DELETE.KV_AGENT_STATE", b"", timeout=5)
    made = await nc.request("$JS.API.STREAM.CREATE.KV_AGENT_STATE", json.dumps(config).encode(), timeout=5)
    assert "error" not in json.loads(made.data), made.data


@pytest.mark.req("D2.5")
@pytest.mark.timeout(120)
def test_a_bucket_that_is_made_anew_under_load_loses_nothing(small: Servers, small_database: Database) -> None:
    agent_id = uuid4()
    told: dict[str, int] = {}

    async def write(agent: holdfast.AgentState[Any], until: float) -> None:
        number = 0
        while time.monotonic() < until:
            try:
                await agent.put(f"k{number % 20}", number)
                told[f"k{number % 20}"] = number
            except HoldfastError as error:
                # For a moment there is no bucket at all.
                assert error.retryable or error.code == "CONFIGURATION", error  # noqa: PT017
                await asyncio.sleep(0.02)
            number += 1
            await asyncio.sleep(0.003)

    async def main() -> None:
        async with holdfast.connect(small.environ) as plane, plane.agent(agent_id, wait_s=10) as agent:
            await agent.put("quiet", 1, ack="sql")
            before = plane.home.bucket.incarnation
            task = asyncio.create_task(write(agent, time.monotonic() + 6))
            await asyncio.sleep(2)
            await rebuild(plane.nc)
            await task
            assert plane.home.bucket.incarnation > before
            await agent.flush(20)
            found = await agent.items()
            assert all(found[key] >= number for key, number in told.items())
            await eventually(lambda: small_database.values(agent_id) == found)

    asyncio.run(main())
    assert len(told) == 20


@pytest.mark.req("D2.5")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("puts_again", [True, False])
def test_what_the_journal_had_not_taken_is_put_again_by_its_owner(
    small: Servers, small_database: Database, monkeypatch: pytest.MonkeyPatch, puts_again: bool
) -> None:
    agent_id = uuid4()
    if not puts_again:

        async def nothing(self: AgentCore) -> None:
            """Leave out what the test is about."""

        monkeypatch.setattr(AgentCore, "put_again", nothing)

    async def main() -> bool:
        async with holdfast.connect(small.environ) as plane, plane.agent(agent_id, wait_s=10) as agent:
            for round_ in range(3):
                # Deleted with the last acknowledgement: its source has not read everything.
                await asyncio.gather(*(agent.put(f"k{number}", [round_, number]) for number in range(300)))
                await rebuild(plane.nc)
                try:
                    await agent.flush(8)
                except OperationTimeout:
                    return False
            return small_database.values(agent_id) == await agent.items()

    assert asyncio.run(main()) is puts_again


@pytest.mark.req("D2.5", "D1.2")
def test_an_edit_that_is_put_again_does_not_undo_what_was_written_after_it(small: Servers) -> None:
    """Its owner is killed after the record: whoever comes next takes the keys from there."""

    @dataclass
    class Pair:
        left: int = 0
        right: int = 0

    async def main() -> None:
        async with (
            holdfast.connect(small.environ, background=False) as plane,
            plane.agent(uuid4(), Pair, wait_s=10) as agent,
        ):
            async with agent.edit() as pair:
                pair.left = pair.right = 5
            await agent.put("left", 9)
            await rebuild(plane.nc)
            await plane.home.bucket.refresh_incarnation()
            commit = agent._commit

            async def until_the_record(*args: Any, **more: Any) -> Any:
                if args[0] != EDIT_KEY:
                    raise ZeroDivisionError
                return await commit(*args, **more)

            agent._commit = until_the_record  # type: ignore[method-assign]
            with pytest.raises(ZeroDivisionError):
                await agent.put_again()
            async with plane.agent(agent.agent_id, owned=False) as reader:
                assert await reader.items() == {"left": 9, "right": 5}
            agent._commit = commit  # type: ignore[method-assign]
            await agent.put_again()
            assert await agent.items() == {"left": 9, "right": 5}
            await plane.monitor.repair(agent.agent_id)
            assert not agent.unflushed.kept

    asyncio.run(main())


def lags_at(environ: Mapping[str, str], writes: int, a_second: int) -> list[float]:
    """Ages of the oldest unflushed write in milliseconds, taken at every tenth write."""
    ids: list[UUID] = [uuid4() for _ in range(4)]

    async def main() -> list[float]:
        async with holdfast.connect(environ) as plane:
            agents = [plane.agent(agent_id) for agent_id in ids]
            for agent in agents:
                await agent.__aenter__()
            lags: list[float] = []
            start = time.monotonic()
            for number in range(writes):
                await agents[number % 4].put(f"k{number % 37}", number)
                await asyncio.sleep(max(0, start + (number + 1) / a_second - time.monotonic()))
                if number % 10 == 0:
                    lags.append(max(agent.unflushed.oldest_s() for agent in agents) * 1000)
            return lags

    return sorted(asyncio.run(main()))


@pytest.mark.req("F1.1", "F1.4")
def test_fewer_dirty_keys_than_the_threshold_are_flushed_in_time(environ: Mapping[str, str]) -> None:
    """40 keys in 1.3 s: the threshold of 50 would wait for ever. How fast it is on a quiet machine is for soak."""
    assert lags_at(environ, 40, 30)[-1] < 1000


@pytest.mark.soak
@pytest.mark.req("F1.1", "F1.4")
def test_the_database_is_less_than_200_ms_behind_at_200_writes_a_second(environ: Mapping[str, str]) -> None:
    lags = lags_at(environ, 1000, 200)
    p95 = lags[95 * len(lags) // 100]
    assert p95 < 200, p95


def test_what_waits_is_written_past_a_consumer_that_is_stuck(environ: Mapping[str, str], database: Database) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, plane.agent(agent_id) as agent:
            await agent.put("a", 1)
            assert await plane.monitor.repair(agent_id) >= 1
            assert database.values(agent_id) == {"a": 1}
            assert not agent.unflushed.kept

    asyncio.run(main())
