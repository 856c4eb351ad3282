"""The Plan: plain, versioned data that can be printed, saved, reviewed and applied elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from provision.spec.change import Api, Hazard, Request, Sql
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.plan.lower import Work

VERSION = 1


class PlanFileError(InputError):
    """A plan file that this version cannot read."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one object, ready to run. ``object`` and addresses are text forms.

    ``made`` and ``gone`` are the records that the ledger gains and loses when the step is done, ``adopted``
    those of ``made`` that somebody else created.
    """

    id: str
    object: str
    action: str
    system: str
    target: str
    summary: str
    request: Request
    lock: str | None
    hazards: tuple[Hazard, ...]
    transactional: bool
    fresh: bool
    after: tuple[str, ...]
    undo: Request | None
    done_if: str | None
    made: tuple[str, ...]
    gone: tuple[str, ...]
    adopted: tuple[str, ...] = ()

    @classmethod
    def from_work(cls, work: Work, after: tuple[str, ...]) -> Step:
        from provision.plan.order import step_id

        d = work.draft
        return cls(
            id=step_id(work),
            object=str(d.object),
            action=d.action,
            system=d.object.system,
            target=d.object.target,
            summary=d.summary,
            request=d.request,
            lock=d.lock,
            hazards=d.hazards,
            transactional=d.transactional,
            fresh=d.fresh,
            after=after,
            undo=d.undo,
            done_if=d.done_if,
            made=tuple(map(str, work.made)),
            gone=tuple(map(str, work.gone)),
            adopted=tuple(map(str, work.adopted)),
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference worth telling: ``change`` is changed, missing, undeclared, unmanaged, unmodelled, or unseen
    (owned on a target that the environment does not declare).

    ``fields`` maps an option to its live and declared values.
    """

    object: str
    change: str
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps from the live plane to the desired one. ``as_of`` is RFC 3339 UTC.

    ``fingerprint`` covers the live configuration of ``touched``; apply refuses when it no longer fits.
    ``forget`` are addresses in the ledger that lead nowhere any more.
    """

    plane: str
    env: str
    as_of: str
    fingerprint: str
    touched: tuple[str, ...]
    steps: tuple[Step, ...]
    adopt: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    summary: Mapping[str, int] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def is_empty(self) -> bool:
        """Whether no step is left to do."""
        return not self.steps

    @property
    def is_idle(self) -> bool:
        """Whether an apply would do nothing at all: no step, and nothing for the ledger to note."""
        return not (self.steps or self.adopt or self.forget)


def summarise(steps: Iterable[Step]) -> dict[str, int]:
    """Count steps by action."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.action] = counts.get(step.action, 0) + 1
    return counts


def to_json(plan: Plan, consents: Iterable[str]) -> dict[str, Any]:
    """Give the plan as JSON values (the ``plan --format json`` contract)."""
    data = {
        "version": plan.version,
        "plane": plan.plane,
        "env": plan.env,
        "as_of": plan.as_of,
        "fingerprint": plan.fingerprint,
        "touched": list(plan.touched),
        "steps": [_step_json(s) for s in plan.steps],
        "adopt": list(plan.adopt),
        "forget": list(plan.forget),
        "drift": [{"object": d.object, "change": d.change, "fields": dict(d.fields)} for d in plan.drift],
        "consents": list(consents),
        "summary": dict(plan.summary),
    }
    return data | {"seal": _seal(data)}


def from_json(data: Any) -> Plan:
    """Read a saved plan. Raises PlanFileError with what to do."""
    if not isinstance(data, dict) or "steps" not in data:
        raise PlanFileError("not a plan file; write one with: holdfast plan -o plan.json")
    if data.get("version") != VERSION:
        raise PlanFileError(f"plan version {data.get('version')} is not {VERSION}; make the plan again")
    if data.get("seal") != _seal(data):
        raise PlanFileError("the plan file was changed after it was made; make the plan again")
    try:
        return Plan(
            plane=data["plane"],
            env=data["env"],
            as_of=data["as_of"],
            fingerprint=data["fingerprint"],
            touched=tuple(data["touched"]),
            steps=tuple(_step(s) for s in data["steps"]),
            adopt=tuple(data["adopt"]),
            drift=tuple(Drift(d["object"], d["change"], d["fields"]) for d in data["drift"]),
            summary=data["summary"],
            forget=tuple(data["forget"]),
        )
    except (KeyError, TypeError) as error:
        raise PlanFileError(f"damaged plan file ({error}); make the plan again") from error


def _seal(data: Mapping[str, Any]) -> str:
    """Hash everything else in the file: what was reviewed is what runs. It stops edits, not forgers."""
    body = json.dumps({k: v for k, v in data.items() if k != "seal"}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(body.encode()).hexdigest()}"


def dumps(plan: Plan, consents: Iterable[str]) -> str:
    """The plan as stable, readable JSON text."""
    return json.dumps(to_json(plan, consents), indent=2, ensure_ascii=False) + "\n"


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "object": step.object,
        "action": step.action,
        "system": step.system,
        "target": step.target,
        "summary": step.summary,
        "request": _request_json(step.request),
        "lock": step.lock,
        "hazards": [asdict(h) for h in step.hazards],
        "transactional": step.transactional,
        "fresh": step.fresh,
        "after": list(step.after),
        "undo": None if step.undo is None else _request_json(step.undo),
        "done_if": step.done_if,
        "made": list(step.made),
        "gone": list(step.gone),
        "adopted": list(step.adopted),
    }


def _request_json(request: Request) -> dict[str, Any]:
    if isinstance(request, Sql):
        return {"sql": request.text} | ({"secrets": dict(request.secrets)} if request.secrets else {})
    return {"subject": request.subject, "body": request.body} | (
        {"settle": dict(request.settle)} if request.settle else {}
    )


def _request(data: Mapping[str, Any]) -> Request:
    if "sql" in data:
        return Sql(data["sql"], data.get("secrets"))
    return Api(data["subject"], data["body"], data.get("settle"))


def _step(data: Mapping[str, Any]) -> Step:
    return Step(
        id=data["id"],
        object=data["object"],
        action=data["action"],
        system=data["system"],
        target=data["target"],
        summary=data["summary"],
        request=_request(data["request"]),
        lock=data["lock"],
        hazards=tuple(Hazard(**h) for h in data["hazards"]),
        transactional=data["transactional"],
        fresh=data["fresh"],
        after=tuple(data["after"]),
        undo=None if data["undo"] is None else _request(data["undo"]),
        done_if=data["done_if"],
        made=tuple(data["made"]),
        gone=tuple(data["gone"]),
        adopted=tuple(data["adopted"]),
    )
