"""CHECK constraints: added without a look at the rows, then validated in a transaction of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog
from provision.postgres.kinds.expression import SQL
from provision.postgres.kinds.ownership import parse
from provision.postgres.kinds.steps import (
    ACCESS_SHARE,
    SHARE_UPDATE_EXCLUSIVE,
    all_fresh,
    alter,
    chain,
    comment_on,
    has_constraint,
    is_fresh,
    makes_way,
    retitled_sql,
    table_of,
)
from provision.postgres.printed import settled
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import column_names, compared_types, numbers, tables, used_by
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Impact, Lowered
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES
ENFORCED = Field("enforced", fields.BOOL, "Whether new rows are checked.", default=True, since=(18,))
VALIDATED = Field("validated", fields.BOOL, "Whether the rows that existed before are proven too.", default=True)
FIELDS = FieldTable(
    Field("expression", SQL, "SQL condition; rows for which it is false are refused.", required=True),
    Field("no_inherit", fields.BOOL, "Not passed on to tables that inherit from this one.", default=False),
    ENFORCED,
    VALIDATED,
    Field("comment", fields.STRING, "The comment stored with the constraint."),
)
#: A check is its expression, or a mapping with options.
SCHEMA = {"anyOf": [SQL.schema, FIELDS.schema()]}
_IN_PLACE = {"comment", "validated"}


def read_all(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Give the checks of one table."""
    for name, body in node.items():
        found = {"expression": body} if isinstance(body, str) else body
        settings = parse(FIELDS, found, (*pointer, name), reader)
        if settings is not None:
            if not settings["enforced"]:
                settings["validated"] = True
            yield Record(table.child("check", name), settings, table, origin=(*pointer, name))


class CheckKind(PlainKind):
    name = "check"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ("expression",)

    def compiles(self, record: Record) -> bool:
        return True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        found, named = tables(catalog), column_names(catalog)
        for row in catalog.rows("constraints"):
            table = found.get(row[1] or "")
            if row[3] != "c" or table is None:
                continue
            settings = {
                "expression": settled(row[18]),
                "no_inherit": row[13] == "t",
                "enforced": row[7] == "t",
                "validated": row[6] == "t" or row[7] != "t",
                "comment": row[19],
            }
            columns = tuple(table.address.child("column", named[table.oid][n]) for n in numbers(row[15]))
            uses = used_by(catalog, "pg_constraint", row[0])
            rigid = dict.fromkeys((*uses.rigid, *compared_types(catalog, table.oid, numbers(row[15]))))
            address = table.address.child("check", str(row[2]))
            refs = dict.fromkeys((*columns, *uses.refs, *rigid))
            yield Record(address, settings, table.address, tuple(refs), tuple(rigid))

    def impact(self, change: Change, facts: Facts) -> Impact:
        before = change.before
        undone = "validated" in change.fields and before is not None and before.settings["validated"]
        return "replace" if undone or set(change.fields) - _IN_PLACE else "none"

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        text = retitled_sql(record.settings["expression"], old, new)
        return record._replace(settings={**record.settings, "expression": text})

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(_lower(change, context), (change.address,))


def is_inline(record: Record) -> bool:
    """Whether CREATE TABLE can make the constraint; an unproven one is added afterwards."""
    return bool(record.settings["validated"])


def clause(record: Record) -> str:
    """The constraint as CREATE TABLE and ADD CONSTRAINT take it."""
    s = record.settings
    text = f"CONSTRAINT {sql.quote_ident(record.address.name)} CHECK ({s['expression']})"
    return text + (" NO INHERIT" if s["no_inherit"] else "") + ("" if s["enforced"] else " NOT ENFORCED")


def comments(record: Record, before: Settings | None = None, *, fresh: bool = False) -> Iterator[Draft]:
    """The comment of a constraint, where it differs. Only reading is needed of the table."""
    what = f"CONSTRAINT {sql.quote_ident(record.address.name)} ON {sql.table_name(record.address)}"
    return comment_on(record.address, what, before, record.settings, fresh=fresh, lock=ACCESS_SHARE)


def drop_constraint(address: Address, key: str = "") -> Draft:
    """DROP CONSTRAINT as a step of its own."""
    return alter(
        address,
        key,
        f"DROP CONSTRAINT {sql.quote_ident(address.name)}",
        f"drop constraint {address.name}",
        action="drop",
        destroys=(address,),
        done_if=f"SELECT NOT ({has_constraint(address, address.name).removeprefix('SELECT ')})",
    )


def swap_constraint(after: Record, wanted: str, noun: str) -> Draft:
    """The old constraint goes and the new one holds for new rows in one statement: there is no gap.

    ``wanted`` is the new constraint's ADD clause, ``noun`` its kind for people.
    """
    address = after.address
    unproven = " NOT VALID" if after.settings["enforced"] else ""
    return alter(
        address,
        "",
        f"DROP CONSTRAINT {sql.quote_ident(address.name)}, ADD {wanted}{unproven}",
        f"replace {noun} {address.name} for new rows",
        action="replace",
        destroys=(address,),
        makes=(address,),
    )


def _lower(change: Change, context: Context) -> tuple[Draft, ...]:
    address, before, after = change.address, change.before, change.after
    if after is None:
        return (drop_constraint(address),)
    if is_fresh(context, table_of(address)):
        drafts = (*_add(after), *comments(after, fresh=True))
        return chain(all_fresh(d for d in drafts if d.key != "validate"))
    if before is None:
        return chain((*_add(after), *comments(after)))
    if change.action == "rebuild" or makes_way(before, context):
        return chain((drop_constraint(address, "drop"), *_add(after), *comments(after)))
    if change.action == "replace":
        return chain((*_swap(after), *comments(after)))
    drafts = _validate(address) if before.settings["validated"] != after.settings["validated"] else ()
    return chain((*drafts, *comments(after, before.settings)))


def _add(after: Record) -> Iterator[Draft]:
    address, s = after.address, after.settings
    yield alter(
        address,
        "",
        f"ADD {clause(after)}" + (" NOT VALID" if s["enforced"] else ""),
        f"add check {address.name} for new rows",
        action="create",
        makes=(address,),
        undo=f"DROP CONSTRAINT {sql.quote_ident(address.name)}",
        done_if=has_constraint(address, address.name),
    )
    if s["enforced"] and s["validated"]:
        yield from _validate(address)


def _validate(address: Address) -> tuple[Draft, ...]:
    return (
        alter(
            address,
            "validate",
            f"VALIDATE CONSTRAINT {sql.quote_ident(address.name)}",
            f"prove {address.name} for the rows that exist",
            lock=SHARE_UPDATE_EXCLUSIVE,
            done_if=has_constraint(address, address.name, "k.convalidated"),
        ),
    )


def _swap(after: Record) -> Iterator[Draft]:
    address, s = after.address, after.settings
    yield swap_constraint(after, clause(after), "check")
    if s["enforced"] and s["validated"]:
        yield from _validate(address)


KIND = CheckKind()
decode = KIND.decode
