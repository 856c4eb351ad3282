"""The wire form of values: protobuf structs with Pulumi's markers to plain values and back.

The one module that knows the markers of secrets and unknowns and how Pulumi writes a property path.
Facts: sdk/go/common/resource (properties.go, properties_path.go) and pkg/resource/plugin/rpc.go of pulumi/pulumi.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from provision.pulumi.protocol import UNKNOWN, Pointer
from provision.spec.errors import InputError

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a marker that Pulumi publishes
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_RESOURCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
_FILES: Final = {"c44067f5952c0a294b673a41bacd8c17": "an asset", "0def7320c3a5731c473e5ecbe6d01bc7": "an archive"}
_UNKNOWN_TEXT: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
#: One marker for each type that the value will have.
_UNKNOWNS: Final = frozenset(
    {
        _UNKNOWN_TEXT,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)
#: The largest integer up to which a double holds each one.
_EXACT: Final = 2**53
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_STEP = re.compile(r'\.?(?:\[(\d+)\]|\[\*\]|\["((?:\\"|[^"])*)"\]|([^.\[]+))')


@dataclass(frozen=True)
class Decoded:
    """Plain values, and where they came wrapped as secrets."""

    values: dict[str, Any]
    secrets: frozenset[Pointer] = frozenset()

    @property
    def secret_keys(self) -> frozenset[str]:
        """The properties that are or hold a secret."""
        return frozenset(str(pointer[0]) for pointer in self.secrets)


def decode(struct: Struct) -> Decoded:
    """Read the properties of a resource. Those of the engine itself, whose names begin with ``__``, are left out.

    A whole number becomes an int. Names are sorted at every level: neither the engine nor protobuf keeps an order.
    Raises InputError for an asset or an archive.
    """
    reader = _Reader()
    fields = struct.fields
    names = sorted(name for name in fields if not name.startswith("__"))
    values = {name: reader.unmark(_plain(fields[name]), (name,)) for name in names}
    return Decoded(values, frozenset(reader.secrets))


def decode_config(struct: Struct) -> Decoded:
    """Read the provider's own properties, where SDKs and stack configuration write mappings and lists as JSON text.

    ``version`` and ``pluginDownloadURL`` are the engine's and left out.
    """
    reader = _Reader()
    values = {}
    for name in sorted(struct.fields):
        if not (name.startswith("__") or name in ("version", "pluginDownloadURL")):
            text_or_value = reader.unmark(_plain(struct.fields[name]), (name,))
            values[name] = reader.unmark(_from_json(text_or_value), (name,))
    return Decoded(values, frozenset(reader.secrets))


def encode(values: Mapping[str, Any], secret_keys: Collection[str] = ()) -> Struct:
    """Write properties, those of ``secret_keys`` wrapped as secrets.

    An integer that a double cannot hold becomes decimal text. Raises TypeError for what JSON does not have.
    """
    struct = Struct()
    for name, value in values.items():
        target = struct.fields[name]
        if name in secret_keys:
            fields = target.struct_value.fields
            fields[_SIGNATURE].string_value = _SECRET
            target = fields["value"]
        _write(target, value)
    return struct


def path(pointer: Pointer) -> str:
    """Write a pointer as Pulumi does: ``schemas.agents.tables["a.b"].columns[0]``."""
    text = ""
    for step in pointer:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not _PLAIN_NAME.fullmatch(step):
            text += '["' + step.replace('"', '\\"') + '"]'
        else:
            text += f".{step}" if text else step
    return text


def parse_path(text: str) -> Pointer:
    """Read a path as Pulumi writes it; ``*`` stays as it is."""
    steps: list[str | int] = []
    for match in _STEP.finditer(text):
        index, quoted, name = match.groups()
        if index is not None:
            steps.append(int(index))
        elif quoted is not None:
            steps.append(quoted.replace('\\"', '"'))
        else:
            steps.append(name or "*")
    return tuple(steps)


def _plain(value: Value) -> Any:
    """What the protobuf value holds, markers included."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            fields = value.struct_value.fields
            return {name: _plain(fields[name]) for name in sorted(fields)}
        case "list_value":
            return [_plain(inner) for inner in value.list_value.values]
    return None


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value  # whoever checks it knows what it should have been
    return value


@dataclass
class _Reader:
    """Takes the markers out of plain values and remembers where the secrets were."""

    secrets: set[Pointer] = field(default_factory=set)

    def unmark(self, value: Any, at: Pointer) -> Any:
        if isinstance(value, dict):
            if _SIGNATURE in value:
                return self._marked(value, at)
            return {name: self.unmark(inner, (*at, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.unmark(inner, (*at, index)) for index, inner in enumerate(value)]
        return UNKNOWN if isinstance(value, str) and value in _UNKNOWNS else value

    def _marked(self, value: dict[str, Any], at: Pointer) -> Any:
        signature = value[_SIGNATURE]
        if signature == _SECRET or (signature == _OUTPUT and value.get("secret")):
            self.secrets.add(at)
        if signature in (_SECRET, _OUTPUT):
            return self.unmark(value["value"], at) if "value" in value else UNKNOWN
        if signature == _RESOURCE:
            return self.unmark(value.get("id") or value.get("urn"), at)
        what = _FILES.get(signature, "of an unknown kind")
        raise InputError(f"{path(at)} is {what}: not taken here", "Give its text or its path as a string.")


def _write(target: Value, value: Any) -> None:
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int() if abs(value) > _EXACT:
            target.string_value = str(value)
        case int() | float():
            if not math.isfinite(value):
                raise TypeError(f"{value} is no number of JSON")
            target.number_value = value
        case Mapping():
            target.struct_value.SetInParent()
            fields = target.struct_value.fields
            for name, inner in value.items():
                _write(fields[name], inner)
        case list() | tuple():
            target.list_value.SetInParent()
            values = target.list_value.values
            for inner in value:
                _write(values.add(), inner)
        case _ if value is UNKNOWN:
            target.string_value = _UNKNOWN_TEXT
        case _:
            raise TypeError(f"{type(value).__name__} has no form in JSON")
