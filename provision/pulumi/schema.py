"""The Pulumi package schema, made of the kinds' field tables: a new option of a kind is a new property. Pure.

``make generate`` writes it beside this module; the provider answers with it, and SDKs are made of it. Properties
bear the spec language's own names. What Pulumi's types cannot say (patterns, bounds) is Check's to judge.
"""

from __future__ import annotations

import copy
import sys
from typing import NamedTuple

from provision import __version__, registry
from provision.pulumi.naming import DOWNLOAD_URL, PACKAGE
from provision.pulumi.shapes import Place, Shapes, reference
from provision.reconcile.parts import COLUMN_ORDER, CONTRACT, TYPES, Database
from provision.reference import PLACES, branches, descend
from provision.spec import target
from provision.spec.fields import FieldTable, Json
from provision.spec.schema import text

_PARTITIONS = "schemas.NAME.tables.NAME.partitions"
_TEMPLATES = "streams.NAME.templates.NAME"
#: What rolls on with time, and stands in a resource of its own.
_POLICY = ("every", "premake", "min_ahead", "retain", "on_expiry", "start")
#: What is left out at a place, because another resource or the object around it says it.
_WITHOUT: dict[str, tuple[str, ...]] = {
    "streams.NAME": ("consumers", "templates"),
    "schemas.NAME": ("target",),
    "extensions.NAME": ("target",),
    "grants[]": ("target",),
    _PARTITIONS: _POLICY,
}
#: Names that place an object, beside ``target``.
_NAMES = {
    "name": "Its name.",
    "stream": "The stream that it reads.",
    "schema": "The schema of the table.",
    "table": "The partitioned table.",
}


class Resource(NamedTuple):
    """A resource of the package: what it is, and where its options stand in a document."""

    name: str
    what: str
    path: str = ""

    @property
    def token(self) -> str:
        return f"{PACKAGE}:index:{self.name}"

    @property
    def id(self) -> str:
        """The form of its id; capital words stand for names."""
        return TYPES[self.name].id({name: name.upper() for name in ("target", *_NAMES)})


RESOURCES = (
    Resource("Stream", PLACES["stream"].what, "streams.NAME"),
    Resource("KeyValueBucket", PLACES["bucket"].what, "buckets.NAME"),
    Resource("ObjectStore", PLACES["object_store"].what, "object_stores.NAME"),
    Resource("Consumer", PLACES["consumer"].what, "streams.NAME.consumers.NAME"),
    Resource(
        "PostgresDatabase",
        "The schemas of one database with all that is in them, its extensions and grants. There is one for each "
        "database, so that changes are ordered among each other.",
    ),
    Resource(
        "PartitionSet",
        "How the partitions of a table that is partitioned by range roll on. The table itself says by what.",
        _PARTITIONS,
    ),
    Resource("Role", PLACES["role"].what, "roles.NAME"),
    Resource("Pool", PLACES["pool"].what, "pools.NAME"),
    Resource(
        "Contract",
        "What the runtime is told about the plane; it comes last and is made of the `part` of every other resource.",
    ),
)

_PART: Json = {
    "description": "What the contract says of an object.",
    "type": "object",
    "properties": {
        "digest": {"type": "string", "description": "Names the declaration of the object."},
        "entries": {"type": "string", "description": "What the runtime is told of it, as JSON."},
    },
    "required": ["digest", "entries"],
}
_PARTS: Json = {
    "type": "object",
    "additionalProperties": reference("Part"),
    "description": "The `part` of every other resource of the plane, under any names.",
}
_OUTPUTS: Json = {
    "address": {"type": "string", "description": "The object's address, which is its id too."},
    "part": {**reference("Part"), "description": "What the contract says of the object."},
    "plan": {
        "type": "array",
        "items": {"type": "string"},
        "description": "In a preview the steps that are ahead, in their order; none once they are done.",
    },
}
_COLUMN_ORDER: Json = {
    "type": "array",
    "items": {"type": "string"},
    "description": "The columns in the order in which a new table gets them: engines sort the keys of mappings.",
}
_IMPORTED: Json = {
    "type": "boolean",
    "description": "Whether the inputs were written by an import, which cannot know what no server does.",
}
_REACH: Json = {
    "type": "object",
    "additionalProperties": {"$ref": "pulumi.json#/Any"},
    "description": "How clients reach the targets, as the runtime is told; without it, the provider's targets.",
}
_DRIFT: Json = {
    "type": "array",
    "items": {"type": "string"},
    "description": "The differences that a refresh found and no other property can show.",
}
_CONTENT: Json = {"type": "string", "description": "What the runtime reads, as JSON."}
_TARGET: Json = {"type": "string", "description": "The target it lives on, main where nothing is said."}


def _document() -> Json:
    """The JSON Schema of a document whose files have been read: where a text stands, no reference to a file does."""
    document = {"properties": {s.name: copy.deepcopy(dict(s.schema())) for s in registry.sections()}}
    _object_at(document, "schemas.NAME.tables.NAME")["properties"][COLUMN_ORDER] = _COLUMN_ORDER
    return document


def _object_at(document: Json, path: str) -> Json:
    return next(node for node in branches(descend(document, path)) if "properties" in node)


def _resource(resource: Resource, shapes: Shapes, document: Json) -> Json:
    part = TYPES[resource.name]
    options, required = _options(resource, shapes, document)
    inputs: Json = {n: {"type": "string", "description": _NAMES[n]} for n in part.identity if n != "target"}
    placed = list(inputs)
    inputs["target"] = options.pop("target", _TARGET)
    for name in part.identity if part.fixed is None else part.fixed:
        if name != "name" or "renamed_from" not in options:
            inputs[name] = _replacing(inputs[name])
    return _entry(resource, inputs | options, [*placed, *required], _OUTPUTS)


