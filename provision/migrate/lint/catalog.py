"""What is known of the tables before a statement: what migrations made of them, else what the specs declare. Pure.

The specs say where the schema ends, not where it is; of them only what no migration usually changes is believed:
partitioning, the kind of a constraint, the type of a column unless it is the one that a statement brings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from provision.migrate.files import Statement
from provision.migrate.lint import parsing
from provision.migrate.lint.parsing import Name, Parsed, Tree
from provision.postgres import types
from provision.spec.fields import FieldError
from provision.spec.ident import Address
from provision.spec.record import Plane, Record, Settings

Constraint = Literal["check", "foreign_key", "primary_key", "unique", "exclude", "not_null"]
_CONSTRAINTS: dict[str, Constraint] = {
    "CONSTR_CHECK": "check",
    "CONSTR_FOREIGN": "foreign_key",
    "CONSTR_PRIMARY": "primary_key",
    "CONSTR_UNIQUE": "unique",
    "CONSTR_EXCLUSION": "exclude",
    "CONSTR_NOTNULL": "not_null",
}
PUBLIC = "public"
_SUFFIXES = {"check": "check", "foreign_key": "fkey", "primary_key": "pkey", "unique": "key", "exclude": "excl"}


@dataclass(frozen=True)
class Held:
    """A constraint. ``proves`` are columns that it shows to hold no NULL, once validated."""

    kind: Constraint
    references: Name | None = None
    validated: bool = True
    proves: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Table:
    """One table. ``columns`` are canonical types, None where unknown; ``migrated`` says that migrations made it."""

    columns: dict[str, str | None] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    constraints: dict[str, Held] = field(default_factory=dict)
    partitioned: bool = False
    default_partition: Name | None = None
    policies: bool = False
    migrated: bool = False

    def proven(self, column: str) -> bool:
        """Whether the column is NOT NULL, or a validated constraint says that it holds no NULL."""
        return column in self.required or any(h.validated and column in h.proves for h in self.constraints.values())


class Catalog:
    """Tables, indexes, views and domains by name. ``apply`` changes it; ``copy`` is cheap."""

    def __init__(self, plane: Plane | None = None) -> None:
        self.tables: dict[Name, Table] = {}
        #: The table of each index, and the parent of each partition that migrations made or attached.
        self.indexes: dict[Name, Name] = {}
        self.parents: dict[Name, Name] = {}
        #: The columns of indexes, where they are plain columns.
        self.index_columns: dict[Name, tuple[str, ...]] = {}
        self.views: dict[Name, frozenset[Name]] = {}
        #: Whether a domain restricts its values, and what it stands for.
        self.domains: dict[Name, tuple[bool, str | None]] = {}
        #: Types that are no domains.
        self.types: frozenset[Name] = frozenset()
        self.declarative: frozenset[str] = frozenset()
        #: What the specs declare outside of schemas, and the schemas, whoever manages them: sort -> names.
        self.declared: dict[str, frozenset[str]] = {}
        #: The declared partition sets by their table.
        self.sets: dict[Name, Settings] = {}
        #: The server's version; empty where nobody knows it.
        self.version: tuple[int, ...] = ()
        #: Where names without a schema lead: the first schema of search_path, for the file at hand.
        self.home = PUBLIC
        if plane is not None:
            self._declare(plane)

    def copy(self) -> Catalog:
        """A second catalog that changes apart from this one."""
        twin = Catalog()
        twin.tables, twin.indexes = dict(self.tables), dict(self.indexes)
        twin.views, twin.domains = dict(self.views), dict(self.domains)
        twin.parents = dict(self.parents)
        twin.index_columns = dict(self.index_columns)
        twin.types, twin.declarative = self.types, self.declarative
        twin.declared, twin.sets, twin.version = self.declared, self.sets, self.version
        return twin

    def find(self, name: Name) -> Name:
        """The full name: a name without schema is that of the only table so called, else it is in public."""
        if name[0]:
            return name
        if self.home != PUBLIC:
            return self.home, name[1]
        same = [known for known in (*self.tables, *self.views, *self.indexes) if known[1] == name[1]]
        return same[0] if len(set(same)) == 1 else (self.home, name[1])

    def table(self, name: Name) -> Table:
        """The table, or one of which nothing is known."""
        return self.tables.get(self.find(name), Table())

    def base(self, type_name: str) -> str | None:
        """The type below domains; None for one that is unknown."""
        parsed = read_type(type_name)
        if parsed is None:
            return None
        known = self.domains.get((parsed.schema or "", parsed.name))
        if known is None or parsed.is_array:
            return str(parsed)
        return self.base(known[1]) if known[1] else None

    def _declare(self, plane: Plane) -> None:
        self.declarative = frozenset(
            r.address.name for r in plane.of_kind("schema") if r.settings.get("managed") == "declarative"
        )
        self.declared = {
            kind: frozenset(r.address.name for r in plane.of_kind(kind)) for kind in ("schema", "role", "extension")
        }
        self.sets = {r.address.names[:2]: r.settings for r in plane.of_kind("partitions")}  # type: ignore[misc]
        self.types = frozenset(_full(r.address) for r in plane.of_kind("enum", "type"))
        for record in plane.of_kind("domain"):
            limits = bool(record.settings.get("checks")) or not record.settings.get("nullable", True)
            base = record.settings.get("type")
            below = read_type(base) if base else None
            limits = limits or (below is not None and below.schema is not None)
            self.domains[_full(record.address)] = (limits, base)
        for record in plane.of_kind("view"):
            read = parsing.parse(_statement(str(record.settings.get("query", "")))).tree
            self.views[_full(record.address)] = frozenset(parsing.name_of(r) for r in parsing.nodes(read, "RangeVar"))
        for record in plane.of_kind("table"):
            name = _full(record.address)
            self.tables[name] = _declared(plane, record)
            for index in plane.children(record.address, "index"):
                self.indexes[name[0], index.address.name] = name
                parts = [c.get("column") for c in index.settings.get("columns", ())]
                if all(parts):
                    self.index_columns[name[0], index.address.name] = tuple(map(str, parts))
            for key in plane.children(record.address, "unique"):
                self.index_columns[name[0], key.address.name] = tuple(key.settings.get("columns", ()))

    def apply(self, parsed: Parsed) -> None:
        """Take over what a statement changes."""
        change = _CHANGES.get(parsed.kind)
        if change is not None:
            change(self, parsed.tree)


def _statement(sql: str) -> Statement:
    return Statement(sql, 1, 1)


def _full(address: Address) -> Name:
    names = address.names
    return names[0], names[-1]


def _declared(plane: Plane, record: Record) -> Table:
    constraints: dict[str, Held] = {}
    for kind in ("check", "primary_key", "unique", "exclude"):
        for found in plane.children(record.address, kind):
            constraints[found.address.name] = Held(kind)
    for found in plane.children(record.address, "foreign_key"):
        schema, _, table = str(found.settings.get("references", "")).partition(".")
        constraints[found.address.name] = Held("foreign_key", (schema, table))
    members = plane.children(record.address, "partitions")
    default = members[0].settings.get("default") if members else None
    name = _full(record.address)
    return Table(
        columns={c.address.name: c.settings.get("type") for c in plane.children(record.address, "column")},
        constraints=constraints,
        partitioned=record.settings.get("partitioned") is not None,
        default_partition=(name[0], str(default)) if default else None,
        policies=bool(plane.children(record.address, "policy")),
    )


def read_type(text: str | None) -> types.TypeName | None:
    """A type's name taken apart, or None."""
    if text is None:
        return None
    try:
        return types.parse(text)
    except FieldError:
        return None


