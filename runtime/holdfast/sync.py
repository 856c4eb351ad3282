"""The library without asyncio: ``with holdfast.sync.connect() as plane``.

One event loop in a thread of its own does the work; any number of threads may call. Not for use inside a running event
loop, which it would block.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, overload
from uuid import UUID

from holdfast.errors import HoldfastError
from holdfast.plane import connect as connect_async
from holdfast.state.lifecycle import Status

if TYPE_CHECKING:
    from holdfast.contract import Contract
    from holdfast.plane import Plane
    from holdfast.state.agent import AgentState
    from holdfast.state.checkpoints import Checkpoint
    from holdfast.state.editing import Editing
    from holdfast.state.home import Durability, StateChange, Written
    from holdfast.state.lag import Consistency

T = TypeVar("T")
M = TypeVar("M")
_MISSING: Final[Any] = object()


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

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread."""

        async def work() -> T:
            return function()

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


class SyncEditing(Generic[M]):
    """``with agent.edit() as state``: see AgentState.edit."""

    def __init__(self, loop: Loop, editing: Editing[M]) -> None:
        self._loop, self._editing = loop, editing

    @property
    def written(self) -> Written | None:
        """Where the edit stands afterwards, None for no change."""
        return self._editing.written

    def __enter__(self) -> M:
        return self._loop.run(self._editing.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._editing.__aexit__(kind, error, trace))


class SyncAgent(Generic[M]):
    """AgentState with blocking methods; each says there what it does and raises."""

    def __init__(self, loop: Loop, agent: AgentState[M]) -> None:
        self._loop, self._agent = loop, agent

    @property
    def agent_id(self) -> UUID:
        """Its id."""
        return self._agent.agent_id

    @property
    def status(self) -> Status:
        """Where the state is in its life."""
        return self._loop.call(lambda: self._agent.status)

    def __enter__(self) -> Self:
        self._loop.run(self._agent.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._agent.close())

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """AgentState.get"""
        if default is _MISSING:
            return self._loop.run(self._agent.get(key))
        return self._loop.run(self._agent.get(key, default))

    def items(self) -> dict[str, Any]:
        """AgentState.items"""
        return self._loop.run(self._agent.items())

    def put(self, key: str, value: Any, ack: Durability = "kv", *, correlation_id: str | None = None) -> Written:
        """AgentState.put"""
        return self._loop.run(self._agent.put(key, value, ack, correlation_id=correlation_id))

    def delete(self, key: str, ack: Durability = "kv") -> Written:
        """AgentState.delete"""
        return self._loop.run(self._agent.delete(key, ack))

    def update(
        self, key: str, function: Callable[[Any], Any], default: Any = _MISSING, ack: Durability = "kv"
    ) -> Written:
        """AgentState.update; ``function`` runs in the loop's thread."""
        if default is _MISSING:
            return self._loop.run(self._agent.update(key, function, ack=ack))
        return self._loop.run(self._agent.update(key, function, default, ack))

    def edit(self, ack: Durability = "kv") -> SyncEditing[M]:
        """AgentState.edit"""
        return SyncEditing(self._loop, self._agent.edit(ack))

    def watch(self, key: str | None = None) -> Generator[StateChange, None, None]:
        """AgentState.watch"""
        changes = self._agent.watch(key)
        try:
            while True:
                try:
                    yield self._loop.run(_next(changes))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run(_close(changes))

    def flush(self, timeout_s: float = 30.0) -> None:
        """AgentState.flush"""
        self._loop.run(self._agent.flush(timeout_s))

    def checkpoint(self, name: str | None = None, *, trigger: str = "manual") -> Checkpoint:
        """AgentState.checkpoint"""
        return self._loop.run(self._agent.checkpoint(name, trigger=trigger))

    def checkpoints(self) -> list[Checkpoint]:
        """AgentState.checkpoints"""
        return self._loop.run(self._agent.checkpoints())

    def restore(self, which: str | UUID) -> Checkpoint:
        """AgentState.restore"""
        return self._loop.run(self._agent.restore(which))

    def fork(self, new_agent_id: UUID | str) -> UUID:
        """AgentState.fork"""
        return self._loop.run(self._agent.fork(new_agent_id))


async def _next(changes: Any) -> Any:
    return await anext(changes)


async def _close(changes: Any) -> None:
    await changes.aclose()


class SyncPlane:
    """Plane with blocking methods. Made by ``connect``."""

    def __init__(self, loop: Loop, plane: Plane) -> None:
        self._loop, self._plane = loop, plane

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
    def agent(
        self,
        agent_id: UUID | str,
        model: type[Any] | None = None,
        *,
        type: str = "agent",
        name: str | None = None,
        owned: bool = True,
        wait_s: float = 0.0,
    ) -> SyncAgent[Any]:
        """Plane.agent, for ``with``."""

        def make() -> AgentState[Any]:
            return self._plane.agent(agent_id, model, type=type, name=name, owned=owned, wait_s=wait_s)

        return SyncAgent(self._loop, self._loop.call(make))

    def consistency(self) -> Consistency:
        """Plane.consistency"""
        return self._loop.run(self._plane.consistency())


class SyncConnecting:
    """What ``connect`` gives: the plane for ``with``."""

    def __init__(self, **given: Any) -> None:
        self._given = given
        self._loop: Loop | None = None
        self._connecting: Any = None

    def __enter__(self) -> SyncPlane:
        _require_no_loop()
        self._loop = Loop()
        self._connecting = connect_async(**self._given)
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


def connect(
    environ: Mapping[str, str] | None = None,
    *,
    contract: Contract | None = None,
    background: bool = True,
    events: bool = False,
    types: Iterable[type] = (),
) -> SyncConnecting:
    """holdfast.connect, for ``with``."""
    return SyncConnecting(environ=environ, contract=contract, background=background, events=events, types=types)
