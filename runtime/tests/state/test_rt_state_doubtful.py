"""Writes whose outcome is unknown, edits that are half done, and what a handle must not keep from its last life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from state.test_rt_state_flusher import eventually

import holdfast
from holdfast.errors import CodecError, OperationTimeout
from holdfast.kv.entry import Position
from holdfast.state.edits import Edit, renewed
from holdfast.state.keys import EDIT_KEY
from holdfast.state.unflushed import Kept

if TYPE_CHECKING:
    from conftest import Servers
    from state.conftest import Database


@dataclass
class Pair:
    left: int = 0
    right: int = 0


class Stopped:
    """The server of NATS, which can be made to hang."""

    def __init__(self, servers: Servers) -> None:
        self._pid = servers.pid("nats")

    @contextlib.contextmanager
    def hangs(self) -> Iterator[None]:
        os.kill(self._pid, signal.SIGSTOP)
        try:
            # A thread that is in the middle of an answer still gives it.
            while any(") T " not in stat.read_text() for stat in Path(f"/proc/{self._pid}/task").glob("*/stat")):
                time.sleep(0.001)
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
def nats(servers: Servers) -> Stopped:
    return Stopped(servers)


async def while_a_put_is_cancelled(
    nats: Stopped, agent: holdfast.AgentState[Any], key: str, *others: Awaitable[Any]
) -> list[Any]:
    """Put a key while the server hangs, let ``others`` wait for it, cancel the put. Returns what they return."""
    with nats.hangs():
        put = asyncio.ensure_future(agent.put(key, "new"))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(other) for other in others]
        await asyncio.sleep(0.2)
        assert not any(each.done() for each in waiting)
        put.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await put
    return await asyncio.gather(*waiting)


@pytest.mark.req("D11.2", "D11.3", "D2.4")
def test_a_write_of_unknown_outcome_is_in_checkpoints_forks_and_views_and_goes_with_a_restore(
    environ: Mapping[str, str], database: Database, nats: Stopped
) -> None:
    agent_id, new_id = uuid4(), uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            await agent.put("keep", 1)
            await agent.checkpoint("early")
            await agent.put("k", "old", ack="sql")
            assert await agent.items() == {"keep": 1, "k": "old"}
            whole = agent.items(holdfast.ConsistencyLevel.CROSS_SYSTEM)
            kept, seen, _ = await while_a_put_is_cancelled(
                nats, agent, "k", agent.checkpoint(), whole, agent.fork(new_id)
            )
            now = await agent.items()
            assert now["k"] in {"old", "new"}
            stored = "SELECT state_snapshot -> 'values' FROM agents.checkpoints WHERE checkpoint_id = %s"
            assert database.query(stored, kept.checkpoint_id) == [(now,)]
            assert (seen, database.values(new_id)) == (now, now)
            await while_a_put_is_cancelled(nats, agent, "k", agent.restore("early"))
            assert await agent.items() == database.values(agent_id) == {"keep": 1}

    asyncio.run(main())


@pytest.mark.req("D2.3")
def test_flush_waits_for_what_was_written_with_unknown_outcome(
    environ: Mapping[str, str], database: Database, nats: Stopped
) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            await agent.put("k", "old", ack="sql")
            plane.home.bucket.timeout_s = 0.3
            with nats.hangs(), pytest.raises(OperationTimeout, match="unknown"):
                await agent.put("k", "new")
            plane.home.bucket.timeout_s = 5
            await agent.flush()
            assert database.values(agent.agent_id) == {"k": await agent.get("k")} == {"k": "new"}
            await agent.put("k", "newer")
            plane.home.bucket.timeout_s = 0.3
            with nats.hangs():
                with pytest.raises(OperationTimeout, match="unknown"):
                    await agent.put("k", "newest")
                with pytest.raises(OperationTimeout):
                    await agent.flush(0.2)

    asyncio.run(main())


def test_the_record_of_an_edit_is_put_again_with_what_its_keys_have_since() -> None:
    old = Edit({"written": b"1", "same": b"2", "flushed": b"3", "alone": b"4", "deleted": b"5"}, 2, {"type": "x"})
    kept = {
        "alone": Kept(b"0", Position(1, 9), since_s=0),
        EDIT_KEY: Kept(old.encode(), Position(1, 10), since_s=0),
        "same": Kept(b"2", Position(1, 12), since_s=0),
        "written": Kept(b'"longer"', Position(1, 20), since_s=0),
        "deleted": Kept(None, Position(2, 1), since_s=0),
    }
    data, alone = renewed(kept, {"alone", "other", "same"}, 1000)
    assert data is not None
    want = Edit({"written": b'"longer"', "same": b"2", "alone": b"4", "deleted": None}, 2, {"type": "x"})
    assert (Edit.decode(data), alone) == (want, {"alone"})
    data, _ = renewed(kept, {"alone"}, len(data) - 1)
    assert data is not None
    assert Edit.decode(data).values == {"same": b"2", "alone": b"4"}
    assert renewed({}, {"alone"}, 1000) == (None, set())


@pytest.mark.req("D1.3", "D2.3")
def test_an_edit_of_which_the_database_refuses_a_key_does_not_count_as_complete_there(
    environ: Mapping[str, str], database: Database
) -> None:
    """Its owner died before it wrote the keys: the next one has them from the record."""

    agent_id = uuid4()
    recorded = "SELECT count(*) FROM agents.state WHERE state_key = 'holdfast.edit' AND agent_id = %s"

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            record = Edit({"left": b"1", "right": b"-1"}).encode()
            await agent.lease.writer.write(f"{agent_id}.state.{EDIT_KEY}", record)
            flusher = plane.home.flusher
            assert flusher is not None
            await eventually(lambda: flusher.parked and database.values(agent_id) == {"left": 1})
            assert {parked.state_key for parked in flusher.parked.values()} == {"right"}
            async with plane.agent(agent_id, owned=False) as reader:
                assert await reader.items() == {"left": 1, "right": -1}
            assert database.query(recorded, agent_id) == [(0,)]
            await agent.put("right", 0, ack="sql")
            await plane.monitor.repair(agent_id)
            assert not flusher.parked
            assert database.query(recorded, agent_id) == [(1,)]

    check = f"agent_id <> '{agent_id}' OR state_key <> 'right' OR state_value <> '-1'"
    database.query(f"ALTER TABLE agents.state ADD CONSTRAINT doubtful CHECK ({check}) NOT VALID")
    try:
        asyncio.run(main())
    finally:
        database.query("ALTER TABLE agents.state DROP CONSTRAINT IF EXISTS doubtful")


@pytest.mark.req("D2.1")
def test_a_handle_that_was_closed_during_a_flush_begins_anew(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane:
            agent = plane.agent(uuid4())
            for is_told in (False, True):
                async with agent:
                    await agent.items()
                    agent.flush_phase(begins=True)
                async with agent:
                    await agent.items()
                    if is_told:
                        agent.flush_phase(begins=False)  # of the flush before
                    agent.flush_phase(begins=True)
                    assert str(agent.status) == "flushing"
                    agent.flush_phase(begins=False)
                    assert str(agent.status) == "active"

    asyncio.run(main())


def test_keys_that_come_and_go_are_not_remembered(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4(), Pair) as agent:
            async with agent.edit() as pair:
                pair.left = pair.right = 1
            await agent.items()
            versions = agent.lease.ownership._versions
            before = (len(agent._keys), len(versions))
            for number in range(10):
                await agent.put(f"k{number}", number)
                await agent.delete(f"k{number}")
                assert await agent.get(f"none{number}", None) is None
            assert (len(agent._keys), len(versions)) == before
            with pytest.raises(CodecError, match="own"):
                await agent.put(EDIT_KEY, 1)

    asyncio.run(main())
