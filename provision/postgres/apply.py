"""Run the SQL steps of a plan. A crash, a lock or Ctrl-C at any moment leaves what a second run finishes."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.plan.plan import Step
from provision.plan.protocols import Hook, Ledger
from provision.postgres import wire
from provision.postgres.errors import PostgresError, Refusal, StatementFailed, is_transient, translate
from provision.postgres.passwords import build_verifier
from provision.spec.change import Request, Sql

if TYPE_CHECKING:
    from provision.postgres.connect import Connection, Resolve

_PLACEHOLDER = re.compile(r"('?)\{\{(\w+)\}\}\1")
_LEAVES_DEBRIS = re.compile(r"CREATE\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY|REINDEX\b.*\bCONCURRENTLY", re.IGNORECASE)
#: Waiting for these lets reads and writes pass (PostgreSQL docs, 13.3.1), so they may take their time.
_HARMLESS_LOCKS = (None, "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE")
_OUT_OF_LOCKS = "53200"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait for a lock, and how often; pauses grow from the first to the longest, with jitter.

    ``together`` is the number of fresh steps that share one transaction.
    """

    lock_timeout_ms: int = 3_000
    tries: int = 10
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    together: int = 400

    def pause_s(self, attempt: int) -> float:
        """The pause after a failed attempt, counted from 0."""
        longest = min(self.longest_pause_s, self.first_pause_s * 2**attempt)
        return random.uniform(longest / 2, longest)  # noqa: S311 (jitter)


class Applier:
    """Runs steps of one target in order. The session must be direct, in autocommit, and not in use elsewhere.

    Where the ledger writes through the same session, its rows commit with the statement; elsewhere the intent
    to create goes ahead.
    """

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        resolve: Resolve,
        *,
        hook: Hook = lambda step, phase: None,
        limits: Limits = Limits(),
    ) -> None:
        self.connection = connection
        self.ledger = ledger
        self.hook = hook
        self.limits = limits
        self._resolve = resolve
        self._together = limits.together
        self._shares_session = getattr(ledger, "connection", None) is connection

    def run(self, steps: Sequence[Step]) -> None:
        """Do all steps. Raises a PostgresError that names the step; what was done before it stays done."""
        for batch in batches(steps, self._together):
            if batch[0].transactional:
                self._together_or_halved(batch)
            else:
                self._outside(batch[0])

    # In a transaction --------------------------------------------------------------------------------------

    def _together_or_halved(self, batch: Sequence[Step]) -> None:
        """One transaction for the batch, or two halves where the server's lock table cannot hold it."""
        try:
            self._retrying(lambda: self._transaction(batch), batch[0])
        except StatementFailed as error:
            if error.sqlstate != _OUT_OF_LOCKS or len(batch) == 1:
                raise
            middle = len(batch) // 2
            self._together_or_halved(batch[:middle])
            self._together_or_halved(batch[middle:])

    def _transaction(self, batch: Sequence[Step]) -> None:
        if not self._shares_session:
            self.ledger.intend(_created(batch))
        texts = [self._fill(step.request) for step in batch]
        with self._rolling_back():
            self._notify(batch, "before_send")
            self._send(["BEGIN", *self._preamble(), *(t.text for t in texts)], batch, texts, len(_PREAMBLE) + 1)
            self._notify(batch, "after_send")
            self._notify(batch, "before_record")
            if self._shares_session:
                self._record(batch)
            self._must(["COMMIT"], batch[-1])
        if not self._shares_session:
            self._record(batch)
        self._notify(batch, "done")

    def _preamble(self) -> list[str]:
        return [text.format(lock_timeout=self.limits.lock_timeout_ms) for text in _PREAMBLE]

    def _send(self, statements: Sequence[str], batch: Sequence[Step], texts: Sequence[Filled], skip: int) -> None:
        reply = wire.send(self.connection, statements)
        if reply.refusal is None:
            return
        if reply.done >= skip:
            index = reply.done - skip
        else:  # a syntax error: the message as a whole was refused, only the position tells where
            index = _statement_at(statements, reply.refusal.position) - skip
        index = min(max(index, 0), len(batch) - 1)
        offset = sum(len(s) + 2 for s in statements[: skip + index])
        raise self._error(reply.refusal, batch[index], texts[index], offset)

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        from psycopg.pq import TransactionStatus

        if self.connection.pgconn.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        ):
            wire.send(self.connection, ["ROLLBACK"])

    # Outside of one ----------------------------------------------------------------------------------------

    def _outside(self, step: Step) -> None:
        if step.done_if is None or not self._holds(step.done_if):
            self.ledger.intend(_created([step]))
            self._retrying(lambda: self._alone(step), step)
            if step.done_if is not None and not self._holds(step.done_if):
                raise StatementFailed(step.id, "00000", "the statement ended without its effect", "Run it again.")
        self._notify([step], "before_record")
        self._record([step])
        self._notify([step], "done")

    def _alone(self, step: Step) -> None:
        """Send one statement that no transaction may hold. What a failed one leaves behind is removed."""
        timeout = 0 if step.lock in _HARMLESS_LOCKS else self.limits.lock_timeout_ms
        self._must([f"SET lock_timeout = {timeout}"], step)
        self._must(["SET statement_timeout = 0"], step)
        filled = self._fill(step.request)
        self._notify([step], "before_send")
        try:
            self._send([filled.text], [step], [filled], 0)
        except BaseException:
            self._clear(step, filled)
            raise
        self._notify([step], "after_send")

    def _clear(self, step: Step, filled: Filled) -> None:
        """Drop the invalid index that a failed concurrent build leaves (PostgreSQL docs, CREATE INDEX)."""
        if isinstance(step.undo, Sql) and _LEAVES_DEBRIS.match(filled.text.lstrip()):
            wire.send(self.connection, [step.undo.text])

    def _holds(self, condition: str) -> bool:
        query = condition if condition.lstrip()[:6].upper() == "SELECT" else f"SELECT {condition}"
        try:
            (output,) = wire.run(self.connection, f"COPY ({query}) TO STDOUT")
        except Refusal as refusal:
            raise translate(refusal, role=self.connection.info.user) from refusal
        return output.strip() == b"t"

    # Both --------------------------------------------------------------------------------------------------

    def _retrying(self, act: Callable[[], None], step: Step) -> None:
        """Try again while the server says that another session was in the way."""
        for attempt in range(self.limits.tries):
            try:
                act()
                return
            except _Transient as again:
                if attempt + 1 == self.limits.tries:
                    found = translate(again.refusal, step=step.id)
                    found.help = f"Tried {self.limits.tries} times. {found.help}"
                    raise found from again.refusal
            time.sleep(self.limits.pause_s(attempt))

    def _must(self, statements: Sequence[str], step: Step) -> None:
        reply = wire.send(self.connection, statements)
        if reply.refusal is not None:
            raise self._error(reply.refusal, step, Filled("", ()), 0)

    def _error(self, refusal: Refusal, step: Step, filled: Filled, offset: int) -> Exception:
        """The typed error of a step. No server text that quotes a secret gets out."""
        for value in filled.values:
            refusal.message = refusal.message.replace(value, "***")
            refusal.detail = refusal.detail.replace(value, "***")
        if is_transient(refusal.sqlstate, refusal.message):
            return _Transient(refusal)
        if refusal.position is not None:
            refusal.position = max(refusal.position - offset, 1)
        return translate(refusal, step=step.id, role=self.connection.info.user)

    def _record(self, batch: Sequence[Step]) -> None:
        self.ledger.forget([a for step in batch for a in step.gone])
        self.ledger.record(_created(batch), "created")
        self.ledger.record([a for step in batch for a in step.adopted], "adopted")

    def _notify(self, batch: Sequence[Step], phase: str) -> None:
        for step in batch:
            self.hook(step.id, phase)

    def _fill(self, request: Request) -> Filled:
        """Put secrets in their places. A password leaves this process only as a SCRAM verifier (RFC 5803)."""
        assert isinstance(request, Sql)
        if not request.secrets:
            return Filled(request.text, ())
        secrets = request.secrets
        values = {name: build_verifier(self._resolve(reference)) for name, reference in secrets.items()}

        def literal(match: re.Match[str]) -> str:
            return "'" + values[match[2]].replace("'", "''") + "'"

        return Filled(_PLACEHOLDER.sub(literal, request.text), tuple(values.values()))


