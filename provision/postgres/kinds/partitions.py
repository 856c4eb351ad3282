"""Partition sets: declared as a policy; their partitions are members, which maintenance adds and retires."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog
from provision.postgres.kinds import partition_change
from provision.postgres.kinds.expression import SQL, embedded
from provision.postgres.kinds.ownership import parse
from provision.postgres.kinds.partition_key import live_key
from provision.postgres.kinds.partition_like import pattern
from provision.postgres.kinds.partition_members import (
    covered,
    default_name,
    list_values,
    normal_bound,
)
from provision.postgres.kinds.steps import retitled
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import Partition, Table, leaves, tables
from provision.postgres.relations import partitions as live_partitions
from provision.spec import fields
from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import Field, FieldError, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES
_VALUE = Type({"type": ["string", "number", "boolean", "null"]})


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


_VALUES = Type(
    {"type": "object", "additionalProperties": {"type": "array", "items": _VALUE.schema, "minItems": 1}},
    lambda value: {suffix: [_text(v) for v in values] for suffix, values in value.items()},
)
_KEY = fields.any_of(
    SQL,
    fields.list_of(SQL, min_items=1),
    parse=lambda value: [embedded(v) for v in ([value] if isinstance(value, str) else value)],
)
FIELDS = FieldTable(
    Field("by", fields.enum("hash", "list", "range"), "How rows are assigned to partitions.", required=True),
    Field("key", _KEY, "The columns or SQL expressions that decide.", required=True),
    Field("modulus", fields.integer(1), "hash: how many partitions; they are named TABLE_0, TABLE_1 and so on."),
    Field("values", _VALUES, "list: the values of each partition, by the end of its name."),
    Field("every", fields.INTERVAL, "range: what one partition holds, counted in UTC, or in whole numbers."),
    Field("premake", fields.integer(0), "range: how many partitions after the current one are made.", default=7),
    Field("min_ahead", fields.integer(0), "range: how many of them must be there; half of premake, rounded up."),
    Field("retain", fields.INTERVAL, "range: how long rows are kept; without it, for ever."),
    Field("on_expiry", fields.enum("drop", "detach", "archive"), "range: what happens then.", default="drop"),
    Field(
        "default",
        fields.any_of(fields.BOOL, fields.STRING, parse=lambda value: value),
        "A partition for rows that no other takes; false refuses one, unset leaves it alone.",
    ),
    Field(
        "start",
        fields.any_of(fields.TIME, fields.integer(), parse=lambda value: value),
        "range: where the first partition begins; without it, one interval before now.",
    ),
)
SCHEMA = {"anyOf": [FIELDS.schema(), {"type": "null"}]}
_EXAMPLES = {"hash": "8", "list": "{small: [a, b]}", "range": "1 day"}
_NEEDS = {"hash": "modulus", "list": "values", "range": "every"}
#: What members stand for; another one means another table, with members of its own.
_LAYOUT = ("by", "key", "modulus")
#: Said by the spec alone; members show what came of it.
_POLICY = frozenset({"values", "every", "premake", "min_ahead", "retain", "on_expiry", "start", "key_type"})


def read(
    table: Address, node: Mapping[str, Any] | None, columns: Iterable[Record], pointer: Pointer, reader: Reader
) -> Record | None:
    """Give the partition set of a table. Its members are filled in by ``settle``, which knows the time."""
    if not node:
        return None
    settings = parse(FIELDS, node, pointer, reader)
    if settings is None:
        return None
    needed = _NEEDS[settings["by"]]
    if settings[needed] is None and not (settings["by"] == "list" and settings["default"]):
        help = f"Add {needed}, e.g. {_EXAMPLES[settings['by']]}."
        reader.fail(pointer, FieldError(f"partitions by {settings['by']} need {needed}", help=help))
        return None
    if settings["min_ahead"] is None:
        settings["min_ahead"] = -(-settings["premake"] // 2)
    if settings["default"] is True:
        settings["default"] = default_name(table.name)
    types = {c.address.name: c.settings["type"] for c in columns}
    key = settings["key"]
    settings |= {"key_type": types.get(key[0]), "members": {}, "subpartitioned": {}, "like": {}, "detaching": []}
    return Record(table.child("partitions", "set"), settings, table, (), origin=pointer)


class PartitionsKind(PlainKind):
    name = "partitions"
    system = "pg"
    fields = FIELDS
    spec_only = _POLICY
    left_to_server = frozenset({"default", "members", "subpartitioned", "like", "detaching"})
    expressions: tuple[str, ...] = ("key",)

    def compiles(self, record: Record) -> bool:
        """Whether the key may hold an expression: its first item, or a later one that is no plain name."""
        s = record.settings
        return s["key_type"] is None or any(not k.isidentifier() for k in s["key"])

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for table in tables(catalog).values():
            split = live_key(catalog, table)
            if split is not None:
                yield _decode_one(catalog, table, split)

    def impact(self, change: Change, facts: Facts) -> Impact:
        """Another strategy, key or modulus needs another table."""
        return "replace" if set(_LAYOUT) & set(change.fields) else "none"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: datetime
    ) -> tuple[Record | None, Record | None]:
        """Compare the policy with what there is: what is missing is wanted, what is more is no difference."""
        if desired is None:
            return desired, live
        table = desired.address._replace(kind="table", path=desired.address.path[:-2])
        found = live.settings if live is not None else None
        kept = found["members"] if found is not None and _is_laid_out(found, desired.settings) else None
        members = covered(table.name, desired.settings, kept, clock)
        settings = {**desired.settings, "members": members}
        if live is None or found is None:
            return desired._replace(settings=settings), live
        settings |= {"subpartitioned": found["subpartitioned"], "like": found["like"]}
        ours = {name: settings[name] for name in self.spec_only}
        if found["modulus"] is None:
            ours["modulus"] = settings["modulus"]
        if settings["default"] is None or (settings["default"] and found["default"]):
            settings["default"] = found["default"]
        return desired._replace(settings=settings), live._replace(settings={**found, **ours})

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        if old.kind != "column":
            return record
        return record._replace(
            settings={**record.settings, "key": retitled(record.settings["key"], old.name, new.name)}
        )

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(partition_change.lower(change, context), (change.address,))


def _is_laid_out(found: Settings, wanted: Settings) -> bool:
    """Whether the live members can stay. Hash partitions that were split by hand have no modulus in common."""
    return all(found[k] in (None, wanted[k]) for k in _LAYOUT)


def _decode_one(catalog: Catalog, table: Table, split: Settings) -> Record:
    parts = live_partitions(catalog).get(table.oid, [])
    key_type = split["types"][split["key"][0]]
    members = {member_key(table.address, p.schema, p.name): normal_bound(p.bound, key_type) for p in parts}
    default = next((name for name, bound in members.items() if bound == "DEFAULT"), False)
    listed = split["by"] == "list"
    settings: Settings = {
        "by": split["by"],
        "key": split["key"],
        "modulus": split["modulus"],
        "values": list_values(table.address.name, members) if listed else None,
        "every": None,
        "premake": 7,
        "min_ahead": 4,
        "retain": None,
        "on_expiry": "drop",
        "default": default,
        "start": None,
        "key_type": key_type,
        "members": members,
        "subpartitioned": _deeper(catalog, table, parts),
        "like": pattern(catalog, split["key"], parts) if split["by"] == "range" else {},
        "detaching": [member_key(table.address, p.schema, p.name) for p in parts if p.detaching],
    }
    return Record(table.address.child("partitions", "set"), settings, table.address)


def _deeper(catalog: Catalog, table: Table, parts: list[Partition]) -> Settings:
    """The leaves below members that are partitioned themselves."""
    return {
        member_key(table.address, p.schema, p.name): [sql.qualified(q.schema, q.name) for q in leaves(catalog, p.oid)]
        for p in parts
        if p.kind == "p"
    }


def member_key(table: Address, schema: str, name: str) -> str:
    """A member's name: bare in the schema of its table, else quoted with its schema."""
    return name if schema == table.names[0] else f'"{schema}"."{name}"'


KIND = PartitionsKind()
decode = KIND.decode
