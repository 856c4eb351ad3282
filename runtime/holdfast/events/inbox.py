"""Handles a message once, however often it is delivered: its id is noted in the handler's own transaction."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import CodecError, ConfigurationError
from holdfast.events.limited import limited, theirs
from holdfast.events.outbox import BATCH, MESSAGE_ID, qualified

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool

_log = logging.getLogger("holdfast.inbox")
Handler = Callable[["AsyncConnection[Any]", "Msg"], Awaitable[None]]

_CLEAN_ROWS = 5000
_STATEMENT_S = 10.0


class Inbox:
    """The memory of one consumer, ``plane.inbox(name)``; two that share the name share the work.

    It notes in the database that ``pool`` reaches, and consumes through ``client``.
    """

    def __init__(self, contract: Contract, consumer: str, pool: Pool, client: Client | None = None) -> None:
        if not consumer or "\x00" in consumer:
            raise ConfigurationError("a consumer needs a name")
        self._table = qualified(contract.names.inbox_table)
        self._contract = contract
        self._consumer = consumer
        self._pool = pool
        self._client = client
        # A message may come again for as long as its stream keeps it. Journals hold no events.
        journals = {spec.journal for spec in contract.buckets.values()}
        ages = [spec.max_age_s for name, spec in contract.streams.items() if name not in journals]
        self._keep_s = 2 * max(ages) if ages and all(ages) else 0.0

    async def first(self, connection: AsyncConnection[Any], message_id: str) -> bool:
        """Note the message in the open transaction. False where it was handled before.

        It waits while another transaction handles the same message, and is True after that one rolled back.
        Raises ConfigurationError where no transaction is open, and what the database raises.
        """
        from psycopg.pq import TransactionStatus

        if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
            raise ConfigurationError("a message is noted in the transaction of its handler; none is open")
        cursor = await connection.execute(
            f"INSERT INTO {self._table} (consumer, message_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [self._consumer, message_id],
        )
        return cursor.rowcount == 1

    async def handle(self, message: Msg, handler: Handler, *, timeout_s: float = 30.0) -> bool:
        """Run ``handler`` in a transaction unless it has been run for this message, then acknowledge.

        A message that lists several events is handled as a whole: ``events_of`` gives them.

        Returns whether it ran. Raises what the handler raises as it is, and HoldfastError: nothing is noted then, or it
        is unknown whether it is, and the message comes again. The acknowledgement is sent after the commit: lost, it
        costs a second delivery, which finds the note.
        """
        from nats.errors import Error

        async with limited(timeout_s, "the inbox"), self._pool.connection() as connection, connection.transaction():
            fresh = await self.first(connection, message_id(message))
            if fresh:
                with theirs():
                    await handler(connection, message)
        try:
            async with asyncio.timeout(_STATEMENT_S):
                await message.ack()
        except (Error, OSError) as error:
            _log.warning("a message that was handled is not acknowledged: %s", type(error).__name__)
        return fresh

    async def consume(
        self,
        handler: Handler,
        *,
        stream: str | None = None,
        batch: int = 10,
        timeout_s: float = 30.0,
        idle_s: float | None = None,
    ) -> int:
        """Hand every message of the durable pull consumer of this name to ``handler``, as ``handle`` does, in turn.

        Runs until it is cancelled, also over restarts of the servers; with ``idle_s`` it returns after nothing has come
        for so many seconds. Returns for how many messages the handler ran. ``stream`` is needed where several streams
        of the plane have such a consumer. Up to ``batch`` messages are held here; their ``ack_wait`` is extended.

        A message that was not handled comes again after 1 s, doubled each time up to 30 s, and after 30 s at once where
        the error is a HoldfastError that is not ``retryable``; how often, and what then, the consumer's ``max_deliver``
        and ``dead_letter`` say. While the database cannot be reached no message is fetched. Raises ConfigurationError
        where there is no such consumer, ConnectionFailed, OperationTimeout.
        """
        from holdfast.events.consuming import Consumption, find

        if self._client is None:
            raise ConfigurationError("only an inbox that plane.inbox() gives can consume")
        found = await find(self._client, self._contract, self._consumer, stream)

        async def handle(message: Msg) -> bool:
            return await self.handle(message, handler, timeout_s=timeout_s)

        return await Consumption(self._client, self._pool, found, handle, batch).run(idle_s)

    async def clean_up(self, *, keep_s: float | None = None) -> int:
        """Forget what any consumer handled longer than ``keep_s`` ago: by default, twice the longest age of a stream.

        Where a stream keeps its messages for ever, and so may deliver them at any time, the default forgets nothing.
        The recoverer of each process does so now and then (``holdfast.work.recoverer``). Returns how many it was, some
        thousands at most.
        """
        keep = self._keep_s if keep_s is None else keep_s
        if keep <= 0:
            return 0
        async with limited(_STATEMENT_S, "the inbox"), self._pool.connection() as connection:
            cursor = await connection.execute(
                f"""DELETE FROM {self._table} AS i USING (
                      SELECT consumer, message_id FROM {self._table}
                       WHERE handled_at < now() - make_interval(secs => %s)
                       ORDER BY handled_at LIMIT %s FOR UPDATE SKIP LOCKED) AS old
                     WHERE i.consumer = old.consumer AND i.message_id = old.message_id""",
                [keep, _CLEAN_ROWS],
            )
            return int(cursor.rowcount)


class Told(NamedTuple):
    """One event as a consumer has it. ``event_id`` stays the same however often it is delivered."""

    event_id: str
    subject: str
    payload: Any
    headers: Mapping[str, str]


def events_of(message: Msg) -> list[Told]:
    """The events that a message tells of, in their order: one, or those of a batch. Raises CodecError."""
    headers = message.headers or {}
    try:
        payload = json.loads(message.data)
        if BATCH not in headers:
            return [Told(message_id(message), message.subject, payload, headers)]
        return [Told(e["event_id"], message.subject, e["payload"], e["headers"]) for e in payload["events"]]
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError("the message holds no event", driver_error=error) from None


def message_id(message: Msg) -> str:
    """What tells a message from all others: its publisher's id, else its place in its stream.

    The time is part of the place, because a stream that was built again counts from 1 again.
    """
    named = (message.headers or {}).get(MESSAGE_ID)
    if named:
        return named
    place = message.metadata
    return f"{place.stream}/{place.sequence.stream}/{place.timestamp.timestamp():.6f}"
