"""Where specs and migrations meet in a database: what ``apply`` records as applied, and what ``migrate up`` needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from provision.migrate import files, history
from provision.migrate.files import Migration
from provision.migrate.history import Standing
from provision.migrate.runner import Runner
from provision.plan.protocols import LockHeld
from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.reconcile import canonical
from provision.reconcile.rehearsing import HISTORY, history_of
from provision.reconcile.session import OpenPlane
from provision.spec.errors import InputError, StalePlanError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: How long to wait for somebody who makes the tables of the history, and between two looks.
_PATIENCE_S, _PAUSE_S = 3.0, 0.2


class Found(NamedTuple):
    """``made``: migrations whose effect the specs have made. ``there``: a migration that would make what is there
    already, and the name of that; ``waiting`` is how many changes the plane still lacks."""

    made: tuple[Migration, ...] = ()
    there: tuple[Migration, str] | None = None
    waiting: int = 0

    def refuse_there(self, standings: Mapping[str, Standing]) -> None:
        """Raise InputError where a file would run into what is there. What somebody runs just now is theirs."""
        if self.there is None:
            return
        migration, what = self.there
        message = f"{migration.up.file} makes {what}, which is there already, so nothing was run"
        standing = standings.get(migration.version)
        if standing is not None and (standing.is_applied or standing.open_run is not None):
            return
        if standing is not None:
            raise InputError(
                f"{message}: {migration.version} was rolled back or failed before, so it is not recorded by itself",
                f"Where apply made it again: holdfast migrate baseline {migration.version}",
            )
        if self.waiting:
            raise InputError(
                f"{message}: {self.waiting} changes are pending",
                "Run holdfast apply first: once the plane equals its specs, what they have made is recorded.",
            )


def stamp(plane: OpenPlane, clock: datetime) -> list[Migration]:
    """Record in every database what ``find`` finds. Folders with faults are left to ``holdfast migrate``."""
    found: list[Migration] = []
    for target in plane.targets.names("pg"):
        migrations, faults = files.read(files.folder_of(plane.targets.root, target))
        if faults or not any(m.covered for m in migrations):
            continue
        connection = plane.targets.postgres(target)
        if history.exists(connection):
            made = find(plane, target, migrations, clock).made
            found += record(plane, target, migrations, made)
    return found


def find(
    plane: OpenPlane, target: str, migrations: Sequence[Migration], clock: datetime, to: str | None = None
) -> Found:
    """What the specs have made of the migrations up to ``to``. Changes nothing.

    Those are the files with ``covered-by: specs`` of which history knows nothing and ``made_by_specs`` says so, once
    the live database equals its specs. One that carries data is among them only where the database holds no row.
    """
    from provision.migrate.lint.ownership import already_there, made_by_specs

    connection = plane.targets.postgres(target)
    standings = history.peek(connection)
    last = next((m.number for m in migrations if m.version == to), None)
    pending = [
        m for m in migrations
        if m.covered and not _is_begun(standings, m.version) and (last is None or m.number <= last)
    ]  # fmt: skip
    if not pending:
        return Found()
    specs = canonical.part_of(plane.workspace.plane, target)
    own = str(history_of(target))
    steps = [s for s in plane.plan(clock=clock).steps if (s.system, s.target) == ("pg", target)]
    waiting = [s for s in steps if s.object != own and not s.object.startswith((f"{own}/", f"pg:{target}/role/"))]
    made: list[Migration] = []
    if not waiting:
        untouched = made_by_specs(pending, specs, [m.version for m in pending if m.version in standings])
        is_empty = any(m.kind == "data" for m in untouched) and _is_empty(connection)
        made = [m for m in untouched if m.kind != "data" or is_empty]
    ahead = [m for m in pending if m not in made and m.kind != "data"]
    may_refuse = bool(waiting) or any(m.version in standings for m in ahead)
    there = already_there(ahead, specs, plane.observe().live) if ahead and may_refuse else None
    return Found(tuple(made), there, len(waiting))


def record(
    plane: OpenPlane, target: str, migrations: Sequence[Migration], made: Sequence[Migration], *, wait_s: float = 0
) -> list[Migration]:
    """Record as applied what ``find`` found; none is run. Raises LockHeld where a runner is at work for ``wait_s``."""
    if not made:
        return []
    connection = plane.targets.postgres(target)
    return Runner(connection, migrations, plane.env, wait_s=wait_s, note=plane.note).stamp(made)


def _is_begun(standings: Mapping[str, Standing], version: str) -> bool:
    return version in standings and not standings[version].is_untouched


def make_history(plane: OpenPlane, target: str, clock: datetime, *, wait_s: float = 0) -> bool:
    """Make the tables of the history where they are declared and not there yet, and the roles that are not.

    Tells whether it did. What else the specs declare is left to the migrations; a role that is there and differs, to
    apply and its consents. Where somebody else is making them, waits ``wait_s`` and looks again; then raises LockHeld,
    which says who, or StalePlanError.
    """
    deadline = time.monotonic() + max(wait_s, _PATIENCE_S)
    is_told = False
    while True:
        try:
            return _make_history(plane, target, clock)
        except (LockHeld, StalePlanError) as error:
            if time.monotonic() > deadline:
                raise
            if isinstance(error, LockHeld) and not is_told:
                plane.note(f"waiting: {error}")
                is_told = True
        time.sleep(_PAUSE_S)


def _make_history(plane: OpenPlane, target: str, clock: datetime) -> bool:
    schema = history_of(target)
    if history.exists(plane.targets.postgres(target)) or schema not in plane.workspace.plane:
        return False
    live = plane.observe().live
    declared = (r.address for r in plane.workspace.plane.of_kind("role") if r.address.target == target)
    roles = [role for role in declared if role not in live]
    plan = plane.plan(clock=clock, only=[str(a) for a in (schema, *roles)])
    if not plan.is_idle:
        plane.note(f"the schema {HISTORY} and the roles come first: {len(plan.steps)} steps")
    plane.apply(plan)
    return True


#: Tables that people fill: those of the server, of extensions, of our own book-keeping and of sessions are none.
_TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_'
       AND n.nspname NOT IN ('information_schema', 'holdfast', 'migrations')
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"""


def _is_empty(connection: Connection) -> bool:
    """Whether no table of the database, declared or not, holds a row. Rows that a policy hides count as there."""
    (output,) = wire.run(connection, f"COPY ({_TABLES}) TO STDOUT")
    some = " OR ".join(f"EXISTS (SELECT FROM {row[0]})" for row in parse_copy(output)) or "false"
    reply = wire.send(
        connection, ["BEGIN READ ONLY", "SET LOCAL row_security = off", f"COPY (SELECT {some}) TO STDOUT"]
    )
    wire.send(connection, ["ROLLBACK"])
    return reply.refusal is None and reply.copies[0].decode().strip() == "f"
