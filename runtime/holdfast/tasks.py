"""Ending tasks of ours for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")
#: Long enough for psycopg to cancel its statement: a second cancellation would cut that short, with a warning.
_AGAIN_S: Final = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended; what they raise is dropped.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11, which the drivers use, swallows a cancellation that comes
    together with its result (https://github.com/python/cpython/issues/86296).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each gives. Of a cancellation, unlike with ``asyncio.gather``, none is left behind that still runs.

    Raises ExceptionGroup.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]
