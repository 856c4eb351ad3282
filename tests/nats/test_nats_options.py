"""Every option of streams, buckets, object stores and consumers: set, read back, drifted, taken away."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nats.nats_plane import Bench, Json

S = 10**9
#: Option -> (what specs say, further options it needs, what the server must show).
STREAM: dict[str, tuple[Any, Json, Any]] = {
    "description": ("why", {}, "why"),
    "subjects": (["a.>", "b"], {}, ["a.>", "b"]),
    "retention": ("workqueue", {}, "workqueue"),
    "storage": ("memory", {}, "memory"),
    "max_age": ("1.001s", {}, 1_001_000_000),
    "max_bytes": ("10MiB", {}, 10 * 2**20),
    "max_msgs": (10, {}, 10),
    "max_msgs_per_subject": (3, {}, 3),
    "max_msg_size": ("64KiB", {}, 65536),
    "max_consumers": (4, {}, 4),
    "placement": ({"cluster": "c", "tags": ["x", "y"]}, {}, {"cluster": "c", "tags": ["x", "y"]}),
    "discard": ("new", {}, "new"),
    "discard_new_per_subject": (True, {"discard": "new", "max_msgs_per_subject": 2}, True),
    "duplicate_window": ("1.001s", {}, 1_001_000_000),
    "no_ack": (True, {}, True),
    "sealed": (True, {}, True),
    "deny_delete": (True, {}, True),
    "deny_purge": (True, {}, True),
    "allow_rollup_hdrs": (True, {}, True),
    "allow_direct": (True, {}, True),
    "mirror_direct": (True, {"mirror": {"name": "NOT_HERE"}, "subjects": None}, True),
    "compression": ("s2", {}, "s2"),
    "first_seq": (7, {}, 7),
    "subject_transform": ({"src": "a.*", "dest": "a.x.{{wildcard(1)}}"}, {},
                          {"src": "a.*", "dest": "a.x.{{wildcard(1)}}"}),
    "republish": ({"src": "a.>", "dest": "copy.>", "headers_only": True}, {},
                  {"src": "a.>", "dest": "copy.>", "headers_only": True}),
    "mirror": ({"name": "ORIGIN", "opt_start_time": "2026-01-01T02:00:00.5+02:00", "filter_subject": "x.>"},
               {"subjects": None},
               {"name": "ORIGIN", "opt_start_time": "2026-01-01T00:00:00.5Z", "filter_subject": "x.>"}),
    "sources": ([{"name": "ONE", "opt_start_seq": 5},
                 {"name": "TWO", "external": {"api": "$JS.other.API", "deliver": "d"},
                  "subject_transforms": [{"src": "x.>", "dest": "y.>"}]}], {},
                [{"name": "ONE", "opt_start_seq": 5},
                 {"name": "TWO", "external": {"api": "$JS.other.API", "deliver": "d"},
                  "subject_transforms": [{"src": "x.>", "dest": "y.>"}]}]),
    "consumer_limits": ({"inactive_threshold": "1m", "max_ack_pending": 5}, {},
                        {"inactive_threshold": 60 * S, "max_ack_pending": 5}),
    "allow_msg_ttl": (True, {}, True),
    "subject_delete_marker_ttl": ("5s", {}, 5 * S),
    "allow_msg_counter": (True, {}, True),
    "allow_atomic": (True, {}, True),
    "allow_batched": (True, {}, True),
    "allow_msg_schedules": (True, {}, True),
    "persist_mode": ("async", {}, "async"),
    "metadata": ({"team": "x"}, {}, "x"),
}  # fmt: skip
CONSUMER: dict[str, tuple[Any, Json, Any]] = {
    "description": ("why", {}, "why"),
    "deliver_policy": ("new", {}, "new"),
    "opt_start_seq": (3, {"deliver_policy": "by_start_sequence"}, 3),
    "opt_start_time": ("2026-01-01T00:00:00.25Z", {"deliver_policy": "by_start_time"}, "2026-01-01T00:00:00.25Z"),
    "ack_policy": ("explicit", {}, "explicit"),
    "ack_wait": ("1.001s", {"ack_policy": "explicit"}, 1_001_000_000),
    "max_deliver": (3, {"ack_policy": "explicit"}, 3),
    "backoff": (["1s", "5s"], {"ack_policy": "explicit", "max_deliver": 4}, [S, 5 * S]),
    "filter_subject": ("a.b", {}, "a.b"),
    "filter_subjects": (["a.b", "a.c"], {}, ["a.b", "a.c"]),
    "replay_policy": ("original", {}, "original"),
    "rate_limit_bps": (8000, {"deliver_subject": "push"}, 8000),
    "sample_freq": ("50%", {"ack_policy": "explicit"}, "50"),
    "max_waiting": (64, {}, 64),
    "max_ack_pending": (7, {"ack_policy": "explicit"}, 7),
    "headers_only": (True, {}, True),
    "max_batch": (10, {}, 10),
    "max_expires": ("30s", {}, 30 * S),
    "max_bytes": ("64KiB", {}, 65536),
    "inactive_threshold": ("90s", {}, 90 * S),
    "replicas": (1, {}, 1),
    "mem_storage": (True, {}, True),
    "deliver_subject": ("push", {}, "push"),
    "deliver_group": ("g", {"deliver_subject": "push"}, "g"),
    "idle_heartbeat": ("1s", {"deliver_subject": "push"}, S),
    "flow_control": (True, {"deliver_subject": "push", "idle_heartbeat": "1s"}, True),
    "priority_policy": ("overflow", {"priority_groups": ["g"], "ack_policy": "explicit"}, "overflow"),
    "priority_groups": (["g"], {"priority_policy": "prioritized", "ack_policy": "explicit"}, ["g"]),
    "priority_timeout": ("30s", {"priority_policy": "pinned_client", "priority_groups": ["g"],
                                 "ack_policy": "explicit"}, 30 * S),
    "pause_until": ("2030-01-01T00:00:00Z", {}, "2030-01-01T00:00:00Z"),
    "metadata": ({"team": "x"}, {}, "x"),
}  # fmt: skip
BUCKET: dict[str, tuple[Any, str, Any]] = {
    "description": ("why", "description", "why"),
    "ttl": ("30m", "max_age", 1800 * S),
    "history": (5, "max_msgs_per_subject", 5),
    "max_bytes": ("10MiB", "max_bytes", 10 * 2**20),
    "max_value_size": ("64KiB", "max_msg_size", 65536),
    "storage": ("memory", "storage", "memory"),
    "placement": ({"cluster": "c"}, "placement", {"cluster": "c"}),
    "republish": ({"src": "$KV.B.>", "dest": "copy.>"}, "republish", {"src": "$KV.B.>", "dest": "copy.>"}),
    "mirror": ({"name": "ORIGIN"}, "mirror", {"name": "KV_ORIGIN"}),
    "sources": ([{"name": "ORIGIN"}], "sources",
                [{"name": "KV_ORIGIN", "subject_transforms": [{"src": "$KV.ORIGIN.>", "dest": "$KV.B.>"}]}]),
    "compression": ("s2", "compression", "s2"),
    "limit_marker_ttl": ("1m", "subject_delete_marker_ttl", 60 * S),
    "allow_msg_ttl": (True, "allow_msg_ttl", True),
    "allow_direct": (False, "allow_direct", False),
    "allow_rollup_hdrs": (False, "allow_rollup_hdrs", False),
    "metadata": ({"team": "x"}, "metadata", "x"),
    "stream": ({"max_msgs": 5, "deny_purge": False}, "max_msgs", 5),
}  # fmt: skip
OBJECT_STORE: dict[str, tuple[Any, str, Any]] = {
    "description": ("why", "description", "why"),
    "ttl": ("1.001s", "max_age", 1_001_000_000),
    "max_bytes": ("10MiB", "max_bytes", 10 * 2**20),
    "storage": ("memory", "storage", "memory"),
    "placement": ({"tags": ["x"]}, "placement", {"tags": ["x"]}),
    "compression": ("s2", "compression", "s2"),
    "metadata": ({"team": "x"}, "metadata", "x"),
    "stream": ({"duplicate_window": "30s"}, "duplicate_window", 30 * S),
}


def _shown(config: Json, key: str) -> Any:
    return config["metadata"]["team"] if key == "metadata" else config[key]


def test_every_option_of_the_field_tables_has_a_case() -> None:
    from provision.nats.kinds import bucket, consumer, object_store, stream_fields
    from provision.nats.kinds.wire import note_of

    tables: tuple[tuple[Any, Any], ...] = (
        (stream_fields.OPTIONS, STREAM), (consumer.FIELDS, CONSUMER), (bucket.FIELDS, BUCKET),
        (object_store.FIELDS, OBJECT_STORE),
    )  # fmt: skip
    for table, cases in tables:
        options = {f.name for f in table if not note_of(f).local}
        assert options - set(cases) <= {"replicas"}  # needs a cluster: test_nats_cluster.py


@pytest.mark.parametrize("option", STREAM)
@pytest.mark.req("A2.7", "B2.2")
def test_a_stream_option_is_set_found_equal_and_taken_back(plane: Bench, option: str) -> None:
    value, further, shown = STREAM[option]
    body = {"subjects": ["a.>"], **further, option: value}
    document = {"streams": {"S": body}}
    plane.apply(document)
    assert _shown(plane.config("S"), option) == shown
    without = {k: v for k, v in body.items() if k != option}
    if option != "mirror_direct":  # where nothing is said, the server's word counts
        assert option in plane.differing({"streams": {"S": without}})["stream/S"]
    plane.apply({"streams": {"S": without}})
    fresh = {"name": "FRESH", "subjects": ["fresh.>"]}
    default = plane.api("STREAM.CREATE.FRESH", fresh)["config"]
    if option not in ("metadata", "subjects", "mirror", "mirror_direct"):
        assert plane.config("S").get(option) == default.get(option)


@pytest.mark.parametrize("option", CONSUMER)
@pytest.mark.req("B2.2")
def test_a_consumer_option_is_set_found_equal_and_taken_back(plane: Bench, option: str) -> None:
    value, further, shown = CONSUMER[option]
    body = {**further, option: value}

    def document(consumer: Json) -> Json:
        return {"streams": {"S": {"subjects": ["a.>"], "consumers": {"C": consumer}}}}

    plane.apply(document(body))
    wire = "num_replicas" if option == "replicas" else option
    assert _shown(plane.config("S", "C"), wire) == shown
    plane.apply(document({}))
    default = plane.api("CONSUMER.CREATE.S.D", {
        "stream_name": "S", "config": {"durable_name": "D", "name": "D"}, "action": "create",
    })["config"]  # fmt: skip
    if option != "metadata":
        assert plane.config("S", "C").get(wire) == default.get(wire)


@pytest.mark.parametrize("option", BUCKET)
@pytest.mark.req("A2.7", "B2.2")
def test_a_bucket_option_is_set_found_equal_and_taken_back(plane: Bench, option: str) -> None:
    value, wire, shown = BUCKET[option]
    plane.apply({"buckets": {"B": {option: value}}})
    assert _shown(plane.config("KV_B"), wire) == shown
    plane.apply({"buckets": {"B": {}}})
    plane.apply({"buckets": {"B": {}, "FRESH": {}}})
    if option not in ("metadata", "mirror", "sources"):
        assert plane.config("KV_B").get(wire) == plane.config("KV_FRESH").get(wire)


@pytest.mark.parametrize("option", OBJECT_STORE)
def test_an_object_store_option_is_set_found_equal_and_taken_back(plane: Bench, option: str) -> None:
    value, wire, shown = OBJECT_STORE[option]
    plane.apply({"object_stores": {"O": {option: value}}})
    assert _shown(plane.config("OBJ_O"), wire) == shown
    plane.apply({"object_stores": {"O": {}}})
    plane.apply({"object_stores": {"O": {}, "FRESH": {}}})
    if option != "metadata":
        assert plane.config("OBJ_O").get(wire) == plane.config("OBJ_FRESH").get(wire)


def test_every_key_that_the_server_shows_is_modelled(plane: Bench) -> None:
    streams: Json = {}
    for index, (option, (value, further, _)) in enumerate(STREAM.items()):
        own = {"subjects": [f"s{index}.>"], **further, option: value}
        if option in ("subjects", "subject_transform", "republish"):
            own[option] = {
                "subjects": [f"s{index}.>"],
                "subject_transform": {"src": f"s{index}.*", "dest": f"s{index}.x"},
                "republish": {"src": f"s{index}.>", "dest": "copy.>"},
            }[option]
        streams[f"S{index}"] = own
    consumers = {f"C{i}": {**further, o: value} for i, (o, (value, further, _)) in enumerate(CONSUMER.items())}
    for name, own in consumers.items():
        if "deliver_subject" in own:
            own["deliver_subject"] = f"push.{name}"
    streams["WITH"] = {"subjects": ["a.>"], "consumers": consumers}
    plane.apply({"streams": streams})
    assert plane.observe().unmodelled == []


def test_what_a_newer_server_shows_is_reported_and_sent_back(plane: Bench) -> None:
    from provision.nats.kinds import stream
    from provision.nats.kinds.wire import restore

    config = {"name": "S", "subjects": ["a"], "new_option": {"x": 1}, "mirror": {"name": "M", "newer": True}}
    settings, unmodelled = stream.KIND.unwire("S", config)
    assert unmodelled == {"new_option": {"x": 1}, "mirror.newer": True}
    assert restore(stream.KIND.wire("S", settings), unmodelled) == config
