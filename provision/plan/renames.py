"""Put live objects that the specs rename under their new addresses, before anything is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from provision.spec.ident import Address
from provision.spec.record import Plane, Record

#: Rewrites a record that a rename moved, or that refers to what it moved: (record, old address, new address).
Retitle = Callable[[Record, Address, Address], Record]


class Moved(NamedTuple):
    """The live plane under its new addresses.

    ``origin`` maps the new address of a renamed object to the one it has when its own rename runs: below
    parents that bear their new names already. ``was`` maps every moved address to the one in the live plane,
    ``carrier`` to the renamed object that took it there last: what it lies in, or a type in its signature.
    """

    plane: Plane
    origin: dict[Address, Address]
    was: dict[Address, Address]
    carrier: dict[Address, Address]


def move_renamed(desired: Plane, live: Plane, retitle: Retitle = lambda record, old, new: record) -> Moved:
    """Follow every ``renamed_from``, parents before what is inside them. Names that exist already stay."""
    waiting = sorted((r for r in desired if r.renamed_from is not None), key=lambda r: len(r.address.path))
    found = live.records
    origin: dict[Address, Address] = {}
    was: dict[Address, Address] = {}
    carrier: dict[Address, Address] = {}
    for record in waiting:
        old, new = record.renamed_from, record.address
        if old is None or old not in found or new in found:
            continue
        origin[new] = old
        size = len(old.path)

        def move(address: Address, old: Address = old, new: Address = new, size: int = size) -> Address:
            return address._replace(path=new.path + address.path[size:]) if address.within(old) else address

        moved: dict[Address, Record] = {}
        for address, known in found.items():
            after = _move(known, move, retitle, old, new)
            moved[after.address] = after
            if after.address != address:
                was[after.address] = was.pop(address, address)
                carrier[after.address] = new
        found = moved
    if not origin:
        return Moved(live, {}, {}, {})
    return Moved(Plane(found.values(), name=live.name, env=live.env), origin, was, carrier)


def _move(record: Record, move: Callable[[Address], Address], retitle: Retitle, old: Address, new: Address) -> Record:
    moved = record._replace(
        address=move(record.address),
        parent=move(record.parent) if record.parent is not None else None,
        refs=tuple(move(a) for a in record.refs),
        rigid=tuple(move(a) for a in record.rigid),
    )
    return moved if moved == record else retitle(moved, old, new)
