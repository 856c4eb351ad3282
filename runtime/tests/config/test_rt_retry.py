"""Retries: how often, how long apart, and what is worth it."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.errors import (
    CodecError,
    ConnectionFailed,
    ConstraintViolation,
    DeadlockDetected,
    HoldfastError,
    NotFound,
    RetriesExhausted,
    SerializationFailure,
    VersionConflict,
)
from holdfast.retry import ONCE, Result, Retry, call

QUICK = Retry(base_s=0.001)


class Failing:
    """Fails so often, then gives 7."""

    def __init__(self, times: int, error: HoldfastError) -> None:
        self.calls, self._times, self._error = 0, times, error

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return 7


@pytest.mark.req("D10.4")
def test_three_attempts_with_pauses_that_double_up_to_five_seconds() -> None:
    retry = Retry()
    assert retry.attempts == 3
    conflict = VersionConflict("x")
    assert [retry.pause_s(n, conflict) for n in (1, 2, 3, 6, 9999)] == [0.2, 0.4, 0.8, 5.0, 5.0]


@pytest.mark.req("D10.4", "D6.6")
@pytest.mark.parametrize("error", [ConnectionFailed("x"), DeadlockDetected("x")])
def test_those_who_failed_together_do_not_come_back_together(error: HoldfastError) -> None:
    pauses = {Retry().pause_s(2, error) for _ in range(50)}
    assert len(pauses) > 40
    assert 0.2 <= min(pauses) < 0.27
    assert 0.33 < max(pauses) <= 0.4


@pytest.mark.req("D10.3", "D10.4")
@pytest.mark.parametrize("error", [VersionConflict("x"), SerializationFailure("x"), ConnectionFailed("x")])
def test_what_may_succeed_later_is_tried_again(error: HoldfastError) -> None:
    work = Failing(2, error)
    assert asyncio.run(call(work, retry=QUICK)) == 7
    assert work.calls == 3


@pytest.mark.req("D10.3")
@pytest.mark.parametrize("error", [CodecError("x"), NotFound("x"), ConstraintViolation("x")])
def test_what_cannot_succeed_is_raised_at_once(error: HoldfastError) -> None:
    work = Failing(1, error)
    with pytest.raises(type(error)):
        asyncio.run(call(work, retry=QUICK))
    assert work.calls == 1


@pytest.mark.req("D10.4")
def test_after_the_last_attempt_the_last_error_is_told() -> None:
    work, error = Failing(9, VersionConflict("x")), VersionConflict("x")
    with pytest.raises(RetriesExhausted, match="gave up after 3 of 3") as caught:
        asyncio.run(call(work, retry=QUICK))
    assert work.calls == caught.value.attempts == 3
    assert type(caught.value.last) is type(error)
    assert not caught.value.retryable


def test_a_single_attempt_raises_its_own_error() -> None:
    with pytest.raises(VersionConflict):
        asyncio.run(call(Failing(1, VersionConflict("x")), retry=ONCE))


@pytest.mark.req("D13.3")
def test_the_time_for_all_attempts_is_bounded() -> None:
    work, started = Failing(99, VersionConflict("x")), time.monotonic()
    with pytest.raises(RetriesExhausted):
        asyncio.run(call(work, retry=Retry(attempts=99, base_s=0.05, within_s=0.3)))
    assert time.monotonic() - started < 0.35
    assert work.calls == 2


def test_the_caller_may_choose_what_is_worth_it() -> None:
    work = Failing(1, NotFound("x"))
    assert asyncio.run(call(work, retry=QUICK, on=lambda error: isinstance(error, NotFound))) == 7


@pytest.mark.req("D10.2")
def test_a_result_holds_a_value_or_an_error() -> None:
    good = Result(value=7)
    assert (good.is_success, good.get(), good.error, good.requires_retry) == (True, 7, None, False)
    assert good.timestamp == pytest.approx(time.time(), abs=5)
    bad: Result[int] = Result(error=VersionConflict("x"))
    assert (bad.is_success, bad.value, bad.requires_retry) == (False, None, True)
    with pytest.raises(VersionConflict):
        bad.get()
