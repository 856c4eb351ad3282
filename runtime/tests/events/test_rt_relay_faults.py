"""The relay among strangers: subscribers that answer, rows that cannot be sent, faults of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any
from uuid import uuid4

import pytest

from holdfast.events.outbox import Outbox
from holdfast.events.publish import Publisher, Report
from holdfast.events.relay import Relay, Row


async def add(plane: Any, subject: str) -> str:
    async with plane.pools.primary.connection() as connection, connection.transaction():
        return str(await Outbox(plane.contract).add(connection, subject, {}))


async def until(condition: Any, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.req("E1.4")
def test_a_subscriber_that_answers_is_not_taken_for_the_stream(open_plane: Any, servers: Any) -> None:
    """First there is no stream to take the events, then there is; the subscriber is faster than it in both cases."""

    async def main() -> None:
        from nats.aio.client import Client

        async with open_plane() as plane:
            subject, answers = (
                f"tasks.updated.{uuid4()}",
                iter([b"OK, seen", b'{"error":{"err_code":"x"}}', b"[]", b'{"ok":true}'] * 1000),
            )
            other = Client()
            await other.connect(servers.nats_url)

            async def answer(message: Any) -> None:
                await message.respond(next(answers))

            await other.subscribe(subject, cb=answer)
            await other.flush()
            jetstream = plane.client.jetstream()
            declared = (await jetstream.stream_info("TASK_EXECUTION")).config
            await jetstream.delete_stream("TASK_EXECUTION")
            try:
                ids = [await add(plane, subject) for _ in range(3)]
                async with Relay(plane.pools, plane.client, plane.contract) as relay:
                    await until(lambda: relay._failures >= 2)
                    assert (await relay.status()).waiting == 3
                    await jetstream.add_stream(declared)
                    await until(lambda: relay._published + relay._duplicates == 3)
                assert [name for name, _ in await plane.messages(subject)] == ids
            finally:
                with contextlib.suppress(Exception):
                    await jetstream.add_stream(declared)
                await other.close()

    asyncio.run(main())


@pytest.mark.req("E1.4")
@pytest.mark.parametrize(
    ("subject", "headers", "reason"),
    [
        ("tasks.updated..x", "{}", "no subject"),
        ("tasks.updated.x", '{"n": 1}', "no header"),
        ("tasks.updated.x", '{"n": "1\\r\\nm: 2"}', "no header"),
        ("tasks.updated.x", '{"Nats-Rollup": "sub"}', "by the server"),
    ],
)
def test_a_row_that_cannot_be_sent_is_refused_and_holds_nobody_up(
    open_plane: Any, caplog: Any, subject: str, headers: str, reason: str
) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            [[bad]] = await plane.execute(
                "INSERT INTO runtime.outbox (subject, payload, headers) VALUES (%s, '{}', %s) RETURNING outbox_id",
                [subject, headers],
            )
            other = f"tasks.updated.{uuid4()}"
            ids = [await add(plane, name) for name in ("tasks.updated.x", other)]
            relay = Relay(plane.pools, plane.client, plane.contract)
            with caplog.at_level(logging.ERROR, "holdfast.relay"):
                await relay.step()
            status = await relay.status()
            assert (status.published, status.refused, status.waiting, status.failures) == (2, 1, 1, 0)
            [said] = [record.message for record in caplog.records]
            assert str(bad) in said
            assert reason in said
            assert [name for name, _ in await plane.messages(other)] == ids[1:]

    asyncio.run(main())


def test_a_fault_does_not_end_the_relay(open_plane: Any, caplog: Any, monkeypatch: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            subject = f"agents.state.{uuid4()}"
            relay = Relay(plane.pools, plane.client, plane.contract)
            publish = relay.publisher.publish

            async def faulty(*values: Any) -> Report:
                monkeypatch.setattr(relay.publisher, "publish", publish)
                raise ZeroDivisionError

            monkeypatch.setattr(relay.publisher, "publish", faulty)
            async with relay:
                ids = [await add(plane, subject)]
                await until(lambda: relay._published == 1)
            assert (await relay.status()).failures == 1
            assert [name for name, _ in await plane.messages(subject)] == ids
            assert "ZeroDivisionError" in caplog.text

    asyncio.run(main())


def test_a_batch_that_is_cut_off_leaves_nothing_running(open_plane: Any, monkeypatch: Any) -> None:
    running = 0

    async def slow(publisher: Any, stream: str, row: Row, report: Report) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(10)
        finally:
            # As where a driver has something to put in order.
            await asyncio.sleep(0.02 * row.position)
            running -= 1

    async def main() -> None:
        async with open_plane() as plane:
            publisher = Relay(plane.pools, plane.client, plane.contract).publisher
            rows = [Row(uuid4(), "3", n, f"agents.state.{uuid4()}", "{}", {}, 0.0) for n in range(5)]
            task = asyncio.create_task(publisher.publish(rows))
            await asyncio.sleep(0.05)
            assert running == 5
            task.cancel()
            await asyncio.wait({task})
            assert running == 0

    monkeypatch.setattr(Publisher, "_send", slow)
    asyncio.run(main())
