"""Rows go into every table, and the rules of the plane hold for them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

Session = psycopg.Connection[Any]
TOKEN = "t" * 32
VECTOR = "[" + ",".join(["0.5"] * 1536) + "]"


def insert(sql: Session, table: str, returning: str = "1", **values: Any) -> Any:
    """Insert one row and give back a column; mappings become JSON."""
    given = [json.dumps(v) if isinstance(v, dict | list) else v for v in values.values()]
    text = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(given))})"
    if not values:
        text = f"INSERT INTO {table} DEFAULT VALUES"
    row = sql.execute(f"{text} RETURNING {returning}", given).fetchone()
    assert row is not None
    return row[0]


def agent(sql: Session, **values: Any) -> UUID:
    found = insert(sql, "agents.registry", "agent_id", **{"agent_type": "worker", "agent_name": "w", **values})
    assert isinstance(found, UUID)
    return found


def task(sql: Session, **values: Any) -> UUID:
    found = insert(sql, "tasks.queue", "task_id", **{"task_type": "inference", **values})
    assert isinstance(found, UUID)
    return found


def refused(sql: Session, error: type[psycopg.Error], name: str, table: str, **values: Any) -> None:
    """The row is refused by the constraint of that name, and nothing else is lost."""
    with pytest.raises(error) as caught, sql.transaction():
        insert(sql, table, **values)
    assert caught.value.diag.constraint_name == name


@pytest.mark.req("A5.9", "A5.10")
def test_a_root_agent_needs_only_type_and_name(sql: Session) -> None:
    root = agent(sql)
    child = agent(sql, parent_agent_id=root)
    row = sql.execute("SELECT parent_agent_id, status::text, metadata FROM agents.registry WHERE agent_id = %s", [root])
    found = row.fetchone()
    assert found is not None
    assert found[:2] == (None, "initializing")
    assert {"created_at", "version"} <= set(found[2])
    sql.execute("DELETE FROM agents.registry WHERE agent_id = %s", [root])
    assert sql.execute("SELECT parent_agent_id FROM agents.registry WHERE agent_id = %s", [child]).fetchone() == (None,)


@pytest.mark.req("A5.9", "A5.50")
def test_impossible_agents_are_refused(sql: Session) -> None:
    table, check, named = "agents.registry", errors.CheckViolation, {"agent_type": "w", "agent_name": "w"}
    refused(sql, check, "valid_agent_name", table, **{**named, "agent_name": ""})
    refused(sql, check, "valid_agent_type", table, **{**named, "agent_type": ""})
    refused(sql, check, "valid_metadata", table, **named, metadata={})
    me = str(uuid4())
    refused(sql, check, "no_self_parent", table, **named, agent_id=me, parent_agent_id=me)


@pytest.mark.req("A5.8")
@pytest.mark.parametrize(
    ("metadata", "good"),
    [
        ({"version": 1, "created_at": "2026-11-21T08:30:00"}, True),
        ({"version": 1, "created_at": "2026-11-21T08:30:00.123456Z"}, True),
        ({"version": 1, "created_at": "2028-02-29T00:00:00+02:00"}, True),
        ({"version": 1, "created_at": "2026-02-29T00:00:00Z"}, False),
        ({"version": 1, "created_at": "2026-13-01T00:00:00Z"}, False),
        ({"version": 1, "created_at": "2026-11-21T24:00:00Z"}, False),
        ({"version": 1, "created_at": "0000-01-01T00:00:00Z"}, False),
        ({"version": 1, "created_at": "2026-11-21T08:30:00 and more"}, False),
        ({"version": 1, "created_at": "2026-11-21"}, False),
        ({"version": 1, "created_at": 2026}, False),
        ({"version": 1}, False),
        ({"created_at": "2026-11-21T08:30:00"}, False),
        (["created_at", "version"], False),
        ("version", False),
        (None, False),
    ],
)
def test_metadata_has_a_version_and_a_real_time(sql: Session, metadata: Any, good: bool) -> None:
    given = None if metadata is None else json.dumps(metadata)
    row = sql.execute("SELECT agents.validate_agent_metadata(%s::jsonb)", [given]).fetchone()
    assert row == (good,)


@pytest.mark.req("A5.8")
def test_the_validator_is_immutable_and_pins_its_search_path(sql: Session) -> None:
    row = sql.execute(
        "SELECT provolatile, lanname, proconfig FROM pg_proc JOIN pg_language l ON l.oid = prolang"
        " WHERE proname = 'validate_agent_metadata'"
    ).fetchone()
    assert row is not None
    assert row[:2] == ("i", "plpgsql")
    assert any(setting.startswith("search_path=") for setting in row[2])


@pytest.mark.req("A5.11", "A5.38")
def test_state_takes_values_of_any_size_and_refuses_what_cannot_be(sql: Session) -> None:
    me = agent(sql)
    table, check = "agents.state", errors.CheckViolation
    row: dict[str, Any] = {"agent_id": me, "state_value": {}}
    big = {"text": "".join(str(uuid4()) for _ in range(500))}
    insert(sql, table, agent_id=me, state_key="big", state_value=big)
    insert(sql, table, **row, state_key="flushed", kv_incarnation=1_700_000_000_000_000_001, kv_revision=7)
    refused(sql, check, "valid_state_key", table, **row, state_key="")
    refused(sql, check, "valid_version", table, **row, state_key="k", version=0)
    refused(sql, check, "future_expiry", table, **row, state_key="k", expires_at="2020-01-01Z")
    refused(sql, errors.UniqueViolation, _leaf_key(sql, me), table, **row, state_key="big")
    sql.execute("DELETE FROM agents.registry WHERE agent_id = %s", [me])
    assert sql.execute("SELECT count(*) FROM agents.state WHERE agent_id = %s", [me]).fetchone() == (0,)


def _leaf_key(sql: Session, me: UUID) -> str:
    row = sql.execute("SELECT tableoid::regclass::text FROM agents.state WHERE agent_id = %s LIMIT 1", [me]).fetchone()
    assert row is not None
    return f"{row[0].rpartition('.')[2]}_pkey"


@pytest.mark.req("A5.12", "A5.13", "A5.14")
def test_checkpoints_and_events(sql: Session) -> None:
    me = agent(sql)
    insert(sql, "agents.checkpoints", agent_id=me, state_snapshot={"a": 1})
    refused(
        sql, errors.CheckViolation, "valid_checkpoint_name", "agents.checkpoints",
        agent_id=me, state_snapshot={}, checkpoint_name="",
    )  # fmt: skip
    events = "agents.lifecycle_events"
    insert(sql, events, agent_id=me, event_type="beat")
    insert(sql, events, agent_id=me, event_type="start", new_status="active", triggered_by=me)
    insert(sql, events, agent_id=me, event_type="stop", previous_status="active", new_status="idle")
    for same in ({"previous_status": "idle", "new_status": "idle"},):
        refused(sql, errors.CheckViolation, "status_change", events, agent_id=me, event_type="x", **same)
    refused(sql, errors.CheckViolation, "valid_event_type", events, agent_id=me, event_type="")


@pytest.mark.req("A5.15", "A5.16", "A6.9")
def test_a_task_needs_only_its_type_whatever_that_is(sql: Session) -> None:
    for kind in ("inference", "tool_call", "never heard of"):
        mine = task(sql, task_type=kind)
        row = sql.execute(
            "SELECT assigned_agent_id, status::text, priority::text, max_retries FROM tasks.queue WHERE task_id = %s",
            [mine],
        ).fetchone()
        assert row == (None, "pending", "normal", 3)


@pytest.mark.req("A5.16", "A5.50")
def test_impossible_tasks_are_refused(sql: Session) -> None:
    table, check, row = "tasks.queue", errors.CheckViolation, {"task_type": "inference"}
    refused(sql, check, "valid_task_type", table, task_type="")
    refused(sql, check, "valid_retry_count", table, **row, retry_count=4)
    refused(sql, check, "valid_retry_count", table, **row, retry_count=-1)
    refused(sql, check, "valid_timing", table, **row, started_at="2020-01-01Z")
    refused(sql, check, "valid_timing", table, **row, completed_at="2020-01-01Z")
    refused(sql, check, "valid_timing", table, **row, expires_at="2020-01-01Z")
    me = str(uuid4())
    refused(sql, check, "no_self_parent", table, **row, task_id=me, parent_task_id=me, parent_task_type="inference")


@pytest.mark.req("A5.15", "A5.17", "A5.18")
def test_references_to_tasks_carry_the_type(sql: Session) -> None:
    me, one, two = agent(sql), task(sql), task(sql, task_type="tool_call")
    child = task(sql, parent_task_id=one, parent_task_type="inference", assigned_agent_id=me)
    pair: dict[str, Any] = {
        "task_id": one,
        "task_type": "inference",
        "depends_on_task_id": two,
        "depends_on_task_type": "tool_call",
    }
    table = "tasks.dependencies"
    insert(sql, table, **pair)
    refused(sql, errors.UniqueViolation, "dependencies_task_key", table, **pair)
    refused(sql, errors.CheckViolation, "no_self_dependency", table, **{**pair, "depends_on_task_id": one})
    wrong = {**pair, "task_id": child, "dependency_type": "whim"}
    refused(sql, errors.CheckViolation, "valid_dependency_type", table, **wrong)
    with pytest.raises(errors.ForeignKeyViolation), sql.transaction():
        insert(sql, table, **{**pair, "task_id": child, "depends_on_task_type": "inference"})
    insert(sql, "tasks.executions", task_id=one, task_type="inference", agent_id=me)
    sql.execute("DELETE FROM tasks.queue WHERE task_id = %s", [one])
    for left in ("tasks.dependencies", "tasks.executions"):
        assert sql.execute(f"SELECT count(*) FROM {left} WHERE task_id = %s", [one]).fetchone() == (0,)
    row = sql.execute("SELECT parent_task_id, parent_task_type FROM tasks.queue WHERE task_id = %s", [child])
    assert row.fetchone() == (None, None)


@pytest.mark.req("A5.19")
@pytest.mark.parametrize(
    ("status", "given", "good"),
    [
        ("completed", {"completed_at": "2099-01-01Z", "result": {}}, True),
        ("completed", {"completed_at": "2099-01-01Z"}, False),
        ("completed", {"result": {}}, False),
        ("failed", {"completed_at": "2099-01-01Z", "error_message": "x"}, True),
        ("failed", {"completed_at": "2099-01-01Z"}, False),
        ("cancelled", {"completed_at": "2099-01-01Z"}, True),
        ("cancelled", {}, False),
        *((status, {}, True) for status in ("pending", "queued", "running", "paused")),
        *((status, {"completed_at": "2099-01-01Z"}, False) for status in ("pending", "queued", "running", "paused")),
    ],
)
def test_each_status_of_an_execution_has_its_form(sql: Session, status: str, given: dict[str, Any], good: bool) -> None:
    row = {"task_id": task(sql), "task_type": "inference", "agent_id": agent(sql), "status": status, **given}
    if good:
        insert(sql, "tasks.executions", **row)
    else:
        refused(sql, errors.CheckViolation, "completion_consistency", "tasks.executions", **row)


@pytest.mark.req("A5.20", "A5.21")
def test_channels_and_subscriptions(sql: Session) -> None:
    me = agent(sql)
    one = insert(sql, "messages.channels", "channel_id", channel_name="news", channel_type="topic")
    for wrong in ({"channel_name": "", "channel_type": "topic"}, {"channel_name": "x", "channel_type": "pipe"}):
        with pytest.raises(errors.CheckViolation), sql.transaction():
            insert(sql, "messages.channels", **wrong)
    with pytest.raises(errors.UniqueViolation), sql.transaction():
        insert(sql, "messages.channels", channel_name="news", channel_type="queue")
    insert(sql, "messages.subscriptions", agent_id=me, channel_id=one)
    # No pattern twice is a duplicate too.
    with pytest.raises(errors.UniqueViolation), sql.transaction():
        insert(sql, "messages.subscriptions", agent_id=me, channel_id=one)
    insert(sql, "messages.subscriptions", agent_id=me, channel_id=one, message_pattern="a.*")


@pytest.mark.req("A5.22", "A5.23")
def test_a_message_has_one_route_unless_it_is_a_heartbeat(sql: Session) -> None:
    me = agent(sql)
    channel = insert(sql, "messages.channels", "channel_id", channel_name="work", channel_type="queue")
    table = "messages.log"
    for route in ({"to_agent_id": me}, {"broadcast_to_type": "worker"}, {"channel_id": channel}):
        insert(sql, table, message_type="command", from_agent_id=me, **route)
    insert(sql, table, message_type="command", to_agent_id=me, channel_id=channel)
    insert(sql, table, message_type="heartbeat", from_agent_id=me)
    refused(sql, errors.CheckViolation, "routing_consistency", table, message_type="command")
    both = {"to_agent_id": me, "broadcast_to_type": "worker"}
    refused(sql, errors.CheckViolation, "routing_consistency", table, message_type="command", **both)
    refused(sql, errors.CheckViolation, "valid_priority", table, message_type="heartbeat", priority=11)
    refused(
        sql, errors.CheckViolation, "valid_delivery_attempts", table, message_type="heartbeat", delivery_attempts=-1
    )


@pytest.mark.req("A5.24", "A5.25", "A6.10")
def test_sessions(sql: Session) -> None:
    table, row = "sessions.active", {"expires_at": "2099-01-01Z"}
    for number in range(40):
        insert(sql, table, session_token=f"{number:032}", **row)
    with pytest.raises(errors.UniqueViolation), sql.transaction():
        insert(sql, table, session_token=f"{7:032}", **row)
    refused(sql, errors.CheckViolation, "valid_session_token", table, session_token="short", **row)
    refused(sql, errors.CheckViolation, "valid_session_type", table, session_token=TOKEN, session_type="x", **row)
    refused(sql, errors.CheckViolation, "future_expiry", table, session_token=TOKEN, expires_at="2020-01-01Z")
    # A session that has expired can still be touched, as a restore does.
    past = {"created_at": "2020-01-01Z", "expires_at": "2020-01-02Z"}
    insert(sql, table, session_token=TOKEN, **past)
    changed = sql.execute("UPDATE sessions.active SET last_activity = now() WHERE session_token = %s", [TOKEN])
    assert changed.rowcount == 1


@pytest.mark.req("A5.26", "A5.27", "A5.50")
def test_facts_and_embeddings(sql: Session) -> None:
    row = {"entity_type": "person", "entity_id": "1", "predicate": "knows", "object_value": {}, "object_type": "text"}
    fact = insert(sql, "knowledge.facts", "fact_id", **row, confidence_score=0.99)
    check, facts = errors.CheckViolation, "knowledge.facts"
    refused(sql, check, "valid_entity_type", facts, **{**row, "entity_type": ""})
    refused(sql, check, "valid_entity_id", facts, **{**row, "entity_id": ""})
    refused(sql, check, "valid_predicate", facts, **{**row, "predicate": ""})
    refused(sql, check, "valid_confidence_score", facts, **row, confidence_score=1.01)
    refused(sql, check, "valid_validity_period", facts, **row, valid_until="2020-01-01Z")
    text = {
        "fact_id": fact, "embedding_model": "m", "embedding_version": "1", "text_content": "t", "content_hash": "0" * 64
    }  # fmt: skip
    insert(sql, "knowledge.embeddings", **text, embedding_vector=VECTOR)
    refused(sql, check, "valid_embedding_model", "knowledge.embeddings", **{**text, "embedding_model": ""})
    refused(sql, check, "valid_text_content", "knowledge.embeddings", **{**text, "text_content": ""})
    near = sql.execute(
        "SELECT fact_id FROM knowledge.embeddings ORDER BY embedding_vector <=> %s LIMIT 1", [VECTOR]
    ).fetchone()
    assert near == (fact,)
    sql.execute("DELETE FROM knowledge.facts WHERE fact_id = %s", [fact])
    assert sql.execute("SELECT count(*) FROM knowledge.embeddings WHERE fact_id = %s", [fact]).fetchone() == (0,)


@pytest.mark.req("A5.45")
@pytest.mark.parametrize("table", ["agents.registry", "agents.state", "tasks.queue", "knowledge.facts"])
def test_a_changed_row_is_touched_and_an_unchanged_one_is_not(sql: Session, table: str) -> None:
    old = "2020-01-01 00:00:00+00"
    me = agent(sql, created_at=old, updated_at=old)
    rows: dict[str, tuple[dict[str, Any], str]] = {
        "agents.registry": ({}, "agent_name = 'new'"),
        "agents.state": ({"agent_id": me, "state_key": "k", "state_value": {}}, "state_value = '1'"),
        "tasks.queue": ({"task_type": "inference"}, "task_name = 'new'"),
        "knowledge.facts": (
            {"entity_type": "e", "entity_id": "1", "predicate": "p", "object_value": {}, "object_type": "t"},
            "predicate = 'q'",
        ),
    }
    row, change = rows[table]
    if row:
        insert(sql, table, **row, created_at=old, updated_at=old)
    column = change.partition(" ")[0]
    old_rows = f"UPDATE {table} SET {{}} WHERE created_at = '{old}' RETURNING updated_at = now()"
    assert sql.execute(old_rows.format(f"{column} = {column}")).fetchone() == (False,)
    assert sql.execute(old_rows.format(change)).fetchone() == (True,)


@pytest.mark.req("A5.46", "A5.48")
def test_hydration_gives_living_rows_newest_first(sql: Session) -> None:
    me = agent(sql)
    for key, age, more in [
        ("old", "2 hours", {}),
        ("new", "1 hour", {}),
        ("expired", "3 hours", {"expires_at": "2020-01-02Z", "created_at": "2020-01-01Z"}),
        ("deleted", "1 minute", {"deleted_at": "2020-01-01Z"}),
    ]:
        insert(sql, "agents.state", agent_id=me, state_key=key, state_value={"k": key}, **more)
        sql.execute("ALTER TABLE agents.state DISABLE TRIGGER USER")
        sql.execute(
            "UPDATE agents.state SET updated_at = now() - %s::interval WHERE agent_id = %s AND state_key = %s",
            [age, me, key],
        )
    found = sql.execute("SELECT state_key, state_value FROM agents.hydrate_agent_state(%s)", [me]).fetchall()
    assert found == [("new", {"k": "new"}), ("old", {"k": "old"})]


@pytest.mark.req("A5.49")
def test_clean_up_deletes_what_has_expired_and_nothing_else(sql: Session) -> None:
    me = agent(sql)
    past, future = {"created_at": "2020-01-01Z", "expires_at": "2020-01-02Z"}, {"expires_at": "2099-01-01Z"}
    for number in range(3):
        insert(sql, "agents.state", agent_id=me, state_key=f"gone {number}", state_value={}, **past)
    insert(sql, "agents.state", agent_id=me, state_key="kept", state_value={})
    insert(sql, "agents.state", agent_id=me, state_key="later", state_value={}, **future)
    gone = task(sql, **past)
    running = task(sql, **past, status="running")
    insert(sql, "sessions.active", session_token="a" * 32, **past)
    insert(sql, "sessions.active", session_token="b" * 32, **future)
    first = dict(sql.execute("SELECT * FROM runtime.delete_expired(2)").fetchall())
    assert first == {"agents.state": 2, "tasks.queue": 1, "sessions.active": 1}
    assert dict(sql.execute("SELECT * FROM runtime.delete_expired()").fetchall()) == {
        "agents.state": 1,
        "tasks.queue": 0,
        "sessions.active": 0,
    }
    left = sql.execute("SELECT state_key FROM agents.state WHERE agent_id = %s ORDER BY 1", [me]).fetchall()
    assert left == [("kept",), ("later",)]
    tasks = sql.execute("SELECT task_id FROM tasks.queue WHERE task_id IN (%s, %s)", [gone, running]).fetchall()
    assert tasks == [(running,)]


@pytest.mark.req("A5.51")
def test_deleting_an_agent_follows_the_rule_of_each_reference(sql: Session) -> None:
    me, other = agent(sql), agent(sql)
    insert(sql, "agents.state", agent_id=me, state_key="k", state_value={})
    insert(sql, "sessions.active", session_token=TOKEN, agent_id=me, expires_at="2099-01-01Z")
    mine = task(sql, assigned_agent_id=me, created_by_agent_id=me)
    insert(sql, "messages.log", message_type="command", from_agent_id=me, to_agent_id=other)
    sql.execute("DELETE FROM agents.registry WHERE agent_id = %s", [me])
    row = sql.execute("SELECT assigned_agent_id, created_by_agent_id FROM tasks.queue WHERE task_id = %s", [mine])
    assert row.fetchone() == (None, None)
    assert sql.execute("SELECT count(*) FROM sessions.active WHERE session_token = %s", [TOKEN]).fetchone() == (0,)
    # PostgreSQL 18 calls it a restrict violation, older versions a foreign key violation.
    with pytest.raises(psycopg.IntegrityError, match="log_to_agent_fkey"), sql.transaction():
        sql.execute("DELETE FROM agents.registry WHERE agent_id = %s", [other])


def test_rows_go_into_the_tables_of_the_runtime_and_of_operations(sql: Session) -> None:
    insert(sql, "runtime.outbox", subject="agents.state.1", payload={"id": 1})
    refused(sql, errors.CheckViolation, "valid_subject", "runtime.outbox", subject="a b", payload={})
    insert(sql, "runtime.inbox", consumer="c", message_id="1")
    with pytest.raises(errors.UniqueViolation), sql.transaction():
        insert(sql, "runtime.inbox", consumer="c", message_id="1")
    saga = insert(sql, "runtime.sagas", "saga_id", correlation_id=str(uuid4()), name="s", deadline="2099-01-01Z")
    insert(sql, "runtime.saga_steps", saga_id=saga, step=0, action={})
    insert(sql, "runtime.decisions", transaction_id="t1", verdict="commit")
    insert(sql, "recovery.test_results", test_type="pitr", backup_timestamp="2026-01-01Z")
    insert(sql, "monitoring.query_plans", query_hash="1", plan_json={})


def test_the_outbox_is_read_in_the_order_of_commits_without_gaps(sql: Session) -> None:
    insert(sql, "runtime.outbox", subject="a.1", payload={})
    row = sql.execute(
        "SELECT count(*) FROM runtime.outbox WHERE xid < pg_snapshot_xmin(pg_current_snapshot())"
    ).fetchone()
    assert row == (0,)
    assert sql.execute("SELECT xid = pg_current_xact_id() FROM runtime.outbox").fetchone() == (True,)
