"""The writes of one owner below its prefix, each refused once another owner has taken the subtree over.

Takeover writes the lease key inside the subtree, and that message never expires; so the last sequence of the subtree
stays above everything that an earlier owner can expect. It falls back only when younger keys expire, which is told
from a takeover by the lease itself.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import CodecError, ConfigurationError, Fenced, VersionConflict
from holdfast.kv.entry import EPOCH, VERSION, Entry, Position

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket, Headers
    from holdfast.kv.lease import Lease
    from holdfast.kv.messages import Ttl

_TRIES: Final = 12
_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lease key says. ``until``: seconds since 1970 by the server's clock, 0 once released.

    ``epoch`` None: its own position.
    """

    holder: str
    until: float
    token: str
    epoch: Position | None

    @staticmethod
    def encode(holder: str, lasts_s: float, token: str, epoch: Position | None) -> bytes:
        """``lasts_s`` counts from when the server takes the write: no clock of an owner's decides anything."""
        said = str(epoch) if epoch is not None else None
        return json.dumps({"holder": holder, "lasts_s": lasts_s, "token": token, "epoch": said}).encode()

    @classmethod
    def decode(cls, entry: Entry) -> Claim:
        """Raises CodecError."""
        try:
            fields: dict[str, Any] = json.loads(entry.value or b"")
            epoch, lasts_s = fields.get("epoch"), float(fields["lasts_s"])
            until = entry.created_ns / 1e9 + lasts_s if lasts_s else 0.0
            known = Position.parse(epoch) if epoch else None
            return cls(str(fields["holder"]), until, str(fields.get("token", "")), known)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CodecError(f"{entry.key} does not hold a lease") from None


