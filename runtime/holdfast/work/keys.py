"""Steps of work on keys of buckets. Headers say which step wrote a value, and by which decision.

Nobody locks a key. A value that a saga has written counts as held until the saga has ended: other work leaves it
alone and tries again later. Of two decisions that both write a key, the later one wins, in whatever order they come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from holdfast.errors import VersionConflict
from holdfast.kv.entry import CORRELATION, Entry, Position
from holdfast.state.codec import canonical
from holdfast.work.journal import Noted, Prior, Saga
from holdfast.work.steps import KvPut, KvStep

#: "<work>/<step>", with "/undo" behind for what puts the prior value back.
STEP: Final = "Holdfast-Saga-Step"
#: Of a value that was written after the decision: its time in nanoseconds by the database's clock, and the work's id.
ORDER: Final = "Holdfast-Decision"
_UNDO: Final = "/undo"
_RACES, _PAUSE_S = 5, 0.05

#: Asks the journal about a saga: whether it goes on, and when it was completed, as ``Journal.outcome``.
Ask = Callable[[UUID], Awaitable[tuple[bool, int | None]]]


class KeyStore(Protocol):
    """What a step needs of a bucket: ``holdfast.kv.bucket.Bucket`` has it, and ``holdfast.work.owned.OwnedKeys``."""

    @property
    def incarnation(self) -> int: ...

    async def head(self, key: str) -> Entry | None: ...

    async def write(
        self, key: str, value: bytes | None, *, expect: int, headers: Mapping[str, str] = ...
    ) -> Position: ...


class Stores(Protocol):
    """Gives what holds the key of a step, for ``async with``; ``writes`` False only to look at it."""

    def __call__(self, step: KvStep, *, writes: bool = True) -> AbstractAsyncContextManager[KeyStore]: ...


class Stamp(NamedTuple):
    """The headers of a write that follows a decision."""

    tag: str
    order: str
    correlation_id: str

    @classmethod
    def of(cls, work_id: str, number: int, decided_ns: int, correlation_id: str) -> Stamp:
        return cls(f"{work_id}/{number}", _order(decided_ns, work_id), correlation_id)


def place(step: KvStep) -> tuple[str, str]:
    """Work takes its keys in this order, so that two pieces meet at the first key that they share."""
    return step.bucket, step.key


async def prior(store: KeyStore, step: KvStep, ask: Ask, *, expects: bool = True) -> Prior:
    """What the key holds now.

    Raises VersionConflict where the step ``expects`` something else, and while a saga that wrote the key goes on.
    """
    head = await store.head(step.key)
    revision = head.position.revision if head else 0
    if expects and step.expect is not None and step.expect != revision:
        raise VersionConflict(f"the key {step.key} is not at the revision that the step expects")
    order = await _order_of(head, ask)
    if head is None:
        return Prior(Position(store.incarnation, 0), None)
    return Prior(head.origin, head.value, order)


# A saga's ----------------------------------------------------------------------------------------------------


async def apply(store: KeyStore, saga: Saga, noted: Noted) -> None:
    """Write the key unless this step has. Raises VersionConflict where somebody else did."""
    step, before = noted.step, noted.prior
    assert isinstance(step, KvStep)
    assert before is not None
    head = await store.head(step.key)
    if _is_mine(head, saga, noted):
        return
    if not _is_at(head, before):
        raise VersionConflict(f"the key {step.key} was changed by somebody else")
    await store.write(
        step.key, _value(step), expect=_revision(head), headers=_headers(saga, _name(saga.saga_id, noted.number))
    )


async def undo(store: KeyStore, saga: Saga, noted: Noted) -> None:
    """Put the prior value back. Raises VersionConflict where somebody has written since: their value stays.

    A step that seems never to have been written is written over as well: whoever began it may only be late, and
    then finds its expectation gone.
    """
    step, before = noted.step, noted.prior
    assert isinstance(step, KvStep)
    if before is None:
        return
    mine = _name(saga.saga_id, noted.number)
    headers = _headers(saga, mine + _UNDO) | ({ORDER: before.order} if before.order else {})
    for _ in range(_RACES):
        head = await store.head(step.key)
        if _tag(head) == mine + _UNDO or _is_restored(head, before):
            return
        if not (_is_gone(head) or _is_mine(head, saga, noted) or _is_at(head, before)):
            if noted.state != "done" and _tag(head) is not None:
                # Other work writes over no step of a saga that goes on: ours was never written, and cannot be now.
                return
            break
        try:
            await store.write(step.key, before.value, expect=_revision(head), headers=headers)
            return
        except VersionConflict:
            # Our own late write, perhaps: look again.
            continue
    raise VersionConflict(f"the key {step.key} was changed by somebody else since: it is left as it is")


async def is_ours(store: KeyStore, saga: Saga, noted: Noted) -> bool:
    """Whether the key still holds what the step wrote."""
    assert isinstance(noted.step, KvStep)
    return _is_mine(await store.head(noted.step.key), saga, noted)


# After a decision --------------------------------------------------------------------------------------------


async def follow(store: KeyStore, step: KvStep, stamp: Stamp, before: Position | None, ask: Ask) -> None:
    """Write a key of work that is decided; any number of times. ``before`` is where the key stood when looked at.

    What was written since stays, unless it is of an earlier decision or was put back by a saga. Raises VersionConflict
    where others keep writing, and while a saga that wrote the key goes on.
    """
    headers = {STEP: stamp.tag, ORDER: stamp.order, CORRELATION: stamp.correlation_id}
    for attempt in range(_RACES):
        if attempt:
            await asyncio.sleep(_PAUSE_S * 2**attempt)
        head = await store.head(step.key)
        try:
            if await _gives_way(head, stamp, before, ask):
                await store.write(step.key, _value(step), expect=_revision(head), headers=headers)
            return
        except VersionConflict:
            if attempt == _RACES - 1:
                raise


async def _gives_way(head: Entry | None, stamp: Stamp, before: Position | None, ask: Ask) -> bool:
    """Whether the write of a decision replaces what the key holds."""
    if head is None or _is_gone(head):
        return True
    tag = _tag(head)
    if tag == stamp.tag:
        return False
    if before is None or head.origin == before:
        return True
    order = await _order_of(head, ask)
    if order is not None:
        return order < stamp.order
    return tag is not None and tag.endswith(_UNDO)


async def _order_of(head: Entry | None, ask: Ask) -> str | None:
    """Where the work that wrote this stands among the decided; None where no work did, or nobody knows any more.

    Raises VersionConflict where it is a saga that goes on.
    """
    tag = _tag(head)
    if head is None or tag is None:
        return None
    if ORDER in head.headers or tag.endswith(_UNDO):
        return head.headers.get(ORDER)
    work_id = tag.partition("/")[0]
    try:
        saga_id = UUID(work_id)
    except ValueError:
        return None
    is_open, decided_ns = await ask(saga_id)
    if is_open:
        raise VersionConflict(f"a saga that has not ended holds the key {head.key}: try again when it has")
    return None if decided_ns is None else _order(decided_ns, work_id)


# What a head says --------------------------------------------------------------------------------------------


def _order(decided_ns: int, work_id: str) -> str:
    return f"{decided_ns:020d}/{work_id}"


def _name(saga_id: UUID, number: int) -> str:
    return f"{saga_id}/{number}"


def _value(step: KvStep) -> bytes | None:
    return step.value if isinstance(step, KvPut) else None


def _tag(head: Entry | None) -> str | None:
    return head.headers.get(STEP) if head else None


def _revision(head: Entry | None) -> int:
    return head.position.revision if head else 0


def _headers(saga: Saga, tag: str) -> dict[str, str]:
    return {STEP: tag, CORRELATION: str(saga.correlation_id)}


def _is_gone(head: Entry | None) -> bool:
    return head is None or head.operation == "expired"


def _is_at(head: Entry | None, before: Prior) -> bool:
    """Whether nobody has written since; a value that came back to the bucket stands where it stood."""
    return before.value is None if head is None else head.origin == before.position


def _is_mine(head: Entry | None, saga: Saga, noted: Noted) -> bool:
    """Whether the step wrote this. A value that came back to the bucket has lost its tag, and is told by itself."""
    assert isinstance(noted.step, KvStep)
    if _tag(head) == _name(saga.saga_id, noted.number):
        return True
    if head is None or not head.is_moved or noted.prior is None:
        return False
    return head.origin != noted.prior.position and _same(head.value, _value(noted.step))


def _is_restored(head: Entry | None, before: Prior) -> bool:
    """Whether this is the prior value, put back by an attempt before, and come back to the bucket since."""
    return head is not None and head.is_moved and head.origin != before.position and _same(head.value, before.value)


def _same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two values are the same; what comes from the database is spelled canonically."""
    if one is None or other is None or one == other:
        return one == other
    try:
        return canonical(json.loads(one)) == canonical(json.loads(other))
    except ValueError:
        return False
