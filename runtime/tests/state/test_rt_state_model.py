"""Anything that an owner may do, in any order, over crashes and an empty bucket: the state is what a dict would be."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

import holdfast

if TYPE_CHECKING:
    from state.conftest import Database

KEYS = ("a", "b", "x.y", "z z", "k1", "k2")
STEPS = (
    "put",
    "put",
    "put",
    "delete",
    "update",
    "edit",
    "edit",
    "checkpoint",
    "restore",
    "open",
    "crash",
    "empty",
    "look",
)


@dataclass
class Pair:
    a: int = 0
    b: int = 0


class Owner:
    """One agent, written through two planes in turn, and the dict that it must equal. Of these planes one flushes."""

    def __init__(self, dice: random.Random, planes: list[holdfast.Plane]) -> None:
        self._dice, self._planes = dice, planes
        self.agent_id = uuid4()
        self.model: dict[str, Any] = {}
        self._kept: dict[UUID, dict[str, Any]] = {}
        self.agent: holdfast.AgentState[Pair] = self._new()

    def _new(self) -> holdfast.AgentState[Pair]:
        return self._dice.choice(self._planes).agent(self.agent_id, Pair)

    async def step(self, number: int) -> None:
        """One thing at random."""
        await getattr(self, f"_{self._dice.choice(STEPS)}")(self._dice.choice(KEYS), number)

    async def _put(self, key: str, number: int) -> None:
        await self.agent.put(key, number)
        self.model[key] = number

    async def _delete(self, key: str, number: int) -> None:
        await self.agent.delete(key)
        self.model.pop(key, None)

    async def _update(self, key: str, number: int) -> None:
        await self.agent.update(key, lambda value: value + 1, 0)
        self.model[key] = self.model.get(key, 0) + 1

    async def _edit(self, key: str, number: int) -> None:
        async with self.agent.edit() as pair:
            assert pair == Pair(self.model.get("a", 0), self.model.get("b", 0))
            pair.a = number
            pair.b += self._dice.choice((0, number))
        self.model |= {"a": pair.a, "b": pair.b}

    async def _checkpoint(self, key: str, number: int) -> None:
        self._kept[(await self.agent.checkpoint()).checkpoint_id] = dict(self.model)

    async def _restore(self, key: str, number: int) -> None:
        if self._kept:
            which = self._dice.choice(list(self._kept))
            await self.agent.restore(which)
            self.model = dict(self._kept[which])

    async def _open(self, key: str, number: int) -> None:
        await self.agent.close()
        self.agent = await self._new().__aenter__()

    async def _crash(self, key: str, number: int) -> None:
        """Its process is gone before anything is flushed, and its lease has run out."""
        self.agent.unflushed.kept.clear()
        await self._open(key, number)

    async def _empty(self, key: str, number: int) -> None:
        """The bucket forgets what the database has, as its time to live has it do."""
        await self.agent.flush()
        body = json.dumps({"filter": f"$KV.AGENT_STATE.{self.agent_id}.state.>"}).encode()
        await self._planes[0].nc.request("$JS.API.STREAM.PURGE.KV_AGENT_STATE", body, timeout=5)
        await self._open(key, number)

    async def _look(self, key: str, number: int) -> None:
        async with self._planes[1].agent(self.agent_id, owned=False) as reader:
            assert await reader.get(key, None) == self.model.get(key)
            assert await reader.items() == self.model
        assert await self.agent.get(key, None) == self.model.get(key)
        assert await self.agent.items() == self.model


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.req("D1.3", "D2.2", "D2.4", "D11.3")
@pytest.mark.parametrize("seed", range(5))
def test_after_any_steps_state_and_database_are_what_a_dict_would_be(
    environ: Mapping[str, str], database: Database, seed: int
) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as flushing, holdfast.connect(environ, background=False) as other:
            owner = Owner(random.Random(seed), [flushing, other])
            await owner.agent.__aenter__()
            for number in range(1, 121):
                await owner.step(number)
            await owner._look("a", 0)
            await owner.agent.close()
            async with asyncio.timeout(30):
                while database.values(owner.agent_id) != owner.model:
                    await asyncio.sleep(0.1)

    asyncio.run(main())
