"""Sends the statements of maintenance: in one message each transaction, with a short wait for locks, again and again.

A session that waits for a strong lock makes everybody behind it wait, too. So no wait is longer than the declared
``lock_timeout_ms``; after it the queue moves on, and the next attempt comes later. How long an ACCESS EXCLUSIVE lock
was held the server itself tells: it is asked for the time when the lock is granted and when the transaction is over.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.migrate.partitions.steps import GRANTED
from provision.postgres import wire
from provision.postgres.apply import Limits
from provision.postgres.catalog import Row, parse_copy
from provision.postgres.errors import StatementFailed, is_transient, translate

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

_CANCELLED = "57014"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long others may have to wait for us. ``hold_ms`` bounds each statement that runs under a strong lock.

    ``quiet_ms`` bounds waits that nobody has to share, ``calm_ms`` those among them that hold something already;
    longer than PostgreSQL's deadlock_timeout (1 s), when autovacuum gives way. ``portion`` is how many rows one
    transaction moves.
    """

    lock_timeout_ms: int = 500
    tries: int = 20
    hold_ms: int = 3_000
    quiet_ms: int = 60_000
    calm_ms: int = 2_500
    portion: int = 5_000

    @property
    def limits(self) -> Limits:
        return Limits(lock_timeout_ms=self.lock_timeout_ms, tries=self.tries, first_pause_s=0.1, longest_pause_s=3.0)


class Runner:
    """One direct session in autocommit."""

    def __init__(self, connection: Connection, patience: Patience) -> None:
        self.connection = connection
        self.patience = patience

    def together(self, statements: Sequence[str], what: str, *, ahead: Sequence[str] = ()) -> float | None:
        """Run the statements as one transaction and one message. Raises a PostgresError that names ``what``.

        ``ahead`` comes first and may wait long: nobody has to wait behind it. Gives the milliseconds for which what
        was locked before ``GRANTED`` stayed locked; None where the statements do not ask.
        """
        patience = self.patience
        sent = [
            "BEGIN",
            "SET LOCAL row_security = off",
            f"SET LOCAL lock_timeout = {patience.calm_ms}",
            "SET LOCAL statement_timeout = 0",
            *ahead,
            f"SET LOCAL lock_timeout = {patience.lock_timeout_ms}",
            f"SET LOCAL statement_timeout = {patience.hold_ms}",
            *statements,
            "COMMIT",
            *([GRANTED] if GRANTED in statements else []),
        ]
        try:
            times = [float(text) for text in self._retrying(sent, what)]
            return (times[1] - times[0]) * 1000 if times else None
        except StatementFailed as error:
            if error.sqlstate != _CANCELLED:
                raise
            message = f"a statement was ended after {patience.hold_ms} ms under a lock that others wait for"
            help = "Give it longer at a quiet hour: --longest-hold 1m."
            raise StatementFailed(what, error.sqlstate, message, help) from error

    def alone(self, statement: str, what: str) -> None:
        """Run one statement that no transaction may hold, once. It waits where nobody has to wait behind it."""
        self._must([f"SET lock_timeout = {self.patience.quiet_ms}", "SET statement_timeout = 0"], what)
        self._must([statement], what)

    def rows(self, query: str) -> list[Row]:
        """Read, however long it takes; every value arrives as text."""
        settings = ("SET LOCAL statement_timeout = 0", "SET LOCAL row_security = off")
        reply = wire.send(self.connection, ["BEGIN READ ONLY", *settings, f"COPY ({query}) TO STDOUT", "COMMIT"])
        if reply.refusal is not None:
            wire.send(self.connection, ["ROLLBACK"])
            raise translate(reply.refusal, role=self.connection.info.user)
        return parse_copy(reply.copies[0])

    def value(self, query: str) -> str | None:
        """The one value that a query gives; None also where it gives no row."""
        found = self.rows(query)
        return found[0][0] if found else None

    def pause(self, attempt: int) -> None:
        """Wait after a failed attempt, counted from 0."""
        time.sleep(self.patience.limits.pause_s(attempt))

    def _retrying(self, statements: Sequence[str], what: str) -> list[bytes]:
        """Give the outputs of the COPYs."""
        for attempt in itertools.count():
            reply = self._attempt(statements)
            if (refusal := reply.refusal) is None:
                return reply.copies
            found = translate(refusal, step=what, role=self.connection.info.user)
            if not is_transient(refusal.sqlstate, refusal.message):
                raise found
            if attempt + 1 == self.patience.tries:
                found.help = f"Tried {self.patience.tries} times. {found.help}"
                raise found
            self.pause(attempt)
        raise AssertionError

    def _attempt(self, statements: Sequence[str]) -> wire.Reply:
        try:
            reply = wire.send(self.connection, statements)
        except KeyboardInterrupt:
            wire.send(self.connection, ["ROLLBACK"])
            raise
        if reply.refusal is not None:
            wire.send(self.connection, ["ROLLBACK"])
        return reply

    def _must(self, statements: Sequence[str], what: str) -> None:
        reply = wire.send(self.connection, statements)
        if reply.refusal is not None:
            raise translate(reply.refusal, step=what, role=self.connection.info.user)
