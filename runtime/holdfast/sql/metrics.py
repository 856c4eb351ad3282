"""What a pool tells of itself, and the small windows it is measured with."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from holdfast.sql.breaker import State


class Health(NamedTuple):
    """The outcome of a health check. ``error`` is a sentence without hosts and secrets, None when healthy."""

    name: str
    healthy: bool
    error: str | None
    active: int
    idle: int


class PoolMetrics(NamedTuple):
    """Figures of one pool. Rates and percentiles are those of the last minute; times in seconds.

    ``total`` counts open connections, ``active`` those in use. ``connection_error_rate``: part of the attempts to
    connect that failed; ``last_health_check``: seconds since 1970; ``lag_s``: of a standby, behind the primary.
    """

    pool_name: str
    pool_type: str
    total: int
    active: int
    idle: int
    connecting: int
    pending_acquisitions: int
    acquisition_time_p95: float
    connection_errors: int
    connection_error_rate: float
    health_check_success_rate: float
    last_health_check: float | None
    leaks: int
    slow_statements: int
    breaker: State
    times_opened: int
    lag_s: float | None


class Window:
    """The values of the last ``span_s`` seconds, at most ``most`` of them."""

    def __init__(self, span_s: float = 60.0, most: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._span_s, self._clock = span_s, clock
        self._values: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, value: float) -> None:
        self._values.append((self._clock(), value))

    def values(self) -> list[float]:
        since = self._clock() - self._span_s
        while self._values and self._values[0][0] < since:
            self._values.popleft()
        return [value for _, value in self._values]

    def percentile(self, part: float) -> float:
        """The nearest-rank percentile, 0 where nothing was measured."""
        found = sorted(self.values())
        return found[max(0, math.ceil(part * len(found)) - 1)] if found else 0.0

    def mean(self, empty: float) -> float:
        found = self.values()
        return sum(found) / len(found) if found else empty


class Lag:
    """How far a standby is behind: the age of the newest known position of the primary that it has reached."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written: deque[tuple[float, int]] = deque(maxlen=600)

    def written(self, lsn: int) -> None:
        """Note the primary's position now. One that falls back belongs to another primary and starts afresh."""
        if self._written and lsn < self._written[-1][1]:
            self._written.clear()
        self._written.append((self._clock(), lsn))

    def of(self, replayed: int) -> float | None:
        """Seconds; None while nothing can be said. At least that much where it is behind all we remember."""
        if not self._written:
            return None
        missing = next((at for at, lsn in self._written if lsn > replayed), None)
        return 0.0 if missing is None else self._clock() - missing


def floor(present: int, least: int, most: int, peak: int, pending: int) -> int:
    """How many connections to keep open, inside the declared bounds: more under load, slowly fewer after it."""
    if pending or peak >= present:
        wanted = max(present + 1, math.ceil(peak * 1.25))
    elif peak < present / 2:
        wanted = present - 1
    else:
        wanted = present
    return max(least, min(wanted, most))
