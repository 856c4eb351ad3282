"""What primary keys and unique constraints share: options, how they are found, and their making without a stop.

On a table with rows the index is built concurrently first, and the constraint then takes it over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from provision.postgres import sql
from provision.postgres.catalog import Catalog
from provision.postgres.kinds import index_build
from provision.postgres.kinds.check import comments, drop_constraint
from provision.postgres.kinds.steps import (
    all_fresh,
    alter,
    blocking,
    chain,
    has_constraint,
    is_fresh,
    is_partitioned,
    makes_way,
    retitled,
    table_of,
)
from provision.postgres.relations import column_names, index_rows, numbers, options_of, tables
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Lowered
from provision.spec.fields import Field, Type
from provision.spec.ident import Address
from provision.spec.kind import PlainKind
from provision.spec.record import Facts, Record, Settings

COLUMNS = fields.list_of(fields.STRING, min_items=1)
DEFERRABLE = Field(
    "deferrable", fields.BOOL, "Whether the check can wait for the end of the transaction.", default=False
)
INITIALLY_DEFERRED = Field(
    "initially_deferred", fields.BOOL, "Whether the check waits unless told otherwise.", default=False
)
STORAGE = Type(
    fields.map_of(Type({"type": ["number", "boolean", "string"]})).schema,
    lambda value: dict(sorted((k, index_build.option_value(v)) for k, v in value.items() if v is not None)),
)
FIELDS = (
    Field("columns", COLUMNS, "The columns that together are unique.", required=True),
    Field("include", fields.list_of(fields.STRING), "Further columns kept in the index only.", default=[]),
    DEFERRABLE,
    INITIALLY_DEFERRED,
    Field(
        "without_overlaps", fields.BOOL, "The last column is a range that must not overlap.", default=False, since=(18,)
    ),
    Field("storage", STORAGE, "Storage parameters of the index, e.g. fillfactor.", default={}),
    Field("tablespace", fields.STRING, "Where the index is kept; without it, the database's tablespace."),
    Field("clustered", fields.BOOL, "CLUSTER without an index name sorts the table by this one.", default=False),
    Field("comment", fields.STRING, "The comment stored with the constraint."),
)
_IN_PLACE = {"comment", "storage", "clustered"}


class KeyKind(PlainKind):
    """Primary keys and unique constraints; ``contype`` is pg_constraint's letter."""

    system = "pg"
    expressions: tuple[str, ...] = ()
    contype = ""

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        found, named, indexed = tables(catalog), column_names(catalog), index_rows(catalog)
        for row in catalog.rows("constraints"):
            table = found.get(row[1] or "")
            if row[3] != self.contype or table is None:
                continue
            index = indexed[str(row[8])]
            columns = named[table.oid]
            count = int(str(index[9]))
            keys = [columns[n] for n in numbers(index[10])]
            settings: Settings = {
                "columns": keys[:count],
                "include": keys[count:],
                "deferrable": row[4] == "t",
                "initially_deferred": row[5] == "t",
                "without_overlaps": row[14] == "t",
                "storage": options_of(index[16]),
                "tablespace": index[17],
                "clustered": index[8] == "t",
                "comment": row[19],
                "valid": index[6] == "t" or index[20] is not None,
                "missing": index_build.missing(index),
            }
            if self.contype == "u":
                settings["nulls_not_distinct"] = index[5] == "t"
            refs = tuple(table.address.child("column", c) for c in keys)
            yield Record(table.address.child(self.name, str(row[2])), settings, table.address, refs)

    def impact(self, change: Change, facts: Facts) -> Impact:
        in_place = set(change.fields) <= _IN_PLACE | {"missing"}
        return "none" if in_place or (change.action == "rename" and not change.fields) else "replace"

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        if old.kind != "column":
            return record
        named = {k: retitled(record.settings[k], old.name, new.name) for k in ("columns", "include")}
        return record._replace(settings={**record.settings, **named})

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(_lower(change, context), (change.address,))


