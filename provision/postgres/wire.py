"""Send several statements in one message and take what comes back raw, cheaper than through cursors.

Used by observe, compile and apply. A simple query may hold many statements, COPY … TO STDOUT among them
(PostgreSQL docs, 53.2.2.1), so a whole observation is one round trip.
"""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from provision.postgres.errors import Refusal, Unreachable, is_connection_lost

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from provision.postgres.connect import Connection


class Reply(NamedTuple):
    """What came back: ``copies`` is the output of each COPY, ``done`` counts statements that succeeded."""

    copies: list[bytes]
    done: int
    refusal: Refusal | None


_LOST = "the connection to PostgreSQL broke: {}"
_AGAIN = "Look at the server's log, then run the command again."


def send(connection: Connection, statements: Sequence[str]) -> Reply:
    """Run the statements as one message; the first that fails ends it. Ctrl-C cancels them, then raises.

    Each statement must be exactly one. Raises Unreachable when the connection breaks.
    """
    pgconn = connection.pgconn
    _check(pgconn)
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        try:
            pgconn.send_query(";\n".join(statements).encode())
            _flush(pgconn, selector)
            reply = _receive(pgconn, selector)
        except KeyboardInterrupt:
            cancel(connection, selector)
            raise
        except _driver_error() as error:
            raise Unreachable(_LOST.format(_first_line(error)), _AGAIN) from error
    if reply.refusal is not None and is_connection_lost(reply.refusal.sqlstate):
        raise Unreachable(_LOST.format(reply.refusal.message), _AGAIN)
    return reply


def run(connection: Connection, *statements: str) -> list[bytes]:
    """Like ``send``, but raise Refusal when the server refuses one. Gives the outputs of the COPYs."""
    reply = send(connection, statements)
    if reply.refusal is not None:
        raise reply.refusal
    return reply.copies


def cancel(connection: Connection, selector: selectors.BaseSelector) -> None:
    """Stop what the server is doing for this session, and read to the end of its answer."""
    _flush(connection.pgconn, selector)
    connection.cancel_safe(timeout=5)
    _receive(connection.pgconn, selector)


def _check(pgconn: PGconn) -> None:
    from psycopg.pq import ConnStatus

    if pgconn.status != ConnStatus.OK:
        raise Unreachable("the connection to PostgreSQL is closed", _AGAIN)


def _driver_error() -> type[Exception]:
    import psycopg

    return psycopg.OperationalError


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _flush(pgconn: PGconn, selector: selectors.BaseSelector) -> None:
    """Write it all. The server may answer meanwhile; unread answers would block both sides."""
    selector.modify(pgconn.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
    while pgconn.flush():
        for _, events in selector.select():
            if events & selectors.EVENT_READ:
                pgconn.consume_input()
    selector.modify(pgconn.socket, selectors.EVENT_READ)


def _receive(pgconn: PGconn, selector: selectors.BaseSelector) -> Reply:
    from psycopg.pq import ExecStatus

    copies: list[bytes] = []
    done = 0
    refusal: Refusal | None = None
    while (result := _result(pgconn, selector)) is not None:
        if result.status == ExecStatus.COPY_OUT:
            copies.append(_copied(pgconn, selector))
        elif result.status in (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE):
            refusal = _refusal(pgconn, result)
        else:
            done += 1
    return Reply(copies, done, refusal)


def _result(pgconn: PGconn, selector: selectors.BaseSelector) -> PGresult | None:
    while pgconn.is_busy():
        selector.select()
        pgconn.consume_input()
    return pgconn.get_result()


def _copied(pgconn: PGconn, selector: selectors.BaseSelector) -> bytes:
    rows: list[bytes | memoryview] = []
    get, append = pgconn.get_copy_data, rows.append
    while True:
        size, data = get(1)
        if size > 0:
            append(data)
        elif size == 0:
            selector.select()
            pgconn.consume_input()
        else:
            return b"".join(rows)


def _refusal(pgconn: PGconn, result: PGresult) -> Refusal:
    from psycopg.errors import Diagnostic

    refusal = Refusal(Diagnostic(result))
    if not refusal.sqlstate:  # libpq's own words: the server has gone without saying why
        text = (result.error_message or pgconn.error_message).decode(errors="replace")
        refusal.sqlstate, refusal.message = "08006", text.strip().split("\n")[0]
    return refusal
