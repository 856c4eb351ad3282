"""Tables: their own options, the reader of everything nested in them, and CREATE TABLE, which absorbs their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres.catalog import Catalog
from provision.postgres.kinds import check, column, foreign_key, index, partitions, primary_key, table_change, unique
from provision.postgres.kinds.ownership import (
    COMMENT,
    NAMES,
    OWNER,
    RENAMED_FROM,
    keep_live,
    parse,
    renamed_from,
    role_refs,
)
from provision.postgres.kinds.partition_key import live_key, wanted_key
from provision.postgres.kinds.steps import retitled
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.relations import (
    Table,
    commonest,
    index_rows,
    leaves,
    option_value,
    table_options,
    tables,
)
from provision.spec import fields
from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import Field, FieldTable, Json
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

QUERIES = RELATION_QUERIES

_PARAMETER = fields.Type({"type": ["number", "boolean", "string"]}, option_value)
_ROW_SECURITY = FieldTable(
    Field("enabled", fields.BOOL, "Policies apply to everybody but the owner.", default=False),
    Field("force", fields.BOOL, "Policies apply to the owner too.", default=False),
)
_INDEX_IDENTITY = FieldTable(Field("index", fields.STRING, "A unique index over NOT NULL columns.", required=True))


def _row_security(value: Any) -> Settings:
    return _ROW_SECURITY.parse({"enabled": value} if isinstance(value, bool) else value)


FIELDS = FieldTable(
    OWNER,
    COMMENT,
    Field("unlogged", fields.BOOL, "Not written to the log: fast, and empty after a crash.", default=False),
    Field(
        "replica_identity",
        fields.any_of(
            fields.enum("default", "full", "nothing"), fields.object_of(_INDEX_IDENTITY), parse=lambda value: value
        ),
        "What logical replication tells of old rows.",
        default="default",
    ),
    Field(
        "storage",
        fields.Type(
            fields.map_of(_PARAMETER, key_pattern=r"^(toast\.)?[a-z_0-9]+$").schema,
            lambda value: dict(sorted((k, option_value(v)) for k, v in value.items() if v is not None)),
        ),
        "Storage parameters, among them autovacuum_*; of a partitioned table they are set on the partitions.",
        default={},
    ),
    Field(
        "row_security",
        fields.any_of(fields.BOOL, fields.object_of(_ROW_SECURITY), parse=_row_security),
        "Row-level security; its policies stand under policies.",
        default={"enabled": False, "force": False},
    ),
    Field("tablespace", fields.STRING, "Where the table is kept; without it, the database's tablespace."),
    Field("access_method", fields.STRING, "The table access method; without it, heap."),
    Field("touch", fields.STRING, "The column that says when a row was last changed; kept by a trigger or the writer."),
    Field("writer_touches", fields.BOOL, "Whoever writes the row sets the touch column.", default=False),
    Field(
        "access_orders",
        fields.map_of(fields.list_of(fields.STRING, min_items=1)),
        "Orders in which the application reads rows; check wants an index for each.",
        default={},
    ),
    Field("prune", fields.BOOL, "Drop undeclared parts of the table, each with a consent.", default=False),
    extra=RENAMED_FROM,
)
_REPLICA_IDENTITY = {"d": "default", "f": "full", "n": "nothing"}


def table_schema() -> Json:
    """The JSON Schema of one table with everything nested in it."""
    from provision.postgres.kinds import grant, policy, trigger

    schema = FIELDS.schema()
    schema["properties"] |= {
        "columns": {**_named(column.FIELDS.schema()), "minProperties": 0},
        "primary_key": primary_key.SCHEMA,
        "unique": _named(unique.SCHEMA),
        "foreign_keys": _named(foreign_key.FIELDS.schema()),
        "checks": _named(check.SCHEMA),
        "indexes": _named(index.SCHEMA),
        "partitions": partitions.SCHEMA,
        "policies": _named(policy.FIELDS.schema()),
        "triggers": _named(trigger.FIELDS.schema()),
        "grants": grant.GRANTS_SCHEMA,
    }
    schema["required"] = ["columns"]
    return schema


def _named(schema: Mapping[str, Any]) -> Json:
    return {"type": "object", "additionalProperties": schema, "propertyNames": NAMES}


def read_tables(schema_address: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Give the records of all tables under ``schemas.X.tables``, each table before its parts."""
    for name, body in node.items():
        yield from _read_table(schema_address.child("table", name, bare=True), body, (*pointer, name), reader)


