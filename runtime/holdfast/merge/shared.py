"""A bucket that several write to, with one of the four strategies for all its keys."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv.attempts import again
from holdfast.kv.entry import CLOCK, EPOCH, TIME, VERSION, Entry, Position
from holdfast.merge.clocks import Clock, Dot, StableCut
from holdfast.merge.crdt import Document
from holdfast.merge.strategies import (
    Json,
    Resolution,
    Resolver,
    Sibling,
    StateEntry,
    Strategy,
    as_document,
    next_entry,
)
from holdfast.state.codec import canonical

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.messages import Ttl

#: The write that the value is of, JSON: [slot, number].
DOT: Final = "Holdfast-Dot"
_SIBLINGS: Final = "$siblings"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class SharedBucket:
    """Plain JSON values under one strategy. Every write is a compare-and-set; who loses the race resolves again.

    ``actor`` names this writer's replica slot ("worker-3"), never the process; a slot has one writer at a time.
    ``epoch`` is that of a lease that this writer holds. ``cut`` shortens clocks, see ``StableCut``.
    """

    def __init__(
        self,
        bucket: Bucket,
        resolver: Resolver,
        *,
        actor: str,
        epoch: Position | None = None,
        cut: StableCut | None = None,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        if not actor:
            raise ConfigurationError("a writer of a shared bucket needs the name of its replica slot")
        self.resolver = resolver
        self.epoch = epoch
        self._bucket, self._actor, self._cut, self._now_ms = bucket, actor, cut, now_ms

    async def get(self, key: str) -> StateEntry | None:
        """What the key holds; None for absent, deleted and expired. Raises CodecError for what is not ours to read."""
        head = await self._bucket.head(key)
        entry = self._read(head)
        return None if entry is None or entry.deleted else entry

    async def save(
        self,
        key: str,
        value: Json,
        *,
        base: StateEntry | None = None,
        timestamp_ms: int | None = None,
        ttl_s: Ttl = None,
    ) -> Resolution:
        """Settle a value with what the key holds, and write the outcome unless that is what it holds already.

        ``base`` is the entry that the value was made from: VECTOR_CLOCK merges with what is newer than that.
        ``timestamp_ms`` says that the value is of another time than now: LAST_WRITE_WINS may then prefer what it finds.
        CRDT_MERGE takes documents (``Document.to_json()``).
        """
        canonical(value)
        made_ms = timestamp_ms

        def decide(current: StateEntry | None) -> Resolution:
            nonlocal made_ms
            if made_ms is None:  # it comes after what it finds first, whatever clocks say
                made_ms = max(self._now_ms(), current.timestamp_ms + 1 if current is not None else 0)
            return self._settled(current, self._incoming(value, base, current, made_ms))

        resolution = await self._change(key, decide, ttl_s)
        assert resolution is not None
        return resolution

    async def update(self, key: str, change: Callable[[Json | None], Json], *, ttl_s: Ttl = None) -> StateEntry:
        """Read, change and write, again whenever another was faster: no update is lost. Concurrent values become one.

        ``change`` gets the value, None where there is none, and gives the next; it may be called more than once.
        """

        def decide(current: StateEntry | None) -> Resolution:
            value = change(None if current is None or current.deleted else current.value)
            return Resolution(self._next(value, current), "incoming")

        resolution = await self._change(key, decide, ttl_s)
        assert resolution is not None
        return resolution.entry

    async def update_document(
        self, key: str, change: Callable[[Document], Document], empty: Document, *, ttl_s: Ttl = None
    ) -> Document:
        """As ``update`` for a replicated document; ``change`` gets ``empty`` where there is none."""

        def changed(value: Json | None) -> Json:
            return change(empty if value is None else Document.from_json(value)).to_json()

        return Document.from_json((await self.update(key, changed, ttl_s=ttl_s)).value)

    async def delete(self, key: str, *, base: StateEntry | None = None) -> Resolution | None:
        """Delete what ``base`` has seen, all that is there by default. None where there is nothing.

        What others wrote without being seen by ``base`` stays, where the strategy can tell.
        """

        def decide(current: StateEntry | None) -> Resolution | None:
            if current is None or current.deleted:
                return None
            gone = self._gone(base or current, current)
            return self._settled(current, gone) if base is not None else Resolution(gone, "incoming")

        return await self._change(key, decide, None)

    async def entries(self, pattern: str = ">") -> AsyncIterator[tuple[str, StateEntry]]:
        """Every key that holds something, with its entry."""
        async for head in self._bucket.entries(pattern):
            entry = self._read(head)
            if entry is not None and not entry.deleted:
                yield head.key, entry

    # Settling

    async def _change(
        self, key: str, decide: Callable[[StateEntry | None], Resolution | None], ttl_s: Ttl
    ) -> Resolution | None:
        """Read, decide, and write what was decided, again whenever another was faster."""

        async def attempt() -> Resolution | None:
            head = await self._bucket.head(key)
            resolution = decide(self._read(head))
            if resolution is None or resolution.winner == "current":
                return resolution
            position = await self._write(key, resolution.entry, head, ttl_s)
            return resolution._replace(entry=replace(resolution.entry, position=position))

        return await again(key, attempt)

    def _settled(self, current: StateEntry | None, incoming: StateEntry) -> Resolution:
        if current is None:
            return Resolution(incoming, "incoming")
        resolution = self.resolver.resolve(replace(current, position=None), incoming)
        return Resolution(current, "current") if resolution.winner == "current" else resolution

    # Making entries

    def _incoming(self, value: Json, base: StateEntry | None, current: StateEntry | None, made_ms: int) -> StateEntry:
        if self.resolver.strategy is Strategy.CRDT_MERGE:
            return self._documented(value, made_ms, base)
        actor = self._actor if self.resolver.strategy is Strategy.VECTOR_CLOCK else None
        entry = next_entry(base, value, now_ms=made_ms, actor=actor, epoch=self.epoch)
        if actor is None or current is None:
            return entry
        return self._dotted(entry, base, current)

    def _next(self, value: Json, current: StateEntry | None) -> StateEntry:
        """The write that follows ``current`` and has seen all of it."""
        if self.resolver.strategy is Strategy.CRDT_MERGE:
            return self._documented(value, self._now_ms(), current)
        actor = self._actor if self.resolver.strategy is Strategy.VECTOR_CLOCK else None
        return next_entry(current, value, now_ms=self._now_ms(), actor=actor, epoch=self.epoch)

    def _documented(self, value: Json, made_ms: int, base: StateEntry | None) -> StateEntry:
        document = Document.from_json(value)
        if base is not None:
            made_ms = max(made_ms, base.timestamp_ms + 1)
        version = base.version + 1 if base is not None else 1
        return StateEntry(
            document.to_json(), made_ms, version, clock=document.clock, epoch=self.epoch, deleted=not document
        )

    def _dotted(self, entry: StateEntry, base: StateEntry | None, current: StateEntry) -> StateEntry:
        """Give the write a dot that nobody has seen. A slot has seen its own writes, also where ``base`` has not."""
        known = (base.clock if base is not None else Clock()).add(*(base.shown() if base is not None else ()))
        own = current.clock.seen.get(self._actor)
        if own is not None:
            known = known.join(Clock({self._actor: own}))
        dot = known.next(self._actor)
        return replace(entry, clock=known.add(dot), dot=dot)

    def _gone(self, seen: StateEntry, current: StateEntry) -> StateEntry:
        if self.resolver.strategy is Strategy.CRDT_MERGE:
            document = as_document(seen)
            clock = document.clock if document is not None else seen.clock
            return StateEntry(
                None,
                max(self._now_ms(), seen.timestamp_ms + 1),
                seen.version + 1,
                clock,
                epoch=self.epoch,
                deleted=True,
            )
        actor = self._actor if self.resolver.strategy is Strategy.VECTOR_CLOCK else None
        entry = next_entry(seen, None, now_ms=self._now_ms(), actor=actor, epoch=self.epoch, deleted=True)
        return entry if actor is None else self._dotted(entry, seen, current)

    # Reading and writing

    async def _write(self, key: str, entry: StateEntry, head: Entry | None, ttl_s: Ttl) -> Position:
        headers = {
            TIME: str(entry.timestamp_ms),
            VERSION: str(entry.version),
            **({CLOCK: entry.clock.dumps(self._cut)} if entry.clock else {}),
            **({DOT: json.dumps(list(entry.dot))} if entry.dot is not None else {}),
            **({EPOCH: str(entry.epoch)} if entry.epoch is not None else {}),
        }
        value: Json = entry.value
        if entry.siblings:
            rows = [[*dot, *sibling] for dot, sibling in sorted(entry.siblings.items())]
            value = {_SIBLINGS: rows, "value": entry.value}
        return await self._bucket.write(
            key,
            None if entry.deleted else canonical(value),
            expect=head.position.revision if head is not None else 0,
            ttl_s=ttl_s,
            headers=headers,
        )

    def _read(self, head: Entry | None) -> StateEntry | None:
        """An entry of the bucket. What has no headers of ours is a value without a clock, of the server's time."""
        if head is None or head.operation == "expired":
            return None
        headers = head.headers
        try:
            epoch = Position.parse(headers[EPOCH]) if EPOCH in headers else None
            value, siblings = _decode(head.value) if head.operation == "put" else (None, {})
            dot = Dot(*json.loads(headers[DOT])) if DOT in headers else None
            return StateEntry(
                value=value,
                timestamp_ms=int(headers.get(TIME, head.created_ns // 1_000_000)),
                version=int(headers.get(VERSION, 1)),
                clock=Clock.loads(headers[CLOCK], self._cut) if CLOCK in headers else Clock(),
                dot=dot,
                epoch=epoch,
                position=head.position,
                deleted=head.operation == "delete",
                siblings=siblings,
            )
        except (ValueError, TypeError) as error:
            raise CodecError(f"the entry of {head.key} cannot be read", driver_error=error) from None


def _decode(data: bytes | None) -> tuple[Json, dict[Dot, Sibling]]:
    value: Any = json.loads(data or b"null")
    if not isinstance(value, dict) or value.keys() != {_SIBLINGS, "value"}:
        return value, {}
    rows = cast(list[list[Any]], value[_SIBLINGS])
    siblings = {Dot(actor, number): Sibling(made_ms, deleted, each) for actor, number, made_ms, deleted, each in rows}
    return value["value"], siblings
