"""One door to work over bucket and database, ``plane.work``: the strategy is an argument."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from holdfast.errors import ConfigurationError, Unsupported
from holdfast.tasks import end
from holdfast.work.recoverer import Recoverer
from holdfast.work.result import Result, Strategy
from holdfast.work.saga import Sagas
from holdfast.work.two_phase import TwoPhase

if TYPE_CHECKING:
    from holdfast.contract import Contract
    from holdfast.sql.pool import Pool
    from holdfast.work.keys import Stores
    from holdfast.work.steps import Step

_CLOSE_S: Final = 10.0


class Coordinator:
    """Runs work by the strategy that each call names. ``recoverer.run()`` ends what crashed processes left.

    ``pool`` reaches the primary database, ``stores`` gives what holds the key of a step. ``two_phase`` is None where
    the plane declares no table for decisions or no bucket for configuration.
    """

    def __init__(self, pool: Pool, stores: Stores, contract: Contract) -> None:
        self.sagas = Sagas(pool, stores, contract)
        self.two_phase: TwoPhase | None = None
        if "decision_table" in contract.names and "config_bucket" in contract.names:
            self.two_phase = TwoPhase(pool, stores, contract)
        self.recoverer = Recoverer(pool, self.sagas, contract, two_phase=self.two_phase)

    async def run(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        strategy: Strategy = Strategy.SAGA_PATTERN,
        correlation_id: UUID | None = None,
        timeout_s: float | None = None,
        in_order: bool = False,
    ) -> Result:
        """Do all of the work or none. Each call has a correlation id, one of its own unless given.

        Keys are written before rows, so that one commit decides; ``in_order`` keeps a saga's steps as they are given.
        ``timeout_s`` is the contract's ``saga_timeout`` unless given. Raises ConfigurationError and CodecError for
        steps that cannot be journalled and events that the outbox refuses, and Unsupported for a two-phase commit where
        the plane cannot do one; every other failure is a result.
        """
        correlation = correlation_id or uuid4()
        if strategy is not Strategy.TWO_PHASE_COMMIT:
            return await self.sagas.run(
                name, steps, strategy=strategy, correlation_id=correlation, timeout_s=timeout_s, in_order=in_order
            )
        if in_order:
            raise ConfigurationError("a two-phase commit has no order of steps: only a saga takes in_order")
        if self.two_phase is None:
            raise Unsupported("the plane declares no decision_table or no config_bucket for two-phase commits")
        return await self.two_phase.run(steps, correlation_id=correlation, timeout_s=timeout_s)

    async def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Wait for what runs; after ``timeout_s`` seconds it is cut off, and a recoverer ends it later."""
        running: set[asyncio.Task[Any]] = {*self.sagas.running}
        running |= self.two_phase.running if self.two_phase else set()
        if running:
            await asyncio.wait(running, timeout=timeout_s)
            await end(*running)
