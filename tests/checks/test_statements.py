"""Function bodies split into statements, conditions into branches."""

from __future__ import annotations

from provision.checks.sqltext import spelled, tokenize
from provision.checks.statements import alternatives, branches, plpgsql, sql_statements

BODY = """
<<outer>>
DECLARE
  total int := CASE WHEN true THEN 1 ELSE 0 END;
BEGIN
  IF total > 0 AND (SELECT count(*) FROM t) > 1 THEN
    PERFORM f('; BEGIN');
  ELSIF total = 0 THEN
    RETURN CASE total WHEN 1 THEN 'a' ELSE 'b' END;
  ELSE
    NULL;
  END IF;
  FOR r IN SELECT * FROM t LOOP
    CASE r.x WHEN 1 THEN RAISE NOTICE 'x'; ELSE NULL; END CASE;
  END LOOP;
EXCEPTION WHEN others THEN
  RAISE;
END;
"""


def test_plpgsql_is_split_into_heads_block_words_and_statements() -> None:
    found = plpgsql(tokenize(BODY))
    assert [s.word for s in found] == [
        "declare", "total", "begin", "if", "perform", "elsif", "return", "else", "null", "end", "for", "case",
        "when", "raise", "else", "null", "end", "end", "exception", "when", "raise", "end",
    ]  # fmt: skip
    assert found[-1].depth == 0
    assert next(s for s in found if s.word == "raise").depth == 3


def test_sql_bodies_are_split_at_semicolons_outside_parentheses() -> None:
    tokens = tokenize("BEGIN ATOMIC SELECT 1; SELECT f(';'); END")
    assert [spelled(s) for s in sql_statements(tokens)] == ["select 1", "select f(';')"]


def test_conditions_are_split_outside_parentheses_case_and_between() -> None:
    tokens = tokenize("(a BETWEEN 1 AND 2 AND b) OR (CASE WHEN x OR y THEN z END) OR ((c AND d))")
    assert [spelled(b) for b in branches(tokens, "or")] == [
        "a between 1 and 2 and b", "case when x or y then z end", "c and d",
    ]  # fmt: skip
    assert [[spelled(p) for p in parts] for parts in alternatives(tokens)] == [
        ["a between 1 and 2", "b"], ["case when x or y then z end"], ["c", "d"],
    ]  # fmt: skip
