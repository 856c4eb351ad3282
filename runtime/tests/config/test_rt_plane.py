"""The plane that the tests get, and the one way in to the library."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin
from uuid import uuid4

import psycopg
import pytest

import holdfast
from holdfast import Emit, Isolation, KvPut, Outcome, SqlInsert, SqlUpdate, Step, Strategy, TransactionContext, sync
from holdfast.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from conftest import Servers


def test_a_killed_server_comes_back_with_its_data(servers: Servers, agent_id: str) -> None:
    before = servers.pid("postgres")
    try:
        servers.kill("postgres")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**servers.admin)
    finally:
        servers.start()
    assert servers.pid("postgres") != before
    with psycopg.connect(**servers.admin) as connection:
        found = connection.execute("SELECT count(*) FROM agents.registry WHERE agent_id = %s", [agent_id]).fetchone()
    assert found == (1,)


def test_every_name_is_there_for_type_checkers_and_at_run_time() -> None:
    tree = ast.parse(Path(holdfast.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    told = {str(name.asname) for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    told = {name.removeprefix("_") for name in told}
    assert told | {"HoldfastError", "errors"} == set(holdfast.__all__)
    assert all(getattr(holdfast, name) is not None for name in holdfast.__all__)


#: What each blocking class leaves out of the one that it is of: for the plane, or for the library itself.
LEFT_OUT: dict[type, set[str]] = {
    sync.SyncAgents: {"close", "keep_recovering"},
    sync.SyncCachedAgents: {"run"},
    sync.SyncQueryCache: set(),
    sync.SyncShared: set(),
    sync.SyncRouter: set(),
    sync.SyncVectors: {"statement"},
    sync.SyncStores: {"close"},
    sync.SyncTransactions: {"close"},
    sync.SyncWork: {"close"},
    sync.SyncRelay: {"run", "step"},
    sync.SyncPlane: {"close", "start"},
}


@pytest.mark.parametrize("blocking", LEFT_OUT)
def test_what_can_be_awaited_is_there_without_asyncio(blocking: Any) -> None:
    [facet] = get_args(blocking.__orig_bases__[0])
    names = {
        name
        for name, method in inspect.getmembers(get_origin(facet) or facet)
        if not name.startswith("_") and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
    }
    assert names - set(dir(blocking)) == LEFT_OUT[blocking]


def test_a_handle_without_asyncio_has_all_of_the_handle_itself() -> None:
    """What AgentCore has is for the library's own parts, and so is ``replace``."""
    theirs = vars(holdfast.AgentState)
    names = {name for name, method in theirs.items() if callable(method) and not name.startswith("_")}
    assert names - set(dir(sync.SyncAgent)) == {"replace"}


async def _task(plane: Any) -> str:
    task_id = str(uuid4())

    async def insert(connection: Any) -> None:
        await connection.execute(
            "INSERT INTO tasks.queue (task_id, task_type, task_name) VALUES (%s, 'inference', 'old')", [task_id]
        )

    await plane.transactions.run(insert, TransactionContext(isolation=Isolation.SERIALIZABLE))
    return task_id


@pytest.mark.req("D13.1", "D13.2", "D7.1", "D6.3")
def test_one_plane_holds_pools_and_buckets_coordinates_monitors_and_scales(environ: Mapping[str, str]) -> None:
    """What a coordinator offers: pools of both systems, work over both, health and load, pools that follow it."""

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4(), wait_s=5) as agent:
            assert {"primary", "replica_0", "background", "analytics"} <= set(plane.pools.named)
            bucket = await plane.stores.bucket(plane.contract.names.config_bucket)
            assert bucket is await plane.stores.bucket(bucket.name)
            for strategy in Strategy:
                task_id = await _task(plane)
                steps: list[Step] = [
                    KvPut(bucket.name, f"test.{task_id}", b"new"),
                    KvPut.on(agent, "done", task_id),
                    SqlUpdate("tasks.queue", {"task_id": task_id, "task_type": "inference"}, {"task_name": "new"}),
                    Emit(f"tasks.updated.{task_id}", {"task_id": task_id}),
                ]
                result = await plane.work.run("test", steps, strategy=strategy)
                assert result.outcome is Outcome.SUCCESS, result
                entry = await bucket.get(f"test.{task_id}")
                assert entry is not None
                assert (entry.value, await agent.get("done")) == (b"new", task_id)
            assert (await plane.health()).checks
            checked = {health.name: health.healthy for health in await plane.pools.check()}
            assert checked["primary"]
            await _load(plane, plane.pools.primary)

    asyncio.run(main())


