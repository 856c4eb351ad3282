"""What is due in a rolling partition set at a moment: partitions to make, ranges to free, members that expired. Pure.

A point is a moment in UTC, or a whole number where the key counts. The clock is an input; for numbers the greatest
key of the attached partitions takes its place. A number that lies further ahead than ``premake`` intervals is not
followed: one stray key must not push everything else out of what is retained.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from provision.postgres import sql
from provision.postgres.kinds import partition_window as window
from provision.postgres.kinds.partition_members import Members
from provision.postgres.kinds.partition_window import Every, Range
from provision.spec.errors import InputError
from provision.spec.record import Settings

#: A datetime in UTC, or an int.
Point = Any
_FAR = 10**40
#: More missing intervals than this behind the current number are a hole in the numbers, not in the set.
_NUMBERS_BEHIND = 1_000
_LIMITS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


class Member(NamedTuple):
    """An attached partition with a range of its own."""

    name: str
    low: Point
    high: Point


class Grid(NamedTuple):
    """The intervals of a set, counted from a fixed point."""

    every: Every
    origin: int
    key_type: str | None
    keys: int

    @classmethod
    def of(cls, settings: Settings) -> Grid:
        """The grid that a declared set asks for."""
        start = settings["start"]
        origin = start if isinstance(start, int) else 0
        return cls(Every.parse(settings["every"]), origin, settings["key_type"], len(settings["key"]))

    @property
    def counts(self) -> bool:
        """Whether points are whole numbers."""
        return self.every.unit == "integer"

    def floor(self, point: Point) -> Point:
        if not self.counts:
            return self.every.floor(point)
        return self.origin + (point - self.origin) // self.every.number * self.every.number

    def shift(self, point: Point, times: int) -> Point:
        return point + self.every.number * times if self.counts else self.every.shift(point, times)

    def whole(self, point: Point) -> Range:
        """The interval that a point lies in."""
        low = self.floor(point)
        return Range(low, self.shift(low, 1))

    def bound(self, found: Range) -> str:
        """``FOR VALUES FROM (…) TO (…)``."""
        if not self.counts:
            return window.bound(self.key_type, self.keys, found)
        more = ", MINVALUE" * (self.keys - 1)
        return f"FOR VALUES FROM ({found.low}{more}) TO ({found.high}{more})"

    def suffix(self, low: Point) -> str:
        """The end of a partition's name."""
        return str(low) if self.counts else window.suffix(self.every, low)

    def read(self, bound: str) -> Range | None:
        """The range of a bound; None for DEFAULT and for what is no range of this set's points."""
        return _read_number(bound) if self.counts else _read_time(bound)

    def point(self, text: str) -> Point:
        """A key as the server prints it."""
        if self.counts:
            return math.floor(Decimal(text))
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@lru_cache(maxsize=65536)
def _read_time(bound: str) -> Range | None:
    return window.read_range(bound)


@lru_cache(maxsize=65536)
def _read_number(bound: str) -> Range | None:
    ends = _ends(bound)
    if ends is None:
        return None
    low, high = (_number(end) for end in ends)
    return Range(low, high) if low is not None and high is not None else None  # type: ignore[arg-type]


def _ends(bound: str) -> tuple[str, str] | None:
    if not bound.startswith("FOR VALUES FROM ("):
        return None
    low, _, high = bound[17:-1].partition(") TO (")
    return low.split(",", 1)[0], high.split(",", 1)[0]


def _number(text: str) -> int | None:
    if text in ("MINVALUE", "MAXVALUE"):
        return -_FAR if text == "MINVALUE" else _FAR
    try:
        return math.floor(Decimal(text.strip("'")))
    except ArithmeticError:
        return None


def literals(bound: str) -> tuple[str, str]:
    """Both ends of a bound that ``Grid.bound`` made, as SQL literals of the first key."""
    found = _ends(bound)
    assert found is not None
    return found


def members(grid: Grid, attached: Members) -> list[Member]:
    """The partitions that hold ranges, oldest first."""
    found = ((name, grid.read(bound)) for name, bound in attached.items())
    return sorted((Member(name, *r) for name, r in found if r is not None), key=lambda m: (m.low, m.high))


