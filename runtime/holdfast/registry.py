"""Agents, in the bucket of configuration and in ``agents.registry``.

A save is acknowledged by the bucket first and reaches the table in the background, or before the call returns, as
asked. Until the table has it, the entry in the bucket lacks the header ``Holdfast-Origin: sql``; so it is known what a
crashed process left behind (``recover``, which the plane's background runs). The row is always written from the newest
entry, read under a lock of the row's own: no older save can overwrite a newer one, whatever order they arrive in.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from holdfast import batch
from holdfast.errors import (
    CodecError,
    ConsistencyViolation,
    ConstraintViolation,
    HoldfastError,
    NotFound,
    RetriesExhausted,
    VersionConflict,
)
from holdfast.events.limited import limited
from holdfast.events.outbox import encode, qualified
from holdfast.kv.attempts import again
from holdfast.kv.entry import ORIGIN, WRITE_ID, Position
from holdfast.kv.link import finish
from holdfast.points import reach
from holdfast.repository import Tier
from holdfast.retry import Retry, call
from holdfast.state.home import check_durability
from holdfast.state.keys import MAX_LENGTH, MAX_TYPE, check_text
from holdfast.tasks import end

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Names
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry
    from holdfast.sql.pools import Pools
    from holdfast.state.home import Durability

_log = logging.getLogger("holdfast.agents")

Status = Literal["initializing", "active", "idle", "suspended", "terminated", "error"]
STATUSES: Final = ("initializing", "active", "idle", "suspended", "terminated", "error")
#: In an entry that was written again only to say that the table has it: the position of the write itself.
_SAME_AS: Final = "Holdfast-Same-As"
_PREFIX: Final = "agent."
#: What failed in the background is tried again after this.
_AGAIN_S: Final = 5.0
_RECOVER_S: Final = 60.0
_COLUMNS: Final = (
    "agent_id", "agent_type", "agent_name", "status", "capabilities", "configuration", "metadata", "parent_agent_id",
)  # fmt: skip
_JSON: Final = frozenset({"capabilities", "configuration", "metadata"})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def _new_metadata() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {"created_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "version": "1.0.0"}


@dataclass(frozen=True)
class Agent:
    """One agent. The mappings are JSON objects; ``metadata`` has a version and a created_at. Raises CodecError."""

    agent_id: UUID
    agent_type: str
    agent_name: str
    status: Status = "initializing"
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=_new_metadata)
    parent_agent_id: UUID | None = None

    def __post_init__(self) -> None:
        check_text(self.agent_type, MAX_TYPE, "an agent's type")
        check_text(self.agent_name, MAX_LENGTH, "an agent's name")
        if self.status not in STATUSES:
            raise CodecError(f"an agent's status is one of {', '.join(STATUSES)}")
        if not all(isinstance(getattr(self, name), Mapping) for name in _JSON):
            raise CodecError(f"an agent's {', '.join(sorted(_JSON))} are mappings")
        if self.parent_agent_id == self.agent_id:
            raise CodecError("an agent is not its own parent")
        created = self.metadata.get("created_at")
        if "version" not in self.metadata or not (isinstance(created, str) and _TIME.fullmatch(created)):
            raise CodecError("an agent's metadata have a version and a created_at such as 2026-01-31T09:30:00Z")

    def encode(self) -> bytes:
        """JSON. Raises CodecError."""
        plain = {name: getattr(self, name) for name in _COLUMNS}
        plain |= {"agent_id": str(self.agent_id), "parent_agent_id": _text(self.parent_agent_id)}
        plain |= {name: dict(plain[name]) for name in _JSON}
        try:
            return encode(plain).encode()
        except CodecError as error:
            raise CodecError("an agent holds what is not JSON, or the character U+0000", driver_error=error) from None

    @classmethod
    def decode(cls, data: bytes) -> Agent:
        """Read ``encode``'s JSON; names that we do not know are left out. Raises CodecError."""
        try:
            plain = json.loads(data)
            return cls.of({name: plain[name] for name in _COLUMNS if name in plain})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CodecError("an entry of the bucket is no agent", driver_error=error) from None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Agent:
        """From a row or from JSON: ids may be texts, and what is null has its default."""
        given = {name: value for name, value in plain.items() if value is not None}
        for name in ("agent_id", "parent_agent_id"):
            if isinstance(given.get(name), str):
                given[name] = UUID(given[name])
        return cls(**given)


@dataclass(frozen=True)
class Found:
    """An agent, the write that it is of, and whether the table has it."""

    agent: Agent
    version: Position
    is_durable: bool


