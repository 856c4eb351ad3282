"""A line to a server that a test makes slow, dead or mute."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Self

_CHUNK = 65536


class Line:
    """A TCP proxy. ``delay_s`` is added to what the server says, ``is_mute`` keeps it back; ``cut`` takes it away."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.delay_s = 0.0
        self.is_mute = False
        self.port = 0
        self._listener: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Listen, at the same port as before."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse connections and end those that there are, as a server that stops does."""
        if self._listener is not None:
            self._listener.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection(*self._server)
            self._writers.add(far_writer)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer, is_answer=True))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        while piece := await reader.read(_CHUNK):
            if is_answer:
                await asyncio.sleep(self.delay_s)
            while is_answer and self.is_mute:
                await asyncio.sleep(0.01)
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()  # the other way ends with it


def to_postgres(environ: Mapping[str, str]) -> Line:
    """A line to the plane's database."""
    return Line(environ["PG_HOST"], int(environ["PG_PORT"]))


def to_nats(environ: Mapping[str, str]) -> Line:
    """A line to the plane's NATS server."""
    host, _, port = environ["NATS_SERVERS"].removeprefix("nats://").rpartition("@")[2].partition(":")
    return Line(host, int(port))


def over(environ: Mapping[str, str], *, postgres: Line | None = None, nats: Line | None = None) -> dict[str, str]:
    """The environment of a process that reaches its servers over these lines."""
    found = dict(environ)
    if postgres is not None:
        found |= {"PG_HOST": "127.0.0.1", "PG_PORT": str(postgres.port)}
    if nats is not None:
        found["NATS_SERVERS"] = f"nats://127.0.0.1:{nats.port}"
    return found
