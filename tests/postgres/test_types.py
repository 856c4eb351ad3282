"""Type names and the cost of changing them: pure rules, and every rule against a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from provision.postgres import conversions, sql, types, volatility
from provision.spec.fields import FieldError

NAMES = {
    "varchar(255)": "character varying(255)",
    "VARCHAR": "character varying",
    "int": "integer",
    "int4": "integer",
    "INT8": "bigint",
    "pg_catalog.int2": "smallint",
    "decimal(3,2)": "numeric(3,2)",
    "numeric( 10 , 2 )": "numeric(10,2)",
    "numeric(5)": "numeric(5,0)",
    "timestamptz": "timestamp with time zone",
    "timestamptz(3)": "timestamp(3) with time zone",
    "timestamp (3) without time zone": "timestamp(3) without time zone",
    "timetz": "time with time zone",
    "time": "time without time zone",
    "char": "character(1)",
    "char(8)": "character(8)",
    '"char"': '"char"',
    "bit": "bit(1)",
    "varbit(4)": "bit varying(4)",
    "float": "double precision",
    "float(24)": "real",
    "bool": "boolean",
    "interval": "interval",
    "interval day to second(3)": "interval day to second(3)",
    "INTERVAL YEAR": "interval year",
    "interval(3)": "interval(3)",
    "text[]": "text[]",
    "varchar(10)[][]": "character varying(10)[]",
    "integer array": "integer[]",
    "int array[4]": "integer[]",
    "jsonb": "jsonb",
}


@pytest.mark.parametrize(("written", "shown"), NAMES.items())
def test_a_built_in_type_is_shown_as_the_server_shows_it(written: str, shown: str, server: Any) -> None:
    assert types.canonical(written) == shown
    assert types.canonical(shown) == shown
    server.execute("DROP TABLE IF EXISTS typed")
    server.execute(f"CREATE TABLE typed (x {written})")
    query = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'typed'::regclass AND attnum = 1"
    )
    assert server.execute(query).fetchone()[0] == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("public.vector(1536)", "public.vector(1536)"),
        ("agents.agent_status", "agents.agent_status"),
        ('"Odd"."Ty""pe"[]', '"Odd"."Ty""pe"[]'),
        ("AGENTS.Status []", "agents.status[]"),
        ('agents."user"', 'agents."user"'),
    ],
)
def test_a_user_type_keeps_its_schema_and_is_quoted_as_needed(written: str, shown: str) -> None:
    assert types.canonical(written) == shown


@pytest.mark.parametrize("written", ["vector(3)", "agent_status", "serial", "a.b.c", "text(", "float(99)", "foo bar"])
def test_a_type_that_cannot_be_meant_is_refused_with_a_remedy(written: str) -> None:
    with pytest.raises(FieldError) as error:
        types.canonical(written)
    assert error.value.help


CONVERTED = """
    smallint;integer;bigint;numeric;numeric(10,2);numeric(12,2);numeric(12,4);double precision;text;varchar;varchar(10);
    varchar(20);char(5);date;timestamp;timestamp(3);timestamptz;timestamptz(3);time;interval;interval(3);
    interval day to second;interval year;bool;json;jsonb;uuid;inet;cidr;bit(3);bit varying(3);bit varying(8);oid;
    regclass;    varchar(10)[];varchar(20)[];varchar[];text[];integer[]
""".replace("\n", "").split(";")


@pytest.mark.parametrize("old", [t.strip() for t in CONVERTED])
def test_rewrites_and_casts_are_foretold_exactly(old: str, server: Any) -> None:
    wrong = []
    for new in (t.strip() for t in CONVERTED):
        measured = _convert(server, old, new)
        pair = types.parse(old), types.parse(new)
        if old == new or measured is None:
            continue
        foretold = conversions.needs_using(*pair), conversions.rewrites(*pair)
        if measured != foretold:
            wrong.append(f"{old} to {new}: using and rewrite {measured}, foretold {foretold}")
    assert wrong == []


def _convert(server: Any, old: str, new: str) -> tuple[bool, bool] | None:
    """Whether USING was needed, and whether the table was rewritten; None when it cannot be done."""
    server.execute("DROP TABLE IF EXISTS converted")
    server.execute(f"CREATE TABLE converted (x {old})")
    node = server.execute("SELECT pg_relation_filenode('converted')").fetchone()[0]
    using = False
    try:
        server.execute(f"ALTER TABLE converted ALTER x TYPE {new}")
    except psycopg.Error:
        using = True
        try:
            server.execute(f"ALTER TABLE converted ALTER x TYPE {new} USING x::{new}")
        except psycopg.Error:
            return None
    return using, server.execute("SELECT pg_relation_filenode('converted')").fetchone()[0] != node


@pytest.mark.parametrize(
    "name", ["plain", "user", "Order", "select", "a b", 'x"y', "1st", "äther", "dollar$", "json_value", "name", "value"]
)
def test_names_are_quoted_exactly_where_postgres_quotes_them(name: str, server: Any) -> None:
    assert sql.quote_ident(name) == server.execute("SELECT quote_ident(%s)", [name]).fetchone()[0]


@pytest.mark.parametrize("text", ["plain", "it's", "back\\slash", "'", "", "\n"])
def test_a_literal_reads_back_as_the_same_text(text: str, server: Any) -> None:
    assert server.execute(f"SELECT {sql.quote_literal(text)}".encode()).fetchone()[0] == text


def test_long_names_are_cut_to_what_a_name_may_have_and_stay_different() -> None:
    made = {sql.bounded("t" * 60, f"partition_{n}") for n in range(50)}
    assert len(made) == 50
    assert max(len(m.encode()) for m in made) <= 63


@pytest.mark.parametrize(
    ("expression", "volatile"),
    [
        ("now()", False),
        ("'{}'::jsonb", False),
        ("0.5::numeric(3,2)", False),
        ("jsonb_build_object('at', now())", False),
        ("CURRENT_TIMESTAMP(3)", False),
        ("now() + '1 hour'::interval", False),
        ("gen_random_uuid()", True),
        ("random()", True),
        ("nextval('a.s'::regclass)", True),
        ("clock_timestamp()", True),
        ("agents.anything()", True),
        ("pg_catalog.lower('A')", False),
        ("'random()'", False),
    ],
)
def test_a_default_is_volatile_unless_known_to_be_steady(expression: str, volatile: bool) -> None:
    assert volatility.is_volatile(expression) is volatile


@pytest.fixture(scope="module")
def _connection(pg_server: Any) -> Iterator[Any]:
    pg_server.create_database("types")
    dsn: Mapping[str, Any] = pg_server.dsn("types")
    with psycopg.connect(**dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@pytest.fixture
def server(_connection: Any) -> Any:
    return _connection
