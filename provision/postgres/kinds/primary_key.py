"""Primary keys: a list of columns, or a mapping with options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.postgres.kinds.key_constraint import COLUMNS, KeyKind, completed
from provision.postgres.kinds.key_constraint import FIELDS as KEY_FIELDS
from provision.postgres.kinds.ownership import parse
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.postgres.sql import bounded
from provision.spec import fields
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Pointer, Record

QUERIES = RELATION_QUERIES
FIELDS = FieldTable(*KEY_FIELDS)
_NAMED = FieldTable(Field("name", fields.STRING, "The constraint's name; without it, TABLE_pkey."), *KEY_FIELDS)
SCHEMA = {"anyOf": [COLUMNS.schema, _NAMED.schema()]}


class PrimaryKeyKind(KeyKind):
    name = "primary_key"
    fields = FIELDS
    contype = "p"


def read(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Record | None:
    """Give the primary key of a table, if it has one. A renamed table's key of the usual name is renamed with it."""
    body = node.get("primary_key")
    if not body:
        return None
    place = (*pointer, "primary_key")
    settings = parse(FIELDS, {"columns": body} if isinstance(body, list) else body, place, reader)
    if settings is None:
        return None
    name = body.get("name") if isinstance(body, Mapping) else None
    address = table.child("primary_key", name or default_name(table.name))
    settings, refs = completed(table, address.kind, address.name, settings)
    old = node.get("renamed_from")
    former = table.child("primary_key", default_name(str(old))) if old and not name else None
    return Record(address, settings, table, refs, origin=place, renamed_from=former)


def default_name(table: str) -> str:
    """The name that PostgreSQL gives the primary key of a table."""
    return bounded(table, "pkey")


KIND = PrimaryKeyKind()
decode = KIND.decode