def missing(table: str, settings: Settings, attached: Members, current: Point) -> Members:
    """What to make so that ``premake`` intervals lie ahead and nothing retained has a hole; what is current first."""
    grid = Grid.of(settings)
    wanted = _wanted_numbers if grid.counts else _wanted_times
    taken = [Range(m.low, m.high) for m in members(grid, attached)]
    found: Members = {}
    lows = [r.low for r in taken]
    for whole in wanted(settings, grid, taken, current):
        near = taken[max(bisect_right(lows, whole.low) - 1, 0) : bisect_left(lows, whole.high)]
        for gap in window.gaps(whole, near):
            found[sql.bounded(table, grid.suffix(gap.low))] = grid.bound(gap)
    ranges = {name: grid.read(bound) for name, bound in found.items()}
    past = {name: r is None or r.high <= current for name, r in ranges.items()}
    return {name: found[name] for name in sorted(found, key=past.__getitem__)}


def _wanted_times(settings: Settings, grid: Grid, taken: list[Range], current: datetime) -> Iterator[Range]:
    start = window.parse_start(settings["start"])
    retain = Every.parse(settings["retain"]) if settings["retain"] is not None else None
    oldest = taken[0].low if taken and not (start is not None and retain is None) else None
    return window.wanted(grid.every, current, settings["premake"], start=start, retain=retain, oldest=oldest)


def _wanted_numbers(settings: Settings, grid: Grid, taken: list[Range], current: int) -> Iterator[Range]:
    low = grid.floor(current)
    behind = edge(settings, current)
    if taken:
        least = low - _NUMBERS_BEHIND * grid.every.number
        oldest = grid.floor(max(taken[0].low, least))
        low = min(low, max(oldest, behind) if behind is not None else oldest)
    last = grid.shift(grid.floor(current), settings["premake"])
    most = _LIMITS.get(grid.key_type or "", _FAR)
    while low <= last and low + grid.every.number <= most:
        yield grid.whole(low)
        low = grid.shift(low, 1)


def edge(settings: Settings, current: Point, retain: str | None = None) -> Point | None:
    """Where retention ends: what lies wholly below has expired. None where rows are kept for ever.

    It is a point of the grid, as the partitions that ``missing`` fills are: what one makes the other never takes.
    """
    text = retain if retain is not None else settings["retain"]
    if text is None:
        return None
    grid, kept = Grid.of(settings), Every.parse(text)
    if grid.counts != (kept.unit == "integer"):
        raise InputError(f"retain {text} does not fit every {settings['every']}", "Count both in the same unit.")
    return grid.floor(current - kept.number) if grid.counts else grid.floor(kept.shift(current, -1))


def expired(found: Iterable[Member], limit: Point | None) -> list[Member]:
    """The members whose upper bound is not above the limit, oldest first."""
    return [] if limit is None else [m for m in found if m.high <= limit]


def beyond(found: Sequence[Member], settings: Settings, current: Point, former: str | None) -> list[Member]:
    """The expired members that ``former``, the retention of the run before, would have kept; all if there was none."""
    if former is None:
        return list(found)
    try:
        limit = edge(settings, current, former)
    except InputError:  # what is counted has changed since
        return list(found)
    return [m for m in found if m.high > limit]


def room(grid: Grid, attached: Members, point: Point) -> Range:
    """The part of a point's interval around it that no partition holds.

    Raises InputError where there is none: a key of several columns may be split by its others, too.
    """
    taken = [Range(m.low, m.high) for m in members(grid, attached)]
    for gap in window.gaps(grid.whole(point), taken):
        if gap.low <= point < gap.high:
            return gap
    raise InputError(
        f"rows at {point} are in the DEFAULT partition, though the first column of their key belongs to another",
        "Make their partition by hand, or split by one column.",
    )


def horizon(settings: Settings, current: Point) -> Point:
    """The end of the last interval that is made ahead."""
    grid = Grid.of(settings)
    return grid.shift(grid.floor(current), settings["premake"] + 1)


def ahead(found: Iterable[Member], grid: Grid, current: Point) -> int:
    """How many whole intervals after the current one are there without a hole."""
    count, point = 0, grid.shift(grid.floor(current), 1)
    ranges = sorted((m.low, m.high) for m in found)
    for low, high in ranges:
        while low <= point and high >= grid.shift(point, 1):
            point = grid.shift(point, 1)
            count += 1
            if count > 100_000:  # the last partition has no end
                return count
    return count


def pieces(whole: Range, cuts: Iterable[Point]) -> list[Range]:
    """A range in pieces, cut at the points that lie inside."""
    points = [whole.low, *sorted({c for c in cuts if whole.low < c < whole.high}), whole.high]
    return [Range(a, b) for a, b in pairwise(points)]