class AgentRepository:
    """A Repository of agents. ``durability`` of a call: acknowledged by the bucket ("kv"), or by the table ("sql").

    A background failure is kept in ``failures``, given to ``on_failure`` and raised by ``drain``; its entry stays
    marked as unsaved in the bucket, and what may succeed later is tried again every few seconds. ``ttl_s`` is how long
    an entry serves once the table has it. Where the bucket's own time to live may take entries, "kv" means "sql".
    """

    def __init__(
        self,
        bucket: Bucket,
        pools: Pools,
        names: Names,
        *,
        ttl_s: float = 1800.0,
        timeout_s: float = 10.0,
        parallel: int = 4,
        retry: Retry | None = None,
        on_failure: Callable[[UUID, HoldfastError], None] | None = None,
    ) -> None:
        self.failures: dict[UUID, HoldfastError] = {}
        self._bucket = bucket
        self._pools = pools
        self._table = names.registry_table
        self._rows = qualified(self._table)
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._retry = retry or Retry(attempts=5)
        self._on_failure = on_failure
        self._slots = asyncio.Semaphore(parallel)
        self._dirty: dict[UUID, bytes | None] = {}
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._later: dict[UUID, asyncio.TimerHandle] = {}
        self._is_closed = False

    # A repository

    async def save(self, entity: Agent, *, durability: Durability = "kv", expect: Position | None = None) -> Agent:
        """Store an agent, new or not. With ``expect``, only over that version: raises VersionConflict.

        With "sql", a row that breaks a constraint raises ConstraintViolation and the bucket gets back what it had.
        """
        await self._write(entity.agent_id, entity.encode(), durability, expect=expect)
        return entity

    async def find(self, id: UUID) -> Agent:
        """From the bucket, else from the table, which then fills the bucket. Raises NotFound."""
        return (await self.look(id)).agent

    async def update(self, entity: Agent, *, durability: Durability = "kv", expect: Position | None = None) -> Agent:
        """Replace an agent that is there. Raises NotFound, VersionConflict."""
        found = await self.look(entity.agent_id)
        await self._write(entity.agent_id, entity.encode(), durability, expect=expect or found.version)
        return entity

    async def delete(self, id: UUID, *, durability: Durability = "sql") -> None:
        """Delete an agent and what belongs to it. Raises NotFound; ConstraintViolation while others need its row."""
        found = await self.look(id)
        await self._write(id, None, durability, expect=found.version)

    async def look(self, id: UUID, *, fresh: bool = False) -> Found:
        """As ``find``, with what a later compare-and-set needs. Raises NotFound.

        ``fresh`` asks the table, which others may have changed, unless a save is still on its way there. An entry that
        the bucket has had for ``ttl_s`` is asked for again in any case, and serves while the database is away.
        """
        async with limited(self._timeout_s, "finding an agent"):
            return await again("the agent", lambda: self._look(id, fresh=fresh))

    async def _look(self, id: UUID, *, fresh: bool) -> Found:
        """Raises NotFound; VersionConflict where the bucket changed meanwhile."""
        head = await self._bucket.head(_key(id))
        is_there = head is not None and head.operation == "put"
        if head is not None and head.operation == "delete" and not _is_in_sql(head):
            raise NotFound("there is no such agent")  # deleted, and the table will learn of it
        if head is not None and is_there and not self._must_ask(head, fresh):
            return _found(head)
        try:
            row = await self._select(id)
        except HoldfastError as error:
            if head is None or not is_there or fresh or not error.retryable:
                raise
            _log.warning("an old entry of an agent serves: %s", error)
            return _found(head)
        if row is None and not is_there:
            raise NotFound("there is no such agent")
        # Only over what was seen before the table was read: a write or a delete since then is newer.
        return await self._take_over(id, row, head)

    def _must_ask(self, head: Entry, fresh: bool) -> bool:
        """Whether the table may know better than this entry, which a save on its way there never lets it."""
        return _is_in_sql(head) and (fresh or time.time_ns() - head.created_ns > self._ttl_s * 1e9)

    async def _take_over(self, id: UUID, row: Agent | None, head: Entry | None) -> Found:
        """Make the bucket hold what the table has. Raises NotFound, VersionConflict."""
        revision = head.position.revision if head is not None else 0
        if row is None:
            await self._put(_key(id), None, revision, in_sql=True)
            raise NotFound("there is no such agent")
        same_as = None
        if head is not None and head.operation == "put" and Agent.decode(head.value or b"") == row:
            same_as = _version(head)
        position = await self._put(_key(id), row.encode(), revision, in_sql=True, same_as=same_as)
        return Found(row, same_as or position, is_durable=True)

    def tier(self) -> Tier:
        """What a TieredRepository in front of this one watches."""
        return Tier(self._bucket, _key, _id_of, f"{_PREFIX}>", fills=False)

    # From the bucket to the table

    async def recover(self) -> batch.Batch[UUID, None]:
        """Bring to the table whatever this library wrote to the bucket and the table does not have."""
        unsaved: set[UUID] = set()
        await self._find_unsaved(unsaved, None)
        return await self._save_all(unsaved)

    async def keep_recovering(self) -> None:
        """As ``recover``, now and every minute until cancelled; only what was written since is read again."""
        unsaved: set[UUID] = set()
        seen: Position | None = None
        while True:
            try:
                seen = await self._find_unsaved(unsaved, seen)
                failed = (await self._save_all(unsaved)).failed
                if failed:
                    _log.warning("%d agents could not be saved: %s", len(failed), next(iter(failed.values())))
                unsaved = {id for id, error in failed.items() if error.retryable}
            except HoldfastError as error:
                _log.info("agents that were not saved could not be looked for: %s", error)
            await asyncio.sleep(_RECOVER_S)

    async def _find_unsaved(self, unsaved: set[UUID], seen: Position | None) -> Position | None:
        """Bring ``unsaved`` up to date with what was written after ``seen``. Returns the position of the last entry."""
        async for entry in self._bucket.entries(f"{_PREFIX}>", after=seen):
            seen, id = entry.position, _id_of(entry.key)
            # What other programs write or delete here is not carried to the table.
            if id is not None and entry.operation != "expired" and not _is_in_sql(entry) and WRITE_ID in entry.headers:
                unsaved.add(id)
            elif id is not None:
                unsaved.discard(id)
        return seen

    async def _save_all(self, unsaved: Iterable[UUID]) -> batch.Batch[UUID, None]:
        return await batch.run(unsaved, self._flush, parallel=4, timeout_s=self._timeout_s)

    async def drain(self, timeout_s: float = 30.0) -> None:
        """Wait until nothing is under way. Raises the first background failure, or OperationTimeout."""
        async with limited(timeout_s, "saving agents"):
            while self._running:
                await asyncio.wait(list(self._running.values()))
        for error in list(self.failures.values())[:1]:
            raise error

    async def close(self, timeout_s: float = 30.0) -> None:
        """Drain, then stop; what could not be saved stays marked in the bucket."""
        try:
            await self.drain(timeout_s)
        finally:
            self._is_closed = True
            for timer in self._later.values():
                timer.cancel()
            await end(*self._running.values())

    async def _write(self, id: UUID, value: bytes | None, durability: Durability, *, expect: Position | None) -> None:
        check_durability(durability)
        if self._bucket.max_age_s and not self._bucket.allows_ttl:
            durability = "sql"
        async with limited(self._timeout_s, "saving an agent"):
            before, position = await finish(self._store(id, value, expect, note=durability == "kv"))
            if durability == "kv":
                return
            try:
                await call(lambda: self._flush(id, value), retry=self._retry)
            except ConstraintViolation:
                await finish(self._restore(id, before, position))
                raise
            except BaseException:
                self._note(id, value)  # the bucket has it: the table will, as soon as it can
                raise

    async def _store(
        self, id: UUID, value: bytes | None, expect: Position | None, *, note: bool
    ) -> tuple[Entry | None, Position]:
        async def attempt() -> tuple[Entry | None, Position] | None:
            head = await self._bucket.head(_key(id))
            if expect is not None and (head is None or _version(head) != expect):
                return None
            return head, await self._put(_key(id), value, head.position.revision if head is not None else 0)

        stored = await again("the agent", attempt)
        if stored is None:
            raise VersionConflict("the agent was written by somebody else")
        reach("agent.stored")
        if note:
            self._note(id, value)
        return stored

    async def _put(
        self, key: str, value: bytes | None, expect: int, *, in_sql: bool = False, same_as: Position | None = None
    ) -> Position:
        lasting: float | Literal["never"] | None = None
        if self._bucket.allows_ttl:
            lasting = self._ttl_s if in_sql else "never"
        headers = {ORIGIN: "sql"} if in_sql else {}
        if same_as is not None:
            headers[_SAME_AS] = str(same_as)
        return await self._bucket.write(key, value, expect=expect, ttl_s=lasting, headers=headers)

    async def _restore(self, id: UUID, before: Entry | None, position: Position) -> None:
        """The table refused for good: give back what was there, unless somebody has written since."""
        value = before.value if before is not None and before.operation == "put" else None
        in_sql = before is None or _is_in_sql(before)
        with contextlib.suppress(VersionConflict):
            same_as = _version(before) if before is not None else None
            await self._put(_key(id), value, position.revision, in_sql=in_sql, same_as=same_as)
            if not in_sql:
                self._note(id, value)

    def _note(self, id: UUID, value: bytes | None) -> None:
        """Bring it to the table soon. One task for each agent, which begins again for what comes meanwhile."""
        self._dirty[id] = value
        if id not in self._running:
            self._running[id] = asyncio.ensure_future(self._flush_soon(id))

    async def _flush_soon(self, id: UUID) -> None:
        try:
            while id in self._dirty:
                async with self._slots:
                    value = self._dirty.pop(id)
                    try:
                        await call(lambda value=value: self._flush(id, value), retry=self._retry)  # type: ignore[misc]
                    except HoldfastError as error:
                        self._failed(id, value, error)
                    else:
                        self.failures.pop(id, None)
        finally:
            self._running.pop(id, None)

    def _failed(self, id: UUID, value: bytes | None, error: HoldfastError) -> None:
        self.failures[id] = error
        may_pass = error.retryable or isinstance(error, RetriesExhausted)
        if may_pass and not self._is_closed:
            if id in self._later:
                self._later[id].cancel()
            self._later[id] = asyncio.get_running_loop().call_later(_AGAIN_S, self._try_again, id, value)
        if self._on_failure is not None:
            self._on_failure(id, error)

    def _try_again(self, id: UUID, value: bytes | None) -> None:
        del self._later[id]
        if id in self.failures and id not in self._dirty:
            self._note(id, value)

    async def _flush(self, id: UUID, value: bytes | None = None) -> None:
        """Make the row what the bucket holds now. ``value`` is what this process wrote, in case the bucket lost it."""
        async with self._pools.background.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{self._table}/{id}"])
            head = await self._bucket.head(_key(id))
            if head is None or head.operation == "expired":
                await self._insert_lost(connection, value)
            elif head.operation == "delete":
                await self._delete(connection, id)
            elif head.value is not None:
                await self._upsert(connection, Agent.decode(head.value))
        reach("agent.committed")
        if head is not None and head.operation != "expired" and not _is_in_sql(head):
            value = head.value if head.operation == "put" else None
            with contextlib.suppress(VersionConflict):  # who wrote since then brings that to the table
                await self._put(head.key, value, head.position.revision, in_sql=True, same_as=_version(head))

    # The table

    async def _select(self, id: UUID) -> Agent | None:
        query = f"SELECT {', '.join(_COLUMNS)} FROM {self._rows} WHERE agent_id = %s"
        async with self._pools.primary.connection() as connection:
            row = await (await connection.execute(query, [id])).fetchone()
        return Agent.of(dict(zip(_COLUMNS, row, strict=True))) if row is not None else None

    async def _upsert(self, connection: AsyncConnection[Any], agent: Agent, *, over: bool = True) -> int:
        from psycopg.types.json import Jsonb

        changed = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        query = f"""
            INSERT INTO {self._rows} ({", ".join(_COLUMNS)}) VALUES ({", ".join(["%s"] * len(_COLUMNS))})
                ON CONFLICT (agent_id) DO {f"UPDATE SET {changed}" if over else "NOTHING"}"""
        values = [Jsonb(dict(getattr(agent, name))) if name in _JSON else getattr(agent, name) for name in _COLUMNS]
        return (await connection.execute(query, values)).rowcount

    async def _delete(self, connection: AsyncConnection[Any], id: UUID) -> None:
        await connection.execute(f"DELETE FROM {self._rows} WHERE agent_id = %s", [id])

    async def _insert_lost(self, connection: AsyncConnection[Any], value: bytes | None) -> None:
        """The bucket was rebuilt before the table had this write. Nothing says whether a row there is older."""
        if value is None or not await self._upsert(connection, Agent.decode(value), over=False):
            raise ConsistencyViolation("the bucket lost an agent's entry before the table had it; save it again")


def _key(id: object) -> str:
    return f"{_PREFIX}{id}"


def _id_of(key: str) -> UUID | None:
    try:
        return UUID(key.removeprefix(_PREFIX))
    except ValueError:
        return None


def _is_in_sql(entry: Entry) -> bool:
    return entry.headers.get(ORIGIN) == "sql"


def _version(entry: Entry) -> Position:
    told = entry.headers.get(_SAME_AS)
    return Position.parse(told) if told else entry.position


def _found(head: Entry) -> Found:
    return Found(Agent.decode(head.value or b""), _version(head), _is_in_sql(head))


def _text(id: UUID | None) -> str | None:
    return None if id is None else str(id)
