"""Several pieces of work over the same keys, and keys that others wrote, or that left the bucket, before work ended."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast import points
from holdfast.work import keys
from holdfast.work.coordinator import Coordinator
from holdfast.work.result import Outcome, Strategy
from holdfast.work.steps import KvPut, SqlInsert

BUCKET = "AGENT_CONFIG"


class Killed(BaseException):
    pass


@contextmanager
def killed_at(place: str, nth: int = 1) -> Iterator[None]:
    """The first work that reaches the place the nth time ends there, as if its process had died."""
    left = nth

    def hook(reached: str) -> None:
        nonlocal left
        left -= reached == place
        if reached == place and left == 0:
            raise Killed

    points.set_hook(hook)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        points.set_hook(None)


def a_row(name: str = "x") -> Any:
    return SqlInsert(
        "tasks.queue", {"task_id": str(uuid4()), "task_type": "inference", "task_name": name}, ["task_id", "task_type"]
    )


@pytest.mark.req("D7.3", "D7.6")
@pytest.mark.parametrize(
    "strategies",
    [
        *((strategy, strategy) for strategy in Strategy),
        (Strategy.TWO_PHASE_COMMIT, Strategy.SAGA_PATTERN),
        (Strategy.EVENTUAL_CONSISTENCY, Strategy.SAGA_PATTERN),
        (Strategy.EVENTUAL_CONSISTENCY, Strategy.TWO_PHASE_COMMIT),
    ],
    ids=lambda pair: "-".join(strategy.value.split("_")[0] for strategy in pair),
)
def test_two_pieces_of_work_over_the_same_keys_never_mix(open_workshop: Any, strategies: Any) -> None:
    """Both have their own rows, and name the keys in opposite orders."""

    async def main() -> None:
        outcomes: Counter[str] = Counter()
        async with open_workshop() as shop:
            work = Coordinator(shop.pools.primary, shop.store_of, shop.contract)
            for _ in range(4):
                names = [f"test.{uuid4()}" for _ in range(3)]
                values = [b"one", b"two"]
                results = await asyncio.gather(
                    *(
                        work.run("test", [*(KvPut(BUCKET, name, value) for name in order), a_row()], strategy=strategy)
                        for value, order, strategy in zip(values, (names, names[::-1]), strategies, strict=True)
                    )
                )
                await shop.settle()
                outcomes.update(result.outcome.value for result in results)
                found = {await shop.value(BUCKET, name) for name in names}
                done: set[bytes | None] = {
                    value for value, result in zip(values, results, strict=True) if result.is_success
                }
                assert len(found) == 1, (found, results)
                assert found <= (done or {None}), (found, results)
        print(dict(outcomes))
        assert not set(outcomes) - {"SUCCESS", "ROLLED_BACK"}

    asyncio.run(main())


@pytest.mark.req("D7.6")
@pytest.mark.parametrize("strategy", [Strategy.TWO_PHASE_COMMIT, Strategy.EVENTUAL_CONSISTENCY])
@pytest.mark.parametrize("nth", [1, 2])
def test_of_two_decisions_the_later_wins_on_every_key_also_after_a_crash(
    open_workshop: Any, strategy: Strategy, nth: int
) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            work = Coordinator(shop.pools.primary, shop.store_of, shop.contract)
            names = [f"test.{uuid4()}" for _ in range(2)]

            def steps(value: bytes) -> list[Any]:
                return [*(KvPut(BUCKET, name, value) for name in names), a_row()]

            place = "two_phase.written" if strategy is Strategy.TWO_PHASE_COMMIT else "saga.written"
            with killed_at(place, nth):
                await work.run("test", steps(b"earlier"), strategy=strategy)
            assert (await work.run("test", steps(b"later"), strategy=strategy)).is_success
            await shop.settle()
            assert [await shop.value(BUCKET, name) for name in names] == [b"later"] * 2

    asyncio.run(main())


def test_a_value_of_a_saga_that_has_not_ended_is_left_alone(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            work = Coordinator(shop.pools.primary, shop.store_of, shop.contract)
            name = f"test.{uuid4()}"
            await shop.put(BUCKET, name, b"old")
            with killed_at("saga.written"):
                await work.run("test", [KvPut(BUCKET, name, b"held"), a_row()])
            for strategy in (Strategy.SAGA_PATTERN, Strategy.TWO_PHASE_COMMIT):
                refused = await work.run("test", [KvPut(BUCKET, name, b"new"), a_row()], strategy=strategy)
                assert refused.outcome is Outcome.ROLLED_BACK
                assert "has not ended" in str(refused.reason)
            follows = [KvPut(BUCKET, name, b"new"), a_row()]
            waits = await work.run("test", follows, strategy=Strategy.EVENTUAL_CONSISTENCY)
            assert (waits.outcome, waits.pending) == (Outcome.SUCCESS, 1)
            assert await shop.value(BUCKET, name) == b"held"
            results = await shop.settle()
            assert {result.outcome for result in results} == {Outcome.SUCCESS}
            # Of the two that are decided, the saga is the later.
            assert await shop.value(BUCKET, name) == b"held"

    asyncio.run(main())


def test_a_saga_that_is_undone_gives_back_the_decision_that_it_found(open_workshop: Any) -> None:
    """Else an earlier decision that comes late would take the value for nobody's."""

    async def main() -> None:
        async with open_workshop() as shop:
            work = Coordinator(shop.pools.primary, shop.store_of, shop.contract)
            names = [f"test.{uuid4()}" for _ in range(2)]
            for value, place in ((b"earlier", "two_phase.decided"), (b"later", None)):
                steps = [*(KvPut(BUCKET, name, value) for name in names), a_row()]
                if place is None:
                    assert (await work.run("test", steps, strategy=Strategy.TWO_PHASE_COMMIT)).is_success
                    continue
                with killed_at(place):
                    await work.run("test", steps, strategy=Strategy.TWO_PHASE_COMMIT)
            row = a_row()
            undone = await work.run("test", [KvPut(BUCKET, names[0], b"saga"), row, row])
            assert undone.outcome is Outcome.ROLLED_BACK
            head = await shop.stores[BUCKET].head(names[0])
            assert (head.value, keys.ORDER in head.headers) == (b"later", True)
            await shop.settle()
            assert [await shop.value(BUCKET, name) for name in names] == [b"later"] * 2

    asyncio.run(main())


