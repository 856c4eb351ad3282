"""SQL text becomes tokens by PostgreSQL's lexical rules, so that rules look at code, not at strings or comments."""

from __future__ import annotations

import pytest

from provision.checks.sqltext import calls, clock_calls, names, spelled, split, tokenize, unwrapped


def texts(sql: str) -> list[str]:
    return [t.text for t in tokenize(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a -- now()\n+ b", ["a", "+", "b"]),
        ("a /* now() /* nested */ still */ b", ["a", "b"]),
        ("'it''s' || E'a\\'b'", ["it's", "||", "a\\'b"]),
        ("$$ select 'x' $$", [" select 'x' "]),
        ("$f$ a $$ b $f$ c", [" a $$ b ", "c"]),
        ('"Odd ""name".x', ['Odd "name', ".", "x"]),
        ("x::int[]", ["x", "::", "int", "[", "]"]),
        ("$1 <> 1.5e3-2", ["$1", "<>", "1.5e3", "-", "2"]),
        ("a->>'k' ~ '^x'", ["a", "->>", "k", "~", "^x"]),
        ("1..10", ["1", "..", "10"]),
        ("cost=-1e-5 @-2", ["cost", "=", "-", "1e-5", "@-", "2"]),
        ('U&"d\\0061t\\0061"', ["data"]),
        ("'open", ["open"]),
        ("/* open", []),
    ],
)
def test_tokens_follow_the_lexical_rules(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


def test_names_are_whole_and_calls_are_told_from_keywords() -> None:
    tokens = tokenize("agents.f(x) AND t.\"C\" IN (1) AND pg_catalog.now() > 'now()'")
    assert [n.qualified for n in names(tokens)] == ["agents.f", "x", "and", "t.C", "in", "and", "pg_catalog.now"]
    assert [c.qualified for c in calls(tokens)] == ["agents.f", "pg_catalog.now"]


def test_the_clock_is_seen_in_code_only() -> None:
    assert clock_calls(tokenize("a > now() OR b = CURRENT_DATE")) == ["now()", "current_date"]
    assert clock_calls(tokenize("a > mine.now() OR b = 'now()' OR \"current_date\" = 1 -- now()")) == []


def test_splitting_and_unwrapping_respect_parentheses() -> None:
    assert [spelled(p) for p in split(tokenize("f(a, b), (c, d)[1], e"), ",")] == ["f(a, b)", "(c, d)[1]", "e"]
    assert spelled(unwrapped(tokenize("((a) + (b))"))) == "(a) + (b)"
