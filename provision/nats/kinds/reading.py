"""Helpers of the NATS sections: one diagnostic for each wrong value, targets, references. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from provision.spec.fields import FieldError, FieldTable, Json
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Pointer, Settings

TARGET: Json = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}],
    "description": "The NATS target it lives on, main where nothing is said.",
}


def mapping(item: Json, name_pattern: str) -> Json:
    """The JSON Schema of name -> object, where an empty object may be left out."""
    return {
        "type": "object",
        "propertyNames": {"pattern": name_pattern},
        "additionalProperties": {"anyOf": [item, {"type": "null"}]},
    }


def parse(table: FieldTable, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Settings | None:
    """Give canonical settings, or None after reporting every value that is wrong."""
    try:
        return table.parse(node)
    except FieldError:
        for key, value in node.items():
            try:
                table.parse({key: value})
            except FieldError as error:
                reader.fail(pointer, error)
        return None


def target(node: Mapping[str, Any] | None) -> str:
    """The target that a node names."""
    return (node or {}).get("target") or "main"


def check_mirror_direct(
    given: bool | None, mirror: Mapping[str, Any] | None, section: Mapping[str, Any], *, usual: bool
) -> FieldError | None:
    """Refuse a mirror_direct that the server would override: it takes allow_direct of an origin that it sees.

    ``usual`` is what allow_direct of the section's objects is where nothing is said.
    """
    if given is None or mirror is None or mirror["external"] is not None or mirror["name"] not in section:
        return None
    declared = (section[mirror["name"]] or {}).get("allow_direct")
    taken = usual if declared is None else bool(declared)
    if given == taken:
        return None
    return FieldError(
        f"mirror_direct is what allow_direct of {mirror['name']} is, {str(taken).lower()}: the server sees to it",
        help=f"Leave it out, or change allow_direct of {mirror['name']}.",
    )


def copied(
    address: Address, settings: Settings, section: Mapping[str, Any], origin: Callable[[str], str]
) -> tuple[Address, ...]:
    """The declared objects of the same section and target that this one mirrors or sources."""
    entries = [*([settings["mirror"]] if settings["mirror"] else []), *settings["sources"]]
    names = [origin(entry["name"]) for entry in entries if entry["external"] is None]
    known = [n for n in names if n in section and n != address.name and target(section[n]) == address.target]
    return tuple(Address.root(address.system, address.target, address.kind, n) for n in dict.fromkeys(known))
