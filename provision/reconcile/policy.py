"""The policy of a partition set, guessed from its live partitions: ``import`` has nothing else to go by. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from provision.postgres.kinds.partition_window import Every, Range, read_range
from provision.spec.record import Record, Settings

_INTEGERS = re.compile(r"FOR VALUES FROM \('?(-?\d+)'?[,)].* TO \('?(-?\d+)'?[,)]")
_HOUR = timedelta(hours=1)


class Guess(NamedTuple):
    """Settings with the policy filled in, and what a person should look at."""

    settings: Settings
    note: str


def guess(record: Record, clock: datetime) -> Guess | None:
    """Give the policy that fits the live partitions; None where no calendar interval does.

    Retention is never guessed: without it nothing is dropped.
    """
    settings = record.settings
    if settings["by"] != "range":
        return Guess(settings, "")
    bounds = [text for text in settings["members"].values() if text != "DEFAULT"]
    every = _every(bounds)
    if every is None:
        return None
    ahead = sum(1 for found in _times(bounds) if found.low > clock.astimezone(UTC))
    counted = "s" if every.number > 1 else ""
    ahead = ahead if every.unit != "integer" else 1
    policy = {"every": f"{every.number} {every.unit}{counted}", "premake": ahead, "min_ahead": -(-ahead // 2)}
    note = f"every {policy['every']} and premake {ahead} are taken from its partitions; retain is not known"
    return Guess({**settings, **policy}, note)


def _every(bounds: Iterable[str]) -> Every | None:
    """The interval of most partitions."""
    found = Counter(every for text in bounds if (every := _interval(text)) is not None)
    return found.most_common(1)[0][0] if found else None


def _interval(text: str) -> Every | None:
    if match := _INTEGERS.match(text):
        return Every(int(match[2]) - int(match[1]), "integer")
    for found in _times([text]):
        return _calendar(found)
    return None


def _times(bounds: Iterable[str]) -> list[Range]:
    found = [known for text in bounds if (known := read_range(text)) is not None]
    return [f for f in found if f.low.year > datetime.min.year and f.high.year < datetime.max.year]


def _calendar(found: Range) -> Every | None:
    """The interval that a range is one of: its length, starting where such intervals start."""
    months = (found.high.year - found.low.year) * 12 + found.high.month - found.low.month
    hours = int((found.high - found.low) / _HOUR)
    lengths = (("year", months, 12), ("month", months, 1), ("week", hours, 168), ("day", hours, 24), ("hour", hours, 1))
    for unit, length, size in lengths:
        every = Every(length // size, unit)
        if every.number > 0 and every.floor(found.low) == found.low and every.shift(found.low, 1) == found.high:
            return every
    return None
