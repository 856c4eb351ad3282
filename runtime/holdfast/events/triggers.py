"""What a change of a table is called and says, and which tables tell of themselves.

By default the library notes events with what it writes. For tables that others write there are declared triggers
(``specs/runtime.yaml``), off until an environment turns one on; they say the same. Where one is on,
``Outbox.announce`` leaves the table to it: never both. Turn them on and off while nobody writes the table.

Rules: a change of state is a change of its value. Setting a tombstone is the deletion; a touched row or a new version
with the old value is no change. A task is told of when it is made, changes its status, or goes: one that had not ended
is then cancelled, one that had is updated to no status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from holdfast.events.outbox import Event, encode

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract, Names

Source = Literal["state", "task", "lifecycle", "heartbeat"]

TRIGGERS: Final[Mapping[Source, str]] = {
    "state": "trigger_agent_state_nats_notify",
    "task": "trigger_task_lifecycle_nats_notify",
    "lifecycle": "trigger_agent_lifecycle_nats_notify",
    "heartbeat": "trigger_agent_heartbeat_nats_notify",
}
#: From this size on an event of state says that values changed, but not how: it must fit its stream.
LARGEST_BYTES: Final = 512 * 1024
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True)
class StateRow:
    """One row of ``agents.state``. ``value`` is JSON as Python has it; ``is_deleted`` for a tombstone."""

    value: Any
    version: int
    is_deleted: bool = False


@dataclass(frozen=True)
class TaskRow:
    """What an event says of one row of ``tasks.queue``."""

    task_id: UUID | str
    task_type: str
    status: str
    priority: str
    assigned_agent_id: UUID | str | None = None
    metadata: Any = None


def state_event(
    agent_id: UUID | str,
    state_key: str,
    old: StateRow | None,
    new: StateRow | None,
    at: float,
    *,
    largest: int = LARGEST_BYTES,
) -> Event | None:
    """The event of a changed row; None where nothing changed. ``at`` is in seconds since 1970.

    One of more than ``largest`` bytes says that the values changed, and not how.
    """
    before = old if old and not old.is_deleted else None
    after = new if new and not new.is_deleted else None
    if before is None and after is None:
        return None
    if before and after and _same(before.value, after.value):
        return None
    row = new or old
    assert row is not None
    payload = {
        "operation": "INSERT" if before is None else "DELETE" if after is None else "UPDATE",
        "agent_id": str(agent_id),
        "state_key": state_key,
        "old_value": before.value if before else None,
        "new_value": after.value if after else None,
        "version": row.version,
        "timestamp": at,
    }
    if len(encode(payload).encode()) > largest:
        payload |= {"old_value": None, "new_value": None, "omitted": True}
    return Event(f"agents.state.{agent_id}", payload)


def task_event(old: TaskRow | None, new: TaskRow | None, at: float) -> Event | None:
    """The event of a new, changed or deleted task; None where its status stayed."""
    row = new or old
    if row is None or (old and new and old.status == new.status):
        return None
    if new is None:
        what = "updated" if row.status in _ENDED else "cancelled"
    elif old is None:
        what = "created"
    elif new.status == "running":
        what = "started"
    else:
        what = new.status if new.status in _ENDED else "updated"
    payload = {
        "task_id": str(row.task_id),
        "task_type": row.task_type,
        "status": new.status if new else None,
        "previous_status": old.status if old else None,
        "assigned_agent_id": None if row.assigned_agent_id is None else str(row.assigned_agent_id),
        "priority": row.priority,
        "timestamp": at,
        "metadata": row.metadata,
    }
    return Event(f"tasks.{what}.{row.task_id}", payload)


def lifecycle_event(
    agent_id: UUID | str,
    event_id: UUID | str,
    event_type: str,
    at: float,
    *,
    previous_status: str | None = None,
    new_status: str | None = None,
    event_data: Any = None,
    triggered_by: UUID | str | None = None,
) -> Event:
    """The event of a row of ``agents.lifecycle_events``."""
    payload = {
        "event_id": str(event_id),
        "agent_id": str(agent_id),
        "event_type": event_type,
        "previous_status": previous_status,
        "new_status": new_status,
        "event_data": {} if event_data is None else event_data,
        "triggered_by": None if triggered_by is None else str(triggered_by),
        "timestamp": at,
    }
    return Event(f"agents.lifecycle.{agent_id}", payload)


def heartbeat_event(agent_id: UUID | str, status: str, at: float) -> Event:
    """The event of an agent's sign of life."""
    payload = {"agent_id": str(agent_id), "status": status, "timestamp": at}
    return Event(f"agents.heartbeat.{agent_id}", payload)


async def modes(connection: AsyncConnection[Any], contract: Contract) -> dict[Source, Literal["library", "trigger"]]:
    """Who tells of the changes of each table now."""
    found: dict[Source, Literal["library", "trigger"]] = {}
    for source, trigger in TRIGGERS.items():
        cursor = await connection.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = pg_catalog.to_regclass(%s)"
            " AND t.tgname = %s::text AND t.tgenabled IN ('O', 'A'))",
            [table_of(contract.names, source), trigger],
        )
        row = await cursor.fetchone()
        found[source] = "trigger" if row and row[0] else "library"
    return found


def table_of(names: Names, source: Source) -> str:
    """The table whose changes the events of a source tell of."""
    tables = {"state": "state_table", "task": "task_table", "lifecycle": "lifecycle_table"}
    table: str = getattr(names, tables.get(source, "registry_table"))
    return table


def _same(one: Any, other: Any) -> bool:
    """Equal as jsonb: 1 and 1.0 are, 1 and true are not, nor are lists in another order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
