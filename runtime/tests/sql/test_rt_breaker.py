"""The circuit breaker by a clock of its own."""

from __future__ import annotations

import pytest

from holdfast.errors import CircuitOpen
from holdfast.sql.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock) -> Breaker:
    """Open since 0."""
    breaker = Breaker(threshold=3, open_s=1.0, cap_s=4.0, clock=clock)
    for _ in range(3):
        breaker.failed(breaker.enter())
    return breaker


@pytest.mark.req("D8.5")
def test_it_opens_after_failures_in_a_row_only(clock: Clock) -> None:
    breaker = Breaker(threshold=3, clock=clock)
    for _ in range(5):
        breaker.failed(breaker.enter())
        breaker.failed(breaker.enter())
        breaker.succeeded()
    assert breaker.enter() is False
    for _ in range(3):
        breaker.failed(breaker.enter())
    with pytest.raises(CircuitOpen, match=r"next trial is in 1\.0 s") as caught:
        breaker.enter()
    assert caught.value.retryable


@pytest.mark.req("D8.5")
def test_half_open_lets_one_in_and_its_success_closes(clock: Clock, opened: Breaker) -> None:
    clock.now = 1.0
    assert opened.enter() is True
    with pytest.raises(CircuitOpen):
        opened.enter()
    opened.succeeded()
    assert opened.state == "closed"
    assert opened.enter() is False


@pytest.mark.req("D8.5")
def test_each_failed_trial_doubles_the_pause_up_to_the_cap(clock: Clock, opened: Breaker) -> None:
    pauses = []
    for _ in range(4):
        start = clock.now
        while opened.state == "open":
            clock.now += 0.5
        pauses.append(clock.now - start)
        opened.failed(opened.enter())
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    assert opened.times_opened == 5


def test_failures_of_those_who_came_earlier_prolong_nothing(clock: Clock, opened: Breaker) -> None:
    clock.now = 0.9
    opened.failed(False)
    clock.now = 1.0
    assert opened.state == "half-open"


def test_an_abandoned_trial_lets_the_next_one_in(clock: Clock, opened: Breaker) -> None:
    clock.now = 1.0
    opened.abandoned(opened.enter())
    assert opened.enter() is True
