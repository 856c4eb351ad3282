"""Which of several servers takes writes, also after one failed and another was promoted.

A standby says so by ``pg_is_in_recovery()``. A former primary that came back does not: it still takes writes. But each
promotion begins a new timeline, so of two primaries the one with the higher timeline is right, and one with a lower
timeline than was ever seen here gets no work (https://www.postgresql.org/docs/current/continuous-archiving.html).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import psycopg

from holdfast.errors import ConnectionFailed, HoldfastError
from holdfast.sql.connection import Connection
from holdfast.sql.endpoints import Place
from holdfast.sql.failures import is_lost
from holdfast.tasks import together

_LOG = logging.getLogger("holdfast.pools")
_PROBE_S = 3.0

#: An LSN is a position in the write-ahead log: bytes since the beginning of the cluster.
STANDING = (
    "SELECT r, CASE WHEN r THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,"
    " (CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::int8"
    " FROM pg_is_in_recovery() r"
)


class Standing(NamedTuple):
    """What a server says of itself: ``timeline`` is None and ``lsn`` the replayed position on a standby."""

    is_standby: bool
    timeline: int | None
    lsn: int


async def standing_of(connection: Connection) -> Standing:
    """Ask a server. Raises errors of the driver."""
    try:
        cursor = await connection.execute(STANDING)
    except psycopg.DatabaseError as error:
        if is_lost(error):
            raise
        # Some managed servers have no such functions: then without protection from a former primary.
        cursor = await connection.execute("SELECT pg_is_in_recovery(), NULL, 0")
    is_standby, timeline, lsn = (await cursor.fetchone()) or (True, None, 0)
    return Standing(is_standby, int(timeline, 16) if timeline else None, int(lsn or 0))


class Primary:
    """Follows the primary among ``places``. ``probe`` asks one of them with a connection of its own.

    ``generation`` grows whenever the primary changes: connections of an older one are to be thrown away.
    """

    def __init__(self, places: tuple[Place, ...], probe: Callable[[Place], Awaitable[Standing]]) -> None:
        self.places = places
        self.place = places[0]
        self.timeline = 0
        self.generation = 0
        self.is_known = False
        self._probe = probe
        self._lock = asyncio.Lock()
        #: When the last search that found nothing began (monotonic).
        self._searched_in_vain = 0.0

    def admit(self, place: Place, standing: Standing) -> None:
        """Take note of a server that somebody connected to. Raises ConnectionFailed unless it is the primary."""
        if standing.is_standby:
            raise ConnectionFailed("the server takes no writes: it is a standby")
        timeline = standing.timeline or 0
        if timeline < self.timeline:
            raise ConnectionFailed("the server is a former primary: another one was promoted")
        if timeline > self.timeline or place != self.place:
            self._follow(place, timeline)
        self.is_known = True

    def _follow(self, place: Place, timeline: int) -> None:
        if self.is_known:
            _LOG.warning("the primary has changed: timeline %d after %d", timeline, self.timeline)
            self.generation += 1
        self.place, self.timeline = place, timeline

    async def resolve(self, seen: int) -> None:
        """Find the primary. ``seen`` is the generation that failed; another one means that somebody found it already.

        Raises ConnectionFailed while no server takes writes.
        """
        arrived = time.monotonic()
        async with self._lock:
            if seen != self.generation:
                return
            # A search that began after we came is as good as ours, and many may be waiting.
            best = None
            if self._searched_in_vain < arrived:
                began = time.monotonic()
                best = await self._best()
                self._searched_in_vain = began if best is None else 0.0
            if best is None:
                raise ConnectionFailed("no server takes writes at present")
            self.admit(*best)

    async def look(self) -> None:
        """Find out whether a promotion happened while the old primary goes on. Says nothing of failures."""
        async with self._lock:
            best = await self._best()
            if best is not None and (best[1].timeline or 0) > self.timeline:
                self.admit(*best)

    async def _best(self) -> tuple[Place, Standing] | None:
        answers = await together(self._ask(place) for place in self.places)
        found = [
            (place, standing)
            for place, standing in zip(self.places, answers, strict=True)
            if standing is not None and not standing.is_standby and (standing.timeline or 0) >= self.timeline
        ]
        # Of two on the same timeline the present one stays.
        return max(found, key=lambda item: (item[1].timeline or 0, item[0] == self.place), default=None)

    async def _ask(self, place: Place) -> Standing | None:
        try:
            async with asyncio.timeout(_PROBE_S):
                return await self._probe(place)
        except (HoldfastError, OSError):  # TimeoutError is an OSError
            return None
