"""Events of tables: what they say, that triggers say the same, and that never both do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from holdfast.errors import ConfigurationError
from holdfast.events.outbox import Outbox
from holdfast.events.triggers import (
    TRIGGERS,
    StateRow,
    TaskRow,
    heartbeat_event,
    lifecycle_event,
    modes,
    state_event,
    task_event,
)

VALUES: list[Any] = [
    None,
    0,
    1,
    1.0,
    True,
    False,
    "",
    "é",
    [],
    [1, 2],
    [2, 1],
    {},
    {"a": 1, "b": None},
    {"b": None, "a": 1.0},
]
TABLES = {
    "state": "agents.state",
    "task": "tasks.queue",
    "lifecycle": "agents.lifecycle_events",
    "heartbeat": "agents.registry",
}


@contextmanager
def switched(servers: Any, *sources: str) -> Iterator[None]:
    """The declared triggers of these tables, turned on."""
    import psycopg

    def turn(state: str) -> None:
        with psycopg.connect(**servers.admin, autocommit=True) as connection:
            for source in sources:
                connection.execute(f"ALTER TABLE {TABLES[source]} {state} TRIGGER {TRIGGERS[source]}")  # type: ignore[index]

    turn("ENABLE")
    try:
        yield
    finally:
        turn("DISABLE")


@pytest.mark.req("E1.1", "E1.5")
def test_events_of_state() -> None:
    one, two, gone = StateRow({"n": 1}, 1), StateRow({"n": 2}, 2), StateRow({"n": 2}, 3, is_deleted=True)

    def told(old: StateRow | None, new: StateRow | None) -> Any:
        event = state_event("a", "k", old, new, 5.0)
        if event is None:
            return None
        assert event.subject == "agents.state.a"
        payload = event.payload
        assert (payload["agent_id"], payload["state_key"], payload["timestamp"]) == ("a", "k", 5.0)
        return payload["operation"], payload["old_value"], payload["new_value"], payload["version"]

    assert told(None, one) == ("INSERT", None, {"n": 1}, 1)
    assert told(one, two) == ("UPDATE", {"n": 1}, {"n": 2}, 2)
    assert told(two, gone) == ("DELETE", {"n": 2}, None, 3)
    assert told(one, None) == ("DELETE", {"n": 1}, None, 1)
    assert told(gone, one) == ("INSERT", None, {"n": 1}, 1)
    assert told(one, StateRow({"n": 1}, 9)) is None
    assert told(gone, None) is None
    assert told(None, None) is None
    assert told(StateRow(1, 1), StateRow(True, 2)) is not None
    assert told(StateRow(1, 1), StateRow(1.0, 2)) is None


def test_an_event_of_a_large_value_says_so_and_fits() -> None:
    event = state_event("a", "k", StateRow("x" * 400_000, 1), StateRow("y" * 400_000, 2), 5.0)
    assert event is not None
    assert event.payload["omitted"] is True
    assert event.payload["new_value"] is None
    assert event.payload["version"] == 2


@pytest.mark.req("E1.2", "E1.5")
@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (None, "pending", "created"),
        ("pending", "running", "started"),
        ("running", "completed", "completed"),
        ("running", "failed", "failed"),
        ("pending", "cancelled", "cancelled"),
        ("pending", "queued", "updated"),
        ("running", "paused", "updated"),
        ("running", "running", None),
        ("pending", None, "cancelled"),
        ("completed", None, "updated"),
    ],
)
def test_events_of_tasks(before: str | None, after: str | None, what: str | None) -> None:
    def row(status: str | None) -> TaskRow | None:
        return None if status is None else TaskRow("t", "inference", status, "high", None, {"m": 1})

    event = task_event(row(before), row(after), 5.0)
    if what is None:
        assert event is None
        return
    assert event is not None
    assert event.subject == f"tasks.{what}.t"
    assert event.payload == {
        "task_id": "t",
        "task_type": "inference",
        "status": after,
        "previous_status": before,
        "assigned_agent_id": None,
        "priority": "high",
        "timestamp": 5.0,
        "metadata": {"m": 1},
    }


async def _noted(plane: Any) -> list[tuple[str, Any]]:
    rows = await plane.execute("SELECT subject, payload FROM runtime.outbox ORDER BY position")
    await plane.execute("DELETE FROM runtime.outbox")
    return [(subject, {**payload, "timestamp": 0}) for subject, payload in rows]


@pytest.mark.req("E1.1", "E1.5", "E1.7")
def test_the_trigger_on_state_says_what_the_library_says(open_plane: Any, servers: Any, agent_id: str) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    print("seed", seed)

    async def main() -> None:
        async with open_plane() as plane:
            old: StateRow | None = None
            for version in range(1, 120):
                kind = rng.choice(["put", "put", "put", "touch", "tombstone", "delete"])
                new = old
                if kind == "put":
                    new = StateRow(rng.choice(VALUES), version)
                elif kind == "tombstone" and old:
                    new = StateRow(old.value, version, is_deleted=True)
                elif kind == "delete":
                    new = None
                await _store(plane, agent_id, new)
                expected = state_event(agent_id, "k", old, new, 0)
                found = await _noted(plane)
                assert found == ([] if expected is None else [(expected.subject, expected.payload)]), (kind, old, new)
                old = new

    with switched(servers, "state"):
        asyncio.run(main())


async def _store(plane: Any, agent_id: str, row: StateRow | None) -> None:
    import json

    if row is None:
        await plane.execute("DELETE FROM agents.state WHERE agent_id = %s", [agent_id])
        return
    deleted = "now()" if row.is_deleted else "NULL"
    await plane.execute(
        "INSERT INTO agents.state (agent_id, state_key, state_value, version, deleted_at)"
        f" VALUES (%s, 'k', %s, %s, {deleted}) ON CONFLICT (agent_id, state_key) DO UPDATE SET"
        " state_value = excluded.state_value, version = excluded.version, deleted_at = excluded.deleted_at,"
        " updated_at = now()",
        [agent_id, json.dumps(row.value), row.version],
    )


@pytest.mark.req("E1.2", "E1.5", "E1.7")
def test_the_trigger_on_tasks_says_what_the_library_says(open_plane: Any, servers: Any) -> None:
    statuses = ["pending", "queued", "running", "paused", "completed", "failed", "cancelled"]
    rng = random.Random(5)

    async def main() -> None:
        async with open_plane() as plane:
            for _ in range(25):
                task = str(uuid4())
                await plane.execute(
                    "INSERT INTO tasks.queue (task_id, task_type, metadata) VALUES (%s, 'inference', '{\"m\": 1}')",
                    [task],
                )
                old: TaskRow | None = None
                new: TaskRow | None = TaskRow(task, "inference", "pending", "normal", None, {"m": 1})
                for _ in range(4):
                    expected = task_event(old, new, 0)
                    assert await _noted(plane) == ([(expected.subject, expected.payload)] if expected else [])
                    assert new is not None
                    old = new
                    new = TaskRow(task, "inference", rng.choice(statuses), "high", None, {"m": 1})
                    await plane.execute(
                        "UPDATE tasks.queue SET status = %s::tasks.task_status_type, priority = 'high'"
                        " WHERE task_id = %s",
                        [new.status, task],
                    )
                await _noted(plane)
                await plane.execute("DELETE FROM tasks.queue WHERE task_id = %s", [task])
                expected = task_event(new, None, 0)
                assert expected is not None
                assert await _noted(plane) == [(expected.subject, expected.payload)]

    with switched(servers, "task"):
        asyncio.run(main())


@pytest.mark.req("E1.6")
def test_life_cycle_and_heartbeats_are_told_of_by_triggers(open_plane: Any, servers: Any, agent_id: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            [[event_id]] = await plane.execute(
                "INSERT INTO agents.lifecycle_events (agent_id, event_type, previous_status, new_status, event_data)"
                " VALUES (%s, 'started', 'idle', 'active', '{\"a\": 1}') RETURNING event_id",
                [agent_id],
            )
            expected = lifecycle_event(
                agent_id, event_id, "started", 0, previous_status="idle", new_status="active", event_data={"a": 1}
            )
            assert await _noted(plane) == [(expected.subject, expected.payload)]
            await plane.execute("UPDATE agents.registry SET last_heartbeat = now() WHERE agent_id = %s", [agent_id])
            beat = heartbeat_event(agent_id, "initializing", 0)
            assert await _noted(plane) == [(beat.subject, beat.payload)]
            await plane.execute("UPDATE agents.registry SET status = 'active' WHERE agent_id = %s", [agent_id])
            await plane.execute(
                "UPDATE agents.registry SET last_heartbeat = last_heartbeat WHERE agent_id = %s", [agent_id]
            )
            assert await _noted(plane) == []

    with switched(servers, "lifecycle", "heartbeat"):
        asyncio.run(main())


@pytest.mark.req("E1.7")
def test_never_both_tell_of_a_table(open_plane: Any, servers: Any, agent_id: str) -> None:
    """The same work of the library, with the trigger off and on: one event each time."""

    async def work(plane: Any, value: int) -> list[Any]:
        async with plane.pools.primary.connection() as connection:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, 'k', %s)"
                    " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = excluded.state_value",
                    [agent_id, str(value)],
                )
                event = state_event(agent_id, "k", None, StateRow(value, 1), 0)
                await Outbox(plane.contract).announce(connection, "state", [event, None])
            found = (await modes(connection, plane.contract))["state"]
        return [found, len(await _noted(plane))]

    async def main() -> None:
        async with open_plane() as plane:
            assert await work(plane, 1) == ["library", 1]
            with switched(servers, "state"):
                assert await work(plane, 2) == ["trigger", 1]
            assert await work(plane, 3) == ["library", 1]

    asyncio.run(main())


def test_announcing_needs_the_transaction_of_the_change(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane, plane.pools.primary.connection() as connection:
            event = heartbeat_event(str(uuid4()), "active", 0)
            with pytest.raises(ConfigurationError):
                await Outbox(plane.contract).announce(connection, "heartbeat", [event])

    asyncio.run(main())
