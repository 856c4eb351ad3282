"""Extend changes over reference edges: what stands on a replaced or altered object is rebuilt with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from provision.spec.change import Change, Impact
from provision.spec.ident import Address
from provision.spec.record import Plane, Record


def close(
    changes: dict[Address, Change], desired: Plane, live: Plane, impact: Callable[[Change], Impact]
) -> dict[Address, Change]:
    """Give the changes with replacements marked and a ``rebuild`` for every dependent that must make way.

    A replaced object takes its children and all its dependents along; an altered one only its rigid
    dependents. A rebuild drops and makes an object again, so its own dependents follow.
    """
    result = dict(changes)
    shaken: list[tuple[Address, bool]] = []
    for address, change in changes.items():
        if change.action not in ("update", "rename"):
            continue
        effect = impact(change)
        if effect == "replace":
            result[address] = change._replace(action="replace")
        if effect != "none":
            shaken.append((address, effect == "replace"))
    if not shaken:
        return result
    every, rigid = _dependents(live)
    _spread(shaken, result, desired, live, every, rigid)
    while torn := [a for a in result if _is_torn(a, result)]:
        for address in torn:
            _rebuild(address, result, desired, live)
        _spread([(a, True) for a in torn], result, desired, live, every, rigid)
    for address in [a for a, c in result.items() if c.action in ("replace", "rebuild")]:
        _remake_children(address, result, desired)
    return result


def _spread(
    shaken: list[tuple[Address, bool]], result: dict[Address, Change], desired: Plane, live: Plane,
    every: dict[Address, list[Address]], rigid: dict[Address, list[Address]],
) -> None:  # fmt: skip
    """Mark everything that stands on the shaken objects; the flag says whether an object is replaced or altered."""
    while shaken:
        address, replaced = shaken.pop()
        standing = every[address] if replaced else rigid[address]
        below = [r.address for r in live.children(address)] if replaced else []
        shaken += [(d, True) for d in (*standing, *below) if _rebuild(d, result, desired, live)]


def _is_torn(address: Address, result: dict[Address, Change]) -> bool:
    """Whether an update would have to come both before a removal and after the making of one object.

    It moves from what stands on that object, and goes with it, to what will stand on its successor.
    """
    change = result[address]
    if change.action != "update" or change.before is None or change.after is None:
        return False
    before, after = change.before.refs, change.after.refs
    lost = {a for a in before if a not in after and _leaves(result.get(a))}
    if not lost:
        return False
    gained = {a for a in after if a not in before}
    remade = _reach(gained, result, lambda c: c.after, lambda c: c.action != "delete")
    return any(
        result[a].action in ("replace", "rebuild") and a in remade
        for a in _reach(lost, result, lambda c: c.before, _leaves)
    )


def _leaves(change: Change | None) -> bool:
    """Whether the live object goes, for good or to be made again."""
    return change is not None and change.action in ("delete", "replace", "rebuild")


def _reach(
    start: set[Address], result: dict[Address, Change], side: Callable[[Change], Record | None],
    passable: Callable[[Change], bool],
) -> set[Address]:  # fmt: skip
    """The changed objects that can be reached over references of one side, through passable changes."""
    found: set[Address] = set()
    waiting = [a for a in start if a in result]
    while waiting:
        address = waiting.pop()
        if address in found or not passable(result[address]):
            continue
        found.add(address)
        record = side(result[address])
        waiting += [a for a in (record.refs if record is not None else ()) if a in result]
    return found


def _rebuild(address: Address, result: dict[Address, Change], desired: Plane, live: Plane) -> bool:
    """Mark one dependent for rebuilding; say whether that is news."""
    known = result.get(address)
    if known is not None and known.action != "update":
        return False
    after = desired.get(address)
    if after is None:
        return False
    fields = known.fields if known is not None else ()
    result[address] = Change(address, "rebuild", live[address], after, fields)
    return True


def _remake_children(address: Address, result: dict[Address, Change], desired: Plane) -> None:
    """Children that exist only in the desired plane are created already; nothing else may be left untouched."""
    for child in desired.children(address):
        assert child.address in result, f"{child.address} would be lost with {address}"


def _dependents(live: Plane) -> tuple[dict[Address, list[Address]], dict[Address, list[Address]]]:
    every: dict[Address, list[Address]] = defaultdict(list)
    rigid: dict[Address, list[Address]] = defaultdict(list)
    for record in live:
        _index(record, record.refs, every)
        _index(record, record.rigid, rigid)
        _index(record, (a for a in record.rigid if a not in record.refs), every)
    return every, rigid


def _index(record: Record, targets: Iterable[Address], index: dict[Address, list[Address]]) -> None:
    for target in targets:
        index[target].append(record.address)
