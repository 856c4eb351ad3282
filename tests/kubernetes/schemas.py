"""Judges manifests by the schemas that Kubernetes and CloudNativePG publish, and refuses fields that they do not know.

The folder of schemas comes from ``tools/build.py schemas``; without it a test that asks for it is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

from tests.engine.tools import ready

Manifest = Mapping[str, Any]
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def problems(manifest: Manifest) -> list[str]:
    """Everything that a manifest says and its schema does not allow, as ``path: message``."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    found = _validator(version, kind).iter_errors(manifest)
    lines = sorted(f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found)
    return [f"{kind} {manifest['metadata']['name']}: {line}" for line in lines]


@cache
def _folder() -> Path:
    return ready("schemas")


@cache
def _validator(version: str, kind: str) -> Draft4Validator:
    group, _, bare = version.rpartition("/")
    if "." in group and not group.endswith("k8s.io"):
        return Draft4Validator(_custom(group, bare, kind))
    place = f"apis__{group}__{bare}" if group else f"api__{bare}"
    schemas = _document(place)
    wanted = {"group": group, "version": bare, "kind": kind}
    name = next(n for n, s in schemas.items() if wanted in s.get("x-kubernetes-group-version-kind", []))
    return Draft4Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


@cache
def _document(place: str) -> dict[str, Any]:
    document = json.loads((_folder() / "kubernetes" / f"{place}_openapi.json").read_text("utf-8"))
    return {name: _closed(schema) for name, schema in document["components"]["schemas"].items()}


def _custom(group: str, version: str, kind: str) -> dict[str, Any]:
    """The schema of a custom resource: what its definition says, and the metadata of every object."""
    for file in sorted((_folder() / "cloudnative-pg").glob("*.yaml")):
        definition = yaml.load(file.read_text("utf-8"), Loader=yaml.CSafeLoader)["spec"]
        if (definition["group"], definition["names"]["kind"]) != (group, kind):
            continue
        (served,) = [v for v in definition["versions"] if v["name"] == version]
        schema = _closed(served["schema"]["openAPIV3Schema"])
        schema["properties"] |= {"metadata": {"$ref": f"#/components/schemas/{_META}"}}
        return {**schema, "components": {"schemas": _document("apis__apps__v1")}}
    raise LookupError(f"no definition of {group}/{version} {kind}")


def _closed(schema: Any) -> Any:
    """The same schema, in which objects have no other properties than they name, and null is said in JSON Schema."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed_members(key, value) for key, value in schema.items() if key not in ("default", "example")}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in schema and not is_open:
        found.setdefault("additionalProperties", False)
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found


def _closed_members(key: str, value: Any) -> Any:
    """The parts of a schema under a keyword; below ``properties`` the keys are names, no keywords."""
    if key == "properties":
        return {name: _closed(inner) for name, inner in value.items()}
    return value if key == "enum" else _closed(value)
