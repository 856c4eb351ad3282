"""The servers under a plane as something to work on: ledger, lock, contract store, and one run of a plan on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from provision.reconcile.targets import Targets
from provision.spec.errors import OperationError

if TYPE_CHECKING:
    from provision.nats.ledger import Ledger as NatsLedger
    from provision.plan.plan import Plan, Step
    from provision.plan.protocols import ContractStore, Hook, LockedLedger
    from provision.postgres.ledger import PostgresLedger
    from provision.reconcile.applying import Executor, Outcome

Progress = Callable[[str], None]


@dataclass
class Run:
    """One run of the history, and how it will be said to have ended."""

    id: str
    status: str = "done"
    summary: Mapping[str, int] = field(default_factory=dict)


class Ground:
    """The targets of one plane in one environment, and what we keep on them about ourselves."""

    def __init__(self, targets: Targets, plane: str, env: str, note: Callable[[str], None]) -> None:
        self.targets = targets
        self.plane = plane
        self.env = env
        self.note = note

    @property
    def ledger(self) -> LockedLedger:
        """Where ownership, the lock and the runs are kept: in the first database, else in the first account."""
        return self._postgres_ledger if self.targets.names("pg") else self._nats_ledger

    @property
    def store(self) -> ContractStore:
        """Where the contract lives: in NATS, so that the runtime needs one address only; else beside the ledger."""
        return self._nats_ledger if self.targets.names("nats") else self._postgres_ledger

    def counted(self, plan: Plan) -> Plan:
        """Fill in how many rows or messages each hazard puts at stake."""
        if not any(h.probe for s in plan.steps for h in s.hazards):
            return plan
        return replace(plan, steps=tuple(self._count(s) for s in plan.steps))

    def resolve_secrets(self, plan: Plan) -> None:
        """Find every secret before the first step, so that a missing one stops nothing half-way."""
        for step in plan.steps:
            for reference in (getattr(step.request, "secrets", None) or {}).values():
                self.targets.resolve(reference)

    def executor(self, plan: Plan, hook: Hook, progress: Progress) -> Executor:
        """What does the plan's steps; the ledger is prepared and its lock is held by the caller."""
        from provision.reconcile.applying import Executor

        summaries = {s.id: s.summary for s in plan.steps}

        def both(step: str, phase: str) -> None:
            hook(step, phase)
            if phase == "done":
                progress(summaries[step])

        return Executor(self.targets, self.ledger, self.store, both)

    def run(self, plan: Plan, executor: Executor) -> Outcome:
        """Do the plan as a run of the history. What was done before a failure stays done."""
        with self.recorded(plan.fingerprint) as run:
            outcome = executor.run(plan)
            run.summary = {**plan.summary, "adopted": outcome.adopted}
        return outcome

    @contextmanager
    def recorded(self, fingerprint: str, so_far: Callable[[], Mapping[str, int]] = dict) -> Iterator[Run]:
        """Note a run in the ledger's history: that it begins, and how it ends. ``so_far`` is told of one cut short."""
        ledger = self.ledger
        run = Run(ledger.start_run(fingerprint))
        try:
            yield run
        except KeyboardInterrupt:
            ledger.finish_run(run.id, "interrupted", so_far())
            raise
        except Exception:
            self._note_failure(run.id, so_far())
            raise
        ledger.finish_run(run.id, run.status, run.summary)

    def _note_failure(self, run: str, summary: Mapping[str, int]) -> None:
        """Record the failure where the ledger still answers; the error itself matters more than this note."""
        try:
            self.ledger.finish_run(run, "failed", summary)
        except (OperationError, OSError):
            self.note("the run could not be marked as failed: the ledger does not answer")

    def _count(self, step: Step) -> Step:
        from provision.reconcile.applying import count

        hazards = tuple(
            replace(h, count=count(self.targets, step, h.probe)) if h.probe is not None else h for h in step.hazards
        )
        return replace(step, hazards=hazards)

    @cached_property
    def _postgres_ledger(self) -> PostgresLedger:
        from provision.postgres.ledger import PostgresLedger

        return PostgresLedger(self.targets.postgres(self.targets.names("pg")[0]), self.plane, self.env)

    @cached_property
    def _nats_ledger(self) -> NatsLedger:
        from provision.nats.ledger import Ledger

        holder = f"{self.targets.who}, pid {os.getpid()} on {socket.gethostname()}"
        return Ledger(self.targets.nats(self.targets.names("nats")[0]), self.plane, self.env, holder=holder)


def guarded(plan: Plan, adopted: Collection[str]) -> Plan:
    """Ask a consent for whatever the plan removes that the plane adopted and did not create. Pure."""
    return replace(plan, steps=tuple(_guarded(s, adopted) for s in plan.steps))


def _guarded(step: Step, adopted: Collection[str]) -> Step:
    # The contract and what lives in it are made of the specs alone.
    mine = [a for a in step.gone if a in adopted and not a.startswith("plane:")]
    if not mine:
        return step
    from provision.spec.change import Hazard

    note = Hazard("delete", f"{step.object} was adopted, not created, by this plane")
    return replace(step, hazards=(*step.hazards, note))
