"""A connection whose every wait ends: a server that hangs is cut off, so that no caller hangs with it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import Any

import psycopg
from psycopg import AsyncConnection

from holdfast.sql.endpoints import Place

_LOG = logging.getLogger("holdfast.pools")
#: Longest wait where the plane sets no limit for statements.
NO_LIMIT_S = 3600.0
#: What the server's own limit gets ahead of ours, so that a slow statement is cancelled and keeps its connection.
GRACE_S = 5.0


class Connection(AsyncConnection[Any]):
    """``limit_s`` bounds each wait for the server; after it ``was_cut`` is set and the connection is of no more use."""

    limit_s: float = NO_LIMIT_S
    was_cut: bool = False
    place: Place | None = None
    #: Whether its role only reads, wherever it is.
    is_for_reading: bool = False
    #: Which primary it belongs to; an older one must not be used any more.
    generation: int = 0
    expires_at: float = float("inf")
    #: When it was last known to work (monotonic).
    seen_at: float = 0.0
    slow_s: float = float("inf")
    #: Waits that took longer than ``slow_s``.
    slow: int = 0
    #: Whether its user wrote to the outbox: the pool then tells the relay.
    has_events: bool = False

    async def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the server, within the limit."""
        started = time.monotonic()
        timer = asyncio.get_running_loop().call_later(self.limit_s, self.cut)
        try:
            return await super().wait(gen, *arguments, **options)
        finally:
            timer.cancel()
            took = time.monotonic() - started
            if took > self.slow_s:
                self.slow += 1
                _LOG.info("a statement took %.0f ms", took * 1000)

    def cut(self) -> None:
        """End the connection below the driver, which then meets a closed socket and raises."""
        self.was_cut = True
        try:
            # A copy, for the driver owns the descriptor and closes it itself.
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):
            return
