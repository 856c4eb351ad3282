"""Let a server say what the desired expressions mean, in a transaction that is always rolled back.

``canonicalise`` gives desired records the very text that observing would give; ``validate`` tries everything
and tells what the server refuses. Both build through the lowering of an apply, and read back with the queries
and decoders of an observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from provision.postgres import wire
from provision.postgres.memo import Canonical, Keys, Memo
from provision.postgres.scratch import Scratch
from provision.postgres.trial import CompileProblem, NotCompiled, Tools, Trial
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record

_PSEUDO_ROLES = frozenset({"public", "current_user", "current_role", "session_user"})


class Compiled(NamedTuple):
    """The plane with canonical expressions, and what stands against it.

    ``place`` says where it was compiled, "" when no server was asked.
    """

    plane: Plane
    problems: tuple[CompileProblem, ...] = ()
    skipped: tuple[NotCompiled, ...] = ()
    place: str = ""


def canonicalise(desired: Plane, facts: Facts, memo: Memo, scratch: Scratch, tools: Tools, *, product: str) -> Compiled:
    """Give the records of one target with canonical expressions, asking a server for what no memo holds.

    ``product`` is our own version: another one may decode otherwise. Raises NoScratch where there is none.
    """
    keys = Keys(desired, facts, product)
    wanted = {r.address: keys.key(r) for r in desired if tools.compiles(r)}
    known = memo.get(wanted.values())
    # One record stands for all that share its key.
    missing = {key: address for address, key in reversed(wanted.items()) if key not in known}
    result = Compiled(desired)
    if missing:
        part = closure(desired, (desired[a] for a in missing.values()), keys)
        result, _ = _compile(part, scratch, tools)
        fresh = {wanted[a]: form for a, form in _forms(result.plane, tools).items() if a in wanted}
        memo.put(fresh)
        known |= fresh
    forms = {address: known[key] for address, key in wanted.items() if key in known}
    return result._replace(plane=_merged(desired, forms))


def validate(desired: Plane, memo: Memo, scratch: Scratch, tools: Tools, *, product: str) -> Compiled:
    """Build every record of one target and report all refusals in one run. What succeeds enters the memo."""
    result, facts = _compile(desired, scratch, tools)
    forms = {a: form for a, form in _forms(result.plane, tools).items() if a in desired}
    keys = Keys(desired, facts, product)
    memo.put({keys.key(desired[a]): form for a, form in forms.items()})
    return result._replace(plane=_merged(desired, forms))


def closure(desired: Plane, roots: Iterable[Record], keys: Keys) -> Plane:
    """The part of a plane that must stand so that the roots can be built. Pure."""
    found: dict[Address, Record] = {r.address: r for r in desired.of_kind("extension")}
    waiting = list(roots)
    while waiting:
        record = waiting.pop()
        if record.address in found:
            continue
        found[record.address] = record
        waiting += keys.mentions(record)
        needed = (*record.refs, *((record.parent,) if record.parent is not None else ()))
        waiting += [desired[a] for a in needed if a in desired]
        if record.address.kind == "table":
            waiting += desired.children(record.address, "column")
        elif record.address.kind == "view":  # its GROUP BY may lean on the primary keys of its tables
            tables = [r.address for r in keys.mentions(record) if r.address.kind == "table"]
            waiting += [key for table in tables for key in desired.children(table, "primary_key")]
    order = {address: index for index, address in enumerate(desired.records)}
    return Plane(sorted(found.values(), key=lambda r: order[r.address]), name=desired.name, env=desired.env)


def _merged(desired: Plane, forms: Mapping[Address, Canonical]) -> Plane:
    records = desired.records | {address: form.onto(desired[address]) for address, form in forms.items()}
    return Plane(records.values(), name=desired.name, env=desired.env)


def _forms(read: Plane, tools: Tools) -> dict[Address, Canonical]:
    """The canonical forms in what was read back."""
    named = ((record, tools.expressions(record)) for record in read)
    return {record.address: Canonical.of(record, names) for record, names in named if names}


def _compile(desired: Plane, scratch: Scratch, tools: Tools) -> tuple[Compiled, Facts]:
    """Build and read back. Gives the facts of the server that it was done on, too."""
    roles = _roles(desired)
    with scratch(roles, _locks(desired)) as session:
        trial = Trial(session, desired, tools)
        try:
            trial.run(roles)
            read = trial.read()
        finally:
            wire.send(session.connection, ["ROLLBACK"])
    return Compiled(read, tuple(trial.problems), tuple(trial.skipped), session.place), session.facts


def _locks(desired: Plane) -> int:
    """About how many relations a transaction creates and locks: a table has a TOAST table and its index, too."""
    tables = len(desired.of_kind("table", "partitions"))
    return 3 * tables + len(desired.of_kind("index", "primary_key", "unique", "view"))


def _roles(desired: Plane) -> list[str]:
    """The roles that policies name."""
    named = {role for r in desired.of_kind("policy") for role in r.settings.get("to") or ()}
    return sorted(named - _PSEUDO_ROLES)


__all__ = ["CompileProblem", "Compiled", "NotCompiled", "Tools", "canonicalise", "closure", "validate"]
