"""The subject algebra against its definition: patterns are the sets of subjects that they match."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.nats.kinds.subjects import (
    SubjectIndex,
    collide,
    covered,
    intersect,
    literal,
    subset,
    transformed,
    valid_subject,
)

#: "z" never occurs in a pattern: it stands for the endless supply of other tokens.
SUBJECTS = [".".join(p) for n in range(1, 6) for p in product("abz", repeat=n)]


def matches(subject: str, pattern: str) -> bool:
    """The definition, written independently: walk both token by token."""
    left, right = subject.split("."), pattern.split(".")
    if right[-1] == ">":
        return len(left) >= len(right) and all(y in ("*", x) for x, y in zip(left, right[:-1], strict=False))
    return len(left) == len(right) and all(y in ("*", x) for x, y in zip(left, right, strict=True))


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.sampled_from("ab*"), min_size=0, max_size=3))
    if draw(st.booleans()) or not tokens:
        tokens.append(draw(st.sampled_from("ab*>")))
    return ".".join(tokens)


def members(pattern: str) -> set[str]:
    return {s for s in SUBJECTS if matches(s, pattern)}


@given(patterns(), patterns())
def test_intersection_holds_exactly_the_common_subjects(a: str, b: str) -> None:
    both = intersect(a, b)
    assert (members(both) if both else set()) == members(a) & members(b)
    assert collide(a, b) == bool(members(a) & members(b)) == collide(b, a)


@given(patterns(), patterns())
def test_subset_means_every_subject_of_one_is_in_the_other(a: str, b: str) -> None:
    assert subset(a, b) == (members(a) <= members(b))


@given(patterns(), st.lists(patterns(), max_size=4))
def test_covered_means_the_patterns_together_hold_every_subject(a: str, others: list[str]) -> None:
    assert covered(a, others) == (members(a) <= set().union(*map(members, others)))


@given(st.lists(patterns(), max_size=12), patterns())
def test_the_index_finds_what_a_comparison_of_all_pairs_finds(known: list[str], asked: str) -> None:
    index: SubjectIndex[int] = SubjectIndex()
    for i, pattern in enumerate(known):
        index.add(pattern, i)
    assert sorted(index.colliding(asked)) == [i for i, p in enumerate(known) if collide(p, asked)]


@pytest.mark.parametrize("subject", ["a", "a.b", "a.*", "*.>", ">", "$JS.API.>", "a*b.c>", "ü.ß"])
def test_servers_take_these_subjects(subject: str) -> None:
    assert valid_subject(subject)


@pytest.mark.parametrize("subject", ["", ".", "a.", ".a", "a..b", "a.>.b", ">.a", "a b", "a.\tb", "a\n"])
def test_servers_refuse_these_subjects(subject: str) -> None:
    assert not valid_subject(subject)


def test_a_wildcard_counts_only_as_a_whole_token() -> None:
    assert literal("a*b.c>")
    assert not literal("a.*")
    assert not literal("a.>")
    assert not collide("a*", "ab")


@pytest.mark.parametrize(
    ("subject", "src", "dest", "image"),
    [
        ("orders.eu", "orders.*", "shop.$1", "shop.eu"),
        ("orders.*", "orders.*", "shop.{{wildcard(1)}}", "shop.*"),
        ("a.x.y", "*.*.*", "{{wildcard(3)}}.{{wildcard(1)}}", "y.a"),
        ("events.a.b", "events.>", "all.>", "all.a.b"),
        (">", "events.>", "all.>", "all.>"),
        ("k.1", "k.*", "p.{{partition(3,1)}}.{{wildcard(1)}}", "p.*.1"),
        ("k.a-b", "k.*", "s.{{split(1,-)}}", "s.>"),
        ("other", "k.*", "s.$1", None),
        ("k.*", "", "", "k.*"),
    ],
)
def test_a_transform_gives_a_pattern_of_its_results(subject: str, src: str, dest: str, image: str | None) -> None:
    assert transformed(subject, src, dest) == image