@pytest.mark.req("D7.5")
def test_what_others_wrote_after_an_eventual_key_stays_also_after_a_crash(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = f"test.{uuid4()}"
            steps = [KvPut(BUCKET, name, b"work"), a_row()]
            with killed_at("saga.written"):
                await shop.sagas.run("test", steps, strategy=Strategy.EVENTUAL_CONSISTENCY)
            await shop.put(BUCKET, name, b"theirs")
            [result] = await shop.settle()
            assert result.outcome is Outcome.SUCCESS
            assert await shop.value(BUCKET, name) == b"theirs"

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_a_key_is_written_also_where_the_clock_of_nats_is_ahead_of_the_databases(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            decide = shop.two_phase.decide

            async def behind(*values: Any) -> Any:
                decision = await decide(*values)
                return replace(decision, decided_ns=decision.decided_ns - 1_000_000_000)

            shop.two_phase.decide = behind
            assert (await shop.two_phase.run(shop.steps(name))).is_success
            assert await shop.check_whole(name) == "all"

    asyncio.run(main())


@pytest.mark.req("D7.5", "D7.6")
@pytest.mark.parametrize(
    ("strategy", "place"),
    [
        (Strategy.TWO_PHASE_COMMIT, "two_phase.decided"),
        (Strategy.TWO_PHASE_COMMIT, "two_phase.written"),
        (Strategy.SAGA_PATTERN, "saga.prior"),
        (Strategy.SAGA_PATTERN, "saga.written"),
        (Strategy.EVENTUAL_CONSISTENCY, "saga.prior"),
    ],
)
@pytest.mark.parametrize("theirs", [None, "theirs"])
def test_work_on_an_agents_key_is_ended_after_the_bucket_has_forgotten_it(
    open_workshop: Any, environ: Any, strategy: Strategy, place: str, theirs: str | None
) -> None:
    """The time to live passes between the crash and the recoverer: the value comes back from the database."""

    async def main() -> None:
        async with open_workshop() as shop, holdfast.connect(environ) as plane:
            row, agent_id = a_row("new"), uuid4()
            async with plane.agent(agent_id, wait_s=5) as agent:
                await agent.put("k", "old", ack="sql")
                with killed_at(place):
                    await plane.work.run("test", [KvPut.on(agent, "k", "new"), row], strategy=strategy)
                if theirs:
                    await agent.put("k", theirs)
                await agent.flush()
            bucket = await plane.stores.bucket(plane.contract.names.state_bucket)
            purge = json.dumps({"filter": f"$KV.{bucket.name}.{agent_id}.state.>"}).encode()
            await plane.nc.request(f"$JS.API.STREAM.PURGE.KV_{bucket.name}", purge)
            plane.work.recoverer._stale_s = 0.0
            results = await plane.work.recoverer.step()
            print(results)
            async with plane.agent(agent_id, wait_s=5) as agent:
                value = await agent.get("k")
            rows = await shop.execute("SELECT 1 FROM tasks.queue WHERE task_id = %s", [row.row["task_id"]])
            if theirs is None:
                assert [result.outcome for result in results] == [Outcome.SUCCESS]
                assert (value, len(rows)) == ("new", 1)
            else:
                assert value == theirs
                assert len(rows) == (strategy is not Strategy.SAGA_PATTERN)

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_work_on_a_key_that_its_owner_put_again_into_a_new_bucket_is_ended(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with (
            open_workshop() as shop,
            holdfast.connect(environ, background=False) as plane,
            plane.agent(uuid4(), wait_s=5) as agent,
        ):
            await agent.put("k", "old")
            with killed_at("two_phase.decided"):
                await plane.work.run("test", [KvPut.on(agent, "k", "new")], strategy=Strategy.TWO_PHASE_COMMIT)
            # As if the bucket had been made again since: what the database lacks is put there again.
            kept = agent.unflushed.kept["k"]
            older = kept.position._replace(incarnation=kept.position.incarnation - 1)
            agent.unflushed.kept["k"] = kept._replace(position=older)
            await shop.execute(
                "UPDATE runtime.decisions SET intent = jsonb_set(intent, '{before, 0, 0}', %s::text::jsonb)",
                [older.incarnation],
            )
            await agent.put_again()
            assert await agent.get("k") == "old"
            assert plane.work.two_phase is not None
            [result] = await plane.work.two_phase.recover(0.0)
            assert result.outcome is Outcome.SUCCESS
            assert await agent.get("k") == "new"

    asyncio.run(main())
