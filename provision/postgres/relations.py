"""What tables consist of, as rows of the raw catalog: the bulk queries and look-ups that their kinds share. Pure.

Partitions are left out of every query but ``relations``: they follow their parent, so ten thousand of them
cost one row each.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query, Row
from provision.postgres.kinds.depends import Dependencies, Edges
from provision.postgres.sql import qualified, quote_ident
from provision.spec.ident import Address

_OWN = f"c.relkind IN ('r', 'p') AND NOT c.relispartition AND {SYSTEM_SCHEMAS}"


def _columns(major: int) -> str:
    unproven = (
        """EXISTS (SELECT FROM pg_constraint k WHERE a.attnotnull AND k.conrelid = a.attrelid AND k.contype = 'n'
                       AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum])"""
        if major >= 18
        else "false"
    )
    return f"""
        SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, {unproven},
               pg_get_expr(b.adbin, b.adrelid), b.oid, a.attidentity, a.attgenerated,
               CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation END,
               CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END, a.attcompression,
               CASE WHEN a.attstattarget >= 0 THEN a.attstattarget END, a.attoptions::text, d.description,
               CASE WHEN a.attidentity <> '' THEN
                 (SELECT json_strip_nulls(json_build_object(
                           'start', s.seqstart, 'increment', s.seqincrement, 'min', s.seqmin, 'max', s.seqmax,
                           'cache', s.seqcache, 'cycle', s.seqcycle,
                           'type', CASE WHEN s.seqtypid <> a.atttypid THEN format_type(s.seqtypid, NULL) END))::text
                    FROM pg_depend e JOIN pg_sequence s ON s.seqrelid = e.objid
                   WHERE e.refclassid = 'pg_class'::regclass AND e.refobjid = a.attrelid
                     AND e.refobjsubid = a.attnum AND e.classid = 'pg_class'::regclass AND e.deptype = 'i') END,
               CASE WHEN a.attgenerated <> '' THEN
                 (SELECT string_agg(e.refobjsubid::text, ' ' ORDER BY e.refobjsubid) FROM pg_depend e
                   WHERE e.classid = 'pg_attrdef'::regclass AND e.objid = b.oid
                     AND e.refclassid = 'pg_class'::regclass AND e.refobjid = a.attrelid
                     AND e.refobjsubid NOT IN (0, a.attnum)) END,
               a.attcollation
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_attrdef b ON b.adrelid = a.attrelid AND b.adnum = a.attnum
          LEFT JOIN pg_description d ON d.objoid = a.attrelid AND d.classoid = 'pg_class'::regclass
                                    AND d.objsubid = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped AND {_OWN}
         ORDER BY a.attrelid, a.attnum"""


def _constraints(major: int) -> str:
    enforced, period = ("k.conenforced", "k.conperiod") if major >= 18 else ("true", "false")
    return f"""
        SELECT k.oid, k.conrelid, k.conname, k.contype, k.condeferrable, k.condeferred, k.convalidated, {enforced},
               k.conindid, k.confrelid, k.confupdtype, k.confdeltype, k.confmatchtype, k.connoinherit, {period},
               k.conkey::text, k.confkey::text, k.confdelsetcols::text, pg_get_expr(k.conbin, k.conrelid),
               d.description
          FROM pg_constraint k
          JOIN pg_class c ON c.oid = k.conrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_description d ON d.objoid = k.oid AND d.classoid = 'pg_constraint'::regclass
         WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.conparentid = 0 AND {_OWN}
         ORDER BY k.conrelid, k.conname"""


def _indexes(major: int) -> str:
    return f"""
        SELECT i.indexrelid, i.indrelid, x.relname, m.amname, i.indisunique, i.indnullsnotdistinct, i.indisvalid,
               i.indisreplident, i.indisclustered, i.indnkeyatts, i.indkey::text, i.indoption::text,
               i.indclass::text, i.indcollation::text,
               CASE WHEN i.indexprs IS NOT NULL THEN
                 (SELECT json_agg(pg_get_indexdef(i.indexrelid, k, false) ORDER BY k)::text
                    FROM generate_series(1, i.indnkeyatts) k) END,
               pg_get_expr(i.indpred, i.indrelid), x.reloptions::text, s.spcname, d.description,
               (SELECT json_object_agg(a.attnum, json_build_array(a.attstattarget, a.attoptions))::text
                  FROM pg_attribute a
                 WHERE a.attrelid = i.indexrelid AND (a.attoptions IS NOT NULL OR a.attstattarget >= 0)),
               CASE WHEN c.relkind = 'p' AND NOT i.indisvalid THEN
                 (SELECT json_agg(json_build_array(ln.nspname, l.relname,
                           (SELECT json_object_agg(sx.relname, CASE WHEN NOT s.indisvalid THEN 'invalid'
                                   WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = s.indexrelid)
                                   THEN 'constraint' ELSE 'index' END)
                              FROM pg_index s JOIN pg_class sx ON sx.oid = s.indexrelid
                             WHERE s.indrelid = l.oid AND NOT sx.relispartition))
                         ORDER BY ln.nspname, l.relname)::text
                    FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
                    JOIN pg_namespace ln ON ln.oid = l.relnamespace
                   WHERE p.isleaf AND p.level > 0 AND NOT EXISTS (
                     SELECT FROM pg_partition_tree(i.indexrelid) q JOIN pg_index j ON j.indexrelid = q.relid
                      WHERE j.indrelid = p.relid AND j.indisvalid)) END,
               CASE WHEN i.indexprs IS NOT NULL OR i.indpred IS NOT NULL THEN
                 (SELECT string_agg(DISTINCT e.refobjsubid::text, ' ') FROM pg_depend e
                   WHERE e.classid = 'pg_class'::regclass AND e.objid = i.indexrelid
                     AND e.refclassid = 'pg_class'::regclass AND e.refobjid = i.indrelid AND e.refobjsubid > 0) END
          FROM pg_index i
          JOIN pg_class c ON c.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class x ON x.oid = i.indexrelid
          JOIN pg_am m ON m.oid = x.relam
          LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
          LEFT JOIN pg_description d ON d.objoid = x.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
         WHERE {_OWN}
         ORDER BY i.indrelid, x.relname"""


#: What other rows name by oid: operator classes (flag: default of its type), collations, types; and what defaults,
#: checks and indexes use of enums, domains and functions: class and oid of the user, then what it uses.
_NAMES = """
        SELECT 'opclass', o.oid::text, n.nspname, o.opcname, o.opcdefault::text, NULL
          FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace
        UNION ALL
        SELECT 'collation', o.oid::text, n.nspname, o.collname, NULL, NULL
          FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace
        UNION ALL
        SELECT 'type', t.oid::text, n.nspname, t.typname, t.typtype::text, e.extname
          FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
          LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
          LEFT JOIN pg_extension e ON e.oid = d.refobjid
         WHERE t.oid >= 16384 AND (t.typtype IN ('e', 'd') OR e.oid IS NOT NULL)
        UNION ALL
        SELECT 'use', d.classid::regclass::text, d.objid::text, u.kind, u.oid::text, e.extname
          FROM (SELECT 'p' AS kind, 'pg_proc'::regclass::oid AS class, oid FROM pg_proc WHERE oid >= 16384
                UNION ALL
                SELECT 't', 'pg_type'::regclass::oid, oid FROM pg_type WHERE typtype IN ('e', 'd') AND oid >= 16384) u
          JOIN pg_depend d ON d.refclassid = u.class AND d.refobjid = u.oid AND d.objsubid = 0
           AND d.classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass)
          LEFT JOIN pg_depend m ON m.classid = u.class AND m.objid = u.oid AND m.deptype = 'e'
          LEFT JOIN pg_extension e ON e.oid = m.refobjid
         ORDER BY 1, 2, 3, 4, 5"""

COLUMNS = Query("columns", _columns)
CONSTRAINTS = Query("constraints", _constraints)
INDEXES = Query("indexes", _indexes)
NAMES = Query("names", lambda major: _NAMES)
QUERIES = (COLUMNS, CONSTRAINTS, INDEXES, NAMES)

T = TypeVar("T")
_NO_EDGES = Edges((), ())


def once(make: Callable[[Catalog], T]) -> Callable[[Catalog], T]:
    """Keep what a function finds in a catalog for as long as the catalog lives."""
    known: WeakKeyDictionary[Catalog, T] = WeakKeyDictionary()

    @wraps(make)
    def find(catalog: Catalog) -> T:
        if catalog not in known:
            known[catalog] = make(catalog)
        return known[catalog]

    return find


class Table(NamedTuple):
    """A table that is no partition and belongs to no extension. The texts are as the catalog gives them."""

    oid: str
    address: Address
    kind: str
    owner: str
    options: str | None
    toast_options: str | None
    row_security: bool
    force_row_security: bool
    persistence: str
    replica_identity: str
    partition_key: str | None
    tablespace: str | None
    method: str | None
    comment: str | None

    @property
    def is_partitioned(self) -> bool:
        return self.kind == "p"


class Partition(NamedTuple):
    """A partition, at any depth below its table. ``parent`` is the oid of the relation it is attached to.

    ``row`` is all that ``relations`` says of it.
    """

    oid: str
    schema: str
    name: str
    kind: str
    parent: str
    bound: str
    detaching: bool
    options: str | None
    toast_options: str | None
    row: Row


@once
def tables(catalog: Catalog) -> dict[str, Table]:
    """The tables by oid."""
    found: dict[str, Table] = {}
    schemas: dict[str, Address] = {}
    for r in catalog.rows("relations"):
        if r[3] not in ("r", "p") or r[4] is not None or r[20] == "t":
            continue
        oid, schema, name, kind = r[0], r[1], r[2], r[3]
        assert oid is not None and schema is not None and name is not None and kind is not None  # noqa: PT018
        home = schemas.get(schema)
        if home is None:
            home = schemas[schema] = catalog.schema_address(schema)
        found[oid] = Table(
            oid, home.child("table", name, bare=True), kind, catalog.roles[str(r[5])],
            r[6], r[7], r[8] == "t", r[9] == "t", str(r[10]), str(r[11]), r[16], r[17], r[18], r[19],
        )  # fmt: skip
    return found


@once
def partitions(catalog: Catalog) -> dict[str, list[Partition]]:
    """The partitions by the oid of what they are directly attached to, in order of their names."""
    found: dict[str, list[Partition]] = defaultdict(list)
    for r in catalog.rows("relations"):
        if r[4] is not None:
            oid, schema, name, kind = str(r[0]), str(r[1]), str(r[2]), str(r[3])
            found[r[4]].append(Partition(oid, schema, name, kind, r[4], str(r[14]), r[15] == "t", r[6], r[7], r))
    return found


def leaves(catalog: Catalog, oid: str) -> Iterator[Partition]:
    """The partitions below a partitioned table that hold rows."""
    for partition in partitions(catalog).get(oid, ()):
        if partition.kind == "p":
            yield from leaves(catalog, partition.oid)
        else:
            yield partition


@once
def column_names(catalog: Catalog) -> dict[str, dict[str, str]]:
    """The names of columns by oid of the table and number of the column."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in catalog.rows("columns"):
        found[row[0]][row[1]] = row[2]  # type: ignore[index, assignment]
    return found


