"""Audit, row security, time-outs, autovacuum, compression, and what operators look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.acceptance.plane import Plane
from tests.acceptance.test_plane_rows import TOKEN, agent, insert, task

Session = psycopg.Connection[Any]
POOL_ROLES = ("app_primary", "app_replica", "app_background", "app_analytics")


@pytest.fixture
def bystanders(applied_plane: Plane) -> Iterator[list[Session]]:
    """Seven sessions that sit idle in a transaction."""
    sessions = [psycopg.connect(**applied_plane.postgres, application_name="bystander") for _ in range(7)]
    for session in sessions:
        session.execute("SELECT 1")
    yield sessions
    for session in sessions:
        session.close()


@pytest.mark.req("H1.1")
def test_changes_of_an_audited_row_are_recorded_with_their_author(sql: Session) -> None:
    me = agent(sql)
    sql.execute("UPDATE agents.registry SET status = 'active' WHERE agent_id = %s", [me])
    sql.execute("UPDATE agents.registry SET last_heartbeat = now() WHERE agent_id = %s", [me])
    sql.execute("DELETE FROM agents.registry WHERE agent_id = %s", [me])
    found = sql.execute(
        "SELECT operation, changed_by = session_user, old_data ->> 'status', new_data ->> 'status'"
        " FROM audit.change_log WHERE table_name = 'agents.registry'"
        " AND coalesce(new_data, old_data) ->> 'agent_id' = %s",
        [str(me)],
    ).fetchall()
    assert sorted(found) == [
        ("DELETE", True, "active", None),
        ("INSERT", True, None, "initializing"),
        ("UPDATE", True, "initializing", "active"),
    ]


@pytest.mark.req("H1.1")
def test_an_application_can_neither_write_nor_read_the_audit_log(sql: Session) -> None:
    sql.execute("SET LOCAL ROLE app_primary")
    me = agent(sql)
    for statement in ("INSERT INTO audit.change_log DEFAULT VALUES", "SELECT FROM audit.change_log"):
        with pytest.raises(errors.InsufficientPrivilege), sql.transaction():
            sql.execute(statement.encode())
    sql.execute("SET LOCAL ROLE app_background")
    row = sql.execute("SELECT count(*) FROM audit.change_log WHERE new_data ->> 'agent_id' = %s", [str(me)]).fetchone()
    assert row == (1,)


@pytest.mark.req("A4.8", "H1.5")
def test_each_pool_has_a_login_of_its_own(sql: Session) -> None:
    found = sql.execute(
        "SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolpassword LIKE 'SCRAM-SHA-256$%%'"
        " FROM pg_authid WHERE rolname = ANY (%s)",
        [list(POOL_ROLES)],
    ).fetchall()
    assert sorted(found) == [(name, True, False, False, True) for name in sorted(POOL_ROLES)]


@pytest.mark.req("H4.1")
def test_each_pool_role_has_its_time_outs(sql: Session) -> None:
    found = sql.execute("SELECT rolname, rolconfig FROM pg_roles WHERE rolname = ANY (%s)", [list(POOL_ROLES)])
    for name, settings in found.fetchall():
        limits = dict(setting.split("=", 1) for setting in settings)
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert re.fullmatch(r"[1-9]\d*(ms|s|min|h)", limits[setting]), (name, setting)
    primary = sql.execute("SELECT rolconfig FROM pg_roles WHERE rolname = 'app_primary'").fetchone()
    assert primary is not None
    assert {"statement_timeout=30s", "idle_in_transaction_session_timeout=1min"} <= set(primary[0])


@pytest.mark.req("A4.14")
def test_role_limits_hold_the_declared_pools(sql: Session) -> None:
    limits = dict(
        sql.execute(
            "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname = ANY (%s)", [list(POOL_ROLES)]
        ).fetchall()
    )
    for role, most in {"app_primary": 20, "app_replica": 15, "app_background": 5, "app_analytics": 10}.items():
        assert limits[role] >= most


def test_an_application_reads_and_writes_what_it_needs(sql: Session) -> None:
    sql.execute("SET LOCAL ROLE app_primary")
    me = agent(sql)
    insert(sql, "agents.state", agent_id=me, state_key="k", state_value={})
    insert(sql, "agents.checkpoints", agent_id=me, state_snapshot={})
    insert(sql, "agents.lifecycle_events", agent_id=me, event_type="beat")
    insert(sql, "tasks.executions", task_id=task(sql), task_type="inference", agent_id=me)
    insert(sql, "messages.log", message_type="heartbeat", from_agent_id=me)
    insert(sql, "sessions.active", session_token=TOKEN, expires_at="2099-01-01Z")
    insert(sql, "runtime.outbox", subject="agents.state.1", payload={})
    assert sql.execute("SELECT count(*) FROM agents.hydrate_agent_state(%s)", [me]).fetchone() == (1,)
    assert sql.execute("SELECT count(*) FROM runtime.delete_expired()").fetchone() == (3,)


@pytest.mark.req("H1.2")
def test_readers_see_only_what_policies_let_through(sql: Session) -> None:
    me = agent(sql)
    insert(sql, "agents.state", agent_id=me, state_key="living", state_value={})
    insert(sql, "agents.state", agent_id=me, state_key="dead", state_value={}, deleted_at="2026-01-01Z")
    insert(sql, "sessions.active", session_token="a" * 32, expires_at="2099-01-01Z", agent_id=me)
    insert(
        sql, "sessions.active", session_token="b" * 32, expires_at="2020-01-02Z", created_at="2020-01-01Z", agent_id=me
    )
    insert(sql, "messages.log", message_type="heartbeat", from_agent_id=me, is_persistent=True)
    insert(sql, "messages.log", message_type="heartbeat", from_agent_id=me, is_persistent=False)
    queries = {
        "SELECT count(*) FROM agents.state WHERE agent_id = %s": 1,
        "SELECT count(*) FROM sessions.active WHERE agent_id = %s": 1,
        "SELECT count(*) FROM messages.log WHERE from_agent_id = %s": 1,
    }
    for role, factor in {"app_analytics": 1, "app_replica": 1, "app_background": 2}.items():
        sql.execute(f"SET LOCAL ROLE {role}".encode())
        for query, count in queries.items():
            assert sql.execute(query.encode(), [me]).fetchone() == (count * factor,), (role, query)
    sql.execute("SET LOCAL ROLE app_analytics")
    with pytest.raises(errors.InsufficientPrivilege), sql.transaction():
        sql.execute("SELECT session_token FROM sessions.active")
    with pytest.raises(errors.InsufficientPrivilege), sql.transaction():
        agent(sql)


@pytest.mark.req("H4.2")
@pytest.mark.parametrize("table", ["agents.state", "tasks.queue", "sessions.active"])
def test_tables_with_much_churn_are_vacuumed_early_on_every_leaf(sql: Session, table: str) -> None:
    found = sql.execute(
        "SELECT relname, reloptions FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = %s::regclass",
        [table],
    ).fetchall()
    assert found
    for name, options in found:
        settings = dict(option.split("=") for option in options or [])
        assert 0 < float(settings["autovacuum_vacuum_scale_factor"]) < 0.2, name
        assert 0 < float(settings["autovacuum_analyze_scale_factor"]) < 0.1, name


@pytest.mark.req("H3.1")
def test_large_columns_name_a_compression_that_every_server_has(sql: Session) -> None:
    for table, column in {
        "agents.state": "state_value",
        "agents.checkpoints": "state_snapshot",
        "messages.log": "payload",
        "knowledge.embeddings": "text_content",
    }.items():
        row = sql.execute(
            "SELECT attcompression FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s", [table, column]
        ).fetchone()
        assert row == ("p",), table


@pytest.mark.req("F2.6")
def test_connection_stats(sql: Session, bystanders: list[Session]) -> None:
    cursor = sql.execute("SELECT * FROM monitoring.connection_stats")
    assert [c.name for c in cursor.description or ()] == (
        "database_name username application_name client_addr client_hostname state connection_count"
        " oldest_connection newest_connection avg_connection_age_seconds"
    ).split()
    rows = cursor.fetchall()
    counts = [row[6] for row in rows]
    assert counts == sorted(counts, reverse=True)
    (seven,) = (row for row in rows if row[2] == "bystander")
    assert (seven[5], seven[6]) == ("idle in transaction", len(bystanders))
    assert seven[7] < seven[8]
    assert {row[0] for row in rows} == {sql.info.dbname}


@pytest.mark.req("F2.7", "F2.9")
def test_pool_health_counts_everybody_but_the_session_that_asks(
    sql: Session, applied_plane: Plane, bystanders: list[Session]
) -> None:
    with psycopg.connect(**{**applied_plane.postgres, "dbname": "postgres"}):
        cursor = sql.execute("SELECT * FROM monitoring.check_connection_pool_health()")
        assert [c.name for c in cursor.description or ()] == (
            "pool_name total_connections active_connections idle_connections idle_in_transaction max_connections"
            " health_status recommendations"
        ).split()
        (row,) = cursor.fetchall()
        others = sql.execute(
            "SELECT count(*), count(*) FILTER (WHERE state = 'active') FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert others is not None
    assert (row[1], row[2]) == others
    assert row[1] > len(bystanders)
    assert row[4] == len(bystanders)
    assert sql.execute("SHOW max_connections").fetchone() == (str(row[5]),)
    assert row[6] == "healthy"
    assert len(row[7]) == 1
    assert "idle in a transaction" in row[7][0]


@pytest.mark.req("F2.7")
@pytest.mark.parametrize(("total", "status"), [(80, "healthy"), (81, "warning"), (90, "warning"), (91, "critical")])
def test_pool_health_turns_at_eighty_and_ninety_percent(sql: Session, total: int, status: str) -> None:
    """The body of the function runs on a made-up server of a hundred connections."""
    row = sql.execute(
        "SELECT prosrc FROM pg_proc WHERE oid = 'monitoring.check_connection_pool_health()'::regprocedure"
    ).fetchone()
    assert row is not None
    sql.execute(
        "CREATE TEMP TABLE activity ON COMMIT DROP AS"
        " SELECT -n AS pid, 'client backend' AS backend_type, 'active' AS state FROM generate_series(1, %s) n",
        [total],
    )
    body = row[0].replace("pg_stat_activity", "activity").replace("current_setting('max_connections')", "'100'")
    found = sql.execute(body.encode()).fetchone()
    assert found is not None
    assert found[6] == status
    assert any("active" in note for note in found[7])
    assert any("approach" in note for note in found[7]) is (total > 80)


@pytest.mark.req("A5.50", "E1.8")
def test_a_wake_up_for_the_outbox_is_ready_and_off(sql: Session) -> None:
    row = sql.execute(
        "SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'runtime.outbox'::regclass AND NOT tgisinternal"
    )
    assert row.fetchone() == ("D",)
    sql.execute("ALTER TABLE runtime.outbox ENABLE TRIGGER outbox_wake")
    insert(sql, "runtime.outbox", subject="agents.state.1", payload={"text": "x" * 9000})
