"""The members of a partition set: which a declaration wants, and what their bounds say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from provision.postgres import sql
from provision.postgres.kinds.partition_window import (
    Every,
    Range,
    bound,
    gaps,
    parse_start,
    read_range,
    suffix,
    wanted,
)
from provision.postgres.references import split_list
from provision.spec.record import Settings

Members = dict[str, str]
_INTEGERS = frozenset(("smallint", "integer", "bigint", "numeric"))
_IN = "FOR VALUES IN ("


def default_name(table: str) -> str:
    """The usual name of the partition that takes what no other does."""
    return sql.bounded(table, "default")


def covered(table: str, settings: Settings, live: Members | None, clock: datetime) -> Members:
    """The members a set should have, given those it has: ``live`` itself while nothing is missing."""
    found = live or {}
    missing: Members = {}
    if settings["by"] == "hash":
        missing = _missing_hash(table, settings, found)
    elif settings["by"] == "list":
        missing = _missing_list(table, settings["values"] or {}, found)
    elif settings["every"] is None:
        pass  # without an interval nothing can be missing: the partitions are made elsewhere
    elif Every.parse(settings["every"]).unit == "integer":
        missing = _missing_integers(table, settings, found)
    else:
        missing = _missing_times(table, settings, live, clock)
    name = settings["default"]
    if name and "DEFAULT" not in found.values():
        missing[name] = "DEFAULT"
    if not missing and live is not None:
        return live
    return {**found, **missing}


def _missing_hash(table: str, settings: Settings, live: Members) -> Members:
    modulus = settings["modulus"]
    bounds = set(live.values())
    every = {sql.bounded(table, str(r)): f"FOR VALUES WITH (modulus {modulus}, remainder {r})" for r in range(modulus)}
    return {name: text for name, text in every.items() if text not in bounds}


def _missing_list(table: str, values: Mapping[str, list[str | None]], live: Members) -> Members:
    """Lists are sets: neither the order of values nor the name of their partition matters."""
    there = {frozenset(found) for text in live.values() if (found := read_list(text)) is not None}
    return {
        sql.bounded(table, end): _list_bound(wanted_values)
        for end, wanted_values in values.items()
        if frozenset(wanted_values) not in there
    }


def _list_bound(values: list[str | None]) -> str:
    return f"{_IN}{', '.join('NULL' if v is None else sql.quote_literal(v) for v in values)})"


def read_list(text: str) -> list[str | None] | None:
    """The values of a list bound; None for any other."""
    if not text.startswith(_IN):
        return None
    return [_unquoted(item) for item in split_list(text[len(_IN) : -1])]


def _unquoted(item: str) -> str | None:
    if item == "NULL":
        return None
    if item.startswith("E'"):
        return item[2:-1].replace("''", "'").replace("\\\\", "\\")
    return item[1:-1].replace("''", "'") if item.startswith("'") else item


def list_values(table: str, members: Members) -> dict[str, list[str | None]]:
    """What a spec would say of live list partitions."""
    found = {name.removeprefix(f"{table}_"): read_list(text) for name, text in members.items()}
    return {name: values for name, values in found.items() if values is not None}


def _missing_integers(table: str, settings: Settings, live: Members) -> Members:
    """Which number is current only the data shows: a new set is made, an existing one is left to maintenance."""
    if live:
        return {}
    size = Every.parse(settings["every"]).number
    start = settings["start"] if isinstance(settings["start"], int) else 0
    more = ", MINVALUE" * (len(settings["key"]) - 1)
    lows = [start + size * i for i in range(settings["premake"] + 1)]
    return {sql.bounded(table, str(low)): f"FOR VALUES FROM ({low}{more}) TO ({low + size}{more})" for low in lows}


def _missing_times(table: str, settings: Settings, live: Members | None, clock: datetime) -> Members:
    every = Every.parse(settings["every"])
    keys, key_type = len(settings["key"]), settings["key_type"]
    start = parse_start(settings["start"])
    retain = Every.parse(settings["retain"]) if settings["retain"] is not None else None
    now = clock.astimezone(UTC)
    oldest: datetime | None = None
    taken: list[Range] = []
    if live:
        fixed = start is not None and retain is None
        enough = list(wanted(every, now, settings["min_ahead"], start=start, retain=retain, oldest=None))
        bounds = set(live.values())
        lacking = [r for r in enough if bound(key_type, keys, r) not in bounds]
        if not lacking:
            return {}
        taken = sorted(r for text in live.values() if (r := read_range(text)) is not None)
        oldest = taken[0].low if taken and not fixed else None
        required = wanted(every, now, settings["min_ahead"], start=start, retain=retain, oldest=oldest)
        if not any(gap for r in required for gap in gaps(r, taken)):
            return {}
    missing: Members = {}
    for whole in wanted(every, now, settings["premake"], start=start, retain=retain, oldest=oldest):
        for gap in gaps(whole, taken):
            missing[sql.bounded(table, suffix(every, gap.low))] = bound(key_type, keys, gap)
    return missing


def normal_bound(text: str, key_type: str | None) -> str:
    """One form for a bound: numbers bare, times in UTC."""
    if key_type in _INTEGERS:
        return text.replace("'", "")
    if key_type == "timestamp with time zone" and "+00'" not in text:
        found = read_range(text)
        if found is not None and found.low.year > 1 and found.high.year < 9999:
            return bound(key_type, text.count(",") // 2 + 1, found)
    return text
