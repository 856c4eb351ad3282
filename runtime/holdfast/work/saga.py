"""Work over buckets and database as a saga: each step journalled before it happens, undone in reverse where one fails.

The steps on keys come first, then all changes of rows in one transaction, which also notes that the saga is completed:
its commit is the decision, and an event travels with it. With ``in_order`` steps stay as they are given, and rows
changed before a later step are undone by what the journal kept of them.

A crash at any point leaves a journal from which ``holdfast.work.recoverer`` finishes or undoes the saga.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from holdfast import points
from holdfast.errors import ConfigurationError, ConnectionFailed, Fenced, HoldfastError, VersionConflict
from holdfast.events.limited import limited
from holdfast.events.outbox import Outbox
from holdfast.tasks import end
from holdfast.work import keys, rows
from holdfast.work.journal import Journal, Noted, Saga, is_decided
from holdfast.work.result import Outcome, Result, Strategy
from holdfast.work.steps import Emit, KvStep, Step, check

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool

_STATEMENT_S, _TRANSACTION_S = 15.0, 30.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_RACES = 4
T = TypeVar("T")


class Sagas:
    """Runs sagas. ``pool`` reaches the primary database, ``stores`` gives what holds the key of a step.

    ``running`` are those of this process.
    """

    def __init__(
        self,
        pool: Pool,
        stores: keys.Stores,
        contract: Contract,
    ) -> None:
        self._pool, self._stores = pool, stores
        self._journal, self._outbox = Journal(contract), Outbox(contract)
        self._limits = contract.limits
        self.running: set[asyncio.Task[Result]] = set()

    async def run(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        strategy: Strategy = Strategy.SAGA_PATTERN,
        correlation_id: UUID | None = None,
        timeout_s: float | None = None,
        context: Mapping[str, Any] | None = None,
        in_order: bool = False,
    ) -> Result:
        """Do all of it or none, and say which. A caller that is cancelled leaves it running to its end.

        ``timeout_s`` is None for the contract's ``saga_timeout``. Raises ConfigurationError and CodecError for steps
        that cannot be journalled and events that the outbox refuses; every other failure is a result.
        """
        check(steps)
        saga = Saga(
            saga_id=uuid4(),
            correlation_id=correlation_id or uuid4(),
            name=name,
            state="running",
            strategy=strategy,
            epoch=1,
            left_s=self._limits.saga_timeout if timeout_s is None else timeout_s,
            steps=tuple(Noted(n, "planned", step) for n, step in enumerate(_ordered(steps, strategy, in_order))),
        )
        self._outbox.check(step.event(str(saga.correlation_id)) for step in steps if isinstance(step, Emit))
        try:
            async with self._connection() as connection:
                await self._journal.begin(connection, saga, context or {})
        except HoldfastError as error:
            # Where the commit got through after all, the recoverer finds a saga of which nothing is done.
            return _result(saga, Outcome.SAGA_FAILED, f"the saga could not be journalled: {error}")
        points.reach("saga.journalled")
        return await self.resume(saga)

    async def resume(self, saga: Saga) -> Result:
        """Go on with a saga that is in the journal: forward while its time and its attempts last."""
        task = asyncio.create_task(self._drive(saga), name=f"holdfast saga {saga.name}")
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return await asyncio.shield(task)

    # To the end -------------------------------------------------------------------------------------------

    async def _drive(self, saga: Saga) -> Result:
        beat = asyncio.create_task(self._beat(saga))
        try:
            decided = is_decided(saga)
            in_time = saga.left_s > 0 and saga.epoch <= self._limits.max_attempts
            if saga.state == "running" and (decided or in_time):
                try:
                    async with limited(
                        max(saga.left_s, self._limits.compensation_timeout if decided else 0.001), "the saga"
                    ):
                        return await self._forward(saga)
                except Fenced as error:
                    return _result(saga, Outcome.SAGA_FAILED, str(error))
                except HoldfastError as error:
                    reason = str(error)
            else:
                reason = saga.reason or "it was not finished in time"
            return await self._backward(saga, reason)
        finally:
            await end(beat)

    async def _forward(self, saga: Saga) -> Result:
        groups = [
            (is_key, list(group)) for is_key, group in groupby(saga.steps, lambda noted: isinstance(noted.step, KvStep))
        ]
        for place, (is_key, group) in enumerate(groups):
            is_last = place == len(groups) - 1
            if not is_key:
                await self._change_rows(saga, [noted.number for noted in group], is_last)
                continue
            if saga.strategy is Strategy.EVENTUAL_CONSISTENCY:
                async with self._connection() as connection:
                    saga = replace(saga, decided_ns=await self._journal.decided_ns(connection, saga))
            for noted in group:
                if noted.state != "done":
                    saga = await self._write_key(saga, noted)
        if groups[-1][0]:
            async with self._connection() as connection:
                await self._journal.finish(connection, saga, "completed")
        points.reach("saga.finished")
        return _result(saga, Outcome.SUCCESS)

    async def _backward(self, saga: Saga, reason: str) -> Result:
        """Undo in reverse, several times over while servers are away; what stays open is the recoverer's."""
        last: HoldfastError | None = None
        for attempt in range(self._limits.max_attempts):
            if attempt:
                await asyncio.sleep(_pause(attempt))
            try:
                async with limited(self._limits.compensation_timeout, "the compensation"):
                    return await self._undo(saga, reason)
            except Fenced as error:
                return _result(saga, Outcome.SAGA_FAILED, str(error))
            except HoldfastError as error:
                last = error
        return _result(saga, Outcome.SAGA_FAILED, f"{reason}; it is not undone yet: {last}")

    async def _undo(self, saga: Saga, reason: str) -> Result:
        async with self._connection() as connection:
            saga = await self._journal.compensate(connection, saga, reason)
        points.reach("saga.compensating")
        if saga.state == "completed":
            return _result(saga, Outcome.SUCCESS)
        if saga.state == "running":
            # Eventual, and decided: the keys that are left follow.
            pending = sum(noted.state != "done" for noted in saga.steps)
            return _result(saga, Outcome.SUCCESS, reason, pending=pending)
        errors: list[str] = []
        for noted in reversed(saga.steps):
            if noted.state == "undone" or (noted.state != "done" and noted.prior is None):
                continue
            try:
                await self._undo_step(saga, noted)
            except (Fenced, ConnectionFailed):
                raise
            except HoldfastError as error:
                if error.retryable and not isinstance(error, VersionConflict):
                    raise
                # Trying again would not help, and what came before this step can still be undone.
                errors.append(str(error))
        async with self._connection() as connection:
            if errors:
                await self._journal.finish(connection, saga, "compensation_failed", f"{reason}; {'; '.join(errors)}")
            else:
                await self._journal.finish(connection, saga, "rolled_back", reason)
        points.reach("saga.finished")
        outcome = Outcome.COMPENSATION_FAILED if errors else Outcome.ROLLED_BACK
        return _result(saga, outcome, reason, errors=errors)

    # One step ---------------------------------------------------------------------------------------------

    async def _write_key(self, saga: Saga, noted: Noted) -> Saga:
        step = noted.step
        assert isinstance(step, KvStep)
        async with self._stores(step) as store:
            return await self._write_to(store, saga, noted)

    async def _write_to(self, store: keys.KeyStore, saga: Saga, noted: Noted) -> Saga:
        step = noted.step
        assert isinstance(step, KvStep)
        eventual = saga.strategy is Strategy.EVENTUAL_CONSISTENCY
        is_resumed = noted.prior is not None
        if not is_resumed:
            # Once rows have decided, nothing is expected of the keys any more.
            races = _RACES if eventual else 1
            prior = await _again(lambda: keys.prior(store, step, self._ask, expects=not eventual), 2, races=races)
            async with self._connection() as connection:
                await self._journal.note_prior(connection, saga, noted.number, prior)
            noted = replace(noted, prior=prior)
            points.reach("saga.prior")
        if eventual:
            await self._follow(store, saga, noted)
        else:
            await self._write_once(store, saga, noted, is_resumed)
        points.reach("saga.written")
        async with self._connection() as connection:
            await self._journal.mark(connection, saga, noted.number, "done")
        points.reach("saga.done")
        return saga.with_step(replace(noted, state="done"))

    async def _follow(self, store: keys.KeyStore, saga: Saga, noted: Noted) -> None:
        """Write a key after its rows, unless a later decision did so before this one came to look."""
        step, before = noted.step, noted.prior
        assert isinstance(step, KvStep)
        assert before is not None
        stamp = keys.Stamp.of(str(saga.saga_id), noted.number, saga.decided_ns, str(saga.correlation_id))
        if before.order is None or before.order < stamp.order:
            await _again(lambda: keys.follow(store, step, stamp, before.position, self._ask), 2)

    async def _write_once(self, store: keys.KeyStore, saga: Saga, noted: Noted, is_unknown: bool) -> None:
        """Write, with one more try; a write that seemed lost is recognised by its header.

        ``is_unknown``: an earlier attempt may have written. A conflict then says nothing about it, and undoing decides.
        """
        for is_last in (False, True):
            try:
                await keys.apply(store, saga, noted)
                return
            except VersionConflict:
                if not is_unknown:
                    async with self._connection() as connection:
                        await self._journal.mark(
                            connection, saga, noted.number, "failed", error="somebody else was first"
                        )
                raise
            except HoldfastError as error:
                if is_last or not error.retryable:
                    raise
                is_unknown = True
                await asyncio.sleep(_pause(1))

    async def _change_rows(self, saga: Saga, numbers: Sequence[int], is_last: bool) -> None:
        """Make the changes of a group in one transaction; those of the last group complete the saga with it."""

        async def once() -> None:
            async with self._connection(_TRANSACTION_S) as connection, connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                state = await self._journal.hold(connection, saga)
                if state == "completed":
                    return
                if state != "running":
                    raise Fenced(f"the saga {saga.name} is being undone")
                await self._group(connection, saga, numbers, is_last)
                points.reach("saga.rows")

        # The transaction that an interrupted attempt may have left behind holds the saga's row until it has ended;
        # whoever comes next then sees what it did.
        await _again(once, self._limits.max_attempts)
        points.reach("saga.committed")

    async def _group(self, connection: AsyncConnection[Any], saga: Saga, numbers: Sequence[int], is_last: bool) -> None:
        if is_last:
            await self._check_keys(saga)
        for noted in await self._journal.read_steps(connection, saga.saga_id):
            if noted.number not in numbers or noted.state == "done":
                continue
            undo: str | None = None
            if isinstance(noted.step, Emit):
                await self._outbox.add_many(connection, [noted.step.event(str(saga.correlation_id))])
            else:
                assert not isinstance(noted.step, KvStep)
                undo = await rows.apply(connection, noted.step)
            await self._journal.note_done(connection, saga, noted.number, undo)
        if is_last:
            await self._journal.finish(connection, saga, "completed")
        elif saga.strategy is Strategy.EVENTUAL_CONSISTENCY:
            await self._journal.note_decision(connection, saga)

    async def _check_keys(self, saga: Saga) -> None:
        """Before the decision: what was written is still there."""
        for noted in saga.steps:
            if isinstance(noted.step, KvStep) and noted.state == "done":
                async with self._stores(noted.step, writes=False) as store:
                    if not await keys.is_ours(store, saga, noted):
                        raise VersionConflict(f"the key {noted.step.key} was changed before the saga was completed")

    async def _undo_step(self, saga: Saga, noted: Noted) -> None:
        if isinstance(noted.step, KvStep):
            if noted.state != "failed":
                async with self._stores(noted.step) as store:
                    await keys.undo(store, saga, noted)
                points.reach("saga.restored")
            async with self._connection() as connection:
                await self._journal.mark(connection, saga, noted.number, "undone")
        elif noted.undo is not None and not isinstance(noted.step, Emit):
            async with self._connection(_TRANSACTION_S) as connection, connection.transaction():
                await rows.undo(connection, noted.step.table, noted.undo)
                await self._journal.mark(connection, saga, noted.number, "undone")
        points.reach("saga.undone")

    # Beside the steps --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self, seconds: float = _STATEMENT_S) -> AsyncIterator[AsyncConnection[Any]]:
        async with limited(seconds, "the database"), self._pool.connection() as connection:
            yield connection

    async def _ask(self, saga_id: UUID) -> tuple[bool, int | None]:
        async with self._connection() as connection:
            return await self._journal.outcome(connection, saga_id)

    async def _beat(self, saga: Saga) -> None:
        """Show that the saga is worked on, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.lease_ttl / 3)
            with contextlib.suppress(HoldfastError):
                async with self._connection() as connection:
                    if not await self._journal.touch(connection, saga):
                        return


def _ordered(steps: Sequence[Step], strategy: Strategy, in_order: bool) -> list[Step]:
    """Keys before rows; with eventual consistency rows before keys. Raises ConfigurationError."""
    on_keys = sorted((step for step in steps if isinstance(step, KvStep)), key=keys.place)
    on_rows = [step for step in steps if not isinstance(step, KvStep)]
    if strategy is Strategy.EVENTUAL_CONSISTENCY:
        if in_order or not on_rows:
            raise ConfigurationError("eventual consistency needs changes of rows, which come first and decide")
        return on_rows + on_keys
    ordered = list(steps) if in_order else on_keys + on_rows
    last_key = max((place for place, step in enumerate(ordered) if isinstance(step, KvStep)), default=-1)
    if any(isinstance(step, Emit) for step in ordered[: last_key + 1]):
        raise ConfigurationError("an event cannot be undone: it comes after the last key")
    return ordered


async def _again(work: Callable[[], Coroutine[Any, Any, T]], attempts: int, *, races: int = 1) -> T:
    """Try what may be tried again; a conflict only ``races`` times, since reading again may change the answer."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await work()
        except VersionConflict:
            if attempt >= races:
                raise
        except HoldfastError as error:
            if not error.retryable or attempt >= attempts:
                raise
        await asyncio.sleep(_pause(attempt))


def _pause(attempt: int) -> float:
    return random.uniform(0.5, 1.0) * min(_PAUSE_S * 2.0**attempt, _LONGEST_PAUSE_S)  # noqa: S311 - jitter


def _result(
    saga: Saga, outcome: Outcome, reason: str | None = None, *, errors: Sequence[str] = (), pending: int = 0
) -> Result:
    return Result(outcome, str(saga.saga_id), str(saga.correlation_id), reason, tuple(errors), pending)
