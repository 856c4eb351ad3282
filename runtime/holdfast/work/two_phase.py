"""Two-phase commit: rows prepared in the database, keys staged in a bucket, one row that decides.

1. The changes of rows are made and PREPAREd. They hold their locks and wait.
2. The intent is stored in a bucket. What the keys hold is compared with what the steps expect, and where each stands
   is kept with the verdict.
3. A row of ``runtime.decisions`` is committed on its own: from then on the work is done, whatever crashes. Whoever
   finds prepared work without a verdict after its time writes "abort"; the primary key lets one verdict win.
4. COMMIT PREPARED, then the keys are written, then the decision is noted as finished.

NATS has no prepare: keys are not locked in between. They change as of step 2: what others write after it stays. Of two
decisions over one key the later one wins, by the time that stands in the header ``Holdfast-Decision``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

from holdfast import points
from holdfast.errors import (
    ConfigurationError,
    HoldfastError,
    Unsupported,
)
from holdfast.events.limited import limited
from holdfast.events.outbox import Outbox, qualified
from holdfast.kv.entry import Position
from holdfast.work import keys, rows
from holdfast.work.journal import Journal
from holdfast.work.result import Outcome, Result
from holdfast.work.steps import Emit, KvDelete, KvPut, KvStep, Step, check, dump, load

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool

_log = logging.getLogger("holdfast.work")
_STATEMENT_S, _TRANSACTION_S, _TRIES = 15.0, 30.0, 3
#: Keys of intents in the bucket for configuration.
_INTENTS: Final = "two-phase"
#: SQLSTATE undefined_object: no such prepared transaction.
_UNDEFINED: Final = "42704"
_SAFE = re.compile(r"[A-Za-z0-9_-]+")


class Write(NamedTuple):
    """A key to be written, and where it stood when it was staged."""

    step: KvStep
    before: Position | None


@dataclass(frozen=True)
class Decision:
    """A verdict as it stands: ``decided_ns`` is the database's time since 1970."""

    gid: str
    commits: bool
    writes: tuple[Write, ...]
    correlation_id: str
    decided_ns: int


@dataclass(frozen=True)
class InDoubt:
    """A prepared transaction of this plane and its age in seconds; ``commits`` is None without a verdict."""

    gid: str
    age_s: float
    commits: bool | None


