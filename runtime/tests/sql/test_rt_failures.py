"""What each SQLSTATE means, and the windows and bounds that pools are measured with."""

from __future__ import annotations

import psycopg
import pytest

from holdfast import errors as e
from holdfast.sql import metrics
from holdfast.sql.failures import is_lost, of_connecting, sqlstate_of, translate
from holdfast.sql.metrics import Lag, Window

SAID = 'duplicate key (email)=(a@b.c) in "INSERT INTO secret" at db.internal'

#: SQLSTATE -> the error that is raised, whether it may be tried again, whether the connection is lost.
MEANINGS = {
    "40001": (e.SerializationFailure, True, False),
    "40000": (e.SerializationFailure, True, False),
    "40P01": (e.DeadlockDetected, True, False),
    "40002": (e.ConstraintViolation, False, False),
    "40003": (e.ConnectionFailed, True, True),
    "23505": (e.ConstraintViolation, False, False),
    "23503": (e.ConstraintViolation, False, False),
    "23P01": (e.ConstraintViolation, False, False),
    "08006": (e.ConnectionFailed, True, True),
    "08001": (e.ConnectionFailed, True, True),
    "57P01": (e.ConnectionFailed, True, True),
    "57P02": (e.ConnectionFailed, True, True),
    "57P03": (e.ConnectionFailed, True, True),
    "57P05": (e.OperationTimeout, True, True),
    "25P03": (e.OperationTimeout, True, True),
    "57014": (e.OperationTimeout, True, False),
    "55P03": (e.OperationTimeout, True, False),
    "25006": (e.ConnectionFailed, True, False),
    "53300": (e.PoolExhausted, True, False),
    "28P01": (e.ConfigurationError, False, False),
    "3D000": (e.ConfigurationError, False, False),
    "42501": (e.ConfigurationError, False, False),
    "42P01": (e.TransactionFailed, False, False),
    "22012": (e.TransactionFailed, False, False),
    "53100": (e.TransactionFailed, False, False),
    "0A000": (e.Unsupported, False, False),
    "55000": (e.Unsupported, False, False),
}


@pytest.mark.req("D6.6", "D10.1", "D10.3", "D10.5")
@pytest.mark.parametrize("state", MEANINGS)
def test_each_state_has_one_meaning_and_a_clean_message(state: str) -> None:
    kind, retryable, lost = MEANINGS[state]
    error = psycopg.errors.lookup(state)(SAID)
    found = translate(error)
    assert type(found) is kind
    assert found.retryable is retryable
    assert is_lost(error) is lost
    assert found.driver_error is error
    assert sqlstate_of(error) == state
    assert state in str(found)
    for forbidden in ("email", "INSERT", "internal"):
        assert forbidden not in str(found)


@pytest.mark.req("D6.6", "D10.3")
def test_what_the_driver_says_by_itself() -> None:
    assert type(translate(psycopg.OperationalError("gone"))) is e.ConnectionFailed
    assert type(translate(OSError("gone"))) is e.ConnectionFailed
    assert type(translate(TimeoutError())) is e.OperationTimeout
    assert type(translate(psycopg.OperationalError("gone"), was_cut=True)) is e.OperationTimeout
    assert type(translate(psycopg.ProgrammingError("cannot adapt"))) is e.CodecError
    assert type(translate(psycopg.InternalError("odd"))) is e.TransactionFailed
    ours = e.Fenced("x")
    assert translate(ours) is ours


@pytest.mark.req("D10.1", "D10.2")
def test_the_codes_of_the_sources_are_there() -> None:
    kinds = (e.NotFound, e.DuplicateKey, e.ConnectionFailed, e.SerializationFailure, e.VersionConflict, e.Expired,
             e.ConsistencyViolation)  # fmt: skip
    assert [kind.code for kind in kinds] == [
        "NOT_FOUND", "DUPLICATE_KEY", "CONNECTION_FAILED", "SERIALIZATION_ERROR", "VERSION_CONFLICT", "TTL_EXPIRED",
        "CONSISTENCY_VIOLATION",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('FATAL:  password authentication failed for user "x"', e.ConfigurationError),
        ('FATAL:  database "x" does not exist', e.ConfigurationError),
        ("FATAL:  sorry, too many clients already", e.PoolExhausted),
        ('root certificate file "x" does not exist', e.ConfigurationError),
        ("Connection refused", e.ConnectionFailed),
    ],
)
@pytest.mark.req("D10.5")
def test_a_refused_connection_is_told_by_its_cause(text: str, kind: type[e.HoldfastError]) -> None:
    found = of_connecting(psycopg.OperationalError(f'connection to server at "db.internal" failed: {text}'))
    assert type(found) is kind
    assert "internal" not in str(found)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.req("D8.4")
def test_a_window_forgets() -> None:
    clock = Clock()
    window = Window(span_s=60, clock=clock)
    assert (window.percentile(0.95), window.mean(1.0)) == (0.0, 1.0)
    for value in range(100):
        window.add(value)
    assert window.percentile(0.95) == 94
    clock.now = 61
    window.add(5)
    assert (window.values(), window.mean(1.0)) == ([5], 5)


@pytest.mark.req("D8.2")
def test_lag_is_the_age_of_what_is_missing() -> None:
    clock = Clock()
    lag = Lag(clock)
    assert lag.of(0) is None
    for at, lsn in ((0.0, 100), (1.0, 200), (2.0, 300)):
        clock.now = at
        lag.written(lsn)
    clock.now = 5.0
    assert [lag.of(lsn) for lsn in (300, 250, 200, 150, 50)] == [0.0, 3.0, 3.0, 4.0, 5.0]
    lag.written(10)
    assert lag.of(10) == 0.0


@pytest.mark.req("D13.1")
def test_sizes_follow_the_load_inside_the_declared_bounds() -> None:
    def after(present: int, peak: int, pending: int = 0) -> int:
        return metrics.floor(present, 2, 10, peak, pending)

    assert after(2, 0) == 2
    assert after(2, 2) == 3
    assert after(3, 8) == 10
    assert after(10, 10, pending=5) == 10
    assert after(8, 5) == 8
    assert after(8, 3) == 7
    assert after(2, 1, pending=1) == 3
    assert metrics.floor(9, 3, 3, 9, 9) == 3
