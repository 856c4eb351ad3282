"""A whole plane as one component of a Pulumi program: specs in, resources with their order and guards out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from provision.pulumi import resources
from provision.reconcile.folders import cache_folder
from provision.reconcile.parts import CONTRACT, TYPES, Part, is_rolling, owner
from provision.reconcile.splitting import among_kin, split
from provision.reconcile.workspace import Workspace
from provision.spec.environments import overlay

if TYPE_CHECKING:
    from provision.spec.record import Plane as Records
    from provision.spec.record import Record

#: What lives on when its resource goes, unless its removal is allowed by name. Pools, policies of partitions and the
#: contract hold nothing that is not in the specs.
_KEPT = frozenset(t.name for t in TYPES.values() if t.is_removable and t is not CONTRACT)


class Plane(pulumi.ComponentResource):
    """Every object of a plane's specs, in one environment.

    The specs are read and checked here: a mistake stops the program with ``file:line:col`` before anything is
    registered. One provider holds all targets of the plane.

    Outputs: ``plane``, ``env``, ``contract`` (where it is: ``bucket`` and ``key``), ``connections`` (what a client
    needs to reach the targets, secrets as references) and ``plan`` (by resource, the ordered steps that a preview
    foresees; empty once they are done).
    """

    plane: pulumi.Output[str]
    env: pulumi.Output[str]
    contract: pulumi.Output[Mapping[str, Any]]
    connections: pulumi.Output[Mapping[str, Any]]
    plan: pulumi.Output[Mapping[str, Sequence[str]]]

    def __init__(
        self,
        name: str,
        specs: str | os.PathLike[str] = "specs",
        env: str | None = None,
        *,
        allow: Iterable[str] = (),
        secrets: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None = None,
        targets: pulumi.Input[Mapping[str, Any]] | None = None,
        protect: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Register the plane.

        ``env`` is the stack's name where it is not given, ``allow`` the consents (``KIND:ADDRESS``, as preview names
        them), ``secrets`` values of ``{env: NAME}`` references for machines that lack the variable, ``targets`` lies
        over the environment's targets and may be an output of other resources, ``protect`` guards data from every
        removal. Raises pulumi.RunError for specs with errors.
        """
        super().__init__("holdfast:index:Plane", name, None, opts)
        folder = Path(specs)
        workspace = Workspace(folder, env or pulumi.get_stack(), cache_folder())
        _refuse(workspace)
        self._allow = tuple(allow)
        self._protect = protect
        declared = _over(workspace.document.root.get("targets") or {}, targets)
        self.connections = pulumi.Output.from_input(declared).apply(lambda found: _connections(found, workspace.plane))
        self.provider = resources.Provider(
            name,
            plane=workspace.name,
            env=workspace.env,
            root=os.path.relpath(folder.resolve().parent),
            targets=declared,
            allow=list(self._allow),
            secrets=None if secrets is None else pulumi.Output.secret(secrets),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.resources: Mapping[str, Any] = self._register(name, workspace)
        self._publish(workspace)

    def _register(self, name: str, workspace: Workspace) -> dict[str, Any]:
        """Register every part after those it refers to; the contract last, made of the others' shares."""
        parts = {TYPES[p.type].id(p.inputs): p for p in split(workspace.document.root, workspace.name)}
        needs = _needs(workspace.plane, parts)
        renamed = _renamed(workspace.plane)
        found: dict[str, Any] = {}
        for id in _in_order(parts, needs):
            part = parts[id]
            inputs = dict(part.inputs)
            if TYPES[part.type] is CONTRACT:
                inputs["parts"] = {other: resource.part for other, resource in found.items()}
                inputs["targets"] = self.connections
            options = pulumi.ResourceOptions(
                parent=self,
                provider=self.provider,
                depends_on=[found[other] for other in needs[id]],
                delete_before_replace=True,
                retain_on_delete=part.type in _KEPT and not self._is_allowed_to_go(part, id),
                protect=self._protect and part.type in _KEPT,
                aliases=[pulumi.Alias(name=f"{name}/{among_kin(old, inputs)}") for old in renamed.get(id, ())],
            )
            found[id] = getattr(resources, part.type)(f"{name}/{part.name}", opts=options, **inputs)
        return found

    def _is_allowed_to_go(self, part: Part, id: str) -> bool:
        """Whether every consent was given that its removal needs; where it needs none, whether ``delete`` names it."""
        if not any((a := c.partition(":")[2]) == id or a.startswith(f"{id}/") for c in self._allow):
            return False
        from provision.plan import consents
        from provision.reconcile.portions import Setting, portion, transition

        setting = Setting(self._name, "", {}, cache_folder())
        plan = transition(portion(TYPES[part.type], part.inputs, setting), None, setting)
        if consents.required(plan):
            return not consents.missing(plan, self._allow)
        return any(f"delete:{step.object}" in self._allow for step in plan.steps)

    def _publish(self, workspace: Workspace) -> None:
        from provision.pools.contract import place

        written = self.resources[CONTRACT.id({})]
        self.plane = pulumi.Output.from_input(workspace.name)
        self.env = pulumi.Output.from_input(workspace.env)
        self.contract = written.content.apply(lambda content: place(workspace.name, workspace.env))
        plans = {id: resource.plan for id, resource in self.resources.items()}
        self.plan = pulumi.Output.all(**plans).apply(lambda found: {id: plan for id, plan in found.items() if plan})
        # Not ``plan``: it is empty after an up, and what a component registers must equal what a saved plan foresaw.
        names = ("plane", "env", "contract", "connections")
        self.register_outputs({name: getattr(self, name) for name in names})


def _refuse(workspace: Workspace) -> None:
    """Stop the program where the specs hold errors, with all of them."""
    errors = workspace.errors
    if errors:
        from provision.spec import render

        text = render.text(errors, workspace.document.line)
        raise pulumi.RunError(f"{render.summary(errors)} in {workspace.specs}, environment {workspace.env}\n{text}")


def _needs(plane: Records, parts: Mapping[str, Part]) -> dict[str, list[str]]:
    """For each part those it refers to: what must exist before it."""
    found: dict[str, dict[str, None]] = {id: {} for id in parts}
    for record in plane:
        own = owner(record)
        for address in (*record.refs, *(() if record.parent is None else (record.parent,))):
            other = plane.get(address)
            if other is not None and (above := owner(other)) != own and above in parts and own in parts:
                found[own][above] = None
    contract = CONTRACT.id({})
    found[contract] = dict.fromkeys(id for id in parts if id != contract)
    return {id: list(others) for id, others in found.items()}


def _in_order(parts: Mapping[str, Part], needs: Mapping[str, Sequence[str]]) -> Iterable[str]:
    """Parts after what they need."""
    from graphlib import TopologicalSorter

    return TopologicalSorter({id: needs[id] for id in parts}).static_order()


def _renamed(plane: Records) -> dict[str, list[str]]:
    """Former names of resources by id: of renamed objects, and of what is named after renamed tables and schemas."""
    found: dict[str, list[str]] = {}
    for record in plane:
        own = owner(record)
        if own != str(record.address):
            continue
        if record.renamed_from is not None:
            found.setdefault(own, []).append(record.renamed_from.name)
        table = plane.get(record.parent) if is_rolling(record) and record.parent is not None else None
        if table is not None:
            names = [_former(r) for r in (plane[table.parent], table)] if table.parent is not None else []
            if names != [*table.address.names]:
                found.setdefault(own, []).append(".".join(names))
    return found


def _former(record: Record) -> str:
    return (record.renamed_from or record.address).name


def _over(base: Mapping[str, Any], over: pulumi.Input[Mapping[str, Any]] | None) -> Any:
    """The declared targets with what the program knows of them laid over."""
    return base if over is None else pulumi.Output.from_input(over).apply(lambda known: overlay(base, known))


def _connections(section: Mapping[str, Any], plane: Records) -> dict[str, Any]:
    """How clients reach declared targets; secrets stay references."""
    from provision.reconcile.targets import reachable
    from provision.spec import target as targets

    known = (t for t in targets.parse(section) if isinstance(t, targets.Target))
    return reachable({(t.system, t.name): t for t in known}, plane)
