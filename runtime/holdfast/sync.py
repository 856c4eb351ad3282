"""The library without asyncio: ``with holdfast.sync.connect() as plane``.

One event loop in a thread of its own does the work; any number of threads may call. Not for use inside a running event
loop, which it would block. Names, parameters and errors are those of the classes named below; functions that are given
to them, such as the work of a transaction, stay ``async def`` and run in the thread of the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from holdfast.cache import QueryCache
from holdfast.errors import HoldfastError
from holdfast.events.relay import Relay
from holdfast.kv.bucket import Bucket
from holdfast.merge.shared import SharedBucket
from holdfast.plane import Connecting, Plane
from holdfast.plane import connect as connect_async
from holdfast.registry import Agent, AgentRepository
from holdfast.repository import TieredRepository
from holdfast.router import DataRouter
from holdfast.sql.transactions import Transactions
from holdfast.state.agent import AgentState
from holdfast.state.editing import Editing
from holdfast.stores import Stores
from holdfast.vectors import VectorStore
from holdfast.work.coordinator import Coordinator

if TYPE_CHECKING:
    from holdfast.state.codec import Codec
    from holdfast.state.home import Durability, Written
    from holdfast.state.lifecycle import Status

A = TypeVar("A")
M = TypeVar("M")
P = ParamSpec("P")
T = TypeVar("T")
_END: Final = object()


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to its end, from any other thread. An interrupt of the caller cancels it."""
        try:
            _require_no_loop()
        except HoldfastError:
            work.close()
            raise
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop's thread, and await what it gives if that must be."""

        async def work() -> Any:
            found = function()
            return await found if inspect.isawaitable(found) else found

        return self.run(work())

    def close(self) -> None:
        """End the thread."""
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_asyncgens(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _require_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise HoldfastError("holdfast.sync blocks: inside an event loop, await holdfast.connect instead")


class Blocking(Generic[A]):
    """An object of the library, ``aio``, whose methods block. Made by the plane."""

    def __init__(self, loop: Loop, aio: A) -> None:
        self._loop, self.aio = loop, aio


@overload
def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]: ...
@overload
def blocking(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Any, P], T]: ...
def blocking(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of ``Blocking`` with the name, the parameters and the text of ``method``."""

    @wraps(method)
    def call(self: Blocking[Any], *values: Any, **named: Any) -> Any:
        return self._loop.call(lambda: method(self.aio, *values, **named))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Generator[T, None, None]]:
    """As ``blocking``, for a method that gives an asynchronous generator."""

    @wraps(method)
    def iterate(self: Any, /, *values: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        found: Any = self._loop.call(lambda: method(self.aio, *values, **named))
        try:
            while (value := self._loop.call(lambda: anext(found, _END))) is not _END:
                yield value
        finally:
            self._loop.call(found.aclose)

    return iterate


def giving(
    method: Callable[Concatenate[A, P], Any], kind: Callable[[Loop, Any], T]
) -> Callable[Concatenate[Any, P], T]:
    """As ``blocking``, for a method that gives an object which has blocking methods as ``kind``."""

    found: Callable[..., Any] = blocking(method)

    @wraps(method)
    def call(self: Any, /, *values: P.args, **named: P.kwargs) -> T:
        return kind(self._loop, found(self, *values, **named))

    return call


class SyncAgent(Blocking[AgentState[M]], Generic[M]):
    """AgentState, for ``with``."""

    def __enter__(self) -> Self:
        self._loop.run(self.aio.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def agent_id(self) -> UUID:
        """Its id."""
        return self.aio.agent_id

    @property
    def codec(self) -> Codec:
        """What turns its values into bytes."""
        return self.aio.codec

    @property
    def status(self) -> Status:
        """Where the state is in its life."""
        found: Status = self._loop.call(lambda: self.aio.status)
        return found

    def edit(self, ack: Durability = "kv") -> SyncEditing[M]:
        """``with agent.edit() as state``: see AgentState.edit."""
        return SyncEditing(self._loop, self.aio.edit(ack))

    close = blocking(AgentState.close)
    get = blocking(AgentState.get)
    items = blocking(AgentState.items)
    put = blocking(AgentState.put)
    delete = blocking(AgentState.delete)
    update = blocking(AgentState.update)
    watch = iterating(AgentState.watch)
    statuses = iterating(AgentState.statuses)
    flush = blocking(AgentState.flush)
    checkpoint = blocking(AgentState.checkpoint)
    checkpoints = blocking(AgentState.checkpoints)
    restore = blocking(AgentState.restore)
    fork = blocking(AgentState.fork)
    address = blocking(AgentState.address)


class SyncEditing(Blocking[Editing[M]], Generic[M]):
    """What ``agent.edit()`` gives."""

    @property
    def written(self) -> Written | None:
        """Where the edit stands afterwards, None for no change."""
        return self.aio.written

    def __enter__(self) -> M:
        return self._loop.run(self.aio.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self.aio.__aexit__(kind, error, trace))


class SyncBucket(Blocking[Bucket]):
    """Bucket"""

    get = blocking(Bucket.get)
    head = blocking(Bucket.head)
    entries = iterating(Bucket.entries)
    write = blocking(Bucket.write)
    create = blocking(Bucket.create)


class SyncAgents(Blocking[AgentRepository]):
    """AgentRepository"""

    save = blocking(AgentRepository.save)
    find = blocking(AgentRepository.find)
    look = blocking(AgentRepository.look)
    update = blocking(AgentRepository.update)
    delete = blocking(AgentRepository.delete)
    recover = blocking(AgentRepository.recover)
    drain = blocking(AgentRepository.drain)


class SyncCachedAgents(Blocking[TieredRepository[UUID, Agent]]):
    """TieredRepository of agents"""

    save = blocking(TieredRepository[UUID, Agent].save)
    find = blocking(TieredRepository[UUID, Agent].find)
    find_entry = blocking(TieredRepository[UUID, Agent].find_entry)
    update = blocking(TieredRepository[UUID, Agent].update)
    delete = blocking(TieredRepository[UUID, Agent].delete)
    invalidate = blocking(TieredRepository[UUID, Agent].invalidate)


class SyncQueryCache(Blocking[QueryCache]):
    """QueryCache; what ``get_or_load`` is given to load with is an ``async def``"""

    get_or_load = blocking(QueryCache.get_or_load)
    invalidate = blocking(QueryCache.invalidate)
    invalidate_group = blocking(QueryCache.invalidate_group)


class SyncShared(Blocking[SharedBucket]):
    """SharedBucket"""

    get = blocking(SharedBucket.get)
    save = blocking(SharedBucket.save)
    update = blocking(SharedBucket.update)
    update_document = blocking(SharedBucket.update_document)
    delete = blocking(SharedBucket.delete)
    entries = iterating(SharedBucket.entries)


class SyncRouter(Blocking[DataRouter]):
    """DataRouter"""

    store = blocking(DataRouter.store)
    retrieve = blocking(DataRouter.retrieve)
    remove = blocking(DataRouter.remove)
    search = blocking(DataRouter.search)


class SyncVectors(Blocking[VectorStore]):
    """VectorStore"""

    put = blocking(VectorStore.put)
    get = blocking(VectorStore.get)
    delete = blocking(VectorStore.delete)
    embed = blocking(VectorStore.embed)
    unembedded = blocking(VectorStore.unembedded)
    search = blocking(VectorStore.search)


class SyncStores(Blocking[Stores]):
    """Stores"""

    bucket = giving(Stores.bucket, SyncBucket)
    agents = giving(Stores.agents, SyncAgents)
    query_cache = giving(Stores.query_cache, SyncQueryCache)
    shared = giving(Stores.shared, SyncShared)
    router = giving(Stores.router, SyncRouter)
    vectors = giving(Stores.vectors, SyncVectors)

    def cached_agents(
        self, repository: SyncAgents | None = None, *, capacity: int = 10_000, ttl_s: float = 60.0
    ) -> SyncCachedAgents:
        """Stores.cached_agents"""
        given = None if repository is None else repository.aio
        made = self._loop.run(self.aio.cached_agents(given, capacity=capacity, ttl_s=ttl_s))
        return SyncCachedAgents(self._loop, made)


class SyncTransactions(Blocking[Transactions]):
    """Transactions"""

    run = blocking(Transactions.run)
    attempt = blocking(Transactions.attempt)


class SyncWork(Blocking[Coordinator]):
    """Coordinator"""

    run = blocking(Coordinator.run)


class SyncRelay(Blocking[Relay]):
    """Relay"""

    start = blocking(Relay.start)
    stop = blocking(Relay.stop)
    wake = blocking(Relay.wake)
    status = blocking(Relay.status)
    clean_up = blocking(Relay.clean_up)


class SyncPlane(Blocking[Plane]):
    """Plane with blocking methods. Made by ``connect``.

    ``aio`` is the plane itself; its outbox, inboxes and pools are for the ``async def`` that a transaction is given.
    """

    @overload
    def agent(
        self, agent_id: UUID | str, model: type[M], *, type: str = ..., name: str | None = ..., owned: bool = ...,
        wait_s: float = ...,
    ) -> SyncAgent[M]: ...  # fmt: skip
    @overload
    def agent(
        self, agent_id: UUID | str, model: None = ..., *, type: str = ..., name: str | None = ..., owned: bool = ...,
        wait_s: float = ...,
    ) -> SyncAgent[Any]: ...  # fmt: skip
    def agent(self, agent_id: UUID | str, model: type[Any] | None = None, **options: Any) -> SyncAgent[Any]:
        """Plane.agent, for ``with``."""
        return SyncAgent(self._loop, self._loop.call(lambda: self.aio.agent(agent_id, model, **options)))

    consistency = blocking(Plane.consistency)
    health = blocking(Plane.health)

    @property
    def transactions(self) -> SyncTransactions:
        """Plane.transactions"""
        return SyncTransactions(self._loop, self.aio.transactions)

    @property
    def work(self) -> SyncWork:
        """Plane.work"""
        return SyncWork(self._loop, self.aio.work)

    @property
    def stores(self) -> SyncStores:
        """Plane.stores"""
        return SyncStores(self._loop, self.aio.stores)

    @property
    def relay(self) -> SyncRelay:
        """Plane.relay"""
        return SyncRelay(self._loop, self.aio.relay)


class SyncConnecting:
    """What ``connect`` gives: the plane for ``with``."""

    def __init__(self, connecting: Connecting) -> None:
        self._connecting = connecting
        self._loop: Loop | None = None

    def __enter__(self) -> SyncPlane:
        _require_no_loop()
        self._loop = Loop()
        try:
            return SyncPlane(self._loop, self._loop.run(self._connecting.__aenter__()))
        except BaseException:
            self._loop.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is None:
            return
        try:
            self._loop.run(self._connecting.__aexit__(kind, error, trace))
        finally:
            self._loop.close()


def _blocking_connect(connect: Callable[P, Connecting]) -> Callable[P, SyncConnecting]:
    @wraps(connect)
    def call(*values: P.args, **named: P.kwargs) -> SyncConnecting:
        return SyncConnecting(connect(*values, **named))

    return call


connect = _blocking_connect(connect_async)
