"""Buckets and object stores made by nats-py read as ours where they mean the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.nats.nats_plane import Bench


def make(url: str, *, bucket: dict[str, Any] | None = None, store: dict[str, Any] | None = None) -> None:
    import nats

    async def run() -> None:
        client = await nats.connect(url)
        try:
            if bucket is not None:
                await client.jetstream().create_key_value(**bucket)
            if store is not None:
                await client.jetstream().create_object_store(**store)
        finally:
            await client.close()

    asyncio.run(run())


@pytest.mark.req("A2.7")
def test_a_bucket_of_nats_py_with_the_same_options_needs_no_step(plane: Bench, nats_url: str) -> None:
    make(nats_url, bucket={"bucket": "B", "history": 5, "ttl": 60.0, "direct": True, "description": "d"})
    wanted = {"history": 5, "ttl": "60s", "description": "d", "allow_msg_ttl": True}
    assert plane.plan({"buckets": {"B": wanted}}).steps == ()


def test_a_real_difference_of_nats_py_is_shown(plane: Bench, nats_url: str) -> None:
    make(nats_url, bucket={"bucket": "B"})
    assert plane.differing({"buckets": {"B": {}}}) == {"bucket/B": ["allow_msg_ttl", "allow_direct"]}


def test_an_object_store_of_nats_py_needs_no_step(plane: Bench, nats_url: str) -> None:
    make(nats_url, store={"bucket": "O", "description": "d"})
    assert plane.plan({"object_stores": {"O": {"description": "d"}}}).steps == ()


@pytest.mark.req("A2.8")
def test_a_bucket_and_a_stream_of_one_name_live_side_by_side(plane: Bench) -> None:
    document = {"buckets": {"AGENT_STATE": {}}, "streams": {"AGENT_STATE": {"subjects": ["agents.state.>"]}}}
    plane.apply(document)
    assert plane.config("KV_AGENT_STATE")["subjects"] == ["$KV.AGENT_STATE.>"]


def test_nats_py_reads_and_writes_our_bucket(plane: Bench, nats_url: str) -> None:
    import nats

    plane.apply({"buckets": {"B": {"history": 2}}})

    async def use() -> bytes | None:
        client = await nats.connect(nats_url)
        try:
            kv = await client.jetstream().key_value("B")
            await kv.put("k", b"1")
            return (await kv.get("k")).value
        finally:
            await client.close()

    assert asyncio.run(use()) == b"1"
