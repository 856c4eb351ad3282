"""What an owner keeps in memory until the database has it, and those who wait for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from holdfast.kv.entry import Position


class Kept(NamedTuple):
    """One write that the database may not have yet; ``since_s`` is of this process's monotonic clock."""

    value: bytes | None
    position: Position
    since_s: float


class Unflushed:
    """The newest unflushed write of each key."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self._waiting: list[tuple[str, Position, asyncio.Future[None]]] = []

    def add(self, key: str, value: bytes | None, position: Position) -> None:
        """Note a write."""
        self.kept[key] = Kept(value, position, time.monotonic())

    def flushed(self, key: str, position: Position) -> None:
        """The database has ``position`` of a key, or something newer."""
        kept = self.kept.get(key)
        if kept is not None and kept.position <= position:
            del self.kept[key]
        if not self._waiting:
            return
        still = []
        for waiting in self._waiting:
            if waiting[0] == key and waiting[1] <= position:
                if not waiting[2].done():
                    waiting[2].set_result(None)
            else:
                still.append(waiting)
        self._waiting = still

    def moved(self, key: str, old: Position, new: Position) -> None:
        """The same write was put again into a rebuilt bucket: who waits for it waits for the new place."""
        self._waiting = [
            (name, new if name == key and position <= old else position, future)
            for name, position, future in self._waiting
        ]

    def wait(self, wanted: Mapping[str, Position]) -> list[asyncio.Future[None]]:
        """Futures that are done when the database has these positions."""
        loop = asyncio.get_running_loop()
        futures = []
        for key, position in wanted.items():
            kept = self.kept.get(key)
            if kept is None or kept.position < position:
                continue
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append((key, position, future))
            futures.append(future)
        return futures

    def forget(self, futures: Iterable[asyncio.Future[None]]) -> None:
        """Nobody waits for these any more."""
        gone = set(map(id, futures))
        self._waiting = [waiting for waiting in self._waiting if id(waiting[2]) not in gone]

    def is_left_behind(self, incarnation: int) -> bool:
        """Whether one of them was written to a bucket before the one of this incarnation."""
        return any(kept.position.incarnation < incarnation for kept in self.kept.values())

    def oldest_s(self) -> float:
        """How long the oldest one has been kept, in seconds."""
        return time.monotonic() - min((kept.since_s for kept in self.kept.values()), default=time.monotonic())
