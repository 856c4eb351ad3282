"""What one statement of a migration makes, takes away and renames, as things with names. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import Thing, made_by, taken_by
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.parsing import Name, Parsed, Tree

_SORTS = {
    "OBJECT_TABLE": "table", "OBJECT_VIEW": "view", "OBJECT_MATVIEW": "materialized view", "OBJECT_INDEX": "index",
    "OBJECT_SEQUENCE": "sequence", "OBJECT_TYPE": "type", "OBJECT_DOMAIN": "type", "OBJECT_COLUMN": "column",
    "OBJECT_TABCONSTRAINT": "constraint", "OBJECT_TRIGGER": "trigger", "OBJECT_POLICY": "policy",
    "OBJECT_FUNCTION": "routine", "OBJECT_PROCEDURE": "routine", "OBJECT_ROUTINE": "routine",
}  # fmt: skip
_OF_TABLES = ("column", "constraint", "trigger", "policy")


class Event(NamedTuple):
    """One change. ``new`` is the name after a rename; ``table`` what the thing is on; ``words`` the names that its
    statement holds; ``is_certain``: it fails where the thing is there already."""

    what: Literal["make", "take", "rename"]
    thing: Thing
    new: Thing | None = None
    table: Name = ("", "")
    words: frozenset[str] = frozenset()
    is_certain: bool = True


def events(parsed: Parsed, catalog: Catalog) -> Iterator[Event]:
    """The changes of one statement, what goes before what comes."""
    tree, kind = parsed.tree, parsed.kind
    if kind == "RenameStmt":
        yield from _renamed(tree, catalog)
        return
    if kind == "AlterObjectSchemaStmt":
        yield from _moved(tree, catalog)
        return
    for thing in _taken(parsed, catalog):
        yield Event("take", _full(thing, catalog))
    words = frozenset(_words(tree))
    certain = not (tree.get("if_not_exists") or tree.get("replace") or tree.get("skip_if_new_val_exists"))
    unnamed = set(_not_nulls(tree))
    for thing in _made(parsed, catalog):
        whole = _full(thing, catalog)
        if whole[0] == "constraint" and whole[1][-1] in unnamed:
            continue  # a column is NOT NULL, by whatever name
        yield Event("make", whole, None, _table_of(whole, tree, catalog), words, certain)


def _made(parsed: Parsed, catalog: Catalog) -> Iterator[Thing]:
    tree, kind = parsed.tree, parsed.kind
    yield from made_by(parsed, catalog)
    if kind == "CreateStmt":
        table = catalog.find(parsing.name_of(tree.get("relation")))
        for element in tree.get("table_elts", ()):
            if element.get("node") == "ColumnDef":
                yield "column", (*table, str(element.get("colname", "")))
    elif kind == "ViewStmt" and tree.get("replace"):
        yield "view", catalog.find(parsing.name_of(tree.get("view")))
    elif kind == "CreateFunctionStmt" and tree.get("replace"):
        yield "routine", parsing.dotted(tree.get("funcname"))
    elif kind == "CreateTrigStmt" and tree.get("replace"):
        yield "trigger", (*catalog.find(parsing.name_of(tree.get("relation"))), str(tree.get("trigname", "")))
    elif kind == "CreateExtensionStmt":
        yield "extension", ("", str(tree.get("extname", "")))
    elif kind == "CreateEnumStmt":
        name = catalog.find(parsing.dotted(tree.get("type_name")))
        for value in parsing.strings(tree.get("vals", ())):
            yield "value", (*name, value)
    elif kind == "AlterEnumStmt" and "new_val" in tree and "old_val" not in tree:
        yield "value", (*catalog.find(parsing.dotted(tree.get("type_name"))), str(tree["new_val"]))


def _taken(parsed: Parsed, catalog: Catalog) -> Iterator[Thing]:
    tree = parsed.tree
    if parsed.kind == "DropStmt" and tree.get("remove_type") == "OBJECT_EXTENSION":
        for item in tree.get("objects", ()):
            yield "extension", ("", parsing.dotted(item)[1])
        return
    yield from taken_by(parsed, catalog)
    if parsed.kind == "AlterEnumStmt" and "old_val" in tree:
        name = catalog.find(parsing.dotted(tree.get("type_name")))
        yield "value", (*name, str(tree["old_val"]))
    if parsed.kind == "AlterTableStmt":
        schema = catalog.find(parsing.name_of(tree.get("relation")))[0]
        for command in tree.get("cmds", ()):
            index = command.get("def", {}).get("indexname")
            if index:  # a constraint takes an index over, with its name
                yield "index", (schema, str(index))


def _renamed(tree: Tree, catalog: Catalog) -> Iterator[Event]:
    sort, new = _SORTS.get(str(tree.get("rename_type")), ""), str(tree.get("newname", ""))
    if tree.get("rename_type") == "OBJECT_SCHEMA":
        yield Event("rename", ("schema", ("", str(tree.get("subname", "")))), ("schema", ("", new)))
    elif sort in _OF_TABLES:
        table = catalog.find(parsing.name_of(tree.get("relation")))
        old = str(tree.get("subname", ""))
        yield Event("rename", (sort, (*table, old)), (sort, (*table, new)), table)
    elif sort:
        name = _relation(tree, catalog)
        yield Event("rename", (sort, name), (sort, (name[0], new)))


def _moved(tree: Tree, catalog: Catalog) -> Iterator[Event]:
    sort, name = _SORTS.get(str(tree.get("object_type")), ""), _relation(tree, catalog)
    if sort:
        yield Event("rename", (sort, name), (sort, (str(tree.get("newschema", "")), name[1])))


def _relation(tree: Tree, catalog: Catalog) -> Name:
    if "relation" in tree:
        return catalog.find(parsing.name_of(tree["relation"]))
    return catalog.find(parsing.dotted(tree.get("object")))


def _full(thing: Thing, catalog: Catalog) -> Thing:
    sort, name = thing
    return (sort, catalog.find((name[0], name[1]))) if sort in ("type", "routine") else thing


def _table_of(thing: Thing, tree: Tree, catalog: Catalog) -> Name:
    sort, name = thing
    if sort in _OF_TABLES:
        return name[0], name[1]
    return catalog.find(parsing.name_of(tree.get("relation"))) if sort == "index" else ("", "")


def _not_nulls(tree: Tree) -> Iterator[str]:
    for command in tree.get("cmds", ()):
        definition = command.get("def", {})
        if definition.get("contype") == "CONSTR_NOTNULL" and "conname" in definition:
            yield str(definition["conname"])


def _words(tree: Tree) -> Iterator[str]:
    for node in parsing.walk(tree):
        yield from (str(node[key]) for key in ("sval", "name") if isinstance(node.get(key), str))
