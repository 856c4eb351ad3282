"""Every option that nats-server shows of a stream or consumer, drifted from outside: named, mended, gone.

The list of options is the server's: what it returns of fully set objects.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from provision.embedded import nats
from provision.plan.consents import required
from provision.spec.errors import ConsentError
from tests.live.drift_bed import Bed, Json, Raw, raw
from tests.live.nats_drift import (
    BUCKET_WORDS,
    CONSUMER,
    STORE_WORDS,
    STREAM,
    Row,
    drift_consumer,
    drift_stream,
    flatten,
    without_servers_own,
)

S = 10**9
#: Streams that together set everything; some options exclude each other.
FULL_STREAMS: tuple[Json, ...] = (
    {
        "description": "d", "subjects": ["full.>"], "retention": "limits", "max_consumers": 5, "max_msgs": 10,
        "max_bytes": 10**6, "max_age": 10**12, "max_msgs_per_subject": 3, "max_msg_size": 1000, "discard": "new",
        "discard_new_per_subject": True, "storage": "file", "num_replicas": 1, "no_ack": True,
        "duplicate_window": S, "placement": {"cluster": "c", "tags": ["t"]},
        "sources": [
            {"name": "O", "opt_start_seq": 3, "filter_subject": "a.>",
             "external": {"api": "$JS.x.API", "deliver": "d"}},
            {"name": "P", "opt_start_time": "2026-01-01T00:00:00Z",
             "subject_transforms": [{"src": "a.>", "dest": "b.>"}]},
            {"name": "Q", "consumer": {"name": "cc", "deliver_subject": "ds"}},
        ],
        "compression": "s2", "first_seq": 7, "subject_transform": {"src": "full.>", "dest": "fuller.>"},
        "republish": {"src": "fuller.>", "dest": "copy.>", "headers_only": True}, "allow_direct": True,
        "deny_delete": True, "deny_purge": True, "consumer_limits": {"inactive_threshold": S, "max_ack_pending": 4},
        "allow_msg_ttl": True, "metadata": {"team": "b", "holdfast_plane": "p"}, "allow_atomic": True,
        "allow_batched": True,
    },
    {"mirror": {"name": "O", "opt_start_seq": 3, "external": {"api": "$JS.x.API", "deliver": "d"},
                "subject_transforms": [{"src": "a.>", "dest": "b.>"}]}, "mirror_direct": True},
    {"mirror": {"name": "O", "opt_start_time": "2026-01-01T00:00:00Z", "filter_subject": "a.>"}},
    {"mirror": {"name": "O", "consumer": {"name": "cc", "deliver_subject": "ds"}}},
    {"subjects": ["counted.>"], "allow_msg_counter": True, "allow_direct": True},
    {"subjects": ["scheduled.>"], "allow_msg_schedules": True, "subject_delete_marker_ttl": S},
    {"subjects": ["quick.>"], "persist_mode": "async"},
)  # fmt: skip
FULL_CONSUMERS: tuple[Json, ...] = (
    {
        "description": "d", "deliver_policy": "by_start_sequence", "opt_start_seq": 3, "ack_policy": "explicit",
        "max_deliver": 4, "backoff": [S, 2 * S], "filter_subjects": ["c.a", "c.b"], "replay_policy": "original",
        "sample_freq": "50", "max_waiting": 5, "max_ack_pending": 6, "headers_only": True, "max_batch": 5,
        "max_expires": S, "max_bytes": 1000, "inactive_threshold": 10**12, "num_replicas": 1, "mem_storage": True,
        "metadata": {"team": "b", "holdfast_plane": "p"}, "pause_until": "2090-01-01T00:00:00Z",
        "priority_groups": ["g"], "priority_policy": "pinned_client", "priority_timeout": 10 * S,
    },
    {
        "deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00Z", "ack_policy": "explicit",
        "ack_wait": S, "filter_subject": "c.x", "rate_limit_bps": 8000, "deliver_subject": "push",
        "deliver_group": "g", "idle_heartbeat": S, "flow_control": True,
    },
)  # fmt: skip
#: Drifted on a cluster: test_cluster.py.
CLUSTERED = frozenset({"num_replicas"})
ORIGIN = {"ORIGIN": {"subjects": ["a.>", "b.>", "c.>"]}}


@pytest.fixture(scope="module")
def server(server_root: Path) -> Iterator[nats.Server]:
    """A server of our own: others empty theirs between tests."""
    with nats.Server(server_root / "nats-drift", config={"jetstream": {"sync_interval": "1m"}}) as found:
        yield found


@pytest.fixture
def link(server: nats.Server) -> Iterator[Raw]:
    with raw(server.url) as found:
        for name in found.do("STREAM.NAMES", {})["streams"] or ():
            found.do(f"STREAM.DELETE.{name}")
        yield found


@pytest.fixture
def bed(tmp_path: Path, server: nats.Server, link: Raw) -> Bed:
    return Bed(tmp_path, {"nats": {"main": {"kind": "external", "urls": [server.url]}}})


def shown_streams(link: Raw, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for body in FULL_STREAMS:
        name = f"{prefix}{uuid4().hex[:8]}"
        config = link.do(f"STREAM.CREATE.{name}", {"name": name, **body})["config"]
        keys |= {key for key, _ in flatten(config)}
        link.do(f"STREAM.DELETE.{name}")
    return keys


@pytest.mark.parametrize("prefix", ["", "KV_", "OBJ_"])
def test_every_key_of_a_stream_has_a_row(link: Raw, prefix: str) -> None:
    assert shown_streams(link, prefix) == set(STREAM)


def test_every_key_of_a_consumer_has_a_row(link: Raw) -> None:
    link.do("STREAM.CREATE.C", {"name": "C", "subjects": ["c.>"]})
    keys: set[str] = set()
    for number, body in enumerate(FULL_CONSUMERS):
        name = f"c{number}"
        request = {"stream_name": "C", "config": {"name": name, "durable_name": name, **body}, "action": "create"}
        subject = ".".join(["CONSUMER.CREATE.C", name, *([body["filter_subject"]] if "filter_subject" in body else [])])
        keys |= {key for key, _ in flatten(link.do(subject, request)["config"])}
    assert keys == set(CONSUMER)


def word(key: str, row: Row) -> str:
    return row.option or re.split(r"[.\[]", key)[0]


def object_name(key: str) -> str:
    return re.sub(r"\W+", "_", key)


def check_cycle(
    bed: Bed, link: Raw, rows: Mapping[str, Row], address: Callable[[str], str], real: Callable[[str], tuple[str, ...]],
    told: Callable[[str], str],
) -> None:  # fmt: skip
    """Apply what is declared, drift every row, and see each one named alone, mended and gone."""
    bed.mend()
    before = {key: link.config(*real(key)) for key in rows}
    for key, row in rows.items():
        stream, *consumer = real(key)
        if consumer:
            drift_consumer(link, stream, consumer[0], key, row)
        else:
            drift_stream(link, stream, key, row)
    named = bed.named()
    unnamed = {key: named.get(address(key)) for key in rows if not _tells(named.get(address(key)), told(key))}
    assert unnamed == {}
    bed.mend()
    after = {key: link.config(*real(key)) for key in rows}
    unmended = {
        key: (before[key], after[key])
        for key in rows
        if without_servers_own(before[key]) != without_servers_own(after[key])
    }
    assert unmended == {}


def _tells(fields: Json | None, option: str) -> bool:
    """Whether the difference names the option; an inner one is named inside ``stream``."""
    outer, _, inner = option.partition(".")
    if fields is None or outer not in fields:
        return False
    sides = fields[outer]
    return not inner or any(inner in (side or {}) for side in sides.values())


STREAM_ROWS = {k: r for k, r in STREAM.items() if isinstance(r, Row) and k not in CLUSTERED}
CONSUMER_ROWS = {k: r for k, r in CONSUMER.items() if isinstance(r, Row)}


@pytest.mark.req("B2.2")
def test_every_option_of_a_stream_is_named_and_mended(bed: Bed, link: Raw) -> None:
    streams: Json = dict(ORIGIN)
    for key, row in STREAM_ROWS.items():
        name = f"S_{object_name(key)}"
        body = row.body if "mirror" in row.body else {"subjects": [f"{name}.>"], **row.body}
        streams[name] = body
    bed.declare({"streams": streams})
    check_cycle(
        bed, link, STREAM_ROWS, lambda key: f"nats:main/stream/S_{object_name(key)}",
        lambda key: (f"S_{object_name(key)}",), lambda key: word(key, STREAM_ROWS[key]),
    )  # fmt: skip


def _backed(words: Mapping[str, str], body: Json) -> Json:
    """A stream's options as those of a bucket or object store: by its own words, the others under ``stream``."""
    named = {words[key]: value for key, value in body.items() if key in words}
    rest = {key: value for key, value in body.items() if key not in words}
    return named | ({"stream": rest} if rest else {})


