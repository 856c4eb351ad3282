"""The relay: no event lost, order kept, duplicates only inside the bound; crashes and restarts of all three parties."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast import points
from holdfast.errors import HoldfastError
from holdfast.events.outbox import Event, Outbox
from holdfast.events.relay import Relay

HERE = Path(__file__).parent


async def write(plane: Any, subjects: list[str], start: int = 0) -> list[str]:
    """One transaction for each event. Returns the ids."""
    outbox, ids = Outbox(plane.contract), []
    for number, subject in enumerate(subjects, start):
        async with plane.pools.primary.connection() as connection, connection.transaction():
            ids.append(str(await outbox.add(connection, subject, {"n": number})))
    return ids


async def check_events(plane: Any, agent: str, ids: list[str], *, ordered: bool = True) -> None:
    """The invariants: every committed event is in its stream, once, and in order."""
    found = [name for name, _ in await plane.messages(f"agents.state.{agent}")]
    assert set(ids) <= set(found), f"{len(set(ids) - set(found))} of {len(ids)} events are lost"
    assert [name for name, n in Counter(found).items() if n > 1] == [], "events are there twice"
    if ordered:
        assert found == ids, "events of one subject are out of order"


@pytest.mark.req("E1.4", "E1.9")
def test_events_arrive_in_order_and_are_marked(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agents = [str(uuid4()) for _ in range(5)]
            ids = {a: await write(plane, [f"agents.state.{a}"] * 12) for a in agents}
            relay = Relay(plane.pools, plane.client, plane.contract, batch=7)
            while await relay.step():
                pass
            for agent in agents:
                await check_events(plane, agent, ids[agent])
            status = await relay.status()
            assert (status.published, status.duplicates, status.waiting, status.refused) == (60, 0, 0, 0)
            assert await plane.execute("SELECT 1 FROM runtime.outbox WHERE published_at IS NULL") == []

    asyncio.run(main())


async def _overtaken(plane: Any, relay: Relay) -> None:
    """A transaction that writes first and commits last."""
    agent, outbox = str(uuid4()), Outbox(plane.contract)
    subject = f"agents.state.{agent}"
    async with plane.pools.primary.connection() as late:
        async with late.transaction():
            first = str(await outbox.add(late, subject, {"n": 0}))
            [second] = await write(plane, [subject], 1)
            for _ in range(3):
                await relay.step()
        for _ in range(3):
            await relay.step()
    await check_events(plane, agent, [first, second])


@pytest.mark.req("E1.4")
def test_a_transaction_that_commits_late_loses_no_event(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            await _overtaken(plane, Relay(plane.pools, plane.client, plane.contract))

    asyncio.run(main())


def test_without_the_watermark_the_checker_finds_a_lost_event(open_plane: Any, monkeypatch: Any) -> None:
    """The guard taken out: the check of the test before fails."""
    monkeypatch.setattr(Relay, "eligible", "true")

    async def main() -> None:
        async with open_plane() as plane:
            with pytest.raises(AssertionError, match="1 of 2 events are lost"):
                await _overtaken(plane, Relay(plane.pools, plane.client, plane.contract))

    asyncio.run(main())


def test_concurrent_writers_and_rollbacks_lose_nothing(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agent, outbox, committed = str(uuid4()), Outbox(plane.contract), []
            rng = random.Random(7)

            async def writer() -> None:
                for _ in range(40):
                    async with plane.pools.primary.connection() as connection:
                        try:
                            async with connection.transaction():
                                found = await outbox.add(connection, f"agents.state.{agent}", {})
                                await asyncio.sleep(rng.random() * 0.02)
                                if rng.random() < 0.2:
                                    raise ZeroDivisionError
                            committed.append(str(found))
                        except ZeroDivisionError:
                            pass

            async with Relay(plane.pools, plane.client, plane.contract) as relay:
                await asyncio.gather(*(writer() for _ in range(4)))
                await _drained(relay)
            await check_events(plane, agent, committed, ordered=False)
            assert len(await plane.messages(f"agents.state.{agent}")) == len(committed)

    asyncio.run(main())


async def _drained(relay: Relay, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if (await relay.status()).waiting == 0:
                return
        except HoldfastError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError("the outbox does not become empty")


def test_one_relay_works_at_a_time(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agent = str(uuid4())
            relays = [Relay(plane.pools, plane.client, plane.contract, batch=5) for _ in range(3)]
            for relay in relays:
                relay.start()
            ids = await write(plane, [f"agents.state.{agent}"] * 100)
            await _drained(relays[0])
            for relay in relays:
                await relay.stop()
            await check_events(plane, agent, ids)
            sent = [await relay.status() for relay in relays]
            assert sum(status.duplicates for status in sent) == 0
            assert sum(status.published for status in sent) == 100

    asyncio.run(main())


PLACES = [place for place in points.PLACES if place.startswith("relay.")]


@pytest.mark.req("E1.4")
def test_a_relay_killed_at_any_step_loses_nothing_and_repeats_nothing(open_plane: Any, environ: Any) -> None:
    """Drawn: their order, and at which time. Printed, so that a failure can be repeated."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    drawn = [(place, rng.randint(1, 3)) for place in rng.sample(PLACES, len(PLACES))]
    print(f"seed {seed}, crashes: {drawn}")

    async def main() -> None:
        async with open_plane() as plane:
            agents = [str(uuid4()) for _ in range(3)]
            ids: dict[str, list[str]] = {agent: [] for agent in agents}
            for place, times in drawn:
                for agent in agents:
                    ids[agent] += await write(plane, [f"agents.state.{agent}"] * 25)
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    HERE / "relaying.py",
                    place,
                    str(times),
                    env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stderr=subprocess.PIPE,
                )
                _, said = await asyncio.wait_for(process.communicate(), 60)
                assert process.returncode == 77, said.decode()
            relay = Relay(plane.pools, plane.client, plane.contract)
            relay.start()
            await _drained(relay)
            await relay.stop()
            for agent in agents:
                await check_events(plane, agent, ids[agent])
            print("duplicates that the stream or the relay dropped:", (await relay.status()).duplicates)

    asyncio.run(main())


