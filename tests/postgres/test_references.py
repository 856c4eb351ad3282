"""Names found in SQL text: real ones, and nothing inside strings and comments."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.postgres.references import (
    bracketed,
    names_in,
    qualified_names,
    split_list,
    split_name,
    tokens,
)
from provision.postgres.sql import quote_ident
from provision.spec.ident import Address
from provision.spec.record import Record

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
HIDDEN = st.sampled_from(
    [
        "'a.b'", "'it''s c.d'", "E'\\' e.f'", "$$ g.h $$", "$x$ i.j $$ k.l $x$", "-- m.n\n", "/* o.p /* q.r */ s.t */",
        "U&'u.v'", "b'w.x'", "1.5", "1..10", ".5e3", "$1", "n'y.z'", "+", "(", ")", ",", ";", "\n", "::", "[1]",
    ]
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, set[tuple[str, str]]]:
    names = draw(st.lists(st.tuples(NAMES, NAMES), max_size=5))
    parts: list[str] = []
    for schema, name in names:
        parts += draw(st.lists(HIDDEN, max_size=3))
        parts.append(f" {quote_ident(schema)}{draw(st.sampled_from(['.', ' . ', '. /* x.y */']))}{quote_ident(name)} ")
    parts += draw(st.lists(HIDDEN, max_size=3))
    return " ".join(parts), set(names)


@given(texts())
def test_all_qualified_names_are_found_and_none_that_is_hidden(case: tuple[str, set[tuple[str, str]]]) -> None:
    text, names = case
    assert qualified_names(text) == names


@given(st.text())
def test_any_text_is_read_to_its_end(text: str) -> None:
    found = list(tokens(text))
    for token in found:
        assert text[token.start : token.end] == token.text
    for before, after in pairwise(found):
        assert before.end <= after.start
    qualified_names(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT 'x'::agents.status", {("agents", "status")}),
        ("agents.state%ROWTYPE", {("agents", "state")}),
        ("SELECT db.agents.state", {("db", "agents")}),
        ("AGENTS.State", {("agents", "state")}),
        ('"Agents"."St""ate"', {("Agents", 'St"ate')}),
        ('U&"d\\0061t\\+000061".x', {("data", "x")}),
        ("t.*, s.c", {("s", "c")}),
        ("FOR i IN 1..n.m LOOP", {("n", "m")}),
        ("a$b$c.d$e", {("a$b$c", "d$e")}),
        ("'open a.b", set()),
        ("$$ open a.b", set()),
        ("/* open a.b", set()),
        ("x.y/* closed */.z", {("x", "y")}),
    ],
)
def test_names_in_texts(text: str, names: set[tuple[str, str]]) -> None:
    assert qualified_names(text) == names


def test_a_list_is_split_only_at_its_own_separators() -> None:
    assert split_list("a int, numeric(10, 2), 'x,y', ARRAY[1,2] /* , */") == [
        "a int",
        "numeric(10, 2)",
        "'x,y'",
        "ARRAY[1,2] /* , */",
    ]
    assert split_list("") == []


def test_a_bracket_is_closed_by_its_own_partner() -> None:
    text = "WHEN ((old.a <> ')') AND f(new.b)) EXECUTE FUNCTION g(')')"
    assert bracketed(text, text.index("(")) == "(old.a <> ')') AND f(new.b)"
    with pytest.raises(ValueError):
        bracketed("(a", 0)


@pytest.mark.parametrize("text", ["", "a.", ".a", "a b", "a.b c", "a,b", "'a'.b"])
def test_what_is_not_a_dotted_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_name(text)


def test_a_record_names_what_its_texts_name() -> None:
    schema = Address.root("pg", "main", "schema", "agents", bare=True)
    settings: dict[str, Any] = {
        "arguments": [{"name": "s", "type": "agents.status", "default": "agents.first()"}],
        "body": "INSERT INTO audit.change_log VALUES ('no.thing')",
        "set": {"search_path": "not.this"},
    }
    record = Record(schema.child("function", "f(agents.status)"), settings, schema)
    assert names_in(record) == {("agents", "status"), ("agents", "first"), ("audit", "change_log")}


@given(st.lists(st.one_of(HIDDEN, NAMES.map(quote_ident)), max_size=6))
def test_tokens_agree_with_the_server_on_where_a_statement_ends(parts: list[str]) -> None:
    """A literal or comment left open would swallow what follows; the closing word must stay a token."""
    text = " ".join(parts) + " the_end"
    assert [t.text for t in tokens(text)][-1] == "the_end"


def test_the_server_reads_the_same_literals(pg_database: dict[str, Any]) -> None:
    with psycopg.connect(**pg_database, autocommit=True) as connection:
        for literal in ("'it''s c.d'", "E'\\' e.f'", "$x$ i.j $$ k.l $x$", "$$ g.h $$", "U&'u.v'"):
            assert len(list(tokens(literal))) == 1
            row = connection.execute(f"SELECT {literal} /* o.p /* q.r */ s.t */, 1".encode()).fetchone()
            assert row is not None
            assert row[1] == 1
