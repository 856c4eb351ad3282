"""``holdfast migrate verify``: proves on a scratch server that the migrations add up to the specs, and that each way
back leads back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from provision.migrate.comparing import changed
from provision.migrate.files import Migration
from provision.migrate.lint.loss import drop_loses_data
from provision.migrate.runner import Runner
from provision.plan.assemble import Seen
from provision.plan.plan import Drift, Plan
from provision.reconcile.rehearsing import Rehearsal, on_scratch, rehearsal
from provision.reconcile.workspace import Workspace
from provision.spec.errors import HoldfastError
from provision.spec.ident import Address

Note = Callable[[str], None]
#: The code that a way back allows when it carries the rows itself into what it makes anew.
_ROWS = drop_loses_data.code


class WayBack(NamedTuple):
    """A migration whose way back does not lead back. ``after`` is "down" or "up again".

    ``lost`` are addresses of tables and columns that the way there left alone, and the way back dropped and made anew.
    """

    migration: Migration
    after: str
    differences: tuple[Drift, ...]
    lost: tuple[str, ...] = ()


class Proof(NamedTuple):
    """What the rehearsal showed.

    ``missing`` is the plan that would still lead from the sum of the migrations to the specs: its drift names
    each difference, with "live" for what the migrations make. ``reversed`` counts the ways back that were tried.
    ``failure`` is the error of a migration that failed, up or down: nothing after it was tried, and there is no sum.
    """

    migrations: int
    reversed: int
    missing: Plan | None
    ways_back: tuple[WayBack, ...]
    failure: HoldfastError | None = None

    @property
    def holds(self) -> bool:
        """Whether the migrations add up to the specs, and every way back leads back."""
        plan = self.missing
        return plan is not None and not (plan.steps or plan.drift or self.ways_back)


class _Failed(Exception):
    """A migration that fails here, or that the folder's order refuses."""

    def __init__(self, error: HoldfastError) -> None:
        super().__init__(str(error))
        self.error = on_scratch(error, "verify")


def prove(
    workspace: Workspace, migrations: Sequence[Migration], target: str, *, clock: datetime, cache: Path,
    note: Note = lambda text: None,
) -> Proof:  # fmt: skip
    """Run every migration on a scratch server: up, and where there is a way back, down and up again.

    Raises InputError for an unknown target, ServerError without an embedded server.
    """
    astray: list[WayBack] = []
    tried = 0
    with rehearsal(workspace, target, cache=cache, clock=clock, note=note) as found:
        runner = Runner(found.connection, migrations, workspace.env)
        seen = found.look()
        try:
            for migration in migrations:
                held = found.identities()
                before, seen = seen, _up(runner, found, migration)
                if migration.down is None:
                    continue
                tried += 1
                kept = set(found.identities().values())
                differences = changed(before, _down(runner, found))
                lost = () if _ROWS in migration.down.allowed else _lost(held, kept, found.identities())
                if differences or lost:
                    astray.append(WayBack(migration, "down", differences, lost))
                first, seen = seen, _up(runner, found, migration)
                if differences := changed(first, seen):
                    astray.append(WayBack(migration, "up again", differences))
        except _Failed as failed:
            return Proof(len(migrations), tried, None, tuple(astray), failed.error)
        plan = found.missing(seen)
    return Proof(len(migrations), tried, plan, tuple(astray))


def _lost(held: Mapping[Address, str], kept: Collection[str], now: Mapping[Address, str]) -> tuple[str, ...]:
    """What was there before, outlived the way there, and is another one now. A table says it for its columns."""
    lost = [a for a, identity in held.items() if identity in kept and a in now and now[a] != identity]
    return tuple(str(a) for a in lost if a.kind == "table" or not any(a.within(b) for b in lost if b.kind == "table"))


def _up(runner: Runner, found: Rehearsal, migration: Migration) -> Seen:
    try:
        runner.up(migration.version)
    except HoldfastError as error:
        raise _Failed(error) from error
    return found.look()


def _down(runner: Runner, found: Rehearsal) -> Seen:
    try:
        runner.down()
    except HoldfastError as error:
        raise _Failed(error) from error
    return found.look()
