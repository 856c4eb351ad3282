"""A wire between a plane and its servers: a test waits on it for a request, and holds it while something happens."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

#: When something happens: before the server has the request, when it has answered and nobody has heard, or after that.
Phase = Literal["unsent", "unheard", "heard"]
PHASES: tuple[Phase, ...] = ("unsent", "unheard", "heard")
_PATIENCE_S = 30
#: Between the messages that a NATS client sends at once.
_PUBLISHED = re.compile(rb"(?<=\r\n)(?=H?PUB )")


class Trap:
    """Runs ``event`` at the ``nth`` request that matches, once; the request waits for it.

    A request whose event returns false in phase "unsent" never reaches the server.
    """

    def __init__(self, pattern: str, event: Callable[[], bool], *, nth: int = 1, phase: Phase = "unsent") -> None:
        self.phase = phase
        self.is_sprung = threading.Event()
        self._pattern = re.compile(pattern.encode(), re.DOTALL)
        self._event = event
        self._left = nth
        self._lock = threading.Lock()

    def takes(self, data: bytes) -> bool:
        """Whether this is the request."""
        with self._lock:
            self._left -= bool(self._pattern.search(data))
            return self._left == 0 and not self.is_sprung.is_set()

    def spring(self) -> bool:
        self.is_sprung.set()
        return self._event()


class Wire:
    """Passes connections on to one server; ``requests`` is what went over it. It listens on any port, or on one."""

    def __init__(self, host: str, port: int, listen: int = 0) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self.trap: Trap | None = None
        self.requests: list[bytes] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        """Cut every connection; new ones are refused."""
        for end in (self._listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in [*self._threads]:
            thread.join(_PATIENCE_S)
        for end in (self._listener, *self._open):
            end.close()

    def again(self) -> Wire:
        """A wire in the place of this one, which is closed."""
        return Wire(*self._server, listen=self.port)

    def _run(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="wire", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            self._open.append(server)
            passage = _Passage(self, client, server)
            self._run(passage.forth)
            self._run(passage.back)


class _Passage:
    """One connection over a wire."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._wire = wire
        self._client = client
        self._server = server
        self._answered = threading.Event()
        self._may_answer = threading.Event()
        self._may_answer.set()

    def forth(self) -> None:
        with self._until_the_end():
            while data := self._client.recv(1 << 20):
                for request in _PUBLISHED.split(data):
                    self._wire.requests.append(request)
                    trap = self._wire.trap
                    if trap is None or not trap.takes(request):
                        self._server.sendall(request)
                    elif not self._trapped(trap, request):
                        return

    def back(self) -> None:
        with self._until_the_end():
            while data := self._server.recv(1 << 20):
                self._answered.set()
                self._may_answer.wait(_PATIENCE_S)
                self._client.sendall(data)

    def _trapped(self, trap: Trap, data: bytes) -> bool:
        """Pass the trap's own request on, as its phase says. False where the connection ends here."""
        if trap.phase == "unsent":
            if not trap.spring():
                return False
            self._server.sendall(data)
            return True
        self._answered.clear()
        if trap.phase == "unheard":
            self._may_answer.clear()
        self._server.sendall(data)
        self._answered.wait(_PATIENCE_S)
        try:
            return trap.spring()
        finally:
            self._may_answer.set()

    @contextmanager
    def _until_the_end(self) -> Iterator[None]:
        """One side that ends, ends the other."""
        try:
            with suppress(OSError):
                yield
        finally:
            for end in (self._client, self._server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
