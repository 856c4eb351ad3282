"""Where specs and migrations meet in a database: what ``apply`` records as applied, and what ``migrate up`` needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from provision.migrate import files, history
from provision.migrate.files import Migration
from provision.migrate.history import standing_of
from provision.migrate.runner import Runner
from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.postgres.sql import qualified, quote_literal
from provision.reconcile import canonical
from provision.reconcile.rehearsing import HISTORY, history_of
from provision.reconcile.session import OpenPlane
from provision.spec.record import Plane

if TYPE_CHECKING:
    from provision.postgres.connect import Connection


def stamp(plane: OpenPlane, clock: datetime) -> list[Migration]:
    """Record in every database what ``record`` finds. Folders with faults are left to ``holdfast migrate``."""
    found: list[Migration] = []
    for target in plane.targets.names("pg"):
        migrations, faults = files.read(files.folder_of(plane.targets.root, target))
        if not faults:
            found += record(plane, target, migrations, clock)
    return found


def record(plane: OpenPlane, target: str, migrations: Sequence[Migration], clock: datetime) -> list[Migration]:
    """Record as applied the migrations whose effect the specs have made; none is run.

    Those are the pending files with ``covered-by: specs`` whose objects the specs own, once the live database equals
    its specs. One that carries data is recorded only where every declared table is empty: there is nothing to carry.
    """
    candidates = [m for m in migrations if m.covered]
    connection = plane.targets.postgres(target) if candidates else None
    if connection is None or not history.exists(connection):
        return []
    standings = history.read(connection)
    pending = [m for m in candidates if standing_of(standings, m.version).is_untouched]
    if not pending or any((s.system, s.target) == ("pg", target) for s in plane.plan(clock=clock).steps):
        return []
    made = _made(pending, canonical.part_of(plane.workspace.plane, target), target, connection)
    return Runner(connection, migrations, plane.env, note=plane.note).stamp(made)


def make_history(plane: OpenPlane, target: str, clock: datetime) -> bool:
    """Make the tables of the history where they are declared and not there yet, and the roles that are not.

    Tells whether it did. What else the specs declare is left to the migrations; a role that is there and differs, to
    apply and its consents.
    """
    schema = history_of(target)
    if history.exists(plane.targets.postgres(target)) or schema not in plane.workspace.plane:
        return False
    live = plane.observe().live
    declared = (r.address for r in plane.workspace.plane.of_kind("role") if r.address.target == target)
    roles = [role for role in declared if role not in live]
    plan = plane.plan(clock=clock, only=[str(a) for a in (schema, *roles)])
    plane.note(f"the schema {HISTORY} and the roles come first: {len(plan.steps)} steps")
    plane.apply(plan)
    return True


def _made(pending: Sequence[Migration], plane: Plane, target: str, connection: Connection) -> Iterator[Migration]:
    from provision.migrate.lint.ownership import is_owned_by_specs

    is_empty: bool | None = None
    for migration in pending:
        if not is_owned_by_specs(migration, plane):
            continue
        if migration.kind == "data":
            is_empty = _is_empty(connection, plane, target) if is_empty is None else is_empty
            if not is_empty:
                continue
        yield migration


def _is_empty(connection: Connection, plane: Plane, target: str) -> bool:
    """Whether no declared table holds a row that a migration could carry. Rows that a policy hides count as there.

    Tables that migrations have yet to make hold none.
    """
    declared = [r.address.names for r in plane.of_kind("table") if r.address.target == target]
    names = [qualified(*n[:2]) for n in declared if n[0] != HISTORY]
    if not names:
        return True
    listed = ", ".join(quote_literal(name) for name in names)
    query = f"SELECT n FROM unnest(ARRAY[{listed}]) n WHERE to_regclass(n) IS NOT NULL"
    (output,) = wire.run(connection, f"COPY ({query}) TO STDOUT")
    there = [str(row[0]) for row in parse_copy(output)]
    some = " OR ".join(f"EXISTS (SELECT 1 FROM {name})" for name in there) or "false"
    reply = wire.send(
        connection, ["BEGIN READ ONLY", "SET LOCAL row_security = off", f"COPY (SELECT {some}) TO STDOUT"]
    )
    wire.send(connection, ["ROLLBACK"])
    return reply.refusal is None and reply.copies[0].decode().strip() == "f"
