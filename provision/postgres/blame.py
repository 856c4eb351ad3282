"""Find the record and the field that made the server refuse a statement. Pure; used by compile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from provision.postgres.errors import Refusal
from provision.postgres.references import TEXTS
from provision.spec.ident import Address
from provision.spec.record import Record


class Culprit(NamedTuple):
    """What is to blame. ``field`` is a setting ("checks.positive" inside one), None for the whole object.

    ``position`` counts characters from 1 inside the field's text.
    """

    record: Record
    field: str | None
    position: int | None


def blame(refusal: Refusal, statement: str, records: Iterable[Record]) -> Culprit | None:
    """Tell by the server's position, else by the constraint or column it names; None without either."""
    candidates = list(records)
    if refusal.position is not None:
        return _at(statement, refusal.position, candidates)
    for name in (refusal.constraint, refusal.column, *re.findall(r'"([^"]+)"', refusal.message)):
        for record in candidates:
            if name and record.address.name == name:
                return narrow(refusal, record)
    return None


def narrow(refusal: Refusal, record: Record) -> Culprit:
    """Blame the text of a record in which the name stands that the server speaks of, else its only text."""
    found = list(texts(record))
    for name in re.findall(r'"([^"]+)"|function ([^\s(]+)\(', refusal.message):
        for field, text in found:
            match = re.search(rf"(?<!\w){re.escape(name[0] or name[1])}(?!\w)", text)
            if match:
                return Culprit(record, field, match.start() + 1)
    expressions = [field for field, _ in found if field != "type"]
    return Culprit(record, expressions[0] if len(expressions) == 1 else None, None)


def _at(statement: str, position: int, records: list[Record]) -> Culprit | None:
    """The longest setting whose text lies around the position.

    Of equal texts it is the one whose object's name comes last before it.
    """
    best: tuple[int, int] = (0, -1)
    found: Culprit | None = None
    for record in records:
        for field, text in texts(record):
            start = _occurrence(statement, text, position)
            if start is None:
                continue
            rank = (len(text), statement.rfind(record.address.name, 0, start + 1))
            if rank > best:
                best, found = rank, Culprit(record, field, position - start)
    return found


def _occurrence(statement: str, text: str, position: int) -> int | None:
    """Where ``text`` starts so that it covers the character at ``position`` (from 1); None if it does not."""
    start = statement.find(text, max(0, position - len(text) - 1), position + len(text))
    while 0 <= start < position:
        if position <= start + len(text) + 1:
            return start
        start = statement.find(text, start + 1)
    return None


def texts(record: Record) -> Iterator[tuple[str, str]]:
    """The SQL texts of a record with their places: ("default", "now()"), ("checks.positive", "VALUE > 0")."""
    for field in TEXTS.get(record.address.kind, ()):
        yield from _leaves(field, record.settings.get(field))
    if record.address.kind == "table":
        return
    for field in ("type", "query", "expression", "where", "using", "with_check", "method"):
        value = record.settings.get(field)
        if isinstance(value, str) and field not in TEXTS.get(record.address.kind, ()):
            yield field, value


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value:
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{place}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(f"{place}.{index}", item)


def suspects(object: Address, records: Iterable[Record]) -> list[Record]:
    """The parts of an object that hold SQL, latest first: what to leave out when the server named nothing."""
    return [r for r in records if r.address != object and any(True for _ in texts(r))][::-1]


def neutral(record: Record, field: str | None) -> Record | None:
    """The record without what the server refused, so that the rest can be tried; None: leave it out.

    A column stays, as others stand on it: without expressions, or, if those are not to blame, as text.
    """
    settings = record.settings
    if record.address.kind != "column" or settings == {**settings, **_NEUTRAL}:
        return None
    has_expression = settings.get("default") is not None or settings.get("generated") is not None
    if has_expression and field != "type":
        return record._replace(settings={**settings, "default": None, "generated": None})
    return record._replace(settings={**settings, **_NEUTRAL})


_NEUTRAL = {"type": "text", "collation": None, "identity": None, "default": None, "generated": None}
