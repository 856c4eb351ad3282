"""A program for crash tests: does one thing until it is killed at a named point, and prints what it was promised.

    crashing.py put|edit|restore|fork|emit ID POINT NTH COUNT

POINT is one of ``holdfast.points``, NTH says at which time of passing it the process kills itself (0: never). What it
does COUNT times concerns the agent ID, or the subject ``tasks.created.ID``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from typing import Any
from uuid import UUID, uuid5

import holdfast
from holdfast import points

_passed: Counter[str] = Counter()


def hook(point: str, nth: int) -> None:
    def reached(name: str) -> None:
        _passed[name] += 1
        if name == point and _passed[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    points.set_hook(reached)


def promise(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def put(agent_id: str, count: int) -> None:
    """Write counters under five keys; each line is a write that was acknowledged."""
    async with holdfast.connect() as plane, plane.agent(agent_id, wait_s=10) as agent:
        for number in range(count):
            key = f"k{number % 5}"
            await agent.put(key, number)
            promise([key, number])
            await asyncio.sleep(0.002)


async def edit(agent_id: str, count: int) -> None:
    """Move an amount between two keys, always 100 together."""
    from dataclasses import dataclass

    @dataclass
    class Accounts:
        left: int = 100
        right: int = 0

    async with holdfast.connect() as plane, plane.agent(agent_id, Accounts, wait_s=10) as agent:
        for _ in range(count):
            async with agent.edit() as accounts:
                accounts.left -= 1
                accounts.right += 1
            promise([accounts.left, accounts.right])


async def restore(agent_id: str, count: int) -> None:
    """Change everything, then go back."""
    async with holdfast.connect() as plane, plane.agent(agent_id, wait_s=10) as agent:
        for number in range(count):
            await agent.put("a", 0)
            await agent.put("b", 0)
            await agent.delete("c")
            await agent.checkpoint("zero")
            promise("checkpoint")
            await agent.put("a", number + 1)
            await agent.put("c", number + 1)
            await agent.restore("zero")
            promise("restored")


async def fork(agent_id: str, count: int) -> None:
    """Give new agents the state of one."""
    async with holdfast.connect() as plane, plane.agent(agent_id, wait_s=10) as agent:
        await agent.put("a", 1)
        await agent.put("b", 2)
        for number in range(count):
            new = str(uuid5(UUID(agent_id), str(number)))
            promise(["begun", new])
            await agent.fork(new)
            promise(["forked", new])


async def emit(name: str, count: int) -> None:
    """A row and its event in one transaction; this process's relay publishes them meanwhile."""
    from holdfast.sql.transactions import Boundary, TransactionContext

    async with holdfast.connect(events=True) as plane:

        async def both(connection: Any) -> str:
            statement = "INSERT INTO tasks.queue (task_type, task_name) VALUES ('inference', %s)"
            await connection.execute(statement, [name])
            return str(await plane.outbox.add(connection, f"tasks.created.{name}", {"name": name}))

        for _ in range(count):
            promise(await plane.transactions.run(both, TransactionContext(Boundary.CROSS_SYSTEM)))


def main() -> None:
    what, agent_id, point, nth, count = sys.argv[1:6]
    hook(point, int(nth))
    asyncio.run({"put": put, "edit": edit, "restore": restore, "fork": fork, "emit": emit}[what](agent_id, int(count)))


if __name__ == "__main__":
    main()
