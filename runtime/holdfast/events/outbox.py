"""Events that leave with the data they tell of: rows of one table, written in the writer's own transaction.

A relay publishes them afterwards (``holdfast.events.relay``). What is in the table when a transaction commits reaches
its stream, however often relay, NATS or PostgreSQL restart in between; what is rolled back never leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from holdfast import points
from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv.entry import CORRELATION

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Contract
    from holdfast.events.triggers import Source

#: Set by the relay itself; nobody else may.
MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
#: On a message that lists several events: how many.
BATCH: Final = "Holdfast-Batch"
#: So long the list may be where its stream declares no bound.
_LIST_BYTES: Final = 512 * 1024
#: Headers of the trace that is active now; ``holdfast.telemetry`` sets it, and there are none otherwise.
trace_headers: Callable[[], Mapping[str, str]] = dict
_TOKEN = re.compile(r"[^\s.*>\x00-\x1f\x7f]+")
_HEADER_NAME = re.compile(r"[!-9;-~]+")
_LINE_BREAKS = re.compile(r"[\r\n\x00]")
#: Room for the headers of a message beside its payload.
_HEADROOM_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be published: ``payload`` is anything that JSON holds, ``headers`` are text."""

    subject: str
    payload: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Outbox:
    """Writes events. One for each plane; it holds no connection."""

    def __init__(self, contract: Contract) -> None:
        self._names = contract.names
        self._insert = insert_statement(contract.names.outbox_table)
        self._streams = Streams.of(contract)

    def takes(self, subject: str) -> bool:
        """Whether a stream of the plane takes a subject."""
        return self._streams.find(subject) is not None

    def check(self, events: Iterable[Event]) -> None:
        """Refuse what ``add_many`` would. Raises ConfigurationError, CodecError."""
        for event in events:
            _row(event, self._streams)

    async def add(
        self,
        connection: AsyncConnection[Any],
        subject: str,
        payload: Any,
        *,
        headers: Mapping[str, str] | None = None,
        correlation_id: UUID | str | None = None,
    ) -> UUID:
        """Note one event in the transaction that is open on ``connection``; its id is also the message's.

        Raises CodecError for a payload that JSON does not hold, ConfigurationError where no stream of the plane
        takes the subject or the payload, or where no transaction is open, and what the database raises.
        """
        named = {**(headers or {}), **({CORRELATION: str(correlation_id)} if correlation_id else {})}
        return (await self.add_many(connection, [Event(subject, payload, named)]))[0]

    async def add_many(
        self, connection: AsyncConnection[Any], events: Iterable[Event], *, batch: bool = False
    ) -> list[UUID]:
        """Note events in this order, with one statement. Returns the ids of their messages.

        ``batch`` lets events of one subject leave as one message that lists them, or as few as its stream takes;
        ``holdfast.events_of`` reads them. Errors as for ``add``.
        """
        return await self._note(connection, events, batch, None)

    async def announce(
        self, connection: AsyncConnection[Any], source: Source, events: Iterable[Event | None], *, batch: bool = False
    ) -> list[UUID]:
        """Note what tells of changes of a table, made in the same transaction, unless the table's trigger tells of it.

        ``source`` is the table, see ``holdfast.events.triggers``, which also makes the events; None is no event. The
        rest as for ``add_many``; nothing is returned where the trigger is on.
        """
        from holdfast.events.triggers import TRIGGERS, table_of

        given = [event for event in events if event is not None]
        return await self._note(connection, given, batch, (table_of(self._names, source), TRIGGERS[source]))

    async def _note(
        self, connection: AsyncConnection[Any], events: Iterable[Event], batch: bool, unless: tuple[str, str] | None
    ) -> list[UUID]:
        """``unless`` names a table and its trigger: where that is on, nothing is noted."""
        rows = [_row(event, self._streams) for event in (batched(events, self._streams) if batch else events)]
        if not rows:
            return []
        _require_transaction(connection)
        table, trigger = unless or (None, None)
        columns = [list(column) for column in zip(*rows, strict=True)]
        points.reach("outbox.adding")
        cursor = await connection.execute(self._insert, [*columns, table, trigger])
        points.reach("outbox.added")
        return [UUID(row[0]) for row in rows] if cursor.rowcount else []


def insert_statement(table: str) -> str:
    """The statement of ``add_many`` for the qualified name of a table."""
    return f"""
        INSERT INTO {qualified(table)} (outbox_id, subject, payload, headers)
        SELECT e.outbox_id, e.subject, e.payload, e.headers
          FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::jsonb[])
               WITH ORDINALITY AS e (outbox_id, subject, payload, headers, place)
         WHERE NOT EXISTS (
           SELECT FROM pg_catalog.pg_trigger AS t
            WHERE t.tgrelid = pg_catalog.to_regclass(%s) AND t.tgname = %s::text AND t.tgenabled IN ('O', 'A'))
         ORDER BY e.place"""


