"""A Plan as text for a terminal and as Markdown for a pull request. Both are views of the same value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from provision.plan.plan import Drift, Plan, Step
from provision.spec.change import Hazard, Sql

SIGNS = {
    "create": "+", "alter": "~", "update": "~", "write": "~", "drop": "-", "delete": "-", "replace": "±", "rename": "→",
}  # fmt: skip
#: How many adopted or undeclared objects are listed before the rest is counted.
_LISTED = 20
#: How much of a setting is shown.
_SHOWN = 80


def text(plan: Plan, consents: Iterable[str], *, verbose: bool = False) -> str:
    """Render the plan for people; ``verbose`` adds every request."""
    lines = [f"Plan for plane {plan.plane}, environment {plan.env}, as of {plan.as_of}"]
    for step in plan.steps:
        lines.append(f"  {sign(step)} {step.object}: {step.summary}")
        lines += [f"      {line}" for line in _notes(step)]
        if verbose:
            lines += [f"        {line}" for line in request_text(step).splitlines()]
    lines += _listing("Adopt (equal to its declaration, recorded by the next apply)", list(plan.adopt))
    lines += _listing("Forget (in the ledger and gone, or another plane's)", list(plan.forget))
    lines += _listing("Drift", [drift_line(d) for d in plan.drift])
    wanted = list(consents)
    if wanted:
        lines += ["", "Consents needed:", *(f"  --allow {c}" for c in wanted)]
    lines += ["", summary_line(plan)]
    return "\n".join(lines) + "\n"


def markdown(plan: Plan, consents: Iterable[str]) -> str:
    """Render the plan as a pull-request comment."""
    lines = [f"### Holdfast plan: `{plan.plane}` → `{plan.env}`", "", summary_line(plan), ""]
    if plan.steps:
        lines += ["| | object | step | lock | hazards |", "|---|---|---|---|---|"]
        lines += [
            f"| {sign(s)} | `{s.object}` | {s.summary} | {s.lock or ''} | {'<br>'.join(map(_hazard, s.hazards))} |"
            for s in plan.steps
        ]
        lines += ["", "<details><summary>Requests</summary>", "", "```sql"]
        lines += [request_text(s) for s in plan.steps]
        lines += ["```", "", "</details>"]
    for title, entries in (("Adopt", list(plan.adopt)), ("Drift", [drift_line(d) for d in plan.drift])):
        if entries:
            lines += ["", f"**{title}**", *(f"- `{e}`" for e in entries)]
    wanted = list(consents)
    if wanted:
        lines += ["", "**Consents needed**", *(f"- `--allow {c}`" for c in wanted)]
    return "\n".join(lines) + "\n"


def summary_line(plan: Plan) -> str:
    """One sentence: what the plan does, or that nothing is left to do."""
    if plan.is_empty:
        return "No changes: the live plane equals its specs." + (
            f" {len(plan.adopt)} objects to adopt." if plan.adopt else ""
        )
    counts = ", ".join(f"{count} {action}" for action, count in sorted(plan.summary.items()))
    return f"{len(plan.steps)} steps: {counts}."


def sign(step: Step) -> str:
    """The mark that stands before a step."""
    return SIGNS.get(step.action, "*")


def request_text(step: Step) -> str:
    """The exact request: SQL as it is sent, or the API subject with its JSON body."""
    if isinstance(step.request, Sql):
        return step.request.text.rstrip().rstrip(";") + ";"
    body = "" if step.request.body is None else " " + json.dumps(step.request.body, ensure_ascii=False)
    return step.request.subject + body


def drift_line(drift: Drift) -> str:
    """One difference in one line: the object, what happened, live against declared."""
    if not drift.fields:
        return f"{drift.object} is {drift.change}"
    shown = ((name, *values(v["live"], v["declared"])) for name, v in drift.fields.items())
    parts = (f"{name}: {live} live, {declared} declared" for name, live, declared in shown)
    return f"{drift.object} is {drift.change}: {'; '.join(parts)}"


def values(one: object, other: object) -> tuple[str, str]:
    """Two settings in short pieces of JSON, cut so that the place where they differ is shown."""
    first, second = (json.dumps(given, ensure_ascii=False) for given in (one, other))
    start = 0
    if max(len(first), len(second)) > _SHOWN:
        pairs = enumerate(zip_longest(first, second))
        start = max(next((at for at, (a, b) in pairs if a != b), 0) - _SHOWN // 4, 0)
    return _cut(first, start), _cut(second, start)


def _cut(text: str, start: int) -> str:
    rest = f"...{text[start:]}" if start else text
    return rest if len(rest) <= _SHOWN else rest[: _SHOWN - 3] + "..."


def _notes(step: Step) -> Iterator[str]:
    if step.lock is not None:
        yield f"lock: {step.lock}" + ("" if step.transactional else ", outside a transaction")
    for hazard in step.hazards:
        yield f"! {_hazard(hazard)}" + (f" (--allow {hazard.kind}:{step.object})" if hazard.needs_consent else "")


def _hazard(hazard: Hazard) -> str:
    counted = "" if hazard.count is None else f" [{hazard.count:,} {hazard.unit}]"
    return f"{hazard.kind}: {hazard.detail}{counted}"


def _listing(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    shown = [f"  {e}" for e in entries[:_LISTED]]
    rest = len(entries) - len(shown)
    return ["", f"{title}: {len(entries)}", *shown, *([f"  … and {rest} more"] if rest else [])]
