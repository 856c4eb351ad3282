"""Two-phase commits: refused where they cannot work, decided once, finished by whoever comes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from holdfast import points
from holdfast.errors import CodecError, ConfigurationError, ConnectionFailed, Unsupported
from holdfast.work.coordinator import Coordinator
from holdfast.work.result import Outcome, Strategy
from holdfast.work.steps import Emit


@pytest.mark.req("D7.1", "D7.4", "D7.6")
def test_a_two_phase_commit_does_everything(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name, correlation = str(uuid4()), uuid4()
            await shop.prepare(name)
            result = await shop.two_phase.run(shop.steps(name), correlation_id=correlation)
            assert (result.outcome, result.correlation_id) == (Outcome.SUCCESS, str(correlation))
            assert await shop.check_whole(name) == "all"
            rows = await shop.execute("SELECT verdict::text, finished_at IS NOT NULL FROM runtime.decisions")
            assert rows == [("commit", True)]
            assert await shop.two_phase.in_doubt() == []
            intent = await shop.stores["AGENT_CONFIG"].get(f"two-phase.{result.work_id.rpartition('/')[2]}")
            assert intent is None

    asyncio.run(main())


@pytest.mark.req("D7.6")
@pytest.mark.parametrize("what", ["row", "key"])
def test_what_is_refused_while_preparing_leaves_nothing(open_workshop: Any, what: str) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            work = shop.steps(name, fails=what == "row")
            if what == "key":
                work[1] = replace(work[1], expect=999999)
            result = await shop.two_phase.run(work)
            assert result.outcome is Outcome.ROLLED_BACK
            assert await shop.check_whole(name) == "nothing"
            assert await shop.two_phase.in_doubt() == []

    asyncio.run(main())


@pytest.mark.req("D7.6")
@pytest.mark.parametrize("event", [Emit("no.stream.takes", {}), Emit("tasks.updated.x", {}, {"Nats-X": ""})])
def test_an_event_that_the_outbox_refuses_stops_work_before_anything_happens(open_workshop: Any, event: Emit) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            for run in (shop.two_phase.run, partial(shop.sagas.run, "test")):
                with pytest.raises((ConfigurationError, CodecError)):
                    await run([*shop.steps(name), event])
            assert await shop.two_phase.in_doubt() == []
            assert await shop.execute("SELECT 1 FROM runtime.decisions UNION ALL SELECT 1 FROM runtime.sagas") == []
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_a_commit_that_the_database_refuses_is_aborted_at_once(open_workshop: Any, servers: Any) -> None:
    """Else the rows stay locked, and the events of the plane wait, until a recoverer may abort it."""
    import psycopg

    def configure(statement: str) -> None:
        with psycopg.connect(**servers.admin, autocommit=True) as connection:
            connection.execute(statement)

    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            result = await shop.two_phase.run(shop.steps(name))
            assert result.outcome is Outcome.ROLLED_BACK, result
            assert "no_events" in str(result.reason)
            assert await shop.two_phase.in_doubt() == []
            assert await shop.check_whole(name) == "nothing"

    configure("ALTER TABLE runtime.outbox ADD CONSTRAINT no_events CHECK (subject = '') NOT VALID")
    try:
        asyncio.run(main())
    finally:
        configure("ALTER TABLE runtime.outbox DROP CONSTRAINT no_events")


@pytest.mark.req("D7.6")
@pytest.mark.parametrize("fails", [False, True], ids=["commit", "abort"])
@pytest.mark.parametrize("place", ["two_phase.ended", "two_phase.written"])
def test_a_verdict_that_is_known_is_told_also_where_it_is_carried_out_later(
    open_workshop: Any, place: str, fails: bool
) -> None:
    if fails and place == "two_phase.written":
        place = "two_phase.finished"  # an abort writes no key

    def hook(reached: str) -> None:
        if reached == place:
            raise ConnectionFailed("NATS cannot be reached")

    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            points.set_hook(hook)
            try:
                result = await shop.two_phase.run(shop.steps(name, fails=fails))
            finally:
                points.set_hook(None)
            assert result.outcome is (Outcome.ROLLED_BACK if fails else Outcome.SUCCESS), result
            assert "NATS cannot be reached" in str(result.reason)
            assert (result.pending > 0) is not fails
            await shop.settle()
            assert await shop.check_whole(name) == ("nothing" if fails else "all")

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_connections_shared_by_a_pooler_are_refused(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            pool = shop.pools.primary
            pool.spec = replace(pool.spec, mode="transaction")
            with pytest.raises(Unsupported, match="pooler"):
                await shop.two_phase.run(shop.steps(str(uuid4())))

    asyncio.run(main())


@pytest.mark.req("D7.6")
def test_a_database_that_prepares_nothing_is_refused(open_workshop: Any, servers: Any) -> None:
    import psycopg

    def configure(statement: str) -> None:
        with psycopg.connect(**servers.admin, autocommit=True) as connection:
            connection.execute(statement)
            # Else the start would have to replay prepared transactions, which it then refuses.
            connection.execute("CHECKPOINT")
        servers.kill("postgres")
        servers.start()

    async def main() -> None:
        async with open_workshop() as shop:
            with pytest.raises(Unsupported, match="max_prepared_transactions"):
                await shop.two_phase.run(shop.steps(str(uuid4())))

    try:
        configure("ALTER SYSTEM SET max_prepared_transactions = 0")
        asyncio.run(main())
    finally:
        configure("ALTER SYSTEM RESET max_prepared_transactions")


@pytest.mark.req("D7.6")
def test_an_undecided_transaction_survives_a_crash_of_the_database_and_is_aborted_after_its_time(
    open_workshop: Any, servers: Any
) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            gid = f"holdfast/{shop.contract.plane}/{shop.contract.env}/3/{uuid4()}"
            await shop.two_phase._prepare(gid, shop.steps(name))
            [found] = await shop.two_phase.in_doubt()
            assert (found.gid, found.commits) == (gid, None)
            await asyncio.to_thread(servers.kill, "postgres")
            await asyncio.to_thread(servers.start)
            await _patiently(shop.two_phase.in_doubt)
            if (await shop.two_phase.in_doubt())[0].age_s < 2.5:
                assert await shop.two_phase.recover(0.0) == []
                assert len(await shop.two_phase.in_doubt()) == 1
            await asyncio.sleep(3.1)
            [result] = await shop.two_phase.recover(0.0)
            assert (result.outcome, result.work_id) == (Outcome.ROLLED_BACK, gid)
            assert await shop.two_phase.in_doubt() == []
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


async def _patiently(work: Any) -> Any:
    from holdfast.errors import HoldfastError

    for _ in range(100):
        try:
            return await work()
        except HoldfastError:
            await asyncio.sleep(0.1)
    raise AssertionError("the database does not come back")


def test_the_first_verdict_stands(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            gid = f"holdfast/{shop.contract.plane}/{shop.contract.env}/3/{uuid4()}"
            verdicts = await asyncio.gather(*(shop.two_phase.decide(gid, bool(n % 2), (), (), "") for n in range(4)))
            assert len({verdict.commits for verdict in verdicts}) == 1

    asyncio.run(main())


def test_a_transaction_prepared_after_it_was_given_up_is_rolled_back(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            gid = f"holdfast/{shop.contract.plane}/{shop.contract.env}/300/{uuid4()}"
            await shop.two_phase.finish(await shop.two_phase.decide(gid, False, (), (), ""))
            await shop.two_phase._prepare(gid, shop.steps(name))
            await shop.two_phase.recover(0.0)
            assert await shop.two_phase.in_doubt() == []
            assert await shop.check_whole(name) == "nothing"

    asyncio.run(main())


def test_a_key_written_after_it_was_staged_stays_and_one_written_before_that_goes(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            stage, finish = shop.two_phase._stage, shop.two_phase.finish

            async def before(*values: Any) -> Any:
                await shop.put("AGENT_CONFIG", f"test.{name}.a", b"theirs, before")
                return await stage(*values)

            async def after(decision: Any) -> None:
                await shop.put("SESSION_DATA", f"test.{name}.b", b"theirs, after")
                await finish(decision)

            shop.two_phase._stage, shop.two_phase.finish = before, after
            result = await shop.two_phase.run(shop.steps(name))
            assert result.outcome is Outcome.SUCCESS
            state = await shop.state(name)
            assert (state["a"], state["b"], state["row"]) == (b"new", b"theirs, after", "new")

    asyncio.run(main())


def test_a_name_that_is_too_long_for_a_transaction_is_refused(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            shop.two_phase._prefix = "holdfast/" + "x" * 200 + "/dev/"
            with pytest.raises(ConfigurationError):
                await shop.two_phase.run(shop.steps(str(uuid4())))

    asyncio.run(main())


@pytest.mark.req("D7.1")
def test_the_strategy_is_an_argument_and_every_call_has_a_correlation_id(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            coordinator = Coordinator(shop.pools.primary, shop.store_of, shop.contract)
            seen = set()
            for strategy in Strategy:
                name = str(uuid4())
                await shop.prepare(name)
                result = await coordinator.run("test", shop.steps(name), strategy=strategy)
                assert result.is_success
                assert await shop.check_whole(name) == "all"
                seen.add(result.correlation_id)
            assert len(seen) == len(Strategy)
            coordinator.two_phase = None
            with pytest.raises(Unsupported):
                await coordinator.run("test", [], strategy=Strategy.TWO_PHASE_COMMIT)
            await coordinator.close()

    asyncio.run(main())
