"""From pg_depend to addresses: what a view, a policy, a trigger, a function or a domain stands on.

Queries give dependencies as JSON lists [class, oid, column, type of column]: class "c" is a relation, "p" a
function, "t" a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

from provision.postgres.catalog import Catalog
from provision.postgres.kinds.signature import function_segment
from provision.spec.ident import Address

#: A SELECT of the dependencies of ``{object}`` (an SQL condition on ``d``), for use inside a bigger query.
DEPENDENCIES = """
    (SELECT json_agg(json_build_array(
                CASE d.refclassid WHEN 'pg_class'::regclass THEN 'c'
                                  WHEN 'pg_proc'::regclass THEN 'p' ELSE 't' END,
                CASE WHEN dt.typrelid <> 0 THEN dt.typrelid ELSE d.refobjid END::text,
                da.attname, da.atttypid::text)
                ORDER BY d.refclassid, d.refobjid, d.refobjsubid)
       FROM pg_depend d
       LEFT JOIN pg_attribute da ON d.refclassid = 'pg_class'::regclass AND d.refobjsubid <> 0
                                AND da.attrelid = d.refobjid AND da.attnum = d.refobjsubid
       LEFT JOIN pg_type dt ON d.refclassid = 'pg_type'::regclass AND dt.oid = d.refobjid
      WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass) AND {object})"""


class Edges(NamedTuple):
    """``refs`` are all objects found, ``rigid`` the columns and types among them."""

    refs: tuple[Address, ...]
    rigid: tuple[Address, ...]


_Map = Mapping[str, Address]
_MAPS: WeakKeyDictionary[Catalog, tuple[_Map, _Map]] = WeakKeyDictionary()


class Dependencies:
    """Resolves the dependencies of one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        if catalog not in _MAPS:
            _MAPS[catalog] = (_types(catalog), _functions(catalog))
        self._catalog = catalog
        self._types, self._functions = _MAPS[catalog]

    def edges(self, found: str | None, *, own: Address | None = None, also: Iterable[Address] = ()) -> Edges:
        """Resolve the JSON text of a query. ``own`` is the object itself or its table: never an edge to it."""
        refs: dict[Address, None] = dict.fromkeys(also)
        rigid: dict[Address, None] = {}
        for kind, oid, column, column_type in json.loads(found) if found else ():
            if kind == "p":
                self._add(refs, self._functions.get(oid), own)
            elif kind == "t":
                self._add(refs, self._types.get(oid), own)
                self._add(rigid, self._types.get(oid), own)
            else:
                self._relation(oid, column, column_type, refs, rigid, own)
        return Edges((*refs, *(r for r in rigid if r not in refs)), tuple(rigid))

    def _relation(
        self,
        oid: str,
        column: str | None,
        column_type: str | None,
        refs: dict[Address, None],
        rigid: dict[Address, None],
        own: Address | None,
    ) -> None:
        root = self._catalog.root(oid)
        address = self._catalog.relation_address(root.oid) if root is not None else None
        if address is None:
            return
        self._add(refs, address, own)
        if column is not None and address.kind == "table":
            self._add(rigid, address.child("column", column), own)
        if column_type is not None:
            self._add(rigid, self._types.get(column_type), own)

    @staticmethod
    def _add(into: dict[Address, None], address: Address | None, own: Address | None) -> None:
        if address is not None and address != own:
            into[address] = None


def _types(catalog: Catalog) -> Mapping[str, Address]:
    """Enums and domains by oid, their arrays too."""
    found: dict[str, Address] = {}
    for oid, schema, name, typtype, _, _, array, *_ in catalog.rows("types"):
        kind = "enum" if typtype == "e" else "domain"
        address = catalog.schema_address(str(schema)).child(kind, str(name))
        found[str(oid)] = address
        if array and array != "0":
            found[array] = address
    return found


def _functions(catalog: Catalog) -> Mapping[str, Address]:
    found: dict[str, Address] = {}
    for row in catalog.rows("functions"):
        segment = function_segment(str(row[2]), json.loads(row[3] or "[]"))
        found[str(row[0])] = catalog.schema_address(str(row[1])).child("function", segment)
    return found
