"""A bucket that lost what it had acknowledged, and one that stays away for longer than a lease: both are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.errors import ConsistencyViolation, Fenced, HoldfastError

if TYPE_CHECKING:
    from conftest import Servers
    from state.conftest import Database

_BUCKET = "STREAM.{}.KV_AGENT_STATE"
_BACK = "UPDATE agents.state SET kv_revision = kv_revision + %s WHERE agent_id = %s"


@pytest.mark.req("F1.1", "D1.5", "D3.6")
def test_a_write_that_the_database_would_refuse_for_a_bucket_gone_back_is_not_called_durable(
    environ: Mapping[str, str], database: Database
) -> None:
    """The row is moved ahead, as it is where the bucket has lost its last writes, and nobody here has seen them."""
    agent_id, other = uuid4(), uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("k", "flushed", ack="sql")
            async with plane.agent(other) as closed:
                await closed.put("k", 1, ack="sql")
            for each in (agent_id, other):
                database.query(_BACK, 10**6, each)
            with pytest.raises(ConsistencyViolation, match="holdfast apply"):
                await agent.put("k", "after", ack="sql")
            for _ in range(2):
                with pytest.raises(ConsistencyViolation):
                    await agent.put("k", "after")
            assert "k" in agent.unflushed.kept
            report = await plane.health()
            assert report.status is holdfast.HealthStatus.UNHEALTHY
            assert any("went back" in reason for reason in report.reasons)
        async with holdfast.connect(environ, background=False) as plane:
            with pytest.raises(ConsistencyViolation):
                await plane.agent(other).__aenter__()
        async with holdfast.connect(environ, background=False) as plane:
            with pytest.raises(ConsistencyViolation):
                await plane.agent(agent_id, owned=False).items()

    try:
        asyncio.run(main())
    finally:
        for each in (agent_id, other):
            database.query(_BACK, -(10**6), each)

    async def end() -> None:
        """What was held up is in the journal still."""
        async with holdfast.connect(environ), asyncio.timeout(20):
            while database.values(agent_id) != {"k": "after"}:
                await asyncio.sleep(0.05)

    asyncio.run(end())


@asynccontextmanager
async def without_the_bucket(plane: holdfast.Plane) -> AsyncIterator[None]:
    """Delete the bucket, and what its journal holds, as if that had not taken it over; make the bucket again."""

    async def ask(what: str, body: Any = None) -> Any:
        return json.loads((await plane.nc.request(f"$JS.API.{what}", json.dumps(body or {}).encode(), timeout=5)).data)

    config = (await ask(_BUCKET.format("INFO")))["config"]
    config.pop("metadata", None)
    await ask(_BUCKET.format("DELETE"))
    await ask(f"STREAM.PURGE.{plane.home.journal.stream}")
    try:
        yield
    finally:
        assert "error" not in await ask(_BUCKET.format("CREATE"), config)


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.req("F1.1", "D3.6")
def test_what_the_journal_lacks_reaches_the_database_while_the_lease_lasts(
    small: Servers, small_database: Database
) -> None:
    """No flusher runs: whatever the database has was handed over."""
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ, background=False) as plane, plane.agent(agent_id) as agent:
            for number in range(50):
                await agent.put(f"k{number}", number)
            async with without_the_bucket(plane):
                await asyncio.sleep(5)
                assert not agent.unflushed.kept
            with pytest.raises(Fenced):
                await agent.put("late", 1)

    asyncio.run(main())
    assert small_database.values(agent_id) == {f"k{number}": number for number in range(50)}


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.req("F1.1", "D3.6")
def test_what_an_owner_could_hand_over_to_nobody_is_told_by_name(
    small: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(small.environ, background=False) as plane:
            agent = await plane.agent(agent_id).__aenter__()
            await agent.put("lost", 1)

            async def away(changes: object) -> None:
                raise HoldfastError("the database is away")

            with monkeypatch.context() as patch:
                patch.setattr(plane.home.writer, "write", away)
                async with without_the_bucket(plane):
                    await asyncio.sleep(5)
            async with asyncio.timeout(20):
                while not plane.home.stranded:
                    await asyncio.sleep(0.1)
            with pytest.raises(ConsistencyViolation, match="'lost'"):
                await agent.close()
            assert (await plane.consistency()).stranded == ((agent_id, "lost"),)

    asyncio.run(main())
