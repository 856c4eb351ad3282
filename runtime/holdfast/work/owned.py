"""Where the keys of steps are written: buckets, and for the state of an agent the handle of its owner.

A bucket with a journal is written by owners only: past the lease a write would be invisible to the owner's memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
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


def stores_of(
    contract: Contract,
    bucket: Callable[[str], Awaitable[Bucket]],
    owner: Callable[[UUID], AgentState[Any] | None],
    agent: Callable[[UUID], AgentState[Any]],
) -> Stores:
    """What ``plane.work`` writes to. ``owner`` gives an agent's open handle, ``agent`` makes one that takes its lease.

    Raises LeaseHeld while another process owns the agent, and ConfigurationError for a key that has no owner to write.
    """

    @asynccontextmanager
    async def store(step: KvStep, *, writes: bool = True) -> AsyncIterator[KeyStore]:
        opened = await bucket(step.bucket)
        if contract.bucket(step.bucket).journal is None or not writes:
            yield opened
            return
        agent_id = _parts(step.bucket, step.key)[0]
        handle = owner(agent_id)
        if handle is not None:
            yield OwnedKeys(handle, opened)
            return
        async with agent(agent_id) as handle:
            yield OwnedKeys(handle, opened)

    return store


def _parts(bucket: str, key: str) -> tuple[UUID, str]:
    parts = parse_bucket_key(key)
    if parts is None:
        raise ConfigurationError(
            f"{key} is no key of an agent's state, and the keys of the bucket {bucket} have owners"
        )
    return parts
