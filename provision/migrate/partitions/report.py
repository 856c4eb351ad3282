"""What maintenance did, would do, or could not do: plain data for people and programs. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["planned", "done", "failed", "held"]


@dataclass(slots=True)
class Action:
    """One thing done to one partition. ``lock`` is the strongest lock on a relation that others may be using.

    ``action`` is create, move (out of the DEFAULT partition), detach, finalize, archive or drop; ``held`` waits
    for a consent. ``held_ms`` is for how many milliseconds the server kept the table under ACCESS EXCLUSIVE.
    """

    object: str
    action: str
    partition: str
    lock: str | None = None
    rows: int | None = None
    file: str | None = None
    state: State = "planned"
    held_ms: float | None = None


@dataclass(slots=True)
class Report:
    """One run over a plane."""

    plane: str
    env: str
    as_of: str
    actions: list[Action] = field(default_factory=list)
    consents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, int]:
        """How many of each action were done."""
        return dict(sorted(Counter(a.action for a in self.actions if a.state == "done").items()))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "summary": self.summary}


@dataclass(slots=True)
class SetStatus:
    """One rolling set as it stands. ``ahead`` counts intervals after the current one, ``default_rows`` is exact."""

    object: str
    every: str
    retain: str | None
    partitions: int
    oldest: str | None
    newest: str | None
    ahead: int
    premake: int
    min_ahead: int
    missing: int
    expired: int
    default_rows: int | None

    @property
    def is_due(self) -> bool:
        """Whether maintenance has something to do."""
        return bool(self.missing or self.expired)
