"""Parts as records: read, brought to canonical form, compared, and set to what lives. No server of a target needed.

Expressions are known by the memo, else by an embedded scratch server (``offline``).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from provision import registry
from provision.plan.diff import differing
from provision.pools import contract
from provision.reconcile.parts import CONTRACT, DRIFT, TYPES, Inputs, PartType
from provision.reconcile.splitting import split
from provision.spec.ident import Address
from provision.spec.inline import Inline
from provision.spec.kind import Kind
from provision.spec.reading import read
from provision.spec.record import Facts, Plane, Pointer, Record
from provision.spec.target import Target

if TYPE_CHECKING:
    from provision.plan.plan import Plan
    from provision.reconcile.writing import Spoken
    from provision.spec.change import Change

#: What is taken for true of a server that nobody has described.
_ASSUMED = {"pg": (18, 0, 0), "nats": (2, 12, 0)}
#: What no server tells an import, and the contract needs all the same.
_SPOKEN = frozenset({"password", "journal"})
#: Records of one moment are compared, so any moment will do.
_NO_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)


class Finding(NamedTuple):
    """What is wrong with an input. The empty pointer is the part as a whole."""

    pointer: Pointer
    message: str
    help: str


class Portion(NamedTuple):
    """The records of a part, with what was wrong with its inputs."""

    type: PartType
    inputs: Inputs
    records: tuple[Record, ...]
    findings: tuple[Finding, ...] = ()

    def place(self, record: Record) -> Pointer:
        """Where the record stands in the inputs."""
        return self.type.place(self.inputs, record.origin or ())


class InputChange(NamedTuple):
    """A changed input."""

    pointer: Pointer
    kind: Literal["add", "update", "delete"]


class Setting(NamedTuple):
    """Where parts are read: the plane's name, its environment, its targets, and our cache."""

    plane: str
    env: str
    targets: Mapping[tuple[str, str], Target]
    cache: Path

    def facts(self, system: str, target: str) -> Facts:
        """What is declared of a target, or else assumed."""
        if system == "plane":
            return Facts("plane", "main", (), {})
        known = self.targets.get((system, target))
        declared = known.facts if known is not None else Facts(system, target, (), {})
        return declared if declared.version else declared._replace(version=_ASSUMED[system])


def portion(type: PartType, inputs: Inputs, setting: Setting) -> Portion:
    """Read the inputs of a part. Never raises for bad input."""
    from provision.postgres.linking import link

    own = {k: v for k, v in inputs.items() if k != DRIFT}
    document = Inline(type.root(own), setting.plane, setting.env, setting.targets)
    reading = read(document, registry.sections())
    findings = tuple(
        Finding(type.place(own, document.pointer(d.mark)), d.message, d.help)
        for d in reading.diagnostics
        if d.severity == "error"
    )
    return Portion(type, own, tuple(type.records(iter(link(reading.plane)), own)), findings)


def offline(found: Portion, setting: Setting) -> tuple[Record, ...]:
    """Give the records with expressions as a server like the target's prints them. Raises InputError.

    What cannot be compiled without the target stays as it was written.
    """
    from provision.postgres import compile
    from provision.postgres.scratch import NoScratch, ScratchDatabases
    from provision.reconcile import canonical
    from provision.spec.stamps import code_digest

    pg = {r.address.target for r in found.records if r.address.system == "pg"}
    tools = canonical.tools()
    known = {r.address: r for r in found.records}
    # A policy holds no expressions of its own: the layout is its table's.
    for target in pg if found.type.has_expressions else ():
        plane = canonical.part_of(Plane(found.records), target)
        if not any(tools.compiles(r) for r in plane):
            continue
        facts = setting.facts("pg", target)
        scratch = ScratchDatabases(
            None, None, canonical.embedded_scratch(setting.cache), target=target, major=facts.version[0]
        )
        try:
            result = compile.canonicalise(
                plane, facts, canonical.memo(setting.cache), scratch, tools, product=code_digest()
            )
        except NoScratch:  # text against text, then: a difference in spelling alone will show
            continue
        known |= {r.address: r._replace(origin=known[r.address].origin) for r in result.plane}
    return tuple(known.values())


# Inputs against inputs -----------------------------------------------------------------------------------


