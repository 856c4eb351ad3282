"""Unique constraints: names to lists of columns, or to mappings with options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres.kinds.key_constraint import COLUMNS, KeyKind, completed
from provision.postgres.kinds.key_constraint import FIELDS as KEY_FIELDS
from provision.postgres.kinds.ownership import parse
from provision.postgres.relations import QUERIES as RELATION_QUERIES
from provision.spec import fields
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Pointer, Record

QUERIES = RELATION_QUERIES
FIELDS = FieldTable(
    *KEY_FIELDS,
    Field("nulls_not_distinct", fields.BOOL, "Whether two NULLs count as equal.", default=False),
)
SCHEMA = {"anyOf": [COLUMNS.schema, FIELDS.schema()]}


class UniqueKind(KeyKind):
    name = "unique"
    fields = FIELDS
    contype = "u"


def read_all(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Give the unique constraints of one table."""
    for name, body in node.items():
        settings = parse(FIELDS, {"columns": body} if isinstance(body, list) else body, (*pointer, name), reader)
        if settings is not None:
            address = table.child("unique", name)
            settings, refs = completed(table, address.kind, name, settings)
            yield Record(address, settings, table, refs, origin=(*pointer, name))


KIND = UniqueKind()
decode = KIND.decode