class TwoPhase:
    """Runs two-phase commits. ``pool`` must give sessions of its own, and the same role must recover what it prepared.

    ``stores`` gives what holds the key of a step; intents are staged in the bucket of configuration. ``running`` are
    the commits of this process.
    """

    def __init__(self, pool: Pool, stores: keys.Stores, contract: Contract) -> None:
        self._pool, self._stores, self._bucket = pool, stores, contract.names.config_bucket
        self._table = qualified(contract.names.decision_table)
        self._outbox, self._journal = Outbox(contract), Journal(contract)
        self._timeout_s = contract.limits.saga_timeout
        self._prefix = f"holdfast/{contract.plane}/{contract.env}/"
        self.running: set[asyncio.Task[Result]] = set()

    async def run(
        self, steps: Sequence[Step], *, correlation_id: UUID | None = None, timeout_s: float | None = None
    ) -> Result:
        """Do all of it or none. A caller that is cancelled leaves it running to its end.

        Raises Unsupported where the database prepares no transactions (max_prepared_transactions is 0) or connections
        are shared by a pooler, ConfigurationError and CodecError for steps that cannot be staged and events that the
        outbox refuses, and what the database raises when asked: nothing has happened then. Every later failure is a
        result.
        """
        check(steps)
        correlation = str(correlation_id or uuid4())
        # Before PREPARE: while that waits for a verdict, rows are locked and no event of the plane leaves.
        self._outbox.check(step.event(correlation) for step in steps if isinstance(step, Emit))
        await self.require_support()
        allowed = self._timeout_s if timeout_s is None else timeout_s
        gid = f"{self._prefix}{max(1, round(allowed))}/{uuid4()}"
        if len(gid.encode()) >= 200:
            raise ConfigurationError("the names of plane and environment are too long for a global transaction id")
        task = asyncio.create_task(self._drive(gid, steps, correlation, allowed))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return await asyncio.shield(task)

    async def require_support(self) -> None:
        """Raises Unsupported, see ``run``."""
        if self._pool.spec.is_pooled:
            raise Unsupported("a pooler shares the connections of this pool: prepared transactions need their own")
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT current_setting('max_prepared_transactions')::int")
            row = await cursor.fetchone()
        if not row or not row[0]:
            raise Unsupported("two-phase commit needs max_prepared_transactions above 0 in the database")

    # The protocol -----------------------------------------------------------------------------------------

    async def _drive(self, gid: str, steps: Sequence[Step], correlation: str, allowed_s: float) -> Result:
        writes: Sequence[Write] = ()
        events = [step for step in steps if isinstance(step, Emit)]
        try:
            async with limited(allowed_s, "the preparation"):
                await self._prepare(gid, steps)
                points.reach("two_phase.prepared")
                writes = await self._stage(gid, steps)
                points.reach("two_phase.staged")
            verdict, reason = True, None
        except HoldfastError as error:
            verdict, reason = False, str(error)
        try:
            decision, refusal = await self._settled(gid, verdict, writes, events, correlation)
        except HoldfastError as error:
            return Result(Outcome.SAGA_FAILED, gid, correlation, f"{reason or 'not settled'}; {error}")
        points.reach("two_phase.decided")
        later, pending = None, 0
        try:
            await self.finish(decision)
        except HoldfastError as error:
            # The verdict is known, and it stands: the recoverer carries it out.
            later, pending = f"it is carried out later: {error}", len(steps)
        if decision.commits:
            return Result(Outcome.SUCCESS, gid, correlation, later, pending=pending)
        said = [reason or refusal or "it was not decided in time", *([later] if later else [])]
        return Result(Outcome.ROLLED_BACK, gid, correlation, "; ".join(said))

    async def _prepare(self, gid: str, steps: Sequence[Step]) -> None:
        async with self._connection(_TRANSACTION_S) as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            try:
                for step in steps:
                    if not isinstance(step, KvStep | Emit):
                        await rows.apply(connection, step)
                points.reach("two_phase.rows")
                await connection.execute(_with_gid("PREPARE TRANSACTION", gid))
            except BaseException:
                if not connection.closed:
                    await connection.rollback()
                raise

    async def _stage(self, gid: str, steps: Sequence[Step]) -> list[Write]:
        wanted = sorted((step for step in steps if isinstance(step, KvStep)), key=keys.place)
        value = json.dumps({"transaction": gid, "writes": [json.loads(dump(step)) for step in wanted]}).encode()
        intent = KvPut(self._bucket, _intent_key(gid), value)
        async with self._stores(intent) as store:
            await store.write(intent.key, intent.value, expect=0)
        writes = []
        for step in wanted:
            async with self._stores(step) as store:
                writes.append(Write(step, (await keys.prior(store, step, self._ask)).position))
        return writes

    async def _settled(
        self, gid: str, verdict: bool, writes: Sequence[Write], events: Sequence[Emit], correlation: str
    ) -> tuple[Decision, str | None]:
        """Decide, and after an unknown outcome ask again: the first verdict stands.

        A commit that the database refuses becomes an abort, with the reason, and does not wait for a recoverer.
        """
        refusal: str | None = None
        for attempt in range(_TRIES):
            try:
                return await self.decide(gid, verdict and refusal is None, writes, events, correlation), refusal
            except HoldfastError as error:
                if attempt == _TRIES - 1:
                    raise
                if error.retryable:
                    await asyncio.sleep(0.2 * 2**attempt)
                elif verdict and refusal is None:
                    refusal = str(error)
                else:
                    raise
        raise AssertionError

    async def decide(
        self, gid: str, verdict: bool, writes: Sequence[Write], events: Sequence[Emit], correlation: str
    ) -> Decision:
        """Write a verdict unless there is one, and give the one that stands. Events of a commit leave with it."""
        steps = [json.loads(dump(write.step)) for write in writes]
        intent = json.dumps({"correlation_id": correlation, "writes": steps, "before": [w.before for w in writes]})
        async with self._connection() as connection, connection.transaction():
            cursor = await connection.execute(
                f"""INSERT INTO {self._table} (transaction_id, verdict, intent) VALUES (%s, %s, %s)
                    ON CONFLICT DO NOTHING""",
                [gid, "commit" if verdict else "abort", intent],
            )
            if cursor.rowcount and verdict:
                await self._outbox.add_many(connection, [step.event(correlation) for step in events])
            cursor = await connection.execute(f"{self._select()} WHERE transaction_id = %s", [gid])
            row = await cursor.fetchone()
        assert row is not None
        return _decision(row)

    async def finish(self, decision: Decision) -> None:
        """Carry a verdict out; any number of times."""
        end = "COMMIT PREPARED" if decision.commits else "ROLLBACK PREPARED"
        await self._end_prepared(end, decision.gid)
        points.reach("two_phase.ended")
        if decision.commits:
            for number, (step, before) in enumerate(decision.writes):
                stamp = keys.Stamp.of(_own_id(decision.gid), number, decision.decided_ns, decision.correlation_id)
                async with self._stores(step) as store:
                    await keys.follow(store, step, stamp, before, self._ask)
                points.reach("two_phase.written")
        await self._drop_intent(decision.gid)
        async with self._connection() as connection:
            await connection.execute(
                f"UPDATE {self._table} SET finished_at = clock_timestamp() WHERE transaction_id = %s", [decision.gid]
            )
        points.reach("two_phase.finished")

    async def _end_prepared(self, statement: str, gid: str) -> None:
        from psycopg import Error

        async with self._connection() as connection:
            try:
                await connection.execute(_with_gid(statement, gid))
            except Error as error:
                # It has been ended already, or was never prepared.
                if error.sqlstate != _UNDEFINED:
                    raise

    async def _ask(self, saga_id: UUID) -> tuple[bool, int | None]:
        async with self._connection() as connection:
            return await self._journal.outcome(connection, saga_id)

    async def _drop_intent(self, gid: str) -> None:
        intent = KvDelete(self._bucket, _intent_key(gid))
        async with self._stores(intent) as store:
            head = await store.head(intent.key)
            if head is not None and head.operation == "put":
                await store.write(intent.key, None, expect=head.position.revision)

    # After a crash ----------------------------------------------------------------------------------------

    async def in_doubt(self) -> list[InDoubt]:
        """The prepared transactions of this plane in this database, oldest first."""
        async with self._connection() as connection:
            cursor = await connection.execute(
                f"""SELECT p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8, d.verdict::text = 'commit'
                      FROM pg_catalog.pg_prepared_xacts AS p LEFT JOIN {self._table} AS d ON d.transaction_id = p.gid
                     WHERE p.database = current_database() AND starts_with(p.gid, %s) ORDER BY p.prepared""",
                [self._prefix],
            )
            return [InDoubt(*row) for row in await cursor.fetchall()]

    async def recover(self, stale_s: float) -> list[Result]:
        """Abort what is undecided past its time, and carry out verdicts that nobody finished within ``stale_s``."""
        for found in await self.in_doubt():
            with _apart(found.gid):
                if found.commits is None and found.age_s > _allowed_s(found.gid) + stale_s:
                    await self.decide(found.gid, False, (), (), "")
                elif found.commits is False:
                    # Prepared only after it had been given up.
                    await self._end_prepared("ROLLBACK PREPARED", found.gid)
        async with self._connection() as connection:
            cursor = await connection.execute(
                f"""{self._select()} WHERE finished_at IS NULL AND starts_with(transaction_id, %s)
                       AND (verdict = 'abort' OR decided_at < clock_timestamp() - make_interval(secs => %s))
                     ORDER BY decided_at LIMIT 100""",
                [self._prefix, stale_s],
            )
            rows_left = await cursor.fetchall()
        results = []
        for row in rows_left:
            with _apart(row[0]):
                decision = _decision(row)
                await self.finish(decision)
                outcome = Outcome.SUCCESS if decision.commits else Outcome.ROLLED_BACK
                results.append(Result(outcome, decision.gid, decision.correlation_id, "finished after a crash"))
        return results

    def _select(self) -> str:
        return (
            "SELECT transaction_id, verdict::text, intent, (extract(epoch FROM decided_at) * 1000000000)::bigint"
            f" FROM {self._table}"
        )

    @asynccontextmanager
    async def _connection(self, seconds: float = _STATEMENT_S) -> AsyncIterator[AsyncConnection[Any]]:
        async with limited(seconds, "the database"), self._pool.connection() as connection:
            yield connection


