"""Following a bucket with an ephemeral pull consumer, across restarts of the server and rebuilt buckets.

nats-py's watcher notices a restart only after some 16 s, and drops what its queue cannot hold.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError, OperationTimeout
from holdfast.kv import messages
from holdfast.kv.entry import Entry, Position

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from holdfast.kv.bucket import Bucket

_BATCH: Final = 256
_PULL_S: Final = 30.0
_HEARTBEAT_S: Final = 0.5
#: Without message or heartbeat for so long the consumer is taken for lost.
_SILENCE_S: Final = 1.1
#: How often the connection is looked at while nothing comes.
_GLANCE_S: Final = 0.1
_PAUSE_S: Final = 0.1
#: The server forgets a consumer that nobody has asked for so long.
_INACTIVE_S: Final = 30
_NS: Final = 1_000_000_000


class _Lost(Exception):
    """The consumer is gone, or what it sent has a gap."""


class _Session:
    """One ephemeral consumer in one incarnation of the bucket."""

    def __init__(self, bucket: Bucket, pattern: str) -> None:
        self._bucket = bucket
        self._link = bucket.link
        self._filter = bucket.prefix + messages.check_filter(pattern)
        self._name = f"holdfast-{secrets.token_hex(8)}"
        self._inbox = self._link.client.new_inbox()
        self._subscription: Subscription | None = None
        self._sequence = 0
        self._open_pulls = 0
        self._reconnects = self._link.reconnects
        self.incarnation = 0
        #: How many messages the server has yet to send, as far as it said.
        self.pending = 0

    async def open(self, start: int | None, incarnation: int) -> None:
        """Begin after the revision ``start`` of ``incarnation`` (None: with the newest of each key).

        Raises _Lost when the bucket is another one by the time the consumer stands.
        """
        self.incarnation = incarnation
        policy: dict[str, Any] = {"deliver_policy": "last_per_subject"}
        if start is not None:
            policy = {"deliver_policy": "by_start_sequence", "opt_start_seq": start + 1}
        config = {
            "name": self._name,
            "filter_subject": self._filter,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_S * _NS,
            **policy,
        }
        stream = self._bucket.stream
        # A pull's answers go to the inbox; the callback-free queue is bounded by what was pulled.
        self._subscription = await self._link.client.subscribe(
            self._inbox, pending_msgs_limit=4 * _BATCH, pending_bytes_limit=0
        )
        subject = f"$JS.API.CONSUMER.CREATE.{stream}.{self._name}.{self._filter}"
        answer = await self._link.call(subject, {"stream_name": stream, "config": config}, self._bucket.timeout_s)
        if isinstance(answer, messages.Refusal):
            raise _Lost
        self.pending = int(answer.get("num_pending", 0))
        if await self._bucket.refresh_incarnation() != incarnation:
            raise _Lost

    async def close(self) -> None:
        """Let go of the consumer, without waiting for the server."""
        client = self._link.client
        if self._subscription is None or client.is_closed:
            return
        await self._subscription.unsubscribe()
        if client.is_connected:
            await client.publish(f"$JS.API.CONSUMER.DELETE.{self._bucket.stream}.{self._name}")

    async def next(self, wait_s: float) -> Entry | None:
        """The next entry, None when there was none within ``wait_s``. Raises _Lost."""
        loop = asyncio.get_running_loop()
        end, heard = loop.time() + wait_s, loop.time()
        while True:
            # Before a message is taken: were this cancelled after, its entry would be lost.
            if self._open_pulls <= _BATCH // 2:
                await self._pull()
            message = await self._receive(min(_GLANCE_S, max(end - loop.time(), 0)))
            now = loop.time()
            if message is None:
                if self._link.reconnects != self._reconnects or now - heard > _SILENCE_S:
                    raise _Lost
                if now >= end:
                    return None
                continue
            heard = now
            entry = self._understand(message)
            if entry is not None:
                return entry

    async def _receive(self, wait_s: float) -> Msg | None:
        from nats import errors

        assert self._subscription is not None
        try:
            return await self._subscription.next_msg(timeout=wait_s or 0.001)
        except TimeoutError:
            return None
        except errors.Error as error:
            raise ConnectionFailed("the connection to NATS is closed", driver_error=error) from None

    def _understand(self, message: Msg) -> Entry | None:
        headers = message.headers or {}
        delivery = messages.delivery_of(message.reply)
        if delivery is None:
            self._obey(headers)
            return None
        if delivery.consumer_sequence != self._sequence + 1:
            raise _Lost
        self._sequence += 1
        self.pending = delivery.pending
        self._open_pulls -= 1
        skip = len(self._bucket.prefix)
        return messages.entry_of_delivered(message.subject, message.data, headers, delivery, skip, self.incarnation)

    def _obey(self, headers: Mapping[str, str]) -> None:
        """A message of the server about a pull: a sign of life, its end, or the consumer's end."""
        status, words = headers.get("Status", ""), headers.get("Description", "").lower()
        if status in {"404", "408"} or (status == "409" and "batch completed" in words):
            self._open_pulls -= int(headers.get("Nats-Pending-Messages", self._open_pulls))
        elif status != "100":
            raise _Lost

    async def _pull(self) -> None:
        request = {
            "batch": _BATCH,
            "expires": int(_PULL_S * _NS),
            "idle_heartbeat": int(_HEARTBEAT_S * _NS),
        }
        self._open_pulls += _BATCH
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._bucket.stream}.{self._name}"
        await self._link.client.publish(subject, json.dumps(request).encode(), reply=self._inbox)


