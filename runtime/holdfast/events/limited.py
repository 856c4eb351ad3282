"""The time limit of work on a server, and what its drivers raise said in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.errors import ConnectionFailed, OperationTimeout


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
        if deadline.expired():
            text = f"{what} did not end within {seconds:g} s; whether it took effect is unknown"
            raise OperationTimeout(text, driver_error=error) from None
        raise ConnectionFailed(f"{what} cannot be reached", driver_error=error) from None
