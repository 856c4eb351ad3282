"""Writers, readers and a sampler of locks around a partition set under maintenance; each notes what it saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from tests.migrate.partitions_bed import Bed

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
_HELD = """
    SELECT c.relname, l.pid, l.granted FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
     WHERE l.mode = 'AccessExclusiveLock' AND c.relname IN ('events', 'events_default')
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


class Clock:
    """Time that runs in jumps."""

    def __init__(self, now: datetime) -> None:
        self.now = now


class Traffic:
    """What sixteen writers did and what others saw of it. ``lock_timeout_s`` is what the writers' role declares."""

    def __init__(self, bed: Bed, clock: Clock, *, far: bool, retain: timedelta, lock_timeout_s: float = 3.0) -> None:
        self.bed = bed
        self.clock = clock
        self.far = far
        self.retain = retain
        self.lock_timeout_s = lock_timeout_s
        self.acknowledged: dict[int, datetime] = {}
        self.latencies: list[float] = []
        self.faults: list[str] = []
        self.reads = 0
        self.updates = 0
        #: How long each AccessExclusive lock was seen held, in seconds, by relation.
        self.held: dict[str, list[float]] = {"events": [], "events_default": []}
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._next = 0

    @contextmanager
    def running(self, writers: int = 16, readers: int = 2) -> Iterator[None]:
        """Everybody works while the block runs; their faults come out at its end."""
        acts: list[Callable[[], None]] = [self._write] * writers + [self._read] * readers + [self._sample]
        threads = [threading.Thread(target=self._safely, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)
        assert not self.faults, self.faults[:5]

    def kept_from(self) -> datetime:
        """Rows from here on are retained, whatever run of maintenance goes on."""
        return self.clock.now - self.retain + 2 * DAY

    def _safely(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self.faults.append(f"{act.__name__}: {error!r}")
            self._stop.set()

    def _write(self) -> None:
        chance = random.Random(threading.get_ident())
        mine: list[int] = []
        options = f"-c lock_timeout={int(self.lock_timeout_s * 1000)} -c timezone=America/New_York"
        with self.bed.connect(options=options) as connection:
            while not self._stop.is_set():
                number, moment = self._draw(chance)
                self._timed(connection, "INSERT INTO app.events (id, at) VALUES (%s, %s)", [number, moment])
                self.acknowledged[number] = moment
                mine.append(number)
                self._touch(connection, chance.choice(mine))
                time.sleep(0.01)

    def _draw(self, chance: random.Random) -> tuple[int, datetime]:
        with self._mutex:
            self._next += 1
            number = self._next
        ahead = chance.uniform(0, 9) * DAY if self.far else chance.uniform(0, 1.5) * DAY
        return number, self.clock.now + ahead

    def _touch(self, connection: psycopg.Connection[Any], number: int) -> None:
        """An update finds its row wherever it has moved meanwhile."""
        moment = self.acknowledged[number]
        if moment < self.kept_from() + DAY:
            return
        found = self._timed(connection, "UPDATE app.events SET n = n + 1 WHERE id = %s", [number])
        if found != 1 and moment >= self.kept_from():
            self.faults.append(f"an update of row {number} ({moment}) found {found} rows")
        self.updates += 1

    def _timed(self, connection: psycopg.Connection[Any], statement: str, values: list[Any]) -> int:
        begun = time.monotonic()
        cursor = connection.execute(statement.encode(), values, prepare=len(values) % 2 == 0)
        self.latencies.append(time.monotonic() - begun)
        return cursor.rowcount

    def _read(self) -> None:
        with self.bed.connect() as connection:
            while not self._stop.is_set():
                known = dict(self.acknowledged)
                rows = connection.execute("SELECT id FROM app.events").fetchall()
                since = self.kept_from()
                lost = {n for n, at in known.items() if at >= since} - {r[0] for r in rows}
                if lost:
                    self.faults.append(f"a reader missed {len(lost)} rows, among them {known[min(lost)]}")
                    return
                self.reads += 1
                time.sleep(0.005)

    def _sample(self) -> None:
        since: dict[tuple[str, int], float] = {}
        with self.bed.connect() as connection:
            while not self._stop.is_set():
                rows = connection.execute(_HELD.encode()).fetchall()
                now = time.monotonic()
                held = {(name, pid) for name, pid, granted in rows if granted}
                for key in [k for k in since if k not in held]:
                    self.held[key[0]].append(now - since.pop(key))
                for key in held:
                    since.setdefault(key, now)
                time.sleep(0.001)
