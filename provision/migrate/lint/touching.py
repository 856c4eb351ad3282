"""Which objects a statement makes, changes or drops: by their schema, or those that no schema holds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.parsing import Name, Parsed, Tree

#: Statements that are no DDL, or DDL on things that no schema holds.
_CARRIES_DATA = frozenset(
    "InsertStmt UpdateStmt DeleteStmt MergeStmt CopyStmt TruncateStmt RefreshMatViewStmt VacuumStmt "
    "VariableSetStmt VariableShowStmt DoStmt CallStmt LockStmt ReindexStmt ClusterStmt NotifyStmt "
    "CheckPointStmt TransactionStmt PrepareStmt ExecuteStmt DeallocateStmt DeclareCursorStmt FetchStmt "
    "ClosePortalStmt ConstraintsSetStmt".split()
)
_INSIDE = ("OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE", "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT")
_IN_NO_SCHEMA = frozenset(
    "OBJECT_ACCESS_METHOD OBJECT_DATABASE OBJECT_EVENT_TRIGGER OBJECT_EXTENSION OBJECT_FDW OBJECT_FOREIGN_SERVER "
    "OBJECT_LANGUAGE OBJECT_LARGEOBJECT OBJECT_PARAMETER_ACL OBJECT_PUBLICATION OBJECT_ROLE OBJECT_SUBSCRIPTION "
    "OBJECT_TABLESPACE OBJECT_TRANSFORM OBJECT_USER_MAPPING".split()
)
_SORTS = {
    "OBJECT_ROLE": "role",
    "OBJECT_EXTENSION": "extension",
    "OBJECT_DATABASE": "database",
    "OBJECT_PUBLICATION": "publication",
}
#: Statement -> the sort of what it names, and the field with the name.
_NAMED = {
    "CreateRoleStmt": ("role", "role"),
    "CreateExtensionStmt": ("extension", "extname"),
    "AlterExtensionStmt": ("extension", "extname"),
    "AlterExtensionContentsStmt": ("extension", "extname"),
    "CreatePublicationStmt": ("publication", "pubname"),
    "AlterPublicationStmt": ("publication", "pubname"),
    "AlterDatabaseStmt": ("database", "dbname"),
    "AlterDatabaseSetStmt": ("database", "dbname"),
    "CreatedbStmt": ("database", "dbname"),
    "DropdbStmt": ("database", "dbname"),
}
_OF_ROLES = ("AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt", "DropOwnedStmt", "ReassignOwnedStmt")


def touched(parsed: Parsed, catalog: Catalog) -> Iterator[Name]:
    """The relations, types and routines that a DDL statement makes, changes or drops; a schema is (name, "").

    What stands in a DO block shows only once it is unfolded (``parsing.unfolded``).
    """
    return _touched(parsed.tree, catalog, "")


def outside_schemas(parsed: Parsed) -> Iterator[tuple[str, str]]:
    """The roles, extensions, publications and databases that a statement makes, changes or drops: sort and name.

    A role whose objects DROP OWNED or REASSIGN OWNED takes counts; the members of GRANT role TO role do not.
    """
    tree, kind = parsed.tree, parsed.kind
    if kind in _NAMED:
        sort, key = _NAMED[kind]
        yield sort, str(tree.get(key, ""))
    elif kind in _OF_ROLES:
        for role in (*tree.get("roles", ()), *([tree["role"]] if "role" in tree else ())):
            yield "role", str(role.get("rolename", ""))
    else:
        sort = _SORTS.get(_sort(tree), "")
        names = [str(tree["subname"])] if "subname" in tree else []
        items = [*tree.get("objects", ()), *([tree["object"]] if isinstance(tree.get("object"), dict) else ())]
        if sort and kind != "GrantStmt":
            yield from ((sort, name) for name in (*names, *parsing.strings(items)))


def _touched(tree: Tree, catalog: Catalog, home: str) -> Iterator[Name]:
    """As ``touched``; a name without schema is one of ``home``, if that is given."""
    kind = tree.get("node", "")
    if not tree or kind in _CARRIES_DATA:
        return
    if kind == "ExplainStmt":
        if parsing.option(tree.get("options", ()), "analyze"):
            yield from _touched(tree.get("query", {}), catalog, home)
        return
    if kind == "SelectStmt":
        if "into_clause" in tree:
            yield placed(parsing.name_of(tree["into_clause"].get("rel")), catalog)
        return
    if kind == "CreateForeignTableStmt":
        yield from _touched(tree.get("base_stmt", {}), catalog, home)
        return
    for name in (*_named(tree), *_of_types(tree), *_of_objects(tree)):
        yield (home, name[1]) if home and not name[0] else placed(name, catalog)
    yield from _schemas(tree)
    for element in tree.get("schema_elts", ()) if kind == "CreateSchemaStmt" else ():
        yield from _touched(element, catalog, str(tree.get("schemaname", "")))


def _named(tree: Tree) -> Iterator[Name]:
    """The relations, types and routines in the fields that hold one."""
    for key in ("relation", "view", "table", "sequence", "typevar"):
        if isinstance(tree.get(key), dict):
            yield parsing.name_of(tree[key])
    if isinstance(into := tree.get("into"), dict):
        yield parsing.name_of(into.get("rel"))
    for key in ("type_name", "typeName", "domainname", "funcname", "defnames"):
        if key == "funcname" and tree.get("node") != "CreateFunctionStmt":
            continue  # a trigger's function is used, not changed
        if isinstance(tree.get(key), list):
            yield parsing.dotted(tree[key])
    yield from map(parsing.name_of, tree.get("inh_relations", ()))
    for command in tree.get("cmds", ()) if tree.get("node") == "AlterTableStmt" else ():
        partition = command.get("def")
        if isinstance(partition, dict) and partition.get("node") == "PartitionCmd":
            yield parsing.name_of(partition.get("name"))
    if tree.get("node") == "CreateStatsStmt":
        yield from map(parsing.name_of, tree.get("relations", ()))


def _of_types(tree: Tree) -> Iterator[Name]:
    """The types between which a cast is made, built-in ones left out."""
    for key in ("sourcetype", "targettype") if tree.get("node") == "CreateCastStmt" else ():
        name = parsing.dotted(tree.get(key))
        if name[0] != "pg_catalog":
            yield name


def _schemas(tree: Tree) -> Iterator[Name]:
    """The schemas that a statement makes or changes, or whose every object it does."""
    kind, sort = tree.get("node"), _sort(tree)
    if "schemaname" in tree and kind == "CreateSchemaStmt":
        yield str(tree["schemaname"]), ""
    if "local_schema" in tree:
        yield str(tree["local_schema"]), ""
    for option in tree.get("options", ()) if kind == "AlterDefaultPrivilegesStmt" else ():
        yield from ((schema, "") for schema in parsing.strings(option.get("arg", {}).get("items", ())))
    if tree.get("targtype") == "ACL_TARGET_ALL_IN_SCHEMA":
        yield from ((schema, "") for schema in parsing.strings(tree.get("objects", ())))
    if sort == "OBJECT_SCHEMA":
        yield from ((parsing.dotted(item)[1], "") for item in _objects(tree))
        yield from ((str(tree[key]), "") for key in ("subname", "newname") if key in tree)
    if "newschema" in tree and sort != "OBJECT_EXTENSION":
        yield str(tree["newschema"]), ""


def _of_objects(tree: Tree) -> Iterator[Name]:
    """What DROP, COMMENT, GRANT, OWNER TO and SET SCHEMA name in their lists."""
    sort = _sort(tree)
    if sort in _IN_NO_SCHEMA or sort == "OBJECT_SCHEMA" or tree.get("targtype") == "ACL_TARGET_ALL_IN_SCHEMA":
        return
    for item in _objects(tree):
        if item.get("node") == "RangeVar":
            yield parsing.name_of(item)
        elif sort in _INSIDE:
            parts = parsing.strings(item.get("items", ()))
            yield ("", *parts[:-1])[-2:] if len(parts) > 1 else ("", "")  # type: ignore[misc]
        elif sort in ("OBJECT_DOMCONSTRAINT", "OBJECT_CAST"):
            names = [parsing.dotted(i) for i in item.get("items", ()) if i.get("node") == "TypeName"]
            yield from (name for name in names if name[0] != "pg_catalog")
        else:
            yield parsing.dotted(item)


def _objects(tree: Tree) -> list[Tree]:
    items = list(tree["objects"]) if isinstance(tree.get("objects"), list) else []
    return items + [tree[key] for key in ("object", "func") if isinstance(tree.get(key), dict)]


def _sort(tree: Tree) -> str:
    keys = ("remove_type", "objtype", "object_type", "rename_type")
    return str(next((tree[key] for key in keys if tree.get(key)), ""))


def placed(name: Name, catalog: Catalog) -> Name:
    """The name with its schema."""
    return name if name[0] else catalog.find(name)
