"""Partitions: complete, daily where time decides, and found by the planner."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.acceptance.plane import Plane
from tests.acceptance.test_plane_rows import agent, insert, task

Session = psycopg.Connection[Any]
DAILY = {"agents.lifecycle_events": "created_at", "tasks.executions": "started_at", "messages.log": "sent_at"}


def bounds(sql: Session, table: str) -> dict[str, str]:
    found = sql.execute(
        "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class JOIN pg_inherits ON inhrelid = oid"
        " WHERE inhparent = %s::regclass",
        [table],
    )
    return dict(found.fetchall())


@pytest.mark.req("A6.1")
def test_state_has_eight_hash_partitions(sql: Session) -> None:
    assert bounds(sql, "agents.state") == {
        f"state_{n}": f"FOR VALUES WITH (modulus 8, remainder {n})" for n in range(8)
    }


@pytest.mark.req("A6.10", "A6.11")
def test_sessions_have_a_complete_hash_set(sql: Session) -> None:
    found = bounds(sql, "sessions.active")
    count = len(found)
    assert count > 1
    assert set(found.values()) == {f"FOR VALUES WITH (modulus {count}, remainder {n})" for n in range(count)}


@pytest.mark.req("A6.9", "A6.11")
def test_the_queue_has_partitions_by_type_and_one_for_the_rest(sql: Session) -> None:
    found = bounds(sql, "tasks.queue")
    assert list(found.values()).count("DEFAULT") == 1
    listed = [bound for bound in found.values() if bound != "DEFAULT"]
    assert len(listed) > 1
    assert len(set(listed)) == len(listed)


@pytest.mark.req("A6.2", "A6.4")
@pytest.mark.parametrize("table", DAILY)
def test_daily_partitions_bear_their_day_in_utc(sql: Session, table: str) -> None:
    found = bounds(sql, table)
    name = table.partition(".")[2]
    today = datetime.now(UTC).date()
    for offset in (0, 1):
        day = today + timedelta(days=offset)
        assert found[f"{name}_{day:%Y_%m_%d}"] == (
            f"FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')"
        )
    assert sql.execute("SELECT pg_get_partkeydef(%s::regclass)", [table]).fetchone() == (f"RANGE ({DAILY[table]})",)


@pytest.mark.req("A6.8", "A6.5")
@pytest.mark.parametrize("days", [0, 1, 6])
def test_rows_of_today_and_the_coming_days_find_their_partition(sql: Session, days: int) -> None:
    at = datetime.now(UTC) + timedelta(days=days)
    me = agent(sql)
    insert(sql, "agents.lifecycle_events", agent_id=me, event_type="beat", created_at=at)
    insert(sql, "tasks.executions", task_id=task(sql), task_type="inference", agent_id=me, started_at=at)
    insert(sql, "messages.log", message_type="heartbeat", sent_at=at)
    for table in DAILY:
        row = sql.execute(f"SELECT tableoid::regclass::text FROM {table}").fetchone()
        assert row == (f"{table}_{at:%Y_%m_%d}",)


@pytest.mark.req("A6.4")
def test_indexes_of_a_parent_reach_every_partition(sql: Session) -> None:
    found = sql.execute(
        """
        SELECT leaf.relname, parent_index.relname
          FROM pg_partitioned_table t
          JOIN pg_inherits i ON i.inhparent = t.partrelid
          JOIN pg_class leaf ON leaf.oid = i.inhrelid
          JOIN pg_index pi ON pi.indrelid = t.partrelid
          JOIN pg_class parent_index ON parent_index.oid = pi.indexrelid
         WHERE NOT EXISTS (
            SELECT FROM pg_inherits ii JOIN pg_index li ON li.indexrelid = ii.inhrelid
             WHERE ii.inhparent = pi.indexrelid AND li.indrelid = leaf.oid AND li.indisvalid)
        """
    )
    assert found.fetchall() == []


@pytest.mark.req("A6.12")
@pytest.mark.parametrize(
    ("table", "condition", "most"),
    [
        ("agents.state", "agent_id = '00000000-0000-0000-0000-000000000001'", 1),
        ("sessions.active", "session_token = 'x'", 1),
        ("tasks.queue", "task_type = 'inference'", 1),
        ("messages.log", "sent_at >= '{today} 10:00+00' AND sent_at < '{today} 11:00+00'", 1),
        ("agents.lifecycle_events", "created_at >= '{today} 00:00+00' AND created_at < '{tomorrow} 12:00+00'", 2),
    ],
)
def test_a_query_bound_by_the_key_reads_only_the_partitions_it_needs(
    sql: Session, table: str, condition: str, most: int
) -> None:
    today = datetime.now(UTC).date()
    where = condition.format(today=today, tomorrow=today + timedelta(days=1))
    row = sql.execute(f"EXPLAIN (FORMAT JSON) SELECT * FROM {table} WHERE {where}").fetchone()
    assert row is not None
    assert json.dumps(row[0]).count('"Relation Name"') == most


@pytest.mark.req("A6.12")
def test_a_query_over_all_partitions_sees_every_row(sql: Session) -> None:
    agents = [agent(sql) for _ in range(30)]
    for me in agents:
        insert(sql, "agents.state", agent_id=me, state_key="k", state_value={})
    rows = sql.execute("SELECT agent_id FROM agents.state ORDER BY agent_id").fetchall()
    assert [row[0] for row in rows] == sorted(agents)
    used = sql.execute("SELECT count(DISTINCT tableoid) FROM agents.state").fetchone()
    assert used is not None
    assert used[0] > 1


@pytest.mark.req("A6.8")
def test_operators_can_see_how_far_rows_are_accepted(sql: Session) -> None:
    found = {f"{row[0]}.{row[1]}": row[2:] for row in sql.execute("SELECT * FROM partitions.coverage").fetchall()}
    assert set(found) == set(DAILY)
    for count, has_default, until in found.values():
        assert count >= 2
        assert has_default is False
        assert until > datetime.now(UTC) + timedelta(days=1)


def test_time_to_come_adds_no_step_before_half_of_the_window_is_used(applied_plane: Plane) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    done = applied_plane.holdfast("plan", "--format", "json", "--as-of", f"{tomorrow:%Y-%m-%dT00:00:01Z}")
    assert json.loads(done.stdout)["steps"] == []