def completed(table: Address, kind: str, name: str, settings: Settings) -> tuple[Settings, tuple[Address, ...]]:
    """Settings with what only live records can differ in, and the references of the record."""
    if settings["initially_deferred"]:
        settings["deferrable"] = True
    columns = [*settings["columns"], *settings["include"]]
    refs = tuple(table.child("column", c) for c in columns)
    return {**settings, "valid": True, "missing": {}}, refs


def deferral(settings: Settings) -> str:
    """`` DEFERRABLE INITIALLY DEFERRED`` or less."""
    if not settings["deferrable"]:
        return ""
    return " DEFERRABLE INITIALLY DEFERRED" if settings["initially_deferred"] else " DEFERRABLE"


def clause(record: Record) -> str:
    """The constraint as CREATE TABLE and ADD CONSTRAINT take it."""
    s = record.settings
    names = [sql.quote_ident(c) for c in s["columns"]]
    if s["without_overlaps"]:
        names[-1] += " WITHOUT OVERLAPS"
    text = f"CONSTRAINT {sql.quote_ident(record.address.name)} {_word(record)} ({', '.join(names)})"
    if s["include"]:
        text += f" INCLUDE {sql.columns(s['include'])}"
    if s["storage"]:
        text += f" WITH ({index_build.parameters(s['storage'])})"
    if s["tablespace"] is not None:
        text += f" USING INDEX TABLESPACE {sql.quote_ident(s['tablespace'])}"
    return text + deferral(s)


def _word(record: Record) -> str:
    if record.address.kind == "primary_key":
        return "PRIMARY KEY"
    return "UNIQUE NULLS NOT DISTINCT" if record.settings["nulls_not_distinct"] else "UNIQUE"


def after_creation(record: Record) -> Iterator[Draft]:
    """What CREATE TABLE has no words for."""
    yield from comments(record, fresh=True)
    if record.settings["clustered"]:
        yield index_build.cluster(record.address, clustered=True)


def _later(record: Record) -> Iterator[Draft]:
    yield from comments(record)
    if record.settings["clustered"]:
        yield index_build.cluster(record.address, clustered=True)


def _lower(change: Change, context: Context) -> tuple[Draft, ...]:
    address, before, after = change.address, change.before, change.after
    if after is None:
        return (drop_constraint(address),)
    if is_fresh(context, table_of(address)):
        return chain(all_fresh((_plain(after), *after_creation(after))))
    if before is None:
        return chain((*_add(after, context), *_later(after)))
    if change.action == "rebuild" or makes_way(before, context):
        return chain((drop_constraint(address, "drop"), *_add(after, context), *_later(after)))
    if change.action == "replace":
        return chain((*_swap(after, context), *_later(after)))
    drafts = [_rename(before.address, address)] if change.action == "rename" else []
    return chain((*drafts, *_update(before, after, context)))


def _rename(old: Address, new: Address) -> Draft:
    names = sql.quote_ident(old.name), sql.quote_ident(new.name)
    return alter(
        new,
        "rename",
        f"RENAME CONSTRAINT {names[0]} TO {names[1]}",
        f"rename constraint {old.name} to {new.name}",
        action="rename",
        makes=(new,),
        destroys=(old,),
        undo=f"RENAME CONSTRAINT {names[1]} TO {names[0]}",
    )


def _plain(after: Record) -> Draft:
    detail = "the index is built while reads and writes wait"
    return alter(
        after.address,
        "",
        f"ADD {clause(after)}",
        f"add {_word(after).lower()} {after.address.name}",
        action="create",
        makes=(after.address,),
        hazards=(blocking(detail),),
        undo=f"DROP CONSTRAINT {sql.quote_ident(after.address.name)}",
    )


def spec_of(record: Record) -> index_build.Spec:
    """The unique index that stands behind the constraint."""
    s = record.settings
    return index_build.Spec(
        items=", ".join(map(sql.quote_ident, s["columns"])),
        method="btree",
        unique=True,
        nulls_not_distinct=bool(s.get("nulls_not_distinct")),
        include=tuple(s["include"]),
        where=None,
        storage=s["storage"],
        tablespace=s["tablespace"],
    )


