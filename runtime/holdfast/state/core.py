"""What lies below the handle of an agent: its values in memory, how they are read, written and kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from uuid import UUID

from holdfast.errors import (
    CodecError,
    ConsistencyViolation,
    Fenced,
    HoldfastError,
    OperationTimeout,
    Unsupported,
    VersionConflict,
)
from holdfast.events.limited import limited
from holdfast.kv.entry import CORRELATION, MOVED, ORIGIN, SCHEMA, VERSION, Position
from holdfast.kv.lease import Lease
from holdfast.kv.link import finish
from holdfast.points import reach
from holdfast.state import hydration, stranded
from holdfast.state.edits import Edit, Record, renewed
from holdfast.state.flush_sql import Change, name_statement
from holdfast.state.home import Written, check_durability
from holdfast.state.hydration import Head
from holdfast.state.keys import EDIT_KEY, MAX_LENGTH, MAX_TYPE, RESERVED, bucket_key, check_text
from holdfast.state.lifecycle import Life, Status
from holdfast.state.unflushed import Unflushed

if TYPE_CHECKING:
    from holdfast.state.home import Durability, Home

_log = logging.getLogger("holdfast.state")
FLUSH_S: Final = 30.0
_POLL_S: Final = 0.25
_REGISTER_S: Final = 2.0
#: Room for the headers of a write beside its value.
_HEADERS_BYTES: Final = 4096
#: What is unflushed for so long may have been flushed by another process.
_LATE_S: Final = 1.0


class AgentCore:
    """State of one agent in this process. Its methods are for the handle, the edits and the plane."""

    def __init__(self, home: Home, agent_id: UUID, kind: str, name: str, version: int, *, owned: bool) -> None:
        self.agent_id = agent_id
        self.owned = owned
        self._home = home
        self._type = check_text(kind, MAX_TYPE, "an agent's type")
        self._name = check_text(name, MAX_LENGTH, "an agent's name")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life = Life()
        self._lease: Lease | None = None
        self._lock = asyncio.Lock()
        self._hydrating = asyncio.Lock()
        self._heads: dict[str, Head] = {}
        self._damaged: set[str] = set()
        #: Keys of which a write was cancelled or not answered: the bucket knows.
        self._doubtful: set[str] = set()
        self._complete = False
        self._keys: dict[str, str] = {}
        self._newest_s = 0.0
        self._registered = False
        self._flushing = 0
        self._version = version
        #: Version of the model that last edited the state, 0 where none did.
        self.schema = 0
        self.unflushed = Unflushed()
        #: Keys whose last writes were lost with a bucket that stayed away for longer than the lease lasted.
        self.stranded: set[str] = set()

    @property
    def status(self) -> Status:
        """Where the state is in its life."""
        self._expire()
        return self._life.status

    def statuses(self) -> AsyncGenerator[Status, None]:
        """The status now, then each one that follows, until the handle is closed."""
        return self._life.follow()

    @property
    def lease(self) -> Lease:
        """The owner's lease. Raises Unsupported for a handle that does not own, and outside of its event loop."""
        if self._lease is None:
            if self.owned:
                raise Unsupported("this handle is not open: use it inside of `async with`")
            raise Unsupported("this handle does not own the agent: it only reads")
        if self._loop is not asyncio.get_running_loop():
            raise Unsupported("this handle belongs to another event loop: from other threads, use holdfast.sync")
        return self._lease

    def _take(self, lease: Lease) -> None:
        """Begin as the owner: what an earlier time of this handle left in memory is another's to change since."""
        self._lease, self._loop = lease, asyncio.get_running_loop()
        self._heads, self._damaged, self._doubtful, self._keys = {}, set(), set(), {}
        self._complete, self.schema, self._newest_s, self._flushing = False, 0, 0.0, 0
        self.unflushed.kept.clear()
        self.stranded = set()

    # Reading, inside -----------------------------------------------------------------------------------------

    async def hydrate(self) -> None:
        """Read the state if it is not here. Raises what bucket and database raise; the next access tries again."""
        await self._require_owner()
        self._expire()
        if self._doubtful:
            await self._resolve()
        if self._complete:
            return
        async with self._hydrating:
            if self.is_complete:
                return
            self._life.move(Status.HYDRATING)
            try:
                snapshot = await self._snapshot()
                if not snapshot.is_complete:
                    raise snapshot.trouble or HoldfastError("the state could not be read")
                async with self._lock:
                    await finish(self._adopt(snapshot))
            except BaseException:
                self._life.move(Status.COLD)
                raise
            self._life.move(Status.ACTIVE)

    @contextlib.asynccontextmanager
    async def settled(self) -> AsyncGenerator[None, None]:
        """Hold the lock while all keys are in memory and no write is of unknown outcome. Raises what hydrate does."""
        while True:
            await self.hydrate()
            async with self._lock:
                if self._complete and not self._doubtful:
                    yield
                    return

    async def _resolve(self) -> None:
        """Ask the bucket what became of writes whose outcome is unknown; an edit whose record it has is finished."""
        async with self._lock:
            record = await self._record() if EDIT_KEY in self._doubtful else None
            if record is not None:
                self.schema = record.edit.schema
            for key in sorted(self._doubtful, key=lambda key: key == EDIT_KEY):
                entry = await self._home.bucket.head(self._bucket_key(key, internal=True))
                if record is not None and record.tells(key, entry):
                    await self._commit(key, self._bucket_key(key), record.edit.values[key], None)
                elif entry is not None and entry.operation != "expired":
                    self._heads[key] = Head(entry.value, entry.position)
                    if entry.headers.get(ORIGIN) != "sql":
                        self.unflushed.add(key, entry.value, entry.position)
                elif key not in self.unflushed.kept:
                    # Only journal and database can tell now.
                    self._complete = False
                    self._life.move(Status.COLD)
                else:
                    kept = self.unflushed.kept[key]
                    self._heads[key] = Head(kept.value, kept.position)
                self._doubtful.discard(key)

    @property
    def is_complete(self) -> bool:
        """Whether every key is in memory."""
        return self._complete

    async def _require_owner(self) -> None:
        """Raise Fenced unless the lease is ours; one that could not be renewed in time is renewed now."""
        if self.lease.ownership.is_released:
            raise Fenced("this handle was closed, and its lease released")
        if self.lease.lost.is_set():
            raise Fenced("another owner has taken the agent over")
        if not self.lease.held:
            await self.lease.renew()

    async def _snapshot(self) -> hydration.Snapshot:
        home = self._home
        names = home.contract.names
        snapshot = await hydration.read(
            home.bucket, home.journal, home.pools.primary, names.hydrate_function, self.agent_id
        )
        self._damaged = snapshot.damaged
        return snapshot

    async def _adopt(self, snapshot: hydration.Snapshot) -> None:
        """Take a snapshot over: what the bucket lacks is put there, and what the last edit left is finished.

        The caller holds the lock. What we wrote ourselves meanwhile is newer than the snapshot.
        """
        self.schema = snapshot.schema
        record = snapshot.heads.pop(EDIT_KEY, None)
        for key, value in snapshot.unfinished.items():
            if key not in self._heads and key not in self._doubtful:
                await self._commit(key, self._bucket_key(key), value, None)
        for key, head in snapshot.heads.items():
            if key not in self._heads and key not in self._doubtful:
                self._heads[key] = await self._put_back(key, head)
        if record is not None and EDIT_KEY not in self._heads:
            # Last, so that a record of the bucket that is called finished is.
            head = record._replace(in_bucket=False) if snapshot.unfinished else record
            self._heads[EDIT_KEY] = await self._put_back(EDIT_KEY, head)
        self._newest_s = time.monotonic()
        self._complete = True

    async def _put_back(self, key: str, head: Head) -> Head:
        if head.in_bucket or head.value is None:
            return head
        name = bucket_key(self.agent_id, key)
        headers = {ORIGIN: "sql", MOVED: str(head.position)} | ({VERSION: str(head.version)} if head.version else {})
        position = await self.lease.writer.write(name, head.value, headers=headers)
        self._newest_s = time.monotonic()
        return Head(head.value, position)

    async def _load(self, key: str) -> bytes | None:
        if self._lease is None:
            return await self._read(key)
        head = self._heads.get(key)
        return head.value if head is not None and self.is_current else await self._find(key)

    @property
    def is_current(self) -> bool:
        """Whether memory may be trusted: the lease is ours, and the bucket has not forgotten everything."""
        return self._lease is not None and self._lease.held and not self._is_expired()

    async def _find(self, key: str) -> bytes | None:
        """An owner's look at a key that is not in memory, or that may be too old there."""
        self._bucket_key(key)
        try:
            await self.hydrate()
        except (Fenced, Unsupported):
            raise
        except HoldfastError:
            # Whatever keeps the rest away: what the bucket has of a key is its newest.
            found = await self._in_bucket(key)
            if not found:
                raise
            return found[0]
        return self._value(key)

    async def _in_bucket(self, key: str) -> tuple[()] | tuple[bytes | None]:
        """The newest value of a key in the bucket, be it in the record of an edit; nothing where it has none."""
        entry, record = await asyncio.gather(self._home.bucket.head(self._bucket_key(key)), self._record())
        if record is not None and record.tells(key, entry):
            return (record.edit.values[key],)
        return () if entry is None or entry.operation == "expired" else (entry.value,)

    async def _record(self) -> Record | None:
        """The record of the last edit in the bucket, unless hydration put it there as one that is finished."""
        entry = await self._home.bucket.head(self._bucket_key(EDIT_KEY, internal=True))
        if entry is None or entry.value is None or entry.headers.get(ORIGIN) == "sql":
            return None
        return Record(Edit.decode(entry.value), entry.position)

    async def _read(self, key: str) -> bytes | None:
        """A reader's look at a key: bucket, journal, database."""
        if found := await self._in_bucket(key):
            return found[0]
        snapshot = await self._snapshot()
        head = snapshot.heads.get(key)
        if head is None and key in snapshot.unfinished:
            return snapshot.unfinished[key]
        if head is not None:
            return head.value
        self._require_sound(self._damaged & {key})
        if not snapshot.is_complete:
            raise snapshot.trouble or HoldfastError("the state could not be read")
        return None

    def _value(self, key: str) -> bytes | None:
        head = self._heads.get(key)
        if head is None and key in self._damaged:
            self._require_sound({key})
        return head.value if head is not None else None

    def head(self, key: str) -> Head | None:
        """What is in memory of a key. Raises ConsistencyViolation for a damaged one."""
        self._value(key)
        return self._heads.get(key)

    def heads(self) -> Mapping[str, Head]:
        """What is in memory."""
        return self._heads

    def _require_sound(self, keys: set[str]) -> None:
        if keys:
            raise ConsistencyViolation(f"the checksum of {min(keys)!r} does not fit the value in the database")

    def _bucket_key(self, key: str, *, internal: bool = False) -> str:
        name = self._keys.get(key)
        if name is None:
            name = bucket_key(self.agent_id, key)
        if key.startswith(RESERVED) and not internal:
            raise CodecError(f"keys that begin with {RESERVED} are the library's own")
        return name

    def address(self, key: str) -> tuple[str, str]:
        """The bucket and the key in it that hold a value. Raises CodecError."""
        return self._home.bucket.name, self._bucket_key(key)

    # Writing, inside -----------------------------------------------------------------------------------------

    async def _commit(
        self,
        key: str,
        name: str,
        data: bytes | None,
        correlation_id: str | None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Position:
        """Write one key and note it. Where the outcome stays unknown, the bucket is asked before the key is read."""
        headers = dict(more)
        if self._version:
            headers[SCHEMA] = str(self._version)
        if correlation_id is not None:
            headers[CORRELATION] = correlation_id
        try:
            position = await self.lease.writer.write(name, data, headers=headers)
        except BaseException:
            self._heads.pop(key, None)
            self._doubtful.add(key)
            raise
        reach("put.sent")
        if data is None and self._complete:
            # Keys that come and go must not pile up: what is not here, once everything is, is nowhere.
            self._heads.pop(key, None)
            self._keys.pop(key, None)
        else:
            self._heads[key] = Head(data, position)
            self._keys[key] = name
        self._damaged.discard(key)
        self._doubtful.discard(key)
        self._newest_s = time.monotonic()
        self.unflushed.add(key, data, position)
        reach("put.noted")
        return position

    async def write_at(self, key: str, data: bytes | None, expect: int, headers: Mapping[str, str]) -> Position:
        """Write a key if ``expect`` is still its last revision, and nothing else. Raises VersionConflict, Fenced."""
        name = self._bucket_key(key)
        await self._home.pressure.admit(len(data or b""), is_delete=data is None)
        async with self._lock:
            # Nobody but the holder of this lock writes below the lease; so what is read here stays until the write.
            head = await self._home.bucket.head(name)
            if (head.position.revision if head is not None else 0) != expect:
                raise VersionConflict(f"{key} was written since revision {expect}", current=head)
            return await finish(self._commit(key, name, data, None, headers))

    async def commit_edit(self, edit: Edit, what: str = "edit") -> dict[str, Position]:
        """Write a record, then its keys. The caller holds the lock, and lets nobody cancel this."""
        positions = {}
        data = edit.encode()
        if len(data) > self._room:
            raise CodecError(
                f"the {what} changes {len(data)} bytes, and must fit into one message of NATS: raise its max_payload"
            )
        try:
            record = await self._commit(EDIT_KEY, self._bucket_key(EDIT_KEY, internal=True), data, None)
            positions[EDIT_KEY] = record
            self.schema = edit.schema
            reach(f"{what}.recorded")
            for key, value in edit.values.items():
                positions[key] = await self._commit(key, self._bucket_key(key), value, None)
        except BaseException:
            # Where the record is stored, all of it counts: the bucket is asked before any of its keys is read.
            self._doubtful |= {EDIT_KEY, *edit.values}
            for key in edit.values:
                self._heads.pop(key, None)
            raise
        reach(f"{what}.written")
        return positions

    @property
    def _room(self) -> int:
        """How many bytes a value may have."""
        return self._home.bucket.link.client.max_payload - _HEADERS_BYTES

    async def commit_fields(self, edit: Edit) -> dict[str, Position]:
        """Write an edit; one key alone needs no record. The caller holds the lock."""
        if len(edit.values) == 1 and edit.schema == self.schema:
            [(key, value)] = edit.values.items()
            return {key: await self._commit(key, self._bucket_key(key), value, None)}
        return await self.commit_edit(edit)

    @property
    def lock(self) -> asyncio.Lock:
        """Held while something is written."""
        return self._lock

    async def admit(self, ack: Durability, size: int = 0, *, is_delete: bool = False) -> None:
        """Let a write of ``size`` bytes pass. Raises BackPressure; Unsupported where nobody can acknowledge it so."""
        check_durability(ack)
        await self._home.pressure.admit(size, is_delete=is_delete)

    async def acknowledge(self, positions: Mapping[str, Position], ack: Durability) -> Written:
        """Wait for the durability that was asked for."""
        if ack == "sql":
            await self._until_durable(positions, FLUSH_S)
        return Written(max(positions.values()), ack)

    async def _until_durable(self, positions: Mapping[str, Position], timeout_s: float) -> None:
        futures = self.unflushed.wait(positions)
        if not futures:
            return
        if self._home.flusher is not None:
            self._home.flusher.ask()
        try:
            async with asyncio.timeout(timeout_s):
                while pending := [future for future in futures if not future.done()]:
                    await asyncio.wait(pending, timeout=_POLL_S)
                    if not all(future.done() for future in pending):
                        await self.poll_database()
        except TimeoutError:
            raise OperationTimeout("the write is in the bucket, and the database does not have it yet") from None
        finally:
            self.unflushed.forget(futures)

    # Told by the plane ---------------------------------------------------------------------------------------

    async def poll_database(self) -> None:
        """Ask the database what it has of the unflushed keys: another process may have flushed them.

        Raises ConsistencyViolation where that cannot be, for the bucket has gone back.
        """
        try:
            await self._ask_database()
        except ConsistencyViolation:
            raise
        except HoldfastError as error:
            _log.debug("the database cannot be asked: %s", error)

    async def _ask_database(self) -> None:
        kept = self.unflushed.kept
        if not kept:
            return
        if self._home.bucket.missing is not None:
            raise self._home.bucket.went_back()
        held = await self._home.writer.positions(self.agent_id, list(kept))
        later = [position for key, position in held.items() if key in kept and kept[key].position < position]
        if later:
            await self._home.bucket.require(max(later))
        for key, position in held.items():
            self.unflushed.flushed(key, position)

    async def put_again(self) -> None:
        """The bucket is a new one: everything that the database may lack goes into it again."""
        async with self._lock:
            await finish(self._put_again())

    async def _put_again(self) -> None:
        created = self._home.bucket.incarnation
        record, recorded = renewed(self.unflushed.kept, self._doubtful, self._room)
        for key, kept in sorted(self.unflushed.kept.items(), key=lambda item: item[1].position):
            if kept.position.incarnation < created and key not in recorded:
                name = self._bucket_key(key, internal=True)
                more = {MOVED: str(kept.position)}
                value = record if key == EDIT_KEY else kept.value
                position = await self._commit(key, name, value, None, more)
                self.unflushed.moved(key, kept.position, position)
        if recorded:
            self._doubtful.add(EDIT_KEY)  # its keys are finished from the record, before one of them is read

    def flush_phase(self, *, begins: bool) -> None:
        """The flusher begins or ceases to write keys of this agent."""
        self._flushing = max(0, self._flushing + (1 if begins else -1))
        if begins:
            self._life.move(Status.FLUSHING)
        elif not self._flushing and self._life.status is Status.FLUSHING:
            self._life.move(Status.ACTIVE)

    def _is_expired(self) -> bool:
        if self.unflushed.kept or not self._newest_s:
            return False
        ttl_s = self._home.bucket.max_age_s
        return bool(ttl_s) and time.monotonic() - self._newest_s > ttl_s

    def _expire(self) -> None:
        """Forget what the bucket has forgotten, once the database has it."""
        if self._complete and self._is_expired() and self._life.move(Status.EXPIRED):
            self._heads.clear()
            self._complete = False

    # Registration --------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        """Give the agent its row if the database answers soon; else the flusher makes one that is named later.

        Raises ConsistencyViolation where the bucket is behind the database: what is written now would be lost there.
        """
        if self._registered:
            return
        names = self._home.contract.names
        statement = name_statement(names.registry_table, names.state_table)
        try:
            async with limited(_REGISTER_S, "the database"), self._home.pools.primary.connection(_REGISTER_S) as conn:
                cursor = await conn.execute(statement, [self.agent_id, self._type, self._name, self.agent_id])
                latest = await cursor.fetchone()
        except HoldfastError as error:
            _log.info("agent %s is registered later: %s", self.agent_id, error)
            return
        if latest is not None:
            await self._home.bucket.require(Position(*latest))
        self._registered = True

    def needs_care(self) -> bool:
        """Whether ``look_after`` has anything to do."""
        self._expire()
        if self._lease is None:
            return False
        is_left_behind = self.unflushed.is_left_behind(self._home.bucket.incarnation)
        if self._lease.lost.is_set():
            return is_left_behind and not self.stranded
        return is_left_behind or not self._registered or self.unflushed.oldest_s() > _LATE_S

    async def look_after(self) -> None:
        """What the plane does for a handle now and then. What fails is tried again the next time."""
        with contextlib.suppress(HoldfastError):
            if self.lease.lost.is_set():
                await self.find_stranded()
                return
            await self._register()
            if self.unflushed.oldest_s() > _LATE_S:
                await self.poll_database()
            if self.unflushed.is_left_behind(self._home.bucket.incarnation):
                await self.put_again()

    def unflushed_changes(self) -> list[Change]:
        """What the database may lack."""
        epoch, kept = self.lease.ownership.epoch.revision, self.unflushed.kept
        return [Change(self.agent_id, key, each.value, each.position, epoch) for key, each in kept.items()]

    async def find_stranded(self) -> None:
        """Once fenced: note and tell what is lost with a bucket that is no more. See ``stranded.py``."""
        await self._ask_database()
        self.stranded = await stranded.find(self._home, self.agent_id, self.unflushed_changes())
        self._home.stranded.update((self.agent_id, key) for key in self.stranded)
        if self.stranded:
            _log.error("%s", stranded.error(self.agent_id, self.stranded))
