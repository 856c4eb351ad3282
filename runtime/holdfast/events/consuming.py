"""Takes the messages of a durable pull consumer one after the other, over restarts of the servers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError
from holdfast.kv.link import Link
from holdfast.kv.messages import NO_STREAM, Delivery, Refusal
from holdfast.kv.pulling import Puller, wait_for_event
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool

_log = logging.getLogger("holdfast.inbox")
#: Error code of JetStream (nats-server, server/errors.json).
_NO_CONSUMER: Final = 10014
_ASK_S, _SEND_S, _TICK_S = 10.0, 5.0, 0.5
#: When a message comes again, and when the database is asked again.
_FIRST_S, _LONGEST_S, _LONGEST_PAUSE_S = 1.0, 30.0, 2.0
#: What the server's ``ack_wait`` is where the consumer declares none.
_ACK_WAIT_NS: Final = 30_000_000_000


class Found(NamedTuple):
    """A consumer that exists, and how long it waits for an acknowledgement."""

    stream: str
    name: str
    ack_wait_s: float


async def find(client: Client, contract: Contract, consumer: str, stream: str | None) -> Found:
    """Look for a durable pull consumer in one stream, or in all of the plane.

    Raises ConfigurationError, ConnectionFailed, OperationTimeout.
    """
    if any(sign in " .*>/\\" or not sign.isprintable() for sign in consumer):
        raise ConfigurationError(f"{consumer!r} is no name of a consumer")
    streams = list(contract.streams) if stream is None else [contract.stream(stream).name]
    link, there = Link(client), []
    try:
        for name in streams:
            answer = await link.call(f"$JS.API.CONSUMER.INFO.{name}.{consumer}", None, _ASK_S, is_patient=False)
            if not isinstance(answer, Refusal):
                there.append((name, answer["config"]))
            elif answer.code not in {_NO_CONSUMER, NO_STREAM}:
                raise ConnectionFailed(f"stream {name} cannot be asked for its consumers now (error {answer.code})")
    finally:
        await link.close()
    if not there:
        where = "no stream of the plane has" if stream is None else f"stream {stream} does not have"
        raise ConfigurationError(f"{where} a consumer {consumer}: declare it in the specs, and run: holdfast apply")
    if len(there) > 1:
        raise ConfigurationError(
            f"{' and '.join(n for n, _ in there)} each have a consumer {consumer}: name the stream"
        )
    [(name, config)] = there
    if config.get("deliver_subject") or config.get("ack_policy") != "explicit":
        raise ConfigurationError(f"consumer {consumer} of stream {name} must pull, with ack_policy explicit")
    return Found(name, consumer, config.get("ack_wait", _ACK_WAIT_NS) / 1e9)


class Consumption:
    """One reader of a consumer. ``handle`` runs the handler, acknowledges, and tells whether the handler ran."""

    def __init__(
        self, client: Client, pool: Pool, found: Found, handle: Callable[[Msg], Awaitable[bool]], batch: int
    ) -> None:
        self._client, self._pool, self._handle, self._batch = client, pool, handle, max(batch, 1)
        self._ack_wait_s = found.ack_wait_s
        #: What came and is not done; the first is at work.
        self._messages: deque[Msg] = deque()
        self._came = asyncio.Event()
        self._puller = Puller(client, found.stream, found.name, self._take, self._room, 0.0)
        self._is_away = False

    async def run(self, idle_s: float | None) -> int:
        """Handle what comes. What is left when it ends, others get at once."""
        tasks = [asyncio.create_task(work, name="holdfast consumer") for work in (self._puller.run(), self._extend())]
        handled = 0
        try:
            while await self._has_message(idle_s):
                handled += await self._one(self._messages[0])
                self._puller.poke()
            return handled
        finally:
            await end(*tasks)
            for message in self._messages:
                await _send(message.nak())

    def _room(self) -> int:
        return 0 if self._is_away else self._batch - len(self._messages)

    async def _take(self, message: Msg, _: Delivery) -> None:
        self._messages.append(message)
        self._came.set()

    async def _has_message(self, idle_s: float | None) -> bool:
        """Wait for a message. False when none has come for ``idle_s``. Raises ConnectionFailed."""
        clock = asyncio.get_running_loop().time
        until = None if idle_s is None else clock() + idle_s
        while not self._messages:
            self._require_open()
            left_s = _TICK_S if until is None else until - clock()
            if left_s <= 0:
                return False
            self._came.clear()
            await wait_for_event(self._came, min(left_s, _TICK_S))
        return True

    def _require_open(self) -> None:
        if self._client.is_closed:
            raise ConnectionFailed("the connection to NATS was closed: consume inside of the plane's `async with`")

    async def _one(self, message: Msg) -> bool:
        try:
            has_run = await self._handle(message)
        except Exception as error:  # whatever a handler raises, the messages after this one go on
            self._messages.popleft()
            await self._postpone(message, error)
            return False
        self._messages.popleft()
        return has_run

    async def _postpone(self, message: Msg, error: Exception) -> None:
        delay_s = min(_FIRST_S * 2.0 ** min(message.metadata.num_delivered - 1, 60), _LONGEST_S)
        if isinstance(error, HoldfastError) and not error.retryable:
            delay_s = _LONGEST_S
        is_known = isinstance(error, HoldfastError)
        _log.warning("a message of %s comes again in %g s: %s", message.subject, delay_s, error, exc_info=not is_known)
        await _send(message.nak(delay_s))
        if is_known:
            await self._wait_for_database()

    async def _wait_for_database(self) -> None:
        """Each delivery counts against ``max_deliver``: without the database, no further message is fetched."""
        pause_s = 0.1
        try:
            while True:
                try:
                    async with self._pool.connection():
                        return
                except HoldfastError as error:
                    self._require_open()
                    if not self._is_away:
                        self._is_away = True
                        _log.warning("no messages are taken until the database is there: %s", error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        finally:
            self._is_away = False

    async def _extend(self) -> None:
        """Keep the server from giving what waits here to somebody else."""
        while True:
            await asyncio.sleep(self._ack_wait_s / 3)
            for message in tuple(self._messages):
                await _send(message.in_progress())


async def _send(answer: Awaitable[None]) -> None:
    """Answer the server; where that fails, the message comes again after ``ack_wait``."""
    from nats.errors import Error

    try:
        async with asyncio.timeout(_SEND_S):
            await answer
    except (Error, OSError) as error:
        _log.info("the server of a message cannot be told: %s", type(error).__name__)
