"""What a kind is: the protocol that registry, reader, diff and lower rely on. A kind is pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from provision.spec.change import Change, Context, Impact, Lowered
from provision.spec.fields import FieldError, FieldTable
from provision.spec.record import Facts, Pointer, Record

Nature = Literal["live", "declared", "rendered"]


class Reader(Protocol):
    """Handed to ``read``: where diagnostics go, and the defaults of the document."""

    #: The plane's name and the environment being read.
    plane: str
    env: str

    def fail(self, pointer: Pointer, error: FieldError) -> None:
        """Report a value that its type refuses, at its own place."""
        ...

    def report(self, code: str, pointer: Pointer, message: str, help: str = "", *, at_key: bool = False) -> None:
        """Report any other mistake of reading; the node is then left out."""
        ...


class Kind(Protocol):
    """One kind of object. Modules give an instance named ``KIND``.

    ``section`` kinds read a top-level section of the document (name -> node); nested kinds have none and
    are read by their parent's ``read``.
    """

    name: str
    system: str
    nature: Nature
    fields: FieldTable
    #: Settings that no server holds: ``settle`` gives both sides what the spec says.
    spec_only: frozenset[str]
    #: Settings that are not managed where the spec says nothing: ``settle`` then takes what the server has.
    left_to_server: frozenset[str]

    def impact(self, change: Change, facts: Facts) -> Impact:
        """What an update does to dependents: "alter" rebuilds rigid ones, "replace" all of them.

        "replace" also says that the object itself cannot be changed in place.
        """
        ...

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Bring both sides to comparable form, just before diff: server-dependent defaults, coverage of
        partition windows, options a server version does not know. Most kinds return them as they are."""
        ...

    def lower(self, change: Change, context: Context) -> Lowered:
        """Turn a change into steps. Asked parents first, so a parent may absorb its children's changes."""
        ...


class Section(Protocol):
    """The reader of one top-level section of a document."""

    name: str

    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of the whole section."""
        ...

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        """Give the records of the section. The node has passed the JSON Schema. Runs in document order."""
        ...


class PlainKind:
    """Defaults that most kinds share: live, nothing to settle, changed in place."""

    name = ""
    system = ""
    nature: Nature = "live"
    fields = FieldTable()
    spec_only: frozenset[str] = frozenset()
    left_to_server: frozenset[str] = frozenset()

    def impact(self, change: Change, facts: Facts) -> Impact:
        return "none"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        return desired, live

    def lower(self, change: Change, context: Context) -> Lowered:
        raise NotImplementedError(self.name)
