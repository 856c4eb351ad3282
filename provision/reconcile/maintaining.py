"""Maintenance of partitions: opens the plane, holds its lock, and lets ``migrate`` do the work target by target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from provision.migrate.partitions import history
from provision.migrate.partitions.look import look, rolls
from provision.migrate.partitions.maintain import Keeper, Orders
from provision.migrate.partitions.report import Report, SetStatus
from provision.migrate.partitions.runner import Patience
from provision.plan.consents import refuse_malformed
from provision.plan.scope import ScopeError, covers
from provision.reconcile.session import OpenPlane, open_plane
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from provision.postgres.ledger import PostgresLedger

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asks for. ``archive`` is the folder for archives, where one was named.

    ``server_clock`` stands for the server's clock, which is asked otherwise.
    """

    clock: datetime
    only: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    archive: Path | None = None
    dry: bool = False
    patience: Patience = field(default_factory=Patience)
    server_clock: datetime | None = None


def maintain(
    specs: Path, env: str, wish: Wish, *, cache: Path, note: Progress = lambda text: None,
    progress: Progress = lambda text: None,
) -> Report:  # fmt: skip
    """Make what is missing, empty DEFAULT partitions, retire what expired; under the plane's lock, as an apply.

    Gives what was done, the consents that some of it waits for, and what failed. Raises LockHeld with who holds the
    lock, UnreachableError, InputError.
    """
    refuse_malformed(wish.allowed, "Write KIND:ADDRESS: data_loss:pg:main/s/t/partitions/set.")
    with open_plane(specs, env, cache=cache, note=note) as plane:
        report = Report(plane.name, plane.env, wish.clock.isoformat(timespec="seconds"))
        ledger = _ledger(plane)
        targets = _targets(plane, wish.only)
        if not targets or ledger is None:
            return report
        if wish.dry:
            former = history.former(ledger.connection, plane.name, plane.env) if ledger.exists() else {}
            for keeper in _keepers(plane, targets, wish, report, progress):
                keeper.advance()
                keeper.retire(former)
            return report
        ledger.prepare()
        with ledger.hold(), plane.ground.recorded(history.BEGUN, lambda: report.summary) as run:
            keepers = list(_keepers(plane, targets, wish, report, progress))
            for keeper in keepers:
                keeper.advance()
            _retire(keepers, ledger, run.id)
            run.status, run.summary = "failed" if report.problems else "done", _counts(report)
        return report


def _retire(keepers: Iterable[Keeper], ledger: PostgresLedger, run: str) -> None:
    """Retire everywhere; what was allowed becomes what the next run compares with, also if this one dies."""
    policies = history.former(ledger.connection, ledger.plane, ledger.env)
    for keeper in keepers:
        policies = {**policies, **keeper.retire(policies)}
        history.note(ledger.connection, run, policies)


def status(specs: Path, env: str, *, clock: datetime, cache: Path, only: tuple[str, ...] = ()) -> list[SetStatus]:
    """How every rolling set stands. Changes nothing."""
    with open_plane(specs, env, cache=cache) as plane:
        report = Report(plane.name, plane.env, "")
        wish = Wish(clock, only, dry=True)
        keepers = _keepers(plane, _targets(plane, only), wish, report, lambda text: None)
        return [keeper.status(rolling) for keeper in keepers for rolling in keeper.look.sets]


def _ledger(plane: OpenPlane) -> PostgresLedger | None:
    """The ledger; it is in a database as soon as the plane has one."""
    from provision.postgres.ledger import PostgresLedger

    found = plane.ground.ledger
    return found if isinstance(found, PostgresLedger) else None


def _targets(plane: OpenPlane, only: Collection[str]) -> list[str]:
    """The targets that rolling sets live on. Raises ScopeError for an address that names none."""
    sets = [r.address for r in plane.workspace.plane if rolls(r)]
    names = [str(address) for address in sets]
    for text in only:
        if not any(covers((text,), name) for name in names):
            help = "Rolling sets have addresses like pg:main/agents/lifecycle_events/partitions/set."
            raise ScopeError(f"no rolling partition set at {text}", nearest(text, names, help))
    wanted = dict.fromkeys(a.target for a in sets if covers(only, str(a)))
    return [name for name in plane.targets.names("pg") if name in wanted]


def _keepers(
    plane: OpenPlane, targets: Iterable[str], wish: Wish, report: Report, progress: Progress
) -> Iterator[Keeper]:
    for name in targets:
        connection = plane.targets.postgres(name)
        found = look(connection, name, plane.workspace.plane, lambda address: covers(wish.only, address))
        for address in found.absent:
            report.notes.append(f"{address} does not exist as declared; holdfast apply creates it")
        orders = Orders(
            wish.clock, wish.allowed, _folder(plane, name, wish.archive), wish.dry, wish.patience, progress,
            wish.server_clock,
        )  # fmt: skip
        yield Keeper(connection, name, found, orders, report)


def _folder(plane: OpenPlane, target: str, named: Path | None) -> Path | None:
    """Where archives go. Unasked only beside an embedded server: the disk of a Job is gone with it."""
    if named is not None:
        return named
    if plane.targets.targets["pg", target].kind != "embedded":
        return None
    return plane.targets.root / ".holdfast" / plane.env / "archive"


def _counts(report: Report) -> Mapping[str, int]:
    return {**report.summary, "failed": len(report.problems), "held": len(report.consents)}