@pytest.mark.req("B2.2")
@pytest.mark.parametrize(
    ("section", "kind", "prefix", "words"),
    [("buckets", "bucket", "KV_", BUCKET_WORDS), ("object_stores", "object_store", "OBJ_", STORE_WORDS)],
)
def test_every_option_of_a_backed_stream_is_named_and_mended(
    bed: Bed, link: Raw, section: str, kind: str, prefix: str, words: Mapping[str, str]
) -> None:
    rows = {key: _of_keys(row) if kind == "bucket" else _unmirrored(row) for key, row in STREAM_ROWS.items()}
    bed.declare({section: {
        **({"ORIGIN": {}} if kind == "bucket" else {}),
        **{object_name(key): _backed(words, row.body) for key, row in rows.items()},
    }})  # fmt: skip

    def told(key: str) -> str:
        option = word(key, rows[key])
        return words.get(option, f"stream.{option}")

    check_cycle(
        bed, link, rows, lambda key: f"nats:main/{kind}/{object_name(key)}",
        lambda key: (prefix + object_name(key),), told,
    )  # fmt: skip


def _of_keys(row: Row) -> Row:
    """The same drift where the origin is a bucket: its name and subjects are those of keys."""
    text = json.dumps([row.body, row.to])
    for subject in "abc":
        text = text.replace(f'"{subject}.>"', f'"$KV.ORIGIN.{subject}.>"')
    body, to = json.loads(text)
    raw_to = json.loads(
        json.dumps(to).replace('"name": "ORIGIN"', '"name": "KV_ORIGIN"').replace('"OTHER"', '"KV_OTHER"')
    )
    return Row(body, tuple(raw_to), row.option)


