"""Clocks: sets of dots, how they compare, and what may be left out of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CodecError, ConsistencyViolation
from holdfast.merge.clocks import Clock, Dot, StableCut, dots

DOTS = st.builds(Dot, st.sampled_from("abc"), st.integers(1, 9))
CLOCKS = st.lists(DOTS, max_size=12).map(lambda found: Clock.of(*found))


@settings(deadline=None)
@given(CLOCKS, CLOCKS)
def test_a_clock_is_the_set_of_its_dots(one: Clock, other: Clock) -> None:
    mine, theirs = set(dots(one)), set(dots(other))
    assert set(dots(one.join(other))) == mine | theirs
    assert one.includes(other) == (theirs <= mine)
    assert one.dominates(other) == (theirs < mine)
    assert all((dot in one) == (dot in mine) for dot in mine | theirs)


@pytest.mark.req("D3.4")
def test_clocks_stand_before_after_equal_or_concurrent() -> None:
    base = Clock.of(Dot("a", 1))
    left, right = base.add(base.next("a")), base.add(base.next("b"))
    assert base.compare(left) == "before"
    assert left.compare(base) == "after"
    assert left.compare(right) == "concurrent"
    assert left.compare(Clock({"a": ((1, 2),)})) == "equal"


def test_a_gap_is_kept_and_closed() -> None:
    gap = Clock.of(Dot("a", 1), Dot("a", 3))
    assert gap.to_json() == {"a": [[1, 1], [3, 3]]}
    assert Dot("a", 2) not in gap
    assert gap.next("a") == Dot("a", 4)
    assert gap.add(Dot("a", 2)).to_json() == {"a": 3}


@settings(deadline=None)
@given(CLOCKS)
def test_the_text_of_a_clock_brings_it_back(clock: Clock) -> None:
    assert Clock.loads(clock.dumps()) == clock
    assert hash(Clock.loads(clock.dumps())) == hash(clock)


@settings(deadline=None)
@given(CLOCKS, st.lists(CLOCKS, min_size=1, max_size=4))
def test_pruning_by_a_stable_cut_loses_nothing(clock: Clock, replicas: list[Clock]) -> None:
    cut = StableCut.of(7, replicas)
    assert all(replica.includes(cut.clock) for replica in replicas)
    assert Clock.loads(clock.dumps(cut), cut) == clock


def test_slots_that_stand_at_the_cut_are_left_out_and_only_its_holder_reads_the_clock() -> None:
    clock = Clock({f"slot-{number}": ((1, 5),) for number in range(300)})
    cut = StableCut.of(3, [clock, clock.add(Dot("slot-1", 6))])
    later = clock.add(Dot("slot-7", 6))
    assert later.to_json(cut) == {"": 3, "slot-7": 6}
    with pytest.raises(ConsistencyViolation, match="stable cut 3"):
        Clock.loads(later.dumps(cut))
    with pytest.raises(ConsistencyViolation):
        Clock.loads(later.dumps(cut), StableCut.of(4, [clock]))


def test_what_one_replica_has_not_seen_is_not_in_the_cut() -> None:
    seen = Clock({"a": ((1, 4),), "b": ((1, 2),)})
    assert StableCut.of(1, [seen, Clock({"a": ((1, 3),)})]).clock == Clock({"a": ((1, 3),)})
    assert StableCut.of(1, [seen, Clock({"a": ((2, 9),)})]).clock == Clock()
    assert StableCut.of(1, []).clock == Clock()


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a": -1}', '{"a": true}', '{"a": [[3, 1]]}', '{"a": [[0, 1]]}', '{"a": "1"}', '{"a": [1]}']
)
def test_what_is_no_clock_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        Clock.loads(text)
