"""From a document to the desired plane: JSON Schema first, then the sections' own reading.

What is wrong is reported and left out, so that one run shows every mistake and the rest is still checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from provision.spec import target as targets
from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.environments import undeclared
from provision.spec.events import collector_off
from provision.spec.explain import Finding
from provision.spec.fields import FieldError
from provision.spec.ident import Address
from provision.spec.kind import Section
from provision.spec.record import Plane, Pointer, Record
from provision.spec.schema import Schema, compose, targets_schema
from provision.spec.target import Target
from provision.spec.tree import Rewrite

if TYPE_CHECKING:
    from provision.spec.document import Document


class Readable(Protocol):
    """What reading needs of a document. ``provision.spec.document.Document`` is one."""

    @property
    def root(self) -> dict[str, Any]: ...
    @property
    def base(self) -> dict[str, Any]: ...
    @property
    def override(self) -> dict[str, Any]: ...
    @property
    def plane(self) -> str: ...
    @property
    def env(self) -> str | None: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]: ...
    @property
    def syntax(self) -> tuple[Diagnostic, ...]: ...
    def locate(self, pointer: Pointer, key: bool = False) -> Mark: ...


class Reading(NamedTuple):
    """The desired plane, everything that was wrong with the document, and the places left out of the plane.

    A rule that misses a name should look for it in ``dropped``: there its absence is no second mistake.
    """

    plane: Plane
    diagnostics: tuple[Diagnostic, ...]
    dropped: tuple[Pointer, ...] = ()


@lru_cache(maxsize=8)
def _compiled(sections: tuple[Section, ...]) -> Schema:
    return Schema(compose(sections))


def read(document: Readable, sections: Sequence[Section]) -> Reading:
    """Read every section of a document. Never raises for bad input.

    The diagnostics are those of the document and of reading it, sorted by place, each once.
    """
    with collector_off():
        return _read(document, tuple(sections))


def _read(document: Readable, sections: tuple[Section, ...]) -> Reading:
    schema = _compiled(sections)
    root = {key: value for key, value in document.root.items() if key not in ("plane", "targets")}
    diagnostics: list[Diagnostic] = []
    dropped: list[Pointer] = []
    if document.override and document.is_complete:
        rewrite = Rewrite(root)
        for pointer, help in undeclared(document.base, document.override, schema.json):
            message = f"override of {pointer[-1]}, which is declared nowhere"
            diagnostics.append(Diagnostic("HF0122", "error", document.locate(pointer, key=True), message, help))
            rewrite.drop(pointer)
            dropped.append(pointer)
        root = rewrite.root
    root, findings, pruned = schema.prune(root)
    diagnostics += _silenced(document, findings)
    reader = _Reader(document)
    records: dict[Address, Record] = {}
    for section in sections:
        node = root.get(section.name)
        if node is None:
            continue
        for record in section.read(node, reader):
            if record.address in records:
                reader.collision(records[record.address], record)
            else:
                records[record.address] = record
    plane = Plane(records.values(), name=document.plane, env=document.env or "")
    found = in_order((*document.diagnostics, *diagnostics, *reader.diagnostics))
    return Reading(plane, found, (*dropped, *pruned, *reader.failed))


def read_targets(document: Document) -> tuple[Mapping[tuple[str, str], Target], list[Diagnostic]]:
    """Read the ``targets`` section by (system, name); wrong ones are reported and left out."""
    node = document.root.get("targets")
    if node is None:
        return {}, []
    root, findings, _ = targets_schema().prune({"targets": node})
    diagnostics = _silenced(document, findings)
    found: dict[tuple[str, str], Target] = {}
    for item in targets.parse(root.get("targets") or {}):
        if isinstance(item, Target):
            found[item.system, item.name] = item
        else:
            pointer, error = item
            code = "HF0133" if "password" in str(error) else "HF0210"
            diagnostics.append(Diagnostic(code, "error", document.locate(pointer), str(error), error.help))
    return found, diagnostics


def _silenced(document: Readable, findings: Iterable[Finding]) -> list[Diagnostic]:
    """Turn findings into diagnostics, but for values that the syntax has refused already."""
    refused = {d.mark[:3] for d in document.syntax}
    located = ((f, document.locate(f.pointer, key=f.at_key)) for f in findings)
    return [Diagnostic(f.code, "error", at, f.message, f.help) for f, at in located if at[:3] not in refused]


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sort diagnostics by place and give each once."""
    unique = dict.fromkeys(diagnostics)
    return tuple(sorted(unique, key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message)))


class _Reader:
    """What sections are handed: the document's defaults, and a place for complaints."""

    def __init__(self, document: Readable) -> None:
        self.plane = document.plane
        self.env = document.env or ""
        self.diagnostics: list[Diagnostic] = []
        self.failed: list[Pointer] = []
        self._document = document

    def fail(self, pointer: Pointer, error: FieldError) -> None:
        """Report a value that its type refuses, at its own place."""
        self._add("HF0210", (*pointer, *error.path), str(error), error.help)

    def report(self, code: str, pointer: Pointer, message: str, help: str = "", *, at_key: bool = False) -> None:
        """Report any other mistake of reading."""
        self._add(code, pointer, message, help, at_key=at_key)

    def collision(self, first: Record, second: Record) -> None:
        """Report two declarations of one object."""
        related = Related(self._place(first.origin), "first declared here")
        at = self._place(second.origin)
        message = f"{second.address} is declared twice"
        self.diagnostics.append(Diagnostic("HF0211", "error", at, message, "Keep one of the two.", (related,)))

    def _place(self, origin: Pointer | None) -> Mark:
        return self._document.locate(origin or (), key=True)

    def _add(
        self,
        code: str,
        pointer: Pointer,
        message: str,
        help: str,
        *,
        at_key: bool = False,
    ) -> None:
        at = self._document.locate(pointer, key=at_key)
        self.diagnostics.append(Diagnostic(code, "error", at, message, help))
        self.failed.append(pointer)
