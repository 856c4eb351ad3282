"""The raw catalog as it was read in one snapshot, and the look-ups that every kind's ``decode`` shares. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from provision.spec.ident import Address

Row = tuple[str | None, ...]

#: The schemas that are never observed.
SYSTEM_SCHEMAS = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'holdfast')"


class Query(NamedTuple):
    """One bulk catalog query. ``sql`` gives the SELECT for a server major; it runs as COPY … TO STDOUT.

    Every value arrives as text; give booleans as ``x::text`` or 't'/'f', lists as JSON text.
    """

    name: str
    sql: Callable[[int], str]


class Relation(NamedTuple):
    """A row of pg_class with its namespace. ``kind`` is relkind; ``parent`` the oid of its partitioned parent."""

    oid: str
    schema: str
    name: str
    kind: str
    parent: str | None


RELATIONS = Query(
    "relations",
    lambda major: (
        f"""
        SELECT c.oid, n.nspname, c.relname, c.relkind, i.inhparent, c.relowner, c.reloptions::text, t.reloptions::text,
               c.relrowsecurity, c.relforcerowsecurity, c.relpersistence, c.relreplident, c.relacl::text,
               c.relispartition, pg_get_expr(c.relpartbound, c.oid), i.inhdetachpending,
               CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, s.spcname, a.amname, d.description,
               c.oid IN (SELECT e.objid FROM pg_depend e WHERE e.refclassid = 'pg_extension'::regclass
                          AND e.deptype = 'e' AND e.classid = 'pg_class'::regclass)
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
          LEFT JOIN pg_class t ON t.oid = c.reltoastrelid AND t.reloptions IS NOT NULL
          LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
          LEFT JOIN pg_am a ON a.oid = c.relam
          LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {SYSTEM_SCHEMAS}
         ORDER BY n.nspname, c.relname"""
    ),
)
ROLE_NAMES = Query("role_names", lambda major: "SELECT oid, rolname FROM pg_roles ORDER BY oid")

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


def _unescape(text: str) -> str:
    parts = text.split("\\")
    out, skip = [parts[0]], False
    for part in parts[1:]:
        if skip:
            out.append(part)
            skip = False
        elif part == "":
            out.append("\\")
            skip = True
        else:
            out.append(_ESCAPES.get(part[0], part[0]) + part[1:])
    return "".join(out)


def parse_copy(raw: bytes) -> list[Row]:
    """Split the text format of COPY into rows of values; ``\\N`` is None (PostgreSQL docs, COPY, file formats)."""
    if not raw:
        return []
    lines = raw.decode().split("\n")
    lines.pop()
    rows: list[Row] = []
    for line in lines:
        values = line.split("\t")
        if "\\" in line:
            rows.append(tuple(None if v == "\\N" else _unescape(v) if "\\" in v else v for v in values))
        else:
            rows.append(tuple(values))
    return rows


class Catalog:
    """What one snapshot of one database holds, by query name; parsed on first use."""

    def __init__(self, target: str, major: int, raw: Mapping[str, bytes]) -> None:
        self.target = target
        self.major = major
        self.raw = raw
        self._rows: dict[str, list[Row]] = {}

    def rows(self, query: str) -> list[Row]:
        found = self._rows.get(query)
        if found is None:
            found = self._rows[query] = parse_copy(self.raw.get(query, b""))
        return found

    @cached_property
    def relations(self) -> dict[str, Relation]:
        """Relations by oid."""
        return {r[0]: Relation(*r[:5]) for r in self.rows("relations")}  # type: ignore[arg-type, misc]

    @cached_property
    def roles(self) -> dict[str, str]:
        """Role names by oid; "0" is PUBLIC."""
        return {"0": "public"} | {str(oid): str(name) for oid, name in self.rows("role_names")}

    def root(self, oid: str) -> Relation | None:
        """The relation itself, or the topmost partitioned parent of a partition."""
        relation = self.relations.get(oid)
        while relation is not None and relation.parent is not None:
            relation = self.relations.get(relation.parent)
        return relation

    def schema_address(self, schema: str) -> Address:
        return Address.root("pg", self.target, "schema", schema, bare=True)

    def table_address(self, schema: str, table: str) -> Address:
        return self.schema_address(schema).child("table", table, bare=True)

    def relation_address(self, oid: str) -> Address | None:
        """The address of a table or view that is not a partition."""
        relation = self.relations.get(oid)
        if relation is None or relation.parent is not None:
            return None
        if relation.kind in "rpf":
            return self.table_address(relation.schema, relation.name)
        kind = {"v": "view", "m": "view", "S": "sequence"}[relation.kind]
        return self.schema_address(relation.schema).child(kind, relation.name)


def queries_by_name(groups: Iterable[Iterable[Query]]) -> dict[str, Query]:
    """All queries of all kinds, each once."""
    return {q.name: q for group in groups for q in group}
