"""Indexes that no constraint owns: every method, expressions, predicates, operator classes, storage parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Row
from provision.postgres.kinds import index_build
from provision.postgres.kinds.column import COLLATION
from provision.postgres.kinds.column_type import collation_sql
from provision.postgres.kinds.expression import SQL, embedded
from provision.postgres.kinds.index_change import IN_PLACE, IN_PLACE_STORAGE, lower
from provision.postgres.kinds.key_constraint import STORAGE
from provision.postgres.kinds.ownership import parse
from provision.postgres.kinds.steps import retitled, retitled_sql
from provision.postgres.printed import settled
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import (
    Table,
    column_names,
    compared_types,
    index_attributes,
    names,
    numbers,
    once,
    options_of,
    tables,
    used_by,
)
from provision.spec import fields
from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import Field, FieldError, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES

_NAME = Type({"type": "string", "minLength": 1})
ITEM = FieldTable(
    Field("column", _NAME, "A column of the table."),
    Field("expression", SQL, "SQL over columns of the row, instead of a column."),
    Field("order", fields.enum("asc", "desc"), "Ascending or descending.", default="asc"),
    Field("nulls", fields.enum("first", "last"), "Where NULLs go; last when ascending, first when descending."),
    Field("opclass", _NAME, "The operator class, if not the type's own, e.g. public.vector_cosine_ops."),
    Field("opclass_params", STORAGE, "Parameters of the operator class.", default={}),
    Field("collation", COLLATION, "Another sort order than the column's."),
)


def _items(value: list[Any]) -> list[Any]:
    return [embedded(v) if isinstance(v, str) else ITEM.parse(v) for v in value]


_COLUMNS = Type(
    {"type": "array", "items": {"anyOf": [{"type": "string", "minLength": 1}, ITEM.schema()]}, "minItems": 1}, _items
)
FIELDS = FieldTable(
    Field("columns", _COLUMNS, "Columns or SQL expressions, each alone or with options.", required=True),
    Field("method", _NAME, "The access method: btree, gin, gist, brin, hash, hnsw, ivfflat …", default="btree"),
    Field("unique", fields.BOOL, "Whether two rows may be equal in it.", default=False),
    Field("nulls_not_distinct", fields.BOOL, "Whether two NULLs count as equal.", default=False),
    Field("include", fields.list_of(_NAME), "Further columns kept in the index only.", default=[]),
    Field("where", SQL, "Only rows that meet this condition are indexed."),
    Field("storage", STORAGE, "Storage parameters: fillfactor, fastupdate, lists, m, ef_construction …", default={}),
    Field("tablespace", _NAME, "Where the index is kept; without it, the database's tablespace."),
    Field(
        "statistics",
        Type(
            fields.map_of(fields.integer(0, 10000), key_pattern=r"^\d+$").schema,
            lambda value: {str(k): v for k, v in value.items()},
        ),
        "Detail of the statistics of expressions, by their number counted from 1.",
        default={},
    ),
    Field("clustered", fields.BOOL, "CLUSTER without an index name sorts the table by this one.", default=False),
    Field("comment", fields.STRING, "The comment stored with the index."),
)
SCHEMA = {"anyOf": [_COLUMNS.schema, FIELDS.schema()]}


def read_all(
    table: Address, node: Mapping[str, Any], columns: frozenset[str], pointer: Pointer, reader: Reader
) -> Iterator[Record]:
    """Give the indexes of one table. A string in ``columns`` is a column if the table has it, else an expression."""
    for name, body in node.items():
        place = (*pointer, name)
        settings = parse(FIELDS, {"columns": body} if isinstance(body, list) else body, place, reader)
        if settings is None:
            continue
        try:
            settings["columns"] = [_item(i, item, columns) for i, item in enumerate(settings["columns"])]
        except FieldError as error:
            reader.fail(place, error)
            continue
        settings |= {"valid": True, "missing": {}}
        found = [i["column"] for i in settings["columns"] if "column" in i]
        refs = tuple(table.child("column", c) for c in (*found, *settings["include"]))
        yield Record(table.child("index", name), settings, table, refs, origin=place)


def _item(number: int, item: str | Settings, columns: frozenset[str]) -> Settings:
    s: Settings = ITEM.parse({}) | ({"expression": item} if isinstance(item, str) else item)
    if isinstance(item, str) and item in columns:
        s |= {"column": item, "expression": None}
    if (s["column"] is None) == (s["expression"] is None):
        raise FieldError("one of column and expression is needed", path=("columns", number))
    key = "column" if s["column"] is not None else "expression"
    nulls = s["nulls"] or ("first" if s["order"] == "desc" else "last")
    rest = {k: s[k] for k in ("opclass", "opclass_params", "collation")}
    return {key: s[key], "order": s["order"], "nulls": nulls, **rest}


class IndexKind(PlainKind):
    name = "index"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ("columns", "where")

    def compiles(self, record: Record) -> bool:
        """Whether the record holds text that only a server brings to its normal form."""
        s = record.settings
        return s["where"] is not None or any(
            "expression" in i or i["opclass"] or i["collation"] or i["opclass_params"] for i in s["columns"]
        )

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        found, owned = tables(catalog), _owned(catalog)
        for row in catalog.rows("indexes"):
            table = found.get(row[1] or "")
            if table is not None and row[0] not in owned:
                yield _decode_one(catalog, table, row)

    def impact(self, change: Change, facts: Facts) -> Impact:
        if set(change.fields) - IN_PLACE or change.before is None or change.after is None:
            return "replace"
        old, new = change.before.settings["storage"], change.after.settings["storage"]
        moved = {k for k in {*old, *new} if old.get(k) != new.get(k)}
        return "replace" if moved - IN_PLACE_STORAGE else "none"

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        s = dict(record.settings)
        if old.kind == "column":
            s["include"] = retitled(s["include"], old.name, new.name)
        s["columns"] = [_retitled_item(i, old, new) for i in s["columns"]]
        s["where"] = retitled_sql(s["where"], old, new)
        return record._replace(settings=s)

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(lower(change, spec_of, context), (change.address,))


def _retitled_item(item: Settings, old: Address, new: Address) -> Settings:
    if "expression" in item:
        return {**item, "expression": retitled_sql(item["expression"], old, new)}
    return {**item, "column": new.name} if old.kind == "column" and item["column"] == old.name else item


@once
def _owned(catalog: Catalog) -> frozenset[str]:
    """The indexes of constraints, which are no records of their own."""
    return frozenset(str(r[8]) for r in catalog.rows("constraints") if r[3] in ("p", "u", "x"))


def _decode_one(catalog: Catalog, table: Table, row: Row) -> Record:
    columns = column_names(catalog)[table.oid]
    keys, count = numbers(row[10]), int(str(row[9]))
    attributes = index_attributes(row)
    settings: Settings = {
        "columns": _live_items(catalog, table, row, attributes),
        "method": row[3],
        "unique": row[4] == "t",
        "nulls_not_distinct": row[5] == "t",
        "include": [columns[n] for n in keys[count:]],
        "where": settled(row[15]),
        "storage": dict(sorted(options_of(row[16]).items())),
        "tablespace": row[17],
        "statistics": {n: a[0] for n, a in attributes.items() if a[0] is not None and a[0] >= 0},
        "clustered": row[8] == "t",
        "comment": row[18],
        "valid": row[6] == "t" or row[20] is not None,
        "missing": index_build.missing(row),
    }
    read = dict.fromkeys((*(n for n in keys if n != "0"), *numbers(row[21])))
    uses = used_by(catalog, "pg_class", row[0])
    compared = compared_types(catalog, table.oid, read) if settings["where"] else ()
    rigid = tuple(dict.fromkeys((*uses.rigid, *compared)))
    refs = dict.fromkeys((*(table.address.child("column", columns[n]) for n in read), *uses.refs, *rigid))
    return Record(table.address.child("index", str(row[2])), settings, table.address, tuple(refs), rigid)


def _live_items(catalog: Catalog, table: Table, row: Row, attributes: Mapping[str, Any]) -> list[Settings]:
    known, columns, own = names(catalog), column_names(catalog)[table.oid], _collations(catalog)
    keys, options, classes, sorts = (numbers(row[i]) for i in (10, 11, 12, 13))
    definitions = json.loads(row[14]) if row[14] else ()
    items = []
    for i, option in enumerate(options):
        key = keys[i]
        flags = int(option)
        usual = own.get((table.oid, key), _DEFAULT_COLLATION) if key != "0" else _DEFAULT_COLLATION
        parameters = attributes.get(str(i + 1))
        items.append(
            {
                **({"column": columns[key]} if key != "0" else {"expression": settled(definitions[i])}),
                "order": "desc" if flags & 1 else "asc",
                "nulls": "first" if flags & 2 else "last",
                "opclass": known.opclasses.get(classes[i]),
                "opclass_params": _parameters(parameters[1]) if parameters is not None else {},
                "collation": known.collations.get(sorts[i]) if sorts[i] not in ("0", usual) else None,
            }
        )
    return items


#: pg_collation's "default" (DEFAULT_COLLATION_OID).
_DEFAULT_COLLATION = "100"


def _parameters(options: list[str] | None) -> Settings:
    pairs = (option.partition("=") for option in options or ())
    return dict(sorted((name, index_build.option_value(value)) for name, _, value in pairs))


@once
def _collations(catalog: Catalog) -> dict[tuple[str, str], str]:
    """The collations of columns that have another than the default, by table and number."""
    return {
        (str(r[0]), str(r[1])): str(r[18]) for r in catalog.rows("columns") if r[18] not in ("0", _DEFAULT_COLLATION)
    }


def spec_of(settings: Mapping[str, Any]) -> index_build.Spec:
    """The parts of an index as SQL."""
    return index_build.Spec(
        items=", ".join(_item_sql(i) for i in settings["columns"]),
        method=settings["method"],
        unique=settings["unique"],
        nulls_not_distinct=settings["nulls_not_distinct"],
        include=tuple(settings["include"]),
        where=settings["where"],
        storage=settings["storage"],
        tablespace=settings["tablespace"],
    )


def _item_sql(item: Mapping[str, Any]) -> str:
    text = sql.quote_ident(item["column"]) if "column" in item else f"({item['expression']})"
    if item["collation"] is not None:
        text += f" COLLATE {collation_sql(item['collation'])}"
    if item["opclass"] is not None:
        text += f" {item['opclass']}"
        if item["opclass_params"]:
            text += f" ({index_build.parameters(item['opclass_params'])})"
    usual = "first" if item["order"] == "desc" else "last"
    if item["order"] == "desc":
        text += " DESC"
    return text if item["nulls"] == usual else f"{text} NULLS {item['nulls'].upper()}"


KIND = IndexKind()
decode = KIND.decode
