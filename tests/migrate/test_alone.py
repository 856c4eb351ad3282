"""Which statements no transaction takes, as we tell it from their words and as servers say it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from provision.embedded import postgres
from provision.migrate.statements import runs_alone, words

SETUP = """
CREATE TABLE t (id int PRIMARY KEY);
CREATE INDEX t_id ON t (id);
CREATE TABLE p (id int) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION a, c WITH (connect = false);
CREATE SUBSCRIPTION slotless CONNECTION 'dbname=none' PUBLICATION a WITH (connect = false, slot_name = NONE);
"""
ALONE = [
    "VACUUM t",
    "CREATE DATABASE other",
    "DROP DATABASE other",
    "ALTER DATABASE template1 SET TABLESPACE pg_default",
    "CREATE TABLESPACE fast LOCATION '/none'",
    "DROP TABLESPACE fast",
    "ALTER SYSTEM SET work_mem = '8MB'",
    "CREATE INDEX CONCURRENTLY i ON t (id)",
    "CREATE UNIQUE INDEX CONCURRENTLY i ON t (id)",
    "DROP INDEX CONCURRENTLY t_id",
    "REINDEX INDEX CONCURRENTLY t_id",
    "REINDEX (VERBOSE, CONCURRENTLY) TABLE t",
    "REINDEX (CONCURRENTLY true) TABLE t",
    "REINDEX SCHEMA public",
    "REINDEX (VERBOSE) SCHEMA public",
    "REINDEX SYSTEM CONCURRENTLY",
    "CLUSTER",
    "CLUSTER VERBOSE",
    "ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY",
    "CREATE SUBSCRIPTION n CONNECTION 'dbname=none' PUBLICATION a",
    "CREATE SUBSCRIPTION n CONNECTION 'dbname=none' PUBLICATION a WITH (create_slot = true)",
    "DROP SUBSCRIPTION s",
    "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
    "ALTER SUBSCRIPTION s REFRESH PUBLICATION WITH (copy_data = false)",
    "ALTER SUBSCRIPTION s SET PUBLICATION b",
    "ALTER SUBSCRIPTION s ADD PUBLICATION b WITH (refresh = true)",
    "ALTER SUBSCRIPTION s DROP PUBLICATION c",
]
#: Of newer servers.
LATER = [
    (17, "CLUSTER (VERBOSE)"),
    (17, "ALTER SUBSCRIPTION s SET (failover = true)"),
    (18, "ALTER SUBSCRIPTION s SET (two_phase = false)"),
]
TOGETHER = [
    "ANALYZE t",
    "CREATE INDEX i ON t (id)",
    "CREATE INDEX concurrently_not ON t (id)",
    "DROP INDEX t_id",
    "REINDEX TABLE t",
    "REINDEX (CONCURRENTLY false) TABLE t",
    "REINDEX (CONCURRENTLY off, VERBOSE) TABLE t",
    "CLUSTER t USING t_id",
    "CLUSTER (VERBOSE) t USING t_id",
    "ALTER TABLE p DETACH PARTITION p_1",
    "ALTER DATABASE template1 SET work_mem = '8MB'",
    "ALTER DATABASE template1 CONNECTION LIMIT 5",
    "CREATE SUBSCRIPTION n CONNECTION 'dbname=none' PUBLICATION a WITH (connect = false)",
    "CREATE SUBSCRIPTION n CONNECTION 'dbname=none' PUBLICATION a WITH (connect = 'OFF', slot_name = NONE)",
    "ALTER SUBSCRIPTION s SET PUBLICATION b WITH (refresh = false)",
    "ALTER SUBSCRIPTION s ADD PUBLICATION b WITH (refresh = off)",
    "ALTER SUBSCRIPTION s SET (synchronous_commit = off)",
    "ALTER SUBSCRIPTION s DISABLE",
]


@pytest.fixture(scope="module", params=["newest", "older"])
def server(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A database of the newest server and of an older one, with what the statements speak of."""
    found: postgres.Server = request.getfixturevalue("pg_server" if request.param == "newest" else "pg16_server")
    name = f"test_{uuid4().hex[:12]}"
    found.create_database(name)
    with psycopg.connect(**found.dsn(name), autocommit=True) as connection:
        for statement in SETUP.split(";\n"):
            connection.execute(statement.encode())
        yield connection
        for subscription in ("s", "slotless"):
            connection.execute(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)".encode())
            connection.execute(f"DROP SUBSCRIPTION {subscription}".encode())
    found.query(f'DROP DATABASE "{name}" WITH (FORCE)')


def is_refused(connection: psycopg.Connection[tuple[object, ...]], statement: str, first: str = "") -> bool:
    """Whether a server says that the statement cannot run inside a transaction, after another one."""
    connection.execute("BEGIN")
    connection.execute(first.encode())
    try:
        connection.execute(statement.encode())
    except psycopg.errors.ActiveSqlTransaction:
        return True
    finally:
        connection.execute("ROLLBACK")
    return False


@pytest.mark.parametrize("statement", ALONE)
def test_what_no_transaction_takes(server: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    # refused first of all for a subscription that is off
    assert is_refused(server, statement, "ALTER SUBSCRIPTION s ENABLE" if statement.startswith("ALTER SUBS") else "")
    assert runs_alone(words(statement))


@pytest.mark.parametrize(("since", "statement"), LATER)
def test_what_no_transaction_takes_since(
    server: psycopg.Connection[tuple[object, ...]], since: int, statement: str
) -> None:
    assert runs_alone(words(statement))
    if server.info.server_version // 10_000 >= since:
        assert is_refused(server, statement)


@pytest.mark.parametrize("statement", TOGETHER)
def test_what_a_transaction_takes(server: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    assert not is_refused(server, statement)
    assert not runs_alone(words(statement))


def test_what_only_the_object_shows(server: psycopg.Connection[tuple[object, ...]]) -> None:
    assert is_refused(server, "REINDEX TABLE p")
    assert not runs_alone(words("REINDEX TABLE p"))
    assert not is_refused(server, "DROP SUBSCRIPTION slotless")
    assert runs_alone(words("DROP SUBSCRIPTION slotless"))
