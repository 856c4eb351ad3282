"""One field table, both directions: canonical settings to the server's JSON and back. Pure.

A field's ``note`` is a ``Note``; it says what the wire needs beyond the name and what an update may do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from provision.spec.fields import FieldTable
from provision.spec.record import Facts, Settings

Json = dict[str, Any]
Version = tuple[int, ...]

#: ``free``: changed in place. ``never``: only by recreating. ``enable``: false to true in place, not back.
#: ``promote``: may only be taken away. ``pause``: through its own API. ``identity``: part of the name.
Mutability = Literal["free", "never", "enable", "promote", "pause", "identity"]


class Unset:
    """Marks that a field's absence on the wire means its spec default."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a NATS kind knows of one option.

    ``before`` is the mutability on servers older than ``changed_in``; without it, ``change`` always holds.
    ``absent`` is the canonical value of a key the server leaves out (the spec default when not given).
    ``table`` is the nested field table of an object, or of each item where ``many``.
    ``unordered`` lists mean the same in any order. ``local`` fields never reach the wire.
    ``decode`` brings a value of the server to canonical form; ``encode`` is its inverse.
    """

    change: Mutability = "free"
    before: Mutability | None = None
    changed_in: Version | None = None
    absent: Any = Unset
    table: FieldTable | None = None
    many: bool = False
    unordered: bool = False
    local: bool = False
    decode: Callable[[Any], Any] | None = None
    encode: Callable[[Any], Any] | None = None

    def mutability(self, version: Version) -> Mutability:
        """The rule of a server version."""
        if self.before is not None and self.changed_in is not None and version < self.changed_in:
            return self.before
        return self.change


PLAIN = Note()


def note_of(field: Any) -> Note:
    """The note of a field; a field without one is plain."""
    return field.note if isinstance(field.note, Note) else PLAIN


def local_fields(table: FieldTable) -> frozenset[str]:
    """The options that never reach the wire: what a kind calls ``spec_only``."""
    return frozenset(field.name for field in table if note_of(field).local)


def absent_value(field: Any) -> Any:
    """The canonical value that a missing key stands for."""
    note = note_of(field)
    return field.default if note.absent is Unset else note.absent


def to_wire(table: FieldTable, settings: Mapping[str, Any]) -> Json:
    """Give the server's JSON; what equals the server's own default is left out."""
    config: Json = {}
    for field in table:
        note = note_of(field)
        value = settings.get(field.name)
        if note.local or value is None or value == absent_value(field):
            continue
        if note.table is not None:
            items = [to_wire(note.table, item) for item in (value if note.many else [value])]
            config[field.wire_name] = items if note.many else items[0]
        else:
            config[field.wire_name] = note.encode(value) if note.encode else value
    return config


def from_wire(table: FieldTable, config: Mapping[str, Any]) -> tuple[Settings, Json]:
    """Give canonical settings and what the table does not model (nested keys with dots, exact values)."""
    settings: Settings = {}
    unknown = dict(config)
    extra: Json = {}
    for field in table:
        note = note_of(field)
        if note.local:
            settings[field.name] = field.default
            continue
        value = unknown.pop(field.wire_name, None)
        if value is None:
            settings[field.name] = absent_value(field)
        elif note.table is not None:
            settings[field.name] = _nested(field.wire_name, note, value, extra)
        else:
            settings[field.name] = note.decode(value) if note.decode else value
    return settings, unknown | extra


def _nested(wire_name: str, note: Note, value: Any, extra: Json) -> Any:
    assert note.table is not None
    result = []
    for index, item in enumerate(value if note.many else [value]):
        settings, unknown = from_wire(note.table, item)
        result.append(settings)
        prefix = f"{wire_name}.{index}" if note.many else wire_name
        extra.update({f"{prefix}.{key}": found for key, found in unknown.items()})
    return result if note.many else result[0]


def restore(config: Json, unknown: Mapping[str, Any]) -> Json:
    """Put unmodelled values back where they were, so that a full-replace update does not erase them."""
    for path, value in unknown.items():
        *parents, last = path.split(".")
        node: Any = config
        for key in parents:
            index = int(key) if isinstance(node, list) else None
            if index is not None:
                node = node[index] if index < len(node) else None
            else:
                node = node.get(key)
            if node is None:
                break
        if isinstance(node, dict):
            node.setdefault(last, value)
    return config


def unsupported_fields(table: FieldTable, settings: Mapping[str, Any], facts: Facts) -> list[tuple[str, Version]]:
    """The options that are wanted but that the target's server version lacks, with their first version."""
    found: list[tuple[str, Version]] = []
    for field in table:
        note = note_of(field)
        value = settings.get(field.name)
        if note.local or value is None or value == absent_value(field):
            continue
        if field.since is not None and facts.version and facts.version < field.since:
            found.append((field.name, field.since))
        elif note.table is not None:
            for item in value if note.many else [value]:
                nested = unsupported_fields(note.table, item, facts)
                found.extend((f"{field.name}.{name}", since) for name, since in nested)
    return found


def align(table: FieldTable, desired: Mapping[str, Any], live: Settings) -> Settings:
    """Give live settings with lists that mean the same in any order written in the desired order."""
    aligned = dict(live)
    for field in table:
        note = note_of(field)
        want, have = desired.get(field.name), live.get(field.name)
        if not isinstance(want, type(have)) or want is None or want == have:
            continue
        if note.unordered and _same_items(want, have):
            aligned[field.name] = want
        elif note.table is not None and not note.many:
            assert isinstance(have, dict)
            aligned[field.name] = align(note.table, want, have)
    return aligned


def _same_items(left: Any, right: Any) -> bool:
    rest = list(right)
    for item in left:
        if item not in rest:
            return False
        rest.remove(item)
    return not rest


_TIME = re.compile(r"^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)$")


def utc_time(value: str) -> str:
    """Normalise an RFC 3339 time to UTC, at most nanoseconds, as the server writes it. Raises ValueError."""
    from datetime import UTC, datetime, timedelta

    match = _TIME.match(value)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {value!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    zone = match[8]
    if zone not in "Zz":
        sign = -1 if zone[0] == "+" else 1
        moment += sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    fraction = (match[7] or "")[:9].rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
