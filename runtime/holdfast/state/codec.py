"""Values as JSON that survives ``jsonb``: a closed set of tagged forms, one canonical spelling, no import by name."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from holdfast.errors import CodecError

#: The key that marks a tagged form. A mapping that has it itself is written as pairs.
TAG = "$type"

_TAG_TEXT = '"$type"'

_SPELLER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_Encoder = Callable[[Any], Any]


def canonical(plain: object) -> bytes:
    """Spell plain JSON in the one way that the checksum is taken of: sorted keys, no spaces, UTF-8.

    Raises CodecError for what is not JSON.
    """
    try:
        return _SPELLER.encode(plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"a value is not JSON: {error}") from None


def checksum(canonical_bytes: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(canonical_bytes).hexdigest()


class Codec:
    """Encodes values and decodes them again.

    Known without more: None, bool, int, float, str, list, tuple, dict, set, frozenset, bytes, datetime, date, time,
    timedelta, UUID, Decimal; a time zone comes back as its offset. ``types`` adds enums, dataclasses, pydantic models
    and msgspec structs, found by their class name; nothing else is ever made. Raises CodecError when two types share a
    name.
    """

    def __init__(self, types: Iterable[type] = ()) -> None:
        self._types: dict[str, type] = {}
        for kind in types:
            self.register(kind)

    def register(self, kind: type) -> None:
        """Let values of ``kind`` pass. Raises CodecError when another type has its name."""
        known = self._types.setdefault(kind.__name__, kind)
        if known is not kind:
            raise CodecError(f"two types are called {kind.__name__}")

    def encode(self, value: object) -> bytes:
        """Return canonical JSON. Raises CodecError for a value that could not be brought back."""
        try:
            return canonical(self._plain(value))
        except RecursionError:
            raise CodecError("a value is nested too deeply, or holds itself") from None

    def decode(self, data: bytes | str, key: str | None = None) -> Any:
        """Bring back what ``encode`` took. Raises CodecError, naming ``key``, for an unknown tag or broken JSON."""
        try:
            text = data if isinstance(data, str) else data.decode()
            plain = json.loads(text)
            return self._value(plain) if _TAG_TEXT in text else plain
        except Exception as error:  # a class of the user's may raise anything while it is made
            where = f" (key {key!r})" if key is not None else ""
            known = isinstance(error, CodecError)
            message = str(error) if known else f"a stored value cannot be read: {type(error).__name__}"
            raise CodecError(message + where, driver_error=None if known else error) from None

    def _plain(self, value: Any) -> Any:
        encoder = _EXACT.get(type(value))
        if encoder is not None:
            return encoder(value)
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return self._plain_many(value)
        if kind is dict:
            return self._plain_mapping(value)
        if self._types.get(kind.__name__) is kind:
            return self._plain_registered(value)
        for base in (str, int, float):
            if isinstance(value, base) and not isinstance(value, Enum):
                return _EXACT[base](base(value))
        raise CodecError(
            f"values of type {kind.__name__} are not known: enums, dataclasses, pydantic models and msgspec structs"
            " are, where a field of the agent's model or connect(types=...) names them"
        )

    def _plain_many(self, value: Any) -> Any:
        items = [self._plain(item) for item in value]
        if isinstance(value, list):
            return items
        if isinstance(value, (set, frozenset)):
            items.sort(key=canonical)
        return {TAG: type(value).__name__, "value": items}

    def _plain_mapping(self, value: dict[Any, Any]) -> Any:
        if TAG not in value and all(type(key) is str and _plain_text(key) for key in value):
            return {key: self._plain(item) for key, item in value.items()}
        pairs = [[self._plain(key), self._plain(item)] for key, item in value.items()]
        return {TAG: "map", "value": pairs}

    def _plain_registered(self, value: Any) -> Any:
        name = type(value).__name__
        if isinstance(value, Enum):
            return {TAG: "enum", "name": name, "value": value.name}
        held = {field: self._plain(getattr(value, field)) for field in record_fields(type(value))}
        return {TAG: "record", "name": name, "value": held}

    def _value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self._value(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        tag = plain.get(TAG)
        if tag is None:
            return {key: self._value(item) for key, item in plain.items()}
        if tag in ("enum", "record"):
            return self._registered(tag, plain)
        if tag == "map":
            return {self._value(key): self._value(item) for key, item in plain["value"]}
        if tag in _MANY:
            return _MANY[tag](self._value(item) for item in plain["value"])
        decoder = _TAGGED.get(tag) if isinstance(tag, str) else None
        if decoder is None:
            raise CodecError(f"a stored value has the unknown tag {str(tag)[:40]!r}")
        return decoder(plain["value"])

    def _registered(self, tag: str, plain: Mapping[str, Any]) -> Any:
        kind = self._types.get(plain["name"])
        if kind is None:
            name = str(plain["name"])[:60]
            raise CodecError(f"a stored value is of type {name!r}, which is not known: name it in connect(types=...)")
        if tag == "enum":
            if not issubclass(kind, Enum):
                raise CodecError(f"{kind.__name__} is not an enum")
            return kind[plain["value"]]
        fields = record_fields(kind)
        return kind(**{key: self._value(item) for key, item in plain["value"].items() if key in fields})


def record_fields(kind: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass, pydantic model or msgspec struct. Raises CodecError for other types."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind) if field.init)
    for attribute in ("model_fields", "__struct_fields__"):
        names = getattr(kind, attribute, None)
        if names is not None:
            return tuple(names)
    raise CodecError(f"{kind.__name__} is neither an enum, a dataclass, a pydantic model nor a msgspec struct")


def _plain_text(text: str) -> bool:
    """Whether ``jsonb`` takes the text: it has neither a NUL nor half of a surrogate pair."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def _text(value: str) -> Any:
    if _plain_text(value):
        return value
    return {TAG: "text", "value": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _float(value: float) -> Any:
    """A float as a number where ``jsonb`` gives the same one back, else by its spelling.

    ``numeric`` knows no minus zero, and spells 1e16 without a point: it would come back as an int.
    """
    spelled = repr(value)
    if not math.isfinite(value) or "e" in spelled or (value == 0 and spelled[0] == "-"):
        return {TAG: "float", "value": spelled}
    return value


def _timedelta(value: datetime.timedelta) -> Any:
    return {TAG: "timedelta", "value": value // datetime.timedelta(microseconds=1)}


def _same(value: Any) -> Any:
    return value


def _tagged(tag: str, spell: Callable[[Any], str]) -> _Encoder:
    return lambda value: {TAG: tag, "value": spell(value)}


_EXACT: dict[type, _Encoder] = {
    type(None): _same,
    bool: _same,
    int: _same,
    float: _float,
    str: _text,
    bytes: _tagged("bytes", lambda value: base64.b64encode(value).decode()),
    datetime.datetime: _tagged("datetime", datetime.datetime.isoformat),
    datetime.date: _tagged("date", datetime.date.isoformat),
    datetime.time: _tagged("time", datetime.time.isoformat),
    datetime.timedelta: _timedelta,
    UUID: _tagged("uuid", str),
    Decimal: _tagged("decimal", str),
}

_MANY: dict[str, Callable[[Iterable[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}

_TAGGED: dict[str, Callable[[Any], Any]] = {
    "text": lambda value: base64.b64decode(value, validate=True).decode("utf-8", "surrogatepass"),
    "float": float,
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda value: datetime.timedelta(microseconds=value),
    "uuid": UUID,
    "decimal": Decimal,
}
