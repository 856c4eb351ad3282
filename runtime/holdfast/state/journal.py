"""The journal of a bucket: every write to the bucket, until the flusher has acknowledged it."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import CodecError, ConnectionFailed, NotFound
from holdfast.kv.entry import CORRELATION, EPOCH, ORIGIN, WRITE_ID, Position
from holdfast.kv.link import Link
from holdfast.kv.messages import MARKER, Refusal, headers_of, nanoseconds, operation_of
from holdfast.state.flush_sql import Change
from holdfast.state.keys import parse_bucket_key

if TYPE_CHECKING:
    from nats.aio.client import Client

_NOT_FOUND: Final = 404
#: Questions to the journal at the same time.
_AT_ONCE: Final = 64
_SOURCE: Final = "Nats-Stream-Source"


@dataclass(frozen=True, slots=True)
class Look:
    """The journal and its bucket at one moment. Times are nanoseconds since 1970 by the server's clock.

    ``unsourced`` counts what the bucket has and the journal has not seen yet. ``oldest_ns`` is None for an empty
    journal. Bounds are 0 where there is none.
    """

    now_ns: int
    messages: int
    bytes: int
    max_messages: int
    max_bytes: int
    oldest_ns: int | None
    unsourced: int
    bucket_created_ns: int
    bucket_last: int
    bucket_bytes: int
    bucket_max_bytes: int

    @property
    def fullness(self) -> float:
        """How full the journal is, 0 to 1; the source stops at 1."""
        parts = (self.messages, self.max_messages), (self.bytes, self.max_bytes)
        return max((held / bound for held, bound in parts if bound > 0), default=0.0)

    @property
    def bucket_fullness(self) -> float:
        """How full the bucket is, 0 to 1; it refuses everything at 1, leases too."""
        return self.bucket_bytes / self.bucket_max_bytes if self.bucket_max_bytes else 0.0


class Journal:
    """Asks about one journal and takes its messages apart. Errors are of holdfast.errors."""

    def __init__(self, nc: Client, bucket: str, stream: str, *, timeout_s: float = 5.0) -> None:
        self._link = Link(nc)
        self.bucket = bucket
        self.stream = stream
        self._prefix = f"$KV.{bucket}."
        self._timeout_s = timeout_s

    async def look(self) -> Look:
        """Ask both streams how they stand. Raises ConnectionFailed, OperationTimeout, NotFound."""
        journal, bucket = await asyncio.gather(
            self.ask(f"STREAM.INFO.{self.stream}", is_patient=False),
            self.ask(f"STREAM.INFO.KV_{self.bucket}", is_patient=False),
        )
        return read_look(journal, bucket)

    async def unflushed(self, agent_id: UUID, created_ns: int) -> list[Change]:
        """What the journal holds of an agent, without taking it away from the flusher: each key's newest, in no order.

        Where a key's last message is none to flush, all of its messages are there: an unflushed one may stand before
        what hydration put back.
        """
        found: list[Change] = []
        gate = asyncio.Semaphore(_AT_ONCE)

        async def read(subject: str, count: int) -> None:
            after = 0
            async with gate:
                last = await self._message({"last_by_subj": subject})
                newest = self._change(last, created_ns) if last is not None else None
                if newest is not None:
                    found.append(newest)
                if newest is not None or count == 1:
                    return
                while message := await self._next(subject, after + 1):
                    after, count = message["seq"], count - 1
                    change = self._change(message, created_ns)
                    if change is not None:
                        found.append(change)
                    if count == 0:
                        return

        subjects = await self._subjects(f"{self._prefix}{agent_id}.state.>")
        for error in await asyncio.gather(*(read(*each) for each in subjects.items()), return_exceptions=True):
            if error is not None:
                raise error
        return found

    def _change(self, message: Mapping[str, Any], created_ns: int) -> Change | None:
        with contextlib.suppress(CodecError):  # the flusher tells of it
            return self.parse(
                message["subject"],
                headers_of(b64decode(message.get("hdrs") or "")),
                b64decode(message.get("data") or ""),
                arrived_ns=nanoseconds(message["time"]),
                created_ns=created_ns,
            )
        return None

    async def has(self, subject: str, sequence: int) -> bool:
        """Whether a message is there still."""
        message = await self._next(subject, sequence)
        return message is not None and message["seq"] == sequence

    async def oldest_ns(self, agent_id: UUID | None = None) -> int | None:
        """When the oldest unflushed write of an agent, or of any, reached the journal; None where there is none."""
        message = await self._next(f"{self._prefix}{agent_id or '*'}.state.>", 1)
        return nanoseconds(message["time"]) if message else None

    async def dirty(self) -> dict[UUID, int]:
        """How many unflushed keys each agent has; agents without any are left out."""
        found: dict[UUID, int] = {}
        for subject in await self._subjects(f"{self._prefix}*.state.>"):
            named = parse_bucket_key(subject.removeprefix(self._prefix))
            if named is not None:
                found[named[0]] = found.get(named[0], 0) + 1
        return found

    async def _subjects(self, pattern: str) -> dict[str, int]:
        """How many messages each subject has."""
        found: dict[str, int] = {}
        while True:
            info = await self.ask(f"STREAM.INFO.{self.stream}", {"subjects_filter": pattern, "offset": len(found)})
            page = info["state"].get("subjects") or {}
            known = len(found)
            found |= page
            if len(found) == known or len(found) >= int(info.get("total", 0)):
                return found

    def parse(
        self, subject: str, headers: Mapping[str, str], data: bytes, *, arrived_ns: int, created_ns: int
    ) -> Change | None:
        """``read_change`` for a message of this journal."""
        return read_change(
            subject.removeprefix(self._prefix), headers, data, arrived_ns=arrived_ns, created_ns=created_ns
        )

    async def ack_wait_s(self, consumer: str) -> float:
        """After how long the consumer deals a message out again, in seconds."""
        info = await self.ask(f"CONSUMER.INFO.{self.stream}.{consumer}")
        return int(info["config"].get("ack_wait", 0)) / 1e9 or 30.0

    async def is_present(self, change: Change, write_id: str | None) -> bool:
        """Whether the present bucket holds this very write, whatever incarnation its writer had in mind."""
        try:
            answer = await self.ask(f"STREAM.MSG.GET.KV_{self.bucket}", {"seq": change.position.revision})
        except NotFound:
            return False
        message = answer["message"]
        named = parse_bucket_key(message["subject"].removeprefix(self._prefix))
        held_id = headers_of(b64decode(message.get("hdrs") or "")).get(WRITE_ID)
        return named == change.row and held_id == write_id

    async def _next(self, subject: str, first: int) -> dict[str, Any] | None:
        return await self._message({"seq": first, "next_by_subj": subject})

    async def _message(self, which: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            answer = await self.ask(f"STREAM.MSG.GET.{self.stream}", which)
        except NotFound:
            return None
        message: dict[str, Any] = answer["message"]
        return message

    async def ask(
        self, subject: str, body: Mapping[str, Any] | None = None, *, is_patient: bool = True
    ) -> dict[str, Any]:
        """One question to JetStream's API. Raises NotFound, ConnectionFailed, OperationTimeout."""
        answer = await self._link.call(f"$JS.API.{subject}", body or {}, self._timeout_s, is_patient=is_patient)
        if not isinstance(answer, Refusal):
            return answer
        if answer.status == _NOT_FOUND:
            raise NotFound("JetStream does not have what was asked for")
        raise ConnectionFailed(f"JetStream refuses to answer (error {answer.code})")