def canonical(type_name: Tree | None) -> str | None:
    """The type as the server prints it, or as written where it is not built in."""
    text = parsing.type_text(type_name)
    parsed = read_type(text)
    return str(parsed) if parsed is not None else text


def kind_of(constraint: Tree) -> Constraint | None:
    """What a Constraint node of a table is; None for what only a column has."""
    return _CONSTRAINTS.get(constraint.get("contype", ""))


def held(constraint: Tree, kind: Constraint, columns: Iterable[str] = ()) -> Held:
    """A constraint as the catalog keeps it; ``columns`` is the one that it stands behind."""
    target = parsing.name_of(constraint["pktable"]) if "pktable" in constraint else None
    proves = set(parsing.strings(constraint.get("keys", ()))) | set(columns) if kind == "not_null" else set()
    if kind == "check":
        proves = not_null_columns(constraint.get("raw_expr"))
    return Held(kind, target, not constraint.get("skip_validation", False), frozenset(proves))


def not_null_columns(expression: Tree | None) -> set[str]:
    """The columns that ``a IS NOT NULL AND b IS NOT NULL`` demands."""
    expression = expression or {}
    if expression.get("node") == "NullTest" and expression.get("nulltesttype") == "IS_NOT_NULL":
        return set(parsing.strings(expression.get("arg", {}).get("fields", ()))[-1:])
    if expression.get("node") == "BoolExpr" and expression.get("boolop") == "AND_EXPR":
        return {c for part in expression.get("args", ()) for c in not_null_columns(part)}
    return set()


