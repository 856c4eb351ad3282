"""Remember that a plan was empty. A hit skips only work whose inputs are all equal: specs, world, hour, our code."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from provision.plan.consents import required
from provision.plan.plan import Plan, PlanFileError, from_json, to_json

#: How many empty plans are kept; the oldest go first.
_KEPT = 32


class Memory:
    """One remembered plan, keyed by what it depends on.

    Partition windows open at whole hours of UTC at the earliest, so an instant counts by its hour.
    """

    def __init__(self, cache: Path, specs: str, world: str, clock: datetime) -> None:
        hour = clock.astimezone(UTC).strftime("%Y-%m-%dT%H")
        key = hashlib.sha256("\n".join((specs, world, hour)).encode()).hexdigest()
        self.clock = clock
        self.path = cache / "plans" / f"{key}.json"

    def recall(self) -> Plan | None:
        """The empty plan that these inputs gave before, dated now; None when unknown or damaged."""
        try:
            found = from_json(json.loads(self.path.read_text()))
        except (OSError, ValueError, PlanFileError):
            return None
        return replace(found, as_of=self.clock.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def keep(self, plan: Plan) -> None:
        """Remember an empty plan. A cache that cannot be written is no reason to fail."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self.path.parent)
            with os.fdopen(handle, "w") as file:
                json.dump(to_json(plan, required(plan)), file)
            Path(name).replace(self.path)
            known = sorted(self.path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
            for old in known[:-_KEPT]:
                old.unlink(missing_ok=True)
        except OSError:
            return
