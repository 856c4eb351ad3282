"""What is rendered is known: checks that compare streams with servers speak where they else are silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.kubernetes import render
from provision.spec import kubernetes
from tests.checks.specs import everything, load
from tests.kubernetes.nats_plane import target
from tests.kubernetes.schemas import problems

SPEC = """
plane: example
targets: {nats: {main: {kind: %s, servers: 3, kubernetes: {auth: {secret: accounts}}}}}
streams: {ORDERS: {subjects: [orders], max_bytes: 1GiB, replicas: 3, placement: {%s}}}
"""


@pytest.mark.req("A1.12")
@pytest.mark.parametrize("placement", ["tags: [ssd]", "cluster: east"])
def test_servers_without_tags_and_clusters_of_another_name_fit_no_placement(placement: str, tmp_path: Path) -> None:
    (found,) = everything(tmp_path, SPEC % ("kubernetes", placement))
    assert found.code == "HF0702"
    external = SPEC.replace(", kubernetes: {auth: {secret: accounts}}", "")
    assert everything(tmp_path, external % ('external, urls: "nats://n:4222"', placement)) == []


def test_what_is_rendered_counts_as_declared() -> None:
    assert target().facts.options["tags"] == []
    assert target().facts.options["server_tags"] == [[], [], []]
    assert target({"name": "bus"}).facts.options["cluster"] == "bus"
    assert target(tags=["a"], cluster="east").facts.options["server_tags"] == [["a"]] * 3


def test_the_same_specs_pass_with_computed_and_with_declared_storage(tmp_path: Path) -> None:
    for store in ("", "max_file_store: 2GiB,"):
        spec = SPEC.replace("servers: 3,", f"servers: 3, {store}") % ("kubernetes", "")
        assert everything(tmp_path, spec) == []
    small = SPEC.replace("servers: 3,", "servers: 3, max_file_store: 512MiB,") % ("kubernetes", "")
    assert {d.code for d in everything(tmp_path, small)} == {"HF0703"}


#: What people write by mistake, and what is right somewhere.
VALUES = st.sampled_from([
    None, True, -1, 0, 1, 3, 0.5, 1e30, "", "x", "A b", "1GiB", "-1GiB", "0B", "10s", "always", "500m", "0 0 * * * *",
    [], ["x"], [{"pods": {"a": "b"}}], [{"pods": 1}], {}, {"secret": "x"}, {"x": 1}, {"schedule": "x"}, {"image": "i"},
])  # fmt: skip
_SYSTEMS = {"nats": kubernetes.NATS, "postgres": kubernetes.POSTGRES}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(_SYSTEMS)))
def test_nothing_that_a_target_says_makes_check_raise_and_what_passes_can_be_rendered(
    tmp_path: Path, data: st.DataObject, word: str
) -> None:
    given_ = data.draw(st.dictionaries(st.sampled_from(list(_SYSTEMS[word].fields)), VALUES, max_size=4))
    others = ["servers", "tags", "cluster", "max_file_store", "max_payload", "max_connections", "endpoints", "version"]
    node = {"kind": "kubernetes", **data.draw(st.dictionaries(st.sampled_from(others), VALUES, max_size=3))}
    spec = {
        "plane": "example",
        "targets": {word: {"main": {**node, "kubernetes": given_}}},
        "streams": {"A": {"subjects": ["a"], "max_bytes": "1GiB"}} if word == "nats" else {},
    }
    loaded = load(tmp_path, json.dumps(spec))
    if any(d.severity == "error" for d in (*loaded.said, *loaded.check())):
        return
    made = render.manifests(loaded.plane, loaded.document.targets.values(), {"specs/spec.yaml": "plane: example"})
    assert [problem for manifest in made for problem in problems(manifest)] == []
