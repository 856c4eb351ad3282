"""Several changes at once: one message lists them, in their order, and is delivered and handled once as a whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast import points
from holdfast.errors import CodecError
from holdfast.events.inbox import Told, events_of
from holdfast.events.outbox import BATCH, Event, Streams, batched
from holdfast.events.relay import Relay

_BOUND = 8192


@dataclass
class Order:
    paid: bool = False
    shipped: bool = False
    total: int = 0


@dataclass
class Message:
    """What of a message ``events_of`` reads."""

    subject: str
    data: bytes
    headers: Mapping[str, str]

    @classmethod
    def of(cls, event: Event) -> Any:
        return cls(event.subject, json.dumps(event.payload).encode(), {**event.headers, "Nats-Msg-Id": str(uuid4())})


@pytest.mark.req("D12.2")
def test_a_batch_keeps_order_headers_and_ids_and_fits_its_stream() -> None:
    streams = Streams([("a.>", "A", _BOUND), ("b.>", "B", None)])
    events = [Event(f"{'ab'[n % 2]}.x", {"n": n, "text": "é" * 200}, {"Tenant": "t", "N": str(n)}) for n in range(100)]
    messages = batched([*events, Event("a.large", "x" * 2 * _BOUND), Event("a.one", 1)], streams)
    told = [event for message in messages for event in events_of(Message.of(message))]
    for subject in ("a.x", "b.x"):
        found = [event for event in told if event.subject == subject]
        assert [event.payload for event in found] == [event.payload for event in events if event.subject == subject]
        assert [event.headers["N"] for event in found] == [
            event.headers["N"] for event in events if event.subject == subject
        ]
    assert len({event.event_id for event in told}) == len(told) == 102
    assert sum(message.subject == "b.x" for message in messages) == 1
    small = [message for message in messages if message.subject == "a.x"]
    assert 1 < len(small) < 10
    assert all(len(json.dumps(m.payload, ensure_ascii=False).encode()) < _BOUND for m in small)
    assert all(message.headers["Tenant"] == "t" for message in small)
    # What is alone, or too large for any list, leaves as it is.
    assert [m.payload for m in messages if m.subject == "a.one"] == [1]
    assert BATCH not in messages[-1].headers
    with pytest.raises(CodecError):
        events_of(Message("a.x", b"{}", {BATCH: "2"}))  # type: ignore[arg-type]


async def _next(subscription: Any) -> list[Told]:
    return events_of(await subscription.next_msg(timeout=10))


@pytest.mark.req("D12.2", "D7.7", "E1.4")
def test_an_edit_of_several_fields_is_one_message_that_is_handled_once(open_plane: Any, environ: Any) -> None:
    """Also where the relay dies between sending it and noting that, and where it is delivered twice."""
    del open_plane  # the outbox is empty
    handled: list[Any] = []

    async def handler(connection: Any, message: Any) -> None:
        await connection.execute("SELECT 1")
        handled.append([(event.payload["state_key"], event.payload["new_value"]) for event in events_of(message)])

    async def main() -> None:
        async with holdfast.connect(environ, events="batch") as plane, plane.agent(uuid4(), Order, wait_s=5) as agent:
            await plane.relay.stop()
            subject = f"agents.state.{agent.agent_id}"
            subscription = await plane.nc.jetstream().subscribe(subject, manual_ack=True)
            async with agent.edit(ack="sql") as order:
                order.paid, order.shipped, order.total = True, True, 7
            await _die_before_noting(Relay(plane.pools, plane.nc, plane.contract))
            await agent.put("total", 8, ack="sql")
            relay = Relay(plane.pools, plane.nc, plane.contract)
            while await relay.step():
                pass
            assert relay._duplicates  # it was sent again, and dropped
            message = await subscription.next_msg(timeout=10)
            inbox = plane.inbox("test")
            assert await inbox.handle(message, handler)
            message._ackd = False  # a second delivery
            assert not await inbox.handle(message, handler)
            [alone] = await _next(subscription)
            assert (alone.payload["old_value"], alone.payload["new_value"]) == (7, 8)
            with pytest.raises(TimeoutError):
                await subscription.next_msg(timeout=0.2)
            await subscription.unsubscribe()

    asyncio.run(main())
    assert [sorted(told) for told in handled] == [[("paid", True), ("shipped", True), ("total", 7)]]


async def _die_before_noting(relay: Relay) -> None:
    class Killed(BaseException):
        pass

    def hook(place: str) -> None:
        if place == "relay.published":
            raise Killed

    points.set_hook(hook)
    try:
        with pytest.raises(Killed):
            await relay.step()
    finally:
        points.set_hook(None)