@once
def _column_types(catalog: Catalog) -> dict[str, dict[str, str]]:
    """The types of columns that are no built-in ones, by oid of the table and number of the column."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in catalog.rows("columns"):
        if "." in str(row[3]):
            found[str(row[0])][str(row[1])] = str(row[3])
    return found


def compared_types(catalog: Catalog, table: str, read: Iterable[str]) -> tuple[Address, ...]:
    """The enums and domains that several of these columns have.

    An expression that compares two such columns leans on the type, and pg_depend does not say so: the operator
    takes any enum.
    """
    types = _column_types(catalog).get(table, {})
    found = Counter(a for n in dict.fromkeys(read) if n in types for a in type_refs(catalog, types[n]))
    return tuple(address for address, count in found.items() if count > 1)


def numbers(text: str | None) -> list[str]:
    """The numbers of an int2[] (``{1,2}``) or an int2vector (``1 2``)."""
    if not text or text == "{}":
        return []
    return text[1:-1].split(",") if text[0] == "{" else text.split(" ")


class Names(NamedTuple):
    """What rows name by oid: operator classes and collations as SQL, types, and the uses of expressions.

    An operator class that is its type's default is None, a collation of pg_catalog is a bare name. ``uses`` is
    by catalog and oid of the user: JSON for ``Dependencies.edges``, and extensions.
    """

    opclasses: dict[str, str | None]
    collations: dict[str, str]
    types: dict[str, Address]
    uses: dict[tuple[str, str], tuple[list[list[str | None]], list[Address]]]


@once
def names(catalog: Catalog) -> Names:
    """Look-ups by oid."""
    found = Names({}, {}, {}, defaultdict(lambda: ([], [])))
    for kind, oid, a, b, flag, extension in catalog.rows("names"):
        assert oid is not None and a is not None and b is not None  # noqa: PT018
        if kind == "opclass":
            bare = quote_ident(b) if a == "pg_catalog" else qualified(a, b)
            found.opclasses[oid] = None if flag == "true" else bare
        elif kind == "collation":
            found.collations[oid] = b if a == "pg_catalog" else f'"{a}"."{b}"'
        elif kind == "type":
            word = {"e": "enum", "d": "domain"}.get(flag or "", "type")
            address = catalog.schema_address(a).child(word, b)
            found.types[qualified(a, b)] = _owner(catalog, extension) or address
        elif extension is not None:
            found.uses[oid, a][1].append(Address.root("pg", catalog.target, "extension", extension))
        else:
            found.uses[oid, a][0].append([b, flag, None, None])
    return found


def used_by(catalog: Catalog, class_name: str, oid: str | None) -> Edges:
    """The functions, types and extensions that the expressions of a default, a constraint or an index use."""
    if oid is None or (class_name, oid) not in names(catalog).uses:
        return _NO_EDGES
    uses, extensions = names(catalog).uses[class_name, oid]
    return Dependencies(catalog).edges(json.dumps(uses), also=extensions)


def _owner(catalog: Catalog, extension: str | None) -> Address | None:
    return None if extension is None else Address.root("pg", catalog.target, "extension", extension)


def type_refs(catalog: Catalog, type_name: str) -> tuple[Address, ...]:
    """The enum, domain or extension that a canonical type name needs; nothing for built-in types."""
    if "." not in type_name:
        return ()
    found = names(catalog).types.get(type_name.removesuffix("[]").partition("(")[0])
    return (found,) if found is not None else ()


def options_of(text: str | None, prefix: str = "") -> dict[str, Any]:
    """Read reloptions or attoptions (a text[] of name=value) into canonical values by name."""
    if not text:
        return {}
    pairs = (item.partition("=") for item in array_items(text))
    return {prefix + name: option_value(value) for name, _, value in pairs}


def option_value(value: Any) -> Any:
    """One form for each value of a storage parameter: bool, int, float, or text as it is."""
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value == int(value) else value
    lowered = value.lower()
    if lowered in ("true", "on", "yes"):
        return True
    if lowered in ("false", "off", "no"):
        return False
    try:
        number = float(lowered)
        return int(number) if number == int(number) else number
    except (ValueError, OverflowError):
        return value


def array_items(text: str) -> list[str]:
    """The items of a text[] in its output form."""
    inner = text[1:-1]
    if '"' not in inner:
        return inner.split(",") if inner else []
    if inner.startswith('"') and inner.count('"') == 2 and inner.endswith('"'):
        return [inner[1:-1]]
    items: list[str] = []
    current, quoted, position = "", False, 0
    while position < len(inner):
        char = inner[position]
        if char == "\\" and quoted:
            position += 1
            current += inner[position]
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            items.append(current)
            current = ""
        else:
            current += char
        position += 1
    return [*items, current]


def table_options(options: str | None, toast: str | None) -> dict[str, Any]:
    """The storage parameters of a table and, prefixed, of its TOAST table; sorted by name."""
    if options is None and toast is None:
        return {}
    return dict(sorted((options_of(options) | options_of(toast, "toast.")).items()))


def commonest(found: Iterable[tuple[str | None, str | None]]) -> tuple[str | None, str | None]:
    """The most frequent pair, the smallest of several."""
    counts = Counter(found)
    if not counts:
        return None, None
    return min(counts, key=lambda pair: (-counts[pair], pair[0] or "", pair[1] or ""))


@once
def index_rows(catalog: Catalog) -> dict[str, Row]:
    """The rows of ``indexes`` by oid."""
    return {str(row[0]): row for row in catalog.rows("indexes")}


def index_attributes(row: Row) -> dict[str, Any]:
    """What a row of ``indexes`` says of single columns: number -> [statistics, options]."""
    return json.loads(row[19]) if row[19] else {}
