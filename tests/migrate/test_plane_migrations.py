"""The plane's own migrations/, step by step on a real server that holds rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml

from provision.embedded import nats, postgres
from provision.migrate import files
from provision.migrate.runner import Ran, Runner
from provision.postgres import connect
from provision.spec.errors import HoldfastError
from tests.migrate.small_shop import ROOT, Shop, external
from tests.postgres.io_steps import settings

SECRETS = {f"{name}_DB_PASSWORD": "secret" for name in ("PRIMARY", "REPLICA", "BACKGROUND", "ANALYTICS")}
VALID = {"version": 2, "created_at": "2026-01-02T03:04:05Z", "team": "red"}


class Plane:
    """A database of the plane, and the runner of its migrations."""

    def __init__(self, database: dict[str, Any]) -> None:
        self.database = database
        self.migrations, faults = files.read(ROOT / "migrations")
        assert faults == ()

    def up(self, to: str) -> list[str]:
        return self._run("up", to)

    def down(self, to: str) -> list[str]:
        return self._run("down", to)

    def _run(self, way: str, to: str) -> list[str]:
        with connect.connect(settings(self.database)) as session:
            runner = Runner(session, self.migrations, "dev")
            ran: list[Ran] = runner.up(to) if way == "up" else runner.down(to)
        return [r.migration.version for r in ran]

    def refused(self, way: str, to: str) -> str:
        with pytest.raises(HoldfastError) as found:
            self._run(way, to)
        return str(found.value)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.database, autocommit=True) as session:
            cursor = session.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def at_first(
    pg_server: postgres.Server, nats_server: nats.Server, scratch_cache: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a database to copy, in which the first migration was run, as on an empty one."""
    root = tmp_path_factory.mktemp("plane")
    pg_server.create_database(name := f"plane_{uuid4().hex[:12]}")
    for folder in ("specs", "migrations"):
        shutil.copytree(ROOT / folder, root / folder)
    shop = Shop(root, scratch_cache, made=True)
    shop.password = str(pg_server.password)
    shop.more = SECRETS
    dev = root / "specs/environments/dev.yaml"
    document = yaml.safe_load(dev.read_text())
    document["targets"] = {
        "postgres": {"main": external(pg_server.dsn(name))},
        "nats": {"main": {"kind": "external", "urls": [nats_server.url]}},
    }
    dev.write_text(json.dumps(document))
    told = shop.run("migrate", "up", "--to", "1.0.0").stderr
    assert "applied 1.0.0 create_plane" in told
    yield name
    pg_server.query(f'DROP DATABASE "{name}" WITH (FORCE)')
    roles = yaml.safe_load((ROOT / "specs/roles.yaml").read_text())["roles"]
    pg_server.query("\n".join(f"DROP ROLE IF EXISTS {role};" for role in roles))


@pytest.fixture(scope="module")
def refusing(pg_server: postgres.Server, at_first: str) -> Iterator[Plane]:
    """A copy for statements that change nothing, since they are refused."""
    pg_server.query(f'CREATE DATABASE "{at_first}_r" TEMPLATE "{at_first}"')
    yield Plane(pg_server.dsn(f"{at_first}_r"))
    pg_server.query(f'DROP DATABASE "{at_first}_r" WITH (FORCE)')