def changed(before: Portion, after: Portion, setting: Setting, *, imported: bool = False) -> list[InputChange]:
    """The inputs that mean something else than before, as places that a reader of both recognises.

    What was ``imported`` cannot hold what no server knows: where it says nothing, that is no difference.
    """
    found: dict[Pointer, InputChange] = {}
    old = {r.address: r for r in offline(before, setting)}
    new = {r.address: r for r in offline(after, setting)}
    for address in {**old, **new}:
        was, will = old.get(address), new.get(address)
        if was is not None and will is not None:
            for field in _differing(was, will, setting, imported):
                if field in after.type.borrowed and not (field in before.inputs and field in after.inputs):
                    continue
                _note(found, before, after, (*after.place(will), field), after.place(will))
        else:
            record, side = (will, after) if will is not None else (was, before)
            assert record is not None
            _note(found, before, after, side.place(record), side.place(record))
    _hidden(found, before, after)
    return _outermost(found)


def _differing(was: Record, will: Record, setting: Setting, imported: bool) -> list[str]:
    """The settings that mean something else: what a server fills in does not, nor what only check reads."""
    kind = registry.kinds()[will.address.kind]
    fields = differing(*(_completed(r, kind, setting) for r in (was, will)))
    # What of a stream or bucket reaches neither the wire nor the contract is there for check alone.
    silent: set[str] = (
        set(kind.spec_only.difference(contract.FACTS.get(kind.name, ()))) if kind.system == "nats" else set()
    )
    if imported:
        mute = (kind.spec_only | kind.left_to_server) - _SPOKEN
        silent = {f for f in mute if f in kind.fields.fields and was.settings.get(f) == kind.fields[f].default}
    return [f for f in fields if f not in silent]


def _completed(record: Record, kind: Kind, setting: Setting) -> Record:
    """The record as a server without it would make it."""
    if kind.nature != "live" or kind.name == "partitions":
        return record
    return kind.settle(record, None, setting.facts(*record.address[:2]), _NO_CLOCK)[0] or record


def _note(found: dict[Pointer, InputChange], before: Portion, after: Portion, pointer: Pointer, whole: Pointer) -> None:
    """Note a change at a field, or at the whole object where the inputs show no such field."""
    for place in (pointer, whole):
        was, will = _known(before.inputs, place), _known(after.inputs, place)
        if was or will:
            if was and will and _at(before.inputs, place) == _at(after.inputs, place):
                continue
            found[place] = InputChange(place, "update" if was and will else "add" if will else "delete")
            return


def _hidden(found: dict[Pointer, InputChange], before: Portion, after: Portion) -> None:
    """Note the inputs of the contract that no record holds."""
    if before.type is CONTRACT:
        if before.inputs.get("targets") != after.inputs.get("targets"):
            found["targets",] = InputChange(("targets",), "update")
        old, new = before.inputs.get("parts") or {}, after.inputs.get("parts") or {}
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                kind: Any = "update" if name in old and name in new else "add" if name in new else "delete"
                found["parts", name] = InputChange(("parts", name), kind)


def _outermost(found: Mapping[Pointer, InputChange]) -> list[InputChange]:
    """Leave out what lies inside something that comes or goes as a whole."""
    return [
        change
        for pointer, change in found.items()
        if not any(pointer[:n] in found and found[pointer[:n]].kind != "update" for n in range(1, len(pointer)))
    ]


def _known(inputs: Any, pointer: Pointer) -> bool:
    return bool(pointer) and _at(inputs, pointer) is not None


