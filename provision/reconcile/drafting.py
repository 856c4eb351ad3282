"""What ``migrate new --from-plan`` writes: the statements that the migrations lack, and those that lead back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from provision.migrate.comparing import changed
from provision.migrate.files import Migration
from provision.migrate.runner import Runner
from provision.plan.assemble import Seen
from provision.plan.plan import Step
from provision.reconcile.rehearsing import Rehearsal, on_scratch, rehearsal
from provision.reconcile.workspace import Workspace
from provision.spec.change import Sql
from provision.spec.errors import HoldfastError

Note = Callable[[str], None]


class Drafted(NamedTuple):
    """Steps with SQL, in order: the way there and the way back."""

    up: tuple[Step, ...]
    down: tuple[Step, ...]


def lacking(
    specs: Path, env: str, migrations: Sequence[Migration], target: str, *, clock: datetime, cache: Path,
    note: Note = lambda text: None,
) -> Drafted:  # fmt: skip
    """The plan from the sum of the migrations to the specs, and the one back; both found on a scratch server.

    The way there is done once, so that the way back starts from what a server shows. Raises InputError for faulty
    specs or an unknown target, ServerError without an embedded server, and the error of a migration or a step that
    fails.
    """
    workspace = Workspace(specs, env, cache)
    workspace.refuse_errors()
    with rehearsal(workspace, target, cache=cache, clock=clock, note=note) as found:
        try:
            Runner(found.connection, migrations, env).up()
        except HoldfastError as error:
            raise on_scratch(error, "verify") from error
        before = found.look()
        there = found.missing(before)
        found.run(there)
        back = _way_back(found, before)
    return Drafted(_sql(there.steps), back)


def _way_back(found: Rehearsal, before: Seen) -> tuple[Step, ...]:
    """The steps back, done once; none where they fail or lead elsewhere, and a word about it."""
    plan = found.back(before, found.look())
    try:
        found.run(plan)
    except HoldfastError as error:
        found.note(f"no way back is written: {error}")
        return ()
    if lost := changed(before, found.look()):
        found.note(f"no way back is written, since none was found for {', '.join(d.object for d in lost)}")
        return ()
    return _sql(plan.steps)


def _sql(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(s for s in steps if isinstance(s.request, Sql))
