"""What is built on a connected plane: repositories, caches, shared buckets, the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from holdfast.cache import MemoryCache, QueryCache, connection_epoch
from holdfast.errors import ConfigurationError
from holdfast.merge.shared import SharedBucket
from holdfast.merge.strategies import Resolver
from holdfast.registry import Agent, AgentRepository
from holdfast.repository import TieredRepository
from holdfast.router import AgentHandle, DataRouter, standard_router
from holdfast.vectors import VectorStore

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.plane import Plane


async def bucket(plane: Plane, name: str) -> Bucket:
    """A bucket that the plane declares. Raises ConfigurationError."""
    from holdfast.kv.bucket import Bucket

    return await Bucket.open(plane.nc, plane.contract.bucket(name))


async def agents(plane: Plane, **options: Any) -> AgentRepository:
    """The agents of the plane; ``options`` as of AgentRepository. Close it before the plane."""
    return AgentRepository(
        await bucket(plane, plane.contract.names.config_bucket), plane.pools, plane.contract.names, **options
    )


def cached_agents(
    plane: Plane, repository: AgentRepository, *, capacity: int = 10_000, ttl_s: float = 60.0
) -> TieredRepository[UUID, Agent]:
    """Agents behind memory. Keep a task on its ``run()``, which follows what other processes change."""
    return TieredRepository(
        repository,
        id_of=lambda agent: agent.agent_id,
        memory=MemoryCache(capacity=capacity, ttl_s=ttl_s, link=connection_epoch(plane.nc)),
        tier=repository.tier(),
    )


async def query_cache(plane: Plane, *, memory_ttl_s: float = 0.0, **options: Any) -> QueryCache:
    """Results of queries, in the plane's cache bucket and, for ``memory_ttl_s`` seconds, in this process."""
    memory: MemoryCache[str, Any] | None = None
    if memory_ttl_s > 0:
        memory = MemoryCache(ttl_s=memory_ttl_s, link=connection_epoch(plane.nc))
    return QueryCache(await bucket(plane, plane.contract.names.cache_bucket), memory=memory, **options)


async def shared(plane: Plane, name: str, resolver: Resolver, *, actor: str, **options: Any) -> SharedBucket:
    """A bucket that several write to; ``options`` as of SharedBucket. Raises ConfigurationError for one with a journal,
    whose keys have owners."""
    if plane.contract.bucket(name).journal is not None:
        raise ConfigurationError(f"the keys of the bucket {name} have owners: write them through plane.agent()")
    return SharedBucket(await bucket(plane, name), resolver, actor=actor, **options)


async def router(plane: Plane, handle_of: Callable[[UUID], AgentHandle]) -> DataRouter:
    """Every type of data by one name; ``handle_of`` gives the handle of an agent that this process holds."""
    sessions = await bucket(plane, plane.contract.names.session_bucket)
    return standard_router(plane.pools, plane.contract.names, sessions, handle_of)


def vectors(plane: Plane) -> VectorStore:
    """Facts and their vectors."""
    return VectorStore(plane.pools, plane.contract.names)
