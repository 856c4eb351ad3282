"""Join the pure stages: settle, diff, closure, lower, order, fingerprint. In: two planes. Out: a Plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from provision.plan.closure import close
from provision.plan.diff import Diff, diff, move_renamed
from provision.plan.fingerprint import fingerprint, touched
from provision.plan.lower import Scene, Work, lower
from provision.plan.order import order
from provision.plan.plan import Drift, Plan, Step, summarise
from provision.plan.scope import narrow
from provision.spec.change import Change, Impact
from provision.spec.ident import Address
from provision.spec.kind import Kind, PlainKind
from provision.spec.record import Facts, Plane, Record

Known = Mapping[tuple[str, str], Facts]


class Seen(NamedTuple):
    """What was read of the world: live records, the ledger's addresses, facts, and what no kind models.

    ``unmodelled`` lists (address, option, value) that the server shows and no field table knows.
    """

    live: Plane
    owned: Collection[str]
    facts: Known
    unmodelled: tuple[tuple[Address, str, Any], ...] = ()


def assemble(
    desired: Plane, seen: Seen, kinds: Mapping[str, Kind], clock: datetime, only: Iterable[str] = ()
) -> Plan:
    """Make the Plan that leads from the live plane to the desired one. Pure: equal inputs give equal plans.

    Raises ScopeError for an unknown ``only`` address.
    """
    moved, origin = move_renamed(desired, seen.live, lambda r, old, new: _retitle(kinds, r, old, new))
    wanted, live = settle(desired, moved, kinds, seen.facts, clock)
    difference = diff(
        wanted, live, seen.owned, origin=origin, takes_children=lambda a: _takes_children(kinds, a)
    )
    scoped = narrow(difference.changes, only, (*wanted.records, *live.records))

    def impact(change: Change) -> Impact:
        return kinds[change.address.kind].impact(change, seen.facts[change.address[:2]])

    changes = close(scoped, wanted, live, impact)
    works = order(lower(Scene(wanted, live, changes, seen.facts), kinds, difference.foreign))
    steps = tuple(Step.from_work(work, after) for work, after in works)
    addresses = touched(work for work, _ in works)
    return Plan(
        plane=desired.name,
        env=desired.env,
        as_of=clock.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        fingerprint=fingerprint(addresses, seen.live),
        touched=addresses,
        steps=steps,
        adopt=tuple(map(str, difference.adopt)),
        drift=tuple(_drift(difference, seen)),
        summary=summarise(steps),
    )


def settle(
    desired: Plane, live: Plane, kinds: Mapping[str, Kind], facts: Known, clock: datetime
) -> tuple[Plane, Plane]:
    """Bring both planes to comparable form, pair by pair, where a kind has something to settle."""
    active = {name for name, kind in kinds.items() if not _is_plain(kind)}
    wanted: dict[Address, Record] = dict(desired.records)
    found: dict[Address, Record] = dict(live.records)
    for address in [a for a in {**wanted, **found} if a.kind in active]:
        target = facts[address.system, address.target]
        pair = kinds[address.kind].settle(wanted.get(address), found.get(address), target, clock)
        for side, record in zip((wanted, found), pair, strict=True):
            if record is not None:
                side[address] = record
            else:
                side.pop(address, None)
    return (
        Plane(wanted.values(), name=desired.name, env=desired.env),
        Plane(found.values(), name=live.name, env=live.env),
    )


def _is_plain(kind: Kind) -> bool:
    return getattr(type(kind), "settle", None) is PlainKind.settle


def _retitle(kinds: Mapping[str, Kind], record: Record, old: Address, new: Address) -> Record:
    rewrite = getattr(kinds[record.address.kind], "retitle", None)
    return record if rewrite is None else rewrite(record, old, new)


def _takes_children(kinds: Mapping[str, Kind], address: Address) -> bool:
    return bool(getattr(kinds[address.kind], "takes_children", False))


def _drift(difference: Diff, seen: Seen) -> Iterable[Drift]:
    """What differs from an earlier apply or from anybody's declaration, apart from plain creations."""
    for address, change in difference.changes.items():
        if change.action == "create":
            if str(address) in seen.owned:
                yield Drift(str(address), "missing")
        elif change.before is not None and change.after is not None:
            before, after = change.before.settings, change.after.settings
            fields = {f: {"live": before.get(f), "declared": after.get(f)} for f in change.fields}
            yield Drift(str(address), "changed", fields)
        else:
            yield Drift(str(address), "undeclared")
    for address in difference.unmanaged:
        yield Drift(str(address), "unmanaged")
    for address, option, value in seen.unmodelled:
        yield Drift(str(address), "unmodelled", {option: {"live": value, "declared": None}})


__all__ = ["Known", "Seen", "Work", "assemble", "settle"]
