"""Ownership of an agent for a time: a key in the agent's own subtree, taken by compare-and-set on all of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from holdfast.errors import ConfigurationError, Fenced, HoldfastError, LeaseHeld, VersionConflict
from holdfast.kv.entry import Position
from holdfast.kv.link import finish
from holdfast.kv.subtree import Claim, Ownership, SubtreeWriter
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket

#: A lease is written again after this part of its time.
_RENEWED_AFTER: Final = 1 / 3
_LOOK_AGAIN_S: Final = 0.25
#: How often a lease is tried where others write the subtree at the same time.
_LEAST_TRIES: Final = 5

_log = logging.getLogger("holdfast.kv")


class Lease:
    """A lease that renews itself until :meth:`release`. Made by :func:`acquire`.

    ``lost`` is set when another owner has taken over, and after the release. ``held`` is False already when the lease
    could not be renewed in time: another may then take it, and nobody has so far as is known. The writes of a former
    owner are refused by the bucket, whatever its clock says.
    """

    def __init__(self, ownership: Ownership) -> None:
        self.ownership = ownership
        self.writer = SubtreeWriter(ownership.bucket, ownership.prefix, self)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    @property
    def holder(self) -> str:
        return self.ownership.holder

    @property
    def epoch(self) -> Position:
        """The fencing epoch: where the write that took the lease stands. A rebuilt bucket gives a new one."""
        return self.ownership.epoch

    @property
    def lost(self) -> asyncio.Event:
        return self.ownership.lost

    @property
    def held(self) -> bool:
        return not self.lost.is_set() and time.monotonic() < self.ownership.deadline

    async def renew(self) -> None:
        """Renew now. Raises Fenced after a takeover."""
        await self.ownership.renew()

    async def release(self) -> None:
        """End the lease, so that another need not wait for its time to pass. Quiet when it is lost already."""
        await self.stop_renewing()
        if self.lost.is_set():
            return
        with suppress(Fenced):
            await finish(self.ownership.release())

    async def stop_renewing(self) -> None:
        """Let the lease run out by itself, as a crash would."""
        await end(self._task)

    async def _keep(self) -> None:
        pause_s = self.ownership.ttl_s * _RENEWED_AFTER
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.ownership.renew()
                pause_s = self.ownership.ttl_s * _RENEWED_AFTER
            except Fenced:
                return
            except HoldfastError as error:
                _log.warning("the lease on %s was not renewed: %s", self.ownership.prefix, error)
                pause_s = min(_LOOK_AGAIN_S, pause_s)


async def acquire(bucket: Bucket, owner_key: str, holder: str, *, ttl_s: float, wait_s: float = 0) -> Lease:
    """Take the lease ``<owner_key>.lease`` for ``holder``; it lasts ``ttl_s`` seconds after each renewal.

    Waits up to ``wait_s`` for another holder's to end. Raises LeaseHeld, Unsupported, ConnectionFailed,
    OperationTimeout; ConfigurationError for a time that is not positive.

    Its time is the stream leader's: the clocks of holder and taker may jump as they like. If the leader's jumps ahead,
    the lease may be taken early, and the old owner is fenced as after a pause; if it jumps back, the lease of an owner
    that crashed ends that much later.
    """
    if not ttl_s > 0:
        raise ConfigurationError("a lease lasts a positive number of seconds")
    ownership = Ownership(bucket, owner_key, holder, ttl_s)
    end = time.monotonic() + wait_s
    tries = 0
    while True:
        newest = await bucket.last(ownership.filter)  # before the lease: see Ownership
        found = await bucket.get(ownership.key)
        claim = Claim.decode(found) if found is not None else None
        left_s = claim.until - await bucket.now_s() if claim is not None and claim.until else 0.0
        if claim is None or left_s <= 0:
            try:
                await ownership.claim(newest.position if newest is not None else 0)
            except asyncio.CancelledError:
                if ownership.epoch.revision:
                    with suppress(HoldfastError):
                        await finish(ownership.release())
                raise
            except VersionConflict:
                tries += 1
                if tries >= _LEAST_TRIES and time.monotonic() >= end:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * tries))  # noqa: S311 - spreads racers
                continue
            return Lease(ownership)
        wait_left_s = end - time.monotonic()
        if wait_left_s <= 0:
            text = (
                f"{claim.holder} has the lease on {owner_key}: wait for it with wait_s, or only read with owned=False"
            )
            raise LeaseHeld(text, holder=claim.holder, until=claim.until)
        await asyncio.sleep(max(0.001, min(wait_left_s, _LOOK_AGAIN_S, left_s)))
