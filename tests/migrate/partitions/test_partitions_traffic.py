"""Sixteen writers, each acknowledged row in a ledger, while maintenance runs over and over with a clock that leaps."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from provision.embedded import postgres
from provision.migrate.partitions.report import Report
from tests.migrate.partitions_bed import COLUMNS, CONSENT, NOON, Bed, debian, done
from tests.migrate.traffic import Clock, Seen, Traffic

RETAIN = timedelta(days=6)
_LEAP = timedelta(hours=18)
#: How long maintenance may hold a lock that stops writers.
HOLD_MS = 50
DETACHED = "SELECT relname FROM pg_class WHERE relname ~ '^events_2' AND relkind = 'r' AND NOT relispartition"


def declare(bed: Bed, *, default: bool) -> None:
    columns = {**COLUMNS, "n": {"type": "integer", "nullable": False, "default": 0}}
    split = {"every": "1 day", "premake": 3, "retain": "6 days", "on_expiry": "archive", "default": default}
    bed.declare(split, columns=columns, indexes={"events_at": {"columns": ["at"]}})
    bed.apply()
    bed.maintain()


def archived(bed: Bed) -> list[int]:
    """The ids in all archives."""
    found: list[int] = []
    for path in (bed.root / "archive").rglob("*.copy.gz"):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
        found += [int(line.split("\t")[0]) for line in lines]
    return found


def nothing_is_lost(bed: Bed, acknowledged: set[int]) -> None:
    """Each row is in the table or in an archive, in one of them only."""
    live = [r[0] for r in bed.run("SELECT id FROM app.events")]
    kept = archived(bed)
    assert len(live) == len(set(live))
    assert len(kept) == len(set(kept))
    assert not set(live) & set(kept)
    assert acknowledged <= set(live) | set(kept)


def everything(bed: Bed) -> set[int]:
    """The ids in the table, in partitions that were detached and not archived yet, and in archives."""
    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast dev'"
    while bed.run(backends) != [(0,)]:  # the server needs a moment to notice that its client is gone
        time.sleep(0.05)
    found = {r[0] for r in bed.run("SELECT id FROM app.events")}
    for (name,) in bed.run(DETACHED):
        found |= {r[0] for r in bed.run(f"SELECT id FROM app.{name}")}
    return found | set(archived(bed))


def storm(bed: Bed, *, default: bool, seconds: float, quantile: float) -> None:
    """Maintain a set under traffic. ``quantile`` of the holds must be short: 1 is every single one."""
    declare(bed, default=default)
    clock = Clock(NOON)
    traffic = Traffic(bed, clock, far=default, retain=RETAIN)
    wanted, seen = {"detach", "archive", "move" if default else "create"}, set[str]()
    held: list[float] = []
    with traffic.running():
        end = time.monotonic() + seconds
        while (time.monotonic() < end or not wanted <= seen) and not traffic.faults:
            report = bed.maintain(clock.now)
            assert not report.consents
            seen |= {word for word, _ in done(report)}
            held += labelled(report, default=default)
            clock.now += _LEAP
    nothing_is_lost(bed, set(traffic.acknowledged))
    assert traffic.reads > 20
    assert traffic.updates > 100
    waits = sorted(traffic.latencies)
    print(f"{len(traffic.acknowledged)} rows, {traffic.reads} reads, {traffic.updates} updates")
    print(f"writes: {spread(waits)}")
    judge(traffic.seen, sorted(held), default=default, quantile=quantile)
    margin = 0.5
    assert waits[-1] < traffic.lock_timeout_s + margin


def labelled(report: Report, *, default: bool) -> list[float]:
    """The holds of one run in seconds. Each comes with its lock in the report, and only beside a DEFAULT partition."""
    closed = [a for a in report.actions if a.held_ms is not None]
    assert {a.lock for a in closed} <= {"ACCESS EXCLUSIVE"}
    strong = [a for a in report.actions if a.lock == "ACCESS EXCLUSIVE" and a.state == "done"]
    assert closed == strong
    assert default or not closed
    return [a.held_ms / 1000 for a in closed if a.held_ms is not None]


def at(times: list[float], quantile: float) -> float:
    """A quantile of sorted seconds, in milliseconds; 0 of nothing."""
    return times[min(int(len(times) * quantile), len(times) - 1)] * 1000 if times else 0.0


def judge(seen: Seen, held: list[float], *, default: bool, quantile: float) -> None:
    """Hold what samples of pg_locks showed and what the sessions measured against what is allowed.

    A session tells how long it was until it was on after its commit. Where all wake up behind it and processors are
    few that is longer than the lock was held, so ``quantile`` is asked of the samples, and 99 % of the sessions in soak
    only.
    """
    least, most = (sorted(times) for times in (zip(*seen.holds, strict=True) if seen.holds else ((), ())))
    gaps = sorted(seen.gaps)
    apart = f"{at(gaps, 0.5):.1f} ms apart, p99 {at(gaps, 0.99):.1f}, at most {at(gaps, 1):.1f}"
    print(f"pg_locks: {len(gaps)} samples, {apart}; {len(least)} holds seen")
    if not default:
        assert not least, "no writer's table was locked against it"
        return
    print(f"holds by samples: {spread(least)} at least, {spread(most)} at most")
    print(f"{len(held)} holds by the session: {spread(held)}")
    assert at(least, quantile) <= HOLD_MS, least[-10:]
    if quantile == 1:  # in soak, with the processors to itself: beside other tests these two measure those
        assert at(most, 0.99) <= HOLD_MS, most[-10:]
        assert at(held, 0.99) <= HOLD_MS, held[-10:]
    assert len(least) > len(held) / 4, "the samples see what the sessions tell"


def spread(times: list[float]) -> str:
    return f"median {at(times, 0.5):.1f}, p95 {at(times, 0.95):.1f}, longest {at(times, 1):.1f} ms"


@pytest.mark.req("A6.6", "A6.12", "A6.8", "A6.7")
@pytest.mark.parametrize("default", [True, False])
def test_sixteen_writers_lose_nothing_and_wait_for_nobody(
    pg_database: dict[str, Any], tmp_path: Path, default: bool
) -> None:
    storm(Bed(tmp_path / "bed", pg_database), default=default, seconds=3, quantile=0.95)


@pytest.mark.req("A6.6", "A6.12", "A6.8", "A6.7")
def test_the_same_without_default_on_16(pg16_database: dict[str, Any], tmp_path: Path) -> None:
    storm(Bed(tmp_path / "bed", pg16_database), default=False, seconds=3, quantile=0.95)


@pytest.mark.req("A6.6", "A6.12", "A6.8", "A6.7")
def test_the_same_with_default_on_15(server_root: Path, tmp_path: Path) -> None:
    with debian(15, server_root) as server:
        server.create_database(name := f"t{uuid4().hex[:12]}")
        storm(Bed(tmp_path / "bed", server.dsn(name)), default=True, seconds=3, quantile=0.95)


@pytest.mark.soak
@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_sixteen_writers_for_minutes(
    postgres_of: Callable[[int], postgres.Server], tmp_path: Path, major: int, default: bool
) -> None:
    server = postgres_of(major)
    server.create_database(name := f"t{uuid4().hex[:12]}")
    storm(Bed(tmp_path / "bed", server.dsn(name)), default=default, seconds=60, quantile=1)


@pytest.mark.req("A6.7", "A6.12")
def test_runs_that_are_killed_anywhere_leave_what_the_next_one_ends(
    tmp_path: Path, pg_database: dict[str, Any]
) -> None:
    bed = Bed(tmp_path / "bed", pg_database)
    declare(bed, default=True)
    seed = int(os.environ.get("HOLDFAST_SEED", random.randrange(10**6)))
    print(f"HOLDFAST_SEED={seed}")
    chance = random.Random(seed)
    expected: set[int] = set()
    killed, usual = 0, 0.0
    for turn in range(8):
        now = NOON + timedelta(days=3) * turn
        first = turn * 1000
        bed.run(
            "INSERT INTO app.events SELECT g, %s::timestamptz + (g %% 200) * interval '1 hour'"
            " FROM generate_series(%s::int, %s::int) g",
            now, first, first + 199,
        )  # fmt: skip
        expected |= set(range(first, first + 200))
        begun = time.monotonic()
        killed += kill_during(bed, now, chance.uniform(0.4, 1.0) * usual if usual else 60)
        usual = usual or time.monotonic() - begun
        assert expected <= everything(bed)
    print(f"{killed} of 8 runs were killed")
    assert killed
    last = NOON + timedelta(days=21)
    bed.maintain(last)
    nothing_is_lost(bed, expected)
    assert done(bed.maintain(last)) == []
    assert bed.run(DETACHED) == []


def kill_during(bed: Bed, now: Any, seconds: float) -> bool:
    """Start a run and kill it after some time; whether it still ran."""
    arguments = ["--specs", str(bed.plain.specs), "--env", "dev", "partitions", "maintain", "--as-of", now.isoformat(),
                 "--archive", str(bed.root / "archive"), "--allow", CONSENT]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "provision.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