class Watch:
    """Entries of a bucket as they are written, in order. Made by :meth:`Bucket.watch`; close it after use.

    ``caught_up`` is set once everything that was there at the start has been given; ``is_live`` is False while the
    consumer is lost: what was built from the entries may then be out of date.
    """

    def __init__(self, bucket: Bucket, pattern: str, *, after: Position | None, initial: bool) -> None:
        self._bucket = bucket
        self._pattern = messages.check_filter(pattern)
        self._seen = after
        self._initial = initial
        self._session: _Session | None = None
        self.caught_up = asyncio.Event()
        self.is_live = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        while True:
            entry = await self.next(60.0)
            if entry is not None:
                return entry

    @property
    def pending(self) -> int:
        """How many entries the server has yet to send, as far as known."""
        return self._session.pending if self._session is not None else 0

    def has_seen(self, position: Position) -> bool:
        """Whether an entry at or after ``position`` has been given."""
        return self._seen is not None and self._seen >= position

    async def next(self, wait_s: float) -> Entry | None:
        """The next entry, None when there was none for ``wait_s`` seconds. Raises ConnectionFailed once closed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            try:
                session = self._session or await self._begin()
                entry = await session.next(max(end - loop.time(), 0))
            except _Lost:
                await self._drop()
                if loop.time() >= end:
                    return None
                continue
            except (OperationTimeout, ConnectionFailed, ConfigurationError):
                # Servers are away, or the bucket is being rebuilt.
                await self._drop()
                if self._bucket.link.client.is_closed:
                    raise
                if loop.time() >= end:
                    return None
                continue
            except HoldfastError:
                await self._drop()
                raise
            if entry is not None:
                self._seen = entry.position
            if session.pending == 0:
                self.caught_up.set()
            if entry is not None and self.caught_up.is_set() and entry.position.incarnation == self._bucket.incarnation:
                self._bucket.remember(entry.key, entry.position.revision)
            return entry

    async def aclose(self) -> None:
        """End the watch."""
        await self._drop(pause_s=0)

    async def _begin(self) -> _Session:
        """A consumer that goes on after what was seen, or that starts over where the bucket is another one."""
        if self._seen is None and self._initial:
            start, incarnation = None, self._bucket.incarnation
        else:
            start, incarnation = await self._place()
        session = _Session(self._bucket, self._pattern)
        try:
            await session.open(start, incarnation)
        except BaseException:
            await session.close()
            raise
        self._session, self.is_live = session, True
        return session

    async def _place(self) -> tuple[int | None, int]:
        """After which revision of which incarnation to go on; None: with the newest of each key."""
        answer = await self._bucket.state()
        incarnation, last = messages.nanoseconds(answer["created"]), int(answer["state"]["last_seq"])
        if self._seen is None:
            self._seen = Position(incarnation, last)
        # A server that lost its newest messages in a crash gives their revisions again.
        is_present = self._seen.incarnation == incarnation and self._seen.revision <= last
        return (self._seen.revision if is_present else None), incarnation

    async def _drop(self, *, pause_s: float = _PAUSE_S) -> None:
        self.is_live = False
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if pause_s:
            await asyncio.sleep(pause_s)


async def heads(bucket: Bucket, pattern: str, after: Position | None = None) -> AsyncIterator[Entry]:
    """All heads in one pass, as :meth:`Bucket.entries` says. Raises OperationTimeout when nothing comes for long."""
    target = await bucket.last(pattern)
    if target is None or (after is not None and after >= target.position):
        return
    loop = asyncio.get_running_loop()
    async with Watch(bucket, pattern, after=after, initial=True) as watch:
        end = loop.time() + bucket.timeout_s
        while True:
            entry = await watch.next(0.2)
            if entry is not None:
                end = loop.time() + bucket.timeout_s
                yield entry
            # A consumer may stand on a follower: it is through when it has given what the leader had at the start.
            if watch.pending == 0 and watch.caught_up.is_set() and watch.has_seen(target.position):
                return
            if entry is None:  # what was there at the start may have expired, also where it counts as pending still
                target = await bucket.last(pattern)
                if target is None or watch.has_seen(target.position):
                    return
            if loop.time() > end:
                raise OperationTimeout(f"the keys of the bucket {bucket.name} could not be read in time")
