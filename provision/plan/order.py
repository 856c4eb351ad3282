"""Sort steps by their declared edges: stable, kind-free, and a cycle names its members."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from provision.plan.lower import Work
from provision.spec.ident import Address

#: Without an edge between them, databases come first and the contract last.
_SYSTEMS = {"pg": 0, "nats": 1, "plane": 2}


class CycleError(AssertionError):
    """Steps that wait for each other: a defect of ours, with the members named."""


def step_id(work: Work) -> str:
    """The name of a step, unique inside its plan: object, action, and key where an object has several."""
    draft = work.draft
    return f"{draft.object}#{draft.action}" + (f".{draft.key}" if draft.key else "")


def order(works: Sequence[Work]) -> list[tuple[Work, tuple[str, ...]]]:
    """Give the works in an order that honours every edge, each with the ids it directly waits for."""
    ids = [step_id(w) for w in works]
    if len(set(ids)) != len(ids):
        doubles = sorted({i for i in ids if ids.count(i) > 1})
        raise CycleError(f"two steps bear one name: {', '.join(doubles)}")
    before = _edges(works)
    after: dict[int, list[int]] = defaultdict(list)
    for index, waits in enumerate(before):
        for other in waits:
            after[other].append(index)
    waiting = [len(w) for w in before]
    rank = [(_SYSTEMS.get(w.draft.object.system, 3), i) for i, w in enumerate(works)]
    ready = [rank[i] for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    result: list[tuple[Work, tuple[str, ...]]] = []
    while ready:
        _, index = heapq.heappop(ready)
        result.append((works[index], tuple(ids[i] for i in sorted(before[index]))))
        for follower in after[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, rank[follower])
    if len(result) != len(works):
        raise CycleError(f"steps wait for each other: {' -> '.join(_cycle(before, waiting, ids))}")
    return result


def _edges(works: Sequence[Work]) -> list[set[int]]:
    makers: dict[Address, list[int]] = defaultdict(list)
    destroyers: dict[Address, list[int]] = defaultdict(list)
    alterers: dict[Address, list[int]] = defaultdict(list)
    keys: dict[tuple[Address, str], int] = {}
    for index, work in enumerate(works):
        draft = work.draft
        keys[draft.object, draft.key] = index
        for address in draft.makes:
            makers[address].append(index)
        for address in draft.destroys:
            destroyers[address].append(index)
        if work.alters:
            alterers[draft.object].append(index)
    before: list[set[int]] = [set() for _ in works]
    for index, work in enumerate(works):
        draft = work.draft
        for address in draft.needs:
            before[index].update(makers.get(address, ()))
            before[index].update(alterers.get(address, ()))
        for address in draft.releases:
            for gone in (*destroyers.get(address, ()), *alterers.get(address, ())):
                before[gone].add(index)
        if destroyers:
            for address in draft.makes:
                before[index].update(destroyers.get(address, ()))
        for key in draft.follows:
            before[index].add(keys[draft.object, key])
    for index, waits in enumerate(before):
        waits.discard(index)
    return before


def _cycle(before: list[set[int]], waiting: list[int], ids: list[str]) -> list[str]:
    """Walk back along unmet edges until a step comes up twice."""
    index = next(i for i, count in enumerate(waiting) if count)
    seen: list[int] = []
    while index not in seen:
        seen.append(index)
        index = next(i for i in sorted(before[index]) if waiting[i])
    return [ids[i] for i in [*seen[seen.index(index) :], index]][::-1]
