"""Many operations at once: bounded, each with its own time limit, each outcome visible, in the order asked.

A batch is not a transaction: what succeeded stays when something else fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from holdfast.errors import HoldfastError, OperationTimeout
from holdfast.retry import Result
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry, Position

K = TypeVar("K")
T = TypeVar("T")

#: How many operations of a batch run at the same time unless told otherwise.
PARALLEL = 16
#: Seconds that one operation may take, from its start.
TIMEOUT_S = 5.0


class PartialFailure(HoldfastError):
    """Some operations of a batch failed. ``batch`` has every outcome; retryable when each failure is."""

    code = "PARTIAL_FAILURE"

    def __init__(self, message: str, *, batch: Batch[object, object]) -> None:
        super().__init__(message)
        self.batch = batch

    @property
    def retryable(self) -> bool:  # type: ignore[override]  # of a class it is constant, of a batch it depends
        return all(error.retryable for error in self.batch.failed.values())


@dataclass(frozen=True)
class Batch(Generic[K, T]):
    """What became of each operation, in the order asked. A key that was given twice has two outcomes."""

    outcomes: tuple[tuple[K, Result[T]], ...]

    def __iter__(self) -> Iterator[tuple[K, Result[T]]]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def values(self) -> dict[K, T]:
        """Key to value, of those that succeeded."""
        return {key: result.get() for key, result in self.outcomes if result.error is None}

    @property
    def failed(self) -> dict[K, HoldfastError]:
        """Key to error, of those that failed."""
        return {key: result.error for key, result in self.outcomes if result.error is not None}

    def raise_failures(self) -> None:
        """Raise PartialFailure if anything failed: it says how many and why, by codes."""
        failed = [result.error for _, result in self.outcomes if result.error is not None]
        if failed:
            codes = ", ".join(sorted({error.code for error in failed}))
            message = f"{len(failed)} of {len(self.outcomes)} operations failed: {codes}"
            raise PartialFailure(message, batch=self)  # type: ignore[arg-type]  # read-only, so any K and T will do


async def run(
    keys: Iterable[K],
    operation: Callable[[K], Awaitable[T]],
    *,
    parallel: int = PARALLEL,
    timeout_s: float = TIMEOUT_S,
    on_outcome: Callable[[K, Result[T]], None] | None = None,
) -> Batch[K, T]:
    """Await ``operation(key)`` for every key, at most ``parallel`` at a time.

    Errors of ours become outcomes, and so does a time limit (OperationTimeout). Anything else is a mistake in
    ``operation``: it ends the batch and is raised. When the caller is cancelled, or on such a mistake, what has not
    begun never begins and what runs is cancelled and awaited; ``on_outcome`` has then told what was done.
    """
    waiting = list(keys)
    outcomes: list[Result[T] | None] = [None] * len(waiting)
    places = iter(range(len(waiting)))

    async def work() -> None:
        for place in places:
            result = await _outcome(operation, waiting[place], timeout_s)
            outcomes[place] = result
            if on_outcome is not None:
                on_outcome(waiting[place], result)

    workers = [asyncio.ensure_future(work()) for _ in range(min(max(parallel, 1), len(waiting)))]
    try:
        await asyncio.gather(*workers)
    finally:
        await end(*workers)
    done = [(key, outcome) for key, outcome in zip(waiting, outcomes, strict=True) if outcome is not None]
    return Batch(tuple(done))


async def _outcome(operation: Callable[[K], Awaitable[T]], key: K, timeout_s: float) -> Result[T]:
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            return Result(value=await operation(key))
    except HoldfastError as error:
        return Result(error=error)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        text = f"the operation took longer than {timeout_s:g} s; whether it took effect is unknown"
        return Result(error=OperationTimeout(text, driver_error=error))


async def get_many(
    bucket: Bucket, keys: Iterable[str], *, parallel: int = PARALLEL, timeout_s: float = TIMEOUT_S
) -> Batch[str, Entry | None]:
    """Read many keys of a bucket; None for those that are not there."""
    return await run(keys, bucket.get, parallel=parallel, timeout_s=timeout_s)


async def put_many(
    bucket: Bucket,
    values: Mapping[str, bytes],
    *,
    expect: Mapping[str, int] | None = None,
    ttl_s: float | None = None,
    parallel: int = PARALLEL,
    timeout_s: float = TIMEOUT_S,
) -> Batch[str, Position]:
    """Write many keys, each by compare-and-set: against ``expect`` where it names the key, else against what is there.

    A VersionConflict among the outcomes says that somebody else wrote that key in between.
    """
    known = expect or {}

    async def put(key: str) -> Position:
        if key in known:
            return await bucket.write(key, values[key], expect=known[key], ttl_s=ttl_s)
        head = await bucket.head(key)
        return await bucket.write(key, values[key], expect=head.position.revision if head else 0, ttl_s=ttl_s)

    return await run(values, put, parallel=parallel, timeout_s=timeout_s)
