"""Three tiers: memory, bucket, repository; what fills them and what empties them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.cache import CacheSource, MemoryCache, connection_epoch
from holdfast.errors import ConnectionFailed, NotFound, OperationTimeout
from holdfast.registry import Agent, AgentRepository
from holdfast.repository import Tier, TieredRepository
from holdfast.state.codec import Codec

Open = Callable[[], Any]


@dataclass(frozen=True)
class Item:
    item_id: UUID
    text: str


class Shelf:
    """A repository that keeps items and counts reads.

    ``pause`` holds a read up after it has looked, ``hold`` a save before it is made.
    """

    def __init__(self) -> None:
        self.items: dict[UUID, Item] = {}
        self.reads = 0
        self.pause: asyncio.Event | None = None
        self.looked = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def save(self, entity: Item) -> Item:
        if self.hold is not None:
            await self.hold.wait()
        self.items[entity.item_id] = entity
        return entity

    async def find(self, id: UUID) -> Item:
        self.reads += 1
        found = self.items.get(id)
        self.looked.set()
        if self.pause is not None:
            await self.pause.wait()
        if found is None:
            raise NotFound("no such item")
        return found

    async def update(self, entity: Item) -> Item:
        await self.find(entity.item_id)
        return await self.save(entity)

    async def delete(self, id: UUID) -> None:
        await self.find(id)
        del self.items[id]


def _id_of(key: str) -> UUID | None:
    try:
        return UUID(key.removeprefix("session."))
    except ValueError:
        return None


async def _tiered(plane: Any, shelf: Shelf, **options: Any) -> TieredRepository[UUID, Item]:
    bucket = await plane.bucket("session")
    return TieredRepository(
        shelf,
        id_of=lambda item: item.item_id,
        memory=MemoryCache(link=connection_epoch(plane.client)),
        tier=Tier(bucket, lambda id: f"session.{id}", _id_of, "session.>"),
        codec=Codec([Item]),
        **options,
    )


@asynccontextmanager
async def _running(repository: TieredRepository[Any, Any]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(repository.run(evict_every_s=0.05))
    await asyncio.sleep(0.3)
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.req("D4.3", "D4.4")
def test_each_tier_answers_for_the_next_and_is_filled_by_it(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            here, there = await _tiered(plane, shelf), await _tiered(plane, shelf)
            await shelf.save(item)
            assert (await here.find_entry(item.item_id)).source is CacheSource.DB
            assert (await there.find_entry(item.item_id)).source is CacheSource.KV
            assert await here.find(item.item_id) == await there.find(item.item_id) == item
            assert shelf.reads == 1
            assert (here.memory.hits, there.memory.hits) == (1, 1)
            with pytest.raises(NotFound):
                await here.find(uuid4())

    asyncio.run(main())


@pytest.mark.req("D4.5")
@pytest.mark.parametrize("change", ["save", "update", "delete"])
def test_a_change_empties_every_tier_also_in_other_processes(open_plane: Open, change: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "old")
            here, there = await _tiered(plane, shelf), await _tiered(plane, shelf)
            await shelf.save(item)
            async with _running(there):
                for repository in (here, there):
                    assert await repository.find(item.item_id) == item
                new = replace(item, text="new")
                await (here.delete(item.item_id) if change == "delete" else getattr(here, change)(new))
                await _until(lambda: item.item_id not in there.memory)
                for repository in (here, there):
                    if change == "delete":
                        with pytest.raises(NotFound):
                            await repository.find(item.item_id)
                    else:
                        assert await repository.find(item.item_id) == new

    asyncio.run(main())


@pytest.mark.req("D4.5")
def test_what_was_read_before_a_change_fills_no_tier_after_it(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "old")
            here, there = await _tiered(plane, shelf), await _tiered(plane, shelf)
            await shelf.save(item)
            shelf.pause = asyncio.Event()
            reading = asyncio.ensure_future(here.find(item.item_id))
            await shelf.looked.wait()
            await there.save(replace(item, text="new"))
            shelf.pause.set()
            assert (await reading).text == "old", "it was true when it was asked"
            assert (await here.find(item.item_id)).text == "new"
            assert (await there.find(item.item_id)).text == "new"

    asyncio.run(main())


@pytest.mark.req("D4.5")
def test_what_was_read_while_a_change_was_made_is_gone_after_it(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "old")
            here, there = await _tiered(plane, shelf), await _tiered(plane, shelf)
            await shelf.save(item)
            shelf.hold = asyncio.Event()
            saving = asyncio.ensure_future(here.save(replace(item, text="new")))
            await asyncio.sleep(0.05)
            assert (await here.find(item.item_id)).text == (await there.find(item.item_id)).text == "old"
            shelf.hold.set()
            await saving
            assert (await here.find(item.item_id)).text == "new"
            there.memory.clear()
            assert (await there.find(item.item_id)).text == "new"

    asyncio.run(main())


def test_without_a_bucket_memory_keeps_no_value_that_was_changed_while_it_was_read() -> None:
    async def main() -> None:
        shelf, item = Shelf(), Item(uuid4(), "old")
        await shelf.save(item)
        repository: TieredRepository[UUID, Item] = TieredRepository(
            shelf, id_of=lambda item: item.item_id, memory=MemoryCache()
        )
        shelf.pause = asyncio.Event()
        reading = asyncio.ensure_future(repository.find(item.item_id))
        await shelf.looked.wait()
        await repository.save(replace(item, text="new"))
        shelf.pause.set()
        assert (await reading).text == "old"
        assert (await repository.find(item.item_id)).text == "new"

    asyncio.run(main())


def test_callers_who_miss_together_share_one_load(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            repository = await _tiered(plane, shelf)
            await shelf.save(item)
            assert await asyncio.gather(*(repository.find(item.item_id) for _ in range(20))) == [item] * 20
            assert shelf.reads == 1

    asyncio.run(main())


@pytest.mark.req("D4.5", "D13.4")
def test_no_read_is_older_than_a_change_that_was_done_before_it(open_plane: Open) -> None:
    """Random readers and writers; the writer's process with memory, the others without."""

    class Slow(Shelf):
        async def save(self, entity: Item) -> Item:
            await asyncio.sleep(dice.uniform(0, 0.002))
            saved = await super().save(entity)
            await asyncio.sleep(dice.uniform(0, 0.002))
            return saved

        async def find(self, id: UUID) -> Item:
            await asyncio.sleep(dice.uniform(0, 0.002))
            found = await super().find(id)
            await asyncio.sleep(dice.uniform(0, 0.004))
            return found

    dice = random.Random(11)

    async def main() -> None:
        async with open_plane() as plane:
            shelf, ids = Slow(), [uuid4() for _ in range(3)]
            here, *others = [await _tiered(plane, shelf) for _ in range(3)]
            for other in others:  # one reader each, for callers in one process share loads
                other.memory.ttl_s = 0
            done = dict.fromkeys(ids, 0)
            for id in ids:
                await shelf.save(Item(id, "0"))
            reads = 0

            async def write(id: UUID) -> None:
                for version in range(1, 40):
                    await here.save(Item(id, str(version)))
                    done[id] = version
                    await asyncio.sleep(dice.uniform(0, 0.003))

            async def read(repository: TieredRepository[UUID, Item]) -> None:
                nonlocal reads
                while not writing.done():
                    id = dice.choice(ids)
                    least = done[id]
                    found = int((await repository.find(id)).text)
                    assert found >= least, f"{found} was read when {least} was done"
                    reads += 1
                    await asyncio.sleep(dice.uniform(0, 0.002))

            writing = asyncio.gather(*map(write, ids))
            await asyncio.gather(*(read(repository) for repository in (here, here, *others)))
            await writing
            assert reads > 50

    asyncio.run(main())


