"""A scenario as text: what is declared before and after, what lives in between, what a person expects of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from provision.plan.plan import Plan, Step

FOLDER = Path(__file__).parent
_CLOCK = "2026-11-21T12:00:00Z"
#: Systems whose statements share a transaction unless a plan says otherwise.
_TRANSACTIONAL = {"pg": True, "nats": False}


@dataclass(frozen=True)
class Expect:
    """``expect.yaml``. No command writes it: a plan of another shape is judged by a person, then edited here.

    ``steps`` is the plan from before to after, see ``shape``; ``consents`` all that it needs. ``rows`` counts
    tables and ``messages`` streams once it is done; ``answers`` maps queries to their rows (a bare value where
    there is one), ``config`` streams (``S``) and consumers (``S/C``) to options in the server's own words.
    ``held`` counts streams before the plan is made: a mirror takes a moment to fill. ``back`` holds the same
    for the way back where something about it matters; else any plan will do and any consent may be needed.
    ``known_gap`` says what the product cannot do yet.
    """

    about: str
    steps: list[Mapping[str, Any]]
    consents: list[str] = field(default_factory=list)
    rows: Mapping[str, int] = field(default_factory=dict)
    messages: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    back: Mapping[str, Any] = field(default_factory=dict)
    known_gap: str | None = None
    req: list[str] = field(default_factory=list)
    clock: str = _CLOCK


_BACK = {"steps", "consents", "rows", "messages", "answers", "config"}


@dataclass(frozen=True)
class Case:
    """One folder. ``rows`` is SQL, ``messages`` maps subjects to how many are published; both come after before.

    ``back.yaml`` stands for before.yaml on the way back: a rename has to be said in each direction.
    """

    name: str
    before: str
    after: str
    back: str
    rows: str
    messages: Mapping[str, int]
    expect: Expect

    @property
    def kind(self) -> str:
        """The kind that the case is about: the folder's name up to the first dash."""
        return self.name.partition("-")[0]

    @property
    def clock(self) -> datetime:
        return datetime.fromisoformat(self.expect.clock).astimezone(UTC)

    @property
    def expect_back(self) -> Expect | None:
        """What is expected of the way back, where that is written down."""
        return Expect(about="the way back", **self.expect.back) if self.expect.back else None


def load(folder: Path) -> Case:
    """Read one case. Raises for a word that expect.yaml does not know, so that a slip of the pen proves nothing."""
    found = yaml.safe_load((folder / "expect.yaml").read_text())
    strange = found.keys() - {f.name for f in fields(Expect)} | (found.get("back") or {}).keys() - _BACK
    assert not strange, f"{folder.name}: unknown in expect.yaml: {sorted(strange)}"
    before, after, back, rows, messages = (
        (folder / name).read_text() if (folder / name).exists() else ""
        for name in ("before.yaml", "after.yaml", "back.yaml", "rows.sql", "messages.yaml")
    )
    return Case(
        folder.name, before, after, back or before, rows, yaml.safe_load(messages) or {}, Expect(**found)
    )  # fmt: skip


def cases() -> list[Case]:
    """Every case, by name."""
    return [load(place.parent) for place in sorted(FOLDER.glob("*/expect.yaml"))]


def shape(plan: Plan) -> list[dict[str, Any]]:
    """What a plan does, without its wording: for each step ``{ACTION: OBJECT}`` and what is out of the ordinary.

    ``lock`` is the strongest one on a relation that exists, ``hazards`` are kinds with what is at stake,
    ``transactional`` appears where it is not usual for the system. The contract, which nearly every plan
    writes, is left out.
    """
    return [_shape(step) for step in plan.steps if step.system != "plane"]


def _shape(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {step.action: step.object}
    if step.lock is not None:
        found["lock"] = step.lock
    if step.hazards:
        found["hazards"] = [h.kind if h.count is None else f"{h.kind} {h.count} {h.unit}" for h in step.hazards]
    if step.transactional != _TRANSACTIONAL[step.system]:
        found["transactional"] = step.transactional
    return found