def _read_table(address: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    settings = parse(FIELDS, node, pointer, reader)
    if settings is None:
        return
    key = primary_key.read(address, node, pointer, reader)
    keys = frozenset(key.settings["columns"]) if key is not None else frozenset()
    columns = list(column.read_columns(address, node.get("columns") or {}, keys, (*pointer, "columns"), reader))
    split = partitions.read(address, node.get("partitions"), columns, (*pointer, "partitions"), reader)
    settings["partitioned"] = wanted_key(split, columns)
    settings["deviating"] = {}
    refs = (*role_refs(address.target, settings["owner"]), *_key_columns(address, settings))
    parent = address._replace(kind="schema", path=address.path[:1])
    yield Record(address, settings, parent, refs, origin=pointer, renamed_from=renamed_from(address, node))
    yield from columns
    yield from (r for r in (key, split) if r is not None)
    names = frozenset(c.address.name for c in columns)
    yield from unique.read_all(address, node.get("unique") or {}, (*pointer, "unique"), reader)
    yield from foreign_key.read_all(address, node.get("foreign_keys") or {}, (*pointer, "foreign_keys"), reader)
    yield from check.read_all(address, node.get("checks") or {}, (*pointer, "checks"), reader)
    yield from index.read_all(address, node.get("indexes") or {}, names, (*pointer, "indexes"), reader)
    yield from _read_guests(address, node, pointer, reader)


def _read_guests(address: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    from provision.postgres.kinds.grant import read_grants
    from provision.postgres.kinds.policy import read_policies
    from provision.postgres.kinds.trigger import read_triggers

    for key, read in (("policies", read_policies), ("triggers", read_triggers)):
        if node.get(key):
            yield from read(address, node[key], (*pointer, key), reader)
    yield from read_grants(address, node.get("grants") or {}, (*pointer, "grants"), reader, node.get("owner"))


def _key_columns(address: Address, settings: Settings) -> tuple[Address, ...]:
    """The columns of the partition key: a partitioned table cannot outlive them."""
    split = settings["partitioned"]
    if split is None:
        return ()
    return tuple(address.child("column", k) for k in split["key"] if split["types"][k] is not None)


class TableKind(PlainKind):
    name = "table"
    system = "pg"
    fields = FIELDS
    spec_only = frozenset({"touch", "writer_touches", "access_orders", "prune"})
    left_to_server = frozenset({"owner"})
    expressions: tuple[str, ...] = ("partitioned",)
    takes_children = True

    def compiles(self, record: Record) -> bool:
        """Whether the partition key holds an expression."""
        split = record.settings["partitioned"]
        return split is not None and None in split["types"].values()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        identities = {r[1]: r[2] for r in index_rows(catalog).values() if r[7] == "t"}
        for found in tables(catalog).values():
            identity = _REPLICA_IDENTITY.get(found.replica_identity) or {"index": identities.get(found.oid)}
            settings = {
                "owner": found.owner,
                "comment": found.comment,
                "unlogged": found.persistence == "u",
                "replica_identity": identity,
                **_storage(catalog, found),
                "row_security": {"enabled": found.row_security, "force": found.force_row_security},
                "tablespace": found.tablespace,
                "access_method": None if found.method == "heap" else found.method,
                "touch": None,
                "writer_touches": False,
                "access_orders": {},
                "prune": False,
                "partitioned": live_key(catalog, found),
            }
            address = found.address
            refs = (*role_refs(catalog.target, found.owner), *_key_columns(address, settings))
            yield Record(address, settings, address._replace(kind="schema", path=address.path[:1]), refs)

    def impact(self, change: Change, facts: Facts) -> Impact:
        """Nothing turns a plain table into a partitioned one, or splits it another way."""
        return "replace" if "partitioned" in change.fields else "none"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        if desired is None or live is None:
            return desired, live
        ours = {name: desired.settings[name] for name in self.spec_only}
        wanted, split = desired.settings["partitioned"], live.settings["partitioned"]
        if live.settings["storage"] is None:
            ours["storage"] = desired.settings["storage"]
        if wanted is not None and split is not None and split["modulus"] is None:
            ours["partitioned"] = {**split, "modulus": wanted["modulus"]}
        return keep_live(desired, live, *self.left_to_server), live._replace(settings={**live.settings, **ours})

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        settings = dict(record.settings)
        if old.kind == "role" and settings["owner"] == old.name:
            settings["owner"] = new.name
        if old.kind == "column" and settings["partitioned"] is not None:
            split = settings["partitioned"]
            types = {new.name if k == old.name else k: v for k, v in split["types"].items()}
            settings["partitioned"] = {**split, "key": retitled(split["key"], old.name, new.name), "types": types}
        return record._replace(settings=settings)

    def lower(self, change: Change, context: Context) -> Lowered:
        return table_change.lower(change, context)


def _storage(catalog: Catalog, found: Table) -> Settings:
    """Storage parameters; of a partitioned table those that most partitions have, and the others by name.

    None while it has no partition: nothing shows what they would be.
    """
    if not found.is_partitioned:
        return {"storage": table_options(found.options, found.toast_options), "deviating": {}}
    parts = list(leaves(catalog, found.oid))
    if not parts:
        return {"storage": None, "deviating": {}}
    usual = commonest((p.options, p.toast_options) for p in parts)
    storage = table_options(*usual)
    deviating = {}
    for part in parts:
        if (part.options, part.toast_options) != usual:
            own = table_options(part.options, part.toast_options)
            if own != storage:
                deviating[partitions.member_key(found.address, part.schema, part.name)] = own
    return {"storage": storage, "deviating": deviating}


TABLE_SCHEMA = table_schema()
KIND = TableKind()
decode = KIND.decode
