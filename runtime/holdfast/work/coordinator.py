"""One door to work over bucket and database: the strategy is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from holdfast.errors import Unsupported
from holdfast.work.result import Result, Strategy

if TYPE_CHECKING:
    from holdfast.work.saga import Sagas
    from holdfast.work.steps import Step
    from holdfast.work.two_phase import TwoPhase


class Coordinator:
    """Runs work by the strategy that each call names. ``two_phase`` None: the plane offers none."""

    def __init__(self, sagas: Sagas, two_phase: TwoPhase | None = None) -> None:
        self._sagas, self._two_phase = sagas, two_phase

    async def run(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        strategy: Strategy = Strategy.SAGA_PATTERN,
        correlation_id: UUID | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Do all of the work or none. Each call has a correlation id, one of its own unless given.

        Raises Unsupported for a two-phase commit where the plane cannot do one, and as ``Sagas.run``.
        """
        correlation = correlation_id or uuid4()
        if strategy is not Strategy.TWO_PHASE_COMMIT:
            return await self._sagas.run(
                name, steps, strategy=strategy, correlation_id=correlation, timeout_s=timeout_s
            )
        if self._two_phase is None:
            raise Unsupported("this plane has no bucket to stage two-phase commits in")
        return await self._two_phase.run(steps, correlation_id=correlation, timeout_s=timeout_s)

    async def close(self) -> None:
        """Wait for what runs."""
        await self._sagas.close()
        if self._two_phase:
            await self._two_phase.close()
