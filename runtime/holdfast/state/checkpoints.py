"""Checkpoints: all values of an agent at one moment, in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

from holdfast.errors import CodecError, NotFound
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified
from holdfast.kv.entry import Position
from holdfast.state.codec import canonical, checksum
from holdfast.state.flush_sql import register_statement
from holdfast.state.keys import MAX_LENGTH, MAX_TRIGGER, RESERVED, check_text

if TYPE_CHECKING:
    from holdfast.state.home import Home
    from holdfast.state.hydration import Head

_STATEMENT_S: Final = 20.0
_COLUMNS: Final = "checkpoint_id, checkpoint_name, trigger_event, created_at, kv_revision"


class Checkpoint(NamedTuple):
    """A stored checkpoint. ``kv_revision``: the newest write that it holds, within the bucket of that time."""

    checkpoint_id: UUID
    name: str | None
    trigger: str | None
    created_at: datetime
    kv_revision: int | None


async def store(
    home: Home, agent_id: UUID, heads: Mapping[str, Head], schema: int, name: str | None, trigger: str
) -> Checkpoint:
    """Keep the values, and note the life-cycle event ``checkpointed``.

    Raises CodecError for a name or a trigger that the table does not take, and what the database raises.
    """
    check_text(trigger, MAX_TRIGGER, "the trigger of a checkpoint")
    if name is not None:
        check_text(name, MAX_LENGTH, "the name of a checkpoint")
    names = home.contract.names
    statement = f"""
        INSERT INTO {qualified(names.checkpoint_table)}
               (checkpoint_id, agent_id, checkpoint_name, state_snapshot, kv_revision, trigger_event)
        VALUES (%s, %s, %s, %s::jsonb, %s, %s) RETURNING {_COLUMNS}"""
    newest = max((head.position for head in heads.values()), default=Position(0, 0))
    parameters = [uuid4(), agent_id, name, snapshot(heads, schema, newest), newest.revision, trigger]
    async with (
        limited(_STATEMENT_S, "the database"),
        home.pools.primary.connection() as connection,
        connection.transaction(),
    ):
        await connection.execute(register_statement(names.registry_table), [[agent_id]])
        cursor = await connection.execute(statement, parameters)
        stored = Checkpoint(*(await cursor.fetchone() or ()))
        await home.writer.note(connection, agent_id, "checkpointed", told(stored))
    return stored


def told(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a life-cycle event says of a checkpoint."""
    return {"checkpoint_id": str(checkpoint.checkpoint_id), "checkpoint_name": checkpoint.name}


async def listed(home: Home, agent_id: UUID) -> list[Checkpoint]:
    """The agent's checkpoints, newest first. Raises what the database raises."""
    statement = f"""
        SELECT {_COLUMNS} FROM {qualified(home.contract.names.checkpoint_table)}
         WHERE agent_id = %s ORDER BY created_at DESC, checkpoint_id"""
    async with limited(_STATEMENT_S, "the database"), home.pools.primary.connection() as connection:
        cursor = await connection.execute(statement, [agent_id])
        return [Checkpoint(*row) for row in await cursor.fetchall()]


async def load(home: Home, agent_id: UUID, which: str | UUID) -> tuple[Checkpoint, dict[str, bytes], int]:
    """One checkpoint by id, or the newest of a name, with its values and their schema version.

    Raises NotFound, CodecError for a snapshot that cannot be read or was changed, and what the database raises.
    """
    wanted = str(which)
    check_text(wanted, MAX_LENGTH, "the name of a checkpoint")
    statement = f"""
        SELECT state_snapshot::text, {_COLUMNS} FROM {qualified(home.contract.names.checkpoint_table)}
         WHERE agent_id = %s AND (checkpoint_id::text = %s OR checkpoint_name = %s)
         ORDER BY checkpoint_id::text = %s DESC, created_at DESC, checkpoint_id LIMIT 1"""
    async with limited(_STATEMENT_S, "the database"), home.pools.primary.connection() as connection:
        cursor = await connection.execute(statement, [agent_id, wanted, wanted, wanted])
        row: Any = await cursor.fetchone()
    if row is None:
        raise NotFound("the agent has no such checkpoint")
    text, *columns = row
    values, schema = values_of(text)
    return Checkpoint(*columns), values, schema


def snapshot(heads: Mapping[str, Head], schema: int, newest: Position) -> str:
    """What is stored: the values, where the newest stands, the version of their schema, a checksum."""
    values = {}
    for key, head in heads.items():
        if head.value is not None and not key.startswith(RESERVED):
            try:
                values[key] = json.loads(head.value)
            except ValueError:
                raise CodecError(f"the value of {key!r} is not JSON: write or delete it first") from None
    summed = checksum(canonical(values))
    body = {"values": values, "schema": schema, "incarnation": newest.incarnation, "checksum": summed}
    return canonical(body).decode()


def values_of(text: str) -> tuple[dict[str, bytes], int]:
    """Read a snapshot. Raises CodecError."""
    try:
        body = json.loads(text)
        values, schema, summed = body["values"], int(body["schema"]), body["checksum"]
        found = {str(key): canonical(value) for key, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CodecError("the snapshot of the checkpoint cannot be read") from None
    if checksum(canonical(values)) != summed:
        raise CodecError("the checksum of the checkpoint does not fit its values")
    return found, schema
