"""Rules on what a file says of itself: that the specs cover it, and what lint is not to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.loss import losses
from provision.migrate.lint.ownership import is_written
from provision.migrate.lint.parsing import Name, Parsed, Tree, unfolded
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import File, Step, shown
from provision.migrate.lint.touching import outside_schemas, touched

_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")
#: Names that a statement may still give to what no spec knows: it is taken away, or comes under a declared name.
_LEADS_AWAY = ("DropStmt", "RenameStmt", "AlterObjectSchemaStmt")


@rule("HF0866", "covered-rows", "apply would record this file and carry none of its rows", severity="error")
def covered_rows(step: Step) -> Iterator[Finding]:
    """A file that the specs cover changes both the structure and rows.

    Where `holdfast apply` made the structure, it records the covered files of structure as applied: their rows would
    never be carried. A covered file of `kind: data` is never recorded so while rows wait for it, but its DDL would
    then meet what apply has made. So structure and rows stand in files of their own.

    Fix: split the file: one with the DDL, and one with `kind: data` and the statements that carry rows. A constraint
    that the new rows have to satisfy goes into a third.

    Source: docs/design.md, Postgres.

    Bad:

        -- covered-by: specs
        CREATE TABLE agents.note (id bigint PRIMARY KEY, note text);
        INSERT INTO agents.note SELECT id, note FROM agents.state;

    Good:

        -- 0001_create_note.up.sql
        -- covered-by: specs
        CREATE TABLE agents.note (id bigint PRIMARY KEY, note text);
        -- 0002_fill_note.up.sql
        -- covered-by: specs
        -- kind: data
        INSERT INTO agents.note SELECT id, note FROM agents.state;
    """
    migration = step.file.migration
    if not migration.covered or step.file.way != "up" or not _carries(step.tree):
        return
    if migration.kind != "data" or any(_is_structure(p, step) for p in step.file.parsed):
        message = "apply would record this file and carry none of its rows: it is covered by the specs"
        help = "Put the statements that carry rows into a file of their own, which says -- kind: data."
        yield Finding(message, help)


@rule("HF0867", "covered-seeds", "a plane that apply makes would lack these rows", severity="error")
def covered_seeds(step: Step) -> Iterator[Finding]:
    """A file that the specs cover brings rows of its own.

    `covered-by: specs` says that a plane made from the specs does not need the file. That is true of rows that are
    carried from where they were, of which a new plane has none. Rows that the file itself brings stand in no spec: a
    new plane would never get them.

    Fix: leave `covered-by` out; the file then runs everywhere, also in a plane that apply made.

    Source: docs/design.md, Postgres.

    Bad:

        -- covered-by: specs
        -- kind: data
        INSERT INTO agents.state VALUES (1, 'first'), (2, 'second');

    Good:

        -- kind: data
        INSERT INTO agents.state VALUES (1, 'first'), (2, 'second');
    """
    migration = step.file.migration
    if not migration.covered or step.file.way != "up" or any(_is_structure(p, step) for p in step.file.parsed):
        return
    if migration.kind == "data" and any(_brings_rows(i) for i in parsing.nodes(step.tree, "InsertStmt")):
        message = "a plane that apply makes would lack these rows: no spec declares them"
        yield Finding(message, "Leave covered-by out: the file then runs in every plane.")


@rule("HF0868", "covered-undeclared", "no spec declares", severity="error")
def covered_undeclared(step: Step) -> Iterator[Finding]:
    """A file that the specs cover makes or changes an object that apply does not make.

    `holdfast apply` records covered files as applied in a plane that it made. What lies in a schema of which the specs
    say nothing it does not make, nor partitions that they do not name, roles and extensions that they do not declare,
    publications and settings of the database: there the object would be missing, and no file would bring it.

    What a later file takes away again is free. In schemas with `managed: migrations` the line has no effect, because
    `apply` makes nothing there.

    Fix: leave `covered-by` out; where the file also changes declared objects, split it.

    Source: docs/design.md, Postgres.

    Bad:

        -- covered-by: specs
        ALTER TABLE other.item ADD COLUMN rank integer;

    Good:

        ALTER TABLE other.item ADD COLUMN rank integer;
    """
    known = step.catalog.declared.get("schema", frozenset())
    if not step.file.migration.covered or step.file.way != "up" or not known or step.kind in _LEADS_AWAY:
        return
    if any(r.get("relpersistence") == "t" for r in parsing.nodes(step.tree, "RangeVar")):
        return
    gone = step.file.gone
    names = [n for n in touched(step.parsed, step.catalog) if n[0] and n[0] not in known and not {n, ("", n[0])} & gone]
    what = [shown(name) if name[1] else f"the schema {name[0]}" for name in names]
    what += [f"the partition {shown(name)}" for name in _unnamed_partitions(step)]
    declared = step.catalog.declared
    if step.kind != "CommentStmt":
        others = [other for other in outside_schemas(step.parsed) if other not in gone]
        what += [f"the {sort} {own}" for sort, own in others if own not in declared.get(sort, ())]
    if what:
        message = f"no spec declares {what[0]} so that apply would make it, and this file is covered by the specs"
        yield Finding(message, "Leave covered-by out, or put this statement into a file without it.")


def _unnamed_partitions(step: Step) -> Iterator[Name]:
    """Partitions that a statement adds to a declared set which does not call for them."""
    relation, catalog = parsing.name_of(step.tree.get("relation")), step.catalog
    if step.kind == "CreateStmt" and "partbound" in step.tree:
        parents = [parsing.name_of(parent) for parent in step.tree.get("inh_relations", ())]
        added = [(parent, relation, step.tree["partbound"]) for parent in parents]
    else:
        commands = [c.tree.get("def", {}) for c in step.commands("AT_AttachPartition")]
        added = [(relation, parsing.name_of(c.get("name")), c.get("bound", {})) for c in commands]
    for parent, name, bound in added:
        whole = name if name[0] else catalog.find(name)
        is_gone = bool({whole, catalog.find(parent)} & step.file.gone)
        if not is_gone and not _is_called_for(catalog, catalog.find(parent), name[1], bound):
            yield name


def _is_called_for(catalog: Catalog, parent: Name, name: str, bound: Tree) -> bool:
    settings = catalog.sets.get(parent)
    if settings is None or parent[0] not in catalog.declarative:
        return True  # HF0868 speaks of its schema, or nobody knows
    if bound.get("is_default"):
        return bool(settings["default"] == name)
    if settings["by"] == "hash":
        return bool(bound.get("modulus") == settings["modulus"])
    if settings["by"] == "list":
        wanted = [frozenset(str(v) for v in values) for values in (settings["values"] or {}).values()]
        return frozenset(map(_value, bound.get("listdatums", ()))) in wanted
    return settings["every"] is not None


def _value(constant: Tree) -> str:
    """A value of a list as a spec writes it."""
    if constant.get("isnull"):
        return "None"
    for key in ("sval", "ival", "fval", "boolval"):
        if key in constant:
            return str(constant[key].get(key, 0 if key == "ival" else ""))
    return ""


@rule("HF0869", "allowed-for-nothing", "nothing here needs", scope="last")
def allowed_for_nothing(file: File) -> Iterator[Finding]:
    """A file allows what lint does not find in it.

    `-- allow CODE: REASON` keeps lint silent about one code in one file. Where nothing is found any more, the line
    would hide the next mistake of its kind.

    Fix: delete the line. Where another environment needs it, whose specs say something else, allow this code too.

    Source: docs/rules/migrations/HF0804.md.

    Bad:

        -- allow HF0846: the table is small
        CREATE TABLE shop.note (id bigint PRIMARY KEY);

    Good:

        -- allow HF0846: the table is small
        CREATE INDEX item_label ON shop.item (label);
    """
    if not file.script.allowed:
        return
    own = allowed_for_nothing.code
    told = file.told | {loss.code for loss in losses(file.script, allowed=True)}
    for code in file.script.allowed:
        if code not in told and code != own:
            found = re.search(rf"^--[ \t]*allow[ \t]+{code}\b", file.script.text, re.MULTILINE)
            line = file.script.text.count("\n", 0, found.start()) + 1 if found else 1
            yield Finding(f"nothing here needs allow {code}", "Delete the line.", line=line)


@rule("HF0870", "covered-unreadable", "nobody can read what this does", severity="error")
def covered_unreadable(step: Step) -> Iterator[Finding]:
    """A file of structure that the specs cover runs what cannot be read: a block, a procedure or a function.

    `holdfast apply` records a covered file where the specs declare all that it makes. What a DO block with variables,
    branches or dynamic SQL does, what CALL does, and what a function does that a SELECT calls, does not stand in the
    file: it could carry rows, or make objects, that a plane which apply made would lack. A block that is a plain list
    of SQL statements between BEGIN and END is read, and so are blocks that `holdfast migrate new --from-plan` writes.

    Fix: write the statements themselves, or as a plain list; leave `covered-by` out, where a plane needs the file all
    the same; or say `kind: data`, if it carries rows that a new plane does not have.

    Source: docs/design.md, Postgres.

    Bad:

        -- covered-by: specs
        SELECT agents.fill_notes();

    Good:

        -- covered-by: specs
        -- kind: data
        SELECT agents.fill_notes();
    """
    migration = step.file.migration
    if not migration.covered or step.file.way != "up" or migration.kind == "data":
        return
    what = {"DoStmt": "block", "CallStmt": "procedure"}.get(step.kind)
    if step.kind == "DoStmt" and (parsing.statements_of_do(step.parsed) is not None or is_written(step.parsed)):
        return
    if step.kind == "SelectStmt":
        unknown = [name for name in parsing.called(step.tree) if name.removeprefix("pg_catalog.") not in _HARMLESS]
        what = f"function, {unknown[0]}" if unknown else None
    if what is not None:
        message = f"nobody can read what this does, and this file is covered by the specs: it runs a {what}"
        yield Finding(message, "Write the statements themselves, leave covered-by out, or say -- kind: data.")


#: Functions without a lasting effect that a file may well call in a SELECT (PostgreSQL docs, Functions and Operators).
_HARMLESS = frozenset(
    "abs array_agg bool_and bool_or concat count current_database current_schema current_setting date_trunc format "
    "generate_series json_build_object jsonb_build_object length lower max min now pg_get_viewdef pg_sleep quote_ident "
    "quote_literal row_number set_config string_agg sum to_char to_regclass to_regtype unnest upper version".split()
)


def _carries(tree: Tree) -> bool:
    """Whether a statement changes rows, or brings some into a table that it makes."""
    kind = tree.get("node")
    if kind in (*_WRITES, "SelectStmt"):
        return "into_clause" in tree or any(node.get("node") in _WRITES for node in parsing.walk(tree))
    if kind == "CopyStmt":
        return bool(tree.get("is_from"))
    into_table = kind == "CreateTableAsStmt" and tree.get("objtype") == "OBJECT_TABLE"
    return into_table and not tree.get("into", {}).get("skip_data")


def _is_structure(parsed: Parsed, step: Step) -> bool:
    return any(True for inner in unfolded(parsed) for _ in touched(inner, step.catalog))


def _brings_rows(insert: Tree) -> bool:
    """Whether rows stand in the statement itself, and are not read from a table."""
    source = insert.get("select_stmt", {})
    return not any(True for _ in parsing.nodes(source, "RangeVar"))


RULES = (covered_rows, covered_seeds, covered_undeclared, allowed_for_nothing, covered_unreadable)
