"""The way in: ``async with holdfast.connect() as plane``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload
from uuid import UUID

from holdfast.contract import Contract, fetch_contract
from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError, NotFound
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
_PING_S: Final = 10
_RECONNECT_S: Final = 0.1
#: How long each part may take to end.
_CLOSE_S: Final = 15.0
_RECOVER_AFTER_S: Final = 1.0
#: Whether changes of state leave as events: each as one, or those of one flush together.
Events = bool | Literal["batch"]


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
        """What ``consumer`` has handled, so that it handles no message twice. Raises ConfigurationError."""
        from holdfast.events.inbox import Inbox

        return Inbox(self.contract, consumer, self.pools.primary)

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

    async def close(self) -> None:
        """End what is under way, flush, give leases back, and close every connection.

        Nothing takes longer than some seconds: what could not be flushed stays in the journal, what could not be
        published in the outbox, and work that is not done is left to a recoverer.
        """
        made = self.__dict__
        async with AsyncExitStack() as last:  # what is named last is closed first, whatever fails
            ending: list[tuple[str, Callable[[], Awaitable[object]]]] = [("NATS", partial(_end_nats, self.nc))]
            ending.append(("the pools", self.pools.close))
            ending += [("the stores", self.stores.close)] if "stores" in made else []
            if self._home is not None:
                ending.append(("the journal", self._home.pressure.close))
            ending.append(("the watch", partial(end, *self._tasks)))
            ending += [("transactions", self.transactions.close)] if "transactions" in made else []
            ending += [("the relay", self.relay.stop)] if "relay" in made else []
            if self._home is not None and self._home.flusher is not None:
                ending.append(("the flusher", self._home.flusher.stop))
            ending.append(("agents", self._close_handles))
            ending += [("work", self.work.close)] if "work" in made else []
            if self._recovering is not None:
                ending.append(("the recoverer", partial(end, self._recovering)))
            for what, close in ending:
                last.push_async_callback(_close, what, close)

    async def _close_handles(self) -> None:
        await asyncio.gather(*(handle.close() for handle in (*self._handles.values(),)), return_exceptions=True)


async def _end_nats(client: Client) -> None:
    try:
        await client.close()
    except OSError as error:
        _log.info("the connection to NATS was gone already: %s", type(error).__name__)
    finally:
        # Where writing to a dead connection fails, nats-py 2.16.0 leaves the tasks of its subscriptions behind.
        for subscription in tuple(client._subs.values()):  # noqa: SLF001 - nothing public ends them
            subscription._stop_processing()  # noqa: SLF001


async def _close(what: str, close: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await close()
    except Exception as error:
        reason = f"not done within {_CLOSE_S:g} s" if isinstance(error, TimeoutError) else str(error)
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

        settings = Settings.from_environment(self._environ)
        if self._contract is None:
            settings.require_plane()
        nc = await _connect_nats(settings, self._contract)
        pools: Pools | None = None
        try:
            contract = self._contract or await fetch_contract(nc, settings.require_plane(), settings.env)
            for sentence in settings.disagreements(contract):
                _log.warning("%s", sentence)
            pools = await Pools.open(contract, settings, is_patient=True)
            self._plane = Plane(contract, settings, nc, pools)
            await self._plane.start(background=self._background, events=self._events, types=self._types)
        except BaseException:
            if self._plane is not None:
                await self._plane.close()
            else:
                if pools is not None:
                    await pools.close()
                await nc.close()
            raise
        return self._plane

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._plane is not None:
            await self._plane.close()


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

    Leaving the block ends everything in order, in less than the 30 seconds that orchestrators wait, also while servers
    are away. Cancellation leaves it: ``asyncio.run`` cancels on SIGINT, and for SIGTERM there is
    ``loop.add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)``.

    PostgreSQL may be away at the start and later: writes then wait in the journal. Raises, when entered,
    ConfigurationError, ContractMismatch, Unsupported, ConnectionFailed, OperationTimeout.
    """
    return Connecting(environ, contract, background, events, types)


async def _connect_nats(settings: Settings, contract: Contract | None) -> Client:
    """Connect once, within the time that is given; a connection lost later is sought for ever."""
    from nats.aio.client import Client
    from nats.errors import Error

    client = Client()
    options = settings.nats_options(contract)
    said: Exception | None = None
    refused = asyncio.Event()

    async def on_error(error: Exception) -> None:
        nonlocal said
        said = error
        if isinstance(_unreachable(error), ConfigurationError):
            refused.set()
        _log.info("NATS: %s", type(error).__name__)

    async def on_loss() -> None:
        if not (client.is_closed or client.is_draining):
            _log.warning("the connection to NATS was lost; it is sought again")

    connecting = asyncio.create_task(
        client.connect(
            **options,
            name=settings.pg_app_name or "holdfast",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type] # it only sleeps for that long
            ping_interval=_PING_S,
            error_cb=on_error,
            disconnected_cb=on_loss,
        ),
        name="holdfast connects",
    )
    refusal = asyncio.create_task(refused.wait(), name="holdfast is refused")
    try:
        # Left alone, the client tries for ever, also where it is refused.
        await asyncio.wait(
            {connecting, refusal}, timeout=options["connect_timeout"], return_when=asyncio.FIRST_COMPLETED
        )
        if not connecting.done():
            raise _unreachable(said)
        connecting.result()
        return client
    except (Error, OSError, ValueError) as error:
        raise _unreachable(error) from None
    finally:
        await end(refusal)
        if not (connecting.done() and client.is_connected):
            await end(connecting)
            with contextlib.suppress(AssertionError):  # of a client that never had an address to go to
                await client.close()


def _unreachable(error: Exception | None) -> HoldfastError:
    """What keeps us out, with a remedy: ConfigurationError where waiting does not help."""
    import ssl

    said = str(error).lower()
    if isinstance(error, ssl.SSLError):
        text = "the TLS connection to NATS was refused: check NATS_CA_CERT, NATS_TLS_CERT and NATS_TLS_KEY"
    elif isinstance(error, FileNotFoundError):
        text = "NATS_CREDS_FILE names a file that is not there"
    elif "authoriz" in said or "authentic" in said:
        text = "NATS refuses the credentials: check NATS_CREDS_FILE, or those in NATS_SERVERS"
    elif isinstance(error, ValueError) or "invalid connect url" in said:
        text = "NATS_SERVERS: an address has the form nats://host:port"
    else:
        text = "no NATS server can be reached: check NATS_SERVERS, and that the servers run"
        return ConnectionFailed(text, driver_error=error)
    return ConfigurationError(text, driver_error=error)
