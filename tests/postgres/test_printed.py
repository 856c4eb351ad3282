"""What PostgreSQL prints of an expression is compared in the form that another reading does not change."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from provision.postgres.printed import settled

CONDITIONS = (
    "kind IN ('a', 'it''s', 'b\\c')",
    "kind NOT IN ('a', 'b')",
    "kind = ANY (ARRAY['a', 'b'])",
    "kind IN ('a')",
    "body IN ('x', 'y')",
    "kind IN ('a', 'b') AND (body IN ('ARRAY[''a''::character varying]', 'z') OR kind IS NULL)",
    "number IN (1, 2)",
)


def printed(session: psycopg.Connection[Any], condition: str) -> str:
    """The server's words for a condition; it is read from the text alone."""
    session.execute("DROP TABLE IF EXISTS t")
    session.execute(
        f"CREATE TABLE t (kind varchar(9), body text, number int, CONSTRAINT c CHECK ({condition}))".encode()
    )
    row = session.execute("SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = 'c'").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("condition", CONDITIONS)
def test_reading_the_settled_print_again_changes_nothing(pg_database: dict[str, Any], condition: str) -> None:
    with psycopg.connect(**pg_database, autocommit=True) as session:
        first = settled(printed(session, condition))
        assert settled(printed(session, first)) == first
        assert printed(session, first) == first


def test_the_server_itself_does_not_print_what_it_read(pg_database: dict[str, Any]) -> None:
    """The reason for all this: should a release end it, the module can go."""
    with psycopg.connect(**pg_database, autocommit=True) as session:
        first = printed(session, CONDITIONS[0])
        assert printed(session, first) != first


def test_other_texts_stay_as_they_are() -> None:
    for text in (None, "", "x > 1", "(ARRAY[kind])::text[]", "'(ARRAY[''a''::character varying])::text[]'::text"):
        assert settled(text) == text
