"""Where a pool gets its connections: from whichever server is the primary, or from servers that are good enough."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import psycopg

from holdfast.contract import PoolSpec
from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError, OperationTimeout, PoolExhausted
from holdfast.sql.connection import GRACE_S, NO_LIMIT_S, Connection
from holdfast.sql.endpoints import Place, Reach
from holdfast.sql.failures import of_connecting, translate
from holdfast.sql.primary import Primary, Standing, standing_of

_LOG = logging.getLogger("holdfast.pools")
#: How often a statement runs before it is prepared (psycopg's default).
_PREPARE_AFTER = 5


class Source(Protocol):
    """Makes connections for one pool."""

    #: Whether its servers must take writes.
    writes: bool

    async def connect(self) -> Connection:
        """Make a connection that may be used. Raises HoldfastError."""
        ...

    def is_current(self, connection: Connection) -> bool:
        """Whether a connection made earlier still goes to the right server."""
        ...

    async def lost(self, connection: Connection) -> None:
        """Hear that a server failed or takes no writes; never raises."""
        ...


class Dialler:
    """Connects to one place, for one pool."""

    def __init__(self, spec: PoolSpec, reach: Reach, connect_timeout_s: float) -> None:
        self.spec, self._reach, self._timeout_s = spec, reach, connect_timeout_s

    async def dial(self, place: Place) -> Connection:
        """Make a connection and prepare it as the plane says. Raises HoldfastError."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await Connection.connect(
                    self._reach.conninfo(self.spec, place), autocommit=True, prepare_threshold=self._prepare_after()
                )
                self._set_up(connection, place)
                connection.is_for_reading = await _is_for_reading(connection)
                for statement in self.spec.after_connect:
                    await connection.execute(statement.encode())
                return connection
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            await _close(connection)
            raise of_connecting(error) from None
        except BaseException:
            await _close(connection)
            raise

    def _prepare_after(self) -> int | None:
        """Behind a pooler that changes sessions, a prepared statement is not there when it is needed."""
        return None if self.spec.is_pooled or not self.spec.statement_cache_capacity else _PREPARE_AFTER

    def _set_up(self, connection: Connection, place: Place) -> None:
        spec, now = self.spec, time.monotonic()
        connection.place, connection.seen_at = place, now
        connection.limit_s = limit_of(spec)
        connection.slow_s = spec.slow_query_threshold or float("inf")
        connection.prepared_max = spec.statement_cache_capacity
        if spec.max_lifetime:
            # Spread, so that connections made together are not replaced together.
            connection.expires_at = now + spec.max_lifetime * random.uniform(0.9, 1.0)  # noqa: S311


async def _is_for_reading(connection: Connection) -> bool:
    """Whether the role, and not the server, is set to read only. Servers report the setting itself since 14."""
    if connection.info.parameter_status("default_transaction_read_only") == "off":
        return False
    cursor = await connection.execute(
        "SELECT setting = 'on' AND source IN ('user', 'database user', 'database', 'client')"
        " FROM pg_settings WHERE name = 'default_transaction_read_only'"
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


def limit_of(spec: PoolSpec) -> float:
    """How long a connection of the pool may wait for its server."""
    return spec.statement_timeout + GRACE_S if spec.statement_timeout else NO_LIMIT_S


class ToPrimary:
    """Connections to the primary, whichever it is; several pools may share one ``primary``."""

    writes = True

    def __init__(self, dialler: Dialler, primary: Primary) -> None:
        self._dialler, self._primary = dialler, primary

    async def connect(self) -> Connection:
        seen = self._primary.generation
        if not self._primary.is_known and len(self._primary.places) > 1:
            # The first place may be a former primary, which only the others can tell. None found: dialling says why.
            with contextlib.suppress(ConnectionFailed):
                await self._primary.resolve(seen)
        try:
            return await self._dial()
        except (ConnectionFailed, OperationTimeout, PoolExhausted):
            if len(self._primary.places) == 1:
                raise
        await self._primary.resolve(seen)
        return await self._dial()

    async def _dial(self) -> Connection:
        place = self._primary.place
        connection = await self._dialler.dial(place)
        try:
            standing = await _standing(connection)
            self._primary.admit(place, standing)
        except BaseException:
            await _close(connection)
            raise
        connection.generation = self._primary.generation
        return connection

    def is_current(self, connection: Connection) -> bool:
        return connection.generation == self._primary.generation

    async def lost(self, connection: Connection) -> None:
        if len(self._primary.places) > 1 and self.is_current(connection):
            try:
                await self._primary.resolve(connection.generation)
            except HoldfastError:
                _LOG.warning("no server takes writes at present")


class ToAny:
    """Connections to any of some places, tried in turn."""

    writes = False

    def __init__(self, dialler: Dialler, places: tuple[Place, ...], on_connect: Callable[[], None]) -> None:
        self._dialler, self._places, self._on_connect = dialler, places, on_connect

    async def connect(self) -> Connection:
        failure: HoldfastError = ConnectionFailed("no server of this pool can be reached")
        for place in self._places:
            try:
                connection = await self._dialler.dial(place)
            except (ConnectionFailed, OperationTimeout, PoolExhausted) as error:
                failure = error
            else:
                self._on_connect()
                return connection
        raise failure

    def is_current(self, connection: Connection) -> bool:
        return True

    async def lost(self, connection: Connection) -> None:
        return


class Nowhere:
    """What a pool has that cannot be set up here: whoever uses it learns why, and the others work."""

    writes = False

    def __init__(self, reason: ConfigurationError) -> None:
        self._reason = str(reason)

    async def connect(self) -> Connection:
        raise ConfigurationError(self._reason)

    def is_current(self, connection: Connection) -> bool:
        return False

    async def lost(self, connection: Connection) -> None:
        return


def prober(dialler: Dialler) -> Callable[[Place], Awaitable[Standing]]:
    """Give a function that asks a place for its standing with a connection of its own."""

    async def probe(place: Place) -> Standing:
        connection = await dialler.dial(place)
        try:
            return await _standing(connection)
        finally:
            await _close(connection)

    return probe


async def _standing(connection: Connection) -> Standing:
    try:
        return await standing_of(connection)
    except psycopg.Error as error:
        raise translate(error, was_cut=connection.was_cut) from None


async def _close(connection: Connection | None) -> None:
    if connection is not None:
        await connection.close()
