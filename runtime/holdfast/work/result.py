"""How work over several systems ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """How bucket and database are kept together."""

    #: Prepared in the database, staged in a bucket, decided by one row.
    TWO_PHASE_COMMIT = "two_phase_commit"
    #: Step by step, undone in reverse where one fails. The default.
    SAGA_PATTERN = "saga_pattern"
    #: The database at once, the bucket as soon as it can be reached.
    EVENTUAL_CONSISTENCY = "eventual_consistency"


class Outcome(StrEnum):
    """What a caller may rely on."""

    #: Everything is done; with ``Result.pending``, what is not will be.
    SUCCESS = "SUCCESS"
    #: Nothing of it is left.
    ROLLED_BACK = "ROLLED_BACK"
    #: Some of it could not be undone: ``Result.errors`` says what. Somebody has to look.
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    #: It is not known yet: a server cannot be reached, and the recoverer goes on.
    SAGA_FAILED = "SAGA_FAILED"


@dataclass(frozen=True)
class Result:
    """``work_id`` names the work in its journal. ``reason`` is why it was not done, ``errors`` what else went wrong.

    ``pending`` is how many steps are decided and not known to be carried out: a recoverer does them.
    """

    outcome: Outcome
    work_id: str
    correlation_id: str
    reason: str | None = None
    errors: tuple[str, ...] = ()
    pending: int = 0

    @property
    def is_success(self) -> bool:
        return self.outcome is Outcome.SUCCESS
