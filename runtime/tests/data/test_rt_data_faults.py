"""Processes and servers that die under repositories and caches."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import holdfast
from holdfast.cache import MemoryCache, QueryCache, connection_epoch
from holdfast.errors import ConfigurationError, ConnectionFailed, RetriesExhausted
from holdfast.kv.bucket import Bucket
from holdfast.registry import Agent, AgentRepository
from holdfast.repository import TieredRepository
from holdfast.retry import Retry
from holdfast.router import DataType, standard_router

Open = Callable[[], Any]
SAVE_POINTS = ["agent.stored", "agent.committed"]


async def _repository(plane: Any, **options: Any) -> AgentRepository:
    return AgentRepository(await plane.bucket("config"), plane.pools, plane.contract.names, **options)


async def _name_in_table(plane: Any, id: UUID) -> str | None:
    rows = await plane.execute("SELECT agent_name FROM agents.registry WHERE agent_id = %s", [id])
    return rows[0][0] if rows else None


@pytest.mark.req("D4.2")
@pytest.mark.parametrize("point", SAVE_POINTS)
def test_what_a_killed_process_had_saved_is_brought_to_the_table(
    open_plane: Open, environ: Mapping[str, str], point: str
) -> None:
    id = uuid4()
    program = [sys.executable, str(Path(__file__).with_name("saving.py")), str(id), "saved", point]
    path = str(Path(holdfast.__file__).parents[1])
    done = subprocess.run(
        program, env={**os.environ, **environ, "PYTHONPATH": path}, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    async def main() -> None:
        async with open_plane() as plane:
            agents = await _repository(plane)
            assert not (await agents.look(id)).is_durable
            assert (await _name_in_table(plane, id) is not None) == (point == "agent.committed")
            assert id in (await agents.recover()).values
            assert await _name_in_table(plane, id) == "saved"
            assert (await agents.look(id)).is_durable

    asyncio.run(main())


@pytest.mark.req("D4.2", "D4.5")
def test_saves_go_on_while_the_database_is_down_and_reach_it_after(servers: Any, open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agents = await _repository(plane, retry=Retry(attempts=60, base_s=0.1, cap_s=0.5))
            saved = [Agent(uuid4(), "worker", f"n-{number}") for number in range(5)]
            durable = Agent(uuid4(), "worker", "durable")
            for agent in (saved[0], durable):
                await agents.save(agent, durability="sql")
            await asyncio.to_thread(servers.kill, "postgres")
            try:
                for agent in saved:
                    start = time.monotonic()
                    await agents.save(replace(agent, status="active"))
                    assert time.monotonic() - start < 1
                    assert (await agents.find(agent.agent_id)).status == "active"
                old = await _repository(plane, ttl_s=0)
                assert (await old.find(durable.agent_id)) == durable
            finally:
                await asyncio.to_thread(servers.start)
            await agents.drain(60)
            assert not agents.failures
            ids = [agent.agent_id for agent in saved]
            rows = await plane.execute(
                "SELECT count(*) FROM agents.registry WHERE agent_id = ANY(%s) AND status = 'active'", [ids]
            )
            assert rows[0][0] == 5

    asyncio.run(main())


@pytest.mark.req("D4.2", "D4.5")
def test_saves_that_were_given_up_reach_the_table_later(
    open_plane: Open, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the process itself, and by the background of any other."""
    monkeypatch.setattr("holdfast.registry._AGAIN_S", 0.3)
    monkeypatch.setattr("holdfast.registry._RECOVER_S", 0.3)
    monkeypatch.setattr("holdfast.plane._RECOVER_AFTER_S", 0.0)
    ours, left, deleted = (Agent(uuid4(), "worker", name) for name in ("ours", "left", "deleted"))

    class Away:
        """Pools that give no connection for a while."""

        is_away = True

        def __init__(self, pools: Any) -> None:
            self._pools = pools

        def __getattr__(self, name: str) -> Any:
            if name == "background" and self.is_away:
                raise ConnectionFailed("the database is away")
            return getattr(self._pools, name)

    async def main() -> None:
        async with open_plane() as plane:
            config, names = await plane.bucket("config"), plane.contract.names
            await (await _repository(plane)).save(deleted, durability="sql")
            away = Away(plane.pools)
            agents = AgentRepository(config, away, names, retry=Retry(attempts=2, base_s=0.01))  # type: ignore[arg-type]
            await agents.save(ours)
            with pytest.raises(RetriesExhausted):
                await agents.drain()
            away.is_away = False
            async with asyncio.timeout(10):
                while await _name_in_table(plane, ours.agent_id) != "ours" or agents.failures:
                    await asyncio.sleep(0.05)

            async def leave(agent: Agent) -> None:
                """Save it to the bucket alone, as a process does that then crashes."""
                lost = AgentRepository(config, Away(plane.pools), names, retry=Retry(attempts=1))  # type: ignore[arg-type]
                await lost.save(agent)
                with pytest.raises(ConnectionFailed):
                    await lost.close()

            await leave(left)
            # Another program, not this library: that deletes nothing in the table.
            await plane.client.publish(f"$KV.{config.name}.agent.{deleted.agent_id}", headers={"KV-Operation": "DEL"})
            async with holdfast.connect(environ), asyncio.timeout(10):
                while await _name_in_table(plane, left.agent_id) != "left":
                    await asyncio.sleep(0.05)
                await leave(replace(left, agent_name="again"))
                while await _name_in_table(plane, left.agent_id) != "again":
                    await asyncio.sleep(0.05)
            assert await _name_in_table(plane, deleted.agent_id) == "deleted"

    asyncio.run(main())


