"""One pool of connections that fails fast, recovers by itself and tells who does not give back.

psycopg_pool is not used: its ``getconn`` sleeps for a second after each broken connection, does not tell waiters that
the server refuses connections until their time is up, and doubles its pauses to minutes after an outage
(psycopg-pool 3.3, pool_async.py). A failover is to take as long as the promotion.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from holdfast.contract import PoolSpec
from holdfast.errors import (
    CircuitOpen,
    ConnectionFailed,
    HoldfastError,
    OperationTimeout,
    PoolExhausted,
    TransactionFailed,
)
from holdfast.sql import metrics
from holdfast.sql.breaker import Breaker
from holdfast.sql.connection import Connection
from holdfast.sql.failures import READ_ONLY, is_lost, sqlstate_of, translate
from holdfast.sql.metrics import Health, PoolMetrics, Window
from holdfast.sql.primary import Standing, standing_of
from holdfast.sql.sources import Source, limit_of

_LOG = logging.getLogger("holdfast.pools")
#: A connection that worked so short a time ago is not tested again.
_FRESH_S = 0.1
_TEST_S = 2.0
#: A connection in use for longer is told as a leak, unless its user said that it keeps it.
LEAK_S = 60.0


@dataclass
class _Use:
    since: float
    place: str
    keeps: bool
    is_told: bool = False


class Pool:
    """Connections of one login to one kind of server. For one event loop; ``Pools`` opens and closes it."""

    def __init__(self, name: str, spec: PoolSpec, source: Source, *, breaker: Breaker | None = None) -> None:
        self.name, self.spec, self.source = name, spec, source
        self.breaker = breaker or Breaker()
        self.leak_s = LEAK_S
        #: What the last health check found; None before the first and after a new connection.
        self.standing: Standing | None = None
        self.health = Health(name, True, None, 0, 0)
        self.lag_s: float | None = None
        #: Called when a connection comes back whose user wrote to the outbox; by then that is committed or gone.
        self.on_events: Callable[[], None] = lambda: None
        self._idle: deque[Connection] = deque()
        self._uses: dict[Connection, _Use] = {}
        self._permits = asyncio.Semaphore(spec.max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._suspect_at = 0.0
        self._floor = spec.min
        self._connecting = self._pending = self._peak = self._waited = 0
        self._errors = self._leaks = self._slow = 0
        self._waits, self._dials, self._checks = Window(), Window(), Window()
        self._checked_at: float | None = None

    # For users ---------------------------------------------------------------------------------------------

    def connection(self, timeout_s: float | None = None, *, keeps: bool = False) -> Borrowed:
        """Borrow a connection in autocommit: ``async with pool.connection() as connection``.

        ``timeout_s`` bounds the wait for it, the plane's acquire_timeout unless given; ``keeps`` says that it will be
        held for long. Errors of the driver inside the block leave it translated. Raises PoolExhausted, CircuitOpen,
        ConnectionFailed, OperationTimeout, ConfigurationError.
        """
        caller = sys._getframe(1)  # noqa: SLF001
        return Borrowed(self, timeout_s, keeps, f"{caller.f_code.co_filename}:{caller.f_lineno}")

    def metrics(self) -> PoolMetrics:
        """Figures of this moment."""
        slow = self._slow + sum(connection.slow for connection in (*self._idle, *self._uses))
        return PoolMetrics(
            pool_name=self.name,
            pool_type="postgres",
            total=len(self._idle) + len(self._uses),
            active=len(self._uses),
            idle=len(self._idle),
            connecting=self._connecting,
            pending_acquisitions=self._pending,
            acquisition_time_p95=self._waits.percentile(0.95),
            connection_errors=self._errors,
            connection_error_rate=1.0 - self._dials.mean(1.0),
            health_check_success_rate=self._checks.mean(1.0),
            last_health_check=self._checked_at,
            leaks=self._leaks,
            slow_statements=slow,
            breaker=self.breaker.state,
            times_opened=self.breaker.times_opened,
            lag_s=self.lag_s,
        )

    async def check(self, timeout_s: float = 5.0) -> Health:
        """Ask the server how it is; a success closes the breaker. A pool that is all in use is not asked."""
        error: HoldfastError | None = None
        if not self._permits.locked():
            try:
                async with asyncio.timeout(timeout_s):
                    self.standing = await self._ask()
                self.breaker.succeeded()
            except HoldfastError as failure:
                error = failure
            except TimeoutError:
                error = OperationTimeout("the server did not answer in time")
            self._checks.add(error is None)
            self._checked_at = time.time()
            self.health = Health(self.name, error is None, str(error) if error else None, 0, 0)
        self.health = self.health._replace(active=len(self._uses), idle=len(self._idle))
        return self.health

    async def _ask(self) -> Standing:
        await self._permits.acquire()
        connection: Connection | None = None
        try:
            connection = await self._take()
            connection.limit_s = _TEST_S
            standing = await standing_of(connection)
            connection.seen_at = time.monotonic()
        except psycopg.Error as error:
            self._suspect_at = time.monotonic()
            raise translate(error, was_cut=connection is not None and connection.was_cut) from None
        finally:
            if connection is None:
                self._permits.release()
            else:
                await self._give_back(connection)
        return standing

    # Borrowing ---------------------------------------------------------------------------------------------

    async def acquire(self, timeout_s: float | None, place: str, keeps: bool) -> Connection:
        """For ``Borrowed``."""
        if self._is_closed:
            raise ConnectionFailed("the pool is closed")
        try:
            is_trial = self.breaker.enter()
        except CircuitOpen:
            await asyncio.sleep(0)  # whoever tries again at once must not keep the loop from all others
            raise
        limit_s = self.spec.acquire_timeout if timeout_s is None else timeout_s
        started = time.monotonic()
        try:
            connection = await self._within(limit_s)
        except (ConnectionFailed, OperationTimeout):
            self.breaker.failed(is_trial)
            raise
        except BaseException:
            self.breaker.abandoned(is_trial)
            raise
        if is_trial:
            self.breaker.succeeded()
        self._waits.add(time.monotonic() - started)
        self._uses[connection] = _Use(time.monotonic(), place, keeps)
        self._peak = max(self._peak, len(self._uses))
        return connection

    async def _within(self, limit_s: float) -> Connection:
        if self._idle and not self._permits.locked() and self._is_fresh(self._idle[-1]):
            # Nothing to wait for, and so no timer to set: this acquire does not suspend.
            await self._permits.acquire()
            return self._idle.pop()
        has_permit, connection = False, None
        self._pending += 1
        try:
            async with asyncio.timeout(limit_s):
                if self._permits.locked():
                    self._waited += 1
                await self._permits.acquire()
                has_permit = True
                connection = await self._take()
                return connection
        except TimeoutError:
            if has_permit:
                raise OperationTimeout(f"no connection could be made within {limit_s:g} s") from None
            raise PoolExhausted(f"no connection of pool {self.name} became free within {limit_s:g} s") from None
        finally:
            self._pending -= 1
            if has_permit and connection is None:
                self._permits.release()

    async def _take(self) -> Connection:
        """Give an idle connection that works, or a new one. The caller holds a permit."""
        while self._idle:
            connection = self._idle.pop()
            try:
                if await self._is_usable(connection):
                    return connection
            except BaseException:
                await self._discard(connection)
                raise
            await self._discard(connection)
        return await self._connect()

    async def _connect(self) -> Connection:
        self._connecting += 1
        try:
            connection = await self.source.connect()
        except HoldfastError:
            self._errors += 1
            self._dials.add(0.0)
            raise
        finally:
            self._connecting -= 1
        self._dials.add(1.0)
        return connection

    def _is_current(self, connection: Connection) -> bool:
        is_old = time.monotonic() >= connection.expires_at
        return not (connection.closed or is_old) and self.source.is_current(connection)

    def _is_fresh(self, connection: Connection) -> bool:
        """Whether it may be used without a test."""
        if not self._is_current(connection) or connection.seen_at <= self._suspect_at:
            return False
        return not self.spec.test_before_acquire or time.monotonic() - connection.seen_at < _FRESH_S

    async def _is_usable(self, connection: Connection) -> bool:
        if self._is_fresh(connection):
            return True
        if not self._is_current(connection):
            return False
        now = time.monotonic()
        connection.limit_s = _TEST_S
        try:
            row = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
        except psycopg.Error:
            self._suspect_at = now
            return False
        connection.limit_s, connection.seen_at = limit_of(self.spec), time.monotonic()
        if self.source.writes and row is not None and row[0]:
            await self.source.lost(connection)
            return False
        return True

    async def release(self, connection: Connection, error: BaseException | None) -> HoldfastError | None:
        """For ``Borrowed``: take a connection back, and give the error to raise instead of a driver's."""
        self._uses.pop(connection, None)
        failure = None
        cause = error
        if isinstance(error, HoldfastError) and connection.closed:
            cause = error.driver_error  # Somebody translated it before us.
        if isinstance(cause, psycopg.Error):
            judged = await self._judge(connection, cause)
            failure = judged if cause is error else None
        elif error is None:
            connection.seen_at = time.monotonic()
            self.breaker.succeeded()
        if connection.has_events:
            connection.has_events = False
            self.on_events()
        if self._is_untouched(connection):
            connection.limit_s = limit_of(self.spec)
            self._idle.append(connection)
            self._permits.release()
            return failure
        task = asyncio.create_task(self._give_back(connection))
        self._keep(task)
        # Whoever is cancelled here must not lose the connection: the task goes on.
        await asyncio.shield(task)
        return failure

    def _is_untouched(self, connection: Connection) -> bool:
        """Whether it can be given to the next one as it is."""
        if self._is_closed or self.spec.recycling != "fast" or not self._is_current(connection):
            return False
        if connection.info.transaction_status != TransactionStatus.IDLE or not connection.autocommit:
            return False
        attributes = (connection.isolation_level, connection.read_only, connection.deferrable)
        return attributes == (None, None, None) and connection.row_factory is tuple_row

    async def _judge(self, connection: Connection, error: psycopg.Error) -> HoldfastError:
        """Translate, and draw conclusions about the server."""
        state = sqlstate_of(error)
        if state == READ_ONLY and (not self.source.writes or connection.is_for_reading):
            return TransactionFailed(f"pool {self.name} is for reading (SQLSTATE {state})", sqlstate=state,
                                     driver_error=error)  # fmt: skip
        failure = translate(error, was_cut=connection.was_cut)
        if connection.was_cut or state == READ_ONLY or is_lost(error):
            self._suspect_at = time.monotonic()
            self._errors += 1
            await connection.close()
            if state not in _OURS:
                self.breaker.failed(is_trial=False)
                self._keep(asyncio.create_task(self.source.lost(connection)))
        else:
            connection.seen_at = time.monotonic()
        return failure

    def abandoned(self, connection: Connection) -> None:
        """For ``Borrowed``: nobody gave it back, and nobody can any more."""
        use = self._uses.pop(connection, None)
        self._leaks += 1
        _LOG.warning("pool %s: a connection taken at %s was never given back", self.name, use and use.place)
        connection.pgconn.finish()
        self._permits.release()

    async def _give_back(self, connection: Connection) -> None:
        """Make a connection as good as new or close it, and let the next one in."""
        try:
            if not connection.closed and not self._is_closed:
                await self._restore(connection)
            if self._is_closed or connection.closed or not self.source.is_current(connection):
                await self._discard(connection)
            else:
                self._idle.append(connection)
        except BaseException:
            await self._discard(connection)
            raise
        finally:
            self._permits.release()

    async def _restore(self, connection: Connection) -> None:
        status = connection.info.transaction_status
        connection.limit_s = _TEST_S
        try:
            if status in {TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN}:
                await connection.close()
                return
            if status != TransactionStatus.IDLE:
                await connection.rollback()
            await _forget_attributes(connection)
            if self.spec.recycling == "clean" and not self.spec.is_pooled:
                await connection.execute("DISCARD ALL")
            elif self.spec.recycling == "verified":
                await connection.execute("SELECT 1")
        except psycopg.Error:
            await connection.close()
            return
        connection.row_factory = tuple_row
        connection.limit_s = limit_of(self.spec)

    async def _discard(self, connection: Connection) -> None:
        self._slow += connection.slow
        connection.slow = 0
        await connection.close()

    # Upkeep, once a second by ``Pools`` --------------------------------------------------------------------

    async def maintain(self) -> None:
        """Tell leaks, close what is idle or old, keep the floor open. Never raises errors of servers."""
        self._tell_leaks()
        now = time.monotonic()
        for connection in list(self._idle):
            if connection not in self._idle:
                continue  # Somebody took it while another one was closed.
            is_spare = len(self._idle) + len(self._uses) > self._floor
            has_rested = self.spec.idle_timeout and now - connection.seen_at > self.spec.idle_timeout
            if not self._is_current(connection) or (is_spare and has_rested):
                self._idle.remove(connection)
                await self._discard(connection)
        while (
            len(self._idle) + len(self._uses) < self._floor
            and not (self._permits.locked() or self._is_closed)
            and self.breaker.state == "closed"
            and await self._add()
        ):
            continue

    async def _add(self) -> bool:
        await self._permits.acquire()
        try:
            connection = await self._connect()
            if self._is_closed:
                await self._discard(connection)
            else:
                self._idle.appendleft(connection)
        except HoldfastError as error:
            _LOG.debug("pool %s: %s", self.name, error)
            return False
        finally:
            self._permits.release()
        return True

    def adapt(self) -> int:
        """Choose anew how many connections to keep open, from the load since the last time, inside the bounds."""
        self._floor = metrics.floor(self._floor, self.spec.min, self.spec.max, self._peak, self._waited)
        self._peak, self._waited = len(self._uses), 0
        return self._floor

    def _tell_leaks(self) -> None:
        if not self.spec.leak_detection:
            return
        now = time.monotonic()
        for use in self._uses.values():
            if not use.keeps and not use.is_told and now - use.since > self.leak_s:
                use.is_told = True
                self._leaks += 1
                _LOG.warning(
                    "pool %s: a connection taken at %s is in use for %.0f s", self.name, use.place, now - use.since
                )

    async def close(self) -> None:
        """Close what is idle; connections in use are closed when they come back."""
        self._is_closed = True
        while self._idle:
            await self._discard(self._idle.pop())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_TEST_S)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done, for the loop does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _forget_attributes(connection: Connection) -> None:
    """Undo what a user may have set on the driver's object."""
    if connection.isolation_level is not None:
        await connection.set_isolation_level(None)
    if connection.read_only is not None:
        await connection.set_read_only(None)
    if connection.deferrable is not None:
        await connection.set_deferrable(None)
    if not connection.autocommit:
        await connection.set_autocommit(True)


#: Lost for what its user did or left undone: it says nothing of the server.
_OURS = frozenset({"25P03", "25P04", "57P05"})


class Borrowed:
    """A connection while somebody uses it."""

    __slots__ = ("_connection", "_keeps", "_loop", "_place", "_pool", "_timeout_s")

    def __init__(self, pool: Pool, timeout_s: float | None, keeps: bool, place: str) -> None:
        self._pool, self._timeout_s, self._keeps, self._place = pool, timeout_s, keeps, place
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Connection:
        self._loop = asyncio.get_running_loop()
        self._connection = await self._pool.acquire(self._timeout_s, self._place, self._keeps)
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        failure = await self._pool.release(connection, error)
        if failure is not None:
            raise failure from None

    def __del__(self) -> None:
        connection: Any = self._connection
        if connection is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pool.abandoned, connection)
