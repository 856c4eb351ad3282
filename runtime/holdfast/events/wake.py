"""LISTEN as a hint: it shortens the wait of a relay and carries nothing (PostgreSQL documentation, NOTIFY)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_log = logging.getLogger("holdfast.relay")
_CONNECT_S, _STATEMENT_S, _PROBE_S, _RETRY_S = 10.0, 5.0, 2.0, 5.0
#: So long a connection may be silent before it is asked whether it still lives.
_SILENCE_S = 30.0

#: A connection in autocommit that nobody else uses meanwhile, past any pooler that shares server sessions.
Direct = Callable[[], AbstractAsyncContextManager["AsyncConnection[Any]"]]


class Listener:
    """Calls ``wake`` for each notification of a channel. ``works`` tells whether one sent to itself came back."""

    def __init__(
        self, direct: Direct, channel: str, wake: Callable[[], None], is_wanted: Callable[[], Awaitable[bool]]
    ) -> None:
        self._direct, self._channel, self._wake, self._is_wanted = direct, channel, wake, is_wanted
        self.works = False

    async def run(self) -> None:
        """Listen until cancelled, where somebody notifies at all; connects again after a failure."""
        from psycopg import Error

        while True:
            try:
                if await self._is_wanted():
                    await self._listen()
            except (Error, HoldfastError, OSError, TimeoutError) as error:
                _log.info("the relay is not woken, and polls: %s", type(error).__name__)
            self.works = False
            await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        from psycopg import sql

        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT_S):
                connection = await stack.enter_async_context(self._direct())
            # It listens: nobody else may get it.
            stack.push_async_callback(connection.close)
            async with asyncio.timeout(_STATEMENT_S):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            if not await self._probe(connection):
                _log.warning("a notification to ourselves did not arrive: a pooler is between; the relay polls")
                return
            self.works = True
            self._wake()
            while True:
                async for _ in connection.notifies(timeout=_SILENCE_S):
                    self._wake()
                async with asyncio.timeout(_STATEMENT_S):
                    await connection.execute("SELECT 1")

    async def _probe(self, connection: AsyncConnection[Any]) -> bool:
        token = f"probe {uuid4()}"
        async with asyncio.timeout(_STATEMENT_S):
            await connection.execute("SELECT pg_notify(%s, %s)", [self._channel, token])
        async for notice in connection.notifies(timeout=_PROBE_S):
            if notice.payload == token:
                return True
        return False
