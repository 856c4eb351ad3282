"""A program that is told to end: ending.py AGENT. It writes, edits, restores, emits, and prints what it was promised.

SIGINT is asyncio.run's to handle; SIGTERM is handled as the documentation of ``holdfast.connect`` says.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

import holdfast


@dataclass
class Accounts:
    left: int = 100
    right: int = 0


async def main(agent_id: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with holdfast.connect(events=True) as plane, plane.agent(agent_id, Accounts, wait_s=20) as agent:

        async def both(connection: Any) -> None:
            statement = "INSERT INTO tasks.queue (task_type, task_name) VALUES ('inference', %s)"
            await connection.execute(statement, [agent_id])
            await plane.outbox.add(connection, f"tasks.created.{agent_id}", {})

        for number in itertools.count():
            async with agent.edit() as accounts:
                accounts.left, accounts.right = accounts.left - 1, accounts.right + 1
            await agent.put(f"k{number % 10}", number)
            await plane.transactions.run(both)
            sys.stdout.write(json.dumps([f"k{number % 10}", number]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    asyncio.run(main(sys.argv[1]))
