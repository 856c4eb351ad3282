"""The four ways in which two writes to one key become one (``Strategy``), each total over any two entries. Pure.

``Resolver.merge`` joins two entries. For every strategy but CUSTOM_MERGE it is commutative, associative and idempotent,
so that replicas agree whatever reached them first. ``Resolver.resolve`` is what a writer uses between reading
and writing: the same join, told as "who won", with the version that the write gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv.entry import Position
from holdfast.merge.clocks import Clock, Dot, join_dotted
from holdfast.merge.crdt import Document, is_document
from holdfast.state.codec import canonical

Json: TypeAlias = Any


class Strategy(Enum):
    """How a bucket settles two writes."""

    LAST_WRITE_WINS = "LAST_WRITE_WINS"
    VECTOR_CLOCK = "VECTOR_CLOCK"
    CRDT_MERGE = "CRDT_MERGE"
    CUSTOM_MERGE = "CUSTOM_MERGE"


class Sibling(NamedTuple):
    """One of several values that were written without knowing of each other."""

    timestamp_ms: int
    deleted: bool
    value: Json


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A value with all that decides between it and another.

    ``timestamp_ms``: milliseconds since 1970 (see ``stamp``). ``version``: own counter of the key, from 1. ``clock``:
    every write that this value knows of, its own included. ``dot``: its own write, None where the writer kept no clock.
    ``epoch``: the lease it was written under, None for none. ``position``: where the bucket put it, None for what is
    not written yet. ``siblings``: the values behind ``value`` while several are concurrent, else empty.
    """

    value: Json
    timestamp_ms: int
    version: int = 1
    clock: Clock = field(default_factory=Clock)
    dot: Dot | None = None
    epoch: Position | None = None
    position: Position | None = None
    deleted: bool = False
    siblings: Mapping[Dot, Sibling] = field(default_factory=dict)

    def shown(self) -> Mapping[Dot, Sibling]:
        """The concurrent values by their dots, one at least. A value without a dot gets one that its content names."""
        if self.siblings:
            return self.siblings
        only = Sibling(self.timestamp_ms, self.deleted, self.value)
        return {self.dot or Dot("~" + _digest(only), 1): only}

    def __hash__(self) -> int:
        return hash(_order(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateEntry) and _order(self) == _order(other)


class Resolution(NamedTuple):
    """``entry`` is what the key should hold; "current" means that nothing need be written."""

    entry: StateEntry
    winner: Literal["current", "incoming", "merged"]


#: Makes one value of two. Gets the entries as they are; gives JSON.
CustomMerge = Callable[[StateEntry, StateEntry], Json]
#: Makes one value of the concurrent ones, oldest first.
Combine = Callable[[list[Json]], Json]


def stamp(now_ms: int, base: StateEntry | None) -> int:
    """The timestamp of a write: the clock's, but always after what the writer has read, however wrong clocks are."""
    return now_ms if base is None else max(now_ms, base.timestamp_ms + 1)


def deep_merge(values: list[Json]) -> Json:
    """Unite objects field by field; of anything else the last stays. The default way to combine concurrent values."""
    merged = values[0]
    for value in values[1:]:
        if isinstance(merged, Mapping) and isinstance(value, Mapping):
            merged = {
                **merged,
                **{key: deep_merge([merged[key], new]) if key in merged else new for key, new in value.items()},
            }
        else:
            merged = value
    return merged


@dataclass(frozen=True, slots=True)
class Resolver:
    """Settles by one strategy. ``custom`` is needed by CUSTOM_MERGE and only there; ``combine`` is VECTOR_CLOCK's way
    to show one value while several are concurrent. Raises ConfigurationError."""

    strategy: Strategy
    custom: CustomMerge | None = None
    combine: Combine = deep_merge

    def __post_init__(self) -> None:
        if (self.custom is not None) != (self.strategy is Strategy.CUSTOM_MERGE):
            raise ConfigurationError("a merge function belongs to CUSTOM_MERGE, which cannot do without")

    def merge(self, one: StateEntry, other: StateEntry) -> StateEntry:
        """Join two entries. CUSTOM_MERGE raises CodecError where its function fails or gives what is not JSON."""
        if one == other:
            return one
        match self.strategy:
            case Strategy.LAST_WRITE_WINS:
                return max(one, other, key=_order)
            case Strategy.VECTOR_CLOCK:
                return _by_clock(one, other, self.combine)
            case Strategy.CRDT_MERGE:
                return _by_document(one, other)
            case Strategy.CUSTOM_MERGE:
                assert self.custom is not None
                return _by_function(one, other, self.custom)

    def resolve(self, current: StateEntry, incoming: StateEntry) -> Resolution:
        """Settle a write against what the key holds.

        What is to be written has the version after both. It carries the epoch of ``incoming`` and no position: it is a
        new write. A write that lost, or adds nothing, gives ``current`` as it is.
        """
        merged = self.merge(current, incoming)
        if merged is current or (self.strategy is not Strategy.LAST_WRITE_WINS and _holds(merged) == _holds(current)):
            return Resolution(current, "current")
        if merged is incoming or _holds(merged) == _holds(incoming):
            version = max(current.version + 1, incoming.version)
            return Resolution(replace(incoming, version=version, position=None), "incoming")
        version = max(current.version, incoming.version) + 1
        return Resolution(replace(merged, version=version, epoch=incoming.epoch, position=None), "merged")


def next_entry(
    base: StateEntry | None,
    value: Json,
    *,
    now_ms: int,
    actor: str | None = None,
    epoch: Position | None = None,
    deleted: bool = False,
) -> StateEntry:
    """The entry of a write that has read ``base``: later than it by time, version and, for an ``actor``, by clock."""
    clock = base.clock if base is not None else Clock()
    if base is not None and actor is not None:
        clock = clock.add(*base.shown())
    dot = clock.next(actor) if actor is not None else None
    return StateEntry(
        value=None if deleted else value,
        timestamp_ms=stamp(now_ms, base),
        version=base.version + 1 if base is not None else 1,
        clock=clock.add(dot) if dot is not None else clock,
        dot=dot,
        epoch=epoch,
        deleted=deleted,
    )


def as_document(entry: StateEntry) -> Document | None:
    """The replicated document of an entry: of a deleted one an empty one with its clock, None for other values.

    Raises CodecError for a value that says it is a document and is none.
    """
    if is_document(entry.value):
        return Document.from_json(entry.value)
    if entry.deleted and entry.clock:
        return Document("none", entry.clock)
    return None


# The strategies


def _order(entry: StateEntry) -> tuple[Any, ...]:
    """Total: the epoch, then the place in the bucket, then the time, then the content. What is not written comes after
    what is, as it will when it is written."""
    return (
        entry.epoch or Position(0, 0),
        entry.position is None,
        entry.position or Position(0, 0),
        entry.timestamp_ms,
        entry.version,
        not entry.deleted,
        *_says(entry),
    )


def _says(entry: StateEntry) -> tuple[Any, ...]:
    shown = sorted((dot, canonical(list(sibling))) for dot, sibling in entry.siblings.items())
    return canonical(entry.value), entry.deleted, entry.clock.dumps(), entry.dot or Dot("", 0), shown


def _holds(entry: StateEntry) -> tuple[Any, ...]:
    """What a reader of the bucket would see of it: of what is deleted only the clock."""
    return (entry.deleted, entry.clock.dumps()) if entry.deleted else _says(entry)


def _by_clock(one: StateEntry, other: StateEntry, combine: Combine) -> StateEntry:
    ours, theirs = one.shown(), other.shown()
    our_clock, their_clock = one.clock.add(*ours), other.clock.add(*theirs)
    shown = join_dotted(ours, our_clock, theirs, their_clock, _sibling_order)
    if not shown:
        # Each claims to have overwritten the other: no history of writes leads there. An answer is due all the same.
        shown = {**ours, **theirs}
    ordered = sorted(shown.items(), key=lambda pair: (_sibling_order(pair[1]), pair[0]))
    living = [sibling.value for _, sibling in ordered if not sibling.deleted]
    only = len(ordered) == 1
    return StateEntry(
        value=ordered[0][1].value if only else (_combined(living, combine) if living else None),
        timestamp_ms=max(sibling.timestamp_ms for sibling in shown.values()),
        version=max(one.version, other.version),
        clock=our_clock.join(their_clock),
        dot=ordered[0][0] if only else None,
        epoch=_later(one.epoch, other.epoch),
        position=_position(one, other),
        deleted=not living,
        siblings={} if only else shown,
    )


def _combined(living: list[Json], combine: Combine) -> Json:
    return living[0] if len(living) == 1 else _called(lambda: combine(living))


def _called(function: Callable[[], Json]) -> Json:
    """What a function of the caller's gives, which must be JSON. Raises CodecError for whatever it raises."""
    try:
        value = function()
    except Exception as error:
        raise CodecError(f"the merge function failed: {type(error).__name__}", driver_error=error) from None
    canonical(value)
    return value


def _sibling_order(sibling: Sibling) -> tuple[int, bool, bytes]:
    return sibling.timestamp_ms, not sibling.deleted, canonical(sibling.value)


def _by_document(one: StateEntry, other: StateEntry) -> StateEntry:
    ours, theirs = _document_or_none(one), _document_or_none(other)
    if ours is None and theirs is None:
        return max(one, other, key=_order)
    if ours is None or theirs is None:
        # A plain value and a delete that knows of nothing have seen no write of the document.
        return _normal(one, ours) if ours is not None else _normal(other, theirs)
    joined = ours.join(theirs)
    return StateEntry(
        value=joined.to_json(),
        timestamp_ms=max(one.timestamp_ms, other.timestamp_ms),
        version=max(one.version, other.version),
        clock=joined.clock,
        epoch=_later(one.epoch, other.epoch),
        position=_position(one, other),
        deleted=not joined,
    )


def _document_or_none(entry: StateEntry) -> Document | None:
    """A broken document counts as a plain value: the strategy has an answer for every two entries."""
    try:
        document = as_document(entry)
    except CodecError:
        return None
    if document is None:
        return None
    return Document(document.kind, document.clock.join(entry.clock), document.items)


def _normal(entry: StateEntry, document: Document | None) -> StateEntry:
    assert document is not None
    return replace(entry, value=document.to_json(), clock=document.clock, dot=None, siblings={}, deleted=not document)


def _by_function(current: StateEntry, incoming: StateEntry, custom: CustomMerge) -> StateEntry:
    value = _called(lambda: custom(current, incoming))
    clock = current.clock.add(*_known(current)).join(incoming.clock.add(*_known(incoming)))
    return StateEntry(
        value=value,
        timestamp_ms=max(current.timestamp_ms, incoming.timestamp_ms),
        version=max(current.version, incoming.version),
        clock=clock,
        dot=incoming.dot if incoming.dot is not None else current.dot,
        epoch=_later(current.epoch, incoming.epoch),
        position=_position(current, incoming),
        deleted=value is None and (current.deleted or incoming.deleted),
    )


def _known(entry: StateEntry) -> list[Dot]:
    return [entry.dot] if entry.dot is not None else []


def _later(one: Position | None, other: Position | None) -> Position | None:
    return max(filter(None, (one, other)), default=None)


def _position(one: StateEntry, other: StateEntry) -> Position | None:
    """Where the result stands: nowhere yet if a part of it is not written."""
    if one.position is None or other.position is None:
        return None
    return max(one.position, other.position)


def _digest(sibling: Sibling) -> str:
    return hashlib.sha256(canonical(list(sibling))).hexdigest()[:16]
