"""Three servers with tags: replicas, placement, and changes that take time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.embedded import nats
from provision.nats.errors import ApiError
from provision.nats.ledger import Ledger
from tests.nats.nats_plane import Bench, Json, bench

TAGS = (("agent-state", "messaging", "one"), ("agent-state", "messaging"), ("agent-state", "messaging"))


@pytest.fixture(scope="module")
def cluster(server_root: Path) -> Iterator[nats.Cluster]:
    found = nats.Cluster(server_root / "cluster", tags=TAGS, config={"jetstream": {"sync_interval": "1m"}})
    with found:
        yield found


@pytest.fixture
def clustered(cluster: nats.Cluster) -> Iterator[Bench]:
    with bench(cluster.urls[0]) as plane:
        for name in plane.api("STREAM.NAMES", {})["streams"] or []:
            plane.api(f"STREAM.DELETE.{name}")
        yield plane


def document(replicas: int, **placement: object) -> Json:
    body = {"subjects": ["a.>"], "replicas": replicas, "consumers": {"C": {"ack_policy": "explicit"}}}
    return {"streams": {"S": {**body, "placement": placement or None}}}


@pytest.mark.req("A1.3", "A2.2")
def test_replicas_and_placement_are_there_when_apply_returns(clustered: Bench) -> None:
    bucket = {"ttl": "30m", "history": 5, "replicas": 3, "compression": "s2",
              "placement": {"cluster": "nats-cluster", "tags": ["agent-state"]}}  # fmt: skip
    clustered.apply({**document(3, cluster="nats-cluster", tags=["agent-state"]), "buckets": {"B": bucket}})
    for name in ("S", "KV_B"):
        info = clustered.api(f"STREAM.INFO.{name}")
        assert info["config"]["num_replicas"] == 3
        assert info["config"]["placement"] == {"cluster": "nats-cluster", "tags": ["agent-state"]}
        assert [r["current"] for r in info["cluster"]["replicas"]] == [True, True]


@pytest.mark.req("A1.12")
def test_a_placement_that_no_server_meets_is_refused_with_the_reason(clustered: Bench) -> None:
    with pytest.raises(ApiError) as error:
        clustered.apply(document(3, tags=["nowhere"]))
    assert error.value.err_code == 10005
    assert "server tags" in error.value.help


def test_replicas_and_placement_change_in_two_steps(clustered: Bench) -> None:
    clustered.apply(document(1, tags=["one"]))
    clustered.publish("a.1", 20)
    grown = document(3, tags=["messaging"])
    assert clustered.actions(grown) == ["stream/S#update.placement", "stream/S#update"]
    clustered.apply(grown)
    info = clustered.api("STREAM.INFO.S")
    assert len(info["cluster"]["replicas"]) == 2
    shrunk = document(1, tags=["one"])
    assert clustered.actions(shrunk) == ["stream/S#update.replicas", "stream/S#update"]
    clustered.apply(shrunk)
    info = clustered.api("STREAM.INFO.S")
    assert info["cluster"]["leader"] == "nats-cluster-0"
    assert info["state"]["messages"] == 20


def test_the_ledger_is_replicated_where_the_cluster_allows_it(clustered: Bench) -> None:
    Ledger(clustered.session, "agents", "test").write({})
    assert clustered.config("KV_HOLDFAST")["num_replicas"] == 3


def test_facts_name_the_cluster(clustered: Bench) -> None:
    facts = clustered.observe().facts
    assert facts.options["cluster"] == "nats-cluster"
    assert "servers" not in facts.options or facts.options["servers"] == 3
