"""An open plane: its specs read and checked, its servers at hand. What plan, apply, drift and destroy work on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.reconcile.ground import Ground, Progress, guarded
from provision.reconcile.memory import Memory
from provision.reconcile.targets import Note, Targets, reachable
from provision.reconcile.workspace import Workspace
from provision.reconcile.world import World, observe
from provision.spec.errors import ConsentError, InputError, StalePlanError

if TYPE_CHECKING:
    from provision.plan.plan import Plan
    from provision.plan.protocols import Hook
    from provision.reconcile.applying import Outcome
    from provision.spec.record import Plane


@contextmanager
def open_plane(specs: Path, env: str, *, cache: Path, note: Note = lambda text: None) -> Iterator[OpenPlane]:
    """Read the specs of an environment and give the plane to work on; closes every session at the end.

    Raises InputError when the specs hold an error: run check to see where.
    """
    workspace = Workspace(specs, env, cache)
    workspace.refuse_errors()
    targets = Targets(workspace.targets, specs.resolve().parent, env, note)
    try:
        yield OpenPlane(workspace, targets, cache, note)
    finally:
        targets.close()


class OpenPlane:
    """One plane in one environment. Every method is one command's work."""

    def __init__(self, workspace: Workspace, targets: Targets, cache: Path, note: Note) -> None:
        self.workspace = workspace
        self.targets = targets
        self.cache = cache
        self.note = note
        self.name = workspace.name
        self.env = workspace.env
        self.ground = Ground(targets, self.name, self.env, note)

    def observe(self) -> World:
        """Look at every server that the plane uses. Raises UnreachableError and its kin."""
        known = self.workspace
        return observe(self.targets, self.name, self.env, known.passwords, known.queries)

    def plan(self, *, clock: datetime, only: Iterable[str] = ()) -> Plan:
        """Make the plan from live to desired. Nothing is changed anywhere.

        Heavy stages are loaded when the answer is not known already.
        """
        world = self.observe()
        wanted = tuple(only)
        remembered = Memory(self.cache, self.workspace.digest, world.digest, clock)
        known = None if wanted else remembered.recall()
        if known is not None:
            return known
        from provision import registry
        from provision.plan.assemble import assemble
        from provision.reconcile import canonical, gates

        gates.refuse(self.workspace.plane, world, self.workspace.targets)
        desired = self.desired(world)
        spelled = canonical.spelled(self.workspace.plane, desired)
        plan = assemble(desired, world.seen, registry.kinds(), clock, wanted, spelled)
        if plan.is_empty and not wanted:
            remembered.keep(plan)
        return self.ground.counted(plan)

    def destruction(self, *, clock: datetime) -> Plan:
        """The plan that removes everything this plane owns. What was adopted needs a consent of its own."""
        from provision import registry
        from provision.plan.assemble import assemble
        from provision.spec.record import Plane

        world = self.observe()
        plan = assemble(Plane([], name=self.name, env=self.env), world.seen, registry.kinds(), clock)
        return self.ground.counted(guarded(replace(plan, drift=()), world.adopted))

    def desired(self, world: World) -> Plane:
        """The desired plane in canonical form: expressions as the target's server prints them, the contract built."""
        from provision import registry
        from provision.pools import contract
        from provision.reconcile import canonical
        from provision.spec.record import Plane

        plane = canonical.canonicalise(self.workspace.plane, world, self.targets, self.cache, self.note)
        kinds = registry.kinds()
        whole = contract.completed(plane, kinds, world.facts)
        promise = contract.record(whole, reachable(self.workspace.targets, whole), kinds)
        declared = {r.address: r for r in whole if kinds[r.address.kind].nature != "live"}
        records = (declared.get(r.address, r) for r in plane)
        return Plane([*records, promise], name=self.name, env=self.env)

    def apply(
        self, plan: Plan, *, allowed: Collection[str] = (), progress: Progress = lambda text: None,
        hook: Hook = lambda step, phase: None,
    ) -> Outcome:  # fmt: skip
        """Do the steps under the plane's lock. Raises ConsentError, StalePlanError, LockHeld, or a step's error.

        What was done before a failure stays done; another apply finishes the rest.
        """
        from provision.plan import consents
        from provision.reconcile.applying import Outcome

        lacking = consents.missing(plan, allowed)
        if lacking:
            raise ConsentError(lacking)
        if plan.plane != self.name or plan.env != self.env:
            raise InputError(f"the plan is for {plan.plane} in {plan.env}, the specs for {self.name} in {self.env}",
                             "Give the specs and the environment that the plan was made with.")  # fmt: skip
        ground = self.ground
        ledger = ground.ledger
        if plan.is_idle:
            return Outcome(0, 0)
        ledger.prepare()
        with ledger.hold():
            self._refuse_stale(plan)
            ground.resolve_secrets(plan)
            ledger.forget(plan.forget)
            outcome = ground.run(plan, ground.executor(plan, hook, progress))
        if any(step.made for step in plan.steps):
            self._render()
        return outcome

    def status(self) -> dict[str, Any]:
        """Targets, counts of objects by kind, and the latest runs."""
        world = self.observe()
        rows: dict[str, dict[str, int]] = {}
        for column, records in (("declared", self.desired(world)), ("live", world.live)):
            for record in records:
                counts = rows.setdefault(record.address.kind, {"declared": 0, "live": 0, "owned": 0})
                counts[column] += 1
                counts["owned"] += column == "live" and str(record.address) in world.owned
        return {
            "plane": self.name,
            "env": self.env,
            "targets": [
                {"system": s, "target": t, "version": ".".join(map(str, f.version)), "address": self._place(s, t)}
                for (s, t), f in sorted(world.facts.items())
                if s != "plane"
            ],
            "kinds": [{"kind": kind, **{k: str(v) for k, v in row.items()}} for kind, row in sorted(rows.items())],
            "runs": [
                {"started_at": str(r["started_at"]), "status": r["status"], "summary": r["summary"]}
                for r in self.ground.ledger.runs()
            ],
        }

    def _render(self) -> None:
        """Write the files of rendered kinds and say where."""
        from provision.reconcile.rendering import write_pgbouncer

        for path in write_pgbouncer(self.workspace.plane, self.targets, self.note):
            self.note(f"wrote {path}")

    def _refuse_stale(self, plan: Plan) -> None:
        from provision.plan.fingerprint import fingerprint

        world = self.observe()
        if fingerprint(plan.touched, world.live) != plan.fingerprint:
            raise StalePlanError("the live plane has changed since this plan was made; nothing was done",
                                 "Make the plan again: holdfast plan")  # fmt: skip

    def _place(self, system: str, target: str) -> str:
        if system == "pg":
            return self.targets.postgres_settings(target).place
        return self.targets.nats_settings(target).place
