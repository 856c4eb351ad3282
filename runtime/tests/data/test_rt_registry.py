"""Agents: bucket first, table after, and nothing lost or out of order between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.errors import (
    CodecError,
    ConnectionFailed,
    ConsistencyViolation,
    ConstraintViolation,
    NotFound,
    VersionConflict,
)
from holdfast.kv.entry import ORIGIN
from holdfast.registry import Agent, AgentRepository
from holdfast.retry import Retry

Open = Callable[[], Any]


def _agent(**changes: Any) -> Agent:
    return Agent(**{"agent_id": uuid4(), "agent_type": "worker", "agent_name": "w-1", **changes})


async def _repository(plane: Any, *, bucket: Any = None, pools: Any = None, **options: Any) -> AgentRepository:
    bucket = bucket or await plane.bucket("config")
    return AgentRepository(bucket, pools or plane.pools, plane.contract.names, **options)


async def _row(plane: Any, id: UUID) -> Any:
    rows = await plane.execute("SELECT agent_name, status::text FROM agents.registry WHERE agent_id = %s", [id])
    return tuple(rows[0]) if rows else None


class Broken:
    """Pools whose background pool fails so many times first."""

    def __init__(self, pools: Any, failures: int) -> None:
        self._pools, self._left = pools, failures

    @property
    def primary(self) -> Any:
        return self._pools.primary

    @property
    def background(self) -> Any:
        if self._left > 0:
            self._left -= 1
            raise ConnectionFailed("the database is away")
        return self._pools.background


@pytest.mark.req("D4.1", "D4.2")
def test_a_saved_agent_is_in_the_bucket_at_once_and_in_the_table_soon(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository = await _repository(plane)
            agent = _agent(capabilities={"tools": ["search"]}, configuration={"n": 1.5})
            assert await repository.save(agent) is agent
            found = await repository.look(agent.agent_id)
            assert found.agent == agent
            await repository.drain()
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")
            after = await repository.look(agent.agent_id)
            assert after.is_durable
            assert after.version == found.version, "bringing it to the table is no new version"

    asyncio.run(main())


@pytest.mark.req("D4.2")
def test_an_agent_known_only_to_the_table_is_found_and_fills_the_bucket(open_plane: Open, agent_id: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository, id = await _repository(plane), UUID(agent_id)
            agent = await repository.find(id)
            assert (agent.agent_id, agent.agent_name) == (id, f"test-{agent_id}")
            head = await (await plane.bucket("config")).get(f"agent.{id}")
            assert Agent.decode(head.value) == agent
            assert (await repository.look(id)).is_durable
            with pytest.raises(NotFound):
                await repository.find(uuid4())

    asyncio.run(main())


@pytest.mark.req("D4.1", "D4.5")
def test_update_and_delete_reach_bucket_and_table(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository, agent = await _repository(plane), _agent()
            with pytest.raises(NotFound):
                await repository.update(agent)
            await repository.save(agent, durability="sql")
            await repository.update(replace(agent, status="active"), durability="sql")
            assert await _row(plane, agent.agent_id) == ("w-1", "active")
            await repository.delete(agent.agent_id)
            assert await _row(plane, agent.agent_id) is None
            with pytest.raises(NotFound):
                await repository.find(agent.agent_id)
            with pytest.raises(NotFound):
                await repository.delete(agent.agent_id)
            await repository.save(agent, durability="sql")
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")

    asyncio.run(main())


@pytest.mark.req("D4.2")
def test_what_others_change_in_the_table_is_seen_when_asked_for_and_after_the_time_to_live(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository, agent = await _repository(plane), _agent()
            await repository.save(agent, durability="sql")
            before = await repository.look(agent.agent_id)
            assert (await repository.look(agent.agent_id, fresh=True)).version == before.version
            await plane.execute("UPDATE agents.registry SET status = 'idle' WHERE agent_id = %s", [agent.agent_id])
            assert (await repository.find(agent.agent_id)).status == "initializing"
            seen = await repository.look(agent.agent_id, fresh=True)
            assert (seen.agent.status, seen.version > before.version) == ("idle", True)
            assert await repository.look(agent.agent_id) == seen
            await plane.execute("UPDATE agents.registry SET status = 'error' WHERE agent_id = %s", [agent.agent_id])
            hasty = await _repository(plane, ttl_s=0.05)
            await asyncio.sleep(0.1)
            assert (await hasty.find(agent.agent_id)).status == "error"
            await plane.execute("DELETE FROM agents.registry WHERE agent_id = %s", [agent.agent_id])
            assert (await repository.find(agent.agent_id)).status == "error"
            for fresh in (True, False):
                with pytest.raises(NotFound):
                    await repository.look(agent.agent_id, fresh=fresh)

    asyncio.run(main())


def test_an_update_of_an_older_version_is_refused(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository, agent = await _repository(plane), _agent()
            await repository.save(agent)
            seen = (await repository.look(agent.agent_id)).version
            await repository.drain()
            await repository.update(replace(agent, agent_name="two"), expect=seen)
            with pytest.raises(VersionConflict):
                await repository.update(replace(agent, agent_name="three"), expect=seen)
            assert (await repository.find(agent.agent_id)).agent_name == "two"
            await repository.drain()

    asyncio.run(main())


@pytest.mark.req("D4.2")
def test_saves_from_many_sides_leave_the_newest_in_the_table(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repositories = [await _repository(plane) for _ in range(3)]
            agent = _agent()
            await asyncio.gather(
                *(repositories[number % 3].save(replace(agent, agent_name=f"n-{number}")) for number in range(30))
            )
            for repository in repositories:
                await repository.drain()
            newest = await repositories[0].look(agent.agent_id)
            assert newest.is_durable
            assert await _row(plane, agent.agent_id) == (newest.agent.agent_name, "initializing")

    asyncio.run(main())


def test_an_older_save_that_comes_late_to_the_table_does_not_overwrite(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            agent = _agent()
            late = await _repository(plane, pools=Broken(plane.pools, 3), retry=Retry(attempts=6, base_s=0.02))
            await late.save(replace(agent, agent_name="older"))
            newer = await _repository(plane)
            await newer.save(replace(agent, agent_name="newer"), durability="sql")
            await late.drain()
            assert await _row(plane, agent.agent_id) == ("newer", "initializing")

    asyncio.run(main())


def test_a_save_that_is_held_up_on_its_way_to_the_table_does_not_overwrite_a_newer_one(open_plane: Open) -> None:
    class Held:
        """A bucket whose reads wait once they have their answer."""

        def __init__(self, bucket: Any) -> None:
            self._bucket = bucket
            self.has_read, self.may_go = asyncio.Event(), asyncio.Event()
            self.may_go.set()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._bucket, name)

        async def head(self, key: str) -> Any:
            found = await self._bucket.head(key)
            if not self.may_go.is_set():
                self.has_read.set()
            await self.may_go.wait()
            return found

    async def main() -> None:
        async with open_plane() as plane:
            agent, bucket = _agent(), Held(await plane.bucket("config"))
            slow = await _repository(plane, bucket=bucket)
            await slow.save(replace(agent, agent_name="older"))
            bucket.may_go.clear()
            await bucket.has_read.wait()  # on its way, with the older entry in its hands
            newer = asyncio.ensure_future(
                (await _repository(plane)).save(replace(agent, agent_name="newer"), durability="sql")
            )
            await asyncio.wait([newer], timeout=0.4)
            bucket.may_go.set()
            await newer
            await slow.drain()
            assert await _row(plane, agent.agent_id) == ("newer", "initializing")

    asyncio.run(main())


@pytest.mark.req("D4.2")
def test_a_background_failure_surfaces_and_is_found_by_whoever_recovers(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            told: list[UUID] = []
            repository = await _repository(
                plane,
                pools=Broken(plane.pools, 99),
                retry=Retry(attempts=2, base_s=0.01),
                on_failure=lambda id, error: told.append(id),
            )
            agent = _agent()
            await repository.save(agent)
            with pytest.raises(Exception, match="the database is away"):
                await repository.drain()
            assert told == [agent.agent_id]
            assert list(repository.failures) == [agent.agent_id]
            assert await repository.find(agent.agent_id) == agent
            assert await _row(plane, agent.agent_id) is None
            # Another process, later
            done = await (await _repository(plane)).recover()
            assert agent.agent_id in done.values
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")
            assert agent.agent_id not in (await (await _repository(plane)).recover()).values

    asyncio.run(main())


@pytest.mark.req("D4.2", "D13.4")
def test_after_any_mix_of_saves_and_deletes_bucket_and_table_agree(open_plane: Open) -> None:
    dice = random.Random(3)

    class Shaky:
        """Pools whose background pool fails now and then, before or after the work."""

        def __init__(self, pools: Any) -> None:
            self.primary, self._pools = pools.primary, pools

        @property
        def background(self) -> Any:
            return self

        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Any]:
            await asyncio.sleep(dice.uniform(0, 0.003))
            if dice.random() < 0.1:
                raise ConnectionFailed("before")
            async with self._pools.background.connection() as connection:
                yield connection
            if dice.random() < 0.1:
                raise ConnectionFailed("after")

    async def main() -> None:
        async with open_plane() as plane:
            retry = Retry(attempts=20, base_s=0.001, cap_s=0.005)
            repositories = [await _repository(plane, pools=Shaky(plane.pools), retry=retry) for _ in range(3)]
            ids = [uuid4() for _ in range(3)]

            async def work(repository: AgentRepository) -> None:
                for number in range(25):
                    id = dice.choice(ids)
                    durability: Any = dice.choice(["kv", "sql"])
                    try:
                        if dice.random() < 0.3:
                            await repository.delete(id, durability=durability)
                        else:
                            agent = _agent(agent_id=id, agent_name=f"n-{number}-{dice.random()}")
                            await repository.save(agent, durability=durability)
                    except (NotFound, VersionConflict):
                        pass
                    await asyncio.sleep(dice.uniform(0, 0.003))

            await asyncio.gather(*map(work, repositories))
            for repository in repositories:
                await repository.drain()
            bucket = await plane.bucket("config")
            for id in ids:
                head = await bucket.head(f"agent.{id}")
                row = await _row(plane, id)
                assert head.headers[ORIGIN] == "sql"
                assert row == ((Agent.decode(head.value).agent_name, "initializing") if head.value else None)

    asyncio.run(main())


def test_a_save_that_the_bucket_lost_reaches_the_table_unless_the_table_has_the_agent(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository = await _repository(plane, pools=Broken(plane.pools, 3), retry=Retry(attempts=6, base_s=0.05))
            agent = _agent()
            await repository.save(agent)
            jetstream = plane.client.jetstream()
            await jetstream.purge_stream("KV_AGENT_CONFIG", subject=f"$KV.AGENT_CONFIG.agent.{agent.agent_id}")
            await repository.drain()
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")
            assert await repository.find(agent.agent_id) == agent
            repository = await _repository(plane, pools=Broken(plane.pools, 3), retry=Retry(attempts=6, base_s=0.05))
            await repository.save(replace(agent, agent_name="lost"))
            await jetstream.purge_stream("KV_AGENT_CONFIG", subject=f"$KV.AGENT_CONFIG.agent.{agent.agent_id}")
            with pytest.raises(ConsistencyViolation):
                await repository.drain()
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")

    asyncio.run(main())


def test_a_save_in_the_table_that_cannot_be_is_undone_in_the_bucket(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            repository = await _repository(plane)
            orphan = _agent(parent_agent_id=uuid4())
            with pytest.raises(ConstraintViolation):
                await repository.save(orphan, durability="sql")
            with pytest.raises(NotFound):
                await repository.find(orphan.agent_id)
            agent = _agent()
            await repository.save(agent, durability="sql")
            seen = (await repository.look(agent.agent_id)).version
            with pytest.raises(ConstraintViolation):
                await repository.update(replace(agent, parent_agent_id=uuid4()), durability="sql")
            found = await repository.look(agent.agent_id)
            assert (found.agent, found.version, found.is_durable) == (agent, seen, True)

    asyncio.run(main())


@pytest.mark.req("D4.5")
def test_a_cancelled_save_that_reached_the_bucket_still_reaches_the_table(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            bucket, agent = await plane.bucket("config"), _agent()
            repository = await _repository(plane, bucket=bucket)
            write, sent = bucket.write, asyncio.Event()

            async def slow(*arguments: Any, **options: Any) -> Any:
                position = await write(*arguments, **options)
                sent.set()
                await asyncio.sleep(0.05)
                return position

            bucket.write = slow
            saving = asyncio.ensure_future(repository.save(agent))
            await sent.wait()
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving
            bucket.write = write
            await repository.drain()
            assert await _row(plane, agent.agent_id) == ("w-1", "initializing")

    asyncio.run(main())


def test_a_fill_from_the_table_gives_way_to_a_delete_meanwhile(open_plane: Open, agent_id: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            id = UUID(agent_id)
            other = await _repository(plane)

            class Meddled:
                """Pools through which the first read from the table is followed by a delete."""

                background = plane.pools.background
                is_new = True

                @property
                def primary(self) -> Any:
                    return self

                @asynccontextmanager
                async def connection(self) -> AsyncIterator[Any]:
                    async with plane.pools.primary.connection() as connection:
                        yield connection
                    if self.is_new:
                        self.is_new = False
                        await other.find(id)
                        await other.delete(id)

            with pytest.raises(NotFound):
                await (await _repository(plane, pools=Meddled())).find(id)
            assert await (await plane.bucket("config")).get(f"agent.{id}") is None

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"agent_type": ""},
        {"agent_type": "x" * 51},
        {"agent_name": ""},
        {"status": "busy"},
        {"metadata": {"version": "1"}},
        {"metadata": {"version": "1", "created_at": "yesterday"}},
        {"agent_name": "\ud800"},
        {"configuration": [1]},
    ],
)
def test_what_the_table_would_refuse_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        _agent(**wrong)


def test_an_agent_comes_back_from_its_json() -> None:
    agent = _agent(parent_agent_id=uuid4(), capabilities={"ü": [1, None]})
    assert Agent.decode(agent.encode()) == agent
    for unfit in ({1, 2}, "a\0", "\ud800", float("nan")):
        with pytest.raises(CodecError):
            _agent(capabilities={"x": unfit}).encode()
    literally = _agent(capabilities={"x": "\\u0000"})
    assert Agent.decode(literally.encode()) == literally
    for text in (b"", b"[]", b"{}", b'{"agent_id": "x"}'):
        with pytest.raises(CodecError):
            Agent.decode(text)