class Ownership:
    """What a lease and its writers share: the epoch, the subtree's last sequence, and one lock over both."""

    def __init__(self, bucket: Bucket, prefix: str, holder: str, ttl_s: float) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.holder = holder
        self.ttl_s = ttl_s
        self.key: Final = f"{prefix}.lease"
        self.filter: Final = f"{prefix}.>"
        self.token = secrets.token_hex(8)
        self.epoch = Position(0, 0)
        self.lost = asyncio.Event()
        self.is_released = False
        #: Until when the lease lasts by this process's own clock.
        self.deadline = 0.0
        self._last = Position(0, 0)
        self._lock = asyncio.Lock()
        self._versions: dict[str, int] = {}

    @property
    def epoch(self) -> Position:
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: Position) -> None:
        self._epoch = epoch
        self._name = str(epoch)

    # Taking and keeping --------------------------------------------------------------------------------------

    async def claim(self, expect: int | Position) -> None:
        """Write the lease over ``expect``, the subtree's last revision. Raises VersionConflict."""
        sent = time.monotonic()
        value = Claim.encode(self.holder, self.ttl_s, self.token, None)
        write = self.bucket.prepare(self.key, value, expect=expect, subtree=self.filter, ttl_s="never")
        try:
            await self.bucket.perform(write)
        finally:
            if write.position is not None:
                self.epoch = self._last = write.position
                self.deadline = sent + self.ttl_s

    async def renew(self) -> None:
        """Write the lease again. Raises Fenced."""
        async with self._lock:
            sent = time.monotonic()
            await self._put(self.key, lambda: self._claim(self.ttl_s), "never", {})
            self.deadline = sent + self.ttl_s

    async def release(self) -> None:
        """Write that the lease has ended. Nothing is written after this. Raises Fenced."""
        async with self._lock:
            if self.is_released:
                return
            await self._put(self.key, lambda: self._claim(0), "never", {})
            self.is_released = True
            self.lost.set()

    def _claim(self, lasts_s: float) -> bytes:
        return Claim.encode(self.holder, lasts_s, self.token, self.epoch)

    # Writing -------------------------------------------------------------------------------------------------

    async def write(self, key: str, value: bytes | None, ttl_s: Ttl, headers: Headers) -> Position:
        async with self._lock:
            fields = dict(headers)
            version = fields.get(VERSION)
            number = int(version) if version is not None else await self._version(key) + 1
            fields[VERSION] = str(number)
            return await self._put(key, lambda: value, ttl_s, fields)

    async def _put(self, key: str, value: Callable[[], bytes | None], ttl_s: Ttl, fields: dict[str, str]) -> Position:
        """Write under the lock. ``value`` is asked at each attempt, for it may name the epoch."""
        end = time.monotonic() + self.bucket.timeout_s
        pause_s = 0.0
        while time.monotonic() < end:
            self._require()
            if self.bucket.incarnation != self.epoch.incarnation:
                await self._reclaim()
            fields[EPOCH] = self._name
            said = value()
            write = self.bucket.prepare(key, said, expect=self._last, subtree=self.filter, ttl_s=ttl_s, headers=fields)
            self._versions.pop(key, None)
            try:
                return await self.bucket.perform(write)
            except VersionConflict:
                await self._reconcile()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s + _PAUSE_S, _LONGEST_PAUSE_S)
            finally:
                if write.position is not None:
                    self._last = write.position
                    if VERSION in fields and said is not None:
                        self._versions[key] = int(fields[VERSION])
        raise VersionConflict(f"{key} was not written: others write below {self.prefix} without its lease")

    async def _version(self, key: str) -> int:
        known = self._versions.get(key)
        if known is None:
            entry = await self.bucket.head(key)
            known = int(entry.headers.get(VERSION, 0)) if entry is not None else 0
        return known

    # After a refusal -----------------------------------------------------------------------------------------

    def _require(self) -> None:
        if self.is_released:
            raise Fenced(f"the lease on {self.prefix} was released")
        if self.lost.is_set():
            raise Fenced(f"another owner has taken {self.prefix} over")

    def _fence(self) -> None:
        """From now on every write is refused here, too."""
        self.lost.set()
        self._require()

    async def _reconcile(self) -> None:
        """Learn why the expected sequence was wrong: an expiry, a write of another hand, or a takeover (Fenced).

        The subtree is read before the lease: a takeover after the first read makes the next write fail again, one
        before it shows in the second.
        """
        if await self.bucket.refresh_incarnation() != self.epoch.incarnation:
            return
        newest = await self.bucket.last(self.filter)
        lease = await self.bucket.get(self.key)
        if newest is None or newest.position < self._last:
            # Younger keys have expired, unless the bucket went back, and somebody else was given their revisions.
            other = await self.bucket.following(f"{self.bucket.prefix}>", self._last.revision)
            if other is not None and other.position == self._last and not other.key.startswith(f"{self.prefix}."):
                self.bucket.give_up(self._last)
        if lease is None:
            await self._reclaim()
            return
        if Claim.decode(lease).token != self.token:
            self._fence()
        if (
            newest is not None
            and newest.key != self.key
            and newest.headers.get(EPOCH, str(self.epoch)) != str(self.epoch)
        ):
            self._fence()
        self._last = newest.position if newest is not None else lease.position

    async def _reclaim(self) -> None:
        """Take the lease again in a bucket that has lost it, unless another owner may have had it in between."""
        for _ in range(_TRIES):
            newest = await self.bucket.last(self.filter)
            lease = await self.bucket.get(self.key)
            if lease is not None:
                claim = Claim.decode(lease)
                if claim.token != self.token:
                    self._fence()
                epoch = claim.epoch or lease.position
                self.epoch = epoch if epoch.incarnation == lease.position.incarnation else lease.position
                self._last = newest.position if newest is not None else lease.position
                return
            if time.monotonic() >= self.deadline:
                self._fence()
            try:
                await self.claim(newest.position if newest is not None else 0)
            except VersionConflict:
                continue
            return
        raise VersionConflict(f"the lease on {self.prefix} could not be taken again")


class SubtreeWriter:
    """Writes below ``prefix`` in the name of a lease, one after the other. Raises Fenced for ever after a takeover."""

    def __init__(self, bucket: Bucket, prefix: str, lease: Lease) -> None:
        if lease.ownership.bucket is not bucket or lease.ownership.prefix != prefix:
            raise ConfigurationError(f"the lease is not one on {prefix} in the bucket {bucket.name}")
        self.bucket = bucket
        self.prefix = prefix
        self.lease = lease
        self._ownership = lease.ownership

    async def write(self, key: str, value: bytes | None, *, ttl_s: Ttl = None, headers: Headers = ()) -> Position:
        """Store ``value`` (None: a delete) under ``key``, which begins with the prefix.

        Adds the epoch and the key's own version (one more than its last, unless ``headers`` gives it).
        Raises Fenced; OperationTimeout and ConnectionFailed say whether the outcome is unknown.
        """
        if not key.startswith(f"{self.prefix}.") or key == self._ownership.key:
            raise CodecError(f"{key} is no key below {self.prefix} that its owner may write")
        return await self._ownership.write(key, value, ttl_s, headers)
