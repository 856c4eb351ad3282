"""Turn record-grain changes into statement-grain drafts by asking each kind. Every change is absorbed exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from provision.spec.change import Change, Draft, Hazard, Lowered
from provision.spec.ident import Address
from provision.spec.kind import Kind
from provision.spec.record import Facts, Plane, Record


class Scene(NamedTuple):
    """The Context that kinds see while they lower."""

    desired: Plane
    live: Plane
    changes: Mapping[Address, Change]
    known: Mapping[tuple[str, str], Facts]

    def facts(self, address: Address) -> Facts:
        return self.known[address.system, address.target]


class Work(NamedTuple):
    """A draft together with the changes it realises: what the ledger records when it is done.

    ``alters`` says that dependents of the object must be out of the way while the draft runs; ``adopted`` are
    those of ``made`` that somebody else created.
    """

    draft: Draft
    made: tuple[Address, ...]
    gone: tuple[Address, ...]
    alters: bool = False
    adopted: tuple[Address, ...] = ()


#: New address -> the one in the ledger, and the renamed object by whose rename it changes.
Carried = Mapping[Address, tuple[Address, Address]]


class LoweringError(AssertionError):
    """A kind absorbed a change twice or forgot one: a defect of ours, never of the spec."""


_RANK = {"delete": 0, "rename": 1}


def lower(
    scene: Scene,
    kinds: Mapping[str, Kind],
    foreign: frozenset[Address] = frozenset(),
    moved: Carried | None = None,
    adopted: frozenset[Address] = frozenset(),
) -> list[Work]:
    """Give the drafts for all changes, unordered but in a stable sequence.

    Changes of declared kinds are absorbed by the contract's own change. ``foreign`` are changed objects
    that the plane does not own: their drafts need a consent. ``moved`` are the owned objects that
    get another address with a renamed one, ``adopted`` those of them that the plane did not create.
    """
    absorbed: dict[Address, Address] = {}
    works: list[Work] = []
    changes = scene.changes
    for address in sorted(changes, key=lambda a: (len(a.path), _RANK.get(changes[a].action, 2))):
        if address in absorbed or kinds[address.kind].nature != "live":
            continue
        lowered = kinds[address.kind].lower(changes[address], scene)
        for taken in lowered.absorbs:
            if taken in absorbed:
                raise LoweringError(f"{taken} is absorbed by {address} and by {absorbed[taken]}")
            absorbed[taken] = address
        change = changes[address]
        alters = change.action in ("update", "rename") and (
            kinds[address.kind].impact(change, scene.facts(address)) == "alter"
        )
        works.extend(_works(lowered, changes, foreign, moved or {}, adopted, alters))
    missed = [a for a in changes if a not in absorbed and kinds[a.kind].nature == "live"]
    if missed:
        raise LoweringError(f"not absorbed: {', '.join(map(str, missed[:5]))}")
    return works


def _works(
    lowered: Lowered,
    changes: Mapping[Address, Change],
    foreign: frozenset[Address],
    moved: Carried,
    adopted: frozenset[Address],
    alters: bool,
) -> list[Work]:
    if not lowered.drafts:
        return []
    taken = [changes[a] for a in lowered.absorbs]
    renamed = {c.address for c in taken if c.action == "rename"}
    carried = {new: old for new, (old, carrier) in moved.items() if carrier in renamed} if renamed else {}
    made = tuple(dict.fromkeys((*(c.address for c in taken if c.after is not None), *carried)))
    gone = (*(c.address for c in taken if c.action == "delete"), *carried.values())
    own = set(lowered.absorbs)
    stranger = any(a in foreign for a in own)
    remade = any(d.destroys for d in lowered.drafts)
    works = []
    for index, draft in enumerate(lowered.drafts):
        needs, releases = _edges(draft, taken, remade, changes)
        enriched = replace(
            draft,
            hazards=(*draft.hazards, *_estrangement(draft, taken[0])) if stranger and index == 0 else draft.hazards,
            needs=tuple(dict.fromkeys((*draft.needs, *(a for a in needs if a not in own)))),
            releases=tuple(dict.fromkeys((*draft.releases, *(a for a in releases if a not in own)))),
        )
        works.append(Work(enriched, (), (), alters))
    theirs = tuple(a for a in made if a in foreign or a in adopted)
    works[-1] = works[-1]._replace(made=made, gone=gone, adopted=theirs)
    return works


def _edges(
    draft: Draft, taken: list[Change], remade: bool, changes: Mapping[Address, Change]
) -> tuple[list[Address], list[Address]]:
    """What a draft needs and releases by the references of the records that it realises.

    A maker needs what the new record references, a remover releases what the old one referenced, and a
    change in place needs the first and releases what only the second has.
    """
    new = [a for c in taken if c.after is not None for a in _references(c.after)]
    old = [a for c in taken if c.before is not None for a in _references(c.before)]
    if draft.destroys and not draft.makes:
        parents = {c.record.parent for c in taken if c.record.parent is not None}
        return [p for p in parents if p in changes and changes[p].action == "rename"], old
    if remade and not draft.destroys:
        return new, []
    kept = set(new)
    return new, [a for a in old if a not in kept]


def _references(record: Record) -> tuple[Address, ...]:
    return record.refs if record.parent is None else (*record.refs, record.parent)


def _estrangement(draft: Draft, change: Change) -> Iterator[Hazard]:
    """What changing or pruning an object that is not ours asks for; one consent is enough to drop it."""
    if change.action != "delete":
        detail = f"{draft.object} exists, differs from its declaration and is not owned by this plane"
        yield Hazard("adopt", detail)
    elif not any(h.needs_consent for h in draft.hazards):
        yield Hazard("delete", f"{draft.object} is not declared and not owned by this plane")
