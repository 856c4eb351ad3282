"""Do the steps of a plan: in order, system by system, the ledger kept true at every moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from provision.plan.plan import Plan, Step
from provision.plan.protocols import ContractStore, Hook, Ledger
from provision.reconcile.targets import Targets
from provision.spec.errors import StalePlanError

#: How much a count may grow between plan and apply before the step is refused.
_GROWTH = 1.1


class Outcome(NamedTuple):
    """What an apply did."""

    steps: int
    adopted: int

    @property
    def sentence(self) -> str:
        if not self.steps and not self.adopted:
            return "nothing to do: the live plane equals its specs"
        adopted = f", {self.adopted} objects adopted" if self.adopted else ""
        return f"done: {self.steps} steps{adopted}"


class Executor:
    """Runs steps against the targets of one plane."""

    def __init__(self, targets: Targets, ledger: Ledger, store: ContractStore, hook: Hook) -> None:
        self.targets = targets
        self.ledger = ledger
        self.store = store
        self.hook = hook

    def run(self, plan: Plan) -> Outcome:
        """Do every step, then record what is adopted. Raises the typed error of the step that failed."""
        for batch in batches(plan.steps):
            self._recount(batch[0])
            if batch[0].system == "pg":
                self._postgres(batch)
            elif batch[0].system == "nats":
                self._nats(batch)
            else:
                self._contract(batch[0])
        if plan.adopt:
            self.ledger.record(plan.adopt, "adopted")
        return Outcome(len(plan.steps), len(plan.adopt))

    def _postgres(self, steps: Sequence[Step]) -> None:
        from provision.postgres.apply import Applier

        connection = self.targets.postgres(steps[0].target)
        Applier(connection, self.ledger, self.targets.resolve, hook=self.hook).run(steps)

    def _nats(self, steps: Sequence[Step]) -> None:
        from provision.nats.apply import Applier

        session = self.targets.nats(steps[0].target)
        Applier(session, self.ledger, hook=self.hook).run(steps)

    def _contract(self, step: Step) -> None:
        """The contract's own request goes to where contracts are kept: the account's bucket, or our schema."""
        self.hook(step.id, "before_send")
        if step.object in step.gone:
            self.store.drop_contract()
        else:
            self.store.perform(step.request)
        self.hook(step.id, "after_send")
        self.hook(step.id, "before_record")
        self.ledger.forget(step.gone)
        self.ledger.record(step.made, "created")
        self.hook(step.id, "done")

    def _recount(self, step: Step) -> None:
        """Count again what a destructive step takes; refuse when it grew by more than a tenth."""
        for hazard in step.hazards:
            if hazard.probe is None or hazard.count is None:
                continue
            now = count(self.targets, step, hazard.probe)
            if now is not None and now > hazard.count * _GROWTH:
                raise StalePlanError(
                    f"{step.object} holds {now:,} {hazard.unit}, {hazard.count:,} when planned; the step was not done",
                    "Plan again and look at the new count.",
                )


def batches(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Split into runs that one system and target can take; a step with a count starts a run of its own. Pure."""
    start = 0
    for index in range(1, len(steps) + 1):
        if index == len(steps) or _parts(steps[index - 1], steps[index]):
            yield steps[start:index]
            start = index


def _parts(before: Step, after: Step) -> bool:
    counted = any(h.probe is not None for h in after.hazards)
    return counted or (before.system, before.target) != (after.system, after.target)


def count(targets: Targets, step: Step, probe: Any) -> int | None:
    """Run a hazard's probe where the step's object lives."""
    if step.system == "pg":
        from provision.postgres.apply import count as count_rows

        found = count_rows(targets.postgres(step.target), probe)
        return None if found is None else found.value
    from provision.nats.apply import count as count_messages

    return count_messages(targets.nats(step.target), probe)
