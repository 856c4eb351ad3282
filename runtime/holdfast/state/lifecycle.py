"""Where an agent's state is in its life: which states there are, which may follow which, and who wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """COLD: nothing is read yet. HYDRATING: it is being read. ACTIVE. FLUSHING: its keys are on their way to the
    database. EXPIRED: the bucket's time to live took the values; the next access reads them from the database.
    """

    COLD = "cold"
    HYDRATING = "hydrating"
    ACTIVE = "active"
    FLUSHING = "flushing"
    EXPIRED = "expired"


#: A failed hydration goes back to where it came from; an agent may flush before it was ever read.
FOLLOWS: Final[dict[Status, frozenset[Status]]] = {
    Status.COLD: frozenset({Status.HYDRATING}),
    Status.HYDRATING: frozenset({Status.ACTIVE, Status.COLD, Status.EXPIRED}),
    Status.ACTIVE: frozenset({Status.FLUSHING, Status.EXPIRED, Status.COLD}),
    Status.FLUSHING: frozenset({Status.ACTIVE, Status.COLD}),
    Status.EXPIRED: frozenset({Status.HYDRATING, Status.COLD}),
}


class Life:
    """The status of one handle, and those who follow it."""

    def __init__(self) -> None:
        self.status = Status.COLD
        self._followers: set[asyncio.Queue[Status | None]] = set()

    def move(self, status: Status) -> bool:
        """Go there if that may follow. Returns whether it was gone."""
        if status not in FOLLOWS[self.status]:
            return False
        self.status = status
        for follower in self._followers:
            follower.put_nowait(status)
        return True

    def end(self) -> None:
        """End all who follow."""
        for follower in self._followers:
            follower.put_nowait(None)

    async def follow(self) -> AsyncGenerator[Status, None]:
        """The status now, then each one that follows."""
        queue: asyncio.Queue[Status | None] = asyncio.Queue()
        queue.put_nowait(self.status)
        self._followers.add(queue)
        try:
            while (status := await queue.get()) is not None:
                yield status
        finally:
            self._followers.discard(queue)
