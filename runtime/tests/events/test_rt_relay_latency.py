"""How long an event takes from its commit to its stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest

from holdfast.events.outbox import Outbox
from holdfast.events.relay import Relay


async def _measure(plane: Any, relay: Relay, number: int = 400) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds."""
    outbox, agent = Outbox(plane.contract), str(uuid4())
    committed: dict[str, float] = {}
    took: list[float] = []

    async def arrived(message: Any) -> None:
        name = message.headers["Nats-Msg-Id"]
        while name not in committed:  # It may be here before our own commit is told.
            await asyncio.sleep(0)
        took.append(max(0.0, time.perf_counter() - committed[name]))

    subscription = await plane.client.subscribe(f"agents.state.{agent}", cb=arrived)
    async with relay:
        await asyncio.sleep(0.5)
        for n in range(number):
            async with plane.pools.primary.connection() as connection:
                async with connection.transaction():
                    name = str(await outbox.add(connection, f"agents.state.{agent}", {"n": n}))
                committed[name] = time.perf_counter()
            await asyncio.sleep(0.007)
        deadline = time.monotonic() + 10
        while len(took) < number and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
    await subscription.unsubscribe()
    assert len(took) == number
    took.sort()
    return took[number // 2] * 1000, took[int(number * 0.95)] * 1000


@pytest.mark.soak
@pytest.mark.req("E1.4", "E1.8")
def test_events_are_there_soon_and_sooner_when_the_relay_is_woken(open_plane: Any, servers: Any) -> None:
    import psycopg

    def turn(state: str) -> None:
        with psycopg.connect(**servers.admin, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE runtime.outbox {state} TRIGGER outbox_wake")

    async def main() -> None:
        async with open_plane() as plane:
            polling = await _measure(plane, Relay(plane.pools, plane.client, plane.contract))
            turn("ENABLE")
            woken = await _measure(plane, Relay(plane.pools, plane.client, plane.contract))
            print(f"polling: p50 {polling[0]:.1f} ms, p95 {polling[1]:.1f} ms")
            print(f"woken: p50 {woken[0]:.1f} ms, p95 {woken[1]:.1f} ms")
            assert polling[1] < 50
            assert woken[1] < 15

    try:
        asyncio.run(main())
    finally:
        turn("DISABLE")
