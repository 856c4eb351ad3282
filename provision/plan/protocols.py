"""What the core asks of the world: a ledger of owned objects, a lock, a store of contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from provision.spec.errors import OperationError


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


class Lock(Protocol):
    """One apply at a time per plane and environment."""

    def hold(self) -> AbstractContextManager[None]:
        """Hold the lock; raises LockHeld, naming the holder, when another has it."""
        ...


class ContractStore(Protocol):
    """Where the contract is kept for the runtime."""

    def read(self) -> Mapping[str, Any] | None: ...

    def write(self, content: Mapping[str, Any]) -> None: ...


class LockHeld(OperationError):
    """Another apply works on this plane. The message says who and since when."""
