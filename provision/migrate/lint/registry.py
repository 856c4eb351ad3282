"""The one list of rules on migrations, and the runner. Nothing registers itself: a rule counts once it stands here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from provision.migrate.files import Migration, Script, Statement
from provision.migrate.lint import agreement, columns, constraints, coverage, indexes, loss, partitions, transactions
from provision.migrate.lint.catalog import PUBLIC, Catalog
from provision.migrate.lint.parsing import Parsed, hinted, parse, unfolded
from provision.migrate.lint.rule import Finding, MigrationRule
from provision.migrate.lint.scene import File, Step
from provision.migrate.statements import Places
from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.record import Plane

_SUBJECTS = (transactions, columns, constraints, indexes, partitions, loss, agreement, coverage)
#: Every rule, by code.
RULES: tuple[MigrationRule, ...] = tuple(sorted((r for s in _SUBJECTS for r in s.RULES), key=lambda r: r.code))
_OF_STATEMENTS = tuple(r for r in RULES if r.scope == "statement")
#: What they tell is as true inside of a DO block or an EXPLAIN.
_OF_EFFECTS = tuple(
    r for r in RULES if r.scope == "statement" and r in (*loss.RULES, *agreement.RULES, *coverage.RULES)
)
_OF_FILES = tuple(sorted((r for r in RULES if r.scope != "statement"), key=lambda r: r.scope == "last"))


def lint(
    migrations: Sequence[Migration], plane: Plane | None, chosen: Container[str] | None = None,
    version: tuple[int, ...] = (),
) -> tuple[Diagnostic, ...]:  # fmt: skip
    """Judge every statement of every file, up and down; sorted by place, each diagnostic once.

    ``plane`` is what the specs desire: it says which schemas they own, and what no earlier migration tells of a
    table. Without it the worst is assumed. What a file allows is left out. Of ``chosen`` versions, if given, the others
    only tell what tables they made. ``version`` is the server's, empty where nobody knows it.
    """
    catalog = Catalog(plane)
    catalog.version = version
    found: set[Diagnostic] = set()
    ups = [tuple(map(parse, migration.up.statements)) for migration in migrations]
    for migration, up, gone in zip(migrations, ups, _gone_later(ups, catalog), strict=True):
        if chosen is not None and migration.version not in chosen:
            _take_in(catalog, up)
            continue
        down = tuple(map(parse, migration.down.statements)) if migration.down is not None else ()
        found.update(_script(File(migration, migration.up, "up", up, catalog, down, gone=gone)))
        if migration.down is not None:
            found.update(_script(File(migration, migration.down, "down", down, catalog.copy(), up)))
    return tuple(sorted(found, key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message)))


def _gone_later(ups: Sequence[Iterable[Parsed]], catalog: Catalog) -> list[frozenset[tuple[str, ...]]]:
    """For each file the names of what it or a later one takes away or renames."""
    gone: frozenset[tuple[str, ...]] = frozenset()
    found = []
    for up in reversed(ups):
        gone |= {name for one in up for inner in unfolded(one) for name in agreement.gone_by(inner, catalog)}
        found.append(gone)
    return found[::-1]


def _take_in(catalog: Catalog, parsed: Iterable[Parsed]) -> None:
    catalog.home = PUBLIC
    for one in parsed:
        for inner in unfolded(one):
            catalog.apply(inner)


def _script(file: File) -> Iterator[Diagnostic]:
    """What rules tell of one file, which its catalog then knows."""
    file.catalog.home = PUBLIC
    for index, one in enumerate(file.parsed):
        step = Step(file, index, one, file.catalog)
        for rule in _OF_STATEMENTS:
            yield from _told(file, rule, step, one.statement)
        for rule in (*loss.RULES, agreement.runners_own):
            for hint in hinted(one):
                yield from _told(file, rule, Step(file, index, hint, file.catalog), one.statement)
        for inner in unfolded(one):
            within = Step(file, index, inner, file.catalog)
            for rule in _OF_EFFECTS if inner is not one else ():
                yield from _told(file, rule, within, inner.statement)
            within.note(inner)
            file.catalog.apply(inner)
    for rule in _OF_FILES:
        yield from _told(file, rule, file)


def _told(
    file: File, rule: MigrationRule, subject: File | Step, statement: Statement | None = None
) -> Iterator[Diagnostic]:
    for finding in rule.find(subject):
        file.told.add(rule.code)
        if rule.code not in file.script.allowed:
            place = statement if finding.statement is None else file.script.statements[finding.statement]
            yield _diagnostic(file.script, rule, finding, place)


def _diagnostic(script: Script, rule: MigrationRule, finding: Finding, statement: Statement | None) -> Diagnostic:
    line, column = finding.line, 1
    if statement is not None:
        down, right = Places(statement.text)(finding.offset)
        line = statement.line + down - 1
        column = right if down > 1 else statement.column + right - 1
    return Diagnostic(rule.code, rule.severity, Mark(script.file, line, column), finding.message, finding.help)
