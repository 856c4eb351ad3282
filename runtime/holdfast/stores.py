"""What is built on a connected plane, ``plane.stores``: buckets, repositories, caches, shared buckets, the router.

Each is imported when it is first asked for: ``connect`` needs but a bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID

from holdfast.errors import ConfigurationError
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.cache import MemoryCache, QueryCache
    from holdfast.contract import Contract
    from holdfast.kv.bucket import Bucket
    from holdfast.merge.shared import SharedBucket
    from holdfast.merge.strategies import Resolver
    from holdfast.registry import Agent, AgentRepository
    from holdfast.repository import TieredRepository
    from holdfast.router import AgentHandle, DataRouter
    from holdfast.sql.pools import Pools
    from holdfast.vectors import VectorStore


class Stores:
    """Made by the plane, which closes what it gave. ``handle_of`` gives the handle of an agent that is open here."""

    def __init__(self, nc: Client, contract: Contract, pools: Pools, handle_of: Callable[[UUID], AgentHandle]) -> None:
        self._nc, self._contract, self._pools, self._handle_of = nc, contract, pools, handle_of
        self._buckets: dict[str, Bucket] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def bucket(self, name: str) -> Bucket:
        """A bucket of the plane, the same object each time. Raises ConfigurationError for one that it does not have."""
        from holdfast.kv.bucket import Bucket

        async with self._opening:
            if name not in self._buckets:
                self._buckets[name] = bucket = await Bucket.open(self._nc, self._contract.bucket(name))
                self._stack.push_async_callback(bucket.close)
            return self._buckets[name]

    async def agents(self, /, **options: Any) -> AgentRepository:
        """The agents of the plane; ``options`` as of AgentRepository. What it has under way ends before the plane."""
        from holdfast.registry import AgentRepository

        bucket = await self.bucket(self._contract.names.config_bucket)
        repository = AgentRepository(bucket, self._pools, self._contract.names, **options)
        self._stack.push_async_callback(repository.close)
        return repository

    async def cached_agents(
        self, repository: AgentRepository | None = None, *, capacity: int = 10_000, ttl_s: float = 60.0
    ) -> TieredRepository[UUID, Agent]:
        """Agents behind memory, which follows what other processes change; ``repository`` is ``agents()`` by default.

        ``capacity`` counts agents; ``ttl_s`` seconds is the oldest that memory may be.
        """
        from holdfast.cache import MemoryCache, connection_epoch
        from holdfast.repository import TieredRepository

        repository = repository or await self.agents()
        cached = TieredRepository(
            repository,
            id_of=lambda agent: agent.agent_id,
            memory=MemoryCache(capacity=capacity, ttl_s=ttl_s, link=connection_epoch(self._nc)),
            tier=repository.tier(),
        )
        self._stack.push_async_callback(end, asyncio.create_task(cached.run(), name="holdfast cached agents"))
        return cached

    async def query_cache(self, /, *, memory_ttl_s: float = 0.0, **options: Any) -> QueryCache:
        """Results of queries, in the plane's cache bucket and, for ``memory_ttl_s`` seconds, in this process."""
        from holdfast.cache import MemoryCache, QueryCache, connection_epoch

        memory: MemoryCache[str, Any] | None = None
        if memory_ttl_s > 0:
            memory = MemoryCache(ttl_s=memory_ttl_s, link=connection_epoch(self._nc))
        return QueryCache(await self.bucket(self._contract.names.cache_bucket), memory=memory, **options)

    async def shared(self, name: str, resolver: Resolver, /, *, actor: str, **options: Any) -> SharedBucket:
        """A bucket that several write to; ``options`` as of SharedBucket.

        Raises ConfigurationError for one with a journal, whose keys have owners.
        """
        from holdfast.merge.shared import SharedBucket

        if self._contract.bucket(name).journal is not None:
            raise ConfigurationError(f"the keys of the bucket {name} have owners: write them through plane.agent()")
        return SharedBucket(await self.bucket(name), resolver, actor=actor, **options)

    async def router(self, handle_of: Callable[[UUID], AgentHandle] | None = None) -> DataRouter:
        """Every type of data by one name. ``handle_of`` gives handles of agents, by default those open in this process.

        The state of an agent without one raises NotFound.
        """
        from holdfast.router import standard_router

        sessions = await self.bucket(self._contract.names.session_bucket)
        return standard_router(self._pools, self._contract.names, sessions, handle_of or self._handle_of)

    def vectors(self) -> VectorStore:
        """Facts and their vectors."""
        from holdfast.vectors import VectorStore

        return VectorStore(self._pools, self._contract.names)

    async def close(self) -> None:
        """End what was given, the last first. Raises the first failure of a background save."""
        await self._stack.aclose()
