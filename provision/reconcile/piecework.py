"""Plan and apply a plane part by part, under one lock that is held from the first write to the end of the process.

A front end that is asked object by object (``pulumi``) works through this. Calls come from many threads; one thread
does them. Writes that wait together are planned and applied together, so that a level of the front end's graph costs
one look at the servers; where that fails, each is done alone, so that an error stays with the part it belongs to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from provision import registry
from provision.plan.protocols import LockHeld
from provision.pools import contract
from provision.reconcile import parts
from provision.reconcile.ground import Ground, guarded
from provision.reconcile.portions import Portion, Setting, Told, drifted, portion, told
from provision.reconcile.targets import Note, Targets, reachable
from provision.reconcile.world import World, observe
from provision.spec.errors import ConsentError, HoldfastError, InputError, OperationError, UnreachableError
from provision.spec.record import Facts, Plane, Record

if TYPE_CHECKING:
    from provision.plan.assemble import Seen
    from provision.plan.plan import Plan, Step

#: How long a write waits for others to be done with it.
_GATHER_S = 0.01
#: How long an end waits for the step under way: the engine kills a provider soon after it asked it to end.
_CLOSING_S = 1.5
#: For so long what was seen counts; after a write of our own it never does.
_FRESH_S = 5.0


class Cancelled(OperationError):
    """The run was stopped; what was done stays done."""


@dataclass(frozen=True)
class Work:
    """One thing to do: bring a part to ``wanted``, from ``before`` where the front end knows of an earlier state.

    Without ``wanted`` the part is removed.
    """

    id: str
    wanted: Portion | None
    before: Portion | None = None
    #: Of the contract: the shares of all other parts.
    shares: Sequence[contract.Share] = ()
    #: Whether a person has named what lives as the plane's own: it was imported, or is asked to go.
    is_claimed: bool = False


class Done(NamedTuple):
    """What was done, or in a preview would be."""

    steps: tuple[Step, ...]
    share: contract.Share | None
    content: Mapping[str, Any] | None = None


class Live(NamedTuple):
    """A part as it lives."""

    inputs: dict[str, Any]
    share: contract.Share
    content: Mapping[str, Any] | None = None


@dataclass
class _Task:
    run: Callable[[], Any]
    work: Work | None
    apply: bool
    future: Future[Any] = field(default_factory=Future)


class Piecework:
    """One plane in one environment, part by part. ``close`` ends it and gives up the lock."""

    def __init__(
        self, setting: Setting, targets: Targets, allowed: Collection[str], note: Note, *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.setting = setting
        self._clock = clock
        self.targets = targets
        self.allowed = frozenset(allowed)
        self.note = note
        self.ground = Ground(targets, setting.plane, setting.env, note)
        self._held = ExitStack()
        self._is_held = False
        self._cancelled = threading.Event()
        self._seen: tuple[float, World] | None = None
        self._spoken: tuple[World, Told] | None = None
        self._passwords: dict[str, dict[str, Any]] = {}
        self._unreachable: HoldfastError | None = None
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work_off, name="piecework", daemon=True)
        self._thread.start()

    # Called from any thread -------------------------------------------------------------------------------

    def apply(self, work: Work) -> Done:
        """Do it now. Raises ConsentError, LockHeld, UnreachableError and the typed error of a failed step."""
        return self._do_one(work, apply=True)

    def preview(self, work: Work) -> Done:
        """Say what would be done to the live servers. Raises UnreachableError: of all parts after the first."""
        return self._do_one(work, apply=False)

    def look(self, id: str, known: Portion | None, type: parts.PartType) -> Live | None:
        """Give a part as it lives; None where it is not. Without ``known`` as a person would write it."""
        found: Live | None = self._ask(_Task(lambda: self._look(id, known, type), None, apply=False))
        return found

    def left(self, work: Work) -> Live | None:
        """After a failed create: the part as it lives, where the plane owns some of it by now."""
        found: Live | None = self._ask(_Task(lambda: self._left(work), None, apply=False))
        return found

    def cancel(self) -> None:
        """Stop before the next step."""
        self._cancelled.set()

    def close(self) -> None:
        """Finish what is being done, then give up the lock and every session."""
        self._tasks.put(None)
        self._thread.join(timeout=_CLOSING_S)
        self._cancelled.set()
        deadline = time.monotonic() + _CLOSING_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            # A long statement: let the server end it, or it would keep our lock. One that is tried again ends again.
            self.targets.interrupt()
            self._thread.join(timeout=_CLOSING_S / 5)

    def _do_one(self, work: Work, *, apply: bool) -> Done:
        if _is_declared(work):  # a pool lives in the contract: no server holds it
            return Done((), self._share(work, None))
        done: Done = self._ask(_Task(lambda: None, work, apply))
        return done

    def _ask(self, task: _Task) -> Any:
        if self._cancelled.is_set():
            raise Cancelled("the run was cancelled", "Run it again: what was done stays done.")
        self._tasks.put(task)
        return task.future.result()

    # The one thread ---------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        while (task := self._tasks.get()) is not None:
            tasks = [task, *self._waiting()] if task.work is not None else [task]
            ends = tasks[-1] is None
            todo = [t for t in tasks if t is not None]
            for group in ([t for t in todo if t.apply], [t for t in todo if t.work and not t.apply]):
                self._together(group)
            for single in (t for t in todo if t.work is None):
                _fulfil(single, single.run)
            if ends:
                break
        try:
            self._held.close()
        except HoldfastError as error:
            self.note(f"the lock could not be given up: {error}")
        finally:
            self.targets.close()

    def _waiting(self) -> Iterator[_Task | None]:
        """What else is asked by now; ends with None where the end was asked for."""
        deadline = time.monotonic() + _GATHER_S
        while True:
            try:
                task = self._tasks.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                return
            yield task
            if task is None:
                return

    def _together(self, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        apply = tasks[0].apply
        try:
            results = self._do([t.work for t in tasks if t.work], apply)
        except Exception as error:
            if len(tasks) == 1 or self._cancelled.is_set() or isinstance(error, UnreachableError | LockHeld):
                for task in tasks:
                    task.future.set_exception(error)
                return
            for task in tasks:
                work = task.work
                assert work is not None
                _fulfil(task, lambda work=work: self._do([work], apply)[0])  # type: ignore[misc]
            return
        for task, result in zip(tasks, results, strict=True):
            task.future.set_result(result)

    def _do(self, works: Sequence[Work], apply: bool) -> list[Done]:
        if apply:
            self._hold()
        elif self._unreachable is not None:
            raise self._unreachable
        try:
            world = self._world(works, fresh=apply and self._seen is None)
        except HoldfastError as error:
            if not apply:
                self._unreachable = error
            raise
        claimed = _claimed(works, world)
        plan, wanted = self._plan(works, world, claimed)
        if apply:
            self._run(plan, claimed)
        objects = [_objects(w, wanted[w.id], world) for w in works]
        shared = zip(works, _shared_out(plan.steps, objects), strict=True)
        return [self._done(w, wanted[w.id], steps, world) for w, steps in shared]

    def _hold(self) -> None:
        """Take the plane's lock for good; nothing seen before counts."""
        if not self._is_held:
            ledger = self.ground.ledger
            ledger.prepare()
            self._held.enter_context(ledger.hold())
            self._is_held, self._seen = True, None

    def _run(self, plan: Plan, claimed: Collection[str]) -> None:
        from provision.plan import consents

        lacking = consents.missing(plan, self.allowed)
        if lacking:
            raise ConsentError(lacking)
        if claimed:
            self.ground.ledger.record(claimed, "adopted")
            self._seen = None
        if plan.is_idle:
            return
        self.ground.resolve_secrets(plan)
        try:
            self.ground.run(plan, self.ground.executor(plan, self._hook, lambda text: None))
        finally:
            self._seen = None

    def _hook(self, step: str, phase: str) -> None:
        if phase == "before_send" and self._cancelled.is_set():
            raise Cancelled("the run was cancelled", "Run it again: what was done stays done.")

    def _world(self, works: Iterable[Work] = (), *, fresh: bool = False) -> World:
        for work in works:
            for record in work.wanted.records if work.wanted is not None else ():
                if record.address.kind == "role" and record.settings.get("password") is not None:
                    known = self._passwords.setdefault(record.address.target, {})
                    if known.get(record.address.name) != record.settings["password"]:
                        known[record.address.name] = record.settings["password"]
                        fresh = True
        now = time.monotonic()
        if self._seen is None or fresh or now - self._seen[0] > _FRESH_S:
            world = observe(self.targets, self.setting.plane, self.setting.env, self._passwords)
            self._seen = now, world
        return self._seen[1]

    # Planning ---------------------------------------------------------------------------------------------

    def _plan(
        self, works: Sequence[Work], world: World, claimed: Collection[str]
    ) -> tuple[Plan, dict[str, tuple[Record, ...]]]:
        from provision.plan.assemble import assemble, renamed
        from provision.reconcile import canonical, gates

        declared = {w.id: self._records(w, world) for w in works}
        plane = self._plane(r for records in declared.values() for r in records)
        gates.refuse(plane, world, self.targets.targets)
        canon = self._canonical(plane, world)
        places = {r.address[:2] for r in plane} | {r.address[:2] for r in world.live if _mine(works, r)}
        near = [r for r in world.live if r.address[:2] in places]
        named = renamed(canon, self._plane(near), registry.kinds()).plane
        gone = {r.address for r in near if _mine(works, r) and r.address not in canon}
        # With a table goes the set of its partitions, though its policy is a part of its own.
        rest = [r for r in named if not _mine(works, r) and r.address not in plane and r.parent not in gone]
        desired = self._plane([*rest, *canon])
        seen = self._near(world, near)
        seen = seen._replace(owned={*seen.owned, *claimed}, adopted={*seen.adopted, *claimed})
        plan = assemble(desired, seen, registry.kinds(), self._clock(), (), canonical.spelled(plane, canon))
        own = {str(a) for a in plane.records}
        plan = replace(plan, adopt=tuple(a for a in plan.adopt if a in own), forget=(), drift=())
        if any(w.wanted is None for w in works):
            plan = guarded(plan, seen.adopted)
        wanted = {key: tuple(canon[r.address] for r in records) for key, records in declared.items()}
        return self.ground.counted(plan), wanted

    def _canonical(self, plane: Plane, world: World) -> Plane:
        """Expressions as the target prints them. A policy whose table is another part's has none of its own."""
        from provision.reconcile import canonical

        whole = self._plane(r for r in plane if not parts.is_rolling(r) or r.parent in plane.records)
        canon = canonical.canonicalise(whole, world, self.targets, self.setting.cache, self.note)
        return self._plane({**plane.records, **canon.records}.values())

    def _near(self, world: World, near: Sequence[Record]) -> Seen:
        """What was seen, narrowed to the targets at hand: cost grows with the change."""
        return world.seen._replace(live=self._plane(near))

    def _records(self, work: Work, world: World) -> tuple[Record, ...]:
        """The records that are wanted, completed by what only the servers or other parts know."""
        found = work.wanted
        if found is None or not found.type.is_ours(found.inputs):
            return ()
        if found.type is parts.CONTRACT:
            return tuple(contract.declared_records(self._content(work, world)))
        return found.type.completed(found.records, world.live)

    def _content(self, work: Work, world: World) -> dict[str, Any]:
        assert work.wanted is not None
        setting = self.setting
        own = contract.share(self._completed(work.wanted.records, world.facts), registry.kinds())
        shares = [*work.shares, own]
        reach = work.wanted.inputs.get("targets") or reachable(setting.targets, contract.pools(shares))
        return contract.content(setting.plane, setting.env, reach, shares)

    def _done(self, work: Work, records: tuple[Record, ...], steps: tuple[Step, ...], world: World) -> Done:
        if work.wanted is None:
            return Done(steps, None)
        if work.wanted.type is parts.CONTRACT:
            return Done(steps, None, self._content(work, world))
        return Done(steps, self._share(work, world, records or work.wanted.records))

    def _share(self, work: Work, world: World | None, records: Sequence[Record] | None = None) -> contract.Share | None:
        if work.wanted is None:
            return None
        found = work.wanted.records if records is None else records
        owns = work.wanted.type.owns(work.wanted.inputs)
        facts = world.facts if world is not None else {}
        return contract.share(filter(owns, self._completed(found, facts)), registry.kinds())

    def _completed(self, records: Iterable[Record], facts: Mapping[tuple[str, str], Facts]) -> Plane:
        return contract.completed(self._plane(records), registry.kinds(), facts)

    def _plane(self, records: Iterable[Record]) -> Plane:
        return Plane(records, name=self.setting.plane, env=self.setting.env)

    # Looking ----------------------------------------------------------------------------------------------

    def _look(self, id: str, known: Portion | None, type: parts.PartType) -> Live | None:
        if type.is_declared:
            if known is None:
                raise InputError("a pool is written into the contract, not imported", "Run up: it is written anew.")
            return Live(dict(known.inputs), self._known_share(known))
        world = self._world([Work(id, known)])
        if type is parts.CONTRACT:
            return self._look_at_contract(id, known, world)
        inputs = dict(known.inputs) if known is not None else type.from_id(id)
        owns, primary = type.owns(inputs), type.primary(inputs)
        if primary not in world.live if primary is not None else not any(map(owns, world.live)):
            return None
        spoken = self._speak(world)
        # After a rename the id is the one that the object was made with.
        found = spoken.inputs.get((type.name, type.id(inputs)))
        if known is None:
            if found is None:
                raise InputError(f"{id} belongs to no plane that could be written as a spec",
                                 "Another plane has marked it as its own, or it is part of the system.")  # fmt: skip
            fresh = Work(id, portion(type, found, self.setting))
            return Live(found, self._compared(fresh, found, world, spoken).share)
        return self._compared(Work(id, known), found, world, spoken)

    def _left(self, work: Work) -> Live | None:
        found = work.wanted
        assert found is not None
        world = self._world([work])
        made = (r.address for r in found.records if r.address in world.live)
        return self._look(work.id, found, found.type) if any(str(a) in world.owned for a in made) else None

    def _compared(self, work: Work, found: Mapping[str, Any] | None, world: World, spoken: Told) -> Live:
        from provision.plan.assemble import compare
        from provision.plan.scope import hands_off
        from provision.reconcile import canonical

        assert work.wanted is not None
        plane = self._plane(self._records(work, world))
        canon = self._canonical(plane, world)
        above = {r.parent for r in canon}
        near = [r for r in world.live if r.address in above or _mine([work], r)]
        rest = [r for r in near if not _mine([work], r) and r.address not in plane]
        compared = compare(self._plane([*rest, *canon]), self._near(world, near), registry.kinds(), self._clock(),
                           canonical.spelled(plane, canon))  # fmt: skip
        found_changes = compared.difference.changes
        others = hands_off(found_changes, compared.wanted, compared.live)
        for address in others:
            self.note(f"{address} is not as declared; migrations own the DDL of its schema")
        owns = work.wanted.type.owns(work.wanted.inputs)
        ours = {a: c for a, c in found_changes.items() if a in canon or owns(c.record)}
        # What goes with something that goes is not told.
        changes = [
            c for a, c in ours.items() if a not in others and c.record.parent not in (ours.keys() - canon.records)
        ]
        if not changes:
            return Live(dict(work.wanted.inputs), self._share_of(work, world, canon))
        inputs = drifted(work.wanted, changes, found, spoken.places)
        # The contract is told of what the inputs say now: an up that finds no difference keeps the share.
        now = Work(work.id, portion(work.wanted.type, inputs, self.setting))
        return Live(inputs, self._share_of(now, world, self._canonical(self._plane(self._records(now, world)), world)))

    def _share_of(self, work: Work, world: World, canon: Plane) -> contract.Share:
        assert work.wanted is not None
        share = self._share(work, world, tuple(canon) or work.wanted.records)
        assert share is not None
        return share

    def _look_at_contract(self, id: str, known: Portion | None, world: World) -> Live | None:
        if known is None:
            raise InputError("a contract is written into its bucket, not imported", "Run up: it is written anew.")
        if world.stored is None:
            return None
        shares = [contract.decode(part) for part in (known.inputs.get("parts") or {}).values()]
        content = self._content(Work(id, known, shares=shares), world)
        strange = sorted(key for key in {**content, **world.stored} if content.get(key) != world.stored.get(key))
        drift = {parts.DRIFT: [f"{id}: {key} is not as declared" for key in strange]} if strange else {}
        return Live({**known.inputs, **drift}, contract.Share(0, {}), world.stored)

    def _known_share(self, known: Portion) -> contract.Share:
        share = self._share(Work("", known), None)
        assert share is not None
        return share

    def _speak(self, world: World) -> Told:
        """What lives as a person would write it, made once for each look."""
        from provision.reconcile import importing, writing

        if self._spoken is None or self._spoken[0] is not world:
            taken = importing.take(world, (), (), self._clock(), is_whole=True)
            self._spoken = world, told(writing.speak(taken.shown, registry.kinds()), self.setting.plane)
        return self._spoken[1]


