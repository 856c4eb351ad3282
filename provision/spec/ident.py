"""The identity of everything addressable, and its one text form. Used by every stage."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

#: Words that stand before a name in a path. An object that bears one of them as its own name is
#: written with its first character percent-encoded, so the text form stays unambiguous.
KIND_WORDS = frozenset(
    "stream consumer template bucket object_store publisher pool binding contract role membership extension "
    "database enum domain type sequence function view table column primary_key unique foreign_key check exclude index "
    "partitions trigger policy grant".split()
)
_UNSAFE = re.compile(r"[\s/%]")
#: Everything but the separator, the escape character and white space stands for itself.
_SAFE = "".join(chr(c) for c in range(33, 127) if chr(c) not in "/%")


def _segment(name: str) -> str:
    if name in KIND_WORDS:
        return f"%{ord(name[0]):02X}{name[1:]}"
    return quote(name, safe=_SAFE) if _UNSAFE.search(name) else name


class Address(NamedTuple):
    """Identity of one record: (system, target, kind, path).

    ``str()`` gives the text form used in plans, consents, the ledger and messages, e.g.
    ``pg:main/agents/state/column/version`` or ``nats:main/stream/TASKS``.
    """

    system: str
    target: str
    kind: str
    path: tuple[str, ...]

    @classmethod
    def root(cls, system: str, target: str, kind: str, name: str, *, bare: bool = False) -> Address:
        """Address a top-level object; ``bare`` leaves its kind out of the path (schemas)."""
        segment = _segment(name)
        return cls(system, target, kind, (segment,) if bare else (kind, segment))

    def child(self, kind: str, name: str, *, bare: bool = False) -> Address:
        """Address an object inside this one; ``bare`` leaves its kind out of the path (tables)."""
        segment = _segment(name)
        return Address(self.system, self.target, kind, (*self.path, segment) if bare else (*self.path, kind, segment))

    @property
    def name(self) -> str:
        """The object's own name, unescaped."""
        return unquote(self.path[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """All unescaped path segments."""
        return tuple(unquote(p) for p in self.path)

    def within(self, other: Address) -> bool:
        """Whether this address is ``other`` or lies below it."""
        return self[:2] == other[:2] and self.path[: len(other.path)] == other.path

    def __str__(self) -> str:
        return f"{self.system}:{self.target}/{'/'.join(self.path)}"