def qualified(table: str) -> str:
    """Quote a name of the contract such as ``runtime.outbox``. Raises ConfigurationError."""
    schema, _, name = table.partition(".")
    if not schema or not name or "\x00" in table:
        raise ConfigurationError(f"{table!r} is no name of a table with its schema")
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))


def encode(payload: Any) -> str:
    """JSON text that jsonb takes. Raises CodecError."""
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError("the payload of an event is not JSON", driver_error=error) from None
    # PostgreSQL's text holds no NUL, so neither does its jsonb (documentation, JSON Types).
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise CodecError("the payload of an event holds the character U+0000, which the database cannot store")
    return text


def check_subject(subject: str) -> None:
    """Refuse what nobody can publish to. Raises ConfigurationError."""
    if not all(_TOKEN.fullmatch(token) for token in subject.split(".")) or subject.startswith("$"):
        raise ConfigurationError(f"{subject!r} is no subject to publish to")


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject with wildcards takes a subject without."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(given) > place
        if place >= len(given) or part not in ("*", given[place]):
            return False
    return len(wanted) == len(given)


@dataclass(frozen=True)
class Streams:
    """Which stream takes a subject, and how large a message of it may be."""

    patterns: Sequence[tuple[str, str, int | None]]

    @classmethod
    def of(cls, contract: Contract) -> Streams:
        return cls(
            [
                (pattern, name, spec.max_msg_size if (spec.max_msg_size or 0) > 0 else None)
                for name, spec in contract.streams.items()
                for pattern in spec.subjects
            ]
        )

    def find(self, subject: str) -> tuple[str, int | None] | None:
        """The stream's name and its bound in bytes; None where no stream listens."""
        for pattern, name, bound in self.patterns:
            if covers(pattern, subject):
                return name, bound
        return None


def batched(events: Iterable[Event], streams: Streams) -> list[Event]:
    """Events of one subject as one that lists them in their order, or as few as its stream takes.

    Each keeps an id of its own in the list, and its headers; those that all share are the message's too.
    """
    lanes: dict[str, list[Event]] = {}
    for event in events:
        lanes.setdefault(event.subject, []).append(event)
    found = []
    for subject, lane in lanes.items():
        bound = (streams.find(subject) or ("", None))[1]
        room = _LIST_BYTES if bound is None else bound - 2 * _HEADROOM_BYTES
        taken: list[Event] = []
        left = room
        for event in lane:
            size = len(encode(_entry(event)).encode()) + 1
            if taken and size > left:
                found.append(_joined(taken))
                taken, left = [], room
            taken.append(event)
            left -= size
        found.append(_joined(taken))
    return found


def _entry(event: Event) -> dict[str, Any]:
    return {"event_id": str(uuid4()), "payload": event.payload, "headers": dict(event.headers)}


def _joined(events: Sequence[Event]) -> Event:
    first = events[0]
    if len(events) == 1:
        return first
    shared = {name: value for name, value in first.headers.items() if all(e.headers.get(name) == value for e in events)}
    payload = {"events": [_entry(event) for event in events]}
    return Event(first.subject, payload, {**shared, BATCH: str(len(events))})


def _row(event: Event, streams: Streams) -> tuple[str, str, str, str]:
    check_subject(event.subject)
    payload = encode(event.payload)
    found = streams.find(event.subject)
    if found is None:
        raise ConfigurationError(f"no stream of the plane takes the subject {event.subject!r}")
    stream, bound = found
    named = {**trace_headers(), **event.headers}
    check_headers(named)
    headers = json.dumps(named)
    size = len(payload.encode()) + len(headers.encode()) + _HEADROOM_BYTES
    if bound is not None and size > bound:
        raise CodecError(f"an event of {size} bytes is larger than a message of stream {stream} may be: {bound} bytes")
    return str(uuid4()), event.subject, payload, headers


def check_headers(headers: Mapping[str, Any]) -> None:
    """Refuse what is no header, or not an application's. Raises ConfigurationError."""
    for name, value in headers.items():
        if not isinstance(value, str) or not _HEADER_NAME.fullmatch(name) or _LINE_BREAKS.search(value):
            raise ConfigurationError(f"{name!r} is no header, or its value is no text of one line")
        if name.lower().startswith("nats-"):
            raise ConfigurationError(f"the header {name} is set by the relay or by the server")


def _require_transaction(connection: AsyncConnection[Any]) -> None:
    from psycopg.pq import TransactionStatus

    from holdfast.sql.connection import Connection

    if isinstance(connection, Connection):
        connection.has_events = True
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise ConfigurationError("an event needs the transaction of the data it tells of; none is open")