@pytest.mark.req("D4.3")
def test_after_a_lost_connection_memory_is_asked_again_of_the_bucket(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            repository = await _tiered(plane, shelf)
            await shelf.save(item)
            await repository.find(item.item_id)
            reconnects = plane.client.stats["reconnects"]
            plane.client._transport.close()
            await _until(lambda: plane.client.stats["reconnects"] > reconnects and plane.client.is_connected)
            entry = await repository.find_entry(item.item_id)
            assert entry.source is CacheSource.KV
            assert repository.memory.get(item.item_id) is not None

    asyncio.run(main())


@pytest.mark.req("D4.4")
def test_expired_entries_are_removed_in_the_background(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            repository = await _tiered(plane, shelf)
            repository.memory.ttl_s = 0.1
            await shelf.save(item)
            async with _running(repository):
                await repository.find(item.item_id)
                assert len(repository.memory) == 1
                await _until(lambda: len(repository.memory) == 0)

    asyncio.run(main())


@pytest.mark.req("D4.5")
def test_calls_have_a_time_limit_and_typed_errors(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            repository = await _tiered(plane, shelf, timeout_s=0.3)
            shelf.pause = asyncio.Event()
            start = time.monotonic()
            with pytest.raises(OperationTimeout):
                await repository.find(item.item_id)
            with pytest.raises(OperationTimeout):
                await repository.update(item)
            assert time.monotonic() - start < 2
            shelf.pause.set()

    asyncio.run(main())


def test_without_the_bucket_a_change_is_refused_before_it_is_made_and_a_read_asks_the_repository(
    open_plane: Open,
) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            shelf, item = Shelf(), Item(uuid4(), "one")
            repository = await _tiered(plane, shelf)
            await plane.client.close()
            with pytest.raises(ConnectionFailed):
                await repository.save(item)
            assert not shelf.items
            await shelf.save(item)
            assert [await repository.find(item.item_id) for _ in range(2)] == [item, item]
            assert (shelf.reads, len(repository.memory)) == (2, 0), "nobody would tell that it changed"

    asyncio.run(main())


@pytest.mark.req("D4.2", "D4.3")
def test_agents_behind_memory_follow_what_other_processes_write(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agents = AgentRepository(await plane.bucket("config"), plane.pools, plane.contract.names)
            other = AgentRepository(await plane.bucket("config"), plane.pools, plane.contract.names)
            cached: TieredRepository[UUID, Agent] = TieredRepository(
                agents,
                id_of=lambda agent: agent.agent_id,
                memory=MemoryCache(link=connection_epoch(plane.client)),
                tier=agents.tier(),
            )
            agent = Agent(uuid4(), "worker", "one")
            async with _running(cached):
                await cached.save(agent)
                await agents.drain()
                await asyncio.sleep(0.2)  # for the entry that says that the table has it
                assert await cached.find(agent.agent_id) == agent
                assert agent.agent_id in cached.memory
                await other.save(replace(agent, agent_name="two"), durability="sql")
                await _until(lambda: agent.agent_id not in cached.memory)
                assert (await cached.find(agent.agent_id)).agent_name == "two"

    asyncio.run(main())