_PREAMBLE = (
    "SET LOCAL lock_timeout = {lock_timeout}",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL search_path = pg_catalog",
    "SET LOCAL timezone = 'UTC'",
    "SET LOCAL check_function_bodies = on",
    "SET LOCAL client_min_messages = warning",
)


class Filled(NamedTuple):
    """A statement ready to send, and the secret values in it."""

    text: str
    values: tuple[str, ...]


class _Transient(Exception):
    """Another session was in the way; the attempt may be repeated."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def batches(steps: Sequence[Step], together: int) -> Iterator[Sequence[Step]]:
    """Split into what is sent at once: runs of fresh transactional steps, any other step by itself. Pure."""
    start = 0
    while start < len(steps):
        end = start + 1
        if steps[start].transactional and steps[start].fresh:
            while end < len(steps) and end - start < together and steps[end].fresh and steps[end].transactional:
                end += 1
        yield steps[start:end]
        start = end


def _created(batch: Sequence[Step]) -> list[str]:
    return [address for step in batch for address in step.made if address not in step.adopted]


def _statement_at(statements: Sequence[str], position: int | None) -> int:
    """The index of the statement in which a character position (from 1) of the joined message lies."""
    end = 0
    for index, statement in enumerate(statements):
        end += len(statement) + 2
        if position is not None and position <= end:
            return index
    return len(statements) - 1


class Count(NamedTuple):
    """How much is at stake. ``is_estimate`` when counting took too long and the planner was asked instead."""

    value: int
    is_estimate: bool


def count(connection: Connection, probe: Mapping[str, Any], *, timeout_ms: int = 5_000) -> Count | None:
    """Run a hazard's probe ({"sql": "select count(*) …"}); None where it has no SQL or the object is gone."""
    sql = probe.get("sql")
    if not sql:
        return None
    preamble = [
        "BEGIN READ ONLY",
        f"SET LOCAL statement_timeout = {timeout_ms}",
        "SET LOCAL lock_timeout = 1000",
    ]
    reply = wire.send(connection, [*preamble, f"COPY ({sql}) TO STDOUT"])
    wire.send(connection, ["ROLLBACK"])
    if reply.refusal is None:
        return Count(int(reply.copies[0]), False)
    if reply.refusal.sqlstate not in ("57014", "55P03"):
        return None
    (row,) = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}".encode()).fetchall()
    return Count(_rows_under_aggregate(row[0][0]["Plan"]), True)


def _rows_under_aggregate(plan: Mapping[str, Any]) -> int:
    """The planner's guess of the rows that the outermost aggregate reads."""
    while plan["Node Type"] in ("Aggregate", "Gather", "Gather Merge") and plan.get("Plans"):
        plan = plan["Plans"][0]
    return int(plan["Plan Rows"])


__all__ = ["Applier", "Count", "Limits", "PostgresError", "batches", "count"]
