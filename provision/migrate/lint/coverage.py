"""Rules on what a file says of itself: that the specs cover it, and what lint is not to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import touched
from provision.migrate.lint.parsing import Parsed, Tree
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import File, Step, shown

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

    `holdfast apply` records covered files as applied in a plane that it made. What lies in a schema with `managed:
    migrations`, or in one of which the specs say nothing, it does not make: there the object would be missing, and no
    file would bring it.

    Fix: leave `covered-by` out; where the file also changes declared objects, split it.

    Source: docs/design.md, Postgres.

    Bad:

        -- covered-by: specs
        ALTER TABLE shop.item ADD COLUMN rank integer;

    Good:

        ALTER TABLE shop.item ADD COLUMN rank integer;
    """
    declared = step.catalog.declarative
    if not step.file.migration.covered or step.file.way != "up" or not declared or step.kind in _LEADS_AWAY:
        return
    if any(r.get("relpersistence") == "t" for r in parsing.nodes(step.tree, "RangeVar")):
        return
    for name in touched(step.parsed, step.catalog):
        if name[0] and name[0] not in declared:
            what = shown(name) if name[1] else f"the schema {name[0]}"
            message = f"no spec declares {what} so that apply would make it, and this file is covered by the specs"
            yield Finding(message, "Leave covered-by out, or put this statement into a file without it.")
            return


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
    own = allowed_for_nothing.code
    for code in file.script.allowed:
        if code not in file.told and code != own:
            found = re.search(rf"^--[ \t]*allow[ \t]+{code}\b", file.script.text, re.MULTILINE)
            line = file.script.text.count("\n", 0, found.start()) + 1 if found else 1
            yield Finding(f"nothing here needs allow {code}", "Delete the line.", line=line)


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
    return any(True for _ in touched(parsed, step.catalog))


def _brings_rows(insert: Tree) -> bool:
    """Whether rows stand in the statement itself, and are not read from a table."""
    source = insert.get("select_stmt", {})
    return not any(True for _ in parsing.nodes(source, "RangeVar"))


RULES = (covered_rows, covered_seeds, covered_undeclared, allowed_for_nothing)
