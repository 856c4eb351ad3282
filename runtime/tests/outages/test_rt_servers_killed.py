"""NATS and PostgreSQL killed and started again, over and over, while state, events and work go on."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from typing import Any

import pytest
from outages.bed import Bed, bed
from outages.loads import Load, loaded

#: Short, so that what a killed leader leaves behind is taken up within the test.
_RUNTIME = {"lease_ttl": "5s"}
_JOURNAL = {"AGENT_STATE_JOURNAL": {"consumers": {"flusher": {"ack_wait": "3s"}}}}


def tell(what: str, found: Any) -> None:
    sys.stdout.write(f"{what}: {found}\n")


async def _check(load: Load, title: str, kills: Any) -> None:
    took = await load.settle()
    found = await load.check()
    tell(title, {"kills": kills, "settled within, s": round(took, 1), **found})
    for what in ("puts", "events", "works"):
        assert load.ledger.acknowledged[what] > 20


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.req("D1.5", "D2.3", "E1.4", "D7.5", "D7.6")
def test_one_server_of_each_killed_again_and_again_under_load() -> None:
    async def main(place: Bed) -> None:
        async with loaded(place) as load:
            kills = []
            async with load.running():
                # Once for longer than a write or a publication waits, so that they fail.
                for system, away_s in itertools.product(("nats", "postgres"), (0.5, 7, 0.5, 0.5)):
                    await asyncio.sleep(2)
                    if system == "nats":
                        await asyncio.to_thread(place.bounce, place.members[0], away_s)
                    else:
                        await asyncio.to_thread(place.first.kill)
                        await asyncio.sleep(away_s)
                        await asyncio.to_thread(place.first.start)
                    kills.append(system)
                await asyncio.sleep(2)
            await _check(load, "one server each", len(kills))

    with bed(runtime=_RUNTIME, streams=_JOURNAL) as place:
        asyncio.run(main(place))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.req("D1.5", "D2.3", "E1.4", "D7.5", "D7.6")
def test_leaders_and_followers_of_a_cluster_killed_again_and_again_under_load() -> None:
    """Three servers with R3: the leader of each stream in turn, then a follower of it; PostgreSQL in between."""
    streams = ("KV_AGENT_STATE", "AGENT_STATE_JOURNAL", "TASK_EXECUTION", "KV_AGENT_CONFIG")
    rounds = 3

    async def main(place: Bed) -> None:
        async with loaded(place) as load:
            kills = []
            async with load.running():
                for number, stream in enumerate(itertools.chain.from_iterable([streams] * rounds)):
                    for part in ("leader", "follower"):
                        leader = await place.leader(load.plane.nc, stream)
                        others = [member.name for member in place.members if member.name != leader]
                        name = leader if part == "leader" else random.choice(others)
                        await asyncio.to_thread(place.bounce, place.member(name), 0.5)
                        kills.append(part)
                        await asyncio.sleep(1)
                    if number % len(streams) == 0:
                        await asyncio.to_thread(place.first.kill)
                        await asyncio.to_thread(place.first.start)
                        kills.append("postgres")
            await _check(load, "three servers, R3", {part: kills.count(part) for part in set(kills)})

    with bed(servers=3, runtime=_RUNTIME, streams=_JOURNAL) as place:
        asyncio.run(main(place))
