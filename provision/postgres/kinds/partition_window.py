"""Which range partitions a declared set wants at a moment: calendar arithmetic in UTC. Pure; the clock is an input.

``premake`` is what is made, ``min_ahead`` what must be there: between the two nothing changes at midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The Monday before the epoch's Thursday: weeks start on Mondays (ISO 8601).
_MONDAY = datetime(1969, 12, 29, tzinfo=UTC)
_STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}
_MONTHS = {"month": 1, "year": 12}
_NAMES = {"hour": "%Y_%m_%d_%H", "day": "%Y_%m_%d", "week": "%Y_%m_%d", "month": "%Y_%m", "year": "%Y"}
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class Every(NamedTuple):
    """A calendar interval: ``Every(1, "day")``; the unit is hour, day, week, month, year or integer."""

    number: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Every:
        count, unit = text.split(" ")
        return cls(int(count), unit.removesuffix("s"))

    def floor(self, moment: datetime) -> datetime:
        """The start of the interval that a moment lies in. Intervals are counted from fixed points in UTC."""
        if self.unit in _MONTHS:
            size = self.number * _MONTHS[self.unit]
            return _month((moment.year * 12 + moment.month - 1) // size * size)
        origin = _MONDAY if self.unit == "week" else _EPOCH
        step = _STEPS[self.unit] * self.number
        return origin + (moment - origin) // step * step

    def shift(self, moment: datetime, times: int) -> datetime:
        """A moment so many intervals later; a day that a month lacks becomes its last."""
        if self.unit not in _MONTHS:
            return moment + _STEPS[self.unit] * (self.number * times)
        first = _month(moment.year * 12 + moment.month - 1 + self.number * times * _MONTHS[self.unit])
        day = min(moment.day, (_month(first.year * 12 + first.month) - first).days)
        return moment.replace(year=first.year, month=first.month, day=day)


def _month(number: int) -> datetime:
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


class Range(NamedTuple):
    """What a partition holds: from ``low`` up to but without ``high``."""

    low: datetime
    high: datetime


def wanted(
    every: Every,
    clock: datetime,
    ahead: int,
    *,
    start: datetime | None,
    retain: Every | None,
    oldest: datetime | None,
) -> Iterator[Range]:
    """The ranges from the first that is needed through ``ahead`` intervals after the current one.

    Without ``start``, a new set begins with the interval before the current one. A set that exists (``oldest`` is
    the lower bound of its oldest partition) has no holes in what is retained, and nothing older than that is
    asked for: retention took it, or it was never there.
    """
    current = every.floor(clock)
    edge = every.floor(retain.shift(clock, -1)) if retain is not None else None
    low = every.floor(start) if start is not None else every.shift(current, -1)
    fixed = start is not None and (edge is None or low >= edge)
    if edge is not None and not fixed:
        low = edge if oldest is not None else max(low, edge)
    if oldest is not None and not fixed:
        low = min(low if oldest <= low else every.floor(oldest), current)
    last = every.shift(current, ahead)
    while low <= last:
        high = every.shift(low, 1)
        yield Range(low, high)
        low = high


def gaps(wanted_range: Range, taken: list[Range]) -> Iterator[Range]:
    """The parts of a range that no taken one covers; ``taken`` is sorted."""
    low = wanted_range.low
    for other in taken:
        if other.high <= low or other.low >= wanted_range.high:
            continue
        if other.low > low:
            yield Range(low, other.low)
        low = other.high
    if low < wanted_range.high:
        yield Range(low, wanted_range.high)


def suffix(every: Every, low: datetime) -> str:
    """The end of a partition's name: ``2026_11_21``; finer where the range does not start on the grid."""
    if every.floor(low) == low:
        return low.strftime(_NAMES[every.unit])
    return low.strftime("%Y_%m_%d_%H%M%S")


def bound(key_type: str | None, keys: int, found: Range) -> str:
    """``FOR VALUES FROM (…) TO (…)`` as the server deparses it in a session whose time zone is UTC."""
    more = ", MINVALUE" * (keys - 1)
    low, high = (_literal(key_type, moment) for moment in found)
    return f"FOR VALUES FROM ({low}{more}) TO ({high}{more})"


def _literal(key_type: str | None, moment: datetime) -> str:
    if key_type == "date":
        return moment.strftime("'%Y-%m-%d'")
    zone = "+00" if key_type is None or "with time zone" in key_type else ""
    return moment.strftime(f"'%Y-%m-%d %H:%M:%S{zone}'")


def read_range(text: str) -> Range | None:
    """The range of a bound over times, by the first column of its key; None for any other bound."""
    if not text.startswith("FOR VALUES FROM ("):
        return None
    low, _, high = text[17:-1].partition(") TO (")
    first, last = _moment(low, _EARLIEST), _moment(high, _LATEST)
    return Range(first, last) if first is not None and last is not None else None


def _moment(text: str, unbounded: datetime) -> datetime | None:
    value = text.split(",", 1)[0]
    if value in ("MINVALUE", "MAXVALUE"):
        return unbounded
    literal = value.strip("'")
    if literal[-3:-2] in ("+", "-"):
        literal += ":00"
    try:
        moment = datetime.fromisoformat(literal)
    except ValueError:
        return _EARLIEST if literal == "-infinity" else _LATEST if literal == "infinity" else None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_start(value: Any) -> datetime | None:
    """The moment that a spec's ``start`` names."""
    if value is None or isinstance(value, int):
        return None
    return datetime.fromisoformat(value.upper()).astimezone(UTC)
