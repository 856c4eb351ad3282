"""The life of a provider process: a gRPC server on the loopback for the engine that started it, and its end.

The engine ends a provider with Cancel, then SIGINT, then five seconds later SIGKILL; one that was killed leaves it
to the provider to notice.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from provision.pulumi.protocol import Behaviour
from provision.pulumi.servicer import Servicer

#: As Pulumi's SDKs have it: whole stacks in one message, and patience with a busy machine.
_OPTIONS = (
    ("grpc.max_receive_message_length", 400 * 1024 * 1024),
    ("grpc.server_max_unrequested_time_in_server", 30 * 60),
    ("grpc.so_reuseport", 0),
)
#: More than an engine calls at once (four times the cores, unless told): Cancel must find a free one.
_THREADS = 512
_POLL_S = 0.5
#: How often the engine is asked, and after how many refused connections in a row it counts as gone.
_ASK_S = 2.0
_REFUSALS = 3
#: What calls under way get to end: within the engine's patience, or unhurried when nobody waits.
_GRACE_S = 3.0
_ORPHAN_GRACE_S = 30.0


def take_stdout() -> Callable[[int], None]:
    """Give stdout to the port alone: return what prints it. Everything else written there lands on stderr."""
    sys.stdout.flush()
    engine = os.dup(1)
    os.dup2(2, 1)

    def announce(port: int) -> None:
        os.write(engine, f"{port}\n".encode())
        os.close(engine)

    return announce


class Server:
    """Serves a servicer on a free port of the loopback."""

    def __init__(self, servicer: Servicer) -> None:
        self._servicer = servicer
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, "call"), options=_OPTIONS)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, self._server)
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self, grace_s: float) -> bool:
        """Take no more calls and let those under way end; whether they did in time."""
        answered = self._server.stop(grace_s)
        drained = self._servicer.calls.wait(grace_s)  # gRPC forgets a call that the engine gave up
        answered.wait()
        return drained


class Watch:
    """Whether the engine that started this process still lives. ``engine`` may be empty: then the parent decides."""

    def __init__(self, engine: str) -> None:
        self._parent = os.getppid()
        self._engine = engine
        self._refusals = 0
        self._asked = time.monotonic()

    def alive(self) -> bool:
        """Look once. A parent may be a wrapper that outlives the engine, so both are asked."""
        if os.getppid() != self._parent:
            return False
        if time.monotonic() - self._asked >= _ASK_S:
            self._refusals = 0 if self._answers() else self._refusals + 1
            self._asked = time.monotonic()
        return self._refusals < _REFUSALS

    def _answers(self) -> bool:
        host, _, port = self._engine.rpartition(":")
        if not port.isdigit():
            return True
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # a stopped or busy engine is no dead one
        return True


def serve(provider: Behaviour, servicer: Servicer, engine: str, announce: Callable[[int], None]) -> bool:
    """Serve until a signal comes or the engine is gone, then close the provider.

    False if calls were still under way: their threads would keep the process.
    """
    ended = threading.Event()

    def end(*_: Any) -> None:
        ended.set()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's word holds
        signal.signal(signal.SIGHUP, end)
    watch = Watch(engine)
    server = Server(servicer)
    announce(server.port)
    while watch.alive() and not ended.wait(_POLL_S):
        pass
    drained = False
    try:
        provider.cancel()
        drained = server.stop(_GRACE_S if ended.is_set() else _ORPHAN_GRACE_S)
    finally:
        provider.close()
    return drained
