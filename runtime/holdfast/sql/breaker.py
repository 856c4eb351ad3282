"""A circuit breaker: after repeated failures a server is left alone for a while, then tried once. Pure but for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from holdfast.errors import CircuitOpen

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Opens after ``threshold`` failures in a row for ``open_s`` seconds, doubled by each failed trial up to ``cap_s``.

    ``enter`` before each use, then exactly one of ``succeeded``, ``failed``, ``abandoned`` with what it gave. For
    one event loop.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        open_s: float = 1.0,
        cap_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold, self._first_s, self._cap_s, self._clock = threshold, open_s, cap_s, clock
        self._failures = 0
        self._open_s = open_s
        self._opened: float | None = None
        self._is_on_trial = False
        self.times_opened = 0

    @property
    def state(self) -> State:
        if self._opened is None:
            return "closed"
        return "open" if self._clock() < self._opened + self._open_s else "half-open"

    def enter(self) -> bool:
        """Ask to use the server. Half open lets one in at a time: True for it, the trial. Raises CircuitOpen."""
        state = self.state
        if state == "closed":
            return False
        if state == "open" or self._is_on_trial:
            wait = max(0.0, (self._opened or 0.0) + self._open_s - self._clock())
            raise CircuitOpen(f"the database failed repeatedly; the next trial is in {wait:.1f} s")
        self._is_on_trial = True
        return True

    def succeeded(self) -> None:
        """The server works: close."""
        self._failures, self._opened, self._open_s, self._is_on_trial = 0, None, self._first_s, False

    def failed(self, is_trial: bool) -> None:
        """The server does not work. Once it is open, only a failed trial prolongs it."""
        self._failures += 1
        if self._opened is None:
            if self._failures >= self._threshold:
                self._open()
        elif is_trial:
            self._open_s = min(self._open_s * 2, self._cap_s)
            self._open()

    def abandoned(self, is_trial: bool) -> None:
        """The use ended without telling anything of the server."""
        if is_trial:
            self._is_on_trial = False

    def _open(self) -> None:
        self._opened, self._is_on_trial = self._clock(), False
        self.times_opened += 1
