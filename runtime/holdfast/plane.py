"""The way in: ``async with holdfast.connect() as plane``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from uuid import UUID

from holdfast.contract import Contract, fetch_contract
from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError
from holdfast.settings import Settings
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.events.relay import Relay
    from holdfast.sql.pools import Pools
    from holdfast.state.agent import AgentState
    from holdfast.state.home import Home
    from holdfast.state.lag import Consistency
    from holdfast.state.monitor import Monitor

_log = logging.getLogger("holdfast")
M = TypeVar("M")
_PING_S: Final = 10
_RECONNECT_S: Final = 0.1
_CLOSE_S: Final = 15.0


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
        self._tasks: list[asyncio.Task[None]] = []
        self._relay: Relay | None = None
        self._types: tuple[type, ...] = ()

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
            closed=lambda closed: self._handles.pop(id(closed), None),
            opened=lambda opened: self._handles.update({id(opened): opened}),
        )
        return handle

    async def consistency(self) -> Consistency:
        """How far the database is behind the bucket. Raises what they raise."""
        return await self.monitor.consistency()

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

    @property
    def relay(self) -> Relay:
        """What publishes the outbox; it runs where ``connect`` was given ``events=True``, else ``relay.start()``."""
        if self._relay is None:
            from holdfast.events.relay import Relay

            self._relay = Relay(self.pools, self.nc, self.contract)
        return self._relay

    # Life ----------------------------------------------------------------------------------------------------

    async def start(self, *, background: bool, events: bool, types: Iterable[type] = ()) -> None:
        """For ``connect``: find the bucket, start the flusher and the watch."""
        from holdfast.kv.bucket import Bucket
        from holdfast.state.flusher import Flusher
        from holdfast.state.home import Home
        from holdfast.state.journal import Journal
        from holdfast.state.lag import Pressure
        from holdfast.state.monitor import Monitor
        from holdfast.state.rebuilt import Rebuilt
        from holdfast.state.writer import Writer

        self._types = tuple(types)
        names = self.contract.names
        if "state_bucket" not in names:
            return
        bucket = await Bucket.open(self.nc, self.contract.bucket(names.state_bucket))
        journal = Journal(self.nc, bucket.name, names.flush_stream)
        writer = Writer(self.contract, self.pools.background, events=events)
        flusher = None
        if background:
            flusher = Flusher(self.nc, self.contract, bucket, journal, writer)
        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        pressure = Pressure(journal, bucket)
        self._home = Home(self.contract, bucket, journal, pressure, self.pools, writer, flusher, holder)
        self._monitor = monitor = Monitor(self._home, self._handles.values)
        self._tasks.append(asyncio.create_task(monitor.run(), name="holdfast monitor"))
        if flusher is not None:
            flusher.flushed, flusher.phase = monitor.tell, monitor.phase
            flusher.start()
            self._tasks.append(asyncio.create_task(Rebuilt(bucket, flusher).run(), name="holdfast rebuilt"))
            if events:
                self.relay.start()

    async def close(self) -> None:
        """Flush, give leases back, and close every connection. The journal keeps what could not be flushed."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                handles = tuple(self._handles.values())
                await asyncio.gather(*(handle.close() for handle in handles), return_exceptions=True)
                if self._home is not None and self._home.flusher is not None:
                    await self._home.flusher.stop()
                if self._relay is not None:
                    await self._relay.stop()
        except TimeoutError:
            _log.warning("the plane was closed before everything was flushed; the journal keeps it")
        finally:
            await end(*self._tasks)
            if self._home is not None:
                await self._home.pressure.close()
            await self.pools.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.nc.close(), _CLOSE_S)


class Connecting:
    """What ``connect`` gives: the plane for ``async with``."""

    def __init__(
        self,
        environ: Mapping[str, str] | None,
        contract: Contract | None,
        background: bool,
        events: bool,
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
    events: bool = False,
    types: Iterable[type] = (),
) -> Connecting:
    """Connect to a plane: ``async with holdfast.connect() as plane``.

    ``environ`` stands for this process's environment: NATS_SERVERS, HOLDFAST_PLANE, HOLDFAST_ENV and passwords are
    enough; ``contract`` for the one that is stored in the plane. ``background`` runs the flusher here; without it,
    another process must. ``events`` sends each change of agents.state as an event through the outbox. ``types`` are
    enums, dataclasses, models and structs that values may hold.

    PostgreSQL may be away at the start and later: writes then wait in the journal. Raises, when entered,
    ConfigurationError, ContractMismatch, Unsupported, ConnectionFailed, OperationTimeout.
    """
    return Connecting(environ, contract, background, events, types)


async def _connect_nats(settings: Settings, contract: Contract | None) -> Client:
    from nats.aio.client import Client
    from nats.errors import Error

    client = Client()

    async def on_error(error: Exception) -> None:
        _log.info("NATS: %s", type(error).__name__)

    async def on_loss() -> None:
        if not (client.is_closed or client.is_draining):
            _log.warning("the connection to NATS was lost; it is sought again")

    try:
        await client.connect(
            **settings.nats_options(contract),
            name=settings.pg_app_name or "holdfast",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type] # it only sleeps for that long
            ping_interval=_PING_S,
            error_cb=on_error,
            disconnected_cb=on_loss,
        )
    except (Error, OSError, TimeoutError) as error:
        raise ConnectionFailed("no NATS server can be reached; nothing was changed", driver_error=error) from None
    except HoldfastError:
        raise
    return client
