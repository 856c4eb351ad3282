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
from concurrent.futures import CancelledError, Future
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, NoReturn, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from holdfast.cache import QueryCache
from holdfast.errors import HoldfastError
from holdfast.events.relay import Relay
from holdfast.kv.bucket import Bucket
from holdfast.merge.shared import SharedBucket
from holdfast.plane import Connecting, Plane, unentered
from holdfast.plane import connect as connect_async
from holdfast.registry import Agent, AgentRepository
from holdfast.repository import TieredRepository
from holdfast.router import DataRouter
from holdfast.sql.transactions import Transactions
from holdfast.state.agent import AgentState
from holdfast.state.editing import Editing
from holdfast.stores import Stores
from holdfast.tasks import end
from holdfast.vectors import VectorStore
from holdfast.work.coordinator import Coordinator

if TYPE_CHECKING:
    from holdfast.state.codec import Codec
    from holdfast.state.home import Durability, Written
    from holdfast.state.lifecycle import Status
    from holdfast.telemetry import Telemetry

A = TypeVar("A")
M = TypeVar("M")
P = ParamSpec("P")
T = TypeVar("T")
_END: Final = object()


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.is_closed = False
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to its end, from any other thread, in a copy of the caller's context.

        An interrupt of the caller, such as KeyboardInterrupt, cancels it and is raised when it has ended. Raises
        HoldfastError where the loop is closed, or is while it runs.
        """
        task: asyncio.Task[Any] | None = None

        async def begin() -> T:
            nonlocal task
            task = asyncio.current_task()
            return await work

        async def cut() -> None:
            if task is not None:
                await end(task)

        try:
            _require_no_loop()
            future = self._submit(begin)
        except HoldfastError:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            if self.is_closed:
                raise HoldfastError("the plane was closed meanwhile; whether this took effect is unknown") from None
            raise
        except BaseException:
            if not (future.done() or self.is_closed):
                self._submit(cut).result()
            raise

    def _submit(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            if self.is_closed:
                raise HoldfastError("the plane is closed: use it inside of its `with`")
            return asyncio.run_coroutine_threadsafe(begin(), self._loop)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop's thread, and await what it gives if that must be."""

        async def work() -> Any:
            found = function()
            return await found if inspect.isawaitable(found) else found

        return self.run(work())

    def close(self) -> None:
        """End what still runs, as ``asyncio.Runner`` does, and the thread."""
        with self._lock:
            self.is_closed = True
        try:
            asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _end_all() -> None:
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    await end(*(task for task in asyncio.all_tasks() if task is not this))
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


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
        # By name: what telemetry puts around a method is at the object.
        return self._loop.call(lambda: getattr(self.aio, method.__name__)(*values, **named))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Generator[T, None, None]]:
    """As ``blocking``, for a method that gives an asynchronous generator."""

    @wraps(method)
    def iterate(self: Any, /, *values: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        found: Any = self._loop.call(lambda: getattr(self.aio, method.__name__)(*values, **named))
        try:
            while (value := self._loop.call(lambda: anext(found, _END))) is not _END:
                yield value
        finally:
            if not self._loop.is_closed:
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


class SyncTelemetry(Blocking[Any]):
    """Telemetry, which is imported only where it is asked for. ``aio.readings`` are the last ones."""

    aio: Telemetry

    def close(self) -> None:
        """Telemetry.close"""
        self._loop.run(self.aio.close())

    def sample(self) -> None:
        """Telemetry.sample"""
        self._loop.run(self.aio.sample())


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

    def instrument(self, **options: Any) -> SyncTelemetry:
        """Measure and trace this plane; ``options`` are those of ``holdfast.telemetry.instrument``."""
        from holdfast.telemetry import instrument

        return SyncTelemetry(self._loop, self._loop.call(lambda: instrument(self.aio, **options)))

    consistency = blocking(Plane.consistency)
    health = blocking(Plane.health)

    @property
    def transactions(self) -> SyncTransactions:
        """Plane.transactions"""
        return SyncTransactions(self._loop, self._loop.call(lambda: self.aio.transactions))

    @property
    def work(self) -> SyncWork:
        """Plane.work"""
        return SyncWork(self._loop, self._loop.call(lambda: self.aio.work))

    @property
    def stores(self) -> SyncStores:
        """Plane.stores"""
        return SyncStores(self._loop, self._loop.call(lambda: self.aio.stores))

    @property
    def relay(self) -> SyncRelay:
        """Plane.relay"""
        return SyncRelay(self._loop, self._loop.call(lambda: self.aio.relay))


class SyncConnecting:
    """What ``connect`` gives: the plane for ``with``."""

    def __init__(self, connecting: Connecting) -> None:
        self._connecting = connecting
        self._loop: Loop | None = None

    def __enter__(self) -> SyncPlane:
        _require_no_loop()
        if self._loop is not None:
            raise HoldfastError("this plane is open already: call connect() once for each `with`")
        self._loop = Loop()
        try:
            return SyncPlane(self._loop, self._loop.run(self._connecting.__aenter__()))
        except BaseException as error:
            self.__exit__(type(error), error, None)  # an interrupt may have come when all was connected
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            loop.run(self._connecting.__aexit__(kind, error, trace))
        finally:
            loop.close()

    if not TYPE_CHECKING:  # type checkers refuse it without us

        def __getattr__(self, name: str) -> NoReturn:
            raise unentered(self, name, "nothing is connected yet: with holdfast.sync.connect() as plane")


def _blocking_connect(connect: Callable[P, Connecting]) -> Callable[P, SyncConnecting]:
    @wraps(connect)
    def call(*values: P.args, **named: P.kwargs) -> SyncConnecting:
        return SyncConnecting(connect(*values, **named))

    return call


connect = _blocking_connect(connect_async)
