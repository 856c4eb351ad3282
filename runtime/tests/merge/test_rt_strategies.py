"""The four strategies: an answer for any two entries, and the laws that let replicas agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv.entry import Position
from holdfast.merge.clocks import Clock, Dot
from holdfast.merge.crdt import Document
from holdfast.merge.strategies import (
    Resolver,
    StateEntry,
    Strategy,
    as_document,
    next_entry,
    stamp,
)

LWW = Resolver(Strategy.LAST_WRITE_WINS)
VECTOR = Resolver(Strategy.VECTOR_CLOCK)
CRDT = Resolver(Strategy.CRDT_MERGE)
GREATER = Resolver(Strategy.CUSTOM_MERGE, custom=lambda one, other: max(one.value or 0, other.value or 0))
ALL = [LWW, VECTOR, CRDT, GREATER]

POSITIONS = st.one_of(st.none(), st.builds(Position, st.integers(1, 2), st.integers(1, 3)))
CLOCKS = st.lists(st.builds(Dot, st.sampled_from("ab"), st.integers(1, 3)), max_size=4).map(lambda d: Clock.of(*d))
BROKEN = {"$crdt": "or-set"}
VALUES = st.sampled_from(
    [
        None,
        1,
        2,
        "x",
        [1],
        {"a": 1},
        {"a": 2, "b": {"c": 1}},
        BROKEN,
        Document("or-set").add("a", "e").to_json(),
        Document("or-set").add("b", "f").to_json(),
        Document("pn-counter").increment("b", 2).to_json(),
    ]
)
ANY = st.builds(
    StateEntry,
    value=VALUES,
    timestamp_ms=st.integers(1, 3),
    version=st.integers(1, 3),
    clock=CLOCKS,
    dot=st.one_of(st.none(), st.builds(Dot, st.sampled_from("ab"), st.integers(1, 3))),
    epoch=POSITIONS,
    position=POSITIONS,
    deleted=st.booleans(),
)


@pytest.mark.req("D3.1", "D3.2")
@settings(max_examples=80, deadline=None)
@given(ANY, ANY)
def test_every_strategy_has_an_answer_for_any_two_entries(one: StateEntry, other: StateEntry) -> None:
    for resolver in (LWW, VECTOR, CRDT, Resolver(Strategy.CUSTOM_MERGE, custom=lambda a, b: [a.value, b.value])):
        merged = resolver.merge(one, other)
        assert isinstance(merged, StateEntry)
        winner = resolver.resolve(one, other).winner
        assert winner in ("current", "incoming", "merged")


def test_all_four_are_there_and_custom_needs_its_function() -> None:
    assert [strategy.value for strategy in Strategy] == [
        "LAST_WRITE_WINS",
        "VECTOR_CLOCK",
        "CRDT_MERGE",
        "CUSTOM_MERGE",
    ]
    with pytest.raises(ConfigurationError):
        Resolver(Strategy.CUSTOM_MERGE)
    with pytest.raises(ConfigurationError):
        Resolver(Strategy.LAST_WRITE_WINS, custom=lambda one, other: 1)


@pytest.mark.req("D3.2")
@settings(max_examples=100, deadline=None)
@given(ANY, ANY, ANY)
def test_last_write_wins_is_lawful_over_any_entries(a: StateEntry, b: StateEntry, c: StateEntry) -> None:
    assert LWW.merge(a, b) == LWW.merge(b, a)
    assert LWW.merge(LWW.merge(a, b), c) == LWW.merge(a, LWW.merge(b, c))
    assert LWW.merge(a, a) == a


@pytest.mark.req("D3.5")
@settings(max_examples=100, deadline=None)
@given(ANY, ANY, ANY)
def test_crdt_merge_is_lawful_over_any_entries(a: StateEntry, b: StateEntry, c: StateEntry) -> None:
    assert CRDT.merge(a, b) == CRDT.merge(b, a)
    assert CRDT.merge(CRDT.merge(a, b), c) == CRDT.merge(a, CRDT.merge(b, c))
    assert CRDT.merge(a, a) == a


# Histories: replicas that write and deliver

SLOTS = ("a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(SLOTS), st.sampled_from([1, {"x": 1}, {"y": 2}, "gone"]), st.integers(1, 9)),
        st.tuples(st.sampled_from(SLOTS), st.sampled_from(SLOTS)),
    ),
    max_size=20,
)
#: An entry from before clocks were kept.
PLAIN = StateEntry({"old": 1}, 4)


def _play(resolver: Resolver, steps: list[Any]) -> list[StateEntry]:
    replicas = dict.fromkeys(SLOTS, PLAIN)
    for step in steps:
        if len(step) == 2:
            replicas[step[0]] = resolver.merge(replicas[step[0]], replicas[step[1]])
        else:
            slot, value, now = step
            base = replicas[slot]
            replicas[slot] = next_entry(base, value, now_ms=now, actor=slot, deleted=value == "gone")
    return list(replicas.values())


@pytest.mark.req("D3.4")
@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_vector_clocks_are_lawful_and_replicas_converge(steps: list[Any]) -> None:
    a, b, c = _play(VECTOR, steps)
    assert VECTOR.merge(a, b) == VECTOR.merge(b, a)
    assert VECTOR.merge(VECTOR.merge(a, b), c) == VECTOR.merge(a, VECTOR.merge(b, c))
    assert VECTOR.merge(a, a) == a
    assert VECTOR.merge(VECTOR.merge(a, b), b) == VECTOR.merge(a, b)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_no_write_is_lost_that_nobody_overwrote(steps: list[Any]) -> None:
    """The siblings of the joined state are exactly the writes that no other write has seen."""
    writes: dict[Dot, StateEntry] = {}
    replicas = dict.fromkeys(SLOTS, PLAIN)
    for step in steps:
        if len(step) == 2:
            replicas[step[0]] = VECTOR.merge(replicas[step[0]], replicas[step[1]])
        else:
            slot, value, now = step
            entry = next_entry(replicas[slot], value, now_ms=now, actor=slot)
            assert entry.dot is not None
            replicas[slot] = writes[entry.dot] = entry
    a, b, c = replicas.values()
    assume(bool(writes))
    joined = VECTOR.merge(VECTOR.merge(a, b), c)
    unseen = {dot for dot in writes if not any(dot in entry.clock for other, entry in writes.items() if other != dot)}
    assert {dot for dot in joined.shown() if not dot.actor.startswith("~")} == unseen


# What each promises

E1, E2 = Position(1, 10), Position(1, 20)


@pytest.mark.req("D3.2")
def test_the_later_epoch_wins_however_late_the_clock_of_the_old_owner() -> None:
    old, new = StateEntry("old", 9_000, epoch=E1), StateEntry("new", 5, epoch=E2)
    assert LWW.merge(old, new) is new
    assert LWW.resolve(new, old) == (new, "current"), "the write that lost gets what the key holds"


def test_a_rebuilt_bucket_comes_later_than_any_revision_of_the_one_before() -> None:
    before, after = StateEntry("b", 9, position=Position(1, 900)), StateEntry("a", 1, position=Position(2, 1))
    assert LWW.merge(before, after) is after


def test_time_then_content_decide_between_writes_of_one_epoch() -> None:
    early, late = StateEntry("z", 1), StateEntry("a", 2)
    assert LWW.resolve(early, late).winner == "incoming"
    assert LWW.resolve(late, early).winner == "current"
    p, q = StateEntry("p", 5), StateEntry("q", 5)
    assert LWW.merge(p, q).value == LWW.merge(q, p).value == "q"


def test_a_write_comes_after_what_it_has_read_whatever_the_clock_says() -> None:
    base = StateEntry("base", 9_000)
    assert stamp(5, base) == 9_001
    assert LWW.resolve(base, next_entry(base, "new", now_ms=5)).winner == "incoming"


@pytest.mark.req("D3.4", "D3.6")
def test_the_dominating_side_wins_and_concurrent_sides_merge() -> None:
    base = next_entry(None, {"a": 1, "b": 1}, now_ms=1, actor="a")
    newer = next_entry(base, {"a": 2, "b": 1}, now_ms=2, actor="b")
    assert VECTOR.resolve(base, newer) == (newer, "incoming")
    assert VECTOR.resolve(newer, base) == (newer, "current")
    other = next_entry(base, {"a": 1, "c": 3}, now_ms=3, actor="a")
    entry, winner = VECTOR.resolve(newer, other)
    assert winner == "merged"
    assert entry.value == {"a": 1, "b": 1, "c": 3}
    assert sorted(sibling.value["a"] for sibling in entry.siblings.values()) == [1, 2]
    assert entry.version == 3
    settled = next_entry(entry, {"a": 9}, now_ms=4, actor="c")
    assert VECTOR.resolve(entry, settled) == (settled, "incoming")
    assert VECTOR.merge(settled, other) == settled


def test_an_update_outlives_a_concurrent_delete() -> None:
    base = next_entry(None, 1, now_ms=1, actor="a")
    gone = next_entry(base, None, now_ms=9, actor="a", deleted=True)
    kept = next_entry(base, 2, now_ms=2, actor="b")
    assert VECTOR.merge(gone, kept).value == 2
    assert not VECTOR.merge(gone, kept).deleted
    assert VECTOR.merge(gone, base).deleted


@pytest.mark.req("D3.5")
def test_a_crdt_merge_takes_the_later_time_and_the_next_version() -> None:
    base = Document("or-set").add("a", 1)
    current = StateEntry(base.add("a", 2).to_json(), 100, version=4)
    incoming = StateEntry(base.add("b", 3).to_json(), 90, version=4)
    entry, winner = CRDT.resolve(current, incoming)
    assert winner == "merged"
    assert (entry.timestamp_ms, entry.version) == (100, 5)
    assert Document.from_json(entry.value).value() == [1, 2, 3]
    again = CRDT.resolve(entry, incoming)
    assert again == (entry, "current"), "what is known already is not written again"


def test_a_deleted_document_keeps_out_what_it_had_seen_and_nothing_else() -> None:
    seen = Document("pn-counter").increment("a", 5)
    gone = StateEntry(None, 9, clock=seen.clock, deleted=True)
    assert CRDT.merge(StateEntry(seen.to_json(), 1), gone).deleted
    more = CRDT.merge(StateEntry(seen.increment("b", 2).to_json(), 1), gone)
    assert not more.deleted
    document = as_document(more)
    assert document is not None
    assert document.value() == 2


@pytest.mark.req("D3.1")
def test_custom_merge_decides_by_its_function() -> None:
    entry, winner = GREATER.resolve(StateEntry(3, 1), StateEntry(7, 2))
    assert (entry.value, winner) == (7, "incoming")
    assert GREATER.resolve(StateEntry(7, 1), StateEntry(3, 2)).winner == "current"
    both = Resolver(Strategy.CUSTOM_MERGE, custom=lambda one, other: one.value + other.value)
    entry, winner = both.resolve(StateEntry([1], 1, version=2), StateEntry([2], 2))
    assert (entry.value, entry.version, winner) == ([1, 2], 3, "merged")


@pytest.mark.parametrize("custom", [lambda one, other: 1 / 0, lambda one, other: {1, 2}])
def test_a_merge_function_that_fails_is_told_by_an_error_of_ours(custom: Callable[..., Any]) -> None:
    with pytest.raises(CodecError):
        Resolver(Strategy.CUSTOM_MERGE, custom=custom).merge(StateEntry(1, 1), StateEntry(2, 2))
    with pytest.raises(CodecError):
        Resolver(Strategy.VECTOR_CLOCK, combine=lambda values: custom(*values)).merge(
            StateEntry(1, 1), StateEntry(2, 2)
        )


def test_what_is_to_be_written_carries_the_epoch_of_the_writer_and_no_position() -> None:
    current = StateEntry({"a": 1}, 1, epoch=E2, position=Position(1, 30))
    incoming = next_entry(None, {"b": 1}, now_ms=2, actor="b", epoch=E1)
    entry = VECTOR.resolve(current, incoming).entry
    assert (entry.epoch, entry.position, entry.value) == (E1, None, {"a": 1, "b": 1})
    assert replace(entry, version=1) == replace(entry, version=1)
