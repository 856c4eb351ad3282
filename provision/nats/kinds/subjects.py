"""Subject algebra and asset names: what a pattern stands for, whether two meet, what a transform makes. Pure.

Used by the NATS kinds and by checks. A pattern is a subject whose tokens may be ``*`` (any one token) or, as
the last one, ``>`` (one token or more). The rules are those of nats-server: server/sublist.go
(``isValidSubject``, ``SubjectsCollide``, ``isSubsetMatch``), server/subject_transform.go and
server/jetstream.go (``isValidAssetName``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

#: Names of streams and consumers: the server refuses white space and ``. * > \\ /``.
ASSET_NAME_PATTERN = r"^[^\s.*>/\\]{1,255}$"
#: Names of buckets and object stores, as every client library checks them; HOLDFAST is our own.
BUCKET_NAME_PATTERN = r"^(?!HOLDFAST$)[a-zA-Z0-9_-]{1,251}$"

#: The wildcard tokens: any one token, and the rest of the subject.
ONE, REST = "*", ">"

_WHITE = re.compile(r"[ \t\n\r\f\x00]")
_CALL = re.compile(r"^\{\{\s*(\w+)\s*\((.*)\)\s*\}\}$")
_PLACEHOLDER = re.compile(r"^\$(\d+)$")
#: Destination functions that may give several tokens out of one (server/subject_transform.go).
_SPREADING = frozenset({"split", "splitfromleft", "splitfromright", "slicefromleft", "slicefromright"})


def valid_subject(subject: str) -> bool:
    """Whether the server takes the subject in a stream or filter: no empty token, ``>`` only at the end."""
    tokens = subject.split(".")
    return "" not in tokens and REST not in tokens[:-1] and not _WHITE.search(subject)


def literal(subject: str) -> bool:
    """Whether the subject names exactly one subject (it can be published to)."""
    tokens = subject.split(".")
    return ONE not in tokens and tokens[-1] != REST


def intersect(left: str, right: str) -> str | None:
    """Give the pattern of exactly those subjects that match both, or None where none does."""
    a, b = left.split("."), right.split(".")
    out: list[str] = []
    for i in range(max(len(a), len(b))):
        x = a[i] if i < len(a) else ""
        y = b[i] if i < len(b) else ""
        if x == REST:
            return ".".join((*out, *b[i:])) if y else None
        if y == REST:
            return ".".join((*out, *a[i:])) if x else None
        if x == y or (y == ONE and x):
            out.append(x)
        elif x == ONE and y:
            out.append(y)
        else:
            return None
    return ".".join(out)


def collide(left: str, right: str) -> bool:
    """Whether some subject matches both patterns."""
    return intersect(left, right) is not None


def subset(inner: str, outer: str) -> bool:
    """Whether every subject that ``inner`` matches is matched by ``outer``."""
    a, b = inner.split("."), outer.split(".")
    for i, token in enumerate(b):
        if i >= len(a):
            return False
        if token == REST:
            return True
        if a[i] == REST or token not in (ONE, a[i]):
            return False
    return len(a) == len(b)


def covered(subject: str, patterns: Iterable[str]) -> bool:
    """Whether every subject that matches ``subject`` matches at least one of the patterns.

    Exact: tokens are unbounded in number, so ``a.*`` needs one pattern that covers it whole, while ``a.>``
    may be made up of several lengths (``a.*`` and ``a.*.>``).
    """
    known = list(patterns)
    if any(subset(subject, p) for p in known):
        return True
    tokens = subject.split(".")
    if tokens[-1] != REST:
        return False
    head = tokens[:-1]
    longest = max((p.count(".") + 1 for p in known), default=0)
    lengths = range(1, max(longest - len(head), 0) + 1)
    pieces = [".".join((*head, *[ONE] * n)) for n in lengths]
    pieces.append(".".join((*head, *[ONE] * len(lengths), REST)))
    return all(any(subset(piece, p) for p in known) for piece in pieces)


def transformed(subject: str, src: str, dest: str) -> str | None:
    """Give a pattern that holds what a transform makes of the subjects matching both ``subject`` and ``src``.

    None where they do not meet. Functions whose result depends on content (``partition``, ``split``, …) are
    widened: the pattern may hold more subjects than the transform makes, never fewer.
    """
    src = src or REST
    met = intersect(subject, src)
    if met is None or not dest:
        return met
    taken, pattern = met.split("."), src.split(".")
    wild = [taken[i] for i, token in enumerate(pattern) if token == ONE]
    out: list[str] = []
    for token in _dest_tokens(dest):
        if token == REST:
            rest = taken[len(pattern) - 1 :] if pattern[-1] == REST else [REST]
            return ".".join((*out, *rest))
        image = _image(token, wild)
        out.append(image)
        if image == REST:
            break
    return ".".join(out)


def _dest_tokens(dest: str) -> list[str]:
    """Split a destination at dots outside ``{{…}}``."""
    return [t for t in re.split(r"\.(?![^{]*\}\})", dest) if t]


def _image(token: str, wild: Sequence[str]) -> str:
    call = _CALL.match(token)
    function = call[1].lower() if call else ""
    if function in _SPREADING:
        return REST
    placeholder = _PLACEHOLDER.match(token)
    number = placeholder[1] if placeholder else call[2].strip() if call and function == "wildcard" else ""
    if number:
        index = int(number) - 1 if number.isdigit() else -1
        return wild[index] if 0 <= index < len(wild) else ONE
    return ONE if call else token


class SubjectIndex(Generic[T]):
    """Patterns in a token tree, each with a value; finds those that meet another without comparing all."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, SubjectIndex[T]] = {}
        self.values: list[T] = []

    def add(self, pattern: str, value: T) -> None:
        """Store a value under a pattern; one pattern may hold several."""
        node = self
        for token in pattern.split("."):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = SubjectIndex()
            node = child
        node.values.append(value)

    def colliding(self, pattern: str) -> Iterator[T]:
        """Give the values of all patterns that share a subject with this one, in tree order."""
        return self.walk(pattern.split("."), 0)

    def walk(self, tokens: Sequence[str], depth: int) -> Iterator[T]:
        """Give the values below this node whose remaining tokens meet ``tokens[depth:]``."""
        if depth == len(tokens):
            yield from self.values
            return
        token = tokens[depth]
        if token == REST:
            for child in self.children.values():
                yield from child.everything()
            return
        rest = self.children.get(REST)
        if rest is not None:
            yield from rest.values
        if token == ONE:
            for name, child in self.children.items():
                if name != REST:
                    yield from child.walk(tokens, depth + 1)
            return
        for name in (token, ONE):
            found = self.children.get(name)
            if found is not None:
                yield from found.walk(tokens, depth + 1)

    def everything(self) -> Iterator[T]:
        """Give the values of all patterns below this node."""
        yield from self.values
        for child in self.children.values():
            yield from child.everything()
