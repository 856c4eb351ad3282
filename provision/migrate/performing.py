"""Runs one file of a migration and writes down each thing that a crash must not make doubtful."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from provision.migrate import effects
from provision.migrate.files import Assertion, Statement
from provision.migrate.history import RENEW_NOTE, Phase, Result, Run, Standing, refused
from provision.migrate.statements import Places, may_commit, runs_alone, words
from provision.postgres import locks, wire
from provision.postgres.apply import Limits
from provision.postgres.errors import LockTimeout, Refusal, Unreachable, is_transient, translate
from provision.spec.errors import HoldfastError, OperationError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: What a person says of a statement that nobody saw end.
Decision = Literal["done", "redo"]
#: Whatever a file did to the session ends with it, and before we write in our own name.
_RESETS = ("RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL")
_NOT_IN_A_TRANSACTION = "25001"
_QUERIES = ("select", "with", "values", "table", "(")


class Stopped(Exception):
    """A run that ends here. ``statement`` surely had no effect; None where that is not known or there is none."""

    def __init__(self, error: HoldfastError, statement: int | None = None, results: Sequence[Result] = ()) -> None:
        super().__init__(str(error))
        self.error = error
        self.statement = statement
        self.results = tuple(results)


class _Again(Exception):
    """Another session was in the way of the statement at a place, "" for one of ours."""

    def __init__(self, refusal: Refusal, place: str = "") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.place = place


class Performer:
    """One attempt at one file. ``session`` are settings that each transaction of ours gets anew."""

    def __init__(
        self, connection: Connection, run: Run, standing: Standing, *, limits: Limits,
        session: Sequence[str] = (), decisions: Mapping[int, Decision] | None = None,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.run = run
        self.script = run.script
        self.standing = standing
        self.limits = limits
        self.decisions = decisions or {}
        self._resets = (*_RESETS, *session)
        self._started = time.monotonic()
        self._results: list[tuple[Phase, list[Result]]] = []

    def perform(self) -> int:
        """Run the file; gives the milliseconds it took. Raises the error of what failed, which history then holds."""
        try:
            self._write([*self.run.started(), RENEW_NOTE])
            if self.script.transactional:
                self._retrying(self._transaction, None)
            else:
                self._one_by_one()
        except Stopped as stopped:
            self._roll_back()
            self._fail(str(stopped.error), stopped.statement)
            raise stopped.error from stopped
        except KeyboardInterrupt:
            self._roll_back()
            self._fail("interrupted from the keyboard", None, event="interrupted")
            raise
        return self._ms()

    def _ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)

    def _fail(self, why: str, statement: int | None, event: str = "failed") -> None:
        results = [text for phase, found in self._results for text in self.run.results(found, phase)]
        self._write([*results, *self.run.failed(why, self.standing, statement=statement, ms=self._ms(), event=event)])

    # In one transaction ------------------------------------------------------------------------------------

    def _transaction(self) -> None:
        self._results.clear()
        try:
            opening = ["BEGIN", *self._limits()]
            if self.script.before:
                self._must(opening)
                self._assert("before", self.script.before)
                opening = []
            self._send([s.text for s in self.script.statements], self.script.statements, opening=opening)
            self._assert("after", self.script.after)
            results = [text for phase, found in self._results for text in self.run.results(found, phase)]
            self._must([*self._resets, *self.run.finished(self._ms()), *results, "COMMIT"])
        except BaseException:
            self._roll_back()
            raise

    def _limits(self, *, waits: bool = True, scope: str = "SET LOCAL") -> list[str]:
        lock_ms = self.script.lock_timeout_ns // 1_000_000 if waits else 0
        return [
            f"{scope} lock_timeout = {lock_ms}",
            f"{scope} statement_timeout = {self.script.statement_timeout_ns // 1_000_000}",
        ]

    def _assert(self, phase: Phase, assertions: Sequence[Assertion]) -> None:
        """Ask each assertion; the first that is not true ends the run."""
        found: list[Result] = []
        self._results.append((phase, found))
        for position, assertion in enumerate(assertions):
            started = time.monotonic()
            status, why = self._ask(assertion.sql)
            found.append(Result(assertion.name, status, why, round((time.monotonic() - started) * 1000)))
            if status != "passed":
                found += [Result(a.name, "skipped", None, 0) for a in assertions[position + 1 :]]
                raise Stopped(self._untrue(phase, assertion, why))

    def _ask(self, sql: str) -> tuple[str, str | None]:
        query = sql if words(sql)[0] in _QUERIES else f"SELECT {sql}"
        reply = wire.send(self.connection, [f"COPY (\n{query}\n) TO STDOUT"])
        if reply.refusal is not None:
            if is_transient(reply.refusal.sqlstate, reply.refusal.message):
                raise _Again(reply.refusal)
            return "error", f"{reply.refusal.message} (SQLSTATE {reply.refusal.sqlstate})"
        rows = reply.copies[0].decode().splitlines()
        if rows == ["t"]:
            return "passed", None
        said = {"f": "false", "\\N": "null"}
        return "failed", f"it gave {said.get(rows[0], rows[0][:100])}" if len(
            rows
        ) == 1 else f"it gave {len(rows)} rows"

    def _untrue(self, phase: Phase, assertion: Assertion, why: str | None) -> OperationError:
        if self.script.transactional:
            kept = "Nothing of this file was kept."
        elif phase == "before":
            kept = "Nothing of this file was run."
        else:
            kept = "Its statements have run and stay."
        run = f"Mend the data or the assertion, then run again: holdfast migrate {self.run.direction}"
        return OperationError(
            f"{self.script.file}:{assertion.line}:1: assert-{phase} {assertion.name} does not hold: {why}",
            f"{kept} {run}",
        )

    # Statement by statement --------------------------------------------------------------------------------

    def _one_by_one(self) -> None:
        """Each statement by itself, with its progress; what an earlier run did is not done again."""
        self._compare()
        if self.standing.done or self.standing.intended:
            self._results.append(("before", [Result(a.name, "skipped", None, 0) for a in self.script.before]))
        else:
            self._retrying(lambda: self._asserted("before", self.script.before), None)
        for number, statement in enumerate(self.script.statements, 1):
            if number not in self.standing.done and not self._settled(number, statement):
                self._statement(number, statement)
        self._retrying(lambda: self._asserted("after", self.script.after), None)
        results = [text for phase, found in self._results for text in self.run.results(found, phase)]
        self._write([*results, *self.run.finished(self._ms())])

    def _asserted(self, phase: Phase, assertions: Sequence[Assertion]) -> None:
        if not assertions:
            return
        self._results[:] = [(p, found) for p, found in self._results if p != phase]
        try:
            self._must(["BEGIN", *self._limits()])
            self._assert(phase, assertions)
        finally:
            self._roll_back()

    def _compare(self) -> None:
        """Raise where a statement that has run, or may have, is no longer what it was."""
        digests = {n: _digest(s) for n, s in enumerate(self.script.statements, 1)}
        for number, digest in sorted({**self.standing.done, **self.standing.intended}.items()):
            if digests.get(number) == digest or self.decisions.get(number) == "redo":
                continue
            verb = "has run" if number in self.standing.done else "was sent, and nobody saw it end,"
            raise Stopped(
                OperationError(
                    f"{self.script.file}: statement {number} {verb} and is not the same any more",
                    "Put it back as it was; only statements after it may change until the file is applied.",
                )
            )

    def _settled(self, number: int, statement: Statement) -> bool:
        """Whether a statement that was sent before, and not seen to end, is in effect. If not, it may run again."""
        if number not in self.standing.intended:
            return False
        decision = self.decisions.get(number)
        effect = effects.look(self.connection, statement.text)
        if decision is None and effect.verdict == "unknown":
            raise Stopped(self._doubtful(number, statement))
        for text in () if decision is not None else effect.first:
            self._must(self._limits(waits=False, scope="SET"))
            self._retrying(partial(self._must, [text]), None)
        if decision != "done" and (decision == "redo" or effect.verdict != "done"):
            return False
        self._write([self.run.done(number, _digest(statement))])
        return True

    def _doubtful(self, number: int, statement: Statement) -> OperationError:
        command = f"holdfast migrate {self.run.direction}"
        which = f"{self.run.migration.version}:{number}"
        return OperationError(
            f"{self.script.file}:{statement.line}:{statement.column}: statement {number} was sent by a run that did not"
            " see it end, and the catalog does not show whether it took effect",
            f"Look at what it changes. If it took effect: {command} --done {which}. If it did not, or does no harm"
            f" twice: {command} --redo {which}",
        )

    def _statement(self, number: int, statement: Statement) -> None:
        spoken = words(statement.text)
        if not (runs_alone(spoken) or may_commit(spoken)):
            try:
                self._retrying(lambda: self._wrapped(number, statement), number)
                return
            except _NeedsNone:
                pass
        self._write([self.run.intended(number, _digest(statement))])
        self._retrying(lambda: self._alone(number, statement), number)
        self._write([self.run.done(number, _digest(statement))])
        self.standing.done[number] = _digest(statement)

    def _wrapped(self, number: int, statement: Statement) -> None:
        """The statement and the note that it is done, in one transaction: both or none."""
        started = time.monotonic()
        try:
            self._send([statement.text], [statement], number, opening=["BEGIN", *self._limits()])
            ms = round((time.monotonic() - started) * 1000)
            self._must([*self._resets, self.run.done(number, _digest(statement), ms), "COMMIT"])
        except BaseException:
            self._roll_back()
            raise
        self.standing.done[number] = _digest(statement)

    def _alone(self, number: int, statement: Statement) -> None:
        """Send what no transaction can hold. Concurrent builds wait for others without being in their way."""
        spoken = words(statement.text)
        self._must(self._limits(waits="concurrently" not in spoken, scope="SET"))
        try:
            self._send([statement.text], [statement], number)
        except (Stopped, _Again) as error:
            self._must(list(self._resets))
            state = error.refusal.sqlstate if isinstance(error, _Again) else getattr(error.error, "sqlstate", "")
            if state == effects.DUPLICATE:
                self._refuse_invalid(number, statement)
            if may_commit(spoken) or not effects.clear(self.connection, statement.text, state):
                raise Stopped(_error_of(error), None) from error
            raise
        self._must(list(self._resets))
        self._refuse_invalid(number, statement)

    def _refuse_invalid(self, number: int, statement: Statement) -> None:
        """Raise where an index of that name is there and not valid: it is not ours, somebody may be building it."""
        wrong = effects.after(self.connection, statement.text)
        if wrong is not None:
            where = f"{self.script.file}:{statement.line}:{statement.column}"
            drop = f"Drop it ({effects.dropping(statement.text)}) unless somebody is building it, and run again."
            raise Stopped(OperationError(f"{where}: {wrong}", drop), number)

    # Talking to the server ---------------------------------------------------------------------------------

    def _send(
        self, texts: Sequence[str], statements: Sequence[Statement], first: int = 1, *, opening: Sequence[str] = ()
    ) -> None:
        """Send statements of the file in one message, after our own; an error names its place in the file."""
        reply = wire.send(self.connection, [*opening, *texts])
        refusal = reply.refusal
        if refusal is None:
            return
        index, offset = _culprit([*opening, *texts], reply.done, refusal.position)
        index = max(index - len(opening), 0)
        statement = statements[index]
        if is_transient(refusal.sqlstate, refusal.message):
            raise _Again(refusal, f"{self.script.file}:{statement.line}:{statement.column}")
        if (
            refusal.sqlstate == _NOT_IN_A_TRANSACTION
            and not self.script.transactional
            and not locks.is_idle(self.connection)
        ):
            raise _NeedsNone
        line, column = statement.line, statement.column
        if refusal.position is not None:
            down, across = Places(statement.text)(max(refusal.position - 1 - offset, 0))
            line, column = line + down - 1, across + (column - 1 if down == 1 else 0)
        raise Stopped(self._told(refusal, f"{self.script.file}:{line}:{column}", first + index), first + index)

    def _told(self, refusal: Refusal, where: str, number: int) -> HoldfastError:
        found = translate(refusal, role=self.connection.info.user)
        if self.script.transactional:
            kept = "Nothing of this file was kept"
        else:
            kept = (
                "Nothing of this file was kept"
                if number == 1
                else f"Its first {number - 1} statements have run and stay"
            )
        found.args = (f"{where}: {found}",)
        advice = f"{kept}; mend statement {number} and run again: holdfast migrate {self.run.direction}"
        if refusal.sqlstate == _NOT_IN_A_TRANSACTION and self.script.transactional:
            advice = "Nothing of this file was kept; put the statement into a file with the line: -- transaction: none"
        found.help = f"{found.help.rstrip('.')}. {advice}" if found.help else advice
        return found

    def _must(self, statements: Sequence[str]) -> None:
        """Send statements of our own."""
        reply = wire.send(self.connection, statements)
        if reply.refusal is None:
            return
        if is_transient(reply.refusal.sqlstate, reply.refusal.message):
            raise _Again(reply.refusal)
        found = translate(reply.refusal, role=self.connection.info.user)
        found.args = (f"{self.script.file}: {found}",)
        raise Stopped(found)

    def _write(self, statements: Sequence[str]) -> None:
        """Write history in a transaction of its own: what failed, too, leaves its trace."""
        reply = wire.send(self.connection, [*self._resets, "BEGIN", *statements, "COMMIT"])
        if reply.refusal is not None:
            self._roll_back()
            raise refused(reply.refusal, self.connection)

    def _roll_back(self) -> None:
        if not locks.is_idle(self.connection):
            with suppress(Unreachable):
                wire.send(self.connection, ["ROLLBACK"])

    def _retrying(self, act: Callable[[], None], number: int | None) -> None:
        """Try again while another session is in the way."""
        for attempt in range(self.limits.tries):
            try:
                act()
                return
            except _Again as again:
                if attempt + 1 == self.limits.tries:
                    raise Stopped(self._in_the_way(again), number) from again
            time.sleep(self.limits.pause_s(attempt))

    def _in_the_way(self, again: _Again) -> HoldfastError:
        found = translate(again.refusal, role=self.connection.info.user)
        found.args = (f"{again.place or self.script.file}: {found}",)
        found.help = f"Tried {self.limits.tries} times. {found.help}"
        return found


class _NeedsNone(Exception):
    """The server refuses the statement inside a transaction."""


def _error_of(error: Stopped | _Again) -> HoldfastError:
    return error.error if isinstance(error, Stopped) else LockTimeout(str(error), "Run it again.")


def _digest(statement: Statement) -> str:
    return sha256(statement.text.encode()).hexdigest()


def _culprit(texts: Sequence[str], done: int, position: int | None) -> tuple[int, int]:
    """Which of the texts of one message was refused, and where it begins there."""
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text) + 2)
    index = min(done, len(texts) - 1)
    if position is not None and done == 0:  # a syntax error: the message as a whole was refused
        index = next(i for i in range(len(texts)) if position - 1 < starts[i + 1] or i == len(texts) - 1)
    return index, starts[index]
