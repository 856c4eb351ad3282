"""Compare-and-set that is tried again when another was faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from holdfast.errors import NotFound, VersionConflict

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Position

T = TypeVar("T")
_MOST: Final = 40
_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05


async def again(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Await ``attempt()``, which reads and writes ``what``, until it raises no VersionConflict.

    It waits before each further one: writers who met at a key must not go on meeting there. Raises VersionConflict
    after forty.
    """
    for number in range(_MOST):
        if number:
            await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _PAUSE_S * 2**number)))  # noqa: S311
        try:
            return await attempt()
        except VersionConflict:
            continue
    raise VersionConflict(f"{what} changes faster than it can be written")


async def overwrite(bucket: Bucket, key: str, value: bytes | None, *, must_exist: bool = False) -> Position:
    """Write a key (None: a delete), whatever is there. Raises NotFound where it must exist and does not.

    A delete leaves a marker even where nothing was: it refuses a reader that looked before and would now fill in what
    it has read elsewhere.
    """

    async def attempt() -> Position:
        head = await bucket.head(key)
        if must_exist and (head is None or head.operation != "put"):
            raise NotFound("there is no such key in the bucket")
        return await bucket.write(key, value, expect=head.position.revision if head is not None else 0)

    return await again(key, attempt)
