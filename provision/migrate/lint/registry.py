"""The one list of rules on migrations, and the runner. Nothing registers itself: a rule counts once it stands here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from provision.migrate.files import Migration, Script
from provision.migrate.lint import agreement, columns, constraints, coverage, indexes, loss, partitions, transactions
from provision.migrate.lint.catalog import PUBLIC, Catalog
from provision.migrate.lint.parsing import Parsed, parse
from provision.migrate.lint.rule import Finding, MigrationRule
from provision.migrate.lint.scene import File, Step
from provision.migrate.statements import Places
from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.record import Plane

_SUBJECTS = (transactions, columns, constraints, indexes, partitions, loss, agreement, coverage)
#: Every rule, by code.
RULES: tuple[MigrationRule, ...] = tuple(sorted((r for s in _SUBJECTS for r in s.RULES), key=lambda r: r.code))
_OF_STATEMENTS = tuple(r for r in RULES if r.scope == "statement")
_OF_FILES = tuple(sorted((r for r in RULES if r.scope != "statement"), key=lambda r: r.scope == "last"))


def lint(
    migrations: Sequence[Migration], plane: Plane | None, chosen: Container[str] | None = None
) -> tuple[Diagnostic, ...]:
    """Judge every statement of every file, up and down; sorted by place, each diagnostic once.

    ``plane`` is what the specs desire: it says which schemas they own, and what no earlier migration tells of a
    table. Without it the worst is assumed. What a file allows is left out. Of ``chosen`` versions, if given, the others
    only tell what tables they made.
    """
    catalog = Catalog(plane)
    found: set[Diagnostic] = set()
    for migration in migrations:
        up = tuple(map(parse, migration.up.statements))
        if chosen is not None and migration.version not in chosen:
            _take_in(catalog, up)
            continue
        down = tuple(map(parse, migration.down.statements)) if migration.down is not None else ()
        found.update(_script(File(migration, migration.up, "up", up, catalog, down)))
        if migration.down is not None:
            found.update(_script(File(migration, migration.down, "down", down, catalog.copy(), up)))
    return tuple(sorted(found, key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message)))


def _take_in(catalog: Catalog, parsed: Iterable[Parsed]) -> None:
    catalog.home = PUBLIC
    for one in parsed:
        catalog.apply(one)


def _script(file: File) -> Iterator[Diagnostic]:
    """What rules tell of one file, which its catalog then knows."""
    file.catalog.home = PUBLIC
    for index, one in enumerate(file.parsed):
        step = Step(file, index, one, file.catalog)
        for rule in _OF_STATEMENTS:
            yield from _told(file, rule, step, index)
        step.note(one)
        file.catalog.apply(one)
    for rule in _OF_FILES:
        yield from _told(file, rule, file)


def _told(file: File, rule: MigrationRule, subject: File | Step, index: int | None = None) -> Iterator[Diagnostic]:
    for finding in rule.find(subject):
        file.told.add(rule.code)
        if rule.code not in file.script.allowed:
            yield _diagnostic(file.script, rule, finding, index if finding.statement is None else finding.statement)


def _diagnostic(script: Script, rule: MigrationRule, finding: Finding, index: int | None) -> Diagnostic:
    line, column = finding.line, 1
    if index is not None:
        statement = script.statements[index]
        down, right = Places(statement.text)(finding.offset)
        line = statement.line + down - 1
        column = right if down > 1 else statement.column + right - 1
    return Diagnostic(rule.code, rule.severity, Mark(script.file, line, column), finding.message, finding.help)
