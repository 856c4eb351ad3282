"""Finishes or undoes what crashed processes left: sagas nobody works on, and prepared transactions in doubt.

Any number of processes may run one: a saga is claimed by its row, a verdict by its primary key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import CodecError, HoldfastError
from holdfast.events.inbox import Inbox
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified
from holdfast.work.journal import Journal
from holdfast.work.result import Outcome, Result

if TYPE_CHECKING:
    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool
    from holdfast.work.saga import Sagas
    from holdfast.work.two_phase import TwoPhase

_log = logging.getLogger("holdfast.work")
_STATEMENT_S, _MOST, _CLEAN_ROWS = 15.0, 100, 1000
_CLEAN_S = 600.0
_WELL: Final = "state IN ('completed', 'rolled_back') AND updated_at"


class Recoverer:
    """``stale_s`` is how long nobody must have touched a saga before it counts as left; None is the lease's time.

    ``period_s`` is how often ``run`` looks; ``keep_s`` how long journals of finished work stay.
    """

    def __init__(
        self,
        pool: Pool,
        sagas: Sagas,
        contract: Contract,
        *,
        two_phase: TwoPhase | None = None,
        stale_s: float | None = None,
        period_s: float = 5.0,
        keep_s: float = 7 * 86400.0,
    ) -> None:
        self._pool, self._sagas, self._two_phase = pool, sagas, two_phase
        self._journal = Journal(contract)
        self._stale_s = contract.limits.lease_ttl if stale_s is None else stale_s
        self._period_s, self._keep_s = period_s, keep_s
        #: Tables of journals, their keys, and what has ended well in them.
        self._ended = [(qualified(contract.names.saga_table), "saga_id", _WELL)]
        if "decision_table" in contract.names:
            self._ended.append((qualified(contract.names.decision_table), "transaction_id", "finished_at"))
        self._inbox = Inbox(contract, "recoverer", pool) if "inbox_table" in contract.names else None

    async def step(self) -> list[Result]:
        """Settle what is there now. Raises what bucket and database raise; the rest is then still there."""
        results: list[Result] = []
        trouble: Exception | None = None
        if self._two_phase:
            try:
                results += await self._two_phase.recover(self._stale_s)
            except Exception as error:  # sagas need not wait for it
                trouble = error
        results += await self._end_sagas()
        for result in results:
            level = logging.ERROR if result.outcome is Outcome.COMPENSATION_FAILED else logging.INFO
            _log.log(level, "work %s of another process: %s", result.work_id, result.outcome.value)
        if trouble is not None:
            raise trouble
        return results

    async def _end_sagas(self) -> list[Result]:
        results = []
        for _ in range(_MOST):
            try:
                async with limited(_STATEMENT_S, "the journal"), self._pool.connection() as connection:
                    saga = await self._journal.claim(connection, self._stale_s)
            except CodecError as error:
                # It counts as taken up: the next claim gives another, and this one's turn comes again.
                _log.warning("a saga that was left is not finished here: %s", error)
                continue
            if saga is None:
                break
            results.append(await self._sagas.resume(saga))
        return results

    async def clean_up(self) -> int:
        """Forget work that ended well more than ``keep_s`` ago. Returns how many pieces, some thousand at most.

        What could not be undone stays until somebody has looked at it.
        """
        deleted = 0
        async with limited(_STATEMENT_S, "the journal"), self._pool.connection() as connection:
            for table, name, ended in self._ended:
                cursor = await connection.execute(
                    f"""DELETE FROM {table} AS t USING (
                          SELECT {name} FROM {table} WHERE {ended} < now() - make_interval(secs => %s)
                           LIMIT %s FOR UPDATE SKIP LOCKED) AS old
                         WHERE t.{name} = old.{name}""",
                    [self._keep_s, _CLEAN_ROWS],
                )
                deleted += cursor.rowcount
        return deleted

    async def run(self) -> None:
        """Look again and again until cancelled. What was taken up then goes on in ``Sagas.running``."""
        clean_at = 0.0
        while True:
            try:
                await self.step()
                if time.monotonic() >= clean_at:
                    clean_at = time.monotonic() + _CLEAN_S
                    await self.clean_up()
                    if self._inbox is not None:
                        await self._inbox.clean_up()
            except HoldfastError as error:
                _log.warning("left work could not be looked after: %s", error)
            except Exception:  # a fault of ours must not leave everybody's work undone
                _log.exception("looking after left work failed and goes on")
            await asyncio.sleep(self._period_s)


async def unfinished(pool: Pool, contract: Contract) -> dict[str, Any]:
    """How many sagas are not finished, and the age of the oldest in seconds; for health checks."""
    async with limited(_STATEMENT_S, "the journal"), pool.connection() as connection:
        cursor = await connection.execute(
            f"""SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
                  FROM {qualified(contract.names.saga_table)} WHERE state IN ('running', 'compensating')"""
        )
        row = await cursor.fetchone()
    assert row is not None
    return {"sagas": row[0], "oldest_s": row[1]}
