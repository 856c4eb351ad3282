"""Laying an environment over the declared plane. Pure; called by the document loader and the reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.spec.nearest import nearest
from provision.spec.record import Pointer

Json = Mapping[str, Any]


def overlay(below: Any, above: Any) -> Any:
    """Lay ``above`` over ``below``: mappings merge deeply, lists, scalars and null replace. Copies."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = overlay(merged[key], value) if key in merged else value
    return merged


def undeclared(base: Any, above: Any, schema: Json, pointer: Pointer = ()) -> Iterator[tuple[Pointer, str]]:
    """Give what ``above`` overrides but ``base`` never declared, with the help for it.

    Options may be set that the base leaves out; named objects (the places where the JSON Schema takes any
    name and an object behind it) must exist.
    """
    if not isinstance(above, dict) or not isinstance(base, dict):
        return
    named, properties = _members(schema)
    for key, value in above.items():
        place = (*pointer, key)
        if key in base:
            inner = properties.get(key, named or {})
            yield from undeclared(base[key] if base[key] is not None else {}, value, inner, place)
        elif key not in properties and named is not None and _is_object(named):
            yield place, nearest(str(key), base, "Declare it outside environments/ first.")
        elif key in properties and isinstance(value, dict):
            yield from undeclared({}, value, properties[key], place)
        elif not pointer and key not in properties:
            yield place, nearest(str(key), properties, "Override sections of the plane only.")


def _branches(schema: Json) -> Iterator[Json]:
    yield schema
    for keyword in ("anyOf", "oneOf", "allOf"):
        for branch in schema.get(keyword, ()):
            yield from _branches(branch)


def _members(schema: Json) -> tuple[Json | None, dict[str, Json]]:
    """The schema of freely named members, if the schema takes such, and those of its fixed keys."""
    named: Json | None = None
    properties: dict[str, Json] = {}
    for branch in _branches(schema):
        properties |= branch.get("properties", {})
        if isinstance(found := branch.get("additionalProperties"), Mapping):
            named = found
    return named, properties


def _is_object(schema: Json) -> bool:
    return any("properties" in branch for branch in _branches(schema))
