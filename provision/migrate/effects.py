"""Whether a statement that was sent and not seen to end took effect, and how to make running it again safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from provision.migrate.statements import index_of, name_at, shows_its_effect, words
from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.postgres.errors import Refusal, translate
from provision.postgres.sql import quote_ident, quote_literal

if TYPE_CHECKING:
    from provision.postgres.connect import Connection


class Effect(NamedTuple):
    """``done``: it is in effect; ``again``: run it, after ``first``; ``unknown``: only a person can tell."""

    verdict: Literal["done", "again", "unknown"]
    first: tuple[str, ...] = ()


AGAIN, DONE, UNKNOWN = Effect("again"), Effect("done"), Effect("unknown")


def look(connection: Connection, statement: str) -> Effect:
    """Ask the catalog about a statement that began and did not end, as far as anyone saw."""
    spoken = words(statement)
    first = spoken[0]
    if first in ("create", "drop") and "index" in spoken[1:3]:
        return _index(connection, spoken)
    if first == "alter" and "detach" in spoken:
        return _detached(connection, spoken)
    if first == "reindex":
        return Effect("again", _leftovers(connection, spoken))
    return AGAIN if shows_its_effect(spoken) else UNKNOWN


def after(connection: Connection, statement: str) -> str | None:
    """What is wrong although the server said that a statement succeeded; None where nothing is."""
    spoken = words(statement)
    name = index_of(spoken) if spoken[0] == "create" and "index" in spoken[1:3] else ()
    if name and _is_valid(connection, name) is False:
        return f"the index {_dotted(name)} exists and is not valid"
    return None


def dropping(statement: str) -> str:
    """The statement that takes away the index which a statement makes."""
    return f"DROP INDEX CONCURRENTLY {_dotted(index_of(words(statement)))}"


def clear(connection: Connection, statement: str, sqlstate: str) -> bool:
    """Drop what a refused statement left behind: the invalid index of a concurrent build.

    Gives false where something is left: a detach by half, or an index whose users outlast our patience. ``look``
    finds it again.
    """
    spoken = words(statement)
    if spoken[0] == "alter" and "detach" in spoken:
        return not look(connection, statement).first
    if spoken[0] == "reindex":
        first = _leftovers(connection, spoken)
    elif spoken[0] == "create" and "concurrently" in spoken[:4] and sqlstate != DUPLICATE:
        first = _index(connection, spoken).first
    else:
        return True
    wire.send(connection, ["SET lock_timeout = 0", f"SET statement_timeout = {_PATIENCE_MS}"])
    return all(wire.send(connection, [text]).refusal is None for text in first)


DUPLICATE = "42P07"
#: How long a drop waits for whoever uses the table; holding nobody up, but the runner's user waits too.
_PATIENCE_MS = 5_000


def _index(connection: Connection, spoken: Sequence[str]) -> Effect:
    name = index_of(spoken)
    valid = _is_valid(connection, name)
    if spoken[0] == "drop":
        return DONE if valid is None else AGAIN
    if valid is None:
        return AGAIN
    return DONE if valid else Effect("again", (f"DROP INDEX CONCURRENTLY {_dotted(name)}",))


def _is_valid(connection: Connection, name: Sequence[str]) -> bool | None:
    """Whether an index is valid; None where there is none."""
    query = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass({quote_literal(_dotted(name))})"
    rows = _ask(connection, query)
    return rows[0][0] == "t" if rows else None


def _detached(connection: Connection, spoken: Sequence[str]) -> Effect:
    """A concurrent detach works in two transactions: after the first the partition is pending."""
    start = next(i for i, w in enumerate(spoken) if i > 1 and w not in ("if", "exists", "only"))
    parent = name_at(spoken[start:])
    child = name_at(spoken[spoken.index("partition") + 1 :])
    rows = _ask(
        connection,
        "SELECT inhdetachpending FROM pg_inherits"
        f" WHERE inhparent = to_regclass({quote_literal(_dotted(parent))})"
        f" AND inhrelid = to_regclass({quote_literal(_dotted(child))})",
    )
    if not rows:
        return DONE
    if rows[0][0] == "f":
        return AGAIN
    finalize = f"ALTER TABLE {_dotted(parent)} DETACH PARTITION {_dotted(child)} FINALIZE"
    return Effect("done", (finalize,))


def _leftovers(connection: Connection, spoken: Sequence[str]) -> tuple[str, ...]:
    """The invalid copies that a concurrent rebuild leaves (PostgreSQL docs, REINDEX)."""
    what = next((w for w in spoken if w in ("index", "table")), "")
    if not what:
        return ()
    name = name_at([w for w in spoken[spoken.index(what) + 1 :] if w != "concurrently"])
    table = f"to_regclass({quote_literal(_dotted(name))})"
    if what == "index":
        table = f"(SELECT indrelid FROM pg_index WHERE indexrelid = {table})"
    rows = _ask(
        connection,
        "SELECT format('DROP INDEX CONCURRENTLY %I.%I', n.nspname, c.relname) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE i.indrelid = {table} AND NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'",
    )
    return tuple(str(row[0]) for row in rows)


def _dotted(name: Sequence[str]) -> str:
    return ".".join(map(quote_ident, name))


def _ask(connection: Connection, query: str) -> Sequence[tuple[str | None, ...]]:
    try:
        (output,) = wire.run(connection, f"COPY ({query}) TO STDOUT")
    except Refusal as refusal:
        raise translate(refusal, role=connection.info.user) from refusal
    return parse_copy(output)
