"""How each option of streams and consumers is drifted from outside, by raw requests. Written by hand.

Keys are those of STREAM.INFO and CONSUMER.INFO: nested ones with dots, items of lists with ``[]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.live.drift_bed import Json, Raw

S = 10**9
MINUTE = 60 * S


class Row(NamedTuple):
    """``body`` is what specs say of the object, ``to`` what the raw configuration becomes.

    Of several alternatives the first that differs from the present value is taken. ``option`` is the name
    that drift must tell; by default the first part of the key.
    """

    body: Json
    to: tuple[Json, ...]
    option: str = ""


def row(body: Json, *to: Json, option: str = "") -> Row:
    return Row(body, to, option)


def flip(key: str) -> Row:
    return row({}, {key: True}, {key: False})


class Excluded(NamedTuple):
    """A key that cannot drift, and why."""

    reason: str


_SOURCE = {"name": "ORIGIN", "external": {"api": "$JS.far.API", "deliver": "far"}}
_TRANSFORMED = {"name": "ORIGIN", "subject_transforms": [{"src": "a.>", "dest": "b.>"}]}
_THROUGH = {"name": "ORIGIN", "consumer": {"name": "reader", "deliver_subject": "inbox"}}


def _copies(key: str, many: bool) -> dict[str, Row | Excluded]:
    """Mirror and sources have the same parts."""

    def node(entry: Json) -> Json:
        return {key: [entry] if many else entry}

    def part(before: Json, after: Json) -> Row:
        return row(node(before), node(after))

    path = f"{key}[]" if many else key
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00.5Z"
    return {
        f"{path}.name": part({"name": "ORIGIN"}, {"name": "OTHER"}),
        f"{path}.opt_start_seq": part({"name": "ORIGIN", "opt_start_seq": 3}, {"name": "ORIGIN", "opt_start_seq": 4}),
        f"{path}.opt_start_time": part(
            {"name": "ORIGIN", "opt_start_time": early}, {"name": "ORIGIN", "opt_start_time": late}
        ),
        f"{path}.filter_subject": part(
            {"name": "ORIGIN", "filter_subject": "a.>"}, {"name": "ORIGIN", "filter_subject": "b.>"}
        ),
        f"{path}.subject_transforms[].src": part(
            _TRANSFORMED, {**_TRANSFORMED, "subject_transforms": [{"src": "c.>", "dest": "b.>"}]}
        ),
        f"{path}.subject_transforms[].dest": part(
            _TRANSFORMED, {**_TRANSFORMED, "subject_transforms": [{"src": "a.>", "dest": "c.>"}]}
        ),
        f"{path}.external.api": part(_SOURCE, {**_SOURCE, "external": {"api": "$JS.near.API", "deliver": "far"}}),
        f"{path}.external.deliver": part(_SOURCE, {**_SOURCE, "external": {"api": "$JS.far.API", "deliver": "near"}}),
        f"{path}.consumer.name": part(
            _THROUGH, {**_THROUGH, "consumer": {"name": "other", "deliver_subject": "inbox"}}
        ),
        f"{path}.consumer.deliver_subject": part(
            _THROUGH, {**_THROUGH, "consumer": {"name": "reader", "deliver_subject": "outbox"}}
        ),
    }


_PLACED = {"placement": {"cluster": "east", "tags": ["ssd"]}}
_TRANSFORM = {"subject_transform": {"src": "x.*", "dest": "x.y.{{wildcard(1)}}"}}
_REPUBLISH = {"republish": {"src": "x.>", "dest": "copy.>"}}
_LIMITS = {"consumer_limits": {"inactive_threshold": "1m", "max_ack_pending": 50}}

STREAM: dict[str, Row | Excluded] = {
    "name": Excluded("identity: a stream of another name is another object"),
    "description": row({"description": "ours"}, {"description": "theirs"}),
    "subjects": row({}, {"subjects": ["moved.>"]}),
    "retention": row({}, {"retention": "interest"}),
    "max_consumers": row({"max_consumers": 9}, {"max_consumers": 8}),
    "max_msgs": row({"max_msgs": 1000}, {"max_msgs": 999}),
    "max_bytes": row({"max_bytes": "1MiB"}, {"max_bytes": 1_048_575}),
    "max_age": row({"max_age": "1.001s"}, {"max_age": 2 * S}),
    "max_msgs_per_subject": row({"max_msgs_per_subject": 5}, {"max_msgs_per_subject": 4}),
    "max_msg_size": row({"max_msg_size": "64KiB"}, {"max_msg_size": 65_535}),
    "discard": row({}, {"discard": "new"}, {"discard": "old"}),
    "storage": row({}, {"storage": "memory"}),
    "num_replicas": row({}, {"num_replicas": 3}, option="replicas"),
    "no_ack": flip("no_ack"),
    "duplicate_window": row({"duplicate_window": "1.001s"}, {"duplicate_window": 1 * S}),
    "placement.cluster": row(_PLACED, {"placement": {"cluster": "west", "tags": ["ssd"]}}),
    "placement.tags": row(_PLACED, {"placement": {"cluster": "east", "tags": ["hdd"]}}),
    **_copies("mirror", many=False),
    **_copies("sources", many=True),
    "compression": row({}, {"compression": "s2"}),
    "first_seq": row({"first_seq": 7}, {"first_seq": 8}),
    "subject_transform.src": row(_TRANSFORM, {"subject_transform": {"src": "z.*", "dest": "x.y.{{wildcard(1)}}"}}),
    "subject_transform.dest": row(_TRANSFORM, {"subject_transform": {"src": "x.*", "dest": "x.z.{{wildcard(1)}}"}}),
    "republish.src": row(_REPUBLISH, {"republish": {"src": "x.y.>", "dest": "copy.>"}}),
    "republish.dest": row(_REPUBLISH, {"republish": {"src": "x.>", "dest": "other.>"}}),
    "republish.headers_only": row(_REPUBLISH, {"republish": {"src": "x.>", "dest": "copy.>", "headers_only": True}}),
    "allow_direct": flip("allow_direct"),
    "mirror_direct": row(
        {"mirror": _SOURCE, "mirror_direct": True},
        {"mirror_direct": False},  # of one that it sees the server decides
    ),
    "discard_new_per_subject": row(
        {"discard": "new", "max_msgs_per_subject": 2, "discard_new_per_subject": True},
        {"discard_new_per_subject": False},
    ),
    "sealed": row({}, {"sealed": True}),
    "deny_delete": flip("deny_delete"),
    "deny_purge": row({}, {"deny_purge": True, "allow_rollup_hdrs": False}),
    "allow_rollup_hdrs": flip("allow_rollup_hdrs"),
    "consumer_limits.inactive_threshold": row(
        _LIMITS, {"consumer_limits": {"inactive_threshold": 59 * S, "max_ack_pending": 50}}
    ),
    "consumer_limits.max_ack_pending": row(
        _LIMITS, {"consumer_limits": {"inactive_threshold": MINUTE, "max_ack_pending": 49}}
    ),
    "allow_msg_ttl": flip("allow_msg_ttl"),
    "subject_delete_marker_ttl": row(
        {"subject_delete_marker_ttl": "2s", "allow_msg_ttl": True, "allow_rollup_hdrs": True},
        {"subject_delete_marker_ttl": 3 * S},
    ),
    "allow_msg_counter": row({}, {"allow_msg_counter": True, "discard": "old"}),
    "allow_atomic": flip("allow_atomic"),
    "allow_batched": flip("allow_batched"),
    "allow_msg_schedules": row({}, {"allow_msg_schedules": True, "discard": "old", "allow_rollup_hdrs": True}),
    "persist_mode": row({}, {"persist_mode": "async"}),
    "metadata.team": row({"metadata": {"team": "ours"}}, {"metadata": {"team": "theirs"}}),
    "metadata.holdfast_plane": row({}, {"metadata": {}}),
    "metadata._nats.ver": Excluded("the server's own"),
    "metadata._nats.level": Excluded("the server's own"),
    "metadata._nats.req.level": Excluded("the server's own"),
}
#: What a bucket or an object store calls the option of its stream; every other is told under ``stream``.
BUCKET_WORDS = {
    "max_age": "ttl", "max_msgs_per_subject": "history", "max_msg_size": "max_value_size",
    "subject_delete_marker_ttl": "limit_marker_ttl",
    **{word: word for word in ("description max_bytes storage replicas placement republish mirror sources compression "
                               "allow_msg_ttl allow_direct allow_rollup_hdrs metadata").split()},
}  # fmt: skip
STORE_WORDS = {
    "max_age": "ttl",
    **{word: word for word in "description max_bytes storage replicas placement compression metadata".split()},
}

_PULL = {"ack_policy": "explicit"}
_PUSH = {"ack_policy": "explicit", "deliver_subject": "pushed"}
_PRIORITY = {"ack_policy": "explicit", "priority_policy": "pinned_client", "priority_groups": ["a"],
             "priority_timeout": "30s"}  # fmt: skip

CONSUMER: dict[str, Row | Excluded] = {
    "name": Excluded("identity: a consumer of another name is another object"),
    "durable_name": Excluded("identity: equal to the name, the server refuses another"),
    "description": row({"description": "ours"}, {"description": "theirs"}),
    "deliver_policy": row({}, {"deliver_policy": "new"}),
    "opt_start_seq": row({"deliver_policy": "by_start_sequence", "opt_start_seq": 3}, {"opt_start_seq": 4}),
    "opt_start_time": row(
        {"deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00.25Z"},
        {"opt_start_time": "2026-01-01T00:00:00.5Z"},
    ),
    "ack_policy": row(_PULL, {"ack_policy": "all"}),
    "ack_wait": row({**_PULL, "ack_wait": "1.001s"}, {"ack_wait": 1 * S}),
    "max_deliver": row({**_PULL, "max_deliver": 5}, {"max_deliver": 4}),
    "backoff": row({**_PULL, "max_deliver": 5, "backoff": ["1s", "2s"]}, {"backoff": [S, 3 * S]}),
    "filter_subject": row({"filter_subject": "c.a"}, {"filter_subject": "c.b"}),
    "filter_subjects": row({"filter_subjects": ["c.a", "c.b"]}, {"filter_subjects": ["c.a", "c.c"]}),
    "replay_policy": row({}, {"replay_policy": "original"}),
    "sample_freq": row({**_PULL, "sample_freq": "50"}, {"sample_freq": "49"}),
    "max_waiting": row({"max_waiting": 64}, {"max_waiting": 63}),
    "max_ack_pending": row({**_PULL, "max_ack_pending": 7}, {"max_ack_pending": 6}),
    "headers_only": flip("headers_only"),
    "max_batch": row({"max_batch": 10}, {"max_batch": 9}),
    "max_expires": row({"max_expires": "1.001s"}, {"max_expires": 1 * S}),
    "max_bytes": row({"max_bytes": "64KiB"}, {"max_bytes": 65_535}),
    "inactive_threshold": row({"inactive_threshold": "90s"}, {"inactive_threshold": 89 * S}),
    "num_replicas": row({"replicas": 1}, {"num_replicas": 0}, option="replicas"),
    "mem_storage": flip("mem_storage"),
    "deliver_subject": row(_PUSH, {"deliver_subject": "elsewhere"}),
    "deliver_group": row({**_PUSH, "deliver_group": "a"}, {"deliver_group": "b"}),
    "idle_heartbeat": row({**_PUSH, "idle_heartbeat": "1.001s"}, {"idle_heartbeat": 1 * S}),
    "flow_control": row({**_PUSH, "idle_heartbeat": "1s", "flow_control": True}, {"flow_control": False}),
    "rate_limit_bps": row({**_PUSH, "rate_limit_bps": 8000}, {"rate_limit_bps": 7999}),
    "priority_policy": row(
        {**_PULL, "priority_policy": "overflow", "priority_groups": ["a"]}, {"priority_policy": "prioritized"}
    ),
    "priority_groups": row(_PRIORITY, {"priority_groups": ["b"]}),
    "priority_timeout": row(_PRIORITY, {"priority_timeout": 29 * S}),
    "pause_until": row({"pause_until": "2099-01-01T00:00:00Z"}, {"pause_until": "2098-01-01T00:00:00Z"}),
    "metadata.team": row({"metadata": {"team": "ours"}}, {"metadata": {"team": "theirs"}}),
    "metadata.holdfast_plane": row({}, {"metadata": {}}),
    "metadata._nats.ver": Excluded("the server's own"),
    "metadata._nats.level": Excluded("the server's own"),
    "metadata._nats.req.level": Excluded("the server's own"),
}


def flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration by its key; lists of plain values are leaves."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flatten(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list) and node and isinstance(node[0], Mapping):
        for item in node:
            yield from flatten(item, f"{path}[]")
    elif not (isinstance(node, Mapping) or path.endswith("[]")):
        yield path, node


def values(config: Json, key: str) -> list[Any]:
    return [value for path, value in flatten(config) if path == key]


def without_servers_own(config: Json) -> Json:
    """The configuration without what the server notes of itself."""
    kept = {k: v for k, v in (config.get("metadata") or {}).items() if not k.startswith("_nats.")}
    return {**config, "metadata": kept}


def drift_stream(raw: Raw, name: str, key: str, row: Row) -> None:
    """Change one option of a live stream: in place, or where the server refuses by deleting and creating it."""
    config = without_servers_own(raw.config(name))
    changes = _differing(config, key, row)
    raw.ask(f"STREAM.UPDATE.{name}", {**config, **changes})
    if values(raw.config(name), key) == values(config, key):
        consumers = raw.do(f"CONSUMER.LIST.{name}", {})["consumers"]
        assert not consumers
        raw.do(f"STREAM.DELETE.{name}")
        raw.do(f"STREAM.CREATE.{name}", {**config, **_opened(config), **changes})
    found = raw.config(name)
    assert values(found, key) != values(config, key), f"{key} of {name} did not drift: {found}"


def drift_consumer(raw: Raw, stream: str, name: str, key: str, row: Row) -> None:
    """The same for a consumer; a pause has a request of its own."""
    config = without_servers_own(raw.config(stream, name))
    changes = _differing(config, key, row)
    if key == "pause_until":
        raw.do(f"CONSUMER.PAUSE.{stream}.{name}", changes)
    else:
        body = {"stream_name": stream, "config": {**config, **changes}}
        subject = f"CONSUMER.CREATE.{stream}.{name}"
        raw.ask(subject, {**body, "action": "update"})
        if values(raw.config(stream, name), key) == values(config, key):
            raw.do(f"CONSUMER.DELETE.{stream}.{name}")
            raw.do(subject, {**body, "action": "create"})
    found = raw.config(stream, name)
    assert values(found, key) != values(config, key), f"{key} of {name} did not drift: {found}"


def _differing(config: Json, key: str, row: Row) -> Json:
    return next(to for to in row.to if values({**config, **to}, key) != values(config, key))


def _opened(config: Json) -> Json:
    """A new stream cannot be sealed at once, nor have what an update may add without a use."""
    return {"sealed": False} if config.get("sealed") else {}
