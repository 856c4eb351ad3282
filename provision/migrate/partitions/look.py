"""Reads the rolling sets of one database in one snapshot, however many partitions they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.migrate.partitions.steps import Rolling, parse_mark, read_mark
from provision.postgres.catalog import RELATIONS, ROLE_NAMES, Catalog
from provision.postgres.kinds import partitions, policy
from provision.postgres.observe import Observer
from provision.postgres.relations import COLUMNS, tables
from provision.postgres.sql import qualified
from provision.spec.record import Plane, Record

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

_QUERIES = (RELATIONS, ROLE_NAMES, COLUMNS, *policy.QUERIES)
Wanted = Callable[[str], bool]


class Leftover(NamedTuple):
    """A table that was a partition and whose retirement was interrupted."""

    schema: str
    name: str
    bound: str
    then: str


class Look(NamedTuple):
    """What one look brought. ``absent`` are declared sets without a live counterpart of their form."""

    sets: tuple[Rolling, ...]
    leftovers: dict[str, list[Leftover]]
    absent: tuple[str, ...]
    role: str


def look(connection: Connection, target: str, desired: Plane, wanted: Wanted = lambda address: True) -> Look:
    """Give every rolling set that the specs declare on a target, with its live side."""
    snapshot = Observer(connection, target).read(_QUERIES)
    catalog = snapshot.catalog
    live = {record.address: record for record in partitions.decode(catalog)}
    marks = _marks(catalog)
    found: list[Rolling] = []
    absent: list[str] = []
    for record in _declared(desired, target):
        if not wanted(str(record.address)):
            continue
        rolling = _joined(record, live.get(record.address), desired, marks)
        if rolling is None:
            absent.append(str(record.address))
        else:
            found.append(rolling)
    return Look(tuple(found), _leftovers(catalog), tuple(absent), str(snapshot.facts.options["role"]))


def rolls(record: Record) -> bool:
    """Whether a partition set moves with time or numbers."""
    return record.address.kind == "partitions" and record.settings["by"] == "range" and bool(record.settings["every"])


def _declared(desired: Plane, target: str) -> Iterator[Record]:
    for record in desired.of_kind("partitions"):
        if record.address.system == "pg" and record.address.target == target and rolls(record):
            yield record


def _joined(declared: Record, live: Record | None, desired: Plane, marks: frozenset[str]) -> Rolling | None:
    assert declared.parent is not None
    table = desired[declared.parent]
    if live is None or live.settings["by"] != "range":
        return None
    found = live.settings
    settings: dict[str, Any] = {**declared.settings, "key": found["key"], "key_type": found["key_type"]}
    settings["members"] = {}
    rolling = Rolling(
        declared.address, table, settings, dict(found["members"]), found["default"] or None,
        tuple(found["detaching"]), found["like"], bool(desired.children(table.address, "foreign_key")),
    )  # fmt: skip
    if not marks:
        return rolling
    return rolling._replace(marked=tuple(m for m in rolling.members if rolling.name(m) in marks))


def _marks(catalog: Catalog) -> frozenset[str]:
    """The quoted names of attached partitions that bear a mark; the comment is the twentieth value of a relation."""
    found = (row for row in catalog.rows("relations") if row[4] is not None and parse_mark(row[19]) is not None)
    return frozenset(qualified(str(row[1]), str(row[2])) for row in found)


def _leftovers(catalog: Catalog) -> dict[str, list[Leftover]]:
    found: dict[str, list[Leftover]] = {}
    for table in tables(catalog).values():
        said = read_mark(table)
        if said is not None:
            schema, name = table.address.names[:2]
            found.setdefault(said["of"], []).append(Leftover(schema, name, said["bound"], said["then"]))
    return found