def _unmirrored(row: Row) -> Row:
    """No object store is declared as a mirror; from outside it can become one."""
    if "mirror" not in row.body:
        return row
    return Row({}, ({**row.body, "subjects": []},), "mirror")  # without one, mirror_direct cannot be set


@pytest.mark.req("B2.2")
def test_every_option_of_a_consumer_is_named_and_mended(bed: Bed, link: Raw) -> None:
    consumers = {object_name(key): {"dead_letter": "none", **row.body} for key, row in CONSUMER_ROWS.items()}
    bed.declare({"streams": {"C": {"subjects": ["c.>"], "consumers": consumers}}})
    check_cycle(
        bed, link, CONSUMER_ROWS, lambda key: f"nats:main/stream/C/consumer/{object_name(key)}",
        lambda key: ("C", object_name(key)), lambda key: word(key, CONSUMER_ROWS[key]),
    )  # fmt: skip


# Taken out of the specs -----------------------------------------------------------------------------------


@pytest.mark.req("A2.7", "B2.2")
def test_an_option_taken_out_of_the_specs_is_the_servers_default_again(bed: Bed, link: Raw) -> None:
    declared = {object_name(key): row.body for key, row in STREAM_ROWS.items()}
    copies = {name for name, body in declared.items() if "mirror" in body}
    bed.declare({"streams": {**ORIGIN, **{
        f"S_{name}": body if name in copies else {"subjects": [f"S_{name}.>"], **body}
        for name, body in declared.items()
    }}})  # fmt: skip
    bed.mend()
    bed.declare({"streams": {**ORIGIN, **{f"S_{name}": {"subjects": [f"S_{name}.>"]} for name in declared}}})
    bed.mend()
    fresh = without_servers_own(link.do("STREAM.CREATE.FRESH", {"name": "FRESH", "subjects": ["fresh.>"]})["config"])
    marked = {"holdfast_plane": bed.name}
    # Given once, these cannot be seen to be default again: a promoted mirror keeps what it took from its origin.
    expected = {
        name: {**fresh, "name": f"S_{name}", "subjects": [f"S_{name}.>"], "metadata": marked} for name in declared
    }
    found = {name: without_servers_own(link.config(f"S_{name}")) for name in declared}
    assert {n: (found[n], expected[n]) for n in declared if found[n] != expected[n]} == {}


@pytest.mark.req("B2.2")
def test_an_option_taken_out_of_a_consumer_is_the_servers_default_again(bed: Bed, link: Raw) -> None:
    def document(bodies: Mapping[str, Json]) -> Json:
        consumers = {name: {"dead_letter": "none", **body} for name, body in bodies.items()}
        return {"streams": {"C": {"subjects": ["c.>"], "consumers": consumers}}}

    bodies = {object_name(key): row.body for key, row in CONSUMER_ROWS.items()}
    bed.declare(document(bodies))
    bed.mend()
    bed.declare(document({name: {} for name in bodies}))
    bed.mend()
    request = {"stream_name": "C", "config": {"name": "FRESH", "durable_name": "FRESH"}, "action": "create"}
    fresh = without_servers_own(link.do("CONSUMER.CREATE.C.FRESH", request)["config"])
    unlike = {}
    for name in bodies:
        found = without_servers_own(link.config("C", name))
        if found != {**fresh, "name": name, "durable_name": name, "metadata": {"holdfast_plane": bed.name}}:
            unlike[name] = found
    assert unlike == {}


