"""Narrow a set of changes to some addresses and what those need."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from provision.spec.change import Change
from provision.spec.errors import InputError
from provision.spec.ident import Address
from provision.spec.nearest import nearest
from provision.spec.record import Plane, Record


class ScopeError(InputError):
    """An ``--only`` address that names nothing in the plane."""


def covers(only: Collection[str], address: str) -> bool:
    """Whether an address is one of ``only`` or lies below one; everything is covered where none is given."""
    return not only or any(address == text or address.startswith(text + "/") for text in only)


def narrow(changes: dict[Address, Change], only: Iterable[str], known: Iterable[Address]) -> dict[Address, Change]:
    """Keep the changes at or below the ``only`` addresses, with every creation they depend on.

    Raises ScopeError for an address that is neither declared nor live.
    """
    wanted = list(only)
    if not wanted:
        return changes
    names = {str(a) for a in known}
    for text in wanted:
        if text not in names and not any(n.startswith(text + "/") for n in names):
            help = "Addresses stand in the plan and in its JSON, e.g. pg:main/agents/state."
            raise ScopeError(f"no object {text} in this plane", nearest(text, names, help))
    kept = {a for a in changes if covers(wanted, str(a))}
    todo = list(kept)
    while todo:
        record = changes[todo.pop()].record
        for needed in (*record.refs, *(() if record.parent is None else (record.parent,))):
            if needed in changes and needed not in kept and changes[needed].action == "create":
                kept.add(needed)
                todo.append(needed)
    return {a: c for a, c in changes.items() if a in kept}


def hands_off(changes: dict[Address, Change], desired: Plane, live: Plane) -> dict[Address, Change]:
    """The changes that are not ours to make: what lies in a schema whose DDL migrations own.

    They are reported, never planned (``managed: migrations`` of the nearest ancestor that says).
    """
    return {a: c for a, c in changes.items() if _owner(c.record, desired, live) == "migrations"}


def _owner(record: Record, desired: Plane, live: Plane) -> str | None:
    found: Record | None = record
    while found is not None:
        said = (desired.get(found.address) or found).settings.get("managed")
        if said is not None:
            return str(said)
        parent = found.parent
        found = None if parent is None else desired.get(parent) or live.get(parent)
    return None