@contextmanager
def _apart(gid: str) -> Iterator[None]:
    """No transaction waits for another: not for a bucket or an agent's owner of that one, nor for a newer library."""
    try:
        yield
    except Exception as error:
        _log.warning("the transaction %s is finished later: %s", gid, error)


def _decision(row: Sequence[Any]) -> Decision:
    gid, verdict, intent, decided_ns = row
    return Decision(gid, verdict == "commit", _writes(intent), str(intent.get("correlation_id", "")), decided_ns)


def _writes(intent: Mapping[str, Any]) -> tuple[Write, ...]:
    steps = [load(action) for action in intent.get("writes", ())]
    stood = [before and Position(*before) for before in intent.get("before", [None] * len(steps))]
    return tuple(Write(step, before) for step, before in zip(steps, stood, strict=True) if isinstance(step, KvStep))


def _own_id(gid: str) -> str:
    return gid.rpartition("/")[2]


def _intent_key(gid: str) -> str:
    return f"{_INTENTS}.{_own_id(gid)}"


def _allowed_s(gid: str) -> float:
    return float(gid.split("/")[-2])


def _with_gid(statement: str, gid: str) -> Any:
    """These statements take no parameters, so the id is quoted into them."""
    from psycopg.sql import SQL, Literal

    return SQL("{} {}").format(SQL(statement), Literal(gid))
