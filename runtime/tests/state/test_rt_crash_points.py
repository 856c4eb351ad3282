"""Processes killed at each of ``holdfast.points.PLACES``: nothing acknowledged is lost, nothing counts by half."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from data.test_rt_data_faults import SAVE_POINTS
from outages.loads import messages
from state.test_rt_state_faults import drained
from work.test_rt_crash import EVERY

import holdfast
from holdfast import points

if TYPE_CHECKING:
    from conftest import Servers
    from state.conftest import Database, Program

Start = Callable[..., "Program"]
PUT_POINTS = ["put.sent", "put.noted", "flush.read", "flush.committed", "flush.acknowledged"]
EDIT_POINTS = ["edit.recorded", "put.sent", "edit.written", "flush.committed"]
RESTORE_POINTS = ["checkpoint.read", "checkpoint.stored", "restore.recorded", "restore.written", "flush.committed"]
FORK_POINTS = ["fork.recorded", "fork.written"]
EMIT_POINTS = [place for place in points.PLACES if place.partition(".")[0] in ("outbox", "transaction", "relay")]


def test_a_process_is_killed_at_every_point_there_is() -> None:
    """Here, in tests/work (sagas, two-phase commits) and in tests/data (repositories)."""
    lists = (PUT_POINTS, EDIT_POINTS, RESTORE_POINTS, FORK_POINTS, EMIT_POINTS, SAVE_POINTS)
    exercised = {place for places in lists for place in places} | {place for _, place, _ in EVERY}
    sys.stdout.write(f"{len(exercised)} points: {', '.join(points.PLACES)}\n")
    assert exercised == set(points.PLACES)
    assert len(points.PLACES) == len(set(points.PLACES))
    assert _reached_in_the_source() == set(points.PLACES)


def _reached_in_the_source() -> set[str]:
    """The names given to ``reach``; an edit says by its kind whose record it is."""
    found = set()
    for file in Path(holdfast.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "reach":
                name = ast.literal_eval(ast.unparse(node.args[0]).replace("f'{what}", "'{what}"))
                found |= {name.format(what=what) for what in ("edit", "restore", "fork")}
    return found


async def adopt(environ: Mapping[str, str], agent_id: str, wait_s: float = 40) -> dict[str, Any]:
    """What the next owner finds, once everything is in the database."""
    async with holdfast.connect(environ) as plane:
        async with plane.agent(agent_id, wait_s=wait_s) as agent:
            found = await agent.items()
        await drained(plane)
        return found


@pytest.mark.req("D2.4", "D1.2")
@pytest.mark.parametrize("point", PUT_POINTS)
def test_what_was_acknowledged_survives_a_kill_at(
    small: Servers, small_database: Database, program: Start, point: str
) -> None:
    agent_id = str(uuid4())
    promised = program(small.environ, "put", agent_id, point, "3", "2000").finish()
    newest = dict(promised)
    found = asyncio.run(adopt(small.environ, agent_id))
    for key, number in newest.items():
        assert found[key] >= number
    assert small_database.values(agent_id) == found


@pytest.mark.req("D1.4")
@pytest.mark.parametrize("point", EDIT_POINTS)
def test_an_edit_counts_whole_or_not_at_all_after_a_kill_at(
    small: Servers, small_database: Database, program: Start, point: str
) -> None:
    agent_id = str(uuid4())
    promised = program(small.environ, "edit", agent_id, point, "4", "2000").finish()
    found = asyncio.run(adopt(small.environ, agent_id))
    assert found["left"] + found["right"] == 100
    if promised:
        assert found["right"] >= promised[-1][1]
    assert small_database.values(agent_id) == found


@pytest.mark.req("D11.3")
@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_a_restore_counts_whole_or_not_at_all_after_a_kill_at(
    small: Servers, small_database: Database, program: Start, point: str
) -> None:
    agent_id = str(uuid4())
    promised = program(small.environ, "restore", agent_id, point, "2", "50").finish()
    found = asyncio.run(adopt(small.environ, agent_id))
    assert small_database.values(agent_id) == found
    told = "SELECT count(*) FROM agents.lifecycle_events WHERE event_type = 'rolled_back' AND agent_id = %s"
    events = small_database.query(told, agent_id)[0][0]
    restored = promised.count("restored")
    assert events in (restored, restored + 1)
    if point in ("restore.recorded", "restore.written"):
        # The edit was recorded: it counts, although nobody was told so.
        assert events == restored + 1
        assert found == {"a": 0, "b": 0}


@pytest.mark.req("D11.3")
@pytest.mark.parametrize("point", FORK_POINTS)
def test_a_fork_counts_whole_or_not_at_all_after_a_kill_at(
    small: Servers, small_database: Database, program: Start, point: str
) -> None:
    agent_id = str(uuid4())
    promised = program(small.environ, "fork", agent_id, point, "2", "50").finish()
    assert [what for what, _ in promised] == ["begun", "forked", "begun"]
    for _, new in promised[1:]:
        # The second one was recorded: it counts, although nobody was told so.
        assert asyncio.run(adopt(small.environ, new)) == {"a": 1, "b": 2}
        assert small_database.values(new) == {"a": 1, "b": 2}
        told = "SELECT parent_agent_id FROM agents.registry JOIN agents.lifecycle_events USING (agent_id)"
        forked = f"{told} WHERE agent_id = %s AND event_type = 'forked'"
        assert small_database.query(forked, new) == [(UUID(agent_id),)]


@pytest.mark.req("E1.4")
@pytest.mark.parametrize("point", EMIT_POINTS)
def test_an_event_leaves_once_with_its_row_or_not_at_all_after_a_kill_at(
    servers: Servers, database: Database, program: Start, point: str
) -> None:
    name = str(uuid4())
    promised = program(servers.environ, "emit", name, point, "5", "2000").finish()

    async def main() -> list[str]:
        async with holdfast.connect(servers.environ, events=True) as plane:
            unsent = "SELECT count(*) FROM runtime.outbox WHERE published_at IS NULL AND subject = %s"
            while database.query(unsent, f"tasks.created.{name}") != [(0,)]:
                await asyncio.sleep(0.02)
            return [found for found, _ in await messages(plane, "TASK_EXECUTION", f"tasks.created.{name}")]

    found = asyncio.run(asyncio.wait_for(main(), 60))
    known = set(promised)
    assert [one for one in found if one in known] == promised
    rows = database.query("SELECT count(*) FROM tasks.queue WHERE task_name = %s", name)
    assert (len(found), len(set(found))) == (rows[0][0], rows[0][0])
