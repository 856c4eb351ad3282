"""Compare two planes at record grain. It never asks which kind a record is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from provision.spec.change import Change
from provision.spec.ident import Address
from provision.spec.record import Plane, Record


class Diff(NamedTuple):
    """What separates the live plane from the desired one.

    ``adopt`` are live objects equal to their declaration that the plane does not own yet; ``unmanaged``
    live objects below a declared one that nobody declares; ``foreign`` changed objects that are not owned,
    pruned ones among them.
    """

    changes: dict[Address, Change]
    adopt: tuple[Address, ...]
    unmanaged: tuple[Address, ...]
    foreign: frozenset[Address]


def diff(
    desired: Plane,
    live: Plane,
    owned: Collection[str],
    *,
    origin: Mapping[Address, Address] | None = None,
    was: Mapping[Address, Address] | None = None,
    takes_children: Callable[[Address], bool] = lambda address: False,
) -> Diff:
    """Give every difference between ``live`` and ``desired``.

    ``owned`` holds the text forms of the addresses in the ledger. An undeclared live object becomes a
    deletion when it is owned, when its parent asks for ``prune``, or when it goes with a deleted parent
    that ``takes_children``; otherwise it is unmanaged. ``origin`` says which addresses a rename gave
    (new to old) and ``was`` the live address of everything that moved with one; ``live`` then holds those
    objects under their new addresses (see ``renames``).
    """
    origin, was = origin or {}, was or {}
    found = live.records
    changes: dict[Address, Change] = {}
    adopt: list[Address] = []
    foreign: set[Address] = set()
    for address, wanted in desired.records.items():
        before = found.get(address)
        if before is None:
            changes[address] = Change(address, "create", None, wanted)
            continue
        old = origin.get(address)
        if before.settings == wanted.settings and old is None:
            if str(was.get(address, address)) not in owned:
                adopt.append(address)
            continue
        fields = differing(before, wanted)
        if old is not None:
            changes[address] = Change(address, "rename", before._replace(address=old), wanted, fields)
        else:
            changes[address] = Change(address, "update", before, wanted, fields)
        if str(was.get(address, address)) not in owned:
            foreign.add(address)
    unmanaged = _undeclared(desired, found, owned, was, changes, foreign, takes_children)
    return Diff(changes, tuple(adopt), tuple(unmanaged), frozenset(foreign))


def differing(before: Record, after: Record) -> tuple[str, ...]:
    """The names of the settings that are not equal, in the order of the desired record."""
    old, new = before.settings, after.settings
    missing = [k for k in old if k not in new]
    return tuple(k for k in (*new, *missing) if old.get(k) != new.get(k))


def _undeclared(
    desired: Plane,
    found: dict[Address, Record],
    owned: Collection[str],
    was: Mapping[Address, Address],
    changes: dict[Address, Change],
    foreign: set[Address],
    takes_children: Callable[[Address], bool],
) -> Iterable[Address]:
    unmanaged: list[Address] = []
    extra = [r for a, r in found.items() if a not in desired.records]
    for record in sorted(extra, key=lambda r: len(r.address.path)):
        address, parent = record.address, record.parent
        above = changes.get(parent) if parent is not None else None
        goes_along = above is not None and above.action == "delete" and takes_children(above.address)
        is_owned = str(was.get(address, address)) in owned
        if goes_along or is_owned or _prunes(parent, desired, found):
            changes[address] = Change(address, "delete", record, None)
            if not goes_along and not is_owned:
                foreign.add(address)
        elif parent is not None and parent in desired.records:
            unmanaged.append(address)
    return unmanaged


def _prunes(address: Address | None, desired: Plane, found: dict[Address, Record]) -> bool:
    """Whether the nearest declared ancestor that speaks of ``prune`` says yes."""
    while address is not None:
        wanted = desired.get(address)
        if wanted is not None and "prune" in wanted.settings:
            return bool(wanted.settings["prune"])
        record = wanted or found.get(address)
        address = record.parent if record is not None else None
    return False
