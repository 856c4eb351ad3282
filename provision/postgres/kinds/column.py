"""Columns of tables: their options, how they are read and found, and how they come into being with their table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import types
from provision.postgres.catalog import Catalog
from provision.postgres.kinds import column_change
from provision.postgres.kinds.domain import EXPRESSION
from provision.postgres.kinds.expression import SQL
from provision.postgres.kinds.ownership import RENAMED_FROM, parse, renamed_from
from provision.postgres.kinds.steps import retitled_sql
from provision.postgres.printed import settled
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import column_names, names, numbers, options_of, tables, type_refs, used_by
from provision.spec import fields
from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES
_SMALL = (-(2**15), 2**15 - 1)
_INT = (-(2**31), 2**31 - 1)
_BIG = (-(2**63), 2**63 - 1)
_RANGES = {"smallint": _SMALL, "integer": _INT}

IDENTITY = FieldTable(
    Field("generation", fields.enum("always", "by_default"), "Whether INSERT may give a value.", required=True),
    Field("start", fields.integer(), "The first value."),
    Field("increment", fields.integer(), "The step between values.", default=1),
    Field("min", fields.integer(), "The smallest value."),
    Field("max", fields.integer(), "The largest value."),
    Field("cache", fields.integer(1), "How many values a session takes at once.", default=1),
    Field("cycle", fields.BOOL, "Start over at the end.", default=False),
)
GENERATED = FieldTable(
    Field("expression", SQL, "SQL over other columns of the row.", required=True),
    Field("stored", fields.BOOL, "Kept on disk, or computed on reading (PostgreSQL 18).", default=True),
)
_WORD = fields.enum("always", "by_default")
_OPTIONS = FieldTable(
    Field("n_distinct", fields.number(-1), "Assumed number of distinct values; negative is a share of the rows."),
    Field("n_distinct_inherited", fields.number(-1), "The same for a table together with its children."),
)
_BARE_COLLATION = re.compile(r"^[a-z_][a-z0-9_$]*\.")


def _identity(value: Any) -> Settings:
    return IDENTITY.parse({"generation": value} if isinstance(value, str) else value)


def _generated(value: Any) -> Settings:
    return GENERATED.parse({"expression": value} if isinstance(value, str) else value)


def _options(value: Any) -> Settings:
    return {k: v for k, v in _OPTIONS.parse(value).items() if v is not None}


def collation(text: str) -> str:
    """A collation of pg_catalog by its bare name (``C``, ``en_US.utf8``), any other as ``"schema"."name"``."""
    if '"' not in text and not _BARE_COLLATION.match(text):
        return text
    parts: list[str] = [p.strip('"') for p in re.findall(r'"[^"]+"|[^".]+', text)]
    if len(parts) > 2:
        raise FieldError(f"not a collation: {text!r}", help='Write "schema"."name", or the name alone.')
    if len(parts) == 1 or parts[0] == "pg_catalog":
        return parts[-1]
    return f'"{parts[0]}"."{parts[1]}"'


COLLATION = fields.Type({"type": "string", "minLength": 1}, collation)
FIELDS = FieldTable(
    Field("type", types.TYPE, "The data type; types that are not built in name their schema.", required=True),
    Field("nullable", fields.BOOL, "Whether NULL is allowed; columns of the primary key never are.", default=True),
    Field("default", EXPRESSION, "SQL expression for rows that give no value."),
    Field(
        "identity",
        fields.any_of(_WORD, fields.object_of(IDENTITY), parse=_identity),
        "Values come from a sequence of the column.",
    ),
    Field(
        "generated",
        fields.any_of(SQL, fields.object_of(GENERATED), parse=_generated),
        "The value is computed from other columns.",
    ),
    Field("collation", COLLATION, "Another sort order than the type's."),
    Field(
        "storage",
        fields.enum("plain", "external", "extended", "main"),
        "How large values are kept (TOAST); without it, as the type says.",
    ),
    Field(
        "compression",
        fields.any_of(fields.enum("pglz", "lz4", "default"), parse=lambda value: None if value == "default" else value),
        "How large values are compressed.",
    ),
    Field("statistics", fields.integer(0, 10000), "Detail of the statistics that ANALYZE collects."),
    Field("options", fields.any_of(fields.object_of(_OPTIONS), parse=_options), "Planner options.", default={}),
    Field("comment", fields.STRING, "The comment stored with the column."),
    extra=RENAMED_FROM,
)

_STORAGE = {"p": "plain", "e": "external", "x": "extended", "m": "main"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def read_columns(
    table: Address, node: Mapping[str, Any], keys: frozenset[str], pointer: Pointer, reader: Reader
) -> Iterator[Record]:
    """Give the columns of one table. ``keys`` are the columns of its primary key, which are never NULL."""
    for name, body in node.items():
        place = (*pointer, name)
        settings = parse(FIELDS, body, place, reader)
        if settings is None:
            continue
        if name in keys or settings["identity"] is not None:
            settings["nullable"] = False
        settings["identity"] = bounded(settings["identity"], settings["type"])
        if settings["storage"] == types.default_storage(settings["type"]):
            settings["storage"] = None
        address = table.child("column", name)
        yield Record(address, settings, table, origin=place, renamed_from=renamed_from(address, body))


def bounded(identity: Settings | None, type_name: str) -> Settings | None:
    """Fill in the bounds that CREATE SEQUENCE would choose (PostgreSQL docs, CREATE SEQUENCE)."""
    if identity is None:
        return None
    least, most = _RANGES.get(type_name, _BIG)
    rising = identity["increment"] > 0
    low = identity["min"] if identity["min"] is not None else (1 if rising else least)
    high = identity["max"] if identity["max"] is not None else (most if rising else -1)
    start = identity["start"] if identity["start"] is not None else (low if rising else high)
    return {**identity, "start": start, "min": low, "max": high}


class ColumnKind(PlainKind):
    name = "column"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ("default", "generated", "storage", "collation")

    def compiles(self, record: Record) -> bool:
        """Whether the record holds text that only a server brings to its normal form."""
        return any(record.settings[name] is not None for name in self.expressions)

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        found, named, collations = tables(catalog), column_names(catalog), names(catalog).collations
        for row in catalog.rows("columns"):
            (relation, _, name, type_name, not_null, unproven, expression, default, identity, generated,
             sort, storage, compression, statistics, options, comment, sequence, reads, _) = row  # fmt: skip
            table = found.get(relation or "")
            if table is None or type_name is None or name is None:
                continue
            refs = type_refs(catalog, type_name)
            rigid: tuple[Address, ...] = ()
            if default is not None:
                refs += tuple(r for r in used_by(catalog, "pg_attrdef", default).refs if r not in refs)
            if generated:
                columns = named[table.oid]
                rigid = tuple(table.address.child("column", columns[n]) for n in numbers(reads))
                rigid += used_by(catalog, "pg_attrdef", default).rigid
                refs += tuple(r for r in rigid if r not in refs)
            settings: Settings = {
                "type": type_name,
                "nullable": not_null == "f" or (unproven == "t" and "not valid"),
                "default": None if generated else settled(expression),
                "identity": _live_identity(identity, sequence) if identity else None,
                "generated": {"expression": settled(expression), "stored": generated == "s"} if generated else None,
                "collation": collations.get(sort) if sort is not None else None,
                "storage": _STORAGE[storage] if storage is not None else None,
                "compression": _COMPRESSION[compression] if compression else None,
                "statistics": int(statistics) if statistics is not None else None,
                "options": options_of(options),
                "comment": comment,
            }
            yield Record(table.address.child("column", name), settings, table.address, refs, rigid)

    def impact(self, change: Change, facts: Facts) -> Impact:
        return column_change.impact(change, facts)

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        settings = dict(record.settings)
        if old.kind == "column" and settings["generated"] is not None:
            text = retitled_sql(settings["generated"]["expression"], old, new)
            settings["generated"] = {**settings["generated"], "expression": text}
        elif old.kind in ("schema", "enum", "domain", "type"):
            settings["type"] = retitled_sql(settings["type"], old, new)
            settings["default"] = retitled_sql(settings["default"], old, new)
        elif old.kind == "function":
            settings["default"] = retitled_sql(settings["default"], old, new)
        return record._replace(settings=settings)

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(column_change.lower(change, context), (change.address,))


def _live_identity(kind: str, sequence: str | None) -> Settings:
    generation = "always" if kind == "a" else "by_default"
    known = json.loads(sequence or "{}")
    known.pop("type", None)  # of the sequence, where it is not the column's: told as unmodelled
    return {"generation": generation, **known}


KIND = ColumnKind()
decode = KIND.decode
