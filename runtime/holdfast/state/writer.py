"""Rows of agents' state in the database: one statement for a batch where nothing else hangs on it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import ConfigurationError, ConstraintViolation
from holdfast.events.limited import limited
from holdfast.events.outbox import Event, Outbox, Streams
from holdfast.kv.entry import CORRELATION, Position
from holdfast.state import flush_sql
from holdfast.state.edits import Edit
from holdfast.state.flush_sql import Change
from holdfast.state.keys import EDIT_KEY, RESERVED

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool

Row = tuple[UUID, str]

_STATEMENT_S: Final = 20.0
_NO_REGISTRY: Final = "23503"
_KNOWN_AGENTS: Final = 100_000
#: The trigger that tells of changes in its stead, where a plane has it on.
_TRIGGER: Final = "trigger_agent_state_nats_notify"
_MIB: Final = 2**20


class Writer:
    """Writes changes. With ``events`` each change of a row also leaves as an event ``agents.state.<agent_id>``.

    Raises the errors of holdfast.sql.failures; ConfigurationError at once where no stream takes the events.
    """

    #: The condition under which a row moves; without it, an older revision would overwrite a newer one.
    guard = flush_sql.GUARD

    def __init__(self, contract: Contract, pool: Pool, *, events: bool = False) -> None:
        names = contract.names
        self._pool = pool
        self._table = names.state_table
        self._plain = flush_sql.write_statement(self._table, guard=self.guard)
        self._returning = flush_sql.write_statement(self._table, returning=True, guard=self.guard)
        self._before = flush_sql.before_statement(self._table)
        self._register = flush_sql.register_statement(names.registry_table)
        self._lifecycle = flush_sql.lifecycle_statement(names.lifecycle_table)
        self._positions = flush_sql.positions_statement(self._table)
        self._known: set[UUID] = set()
        self._outbox = Outbox(contract) if events else None
        self._room = 0
        if events:
            found = Streams.of(contract).find(f"agents.state.{UUID(int=0)}")
            if found is None:
                raise ConfigurationError("no stream of the plane takes agents.state.*, so no events can be sent")
            self._room = (found[1] or _MIB) * 3 // 4

    async def write(self, changes: Sequence[Change]) -> None:
        """Commit changes of distinct rows in one transaction."""
        if not changes:
            return
        try:
            await self._write(changes)
        except ConstraintViolation as error:
            if error.sqlstate != _NO_REGISTRY:
                raise
            # Somebody deleted an agent that we knew to be registered.
            self._known -= {change.agent_id for change in changes}
            await self._write(changes)

    async def positions(self, agent_id: UUID, keys: Sequence[str]) -> dict[str, Position]:
        """What the database has of these keys; keys that it has not are left out."""
        async with limited(_STATEMENT_S, "the database"), self._pool.connection() as connection:
            cursor = await connection.execute(self._positions, [agent_id, list(keys)])
            return {key: Position(incarnation, revision) for key, incarnation, revision in await cursor.fetchall()}

    async def _write(self, changes: Sequence[Change]) -> None:
        strangers = sorted({change.agent_id for change in changes} - self._known)
        records = [change for change in changes if change.state_key == EDIT_KEY]
        async with limited(_STATEMENT_S, "the database"), self._pool.connection() as connection:
            if not (strangers or records or self._outbox):
                await connection.execute(self._plain, flush_sql.columns(changes))
                return
            async with connection.transaction():
                if strangers:
                    await connection.execute(self._register, [strangers])
                await self._write_and_tell(connection, changes, records)
        if len(self._known) > _KNOWN_AGENTS:
            self._known.clear()
        self._known.update(strangers)

    async def _write_and_tell(
        self, connection: AsyncConnection[Any], changes: Sequence[Change], records: Sequence[Change]
    ) -> None:
        before: dict[Row, str | None] = {}
        if self._outbox:
            keys = [list(column) for column in zip(*sorted(change.row for change in changes), strict=True)]
            cursor = await connection.execute(self._before, keys)
            async for agent_id, key, value, is_deleted in cursor:
                before[agent_id, key] = None if is_deleted else json.dumps(value)
        cursor = await connection.execute(self._returning, flush_sql.columns(changes))
        moved = {(agent_id, key): version for agent_id, key, version in await cursor.fetchall()}
        for record in records:
            event = Edit.decode(record.value).event if record.value is not None and record.row in moved else None
            if event:
                data = json.dumps({**event["data"], "position": str(record.position)})
                await connection.execute(self._lifecycle, [record.agent_id, event["type"], data])
        if self._outbox:
            events = [self._event(c, before.get(c.row), moved[c.row]) for c in changes if _is_told(c, moved)]
            await self._outbox.add_many(connection, events, unless_trigger=(self._table, _TRIGGER))

    def _event(self, change: Change, old: str | None, version: int) -> Event:
        new = change.value.decode() if change.value is not None else None
        is_large = len(old or "") + len(new or "") > self._room
        payload = {
            "operation": "DELETE" if new is None else "INSERT" if old is None else "UPDATE",
            "agent_id": str(change.agent_id),
            "state_key": change.state_key,
            "old_value": None if is_large or old is None else json.loads(old),
            "new_value": None if is_large or new is None else json.loads(new),
            "version": version,
            "timestamp": time.time(),
        }
        if is_large:
            payload["truncated"] = True
        headers = {CORRELATION: change.correlation_id} if change.correlation_id else {}
        return Event(f"agents.state.{change.agent_id}", payload, headers)


def _is_told(change: Change, moved: dict[Row, int]) -> bool:
    return change.row in moved and not change.state_key.startswith(RESERVED)
