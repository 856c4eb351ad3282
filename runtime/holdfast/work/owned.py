"""Where the keys of steps are written: buckets, and for the state of an agent the handle of its owner.

A bucket with a journal is written by owners only: past the lease a write would be invisible to the owner's memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import ConfigurationError, Fenced, LeaseHeld, VersionConflict
from holdfast.state.keys import parse_bucket_key
from holdfast.work.keys import KeyStore, Stores
from holdfast.work.steps import KvStep

if TYPE_CHECKING:
    from holdfast.contract import Contract
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry, Position
    from holdfast.state.agent import AgentState

#: So long a piece of work waits for another process that has the agent, perhaps for a step only.
_WAIT_S: Final = 1.0


class OwnedKeys:
    """One agent's keys as a KeyStore: read from the bucket, written under the lease."""

    def __init__(self, agent: AgentState[Any], bucket: Bucket) -> None:
        self._agent, self._bucket = agent, bucket

    @property
    def incarnation(self) -> int:
        return self._bucket.incarnation

    async def head(self, key: str) -> Entry | None:
        """Raises LeaseHeld after a takeover. A key that only the database has is put back first."""
        try:
            await self._agent.hydrate()
        except Fenced as error:
            # To work, Fenced would mean that the work itself has been taken over.
            raise LeaseHeld(str(error), holder="another owner", until=0.0) from None
        return await self._bucket.head(key)

    async def write(
        self, key: str, value: bytes | None, *, expect: int, headers: Mapping[str, str] | None = None
    ) -> Position:
        """Raises VersionConflict, also after a takeover: nothing was written then. BackPressure."""
        try:
            return await self._agent.write_at(_parts(self._bucket.name, key)[1], value, expect, headers or {})
        except Fenced as error:
            raise VersionConflict(str(error)) from None


class _Shared:
    """The handle of an agent that is not open here: opened for the first piece of work, closed after the last."""

    def __init__(self, make: Callable[[float], AgentState[Any]]) -> None:
        #: Pieces of work inside, and those that wait to be.
        self.users = 0
        self._make, self._lock = make, asyncio.Lock()
        self._handle: AgentState[Any] | None = None

    async def enter(self) -> AgentState[Any]:
        end = time.monotonic() + _WAIT_S
        async with self._lock:
            if self._handle is None:
                # The attempts of others count: however many come, none waits for longer.
                handle = self._make(max(0.0, end - time.monotonic()))
                await handle.__aenter__()
                self._handle = handle
            return self._handle

    async def leave(self) -> None:
        """Close it unless somebody else has come."""
        async with self._lock:
            if self._handle is not None and not self.users:
                handle, self._handle = self._handle, None
                await handle.close()


def stores_of(
    contract: Contract,
    bucket: Callable[[str], Awaitable[Bucket]],
    owner: Callable[[UUID], AgentState[Any] | None],
    agent: Callable[..., AgentState[Any]],
) -> Stores:
    """What ``plane.work`` writes to. ``owner`` gives an agent's open handle, ``agent`` makes one that takes its lease.

    Pieces of work share the handle that is made for them. Raises LeaseHeld while another process owns the agent, and
    ConfigurationError for a key that has no owner to write.
    """

    shared: dict[UUID, _Shared] = {}

    @asynccontextmanager
    async def borrowed(agent_id: UUID) -> AsyncIterator[AgentState[Any]]:
        handle = owner(agent_id) if agent_id not in shared else None
        if handle is not None:
            yield handle
            return
        if agent_id not in shared:
            shared[agent_id] = _Shared(lambda wait_s: agent(agent_id, wait_s=wait_s))
        found = shared[agent_id]
        found.users += 1
        try:
            yield await found.enter()
        finally:
            found.users -= 1
            try:
                await found.leave()
            finally:
                if not found.users and shared.get(agent_id) is found:
                    del shared[agent_id]

    @asynccontextmanager
    async def store(step: KvStep, *, writes: bool = True) -> AsyncIterator[KeyStore]:
        opened = await bucket(step.bucket)
        if contract.bucket(step.bucket).journal is None or not writes:
            yield opened
            return
        async with borrowed(_parts(step.bucket, step.key)[0]) as handle:
            yield OwnedKeys(handle, opened)

    return store


def _parts(bucket: str, key: str) -> tuple[UUID, str]:
    parts = parse_bucket_key(key)
    if parts is None:
        raise ConfigurationError(
            f"{key} is no key of an agent's state, and the keys of the bucket {bucket} have owners"
        )
    return parts
