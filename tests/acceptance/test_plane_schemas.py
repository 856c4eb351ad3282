"""Schemas, types, columns, keys and indexes as the catalog tells them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

Session = psycopg.Connection[Any]

AGENT, TASK, MESSAGE = "agents.agent_id_type", "tasks.task_id_type", "messages.message_id_type"
TIME = "timestamp with time zone"

#: table -> column -> (type, NOT NULL, default); the default is left out where the requirement names none.
COLUMNS: dict[str, dict[str, tuple[Any, ...]]] = {
    "agents.registry": {
        "agent_id": (AGENT, True, "gen_random_uuid()"),
        "agent_type": ("character varying(50)", True),
        "agent_name": ("character varying(255)", True),
        "status": ("agents.agent_status_type", False, "'initializing'::agents.agent_status_type"),
        "capabilities": ("jsonb", False, "'{}'::jsonb"),
        "configuration": ("jsonb", False, "'{}'::jsonb"),
        "parent_agent_id": (AGENT, False),
        "created_at": (TIME, False, "now()"),
        "updated_at": (TIME, False, "now()"),
        "last_heartbeat": (TIME, False),
    },
    "agents.state": {
        "agent_id": (AGENT, True),
        "state_key": ("character varying(255)", True),
        "state_value": ("jsonb", True),
        "version": ("bigint", False, "1"),
        "checksum": ("character varying(64)", False),
        "created_at": (TIME, False, "now()"),
        "updated_at": (TIME, False, "now()"),
        "expires_at": (TIME, False),
        "kv_revision": ("bigint", False),
        "owner_epoch": ("bigint", False),
        "deleted_at": (TIME, False),
    },
    "agents.checkpoints": {
        "checkpoint_id": ("uuid", True, "gen_random_uuid()"),
        "agent_id": (AGENT, True),
        "checkpoint_name": ("character varying(255)", False),
        "state_snapshot": ("jsonb", True),
        "kv_revision": ("bigint", False),
        "trigger_event": ("character varying(100)", False),
        "created_at": (TIME, False, "now()"),
    },
    "agents.lifecycle_events": {
        "event_id": ("uuid", True, "gen_random_uuid()"),
        "agent_id": (AGENT, True),
        "event_type": ("character varying(50)", True),
        "previous_status": ("agents.agent_status_type", False),
        "new_status": ("agents.agent_status_type", False),
        "event_data": ("jsonb", False, "'{}'::jsonb"),
        "triggered_by": (AGENT, False),
        "created_at": (TIME, True, "now()"),
    },
    "tasks.queue": {
        "task_id": (TASK, True, "gen_random_uuid()"),
        "task_type": ("character varying(100)", True),
        "task_name": ("character varying(255)", False),
        "assigned_agent_id": (AGENT, False),
        "created_by_agent_id": (AGENT, False),
        "parent_task_id": (TASK, False),
        "payload": ("jsonb", True, "'{}'::jsonb"),
        "configuration": ("jsonb", False, "'{}'::jsonb"),
        "metadata": ("jsonb", False, "'{}'::jsonb"),
        "status": ("tasks.task_status_type", False, "'pending'::tasks.task_status_type"),
        "priority": ("tasks.task_priority_type", False, "'normal'::tasks.task_priority_type"),
        "scheduled_at": (TIME, False),
        "started_at": (TIME, False),
        "completed_at": (TIME, False),
        "expires_at": (TIME, False),
        "max_execution_time": ("interval", False, "'01:00:00'::interval"),
        "max_retries": ("integer", False, "3"),
        "retry_count": ("integer", False, "0"),
        "created_at": (TIME, False, "now()"),
        "updated_at": (TIME, False, "now()"),
    },
    "tasks.dependencies": {
        "dependency_id": ("uuid", True, "gen_random_uuid()"),
        "task_id": (TASK, True),
        "depends_on_task_id": (TASK, True),
        "dependency_type": ("character varying(50)", False, "'completion'::character varying"),
        "created_at": (TIME, False, "now()"),
    },
    "tasks.executions": {
        "execution_id": ("uuid", True, "gen_random_uuid()"),
        "task_id": (TASK, True),
        "agent_id": (AGENT, True),
        "execution_attempt": ("integer", True, "1"),
        "started_at": (TIME, True, "now()"),
        "completed_at": (TIME, False),
        "status": ("tasks.task_status_type", False, "'running'::tasks.task_status_type"),
        "result": ("jsonb", False),
        "error_message": ("text", False),
        "error_details": ("jsonb", False),
        "cpu_time_ms": ("bigint", False),
        "memory_peak_mb": ("integer", False),
        "io_operations": ("bigint", False),
    },
    "messages.channels": {
        "channel_id": ("uuid", True, "gen_random_uuid()"),
        "channel_name": ("character varying(255)", True),
        "channel_type": ("character varying(50)", True),
        "description": ("text", False),
        "configuration": ("jsonb", False, "'{}'::jsonb"),
        "is_active": ("boolean", False, "true"),
        "created_at": (TIME, False, "now()"),
    },
    "messages.subscriptions": {
        "subscription_id": ("uuid", True, "gen_random_uuid()"),
        "agent_id": (AGENT, True),
        "channel_id": ("uuid", True),
        "message_pattern": ("character varying(255)", False),
        "filters": ("jsonb", False, "'{}'::jsonb"),
        "is_active": ("boolean", False, "true"),
        "created_at": (TIME, False, "now()"),
    },
    "messages.log": {
        "message_id": (MESSAGE, True, "gen_random_uuid()"),
        "channel_id": ("uuid", False),
        "from_agent_id": (AGENT, False),
        "to_agent_id": (AGENT, False),
        "broadcast_to_type": ("character varying(50)", False),
        "message_type": ("messages.message_type", True),
        "subject": ("character varying(255)", False),
        "payload": ("jsonb", True, "'{}'::jsonb"),
        "headers": ("jsonb", False, "'{}'::jsonb"),
        "correlation_id": ("uuid", False),
        "reply_to": ("character varying(255)", False),
        "sent_at": (TIME, True, "now()"),
        "delivered_at": (TIME, False),
        "processed_at": (TIME, False),
        "delivery_attempts": ("integer", False, "0"),
        "priority": ("integer", False, "0"),
        "expires_at": (TIME, False),
        "is_persistent": ("boolean", False, "true"),
    },
    "sessions.active": {
        "session_id": ("uuid", True, "gen_random_uuid()"),
        "session_token": ("character varying(255)", True),
        "agent_id": (AGENT, False),
        "user_id": ("character varying(255)", False),
        "session_type": ("character varying(50)", True, "'interactive'::character varying"),
        "session_data": ("jsonb", False, "'{}'::jsonb"),
        "preferences": ("jsonb", False, "'{}'::jsonb"),
        "permissions": ("jsonb", False, "'{}'::jsonb"),
        "ip_address": ("inet", False),
        "user_agent": ("text", False),
        "created_at": (TIME, False, "now()"),
        "last_activity": (TIME, False, "now()"),
        "expires_at": (TIME, True),
    },
    "knowledge.facts": {
        "fact_id": ("uuid", True, "gen_random_uuid()"),
        "entity_type": ("character varying(100)", True),
        "entity_id": ("character varying(255)", True),
        "predicate": ("character varying(255)", True),
        "object_value": ("jsonb", True),
        "object_type": ("character varying(50)", True),
        "source_agent_id": (AGENT, False),
        "confidence_score": ("numeric(3,2)", False),
        "evidence": ("jsonb", False, "'{}'::jsonb"),
        "created_at": (TIME, False, "now()"),
        "updated_at": (TIME, False, "now()"),
        "valid_from": (TIME, False, "now()"),
        "valid_until": (TIME, False),
    },
    "knowledge.embeddings": {
        "embedding_id": ("uuid", True, "gen_random_uuid()"),
        "fact_id": ("uuid", True),
        "embedding_model": ("character varying(100)", True),
        "embedding_version": ("character varying(20)", True),
        "embedding_vector": ("public.vector(1536)", False),
        "text_content": ("text", True),
        "content_hash": ("character varying(64)", True),
        "created_at": (TIME, False, "now()"),
    },
    "audit.change_log": {
        "change_id": ("uuid", True, "gen_random_uuid()"),
        "table_name": ("text", False),
        "operation": ("text", False),
        "changed_by": ("text", False),
        "changed_at": (TIME, False, "now()"),
        "old_data": ("jsonb", False),
        "new_data": ("jsonb", False),
    },
}

#: Indexes that the requirements name, without those that docs/decisions drops.
INDEXES = """
idx_agents_registry_type_status idx_agents_registry_parent idx_agents_registry_heartbeat
idx_agents_registry_metadata_gin idx_agents_registry_active idx_agents_registry_capabilities_gin
idx_agents_state_updated idx_agents_state_expires idx_agents_state_value_gin idx_agents_state_agent_updated
idx_agents_state_json_path idx_agents_checkpoints_agent_created idx_agents_checkpoints_name
idx_agents_lifecycle_agent_created idx_agents_lifecycle_event_type idx_agents_lifecycle_status_change
idx_tasks_queue_assigned_agent idx_tasks_queue_type_status idx_tasks_queue_parent idx_tasks_queue_scheduled
idx_tasks_queue_expires idx_tasks_queue_payload_gin idx_tasks_queue_priority_covering idx_tasks_queue_pending
idx_tasks_queue_estimated_duration idx_tasks_queue_payload_specific idx_tasks_dependencies_depends_on
idx_tasks_executions_task_started idx_tasks_executions_agent_started idx_tasks_executions_status
idx_messages_channels_type_active idx_messages_subscriptions_agent idx_messages_subscriptions_channel
idx_messages_log_from_sent idx_messages_log_to_sent idx_messages_log_type_sent idx_messages_log_correlation
idx_messages_log_channel_sent idx_messages_log_undelivered idx_messages_log_routing idx_sessions_active_agent
idx_sessions_active_user idx_sessions_active_activity idx_sessions_active_expires idx_knowledge_facts_entity
idx_knowledge_facts_predicate idx_knowledge_facts_source idx_knowledge_facts_validity
idx_knowledge_facts_confidence idx_knowledge_facts_object_gin idx_knowledge_facts_entity_predicate
idx_knowledge_facts_text_search idx_knowledge_embeddings_vector idx_knowledge_embeddings_fact
idx_knowledge_embeddings_model idx_knowledge_embeddings_hash
""".split()

#: name -> how pg_indexes prints it, after "ON [ONLY] schema.table USING ".
DEFINITIONS = {
    "idx_agents_registry_parent": "btree (parent_agent_id) WHERE (parent_agent_id IS NOT NULL)",
    "idx_agents_registry_heartbeat": "btree (last_heartbeat) WHERE (status = 'active'::agents.agent_status_type)",
    "idx_agents_registry_metadata_gin": "gin (metadata)",
    "idx_agents_registry_active": (
        "btree (agent_type, updated_at) WHERE (status = 'active'::agents.agent_status_type)"
    ),
    "idx_agents_registry_capabilities_gin": "gin (capabilities jsonb_path_ops)",
    "idx_agents_state_expires": "btree (expires_at) WHERE (expires_at IS NOT NULL)",
    "idx_agents_state_value_gin": "gin (state_value)",
    "idx_agents_state_agent_updated": "btree (agent_id, updated_at)",
    "idx_agents_state_json_path": "gin (((state_value -> 'computed_fields'::text)))",
    "idx_agents_checkpoints_name": "btree (checkpoint_name) WHERE (checkpoint_name IS NOT NULL)",
    "idx_agents_lifecycle_status_change": "btree (new_status, created_at)",
    "idx_tasks_queue_parent": "btree (parent_task_id) WHERE (parent_task_id IS NOT NULL)",
    "idx_tasks_queue_priority_covering": (
        "btree (status, priority DESC, created_at) INCLUDE (task_id, task_type, assigned_agent_id)"
    ),
    "idx_tasks_queue_pending": ("btree (priority DESC, created_at) WHERE (status = 'pending'::tasks.task_status_type)"),
    "idx_tasks_queue_estimated_duration": (
        "btree (((EXTRACT(epoch FROM max_execution_time))::integer)) WHERE (status = ANY"
        " (ARRAY['pending'::tasks.task_status_type, 'queued'::tasks.task_status_type]))"
    ),
    "idx_tasks_queue_payload_specific": "gin (((payload -> 'parameters'::text)))",
    "idx_messages_log_correlation": "btree (correlation_id) WHERE (correlation_id IS NOT NULL)",
    "idx_messages_log_undelivered": "btree (sent_at) WHERE (delivered_at IS NULL)",
    "idx_messages_log_routing": "btree (from_agent_id, to_agent_id, sent_at) WHERE (delivered_at IS NULL)",
    "idx_sessions_active_agent": "btree (agent_id) WHERE (agent_id IS NOT NULL)",
    "idx_knowledge_facts_confidence": "btree (confidence_score DESC, created_at)",
    "idx_knowledge_facts_entity_predicate": (
        "btree (entity_type, entity_id, predicate, valid_from) WHERE (valid_until IS NULL)"
    ),
    "idx_knowledge_facts_text_search": (
        "gin (to_tsvector('english'::regconfig, (object_value ->> 'text_content'::text)))"
        " WHERE ((object_type)::text = 'text'::text)"
    ),
}

KEYS = {
    "agents.registry": "agent_id",
    "agents.state": "agent_id, state_key",
    "agents.checkpoints": "checkpoint_id",
    "agents.lifecycle_events": "event_id, created_at",
    "tasks.queue": "task_id, task_type",
    "tasks.dependencies": "dependency_id",
    "tasks.executions": "execution_id, started_at",
    "messages.channels": "channel_id",
    "messages.subscriptions": "subscription_id",
    "messages.log": "message_id, sent_at",
    "sessions.active": "session_id, session_token",
    "knowledge.facts": "fact_id",
    "knowledge.embeddings": "embedding_id",
    "audit.change_log": "change_id",
}


@pytest.mark.req("A5.1")
def test_schemas(sql: Session) -> None:
    wanted = "agents tasks messages sessions knowledge migrations monitoring partitions recovery audit runtime".split()
    found = sql.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY (%s)", [wanted]).fetchall()
    assert {row[0] for row in found} == set(wanted)


@pytest.mark.req("A5.2", "A5.7")
def test_identifiers_are_domains_that_take_null(sql: Session) -> None:
    for name in (AGENT, TASK, MESSAGE):
        row = sql.execute("SELECT typtype, typbasetype::regtype::text FROM pg_type WHERE oid = %s::regtype", [name])
        assert row.fetchone() == ("d", "uuid")
        assert sql.execute(f"SELECT NULL::{name} IS NULL").fetchone() == (True,)


@pytest.mark.req("A5.3", "A5.4", "A5.5", "A5.6")
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("agents.agent_status_type", "initializing active idle suspended terminated error"),
        ("tasks.task_status_type", "pending queued running paused completed failed cancelled"),
        ("tasks.task_priority_type", "low normal high urgent critical"),
        ("messages.message_type", "command query response notification heartbeat error"),
    ],
)
def test_enums_in_their_order(sql: Session, name: str, labels: str) -> None:
    row = sql.execute("SELECT array_to_string(enum_range(NULL::" + name + "), ' ')").fetchone()
    assert row == (labels,)


@pytest.mark.req("A5.9", "A5.11", "A5.12", "A5.13", "A5.15", "A5.18")
@pytest.mark.parametrize("table", COLUMNS)
def test_columns(sql: Session, table: str) -> None:
    sql.execute("SET LOCAL search_path = pg_catalog")
    found = sql.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    live = {name: (kind, required, default) for name, kind, required, default in found}
    assert {name: live[name][: len(expected)] for name, expected in COLUMNS[table].items()} == COLUMNS[table]


@pytest.mark.req("A5.20", "A5.21", "A5.22", "A5.24", "A5.26", "A5.27")
@pytest.mark.parametrize("table", KEYS)
def test_primary_keys(sql: Session, table: str) -> None:
    row = sql.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'", [table]
    ).fetchone()
    assert row is not None
    assert row[0].startswith(f"PRIMARY KEY ({KEYS[table]})")


@pytest.mark.req("A5.47")
def test_every_time_knows_its_zone(sql: Session) -> None:
    found = sql.execute(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns"
        " WHERE data_type = 'timestamp without time zone' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    assert found.fetchall() == []


@pytest.mark.req("A5.28", "A5.29", "A5.30", "A5.31", "A5.32", "A5.33")
def test_every_named_index_is_there_and_valid(sql: Session) -> None:
    found = sql.execute(
        "SELECT relname FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid WHERE indisvalid AND relname ~ '^idx_'"
    )
    assert set(INDEXES) - {row[0] for row in found} == set()
    assert len(INDEXES) == 56


@pytest.mark.req("A5.34", "A5.36", "A5.39", "A5.40", "A5.41", "A5.42")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_of_indexes(sql: Session, name: str) -> None:
    sql.execute("SET LOCAL search_path = pg_catalog")
    row = sql.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", [name]).fetchone()
    assert row is not None
    assert row[0].partition(" USING ")[2] == DEFINITIONS[name]


@pytest.mark.req("A5.35", "A5.43")
def test_each_dropped_index_has_its_reason_in_the_decisions() -> None:
    from pathlib import Path

    pages = Path(__file__).parents[2] / "docs" / "decisions"
    text = "\n".join(page.read_text() for page in pages.glob("*.md"))
    dropped = """
        idx_messages_channels_name idx_sessions_active_token idx_tasks_dependencies_task
        idx_agents_state_covering idx_tasks_queue_status_priority idx_sessions_active_unexpired
    """.split()
    assert [name for name in dropped if f"`{name}`" not in text] == []
    assert len(INDEXES) + len(dropped) == 62


@pytest.mark.req("A5.44", "A5.38")
def test_no_index_repeats_another(sql: Session) -> None:
    """None has the same leading columns as a unique key or index of its table, predicates and methods equal."""
    found = sql.execute(
        """
        SELECT a.indexrelid::regclass::text, b.indexrelid::regclass::text
          FROM pg_index a JOIN pg_index b ON a.indrelid = b.indrelid AND a.indexrelid <> b.indexrelid
          JOIN pg_class ca ON ca.oid = a.indexrelid JOIN pg_class cb ON cb.oid = b.indexrelid
          JOIN pg_class t ON t.oid = a.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'holdfast') AND NOT t.relispartition
           AND ca.relam = cb.relam AND a.indpred IS NULL AND b.indpred IS NULL
           AND a.indexprs IS NULL AND b.indexprs IS NULL AND NOT a.indisunique
           AND a.indnkeyatts <= b.indnkeyatts
           AND (string_to_array(b.indkey::text, ' '))[:a.indnkeyatts] = string_to_array(a.indkey::text, ' ')
           AND (string_to_array(b.indoption::text, ' '))[:a.indnkeyatts]
               = (string_to_array(a.indoption::text, ' '))[:a.indnkeyatts]
        """
    ).fetchall()
    assert found == []


@pytest.mark.req("A5.37")
def test_vectors_are_searched_by_a_graph_that_may_start_empty(sql: Session) -> None:
    row = sql.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_knowledge_embeddings_vector'").fetchone()
    assert row is not None
    assert "USING hnsw (embedding_vector" in row[0]
    assert "vector_cosine_ops" in row[0]


@pytest.mark.req("A5.51")
def test_every_reference_to_an_agent_has_its_delete_rule(sql: Session) -> None:
    found = sql.execute(
        "SELECT conrelid::regclass::text, a.attname, confdeltype FROM pg_constraint"
        " JOIN pg_attribute a ON attrelid = conrelid AND attnum = conkey[1]"
        " WHERE contype = 'f' AND confrelid = 'agents.registry'::regclass AND conparentid = 0"
    )
    rules = {(table, column): rule for table, column, rule in found}
    cascade, set_null, restrict = "c", "n", "r"
    assert rules == {
        ("agents.registry", "parent_agent_id"): set_null,
        ("agents.state", "agent_id"): cascade,
        ("agents.checkpoints", "agent_id"): cascade,
        ("agents.lifecycle_events", "agent_id"): cascade,
        ("agents.lifecycle_events", "triggered_by"): set_null,
        ("tasks.queue", "assigned_agent_id"): set_null,
        ("tasks.queue", "created_by_agent_id"): set_null,
        ("tasks.executions", "agent_id"): restrict,
        ("messages.subscriptions", "agent_id"): cascade,
        ("messages.log", "from_agent_id"): set_null,
        ("messages.log", "to_agent_id"): restrict,
        ("sessions.active", "agent_id"): cascade,
        ("knowledge.facts", "source_agent_id"): set_null,
    }
