"""The state bucket is deleted and made anew under load, through ``plane.agent``, on servers that differ in this."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from kv.overlaid import Overlaid, drained, told

import holdfast
from holdfast.errors import HoldfastError
from holdfast.kv.entry import Position
from holdfast.state.keys import FLUSHER_KEY
from holdfast.state.rebuilt import read_mark

pytestmark = pytest.mark.soak
Run = Callable[..., Any]
_KEYS = 20
#: Longer than three servers take to elect the leader of a new bucket: an owner whose lease ran out is fenced.
_LEASE_S = 20


async def config_of(nc: Any) -> dict[str, Any]:
    answer = json.loads((await nc.request("$JS.API.STREAM.INFO.KV_AGENT_STATE", b"", timeout=5)).data)
    config: dict[str, Any] = answer["config"]
    return config


async def rebuild(overlaid: Overlaid, nc: Any) -> None:
    config = await config_of(nc)
    await overlaid.site.drop(nc, "AGENT_STATE")
    await overlaid.site.ask(nc, "CREATE.KV_AGENT_STATE", json.dumps(config).encode())


async def rebuilt_under(overlaid: Overlaid, rounds: int, tell: Run) -> None:
    """Several agents are written to while the bucket is rebuilt again and again."""
    agents = [str(uuid4()) for _ in range(3)]
    newest: dict[tuple[str, str], int] = {}
    acknowledged = refused = 0
    done = False

    async def write(agent: holdfast.AgentState[Any], worker: int) -> None:
        nonlocal acknowledged, refused
        number = worker
        while not done:
            key, number = f"k{number % _KEYS}", number + 4
            try:
                await agent.put(key, number)
                newest[str(agent.agent_id), key] = number
                acknowledged += 1
            except HoldfastError as error:
                # For a moment there is no bucket at all.
                assert error.retryable or error.code == "CONFIGURATION", error  # noqa: PT017
                refused += 1
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.001)

    async with holdfast.connect(overlaid.environ) as plane, holdfast.connect(overlaid.environ) as other:
        owners = [await plane.agent(agent_id, wait_s=10).__aenter__() for agent_id in agents]
        for owner in owners:
            await owner.put("quiet", 1, ack="sql")
        tasks = [asyncio.create_task(write(owner, worker)) for owner in owners for worker in range(4)]
        incarnations = {plane.home.bucket.incarnation}
        for _ in range(rounds):
            await asyncio.sleep(random.uniform(1, 3))
            await rebuild(overlaid, other.nc)
        await asyncio.sleep(2)
        done = True
        await asyncio.gather(*tasks)
        incarnations.add(plane.home.bucket.incarnation)
        start = time.monotonic()
        for owner in owners:
            await owner.flush(30)
        flushed_s = time.monotonic() - start
        lost = 0
        for owner in owners:
            found = await owner.items()
            rows = overlaid.rows(owner.agent_id)
            assert rows == found
            assert found.pop("quiet") == 1
            for key, value in found.items():
                lost += value < newest[str(owner.agent_id), key]
            assert len(found) == _KEYS
        await drained(other)
    version = overlaid.site.server.version
    tell("rebuilt, owners alive", version, f"R{overlaid.site.replicas}", {"rounds": rounds,
         "acknowledged": acknowledged, "refused meanwhile": refused, "flushed after s": round(flushed_s, 2),
         "lost": lost})  # fmt: skip
    assert lost == 0
    assert acknowledged > 200
    assert len(incarnations) == 2


@pytest.mark.req("D2.5", "D1.2")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("line", "servers"), [("2.12", 1), ("latest", 1), ("2.12", 3), ("latest", 3)])
def test_a_bucket_rebuilt_under_load_loses_nothing_while_its_owners_live(
    plane_on: Any, run: Run, tell: Run, line: str, servers: int
) -> None:
    run(rebuilt_under(plane_on(line, servers, lease_s=_LEASE_S), 5, tell), 280)


def record(plane: holdfast.Plane) -> set[Position]:
    """Where the writes stand that the journal gave to this plane's flusher, from now on."""
    journal, taken = plane.home.journal, set()
    parse = journal.parse

    def parsed(*args: Any, **options: Any) -> Any:
        change = parse(*args, **options)
        if change is not None:
            taken.add(change.position)
        return change

    journal.parse = parsed  # type: ignore[method-assign]
    return taken


async def follow(plane: holdfast.Plane) -> None:
    """Write until the journal follows the present bucket: it skips revisions after a rebuild, or waits some 20 s."""
    bucket = plane.home.bucket
    async with plane.agent(uuid4()) as agent, asyncio.timeout(60):
        while True:
            await asyncio.gather(*(agent.put(f"k{number}", number) for number in range(100)))
            mark = await bucket.get(FLUSHER_KEY)
            if mark is not None and read_mark(mark.value or b"") == (bucket.incarnation, True):
                return
            await asyncio.sleep(0.1)


async def killed_with(overlaid: Overlaid, *, follows: bool) -> dict[str, int]:
    """The bucket is deleted under its owner's load, and the owner killed with it. Counts of one round."""
    agent_id = str(uuid4())
    async with holdfast.connect(overlaid.environ) as plane:
        if follows:
            await follow(plane)
        taken = record(plane)
        owner = overlaid.program("flood", agent_id)
        try:
            await asyncio.to_thread(owner.stdout.readline)  # type: ignore[union-attr]
            telling = asyncio.create_task(asyncio.to_thread(told, owner))
            await asyncio.sleep(random.uniform(0.3, 1.5))
            config = await config_of(plane.nc)
            await plane.nc.request("$JS.API.STREAM.DELETE.KV_AGENT_STATE", b"", timeout=5)
            owner.kill()
            written = {key: Position(*at) for key, at in await telling}
        finally:
            owner.kill()
        await overlaid.site.ask(plane.nc, "CREATE.KV_AGENT_STATE", json.dumps(config).encode())
        async with plane.agent(agent_id, wait_s=20) as agent:
            found = await agent.items()
            await agent.put("after", 1, ack="sql")
        await drained(plane)
        rows = overlaid.rows(agent_id)
        # While nothing follows the bucket, what a flusher read of it may come to the database after its next owner.
        assert rows == {**found, "after": 1} if follows else rows.keys() >= found.keys() | {"after"}
    not_taken = {key for key, at in written.items() if at not in taken}
    lost = written.keys() - found.keys() - rows.keys()
    assert lost <= not_taken, (len(lost), len(lost - not_taken), len(not_taken))
    return {"acknowledged": len(written), "not taken by the source": len(not_taken), "lost": len(lost)}


@pytest.mark.req("D2.5")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("line", "servers", "follows"),
    [("2.12", 1, True), ("latest", 1, True), ("latest", 3, True), ("2.12", 1, False), ("latest", 1, False)],
)
def test_with_the_owner_killed_too_at_most_what_the_source_had_not_taken_is_lost(
    plane_on: Any, run: Run, tell: Run, line: str, servers: int, follows: bool
) -> None:
    """Without ``follows`` each bucket is deleted before the journal follows it: its heads are written directly then."""
    overlaid = plane_on(line, servers, lease_s=_LEASE_S)

    async def scenario() -> None:
        rounds = [await killed_with(overlaid, follows=follows) for _ in range(5)]
        sums = {name: sum(counts[name] for counts in rounds) for name in rounds[0]}
        how = "followed" if follows else "not followed"
        tell("rebuilt, owner killed", overlaid.site.server.version, f"R{servers}", how, {"rounds": len(rounds)} | sums)
        assert sums["acknowledged"] > 500

    run(scenario(), 280)
