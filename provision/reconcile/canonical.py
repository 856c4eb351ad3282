"""Expressions of the desired plane as the target's own server would print them; remembered one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision import registry
from provision.reconcile.targets import Note, Targets
from provision.reconcile.world import World
from provision.spec.errors import InputError
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record
from provision.spec.stamps import code_digest

if TYPE_CHECKING:
    from provision.postgres.compile import Compiled, Tools
    from provision.postgres.connect import Settings
    from provision.postgres.memo import Memo
    from provision.postgres.scratch import Embedded, Scratch

#: Refusals that an object may cure which nobody declares and the target has: something undefined, a missing right.
_ABSENT = frozenset({"42P01", "42703", "42704", "42883", "3F000", "42501", "58P01"})


def canonicalise(plane: Plane, world: World, targets: Targets, cache: Path, note: Note) -> Plane:
    """Give the plane with every expression in canonical form. Only what no memo holds costs a scratch server."""
    from provision.postgres.scratch import ScratchDatabases

    found: dict[Address, Record] = dict(plane.records)
    for name, snapshot in world.snapshots.items():
        scratch = ScratchDatabases(targets.postgres_settings(name), snapshot.facts, embedded_scratch(cache))
        found |= of_database(part_of(plane, name), snapshot.facts, scratch, cache, note).records
    return Plane(found.values(), name=plane.name, env=plane.env)


def of_database(part: Plane, facts: Facts, scratch: Scratch, cache: Path, note: Note) -> Plane:
    """The records of one Postgres target in canonical form. Raises InputError for text that no server takes."""
    from provision.postgres import compile

    result = compile.canonicalise(part, facts, memo(cache), scratch, tools(), product=code_digest())
    for skipped in result.skipped:
        note(f"not compiled here: {skipped.address} needs {skipped.needs}")
    for problem in result.problems:
        text = f"{problem.address}: {' '.join(problem.message.split())} ({problem.sqlstate})"
        if problem.sqlstate not in _ABSENT:
            raise InputError(text, f"See its line: holdfast check --compile --env {part.env}")
        note(text)
    return Plane((_ordered(r, part[r.address]) for r in result.plane), name=part.name, env=part.env)


def spelled(declared: Plane, canonical: Plane) -> dict[Address, dict[str, Any]]:
    """The settings that a server has rewritten, in the words of the specs."""
    found = {}
    for record in declared:
        settings = canonical[record.address].settings
        if settings is not record.settings and settings != record.settings:
            words = {name: value for name, value in record.settings.items() if settings.get(name) != value}
            found[record.address] = words
    return found


def _ordered(canonical: Record, declared: Record) -> Record:
    """Keep the edges that the declared text shows: a function's body leaves no trace in the catalog."""
    if canonical is declared:
        return declared
    extra = tuple(a for a in declared.refs if a not in canonical.refs)
    return canonical._replace(refs=(*canonical.refs, *extra), origin=declared.origin) if extra else canonical


def validate(plane: Plane, target: str, facts: Facts, cache: Path) -> Compiled:
    """Build the records of one Postgres target on a scratch server and give every refusal."""
    from provision.postgres import compile
    from provision.postgres.scratch import ScratchDatabases

    major = facts.version[0] if facts.version else 18
    scratch = ScratchDatabases(None, None, embedded_scratch(cache), target=target, major=major)
    return compile.validate(part_of(plane, target), memo(cache), scratch, tools(), product=code_digest())


def part_of(plane: Plane, target: str) -> Plane:
    """The records of one Postgres target."""
    found = (r for r in plane if r.address.system == "pg" and r.address.target == target)
    return Plane(found, name=plane.name, env=plane.env)


def tools() -> Tools:
    """The kinds and queries of a database."""
    from provision.postgres.compile import Tools

    return Tools({k.name: k for k in registry.postgres_kinds()}, registry.postgres_queries())


def memo(cache: Path) -> Memo:
    """What servers made of expressions before."""
    from provision.postgres.memo import Memo

    return Memo(cache)


def embedded_scratch(cache: Path) -> Embedded:
    """Start a throw-away server of a major version when the target offers no scratch database."""

    @contextmanager
    def start(major: int) -> Iterator[Settings]:
        from provision.embedded.scratch import scratch
        from provision.postgres.connect import settings

        with scratch(cache, major) as server:
            dsn = server.dsn("postgres")
            yield settings({"kind": "embedded"}, lambda reference: "", host=dsn["host"], port=dsn["port"],
                           user=dsn["user"], password=dsn["password"], database=dsn["dbname"])  # fmt: skip

    return start
