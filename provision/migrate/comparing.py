"""Two states of one database side by side: what the specs desire, what migrations made, what going back left. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from provision.migrate import members
from provision.migrate.partitions.look import rolls
from provision.plan.assemble import Seen, Spelled, assemble, renamed
from provision.plan.diff import differing
from provision.plan.plan import Drift, Plan, Step
from provision.spec.ident import Address
from provision.spec.kind import Kind
from provision.spec.record import Plane, Record

#: Belong to the cluster: no migration of a database makes them.
_OF_THE_CLUSTER = frozenset({"role", "membership"})
#: Partitions below partitions are worked on through their parent, in one piece.
_UNKNOWN: Mapping[str, list[str]] = {"": []}
Kinds = Mapping[str, Kind]


class Sides(NamedTuple):
    """The desired plane with its expressions in canonical form, and what a look at a database brought.

    ``given`` is what a new database holds unasked; none of it has to go.
    """

    desired: Plane
    seen: Seen
    spelled: Spelled
    given: Plane


def of_database(plane: Plane, target: str) -> Plane:
    """What migrations of one database answer for: its records without the cluster's, all owned by the specs."""
    found = (r for r in plane if r.address.system == "pg" and r.address.target == target)
    return _with(plane, (_ours(r) for r in found if r.address.kind not in _OF_THE_CLUSTER))


def towards(sides: Sides, kinds: Kinds, clock: datetime) -> Plan:
    """The plan from what was seen to what is desired; members of rolling sets are left to maintenance.

    Whatever was seen counts as ours: what is not desired goes.
    """
    plan = assemble(sides.desired, _ours_whole(sides), kinds, clock, spelled=sides.spelled)
    rolling = {str(r.address): r.settings["default"] for r in sides.desired if rolls(r)}
    steps = tuple(s for s in plan.steps if s.object not in rolling or not _makes_member(s, rolling[s.object]))
    drift = (*_lasting(plan.drift, rolling), *members.odd(sides.desired, sides.seen))
    return replace(plan, steps=steps, drift=drift)


def renames(sides: Sides, kinds: Kinds) -> dict[Address, Address]:
    """What the specs rename: the address of each object that was seen, to itself under its new name.

    The parent of both is the one that was seen, as ``renamed_from`` stands for the way back.
    """
    moved = renamed(sides.desired, sides.seen.live, kinds)
    found = ((moved.was[new], new) for new in moved.origin)
    return {old: old._replace(path=(*old.path[:-1], new.path[-1])) for old, new in found}


def back(
    before: Seen, after: Seen, given: Plane, kinds: Kinds, clock: datetime, names: Mapping[Address, Address]
) -> Plan:
    """The plan from one look at a database to an earlier one. Whoever runs it owns what it makes.

    ``names`` are the renames in between: what got another name keeps its rows on the way back as well.
    """
    there, here = (_with(s.live, (_unowned(r, s) for r in _own(s, given))) for s in (before, after))
    there = _with(there, (r._replace(renamed_from=names.get(r.address)) for r in there))
    return assemble(there, _owned(after, here), kinds, clock)


def changed(before: Seen, after: Seen) -> tuple[Drift, ...]:
    """How two looks at one database differ: live is ``after``, declared is ``before``."""
    return (*_changed(before, after), *members.changed(before, after))


def _changed(before: Seen, after: Seen) -> Iterator[Drift]:
    for address in {**before.live.records, **after.live.records}:
        if address.kind in _OF_THE_CLUSTER:
            continue
        old, new = before.live.get(address), after.live.get(address)
        if old is None or new is None:
            yield Drift(str(address), "undeclared" if old is None else "missing")
        elif fields := differing(old, new):
            values = {f: {"live": new.settings.get(f), "declared": old.settings.get(f)} for f in fields}
            yield Drift(str(address), "changed", values)
    for address, option, value in set(after.unmodelled) ^ set(before.unmodelled):
        yield Drift(str(address), "unmodelled", {option: {"live": value, "declared": None}})


def _ours(record: Record) -> Record:
    """A record as if the specs owned it, whoever's its DDL is."""
    if "managed" not in record.settings:
        return record
    return record._replace(settings={**record.settings, "managed": "declarative"})


def _ours_whole(sides: Sides) -> Seen:
    """What was seen, ours in full. No file can name the members of a rolling set: they are nobody's to list."""
    live = _own(sides.seen, sides.given, sides.desired)
    records = {r.address: _unowned(r, sides.seen) for r in live}
    for record in sides.desired.of_kind("partitions"):
        found = records.get(record.address)
        if found is not None and rolls(record):
            records[record.address] = found._replace(settings={**found.settings, "subpartitioned": _UNKNOWN})
    return _owned(sides.seen, _with(live, records.values()), sides.desired)


def _lasting(drift: Iterable[Drift], rolling: Collection[str]) -> Iterator[Drift]:
    """What stays different when maintenance has done its work."""
    for found in drift:
        if found.object not in rolling or found.change != "changed":
            yield found
        elif fields := {name: value for name, value in found.fields.items() if name != "members"}:
            yield replace(found, fields=fields)


def _own(seen: Seen, given: Plane, *wanted: Plane) -> Plane:
    """The records of a database, without the cluster's and what it holds unasked."""
    ours = (r for r in seen.live if r.address.kind not in _OF_THE_CLUSTER)
    return _with(seen.live, (r for r in ours if given.get(r.address) != r or any(r.address in p for p in wanted)))


def _owned(seen: Seen, live: Plane, *others: Plane) -> Seen:
    owned = frozenset(str(a) for plane in (live, *others) for a in plane.records)
    return seen._replace(live=live, owned=owned, adopted=frozenset(), intended=frozenset(), foreign=frozenset())


def _unowned(record: Record, seen: Seen) -> Record:
    """A live record as specs would say it: an owner only where it is another role than ours."""
    if record.settings.get("owner") != seen.facts[record.address[:2]].options["role"]:
        return record
    return record._replace(settings={**record.settings, "owner": None})


def _makes_member(step: Step, default: str | bool | None) -> bool:
    """Whether a step makes a partition that maintenance would make. The DEFAULT partition is none."""
    return step.action == "create" and not (default and step.id.endswith(f".{default}"))


def _with(plane: Plane, records: Iterable[Record]) -> Plane:
    return Plane(records, name=plane.name, env=plane.env)
