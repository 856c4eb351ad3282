"""From canonical settings back to what a person would write: the inverse of the field types. Pure.

A field's type says what it reads, as a JSON Schema and a parser; a spelling is accepted only if the parser
gives the value again, so no form needs an inverse of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from provision.spec import units
from provision.spec.fields import FieldError, FieldTable, Json, Type

Reads = Callable[[Any], bool]


class UnwritableError(ValueError):
    """No text of the spec language means this value. ``field`` names the option."""

    def __init__(self, field: str, value: Any) -> None:
        super().__init__(f"{field} is {value!r}, which specs cannot say")
        self.field = field


def options(table: FieldTable, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[UnwritableError]]:
    """Give the node of an object: what differs from the defaults, shortest forms; and what cannot be said."""
    node: dict[str, Any] = {}
    wrong: list[UnwritableError] = []
    for field in table:
        value = settings.get(field.name)
        if value == field.default and not (field.required and value is not None):
            continue
        try:
            node[field.name] = spell(field.type, value)
        except UnwritableError:
            wrong.append(UnwritableError(field.name, value))
    return node, wrong


def spell(type_: Type, value: Any) -> Any:
    """The shortest node that a type reads as a value. Raises UnwritableError."""

    def reads(node: Any) -> bool:
        try:
            return bool(type_.parse(node) == value)
        except (FieldError, AttributeError, TypeError, ValueError, KeyError):
            return False

    if value is not None:
        for node in _full(type_.schema, value):
            if reads(node):
                return _shortened(node, reads, type_.schema)
    raise UnwritableError("value", value)


def _full(schema: Json, value: Any) -> Iterator[Any]:
    """Nodes with every option written out, nicest first."""
    branches = list(_branches(schema))
    if isinstance(value, Mapping):
        tables = [b for b in branches if "properties" in b]
        for branch in tables or [{}]:
            inner = branch.get("properties", {})
            given = value.items() if not tables else [(k, v) for k, v in value.items() if v is not None]
            yield {k: _first(inner.get(k) or _property(schema, k), v) for k, v in given}
    elif isinstance(value, list):
        yield [_first(_items(schema), item) for item in value]
    elif isinstance(value, int) and not isinstance(value, bool):
        patterns = {b.get("pattern") for b in branches}
        if units.DURATION_PATTERN in patterns and value > 0:
            yield units.format_duration(value)
        if units.SIZE_PATTERN in patterns and not (text := units.format_size(value)).lstrip("-").isdigit():
            yield text
    yield value


def _first(schema: Json, value: Any) -> Any:
    return next(_full(schema, value))


def _branches(schema: Json) -> Iterator[Json]:
    for branch in schema.get("anyOf") or ():
        yield from _branches(branch)
    if "anyOf" not in schema:
        yield schema


def _shortened(node: Any, reads: Reads, schema: Json) -> Any:
    """Take away every key that changes nothing; a single one left may stand without its key."""
    if isinstance(node, list):
        return [_shortened(item, _inside(node, i, reads), _items(schema)) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    required = {name for b in _branches(schema) for name in b.get("required", ())}
    for key in list(node):
        less = {k: v for k, v in node.items() if k != key}
        if key not in required and reads(less):
            node = less
    for key, value in list(node.items()):
        node = {**node, key: _shortened(value, _inside(node, key, reads), _property(schema, key))}
    if len(node) == 1:
        (bare,) = node.values()
        if not isinstance(bare, dict) and _takes(schema, bare) and reads(bare):
            return bare
    return node


def _inside(node: Any, key: Any, reads: Reads) -> Reads:
    def inner(value: Any) -> bool:
        whole = dict(node) if isinstance(node, dict) else list(node)
        whole[key] = value
        return reads(whole)

    return inner


def _items(schema: Json) -> Json:
    """The schema of a list's items."""
    found: Iterator[Json] = (b["items"] for b in _branches(schema) if "items" in b)
    return next(found, {})


def _property(schema: Json, key: str) -> Json:
    """The schema of the value under a key: its own, or that of all other keys."""
    branches = list(_branches(schema))
    own: list[Json] = [b["properties"][key] for b in branches if key in b.get("properties", {})]
    every = (b.get("additionalProperties") for b in branches)
    return next(iter([*own, *(e for e in every if isinstance(e, dict))]), {})


_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}


def _takes(schema: Json, value: Any) -> bool:
    """Whether a form of the schema is of the value's type, so that the JSON Schema will not refuse it."""
    for branch in _branches(schema):
        types = branch.get("type", ())
        if value in branch.get("enum", ()) or _TYPES.get(type(value)) in ([types] if isinstance(types, str) else types):
            return True
    return False