def _objects(work: Work, records: Iterable[Record], world: World) -> set[str]:
    """What a work speaks for: what it wants, and what lives of its part."""
    return {str(r.address) for r in records} | {str(r.address) for r in world.live if _mine([work], r)}


def _shared_out(steps: Iterable[Step], objects: Sequence[Collection[str]]) -> list[tuple[Step, ...]]:
    """Give each work its steps, and with them what they drag along of parts that nobody works on."""
    own = [next((i for i, known in enumerate(objects) if s.object in known), None) for s in steps]
    current = next((i for i in own if i is not None), 0)
    found: list[list[Step]] = [[] for _ in objects]
    for step, i in zip(steps, own, strict=True):
        current = current if i is None else i
        found[current].append(step)
    return [tuple(mine) for mine in found]


def _fulfil(task: _Task, run: Callable[[], Any]) -> None:
    try:
        task.future.set_result(run())
    except Exception as error:
        task.future.set_exception(error)


def _is_declared(work: Work) -> bool:
    found = work.wanted or work.before
    return found is not None and found.type.is_declared


def _mine(works: Iterable[Work], record: Record) -> bool:
    """Whether a record belongs to what is worked on; with a part that goes, everything below it goes."""
    for work in works:
        for side in (work.wanted, work.before):
            if side is not None and side.type.owns(side.inputs)(record):
                return True
            if side is not None and work.wanted is None and _within(record, side):
                return True
    return False


def _claimed(works: Iterable[Work], world: World) -> frozenset[str]:
    """What lives, is nobody's by the ledger, and is now taken for adopted."""
    records = (r.address for w in works if w.is_claimed and w.before is not None for r in w.before.records)
    return frozenset(str(a) for a in records if a in world.live and a not in world.foreign) - world.owned.keys()


def _within(record: Record, side: Portion) -> bool:
    """Whether a record lies below a part, though another part may speak for it: a set of partitions does."""
    primary = side.type.primary(side.inputs)
    if primary is None:
        return parts.is_rolling(record) and str(record.address).startswith(f"{side.type.id(side.inputs)}/")
    return record.address.within(primary)
