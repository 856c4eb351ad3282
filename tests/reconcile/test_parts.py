"""A plane in parts: the parts hold exactly what the document holds, and together make the same contract."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from provision import registry
from provision.pools import contract
from provision.reconcile import writing
from provision.reconcile.parts import LAYOUT, TYPES, is_rolling, owner
from provision.reconcile.portions import Portion, Setting, portion
from provision.reconcile.splitting import split
from provision.reconcile.targets import reachable
from provision.reconcile.workspace import Workspace
from provision.spec import yamltext
from provision.spec.document import Document
from provision.spec.errors import InputError
from provision.spec.files import File, Inputs
from provision.spec.ident import KIND_WORDS
from provision.spec.reading import read
from provision.spec.record import Plane, Record
from tests.reconcile.test_writing import CASES, COLUMNS, values

Json = dict[str, Any]
SPECS = Path(__file__).parents[2] / "specs"
ENVIRONMENTS = sorted(path.stem for path in (SPECS / "environments").glob("*.yaml"))
#: What a policy alone leaves to its table.
LAID_OUT = (*LAYOUT, "key_type")


def portions(root: Mapping[str, Any], plane: Plane, setting: Setting) -> list[Portion]:
    """Each part of the document, read on its own; splitting leaves the document as it was."""
    before = copy.deepcopy(root)
    found = [portion(TYPES[part.type], part.inputs, setting) for part in split(root, plane.name)]
    assert root == before
    assert [(p.inputs, p.findings) for p in found if p.findings] == []
    return found


def whole(record: Record, others: Iterable[Record]) -> Record:
    """A policy with the layout that its table gives."""
    laid = {r.address: r for r in others if is_rolling(r)}
    layout = {name: laid[record.address].settings[name] for name in LAID_OUT}
    return record._replace(settings={**record.settings, **layout})


def owned(found: Iterable[Portion]) -> Iterator[Record]:
    """The records of all parts, each from the part that owns it."""
    laid = [r for p in found if p.type.name == "PostgresDatabase" for r in p.records]
    for one in found:
        owns = one.type.owns(one.inputs)
        for record in filter(owns, one.records):
            yield whole(record, laid) if is_rolling(record) else record


def essence(records: Iterable[Record]) -> list[str]:
    return sorted(repr((r.address, r.settings, r.parent, r.renamed_from)) for r in records)


def assert_parts_hold_the_plane(root: Mapping[str, Any], plane: Plane, setting: Setting) -> None:
    found = portions(root, plane, setting)
    assert essence(owned(found)) == essence(plane)
    ids = [p.type.id(p.inputs) for p in found]
    assert len(set(ids)) == len(ids)
    for one in found:
        if one.type.name != "Contract":
            placed = one.type.from_id(one.type.id(one.inputs))
            assert placed.items() <= one.inputs.items()
            assert one.type.id(placed) == one.type.id(one.inputs)
    for record in plane:
        owners = [p.type.id(p.inputs) for p in found if p.type.owns(p.inputs)(record)]
        # A pool lives in the contract, so the contract may speak for it; its own part is the owner.
        others = {TYPES["Contract"].id({})} if record.address.kind == "pool" else set()
        assert set(owners) - others == {owner(record)}
        assert len(owners) == 1 + len(others)


def assert_shares_add_up(root: Mapping[str, Any], plane: Plane, setting: Setting) -> None:
    kinds = registry.kinds()
    facts = {r.address[:2]: setting.facts(*r.address[:2]) for r in plane}

    def completed(records: Iterable[Record]) -> Plane:
        return contract.completed(Plane(records, name=plane.name, env=plane.env), kinds, facts)

    found = portions(root, plane, setting)
    laid = list(owned(found))
    shares = []
    for one in found:
        owns = one.type.owns(one.inputs)
        own = [whole(r, laid) if is_rolling(r) else r for r in one.records if owns(r)]
        # Between processes a share is text.
        shares.append(contract.decode(contract.encode(contract.share(completed(own), kinds))))
    together = contract.share(completed(plane), kinds)
    assert sum(s.digest for s in shares) % (1 << 256) == together.digest
    entries = {address: entry for s in shares for address, entry in s.entries.items()}
    assert entries == together.entries
    reach = reachable(setting.targets)
    built = contract.build(completed(plane), reach, kinds)
    assert contract.content(plane.name, plane.env, reach, shares) == built


# The plane of this repository -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def declared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Setting]:
    """The specs in one environment."""
    cache = tmp_path_factory.mktemp("cache")
    workspace = Workspace(SPECS, request.param, cache)
    assert workspace.errors == []
    return workspace, Setting(workspace.name, workspace.env, workspace.document.targets, cache)


@pytest.mark.req("B3.1")
def test_the_parts_of_the_plane_hold_all_its_records(declared: tuple[Workspace, Setting]) -> None:
    workspace, setting = declared
    assert_parts_hold_the_plane(workspace.document.root, workspace.plane, setting)
    types = {part.type for part in split(workspace.document.root, workspace.name)}
    assert types == TYPES.keys() - {"ObjectStore"}


@pytest.mark.req("B3.1")
def test_the_parts_of_the_plane_make_its_contract(declared: tuple[Workspace, Setting]) -> None:
    workspace, setting = declared
    assert_shares_add_up(workspace.document.root, workspace.plane, setting)


# Any plane ------------------------------------------------------------------------------------------------


def merged(one: Json, other: Json) -> Json:
    """One document over another."""
    both = {k: merged(one[k], v) for k, v in other.items() if isinstance(v, dict) and isinstance(one.get(k), dict)}
    return {**one, **other, **both}


def handy(node: Json) -> Json:
    """The node with no more partitions than anybody would have, and each option where it means something."""
    counts = {k: node[k] % 40 + 1 for k in ("modulus", "premake", "min_ahead") if node.get(k)}
    idle = {"modulus"} if node.get("by") in ("range", "list") else set()
    return {k: counts.get(k, v) for k, v in node.items() if k not in idle}


@st.composite
def documents(draw: st.DrawFn) -> Json:
    """A document of a few kinds. What reading refuses is left out by ``faultless``."""
    root: Json = {}
    for kind in draw(st.lists(st.sampled_from(sorted(CASES)), min_size=1, max_size=5, unique=True)):
        of, wrap = CASES[kind]
        root = merged(root, wrap(handy(draw(values(of)))))
    for section, names in (("streams", "S"), ("buckets", "B"), ("schemas", "app"), ("pools", "p")):
        node = root.get(section, {}).get(names)
        if node is not None and draw(st.booleans()):
            twin = {**copy.deepcopy(node), **({"target": "other"} if section != "pools" else {})}
            root = merged(root, {section: {f"{names}_2": twin}})
    return root


def reading(root: Mapping[str, Any]) -> tuple[Document, Plane, list[str]]:
    text = yamltext.dump({"plane": "p", **root})
    document = Document(Inputs(Path(), None, (File("p.yaml", Path("p.yaml"), text.encode()),)))
    found = read(document, registry.sections())
    return document, found.plane, [d.message for d in found.diagnostics if d.severity == "error"]


def faultless(root: Mapping[str, Any]) -> tuple[Mapping[str, Any], Plane]:
    """The document with what it means, where need be written anew without what is wrong in it."""
    document, plane, errors = reading(root)
    if errors:
        document, plane, errors = reading(writing.speak(plane, registry.kinds()).root)
    assume(not errors)
    assume(len(plane) > 0)
    return document.root, plane


@settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(documents())
def test_the_parts_of_any_plane_hold_all_its_records_and_make_its_contract(root: Json) -> None:
    node, plane = faultless(root)
    setting = Setting("p", "", {}, Path())
    assert_parts_hold_the_plane(node, plane, setting)
    assert_shares_add_up(node, plane, setting)


# What is easily lost --------------------------------------------------------------------------------------

RANGE = {"by": "range", "key": ["a"]}
TABLE = {"columns": COLUMNS}


def test_names_without_options_are_parts_too() -> None:
    node: Json = {
        "streams": {"S": {"consumers": {"c": None}, "templates": {"t": None}}, "T": None},
        "buckets": {"B": None},
        "publishers": {"p": {"subjects": ["a"]}},
        "runtime": {},
        "roles": {"r": None},
        "extensions": {"e": None},
        "schemas": {"app": None},
    }
    document, plane, errors = reading(node)
    assert errors == []
    assert_parts_hold_the_plane(document.root, plane, Setting("p", "", {}, Path()))
    assert {p.type for p in split(node, "p")} == {
        "Stream", "Consumer", "KeyValueBucket", "Role", "PostgresDatabase", "Contract",
    }  # fmt: skip


def test_a_database_of_each_target_is_a_part_of_its_own() -> None:
    node: Json = {
        "schemas": {"one": {"tables": {"t": {**TABLE, "partitions": {**RANGE, "every": "1 day"}}}},
                    "two": {"target": "other", "tables": {"t": {**TABLE, "partitions": {**RANGE, "every": "1 day"}}}}},
        "extensions": {"e": {"target": "other"}, "f": None},
        "grants": [{"on": "schema two", "to": "r", "privileges": ["usage"], "target": "other"}],
        "roles": {"r": {"target": "other"}},
    }  # fmt: skip
    document, plane, errors = reading(node)
    assert errors == []
    assert_parts_hold_the_plane(document.root, plane, Setting("p", "", {}, Path()))
    ids = {TYPES[p.type].id(p.inputs): p.name for p in split(node, "p")}
    assert ids == {
        "pg:main": "main", "pg:other": "other", "pg:other/role/r": "other/r", "plane:main/contract": "p",
        "pg:main/one/t/partitions/set": "one.t", "pg:other/two/t/partitions/set": "other/two.t",
    }  # fmt: skip


@pytest.mark.parametrize(
    "partitions",
    [
        {**RANGE, "every": "1 month", "premake": 2, "retain": "1 year", "on_expiry": "detach"},
        {**RANGE, "every": "1000 integers", "start": 0, "default": True},
        {"by": "hash", "key": ["a"], "modulus": 4},
        {"by": "list", "key": ["b"], "values": {"x": ["a", None], "y": ["b"]}, "default": "rest"},
    ],
)
def test_only_the_policy_of_a_rolling_set_leaves_its_table(partitions: Json) -> None:
    document, plane, errors = reading({"schemas": {"app": {"tables": {"t": {**TABLE, "partitions": partitions}}}}})
    assert errors == []
    assert_parts_hold_the_plane(document.root, plane, Setting("p", "", {}, Path()))
    parts = {p.type: p.inputs for p in split(document.root, "p")}
    kept = parts["PostgresDatabase"]["schemas"]["app"]["tables"]["t"]["partitions"]
    if partitions["by"] != "range":
        assert "PartitionSet" not in parts
        assert kept == partitions
        return
    assert kept == RANGE
    assert {**RANGE, **parts["PartitionSet"]} == {"schema": "app", "table": "t", **partitions}
    # Where the policy is not at hand, the table alone gives a set without partitions.
    (laid,) = [r for r in portion_of("PostgresDatabase", parts).records if r.address.kind == "partitions"]
    assert (laid.settings["every"], laid.settings["retain"], laid.settings["default"]) == (None, None, None)


def portion_of(type: str, parts: Mapping[str, Mapping[str, Any]]) -> Portion:
    return portion(TYPES[type], parts[type], Setting("p", "", {}, Path()))


# Ids ------------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.text(min_size=1, max_size=12), st.sampled_from(sorted(KIND_WORDS)), st.sampled_from(["a/b", "%41"])
)
TARGETS = st.sampled_from(["main", "other"])
#: The inputs that place a part.
PLACES = {name: type.identity for name, type in TYPES.items()} | {"PartitionSet": ("schema", "table", "target")}


@settings(max_examples=200, derandomize=True, database=None)
@given(st.data(), st.sampled_from(sorted(TYPES.keys() - {"Contract"})))
def test_an_id_gives_back_the_inputs_that_place_a_part(data: st.DataObject, name: str) -> None:
    type = TYPES[name]
    inputs = {word: data.draw(TARGETS if word == "target" else NAMES) for word in PLACES[name]}
    if inputs["target"] == "main":
        del inputs["target"]
    assert type.from_id(type.id(inputs)) == inputs


def test_ids_of_other_types_are_refused() -> None:
    ids = {name: type.id(dict.fromkeys(("name", "stream", "schema", "table"), "x")) for name, type in TYPES.items()}
    for name, type in TYPES.items():
        for other, id in ids.items():
            if "Contract" in (name, other):
                continue
            if name == other:
                type.from_id(id)
            else:
                with pytest.raises(InputError, match="is not the id of a"):
                    type.from_id(id)


def test_parts_of_one_type_have_names_of_their_own() -> None:
    node: Json = {
        "streams": {"S": {"consumers": {"c": {}}}, "T": {"consumers": {"c": {}}, "target": "other"}},
        "buckets": {"S": {"target": "other"}, "T": {}},
    }
    names: dict[str, list[str]] = defaultdict(list)
    for part in split(node, "p"):
        names[part.type].append(part.name)
    assert names["Consumer"] == ["S.c", "T.c"]
    assert names["Stream"] == ["S", "other/T"]
    assert all(len(set(found)) == len(found) for found in names.values())
