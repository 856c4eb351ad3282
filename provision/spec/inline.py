"""A document that never was a file: values from a program, read by the same sections as specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.record import Pointer
from provision.spec.target import Target


class Inline:
    """Values with their pointers for places. What ``reading.read`` needs of a document and no more."""

    is_complete = True
    diagnostics: tuple[Diagnostic, ...] = ()
    syntax: tuple[Diagnostic, ...] = ()

    def __init__(self, root: dict[str, Any], plane: str, env: str, targets: Mapping[tuple[str, str], Target]) -> None:
        self.root = root
        self.base = root
        self.override: dict[str, Any] = {}
        self.plane = plane
        self.env = env
        self.targets = targets
        self._pointers: list[Pointer] = []

    def locate(self, pointer: Pointer, key: bool = False) -> Mark:
        """Give a mark that stands for the pointer; ``pointer`` leads back."""
        self._pointers.append(pointer)
        return Mark(".".join(map(str, pointer)), len(self._pointers), 1)

    def pointer(self, mark: Mark) -> Pointer:
        """The pointer of a mark that ``locate`` gave."""
        return self._pointers[mark.line - 1]
