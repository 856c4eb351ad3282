"""What ``migrate new --from-plan`` writes: the statements that the migrations lack, and those that lead back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from provision.migrate.comparing import changed
from provision.migrate.files import Migration
from provision.migrate.partitions.look import rolls
from provision.migrate.runner import Runner
from provision.plan.assemble import Seen
from provision.plan.plan import Drift, Step
from provision.postgres.kinds.steps import member_name
from provision.reconcile.rehearsing import Rehearsal, on_scratch, rehearsal
from provision.reconcile.workspace import Workspace
from provision.spec.change import Sql
from provision.spec.errors import HoldfastError
from provision.spec.record import Plane

Note = Callable[[str], None]


class Drafted(NamedTuple):
    """Steps with SQL, in order: the way there and the way back. ``covered``: apply makes the way there as well."""

    up: tuple[Step, ...]
    down: tuple[Step, ...]
    covered: bool


def lacking(
    workspace: Workspace, migrations: Sequence[Migration], target: str, *, clock: datetime, cache: Path,
    note: Note = lambda text: None,
) -> Drafted:  # fmt: skip
    """The plan from the sum of the migrations to the specs, and the one back; both found on a scratch server.

    The way there is done once, so that the way back starts from what a server shows. Raises InputError for faulty
    specs or an unknown target, ServerError without an embedded server, and the error of a migration or a step that
    fails.
    """
    with rehearsal(workspace, target, cache=cache, clock=clock, note=note) as found:
        try:
            Runner(found.connection, migrations, workspace.env).up()
        except HoldfastError as error:
            raise on_scratch(error, "verify") from error
        before = found.look()
        there = found.missing(before)
        found.run(there)
        after = found.look()
        if left := found.missing(after).drift:
            note(f"not written, since no statement was found for it: {_listed(left)}")
        back = _way_back(found, before, after)
    up = _sql(there.steps)
    for place in sorted(_narrow(up, found.wanted)):
        note(f"{place}: its DEFAULT partition is changed by name; those that maintenance makes have to be added")
    return Drafted(up, back, _is_covered(up, workspace.plane, note))


def _narrow(steps: Iterable[Step], plane: Plane) -> set[str]:
    """Rolling sets of which a step names the one partition that is always there: it would have to name all."""
    found = set()
    for record in plane.of_kind("partitions"):
        if not (rolls(record) and record.parent is not None and record.settings["default"]):
            continue
        name = member_name(record.parent, str(record.settings["default"]))
        texts = (s.request.text for s in steps if s.object != str(record.address) and isinstance(s.request, Sql))
        if any(name in text for text in texts):
            found.add(str(record.parent))
    return found


def _is_covered(steps: Iterable[Step], plane: Plane, note: Note) -> bool:
    """Whether the schemas of all steps are ones that apply makes."""
    left = [f"{r.address}/" for r in plane.of_kind("schema") if r.settings["managed"] == "migrations"]
    own = [any(f"{step.object}/".startswith(place) for place in left) for step in steps]
    if any(own) and not all(own):
        note("it changes schemas of both owners: put what is managed: migrations into a file without covered-by")
    return not all(own)


def _listed(found: Iterable[Drift]) -> str:
    return ", ".join(d.object for d in found)


def _way_back(found: Rehearsal, before: Seen, after: Seen) -> tuple[Step, ...]:
    """The steps back, done once; none where they fail or lead elsewhere, and a word about it."""
    plan = found.back(before, after)
    try:
        found.run(plan)
    except HoldfastError as error:
        found.note(f"no way back is written: {error}")
        return ()
    if lost := changed(before, found.look()):
        found.note(f"no way back is written, since none was found for {_listed(lost)}")
        return ()
    return _sql(plan.steps)


def _sql(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(s for s in steps if isinstance(s.request, Sql))