def _options(resource: Resource, shapes: Shapes, document: Json) -> tuple[Json, list[str]]:
    """What a resource takes besides the names that place it, and which of it is required."""
    place = Place(resource.path, resource.name)
    if resource.name == Database.name:
        sections = {name: document["properties"][name] for name in Database.sections}
        return shapes.properties({"properties": sections}, place), []
    node = _object_at(document, resource.path)
    if resource.path == _PARTITIONS:
        rows = FieldTable(*(registry.kinds()["partitions"].fields[name] for name in ("by", "key", *_POLICY, "default")))
        policy = {"properties": {field.name: node["properties"][field.name] for field in rows}}
        return shapes.properties(policy, place._replace(path="", table=rows)), ["every"]
    return shapes.properties(node, place), list(node.get("required", ()))


def _contract(resource: Resource, shapes: Shapes, document: Json) -> Json:
    sections = {name: document["properties"][name] for name in ("publishers", "runtime")}
    sections["runtime"] = {**sections["runtime"], "description": "What the runtime calls its objects, and its limits."}
    inputs = {
        "parts": _PARTS,
        "targets": _REACH,
        **shapes.properties({"properties": sections}, Place("", resource.name)),
    }
    template = shapes.spec(descend(document, _TEMPLATES), Place(_TEMPLATES, ""))
    shapes.specs["StreamTemplates"] = {
        "type": "object",
        "description": "The templates that stand under a stream.",
        "properties": {
            "templates": {"type": "object", "additionalProperties": template, "description": "By name."},
            "target": {"type": "string", "description": "The target of the stream, main where nothing is said."},
        },
    }
    inputs["templates"] = {
        "type": "object",
        "additionalProperties": reference("StreamTemplates"),
        "description": f"By stream: {PLACES['template'].what}",
    }
    outputs = {name: spec for name, spec in _OUTPUTS.items() if name != "part"}
    return _entry(resource, inputs, ["parts"], {**outputs, "content": _CONTENT})


def _entry(resource: Resource, inputs: Json, required: list[str], outputs: Json) -> Json:
    return {
        "description": f"{resource.what}\n\nIts id is its address, `{resource.id}`.",
        "properties": {**inputs, **outputs, "drift": _DRIFT, "imported": _IMPORTED},
        "required": [*required, *outputs],
        "inputProperties": inputs,
        "requiredInputs": required,
    }


def _replacing(spec: Json) -> Json:
    """Mark a property that says which object it is: with another value it is another one."""
    return {**spec, "willReplaceOnChanges": True}


def _settings(shapes: Shapes) -> Json:
    """The inputs of the provider."""
    targets = shapes.spec(target.schema(), Place("targets", "Targets", doc="The servers of a plane."))
    return {
        "plane": _replacing({"type": "string", "description": "Name of the plane."}),
        "env": _replacing({"type": "string", "description": "Name of the environment."}),
        "root": {
            "type": "string",
            "description": "The folder that relative paths start from, the program's where nothing is said.",
        },
        "targets": {**targets, "description": "The servers of the plane, as an environment declares them."},
        "allow": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Consents, such as `data_loss:pg:main/agents/state`.",
        },
        "secrets": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "secret": True,
            "description": "Values of `{env: NAME}` references, for variables that the environment lacks.",
        },
    }


def package() -> Json:
    """Give the schema of the package."""
    shapes, document = Shapes(_WITHOUT), _document()
    shapes.specs["Part"] = _PART
    resources = {
        resource.token: (_contract if resource.name == CONTRACT.name else _resource)(resource, shapes, document)
        for resource in RESOURCES
    }
    settings = _settings(shapes)
    return {
        "name": PACKAGE,
        "displayName": "Holdfast",
        "version": __version__,
        "description": "Declares the NATS JetStream and PostgreSQL plane of an agent platform.",
        "keywords": ["pulumi", PACKAGE, "nats", "jetstream", "postgresql", "kind/native", "category/database"],
        "license": "Apache-2.0",
        "publisher": "The Holdfast Authors",
        "pluginDownloadURL": DOWNLOAD_URL,
        "language": _LANGUAGES,
        "config": {"variables": settings, "defaults": ["plane", "env"]},
        "provider": {
            "description": "One plane in one environment, with all its targets.",
            "properties": {name: settings[name] for name in ("plane", "env", "root")},
            "required": ["plane", "env"],
            "inputProperties": settings,
            "requiredInputs": ["plane", "env"],
        },
        "types": {f"{PACKAGE}:index:{name}": shapes.specs[name] for name in sorted(shapes.specs)},
        "resources": resources,
    }


_LANGUAGES: Json = {
    "python": {
        "packageName": "provision.pulumi",
        "requires": {"pulumi": ">=3.180,<4"},
        "respectSchemaVersion": True,
    },
    "nodejs": {
        "packageName": "@holdfast/pulumi",
        "packageDescription": "The resources of Holdfast for Pulumi.",
        "respectSchemaVersion": True,
    },
    "go": {
        "importBasePath": "holdfast/sdk/go/holdfast",
        "generateResourceContainerTypes": True,
        "respectSchemaVersion": True,
    },
    "csharp": {"namespaces": {PACKAGE: "Holdfast"}, "respectSchemaVersion": True},
}


def main() -> int:
    """Print the schema."""
    sys.stdout.write(text(package()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
