"""Publishes the rows of the outbox, at least once and in order.

Order and completeness: rows are read below the oldest transaction that still runs, by (transaction, position). Nothing
can appear below that line any more, so the relay need not look back. Events of one subject leave one after the other;
transactions that overlapped leave in the order of their first writes, so an event carries its own version where that
matters. A transaction that runs long holds back what committed after it began: ``RelayStatus.held_s`` tells, and the
log warns.

Duplicates: the id of the row is the message's id, and the stream drops a second one within its ``duplicate_window``.
Rows older than that are compared with the last message of their subject first. So the bound is: none within the
window; past it, only where another publisher wrote to the subject meanwhile or the stream has let the message go, and
then at most the one batch that was under way. A consumer that notes messages in its inbox (``plane.inbox``) handles
even those once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

from holdfast import points
from holdfast.errors import HoldfastError
from holdfast.events.limited import limited
from holdfast.events.outbox import Streams, qualified
from holdfast.events.publish import STEP_S, Publisher, Report
from holdfast.events.wake import Direct, Listener
from holdfast.tasks import end

if TYPE_CHECKING:
    from types import TracebackType

    from nats.aio.client import Client
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pools import Pools

_log = logging.getLogger("holdfast.relay")

_STATEMENT_S = 10.0
#: How often: look from the start again, look for what holds events back, delete what is published.
_RESCAN_S, _WATCH_S, _CLEAN_S = 60.0, 1.0, 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: A stream that takes nothing is tried again after this at the latest; the others go on meanwhile.
_LONGEST_REST_S = 30.0
_STANDBY_POLLS = 10
_CLEAN_ROWS = 5000


class Row(NamedTuple):
    """An event to publish; ``payload`` is JSON as it is stored, ``age_s`` is since it was written."""

    outbox_id: UUID
    xid: str
    position: int
    subject: str
    payload: str
    headers: dict[str, str]
    age_s: float


@dataclass(frozen=True)
class RelayStatus:
    """What a relay does and what waits.

    ``active`` is False where another relay was at work when last asked. ``held`` rows are committed but wait for an
    older transaction, the oldest for ``held_s`` seconds. ``waiting`` counts at most 10,000 rows; ``oldest_s`` is the
    age of the oldest. ``refused`` rows are those that NATS will never take, such as one too large; they stay in the
    table. Counts of messages are since the relay was made.
    """

    active: bool
    woken: bool
    published: int
    duplicates: int
    refused: int
    failures: int
    waiting: int
    oldest_s: float
    held: int
    held_s: float
    stalled: bool


class Relay:
    """Moves events from the outbox to their streams. Any number may run; a lock lets one work at a time.

    It polls at the contract's interval, and where a trigger of the outbox is on, notifications wake it: they need a
    connection to themselves, one of the pool's, or what ``direct`` gives where a pooler is between. ``keep_s``: how
    long published rows stay; ``stall_s``: from when held events are an alarm.
    """

    #: What may be read: nothing at or above the oldest running transaction.
    eligible = "o.xid < pg_snapshot_xmin(pg_current_snapshot())"

    def __init__(
        self,
        pools: Pools,
        client: Client,
        contract: Contract,
        *,
        direct: Direct | None = None,
        batch: int = 500,
        in_flight: int = 128,
        publish_timeout_s: float = 5.0,
        keep_s: float = 3600.0,
        stall_s: float = 5.0,
    ) -> None:
        table = contract.names.outbox_table
        self._table = qualified(table)
        self._lock = int.from_bytes(hashlib.sha256(f"holdfast relay {table}".encode()).digest()[:8], signed=True)
        self._pool = pools.background
        #: What sends a batch; ``holdfast.telemetry`` puts a span around it.
        self.publisher = Publisher(client, contract, Streams.of(contract), in_flight, publish_timeout_s)
        self._poll_s = contract.limits.outbox_poll_interval
        self._batch, self._keep_s, self._stall_s = batch, keep_s, stall_s
        self._woken = asyncio.Event()
        self._listener: Listener | None = None
        if direct is None and not self._pool.spec.is_pooled:
            direct = self._kept
        if direct is not None and "wake_channel" in contract.names:
            self._listener = Listener(direct, contract.names.wake_channel, self.wake, self._is_notified)
        self._cursor: tuple[str, int] | None = None
        self._rescan_at = self._watch_at = self._clean_at = 0.0
        self._active = True
        self._stalled = self._stopping = False
        self._published = self._duplicates = self._failures = 0
        self._refused: set[UUID] = set()
        self._down: set[str] = set()
        self._rest_s, self._retry_at = _FIRST_PAUSE_S, 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Run in the background until ``stop``."""
        if self._tasks:
            return
        self._stopping = False
        self._tasks.append(asyncio.create_task(self.run(), name="holdfast relay"))
        if self._listener:
            self._tasks.append(asyncio.create_task(self._listener.run(), name="holdfast relay listener"))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the batch at hand and end. After ``timeout_s`` it is cut off; it is then published again later."""
        self._stopping = True
        self.wake()
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.wait(tasks[:1], timeout=timeout_s)
        await end(*tasks)

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    def committed(self) -> None:
        """Events may have been committed in this process: look now, unless another relay is at work."""
        if self._active:
            self.wake()

    async def run(self) -> None:
        """Publish until stopped or cancelled; failures are waited out and tried again."""
        pause = _FIRST_PAUSE_S
        while not self._stopping:
            self._woken.clear()
            began = time.monotonic()
            try:
                moved = await self.step()
                await self._look_after()
            except Exception as error:  # a fault of ours must not keep everybody's events back for good
                self._failures += 1
                self._cursor = None
                is_known = isinstance(error, HoldfastError)
                _log.warning("the relay could not go on and tries again: %s", error, exc_info=not is_known)
                await self._rest_for(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            if moved < self._batch:
                # In step with the clock, so that work does not add to the wait.
                period = self._poll_s if self._active else self._poll_s * _STANDBY_POLLS
                await self._sleep(max(began + period - time.monotonic(), period / 4))

    async def step(self) -> int:
        """Publish one batch. Returns how many rows were settled; 0 also where another relay works.

        Raises ConnectionFailed, OperationTimeout and what the database raises; everything is then still there.
        """
        now = time.monotonic()
        if now >= self._rescan_at or (self._down and now >= self._retry_at):
            self._cursor, self._rescan_at = None, now + _RESCAN_S
            self._down.clear()
        async with limited(STEP_S, "the outbox"), self._pool.connection() as connection:
            if not await self._anything(connection):
                return 0
            async with connection.transaction():
                if not await self._lead(connection):
                    return 0
                if self._cursor is None:
                    await self._adopt(connection)
                rows = await self._read(connection)
                points.reach("relay.read")
                report = await self.publisher.publish(rows, self._down)
                points.reach("relay.published")
                await self._mark(connection, report)
                points.reach("relay.marked")
            points.reach("relay.committed")
        return self._settle(rows, report)

    async def status(self) -> RelayStatus:
        """What waits and what was done. Raises what the database raises."""
        async with limited(_STATEMENT_S, "the outbox"), self._pool.connection() as connection:
            waiting, oldest, held, held_s = await self._waiting(connection)
        return RelayStatus(
            active=self._active,
            woken=bool(self._listener and self._listener.works),
            published=self._published,
            duplicates=self._duplicates,
            refused=len(self._refused),
            failures=self._failures,
            waiting=waiting,
            oldest_s=oldest,
            held=held,
            held_s=held_s,
            stalled=held_s > self._stall_s,
        )

    async def clean_up(self) -> int:
        """Delete published rows that are older than ``keep_s``, some thousands at most. Returns how many."""
        async with limited(_STATEMENT_S, "the outbox"), self._pool.connection() as connection:
            cursor = await connection.execute(
                f"""DELETE FROM {self._table} AS o USING (
                      SELECT outbox_id FROM {self._table} WHERE published_at < now() - make_interval(secs => %s)
                       ORDER BY published_at LIMIT %s FOR UPDATE SKIP LOCKED) AS old
                     WHERE o.outbox_id = old.outbox_id""",
                [self._keep_s, _CLEAN_ROWS],
            )
            return int(cursor.rowcount)

    # One batch ---------------------------------------------------------------------------------------------

    def _pending(self) -> tuple[str, list[Any]]:
        """The rows to publish: a condition on ``o`` and its parameters."""
        condition = f"o.published_at IS NULL AND {self.eligible}"
        if self._cursor is None:
            return condition, []
        return f"{condition} AND (o.xid, o.position) > (%s::xid8, %s)", list(self._cursor)

    async def _anything(self, connection: AsyncConnection[Any]) -> bool:
        condition, values = self._pending()
        if self._cursor is None:
            # Foreign rows, see _adopt, are below no line.
            condition = "o.published_at IS NULL"
        async with asyncio.timeout(_STATEMENT_S):
            cursor = await connection.execute(
                f"SELECT EXISTS (SELECT FROM {self._table} AS o WHERE {condition})", values
            )
            row = await cursor.fetchone()
        return bool(row and row[0])

    async def _lead(self, connection: AsyncConnection[Any]) -> bool:
        # Ends with the transaction, so it is never left behind in a pooled session. Its own statement: the rows are
        # then read with a snapshot taken after the former relay's commit.
        async with asyncio.timeout(_STATEMENT_S):
            cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [self._lock])
            row = await cursor.fetchone()
        self._active = bool(row and row[0])
        return self._active

    async def _adopt(self, connection: AsyncConnection[Any]) -> None:
        """Rows that a dump brought from another cluster bear transaction ids that this one has not reached."""
        async with asyncio.timeout(_STATEMENT_S):
            await connection.execute(
                f"""UPDATE {self._table} AS o SET xid = '3'::xid8
                     WHERE published_at IS NULL AND xid >= pg_snapshot_xmax(pg_current_snapshot())"""
            )

    async def _read(self, connection: AsyncConnection[Any]) -> list[Row]:
        condition, values = self._pending()
        async with asyncio.timeout(_STATEMENT_S):
            cursor = await connection.execute(
                f"""SELECT o.outbox_id, o.xid::text, o.position, o.subject, o.payload::text, o.headers,
                           extract(epoch FROM clock_timestamp() - o.created_at)::float8
                      FROM {self._table} AS o WHERE {condition} ORDER BY o.xid, o.position LIMIT %s""",
                [*values, self._batch],
            )
            return [Row(*row) for row in await cursor.fetchall()]

    async def _mark(self, connection: AsyncConnection[Any], report: Report) -> None:
        if not report.done:
            return
        async with asyncio.timeout(_STATEMENT_S):
            await connection.execute(
                f"UPDATE {self._table} SET published_at = clock_timestamp() WHERE outbox_id = ANY(%s)", [report.done]
            )

    def _settle(self, rows: Sequence[Row], report: Report) -> int:
        self._published += len(report.done) - report.duplicates
        self._duplicates += report.duplicates
        for outbox_id, reason in report.refused.items():
            if outbox_id not in self._refused:
                _log.error("event %s is not published: %s", outbox_id, reason)
                self._refused.add(outbox_id)
        if report.down and not report.is_reachable:
            # Wait, rather than read everything in vain.
            raise next(iter(report.down.values()))
        if report.down:
            self._rest(report.down)
        elif not self._down:
            self._rest_s = _FIRST_PAUSE_S
        if rows:
            self._cursor = (rows[-1].xid, rows[-1].position)
        return len(rows)

    def _rest(self, down: Mapping[str, HoldfastError]) -> None:
        """Leave streams alone for a while: their rows stay where they are, and those of other streams go on."""
        for stream, error in down.items():
            _log.warning("events for stream %s wait: %s", stream, error)
        self._failures += 1
        self._down |= set(down)
        self._retry_at = time.monotonic() + self._rest_s
        self._rest_s = min(self._rest_s * 2, _LONGEST_REST_S)

    # Beside the batches ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._pool.connection(keeps=True) as connection:
            yield connection

    async def _is_notified(self) -> bool:
        async with limited(_STATEMENT_S, "the outbox"), self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = pg_catalog.to_regclass(%s)"
                " AND NOT tgisinternal AND tgenabled IN ('O', 'A'))",
                [self._table],
            )
            row = await cursor.fetchone()
        return bool(row and row[0])

    async def _rest_for(self, seconds: float) -> None:
        """Wait out a failure, whatever is committed meanwhile; only ``stop`` ends it before its time."""
        until = time.monotonic() + seconds
        while not self._stopping and (left_s := until - time.monotonic()) > 0:
            self._woken.clear()
            await self._sleep(left_s)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now >= self._watch_at:
            self._watch_at = now + _WATCH_S
            async with limited(_STATEMENT_S, "the outbox"), self._pool.connection() as connection:
                held_s = (await self._waiting(connection))[3]
            if held_s > self._stall_s and not self._stalled:
                _log.warning("events wait %.0f s for a transaction that began before theirs ended", held_s)
            self._stalled = held_s > self._stall_s
        if self._active and now >= self._clean_at:
            self._clean_at = now + _CLEAN_S
            await self.clean_up()

    async def _waiting(self, connection: AsyncConnection[Any]) -> tuple[int, float, int, float]:
        cursor = await connection.execute(
            f"""SELECT count(*), coalesce(max(age), 0), count(*) FILTER (WHERE held),
                       coalesce(max(age) FILTER (WHERE held), 0)
                  FROM (SELECT extract(epoch FROM clock_timestamp() - o.created_at)::float8 AS age,
                               o.xid >= pg_snapshot_xmin(pg_current_snapshot()) AS held
                          FROM {self._table} AS o WHERE o.published_at IS NULL
                         ORDER BY o.xid, o.position LIMIT 10000) AS waiting"""
        )
        row = await cursor.fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3]
