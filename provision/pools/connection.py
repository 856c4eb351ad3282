"""The connection string of a pool: what its declaration says, laid over the form of its target. Pure."""

from __future__ import annotations

from provision.spec.record import Record
from provision.spec.target import Target, postgres_url
from provision.spec.units import format_duration

MS = 1_000_000


def url(target: Target, pool: Record, password: str | None = None) -> str:
    """Give the libpq URI of a pool's own login. The pool's database wins over the target's.

    Time-outs travel as start-up options, which PgBouncer refuses; behind it the role's settings hold. Raises
    FieldError where the target has no such endpoint, or only a reference to it.
    """
    settings = pool.settings
    return postgres_url(
        target,
        endpoint=settings["endpoint"],
        user=settings["role"],
        password=password,
        database=settings["database"],
        application_name=settings["application_name"],
        settings=None if settings["pgbouncer"] else timeouts(pool),
    )


def timeouts(pool: Record) -> dict[str, str]:
    """Give the server settings of a pool's sessions; a time-out of 0 is left to the role."""
    wanted = {
        "statement_timeout": pool.settings["statement_timeout"],
        "idle_in_transaction_session_timeout": pool.settings["idle_in_transaction_timeout"],
    }
    return {name: _timeout(ns) for name, ns in wanted.items() if ns}


def _timeout(ns: int) -> str:
    """Write a time-out with a unit, for PostgreSQL takes a bare number as milliseconds; rounded up to one."""
    text = format_duration(-(-ns // MS) * MS)
    return f"{text}in" if text.endswith("m") else text
