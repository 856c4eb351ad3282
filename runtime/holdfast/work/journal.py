"""The durable journal of sagas. Every write names the attempt it belongs to: a process that lost a saga is refused.

``attempts`` counts how often somebody took the saga up and is its epoch. Liveness is ``updated_at``: who works on
a saga touches it, and one that nobody touched for a while may be claimed. All times are the database's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from holdfast.errors import Fenced
from holdfast.events.outbox import encode, qualified
from holdfast.kv.entry import Position
from holdfast.work.result import Strategy
from holdfast.work.steps import KvStep, Step, dump, dump_value, load, load_value

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract


@dataclass(frozen=True)
class Noted:
    """One step as the journal has it. ``prior`` is the key's last position before the step, None until it was read."""

    number: int
    state: str
    step: Step
    prior: Position | None = None
    prior_value: bytes | None = None
    undo: str | None = None


@dataclass(frozen=True)
class Saga:
    """One saga. ``left_s`` is the time to its deadline, by the database's clock when it was read."""

    saga_id: UUID
    correlation_id: UUID
    name: str
    state: str
    strategy: Strategy
    epoch: int
    left_s: float
    steps: tuple[Noted, ...]
    reason: str | None = None

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

    async def note_prior(
        self, connection: AsyncConnection[Any], saga: Saga, number: int, prior: Position, value: bytes | None
    ) -> None:
        """Note what a key held before its step, so that it can be put back. Raises Fenced."""
        await self._change(
            connection,
            saga,
            number,
            "prior_incarnation = %s, prior_revision = %s, prior_value = %s",
            [prior.incarnation, prior.revision, dump_value(value)],
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
            f"UPDATE {self._sagas} SET state = %s, reason = %s WHERE saga_id = %s AND attempts = %s",
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
    prior = None if revision is None else Position(incarnation, revision)
    return Noted(number, state, load(action), prior, load_value(value), undo)


def _fenced(saga: Saga) -> Fenced:
    return Fenced(f"another process has taken the saga {saga.name} over")
