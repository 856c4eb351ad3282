"""Months of any length, leap days, zones whose clocks leap, and days without maintenance, on a real server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.migrate.partitions_bed import DAILY, DAY, NOON, Bed, done, fill

_PLACES = "SELECT tableoid::regclass::text, count(*) FROM app.events GROUP BY 1 ORDER BY 1"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def write(bed: Bed, *moments: str) -> None:
    for number, moment in enumerate(moments):
        bed.run("INSERT INTO app.events VALUES (%s, %s)", number, f"{moment}+00")


def places(bed: Bed) -> dict[str, int]:
    """How many rows each partition holds, by the end of its name."""
    return {name.removeprefix("app.events_"): count for name, count in bed.run(_PLACES)}


@pytest.fixture
def move_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let this process live in another zone."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.mark.req("A6.6", "A6.5")
def test_months_end_when_they_end(bed: Bed) -> None:
    bed.declare({"every": "1 month", "premake": 1, "retain": "1 month"})
    bed.apply(utc("2027-12-31 23:59:59.999999"))
    made = [
        done(bed.maintain(utc(at))) for at in ("2027-12-31 23:59:59.999999", "2028-01-31 23:59:59", "2028-02-29 12:00")
    ]
    assert made[0] == []
    assert ("create", "2028_02") in made[1]
    assert ("create", "2028_03") in made[2]
    write(
        bed, "2028-01-31 23:59:59.999999", "2028-02-01 00:00", "2028-02-29 23:59:59.999999", "2028-03-01 00:00",
        "2028-03-31 23:59:59.999999",
    )  # fmt: skip
    assert places(bed) == {"2028_01": 1, "2028_02": 2, "2028_03": 2}
    assert done(bed.maintain(utc("2028-03-31 23:59:59.999999"))) == [
        ("create", "2028_04"), ("detach", "2028_01"), ("drop", "2028_01"),
    ], "31 March less a month is 29 February, and its month stays"  # fmt: skip
    assert places(bed) == {"2028_02": 2, "2028_03": 2}


@pytest.mark.req("A6.6")
@pytest.mark.parametrize(("year", "kept"), [(2028, "02_29"), (2027, "02_28")])
def test_a_leap_day_is_a_day_and_a_month_reaches_back_to_it(bed: Bed, year: int, kept: str) -> None:
    bed.declare({"every": "1 day", "premake": 2, "retain": "1 month"})
    bed.apply(utc(f"{year}-02-25 12:00"))
    for moment in ("02-25 12:00", "02-27 23:59", "02-28 00:00", "03-05 12:00"):
        bed.maintain(utc(f"{year}-{moment}"))
    names = bed.names()
    assert names == sorted({f"{utc(f'{year}-02-24') + DAY * n:%Y_%m_%d}" for n in range(11 + (year == 2028) + 1)})
    assert (f"{year}_02_29" in names) == (year == 2028)
    fill(bed, utc(f"{year}-02-28"), utc(f"{year}-03-01 23:00"))
    assert set(places(bed).values()) == {24}
    bed.maintain(utc(f"{year}-03-31 12:00"))
    assert bed.names()[0] == f"{year}_{kept}"


#: Zones, and the moment at which their clocks are set forward or back; Lord Howe's by half an hour.
LEAPS = [
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Europe/Dublin", "2026-03-29 01:00"),
]


@pytest.mark.req("A6.5", "A6.6")
@pytest.mark.parametrize(("zone", "leap"), LEAPS)
@pytest.mark.parametrize(("every", "hours", "name"), [("1 hour", 1, "%Y_%m_%d_%H"), ("1 day", 24, "%Y_%m_%d")])
def test_a_leap_of_the_clock_makes_no_interval_longer(
    bed: Bed, zone: str, leap: str, every: str, hours: int, name: str, move_to: Callable[[str], None]
) -> None:
    """Database, writers, caller and process live in the zone; four rows an hour come through the leap."""
    move_to(zone)
    there, moment = ZoneInfo(zone), utc(leap)
    assert (moment - timedelta(minutes=1)).astimezone(there).utcoffset() != moment.astimezone(there).utcoffset()
    bed.run(f"ALTER DATABASE {bed.server['dbname']} SET timezone = '{zone}'")
    bed.declare({"every": every, "premake": 50 // hours, "retain": "2 days"})
    bed.apply((moment - DAY).astimezone(there))
    for hour in range(-24, 25, 6):
        bed.maintain((moment + timedelta(hours=hour)).astimezone(there))
    moments = [moment - DAY + timedelta(minutes=15) * n for n in range(4 * 48)]
    bed.run(
        "INSERT INTO app.events SELECT extract(epoch FROM t) / 60, t"
        " FROM generate_series(%s, %s, interval '15 minutes') t",
        moments[0], moments[-1],
    )  # fmt: skip
    assert places(bed) == Counter(m.strftime(name) for m in moments)
    bounds = list(bed.partitions().values())
    assert all(bound.count("+00'") == 2 for bound in bounds)
    assert bed.plan((moment + DAY).astimezone(there)).is_empty
    assert done(bed.maintain(moment + DAY)) == [], "the same instant, said in UTC"


@pytest.mark.req("A6.8", "A6.6", "A6.7")
@pytest.mark.parametrize("default", [False, True])
def test_ten_days_without_maintenance_lose_no_retained_row(bed: Bed, default: bool) -> None:
    """With a DEFAULT partition writers go on all the while; without one they are refused when premake is used up."""
    bed.declare({**DAILY, "default": default, "on_expiry": "archive"})
    bed.apply()
    bed.maintain()
    fill(bed, NOON, NOON + DAY * (10 if default else 3))
    late = NOON + DAY * 10
    report = bed.maintain(late)
    assert not report.consents, "time went by, no policy changed"
    ranges = [name for name in bed.names() if name != "default"]
    assert ranges == [f"{late + DAY * n:%Y_%m_%d}" for n in range(-5, 4)]
    first = (late - DAY * 5).replace(hour=0)
    live = bed.run("SELECT count(*), min(at) FROM app.events")[0]
    assert live == ((24 * 5 + 13, first) if default else (0, None))
    archived = sum(a.rows or 0 for a in report.actions if a.action == "archive")
    assert archived + live[0] == 24 * (10 if default else 3) + 1
    assert "default" not in places(bed)
    assert done(bed.maintain(late)) == []
