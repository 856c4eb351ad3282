"""Replicated data types: counters, sets, registers and maps of them, which merge without a conflict. Pure.

One form serves all: a document shows some *items*, each under the dot of the write that made it, at a path, with a
payload; its clock has seen these dots and those of what was overwritten. Joining documents is joining items by
dot, whatever they are, so that there is one law to prove. A write is a method that returns the next document; it is
derived from the last state that its slot has read, and each slot has one writer at a time.

A field of a map is known by its name *and* kind: two slots that make different things of one name keep both, and
``value()`` shows the kind that stands later in ``KINDS``. A field without items is not there, nor is a document: a
counter that was never written to, a set whose last element was taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from holdfast.errors import CodecError
from holdfast.merge.clocks import Clock, Dot, join_dotted
from holdfast.state.codec import canonical

Kind = Literal["none", "g-counter", "pn-counter", "lww-register", "mv-register", "or-set", "map"]
#: Later wins where two documents or fields of different kinds meet. Of a "none" only its clock is known.
KINDS: tuple[Kind, ...] = ("none", "g-counter", "pn-counter", "lww-register", "mv-register", "or-set", "map")
#: The key by which a JSON object is known as a document.
TAG = "$crdt"
#: Fields from the root map to where something stands: (name, kind) each.
Path = tuple[tuple[str, Kind], ...]


class Item(NamedTuple):
    """One thing shown: where it stands, the kind there, and what it is (JSON)."""

    kind: Kind
    path: Path
    payload: Any


def _rank(item: Item) -> tuple[int, bytes]:
    return KINDS.index(item.kind), canonical([item.path, item.payload])


@dataclass(frozen=True, slots=True)
class Document:
    """A replicated value of one kind. Immutable; ``Document("map")`` is an empty one.

    Writes take ``at``, the path of a field inside maps: ``[("done", "pn-counter")]``. They raise CodecError where the
    kind there does not take them.
    """

    kind: Kind
    clock: Clock = field(default_factory=Clock)
    items: Mapping[Dot, Item] = field(default_factory=dict)

    # Writes

    def increment(self, actor: str, amount: int = 1, *, at: Iterable[tuple[str, Kind]] = ()) -> Document:
        """Count up, or down where it is a pn-counter. Raises CodecError for a g-counter and an amount below 0."""
        path = self._path(at, "g-counter", "pn-counter")
        if type(amount) is not int:
            raise CodecError("a counter counts by whole numbers")
        if amount < 0 and self._kind_at(path) == "g-counter":
            raise CodecError("a g-counter only grows")
        mine = {dot: item for dot, item in self._below(path).items() if dot.actor == actor}
        return self._write(actor, path, sum(item.payload for item in mine.values()) + amount, over=mine)

    def add(self, actor: str, element: Any, *, at: Iterable[tuple[str, Kind]] = ()) -> Document:
        """Put an element into a set. It stays against a removal that has not seen this."""
        path, text = self._path(at, "or-set"), canonical(element)
        same = [dot for dot, item in self._below(path).items() if canonical(item.payload) == text]
        return self._write(actor, path, element, over=same)

    def discard(self, element: Any, *, at: Iterable[tuple[str, Kind]] = ()) -> Document:
        """Take an element out of a set, as far as it was put in by writes that this document has seen."""
        path, text = self._path(at, "or-set"), canonical(element)
        return self._without(dot for dot, item in self._below(path).items() if canonical(item.payload) == text)

    def assign(self, actor: str, value: Any, now_ms: int, *, at: Iterable[tuple[str, Kind]] = ()) -> Document:
        """Set a register. ``now_ms`` decides between concurrent writes to an lww-register; it never runs behind what
        was seen, however wrong the clock is."""
        path = self._path(at, "lww-register", "mv-register")
        canonical(value)
        shown = self._below(path)
        if self._kind_at(path) == "lww-register":
            value = [max([now_ms, *(item.payload[0] + 1 for item in shown.values())]), value]
        return self._write(actor, path, value, over=shown)

    def remove(self, *, at: Iterable[tuple[str, Kind]] = ()) -> Document:
        """Remove a field of a map, or all that this document shows. What was written concurrently stays."""
        return self._without(self._below(tuple(at), deep=True))

    # Reading

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return any(self._below((), deep=True))

    def value(self, *, at: Iterable[tuple[str, Kind]] = ()) -> Any:
        """The plain JSON value: a number, a value, a list (of elements, of concurrent values) or an object.

        An mv-register gives the list of its concurrent values, an empty lww-register None.
        """
        path = tuple(at)
        return _view(self._kind_at(path), path, self._below(path, deep=True).values())

    # Joining and JSON

    def join(self, other: Document) -> Document:
        """Both together: commutative, associative and idempotent, for any two documents."""
        items = join_dotted(self.items, self.clock, other.items, other.clock, _rank)
        kind = max(self.kind, other.kind, key=KINDS.index)
        return Document(kind, self.clock.join(other.clock), items)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, one form for equal documents."""
        rows = [
            [dot.actor, dot.number, item.kind, [list(step) for step in item.path], item.payload]
            for dot, item in sorted(self.items.items(), key=lambda pair: pair[0])
        ]
        return {TAG: self.kind, "clock": self.clock.to_json(), "items": rows}

    @classmethod
    def from_json(cls, plain: object) -> Document:
        """Read what ``to_json`` gave. Raises CodecError for anything else."""
        if not isinstance(plain, Mapping) or plain.keys() != {TAG, "clock", "items"}:
            raise CodecError("not a replicated document")
        kind, rows = plain[TAG], plain["items"]
        if kind not in KINDS or not isinstance(rows, list):
            raise CodecError("a replicated document of unknown form")
        clock = Clock.from_json(plain["clock"])
        items = dict(_read_item(row) for row in rows)
        if any(dot not in clock for dot in items):
            raise CodecError("a replicated document shows what its clock has not seen")
        return cls(cast(Kind, kind), clock, items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Document) and canonical(self.to_json()) == canonical(other.to_json())

    def __hash__(self) -> int:
        return hash(canonical(self.to_json()))

    # Parts

    def _path(self, at: Iterable[tuple[str, Kind]], *kinds: Kind) -> Path:
        path = tuple((str(name), kind) for name, kind in at)
        if any(kind not in KINDS[1:] for _, kind in path):
            raise CodecError("a field of an unknown kind")
        if any(kind != "map" for kind in [self.kind, *(kind for _, kind in path)][:-1]):
            raise CodecError("only a map has fields")
        if self._kind_at(path) not in kinds:
            raise CodecError(f"a {self._kind_at(path)} does not take this write")
        return path

    def _kind_at(self, path: Path) -> Kind:
        return path[-1][1] if path else self.kind

    def _below(self, path: Path, *, deep: bool = False) -> dict[Dot, Item]:
        kind, length = self.kind, len(path)
        return {
            dot: item
            for dot, item in self.items.items()
            if item.kind == kind and item.path[:length] == path and (deep or len(item.path) == length)
        }

    def _write(self, actor: str, path: Path, payload: Any, *, over: Iterable[Dot]) -> Document:
        if not actor:
            raise CodecError("a write needs the name of its replica slot")
        dot, gone = self.clock.next(actor), set(over)
        items = {old: item for old, item in self.items.items() if old not in gone}
        items[dot] = Item(self.kind, path, payload)
        return Document(self.kind, self.clock.add(dot), items)

    def _without(self, over: Iterable[Dot]) -> Document:
        gone = set(over)
        return Document(self.kind, self.clock, {dot: item for dot, item in self.items.items() if dot not in gone})