async def _load(plane: Any, pool: Any) -> None:
    """More at once than the pool keeps open: its floor rises at the next look, inside the declared bounds."""
    before = pool.adapt()

    async def use() -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(0.05)")

    await asyncio.gather(*(use() for _ in range(pool.spec.max)))
    assert before <= pool.adapt() <= pool.spec.max
    assert pool.metrics().total > before or before == pool.spec.max


@pytest.mark.req("D7.2", "D7.3", "D1.4")
def test_a_step_on_an_agents_key_is_its_owners_write(environ: Mapping[str, str]) -> None:
    """The owner's memory has it, its next write is not refused, and undoing gives the former value back."""

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            async with plane.agent(uuid4(), wait_s=5) as agent:
                await agent.put("n", 1)
                assert (await plane.work.run("test", [KvPut.on(agent, "n", 2)])).is_success
                assert await agent.get("n") == 2
                await agent.put("n", 3)
                head = await (await plane.stores.bucket(plane.contract.names.state_bucket)).head(agent.address("n")[1])
                assert head is not None
                assert "Holdfast-Epoch" in head.headers
                refused = SqlInsert("tasks.queue", {"task_id": "no uuid", "task_type": "inference"}, ["task_id"])
                result = await plane.work.run("test", [KvPut.on(agent, "n", 4), refused])
                assert result.outcome is Outcome.ROLLED_BACK
                assert await agent.get("n") == 3
                await agent.flush()
                step = KvPut.on(agent, "n", 5)
            # Nobody owns it now: the lease is taken for the step.
            assert (await plane.work.run("test", [step])).is_success
            async with plane.agent(agent.agent_id, wait_s=5) as again:
                assert await again.get("n") == 5
                async with holdfast.connect(environ, background=False) as other:
                    # Another process may not write past the owner.
                    result = await other.work.run("test", [KvPut.on(agent, "n", 6)], timeout_s=1.0)
                    assert result.outcome is not Outcome.SUCCESS
                assert await again.get("n") == 5

    asyncio.run(main())


@pytest.mark.req("E1.8")
def test_a_commit_of_this_process_wakes_its_relay(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane:
            plane.relay._poll_s = 20.0  # so that only a wake can be in time
            plane.relay.start()
            await asyncio.sleep(0.5)
            before = (await plane.relay.status()).published
            task_id = await _task(plane)

            async def note(connection: Any) -> None:
                await plane.outbox.add(connection, f"tasks.updated.{task_id}", {})

            await plane.transactions.run(note)
            async with asyncio.timeout(5):
                while (await plane.relay.status()).published <= before:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_what_a_plane_does_not_declare_is_said_when_it_is_asked_for(
    environ: Mapping[str, str], contract_text: str
) -> None:
    async def main() -> None:
        import json

        from holdfast import Contract

        content = json.loads(contract_text)
        for name in ("state_bucket", "saga_table", "inbox_table"):
            del content["names"][name]
        async with holdfast.connect(environ, contract=Contract.of(content)) as plane:
            with pytest.raises(ConfigurationError, match="state_bucket"):
                plane.agent(uuid4())
            with pytest.raises(ConfigurationError, match="saga_table"):
                plane.work  # noqa: B018 - raises
            with pytest.raises(ConfigurationError, match="inbox_table"):
                plane.inbox("test")

            async def one(connection: Any) -> int:
                cursor = await connection.execute("SELECT 1")
                return int((await cursor.fetchone())[0])

            assert await plane.transactions.run(one) == 1
            with pytest.raises(NotFound):
                await (await plane.stores.agents()).find(uuid4())

    asyncio.run(main())
