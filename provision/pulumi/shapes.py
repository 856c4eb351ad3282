"""From JSON Schemas and field tables to Pulumi's types: named objects and enumerations, unions, descriptions. Pure.

A type is called after the kind whose objects stand at its place, else after the property that holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from provision import registry
from provision.nats.kinds.wire import Note
from provision.pools import runtime
from provision.pulumi.naming import PACKAGE
from provision.reference import PLACES, branches, default_of, words
from provision.spec import target
from provision.spec.fields import SECRET, Field, FieldTable, Json

ANY: Json = {"$ref": "pulumi.json#/Any"}
_SECRET_REFERENCE: Json = {
    "type": "object",
    "description": "Where a secret is. One of the two is said.",
    "properties": {
        "env": {"type": "string", "description": "Name of an environment variable."},
        "file": {"type": "string", "description": "Path of a file."},
    },
}
#: Names that say more than those of their first places.
_CALLED = {
    "Binding": "Runtime",
    "ColumnIdentityChoice": "IdentityGeneration",
    "EnumGrant": "ObjectGrant",
    "ForeignKeyOnDelete": "ForeignKeyAction",
    "IndexItem": "IndexColumn",
    "NatsTargetKind": "TargetKind",
    "PartitionsBy": "PartitionStrategy",
    "StreamMirror": "StreamSource",
    "TableReplicaIdentityChoice": "ReplicaIdentity",
    "TargetsNat": "NatsTarget",
    "TargetsPostgre": "PostgresTarget",
}
_SERVERS = {
    "streams": "nats-server",
    "buckets": "nats-server",
    "object_stores": "nats-server",
    "schemas": "PostgreSQL",
    "roles": "PostgreSQL",
}
_FORMS = {
    "duration": "A duration such as `30s`.",
    "size": "A size such as `10GiB`, or a number of bytes.",
    "interval": "An interval such as `1 day`.",
    "time": "A time such as `2026-01-31T12:00:00Z`.",
}
_TABLES = {
    "runtime": runtime.FIELDS,
    "targets.nats.NAME": target.NATS_TARGET,
    "targets.postgres.NAME": target.POSTGRES_TARGET,
}


class Place(NamedTuple):
    """Where a value stands in a document, what its type would be called, its options and its description."""

    path: str
    hint: str
    table: FieldTable | None = None
    doc: str = ""

    @property
    def kind(self) -> str | None:
        """The kind whose objects stand here."""
        return next((kind for kind, place in PLACES.items() if self.path in place.paths), None)

    @property
    def options(self) -> FieldTable | None:
        """The field table of what stands here."""
        if self.path in _TABLES:
            return _TABLES[self.path]
        kind = "grant" if self.path.endswith(".grants.NAME") else self.kind
        return registry.kinds()[kind].fields if kind is not None else self.table

    def inside(self, step: str) -> Place:
        """The place of an item or of a value under a name: the name of one object is in the singular."""
        hint = f"{_pascal(self.kind)}Item" if self.kind else self.hint.removesuffix("s")
        return self._replace(path=self.path + step, hint=hint)


class Shapes:
    """Makes types, and collects the objects and enumerations among them under their names in ``specs``.

    ``without`` are the properties that are left out at a place.
    """

    def __init__(self, without: dict[str, tuple[str, ...]]) -> None:
        self.specs: dict[str, Json] = {"SecretReference": _SECRET_REFERENCE}
        self._without = without
        self._names: dict[str, str] = {_text(SECRET.schema): "SecretReference"}

    def spec(self, node: Json, place: Place) -> Json:
        """The type of a value; ``null`` is what is left out."""
        choices = list(_choices(node))
        if any(choice.get("type") == "string" for choice in choices):
            choices = [choice for choice in choices if "enum" not in choice]
        forms: list[Json] = []
        for choice in choices:
            hint = f"{place.hint}Choice" if "enum" in choice and len(choices) > 1 else place.hint
            form = self._form(choice, place._replace(hint=hint))
            if form not in forms:
                forms.append(form)
        if {"type": "number"} in forms and {"type": "integer"} in forms:
            forms.remove({"type": "integer"})
        if not forms or ANY in forms:
            return ANY
        return forms[0] if len(forms) == 1 else {"oneOf": forms}

    def _form(self, node: Json, place: Place) -> Json:
        if "enum" in node:
            return self._enum(node["enum"], place)
        if "const" in node:
            return {"type": "integer" if isinstance(node["const"], int) else "string"}
        match node.get("type"):
            case "array":
                return {"type": "array", "items": self.spec(node.get("items", {}), place.inside("[]"))}
            case "object" if "properties" in node:
                return self._object(node, place)
            case "object":
                values = node.get("additionalProperties")
                values = values if isinstance(values, dict) else {}
                return {"type": "object", "additionalProperties": self.spec(values, place.inside(".NAME"))}
            case "boolean" | "integer" | "number" | "string" as primitive:
                return {"type": primitive}
        return ANY

    def _enum(self, values: list[str], place: Place) -> Json:
        spec = {"type": "string", "enum": [{"name": _pascal(value), "value": value} for value in values]}
        return self._named(spec, spec, _CALLED.get(place.hint, place.hint))

    def _object(self, node: Json, place: Place) -> Json:
        shape = {key: value for key, value in node.items() if key != "description"}
        if (known := self._names.get(_text(shape))) is not None:
            return reference(known)
        kind = place.kind
        hint = _pascal(kind) if kind else place.hint
        name = _CALLED.get(hint, hint)
        spec: Json = {"type": "object", "description": PLACES[kind].what if kind else place.doc}
        spec["properties"] = self.properties(node, place._replace(hint=name))
        if node.get("required"):
            spec["required"] = list(node["required"])
        return self._named(shape, spec, name)

    def _named(self, shape: Json, spec: Json, name: str) -> Json:
        """Give the reference to a type; equal shapes are one type, called as its first place says."""
        name = self._names.setdefault(_text(shape), name)
        if self.specs.setdefault(name, spec) != spec:
            raise ValueError(f"two types are called {name}")
        return reference(name)

    def properties(self, node: Json, place: Place) -> Json:
        """The properties of an object; the names of their types begin with the hint of the place."""
        table, found = place.options, dict[str, Json]()
        for name, option in node["properties"].items():
            if name in self._without.get(place.path, ()):
                continue
            field = table.fields.get(name) if table is not None else None
            path = f"{place.path}.{name}" if place.path else name
            doc = describe(option, field, path)
            inner = Place(path, place.hint + _pascal(name), _table_of(field), doc)
            found[name] = {**self.spec(option, inner), "description": doc}
        return found


def reference(name: str) -> Json:
    """The reference to a type of the package."""
    return {"$ref": f"#/types/{PACKAGE}:index:{name}"}


def _choices(node: Json) -> Iterator[Json]:
    for branch in branches(node):
        types = branch.get("type")
        if isinstance(types, list):
            yield from ({**branch, "type": name} for name in types if name != "null")
        else:
            yield branch


def _table_of(field: Field | None) -> FieldTable | None:
    if field is None or field.type.table is not None:
        return field.type.table if field is not None else None
    return field.note.table if isinstance(field.note, Note) else None


def _pascal(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.replace("-", "_").split("_"))


def _text(shape: Json) -> str:
    return json.dumps(shape, sort_keys=True)


def describe(option: Json, field: Field | None, path: str) -> str:
    """What people read of a property: its sentence, its form, its default, and the first server that has it."""
    said = option.get("description") or (field.doc if field is not None else "") or _held(path)
    parts = [said, _FORMS.get(words(option), "")]
    if field is not None:
        default = default_of(field)
        if default not in ("", "required", "empty", "`[]`", "`{}`"):
            parts.append(f"Default: {default}.")
        if field.since:
            version = ".".join(map(str, field.since)).removesuffix(".0")
            parts.append(f"Since {_SERVERS[path.partition('.')[0]]} {version}.")
    return " ".join(part for part in parts if part)


def _held(path: str) -> str:
    """What stands under a name that holds objects of a kind."""
    for end, lead in ((".NAME", "By name: "), ("[]", "Each: "), ("", "")):
        for place in PLACES.values():
            if path + end in place.paths:
                return lead + place.what
    return ""
