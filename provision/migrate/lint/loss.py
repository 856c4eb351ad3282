"""Rules on data: what a statement takes away, and for how many rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from provision.migrate.files import Migration, Script
from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import made_by
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.parsing import Name, Parsed, hinted, parse, unfolded
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import File, Step, shown
from provision.migrate.statements import Places
from provision.spec.diagnostic import Mark

_HOLDING_DATA = {
    "OBJECT_TABLE": "table",
    "OBJECT_SCHEMA": "schema",
    "OBJECT_MATVIEW": "materialized view",
    "OBJECT_SEQUENCE": "sequence",
}
_SAVED = "Make sure that nobody needs the data, or copy them first; a down file cannot bring them back."


@rule("HF0856", "drop-loses-data", "dropping")
def drop_loses_data(step: Step) -> Iterator[Finding]:
    """DROP TABLE, DROP COLUMN, DROP SCHEMA and their kin: the data are gone.

    An attribute of a type, a database and all that a role owns count too. No down file brings them back. In a down file
    the rule is silent about what the up file makes, and about what another statement of the same file made.

    Fix: stop using it in one release, drop it in a later one; keep a copy where anybody could want the data.

    Source: PostgreSQL documentation, DROP TABLE; ALTER TABLE.

    Bad:

        ALTER TABLE shop.item DROP COLUMN colour;

    Good:

        ALTER TABLE shop.item ALTER COLUMN colour DROP NOT NULL;
    """
    for command in step.commands("AT_DropColumn"):
        if not _reverts(step, ("column", (*command.name, command.subject))):
            message = f"dropping {shown(command.name)}.{command.subject} loses what it holds"
            yield Finding(message, _SAVED, offset=command.offset)
    yield from _drops_many(step)
    what = _HOLDING_DATA.get(str(step.tree.get("remove_type"))) if step.kind == "DropStmt" else None
    for item in step.tree.get("objects", ()) if what is not None else ():
        name = parsing.dotted(item) if what == "schema" else step.catalog.find(parsing.dotted(item))
        if name not in step.file.created and not _reverts(step, (what or "", name)):
            yield Finding(f"dropping the {what} {shown(name)} loses what it holds", _SAVED)


def _drops_many(step: Step) -> Iterator[Finding]:
    """DROP OWNED, DROP DATABASE and the attributes of a type."""
    if step.kind == "DropOwnedStmt":
        names = ", ".join(str(role.get("rolename", "its role")) for role in step.tree.get("roles", ()))
        yield Finding(f"dropping all that {names} owns loses what it holds", _SAVED)
    elif step.kind == "DropdbStmt":
        yield Finding(f"dropping the database {step.tree.get('dbname', '')} loses what it holds", _SAVED)
    elif step.kind == "AlterTableStmt" and step.tree.get("objtype") == "OBJECT_TYPE":
        name = shown(parsing.name_of(step.tree.get("relation")))
        for command in step.tree.get("cmds", ()):
            if command.get("subtype") == "AT_DropColumn":
                yield Finding(f"dropping {name}.{command.get('name', '')} loses what it holds", _SAVED)


def _reverts(step: Step, thing: tuple[str, tuple[str, ...]]) -> bool:
    """Whether this is a down file that takes away what its up file made."""
    if step.file.way != "down":
        return False
    if step.file.made_up is None:
        step.file.made_up = frozenset(t for parsed in step.file.other for t in made_by(parsed, step.catalog))
    return thing in step.file.made_up


@rule("HF0857", "truncate-loses-data", "TRUNCATE")
def truncate_loses_data(step: Step) -> Iterator[Finding]:
    """TRUNCATE empties a table for good.

    It takes ACCESS EXCLUSIVE, and with CASCADE empties every table that refers to it.

    Fix: delete what should go, with a condition; or make sure that nobody needs the rows.

    Source: PostgreSQL documentation, TRUNCATE.

    Bad:

        TRUNCATE shop.item;

    Good:

        DELETE FROM shop.item WHERE discontinued_at < now() - interval '1 year';
    """
    if step.kind != "TruncateStmt":
        return
    names = [n for n in map(parsing.name_of, step.tree.get("relations", ())) if not step.is_new(n)]
    if names:
        others = " and every table that refers to it" if step.tree.get("behavior") == "DROP_CASCADE" else ""
        yield Finding(f"TRUNCATE loses every row of {', '.join(map(shown, names))}{others}", _SAVED)


@rule("HF0858", "delete-without-where", "DELETE without WHERE")
def delete_without_where(step: Step) -> Iterator[Finding]:
    """DELETE without a condition removes every row.

    Fix: say which rows; TRUNCATE says it if all are meant, and is quicker.

    Source: PostgreSQL documentation, DELETE.

    Bad:

        DELETE FROM shop.item;

    Good:

        DELETE FROM shop.item WHERE discontinued_at IS NOT NULL;
    """
    for tree in parsing.nodes(step.tree, "DeleteStmt") if step.kind in _RUNS else ():
        if not _takes_all(step, tree, "using_clause"):
            continue
        name = shown(parsing.name_of(tree.get("relation")))
        yield Finding(f"DELETE without WHERE removes every row of {name}", "Say which rows.")


@rule("HF0859", "update-without-where", "UPDATE without WHERE")
def update_without_where(step: Step) -> Iterator[Finding]:
    """UPDATE without a condition writes every row in one transaction.

    Each row stays locked until the end, the table grows to twice its size, and replicas and autovacuum fall behind.
    Run a second time, it writes them all again.

    Fix: change only rows that need it, in batches of some thousands: one statement each, in a file with `transaction:
    none`, or a loop in the program.

    Source: PostgreSQL documentation, UPDATE; Routine Vacuuming.

    Bad:

        UPDATE shop.item SET colour = 'red';

    Good:

        UPDATE shop.item SET colour = 'red' WHERE colour IS NULL;
    """
    for tree in parsing.nodes(step.tree, "UpdateStmt") if step.kind in _RUNS else ():
        if not _takes_all(step, tree, "from_clause"):
            continue
        name = shown(parsing.name_of(tree.get("relation")))
        help = "Say which rows need it, and change a large table in batches."
        yield Finding(f"UPDATE without WHERE writes every row of {name} in one transaction", help)


#: Statements that run what stands inside of them.
_RUNS = ("DeleteStmt", "UpdateStmt", "InsertStmt", "MergeStmt", "SelectStmt", "CreateTableAsStmt", "CopyStmt")


def _takes_all(step: Step, tree: parsing.Tree, joined: str) -> bool:
    if step.is_new(parsing.name_of(tree.get("relation"))):
        return False
    condition = tree.get("where_clause")
    always = condition is not None and bool(condition.get("boolval", {}).get("boolval"))
    return always or (condition is None and joined not in tree)


@rule("HF0860", "cascade", "CASCADE")
def cascade(step: Step) -> Iterator[Finding]:
    """DROP … CASCADE takes away what nobody named.

    Views, foreign keys, defaults, policies and functions that depend on the object go too, silently; which ones,
    depends on the server, not on the file.

    Fix: drop what depends on it by name, then the object without CASCADE: the server then says what was forgotten.

    Source: PostgreSQL documentation, Dependency Tracking.

    Bad:

        DROP VIEW shop.cheap CASCADE;

    Good:

        DROP VIEW shop.cheapest;
        DROP VIEW shop.cheap;
    """
    if step.kind == "DropStmt" and step.tree.get("behavior") == "DROP_CASCADE":
        names = [_label(item) for item in step.tree.get("objects", ())]
        message = f"CASCADE drops whatever depends on {', '.join(names)}, without saying what"
        yield Finding(message, "Drop what depends on it by name, and leave CASCADE out.")
    for command in step.commands("AT_DropColumn", "AT_DropConstraint"):
        if command.tree.get("behavior") == "DROP_CASCADE":
            message = f"CASCADE drops whatever depends on {shown(command.name)}.{command.subject}, without saying what"
            yield Finding(message, "Drop what depends on it by name, and leave CASCADE out.", offset=command.offset)


def _label(item: parsing.Tree) -> str:
    name: Name = parsing.dotted(item)
    return shown(name)


class Loss(NamedTuple):
    """A statement that loses data: the code of the rule that says so; ``what`` is a sentence without full stop."""

    code: str
    mark: Mark
    what: str


def losses(script: Script, *, allowed: bool = False) -> list[Loss]:
    """What the statements of a script take away, those of readable DO blocks among them, in the order of the file.

    A code that the script allows is left out, unless ``allowed``. Other than lint, which knows that a way back takes
    away what the way there made, this counts what it holds by then.
    """
    read = [parse(statement) for statement in script.statements]
    parsed = tuple(inner for one in read for inner in (*hinted(one), *unfolded(one)))
    catalog = Catalog()
    file = File(Migration(0, "", "", "schema", None, (), script, None), script, "up", parsed, catalog)
    found: list[Loss] = []
    for index, one in enumerate(parsed):
        step = Step(file, index, one, catalog)
        told = [
            Loss(judge.code, _mark(script, one, finding.offset), finding.message)
            for judge in (drop_loses_data, truncate_loses_data, delete_without_where)
            for finding in judge.find(step)
            if not _is_empty_by_then(step)
        ]
        if not told and _may_take_columns(step):
            told = [Loss(cascade.code, _mark(script, one, f.offset), f.message) for f in cascade.find(step)]
        found += (loss for loss in told if allowed or loss.code not in script.allowed)
        if not one.tree.get("if_not_exists"):  # else it may have been there
            step.note(one)
        catalog.apply(one)
    return list(dict.fromkeys(found))


def _is_empty_by_then(step: Step) -> bool:
    """Whether the server itself refuses to drop what holds something."""
    is_schema = step.kind == "DropStmt" and step.tree.get("remove_type") == "OBJECT_SCHEMA"
    return is_schema and step.tree.get("behavior") != "DROP_CASCADE"


def _may_take_columns(step: Step) -> bool:
    """Whether columns can depend on what is dropped."""
    return step.kind == "DropStmt" and step.tree.get("remove_type") not in (
        "OBJECT_INDEX", "OBJECT_POLICY", "OBJECT_PUBLICATION", "OBJECT_RULE", "OBJECT_TRIGGER",
    )  # fmt: skip


def _mark(script: Script, parsed: Parsed, offset: int) -> Mark:
    line, column = Places(parsed.statement.text)(offset)
    start = parsed.statement
    return Mark(script.file, start.line + line - 1, column if line > 1 else start.column + column - 1)


RULES = (drop_loses_data, truncate_loses_data, delete_without_where, update_without_where, cascade)
