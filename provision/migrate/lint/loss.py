"""Rules on data: what a statement takes away, and for how many rows at once."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import made_by
from provision.migrate.lint.parsing import Name
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import Step, shown

_HOLDING_DATA = {
    "OBJECT_TABLE": "table",
    "OBJECT_SCHEMA": "schema",
    "OBJECT_MATVIEW": "materialized view",
    "OBJECT_SEQUENCE": "sequence",
}
_SAVED = "Make sure that nobody needs the data, or copy them first; a down file cannot bring them back."


@rule("HF0856", "drop-loses-data", "dropping")
def drop_loses_data(step: Step) -> Iterator[Finding]:
    """DROP TABLE, DROP COLUMN or DROP SCHEMA: the data are gone.

    No down file brings them back. In a down file the rule is silent about what the up file makes, and about what
    another statement of the same file made.

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
    what = _HOLDING_DATA.get(str(step.tree.get("remove_type"))) if step.kind == "DropStmt" else None
    for item in step.tree.get("objects", ()) if what is not None else ():
        name = parsing.dotted(item) if what == "schema" else step.catalog.find(parsing.dotted(item))
        if name not in step.file.created and not _reverts(step, (what or "", name)):
            yield Finding(f"dropping the {what} {shown(name)} loses what it holds", _SAVED)


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
    if _takes_all(step, "DeleteStmt", "using_clause"):
        name = shown(parsing.name_of(step.tree.get("relation")))
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
    if _takes_all(step, "UpdateStmt", "from_clause"):
        name = shown(parsing.name_of(step.tree.get("relation")))
        help = "Say which rows need it, and change a large table in batches."
        yield Finding(f"UPDATE without WHERE writes every row of {name} in one transaction", help)


def _takes_all(step: Step, kind: str, joined: str) -> bool:
    if step.kind != kind or step.is_new(parsing.name_of(step.tree.get("relation"))):
        return False
    condition = step.tree.get("where_clause")
    always = condition is not None and bool(condition.get("boolval", {}).get("boolval"))
    return always or (condition is None and joined not in step.tree)


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


RULES = (drop_loses_data, truncate_loses_data, delete_without_where, update_without_where, cascade)