def _at(node: Any, pointer: Pointer) -> Any:
    """The value at a place; None where there is none, as null says nothing."""
    for key in pointer:
        try:
            node = node[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


# Consents that the inputs alone show -----------------------------------------------------------------------


def transition(before: Portion | None, after: Portion | None, setting: Setting) -> Plan:
    """The plan from some inputs to others, as if the first were live and owned: what it puts at stake."""
    from provision.plan.assemble import Seen, assemble

    old = [_as_live(r, setting) for r in offline(before, setting)] if before is not None else ()
    new = offline(after, setting) if after is not None else ()
    places = {r.address[:2] for r in (*old, *new)}
    facts = {place: setting.facts(*place) for place in places}
    seen = Seen(_plane(old, setting), {str(r.address) for r in old}, facts)
    return assemble(_plane(new, setting), seen, registry.kinds(), _NO_CLOCK)


def _as_live(record: Record, setting: Setting) -> Record:
    """The record with what only a server's own answer has, as if it had been made just so."""
    kind = registry.kinds()[record.address.kind]
    if kind.nature != "live":
        return record
    live = None if kind.name == "partitions" else record
    return kind.settle(record, live, setting.facts(*record.address[:2]), _NO_CLOCK)[0] or record


def _plane(records: Iterable[Record], setting: Setting) -> Plane:
    return Plane(records, name=setting.plane, env=setting.env)


# Inputs as what lives shows them ----------------------------------------------------------------------------


class Told(NamedTuple):
    """What lives as a person would write it: inputs by type and id, and where each object stands in a document."""

    inputs: Mapping[tuple[str, str], dict[str, Any]]
    places: Mapping[Address, Pointer]


def told(spoken: Spoken, plane: str) -> Told:
    """Take a document of what lives apart into parts."""
    inputs = {}
    for part in split(spoken.root, plane):
        type = TYPES[part.type]
        id = type.id(part.inputs)
        inputs[part.type, id] = {**type.from_id(id), **part.inputs}
    return Told(inputs, spoken.places)


def drifted(
    found: Portion, changes: Collection[Change], live: Inputs | None, places: Mapping[Address, Pointer]
) -> dict[str, Any]:
    """The inputs of a part changed to what lives, and left as they are wherever that means the same."""
    kinds = registry.kinds()
    inputs: dict[str, Any] = copy.deepcopy(dict(found.inputs))
    unsaid: list[str] = []
    gone: list[Pointer] = []
    origins = {r.address: r for r in found.records}
    for change in changes:
        own = origins.get(change.address)
        if own is None:
            if change.after is None:
                unsaid.append(f"{change.address} is not declared")
            continue
        place = found.place(own)
        there = found.type.place(live or {}, places.get(change.address, ()))
        if change.before is None:
            gone.append(place) if _known(inputs, place) else unsaid.append(f"{change.address} is missing")
            continue
        for field in change.fields:
            kind = kinds[change.address.kind]
            # What no server shows, such as a password, can be told to differ and not how.
            known = field in kind.fields.fields and field not in kind.spec_only
            if not (known and _set(inputs, live or {}, place, there, field)):
                unsaid.append(f"{change.address}: {_unlike(change, field)}")
    for place in sorted(gone, key=_deepest, reverse=True):
        _remove(inputs, place)
    if unsaid:
        inputs[DRIFT] = sorted(unsaid)
    return inputs


def _unlike(change: Change, field: str) -> str:
    """How an option differs; of a mapping, such as a set's partitions, which names it has not in common."""
    live, declared = (side.settings.get(field) if side else None for side in (change.before, change.after))
    if isinstance(live, Mapping) and isinstance(declared, Mapping):
        missing = [f"{name} is missing" for name in declared if name not in live]
        stray = [f"{name} is not declared" for name in live if name not in declared]
        if missing or stray:
            return ", ".join([*missing, *stray])
    return f"{field} is not as declared"


def _set(inputs: dict[str, Any], live: Inputs, place: Pointer, there: Pointer, field: str) -> bool:
    """Take one option of an object from what lives; false where that changes nothing that can be seen."""
    was, now = _at(inputs, place), _at(live, there)
    if isinstance(was, dict) and isinstance(now, Mapping):
        before = was.get(field)
        if field in now:
            was[field] = copy.deepcopy(now[field])
        else:
            was.pop(field, None)
        return bool(was.get(field) != before)
    if place and now is not None and was is not None and was != now:
        _at(inputs, place[:-1])[place[-1]] = copy.deepcopy(now)
        return True
    return False


def _remove(inputs: dict[str, Any], place: Pointer) -> None:
    if _known(inputs, place):
        del _at(inputs, place[:-1])[place[-1]]


def _deepest(place: Pointer) -> tuple[int, tuple[str, ...]]:
    return len(place), tuple(f"{key:09d}" if isinstance(key, int) else key for key in place)
