"""Typed state: which fields a model has, how it is built from keys, and how older versions are brought up to date."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from holdfast.errors import CodecError
from holdfast.state.codec import record_fields

Values = dict[str, Any]
Upcaster = Callable[[Values], Values]
_UPCASTERS = "__holdfast_upcasters__"
_U = TypeVar("_U", bound=Upcaster)


def upcaster(model: type, *, from_version: int) -> Callable[[_U], _U]:
    """Register a function that turns values of ``from_version`` into those of the next version.

    It receives and returns a dict of field names and decoded values, and reads nothing else. The version of a model
    is one more than its last upcaster's ``from_version``; a model without any is version 1. Raises CodecError when
    the version has an upcaster already.
    """

    def register(function: _U) -> _U:
        own: dict[int, Upcaster] | None = model.__dict__.get(_UPCASTERS)
        if own is None:
            own = {}
            setattr(model, _UPCASTERS, own)
        if from_version in own:
            raise CodecError(f"{model.__name__} has two upcasters from version {from_version}")
        own[from_version] = function
        return function

    return register


def version_of(model: type) -> int:
    """The version that the program writes. Raises CodecError when an upcaster in between is missing."""
    own: dict[int, Upcaster] = model.__dict__.get(_UPCASTERS, {})
    version = 1 + max(own, default=0)
    missing = [step for step in range(1, version) if step not in own]
    if missing:
        raise CodecError(f"{model.__name__} has no upcaster from version {missing[0]}")
    return version


def upcast(model: type, values: Values, stored: int) -> Values:
    """Bring values of the version ``stored`` to the model's own.

    Raises CodecError when a newer program wrote them, and when an upcaster fails.
    """
    current = version_of(model)
    if stored > current:
        raise CodecError(f"the state has version {stored}; this program knows {model.__name__} up to {current}")
    own: dict[int, Upcaster] = model.__dict__.get(_UPCASTERS, {})
    for step in range(stored, current):
        try:
            values = own[step](dict(values))
        except Exception as error:
            raise CodecError(
                f"The upcaster of {model.__name__} from version {step} failed.", driver_error=error
            ) from None
    return values


def build(model: type, values: Mapping[str, Any]) -> Any:
    """Make an instance; keys that are no field are left out. Raises CodecError when the values do not fit."""
    known = {name: values[name] for name in record_fields(model) if name in values}
    try:
        validate = getattr(model, "model_validate", None)
        if validate is not None:
            return validate(known)
        if hasattr(model, "__struct_fields__"):
            import msgspec

            return msgspec.convert(known, model)
        return model(**known)
    except Exception as error:
        if not known:
            text = f"a new {model.__name__} cannot be made: give each of its fields a default"
            raise CodecError(text, driver_error=error) from None
        reason = type(error).__name__
        text = f"the stored values do not fit {model.__name__} ({reason}): default a new field, or add an upcaster"
        raise CodecError(text, driver_error=error) from None


def values_of(instance: object) -> Values:
    """The fields of an instance with their values."""
    return {name: getattr(instance, name) for name in record_fields(type(instance))}


def named_types(model: type) -> tuple[type, ...]:
    """Enums, dataclasses, models and structs that the fields of a model name, and theirs in turn."""
    found: dict[type, None] = {}
    _collect(model, found)
    found.pop(model, None)
    return tuple(found)


def _collect(model: type, found: dict[type, None]) -> None:
    if model in found:
        return
    found[model] = None
    if issubclass(model, Enum):
        return
    try:
        hints = typing.get_type_hints(model)
    except (NameError, TypeError) as error:
        raise CodecError(f"the types of the fields of {model.__name__} are not known here: {error}") from None
    for name in record_fields(model):
        for kind in _classes(hints.get(name)):
            if issubclass(kind, Enum) or _is_record(kind):
                _collect(kind, found)


def _is_record(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or hasattr(kind, "model_fields") or hasattr(kind, "__struct_fields__")


def _classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from _classes(inner)
