"""Transactions: isolation, limits and retries by what they are for, and no doubt about whether they took effect.

A commit whose connection breaks leaves open whether it happened. ``pg_xact_status`` cannot tell after a crash, for the
number of a transaction may then be given anew. So a transaction that must not happen twice writes a marker of its own
into the inbox table; the next attempt writes the same marker, waits for the old one by its unique index, and finds out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import uuid4

import psycopg
from psycopg import IsolationLevel, sql

from holdfast import retry as retrying
from holdfast.errors import (
    HoldfastError,
    OperationTimeout,
    OutcomeUnknown,
    RetriesExhausted,
    TransactionFailed,
    ValidationFailed,
)
from holdfast.points import reach
from holdfast.retry import Retry
from holdfast.sql.connection import GRACE_S, Connection
from holdfast.sql.failures import is_lost
from holdfast.sql.pool import Pool

T = TypeVar("T")
_LOG = logging.getLogger("holdfast.transactions")
#: The consumer under which markers stand in the inbox table.
MARKERS: Final = "holdfast.transactions"
_MARKERS_KEPT: Final = 100

Work = Callable[[Connection], Awaitable[T]]


class Isolation(StrEnum):
    """PostgreSQL runs READ_UNCOMMITTED as READ_COMMITTED; it is taken, and is not faster."""

    READ_UNCOMMITTED = "read uncommitted"
    READ_COMMITTED = "read committed"
    REPEATABLE_READ = "repeatable read"
    SERIALIZABLE = "serializable"


class Boundary(StrEnum):
    """What a transaction is part of."""

    SINGLE_OPERATION = "single_operation"
    AGENT_TASK = "agent_task"
    CROSS_SYSTEM = "cross_system"
    DISTRIBUTED_SAGA = "distributed_saga"


class Status(StrEnum):
    """How a transaction ended."""

    SUCCESS = "success"
    VALIDATION_FAILED = "validation_failed"
    PERMANENT_FAILURE = "permanent_failure"
    UNKNOWN_FAILURE = "unknown_failure"


class Validate(Protocol):
    """A last look before the commit: gives sentences about what is wrong."""

    def __call__(self, connection: Connection, /) -> Awaitable[Sequence[str]]: ...


@dataclass(frozen=True)
class TransactionContext:
    """How to run a transaction.

    ``isolation`` None chooses by ``boundary``, ``writes`` and ``shared_state``. ``timeout_s`` bounds one attempt up to
    its commit, and each of its statements. ``compensation``: what to await, last first, when the transaction failed
    for good, and not when it was cancelled or its outcome is unknown; for what must survive a crash there are sagas.
    ``once`` says whether a commit in doubt is found out, by default for all but single operations; without it such a
    commit raises OutcomeUnknown.
    """

    boundary: Boundary = Boundary.SINGLE_OPERATION
    isolation: Isolation | None = None
    timeout_s: float = 30.0
    retry: Retry = field(default_factory=Retry)
    writes: bool = True
    shared_state: bool = False
    validate: Validate | None = None
    compensation: tuple[Callable[[], Awaitable[None]], ...] = ()
    correlation_id: str | None = None
    agent_id: str | None = None
    once: bool | None = None

    @property
    def is_once(self) -> bool:
        return self.boundary is not Boundary.SINGLE_OPERATION if self.once is None else self.once


SINGLE: Final = TransactionContext()


@dataclass(frozen=True)
class TransactionResult(Generic[T]):
    """The outcome where a failure is to be data: ``value`` after success, else ``error`` and its ``problems``."""

    status: Status
    value: T | None = None
    error: HoldfastError | None = None
    problems: tuple[str, ...] = ()


def choose_isolation(context: TransactionContext) -> Isolation:
    """What was asked for; else the strictest level that the work needs."""
    if context.isolation is not None:
        return context.isolation
    if context.boundary is Boundary.CROSS_SYSTEM and context.shared_state:
        return Isolation.SERIALIZABLE
    return Isolation.REPEATABLE_READ if context.writes and context.shared_state else Isolation.READ_COMMITTED


#: Idle time inside a transaction; log_statement, which the sources set too, is for superusers only.
_IDLE: Final = {Boundary.AGENT_TASK: "60s", Boundary.CROSS_SYSTEM: "30s", Boundary.DISTRIBUTED_SAGA: "120s"}


def settings_of(context: TransactionContext, server_version: int) -> dict[str, str]:
    """The settings for one transaction. ``server_version`` as libpq gives it, such as 180004."""
    milliseconds = f"{max(1, round(context.timeout_s * 1000))}ms"
    found = {"statement_timeout": milliseconds}
    if server_version >= 170000:
        found["transaction_timeout"] = milliseconds
    if context.boundary in _IDLE:
        found["idle_in_transaction_session_timeout"] = _IDLE[context.boundary]
    if context.boundary is Boundary.AGENT_TASK and context.agent_id:
        found["application_name"] = f"agent_{context.agent_id}"[:63]
    if context.boundary in {Boundary.CROSS_SYSTEM, Boundary.DISTRIBUTED_SAGA}:
        found["synchronous_commit"] = "on"
    return found


class Transactions:
    """Runs transactions on one pool. ``marker_table`` is the plane's inbox table; without it nothing is found out."""

    def __init__(self, pool: Pool, *, marker_table: str | None = None) -> None:
        self.pool = pool
        self._table = None if marker_table is None else sql.Identifier(*marker_table.split("."))
        self._spent: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Work[T], context: TransactionContext = SINGLE) -> T:
        """Await ``work(connection)`` in a transaction and commit; all of it again where that may help.

        ``work`` must have no effects but through the connection, for it may run several times. It says by raising
        VersionConflict that it wants to start over. Raises HoldfastError, and what else ``work`` raises as it is.
        """
        attempts = _Attempts(self.pool, self._table if context.is_once else None, work, context)
        try:
            value: T = await retrying.call(attempts.once, retry=context.retry)
        except OutcomeUnknown:
            raise
        except HoldfastError as error:
            if attempts.is_in_doubt:
                raise OutcomeUnknown(_UNKNOWN, driver_error=error.driver_error) from None
            await _compensate(context, error)
            raise
        if attempts.is_marked:
            self._spend(attempts.marker)
        return value

    async def attempt(self, work: Work[T], context: TransactionContext = SINGLE) -> TransactionResult[T]:
        """The same, with the outcome as a value."""
        try:
            return TransactionResult(Status.SUCCESS, value=await self.run(work, context))
        except ValidationFailed as error:
            return TransactionResult(Status.VALIDATION_FAILED, error=error, problems=error.problems)
        except HoldfastError as error:
            return TransactionResult(_status_of(error), error=error)

    def _spend(self, marker: str) -> None:
        """Delete markers that nobody will ask for any more, many at once and beside the work."""
        self._spent.append(marker)
        if len(self._spent) >= _MARKERS_KEPT:
            spent, self._spent = self._spent, []
            task = asyncio.create_task(self._delete(spent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _delete(self, markers: list[str]) -> None:
        assert self._table is not None
        query = sql.SQL("DELETE FROM {} WHERE consumer = %s AND message_id = ANY(%s)").format(self._table)
        try:
            async with self.pool.connection() as connection:
                await connection.execute(query, [MARKERS, markers])
        except HoldfastError as error:
            _LOG.info("%d spent markers stay in the inbox table: %s", len(markers), error)

    async def close(self) -> None:
        """Delete the markers that are left."""
        if self._spent:
            spent, self._spent = self._spent, []
            await self._delete(spent)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)


class _Attempts(Generic[T]):
    """The attempts at one transaction, and what they leave for the next one to know."""

    def __init__(self, pool: Pool, table: sql.Identifier | None, work: Work[T], context: TransactionContext) -> None:
        self._pool, self._work, self._context = pool, work, context
        self._mark = None if table is None else sql.SQL(_MARK).format(table)
        self.marker = str(uuid4())
        #: The value of an attempt whose commit may have happened; at most one can.
        self._doubtful: list[T] = []

    @property
    def is_marked(self) -> bool:
        return self._mark is not None

    @property
    def _is_as_the_session(self) -> bool:
        """Whether the limits of the pool's sessions are those that were asked for; our own timer holds in any case."""
        is_plain = self._context.boundary is Boundary.SINGLE_OPERATION and not self._pool.spec.pgbouncer
        return is_plain and self._context.timeout_s == self._pool.spec.statement_timeout

    @property
    def is_in_doubt(self) -> bool:
        return bool(self._doubtful)

    async def once(self) -> T:
        """One attempt. Errors of the driver leave it translated."""
        context = self._context
        limit_s = min(context.timeout_s, self._pool.spec.acquire_timeout)
        async with self._pool.connection(limit_s) as connection:
            connection.limit_s = context.timeout_s + GRACE_S
            await connection.set_isolation_level(_LEVELS[choose_isolation(context)])
            transaction = connection.transaction()
            await transaction.__aenter__()
            deadline = asyncio.timeout(context.timeout_s)
            try:
                async with deadline:
                    value = await self._do(connection)
            except BaseException as error:
                await transaction.__aexit__(*sys.exc_info())
                if isinstance(error, TimeoutError) and deadline.expired():  # else it is the work's own
                    raise OperationTimeout(f"the transaction took longer than {context.timeout_s:g} s") from None
                raise
            reach("transaction.done")
            await self._commit(connection, transaction, value)
            reach("transaction.committed")
            await connection.set_isolation_level(None)
            return value

    async def _do(self, connection: Connection) -> T:
        if not self._is_as_the_session:
            settings = settings_of(self._context, connection.info.server_version)
            await connection.execute(_SET, [list(settings), list(settings.values())])
        if self._mark is not None:
            # Waits until an earlier attempt has ended; finding its marker means that it was committed.
            cursor = await connection.execute(self._mark, [MARKERS, self.marker])
            if cursor.rowcount == 0 and self._doubtful:
                return self._doubtful[-1]
            self._doubtful.clear()
        value = await self._work(connection)
        if self._context.validate is not None:
            problems = tuple(await self._context.validate(connection))
            if problems:
                raise ValidationFailed(f"{len(problems)} problems were found before the commit", problems=problems)
        return value

    async def _commit(self, connection: Connection, transaction: Any, value: T) -> None:
        """Commit, and note the outcome also where somebody cancels the wait for it."""
        task = asyncio.ensure_future(transaction.__aexit__(None, None, None))
        try:
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait({task})
                raise
        except psycopg.Error as error:
            if connection.was_cut or is_lost(error):
                self._doubtful = [value]
                if not self.is_marked:
                    raise OutcomeUnknown(_UNKNOWN, driver_error=error) from None
            raise


_UNKNOWN: Final = "the connection was lost during a commit; whether it took effect is unknown"
_SET: Final = "SELECT set_config(s.name, s.value, true) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
_MARK: Final = "INSERT INTO {} (consumer, message_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_LEVELS: Final = {
    Isolation.READ_UNCOMMITTED: IsolationLevel.READ_UNCOMMITTED,
    Isolation.READ_COMMITTED: IsolationLevel.READ_COMMITTED,
    Isolation.REPEATABLE_READ: IsolationLevel.REPEATABLE_READ,
    Isolation.SERIALIZABLE: IsolationLevel.SERIALIZABLE,
}


async def _compensate(context: TransactionContext, cause: BaseException) -> None:
    """Undo what the caller did beside the transaction. What fails is logged, and the others are still done."""
    for action in reversed(context.compensation):
        try:
            await action()
        except Exception:
            _LOG.exception("a compensation failed after %s", type(cause).__name__)


def _status_of(error: HoldfastError) -> Status:
    """Permanent is what the same call cannot change: the data, the plane, the rights."""
    is_open = isinstance(error, (RetriesExhausted, OutcomeUnknown)) or type(error) is TransactionFailed
    return Status.UNKNOWN_FAILURE if error.retryable or is_open else Status.PERMANENT_FAILURE