def _add(after: Record, context: Context) -> Iterator[Draft]:
    """Build the index beside the traffic, then let the constraint take it over."""
    address, table = after.address, table_of(after.address)
    if after.settings["without_overlaps"]:
        yield _plain(after)
        return
    if is_partitioned(context, table):
        yield from _add_partitioned(after, context)
        return
    name = address.name
    yield from index_build.concurrently(address, spec_of(after), name, context)
    taken = _take_over(after, name, f"ADD CONSTRAINT {sql.quote_ident(name)}", "create")
    yield replace(taken, makes=(address, *_former_keys(address, context)))


def _former_keys(address: Address, context: Context) -> Iterator[Address]:
    """A table has one primary key: that of another name goes first."""
    if address.kind == "primary_key":
        for record in context.live.children(table_of(address), "primary_key"):
            if record.address != address:
                yield record.address


def _take_over(after: Record, index: str, clauses: str, action: str) -> Draft:
    address = after.address
    word = "PRIMARY KEY" if address.kind == "primary_key" else "UNIQUE"
    return alter(
        address,
        "",
        f"{clauses} {word} USING INDEX {sql.quote_ident(index)}{deferral(after.settings)}",
        f"{action} {word.lower()} {address.name} on the finished index",
        action=action,
        makes=(address,),
        destroys=(address,) if action == "replace" else (),
        done_if=has_constraint(address, address.name) if action == "create" else None,
        undo=f"DROP CONSTRAINT {sql.quote_ident(address.name)}" if action == "create" else None,
    )


def _add_partitioned(after: Record, context: Context) -> Iterator[Draft]:
    """The parent's constraint first, without its partitions; it is valid once each has a matching one."""
    address = after.address
    yield alter(
        address,
        "",
        f"ADD {clause(after)}",
        f"add {_word(after).lower()} {address.name} to the parent alone",
        action="create",
        only=True,
        makes=(address,),
        done_if=has_constraint(address, address.name),
        undo=f"DROP CONSTRAINT {sql.quote_ident(address.name)}",
    )
    word = "PRIMARY KEY" if address.kind == "primary_key" else "UNIQUE"
    takes = f"{word} USING INDEX {{index}}{deferral(after.settings)}"
    yield from index_build.leaf_by_leaf(address, spec_of(after), context, takes=takes)


def _swap(after: Record, context: Context) -> Iterator[Draft]:
    """Build the new index, then change constraints in one statement: rows are never without their key."""
    address, table = after.address, table_of(after.address)
    name = sql.quote_ident(address.name)
    if is_partitioned(context, table) or after.settings["without_overlaps"]:
        detail = "uniqueness is not kept until the new constraint is complete"
        yield replace(drop_constraint(address, "drop"), hazards=(Hazard("downtime", detail),))
        yield from _add(after, context)
        return
    successor = index_build.successor(address.name)
    yield from index_build.concurrently(address, spec_of(after), successor, context)
    yield _take_over(after, successor, f"DROP CONSTRAINT {name}, ADD CONSTRAINT {name}", "replace")


def _update(before: Record, after: Record, context: Context) -> Iterator[Draft]:
    address, old, new = after.address, before.settings, after.settings
    if old["missing"] != new["missing"]:
        word = "PRIMARY KEY" if address.kind == "primary_key" else "UNIQUE"
        takes = f"{word} USING INDEX {{index}}{deferral(new)}"
        yield from index_build.leaf_by_leaf(address, spec_of(after), context, takes=takes, leaves=old["missing"])
    if old["storage"] != new["storage"]:
        yield index_build.reset(address, old["storage"], new["storage"])
    if old["clustered"] != new["clustered"]:
        yield index_build.cluster(address, clustered=new["clustered"])
    yield from comments(after, old)
