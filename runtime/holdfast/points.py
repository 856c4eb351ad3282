"""Named places between two effects, where a test may stop the process. Nothing happens there otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Every place, in the order in which work passes it. A test kills a process at each.
PLACES: Final = (
    # A write: stored in the bucket, noted in memory.
    "put.sent", "put.noted",
    # An edit of several keys, a restored checkpoint, a fork: the record is stored, then all its keys.
    "edit.recorded", "edit.written", "restore.recorded", "restore.written", "fork.recorded", "fork.written",
    "checkpoint.read", "checkpoint.stored",
    "flush.read", "flush.committed", "flush.acknowledged",
    # A repository's save: in the bucket, in the table.
    "agent.stored", "agent.committed",
    # A transaction: its work is done, it is committed. An event in it: about to be noted, noted.
    "outbox.adding", "outbox.added", "transaction.done", "transaction.committed",
    # A batch of events: read, one acknowledged by its stream, all of them, marked, the marks committed.
    "relay.read", "relay.acknowledged", "relay.published", "relay.marked", "relay.committed",
    "saga.journalled", "saga.prior", "saga.written", "saga.done", "saga.rows", "saga.committed", "saga.finished",
    "saga.compensating", "saga.restored", "saga.undone",
    "two_phase.rows", "two_phase.prepared", "two_phase.staged", "two_phase.decided", "two_phase.ended",
    "two_phase.written", "two_phase.finished",
)  # fmt: skip

_hook: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Tell the hook, if a test has set one, that the place ``name`` is reached."""
    if _hook is not None:
        assert name in PLACES, f"{name} is not one of holdfast.points.PLACES"
        _hook(name)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """For tests: what to call at every place; None for nothing."""
    global _hook  # noqa: PLW0603 - the one seam for crash tests; production never sets it
    _hook = hook
