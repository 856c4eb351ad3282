"""The library for programs without asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

import holdfast.sync
from holdfast.errors import HoldfastError, NotFound


@dataclass
class Counter:
    total: int = 0


@pytest.mark.req("D1.1", "D11.3")
def test_everything_is_there_without_asyncio(environ: Mapping[str, str]) -> None:
    other_id = uuid4()
    with holdfast.sync.connect(environ) as plane, plane.agent(uuid4(), Counter) as agent:
        assert agent.put("a", 1).durability == "kv"
        assert agent.put("a", 2, ack="sql").durability == "sql"
        agent.update("a", lambda value: value + 1)
        with agent.edit() as counter:
            counter.total += 5
        assert agent.items() == {"a": 3, "total": 5}
        kept = agent.checkpoint("c")
        agent.delete("a")
        with pytest.raises(NotFound):
            agent.get("a")
        agent.restore("c")
        assert agent.checkpoints() == [kept]
        assert agent.get("a") == 3
        changes = agent.watch("a")
        assert next(changes).value == 3
        changes.close()
        agent.fork(other_id)
        agent.flush()
        assert plane.consistency().sql_rows > 0
        assert agent.status is holdfast.Status.ACTIVE
        with plane.agent(other_id, owned=False) as reader:
            assert reader.get("total") == 5
            assert reader.get("none", None) is None


@pytest.mark.req("D13.2", "D4.1", "D6.3", "D7.1")
def test_all_facets_of_the_plane_are_there_without_asyncio(environ: Mapping[str, str]) -> None:
    task_id = str(uuid4())
    with holdfast.sync.connect(environ) as plane, plane.agent(uuid4(), wait_s=5) as agent:

        async def note(connection: Any) -> int:
            await plane.aio.outbox.add(connection, f"tasks.created.{task_id}", {"task_id": task_id})
            return 7

        assert plane.transactions.run(note) == 7
        result = plane.work.run(
            "test", [holdfast.KvPut.on(agent, "n", 1), holdfast.Emit(f"tasks.updated.{task_id}", {})]
        )
        assert (result.outcome, agent.get("n")) == (holdfast.Outcome.SUCCESS, 1)
        agents = plane.stores.agents()
        saved = agents.save(holdfast.Agent(uuid4(), "worker", "one"), durability="sql")
        assert plane.stores.cached_agents(agents).find(saved.agent_id) == saved
        bucket = plane.stores.bucket(plane.aio.contract.names.config_bucket)
        bucket.create(f"test.{task_id}", b"1")
        assert [entry.value for entry in bucket.entries(f"test.{task_id}")] == [b"1"]
        assert plane.relay.status().waiting >= 0
        assert plane.health().checks


@pytest.mark.req("D1.4")
def test_many_threads_share_one_agent(environ: Mapping[str, str]) -> None:
    with holdfast.sync.connect(environ) as plane, plane.agent(uuid4()) as agent:
        agent.put("n", 0)
        threads = [
            threading.Thread(target=lambda: [agent.update("n", lambda n: n + 1) for _ in range(20)]) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert agent.get("n") == 100


def test_it_does_not_block_an_event_loop(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        with pytest.raises(HoldfastError, match="event loop"), holdfast.sync.connect(environ):
            pass

    asyncio.run(main())


@pytest.mark.req("D13.3")
def test_importing_the_library_imports_no_driver() -> None:
    seen = "any(name.partition('.')[0] in ('nats', 'psycopg') for name in sys.modules)"
    code = f"import sys; sys.path[:] = sys.argv[1:]; import holdfast; sys.exit({seen})"
    assert subprocess.run([sys.executable, "-c", code, *sys.path], check=False).returncode == 0
