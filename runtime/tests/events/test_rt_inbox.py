"""The inbox: a message is handled once, however often it is delivered and wherever its handler breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.errors import ConfigurationError, OperationTimeout
from holdfast.events.inbox import Inbox, message_id


@pytest.mark.req("E1.4")
def test_a_message_delivered_twice_is_handled_once(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            subject, name = f"tasks.updated.{uuid4()}", str(uuid4())
            jetstream, handled = plane.client.jetstream(), []
            subscription = await jetstream.subscribe(subject, manual_ack=True, ordered_consumer=False)
            await jetstream.publish(subject, b"{}", headers={"Nats-Msg-Id": name})
            message = await subscription.next_msg(timeout=5)
            inbox = Inbox(plane.contract, "test", plane.pools.primary)

            async def handler(connection: Any, message: Any) -> None:
                await connection.execute("SELECT 1")
                handled.append(message_id(message))

            assert await inbox.handle(message, handler)
            message._ackd = False  # a second delivery
            assert not await inbox.handle(message, handler)
            message._ackd = False
            assert await Inbox(plane.contract, "other", plane.pools.primary).handle(message, handler)
            assert handled == [name, name]
            await subscription.unsubscribe()

    asyncio.run(main())


def test_a_handler_that_fails_is_called_again_and_leaves_nothing(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            inbox = Inbox(plane.contract, "test", plane.pools.primary)

            async def failing() -> None:
                async with plane.pools.primary.connection() as connection, connection.transaction():
                    assert await inbox.first(connection, "m")
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await failing()
            async with plane.pools.primary.connection() as connection, connection.transaction():
                assert await inbox.first(connection, "m")
                assert not await inbox.first(connection, "m")

    asyncio.run(main())


async def _delivered(plane: Any) -> Any:
    """A message as a consumer has it."""
    subject, jetstream = f"tasks.updated.{uuid4()}", plane.client.jetstream()
    subscription = await jetstream.subscribe(subject, manual_ack=True)
    await jetstream.publish(subject, b"{}", headers={"Nats-Msg-Id": str(uuid4())})
    return await subscription.next_msg(timeout=5)


@pytest.mark.parametrize("error", [FileNotFoundError("its own"), TimeoutError("its own"), ConnectionError("its own")])
def test_what_a_handler_raises_is_not_taken_for_ours(open_plane: Any, error: OSError) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            inbox, message = Inbox(plane.contract, "test", plane.pools.primary), await _delivered(plane)

            async def failing(connection: Any, message: Any) -> None:
                raise error

            async def slow(connection: Any, message: Any) -> None:
                await asyncio.sleep(5)

            with pytest.raises(type(error), match="its own") as raised:
                await inbox.handle(message, failing)
            assert raised.value is error
            with pytest.raises(OperationTimeout):
                await inbox.handle(message, slow, timeout_s=0.05)
            assert await plane.execute("SELECT message_id FROM runtime.inbox") == []

    asyncio.run(main())


def test_a_handled_message_whose_acknowledgement_fails_is_handled(open_plane: Any, caplog: Any) -> None:
    """The connection to NATS is closed under the handler; its transaction is committed all the same."""

    async def main() -> None:
        async with open_plane() as plane:
            inbox, message = Inbox(plane.contract, "test", plane.pools.primary), await _delivered(plane)

            async def closing(connection: Any, message: Any) -> None:
                await plane.client.close()

            assert await inbox.handle(message, closing)
            assert await plane.execute("SELECT message_id FROM runtime.inbox") == [(message_id(message),)]
            assert "not acknowledged" in caplog.text

    asyncio.run(main())


def test_notes_stay_where_a_stream_keeps_its_messages_for_ever(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            endless = replace(plane.contract.streams["TASK_EXECUTION"], max_age_s=0.0)
            contract = replace(plane.contract, streams={**plane.contract.streams, "TASK_EXECUTION": endless})
            inbox = Inbox(contract, "test", plane.pools.primary)
            await plane.execute(
                "INSERT INTO runtime.inbox (consumer, message_id, handled_at) VALUES ('test', 'm', '2020-01-01')"
            )
            assert await inbox.clean_up() == 0
            assert await Inbox(plane.contract, "test", plane.pools.primary).clean_up() == 1

    asyncio.run(main())


def test_two_handlers_of_one_message_at_once(open_plane: Any) -> None:
    """The second waits for the first, and works only if that one rolls back."""

    async def main(fails: bool) -> bool:
        async with open_plane() as plane:
            inbox = Inbox(plane.contract, "test", plane.pools.primary)
            name = str(uuid4())
            async with plane.pools.primary.connection() as one, plane.pools.primary.connection() as two:

                async def second() -> bool:
                    async with two.transaction():
                        return await inbox.first(two, name)

                try:
                    async with one.transaction():
                        assert await inbox.first(one, name)
                        waiting = asyncio.create_task(second())
                        await asyncio.sleep(0.2)
                        assert not waiting.done()
                        if fails:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                return await waiting

    assert asyncio.run(main(True))
    assert not asyncio.run(main(False))


def test_a_note_outside_a_transaction_is_refused_and_old_notes_go(open_plane: Any, environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            inbox = Inbox(plane.contract, "test", plane.pools.primary)
            async with plane.pools.primary.connection() as connection:
                with pytest.raises(ConfigurationError):
                    await inbox.first(connection, "m")
                async with connection.transaction():
                    await inbox.first(connection, "old")
                    await Inbox(plane.contract, "gone for good", plane.pools.primary).first(connection, "old")
                    await connection.execute("UPDATE runtime.inbox SET handled_at = now() - interval '20 days'")
                    await inbox.first(connection, "new")
            assert await inbox.clean_up() == 2
            assert await plane.execute("SELECT message_id FROM runtime.inbox") == [("new",)]
            await plane.execute("UPDATE runtime.inbox SET handled_at = now() - interval '20 days' RETURNING 1")
            async with holdfast.connect(environ), asyncio.timeout(10):
                while await plane.execute("SELECT message_id FROM runtime.inbox"):
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_message_without_an_id_is_told_by_its_place_and_time(open_plane: Any) -> None:
    """A stream that was built again counts from 1 again: its messages are others."""

    async def main() -> None:
        async with open_plane() as plane:
            subject = f"tasks.updated.{uuid4()}"
            jetstream = plane.client.jetstream()
            subscription = await jetstream.subscribe(subject, manual_ack=True)
            for _ in range(2):
                await jetstream.publish(subject, b"{}")
            one, two = [await subscription.next_msg(timeout=5) for _ in range(2)]
            assert message_id(one) == message_id(one) != message_id(two)
            stream, sequence, moment = message_id(one).split("/")
            assert stream == "TASK_EXECUTION"
            assert int(sequence) > 0
            assert float(moment) > 1.7e9
            await subscription.unsubscribe()

    asyncio.run(main())
