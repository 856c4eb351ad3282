"""The way in: ``async with holdfast.connect() as plane``."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar, overload
from uuid import UUID

from holdfast.contract import Contract, fetch_contract
from holdfast.errors import ConfigurationError, HoldfastError, NotFound
from holdfast.nats_client import connect_nats, end_nats
from holdfast.settings import Settings
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.events.inbox import Inbox
    from holdfast.events.outbox import Outbox
    from holdfast.events.relay import Relay
    from holdfast.health import HealthLimits, HealthReport
    from holdfast.sql.pools import Pools
    from holdfast.sql.transactions import Transactions
    from holdfast.state.agent import AgentState
    from holdfast.state.home import Home
    from holdfast.state.lag import Consistency
    from holdfast.state.monitor import Monitor
    from holdfast.stores import Stores
    from holdfast.work.coordinator import Coordinator

_log = logging.getLogger("holdfast")
M = TypeVar("M")
#: Closing a plane: each part may take half of what is left of this, and the least in any case; then it is cut off.
_CLOSE_S: Final = 12.0
_LEAST_S: Final = 0.5
_CUT_S: Final = 1.5
_RECOVER_AFTER_S: Final = 1.0
#: Whether changes of state leave as events: each as one, or those of one flush together.
Events = bool | Literal["batch"]
#: Ends one part of a plane; it is given the seconds that it may wait.
_Ending = Callable[[float], Awaitable[object]]


class Plane:
    """One plane, connected. Made by ``connect``; all of it belongs to one event loop."""

    def __init__(self, contract: Contract, settings: Settings, nc: Client, pools: Pools) -> None:
        self.contract = contract
        self.settings = settings
        self.nc = nc
        self.pools = pools
        self._home: Home | None = None
        self._monitor: Monitor | None = None
        self._handles: dict[int, AgentState[Any]] = {}
        self._owned: dict[UUID, AgentState[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._recovering: asyncio.Task[None] | None = None
        self._types: tuple[type, ...] = ()
        for pool in pools.named.values():
            pool.on_events = self._on_events

    @overload
    def agent(
        self, agent_id: UUID | str, model: type[M], *, type: str = ..., name: str | None = ..., owned: bool = ...,
        wait_s: float = ...,
    ) -> AgentState[M]: ...  # fmt: skip
    @overload
    def agent(
        self, agent_id: UUID | str, model: type[M] | None, *, type: str = ..., name: str | None = ...,
        owned: bool = ..., wait_s: float = ...,
    ) -> AgentState[M]: ...  # fmt: skip
    @overload
    def agent(
        self, agent_id: UUID | str, model: None = ..., *, type: str = ..., name: str | None = ..., owned: bool = ...,
        wait_s: float = ...,
    ) -> AgentState[Any]: ...  # fmt: skip
    def agent(
        self,
        agent_id: UUID | str,
        model: type[Any] | None = None,
        *,
        type: str = "agent",
        name: str | None = None,
        owned: bool = True,
        wait_s: float = 0.0,
    ) -> AgentState[Any]:
        """A handle on one agent's state, for ``async with``.

        ``model`` is a dataclass, pydantic model or msgspec struct for typed edits. An owned handle takes the agent's
        lease, waiting up to ``wait_s`` seconds for it (LeaseHeld after that), and registers an agent that is new under
        ``type`` and ``name``. One that is not owned reads only. Raises CodecError for an id that is no UUID.
        """
        from holdfast.state.agent import AgentState
        from holdfast.state.keys import agent_uuid

        handle: AgentState[Any] = AgentState(
            self.home,
            agent_uuid(agent_id),
            model,
            type=type,
            name=name,
            owned=owned,
            types=self._types,
            wait_s=wait_s,
            opened=self._on_opened,
            closed=self._on_closed,
        )
        return handle

    # Facets, each made when it is first asked for ------------------------------------------------------------

    @cached_property
    def transactions(self) -> Transactions:
        """Transactions on the primary: ``await plane.transactions.run(work, TransactionContext(...))``."""
        from holdfast.sql.transactions import Transactions

        return Transactions(self.pools.primary, marker_table=self.contract.names.given.get("inbox_table"))

    @cached_property
    def outbox(self) -> Outbox:
        """Events that leave with the transaction they are noted in: ``await plane.outbox.add(connection, ...)``."""
        from holdfast.events.outbox import Outbox

        return Outbox(self.contract)

    @cached_property
    def relay(self) -> Relay:
        """What publishes the outbox; it runs where ``connect`` was given ``events``, else ``relay.start()``."""
        from holdfast.events.relay import Relay

        return Relay(self.pools, self.nc, self.contract)

    def inbox(self, consumer: str) -> Inbox:
        """What ``consumer`` has handled, so that it handles nothing twice: ``await plane.inbox(…).consume(handler)``.

        Raises ConfigurationError.
        """
        from holdfast.events.inbox import Inbox

        return Inbox(self.contract, consumer, self.pools.primary, self.nc)

    @cached_property
    def work(self) -> Coordinator:
        """Work over buckets and database, done or undone as a whole: ``await plane.work.run(name, steps)``.

        Raises ConfigurationError for a plane that declares no tables for sagas.
        """
        from holdfast.work.coordinator import Coordinator
        from holdfast.work.owned import stores_of

        stores = stores_of(self.contract, self.stores.bucket, self._owner, self.agent)
        return Coordinator(self.pools.primary, stores, self.contract)

    @cached_property
    def stores(self) -> Stores:
        """Buckets, repositories, caches, shared buckets, the router, vectors."""
        from holdfast.stores import Stores

        return Stores(self.nc, self.contract, self.pools, self._require_owner)

    async def consistency(self) -> Consistency:
        """How far the database is behind the bucket. Raises what they raise."""
        return await self.monitor.consistency()

    async def health(self, limits: HealthLimits | None = None, *, skip: Collection[str] = ()) -> HealthReport:
        """How database, pools, buckets, JetStream and consistency are now; the report's status is the worst of them.

        ``limits`` says from when on a check is degraded and how long one may take; ``skip`` names pools and buckets
        that do not matter here. Raises nothing.
        """
        from holdfast.health import health

        return await health(self, limits, skip=skip)

    @property
    def home(self) -> Home:
        """What the handles share. Raises ConfigurationError for a plane without a state bucket."""
        if self._home is None:
            raise ConfigurationError("the plane declares no state_bucket: set runtime.state_bucket in its specs")
        return self._home

    @property
    def monitor(self) -> Monitor:
        """The watch over consistency. Raises ConfigurationError as ``home``."""
        self.home  # noqa: B018 - raises
        assert self._monitor is not None
        return self._monitor

    def _on_opened(self, handle: AgentState[Any]) -> None:
        self._handles[id(handle)] = self._owned[handle.agent_id] = handle

    def _on_closed(self, handle: AgentState[Any]) -> None:
        self._handles.pop(id(handle), None)
        if self._owned.get(handle.agent_id) is handle:
            del self._owned[handle.agent_id]

    def _owner(self, agent_id: UUID) -> AgentState[Any] | None:
        """The open handle that owns an agent."""
        handle = self._owned.get(agent_id)
        return None if handle is None or handle.lease.lost.is_set() else handle

    def _require_owner(self, agent_id: UUID) -> AgentState[Any]:
        handle = self._owner(agent_id)
        if handle is None:
            raise NotFound("the agent is not open in this process: async with plane.agent(agent_id)")
        return handle

    def _on_events(self) -> None:
        relay: Relay | None = self.__dict__.get("relay")
        if relay is not None:
            relay.committed()

    # Life ----------------------------------------------------------------------------------------------------

    async def start(self, *, background: bool, events: Events, types: Iterable[type] = ()) -> None:
        """For ``connect``: find the bucket, start the flusher, the watch and the recoverer."""
        self._types = tuple(types)
        names = self.contract.names
        if "state_bucket" in names:
            await self._start_state(background=background, events=events)
        if background and "saga_table" in names and "saga_step_table" in names:
            self._recovering = asyncio.create_task(self._recover(), name="holdfast recoverer")
        if background and "config_bucket" in names and "registry_table" in names:
            self._tasks.append(asyncio.create_task(self._recover_agents(), name="holdfast agents"))

    async def _start_state(self, *, background: bool, events: Events) -> None:
        from holdfast.state.flusher import Flusher
        from holdfast.state.home import Home
        from holdfast.state.journal import Journal
        from holdfast.state.lag import Pressure
        from holdfast.state.monitor import Monitor
        from holdfast.state.rebuilt import Rebuilt
        from holdfast.state.writer import Writer

        names = self.contract.names
        bucket = await self.stores.bucket(names.state_bucket)
        bucket.require_subtrees()
        journal = Journal(self.nc, bucket.name, names.flush_stream)
        writer = Writer(self.contract, self.pools.background, events=events)
        flusher = None
        if background:
            flusher = Flusher(self.nc, self.contract, bucket, journal, writer)
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        pressure = Pressure(journal, bucket)
        self._home = Home(self.contract, bucket, journal, pressure, self.pools, writer, flusher, holder)
        self._monitor = monitor = Monitor(self._home, self._handles.values, self._owned.get)
        self._tasks.append(asyncio.create_task(monitor.run(), name="holdfast monitor"))
        if flusher is not None:
            flusher.flushed, flusher.phase = monitor.tell, monitor.phase
            flusher.start()
            self._tasks.append(asyncio.create_task(Rebuilt(bucket, flusher).run(), name="holdfast rebuilt"))
            if events:
                self.relay.start()

    def keep(self, task: asyncio.Task[None]) -> None:
        """End a task when the plane is closed."""
        self._tasks.append(task)

    async def _recover(self) -> None:
        """Finish or undo the work of processes that crashed."""
        await asyncio.sleep(_RECOVER_AFTER_S)  # connecting need not wait for these imports
        try:
            recoverer = self.work.recoverer
        except ConfigurationError as error:
            _log.warning("left work is not looked after here: %s", error)
        else:
            await recoverer.run()

    async def _recover_agents(self) -> None:
        """Bring saves of agents to the table that processes which crashed have left in the bucket."""
        await asyncio.sleep(_RECOVER_AFTER_S)
        try:
            repository = await self.stores.agents()
        except HoldfastError as error:
            _log.warning("agents that were not saved are not looked after here: %s", error)
        else:
            await repository.keep_recovering()

    async def close(self) -> None:
        """End what is under way, flush, give leases back, and close every connection.

        Its parts share some seconds: what could not be flushed stays in the journal, what could not be published in
        the outbox, and work that is not done is left to a recoverer.
        """
        made = self.__dict__
        async with AsyncExitStack() as last:  # what is named last is closed first, whatever fails
            ending: list[tuple[str, _Ending]] = [("NATS", lambda _: end_nats(self.nc))]
            ending.append(("the pools", lambda _: self.pools.close()))
            ending += [("the stores", lambda _: self.stores.close())] if "stores" in made else []
            if self._home is not None:
                journal = self._home.pressure
                ending.append(("the journal", lambda _: journal.close()))
            ending.append(("the watch", lambda _: end(*self._tasks)))
            ending += [("transactions", lambda _: self.transactions.close())] if "transactions" in made else []
            ending += [("the relay", self.relay.stop)] if "relay" in made else []
            if self._home is not None and self._home.flusher is not None:
                ending.append(("the flusher", self._home.flusher.stop))
            ending.append(("agents", lambda _: self._close_handles()))
            ending += [("work", self.work.close)] if "work" in made else []
            if self._recovering is not None:
                recovering = self._recovering
                ending.append(("the recoverer", lambda _: end(recovering)))
            until_s = asyncio.get_running_loop().time() + _CLOSE_S
            for what, close in ending:
                last.push_async_callback(_close, what, close, until_s)

    async def _close_handles(self) -> None:
        handles = (*self._handles.values(),)
        ended = await asyncio.gather(*(handle.close() for handle in handles), return_exceptions=True)
        for handle, error in zip(handles, ended, strict=True):
            if error is not None:
                _log.warning("the agent %s did not end well: %s", handle.agent_id, str(error) or type(error).__name__)


async def _close(what: str, close: _Ending, until_s: float) -> None:
    part_s = max(_LEAST_S, (until_s - asyncio.get_running_loop().time()) / 2)
    try:
        async with asyncio.timeout(part_s + _CUT_S):
            await close(part_s)
    except Exception as error:
        reason = f"not done within {part_s + _CUT_S:.1f} s" if isinstance(error, TimeoutError) else str(error)
        _log.warning("the plane is closed, but %s did not end well: %s", what, reason)


class Connecting:
    """What ``connect`` gives: the plane for ``async with``."""

    def __init__(
        self,
        environ: Mapping[str, str] | None,
        contract: Contract | None,
        background: bool,
        events: Events,
        types: Iterable[type],
    ) -> None:
        self._environ = environ
        self._contract = contract
        self._background = background
        self._events = events
        self._types = tuple(types)
        self._plane: Plane | None = None

    async def __aenter__(self) -> Plane:
        from holdfast.sql.pools import Pools

        if self._plane is not None:
            raise HoldfastError("this plane is open already: call connect() once for each `async with`")
        settings = Settings.from_environment(self._environ)
        if self._contract is None:
            settings.require_plane()
        nc = await connect_nats(settings, self._contract)
        plane: Plane | None = None
        pools: Pools | None = None
        try:
            contract = self._contract or await fetch_contract(nc, settings.require_plane(), settings.env)
            for sentence in settings.disagreements(contract):
                _log.warning("%s", sentence)
            pools = await Pools.open(contract, settings, is_patient=True)
            plane = Plane(contract, settings, nc, pools)
            await plane.start(background=self._background, events=self._events, types=self._types)
        except BaseException:
            if plane is not None:
                await plane.close()
            else:
                if pools is not None:
                    await pools.close()
                await nc.close()
            raise
        self._plane = plane
        return plane

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.close()

    if not TYPE_CHECKING:  # type checkers refuse both without us

        def __await__(self) -> NoReturn:
            raise HoldfastError(_ENTER)

        def __getattr__(self, name: str) -> NoReturn:
            raise unentered(self, name, _ENTER)


_ENTER: Final = "nothing is connected yet: async with holdfast.connect() as plane"


def unentered(connecting: object, name: str, remedy: str) -> Exception:
    """What to raise for an attribute that what ``connect`` gives does not have: ``remedy`` where a plane has it."""
    if name in dir(Plane) or name in ("contract", "settings", "nc", "pools"):
        return HoldfastError(remedy)
    return AttributeError(f"{type(connecting).__name__!r} object has no attribute {name!r}")


def connect(
    environ: Mapping[str, str] | None = None,
    *,
    contract: Contract | None = None,
    background: bool = True,
    events: Events = False,
    types: Iterable[type] = (),
) -> Connecting:
    """Connect to a plane: ``async with holdfast.connect() as plane``.

    ``environ`` stands for this process's environment: NATS_SERVERS, HOLDFAST_PLANE, HOLDFAST_ENV and passwords are
    enough; ``contract`` for the one that is stored in the plane. ``background`` runs here what looks after everybody's
    data, the flusher and the recoverer of work; without it, another process must. ``events`` sends each change of
    agents.state as an event through the outbox; with "batch", the changes of an agent that reach the database
    together leave as one message (``events_of`` lists them). ``types`` are enums, dataclasses, models and structs that
    values may hold.

    Leaving the block ends everything in order, within 18 seconds also while servers are away. A handle that is closed
    before, by a block of its own, may take 12 more: with one, both are within the 30 seconds that orchestrators wait.
    Handles that are still open are closed with the plane, all at once.

    Cancellation leaves the block: ``asyncio.run`` cancels on SIGINT, and for SIGTERM there is
    ``loop.add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)``.

    PostgreSQL may be away at the start and later: writes then wait in the journal. Raises, when entered,
    ConfigurationError, ContractMismatch, Unsupported, ConnectionFailed, OperationTimeout.
    """
    return Connecting(environ, contract, background, events, types)
