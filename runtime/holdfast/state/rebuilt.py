"""A bucket that was deleted and made again: its journal may skip what is written first, so the heads are read too.

Servers before 2.15 skip up to the sequence that the old bucket had; later ones wait some 20 s. A key of our own tells
where we are: while the journal has not delivered a message of the present bucket, everything new in the bucket is
written to the database directly.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import HoldfastError, VersionConflict
from holdfast.kv.entry import EPOCH, ORIGIN, Position
from holdfast.state.flush_sql import Change, newest
from holdfast.state.keys import FLUSHER_KEY, parse_bucket_key

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry
    from holdfast.state.flusher import Flusher

_log = logging.getLogger("holdfast.flusher")
_AGAIN_S: Final = 1.0


class Rebuilt:
    """Watches over one bucket for one flusher."""

    def __init__(self, bucket: Bucket, flusher: Flusher) -> None:
        self._bucket = bucket
        self._flusher = flusher
        self._changed = asyncio.Event()
        #: What is written directly, up to here; see ``sweep``.
        self._swept = Position(0, 0)

    async def run(self) -> None:
        """Follow the bucket through every rebuild until cancelled."""
        ignore = self._bucket.on_rebuilt(lambda incarnation: self._changed.set())
        try:
            while True:
                self._changed.clear()
                try:
                    await self._follow()
                except HoldfastError as error:
                    _log.info("the heads of the bucket %s could not be read: %s", self._bucket.name, error)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                await self._changed.wait()
        finally:
            ignore()

    async def _follow(self) -> None:
        """Sweep until the journal follows the present bucket. A bucket that was followed before needs none."""
        if await self._is_followed():
            return
        if self._swept.incarnation:
            _log.warning("the bucket %s is a new one: its heads are written directly for a while", self._bucket.name)
        incarnation = self._bucket.incarnation
        while self._flusher.followed < incarnation:
            await self._mark(follows=False)
            await self.sweep()
            await asyncio.sleep(_AGAIN_S)
            if self._bucket.incarnation != incarnation:
                self._changed.set()
                return
            if await self._is_followed():
                break
        await self.sweep()
        await self._mark(follows=True)

    async def _is_followed(self) -> bool:
        """Whether some flusher has found that the journal follows the present bucket."""
        mark = await self._bucket.get(FLUSHER_KEY)
        return mark is not None and read_mark(mark.value or b"") == (self._bucket.incarnation, True)

    async def sweep(self) -> None:
        """Write every head that is newer than the last sweep. Raises what bucket and database raise."""
        start = self._swept if self._swept.incarnation == self._bucket.incarnation else Position(0, 0)
        last, changes = start, []
        # Every second over the whole bucket would be too much; see the top for how long this goes on.
        async for entry in self._bucket.entries(after=start if start.revision else None):
            if entry.position > start:
                last = max(last, entry.position)
                change = change_of(entry)
                if change is not None:
                    changes.append(change)
        if changes:
            await self._flusher.write_directly(list(newest(changes).values()))
        self._swept = last if last.incarnation else Position(self._bucket.incarnation, 0)

    async def _mark(self, *, follows: bool) -> None:
        """Write the key anew, which also gives the journal something to deliver."""
        head = await self._bucket.head(FLUSHER_KEY)
        value = json.dumps({"incarnation": self._bucket.incarnation, "follows": follows}).encode()
        expect = head.position.revision if head is not None else 0
        try:
            await self._bucket.write(FLUSHER_KEY, value, expect=expect, ttl_s="never", headers={ORIGIN: "sql"})
        except VersionConflict:
            _log.debug("another flusher has marked the bucket %s", self._bucket.name)


def read_mark(value: bytes) -> tuple[int, bool]:
    """Which incarnation a mark was written in, and whether the journal was known to follow it."""
    try:
        plain = json.loads(value)
        return int(plain["incarnation"]), bool(plain["follows"])
    except (ValueError, KeyError, TypeError):
        return 0, False


def change_of(entry: Entry) -> Change | None:
    """What is to be written of an entry of the bucket, None for nothing; see ``journal.read_change``."""
    named = parse_bucket_key(entry.key)
    if named is None or entry.operation == "expired" or entry.headers.get(ORIGIN) == "sql":
        return None
    epoch = entry.headers.get(EPOCH)
    return Change(*named, entry.value, entry.position, Position.parse(epoch).revision if epoch else None)
