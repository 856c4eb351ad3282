"""Every error of the library: a code, whether trying again may help, and a message without SQL, hosts or secrets.

What the driver said stays at ``driver_error`` for whoever debugs; it is in no message and no traceback of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from holdfast.kv.entry import Entry


class HoldfastError(Exception):
    """Base of all. ``code`` is stable; ``retryable`` says whether the same call may succeed later."""

    code: ClassVar[str] = "FAILED"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, driver_error: BaseException | None = None) -> None:
        super().__init__(message)
        self.driver_error = driver_error


class ConfigurationError(HoldfastError):
    """What the environment or the contract says cannot be used."""

    code = "CONFIGURATION"


class ContractMismatch(ConfigurationError):
    """The contract of the plane is missing, or of a version that this library does not read."""

    code = "CONTRACT_MISMATCH"


class Unsupported(HoldfastError):
    """A server is too old, or a setting that this needs is off."""

    code = "UNSUPPORTED"


class NotFound(HoldfastError):
    """Neither the bucket nor the database holds it."""

    code = "NOT_FOUND"


class Expired(HoldfastError):
    """It was there, and its time to live has passed. For stores of your own: those here say NotFound, or give None."""

    code = "TTL_EXPIRED"


class DuplicateKey(HoldfastError):
    """It is there already."""

    code = "DUPLICATE_KEY"


class VersionConflict(HoldfastError):
    """Somebody else wrote in between: decide again from ``current``, the newest entry (None where none is left)."""

    code = "VERSION_CONFLICT"
    retryable = True

    def __init__(
        self, message: str, *, current: Entry | None = None, driver_error: BaseException | None = None
    ) -> None:
        super().__init__(message, driver_error=driver_error)
        self.current = current


class Fenced(HoldfastError):
    """Another owner has taken the agent over: nothing of this owner is written any more."""

    code = "FENCED"


class LeaseHeld(HoldfastError):
    """Another owner has the agent. ``holder`` says who, ``until`` is when its lease ends (seconds since 1970)."""

    code = "LEASE_HELD"
    retryable = True

    def __init__(self, message: str, *, holder: str, until: float) -> None:
        super().__init__(message)
        self.holder = holder
        self.until = until


class BackPressure(HoldfastError):
    """The journal is near its bound: writes are refused until the flusher has caught up."""

    code = "BACK_PRESSURE"
    retryable = True


class ConsistencyViolation(HoldfastError):
    """Bucket and database disagree beyond what the plane allows, or a checksum does not fit its value."""

    code = "CONSISTENCY_VIOLATION"


class CodecError(HoldfastError):
    """A value cannot be encoded, decoded or brought to the current schema version."""

    code = "CODEC"


class ConnectionFailed(HoldfastError):
    """A server cannot be reached, or went away. Whether the work took effect is unknown unless the message says."""

    code = "CONNECTION_FAILED"
    retryable = True


class OutcomeUnknown(ConnectionFailed):
    """The connection was lost while a commit was under way, and nothing tells whether it took effect."""

    code = "OUTCOME_UNKNOWN"
    retryable = False


class OperationTimeout(HoldfastError):
    """The time that was given has passed. Whether the work took effect is unknown unless the message says."""

    code = "TIMEOUT"
    retryable = True


class PoolExhausted(HoldfastError):
    """No connection became free in time."""

    code = "POOL_EXHAUSTED"
    retryable = True


class CircuitOpen(HoldfastError):
    """The pool failed too often lately and is not asked for a while."""

    code = "CIRCUIT_OPEN"
    retryable = True


class TransactionFailed(HoldfastError):
    """The database refused a statement or a commit. ``sqlstate`` is its five-character code, or None."""

    code = "UNKNOWN_FAILURE"

    def __init__(self, message: str, *, sqlstate: str | None = None, driver_error: BaseException | None = None) -> None:
        super().__init__(message, driver_error=driver_error)
        self.sqlstate = sqlstate


class SerializationFailure(TransactionFailed):
    """SQLSTATE 40001: another transaction was first."""

    code = "SERIALIZATION_ERROR"
    retryable = True


class DeadlockDetected(TransactionFailed):
    """SQLSTATE 40P01."""

    code = "DEADLOCK_DETECTED"
    retryable = True


class ConstraintViolation(TransactionFailed):
    """SQLSTATE class 23: the data break a rule of the schema."""

    code = "CONSTRAINT_VIOLATION"


class ValidationFailed(HoldfastError):
    """A check before the commit refused; nothing was written. ``problems`` says what is wrong."""

    code = "VALIDATION_FAILED"

    def __init__(self, message: str, *, problems: tuple[str, ...]) -> None:
        super().__init__(message)
        self.problems = problems


class RetriesExhausted(HoldfastError):
    """Every attempt failed; ``last`` is the error of the last one."""

    code = "MAX_ATTEMPTS"

    def __init__(self, message: str, *, attempts: int, last: HoldfastError) -> None:
        super().__init__(message, driver_error=last.driver_error)
        self.attempts = attempts
        self.last = last
