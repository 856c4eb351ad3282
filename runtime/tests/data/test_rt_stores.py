"""Everything at once on one connected plane, as an application would build it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.errors import ConfigurationError, NotFound
from holdfast.merge.crdt import Document
from holdfast.merge.strategies import Resolver, Strategy
from holdfast.registry import Agent
from holdfast.router import DataType


@pytest.mark.req("D3.1", "D4.1", "D4.6", "D5.2", "D13.2")
def test_all_stores_of_a_plane(open_plane: Callable[[], Any], environ: Mapping[str, str], agent_id: str) -> None:
    async def main() -> None:
        async with open_plane():
            pass  # its buckets are all there now
        async with holdfast.connect(environ) as plane, plane.agent(agent_id, wait_s=5) as handle:
            stores = plane.stores
            cached = await stores.cached_agents()
            agent = await cached.save(Agent(uuid4(), "worker", "one"))
            assert await cached.find(agent.agent_id) == agent
            await cached.update(replace(agent, status="active"))
            assert (await cached.find(agent.agent_id)).status == "active"

            queries = await stores.query_cache(memory_ttl_s=5)

            async def load() -> int:
                async with plane.pools.primary.connection() as connection:
                    cursor = await connection.execute(
                        "SELECT count(*) FROM agents.registry WHERE agent_type = 'worker'"
                    )
                    row = await cursor.fetchone()
                return int(row[0]) if row else 0

            count = await queries.get_or_load("workers", [], load, groups=["agents"])
            assert count == await queries.get_or_load("workers", [], load, groups=["agents"])

            tags = await stores.shared(
                plane.contract.names.config_bucket, Resolver(Strategy.CRDT_MERGE), actor="worker-1"
            )
            key = f"tags.{agent.agent_id}"
            held = await tags.update_document(key, lambda held: held.add("worker-1", "new"), Document("or-set"))
            assert held.value() == ["new"]

            router = await stores.router()
            await router.store(DataType.SESSION_DATA, agent_id, {"user": 1})
            await router.store(DataType.AGENT_STATE, f"{agent_id}/step", 1)
            assert await handle.get("step") == 1
            with pytest.raises(NotFound, match="not open in this process"):
                await router.store(DataType.AGENT_STATE, f"{uuid4()}/step", 1)
            assert stores.vectors() is not None
            assert await stores.bucket("SESSION_DATA") is await stores.bucket("SESSION_DATA")
            with pytest.raises(ConfigurationError, match="no bucket"):
                await stores.bucket("ELSEWHERE")
            with pytest.raises(ConfigurationError, match="have owners"):
                await stores.shared(plane.contract.names.state_bucket, Resolver(Strategy.VECTOR_CLOCK), actor="a")
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("holdfast")] == []

    asyncio.run(main())


def test_neither_driver_is_imported_before_it_is_needed() -> None:
    code = "import sys, holdfast.stores, holdfast.batch; print(*[m for m in ('nats', 'psycopg') if m in sys.modules])"
    path = str(Path(holdfast.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, check=True)
    assert done.stdout.split() == []
