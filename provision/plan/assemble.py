"""Join the pure stages: settle, diff, closure, lower, order, fingerprint. In: two planes. Out: a Plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from datetime import UTC, datetime
from typing import Any, NamedTuple

from provision.plan.closure import close
from provision.plan.diff import Diff, diff
from provision.plan.fingerprint import fingerprint, touched
from provision.plan.lower import Scene, Work, lower
from provision.plan.order import order
from provision.plan.plan import Drift, Plan, Step, summarise
from provision.plan.renames import Moved, move_renamed
from provision.plan.scope import covers, hands_off, narrow
from provision.spec.change import Change, Impact
from provision.spec.ident import Address
from provision.spec.kind import Kind, PlainKind
from provision.spec.record import Facts, Plane, Record

Known = Mapping[tuple[str, str], Facts]
#: Settings as the specs spell them, where a server's form of them differs.
Spelled = Mapping[Address, Mapping[str, Any]]


class Seen(NamedTuple):
    """What was read of the world: live records, the ledger's addresses, facts, and what no kind models.

    ``unmodelled`` lists (address, option, value) that the server shows and no field table knows;
    ``intended`` are owned addresses whose creation was begun and not seen to end, ``adopted`` those that the
    plane did not create, ``foreign`` the ones that bear the mark of another plane by now.
    """

    live: Plane
    owned: Set[str]
    facts: Known
    unmodelled: tuple[tuple[Address, str, Any], ...] = ()
    intended: Set[str] = frozenset()
    adopted: Set[str] = frozenset()
    foreign: Set[str] = frozenset()


def assemble(
    desired: Plane,
    seen: Seen,
    kinds: Mapping[str, Kind],
    clock: datetime,
    only: Iterable[str] = (),
    spelled: Spelled | None = None,
) -> Plan:
    """Make the Plan that leads from the live plane to the desired one. Pure: equal inputs give equal plans.

    ``spelled`` holds, for settings that a server has rewritten, the words of the specs. Steps are made of
    them, and live text equal to them counts as equal: a deparsed expression may read back differently once
    more, so neither may stand in for the other. Raises ScopeError for an unknown ``only`` address.
    """
    words, within = spelled or {}, tuple(only)
    compared = compare(desired, seen, kinds, clock, words)
    wanted, live, difference = compared.wanted, compared.live, compared.difference
    others = hands_off(difference.changes, wanted, live)
    ours = {a: c for a, c in difference.changes.items() if a not in others}
    scoped = narrow(ours, within, (*wanted.records, *live.records))
    wanted, scoped = _in_words(wanted, scoped, words)

    def impact(change: Change) -> Impact:
        return kinds[change.address.kind].impact(change, seen.facts[change.address[:2]])

    changes = close(scoped, wanted, live, impact)
    was = compared.was
    carried = {new: (old, compared.carrier[new]) for new, old in was.items() if str(old) in seen.owned - seen.foreign}
    adopted = frozenset(new for new, (old, _) in carried.items() if str(old) in seen.adopted)
    works = order(lower(Scene(wanted, live, changes, seen.facts), kinds, difference.foreign, carried, adopted))
    steps = tuple(Step.from_work(work, after) for work, after in works)
    noted = (*map(str, difference.adopt), *_unconfirmed(wanted, live, changes, seen))
    adopt = tuple(address for address in noted if covers(within, address))
    forget = tuple(address for address in _lost(wanted, seen) if covers(within, address))
    addresses = tuple(sorted({*touched((work for work, _ in works), was), *adopt, *forget}))
    return Plan(
        plane=desired.name,
        env=desired.env,
        as_of=clock.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        fingerprint=fingerprint(addresses, seen.live),
        touched=addresses,
        steps=steps,
        adopt=adopt,
        drift=tuple(_drift(difference, seen, wanted, others)),
        summary=summarise(steps),
        forget=forget,
    )


class Compared(NamedTuple):
    """Two planes in comparable form and what separates them.

    ``was`` is the live address of everything that a rename moves, ``carrier`` the renamed object it moves with.
    """

    wanted: Plane
    live: Plane
    difference: Diff
    was: Mapping[Address, Address]
    carrier: Mapping[Address, Address]


def compare(
    desired: Plane, seen: Seen, kinds: Mapping[str, Kind], clock: datetime, spelled: Spelled | None = None
) -> Compared:
    """Bring both sides to comparable form and compare them: the first half of a plan."""
    owned = seen.owned - seen.foreign
    moved, origin, was, carrier = renamed(desired, seen.live, kinds)
    wanted, live = settle(_recognised(desired, moved, spelled or {}), moved, kinds, seen.facts, clock)
    difference = diff(
        wanted, live, {*owned, *_declared(wanted, live, kinds)}, origin=origin, was=was,
        takes_children=lambda a: _takes_children(kinds, a),
    )  # fmt: skip
    return Compared(wanted, live, difference, was, carrier)


def renamed(desired: Plane, live: Plane, kinds: Mapping[str, Kind]) -> Moved:
    """Put the live plane under the names that the desired one gives it."""
    return move_renamed(desired, live, lambda r, old, new: _retitle(kinds, r, old, new))


def settle(
    desired: Plane, live: Plane, kinds: Mapping[str, Kind], facts: Known, clock: datetime
) -> tuple[Plane, Plane]:
    """Bring both planes to comparable form, pair by pair, where a kind has something to settle."""
    active = {name for name, kind in kinds.items() if kind.nature == "live" and not _is_plain(kind)}
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


def _recognised(desired: Plane, live: Plane, spelled: Spelled) -> Plane:
    """Take the specs' own words where the live object bears just these."""
    known: dict[Address, Record] = {}
    for address, words in spelled.items():
        record, found = desired.get(address), live.get(address)
        if record is None or found is None:
            continue
        same = {name: word for name, word in words.items() if found.settings.get(name) == word}
        if same:
            known[address] = record._replace(settings={**record.settings, **same})
    return _with(desired, known) if known else desired


