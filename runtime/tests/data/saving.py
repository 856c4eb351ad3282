"""A program for crash tests: saves one agent and kills itself at a named point of ``holdfast.points``.

saving.py AGENT NAME POINT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from uuid import UUID

import holdfast
from holdfast import points
from holdfast.registry import Agent, AgentRepository


async def main(agent_id: str, name: str, point: str) -> None:
    async with holdfast.connect(background=False) as plane:
        from holdfast.kv.bucket import Bucket

        contract = plane.contract
        bucket = await Bucket.open(plane.nc, contract.bucket(contract.names.config_bucket))
        agents = AgentRepository(bucket, plane.pools, contract.names)
        points.set_hook(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == point else None)
        await agents.save(Agent(UUID(agent_id), "worker", name))
        await agents.drain()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
