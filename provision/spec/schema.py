"""The JSON Schema of a whole document, put together from the sections, and what it says of a document.

jsonschema-rs decides and names the failing keyword; ``explain`` puts it into words. One engine, one schema:
the file that editors use is the one that check uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from provision.spec import target
from provision.spec.explain import Finding, explain
from provision.spec.fields import Json
from provision.spec.kind import Section
from provision.spec.layers import BODY_KEYS
from provision.spec.record import Pointer
from provision.spec.tree import Rewrite

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: A change of the language that old files do not survive gets a new number.
ID = "urn:holdfast:spec:1"
ENVIRONMENT_ID = "urn:holdfast:environment:1"
#: The files that header comments of specs and of environments name; they stand beside the folder of specs.
FILE = "holdfast.schema.json"
ENVIRONMENT_FILE = "holdfast.environment.schema.json"
#: Removing one wrong node may uncover another; deeper chains than this end with the whole section removed.
_ROUNDS = 12


def compose(sections: Iterable[Section]) -> Json:
    """Give the JSON Schema that each spec file satisfies; ``plane`` stands in one of them only."""
    properties: Json = {
        "plane": {"type": "string", "pattern": target.NAME_PATTERN, "description": "Name of the plane."},
        "targets": _optional(target.schema()),
    }
    for section in sections:
        properties[section.name] = _optional(_with_files(dict(section.schema())))
    return {
        "$schema": DIALECT,
        "$id": ID,
        "title": "Holdfast specs",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def compose_environment(sections: Iterable[Section]) -> Json:
    """Give the JSON Schema of ``environments/*.yaml``: sections whose objects need not be complete."""
    override = {section.name: _optional(_with_files(_partial(dict(section.schema())))) for section in sections}
    return {
        "$schema": DIALECT,
        "$id": ENVIRONMENT_ID,
        "title": "Holdfast environment",
        "type": "object",
        "properties": {
            "targets": _optional(_partial(target.schema())),
            "override": {"type": ["object", "null"], "properties": override, "additionalProperties": False},
        },
        "additionalProperties": False,
    }


def files(sections: Iterable[Section]) -> dict[str, str]:
    """Both JSON Schemas as text, by the names of their files."""
    known = tuple(sections)
    return {FILE: text(compose(known)), ENVIRONMENT_FILE: text(compose_environment(known))}


def text(schema: Json) -> str:
    """The one text form of a JSON Schema: what is printed, written and committed."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def header(file: str, depth: int) -> str:
    """The comment that lets editors check a file ``depth`` folders below the one that holds the JSON Schemas."""
    return f"# yaml-language-server: $schema={'../' * depth}{file}\n"


def _optional(schema: Json) -> Json:
    """A section may be there and empty."""
    return {**schema, "type": [schema["type"], "null"]}


#: A text that lies in a file of its own.
FILE_REFERENCE: Json = {
    "type": "object",
    "properties": {"file": {"type": "string", "description": "Path of the text, from the folder of the spec."}},
    "required": ["file"],
    "additionalProperties": False,
}


def _with_files(schema: Any) -> Any:
    """Let ``{file: path}`` stand for the texts that may lie beside a spec; reading puts the text in its place."""
    if isinstance(schema, list):
        return [_with_files(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: _with_files(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        rest["properties"] = {
            k: _or_file(v) if k in BODY_KEYS else _with_files(v) for k, v in schema["properties"].items()
        }
    return rest


def _or_file(schema: Json) -> Json:
    shape = {key: value for key, value in schema.items() if key != "description"}
    return {"anyOf": [*shape.get("anyOf", [shape]), FILE_REFERENCE], "description": schema.get("description", "")}


def _partial(schema: Any) -> Any:
    """Take the required keys of objects away; forms such as a secret's env or file stay as they are."""
    if isinstance(schema, list):
        return [_partial(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {k: _partial(v) for k, v in value.items()} if key == "properties" else _partial(value)
        for key, value in schema.items()
        if not (key == "required" and "properties" in schema)
    }


class Schema:
    """A compiled JSON Schema."""

    def __init__(self, schema: Json) -> None:
        self.json = schema
        self._validator: Any = None

    def errors(self, instance: Any) -> list[Any]:
        """What jsonschema-rs finds; empty if the instance is valid."""
        if self._validator is None:
            import jsonschema_rs

            self._validator = jsonschema_rs.validator_for(self.json)
        if self._validator.is_valid(instance):
            return []
        return list(self._validator.iter_errors(instance))

    def prune(self, root: dict[str, Any]) -> tuple[dict[str, Any], list[Finding], list[Pointer]]:
        """Give the valid rest of a document, what is wrong with it, and the places that were left out.

        Nothing that is handed in is changed. A wrong option goes alone; an object goes with a required one.
        """
        errors = self.errors(root)
        if not errors:
            return root, [], []
        findings = [finding for error in errors for finding in explain(error, self.json)]
        rewrite = Rewrite(root)
        dropped: list[Pointer] = []
        _drop(rewrite, [finding.remove for finding in findings], dropped)
        for round_ in range(_ROUNDS):
            errors = self.errors(rewrite.root)
            if not errors:
                return rewrite.root, findings, dropped
            if round_ < _ROUNDS // 2:
                # What went took a required option along: the object that lacks it goes, and nothing above.
                places = [finding.remove for error in errors for finding in explain(error, self.json)]
            else:
                places = [tuple(error.instance_path) for error in errors]
            _drop(rewrite, [place[:1] for place in places] if round_ == _ROUNDS - 1 else places, dropped)
        return {}, findings, [*dropped, ()]


def _drop(rewrite: Rewrite, places: Sequence[Pointer], dropped: list[Pointer]) -> None:
    """Take nodes out, outermost first. A list goes as a whole: its items are known by their position."""
    whole = {_keyed(place) for place in places}
    for place in sorted(whole, key=lambda place: (len(place), place)):
        if place and isinstance(parent := rewrite.get(place[:-1]), Mapping) and place[-1] in parent:
            rewrite.drop(place)
            dropped.append(place)


def _keyed(place: Pointer) -> Pointer:
    for index, step in enumerate(place):
        if isinstance(step, int):
            return place[:index]
    return place


@cache
def targets_schema() -> Schema:
    """The schema of the ``targets`` section alone, as a document."""
    return Schema({"type": "object", "properties": {"targets": target.schema()}})