def test_a_duration_is_kept_to_the_nanosecond(bed: Bed, link: Raw) -> None:
    bed.declare({"streams": {"T": {"subjects": ["t.>"], "max_age": "1.001s", "duplicate_window": "100000001ns"}}})
    bed.mend()
    assert (link.config("T")["max_age"], link.config("T")["duplicate_window"]) == (1_001_000_000, 100_000_001)


# What a smaller limit costs -------------------------------------------------------------------------------

STREAM_LOSSES: dict[str, tuple[Json, Json, int]] = {
    "max_age": ({}, {"max_age": "100ms"}, 10),
    "max_msgs": ({"max_msgs": 100}, {"max_msgs": 4}, 6),
    "max_bytes": ({}, {"max_bytes": 170}, 5),
    "max_msgs_per_subject": ({}, {"max_msgs_per_subject": 2}, 6),
    "storage": ({}, {"storage": "memory"}, 10),
    "discard": ({"max_msgs": 4, "discard": "new"}, {"max_msgs": 3, "discard": "old"}, 1),
}


@pytest.mark.parametrize("option", STREAM_LOSSES)
def test_a_change_that_deletes_messages_says_how_many_and_needs_a_consent(bed: Bed, link: Raw, option: str) -> None:
    before, after, lost = STREAM_LOSSES[option]
    bed.declare({"streams": {"L": {"subjects": ["l.>"], **before}}})
    bed.mend()
    for subject in ("l.a", "l.b"):
        link.publish(subject, 2 if "max_msgs" in before and option == "discard" else 5)
    stored = link.messages("L")
    time.sleep(0.15)
    assert_loss(
        bed, link, "L", "nats:main/stream/L", {"streams": {"L": {"subjects": ["l.>"], **before, **after}}}, lost
    )
    assert stored >= lost


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [({"history": 5}, {"history": 2}, 6), ({}, {"ttl": "100ms"}, 2), ({"history": 5}, {"storage": "memory"}, 10)],
)
def test_a_change_that_deletes_values_says_how_many_and_needs_a_consent(
    bed: Bed, link: Raw, before: Json, after: Json, lost: int
) -> None:
    bed.declare({"buckets": {"L": before}})
    bed.mend()
    for key in ("a", "b"):
        link.publish(f"$KV.L.{key}", 5)
    time.sleep(0.15)
    assert_loss(bed, link, "KV_L", "nats:main/bucket/L", {"buckets": {"L": {**before, **after}}}, lost)


def test_retention_by_interest_says_how_many_messages_it_may_delete(bed: Bed, link: Raw) -> None:
    consumers = {
        "consumers": {
            "w": {"ack_policy": "explicit", "filter_subject": "l.a", "dead_letter": "none"},
            "v": {"ack_policy": "explicit", "filter_subject": "l.b", "dead_letter": "none"},
        }
    }
    bed.declare({"streams": {"L": {"subjects": ["l.a", "l.b"], **consumers}}})
    bed.mend()
    for subject in ("l.a", "l.b"):
        link.publish(subject, 5)
    bed.declare({"streams": {"L": {"subjects": ["l.a", "l.b"], "retention": "interest", **consumers}}})
    (hazard,) = [h for s in bed.plan().steps for h in s.hazards]
    assert (hazard.kind, hazard.count, "at most" in hazard.detail) == ("data_loss", 10, True)
    with pytest.raises(ConsentError):
        bed.apply()
    assert link.config("L")["retention"] == "limits"
    bed.mend()
    assert (link.config("L")["retention"], link.messages("L")) == ("interest", 10)


def assert_loss(bed: Bed, link: Raw, stream: str, address: str, document: Json, lost: int) -> None:
    """The plan counts what goes; nothing goes without the consent, and with it just as much as was said."""
    stored = link.messages(stream)
    bed.declare(document)
    plan = bed.plan()
    assert [h.count for s in plan.steps for h in s.hazards if h.kind == "data_loss"] == [lost]
    assert required(plan) == (f"data_loss:{address}",)
    with pytest.raises(ConsentError):
        bed.apply()
    assert link.messages(stream) == stored
    bed.apply(f"data_loss:{address}")
    deadline = time.monotonic() + 5
    while link.messages(stream) != stored - lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert link.messages(stream) == stored - lost
    assert bed.plan().steps == ()
