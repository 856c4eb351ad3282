"""``inbox.consume``: each message once, over failing handlers, slow ones, cancellation and restarts of the servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.errors import ConfigurationError, ConnectionFailed, VersionConflict
from holdfast.events.inbox import message_id
from holdfast.tasks import end

STREAM = "TASK_EXECUTION"


@asynccontextmanager
async def consumer(plane: Any, **options: Any) -> AsyncIterator[tuple[str, str]]:
    """A durable pull consumer as somebody declared it. Gives its name and the subject that it takes."""
    from nats.js.api import AckPolicy, ConsumerConfig

    name, subject = f"test-{uuid4().hex[:8]}", f"tasks.started.{uuid4()}"
    jetstream = plane.nc.jetstream()
    given = {"ack_policy": AckPolicy.EXPLICIT, "ack_wait": 30, **options}
    await jetstream.add_consumer(STREAM, ConsumerConfig(durable_name=name, filter_subject=subject, **given))
    try:
        yield name, subject
    finally:
        await jetstream.delete_consumer(STREAM, name)


async def publish(plane: Any, subject: str, numbers: range) -> None:
    for number in numbers:
        await plane.nc.jetstream().publish(subject, json.dumps(number).encode(), headers={"Nats-Msg-Id": str(uuid4())})


class Handler:
    """Notes what it was given; ``before`` may raise or wait."""

    def __init__(self, before: Any = None) -> None:
        self.tried: list[int] = []
        self.done: list[int] = []
        self._before = before

    async def __call__(self, connection: Any, message: Any) -> None:
        number = json.loads(message.data)
        self.tried.append(number)
        if self._before is not None:
            await self._before(number)
        await connection.execute("SELECT 1")
        self.done.append(number)


async def left(plane: Any, name: str) -> tuple[int, int]:
    """How many messages the consumer has not delivered, and how many nobody acknowledged."""
    info = await plane.nc.jetstream().consumer_info(STREAM, name)
    return info.num_pending, info.num_ack_pending


@pytest.mark.req("E1.4")
def test_a_consumer_handles_each_message_once_and_a_failed_one_again(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, consumer(plane) as (name, subject):
            failing = {3: FileNotFoundError("its own"), 5: VersionConflict("its own")}

            async def fail_once(number: int) -> None:
                if number in failing:
                    raise failing.pop(number)

            handler = Handler(fail_once)
            await publish(plane, subject, range(30))
            # Delivered before by somebody who died between commit and acknowledgement: not again.
            subscription = await plane.nc.jetstream().pull_subscribe_bind(name, stream=STREAM)
            [first] = await subscription.fetch(1, timeout=5)
            async with plane.pools.primary.connection() as connection, connection.transaction():
                await plane.inbox(name).first(connection, message_id(first))
            await first.nak()
            assert await plane.inbox(name).consume(handler, idle_s=2.0) == 29
            assert sorted(handler.done) == list(range(1, 30))
            assert [n for n in handler.done if n not in {3, 5}] == [n for n in range(1, 30) if n not in {3, 5}]
            assert sorted(handler.tried) == sorted([*range(1, 30), 3, 5])
            assert await left(plane, name) == (0, 0)

    asyncio.run(main())


def test_an_error_that_stays_comes_again_late(environ: Mapping[str, str]) -> None:
    """What a repetition does not mend costs a try in half a minute, and holds nobody up."""

    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, consumer(plane) as (name, subject):

            async def fail(number: int) -> None:
                if number == 0:
                    raise ConfigurationError("stays")

            handler = Handler(fail)
            await publish(plane, subject, range(2))
            assert await plane.inbox(name).consume(handler, idle_s=1.5) == 1
            assert handler.tried == [0, 1]
            assert await left(plane, name) == (0, 1)

    asyncio.run(main())


def test_what_waits_for_a_slow_handler_is_not_delivered_again(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with (
            holdfast.connect(environ, background=False) as plane,
            consumer(plane, ack_wait=0.6, max_deliver=2) as (name, subject),
        ):
            handler = Handler(lambda _: asyncio.sleep(0.4))
            await publish(plane, subject, range(3))
            assert await plane.inbox(name).consume(handler, idle_s=0.8) == 3
            assert handler.tried == list(range(3))
            info = await plane.nc.jetstream().consumer_info(STREAM, name)
            assert (info.delivered.consumer_seq, info.num_redelivered) == (3, 0)

    asyncio.run(main())


def test_a_cancelled_consumer_leaves_its_messages_to_the_next_at_once(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, consumer(plane) as (name, subject):
            endless = Handler(lambda _: asyncio.sleep(60))
            await publish(plane, subject, range(5))
            task = asyncio.create_task(plane.inbox(name).consume(endless))
            while not endless.tried:
                await asyncio.sleep(0.01)
            started = time.monotonic()
            await end(task)
            assert task.cancelled()
            assert [task for task in asyncio.all_tasks() if task.get_name() == "holdfast consumer"] == []
            handler = Handler()
            assert await plane.inbox(name).consume(handler, stream=STREAM, idle_s=0.5) == 5
            assert sorted(handler.done) == list(range(5))
            assert time.monotonic() - started < 10, "ack_wait was waited for"

    asyncio.run(main())


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_consumer_ends_with_its_plane(environ: Mapping[str, str], is_busy: bool) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as observer, consumer(observer) as (name, subject):
            handler = Handler(lambda _: asyncio.sleep(0.3))
            if is_busy:
                await publish(observer, subject, range(3))
            async with holdfast.connect(environ, background=False) as plane:
                task = asyncio.create_task(plane.inbox(name).consume(handler))
                while is_busy and not handler.tried:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
            with pytest.raises(ConnectionFailed, match="async with"):
                async with asyncio.timeout(10):
                    await task

    asyncio.run(main())


def test_a_consumer_that_is_not_declared_is_refused(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane:
            before = await plane.nc.jetstream().consumers_info(STREAM)
            for name in ("nobody", "no.name", "*"):
                with pytest.raises(ConfigurationError):
                    await plane.inbox(name).consume(Handler())
            with pytest.raises(ConfigurationError, match="AGENT_MESSAGES does not have"):
                await plane.inbox("task-processor").consume(Handler(), stream="AGENT_MESSAGES")
            async with consumer(plane, deliver_subject=plane.nc.new_inbox()) as (name, _):
                with pytest.raises(ConfigurationError, match="must pull"):
                    await plane.inbox(name).consume(Handler())
            assert len(await plane.nc.jetstream().consumers_info(STREAM)) == len(before)

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.req("E1.4")
@pytest.mark.parametrize("system", ["nats", "postgres"])
def test_a_consumer_survives_a_killed_server(environ: Mapping[str, str], servers: Any, system: str) -> None:
    """Each message leaves one row; three deliveries are enough, however long the server is away."""

    async def main() -> None:
        async with (
            holdfast.connect(environ, background=False) as plane,
            consumer(plane, max_deliver=3, ack_wait=2) as (name, subject),
        ):
            handler = Handler(lambda _: asyncio.sleep(0.005))
            await publish(plane, subject, range(600))
            task = asyncio.create_task(plane.inbox(name).consume(handler))
            await asyncio.sleep(0.5)
            try:
                await asyncio.to_thread(servers.kill, system)
                await asyncio.sleep(8)
                assert not task.done()
            finally:
                await asyncio.to_thread(servers.start)
            seen = len(set(handler.done))
            assert seen < 600
            deadline = time.monotonic() + 60
            while len(set(handler.done)) < 600:
                assert time.monotonic() < deadline, f"{len(set(handler.done))} of 600"
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)
            assert await left(plane, name) == (0, 0)
            await end(task)
            async with plane.pools.primary.connection() as connection:
                cursor = await connection.execute("SELECT count(*) FROM runtime.inbox WHERE consumer = %s", [name])
                assert await cursor.fetchone() == (600,)
            print(f"{system}: {seen} before, {len(handler.tried)} tries of 600")

    asyncio.run(main())
