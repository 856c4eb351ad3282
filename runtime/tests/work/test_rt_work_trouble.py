"""Trouble with one piece of work is its own: the rest is undone, other work goes on, the event loop stays free."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from holdfast import points
from holdfast.errors import CircuitOpen, ConnectionFailed
from holdfast.work.result import Outcome, Strategy
from holdfast.work.steps import KvPut, SqlInsert

_LEFT = (
    "(correlation_id, name, context, deadline, updated_at)"
    " VALUES (gen_random_uuid(), %s, %s, now(), now() - interval '1 h')"
)


@pytest.mark.req("D7.3", "D7.5")
def test_what_cannot_be_undone_is_told_and_the_rest_is_undone(open_workshop: Any, servers: Any) -> None:
    import psycopg

    async def main() -> None:
        async with open_workshop() as shop:
            agent, task = str(uuid4()), str(uuid4())
            await shop.prepare(task)
            work = [
                KvPut("AGENT_CONFIG", f"test.{task}.a", b"new"),
                SqlInsert("agents.registry", {"agent_id": agent, "agent_type": "t", "agent_name": agent}, ["agent_id"]),
                KvPut("SESSION_DATA", f"test.{task}.b", b"new", expect=12345678),
            ]

            def refer(place: str) -> None:
                """Somebody refers to the row, so that it cannot be deleted any more."""
                if place == "saga.committed":
                    with psycopg.connect(**servers.admin, autocommit=True) as connection:
                        connection.execute(
                            "INSERT INTO tasks.executions (task_id, task_type, agent_id) VALUES (%s, 'inference', %s)",
                            [task, agent],
                        )

            points.set_hook(refer)
            try:
                result = await shop.sagas.run("test", work, in_order=True)
            finally:
                points.set_hook(None)
            assert result.outcome is Outcome.COMPENSATION_FAILED, result
            assert "break the constraint" in result.errors[0]
            assert await shop.value("AGENT_CONFIG", f"test.{task}.a") == b"old"
            assert await shop.execute("SELECT state::text FROM runtime.sagas") == [("compensation_failed",)]

    asyncio.run(main())


@pytest.mark.req("D7.5", "D7.6")
def test_work_of_a_newer_library_holds_no_other_work_up(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            prefix, newer = shop.two_phase._prefix, '{"kind": "kv.append", "bucket": "B", "key": "k"}'
            await shop.execute(
                "INSERT INTO runtime.decisions (transaction_id, verdict, intent, decided_at)"
                " SELECT %s || n, 'commit', jsonb_build_object('correlation_id', '', 'writes', w::jsonb),"
                "   now() - interval '1 h' + n * interval '1 s' FROM (VALUES (1, %s), (2, '[]')) AS v (n, w)",
                [f"{prefix}1/", f"[{newer}]"],
            )
            for strategy in ("of a newer library", "saga_pattern"):
                await shop.execute(
                    f"INSERT INTO runtime.sagas {_LEFT}",
                    [strategy, f'{{"strategy": "{strategy}"}}'],
                )
            await shop.execute(
                "INSERT INTO runtime.saga_steps (saga_id, step, action) SELECT saga_id, 0, %s::jsonb FROM runtime.sagas"
                " WHERE name = 'saga_pattern'",
                [newer],
            )
            await shop.execute(f"INSERT INTO runtime.sagas {_LEFT}", ["ours", '{"strategy": "saga_pattern"}'])
            results = await shop.recoverer(stale_s=30.0).step()
            assert sorted(result.outcome for result in results) == [Outcome.ROLLED_BACK, Outcome.SUCCESS]
            assert await shop.execute("SELECT name FROM runtime.sagas WHERE state = 'rolled_back'") == [("ours",)]
            finished = "SELECT right(transaction_id, 1) FROM runtime.decisions WHERE finished_at IS NOT NULL"
            assert await shop.execute(finished) == [("2",)]

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_a_bucket_that_is_away_holds_no_other_decision_up(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            for n in (1, 2):
                await shop.two_phase.decide(f"{shop.two_phase._prefix}1/{n}", True, (), (), "")
            is_first = True

            def hook(place: str) -> None:
                nonlocal is_first
                if place == "two_phase.ended" and is_first:
                    is_first = False
                    raise ConnectionFailed("NATS cannot be reached")

            points.set_hook(hook)
            try:
                [result] = await shop.two_phase.recover(0.0)
            finally:
                points.set_hook(None)
            assert result.work_id.endswith("/2")
            [result] = await shop.two_phase.recover(0.0)
            assert result.work_id.endswith("/1")

    asyncio.run(main())


@pytest.mark.req("D8.5")
@pytest.mark.parametrize("strategy", [*Strategy])
def test_trying_again_at_once_while_the_database_is_away_leaves_the_loop_to_others(
    open_workshop: Any, strategy: Strategy
) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            pool, turns = shop.pools.primary, 0
            pool.breaker._first_s = pool.breaker._open_s = 60.0
            while pool.breaker.state == "closed":
                pool.breaker.failed(is_trial=False)

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            beside = asyncio.create_task(other())
            for _ in range(50):
                if strategy is Strategy.TWO_PHASE_COMMIT:
                    with pytest.raises(CircuitOpen):
                        await shop.two_phase.run(shop.steps("x"))
                else:
                    result = await shop.sagas.run("test", shop.steps("x"), strategy=strategy)
                    assert result.outcome is Outcome.SAGA_FAILED
            beside.cancel()
            assert turns >= 50

    asyncio.run(main())