@pytest.mark.req("E1.4")
@pytest.mark.parametrize("system", ["nats", "postgres"])
def test_a_server_killed_under_load_costs_no_event(open_plane: Any, servers: Any, system: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agent = str(uuid4())
            acknowledged: list[str] = []
            attempted = 0
            stop = asyncio.Event()

            async def load() -> None:
                nonlocal attempted
                outbox = Outbox(plane.contract)
                while not stop.is_set():
                    attempted += 1
                    try:
                        async with plane.pools.primary.connection() as connection, connection.transaction():
                            found = await outbox.add(connection, f"agents.state.{agent}", {"n": attempted})
                        acknowledged.append(str(found))
                    except HoldfastError:
                        await asyncio.sleep(0.05)
                    await asyncio.sleep(0.002)

            relay = Relay(plane.pools, plane.client, plane.contract, publish_timeout_s=1.0)
            relay.start()
            writer = asyncio.create_task(load())
            await asyncio.sleep(0.5)
            try:
                await asyncio.to_thread(servers.kill, system)
                await asyncio.sleep(2.5)
            finally:
                await asyncio.to_thread(servers.start)
            await asyncio.sleep(1.5)
            stop.set()
            await writer
            await _drained(relay, 60)
            await relay.stop()
            status = await relay.status()
            print(f"{system} killed: {attempted} tried, {len(acknowledged)} acknowledged, {status}")
            assert len(acknowledged) > 50
            # A commit whose answer was lost may be there too: so not the same list, but in the same order.
            found = [name for name, _ in await plane.messages(f"agents.state.{agent}")]
            known = set(acknowledged)
            assert [name for name in found if name in known] == acknowledged
            assert len(set(found)) == len(found)

    asyncio.run(main())


@pytest.mark.parametrize("past_s", [3600.0, -30.0])
def test_rows_older_than_the_streams_window_are_not_sent_twice(open_plane: Any, past_s: float) -> None:
    """A relay that crashed after sending and stayed away for longer than the stream remembers ids.

    Or almost as long: a batch that takes its whole time passes the end of the window while it is sent.
    """

    async def main() -> None:
        async with open_plane() as plane:
            agent = str(uuid4())
            ids = await write(plane, [f"agents.state.{agent}"] * 10)
            relay = Relay(plane.pools, plane.client, plane.contract)
            await relay.step()
            # As if the last seven had not been marked; the stream no longer knows their ids, or soon will not.
            await plane.execute(
                "UPDATE runtime.outbox SET published_at = NULL, created_at = now() - make_interval(secs => %s)"
                " WHERE position IN (SELECT position FROM runtime.outbox ORDER BY position DESC LIMIT 7)",
                [plane.contract.streams[plane.contract.names.state_stream].duplicate_window_s + past_s],
            )
            more = await write(plane, [f"agents.state.{agent}"] * 3, 10)
            other = Relay(plane.pools, plane.client, plane.contract)
            sent: list[str] = []
            request = plane.client.request

            async def counted(subject: str, *values: Any, **options: Any) -> Any:
                sent.append(subject)
                return await request(subject, *values, **options)

            plane.client.request = counted
            await other.step()
            plane.client.request = request
            await check_events(plane, agent, ids + more)
            assert sent.count(f"agents.state.{agent}") == 3
            assert (await other.status()).duplicates == 7

    asyncio.run(main())


def test_an_event_that_nats_never_takes_holds_nobody_up(open_plane: Any, caplog: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agent, big = str(uuid4()), str(uuid4())
            # Past the checks of Outbox.add: as if the stream had been made narrower since.
            await plane.execute(
                "INSERT INTO runtime.outbox (subject, payload) VALUES (%s, to_jsonb(repeat('x', 1500000)))",
                [f"agents.state.{big}"],
            )
            ids = await write(plane, [f"agents.state.{agent}"] * 3)
            relay = Relay(plane.pools, plane.client, plane.contract)
            with caplog.at_level(logging.ERROR, "holdfast.relay"):
                for _ in range(3):
                    await relay.step()
            await check_events(plane, agent, ids)
            status = await relay.status()
            assert (status.refused, status.waiting, status.failures) == (1, 1, 0)
            assert [record.message.split(": ")[1] for record in caplog.records] == [
                "it is larger than its stream allows"
            ]

    asyncio.run(main())


def test_a_stream_that_is_missing_holds_no_other_up(open_plane: Any, caplog: Any) -> None:
    """Its events leave, in order, when it is there again."""

    async def main() -> None:
        async with open_plane() as plane:
            agent, task = str(uuid4()), str(uuid4())
            jetstream = plane.client.jetstream()
            declared = (await jetstream.stream_info("TASK_EXECUTION")).config
            await jetstream.delete_stream("TASK_EXECUTION")
            try:
                ids: list[str] = []
                await write(plane, [f"tasks.updated.{task}"] * 9)
                async with Relay(plane.pools, plane.client, plane.contract, batch=4) as relay:
                    for _ in range(5):
                        await write(plane, [f"tasks.updated.{task}"] * 3)
                        ids += await write(plane, [f"agents.state.{agent}"] * 3)
                    await _until(lambda: relay._published == 15)
                    status = await relay.status()
                    assert (status.waiting, status.refused) == (24, 0)
                    assert "events for stream TASK_EXECUTION wait" in caplog.text
                    await jetstream.add_stream(declared)
                    await _until(lambda: relay._published == 39, 40)
                    assert relay._duplicates == 0
                await check_events(plane, agent, ids)
                numbers = [payload["n"] for _, payload in await plane.messages(f"tasks.updated.{task}")]
                assert numbers == [*range(9), *[0, 1, 2] * 5]
            finally:
                with contextlib.suppress(Exception):
                    await jetstream.add_stream(declared)

    asyncio.run(main())


def test_a_long_transaction_that_holds_events_back_is_an_alarm(open_plane: Any, caplog: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane, plane.pools.primary.connection() as long:
            async with long.transaction():
                await long.execute("SELECT pg_current_xact_id()")
                await write(plane, [f"agents.state.{uuid4()}"])
                with caplog.at_level(logging.WARNING, "holdfast.relay"):
                    async with Relay(plane.pools, plane.client, plane.contract, stall_s=0.3) as relay:
                        await asyncio.sleep(2.5)
                        status = await relay.status()
                        assert status.stalled
                        assert status.held == 1
                        assert status.published == 0
            assert "events wait" in caplog.text

    asyncio.run(main())


def test_rows_of_another_cluster_are_published(open_plane: Any) -> None:
    """A dump brings transaction ids with it that its new cluster reaches in years."""

    async def main() -> None:
        async with open_plane() as plane:
            agent = str(uuid4())
            [name] = await write(plane, [f"agents.state.{agent}"])
            await plane.execute("UPDATE runtime.outbox SET xid = '999999999999'::xid8")
            await Relay(plane.pools, plane.client, plane.contract).step()
            await check_events(plane, agent, [name])

    asyncio.run(main())


def test_published_rows_are_cleaned_up_and_others_are_not(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            subject = f"agents.state.{uuid4()}"
            await write(plane, [subject] * 3)
            relay = Relay(plane.pools, plane.client, plane.contract, keep_s=0.0)
            await relay.step()
            kept = await write(plane, [subject])
            assert await relay.clean_up() == 3
            assert await plane.execute("SELECT outbox_id FROM runtime.outbox") == [(UUID(kept[0]),)]

    asyncio.run(main())


@contextlib.contextmanager
def notifying(servers: Any) -> Iterator[None]:
    """The declared trigger that notifies, turned on."""
    import psycopg

    def turn(state: str) -> None:
        with psycopg.connect(**servers.admin, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE runtime.outbox {state} TRIGGER outbox_wake")

    turn("ENABLE")
    try:
        yield
    finally:
        turn("DISABLE")


@pytest.mark.req("E1.8")
def test_a_notification_wakes_the_relay(open_plane: Any, servers: Any) -> None:
    """The relay would look once in ten seconds."""

    async def main() -> None:
        async with open_plane() as plane:
            slow = replace(plane.contract, limits=replace(plane.contract.limits, outbox_poll_interval=10.0))
            async with Relay(plane.pools, plane.client, slow) as relay:
                await _until(lambda: relay._listener is not None and relay._listener.works)
                await asyncio.sleep(0.3)
                agent = str(uuid4())
                started = time.monotonic()
                ids = await write(plane, [f"agents.state.{agent}"])
                await _until(lambda: relay._published == 1)
                assert time.monotonic() - started < 2.0
                assert (await relay.status()).woken
            await check_events(plane, agent, ids)

    with notifying(servers):
        asyncio.run(main())


def test_a_relay_that_nobody_notifies_takes_no_connection_to_listen(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane, Relay(plane.pools, plane.client, plane.contract):
            await asyncio.sleep(1.0)
            assert await plane.execute("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == []

    asyncio.run(main())


async def _until(condition: Any, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_relay_whose_notifications_do_not_arrive_polls(
    open_plane: Any, servers: Any, caplog: Any, monkeypatch: Any
) -> None:
    import psycopg

    @contextlib.asynccontextmanager
    async def deaf() -> AsyncIterator[Any]:
        """As through a pooler: what listened is not what notifies."""
        async with await psycopg.AsyncConnection.connect(**servers.admin, autocommit=True) as connection:
            execute = connection.execute

            async def without_listen(statement: Any, *values: Any) -> Any:
                return await execute(statement, *values) if isinstance(statement, str) else None

            monkeypatch.setattr(connection, "execute", without_listen)
            yield connection

    async def main() -> None:
        async with open_plane() as plane:
            async with Relay(plane.pools, plane.client, plane.contract, direct=deaf) as relay:
                agent = str(uuid4())
                ids = await write(plane, [f"agents.state.{agent}"])
                await _until(lambda: relay._published == 1)
                await _until(lambda: "did not arrive" in caplog.text)
                assert not (await relay.status()).woken
            await check_events(plane, agent, ids)

    with notifying(servers):
        asyncio.run(main())


def test_an_outbox_of_many_agents_is_sent_side_by_side(open_plane: Any) -> None:
    """Order is kept within a subject only; so 2,000 events of 500 agents take no 2,000 round trips."""

    async def main() -> None:
        async with open_plane() as plane:
            events = [Event(f"agents.state.{uuid4()}", {"n": n}) for n in range(500) for _ in range(1)]
            async with plane.pools.primary.connection() as connection, connection.transaction():
                ids = await Outbox(plane.contract).add_many(connection, events * 4)
            relay = Relay(plane.pools, plane.client, plane.contract)
            started = time.monotonic()
            while await relay.step():
                pass
            print(f"2,000 events in {time.monotonic() - started:.2f} s")
            assert (await relay.status()).published == len(ids) == 2000
            assert time.monotonic() - started < 10

    asyncio.run(main())