def is_document(value: object) -> bool:
    """Whether a JSON value says that it is a replicated document."""
    return isinstance(value, Mapping) and TAG in value


def _view(kind: Kind, path: Path, items: Iterable[Item]) -> Any:
    shown = list(items)
    if kind in ("g-counter", "pn-counter"):
        return sum(item.payload for item in shown)
    if kind == "lww-register":
        latest = max(shown, key=lambda item: (item.payload[0], canonical(item.payload[1])), default=None)
        return None if latest is None else latest.payload[1]
    if kind in ("or-set", "mv-register"):
        distinct = {canonical(item.payload): item.payload for item in shown}
        return [distinct[text] for text in sorted(distinct)]
    if kind == "none":
        return None
    depth, fields = len(path), {}
    steps = {item.path[depth] for item in shown}
    for name, below in sorted(steps, key=lambda step: (step[0], KINDS.index(step[1]))):
        deeper = (*path, (name, below))
        fields[name] = _view(below, deeper, [item for item in shown if item.path[depth] == (name, below)])
    return fields


def _read_item(row: object) -> tuple[Dot, Item]:
    if not (isinstance(row, Sequence) and len(row) == 5):
        raise CodecError("an item of a replicated document has five parts")
    actor, number, kind, steps, payload = row
    path = tuple(tuple(step) for step in steps) if isinstance(steps, list) else None
    sound = (
        isinstance(actor, str)
        and isinstance(number, int)
        and kind in KINDS
        and path is not None
        and all(len(step) == 2 and isinstance(step[0], str) and step[1] in KINDS for step in path)
    )
    if not sound:
        raise CodecError("an item of a replicated document of unknown form")
    item = Item(cast(Kind, kind), cast(Path, path), payload)
    _check_payload(item)
    return Dot(actor, number), item


def _check_payload(item: Item) -> None:
    kinds: list[Kind] = [item.kind, *(kind for _, kind in item.path)]
    if any(kind != "map" for kind in kinds[:-1]) or kinds[-1] in ("map", "none"):
        raise CodecError("only a map has fields, and it has nothing else")
    payload = item.payload
    if kinds[-1] in ("g-counter", "pn-counter"):
        fits = isinstance(payload, int) and not isinstance(payload, bool)
        fits = fits and (kinds[-1] != "g-counter" or payload >= 0)
    elif kinds[-1] == "lww-register":
        fits = isinstance(payload, list) and len(payload) == 2 and type(payload[0]) is int
    else:
        fits = True
    if not fits:
        raise CodecError(f"not a payload of a {kinds[-1]}")