@pytest.mark.req("D4.3")
def test_memory_follows_changes_again_after_the_server_was_killed(servers: Any, open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane, open_plane() as elsewhere:
            agents, other = await _repository(plane), await _repository(elsewhere)
            cached: TieredRepository[UUID, Agent] = TieredRepository(
                agents,
                id_of=lambda agent: agent.agent_id,
                memory=MemoryCache(link=connection_epoch(plane.client)),
                tier=agents.tier(),
            )
            agent = Agent(uuid4(), "worker", "one")
            await agents.save(agent, durability="sql")
            running = asyncio.ensure_future(cached.run())
            await asyncio.sleep(0.3)
            assert (await cached.find(agent.agent_id)).agent_name == "one"
            assert agent.agent_id in cached.memory
            await asyncio.to_thread(servers.kill, "nats")
            await asyncio.sleep(0.2)
            assert cached.memory.get(agent.agent_id) is None, "what nobody would tell us of is not served"
            await asyncio.to_thread(servers.start)
            await other.save(replace(agent, agent_name="two"), durability="sql")
            assert (await cached.find(agent.agent_id)).agent_name == "two"
            await asyncio.sleep(2)
            await cached.find(agent.agent_id)
            await other.save(replace(agent, agent_name="three"), durability="sql")
            async with asyncio.timeout(5):
                while (await cached.find(agent.agent_id)).agent_name != "three":
                    await asyncio.sleep(0.01)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.req("D4.6")
def test_queries_go_on_when_the_bucket_of_results_is_gone_and_are_cached_when_it_is_back(open_plane: Open) -> None:
    """A bucket in memory ends with a server that stands alone."""

    async def main() -> None:
        async with open_plane() as plane:
            bucket = await plane.bucket("cache")
            bucket.timeout_s = 1.0
            cache, runs = QueryCache(bucket, rest_s=1.0), 0

            async def load() -> int:
                nonlocal runs
                runs += 1
                return runs

            assert [await cache.get_or_load("q", [id], load) for id in (1, 1)] == [1, 1]
            await plane.client.jetstream().delete_stream(f"KV_{plane.contract.names.cache_bucket}")
            start = time.monotonic()
            assert [await cache.get_or_load("q", [1], load) for _ in range(20)] == list(range(2, 22))
            assert time.monotonic() - start < 0.8
            await cache.invalidate("q", [1])
            await cache.invalidate_group("g")
            for attempt in (bucket.get("query.x"), bucket.create("query.x", b"")):
                with pytest.raises(ConfigurationError, match="QUERY_CACHE does not exist; holdfast apply makes it"):
                    await attempt
            await plane.make_cache_bucket()
            async with asyncio.timeout(5):
                while await cache.get_or_load("q", [1], load) != await cache.get_or_load("q", [1], load):
                    await asyncio.sleep(0.05)

    asyncio.run(main())


@pytest.mark.req("D5.2")
def test_routed_agent_state_reaches_the_database(environ: Mapping[str, str], agent_id: str) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id, wait_s=5) as agent:
            sessions = await Bucket.open(plane.nc, plane.contract.bucket(plane.contract.names.session_bucket))
            handles = {UUID(agent_id): agent}
            router = standard_router(plane.pools, plane.contract.names, sessions, handles.__getitem__)
            await router.store(DataType.AGENT_STATE, f"{agent_id}/plan.step", {"n": 1})
            assert await router.retrieve(DataType.AGENT_STATE, f"{agent_id}/plan.step") == {"n": 1}
            assert await router.search(DataType.AGENT_STATE, agent_id) == [(f"{agent_id}/plan.step", {"n": 1})]
            await agent.flush()
            async with plane.pools.primary.connection() as connection:
                found = await connection.execute(
                    "SELECT state_value FROM agents.state WHERE agent_id = %s AND state_key = 'plan.step'", [agent_id]
                )
                assert (await found.fetchone()) == ({"n": 1},)

    asyncio.run(main())
