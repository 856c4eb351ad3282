"""The package schema says what the kinds say, and Pulumi's engine accepts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from provision import registry
from provision.pools import runtime
from provision.pulumi import page, schema
from provision.reconcile.parts import COLUMN_ORDER, TYPES
from provision.reference import PLACES, branches, descend
from provision.spec import schema as specs

ROOT = Path(__file__).parents[2]
PROVIDER = Path(sys.executable).with_name("pulumi-resource-holdfast")
#: Kinds whose objects are resources; all others are types inside one.
RESOURCES = {
    "stream": "Stream", "bucket": "KeyValueBucket", "object_store": "ObjectStore", "consumer": "Consumer",
    "role": "Role", "pool": "Pool", "contract": "Contract",
}  # fmt: skip
#: Kinds that two objects of the package are made of, and what stands in both.
IN_TWO: dict[str, tuple[tuple[str, str], set[str]]] = {
    "partitions": (("Partitions", "PartitionSet"), {"default", "by", "key"}),
    "grant": (("Grant", "ObjectGrant"), {"privileges", "grantable"}),
}


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    return schema.package()


@pytest.fixture(scope="module")
def pulumi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a pulumi stands on PATH."""
    call = [sys.executable, str(ROOT / "tools/build.py"), "pulumi", "--cached"]
    built = subprocess.run(call, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"no Pulumi on this machine; make pulumi builds it: {built.stderr.strip()}")
    folder = built.stdout.splitlines()[-1]
    path = f"{PROVIDER.parent}{os.pathsep}{folder}{os.pathsep}{os.environ['PATH']}"
    home = tmp_path_factory.mktemp("pulumi")
    fixed = {"PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true"}
    return {**os.environ, **fixed, "PATH": path, "PULUMI_HOME": str(home)}


def properties(package: dict[str, Any], name: str) -> dict[str, Any]:
    """What an object of the package is made of."""
    token = f"holdfast:index:{name}"
    if token in package["resources"]:
        own = package["resources"][token]
        return {**own["inputProperties"], **({"content": own["properties"]["content"]} if name == "Contract" else {})}
    found: dict[str, Any] = package["types"][token]["properties"]
    return found


def type_of(kind: str) -> str:
    return RESOURCES.get(kind) or ("Runtime" if kind == "binding" else kind.title().replace("_", ""))


def references(node: Any) -> set[str]:
    """Every type that is mentioned."""
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def test_the_committed_schema_is_the_one_that_the_kinds_give(package: dict[str, Any]) -> None:
    committed = (ROOT / "provision/pulumi/schema.json").read_text(encoding="utf-8")
    assert committed == specs.text(package), "make generate"


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("kind", [kind for kind in registry.kinds() if kind not in IN_TWO])
def test_every_option_of_a_kind_is_a_property_of_one_object(package: dict[str, Any], kind: str) -> None:
    fields = runtime.FIELDS.fields if kind == "binding" else registry.kinds()[kind].fields.fields
    assert fields.keys() <= properties(package, type_of(kind)).keys()
    for name, field in fields.items():
        assert field.doc.split(";")[0] in properties(package, type_of(kind))[name]["description"] or kind == "contract"


@pytest.mark.parametrize("kind", IN_TWO)
def test_a_kind_that_two_objects_share_is_whole(package: dict[str, Any], kind: str) -> None:
    names, both = IN_TWO[kind]
    fields = registry.kinds()[kind].fields.fields
    found = Counter(name for holder in names for name in properties(package, holder) if name in fields)
    assert found == {name: 2 if name in both else 1 for name in fields}


@pytest.mark.parametrize("kind", [kind for kind, place in PLACES.items() if place.paths and kind not in IN_TWO])
def test_an_object_has_no_property_that_the_language_lacks(package: dict[str, Any], kind: str) -> None:
    document = {"properties": {section.name: dict(section.schema()) for section in registry.sections()}}
    node = next(n for n in branches(descend(document, PLACES[kind].paths[0])) if "properties" in n)
    own = properties(package, type_of(kind)).keys()
    placed = {"name", "stream", "target"} if kind in RESOURCES else {COLUMN_ORDER} if kind == "table" else set()
    assert own - node["properties"].keys() <= placed
    elsewhere = (
        {"consumers", "templates"} if kind == "stream" else {"target"} if kind in ("schema", "extension") else set()
    )
    assert node["properties"].keys() - own == elsewhere


