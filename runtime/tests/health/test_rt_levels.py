"""Consistency levels by name: strong is what the database has, eventual the newest write, cross-system one moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

import holdfast
from holdfast import ConsistencyLevel
from holdfast.errors import NotFound, OperationTimeout, Unsupported
from holdfast.state.levels import read_strong

if TYPE_CHECKING:
    from conftest import Servers


def rows_of(servers: Servers, agent_id: Any) -> dict[str, Any]:
    """What agents.state has, past the library."""
    with psycopg.connect(**servers.admin) as connection:
        cursor = connection.execute(
            "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND deleted_at IS NULL"
            " AND NOT starts_with(state_key, 'holdfast.')",
            [agent_id],
        )
        return dict(cursor.fetchall())


@asynccontextmanager
async def database_that_takes_nothing(servers: Servers) -> AsyncIterator[None]:
    """It answers, and writes to agents.state wait for a lock."""
    async with await psycopg.AsyncConnection.connect(**servers.admin) as connection:
        await connection.execute("LOCK TABLE agents.state IN SHARE MODE")
        yield


@pytest.mark.req("F1.5", "F1.2")
@pytest.mark.parametrize("owned", [True, False])
def test_a_strong_read_waits_for_the_database_and_an_eventual_one_does_not(servers: Servers, owned: bool) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(servers.environ) as plane, plane.agent(agent_id) as owner:
            await owner.put("k", 1, ack="sql")
            await owner.put("gone", 1, ack="sql")
            reader = owner if owned else plane.agent(agent_id, owned=False)
            async with database_that_takes_nothing(servers):
                await owner.put("k", 2)
                await owner.delete("gone")
                assert await reader.get("k") == 2
                assert rows_of(servers, agent_id)["k"] == 1
                with pytest.raises(OperationTimeout):
                    await read_strong(plane.home, agent_id, 0.3)
                strong = asyncio.create_task(reader.get("k", level=ConsistencyLevel.STRONG))
                await asyncio.sleep(0.1)
                assert not strong.done()
            assert await strong == 2
            assert rows_of(servers, agent_id) == {"k": 2}
            assert await reader.items(ConsistencyLevel.STRONG) == {"k": 2}
            assert await reader.get("gone", None, level=ConsistencyLevel.STRONG) is None
            with pytest.raises(NotFound):
                await reader.get("gone", level=ConsistencyLevel.STRONG)

    asyncio.run(main())


@pytest.mark.req("F1.5")
def test_a_strong_read_does_not_wait_for_what_hydration_put_back(environ: Mapping[str, str]) -> None:
    """Such an entry is younger than its row, and no flush ever takes the row there."""
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(agent_id) as owner:
                await owner.put("k", 1, ack="sql")
            state = plane.contract.names.state_bucket
            await plane.nc.jetstream().purge_stream(f"KV_{state}", subject=f"$KV.{state}.{agent_id}.state.>")
            async with plane.agent(agent_id) as owner:
                assert await owner.get("k") == 1
                assert await read_strong(plane.home, agent_id, 2) == {"k": b"1"}

    asyncio.run(main())


@dataclass
class Pair:
    left: int = 50
    right: int = 50


@pytest.mark.req("F1.5", "D11.1")
def test_a_cross_system_read_is_of_one_moment_and_in_the_database(servers: Servers) -> None:
    agent_id = uuid4()

    async def edit(agent: holdfast.AgentState[Pair]) -> None:
        while True:
            async with agent.edit() as pair:
                pair.left, pair.right = pair.left - 1, pair.right + 1

    async def main() -> None:
        async with holdfast.connect(servers.environ) as plane, plane.agent(agent_id, Pair) as agent:
            editing = asyncio.create_task(edit(agent))
            await asyncio.sleep(0.05)
            for _ in range(5):
                found = await agent.items(ConsistencyLevel.CROSS_SYSTEM)
                assert found["left"] + found["right"] == 100
                stored = rows_of(servers, agent_id)
                assert stored["right"] >= found["right"]
            editing.cancel()
            await asyncio.gather(editing, return_exceptions=True)
            found = await agent.items(ConsistencyLevel.CROSS_SYSTEM)
            assert found == await agent.items() == rows_of(servers, agent_id)
            reader = plane.agent(agent_id, Pair, owned=False)
            with pytest.raises(Unsupported):
                await reader.items(ConsistencyLevel.CROSS_SYSTEM)

    asyncio.run(main())


@pytest.mark.req("F1.5")
def test_the_levels_are_named() -> None:
    assert [level.value for level in ConsistencyLevel] == ["strong", "eventual", "cross_system"]
