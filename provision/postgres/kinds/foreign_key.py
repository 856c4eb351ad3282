"""Foreign keys: added without a look at the rows, then validated; on partitioned tables before 18, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Row
from provision.postgres.kinds.check import ENFORCED, VALIDATED
from provision.postgres.kinds.foreign_key_change import lower
from provision.postgres.kinds.key_constraint import DEFERRABLE, INITIALLY_DEFERRED
from provision.postgres.kinds.ownership import parse
from provision.postgres.kinds.steps import retitled
from provision.postgres.references import split_name
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import Table, column_names, numbers, once, tables
from provision.spec import fields
from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import Field, FieldError, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES


def _references(text: str) -> str:
    try:
        parts = split_name(text)
    except ValueError:
        parts = ()
    if len(parts) != 2:
        raise FieldError(f"not a table: {text!r}", help="Write schema.table.")
    return sql.qualified(*parts)


_COLUMNS = fields.list_of(fields.STRING, min_items=1)
_ACTION = fields.enum("no_action", "restrict", "cascade", "set_null", "set_default")
FIELDS = FieldTable(
    Field("columns", _COLUMNS, "The columns that refer.", required=True),
    Field(
        "references",
        Type({"type": "string", "minLength": 3}, _references),
        "The table referred to, as schema.table.",
        required=True,
    ),
    Field("referenced_columns", _COLUMNS, "The key referred to; without it, the table's primary key."),
    Field("on_delete", _ACTION, "What happens when the referenced row is deleted.", default="no_action"),
    Field("on_update", _ACTION, "What happens when the referenced key changes.", default="no_action"),
    Field("match", fields.enum("simple", "full"), "Whether a partly NULL reference is allowed.", default="simple"),
    DEFERRABLE,
    INITIALLY_DEFERRED,
    Field("on_delete_columns", _COLUMNS, "The columns that on_delete sets; without it, all of them."),
    Field("period", fields.BOOL, "The last column is a range covered over time.", default=False, since=(18,)),
    ENFORCED,
    VALIDATED,
    Field("comment", fields.STRING, "The comment stored with the constraint."),
)
_ACTIONS = {"a": "no_action", "r": "restrict", "c": "cascade", "n": "set_null", "d": "set_default"}
_IN_PLACE = {"comment", "validated", "deferrable", "initially_deferred", "enforced"}


def read_all(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Give the foreign keys of one table. Which key they use is the server's choice: refs name the columns."""
    for name, body in node.items():
        settings = parse(FIELDS, body, (*pointer, name), reader)
        if settings is None:
            continue
        if not settings["enforced"]:
            settings["validated"] = True
        if settings["initially_deferred"]:
            settings["deferrable"] = True
        other = referenced_table(table, settings)
        refs = (
            *(table.child("column", c) for c in settings["columns"]),
            other,
            *(other.child("column", c) for c in settings["referenced_columns"] or ()),
        )
        if settings["referenced_columns"] is None:
            refs += (other.child("primary_key", f"{other.name}_pkey"),)
        address = table.child("foreign_key", name)
        yield Record(address, settings, table, tuple(dict.fromkeys(refs)), origin=(*pointer, name))


def referenced_table(table: Address, settings: Settings) -> Address:
    """The table that a foreign key of ``table`` refers to."""
    schema, name = split_name(settings["references"])
    return Address.root("pg", table.target, "schema", schema, bare=True).child("table", name, bare=True)


@once
def _keys(catalog: Catalog) -> dict[str, Address]:
    """The primary keys, unique constraints and indexes that foreign keys lean on, by oid of the index."""
    found, indexed = {}, tables(catalog)
    for row in catalog.rows("constraints"):
        if row[3] in ("p", "u") and row[1] in indexed:
            kind = "primary_key" if row[3] == "p" else "unique"
            found[str(row[8])] = indexed[row[1]].address.child(kind, str(row[2]))
    for row in catalog.rows("indexes"):
        if row[4] == "t" and row[0] not in found and row[1] in indexed:
            found[str(row[0])] = indexed[row[1]].address.child("index", str(row[2]))
    return found


class ForeignKeyKind(PlainKind):
    name = "foreign_key"
    system = "pg"
    fields = FIELDS
    left_to_server = frozenset({"referenced_columns"})
    expressions: tuple[str, ...] = ()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        found = tables(catalog)
        for row in catalog.rows("constraints"):
            table = found.get(row[1] or "")
            if row[3] == "f" and table is not None:
                yield _decode_one(catalog, table, row)

    def impact(self, change: Change, facts: Facts) -> Impact:
        before = change.before
        undone = "validated" in change.fields and before is not None and before.settings["validated"]
        return "replace" if undone or set(change.fields) - _IN_PLACE else "none"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Without ``referenced_columns`` the primary key is meant: the live key is, if it is one."""
        if desired is None or live is None or desired.settings["referenced_columns"] is not None:
            return desired, live
        if not any(a.kind == "primary_key" for a in live.refs):
            return desired, live
        columns = live.settings["referenced_columns"]
        return desired._replace(settings={**desired.settings, "referenced_columns": columns}), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        s = dict(record.settings)
        own, other = record.parent, referenced_table(record.address, s)
        if old.kind == "column":
            if own == _home(new):
                s["columns"] = retitled(s["columns"], old.name, new.name)
                s["on_delete_columns"] = retitled(s["on_delete_columns"], old.name, new.name)
            if other == _home(new):
                s["referenced_columns"] = retitled(s["referenced_columns"], old.name, new.name)
        elif old.kind == "table" and other == old:
            s["references"] = sql.qualified(new.names[0], new.name)
        elif old.kind == "schema" and other.names[0] == old.name:
            s["references"] = sql.qualified(new.name, other.name)
        return record._replace(settings=s)

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(lower(change, context), (change.address,))


def _home(column: Address) -> Address:
    return column._replace(kind="table", path=column.path[:2])


def _decode_one(catalog: Catalog, table: Table, row: Row) -> Record:
    named = column_names(catalog)
    other = catalog.relations[str(row[9])]
    own = [named[table.oid][n] for n in numbers(row[15])]
    theirs = [named[other.oid].get(n, n) for n in numbers(row[16])]
    settings: Settings = {
        "columns": own,
        "references": sql.qualified(other.schema, other.name),
        "referenced_columns": theirs,
        "on_delete": _ACTIONS[str(row[11])],
        "on_update": _ACTIONS[str(row[10])],
        "match": "full" if row[12] == "f" else "simple",
        "deferrable": row[4] == "t",
        "initially_deferred": row[5] == "t",
        "on_delete_columns": [named[table.oid][n] for n in numbers(row[17])] or None,
        "period": row[14] == "t",
        "enforced": row[7] == "t",
        "validated": row[6] == "t" or row[7] != "t",
        "comment": row[19],
    }
    there = catalog.table_address(other.schema, other.name)
    key = _keys(catalog).get(str(row[8]))
    refs = (
        *(table.address.child("column", c) for c in own),
        there,
        *(there.child("column", c) for c in theirs),
        *((key,) if key is not None else ()),
    )
    address = table.address.child("foreign_key", str(row[2]))
    return Record(address, settings, table.address, tuple(dict.fromkeys(refs)))


KIND = ForeignKeyKind()
decode = KIND.decode
