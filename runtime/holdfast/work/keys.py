"""Steps of a saga on keys of buckets. A header says which step wrote a value: so a step knows its own work again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol
from uuid import UUID

from holdfast.errors import VersionConflict
from holdfast.kv.entry import CORRELATION, Entry, Position
from holdfast.work.journal import Noted, Saga
from holdfast.work.steps import KvPut, KvStep

#: "<saga>/<step>", with "/undo" behind for what puts the prior value back.
STEP: Final = "Holdfast-Saga-Step"
_RACES: Final = 5


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


async def prior(store: KeyStore, step: KvStep) -> tuple[Position, bytes | None]:
    """What the key holds now. Raises VersionConflict where the step expects something else."""
    head = await store.head(step.key)
    position = head.position if head else Position(store.incarnation, 0)
    if step.expect is not None and step.expect != position.revision:
        raise VersionConflict(f"the key {step.key} is not at the revision that the step expects")
    return position, head.value if head else None


async def apply(store: KeyStore, saga: Saga, noted: Noted) -> None:
    """Write the key unless this step has. Raises VersionConflict where somebody else did."""
    step, before = noted.step, noted.prior
    assert isinstance(step, KvStep)
    assert before is not None
    head = await store.head(step.key)
    if _tag(head) == _name(saga.saga_id, noted.number):
        return
    if not _is_at(head, before, store.incarnation):
        raise VersionConflict(f"the key {step.key} was changed by somebody else")
    value = step.value if isinstance(step, KvPut) else None
    await store.write(
        step.key, value, expect=before.revision, headers=_headers(saga, _name(saga.saga_id, noted.number))
    )


async def apply_anyhow(store: KeyStore, saga: Saga, noted: Noted) -> None:
    """Write the key over whatever is there, unless somebody has written after us. Raises VersionConflict in a race."""
    step = noted.step
    assert isinstance(step, KvStep)
    head = await store.head(step.key)
    if _tag(head) == _name(saga.saga_id, noted.number):
        return
    value = step.value if isinstance(step, KvPut) else None
    expect = head.position.revision if head else 0
    await store.write(step.key, value, expect=expect, headers=_headers(saga, _name(saga.saga_id, noted.number)))


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
    for _ in range(_RACES):
        head = await store.head(step.key)
        if _tag(head) == f"{mine}/undo":
            return
        gone = head is None or head.operation == "expired"
        if not (gone or _tag(head) == mine or _is_at(head, before, store.incarnation)):
            break
        expect = head.position.revision if head else 0
        try:
            await store.write(step.key, noted.prior_value, expect=expect, headers=_headers(saga, f"{mine}/undo"))
            return
        except VersionConflict:
            # Our own late write, perhaps: look again.
            continue
    raise VersionConflict(f"the key {step.key} was changed by somebody else since: it is left as it is")


async def is_ours(store: KeyStore, saga: Saga, noted: Noted) -> bool:
    """Whether the key still holds what the step wrote."""
    assert isinstance(noted.step, KvStep)
    return _tag(await store.head(noted.step.key)) == _name(saga.saga_id, noted.number)


def _name(saga_id: UUID, number: int) -> str:
    return f"{saga_id}/{number}"


def _tag(head: Entry | None) -> str | None:
    return head.headers.get(STEP) if head else None


def _headers(saga: Saga, tag: str) -> dict[str, str]:
    return {STEP: tag, CORRELATION: str(saga.correlation_id)}


def _is_at(head: Entry | None, before: Position, incarnation: int) -> bool:
    if head is None:
        return before == Position(incarnation, 0)
    return head.position == before
