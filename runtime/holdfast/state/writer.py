"""Rows of agents' state in the database: one statement for a batch where nothing else hangs on it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import ConfigurationError, ConstraintViolation
from holdfast.events.limited import limited
from holdfast.events.outbox import Event, Outbox, Streams
from holdfast.events.triggers import LARGEST_BYTES, StateRow, lifecycle_event, state_event
from holdfast.kv.entry import CORRELATION, Position
from holdfast.state import flush_sql
from holdfast.state.edits import Edit
from holdfast.state.flush_sql import Change
from holdfast.state.keys import EDIT_KEY, RESERVED

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool
    from holdfast.state.lag import Parked

Row = tuple[UUID, str]

_STATEMENT_S: Final = 20.0
_NO_REGISTRY: Final = "23503"
_KNOWN_AGENTS: Final = 100_000
#: The life-cycle event of a state that was given to a new agent.
FORKED: Final = "forked"
#: That of a value which the database does not take.
REFUSED: Final = "flush_refused"


class Writer:
    """Writes changes. With ``events`` each change of a row also leaves as an event ``agents.state.<agent_id>``.

    "batch" lets those of one agent and one transaction leave together, see ``Outbox.add_many``.
    Raises the errors of holdfast.sql.failures; ConfigurationError at once where no stream takes the events.
    """

    #: The condition under which a row moves; without it, an older revision would overwrite a newer one.
    guard = flush_sql.GUARD

    def __init__(self, contract: Contract, pool: Pool, *, events: bool | str = False) -> None:
        names = contract.names
        self._pool = pool
        self._table = names.state_table
        self._plain = flush_sql.write_statement(self._table, guard=self.guard)
        self._returning = flush_sql.write_statement(self._table, returning=True, guard=self.guard)
        self._before = flush_sql.before_statement(self._table)
        self._register = flush_sql.register_statement(names.registry_table)
        self._life_table = names.lifecycle_table
        self._lifecycle = flush_sql.lifecycle_statement(self._life_table)
        self._noted = flush_sql.noted_statement(self._life_table)
        self._descent = flush_sql.descent_statement(names.registry_table)
        self._positions = flush_sql.positions_statement(self._table)
        self._later = flush_sql.later_statement(self._table)
        self._known: set[UUID] = set()
        self._outbox = Outbox(contract) if events else None
        self._batch = events == "batch"
        self._room = 0
        if events:
            found = Streams.of(contract).find(f"agents.state.{UUID(int=0)}")
            if found is None:
                raise ConfigurationError("no stream of the plane takes agents.state.*, so no events can be sent")
            self._room = min((found[1] or LARGEST_BYTES) * 3 // 4, LARGEST_BYTES)

    async def write(self, changes: Sequence[Change]) -> dict[Row, Position]:
        """Commit changes of distinct rows in one transaction. Returns where the database has something later."""
        if not changes:
            return {}
        try:
            moved = await self._write(changes)
        except ConstraintViolation as error:
            if error.sqlstate != _NO_REGISTRY:
                raise
            # Somebody deleted an agent that we knew to be registered.
            self._known -= {change.agent_id for change in changes}
            moved = await self._write(changes)
        return {} if moved == len(changes) else await self._find_later(changes)

    async def _find_later(self, changes: Sequence[Change]) -> dict[Row, Position]:
        written = {change.row: change.position for change in changes}
        async with limited(_STATEMENT_S, "the database"), self._pool.connection() as connection:
            cursor = await connection.execute(self._later, [list(column) for column in zip(*written, strict=True)])
            held = {(agent_id, key): Position(*position) for agent_id, key, *position in await cursor.fetchall()}
        return {row: position for row, position in held.items() if position > written[row]}

    async def positions(self, agent_id: UUID, keys: Sequence[str]) -> dict[str, Position]:
        """What the database has of these keys; keys that it has not are left out."""
        async with limited(_STATEMENT_S, "the database"), self._pool.connection() as connection:
            cursor = await connection.execute(self._positions, [agent_id, list(keys)])
            return {key: Position(incarnation, revision) for key, incarnation, revision in await cursor.fetchall()}

    async def _write(self, changes: Sequence[Change]) -> int:
        """Returns how many rows moved."""
        strangers = sorted({change.agent_id for change in changes} - self._known)
        records = [change for change in changes if change.state_key == EDIT_KEY]
        async with limited(_STATEMENT_S, "the database"), self._pool.connection() as connection:
            if not (strangers or records or self._outbox):
                return (await connection.execute(self._plain, flush_sql.columns(changes))).rowcount
            async with connection.transaction():
                if strangers:
                    await connection.execute(self._register, [strangers])
                moved = await self._write_and_tell(connection, changes, records)
        if len(self._known) > _KNOWN_AGENTS:
            self._known.clear()
        self._known.update(strangers)
        return moved

    async def _write_and_tell(
        self, connection: AsyncConnection[Any], changes: Sequence[Change], records: Sequence[Change]
    ) -> int:
        before: dict[Row, StateRow] = {}
        if self._outbox:
            keys = [list(column) for column in zip(*sorted(change.row for change in changes), strict=True)]
            cursor = await connection.execute(self._before, keys)
            async for agent_id, key, value, is_deleted in cursor:
                before[agent_id, key] = StateRow(value, 0, is_deleted)
        cursor = await connection.execute(self._returning, flush_sql.columns(changes))
        moved = {(agent_id, key): version for agent_id, key, version in await cursor.fetchall()}
        for record in records:
            event = Edit.decode(record.value).event if record.value is not None and record.row in moved else None
            if event:
                await self.note(
                    connection, record.agent_id, event["type"], {**event["data"], "position": str(record.position)}
                )
            if event and event["type"] == FORKED:
                await connection.execute(self._descent, [event["data"]["from_agent_id"], record.agent_id])
        if self._outbox:
            told = [self._event(c, before.get(c.row), moved[c.row]) for c in changes if _is_told(c, moved)]
            await self._outbox.announce(connection, "state", told, batch=self._batch)
        return len(moved)

    async def tell_parked(self, parked: Parked) -> None:
        """Note in the agent's life that the database refuses a write of it, unless that is there already."""
        where = {"state_key": parked.state_key, "position": str(parked.position)}
        async with (
            limited(_STATEMENT_S, "the database"),
            self._pool.connection() as connection,
            connection.transaction(),
        ):
            await connection.execute(self._register, [[parked.agent_id]])
            cursor = await connection.execute(self._noted, [parked.agent_id, REFUSED, json.dumps(where)])
            if await cursor.fetchone() is None and parked.agent_id is not None:
                await self.note(connection, parked.agent_id, REFUSED, {**where, "code": parked.code})

    async def note(self, connection: AsyncConnection[Any], agent_id: UUID, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to an agent's life, in the transaction that is open; it leaves as one where events do."""
        cursor = await connection.execute(self._lifecycle, [agent_id, kind, json.dumps(data)])
        row = await cursor.fetchone()
        if self._outbox and self._outbox.takes(f"agents.lifecycle.{agent_id}") and row is not None:
            event = lifecycle_event(agent_id, row[0], kind, row[1], event_data=data)
            await self._outbox.announce(connection, "lifecycle", [event])

    def _event(self, change: Change, old: StateRow | None, version: int) -> Event | None:
        value = None if change.value is None else json.loads(change.value)
        new = StateRow(value, version, is_deleted=change.value is None)
        event = state_event(change.agent_id, change.state_key, old, new, time.time(), largest=self._room)
        if event is None or not change.correlation_id:
            return event
        return replace(event, headers={CORRELATION: change.correlation_id})


def _is_told(change: Change, moved: dict[Row, int]) -> bool:
    return change.row in moved and not change.state_key.startswith(RESERVED)
