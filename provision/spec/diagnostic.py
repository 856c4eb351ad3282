"""What check tells people: a stable code, a place, what is wrong and how to mend it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Mark(NamedTuple):
    """A place in a file; line and column count from 1. ``width`` is the length to underline (0 = unknown)."""

    file: str
    line: int
    column: int
    width: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Related(NamedTuple):
    """A second place that a diagnostic speaks of."""

    mark: Mark
    message: str


class Diagnostic(NamedTuple):
    """One finding. ``message`` is one sentence of what is wrong, ``help`` one of how to mend it."""

    code: str
    severity: Severity
    mark: Mark
    message: str
    help: str = ""
    related: tuple[Related, ...] = ()