def _in_words(wanted: Plane, changes: dict[Address, Change], spelled: Spelled) -> tuple[Plane, dict[Address, Change]]:
    """Put the specs' words into what is about to change: all of them where an object is made, else the changed."""
    result, known = dict(changes), dict[Address, Record]()
    for address in spelled.keys() & changes.keys():
        change = changes[address]
        if change.after is None:
            continue
        words = spelled[address]
        if change.before is not None:
            words = {name: word for name, word in words.items() if name in change.fields}
        after = change.after._replace(settings={**change.after.settings, **words})
        result[address], known[address] = change._replace(after=after), after
    return (_with(wanted, known) if known else wanted), result


def _with(plane: Plane, known: Mapping[Address, Record]) -> Plane:
    return Plane((known.get(r.address, r) for r in plane), name=plane.name, env=plane.env)


def _declared(desired: Plane, live: Plane, kinds: Mapping[str, Kind]) -> set[str]:
    """Objects of declared kinds live in the plane's own contract, so the plane owns them without a ledger."""
    names = {name for name, kind in kinds.items() if kind.nature != "live"}
    return {str(a) for a in (*desired.records, *live.records) if a.kind in names}


def _unconfirmed(wanted: Plane, live: Plane, changes: Mapping[Address, Change], seen: Seen) -> Iterable[str]:
    """What an interrupted apply made and could not record: it is there, equal, and only waits to be noted."""
    if not seen.intended:
        return ()
    found = (a for a in wanted.records if a in live and a not in changes)
    return [text for a in found if (text := str(a)) in seen.intended]


def _lost(wanted: Plane, seen: Seen) -> Iterable[str]:
    """Owned addresses that lead nowhere: whoever makes an object there some day must not find it taken for ours.

    Of a target that nobody looked at, nothing is known.
    """
    known = {str(a) for plane in (wanted, seen.live) for a in plane.records}
    unseen = set(_unseen(seen))
    for address in sorted(seen.owned):
        if address in seen.foreign or not (address in known or address in unseen):
            yield address


def _unseen(seen: Seen) -> Iterable[str]:
    """Owned addresses on targets that nobody looked at."""
    looked_at = {f"{system}:{target}" for system, target in seen.facts}
    return (address for address in sorted(seen.owned) if address.partition("/")[0] not in looked_at)


def _is_plain(kind: Kind) -> bool:
    return getattr(type(kind), "settle", None) is PlainKind.settle


def _retitle(kinds: Mapping[str, Kind], record: Record, old: Address, new: Address) -> Record:
    rewrite = getattr(kinds[record.address.kind], "retitle", None)
    return record if rewrite is None else rewrite(record, old, new)


def _takes_children(kinds: Mapping[str, Kind], address: Address) -> bool:
    return bool(getattr(kinds[address.kind], "takes_children", False))


def _drift(difference: Diff, seen: Seen, desired: Plane, others: Collection[Address]) -> Iterable[Drift]:
    """What differs from an earlier apply or from anybody's declaration, apart from plain creations."""
    for address, change in difference.changes.items():
        if change.action == "create":
            if str(address) in seen.owned or address in others:
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
        if address in desired:
            yield Drift(str(address), "unmodelled", {option: {"live": value, "declared": None}})
    for text in _unseen(seen):
        yield Drift(text, "unseen", {"target": {"live": text.partition("/")[0], "declared": None}})


__all__ = ["Compared", "Known", "Seen", "Work", "assemble", "compare", "settle"]
