"""A program of threads that gets SIGINT in the middle: interrupted.py SCENE. It prints what it caught."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import holdfast.sync


def interrupt_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT]).start()


def watching(environ: Mapping[str, str]) -> Any:
    """In an iteration that waits for the next change."""
    with holdfast.sync.connect(environ) as plane, plane.agent(uuid4()) as agent:
        agent.put("k", 1)
        try:
            for change in agent.watch():
                said(change.key)
                interrupt_after(0.2)
        except KeyboardInterrupt:
            said("caught")
        assert agent.put("k", 2).durability == "kv", "nothing works after an interrupt"
    return plane.aio


def working(environ: Mapping[str, str]) -> Any:
    """In a transaction; its work is over when the interrupt is raised."""
    with holdfast.sync.connect(environ, background=False) as plane:
        ended = []

        async def slow(connection: Any) -> None:
            interrupt_after(0.2)
            try:
                await asyncio.sleep(30)
            finally:
                await connection.execute("SELECT 1")
                ended.append(True)

        try:
            plane.transactions.run(slow)
        except KeyboardInterrupt:
            said(f"caught {ended}")
    return plane.aio


def leaving(environ: Mapping[str, str]) -> Any:
    """While the plane is closed."""
    connecting = holdfast.sync.connect(environ)
    plane = connecting.__enter__()
    close = plane.aio.pools.close

    async def slow() -> None:
        await asyncio.sleep(3)
        await close()

    plane.aio.pools.close = slow  # type: ignore[method-assign]
    interrupt_after(0.5)
    try:
        connecting.__exit__(None, None, None)
    except KeyboardInterrupt:
        said("caught")
    return plane.aio


def connecting(environ: Mapping[str, str]) -> Any:
    """While a server is connected to that takes the connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        interrupt_after(0.5)
        try:
            with holdfast.sync.connect({**environ, "NATS_SERVERS": f"nats://127.0.0.1:{silent.getsockname()[1]}"}):
                pass
        except KeyboardInterrupt:
            said("caught")


def said(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    plane = globals()[sys.argv[1]](os.environ)
    gc.collect()  # tasks that were left behind say so now
    assert plane is None or plane.nc.is_closed, "the connection to NATS is left open"
    assert "holdfast" not in {thread.name for thread in threading.enumerate()}, "the thread is left behind"
