"""How far the database is behind the bucket: what to do about it at a write, and what to tell of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from holdfast.errors import BackPressure, HoldfastError
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Position
    from holdfast.state.journal import Journal, Look

_log = logging.getLogger("holdfast.state")
#: The journal is looked at this often at most.
_LOOK_S: Final = 0.1
#: How full the journal is when writes begin to be slowed down, and when they are refused.
SLOW_FROM, REFUSE_FROM = 0.5, 0.75
_LONGEST_DELAY_S: Final = 0.05
#: The source may lag this part of the bucket's time to live: what expires before it is sourced is lost.
_LAG_OF_TTL: Final = 0.1


class Parked(NamedTuple):
    """A write that the database refuses for what it is, such as one against a constraint that somebody added.

    It stays in the journal, holds nothing else up, and is tried again every half minute; a life-cycle event
    ``flush_refused`` tells of it once. To let it go, the agent's owner writes or deletes the key. What names no agent
    (``agent_id`` None) is a message that others put into the bucket: ``state_key`` is its subject, and the revision of
    its position the sequence under which it is to be deleted from the journal's stream.
    """

    agent_id: UUID | None
    state_key: str
    position: Position
    code: str
    message: str


@dataclass(frozen=True)
class Consistency:
    """Bucket and database at one moment.

    ``lag_ms``: age of each agent's oldest write that the database does not have; agents without one are left out.
    ``dirty_entries``: writes that it does not have, in the journal or on their way there. ``kv_entries`` counts the
    bucket's keys, leases and deletes too; ``sql_rows`` living rows. ``avg_flush_ms`` and ``p95_ms`` are of this
    process's flusher in the last minute: how long a batch takes, and how old a write is when it is committed.
    ``violations`` counts how often an agent was found behind by more than the plane's consistency_window.
    ``parked``: writes that this process's flusher was refused. ``stranded``: agents and keys of acknowledged writes
    that were lost with a deleted bucket, because it stayed away for longer than their owner here had its lease.
    """

    lag_ms: Mapping[UUID, float]
    dirty_entries: int
    kv_entries: int
    sql_rows: int
    avg_flush_ms: float
    p95_ms: float
    violations: int
    parked: tuple[Parked, ...]
    stranded: tuple[tuple[UUID, str], ...]


class Pressure:
    """Slows writes down while the journal fills, and refuses them before it is full or the bucket forgets.

    A bucket that fills is emptied by its time to live alone: it slows nothing down, but from three quarters on it takes
    no values, so that leases and deletes have room.
    """

    def __init__(self, journal: Journal, bucket: Bucket) -> None:
        self._journal = journal
        self._bucket = bucket
        self._looking: asyncio.Task[None] | None = None
        self._looked_s = float("-inf")
        self._look: Look | None = None
        #: When and where the source was first seen behind without having moved past that place since.
        self._behind: tuple[float, int] | None = None
        self._is_roomy = False
        #: Bytes of values that passed and no look has seen yet.
        self._passed = 0

    async def admit(self, size: int = 0, *, is_delete: bool = False) -> None:
        """Let one write of ``size`` bytes pass, perhaps after a moment. Raises BackPressure."""
        if time.monotonic() - self._looked_s >= _LOOK_S:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._refresh())
            if self._look is None or self._is_tight(self._look):
                await asyncio.shield(self._looking)
        look, self._passed = self._look, self._passed + size
        # Each write passes here: what a look tells is worked out once, when it is noted.
        if look is None or (self._is_roomy and self._behind is None) or not self._is_tight(look):
            return
        if look.fullness >= REFUSE_FROM:
            raise BackPressure("the journal is three quarters full: the database must catch up first")
        if self._lag_s() > self._longest_lag_s():
            raise BackPressure("the journal does not keep up with the bucket, which would forget writes")
        if not is_delete and look.bucket_bytes + self._passed > look.bucket_max_bytes * REFUSE_FROM > 0:
            self._passed -= size
            raise BackPressure("the bucket is three quarters full: wait for its time to live, or declare a larger one")
        if look.fullness >= SLOW_FROM:
            await asyncio.sleep(_LONGEST_DELAY_S * (look.fullness - SLOW_FROM) / (REFUSE_FROM - SLOW_FROM))

    def note(self, look: Look) -> None:
        """Take over what somebody saw of the journal."""
        now = time.monotonic()
        sourced = look.bucket_last - look.unsourced
        if not look.unsourced:
            self._behind = None
        elif self._behind is None or sourced >= self._behind[1] or look.bucket_last < self._behind[1]:
            self._behind = (now, look.bucket_last)
        self._look, self._looked_s = look, now
        self._is_roomy = max(look.fullness, look.bucket_fullness) < SLOW_FROM
        self._passed = 0

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            await end(self._looking)

    def _is_tight(self, look: Look) -> bool:
        return max(look.fullness, look.bucket_fullness) >= SLOW_FROM or self._lag_s() > self._longest_lag_s()

    def _lag_s(self) -> float:
        return time.monotonic() - self._behind[0] if self._behind else 0.0

    def _longest_lag_s(self) -> float:
        return self._bucket.max_age_s * _LAG_OF_TTL if self._bucket.max_age_s else float("inf")

    async def _refresh(self) -> None:
        passed = self._passed
        try:
            look = await self._journal.look()
            meanwhile = max(0, self._passed - passed)  # may be in the answer or not
            self.note(look)
            self._passed = meanwhile
        except HoldfastError as error:
            # The write itself will find out whether NATS is there.
            self._looked_s = time.monotonic()
            _log.info("the journal could not be looked at: %s", error)


def lag_ms(look: Look) -> float:
    """Age of the oldest write that waits in the journal, by the server's clock."""
    return max(0.0, (look.now_ns - look.oldest_ns) / 1e6) if look.oldest_ns is not None else 0.0
