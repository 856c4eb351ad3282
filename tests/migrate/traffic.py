"""Writers, readers and a sampler of locks around a partition set under maintenance; each notes what it saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from tests.migrate.partitions_bed import Bed

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
#: Looks at pg_locks on the server itself, as often as it can: a moment, and who then held or awaited what.
_SAMPLER = """
    CREATE FUNCTION pg_temp.sample() RETURNS TABLE (at float8, held text[]) LANGUAGE plpgsql AS $$
    DECLARE
        tables oid[] := ARRAY(SELECT oid FROM pg_class WHERE relname IN ('events', 'events_default'));
        since timestamptz := clock_timestamp();
    BEGIN
        WHILE clock_timestamp() < since + interval '0.5 s' LOOP
            held := ARRAY(SELECT relation::regclass || ' ' || pid FROM pg_locks
                           WHERE mode = 'AccessExclusiveLock' AND relation = ANY (tables) AND granted
                             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));
            at := extract(epoch FROM clock_timestamp());
            RETURN NEXT;
            PERFORM pg_sleep(0.0005);
        END LOOP;
    END $$"""


class Clock:
    """Time that runs in jumps."""

    def __init__(self, now: datetime) -> None:
        self.now = now


class Seen:
    """AccessExclusive locks on the table and its DEFAULT partition as samples show them; times in seconds."""

    def __init__(self) -> None:
        #: For each lock the time between the samples that showed it, and between those around them that did not:
        #: it was held for something between both. One that falls between two samples is not seen.
        self.holds: list[tuple[float, float]] = []
        #: How far apart two samples were.
        self.gaps: list[float] = []
        self._open: dict[str, tuple[float, float, float]] = {}
        self._last = 0.0

    def add(self, at: float, held: Iterable[str]) -> None:
        """Take one sample; ``held`` names table and session."""
        now = set(held)
        for key in [k for k in self._open if k not in now]:
            before, first, last = self._open.pop(key)
            self.holds.append((last - first, at - before))
        for key in now:
            before, first, _ = self._open.get(key, (self._last, at, at))
            self._open[key] = (before, first, at)
        if self._last:
            self.gaps.append(at - self._last)
        self._last = at


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
        self.seen = Seen()
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
        with self.bed.connect() as connection:
            connection.execute(_SAMPLER.encode())
            while not self._stop.is_set():
                for at, held in connection.execute("SELECT * FROM pg_temp.sample()"):
                    self.seen.add(at, held)
