"""Streams, buckets and consumers as the server itself tells them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.acceptance.plane import Plane, Request

SECOND = 1_000_000_000
MIB = 1024 * 1024


def config(js: Request, stream: str) -> dict[str, Any]:
    answer = js(f"$JS.API.STREAM.INFO.{stream}")
    assert "error" not in answer, answer
    found: dict[str, Any] = answer["config"]
    return found


def consumer(js: Request, stream: str, name: str) -> dict[str, Any]:
    answer = js(f"$JS.API.CONSUMER.INFO.{stream}.{name}")
    assert "error" not in answer, answer
    found: dict[str, Any] = answer["config"]
    return found


def holds(found: dict[str, Any], **expected: Any) -> None:
    """The server leaves out what is false, zero or empty."""
    assert {k: found.get(k, type(v)()) for k, v in expected.items()} == expected


@pytest.mark.req("A1.1", "A1.4", "A1.11")
def test_agent_state(js: Request) -> None:
    found = config(js, "AGENT_STATE")
    assert "real-time agent state" in found["description"].lower()
    holds(
        found,
        subjects=["agents.state.>", "agents.lifecycle.>", "agents.heartbeat.>"],
        storage="file",
        retention="limits",
        max_age=1800 * SECOND,
        max_msgs=1_000_000,
        max_msg_size=1_048_576,
        discard="old",
        duplicate_window=300 * SECOND,
        allow_rollup_hdrs=True,
        deny_delete=False,
        deny_purge=False,
    )


@pytest.mark.req("A1.5", "A1.6", "A1.7")
def test_task_execution(js: Request) -> None:
    holds(
        config(js, "TASK_EXECUTION"),
        subjects=[f"tasks.{what}.>" for what in "created started completed failed cancelled updated".split()],
        storage="file",
        retention="limits",
        max_age=86_400 * SECOND,
        max_msgs=10_000_000,
        max_msg_size=5_242_880,
        discard="old",
        duplicate_window=120 * SECOND,
    )


@pytest.mark.req("A1.9")
def test_agent_messages(js: Request) -> None:
    holds(
        config(js, "AGENT_MESSAGES"),
        subjects=["messages.direct.>", "messages.broadcast.>", "messages.notification.>"],
        storage="memory",
        retention="limits",
        max_age=300 * SECOND,
        max_msgs=100_000,
        max_msg_size=262_144,
        num_replicas=1,
    )


@pytest.mark.req("A1.14")
def test_every_event_stream_is_bounded_in_age_bytes_and_messages(js: Request) -> None:
    for name in js("$JS.API.STREAM.NAMES")["streams"]:
        found = config(js, name)
        if not name.startswith("KV_") and found["retention"] == "limits":
            assert min(found["max_age"], found["max_bytes"], found["max_msgs"]) > 0, name


@pytest.mark.req("A1.7", "A1.5", "A1.15")
def test_every_subject_that_components_publish_reaches_its_stream(applied_plane: Plane) -> None:
    async def publish() -> dict[str, str]:
        from nats.aio.client import Client

        client = Client()
        await client.connect(applied_plane.nats, connect_timeout=5)
        try:
            subjects = {
                "AGENT_STATE": ["agents.state.1", "agents.lifecycle.1", "agents.heartbeat.1"],
                "TASK_EXECUTION": [
                    f"tasks.{what}.1" for what in "created started completed failed cancelled updated".split()
                ],
                "AGENT_MESSAGES": ["messages.direct.1", "messages.broadcast.all", "messages.notification.1"],
            }
            taken = {}
            for stream, names in subjects.items():
                for name in names:
                    answer = await client.request(name, b"{}", timeout=5)
                    taken[name] = json.loads(answer.data)["stream"] == stream
            # Four megabytes are more than a default server takes.
            answer = await client.request("tasks.completed.big", b"x" * (4 * MIB), timeout=5)
            taken["big"] = json.loads(answer.data)["stream"] == "TASK_EXECUTION"
        finally:
            await client.close()
        return {name: "taken" if good else "lost" for name, good in taken.items()}

    assert set(asyncio.run(publish()).values()) == {"taken"}


@pytest.mark.req("A1.12")
def test_one_server_holds_the_plane_without_replicas_and_tags(js: Request) -> None:
    for name in js("$JS.API.STREAM.NAMES")["streams"]:
        found = config(js, name)
        assert found["num_replicas"] == 1
        assert not found.get("placement")


@pytest.mark.req("A2.1", "A2.2", "A2.3", "A2.4", "A2.11")
@pytest.mark.parametrize(
    ("bucket", "ttl", "storage", "history"),
    [
        ("SESSION_DATA", 3600, "file", 1),
        ("AGENT_STATE", 1800, "file", 5),
        ("AGENT_CONFIG", 0, "file", 10),
        ("QUERY_CACHE", 300, "memory", 1),
    ],
)
def test_buckets(js: Request, bucket: str, ttl: int, storage: str, history: int) -> None:
    found = config(js, f"KV_{bucket}")
    holds(
        found,
        subjects=[f"$KV.{bucket}.>"],
        max_age=ttl * SECOND,
        storage=storage,
        max_msgs_per_subject=history,
        allow_direct=True,
        discard="new",
        deny_delete=True,
    )
    assert 0 < found["max_bytes"] <= 1024 * MIB
    assert not found.get("mirror")


@pytest.mark.req("A2.5", "A2.6", "A2.8")
def test_buckets_keep_their_own_names_and_limits(js: Request) -> None:
    names = {name for name in js("$JS.API.STREAM.NAMES")["streams"] if name.startswith("KV_")}
    assert names == {"KV_SESSION_DATA", "KV_AGENT_STATE", "KV_AGENT_CONFIG", "KV_QUERY_CACHE", "KV_HOLDFAST"}
    assert config(js, "AGENT_STATE")["subjects"] != config(js, "KV_AGENT_STATE")["subjects"]


@pytest.mark.req("A2.7", "H3.1")
def test_compression_reaches_the_stream_behind_the_bucket(js: Request) -> None:
    assert config(js, "KV_AGENT_STATE")["compression"] == "s2"
    assert config(js, "KV_SESSION_DATA")["compression"] == "none"


@pytest.mark.req("A2.10")
def test_the_hot_bucket_takes_the_ttl_of_a_message_and_refuses_a_purge(js: Request) -> None:
    found = config(js, "KV_AGENT_STATE")
    holds(found, allow_msg_ttl=True, allow_rollup_hdrs=False, subject_delete_marker_ttl=0)


@pytest.mark.req("A3.1", "A3.2", "A3.3")
def test_task_processor(js: Request) -> None:
    found = consumer(js, "TASK_EXECUTION", "task-processor")
    holds(
        found,
        durable_name="task-processor",
        deliver_policy="all",
        ack_policy="explicit",
        ack_wait=30 * SECOND,
        max_deliver=3,
        max_ack_pending=100,
        filter_subject="tasks.started.>",
        replay_policy="instant",
    )
    assert not {"deliver_subject", "rate_limit_bps", "opt_start_seq", "opt_start_time"} & set(found)


@pytest.mark.req("A3.6", "A3.7", "A3.10")
def test_message_batch_processor(js: Request) -> None:
    found = consumer(js, "AGENT_MESSAGES", "message-batch-processor")
    holds(
        found,
        durable_name="message-batch-processor",
        deliver_policy="all",
        ack_policy="explicit",
        ack_wait=60 * SECOND,
        max_batch=100,
        max_expires=30 * SECOND,
        max_bytes=1_048_576,
    )
    stream = config(js, "AGENT_MESSAGES")
    assert found["max_bytes"] >= stream["max_msg_size"]
    # The last delivery must find its message (five deliveries would end just when the stream forgets it).
    assert found["ack_wait"] * found["max_deliver"] < stream["max_age"]


@pytest.mark.req("A3.8")
def test_every_filter_can_match(js: Request) -> None:
    for stream in ("TASK_EXECUTION", "AGENT_MESSAGES", "AGENT_STATE"):
        answer = js(f"$JS.API.CONSUMER.LIST.{stream}")
        for found in answer["consumers"] or []:
            subject = found["config"].get("filter_subject")
            assert subject is None or subject in config(js, stream)["subjects"]


@pytest.mark.req("A3.4", "A3.5")
def test_the_monitoring_consumer_is_a_template_that_a_client_can_use(js: Request, applied_plane: Plane) -> None:
    assert js("$JS.API.CONSUMER.NAMES.AGENT_STATE")["total"] == 0
    content = json.loads(_contract(js))
    template = content["templates"]["AGENT_STATE"]["monitoring"]
    assert (template["ack_policy"], template["deliver_policy"]) == ("none", "last_per_subject")
    assert template["inactive_threshold"] > 0
    created = js(
        "$JS.API.CONSUMER.CREATE.AGENT_STATE",
        {
            "stream_name": "AGENT_STATE",
            "config": {
                "ack_policy": template["ack_policy"],
                "deliver_policy": template["deliver_policy"],
                "filter_subjects": template["filter_subjects"],
                "inactive_threshold": template["inactive_threshold"],
                "mem_storage": template["mem_storage"],
            },
        },
    )
    assert "error" not in created, created
    js(f"$JS.API.CONSUMER.DELETE.AGENT_STATE.{created['name']}")
    plan = applied_plane.holdfast("plan", "--format", "json")
    assert json.loads(plan.stdout)["steps"] == []


def _contract(js: Request) -> str:
    import base64

    answer = js("$JS.API.STREAM.MSG.GET.KV_HOLDFAST", {"last_by_subj": "$KV.HOLDFAST.contract.agents.dev"})
    return base64.b64decode(answer["message"]["data"]).decode()


@pytest.mark.req("A3.11")
def test_messages_that_nobody_acknowledges_are_told_of(js: Request) -> None:
    found = config(js, "DEAD_LETTERS")
    holds(found, subjects=["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"], retention="limits", storage="file")


def test_the_journal_of_the_hot_bucket_loses_nothing_by_itself(js: Request) -> None:
    found = config(js, "AGENT_STATE_JOURNAL")
    assert [s["name"] for s in found["sources"]] == ["KV_AGENT_STATE"]
    holds(
        found,
        retention="workqueue",
        discard="new",
        max_age=0,
        allow_rollup_hdrs=False,
        allow_msg_ttl=False,
        storage="file",
    )
    assert found["max_bytes"] > 0
    flusher = consumer(js, "AGENT_STATE_JOURNAL", "flusher")
    holds(flusher, ack_policy="explicit", max_deliver=-1, durable_name="flusher")
