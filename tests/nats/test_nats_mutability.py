"""Our word on what a server changes in place, against the server's own verdict. Runs on several versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from provision.nats.kinds import backing, consumer, stream
from tests.nats.nats_plane import Bench, Json

#: (specs before, specs after): each changes one option; both are valid by themselves.
STREAM: list[tuple[str, Json, Json]] = [
    ("storage", {}, {"storage": "memory"}),
    ("limits to interest", {}, {"retention": "interest"}),
    ("interest to limits", {"retention": "interest"}, {}),
    ("limits to workqueue", {}, {"retention": "workqueue"}),
    ("workqueue to limits", {"retention": "workqueue"}, {}),
    ("max_consumers set", {}, {"max_consumers": 5}),
    ("max_consumers lifted", {"max_consumers": 5}, {}),
    ("max_msgs", {}, {"max_msgs": 5}),
    ("max_bytes", {"max_bytes": 1024}, {"max_bytes": 2048}),
    ("max_age", {"max_age": "1h"}, {"max_age": "10m"}),
    ("max_msg_size", {}, {"max_msg_size": 100}),
    ("max_msgs_per_subject", {}, {"max_msgs_per_subject": 1}),
    ("discard", {}, {"discard": "new"}),
    ("duplicate_window", {}, {"duplicate_window": "5s"}),
    ("no_ack", {}, {"no_ack": True}),
    ("compression", {}, {"compression": "s2"}),
    ("allow_direct", {}, {"allow_direct": True}),
    ("rollup on", {}, {"allow_rollup_hdrs": True}),
    ("rollup off", {"allow_rollup_hdrs": True}, {}),
    ("seal", {}, {"sealed": True}),
    ("unseal", {"sealed": True}, {}),
    ("deny_delete on", {}, {"deny_delete": True}),
    ("deny_delete off", {"deny_delete": True}, {}),
    ("deny_purge on", {}, {"deny_purge": True}),
    ("deny_purge off", {"deny_purge": True}, {}),
    ("subjects", {}, {"subjects": ["a.b", "c.>"]}),
    ("transform", {}, {"subject_transform": {"src": "a.*", "dest": "a.x.{{wildcard(1)}}"}}),
    ("republish", {}, {"republish": {"src": "a.>", "dest": "r.>"}}),
    ("sources", {}, {"sources": [{"name": "OTHER"}]}),
    ("mirror changed", {"mirror": {"name": "ONE"}, "subjects": None}, {"mirror": {"name": "TWO"}, "subjects": None}),
    ("mirror added", {}, {"mirror": {"name": "ONE"}, "subjects": None}),
    ("mirror promoted", {"mirror": {"name": "ONE"}, "subjects": None}, {}),
    ("consumer_limits", {}, {"consumer_limits": {"max_ack_pending": 5}}),
    ("allow_msg_ttl on", {}, {"allow_msg_ttl": True}),
    ("allow_msg_ttl off", {"allow_msg_ttl": True}, {}),
    ("marker on", {"allow_msg_ttl": True}, {"allow_msg_ttl": True, "subject_delete_marker_ttl": "5s"}),
    ("counter on", {}, {"allow_msg_counter": True}),
    ("counter off", {"allow_msg_counter": True}, {}),
    ("atomic on", {}, {"allow_atomic": True}),
    ("atomic off", {"allow_atomic": True}, {}),
    ("batched off", {"allow_batched": True}, {}),
    ("schedules on", {}, {"allow_msg_schedules": True}),
    ("schedules off", {"allow_msg_schedules": True}, {}),
    ("async on", {}, {"persist_mode": "async"}),
    ("async off", {"persist_mode": "async"}, {}),
    ("metadata", {}, {"metadata": {"a": "b"}}),
]
CONSUMER: list[tuple[str, Json, Json]] = [
    ("description", {}, {"description": "x"}),
    ("deliver_policy", {}, {"deliver_policy": "new"}),
    ("start sequence", {"deliver_policy": "by_start_sequence", "opt_start_seq": 2},
     {"deliver_policy": "by_start_sequence", "opt_start_seq": 3}),
    ("start time", {"deliver_policy": "by_start_time", "opt_start_time": "2026-01-01T00:00:00Z"},
     {"deliver_policy": "by_start_time", "opt_start_time": "2026-01-02T00:00:00Z"}),
    ("ack_policy", {"ack_policy": "explicit"}, {"ack_policy": "all"}),
    ("ack_wait", {"ack_policy": "explicit"}, {"ack_policy": "explicit", "ack_wait": "5s"}),
    ("max_deliver", {}, {"max_deliver": 3}),
    ("backoff", {"ack_policy": "explicit"}, {"ack_policy": "explicit", "backoff": ["2s"], "max_deliver": 2}),
    ("filter", {}, {"filter_subject": "a.b"}),
    ("filters", {"filter_subject": "a.b"}, {"filter_subjects": ["a.b", "a.c"]}),
    ("replay_policy", {}, {"replay_policy": "original"}),
    ("rate", {"deliver_subject": "p"}, {"deliver_subject": "p", "rate_limit_bps": 1024}),
    ("sample_freq", {}, {"sample_freq": "10"}),
    ("max_waiting", {}, {"max_waiting": 10}),
    ("max_ack_pending", {"ack_policy": "explicit"}, {"ack_policy": "explicit", "max_ack_pending": 5}),
    ("headers_only", {}, {"headers_only": True}),
    ("max_batch", {}, {"max_batch": 5}),
    ("max_expires", {}, {"max_expires": "5s"}),
    ("max_bytes", {}, {"max_bytes": 500}),
    ("inactive_threshold", {}, {"inactive_threshold": "1h"}),
    ("mem_storage", {}, {"mem_storage": True}),
    ("pull to push", {}, {"deliver_subject": "p"}),
    ("push to pull", {"deliver_subject": "p"}, {}),
    ("deliver_subject", {"deliver_subject": "p"}, {"deliver_subject": "q"}),
    ("deliver_group", {"deliver_subject": "p"}, {"deliver_subject": "p", "deliver_group": "g"}),
    ("heartbeat", {"deliver_subject": "p"}, {"deliver_subject": "p", "idle_heartbeat": "1s"}),
    ("flow_control", {"deliver_subject": "p", "idle_heartbeat": "1s"},
     {"deliver_subject": "p", "idle_heartbeat": "1s", "flow_control": True}),
    ("priority", {"ack_policy": "explicit"},
     {"ack_policy": "explicit", "priority_policy": "overflow", "priority_groups": ["g"]}),
    ("metadata", {}, {"metadata": {"a": "b"}}),
]  # fmt: skip


def stream_verdicts(plane: Bench) -> list[str]:
    """Where our word and the server's differ."""
    wrong: list[str] = []
    facts = plane.observe().facts
    for index, (name, before, after) in enumerate(STREAM):
        title = f"S{index}"

        def settled(specs: Json, title: str = title, index: int = index) -> Json:
            own = {"subjects": [f"s{index}.>"], **specs}
            parsed = stream.FIELDS.parse(_moved(own, index))
            copies = parsed["mirror"] is not None
            parsed["subjects"] = [] if copies else parsed["subjects"] or [title]
            return backing.settled(stream.KIND.as_stream(title, parsed), None, facts)

        old, new = settled(before), settled(after)
        if any(_unsupported(side, facts) for side in (old, new)):
            continue
        created = plane.api(f"STREAM.CREATE.{title}", _config(title, {**old, "sealed": False}))
        assert "refused" not in created, (name, created)
        if old["sealed"]:
            plane.api(f"STREAM.UPDATE.{title}", _config(title, old))
        answer = plane.api(f"STREAM.UPDATE.{title}", _config(title, new))
        said = bool(backing.refused(old, new, facts.version))
        if said != ("refused" in answer):
            wrong.append(f"{name}: we say {'refused' if said else 'in place'}, the server {answer.get('why', 'yes')}")
    return wrong


