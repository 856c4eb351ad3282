"""The durable journal of sagas. Every write names the attempt it belongs to: a process that lost a saga is refused.

``attempts`` counts how often somebody took the saga up and is its epoch. Liveness is ``updated_at``: who works on
a saga touches it, and one that nobody touched for a while may be claimed. All times are the database's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import UUID

from holdfast.errors import CodecError, Fenced
from holdfast.events.outbox import encode, qualified
from holdfast.kv.entry import Position
from holdfast.work.result import Strategy
from holdfast.work.steps import KvStep, Step, dump, load

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract

#: The context of a saga with the time of its decision; what is noted stays.
_DECIDED: Final = (
    "jsonb_build_object('decided_ns', (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint) || context"
)


class Prior(NamedTuple):
    """What a key held before a step: where its value had been written, and the decision that wrote it, if one did."""

    position: Position
    value: bytes | None
    order: str | None = None


@dataclass(frozen=True)
class Noted:
    """One step as the journal has it. ``prior`` is None until the key was read."""

    number: int
    state: str
    step: Step
    prior: Prior | None = None
    undo: str | None = None


@dataclass(frozen=True)
class Saga:
    """One saga. ``left_s`` is the time to its deadline, by the database's clock when it was read.

    ``decided_ns`` is the database's time since 1970 at which an eventual one was decided, once that is needed.
    """

    saga_id: UUID
    correlation_id: UUID
    name: str
    state: str
    strategy: Strategy
    epoch: int
    left_s: float
    steps: tuple[Noted, ...]
    reason: str | None = None
    decided_ns: int = 0

    def with_step(self, noted: Noted) -> Self:
        return replace(self, steps=tuple(noted if old.number == noted.number else old for old in self.steps))


class Journal:
    """Statements on the tables of sagas. Each runs on a connection that the caller bounds in time."""

    def __init__(self, contract: Contract) -> None:
        self._sagas = qualified(contract.names.saga_table)
        self._steps = qualified(contract.names.saga_step_table)

    async def begin(
        self,
        connection: AsyncConnection[Any],
        saga: Saga,
        context: Mapping[str, Any],
    ) -> None:
        """Note a saga and all its steps, in one transaction."""
        noted = encode({**context, "strategy": saga.strategy.value})
        async with connection.transaction():
            await connection.execute(
                f"""INSERT INTO {self._sagas} (saga_id, correlation_id, name, context, attempts, deadline)
                    VALUES (%s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))""",
                [saga.saga_id, saga.correlation_id, saga.name, noted, saga.epoch, saga.left_s],
            )
            await connection.execute(
                f"""INSERT INTO {self._steps} (saga_id, step, action)
                    SELECT %s, a.place - 1, a.action FROM unnest(%s::jsonb[]) WITH ORDINALITY AS a (action, place)""",
                [saga.saga_id, [dump(noted.step) for noted in saga.steps]],
            )

    async def claim(self, connection: AsyncConnection[Any], stale_s: float) -> Saga | None:
        """Take up one unfinished saga that nobody has touched for ``stale_s``, the most urgent first."""
        cursor = await connection.execute(
            f"""UPDATE {self._sagas} SET attempts = attempts + 1
                 WHERE saga_id = (SELECT saga_id FROM {self._sagas}
                        WHERE state IN ('running', 'compensating')
                          AND updated_at < clock_timestamp() - make_interval(secs => %s)
                        ORDER BY deadline LIMIT 1 FOR UPDATE SKIP LOCKED)
                RETURNING saga_id""",
            [stale_s],
        )
        row = await cursor.fetchone()
        return None if row is None else await self.read(connection, row[0])

    async def read(self, connection: AsyncConnection[Any], saga_id: UUID) -> Saga | None:
        """The saga as it stands."""
        cursor = await connection.execute(
            f"""SELECT saga_id, correlation_id, name, state::text, context->>'strategy', attempts,
                       extract(epoch FROM deadline - clock_timestamp())::float8, reason
                  FROM {self._sagas} WHERE saga_id = %s""",
            [saga_id],
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        steps = await self.read_steps(connection, saga_id)
        if row[4] not in {*Strategy}:
            raise CodecError(f"this version of the library does not know the strategy of the saga {row[2]}")
        return Saga(row[0], row[1], row[2], row[3], Strategy(row[4]), row[5], row[6], steps, row[7])

    async def read_steps(self, connection: AsyncConnection[Any], saga_id: UUID) -> tuple[Noted, ...]:
        cursor = await connection.execute(
            f"""SELECT step, state::text, action, prior_incarnation, prior_revision, prior_value, undo::text
                  FROM {self._steps} WHERE saga_id = %s ORDER BY step""",
            [saga_id],
        )
        return tuple(_noted(row) for row in await cursor.fetchall())

    async def hold(self, connection: AsyncConnection[Any], saga: Saga) -> str:
        """Lock the saga in the open transaction and give its state. Raises Fenced where it is somebody else's now."""
        cursor = await connection.execute(
            f"SELECT state::text FROM {self._sagas} WHERE saga_id = %s AND attempts = %s FOR UPDATE",
            [saga.saga_id, saga.epoch],
        )
        row = await cursor.fetchone()
        if row is None:
            raise _fenced(saga)
        state: str = row[0]
        return state

    async def touch(self, connection: AsyncConnection[Any], saga: Saga) -> bool:
        """Tell that the saga is being worked on. False where it is no longer ours."""
        cursor = await connection.execute(
            f"UPDATE {self._sagas} SET updated_at = clock_timestamp() WHERE saga_id = %s AND attempts = %s",
            [saga.saga_id, saga.epoch],
        )
        return cursor.rowcount == 1

    async def compensate(self, connection: AsyncConnection[Any], saga: Saga, reason: str) -> Saga:
        """Turn a running saga round unless it is decided. Gives it as it then stands: it may be completed by now.

        It waits for a transaction of the saga that is still open somewhere. Raises Fenced.
        """
        async with connection.transaction():
            state = await self.hold(connection, saga)
            current = await self.read(connection, saga.saga_id)
            assert current is not None
            if state == "running" and not is_decided(current):
                await connection.execute(
                    f"UPDATE {self._sagas} SET state = 'compensating', reason = %s WHERE saga_id = %s",
                    [reason, saga.saga_id],
                )
                current = replace(current, state="compensating", reason=reason)
        return current

    async def outcome(self, connection: AsyncConnection[Any], saga_id: UUID) -> tuple[bool, int | None]:
        """Whether a saga goes on, and the database's time since 1970 at which it was decided, if it was completed."""
        cursor = await connection.execute(
            f"""SELECT state IN ('running', 'compensating'),
                       CASE WHEN state = 'completed' THEN (context->>'decided_ns')::bigint END
                  FROM {self._sagas} WHERE saga_id = %s""",
            [saga_id],
        )
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else (False, None)

    async def note_decision(self, connection: AsyncConnection[Any], saga: Saga) -> None:
        """Note when the open transaction decided, once. It holds its locks by now: who waits for them is later."""
        await connection.execute(f"UPDATE {self._sagas} SET context = {_DECIDED} WHERE saga_id = %s", [saga.saga_id])

    async def decided_ns(self, connection: AsyncConnection[Any], saga: Saga) -> int:
        """The time that ``note_decision`` has noted."""
        cursor = await connection.execute(
            f"SELECT (context->>'decided_ns')::bigint FROM {self._sagas} WHERE saga_id = %s", [saga.saga_id]
        )
        row = await cursor.fetchone()
        return int(row[0] or 0) if row else 0

    async def note_prior(self, connection: AsyncConnection[Any], saga: Saga, number: int, prior: Prior) -> None:
        """Note what a key held before its step, so that it can be put back. Raises Fenced."""
        await self._change(
            connection,
            saga,
            number,
            "prior_incarnation = %s, prior_revision = %s, prior_value = %s",
            [*prior.position, _dump_prior(prior)],
        )

    async def mark(
        self, connection: AsyncConnection[Any], saga: Saga, number: int, state: str, *, error: str | None = None
    ) -> None:
        """Note what became of a step. Raises Fenced."""
        await self._change(connection, saga, number, "state = %s, error = %s", [state, error])

    async def note_done(self, connection: AsyncConnection[Any], saga: Saga, number: int, undo: str | None) -> None:
        """Note a change of rows in its own transaction. Raises Fenced."""
        await self._change(connection, saga, number, "state = 'done', undo = %s", [undo])

    async def finish(self, connection: AsyncConnection[Any], saga: Saga, state: str, reason: str | None = None) -> None:
        """Note the end. Raises Fenced."""
        cursor = await connection.execute(
            f"UPDATE {self._sagas} SET state = %s, reason = %s, context = {_DECIDED}"
            " WHERE saga_id = %s AND attempts = %s",
            [state, reason, saga.saga_id, saga.epoch],
        )
        if cursor.rowcount != 1:
            raise _fenced(saga)

    async def _change(
        self, connection: AsyncConnection[Any], saga: Saga, number: int, assigned: str, values: Sequence[Any]
    ) -> None:
        # FOR SHARE waits for a claim that is being committed, and then sees its epoch.
        cursor = await connection.execute(
            f"""WITH mine AS (SELECT FROM {self._sagas} WHERE saga_id = %s AND attempts = %s FOR SHARE)
                UPDATE {self._steps} SET {assigned} WHERE saga_id = %s AND step = %s AND EXISTS (SELECT FROM mine)""",
            [saga.saga_id, saga.epoch, *values, saga.saga_id, number],
        )
        if cursor.rowcount != 1:
            raise _fenced(saga)


def is_decided(saga: Saga) -> bool:
    """Whether an eventual saga has its rows committed: from then on it only goes forward."""
    changes = [noted.state == "done" for noted in saga.steps if not isinstance(noted.step, KvStep)]
    return saga.strategy is Strategy.EVENTUAL_CONSISTENCY and all(changes)


def _noted(row: Sequence[Any]) -> Noted:
    number, state, action, incarnation, revision, value, undo = row
    prior = None
    if revision is not None:
        held, order = (value.get("base64"), value.get("order")) if value else (None, None)
        prior = Prior(Position(incarnation, revision), None if held is None else base64.b64decode(held), order)
    return Noted(number, state, load(action), prior, undo)


def _dump_prior(prior: Prior) -> str | None:
    held = {} if prior.value is None else {"base64": base64.b64encode(prior.value).decode()}
    if prior.order is not None:
        held["order"] = prior.order
    return json.dumps(held) if held else None


def _fenced(saga: Saga) -> Fenced:
    return Fenced(f"another process has taken the saga {saga.name} over")
