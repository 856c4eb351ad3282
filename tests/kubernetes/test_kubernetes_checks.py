"""What is rendered is known: checks that compare streams with servers speak where they else are silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.specs import everything
from tests.kubernetes.nats_plane import target

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
