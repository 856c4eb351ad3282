"""The one list of rules on migrations, and the runner. Nothing registers itself: a rule counts once it stands here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provision.migrate.files import Migration, Script
from provision.migrate.lint import agreement, columns, constraints, indexes, loss, partitions, transactions
from provision.migrate.lint.catalog import PUBLIC, Catalog
from provision.migrate.lint.parsing import parse
from provision.migrate.lint.rule import Finding, MigrationRule
from provision.migrate.lint.scene import File, Step
from provision.migrate.statements import Places
from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.record import Plane

_SUBJECTS = (transactions, columns, constraints, indexes, partitions, loss, agreement)
#: Every rule, by code.
RULES: tuple[MigrationRule, ...] = tuple(sorted((r for s in _SUBJECTS for r in s.RULES), key=lambda r: r.code))
_OF_STATEMENTS = tuple(r for r in RULES if r.scope == "statement")
_OF_FILES = tuple(r for r in RULES if r.scope == "file")


def lint(migrations: Sequence[Migration], plane: Plane | None) -> tuple[Diagnostic, ...]:
    """Judge every statement of every file, up and down; sorted by place, each diagnostic once.

    ``plane`` is what the specs desire: it says which schemas they own, and what no earlier migration tells of a
    table. Without it the worst is assumed.
    """
    catalog = Catalog(plane)
    found: set[Diagnostic] = set()
    for migration in migrations:
        found.update(_script(migration, migration.up, catalog))
        if migration.down is not None:
            found.update(_script(migration, migration.down, catalog.copy()))
    return tuple(sorted(found, key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message)))


def _script(migration: Migration, script: Script, catalog: Catalog) -> Iterator[Diagnostic]:
    way = "up" if script is migration.up else "down"
    parsed = tuple(map(parse, script.statements))
    catalog.home = PUBLIC
    file = File(migration, script, way, parsed, catalog)  # type: ignore[arg-type]
    for index, one in enumerate(parsed):
        step = Step(file, index, one, catalog)
        for rule in _OF_STATEMENTS:
            for finding in rule.find(step):
                yield _diagnostic(script, rule, finding, index)
        step.note(one)
        catalog.apply(one)
    for rule in _OF_FILES:
        for finding in rule.find(file):
            yield _diagnostic(script, rule, finding, finding.statement)


def _diagnostic(script: Script, rule: MigrationRule, finding: Finding, index: int | None) -> Diagnostic:
    line = column = 1
    if index is not None:
        statement = script.statements[index]
        down, right = Places(statement.text)(finding.offset)
        line = statement.line + down - 1
        column = right if down > 1 else statement.column + right - 1
    return Diagnostic(rule.code, rule.severity, Mark(script.file, line, column), finding.message, finding.help)