def test_the_resources_are_the_parts_that_a_plane_falls_into(package: dict[str, Any]) -> None:
    assert [token.rpartition(":")[2] for token in package["resources"]] == list(TYPES)
    for name, part in TYPES.items():
        own = package["resources"][f"holdfast:index:{name}"]
        replacing = {n for n, spec in own["inputProperties"].items() if spec.get("willReplaceOnChanges")}
        renamed = {"name"} & own["inputProperties"].keys() if "renamed_from" in own["inputProperties"] else set()
        assert replacing == set(part.identity if part.fixed is None else part.fixed) - renamed
        assert set(own["requiredInputs"]) >= set(part.identity) - {"target"}
        given = {word: word.upper() for word in ("name", "target", "stream", "schema", "table")}
        assert f"`{part.id(given)}`" in own["description"]
        assert {"address", "plan"} <= set(own["required"])


def test_names_of_types_are_plain_and_each_is_used(package: dict[str, Any]) -> None:
    assert all(re.fullmatch(r"holdfast:index:[A-Z][A-Za-z]+", token) for token in package["types"])
    used = {
        ref.removeprefix("#/types/") for ref in references({**package, "types": None}) | references(package["types"])
    }
    assert used - {"pulumi.json#/Any"} == package["types"].keys()
    undescribed = [
        (token, name)
        for token, spec in {**package["types"], **package["resources"]}.items()
        for name, property in spec.get("properties", {}).items()
        if not property["description"]
    ]
    assert undescribed == []


@pytest.mark.req("B3.3")
def test_a_secret_is_a_reference_everywhere_but_in_the_providers_own_secrets(package: dict[str, Any]) -> None:
    secret = {"$ref": "#/types/holdfast:index:SecretReference"}
    assert properties(package, "Role")["password"] | {"description": ""} == secret | {"description": ""}
    for token in ("NatsTarget", "PostgresTarget"):
        assert properties(package, token)["password"]["$ref"] == secret["$ref"]
    provider = package["provider"]["inputProperties"]
    assert [name for name, spec in provider.items() if spec.get("secret")] == ["secrets"]
    assert "secrets" not in package["provider"]["properties"]


@pytest.mark.req("B3.1")
def test_pulumi_finds_no_fault_with_the_schema(pulumi: dict[str, str]) -> None:
    call = ["pulumi", "schema", "check", str(ROOT / "provision/pulumi/schema.json")]
    checked = subprocess.run(call, capture_output=True, text=True, env=pulumi, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.req("B3.1")
def test_pulumi_gets_the_schema_from_the_provider(package: dict[str, Any], pulumi: dict[str, str]) -> None:
    call = ["pulumi", "package", "get-schema", str(PROVIDER)]
    got = subprocess.run(call, capture_output=True, text=True, env=pulumi, check=False)
    assert got.returncode == 0, got.stderr
    found = json.loads(got.stdout)
    for part in ("version", "types", "resources", "provider"):
        assert sorted(found[part]) == sorted(package[part])
    for token, spec in package["resources"].items():
        assert found["resources"][token]["inputProperties"] == spec["inputProperties"]


@pytest.mark.req("B3.1")
def test_pulumi_makes_an_sdk_for_typescript(pulumi: dict[str, str], tmp_path: Path) -> None:
    call = ["pulumi", "package", "gen-sdk", str(PROVIDER), "--language", "nodejs", "--out", str(tmp_path)]
    made = subprocess.run(call, capture_output=True, text=True, env=pulumi, check=False)
    if "GeneratePackage not implemented" in made.stderr:
        pytest.skip("the host for TypeScript here makes no SDKs; a newer one does")
    assert made.returncode == 0, made.stderr
    assert "max_age?: pulumi.Input<string | number" in (tmp_path / "nodejs/stream.ts").read_text(encoding="utf-8")


def test_the_page_is_that_of_the_schema() -> None:
    committed = (ROOT / page.FOLDER / "README.md").read_text(encoding="utf-8")
    assert committed == page.text(), "make generate"
    linked = re.findall(r"\]\((\.\./[a-z_]+\.md)\)", committed)
    assert linked
    assert [link for link in linked if not (ROOT / page.FOLDER / link).exists()] == []
