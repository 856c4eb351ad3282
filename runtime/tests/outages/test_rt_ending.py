"""Processes that are told to end, and planes that are closed while their servers are away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from outages.loads import messages

import holdfast
from holdfast.sql.transactions import Boundary, TransactionContext
from holdfast.work.steps import KvPut, SqlInsert

if TYPE_CHECKING:
    from conftest import Servers

_HERE = Path(__file__).parent
#: What an orchestrator gives a process between SIGTERM and SIGKILL (Kubernetes, terminationGracePeriodSeconds).
_GRACE_S = 30


def _query(servers: Servers, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(**servers.admin) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def _values(servers: Servers, agent_id: UUID) -> dict[str, Any]:
    statement = "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND NOT starts_with(state_key, %s)"
    return dict(_query(servers, statement, agent_id, "holdfast."))


@pytest.mark.req("D2.3", "D1.5", "E1.4")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_leaves_nothing_behind(servers: Servers, told: signal.Signals) -> None:
    agent_id = uuid4()
    env = {**os.environ, **servers.environ, "PYTHONPATH": str(_HERE.parents[1])}
    command = [sys.executable, str(_HERE / "ending.py"), str(agent_id)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(random.uniform(0.2, 0.6))
    process.send_signal(told)
    start = time.monotonic()
    out, errors = process.communicate(timeout=_GRACE_S)
    took = time.monotonic() - start
    promised = [json.loads(line) for line in (first + out).splitlines()]
    sys.stdout.write(f"{told.name}: {len(promised)} rounds, ended within {took:.2f} s\n")
    # Nobody caught it: the interpreter says so, and that is all it says.
    assert ("KeyboardInterrupt" if told == signal.SIGINT else "CancelledError") in errors.splitlines()[-1]
    assert "was destroyed" not in errors
    assert "never retrieved" not in errors
    values = _values(servers, agent_id)
    assert all(values[key] >= number for key, number in promised)
    assert values["left"] + values["right"] == 100
    assert values["right"] >= len(promised)

    async def main() -> None:
        async with holdfast.connect(servers.environ, events=True) as plane:
            # Its lease was given back: nobody waits for the next owner.
            async with plane.agent(agent_id) as agent:
                assert await agent.items() == values
            while _query(servers, "SELECT FROM runtime.outbox WHERE published_at IS NULL"):
                await asyncio.sleep(0.02)
            found = await messages(plane, "TASK_EXECUTION", f"tasks.created.{agent_id}")
        [[rows]] = _query(servers, "SELECT count(*) FROM tasks.queue WHERE task_name = %s", str(agent_id))
        assert len(found) == rows >= len(promised)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert took < 5


@pytest.mark.soak
@pytest.mark.req("D2.3", "D1.5")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("away", [("postgres",), ("nats",), ("nats", "postgres")], ids="+".join)
def test_closing_takes_no_longer_than_an_orchestrator_waits(servers: Servers, away: tuple[str, ...]) -> None:
    """In the middle of writing, working and emitting; what was acknowledged is there afterwards."""
    agent_ids = [uuid4() for _ in range(4)]
    told: dict[UUID, dict[str, int]] = {agent_id: {} for agent_id in agent_ids}

    async def write(agent: holdfast.AgentState[Any]) -> None:
        for number in range(10**6):
            await agent.put(f"k{number % 50}", number)
            told[agent.agent_id][f"k{number % 50}"] = number

    async def work(plane: holdfast.Plane) -> None:
        while True:
            row = {"task_id": str(uuid4()), "task_type": "inference", "task_name": "closing"}
            await plane.work.run("closing", [KvPut("AGENT_CONFIG", f"test.{row['task_id']}", b"1"),
                                             SqlInsert("tasks.queue", row, ["task_id", "task_type"])])  # fmt: skip
            await asyncio.sleep(0.01)

    async def main() -> float:
        async with holdfast.connect(servers.environ, events=True) as plane:
            agents = [await plane.agent(agent_id).__aenter__() for agent_id in agent_ids]
            tasks = [asyncio.create_task(write(agent)) for agent in agents] + [asyncio.create_task(work(plane))]
            await asyncio.sleep(1)
            for system in away:
                await asyncio.to_thread(servers.kill, system)
            await asyncio.sleep(1)
            for task in tasks:
                task.cancel()
            start = time.monotonic()
        took = time.monotonic() - start
        await asyncio.wait(tasks, timeout=10)
        assert all(task.done() for task in tasks)
        await asyncio.sleep(0.5)
        assert len(asyncio.all_tasks()) == 1, "tasks are left behind"
        return took

    try:
        took = asyncio.run(main())
    finally:
        servers.start()
    sys.stdout.write(f"{'+'.join(away)} away: closed within {took:.1f} s\n")

    async def look() -> None:
        async with holdfast.connect(servers.environ) as plane:
            for agent_id in agent_ids:
                # Its lease could not be given back.
                async with plane.agent(agent_id, wait_s=60) as agent:
                    found = await agent.items()
                assert told[agent_id]
                assert all(found[key] >= number for key, number in told[agent_id].items())

    asyncio.run(look())
    assert took < _GRACE_S


def _family(pid: int) -> list[int]:
    """A process and those that it started."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *map(int, children)]


@pytest.mark.soak
@pytest.mark.req("D2.3")
@pytest.mark.timeout(120)
def test_closing_is_bounded_while_servers_are_frozen(servers: Servers) -> None:
    """They keep their connections and say nothing, which takes longer to find out than that they are gone."""
    first = [servers.pid("nats"), servers.pid("postgres")]
    frozen: list[int] = []

    async def main() -> tuple[float, float]:
        async with holdfast.connect(servers.environ, events=True) as plane:
            other = await plane.agent(uuid4()).__aenter__()
            async with plane.agent(uuid4()) as agent:
                await agent.put("k", 1)
                await plane.relay.status()
                context = TransactionContext(boundary=Boundary.CROSS_SYSTEM)  # leaves a marker to be deleted
                await plane.transactions.run(lambda connection: connection.execute("SELECT 1"), context)
                await asyncio.sleep(1.5)  # its recoverer is at work, too
                frozen.extend(pid for parent in first for pid in _family(parent))
                await asyncio.gather(agent.put("k", 2), other.put("k", 2))
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                work = asyncio.create_task(plane.work.run("late", [KvPut("AGENT_CONFIG", f"test.{uuid4()}", b"1")]))
                await asyncio.sleep(0.2)
                start = time.monotonic()
            closed = time.monotonic()
        ended = time.monotonic()
        await asyncio.wait([work], timeout=5)
        return closed - start, ended - closed

    try:
        of_agent, of_plane = asyncio.run(main())
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    sys.stdout.write(f"frozen: the agent closed within {of_agent:.1f} s, the plane within {of_plane:.1f} s\n")
    assert of_agent < 12
    assert of_plane < 18
