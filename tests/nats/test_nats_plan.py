"""What a plan says and does to live streams: in place, recreated, what it would delete, in which order."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from provision.nats import apply
from tests.nats.nats_plane import Bench, Json, address

S: Json = {"subjects": ["a.>"]}


def hazards(plane: Bench, document: Json) -> list[tuple[str, int | None]]:
    """(kind, counted messages) of every hazard of a plan."""
    steps = plane.plan(document).steps
    return [(h.kind, apply.count(plane.session, h.probe or {})) for step in steps for h in step.hazards]


def streams(**changed: Any) -> Json:
    return {"streams": {"S": {**S, **changed}}}


@pytest.mark.req("B2.2")
@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ({}, {"max_msgs": 3}, 7),
        ({}, {"max_msgs_per_subject": 1}, 8),
        ({}, {"max_age": "100ms"}, 10),
        ({}, {"max_age": "1h"}, 0),
        ({}, {"retention": "interest"}, 10),
        ({"discard": "new", "max_msgs": 10}, {"discard": "old", "max_msgs": 4}, 6),
    ],
)
def test_a_plan_counts_what_a_tighter_limit_deletes(plane: Bench, before: Json, after: Json, lost: int) -> None:
    plane.apply(streams(**before))
    plane.publish("a.1", 5)
    plane.publish("a.2", 5)
    time.sleep(0.15)
    assert hazards(plane, streams(**after)) == [("data_loss", lost)]
    plane.apply(streams(**after))
    deadline = time.monotonic() + 5
    while plane.messages("S") != 10 - lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert plane.messages("S") == 10 - lost


def test_a_lower_byte_limit_is_counted_about_right(plane: Bench) -> None:
    plane.apply(streams())
    plane.publish("a.1", 100, b"x" * 1000)
    half = plane.api("STREAM.INFO.S")["state"]["bytes"] // 2
    ((kind, lost),) = hazards(plane, streams(max_bytes=half))
    plane.apply(streams(max_bytes=half))
    assert kind == "data_loss"
    assert lost == 100 - plane.messages("S")


def test_a_tighter_limit_with_discard_new_deletes_nothing_and_says_nothing(plane: Bench) -> None:
    plane.apply(streams(discard="new"))
    plane.publish("a.1", 5)
    assert hazards(plane, streams(discard="new", max_msgs=2)) == []
    plane.apply(streams(discard="new", max_msgs=2))
    assert plane.messages("S") == 5


def test_wider_limits_are_no_hazard(plane: Bench) -> None:
    plane.apply(streams(max_msgs=5, max_age="1h"))
    assert hazards(plane, streams(max_msgs=6)) == []


@pytest.mark.req("A1.13")
def test_an_immutable_option_recreates_the_stream_and_its_consumers_with_counted_loss(plane: Bench) -> None:
    consumers = {"consumers": {"C": {"ack_policy": "explicit"}, "D": {}}}
    plane.apply(streams(**consumers))
    plane.publish("a.1", 4)
    changed = streams(storage="memory", consumers={"C": {"ack_policy": "explicit"}})
    assert plane.actions(changed) == ["stream/S#replace.drop", "stream/S#create", "stream/S/consumer/C#create"]
    assert hazards(plane, changed) == [("data_loss", 4)]
    plane.apply(changed)
    assert plane.config("S")["storage"] == "memory"
    assert plane.api("CONSUMER.NAMES.S", {})["consumers"] == ["C"]
    assert sorted(plane.ledger.entries) == ["nats:main/stream/S", "nats:main/stream/S/consumer/C"]


@pytest.mark.req("A3.9")
def test_a_consumer_whose_start_changes_is_recreated_with_consent(plane: Bench) -> None:
    def document(policy: str) -> Json:
        return streams(consumers={"C": {"ack_policy": "explicit", "deliver_policy": policy}})

    plane.apply(document("all"))
    plane.publish("a.1", 3)
    changed = document("new")
    assert plane.actions(changed) == ["stream/S/consumer/C#replace.drop", "stream/S/consumer/C#create"]
    assert hazards(plane, changed) == [("data_loss", 3)]
    plane.apply(changed)
    assert plane.config("S", "C")["deliver_policy"] == "new"
    assert [h for h, _ in hazards(plane, document("all"))] == ["downtime"]


def test_deleting_a_stream_takes_its_consumers_and_asks_first(plane: Bench) -> None:
    plane.apply(streams(consumers={"C": {}}))
    plane.publish("a.1", 2)
    assert plane.actions({}) == ["stream/S#delete"]
    assert hazards(plane, {}) == [("data_loss", 2)]
    plane.apply({})
    assert plane.ledger.entries == {}


def test_the_last_consumer_of_an_interest_stream_counts_what_waits_for_it(plane: Bench) -> None:
    plane.apply(streams(retention="interest", consumers={"C": {"ack_policy": "explicit"}}))
    plane.publish("a.1", 6)
    assert hazards(plane, streams(retention="interest")) == [("data_loss", 6)]


def test_a_pause_goes_through_its_own_request(plane: Bench) -> None:
    def document(**pause: str) -> Json:
        return streams(consumers={"C": {"description": "x", **pause}})

    plane.apply(document())
    assert [s.request.subject for s in plane.plan(document(pause_until="2030-01-01T00:00:00Z")).steps] == [  # type: ignore[union-attr]
        "$JS.API.CONSUMER.PAUSE.S.C"
    ]
    plane.apply(document(pause_until="2030-01-01T00:00:00Z"))
    assert plane.api("CONSUMER.INFO.S.C")["paused"] is True
    changed = streams(consumers={"C": {"description": "y", "pause_until": "2030-01-01T00:00:00Z"}})
    plane.apply(changed)
    assert plane.api("CONSUMER.INFO.S.C")["paused"] is True
    plane.apply(document())
    assert plane.api("CONSUMER.INFO.S.C").get("paused", False) is False


def test_a_pause_that_is_over_is_no_difference(plane: Bench) -> None:
    plane.apply(streams(consumers={"C": {}}))
    assert plane.actions(streams(consumers={"C": {"pause_until": "2026-01-01T00:00:00Z"}})) == []


@pytest.mark.req("B2.4")
def test_two_streams_exchange_their_subjects(plane: Bench) -> None:
    def document(x: list[str], y: list[str]) -> Json:
        return {"streams": {"X": {"subjects": x}, "Y": {"subjects": y}}}

    plane.apply(document(["one", "x"], ["two", "y"]))
    plane.apply(document(["two", "x"], ["one", "y"]))
    assert plane.config("X")["subjects"] == ["two", "x"]


def test_a_new_stream_takes_over_the_subjects_of_a_deleted_one(plane: Bench) -> None:
    plane.apply({"streams": {"Z": {"subjects": ["jobs.>"]}}})
    plane.apply({"streams": {"A": {"subjects": ["jobs.*"]}}})
    assert plane.config("A")["subjects"] == ["jobs.*"]


def test_work_queue_consumers_hand_a_filter_over(plane: Bench) -> None:
    def document(a: str, b: str) -> Json:
        common = {"ack_policy": "explicit"}
        return streams(
            retention="workqueue",
            consumers={"A": {**common, "filter_subject": a}, "B": {**common, "filter_subject": b}},
        )

    plane.apply(document("a.1", "a.2"))
    plane.apply(document("a.2", "a.3"))
    assert plane.config("S", "A")["filter_subject"] == "a.2"


def test_a_mirror_is_promoted_in_place_and_recreated_with_its_origin(plane: Bench) -> None:
    origin = {"subjects": ["o.>"], "allow_direct": True}
    mirrored = {"streams": {"O": origin, "M": {"mirror": {"name": "O"}}}}
    plane.apply(mirrored)
    plane.publish("o.1", 3)
    assert plane.config("M")["mirror_direct"] is True
    recreated = {"streams": {"O": {**origin, "storage": "memory"}, "M": {"mirror": {"name": "O"}}}}
    assert "stream/M#replace.drop" in plane.actions(recreated)
    plane.apply(recreated)
    promoted = {"streams": {"O": {**origin, "storage": "memory"}, "M": {"subjects": ["m.>"]}}}
    assert plane.actions(promoted) == ["stream/M#update"]
    plane.apply(promoted)


def test_a_journal_outlives_the_recreation_of_its_bucket(plane: Bench) -> None:
    journal = {"subjects": None, "retention": "workqueue", "sources": [{"name": "KV_B"}]}
    plane.apply({"buckets": {"B": {}}, "streams": {"J": journal}})
    changed = {"buckets": {"B": {"storage": "memory"}}, "streams": {"J": journal}}
    assert not any("stream/J" in action for action in plane.actions(changed))


@pytest.mark.req("B2.2")
def test_drift_made_with_raw_requests_is_named_and_mended(plane: Bench) -> None:
    document = {
        "streams": {"S": {**S, "max_age": "1h", "consumers": {"C": {"ack_policy": "explicit"}}}},
        "buckets": {"B": {"history": 5}},
    }
    plane.apply(document)
    config = plane.config("S")
    plane.api("STREAM.UPDATE.S", {**config, "max_age": 5 * 10**9, "duplicate_window": 10**9, "no_ack": True})
    kept = plane.config("S", "C")
    body = {"stream_name": "S", "config": {**kept, "ack_wait": 10**9}, "action": "update"}
    plane.api("CONSUMER.CREATE.S.C", body)
    plane.api("STREAM.UPDATE.KV_B", {**plane.config("KV_B"), "max_msgs_per_subject": 9, "discard": "old"})
    assert plane.differing(document) == {
        "stream/S": ["max_age", "duplicate_window", "no_ack"],
        "stream/S/consumer/C": ["ack_wait"],
        "bucket/B": ["history", "stream"],
    }
    plane.apply(document)
    assert plane.config("S") == config


def test_lists_that_mean_the_same_in_any_order_are_no_difference(plane: Bench) -> None:
    def document(turn: int) -> Json:
        order = slice(None, None, turn)
        return {"streams": {"S": {
            "subjects": ["a.>", "b.>"][order], "placement": {"tags": ["x", "y"][order]},
            "sources": [{"name": "ONE"}, {"name": "TWO"}][order],
            "consumers": {"C": {"filter_subjects": ["a.1", "b.1"][order]}},
        }}}  # fmt: skip

    plane.apply(document(1))
    assert plane.plan(document(-1)).steps == ()


def test_a_lost_consumer_comes_back(plane: Bench) -> None:
    document = streams(consumers={"C": {}})
    plane.apply(document)
    plane.api("CONSUMER.DELETE.S.C")
    assert plane.actions(document) == ["stream/S/consumer/C#create"]
    plane.apply(document)


@pytest.mark.req("A3.5")
def test_templates_and_ephemeral_consumers_of_clients_leave_no_trace(plane: Bench) -> None:
    document = streams(templates={"monitor": {"deliver_policy": "last", "ack_policy": "none"}})
    plane.apply(document)
    ephemeral = {"stream_name": "S", "config": {"name": "passing", "inactive_threshold": 60 * 10**9}}
    plane.api("CONSUMER.CREATE.S.passing", ephemeral)
    assert plane.plan(document).drift == ()
    assert plane.api("CONSUMER.NAMES.S", {})["consumers"] == ["passing"]


def test_the_objects_carry_their_plane_and_another_planes_are_named(plane: Bench) -> None:
    plane.apply({"streams": {"S": S}})
    assert plane.config("S")["metadata"]["holdfast_plane"] == "agents"
    plane.api("STREAM.CREATE.T", {"name": "T", "subjects": ["t"], "metadata": {"holdfast_plane": "other"}})
    assert plane.observe().foreign == {address("stream", "T"): "other"}


def test_an_update_sends_back_what_we_do_not_know(plane: Bench) -> None:
    from provision.nats import observe

    plane.apply({"streams": {"S": S}})
    raw = observe.read(plane.session)
    raw.streams["S"]["from_the_future"] = {"x": 1}
    seen = observe.decode(raw, "main", plane="agents")
    assert seen.unmodelled == [(address("stream", "S"), "from_the_future", {"x": 1})]
    plane.observe = lambda: seen  # type: ignore[method-assign]
    (step,) = plane.plan(streams(description="new")).steps
    body = json.loads(json.dumps(step.request.body))  # type: ignore[union-attr]
    assert body["from_the_future"] == {"x": 1}
    assert body["metadata"] == {"holdfast_plane": "agents"}
