"""Sagas: all or nothing, whatever fails; what others wrote since is never overwritten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from holdfast import points
from holdfast.errors import CodecError, ConfigurationError
from holdfast.work.result import Outcome, Strategy
from holdfast.work.steps import Emit, KvDelete, KvPut, SqlDelete, SqlInsert, SqlUpdate, Step, check, dump, load

KEY = ["task_id", "task_type"]


def test_steps_come_back_from_the_journal_as_they_were() -> None:
    import json

    every: list[Step] = [
        KvPut("B", "k", b"\x00\xff", 3),
        KvDelete("B", "k"),
        SqlInsert("s.t", {"a": 1, "b": None}, ["a"]),
        SqlUpdate("s.t", {"a": 1}, {"b": [1]}),
        SqlDelete("s.t", {"a": 1}),
        Emit("a.b", {"x": 1}, {"H": "v"}),
    ]
    for step in every:
        assert load(json.loads(dump(step))) == step
    for unknown in ({"kind": "kv.copy"}, {"kind": "kv.delete", "bucket": "B", "key": "k", "new": 1}):
        with pytest.raises(CodecError):
            load(unknown)


@pytest.mark.parametrize(
    "work",
    [
        [],
        [KvPut("B", "k", b""), KvDelete("B", "k")],
        [SqlInsert("s.t", {"a": 1}, ["b"])],
        [SqlUpdate("s.t", {}, {"a": 1})],
        [SqlUpdate("s.t", {"a": 1}, {"a": 2})],
        [SqlDelete("t", {"a": 1})],
        [Emit("a.*", {})],
    ],
)
def test_work_that_could_not_be_undone_is_refused(work: Any) -> None:
    with pytest.raises(ConfigurationError):
        check(work)


@pytest.mark.req("D7.1", "D7.2", "D7.4", "D7.5")
def test_a_saga_does_everything_and_its_journal_says_so(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name, correlation = str(uuid4()), uuid4()
            await shop.prepare(name)
            result = await shop.sagas.run("test", shop.steps(name), correlation_id=correlation)
            assert (result.outcome, result.correlation_id) == (Outcome.SUCCESS, str(correlation))
            assert await shop.check_whole(name) == "all"
            rows = await shop.execute("SELECT state::text, attempts, correlation_id FROM runtime.sagas")
            assert rows == [("completed", 1, correlation)]
            noted = await shop.execute(
                "SELECT state::text, prior_revision > 0, prior_value FROM runtime.saga_steps ORDER BY step"
            )
            assert noted == [
                ("done", True, {"base64": "b2xk"}),
                ("done", False, None),
                ("done", None, None),
                ("done", None, None),
            ]
            [[headers]] = await shop.execute("SELECT headers FROM runtime.outbox")
            assert headers == {"Holdfast-Correlation-Id": str(correlation)}

    asyncio.run(main())


@pytest.mark.req("D7.3", "D7.4", "D7.5")
def test_a_saga_whose_rows_are_refused_leaves_nothing(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            result = await shop.sagas.run("test", shop.steps(name, fails=True))
            assert result.outcome is Outcome.ROLLED_BACK
            assert result.reason is not None
            assert "SQLSTATE 23505" in result.reason or "SQLSTATE 23514" in result.reason
            assert await shop.check_whole(name) == "nothing"
            assert await shop.execute("SELECT state::text FROM runtime.sagas") == [("rolled_back",)]

    asyncio.run(main())


@pytest.mark.req("D7.3")
def test_rows_changed_before_a_failing_step_are_put_back_digit_by_digit(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            changed, deleted, made = (str(uuid4()) for _ in range(3))
            payload = '{"n": 0.1000000000000000055511151231257827, "big": 12345678901234567890123}'
            for task in (changed, deleted):
                await shop.execute(
                    "INSERT INTO tasks.queue (task_id, task_type, task_name, payload, expires_at, max_execution_time)"
                    " VALUES (%s, 'inference', 'old', %s, '2099-01-01 00:00:00.123456+00', '1 mon 2 days 00:00:01.5')",
                    [task, payload],
                )
            before = await shop.execute(_ROWS, [[changed, deleted, made]])
            key = {"task_type": "inference"}
            work = [
                SqlUpdate("tasks.queue", {"task_id": changed, **key}, {"payload": {}, "expires_at": None}),
                SqlDelete("tasks.queue", {"task_id": deleted, **key}),
                SqlInsert("tasks.queue", {"task_id": made, **key, "task_name": "new"}, KEY),
                KvPut("AGENT_CONFIG", f"test.{made}", b"x", expect=12345678),
            ]
            result = await shop.sagas.run("test", work, in_order=True)
            assert result.outcome is Outcome.ROLLED_BACK
            assert await shop.execute(_ROWS, [[changed, deleted, made]]) == before
            states = await shop.execute("SELECT state::text FROM runtime.saga_steps ORDER BY step")
            assert [state for (state,) in states] == ["undone", "undone", "undone", "planned"]

    asyncio.run(main())


_ROWS = (
    "SELECT (to_jsonb(q) - 'updated_at')::text FROM tasks.queue AS q WHERE task_id = ANY(%s::uuid[]) ORDER BY task_id"
)


def test_a_row_changed_by_others_since_is_not_put_back(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            task = str(uuid4())
            await shop.prepare(task)
            key = {"task_id": task, "task_type": "inference"}
            work = [
                SqlUpdate("tasks.queue", key, {"task_name": "new"}),
                KvPut("AGENT_CONFIG", f"test.{task}.c", b"x", expect=12345678),
            ]
            loop = asyncio.get_running_loop()
            theirs: list[asyncio.Future[Any]] = []

            def meddle(place: str) -> None:
                if place == "saga.compensating":
                    theirs.append(asyncio.ensure_future(_rename(shop, task), loop=loop))

            points.set_hook(meddle)
            try:
                result = await _paused(shop, work)
            finally:
                points.set_hook(None)
            assert result.outcome is Outcome.COMPENSATION_FAILED
            assert "changed since" in result.errors[0]
            assert (await shop.state(task))["row"] == "theirs"
            assert await shop.execute("SELECT state::text FROM runtime.sagas") == [("compensation_failed",)]

    asyncio.run(main())


async def _rename(shop: Any, task: str) -> None:
    await shop.execute("UPDATE tasks.queue SET task_name = 'theirs' WHERE task_id = %s", [task])


async def _paused(shop: Any, work: Any) -> Any:
    """Run a saga that waits a moment before it undoes anything."""
    undo = shop.sagas._undo_step

    async def later(*values: Any) -> None:
        await asyncio.sleep(0.2)
        await undo(*values)

    shop.sagas._undo_step = later
    try:
        return await shop.sagas.run("test", work, in_order=True)
    finally:
        del shop.sagas._undo_step


def test_a_key_changed_before_the_decision_undoes_the_rest_and_stays(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            group = shop.sagas._change_rows

            async def meddled(*values: Any) -> None:
                await shop.put("SESSION_DATA", f"test.{name}.b", b"theirs")
                await group(*values)

            shop.sagas._change_rows = meddled
            result = await shop.sagas.run("test", shop.steps(name))
            assert result.outcome is Outcome.COMPENSATION_FAILED
            assert await shop.state(name) == {"a": b"old", "b": b"theirs", "row": "old", "events": 0}

    asyncio.run(main())


def test_a_key_that_is_not_as_expected_stops_the_saga_at_once(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            work = [*shop.steps(name)]
            work[1] = replace(work[1], expect=999999)
            result = await shop.sagas.run("test", work)
            assert result.outcome is Outcome.ROLLED_BACK
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


@pytest.mark.req("D7.1")
def test_eventual_consistency_decides_with_the_rows_and_the_keys_follow(open_workshop: Any, servers: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            await asyncio.to_thread(servers.kill, "nats")
            try:
                result = await shop.sagas.run(
                    "test", shop.steps(name), strategy=Strategy.EVENTUAL_CONSISTENCY, timeout_s=4.0
                )
                assert (result.outcome, result.pending) == (Outcome.SUCCESS, 2)
            finally:
                await asyncio.to_thread(servers.start)
            await shop.settle()
            assert await shop.check_whole(name) == "all"

    asyncio.run(main())


def test_a_saga_in_an_outage_is_handed_to_the_recoverer(open_workshop: Any, servers: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            limits = replace(shop.contract.limits, compensation_timeout=1.0, max_attempts=2)
            shop.sagas._limits = limits
            await asyncio.to_thread(servers.kill, "nats")
            try:
                result = await shop.sagas.run("test", shop.steps(name), timeout_s=1.0)
            finally:
                await asyncio.to_thread(servers.start)
            assert result.outcome in {Outcome.SAGA_FAILED, Outcome.ROLLED_BACK}
            await shop.settle()
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


def test_a_deadline_undoes_what_was_done(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            async with shop.pools.primary.connection() as other, other.transaction():
                await other.execute("SELECT 1 FROM tasks.queue WHERE task_id = %s FOR UPDATE", [name])
                result = await shop.sagas.run("test", shop.steps(name), timeout_s=0.5)
            assert result.outcome is Outcome.ROLLED_BACK
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


def test_a_cancelled_caller_leaves_the_saga_running_to_its_end(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            caller = asyncio.create_task(shop.sagas.run("test", shop.steps(name)))
            await asyncio.sleep(0.01)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await asyncio.gather(*shop.sagas.running)
            await shop.settle()
            await shop.check_whole(name)

    asyncio.run(main())


def test_two_sagas_over_the_same_keys_never_mix(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            names = [f"test.{uuid4()}" for _ in range(3)]

            async def one(number: int) -> Any:
                order = names[number % 3 :] + names[: number % 3]
                work = [KvPut("AGENT_CONFIG", name, str(number).encode()) for name in order]
                return await shop.sagas.run("test", work)

            results = await asyncio.gather(*(one(number) for number in range(5)))
            found = {await shop.value("AGENT_CONFIG", name) for name in names}
            outcomes = [result.outcome for result in results]
            print("outcomes:", outcomes)
            assert set(outcomes) <= {Outcome.SUCCESS, Outcome.ROLLED_BACK}
            assert len(found) == 1
            assert (found == {None}) == (Outcome.SUCCESS not in outcomes)

    asyncio.run(main())
