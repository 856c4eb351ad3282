"""Messages of a durable consumer in bursts, one pull request after the other, over restarts of the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import holdfast.kv.messages as forms

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

_log = logging.getLogger("holdfast.pulling")
#: How long one request stays open; it is repeated when it is over, answered or not.
_EXPIRES_S: Final = 2.0
_TICK_S: Final = 0.25
_TOO_MANY = re.compile(r"MaxRequestBatch of (\d+)")


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, no longer than that. asyncio.wait_for of Python 3.11 may swallow a cancellation here."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Puller:
    """Hands every message to ``take``; asks for more only while ``wants()`` gives a positive number.

    While nothing comes, a request for one message is open. What follows is fetched in bursts, ``pause_s`` apart: a
    message that came alone would cost as much as twenty of a burst, and take that from whoever is writing.
    """

    def __init__(
        self,
        nc: Client,
        stream: str,
        consumer: str,
        take: Callable[[Msg, forms.Delivery], Awaitable[None]],
        wants: Callable[[], int],
        pause_s: float,
    ) -> None:
        self._nc = nc
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._consumer = consumer
        self._take = take
        self._wants = wants
        self._pause_s = pause_s
        #: Messages that the request may still bring, and how many it has brought.
        self._open = self._came = 0
        self._until = self._next = self._hurry_until = 0.0
        self._most = 1_000_000
        self._more = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        #: What the server last said instead of messages, when it was no mere end of a request.
        self.complaint: str | None = None

    def poke(self) -> None:
        """Something was taken away: there may be room for more."""
        self._more.set()

    def hurry(self) -> None:
        """Somebody waits for what was just written: fetch it without a pause."""
        self._next, self._hurry_until = 0.0, self._clock() + self._pause_s
        self._more.set()

    async def run(self) -> None:
        """Pull until cancelled."""
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox, cb=self._on_message)
        try:
            while True:
                self._more.clear()
                now = self._clock()
                wanted = min(self._wants(), self._most)
                is_due = now >= self._next if self._open <= 0 else now > self._until
                if wanted > 0 and self._nc.is_connected and is_due:
                    await self._ask(wanted, inbox)
                wait_s = self._next - now if self._open <= 0 and self._next > now else _TICK_S
                await wait_for_event(self._more, min(wait_s, _TICK_S))
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _ask(self, wanted: int, inbox: str) -> None:
        """Send one request: for all that is there after something came, else for the next message."""
        import nats.errors

        burst = {"batch": wanted, "no_wait": True}
        body = burst if self._came else {"batch": 1, "expires": int(_EXPIRES_S * 1e9)}
        try:
            await self._nc.publish(self._subject, json.dumps(body).encode(), reply=inbox)
        except (nats.errors.Error, OSError) as error:
            _log.info("consumer %s cannot be asked: %s", self._consumer, type(error).__name__)
            return
        self._open, self._until = body["batch"], self._clock() + _EXPIRES_S + _TICK_S
        self._came = 0

    async def _on_message(self, message: Msg) -> None:
        delivery = forms.delivery_of(message.reply)
        if delivery is None:
            self._on_status(message)
            return
        self._open -= 1
        self._came += 1
        if self._open <= 0:
            self._end(has_more=self._came > 1 and delivery.pending > 0)
        await self._take(message, delivery)

    def _end(self, *, has_more: bool = False) -> None:
        """The request is over. Unless the burst was too small for what is there, the next one may wait."""
        now = self._clock()
        waits = self._came and not has_more and now >= self._hurry_until
        self._open, self._next = 0, now + self._pause_s if waits else now
        self._more.set()

    def _on_status(self, message: Msg) -> None:
        """The request is over: its time has passed, or the server refuses it."""
        headers = message.headers or {}
        status, said = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        if status in {"404", "408"}:
            self._end()
            return
        self._open = 0
        bound = _TOO_MANY.search(said)
        if bound:
            self._most = int(bound[1])
            self._more.set()
            return
        if self.complaint != said:
            self.complaint = said
            _log.warning("consumer %s answers: %s %s", self._consumer, status, said)
        # Anything else is asked again with the next tick, not at once.
        self._next = self._clock() + _TICK_S
