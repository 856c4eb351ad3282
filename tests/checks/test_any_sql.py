"""No SQL text, however broken, makes a rule raise: it is reported or left to the server."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from provision.checks.sqltext import spelled, tokenize
from tests.checks.specs import load

PIECES = st.sampled_from(
    """
    select from join where and or not in is null distinct between case when then else end if loop for while begin
    declare exception raise perform execute format insert into values update delete shop.t t a b new.a old. count(
    max( min( now() pg_notify( nullif( ) ) ( [ ] , , . ; : := :: || / % = <> ? ~ 'x' '%I' 'a.b' '{}' $$ $1 -- /* */
    "Q" 1 0 .5 as regclass::text 'shop.t'::regclass pg_stat_activity return query with recursive concurrently index
    create set local log_statement '' ' e'\\' á read uncommitted prepare transaction commit << >> max(a)as oldest_a
    """.split()
)
SQL = st.lists(PIECES, min_size=1, max_size=25).map(" ".join)


@given(st.text(max_size=60) | SQL)
def test_any_text_becomes_tokens_inside_it(text: str) -> None:
    tokens = tokenize(text)
    assert all(0 <= t.start < len(text) for t in tokens)
    assert [t.start for t in tokens] == sorted({t.start for t in tokens})
    spelled(tokens)


@settings(max_examples=150, deadline=None)
@given(SQL, SQL, SQL)
def test_no_text_makes_a_rule_raise(body: str, query: str, condition: str) -> None:
    arguments = [{"name": "a", "type": "jsonb"}]
    columns = {"a": {"type": "shop.e"}, "b": {"type": "varchar(3)", "default": condition}}
    spec = {
        "plane": "example",
        "schemas": {
            "shop": {
                "enums": {"e": ["x", "y"]},
                "tables": {
                    "t": {
                        "columns": columns,
                        "checks": {"c": condition},
                        "indexes": {"i": {"columns": [{"expression": condition}], "where": condition}},
                        "triggers": {"g": {"timing": "after", "events": ["insert"], "function": "shop.g"}},
                    }
                },
                "functions": {
                    "f": {"language": "plpgsql", "returns": "boolean", "arguments": arguments, "body": body},
                    "g": {"language": "plpgsql", "returns": "trigger", "body": body},
                    "h": {"returns": "table(a text, b text)", "body": query},
                    "r": {"language": "plpgsql", "returns": "table(a text, b text)", "body": f"return query {query}"},
                },
                "views": {"v": {"query": query}},
            }
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), json.dumps(spec))
        for found in loaded.check():
            assert found.mark.line == 1