def _moved(specs: Json, index: int) -> Json:
    """Give each case subjects of its own."""
    own = f"s{index}"
    text = {"a.>": f"{own}.>", "a.*": f"{own}.*", "a.b": f"{own}.b", "c.>": f"{own}c.>", "r.>": f"r{index}.>"}
    text["a.x.{{wildcard(1)}}"] = f"{own}.x.{{{{wildcard(1)}}}}"

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: walk(v) for k, v in node.items()}
        if isinstance(node, list):
            return [walk(v) for v in node]
        return text.get(node, node) if isinstance(node, str) else node

    moved: Json = walk(specs)
    return moved


def _config(title: str, settings: Json) -> Json:
    from provision.nats.kinds.stream_fields import OPTIONS
    from provision.nats.kinds.wire import to_wire

    return {"name": title, **to_wire(OPTIONS, settings)}


def _unsupported(settings: Json, facts: Any) -> bool:
    from provision.nats.kinds.stream_fields import OPTIONS
    from provision.nats.kinds.wire import unsupported_fields

    return bool(unsupported_fields(OPTIONS, settings, facts))


def consumer_verdicts(plane: Bench) -> list[str]:
    """Where our word and the server's differ."""
    wrong: list[str] = []
    facts = plane.observe().facts
    plane.api("STREAM.CREATE.CS", {"name": "CS", "subjects": ["a.>"]})
    for index, (name, before, after) in enumerate(CONSUMER):
        title = f"C{index}"
        sides = [consumer.settled(consumer.normalise(consumer.FIELDS.parse(s)), facts) for s in (before, after)]
        old, new = sides
        if facts.version < (2, 11, 0) and "priority_policy" in after:
            continue
        for action, settings in (("create", old), ("update", new)):
            config = consumer.KIND.wire(title, settings)
            if config.get("deliver_subject"):
                config["deliver_subject"] += str(index)
            body = {"stream_name": "CS", "config": config, "action": action}
            answer = plane.api(f"CONSUMER.CREATE.CS.{title}", body)
            assert action == "update" or "refused" not in answer, (name, answer)
        said = bool(consumer.refused(old, new, facts.version))
        if said != ("refused" in answer):
            wrong.append(f"{name}: we say {'refused' if said else 'in place'}, the server {answer.get('why', 'yes')}")
    return wrong


@pytest.mark.req("A3.9")
def test_our_word_on_updates_is_the_servers(plane: Bench) -> None:
    assert stream_verdicts(plane) == []
    assert consumer_verdicts(plane) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    "version",
    "2.10.26 2.11.0 2.11.1 2.11.2 2.11.11 2.12.0 2.12.4 2.12.5 2.12.8 2.14.0 2.14.3 2.14.4 2.14.6 2.15.0".split(),
)
def test_our_word_on_updates_is_that_of_each_version(version: str, server_of: Callable[[str], Bench]) -> None:
    plane = server_of(version)
    assert stream_verdicts(plane) == []
    assert consumer_verdicts(plane) == []