@pytest.fixture
def plane(pg_server: postgres.Server, at_first: str) -> Iterator[Plane]:
    name = f"test_{uuid4().hex[:12]}"
    pg_server.query(f'CREATE DATABASE "{name}" TEMPLATE "{at_first}"')
    yield Plane(pg_server.dsn(name))
    pg_server.query(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_the_folder_holds_what_it_is_to_hold() -> None:
    """A first migration and at least four more: rows carried, an enum value, a concurrent index, a partition."""
    migrations, faults = files.read(ROOT / "migrations")
    assert faults == ()
    kinds = {m.version: m.kind for m in migrations}
    assert kinds["1.0.0"] == "schema"
    texts = {m.version: m.up.text for m in migrations}
    assert "ADD VALUE" in texts["1.1.0"]
    assert "CREATE INDEX CONCURRENTLY" in texts["1.3.0"]
    assert (kinds["1.2.0"], kinds["1.5.0"]) == ("partition", "data")
    assert [m.version for m in migrations if m.down is None] == ["1.5.0"]


@pytest.mark.req("C1.8", "C1.9", "C1.12")
def test_a_status_more_and_back(plane: Plane) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        plane.sql("INSERT INTO agents.registry (agent_type, agent_name, status) VALUES ('w', 'w', 'suspended')")
    assert plane.up("1.1.0") == ["1.1.0"]
    plane.sql("INSERT INTO agents.registry (agent_type, agent_name, status) VALUES ('w', 'w', 'suspended')")
    assert plane.sql("SELECT 'suspended'::agents.agent_status_type BETWEEN 'idle' AND 'terminated'") == [(True,)]
    assert "assert-before none_is_suspended does not hold: it gave false" in plane.refused("down", "1.0.0")
    plane.sql("UPDATE agents.registry SET status = 'idle'")
    assert plane.down("1.0.0") == ["1.1.0"]
    found = plane.sql("SELECT enumlabel FROM pg_enum WHERE enumtypid = 'agents.agent_status_type'::regtype")
    assert {row[0] for row in found} == {"initializing", "active", "idle", "terminated", "error"}
    assert plane.sql("SELECT status::text FROM agents.registry") == [("idle",)]
    triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'agents.registry'::regclass AND NOT tgisinternal"
    assert {row[0] for row in plane.sql(triggers)} >= {"registry_touch", "registry_audit"}


@pytest.mark.req("C1.4", "C1.9", "C1.12", "A6.9")
def test_tasks_of_a_type_get_a_partition_and_go_back(plane: Plane) -> None:
    where = "SELECT tableoid::regclass::text, count(*) FROM tasks.queue GROUP BY 1 ORDER BY 1"
    plane.up("1.1.0")
    plane.sql("INSERT INTO tasks.queue (task_type) VALUES ('maintenance'), ('other'), ('inference')")
    told = plane.refused("up", "1.2.0")
    assert "0003_add_maintenance_partition.up.sql:6:1: assert-before default_has_none does not hold" in told
    results = plane.sql("SELECT test_name, status, error_message FROM migrations.validation_results")
    assert results == [("before: default_has_none", "failed", "it gave false")]
    plane.sql("DELETE FROM tasks.queue WHERE task_type = 'maintenance'")
    assert plane.up("1.2.0") == ["1.2.0"]
    plane.sql("INSERT INTO tasks.queue (task_type) VALUES ('maintenance'), ('maintenance')")
    assert plane.sql(where) == [
        ("tasks.queue_default", 1), ("tasks.queue_inference", 1), ("tasks.queue_maintenance", 2),
    ]  # fmt: skip
    checks = "SELECT conname FROM pg_constraint WHERE conname IN ('is_maintenance', 'no_maintenance')"
    assert plane.sql(checks) == []
    assert plane.down("1.1.0") == ["1.2.0"]
    assert plane.sql(where) == [("tasks.queue_default", 3), ("tasks.queue_inference", 1)]
    assert plane.sql("SELECT to_regclass('tasks.queue_maintenance')") == [(None,)]


@pytest.mark.req("C1.5", "C1.8", "C1.9", "C1.12")
def test_rows_are_carried_to_valid_metadata(plane: Plane) -> None:
    assert plane.up("1.4.0") == ["1.1.0", "1.2.0", "1.3.0", "1.4.0"]
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'agents.idx_agents_registry_heartbeat'::regclass"
    assert plane.sql(valid) == [(True,)]
    plane.sql("INSERT INTO agents.registry (agent_type, agent_name) VALUES ('w', 'usual')")
    plane.sql(
        "INSERT INTO agents.registry (agent_type, agent_name, metadata, created_at)"
        " SELECT 'w', 'none', NULL, '2026-03-04 05:06:07Z' FROM generate_series(1, 1100)"
    )
    held: dict[str, Any] = {
        "valid": VALID, "list": [1, {"a": None}], "text": "plain", "null": "null", "no time": {"version": 7, "x": 1},
        "no version": {"created_at": "2025-05-05T05:05:05Z"}, "odd time": {"version": 8, "created_at": "yesterday"},
    }  # fmt: skip
    for name, metadata in held.items():
        plane.sql(
            "INSERT INTO agents.registry (agent_type, agent_name, metadata, created_at)"
            " VALUES ('w', %s, %s, '2026-03-04 05:06:07Z')",
            name, "null" if name == "null" else json.dumps(metadata),
        )  # fmt: skip
    usual = plane.sql("SELECT metadata FROM agents.registry WHERE agent_name = 'usual'")
    assert plane.up("1.6.0") == ["1.5.0", "1.6.0"]
    made = {"version": "1.0.0", "created_at": "2026-03-04T05:06:07Z"}
    rows = plane.sql("SELECT DISTINCT agent_name, metadata FROM agents.registry")
    assert len(rows) == len(dict(rows))
    assert dict(rows) == {
        "usual": usual[0][0], "none": made, "valid": VALID, "list": {**made, "former": [1, {"a": None}]},
        "text": {**made, "former": "plain"}, "null": {**made, "former": None},
        "no time": {**made, "version": 7, "x": 1}, "no version": {**made, "created_at": "2025-05-05T05:05:05Z"},
        "odd time": {**made, "version": 8, "former_created_at": "yesterday"},
    }  # fmt: skip
    batches = plane.sql("SELECT count(DISTINCT xmin::text) FROM agents.registry WHERE agent_name = 'none'")
    assert batches == [(2,)]
    for metadata in ("NULL", "'[]'"):
        with pytest.raises((psycopg.errors.NotNullViolation, psycopg.errors.CheckViolation)):
            plane.sql(f"INSERT INTO agents.registry (agent_type, agent_name, metadata) VALUES ('w', 'w', {metadata})")
    checks = "SELECT convalidated FROM pg_constraint WHERE conname = 'valid_metadata'"
    assert plane.sql(checks) == [(True,)]
    assert plane.down("1.5.0") == ["1.6.0"]
    plane.sql("INSERT INTO agents.registry (agent_type, agent_name, metadata) VALUES ('w', 'w', NULL)")
    assert "1.5.0 (backfill_agent_metadata) has no way back" in plane.refused("down", "1.4.0")
    plane.sql("DELETE FROM agents.registry WHERE metadata IS NULL")
    assert plane.up("1.6.0") == ["1.6.0"]


#: Column, type as the server prints it, whether it may be null, and its default, written by hand from the requirements.
APPLIED = {
    ("migration_id", "uuid", "NO", "gen_random_uuid()"), ("version", "character varying(20)", "NO", None),
    ("name", "character varying(255)", "NO", None), ("description", "text", "YES", None),
    ("migration_type", "character varying(50)", "NO", "'schema'::character varying"),
    ("sql_hash", "character varying(64)", "NO", None), ("depends_on_version", "character varying(20)", "YES", None),
    ("rollback_sql", "text", "YES", None), ("is_rollbackable", "boolean", "YES", "false"),
    ("applied_at", "timestamp with time zone", "YES", "now()"),
    ("applied_by", "character varying(100)", "YES", "CURRENT_USER"), ("execution_time_ms", "bigint", "YES", None),
    ("database_version", "character varying(50)", "YES", None),
    ("application_version", "character varying(50)", "YES", None),
    ("environment", "character varying(50)", "YES", None),
}  # fmt: skip
LOCKS = {
    ("lock_id", "uuid", "NO", "gen_random_uuid()"), ("lock_name", "character varying(100)", "NO", None),
    ("locked_by", "character varying(100)", "NO", None), ("locked_at", "timestamp with time zone", "YES", "now()"),
    ("expires_at", "timestamp with time zone", "NO", None),
}  # fmt: skip
RESULTS = {
    ("validation_id", "uuid", "NO", "gen_random_uuid()"), ("migration_version", "character varying(20)", "NO", None),
    ("test_name", "character varying(255)", "NO", None), ("test_type", "character varying(50)", "NO", None),
    ("status", "character varying(20)", "NO", None), ("error_message", "text", "YES", None),
    ("execution_time_ms", "bigint", "YES", None), ("created_at", "timestamp with time zone", "YES", "now()"),
}  # fmt: skip
COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NO' ELSE 'YES' END,
           pg_get_expr(adbin, adrelid)
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"""
RESULT = "INSERT INTO migrations.validation_results (migration_version, test_name, test_type, status) VALUES"
ROW = "INSERT INTO migrations.applied_migrations (version, name, sql_hash, migration_type, execution_time_ms) VALUES"


@pytest.mark.req("C1.1", "C1.2", "C1.3", "C1.4", "C1.6", "C1.13")
def test_psql_shows_the_tables_that_were_asked_for(plane: Plane) -> None:
    for table, columns in (("applied_migrations", APPLIED), ("locks", LOCKS), ("validation_results", RESULTS)):
        found = set(plane.sql(COLUMNS, f"migrations.{table}"))
        assert columns <= found, columns - found
        key = plane.sql(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = %s::regclass",
            f"migrations.{table}",
        )
        (first,) = (name for name, kind, _, _ in columns if kind == "uuid")
        assert key == [(f"PRIMARY KEY ({first})",)]
    (row,) = plane.sql(
        "SELECT version, name, migration_type, length(sql_hash), is_rollbackable, rollback_sql LIKE '%%DROP SCHEMA%%',"
        " applied_by = CURRENT_USER, database_version = current_setting('server_version'), environment,"
        " execution_time_ms >= 0, applied_at <= now() FROM migrations.applied_migrations"
    )
    assert row == ("1.0.0", "create_plane", "schema", 64, True, True, True, True, "dev", True, True)
    digest = plane.sql(
        "SELECT sql_hash = encode(sha256(convert_to(%s, 'UTF8')), 'hex') FROM migrations.applied_migrations",
        plane.migrations[0].up.text,
    )
    assert digest == [(True,)]
    assert plane.sql("SELECT extname FROM pg_extension WHERE extname = 'pgcrypto'") == []


@pytest.mark.req("C1.1", "C1.3", "C1.4", "C1.10")
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"{ROW} ('1.0', 'n', 'h', 'schema', 0)", "valid_version"),
        (f"{ROW} ('1.0.0', 'n', 'h', 'schema', 0)", "applied_migrations_version_key"),
        (f"{ROW} ('9.0.0-rc1', 'n', 'h', 'other', 0)", "valid_migration_type"),
        (f"{ROW} ('9.0.0-rc1', 'n', 'h', 'index', -1)", "valid_execution_time"),
        ("INSERT INTO migrations.locks (lock_name, locked_by, expires_at) VALUES ('l', 'me', now())", "valid_expiry"),
        (f"{RESULT} ('8.0.0', 't', 'unit', 'passed')", "validation_results_version_fkey"),
        (f"{RESULT} ('1.0.0', 't', 'other', 'passed')", "valid_test_type"),
        (f"{RESULT} ('1.0.0', 't', 'rollback', 'other')", "valid_status"),
        ("UPDATE migrations.history SET event = 'applied'", "keeps its rows as they are"),
        ("DELETE FROM migrations.history", "keeps its rows as they are"),
        ("TRUNCATE migrations.history", "keeps its rows as they are"),
    ],
)
def test_psql_is_refused_what_history_cannot_be(refusing: Plane, statement: str, error: str) -> None:
    with pytest.raises(psycopg.Error) as found:
        refusing.sql(statement)
    assert error in str(found.value)
