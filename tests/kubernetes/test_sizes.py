"""Servers are as large as their streams need, and streams that find no place are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.kubernetes import sizes
from provision.reconcile.workspace import Workspace
from tests.kubernetes.nats_plane import plane, target

GIB, MIB = 2**30, 2**20
TAGS = ("ssd", "hdd")


@st.composite
def streams(draw: st.DrawFn, servers: int) -> dict[str, dict[str, Any]]:
    """Streams whose replicas fit the number of servers."""
    made = {}
    for number in range(draw(st.integers(0, 12))):
        made[f"S{number}"] = {
            "subjects": [f"s{number}"],
            "max_bytes": draw(st.integers(1, 20 * GIB)),
            "storage": draw(st.sampled_from(["file", "memory"])),
            "replicas": draw(st.sampled_from([r for r in (1, 3, 5) if r <= servers])),
            "placement": {"tags": draw(st.lists(st.sampled_from(TAGS), unique=True))},
        }
    return made


@pytest.mark.req("A1.12", "B3.2")
@given(st.data(), st.sampled_from(sizes.SERVERS))
def test_computed_servers_hold_every_stream_wherever_it_lands(data: st.DataObject, servers: int) -> None:
    tags = data.draw(st.lists(st.lists(st.sampled_from(TAGS), unique=True), min_size=servers, max_size=servers))
    made, on = plane(data.draw(streams(servers))), target(servers=servers, tags=tags)
    asked, found = sizes.demands(made, on), sizes.nats(made, on)
    stores: tuple[tuple[sizes.Storage, int], ...] = (("file", found.max_file_store), ("memory", found.max_memory_store))
    for storage, store in stores:
        assert sizes.misfits(asked, on, storage, store) == []
        for ordinal, own in enumerate(sizes.server_tags(on)):
            mine = [d for d in asked if d.storage == storage and ordinal in sizes.landing(d, sizes.server_tags(on))]
            assert sum(d.max_bytes for d in mine) < store, own
    assert found.storage > found.max_file_store
    assert found.memory >= sizes.memory_for(found.max_memory_store)


@pytest.mark.req("A1.12", "A2.6")
def test_buckets_and_object_stores_count_as_the_streams_that_they_are() -> None:
    made = plane(
        {"A": {"subjects": ["a"], "max_bytes": 5 * GIB}},
        bucket={"B": {"max_bytes": 3 * GIB, "max_value_size": 2 * MIB}},
        object_store={"C": {"max_bytes": 2 * GIB}},
    )
    found = sizes.nats(made, target(servers=1))
    assert found.max_file_store == (5 + 3 + 2 + 1 + 1) * GIB  # and our own bucket, and one to spare
    assert found.max_payload == 2 * MIB


@pytest.mark.parametrize(
    ("message", "payload"), [(None, MIB), (256 * 1024, MIB), (5 * MIB, 5 * MIB), (5 * MIB + 1, 6 * MIB)]
)
@pytest.mark.req("B3.2")
def test_the_largest_message_of_any_stream_fits_the_payload(message: int | None, payload: int) -> None:
    made = plane({"A": {"subjects": ["a"], "max_msg_size": message}, "B": {"subjects": ["b"], "max_msg_size": 100}})
    assert sizes.nats(made, target()).max_payload == payload
    assert sizes.nats(made, target(max_payload="8MiB")).max_payload == 8 * MIB


def test_what_a_target_declares_is_taken() -> None:
    given_ = {"storage": "100GiB", "memory": "12GiB"}
    on = target(given_, max_file_store="64GiB", max_memory_store="4GiB", max_payload="2MiB")
    assert sizes.nats(plane(), on) == sizes.Sizes(64 * GIB, 4 * GIB, 2 * MIB, 100 * GIB, 12 * GIB)


def test_a_stream_lies_in_one_piece_on_servers_that_have_its_tags() -> None:
    asked = [("a", 6, 1, ["ssd"]), ("b", 5, 1, ["SSD"]), ("c", 5, 1, ["ssd"]), ("d", 3, 3, [])]
    made = plane({
        name: {"subjects": [name], "max_bytes": size * GIB, "replicas": replicas, "placement": {"tags": tags}}
        for name, size, replicas, tags in asked
    })  # fmt: skip
    on = target(tags=[["ssd"], ["Ssd"], ["hdd"]])
    left_over = sizes.misfits(sizes.demands(made, on), on, "file", 10 * GIB)
    assert [(m.demand.record.address.name, m.wanted, m.fitting) for m in left_over] == [("c", 1, 0)]


@pytest.mark.req("A1.12", "A2.1", "A2.2", "A2.3", "A2.4", "B3.2")
def test_the_planes_own_servers_hold_its_streams_and_buckets(workspace: Workspace) -> None:
    on = workspace.document.targets["nats", "main"]
    found = sizes.nats(workspace.plane, on)
    replicated = 1 + 10 + 1 + 1 + 1 + 1  # AGENT_STATE, TASK_EXECUTION, its journal, and three buckets
    assert found.max_file_store >= replicated * GIB + 256 * MIB + sizes.OWN_BUCKET
    assert found.max_memory_store >= GIB + 100 * MIB
    assert found.max_payload == 8 * MIB
