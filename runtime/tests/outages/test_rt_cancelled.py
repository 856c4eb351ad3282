"""Operations cancelled in every await there is, one after the other; processes that are told to end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from outages.loads import messages

import holdfast
from holdfast import points
from holdfast.errors import HoldfastError
from holdfast.sql.transactions import Boundary, TransactionContext

if TYPE_CHECKING:
    from conftest import Servers


class _Cut:
    """Awaits ``work``, and has the task cancelled while it waits for the ``place``-th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], place: int) -> None:
        self._work, self._left = work, place

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._work.send
        given: Any = None
        while True:
            try:
                waited = resume(given)
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                given = yield waited
                resume = self._work.send
            except BaseException as error:
                resume, given = self._work.throw, error


async def each_await(
    work: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[Any]], least: int
) -> None:
    """Do the work, cancelled at its first await, then at its second, and so on until it gets through."""

    async def cut(place: int) -> None:
        await _Cut(work(), place)

    for place in itertools.count(1):
        task = asyncio.create_task(cut(place))
        await asyncio.wait({task}, timeout=20)
        assert task.done(), f"cancelled at await {place}, it goes on"
        if not task.cancelled():
            task.result()
        await check()
        if not task.cancelled():
            assert place > least, f"the work has no more than {place - 1} awaits"
            return


@dataclass
class Accounts:
    left: int = 100
    right: int = 0
    third: int = 0


@pytest.fixture
def open_agent(environ: Mapping[str, str]) -> Any:
    """A function that opens a plane and an agent with a model."""

    @asynccontextmanager
    async def opened(agent_id: UUID) -> AsyncIterator[tuple[holdfast.Plane, holdfast.AgentState[Accounts]]]:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id, Accounts) as agent:
            yield plane, agent

    return opened


def _rows(servers: Servers, agent_id: UUID) -> dict[str, Any]:
    import psycopg

    with psycopg.connect(**servers.admin) as connection:
        statement = (
            "SELECT state_key, state_value FROM agents.state WHERE agent_id = %s AND deleted_at IS NULL"
            " AND NOT starts_with(state_key, 'holdfast.')"
        )
        return dict(connection.execute(statement, [agent_id]).fetchall())


@pytest.mark.req("D1.4", "D1.5")
@pytest.mark.parametrize("kind", ["put", "put and wait", "delete", "update", "flush"])
def test_a_write_that_is_cancelled_anywhere_counts_or_does_not_and_memory_knows_which(
    servers: Servers, open_agent: Any, kind: str
) -> None:
    agent_id, numbers = uuid4(), itertools.count(1)

    async def main() -> None:
        async with open_agent(agent_id) as (plane, agent):

            async def work() -> None:
                if kind == "delete":
                    await agent.delete("k")
                elif kind == "update":
                    await agent.update("k", lambda value: value + 1, 0)
                else:
                    await agent.put("k", next(numbers), "sql" if kind == "put and wait" else "kv")
                    if kind == "flush":
                        await agent.flush()

            async def check() -> None:
                async with asyncio.timeout(5):
                    entry = await plane.home.bucket.get(f"{agent_id}.state.k")
                    known = agent.codec.decode(entry.value) if entry is not None else None
                    assert await agent.get("k", None) == known
                    await agent.put("other", 1)
                    if kind == "delete":
                        await agent.put("k", next(numbers))

            await each_await(work, check, 1)
            await agent.flush()
            assert _rows(servers, agent_id) == await agent.items()

    asyncio.run(main())


async def _move(agent: Any) -> None:
    """Change three fields of an account as one edit."""
    async with agent.edit() as accounts:
        accounts.left -= 1
        accounts.right += 1
        accounts.third += 1


async def _agree(plane: Any, agent: Any) -> None:
    """The edit counts whole or not at all, for its owner and for a reader."""
    read = {name: await agent.get(name) for name in ("left", "right", "third")}
    assert read["left"] + read["right"] == 100
    assert read["third"] == read["right"]
    assert await agent.items() == read
    assert await plane.agent(agent.agent_id, owned=False).items() == read


@pytest.mark.req("D1.4")
@pytest.mark.parametrize("kind", ["edit", "restore"])
def test_an_edit_that_is_cancelled_anywhere_counts_whole_or_not_at_all(
    servers: Servers, open_agent: Any, kind: str
) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with open_agent(agent_id) as (plane, agent):

            async def move() -> None:
                await _move(agent)

            async def back() -> None:
                await agent.restore("before")

            async def check() -> None:
                async with asyncio.timeout(10):
                    await _agree(plane, agent)
                if kind == "restore":
                    await move()

            await move()
            await agent.checkpoint("before")
            await move()
            await each_await(move if kind == "edit" else back, check, 0 if kind == "edit" else 3)
            await agent.flush()
            assert _rows(servers, agent_id) == await agent.items()

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.req("D1.4")
@pytest.mark.parametrize("place", ["put.sent", "edit.recorded", "put.noted"])
@pytest.mark.parametrize("nth", [1, 2])
def test_an_edit_whose_server_dies_in_the_middle_counts_whole_or_not_at_all(
    servers: Servers, open_agent: Any, place: str, nth: int
) -> None:
    """NATS is away for longer than a write waits; the owner, a reader and the database agree afterwards."""
    agent_id = uuid4()

    async def main() -> None:
        async with open_agent(agent_id) as (plane, agent):
            await _move(agent)
            left = nth

            def kill(reached: str) -> None:
                nonlocal left
                left -= reached == place
                if left == 0 and reached == place:
                    servers.kill("nats")

            points.set_hook(kill)
            try:
                with contextlib.suppress(HoldfastError):
                    await _move(agent)
            finally:
                points.set_hook(None)
                await asyncio.to_thread(servers.start)
            async with asyncio.timeout(20):
                while not plane.nc.is_connected:
                    await asyncio.sleep(0.05)
                await _agree(plane, agent)
                await _move(agent)
                await agent.flush()
            assert _rows(servers, agent_id) == await agent.items()

    asyncio.run(main())


@pytest.mark.req("D6.6", "E1.4")
def test_a_transaction_that_is_cancelled_anywhere_has_its_event_or_neither(
    servers: Servers, environ: Mapping[str, str]
) -> None:
    name = str(uuid4())

    async def main() -> None:
        async with holdfast.connect(environ, events=True) as plane:

            async def both(connection: Any) -> None:
                statement = "INSERT INTO tasks.queue (task_type, task_name) VALUES ('inference', %s)"
                await connection.execute(statement, [name])
                await plane.outbox.add(connection, f"tasks.created.{name}", {})

            async def work() -> None:
                await plane.transactions.run(both, TransactionContext(Boundary.CROSS_SYSTEM))

            async def check() -> None:
                assert plane.pools.primary.metrics().active == 0

            await each_await(work, check, 4)
            async with plane.pools.primary.connection() as connection:
                cursor = await connection.execute("SELECT count(*) FROM tasks.queue WHERE task_name = %s", [name])
                [rows] = await cursor.fetchone() or [0]
            await asyncio.sleep(0.5)
            assert len(await messages(plane, "TASK_EXECUTION", f"tasks.created.{name}")) == rows >= 1

    asyncio.run(main())