def name_of_constraint(table: str, constraint: Tree, kind: Constraint, columns: Iterable[str] = ()) -> str:
    """Its name, or the one that the server makes up."""
    if "conname" in constraint:
        return str(constraint["conname"])
    keys = [*columns, *parsing.strings((*constraint.get("keys", ()), *constraint.get("fk_attrs", ())))]
    return "_".join([table, *([] if kind == "primary_key" else keys), _SUFFIXES.get(kind, kind)])


def _create(catalog: Catalog, tree: Tree) -> None:
    name = parsing.name_of(tree.get("relation"))
    name = (name[0] or catalog.home, name[1])
    for parent in map(catalog.find, map(parsing.name_of, tree.get("inh_relations", ()) if "partbound" in tree else ())):
        catalog.parents[name] = parent
        if tree["partbound"].get("is_default"):
            catalog.tables[parent] = replace(catalog.table(parent), default_partition=name)
    if name in catalog.tables and catalog.tables[name].migrated:
        return
    table = Table(partitioned="partspec" in tree, migrated=True)
    for element in tree.get("table_elts", ()):
        if element.get("node") == "ColumnDef":
            table = _with_column(table, name[1], element)
        elif element.get("node") == "Constraint":
            table = _with_constraint(table, name[1], element)
    catalog.tables[name] = table


def _with_column(table: Table, name: str, column: Tree) -> Table:
    own = str(column.get("colname", ""))
    table = replace(table, columns={**table.columns, own: canonical(column.get("type_name"))})
    for constraint in column.get("constraints", ()):
        table = _with_constraint(table, name, constraint, (own,))
    return table


def _with_constraint(table: Table, name: str, constraint: Tree, columns: tuple[str, ...] = ()) -> Table:
    kind = kind_of(constraint)
    if kind is None:
        return table
    keys = frozenset((*columns, *parsing.strings(constraint.get("keys", ()))))
    known = held(constraint, kind, columns)
    required = table.required | keys if kind in ("primary_key", "not_null") and known.validated else table.required
    label = name_of_constraint(name, constraint, kind, columns)
    return replace(table, required=required, constraints={**table.constraints, label: known})


def _alter(catalog: Catalog, tree: Tree) -> None:
    name = catalog.find(parsing.name_of(tree.get("relation")))
    table = catalog.table(name)
    for command in tree.get("cmds", ()):
        table = _altered(catalog, table, name, command)
    if tree.get("objtype") == "OBJECT_TABLE":
        catalog.tables[name] = table


def _altered(catalog: Catalog, table: Table, name: Name, command: Tree) -> Table:
    what, column, definition = command.get("subtype"), str(command.get("name", "")), command.get("def", {})
    if what == "AT_AddColumn":
        return _with_column(table, name[1], definition)
    if what == "AT_AddConstraint":
        return _with_constraint(table, name[1], definition)
    if what == "AT_DropColumn":
        return replace(
            table,
            columns={k: v for k, v in table.columns.items() if k != column},
            required=table.required - {column},
        )
    if what == "AT_AlterColumnType":
        return replace(table, columns={**table.columns, column: canonical(definition.get("type_name"))})
    if what == "AT_SetNotNull":
        return replace(table, required=table.required | {column})
    if what == "AT_DropNotNull":
        return replace(table, required=table.required - {column})
    if what == "AT_DropConstraint":
        return replace(table, constraints={k: v for k, v in table.constraints.items() if k != column})
    if what == "AT_ValidateConstraint" and column in table.constraints:
        known = replace(table.constraints[column], validated=True)
        return replace(table, constraints={**table.constraints, column: known})
    if what in ("AT_AttachPartition", "AT_DetachPartition"):
        return _repartitioned(catalog, name, table, definition, attached=what == "AT_AttachPartition")
    return table


def _repartitioned(catalog: Catalog, name: Name, table: Table, definition: Tree, *, attached: bool) -> Table:
    partition = catalog.find(parsing.name_of(definition.get("name")))
    if attached:
        catalog.parents[partition] = name
    else:
        catalog.parents.pop(partition, None)
    if attached and definition.get("bound", {}).get("is_default"):
        return replace(table, partitioned=True, default_partition=partition)
    if not attached and table.default_partition == partition:
        return replace(table, default_partition=None)
    return table


