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
    """Follow every ``renamed_from``, parents before what is inside them.

    Names that exist already stay, and so does an old name that is declared as an object of its own. Where one
    object takes the name that another gives up, the one that gives it up goes first.
    """
    renamed = (r for r in desired if r.renamed_from is not None and not _stays(r.renamed_from, desired))
    waiting = _givers_first(sorted(renamed, key=lambda r: len(r.address.path)))
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


def _stays(address: Address, desired: Plane) -> bool:
    wanted = desired.get(address)
    return wanted is not None and wanted.renamed_from is None


def _givers_first(waiting: list[Record]) -> list[Record]:
    """Bring chains into order: what moves away from a name stands before what moves to it. A ring stays as it is."""
    givers = {r.renamed_from: r for r in waiting}
    placed: dict[Address, Record] = {}
    for record in waiting:
        chain = [record]
        while (giver := givers.get(chain[-1].address)) is not None and giver not in chain:
            chain.append(giver)
        placed.update({r.address: r for r in reversed(chain) if r.address not in placed})
    return list(placed.values())


def _move(record: Record, move: Callable[[Address], Address], retitle: Retitle, old: Address, new: Address) -> Record:
    moved = record._replace(
        address=move(record.address),
        parent=move(record.parent) if record.parent is not None else None,
        refs=tuple(move(a) for a in record.refs),
        rigid=tuple(move(a) for a in record.rigid),
    )
    return moved if moved == record else retitle(moved, old, new)
