"""Replicated documents: the laws of joining over histories of writes, and what each type promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CodecError
from holdfast.merge.clocks import Clock, Dot
from holdfast.merge.crdt import Document, Kind

SLOTS = ("a", "b", "c")
FIELDS: list[list[tuple[str, Kind]]] = [
    [("n", "pn-counter")],
    [("n", "g-counter")],
    [("s", "or-set")],
    [("r", "lww-register")],
    [("v", "mv-register")],
    [("m", "map"), ("s", "or-set")],
    [("m", "map"), ("n", "pn-counter")],
]
ELEMENTS = st.sampled_from(["x", "y", 1, None, {"k": [1]}])


def _write(document: Document, slot: str, at: list[tuple[str, Kind]], element: Any, kind: str) -> Document:
    """One write of any type: what it is follows from the kind at ``at``."""
    where = at[-1][1] if at else document.kind
    if kind == "remove":
        return document.remove(at=at)
    if where in ("g-counter", "pn-counter"):
        return document.increment(slot, 2 if where == "g-counter" or kind == "more" else -3, at=at)
    if where == "or-set":
        return document.add(slot, element, at=at) if kind == "more" else document.discard(element, at=at)
    return document.assign(slot, element, 1000 if kind == "more" else 5, at=at)


ACTIONS = st.one_of(
    st.tuples(st.sampled_from(SLOTS), st.sampled_from(FIELDS), ELEMENTS, st.sampled_from(["more", "less", "remove"])),
    st.tuples(st.sampled_from(SLOTS), st.sampled_from(SLOTS)),
)


def _history(actions: list[Any]) -> dict[str, Document]:
    """Play writes and deliveries between replicas; each replica writes only under its own slot."""
    replicas = {slot: Document("map") for slot in SLOTS}
    for action in actions:
        if len(action) == 2:
            into, origin = action
            replicas[into] = replicas[into].join(replicas[origin])
        else:
            slot, at, element, kind = action
            replicas[slot] = _write(replicas[slot], slot, at, element, kind)
    return replicas


@pytest.mark.req("D3.5")
@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=20))
def test_joining_is_commutative_associative_and_idempotent(actions: list[Any]) -> None:
    a, b, c = _history(actions).values()
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a
    assert a.join(b).join(b) == a.join(b)


@pytest.mark.req("D3.5")
@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=20), st.permutations(SLOTS), st.permutations(SLOTS))
def test_replicas_converge_whatever_reached_them_first(actions: list[Any], one: list[str], other: list[str]) -> None:
    replicas = _history(actions)
    left, right = Document("map"), Document("map")
    for slot in one:
        left = left.join(replicas[slot])
    for slot in [*other, *other]:
        right = right.join(replicas[slot])
    assert left == right
    assert left.value() == right.value()


@settings(max_examples=40, deadline=None)
@given(st.lists(ACTIONS, max_size=20))
def test_json_brings_a_document_back(actions: list[Any]) -> None:
    for document in _history(actions).values():
        back = Document.from_json(json.loads(json.dumps(document.to_json())))
        assert back == document
        assert back.value() == document.value()
        assert (back.clock, back.kind) == (document.clock, document.kind)


def _arbitrary(kind: Any, found: dict[tuple[str, int], int], hidden: list[Dot]) -> Document:
    rows = [[slot, number, kind, [], payload] for (slot, number), payload in found.items()]
    clock = Clock.of(*hidden, *(Dot(*dot) for dot in found))
    return Document.from_json({"$crdt": kind, "clock": clock.to_json(), "items": rows})


DOCUMENTS = st.builds(
    _arbitrary,
    st.sampled_from(["g-counter", "pn-counter"]),
    st.dictionaries(st.tuples(st.sampled_from(SLOTS), st.integers(1, 3)), st.integers(0, 3), max_size=4),
    st.lists(st.builds(Dot, st.sampled_from(SLOTS), st.integers(1, 3)), max_size=4),
)


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_the_laws_hold_even_where_two_writers_used_one_slot(a: Document, b: Document, c: Document) -> None:
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a


COUNTS = st.lists(st.tuples(st.sampled_from(SLOTS), st.one_of(st.integers(-5, 5), st.sampled_from(SLOTS))), max_size=25)


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_a_counter_is_the_sum_of_all_that_was_counted(actions: list[tuple[str, Any]]) -> None:
    replicas = {slot: Document("pn-counter") for slot in SLOTS}
    for slot, what in actions:
        if isinstance(what, int):
            replicas[slot] = replicas[slot].increment(slot, what)
        else:
            replicas[slot] = replicas[slot].join(replicas[what])
    a, b, c = replicas.values()
    assert a.join(b).join(c).value() == sum(what for _, what in actions if isinstance(what, int))


MOVES = st.lists(
    st.tuples(st.sampled_from(SLOTS), st.sampled_from(["add", "take", *SLOTS]), st.integers(0, 2)), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_a_set_holds_what_was_added_and_not_taken_out_by_one_who_saw_it(moves: list[tuple[str, str, int]]) -> None:
    """Against a model: every add has a number; who takes an element out takes the adds that it knows of."""
    replicas = {slot: Document("or-set") for slot in SLOTS}
    known: dict[str, set[tuple[int, int]]] = {slot: set() for slot in SLOTS}
    taken: dict[str, set[tuple[int, int]]] = {slot: set() for slot in SLOTS}
    for number, (slot, action, element) in enumerate(moves):
        if action == "add":
            replicas[slot] = replicas[slot].add(slot, element)
            known[slot].add((element, number))
        elif action == "take":
            replicas[slot] = replicas[slot].discard(element)
            taken[slot] |= {add for add in known[slot] if add[0] == element}
        else:
            replicas[slot] = replicas[slot].join(replicas[action])
            known[slot] |= known[action]
            taken[slot] |= taken[action]
    for slot in SLOTS:
        assert replicas[slot].value() == sorted({element for element, _ in known[slot] - taken[slot]})


def test_counters_lose_no_increment_of_any_slot() -> None:
    base = Document("pn-counter").increment("a", 5)
    left, right = base.increment("a", 2).increment("a", 1), base.increment("b", -4)
    assert left.join(right).value() == 4
    assert len(left.join(right).items) == 2, "one item for each slot, however often it counted"


def test_a_g_counter_only_grows() -> None:
    with pytest.raises(CodecError, match="only grows"):
        Document("g-counter").increment("a", -1)


def test_an_add_stays_against_a_removal_that_did_not_see_it() -> None:
    base = Document("or-set").add("a", "x").add("a", "y")
    removed, added = base.discard("x"), base.add("b", "x")
    assert removed.join(added).value() == ["x", "y"]
    assert removed.join(base).value() == ["y"]


def test_the_last_assignment_wins_and_a_slow_clock_does_not_undo_what_it_saw() -> None:
    base = Document("lww-register").assign("a", "first", 9_000)
    follows = base.assign("b", "seen and replaced", 5)
    assert follows.value() == "seen and replaced"
    unseen = Document("lww-register").assign("c", "concurrent and earlier", 100)
    assert follows.join(unseen).value() == "seen and replaced"
    late, later = base.assign("a", "late", 10_000), base.assign("b", "later", 11_000)
    assert late.join(later).value() == "later"
    tied = base.assign("a", "p", 20_000), base.assign("b", "q", 20_000)
    assert tied[0].join(tied[1]).value() == tied[1].join(tied[0]).value() == "q"


def test_a_multi_value_register_shows_concurrent_values_until_one_follows_both() -> None:
    base = Document("mv-register").assign("a", 1, 0)
    both = base.assign("a", 2, 0).join(base.assign("b", 3, 0))
    assert both.value() == [2, 3]
    assert both.assign("c", 4, 0).value() == [4]


def test_a_field_that_was_removed_starts_afresh_and_unseen_writes_stay() -> None:
    at: list[tuple[str, Kind]] = [("done", "pn-counter")]
    base = Document("map").increment("a", 7, at=at)
    removed, counted = base.remove(at=at), base.increment("b", 1, at=at)
    assert removed.value() == {}
    assert removed.increment("a", 1, at=at).value() == {"done": 1}
    assert removed.join(counted).value() == {"done": 1}


def test_two_kinds_of_one_name_are_both_kept() -> None:
    left = Document("map").increment("a", 1, at=[("x", "pn-counter")])
    right = Document("map").add("b", "e", at=[("x", "or-set")])
    both = left.join(right)
    assert both.value() == {"x": ["e"]}
    assert both.value(at=[("x", "pn-counter")]) == 1
    assert both.remove(at=[("x", "or-set")]).value() == {"x": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda: Document("pn-counter").add("a", 1),
        lambda: Document("or-set").increment("a"),
        lambda: Document("or-set").add("a", 1, at=[("x", "or-set")]),
        lambda: Document("map").increment("a", at=[("x", "or-set")]),
        lambda: Document("map").add("a", 1),
        lambda: Document("or-set").add("a", {1, 2}),
        lambda: Document("or-set").add("", 1),
        lambda: Document("pn-counter").increment("a", 1.5),  # type: ignore[arg-type]
        lambda: Document("map").add("a", 1, at=[("x", "text")]),  # type: ignore[list-item]
    ],
)
def test_a_write_that_the_kind_does_not_take_is_refused(write: Callable[[], Document]) -> None:
    with pytest.raises(CodecError):
        write()


GOOD = Document("map").increment("a", 2, at=[("n", "pn-counter")]).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"$crdt": "text"},
        {"clock": {}},
        {"items": {}},
        {"items": [["a", 1, "map", [["n", "pn-counter"]], "2"]]},
        {"items": [["a", 1, "map", [["n", "g-counter"]], -2]]},
        {"items": [["a", 1, "map", [["n", "lww-register"]], 5]]},
        {"items": [["a", 1, "or-set", [["n", "pn-counter"]], 2]]},
        {"items": [["a", 1, "map", [], 2]]},
        {"items": [["a", 1, "map", "n", 2]]},
        {"items": [["a", 1]]},
        {"more": 1},
    ],
)
def test_a_document_of_unknown_form_is_refused(change: dict[str, Any]) -> None:
    assert Document.from_json(GOOD).value() == {"n": 2}
    with pytest.raises(CodecError):
        Document.from_json({**GOOD, **change})
