"""The state of one agent, as its owner or a reader has it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar
from uuid import UUID

from holdfast.errors import CodecError, ConsistencyViolation, DuplicateKey, HoldfastError, NotFound, Unsupported
from holdfast.events.limited import limited
from holdfast.kv.entry import ORIGIN, Position
from holdfast.kv.lease import acquire
from holdfast.kv.link import finish
from holdfast.points import reach
from holdfast.state import checkpoints, stranded
from holdfast.state.checkpoints import Checkpoint
from holdfast.state.codec import Codec
from holdfast.state.core import FLUSH_S, AgentCore
from holdfast.state.editing import Editing
from holdfast.state.edits import Edit
from holdfast.state.home import StateChange, Written
from holdfast.state.hydration import Head
from holdfast.state.keys import MAX_LENGTH, RESERVED, agent_uuid, bucket_key, check_text, parse_bucket_key
from holdfast.state.levels import ConsistencyLevel, read_strong
from holdfast.state.lifecycle import Status
from holdfast.state.schema import named_types, version_of
from holdfast.state.writer import FORKED
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.state.home import Durability, Home

_log = logging.getLogger("holdfast.state")
M = TypeVar("M")

_MISSING: Final[Any] = object()
_EVENTUAL: Final = ConsistencyLevel.EVENTUAL
#: How long closing waits for the database, and for what a lease that is lost leaves to do.
_CLOSE_FLUSH_S: Final = 3.0
_CLOSE_CARE_S: Final = 1.0


class AgentState(AgentCore, Generic[M]):
    """One agent's state: ``async with plane.agent(agent_id) as agent``.

    An owner holds the agent's lease: it alone writes, and reads what it wrote from memory. A handle that does not own
    reads only. Values are JSON and what ``Codec`` adds to it. Reading and writing raise CodecError; Fenced after a
    takeover; ConsistencyViolation for a damaged row; ConnectionFailed and OperationTimeout, which say whether the
    outcome is unknown.
    """

    def __init__(
        self,
        home: Home,
        agent_id: UUID,
        model: type[M] | None = None,
        *,
        type: str = "agent",
        name: str | None = None,
        owned: bool = True,
        types: tuple[type, ...] = (),
        wait_s: float = 0.0,
        opened: Callable[[AgentState[Any]], object] = lambda agent: None,
        closed: Callable[[AgentState[Any]], object] = lambda agent: None,
    ) -> None:
        version = version_of(model) if model is not None else 0
        super().__init__(home, agent_id, type, str(agent_id) if name is None else name, version, owned=owned)
        self.model = model
        self.codec = Codec((*types, *(named_types(model) if model is not None else ())))
        self._wait_s = wait_s
        self._opened, self._closed = opened, closed

    # Life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self.owned:
            ttl_s = self._home.contract.limits.lease_ttl
            self._take(
                await acquire(
                    self._home.bucket, str(self.agent_id), self._home.holder, ttl_s=ttl_s, wait_s=self._wait_s
                )
            )
            self._opened(self)
            try:
                await self._register()
            except BaseException:
                await self.close()  # else the lease would be renewed for ever
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ConsistencyViolation:
            if error is None:  # else that is told, and this was logged
                raise

    async def close(self) -> None:
        """Flush what the database takes within a few seconds, and give the lease back. The journal keeps the rest.

        Raises ConsistencyViolation, which names the keys, where acknowledged writes were lost with a deleted bucket.
        """
        try:
            flusher = self._home.flusher
            if (self.unflushed.kept or self._doubtful) and flusher is not None and flusher.trouble is None:
                await _briefly(self.flush(timeout_s=_CLOSE_FLUSH_S), _CLOSE_FLUSH_S)
        finally:
            if self._lease is not None:
                with contextlib.suppress(HoldfastError):
                    await self._lease.release()
                if not self._lease.ownership.is_released and self.needs_care():
                    await _briefly(self.look_after(), _CLOSE_CARE_S)
            self._life.move(Status.COLD)
            self._life.end()
            self._closed(self)
        if self.stranded:
            raise stranded.error(self.agent_id, self.stranded)

    # Values --------------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = _MISSING, *, level: ConsistencyLevel = _EVENTUAL) -> Any:
        """The value of a key; ``default`` where it has none, else NotFound.

        ``level`` says how consistent the value is; any but EVENTUAL reads all keys, as ``items``.
        """
        if level is not _EVENTUAL:
            found = await self.items(level)
            return found[key] if key in found else self._decoded(key, None, default)
        head = self._heads.get(key)
        if head is not None and head.value is not None and self.is_current:
            return self.codec.decode(head.value, key)
        return self._decoded(key, await self._load(key), default)

    async def items(self, level: ConsistencyLevel = _EVENTUAL) -> dict[str, Any]:
        """All keys with their values. Raises OperationTimeout where ``level`` asks more than the database has yet."""
        if level is ConsistencyLevel.STRONG:
            rows = await read_strong(self._home, self.agent_id, FLUSH_S)
            return {key: self.codec.decode(value, key) for key, value in sorted(rows.items())}
        if level is ConsistencyLevel.CROSS_SYSTEM:
            return await self._items_of_one_moment()
        heads = self._heads
        if self._lease is not None:
            await self.hydrate()
        else:
            snapshot = await self._snapshot()
            if not snapshot.is_complete:
                raise snapshot.trouble or HoldfastError("the state could not be read")
            left = {key: Head(value, Position(0, 0)) for key, value in snapshot.unfinished.items()}
            heads = snapshot.heads | left
        self._require_sound(self._damaged)
        return self._values(heads)

    def _values(self, heads: Mapping[str, Head]) -> dict[str, Any]:
        return {
            key: self.codec.decode(head.value, key)
            for key, head in sorted(heads.items())
            if head.value is not None and not key.startswith(RESERVED)
        }

    async def _items_of_one_moment(self) -> dict[str, Any]:
        async with self.settled():  # no edit is half done
            self._require_sound(self._damaged)
            heads = dict(self._heads)
            unflushed = {key: kept.position for key, kept in self.unflushed.kept.items()}
        await self._until_durable(unflushed, FLUSH_S)
        return self._values(heads)

    async def put(self, key: str, value: Any, ack: Durability = "kv", *, correlation_id: str | None = None) -> Written:
        """Write a value. ``ack="sql"`` waits until the database has it, 30 seconds at most.

        ``correlation_id``, text of up to 255 characters, travels with the write and with its event. Raises BackPressure
        while the database is too far behind, or the bucket three quarters full.
        """
        data = self.codec.encode(value)
        name = self._bucket_key(key)
        if correlation_id is not None and not check_text(correlation_id, MAX_LENGTH, "a correlation id").isprintable():
            raise CodecError("a correlation id is one line of text")
        await self.admit(ack, len(data))
        async with self._lock:
            position = await self._commit(key, name, data, correlation_id)
        return Written(position, ack) if ack == "kv" else await self.acknowledge({key: position}, ack)

    async def delete(self, key: str, ack: Durability = "kv") -> Written:
        """Delete a key, whether or not it is there; the database keeps a tombstone of it."""
        name = self._bucket_key(key)
        await self.admit(ack, is_delete=True)
        async with self._lock:
            position = await self._commit(key, name, None, None)
        return await self.acknowledge({key: position}, ack)

    async def update(
        self, key: str, function: Callable[[Any], Any], default: Any = _MISSING, ack: Durability = "kv"
    ) -> Written:
        """Read, apply ``function``, write, unless it was written meanwhile: then all of it again.

        Without ``default`` a missing key is NotFound.
        """
        name = self._bucket_key(key)
        await self.admit(ack)
        while True:
            before = self._heads.get(key)  # taken first: whatever changes it while we read begins again
            value = await self._load(key)
            data = self.codec.encode(function(self._decoded(key, value, default)))
            async with self._lock:
                if self._heads.get(key) is before:
                    position = await self._commit(key, name, data, None)
                    break
        return await self.acknowledge({key: position}, ack)

    def edit(self, ack: Durability = "kv") -> Editing[M]:
        """An instance of the model to change: ``async with agent.edit() as state``.

        On leaving, the changed fields are written as one: after a crash, all of them or none count. Nothing is written
        after an exception. Raises VersionConflict when a field was written meanwhile.
        """
        if self.model is None:
            raise Unsupported("this handle has no model: plane.agent(agent_id, Model)")
        return Editing(self, self.model, ack)

    async def watch(self, key: str | None = None) -> AsyncGenerator[StateChange, None]:
        """Each write to one key or to all: what is there, then what happens. Close it with ``aclosing``."""
        pattern = f"{self.agent_id}.state.>" if key is None else bucket_key(self.agent_id, key)
        seen: set[str] = set()
        async with self._home.bucket.watch(pattern) as entries:
            async for entry in entries:
                named = parse_bucket_key(entry.key)
                if named is None or named[1].startswith(RESERVED) or entry.operation == "expired":
                    continue
                if entry.headers.get(ORIGIN) == "sql" and named[1] in seen:
                    continue  # hydration put back what was told already
                seen.add(named[1])
                value = self.codec.decode(entry.value, named[1]) if entry.value is not None else None
                yield StateChange(named[1], value, entry.position, entry.value is None)

    # The database --------------------------------------------------------------------------------------------

    async def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until the database has everything written so far, also what was written with unknown outcome.

        Raises OperationTimeout; Fenced and ConnectionFailed where such an outcome cannot be asked for.
        """
        deadline = time.monotonic() + timeout_s
        if self._doubtful:
            async with limited(timeout_s, "asking what became of a write"):
                await self._require_owner()
                await self._resolve()
        positions = {key: kept.position for key, kept in self.unflushed.kept.items()}
        await self._until_durable(positions, deadline - time.monotonic())

    async def checkpoint(self, name: str | None = None, *, trigger: str = "manual") -> Checkpoint:
        """Keep all values of this moment in the database, under a name if one is given."""
        async with self.settled():
            self._require_sound(self._damaged)
            heads = dict(self._heads)
        reach("checkpoint.read")
        stored = await checkpoints.store(self._home, self.agent_id, heads, self.schema, name, trigger)
        reach("checkpoint.stored")
        return stored

    async def checkpoints(self) -> list[Checkpoint]:
        """The agent's checkpoints, newest first."""
        return await checkpoints.listed(self._home, self.agent_id)

    async def restore(self, which: str | UUID) -> Checkpoint:
        """Go back to a checkpoint, by id or by the newest of that name, in bucket and database.

        An event ``rolled_back`` is noted with it. When this raises OperationTimeout, the bucket has gone back, and the
        database follows. Raises NotFound; CodecError where what changes does not fit into one message of NATS.
        """
        found, values, schema = await checkpoints.load(self._home, self.agent_id, which)
        await self.replace(Edit(values, schema, {"type": "rolled_back", "data": checkpoints.told(found)}), "restore")
        return found

    async def replace(self, whole: Edit, what: str) -> None:
        """Make the state what ``whole`` says, without any other key, as one edit; wait for the database."""
        await self.admit("sql")
        async with self.settled():
            heads = {key: head.value for key, head in self._heads.items() if not key.startswith(RESERVED)}
            wanted = {key: value for key, value in whole.values.items() if heads.get(key) != value}
            gone = [key for key, value in heads.items() if value is not None and key not in whole.values]
            edit = Edit(wanted | dict.fromkeys(gone), whole.schema, whole.event)
            positions = await finish(self.commit_edit(edit, what))
        await self.acknowledge(positions, "sql")

    async def fork(self, new_agent_id: UUID | str) -> UUID:
        """Give a new agent this one's state, and this one to it as its parent unless it has one. Returns its id.

        An event ``forked`` is noted with it. It counts whole or not at all; when this raises OperationTimeout, the
        bucket has it, and the database follows. Raises DuplicateKey when the other has a state of its own; LeaseHeld;
        CodecError where the state does not fit into one message of NATS.
        """
        await self._register()
        async with self.settled():
            self._require_sound(self._damaged)
            heads = dict(self._heads)
        values = {k: h.value for k, h in heads.items() if h.value is not None and not k.startswith(RESERVED)}
        new_id = agent_uuid(new_agent_id)
        async with AgentState(
            self._home, new_id, self.model, type=self._type, opened=self._opened, closed=self._closed
        ) as other:
            await other.hydrate()
            if any(head.value is not None for head in other.heads().values()):
                raise DuplicateKey("the agent to fork to has a state already")
            event = {"type": FORKED, "data": {"from_agent_id": str(self.agent_id)}}
            await other.replace(Edit(values, self.schema, event), "fork")
        return new_id

    def _decoded(self, key: str, value: bytes | None, default: Any) -> Any:
        if value is not None:
            return self.codec.decode(value, key)
        if default is _MISSING:
            raise NotFound(f"the agent has no {key!r}")
        return default


async def _briefly(work: Coroutine[Any, Any, object], most_s: float) -> None:
    """Run it for so long; what it raises is dropped.

    psycopg takes ten seconds to cancel a statement of a server that says nothing, unless it is cancelled again.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=most_s)
    finally:
        await end(task)
