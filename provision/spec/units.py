"""People's units and their exact integers: durations in nanoseconds, sizes in bytes, calendar intervals."""

from __future__ import annotations

import re
from decimal import Decimal

DURATION_PATTERN = r"^(\d+(\.\d+)?(ns|us|ms|s|m|h|d|w))+$"
SIZE_PATTERN = r"^\d+(\.\d+)?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
INTERVAL_PATTERN = r"^[1-9]\d* (hour|day|week|month|year|integer)s?$"

#: Nanoseconds that 64 bits hold, in the servers and in the contract.
MAX_DURATION = 2**63 - 1

_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d|w)")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$")
_INTERVAL = re.compile(INTERVAL_PATTERN)


class UnitError(ValueError):
    """A quantity that cannot be read. ``help`` says how to write it."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help


def duration_ns(value: str | int) -> int:
    """Read ``1.5h`` or ``1h30m`` as exact integer nanoseconds. ``0`` is none. Raises UnitError."""
    if value == 0 and not isinstance(value, bool):
        return 0
    if not isinstance(value, str) or not _DURATION.match(value):
        raise UnitError(f"not a duration: {value!r}", "Write a number with its unit: 500ms, 30s, 5m, 1h, 30d.")
    total = sum((Decimal(n) * _NS[unit] for n, unit in _DURATION_PART.findall(value)), Decimal(0))
    if total != int(total):
        raise UnitError(f"finer than one nanosecond: {value!r}", "Use a whole number of nanoseconds.")
    if total > MAX_DURATION:
        raise UnitError(f"longer than a duration can be: {value!r}", "Write at most 106751d, some 292 years.")
    return int(total)


def size_bytes(value: str | float) -> int:
    """Read ``512MiB`` or a bare integer of bytes. Raises UnitError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise UnitError(f"not a size: {value!r}", "Write a number with its unit: 64KiB, 512MiB, 10GiB.")
    total = Decimal(match[1]) * _BYTES[match[2]]
    if total != int(total):
        raise UnitError(f"not a whole number of bytes: {value!r}", "Use a smaller unit.")
    return int(total)


def interval(value: str) -> str:
    """Normalise a calendar interval: ``30 days``, ``1 month``. Raises UnitError."""
    if not _INTERVAL.match(value):
        raise UnitError(f"not a calendar interval: {value!r}", "Write '1 hour', '1 day', '1 week', '1 month'.")
    count, unit = value.split(" ")
    unit = unit.removesuffix("s")
    return f"{count} {unit}" if count == "1" else f"{count} {unit}s"


def format_duration(ns: int) -> str:
    """Write nanoseconds in the largest unit that keeps them whole."""
    if ns == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        if ns % _NS[unit] == 0:
            return f"{ns // _NS[unit]}{unit}"
    raise AssertionError(ns)


def format_size(size: int) -> str:
    """Write bytes in the largest binary unit that keeps them whole."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)
