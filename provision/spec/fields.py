"""Field tables: the one truth about a kind's options. They give the JSON Schema, the parser and the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from provision.spec import units

Json = dict[str, Any]


class FieldError(ValueError):
    """A value that its type refuses. ``path`` leads from the field to the offending part; ``help`` mends it."""

    def __init__(self, message: str, *, help: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.help = help
        self.path = path


@dataclass(frozen=True)
class Type:
    """A type of the spec language: its JSON Schema and its parser to the canonical value.

    ``table`` describes the options where the value, or each item of it, is an object; pages are made of it.
    """

    schema: Json
    parse: Callable[[Any], Any] = field(default=lambda value: value)
    table: FieldTable | None = None


def _guard(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        try:
            return parse(value)
        except units.UnitError as error:
            raise FieldError(str(error), help=error.help) from None

    return run


BOOL = Type({"type": "boolean"})
STRING = Type({"type": "string"})
#: SQL text, inline; ``file:`` bodies are resolved to text before records are read.
SQL = Type({"type": "string", "minLength": 1})
#: ``30s``, ``1.5h``, ``30d`` -> integer nanoseconds; 0 means none.
DURATION = Type(
    {"anyOf": [{"type": "string", "pattern": units.DURATION_PATTERN}, {"const": 0}]}, _guard(units.duration_ns)
)
#: ``512MiB``, ``10GiB``, ``1024`` (bytes) -> integer bytes; -1 means unlimited where a kind allows it.
SIZE = Type(
    {"anyOf": [{"type": "string", "pattern": units.SIZE_PATTERN}, {"type": "integer", "minimum": -1}]},
    _guard(units.size_bytes),
)
#: ``1 day``, ``1 month``: a calendar interval in UTC -> its normal text form.
INTERVAL = Type({"type": "string", "pattern": units.INTERVAL_PATTERN}, _guard(units.interval))
#: ``{env: NAME}`` or ``{file: path}``: a reference; the value never enters a record.
SECRET = Type(
    {
        "type": "object",
        "oneOf": [{"required": ["env"]}, {"required": ["file"]}],
        "properties": {
            "env": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "file": {"type": "string", "minLength": 1},
        },
        "additionalProperties": False,
    },
    dict,
)
#: RFC 3339 time, kept as text.
TIME = Type({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"})


def integer(minimum: int | None = None, maximum: int | None = None) -> Type:
    """An integer within inclusive bounds. JSON Schema counts 1e3 among them, as a server's decoder does not."""
    schema: Json = {"type": "integer"}
    if minimum is not None:
        schema["minimum"] = minimum
    if maximum is not None:
        schema["maximum"] = maximum
    return Type(schema, int)


def number(minimum: float | None = None, maximum: float | None = None) -> Type:
    """A number within inclusive bounds."""
    schema: Json = {"type": "number"}
    if minimum is not None:
        schema["minimum"] = minimum
    if maximum is not None:
        schema["maximum"] = maximum
    return Type(schema)


def text(pattern: str | None = None, *, max_length: int | None = None) -> Type:
    """A string that matches an anchored regular expression."""
    schema: Json = {"type": "string"}
    if pattern is not None:
        schema["pattern"] = pattern
    if max_length is not None:
        schema["maxLength"] = max_length
    return Type(schema)


def enum(*values: Any) -> Type:
    """One of a closed set of values."""
    return Type({"enum": list(values)})


def list_of(item: Type, *, min_items: int = 0, max_items: int | None = None) -> Type:
    """A list of one type."""

    def parse(value: list[Any]) -> list[Any]:
        return [_at(i, item.parse, v) for i, v in enumerate(value)]

    schema: Json = {"type": "array", "items": item.schema}
    if min_items:
        schema["minItems"] = min_items
    if max_items is not None:
        schema["maxItems"] = max_items
    return Type(schema, parse, item.table)


def map_of(value_type: Type, *, key_pattern: str | None = None) -> Type:
    """A mapping from names to one type."""

    def parse(value: Mapping[str, Any]) -> dict[str, Any]:
        return {k: _at(k, value_type.parse, v) for k, v in value.items()}

    schema: Json = {"type": "object", "additionalProperties": value_type.schema}
    if key_pattern is not None:
        schema["propertyNames"] = {"pattern": key_pattern}
    return Type(schema, parse, value_type.table)


def any_of(*types: Type, parse: Callable[[Any], Any]) -> Type:
    """A value in one of several forms, brought to one canonical form by ``parse``."""
    return Type({"anyOf": [t.schema for t in types]}, parse, next((t.table for t in types if t.table), None))


def object_of(table: FieldTable) -> Type:
    """A nested object with its own field table."""
    return Type(table.schema(), table.parse, table)


def nullable(inner: Type) -> dict[str, Any]:
    """The JSON Schema of a field that also takes ``null``, the server's default."""
    return {"anyOf": [inner.schema, {"type": "null"}]}


def _at(key: str | int, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except FieldError as error:
        error.path = (key, *error.path)
        raise


@dataclass(frozen=True)
class Field:
    """One option of a kind.

    ``default`` is the canonical value where the spec says nothing or ``null`` (None = unset).
    ``wire`` is the server's own name when it differs; ``since`` the first server version that has it.
    ``note`` is free for the kind (mutability class, catalog column). ``doc`` is one sentence for people.
    """

    name: str
    type: Type
    doc: str
    _: KW_ONLY
    default: Any = None
    required: bool = False
    wire: str | None = None
    since: tuple[int, ...] | None = None
    note: Any = None

    @property
    def wire_name(self) -> str:
        return self.wire or self.name


class FieldTable:
    """The ordered options of a kind.

    ``extra`` are further JSON Schema properties that other modules read (nested kinds), ``ignored`` by parse.
    """

    def __init__(self, *fields: Field, extra: Mapping[str, Json] | None = None) -> None:
        self.fields: dict[str, Field] = {f.name: f for f in fields}
        self.extra = dict(extra or {})
        self._defaults: dict[str, Any] = {f.name: f.default for f in fields}
        self._parsers = {f.name: f.type.parse for f in fields}

    def __getitem__(self, name: str) -> Field:
        return self.fields[name]

    def __iter__(self) -> Any:
        return iter(self.fields.values())

    def schema(self) -> Json:
        """The JSON Schema of the object; unknown keys are refused."""
        properties: Json = {}
        for f in self.fields.values():
            properties[f.name] = {**(f.type.schema if f.required else nullable(f.type)), "description": f.doc}
        properties |= self.extra
        schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [f.name for f in self.fields.values() if f.required]
        if required:
            schema["required"] = required
        return schema

    def parse(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Give canonical settings: the defaults overlaid with what the node says.

        Raises FieldError, its path starting with the field's name.
        """
        settings = dict(self._defaults)
        parsers = self._parsers
        for key, value in node.items():
            if value is not None and key in parsers:
                settings[key] = _at(key, parsers[key], value)
        return settings
