"""The time limit of work on a server, and what its drivers raise said in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from holdfast.errors import ConnectionFailed, OperationTimeout

_THEIRS: Final = "_holdfast_theirs"


@asynccontextmanager
async def limited(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound what happens inside. ``what`` is the subject of a message, such as "the outbox" or "saving an agent".

    Raises OperationTimeout, ConnectionFailed, and the errors of ``holdfast.sql.failures.translate``.
    """
    from psycopg import Error

    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            yield
    except Error as error:
        from holdfast.sql.failures import translate

        raise translate(error) from None
    except OSError as error:  # a TimeoutError is one
        if _THEIRS in vars(error):
            raise
        if deadline.expired():
            text = f"{what} did not end within {seconds:g} s; whether it took effect is unknown"
            raise OperationTimeout(text, driver_error=error) from None
        raise ConnectionFailed(f"{what} cannot be reached", driver_error=error) from None


@contextmanager
def theirs() -> Iterator[None]:
    """Around a caller's code inside of ``limited``: its files and its servers are not ours, so its errors stay."""
    try:
        yield
    except OSError as error:
        vars(error)[_THEIRS] = True
        raise
