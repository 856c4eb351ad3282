"""Causal clocks: which writes a value has seen. Pure; used by the strategies and by the replicated types.

An actor is a *replica slot* ("worker-3"), never a process: a clock has as many actors as there are slots, however often
they restart. One slot has one writer at a time. A write has a *dot*, the slot and its count, and a clock is the
exact set of dots that somebody has seen, kept as ranges. A value whose dot another has seen, but no longer shows, was
overwritten there; a dot that the other has not seen is concurrent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from holdfast.errors import CodecError, ConsistencyViolation

Ordering = Literal["equal", "before", "after", "concurrent"]
Ranges = tuple[tuple[int, int], ...]
V = TypeVar("V")


class Dot(NamedTuple):
    """One write: the ``number``-th of the slot ``actor``, from 1."""

    actor: str
    number: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A set of dots. ``seen`` maps each actor to disjoint ranges that do not touch, ascending, both ends inside."""

    seen: Mapping[str, Ranges] = field(default_factory=dict)

    @classmethod
    def of(cls, *dots: Dot) -> Clock:
        """The clock that has seen just these dots."""
        by_actor: dict[str, list[tuple[int, int]]] = {}
        for dot in dots:
            by_actor.setdefault(dot.actor, []).append((dot.number, dot.number))
        return cls({actor: _union(ranges) for actor, ranges in by_actor.items()})

    def __contains__(self, dot: Dot) -> bool:
        return any(first <= dot.number <= last for first, last in self.seen.get(dot.actor, ()))

    def __bool__(self) -> bool:
        return bool(self.seen)

    def __hash__(self) -> int:
        return hash(frozenset(self.seen.items()))

    def count(self, actor: str) -> int:
        """The number of the last write seen of a slot, 0 for none."""
        ranges = self.seen.get(actor)
        return ranges[-1][1] if ranges else 0

    def next(self, actor: str) -> Dot:
        """The dot for the next write of a slot that has seen this clock."""
        return Dot(actor, self.count(actor) + 1)

    def add(self, *dots: Dot) -> Clock:
        """This clock and these dots."""
        return self.join(Clock.of(*dots))

    def join(self, other: Clock) -> Clock:
        """All that either has seen."""
        if self.seen == other.seen:
            return self
        joined = dict(self.seen)
        for actor, ranges in other.seen.items():
            mine = joined.get(actor)
            joined[actor] = ranges if mine is None else _union((*mine, *ranges))
        return Clock(joined)

    def includes(self, other: Clock) -> bool:
        """Whether this has seen all that ``other`` has seen."""
        return all(
            any(low <= first and last <= high for low, high in self.seen.get(actor, ()))
            for actor, ranges in other.seen.items()
            for first, last in ranges
        )

    def compare(self, other: Clock) -> Ordering:
        """How this stands to ``other``: before it, after it, equal, or concurrent."""
        above, below = self.includes(other), other.includes(self)
        if above:
            return "equal" if below else "after"
        return "before" if below else "concurrent"

    def dominates(self, other: Clock) -> bool:
        """Whether this has seen all of ``other`` and more."""
        return self.compare(other) == "after"

    def to_json(self, cut: StableCut | None = None) -> dict[str, Any]:
        """Plain JSON: ``{"a": 7}`` for 1 to 7, ``{"a": [[1, 4], [6, 7]]}`` with gaps.

        With a ``cut``, slots that stand exactly there are left out and the cut's number is written under "": what was
        left out is not lost, whoever reads it needs the same cut.
        """
        if cut is None:
            return {actor: _brief(self.seen[actor]) for actor in sorted(self.seen)}
        plain: dict[str, Any] = {"": cut.number}
        for actor in sorted(self.seen.keys() | cut.clock.seen.keys()):
            ranges = self.seen.get(actor, ())
            if ranges != cut.clock.seen.get(actor):
                plain[actor] = _brief(ranges)
        return plain

    @classmethod
    def from_json(cls, plain: object, cut: StableCut | None = None) -> Clock:
        """Read what ``to_json`` gave. Raises CodecError, and ConsistencyViolation without the cut it was pruned by."""
        if not isinstance(plain, Mapping):
            raise CodecError("a clock is a JSON object")
        number = plain.get("")
        seen: dict[str, Ranges] = {}
        if number is not None:
            if cut is None or cut.number != number:
                raise ConsistencyViolation(f"a clock was pruned by stable cut {number!r}, which is not at hand")
            seen.update(cut.clock.seen)
        for actor, ranges in plain.items():
            if actor == "":
                continue
            seen[str(actor)] = _full(ranges)
        return cls({actor: ranges for actor, ranges in seen.items() if ranges})

    def dumps(self, cut: StableCut | None = None) -> str:
        """The clock as the text of a message header."""
        return json.dumps(self.to_json(cut), separators=(",", ":"), sort_keys=True)

    @classmethod
    def loads(cls, text: str, cut: StableCut | None = None) -> Clock:
        """Read a header. Raises CodecError, ConsistencyViolation."""
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise CodecError("a clock is not JSON", driver_error=error) from None
        return cls.from_json(plain, cut)


