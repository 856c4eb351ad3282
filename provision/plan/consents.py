"""Named consents: which a plan needs, and which of them were given."""

from __future__ import annotations

import re
from collections.abc import Collection

from provision.plan.plan import Plan
from provision.spec.errors import InputError

_CONSENT = re.compile(r"^[a-z_]+:[a-z]+:[^/\s]+/\S+$")


def is_consent(text: str) -> bool:
    """Whether the text has the form of a consent."""
    return _CONSENT.match(text) is not None


def refuse_malformed(allowed: Collection[str], help: str) -> None:
    """Raise InputError for the first text that has not the form of a consent."""
    for consent in allowed:
        if not is_consent(consent):
            raise InputError(f"{consent} is not a consent", help)


def required(plan: Plan) -> tuple[str, ...]:
    """The consents that the plan's hazards ask for, each once, in step order: ``data_loss:pg:main/agents/state``."""
    wanted = (f"{hazard.kind}:{step.object}" for step in plan.steps for hazard in step.hazards if hazard.needs_consent)
    return tuple(dict.fromkeys(wanted))


def missing(plan: Plan, allowed: Collection[str]) -> tuple[str, ...]:
    """The required consents that were not given. ``adopt:`` of an object covers what lies below it."""
    refuse_malformed(allowed, "Write KIND:ADDRESS, as plan lists it: data_loss:pg:main/s/t.")
    return tuple(c for c in required(plan) if not _covered(c, allowed))


def _covered(consent: str, allowed: Collection[str]) -> bool:
    if consent in allowed:
        return True
    return consent.startswith("adopt:") and any(
        a.startswith("adopt:") and consent.startswith(a.rstrip("/") + "/") for a in allowed
    )
