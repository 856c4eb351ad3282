"""What the core asks of the world: a ledger of owned objects, a lock, a store of contracts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from provision.spec.change import Request
from provision.spec.errors import OperationError

#: Called with a step's id and "before_send", "after_send", "before_record" or "done" (settled and recorded).
Hook = Callable[[str, str], None]


class Ledger(Protocol):
    """Which objects a plane owns. Addresses are text forms; origin is "created" or "adopted"."""

    def prepare(self) -> None:
        """Make the place where all of this is kept, if it does not exist yet."""
        ...

    def owned(self) -> Mapping[str, str]:
        """Every owned address with its origin."""
        ...

    def intend(self, addresses: Iterable[str]) -> None:
        """Note that these are about to be created, before the request is sent."""
        ...

    def record(self, addresses: Iterable[str], origin: str) -> None:
        """Note that these exist and are owned."""
        ...

    def forget(self, addresses: Iterable[str]) -> None:
        """Note that these are gone."""
        ...


class LockedLedger(Ledger, Protocol):
    """A ledger with its lock, one apply at a time for a plane and environment, and the history of applies."""

    def hold(self) -> AbstractContextManager[None]:
        """Hold the lock; raises LockHeld, naming the holder, when another has it."""
        ...

    def start_run(self, fingerprint: str) -> str:
        """Note that an apply begins; gives the id of the run."""
        ...

    def finish_run(self, run: str, status: str, summary: Mapping[str, Any]) -> None:
        """Note how a run ended: done, failed or interrupted."""
        ...

    def runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        ...


class ContractStore(Protocol):
    """Where the contract is kept for the runtime."""

    def perform(self, request: Request) -> None:
        """Write the contract as a step says: by SQL where the store is a table."""
        ...

    def drop_contract(self) -> None:
        """Delete the contract if there is one."""
        ...


class LockHeld(OperationError):
    """Another apply works on this plane. The message says who and since when."""
