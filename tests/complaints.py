"""A Reader that remembers what it is told, for tests that read a section without a whole document."""

from __future__ import annotations

from provision.spec.fields import FieldError
from provision.spec.record import Pointer


class Complaints:
    """What was wrong, as (pointer, message)."""

    plane = "agents"
    env = "test"

    def __init__(self) -> None:
        self.found: list[tuple[Pointer, str]] = []

    def fail(self, pointer: Pointer, error: FieldError) -> None:
        self.found.append(((*pointer, *error.path), str(error)))

    def report(self, code: str, pointer: Pointer, message: str, help: str = "", *, at_key: bool = False) -> None:
        self.found.append((pointer, message))
