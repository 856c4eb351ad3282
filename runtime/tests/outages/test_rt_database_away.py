"""The database away for three times the bucket's TTL, then until the journal is full, under everything a plane does."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import sys
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from outages.bed import Bed, bed
from outages.loads import Load, loaded

import holdfast
from holdfast.errors import BackPressure

TTL_S = 20
AWAY_S = 3 * TTL_S + 5
JOURNAL = 20_000


def _in_sql(place: Bed, agent_id: UUID) -> dict[str, Any]:
    return dict(
        place.query(
            "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND NOT starts_with(state_key, %s)",
            agent_id,
            "holdfast.",
        )
    )


class Diary:
    """An agent that writes each key once, and reads what it wrote: nothing of it is in the bucket after its TTL."""

    def __init__(self, agent: holdfast.AgentState[Any]) -> None:
        self.agent = agent
        self.told: dict[str, int] = {}
        self.refused = 0
        self.reads_us: list[float] = []

    async def write(self, number: int) -> None:
        try:
            await self.agent.put(f"n{number}", number)
            self.told[f"n{number}"] = number
        except BackPressure:
            self.refused += 1

    async def read(self) -> None:
        key = random.choice(list(self.told))
        start = time.perf_counter()
        assert await self.agent.get(key) == self.told[key]
        self.reads_us.append((time.perf_counter() - start) * 1e6)

    def figures(self) -> dict[str, Any]:
        reads = statistics.quantiles(self.reads_us, n=100)
        found = {"acknowledged": len(self.told), "refused": self.refused, "reads": len(self.reads_us)}
        return found | {"read p50, µs": round(reads[49], 1), "read p99, µs": round(reads[98], 1)}


@pytest.mark.soak
@pytest.mark.timeout(500)
@pytest.mark.req("D1.2", "D1.5", "D2.3", "D2.4")
def test_a_database_that_is_away_for_three_times_the_ttl_and_then_until_the_journal_is_full_loses_nothing() -> None:
    async def main(place: Bed) -> None:
        async with loaded(place) as load:
            await _three_times_the_ttl(place, load)
        async with holdfast.connect(place.environ, events=True) as plane:
            await _until_the_journal_is_full(place, plane)

    small = {"AGENT_STATE_JOURNAL": {"max_msgs": JOURNAL}}
    with bed(runtime={"lease_ttl": "5s"}, streams=small, buckets={"AGENT_STATE": {"ttl": f"{TTL_S}s"}}) as place:
        asyncio.run(main(place))


async def _three_times_the_ttl(place: Bed, load: Load) -> None:
    async with load.running(pause_s=0.02), load.plane.agent(uuid4(), wait_s=10) as agent:
        diary = Diary(agent)
        await asyncio.sleep(2)
        await asyncio.to_thread(place.first.kill)
        start = time.monotonic()
        for number in itertools.count():
            if time.monotonic() - start > AWAY_S:
                break
            await diary.write(number)
            await diary.read()
            await asyncio.sleep(0.02)
        # The bucket has forgotten the first ones; their owner reads them, and so does whoever only reads.
        bucket = load.plane.home.bucket
        assert await bucket.get(f"{agent.agent_id}.state.n0") is None
        reader = load.plane.agent(agent.agent_id, owned=False)
        assert [await handle.get("n0") for handle in (agent, reader)] == [0, 0]
        waiting = (await load.plane.home.journal.look()).messages
        away_s = time.monotonic() - start
        back = time.monotonic()
        await asyncio.to_thread(place.first.start)
    took = await load.settle()
    caught_up_s = time.monotonic() - back
    assert _in_sql(place, agent.agent_id) == diary.told
    assert diary.refused == 0
    found = {"away, s": round(away_s, 1), "journal": waiting, "caught up under load within, s": round(caught_up_s, 2)}
    found["of that after the load, s"] = round(took, 2)
    sys.stdout.write(f"{found}\n{diary.figures()}\n{await load.check()}\n")


async def _until_the_journal_is_full(place: Bed, plane: holdfast.Plane) -> None:
    agent_ids = [uuid4() for _ in range(8)]

    async def fill(agent_id: UUID) -> Diary:
        diary = Diary(await plane.agent(agent_id, wait_s=10).__aenter__())
        for number in itertools.count():
            await diary.write(number)
            await diary.read()
            if diary.refused > 50:
                assert BackPressure("").retryable
                return diary
        raise AssertionError

    await asyncio.to_thread(place.first.kill)
    start = time.monotonic()
    diaries = await asyncio.gather(*map(fill, agent_ids))
    filled_s = time.monotonic() - start
    look = await plane.home.journal.look()
    assert 0.74 < look.fullness < 1
    await asyncio.to_thread(place.first.start)
    start = time.monotonic()
    refused = 0
    while True:
        try:
            await diaries[0].agent.put("late", 1)
            break
        except BackPressure:
            refused += 1
            await asyncio.sleep(0.1)
    taken_s = time.monotonic() - start
    diaries[0].told["late"] = 1
    for diary in diaries:
        await diary.agent.flush(120)
        await diary.agent.close()
    caught_up_s = time.monotonic() - start
    for diary in diaries:
        assert _in_sql(place, diary.agent.agent_id) == diary.told
    found = {"journal": look.messages, "full after, s": round(filled_s, 2), "writes taken again after, s": taken_s}
    found["caught up after, s"] = round(caught_up_s, 2)
    found["acknowledged"] = sum(len(diary.told) for diary in diaries)
    sys.stdout.write(f"{found}\n{diaries[0].figures()}\n")