def _drop(catalog: Catalog, tree: Tree) -> None:
    for item in tree.get("objects", ()):
        name = catalog.find(parsing.dotted(item))
        if tree.get("remove_type") == "OBJECT_TABLE":
            parent = catalog.parents.pop(name, None)
            if parent is not None and catalog.table(parent).default_partition == name:
                catalog.tables[parent] = replace(catalog.tables[parent], default_partition=None)
            catalog.tables.pop(name, None)
        elif tree.get("remove_type") in ("OBJECT_VIEW", "OBJECT_MATVIEW"):
            catalog.views.pop(name, None)
        elif tree.get("remove_type") == "OBJECT_INDEX":
            catalog.indexes.pop(name, None)


def _rename(catalog: Catalog, tree: Tree) -> None:
    name, new = catalog.find(parsing.name_of(tree.get("relation"))), str(tree.get("newname", ""))
    old = str(tree.get("subname", ""))
    table = catalog.tables.get(name)
    if tree.get("rename_type") == "OBJECT_TABLE" and table is not None:
        catalog.tables[name[0], new] = catalog.tables.pop(name)
    elif tree.get("rename_type") == "OBJECT_COLUMN" and table is not None:
        columns = {new if k == old else k: v for k, v in table.columns.items()}
        required = frozenset(new if c == old else c for c in table.required)
        catalog.tables[name] = replace(table, columns=columns, required=required)
    elif tree.get("rename_type") == "OBJECT_TABCONSTRAINT" and table is not None:
        constraints = {new if k == old else k: v for k, v in table.constraints.items()}
        catalog.tables[name] = replace(table, constraints=constraints)
    elif tree.get("rename_type") == "OBJECT_INDEX" and name in catalog.indexes:
        catalog.indexes[name[0], new] = catalog.indexes.pop(name)


def _index(catalog: Catalog, tree: Tree) -> None:
    table = catalog.find(parsing.name_of(tree.get("relation")))
    if "idxname" in tree:
        name = table[0], str(tree["idxname"])
        catalog.indexes[name] = table
        catalog.index_columns.pop(name, None)
        columns = [p.get("name") for p in tree.get("index_params", ())]
        if all(columns):
            catalog.index_columns[name] = tuple(map(str, columns))


def _view(catalog: Catalog, tree: Tree) -> None:
    name = parsing.name_of(tree.get("view") or tree.get("into", {}).get("rel"))
    read = frozenset(catalog.find(parsing.name_of(r)) for r in parsing.nodes(tree.get("query"), "RangeVar"))
    if tree.get("objtype") == "OBJECT_TABLE":
        catalog.tables[(name[0] or catalog.home, name[1])] = Table(migrated=True)
    else:
        catalog.views[(name[0] or catalog.home, name[1])] = read


def _domain(catalog: Catalog, tree: Tree) -> None:
    base = canonical(tree.get("type_name"))
    below = read_type(base)
    limited = any(c.get("contype") in ("CONSTR_CHECK", "CONSTR_NOTNULL") for c in tree.get("constraints", ()))
    over = catalog.domains.get((below.schema or "", below.name)) if below is not None else None
    catalog.domains[parsing.dotted(tree.get("domainname"))] = (limited or (over is not None and over[0]), base)


def _set(catalog: Catalog, tree: Tree) -> None:
    if tree.get("name") == "search_path":
        paths = [a.get("sval", {}).get("sval", "") for a in tree.get("args", ())]
        catalog.home = next((path for path in paths if path not in ("", "$user", "pg_catalog")), PUBLIC)


def _type(catalog: Catalog, tree: Tree) -> None:
    items = tree.get("type_name") or tree.get("defnames")
    catalog.types |= {parsing.name_of(tree["typevar"]) if "typevar" in tree else parsing.dotted(items)}


def _policy(catalog: Catalog, tree: Tree) -> None:
    name = catalog.find(parsing.name_of(tree.get("table")))
    catalog.tables[name] = replace(catalog.table(name), policies=True)


_CHANGES = {
    "CreateStmt": _create,
    "AlterTableStmt": _alter,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "IndexStmt": _index,
    "ViewStmt": _view,
    "CreateTableAsStmt": _view,
    "CreateDomainStmt": _domain,
    "CreatePolicyStmt": _policy,
    "VariableSetStmt": _set,
    "CreateEnumStmt": _type,
    "CreateRangeStmt": _type,
    "CompositeTypeStmt": _type,
    "DefineStmt": _type,
}
