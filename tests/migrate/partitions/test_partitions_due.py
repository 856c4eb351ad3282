"""What is due in a rolling set at a moment: months, leap days, hours, weeks, numbers, and servers that were down."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest

from provision.migrate.partitions import due
from provision.migrate.partitions.due import Grid, Member
from provision.postgres.kinds.partition_window import Range
from provision.spec.errors import InputError

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TZ = "timestamp with time zone"


def policy(every: str, *, premake: int = 2, retain: str | None = None, key_type: str | None = TZ, **more: Any) -> Any:
    settings = {
        "by": "range", "key": ["at"], "key_type": key_type, "every": every, "premake": premake, "min_ahead": 1,
        "retain": retain, "on_expiry": "drop", "start": None, "default": False, "values": None, "modulus": None,
    }  # fmt: skip
    return {**settings, **more}


def rolled(settings: Any, moments: list[Any], table: str = "t") -> tuple[dict[str, str], list[str]]:
    """The set after a run at each moment, and what was retired, in order."""
    attached: dict[str, str] = {}
    gone: list[str] = []
    grid = Grid.of(settings)
    for moment in moments:
        attached |= due.missing(table, settings, attached, moment)
        for member in due.expired(due.members(grid, attached), due.edge(settings, moment)):
            gone.append(member.name)
            del attached[member.name]
        assert due.missing(table, settings, attached, moment) == {}, "a second run finds nothing to do"
    return attached, gone


def ranges(settings: Any, attached: dict[str, str]) -> list[Member]:
    return due.members(Grid.of(settings), attached)


def is_whole(found: list[Member]) -> bool:
    """Neither hole nor overlap."""
    return all(a.high == b.low for a, b in pairwise(found))


@pytest.mark.req("A6.6")
@pytest.mark.parametrize(
    ("every", "retain", "step"),
    [
        ("1 hour", "2 days", timedelta(minutes=47)),
        ("6 hours", "3 days", timedelta(hours=5)),
        ("1 day", "30 days", timedelta(hours=23)),
        ("1 week", "2 months", timedelta(days=5)),
        ("1 month", "3 months", timedelta(days=11)),
        ("3 months", "1 year", timedelta(days=40)),
        ("1 year", "2 years", timedelta(days=200)),
    ],
)
def test_a_set_rolls_without_holes_and_keeps_exactly_what_is_retained(every: str, retain: str, step: timedelta) -> None:
    settings = policy(every, retain=retain)
    start = datetime(2023, 12, 30, 22, 30, tzinfo=UTC)
    moments = [start + step * i for i in range(60)]
    attached, gone = rolled(settings, moments)
    found, last = ranges(settings, attached), moments[-1]
    assert is_whole(found)
    kept = due.edge(settings, last)
    assert found[0].low >= kept
    assert found[0].low == kept or found[0].low <= start
    assert due.ahead(found, Grid.of(settings), last) == 2
    assert gone == sorted(gone)


@pytest.mark.req("A6.6")
def test_ends_of_months_and_leap_days() -> None:
    monthly = policy("1 month", retain="1 month")
    at = datetime(2028, 3, 31, 23, 59, tzinfo=UTC)
    assert due.edge(monthly, at) == datetime(2028, 2, 1, tzinfo=UTC), "31 March less a month is 29 February"
    daily = policy("1 day", retain="1 month")
    assert due.edge(daily, at) == datetime(2028, 2, 29, tzinfo=UTC)
    assert due.edge(daily, at.replace(year=2027)) == datetime(2027, 2, 28, tzinfo=UTC)
    attached, _ = rolled(daily, [datetime(2028, 2, 27, 12, tzinfo=UTC) + timedelta(days=i) for i in range(4)])
    names = {m.name for m in ranges(daily, attached)}
    assert {"t_2028_02_28", "t_2028_02_29", "t_2028_03_01"} <= names
    assert is_whole(ranges(daily, attached))


@pytest.mark.req("A6.5")
@pytest.mark.parametrize("hours", [-5, -4, 0, 5.5, 13])
def test_only_the_moment_counts_not_the_zone_that_it_was_said_in(hours: float) -> None:
    settings = policy("1 day", retain="3 days")
    spring = datetime(2026, 3, 8, 7, 30, tzinfo=UTC)  # New York leaps from 02:00 to 03:00
    there = spring.astimezone(timezone(timedelta(hours=hours)))
    assert due.missing("t", settings, {}, there) == due.missing("t", settings, {}, spring)
    bounds = due.missing("t", settings, {}, there).values()
    assert all("00:00:00+00'" in b for b in bounds)


@pytest.mark.req("A6.6")
def test_a_server_that_was_down_for_ten_days_catches_up() -> None:
    settings = policy("1 day", premake=3, retain="5 days")
    attached, _ = rolled(settings, [NOON + timedelta(days=i) for i in range(8)])
    late = NOON + timedelta(days=17)
    lacking = due.missing("t", settings, attached, late)
    assert next(iter(lacking)) == "t_2026_12_08", "what is current comes first"
    attached, gone = rolled_on(settings, attached, late)
    assert is_whole(ranges(settings, attached))
    assert ranges(settings, attached)[0].low == datetime(2026, 12, 3, tzinfo=UTC)
    assert len(gone) == 9
    everything = [Member(name, *Range(NOON, NOON)) for name in gone]
    assert due.beyond(everything, settings, late, "5 days") == [], "an unchanged retention asks for no consent"


def rolled_on(settings: Any, attached: dict[str, str], moment: datetime) -> tuple[dict[str, str], list[str]]:
    before = dict(attached)
    before |= due.missing("t", settings, before, moment)
    old = due.expired(ranges(settings, before), due.edge(settings, moment))
    return {n: b for n, b in before.items() if n not in {m.name for m in old}}, [m.name for m in old]


@pytest.mark.req("A6.6")
def test_a_shorter_retention_goes_beyond_the_former_one_by_exactly_the_difference() -> None:
    long, short = policy("1 day", retain="30 days"), policy("1 day", retain="3 days")
    attached, _ = rolled(long, [NOON + timedelta(days=i) for i in range(40)])
    now = NOON + timedelta(days=40)
    old = due.expired(ranges(long, attached), due.edge(short, now))
    beyond = due.beyond(old, short, now, "30 days")
    assert len(old) == 28
    assert len(beyond) == 27, "one of them would have gone anyway"
    assert due.beyond(old, short, now, None) == old, "nothing is known of a run before"
    assert due.beyond(old, short, now, "1000 integers") == old, "the unit has changed"


@pytest.mark.req("A6.5")
def test_retention_goes_by_the_upper_bound() -> None:
    settings = policy("1 day", retain="30 days")
    monthly = {"t_2026_10": "FOR VALUES FROM ('2026-10-01 00:00:00+00') TO ('2026-11-01 00:00:00+00')"}
    found = ranges(settings, monthly)
    assert due.expired(found, due.edge(settings, NOON)) == [], "its last row is twenty days old"
    assert due.expired(found, due.edge(settings, NOON + timedelta(days=10))) == found
    endless = {"t_all": "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO (MAXVALUE)"}
    assert due.expired(ranges(settings, endless), due.edge(settings, NOON)) == []


@pytest.mark.req("A6.6")
def test_holes_are_found_between_partitions_of_any_size() -> None:
    settings = policy("1 day", retain="30 days")
    week = {"t_w": "FOR VALUES FROM ('2026-11-02 00:00:00+00') TO ('2026-11-09 00:00:00+00')"}
    bits = {"t_b": "FOR VALUES FROM ('2026-11-12 06:00:00+00') TO ('2026-11-12 07:00:00+00')"}
    past = {"t_p": "FOR VALUES FROM (MINVALUE) TO ('2026-10-25 00:00:00+00')"}
    attached = {**week, **bits, **past}
    lacking = due.missing("t", settings, attached, NOON)
    found = ranges(settings, attached | lacking)
    assert is_whole(found)
    assert len(found) == 1 + 8 + 1 + 3 + 3 + 11, "past, October to week, week, to the bit, around it, to premake"


def test_a_long_set_costs_no_more_than_its_length() -> None:
    settings = policy("1 hour", retain="2 years")
    begun = time.monotonic()
    attached, _ = rolled(settings, [NOON + timedelta(days=300) * i for i in range(3)])
    assert len(attached) > 14_000
    assert time.monotonic() - begun < 10


def test_retention_and_interval_are_counted_in_one_unit() -> None:
    with pytest.raises(InputError, match="does not fit"):
        due.edge(policy("1 day", retain="1000 integers"), NOON)


# Numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.req("A6.6")
def test_numbers_are_followed_by_their_greatest_key() -> None:
    settings = policy("1000 integers", premake=2, retain="3000 integers", key_type="bigint")
    attached, gone = rolled(settings, [0, 10, 999, 1000, 2500, 7123, 9999])
    found = ranges(settings, attached)
    assert is_whole(found)
    assert (found[0].low, found[-1].high) == (6000, 12000)
    assert gone == [f"t_{n}" for n in (0, 1000, 2000, 3000, 4000, 5000)]


def test_numbers_count_from_start_and_end_with_their_type() -> None:
    settings = policy("1000 integers", start=500, key_type="integer")
    grid = Grid.of(settings)
    assert str(list(grid.whole(1700))) == "[1500, 2500]"
    assert str(list(grid.whole(100))) == "[-500, 500]"
    attached = due.missing("t", settings, {}, 2**31 - 600)
    assert all(r.high <= 2**31 - 1 for r in ranges(settings, attached))


def test_a_hole_in_the_numbers_is_not_filled_for_ever() -> None:
    settings = policy("10 integers", key_type="bigint")
    attached = due.missing("t", settings, {}, 5)
    assert len(due.missing("t", settings, attached, 10**12)) < 1_100


# DEFAULT ---------------------------------------------------------------------------------------------------


def test_a_row_in_default_gets_what_is_free_of_its_interval() -> None:
    settings = policy("1 day")
    taken = {"t_a": "FOR VALUES FROM ('2026-11-21 00:00:00+00') TO ('2026-11-21 06:00:00+00')"}
    found = due.room(Grid.of(settings), taken, NOON)
    assert found == Range(NOON.replace(hour=6), NOON.replace(hour=0) + timedelta(days=1))


def test_a_range_is_cut_only_inside() -> None:
    day = Grid.of(policy("1 day")).whole(NOON)
    cuts = [day.low, NOON, day.high, NOON, NOON - timedelta(hours=1)]
    found = due.pieces(day, cuts)
    assert [p.low for p in found] == [day.low, NOON - timedelta(hours=1), NOON]
    assert found[-1].high == day.high
    assert due.pieces(day, []) == [day]
