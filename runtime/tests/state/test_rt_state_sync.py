"""The library for programs without asyncio."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import holdfast.sync
from holdfast.errors import HoldfastError, NotFound
from holdfast.stores import Stores


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


@pytest.mark.req("D2.3")
@pytest.mark.parametrize(
    ("scene", "told"),
    [("watching", "k\ncaught\n"), ("working", "caught [True]\n"), ("leaving", "caught\n"), ("connecting", "caught\n")],
)
def test_an_interrupt_is_raised_as_it_is_and_leaves_nothing_behind(
    environ: Mapping[str, str], scene: str, told: str
) -> None:
    program = Path(__file__).with_name("interrupted.py")
    env = {**os.environ, **environ, "PYTHONPATH": str(program.parents[2])}
    done = subprocess.run(
        [sys.executable, str(program), scene], env=env, capture_output=True, text=True, check=False, timeout=40
    )
    errors = [line for line in done.stderr.splitlines() if "did not end well" not in line]
    assert (done.stdout, errors) == (told, [])
    assert done.returncode == 0


def test_what_other_threads_do_ends_with_the_plane(environ: Mapping[str, str]) -> None:
    """Each is told that the plane was closed, and none waits for ever."""
    ended: dict[str, BaseException | None] = {}

    async def slow(connection: Any) -> None:
        await asyncio.sleep(60)

    with holdfast.sync.connect(environ) as plane, plane.agent(uuid4()) as agent:
        transactions = plane.transactions

        def note(name: str, work: Callable[[], object]) -> None:
            try:
                work()
            except BaseException as error:
                ended[name] = error
            else:
                ended[name] = None

        works: dict[str, Callable[[], object]] = {
            "watch": lambda: list(agent.watch()),
            "statuses": lambda: list(agent.statuses()),
            "transaction": lambda: transactions.run(slow),
        }
        threads = [threading.Thread(target=note, args=work, daemon=True) for work in works.items()]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert not ended
    for thread in threads:
        thread.join(5)
    assert ended.keys() == works.keys()
    assert ended["statuses"] is None  # the handle's life is over
    for name in ("watch", "transaction"):
        assert isinstance(ended[name], HoldfastError)
        assert "closed" in str(ended[name])
    with pytest.raises(HoldfastError, match="inside of its `with`"):
        transactions.run(slow)


def test_what_the_plane_makes_is_made_in_the_thread_of_its_loop(
    environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cached_property`` has no lock since Python 3.12: two threads that ask at once would get two."""
    made: list[str] = []
    init = Stores.__init__

    def noted(self: Stores, *values: Any) -> None:
        made.append(threading.current_thread().name)
        init(self, *values)

    monkeypatch.setattr(Stores, "__init__", noted)
    with holdfast.sync.connect(environ, background=False) as plane:
        del plane.aio.__dict__["stores"]  # connecting has asked for it
        made.clear()
        assert plane.stores.aio is plane.stores.aio
    assert made == ["holdfast"]


@pytest.mark.req("D13.3")
def test_importing_the_library_imports_no_driver() -> None:
    seen = "any(name.partition('.')[0] in ('nats', 'psycopg') for name in sys.modules)"
    code = f"import sys; sys.path[:] = sys.argv[1:]; import holdfast; sys.exit({seen})"
    assert subprocess.run([sys.executable, "-c", code, *sys.path], check=False).returncode == 0
