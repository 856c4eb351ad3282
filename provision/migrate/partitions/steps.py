"""The SQL of maintenance: making, filling, detaching, marking and dropping partitions. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from provision.migrate.partitions.due import Grid, literals
from provision.postgres import sql
from provision.postgres.kinds.partition_change import apart
from provision.postgres.kinds.partition_window import Range
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    member_name,
)
from provision.postgres.relations import Table
from provision.spec.ident import Address
from provision.spec.record import Record, Settings

_MARK = "holdfast expired "
#: Asks for the server's time, in seconds. The runner sends it again once the transaction is over.
GRANTED = "COPY (SELECT extract(epoch FROM clock_timestamp())) TO STDOUT"
#: How long a further lock is waited for while others already wait for the table.
_BRIEF_MS = 20


class Rolling(NamedTuple):
    """A declared set by range that rolls, and its live side. ``settings`` are the declared ones, the key the live one.

    ``members`` maps the names of attached partitions to their bounds, and follows what is done to them;
    ``referring`` says whether the table has foreign keys, ``marked`` are those that a run was about to detach,
    ``like`` is what a new partition takes from its newest sibling.
    """

    address: Address
    table: Record
    settings: Settings
    members: dict[str, str]
    default: str | None
    detaching: tuple[str, ...]
    like: Settings
    referring: bool = False
    marked: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        return Grid.of(self.settings)

    @property
    def lock(self) -> str:
        """The strongest lock on the written parent, or on what it refers to, while partitions come or go."""
        if self.default is not None:
            return ACCESS_EXCLUSIVE
        return SHARE_ROW_EXCLUSIVE if self.referring else SHARE_UPDATE_EXCLUSIVE

    @property
    def parent(self) -> str:
        """The quoted name of the partitioned table."""
        return sql.table_name(self.address)

    @property
    def key(self) -> str:
        """The first item of the key, as SQL."""
        first = self.settings["key"][0]
        return sql.quote_ident(first) if self.settings["key_type"] is not None else f"({first})"

    def name(self, member: str) -> str:
        """The quoted name of a partition."""
        return member_name(self.table.address, member)

    def within(self, bound: str) -> str:
        """The condition that a row belongs to a bound."""
        low, high = literals(bound)
        return f"{self.key} >= {low} AND {self.key} < {high}"


def attach(rolling: Rolling, member: str, bound: str, role: str | None) -> list[str]:
    """Make a partition and attach it. Readers and writers pass (SHARE UPDATE EXCLUSIVE) where no DEFAULT is."""
    return [*apart(member, rolling.table, role, rolling.like), _attached(rolling, member, bound)]


def _attached(rolling: Rolling, member: str, bound: str) -> str:
    return f"ALTER TABLE {rolling.parent} ATTACH PARTITION {rolling.name(member)} {bound}"


def _calm(*tables: str) -> list[str]:
    """Keep VACUUM and the like away while that stops nobody, so that nothing has to wait for them afterwards."""
    return [f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE" for table in tables]


def _closed(rolling: Rolling, *further: str) -> list[str]:
    """Lock the parent against everybody, then its partitions, in the order of everybody else."""
    return [
        f"LOCK TABLE ONLY {rolling.parent} IN ACCESS EXCLUSIVE MODE",
        GRANTED,
        f"SET LOCAL lock_timeout = {_BRIEF_MS}",
        *(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE" for table in further),
    ]


class Work(NamedTuple):
    """A transaction: what comes before its strong locks, where waiting hurts nobody, and the rest."""

    ahead: list[str]
    statements: list[str]


def move(rolling: Rolling, member: str, bound: str, role: str | None, columns: Iterable[str], *, quiet: bool) -> Work:
    """Make a partition, carry the rows of the DEFAULT partition into it, attach it last: one transaction.

    ``quiet`` keeps triggers still: no row is deleted, so none may be told. Without ``columns`` nothing is carried.
    """
    assert rolling.default is not None
    default, name = rolling.name(rolling.default), rolling.name(member)
    listed = ", ".join(map(sql.quote_ident, columns))
    carry = (
        f"WITH moved AS (DELETE FROM {default} WHERE {rolling.within(bound)} RETURNING {listed})"
        f" INSERT INTO {name} ({listed}) SELECT {listed} FROM moved"
    )
    return Work(
        [*apart(member, rolling.table, role, rolling.like), *_calm(default)],
        [
            *_closed(rolling, default),
            *(["SET LOCAL session_replication_role = replica"] if quiet else []),
            *([carry] if listed else []),
            *(["SET LOCAL session_replication_role = origin"] if quiet else []),
            _attached(rolling, member, bound),
        ],
    )


def least(rolling: Rolling, default: str, below: str) -> str:
    """The least key in the DEFAULT partition below a literal. Infinity and years that no calendar has stay there."""
    more = "" if rolling.grid.counts else f" AND {rolling.key} >= '0002-01-01'"
    return f"SELECT min({rolling.key})::text FROM {default} WHERE {rolling.key} < {below}{more}"


def cuts(rolling: Rolling, default: str, bound: str, rows: int) -> str:
    """Keys that cut what the DEFAULT partition holds of a bound into portions of so many rows."""
    key = f"date_trunc('second', {rolling.key})" if "timestamp" in (rolling.settings["key_type"] or "") else rolling.key
    return (
        f"SELECT DISTINCT k::text FROM (SELECT {key} AS k, row_number() OVER (ORDER BY {rolling.key}) AS n"
        f" FROM {default} WHERE {rolling.within(bound)}) AS x WHERE n % {rows} = 0"
    )


def detach(rolling: Rolling, member: str) -> Work:
    """Detach in one transaction: what is left where a DEFAULT partition forbids CONCURRENTLY."""
    assert rolling.default is not None
    parts = (rolling.name(rolling.default), rolling.name(member))
    leave = f"ALTER TABLE {rolling.parent} DETACH PARTITION {parts[1]}"
    return Work(_calm(*parts), [*_closed(rolling, *parts), leave])


def detach_concurrently(rolling: Rolling, member: str) -> str:
    """Detach while everybody works; no transaction may hold it."""
    return f"ALTER TABLE {rolling.parent} DETACH PARTITION {rolling.name(member)} CONCURRENTLY"


def finalize(rolling: Rolling, member: str) -> str:
    """End a concurrent detaching that was interrupted; only this leads on."""
    return f"ALTER TABLE {rolling.parent} DETACH PARTITION {rolling.name(member)} FINALIZE"


def mark(rolling: Rolling, member: str, then: str) -> str:
    """Say on the partition itself why it goes: once detached, nothing else tells where it came from."""
    text = _MARK + json.dumps({"of": str(rolling.address), "bound": rolling.members[member], "then": then})
    return f"COMMENT ON TABLE {rolling.name(member)} IS {sql.quote_literal(text)}"


def unmark(rolling: Rolling, member: str) -> str:
    """Take the mark off a partition that stays after all."""
    return f"COMMENT ON TABLE {rolling.name(member)} IS NULL"


def read_mark(table: Table) -> dict[str, Any] | None:
    """What ``mark`` said of a table that is no partition any more; None for any other."""
    return parse_mark(table.comment)


def parse_mark(comment: str | None) -> dict[str, Any] | None:
    """What ``mark`` said in a comment; None for a comment of anybody else."""
    if comment is None or not comment.startswith(_MARK):
        return None
    try:
        found = json.loads(comment[len(_MARK) :])
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"of", "bound", "then"} <= found.keys() else None


def literal(grid: Grid, point: Any) -> str:
    """A point as SQL."""
    return literals(grid.bound(Range(point, point)))[0]
