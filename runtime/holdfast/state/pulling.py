"""Messages of a durable consumer, one pull request after the other, over restarts of the server."""

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

_log = logging.getLogger("holdfast.flusher")
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
    """Hands every message to ``take``; asks for more only while ``wants()`` gives a positive number."""

    def __init__(
        self,
        nc: Client,
        stream: str,
        consumer: str,
        take: Callable[[Msg, forms.Delivery], Awaitable[None]],
        wants: Callable[[], int],
    ) -> None:
        self._nc = nc
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._take = take
        self._wants = wants
        self._open = 0
        self._until = 0.0
        self._most = 1_000_000
        self._more = asyncio.Event()
        #: What the server last said instead of messages, when it was no mere end of a request.
        self.complaint: str | None = None

    def poke(self) -> None:
        """Something was taken away: there may be room for more."""
        self._more.set()

    async def run(self) -> None:
        """Pull until cancelled."""
        import nats.errors

        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox, cb=self._on_message)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                wanted = min(self._wants(), self._most)
                if wanted > 0 and self._nc.is_connected and (self._open <= 0 or clock() > self._until):
                    body = json.dumps({"batch": wanted, "expires": int(_EXPIRES_S * 1e9)}).encode()
                    try:
                        await self._nc.publish(self._subject, body, reply=inbox)
                        self._open, self._until = wanted, clock() + _EXPIRES_S + _TICK_S
                    except (nats.errors.Error, OSError) as error:
                        _log.info("the journal cannot be asked: %s", type(error).__name__)
                self._more.clear()
                await wait_for_event(self._more, _TICK_S)
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        delivery = forms.delivery_of(message.reply)
        if delivery is None:
            self._on_status(message)
            return
        self._open -= 1
        if self._open <= 0:
            self._more.set()
        await self._take(message, delivery)

    def _on_status(self, message: Msg) -> None:
        """The request is over: its time has passed, or the server refuses it."""
        headers = message.headers or {}
        status, said = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        self._open = 0
        if status in {"404", "408"}:
            self._more.set()
            return
        bound = _TOO_MANY.search(said)
        if bound:
            self._most = int(bound[1])
            self._more.set()
        elif self.complaint != said:
            self.complaint = said
            _log.warning("the journal's consumer says: %s %s", status, said)
        # Anything else is asked again with the next tick, not at once.
        self._until = 0.0
