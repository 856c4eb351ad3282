"""Three servers with direct reads on: whoever reads through the library after a write was acknowledged sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.kv.bucket import Bucket

pytestmark = pytest.mark.soak
Run = Callable[..., Any]
_ROUNDS = 1500


async def direct_revision(nc: Any, key: str) -> int:
    """What any of the replicas answers, as other clients read where the bucket allows it."""
    message = await nc.request(f"$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.{key}", b"", timeout=5)
    return int((message.headers or {}).get("Nats-Sequence", 0))


async def load(agent: holdfast.AgentState[Any], end: asyncio.Event) -> None:
    number = 0
    while not end.is_set():
        number += 1
        await agent.put(f"k{number % 200}", "x" * 400)


async def follow(reader: holdfast.AgentState[Any], stale: list[str]) -> None:
    """Wait for each write with a watch, then read: never older than what was waited for."""
    async with aclosing(reader.watch("k")) as changes:
        async for change in changes:
            is_older = await reader.get("k") < change.value
            stale.extend(["waited"] * is_older)


@pytest.mark.req("D1.3", "D1.4")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", ["latest", "2.12"])
def test_no_read_is_older_than_an_acknowledged_write(plane_on: Any, run: Run, tell: Run, line: str) -> None:
    overlaid = plane_on(line, 3)
    urls = [server.url for server in overlaid.site.servers]

    async def scenario() -> None:
        stale: list[str] = []
        counts = {"rounds": 0, "reads": 0, "stale direct reads, without the library": 0}
        async with AsyncExitStack() as stack:
            planes = [
                await stack.enter_async_context(holdfast.connect({**overlaid.environ, "NATS_SERVERS": url}))
                for url in urls
            ]
            config = (await planes[0].home.bucket.state())["config"]
            assert (config["allow_direct"], config["num_replicas"]) == (True, 3)
            agent_id = uuid4()
            owner = await stack.enter_async_context(planes[0].agent(agent_id))
            await owner.put("k", 0)
            readers = [await stack.enter_async_context(plane.agent(agent_id, owned=False)) for plane in planes]
            busy = [await stack.enter_async_context(planes[at % 3].agent(uuid4())) for at in range(6)]
            buckets = [await Bucket.open(plane.nc, plane.home.bucket.spec) for plane in planes]
            end = asyncio.Event()
            tasks = [asyncio.create_task(load(agent, end)) for agent in busy]
            tasks += [asyncio.create_task(follow(readers[2], stale))]
            key = f"{agent_id}.state.k"
            start = time.monotonic()
            position = (await owner.put("k", 0)).position
            while counts["rounds"] < _ROUNDS and time.monotonic() - start < 90:
                counts["rounds"] += 1
                number = counts["rounds"]
                position = (await owner.put("k", number)).position
                old = await direct_revision(planes[1].nc, key) < position.revision
                counts["stale direct reads, without the library"] += old
                if await owner.get("k") != number:
                    stale.append("owner")
                for reader, bucket in zip(readers, buckets, strict=True):
                    value, entry = await asyncio.gather(reader.get("k"), bucket.get(key))
                    counts["reads"] += 2
                    if value != number:
                        stale.append("reader")
                    if entry is None or entry.position != position:
                        stale.append("bucket")
                if number % 25 == 0:
                    counts["reads"] += 1
                    if (await readers[number % 3].items())["k"] != number:
                        stale.append("items")
                    own = buckets[1]
                    before = await own.head(f"{agent_id}.other")
                    at = await own.write(f"{agent_id}.other", b"1", expect=before.position if before else 0)
                    found = await own.get(f"{agent_id}.other")
                    if found is None or found.position != at:
                        stale.append("own bucket")
            end.set()
            tasks[-1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for bucket in buckets:
                await bucket.close()
        tell("direct reads on", overlaid.site.server.version, "R3", counts, "stale", len(stale))
        assert stale == []
        assert counts["rounds"] > 200

    run(scenario(), 280)