def read_change(
    key: str, headers: Mapping[str, str], data: bytes, *, arrived_ns: int, created_ns: int
) -> Change | None:
    """Read one message; None for what is not to be written.

    That is a lease, an expiry (the database keeps what the bucket's time to live took), what hydration brought
    from the database, and what is no agent's state. A value that nobody can write is still a change: whoever
    writes it finds out. Raises CodecError for what cannot be placed.
    """
    named = parse_bucket_key(key)
    if named is None and key.partition(".")[2].startswith("state."):
        raise CodecError("a key of state in the journal is not one that this library made")
    if named is None or MARKER in headers or headers.get(ORIGIN) == "sql":
        return None
    value = data if operation_of(headers) == "put" else None
    position = Position(_incarnation(headers, arrived_ns, created_ns), _revision(headers))
    epoch = headers.get(EPOCH)
    revision = Position.parse(epoch).revision if epoch else None
    return Change(named[0], named[1], value, position, revision, headers.get(CORRELATION))


def read_look(journal: Mapping[str, Any], bucket: Mapping[str, Any]) -> Look:
    """Put the two answers of STREAM.INFO together."""
    state, config = journal["state"], journal["config"]
    last = int(bucket["state"]["last_seq"])
    unsourced = 0
    for source in journal.get("sources") or ():
        # ``lag`` is what the source last heard, and stands still where it is stuck; newer servers say where it is.
        behind = last - source["seq"] if 0 < source.get("seq", 0) <= last else 0
        unsourced = max(unsourced, int(source.get("lag", 0)), behind)
    return Look(
        now_ns=nanoseconds(journal["ts"]),
        messages=int(state["messages"]),
        bytes=int(state["bytes"]),
        max_messages=max(0, int(config.get("max_msgs", 0))),
        max_bytes=max(0, int(config.get("max_bytes", 0))),
        oldest_ns=nanoseconds(state["first_ts"]) if state["messages"] else None,
        unsourced=unsourced,
        bucket_created_ns=nanoseconds(bucket["created"]),
        bucket_last=last,
        bucket_bytes=int(bucket["state"]["bytes"]),
        bucket_max_bytes=max(0, int(bucket["config"].get("max_bytes", 0))),
    )


def _revision(headers: Mapping[str, str]) -> int:
    """The bucket's revision of a sourced message: "KV_NAME 17 > > $KV.NAME.key"."""
    parts = headers.get(_SOURCE, "").split(" ")
    if len(parts) < 2 or not parts[1].isdigit():
        raise CodecError("a message of the journal does not say where it comes from")
    return int(parts[1])


def _incarnation(headers: Mapping[str, str], arrived_ns: int, created_ns: int) -> int:
    """Which bucket a message comes from; who writes without our headers is asked for the time.

    What arrived before the present bucket was made comes from some bucket before it: it is placed after all that is
    known of those, and before all of the present one.
    """
    said = headers.get(EPOCH, "").partition("-")[0]
    if said.isdigit():
        return int(said)
    return created_ns if arrived_ns >= created_ns else created_ns - 1