@dataclass(frozen=True, slots=True)
class StableCut:
    """What every replica has seen, with a number: the only ground on which clocks are made shorter.

    Cuts are kept as long as there are clocks that were pruned by them.
    """

    number: int
    clock: Clock

    @classmethod
    def of(cls, number: int, replicas: Iterable[Clock]) -> StableCut:
        """The cut of *all* replicas: what each of them has seen without a gap. No replicas, an empty cut."""
        clocks = list(replicas)
        seen: dict[str, Ranges] = {}
        for actor in set.intersection(*(set(clock.seen) for clock in clocks)) if clocks else ():
            firsts = [clock.seen[actor][0] for clock in clocks]
            if all(first == 1 for first, _ in firsts):
                seen[actor] = ((1, min(last for _, last in firsts)),)
        return cls(number, Clock(seen))


def join_dotted(
    mine: Mapping[Dot, V], my_clock: Clock, theirs: Mapping[Dot, V], their_clock: Clock, rank: Any
) -> dict[Dot, V]:
    """Join what two replicas show, dot by dot.

    A dot passes unseen → shown → overwritten and never back: joining is commutative, associative and idempotent. Two
    different values under one dot can come only from a slot with two writers: the greater ``rank(value)`` stays.
    """
    joined: dict[Dot, V] = {}
    for dot, value in mine.items():
        if dot in theirs:
            joined[dot] = max(value, theirs[dot], key=rank)
        elif dot not in their_clock:
            joined[dot] = value
    new = {dot: value for dot, value in theirs.items() if dot not in mine and dot not in my_clock}
    return joined | new


def _union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _brief(ranges: Ranges) -> int | list[list[int]]:
    if not ranges:
        return 0
    if len(ranges) == 1 and ranges[0][0] == 1:
        return ranges[0][1]
    return [list(pair) for pair in ranges]


def _full(plain: object) -> Ranges:
    if _is_count(plain) and isinstance(plain, int):
        return ((1, plain),) if plain else ()
    if isinstance(plain, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in plain):
        pairs = [(first, last) for first, last in plain]
        if all(_is_count(first) and _is_count(last) and 1 <= first <= last for first, last in pairs):
            return _union(pairs)
    raise CodecError("a clock counts writes from 1, or lists ranges of them")


def _is_count(plain: object) -> bool:
    return isinstance(plain, int) and not isinstance(plain, bool) and plain >= 0


def dots(clock: Clock) -> Iterator[Dot]:
    """Every dot of a clock; for tests and small clocks."""
    for actor, ranges in clock.seen.items():
        for first, last in ranges:
            for number in range(first, last + 1):
                yield Dot(actor, number)
