"""Trying again: only what may succeed later, with growing pauses, a bound on tries and on time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from holdfast.errors import (
    CircuitOpen,
    ConnectionFailed,
    DeadlockDetected,
    HoldfastError,
    PoolExhausted,
    RetriesExhausted,
)

T = TypeVar("T")

#: Those who failed together must not come back together.
_JITTERED = (ConnectionFailed, DeadlockDetected, CircuitOpen, PoolExhausted)


@dataclass(frozen=True)
class Retry:
    """How often and how fast to try again. Pauses are ``base_s * 2**n`` after the n-th failure, at most ``cap_s``.

    ``within_s`` bounds all tries and pauses together; None does not.
    """

    attempts: int = 3
    base_s: float = 0.1
    cap_s: float = 5.0
    within_s: float | None = None

    def pause_s(self, failures: int, error: BaseException | None = None) -> float:
        """The pause after that many failures; a random part of it goes after errors that strike many at once."""
        pause = min(self.base_s * 2.0 ** min(failures, 60), self.cap_s)
        return pause * random.uniform(0.5, 1.0) if isinstance(error, _JITTERED) else pause  # noqa: S311


#: One try.
ONCE = Retry(attempts=1)


def is_retryable(error: HoldfastError) -> bool:
    """What an error says of itself."""
    return error.retryable


async def call(
    fn: Callable[[], Awaitable[T]], *, retry: Retry | None = None, on: Callable[[HoldfastError], bool] = is_retryable
) -> T:
    """Await ``fn()`` until it succeeds. ``on`` says which errors are worth another try.

    Raises what is not worth it as it is, and RetriesExhausted when tries or time are used up.
    """
    retry = retry or Retry()
    started = time.monotonic()
    failures = 0
    while True:
        try:
            return await fn()
        except HoldfastError as error:
            failures += 1
            if not on(error) or retry.attempts <= 1:
                raise
            pause = retry.pause_s(failures, error)
            late = retry.within_s is not None and time.monotonic() + pause - started > retry.within_s
            if failures >= retry.attempts or late:
                raise RetriesExhausted(
                    f"gave up after {failures} of {retry.attempts} attempts: {error}", attempts=failures, last=error
                ) from None
        await asyncio.sleep(pause)


@dataclass(frozen=True)
class Result(Generic[T]):
    """A value or an error, where one failure must not hide other successes. ``timestamp``: seconds since 1970."""

    value: T | None = None
    error: HoldfastError | None = None
    version: int | None = None
    timestamp: float = field(default_factory=time.time)

    @property
    def is_success(self) -> bool:
        return self.error is None

    @property
    def requires_retry(self) -> bool:
        """Whether the same call may succeed later."""
        return self.error is not None and self.error.retryable

    def get(self) -> T:
        """Give the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may itself be optional
