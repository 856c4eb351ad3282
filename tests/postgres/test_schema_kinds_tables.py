"""Triggers, policies and swapped types on real tables: what they do, each option changed, and their dependents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.postgres.access_driver import World, texts
from tests.postgres.documents import changed

BASE: dict[str, Any] = {
    "roles": {"app": {"login": True}, "auditor": {}},
    "schemas": {
        "audit": {
            "tables": {
                "change_log": {
                    "columns": {
                        "change_id": {"type": "uuid", "nullable": False, "default": "gen_random_uuid()"},
                        "table_name": {"type": "text", "nullable": False},
                        "operation": {"type": "text", "nullable": False},
                        "changed_by": {"type": "text", "nullable": False, "default": "CURRENT_USER"},
                        "changed_at": {"type": "timestamptz", "nullable": False, "default": "now()"},
                        "old_data": {"type": "jsonb"},
                        "new_data": {"type": "jsonb"},
                    },
                    "primary_key": ["change_id"],
                }
            },
            "functions": {
                "record_change": {
                    "returns": "trigger",
                    "language": "plpgsql",
                    "security": "definer",
                    "set": {"search_path": "pg_catalog"},
                    "body": """
BEGIN
  INSERT INTO audit.change_log (table_name, operation, old_data, new_data)
  VALUES (TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, TG_OP,
          CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
          CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END""",
                }
            },
        },
        "agents": {
            "grants": {"app": ["usage"]},
            "enums": {"status": ["idle", "active", "error"]},
            "domains": {"short": {"type": "varchar(20)"}},
            "functions": {
                "nothing": {"returns": "trigger", "language": "plpgsql", "body": "BEGIN RETURN NULL; END"},
            },
            "tables": {
                "registry": {
                    "columns": {
                        "id": {"type": "int", "nullable": False},
                        "tenant": {"type": "text", "nullable": False, "default": "CURRENT_USER"},
                        "status": {"type": "agents.status", "nullable": False, "default": "'idle'"},
                        "moods": {"type": "agents.status[]"},
                        "label": {"type": "agents.short"},
                    },
                    "primary_key": ["id"],
                    "row_security": True,
                    "grants": {"app": ["select", "insert", "update(status)"]},
                    "policies": {"own": {"to": ["app"], "using": "tenant = CURRENT_USER"}},
                    "triggers": {
                        "audited": {
                            "timing": "after",
                            "events": ["insert", "update", "delete"],
                            "for_each": "row",
                            "function": "audit.record_change",
                        }
                    },
                },
                "events": {
                    "columns": {
                        "id": {"type": "int", "nullable": False},
                        "status": {"type": "agents.status"},
                    },
                    "primary_key": ["id"],
                    "partitions": {"by": "hash", "key": ["id"], "modulus": 2},
                },
            },
        },
    },
}
REGISTRY = "schemas.agents.tables.registry"
TRIGGER: dict[str, Any] = {
    "timing": "after",
    "events": ["update"],
    "for_each": "row",
    "function": "agents.nothing",
}


@pytest.fixture
def world(pg_database: dict[str, Any]) -> Iterator[World]:
    found = World(pg_database)
    yield found
    found.close()


@pytest.mark.req("H1.1", "B2.4")
def test_an_audited_table_writes_its_changes_to_the_log(world: World) -> None:
    world.apply(BASE)
    world.run(
        "INSERT INTO agents.registry (id, tenant) VALUES (1, 'app')",
        "UPDATE agents.registry SET status = 'active'",
        "DELETE FROM agents.registry",
    )
    rows = world.connection.execute(
        "SELECT table_name, operation, old_data->>'status', new_data->>'status'"
        " FROM audit.change_log ORDER BY changed_at"
    ).fetchall()
    assert rows == [
        ("agents.registry", "INSERT", None, "idle"),
        ("agents.registry", "UPDATE", "idle", "active"),
        ("agents.registry", "DELETE", "active", None),
    ]


@pytest.mark.req("H1.2", "H5.1")
def test_a_policy_keeps_rows_apart(world: World) -> None:
    world.apply(BASE)
    world.run("INSERT INTO agents.registry (id, tenant) VALUES (1, 'app'), (2, 'other')")
    world.run("SET ROLE app")
    assert world.one("SELECT array_agg(id) FROM agents.registry") == [1]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        world.run("INSERT INTO agents.registry (id, tenant) VALUES (3, 'other')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        world.run("UPDATE agents.registry SET tenant = 'x'")
    world.run("RESET ROLE")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timing", "before"),
        ("events", ["update of status, id", "delete", "insert"]),
        ("events", ["truncate"]),
        ("for_each", "statement"),
        ("when", "old.status IS DISTINCT FROM new.status AND new.tenant <> ') EXECUTE FUNCTION '"),
        ("function", "audit.record_change()"),
        ("arguments", ["it's", "", "back\\slash", "ünï"]),
        ("referencing", {"old": "old rows", "new": "new_rows"}),
        ("constraint", True),
        ("enabled", "disabled"),
        ("enabled", "replica"),
        ("enabled", "always"),
        ("comment", "watches"),
    ],
)
@pytest.mark.req("A5.50")
def test_each_option_of_a_trigger_can_be_changed_and_taken_back(world: World, option: str, value: Any) -> None:
    trigger = dict(TRIGGER)
    if value == ["truncate"]:
        trigger["for_each"] = "statement"
    base = changed(BASE, f"{REGISTRY}.triggers.watch", trigger)
    world.apply(base)
    plan = world.there_and_back(base, f"{REGISTRY}.triggers.watch.{option}", value)
    assert len(plan.steps) == 1


def test_a_constraint_trigger_is_deferred_and_keeps_what_stands_beside_it(world: World) -> None:
    trigger = {**TRIGGER, "constraint": True, "comment": "checks", "enabled": "always"}
    base = changed(BASE, f"{REGISTRY}.triggers.watch", trigger)
    world.apply(base)
    path = f"{REGISTRY}.triggers.watch"
    world.there_and_back(base, path, {**trigger, "deferrable": True, "initially_deferred": True})
    world.there_and_back(base, path, {**trigger, "from_table": "agents.events"})


def test_triggers_of_views_and_partitioned_tables_are_declared_alike(world: World) -> None:
    base = changed(BASE, "schemas.agents.tables.events.triggers", {"watch": TRIGGER})
    view = {"query": "SELECT id FROM agents.registry"}
    base = changed(base, "schemas.agents.views", {"ids": view})
    world.apply(base)
    assert world.one("SELECT count(*) FROM pg_trigger WHERE tgname = 'watch'") == 3
    instead = {**TRIGGER, "timing": "instead_of", "events": ["insert"]}
    world.there_and_back(base, "schemas.agents.views.ids.triggers", {"catch": instead})
    world.there_and_back(base, "schemas.agents.tables.events.triggers.watch.enabled", "disabled")


@pytest.mark.parametrize(
    ("option", "value", "action"),
    [
        ("for", "select", "alter"),
        ("to", ["auditor", "app"], "alter"),
        ("to", ["public"], "alter"),
        ("using", "tenant = CURRENT_USER OR status = 'active'", "alter"),
        ("with_check", "status <> 'error'", "alter"),
        ("permissive", False, "alter"),
        ("comment", "own rows", "alter"),
    ],
)
@pytest.mark.req("H1.2")
def test_each_option_of_a_policy_can_be_changed_and_taken_back(
    world: World, option: str, value: Any, action: str
) -> None:
    base = changed(BASE, f"{REGISTRY}.policies.second", {"to": ["app"], "using": "id > 0"})
    world.apply(base)
    plan = world.there_and_back(base, f"{REGISTRY}.policies.second.{option}", value)
    assert [s.action for s in plan.steps] == [action], "the table is never without its policy"


def test_dropping_a_policy_needs_a_consent_and_changing_it_does_not(world: World) -> None:
    world.apply(BASE)
    plan = world.apply(changed(BASE, f"{REGISTRY}.policies.own.using", "true"))
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards] == [("security", False)]
    plan = world.apply(changed(BASE, f"{REGISTRY}.policies", {}))
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards] == [("security", True)]


def test_a_renamed_policy_and_trigger_are_not_made_anew(world: World) -> None:
    world.apply(BASE)
    text = repr(BASE).replace("'own'", "'mine'").replace("'audited'", "'logged'")
    spec = changed(eval(text), f"{REGISTRY}.policies.mine.renamed_from", "own")
    spec = changed(spec, f"{REGISTRY}.triggers.logged.renamed_from", "audited")
    assert {s.action for s in world.apply(spec).steps} == {"rename"}


@pytest.mark.parametrize("what", ["enum", "domain"])
def test_a_swapped_type_takes_its_columns_and_all_that_reads_them_along(world: World, what: str) -> None:
    base = changed(BASE, f"{REGISTRY}.checks", {"sane": "status <> 'error' OR label IS NULL"})
    base = changed(base, f"{REGISTRY}.indexes", {"live": {"columns": ["id", "label"], "where": "status = 'active'"}})
    base = changed(base, f"{REGISTRY}.policies.active", {"to": ["app"], "using": "status = 'active' AND label <> 'x'"})
    watch = {**TRIGGER, "when": "new.status = 'active' OR new.label = 'y'"}
    base = changed(base, f"{REGISTRY}.triggers.watch", watch)
    view = {"query": "SELECT status, label FROM agents.registry", "grants": {"app": ["select"]}, "comment": "seen"}
    base = changed(base, "schemas.agents.views", {"seen": view})
    world.apply(base)
    world.run(
        "INSERT INTO agents.registry (id, status, moods, label) VALUES (1, 'active', '{idle,active}', 'z')",
        "INSERT INTO agents.events VALUES (1, 'idle')",
    )
    path, value = {
        "enum": ("schemas.agents.enums.status", ["active", "error", "new", "idle"]),
        "domain": ("schemas.agents.domains.short.type", "text"),
    }[what]
    plan = world.apply(changed(base, path, value))
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards if h.kind == "rewrite"] == [
        ("rewrite", True)
    ]
    assert world.one("SELECT status::text || label || moods::text FROM agents.registry") == "activez{idle,active}"
    assert world.one("SELECT status::text FROM agents.events") == "idle"
    world.run("INSERT INTO agents.registry (id) VALUES (2)")
    world.apply(base)


def test_a_removed_enum_value_in_use_stops_the_swap_whole(world: World) -> None:
    world.apply(BASE)
    world.run("INSERT INTO agents.registry (id, status) VALUES (1, 'error')")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        world.apply(changed(BASE, "schemas.agents.enums.status", ["idle", "active"]))
    assert world.one("SELECT status::text FROM agents.registry") == "error"
    world.run("DELETE FROM agents.registry")
    world.apply(changed(BASE, "schemas.agents.enums.status", ["idle", "active"]))


def test_a_domain_in_use_tells_what_waits_for_its_scan(world: World) -> None:
    world.apply(BASE)
    plan = world.apply(changed(BASE, "schemas.agents.domains.short.checks", {"full": "VALUE <> ''"}))
    assert [(s.lock, [h.kind for h in s.hazards]) for s in plan.steps] == [(None, []), ("SHARE", ["blocking"])]


@pytest.mark.parametrize(
    ("path", "grants"),
    [
        ("schemas.agents.tables.events.grants", {"app": ["select", "insert"], "public": ["select(status)"]}),
        ("schemas.agents.tables.events.grants", {"app": ["all"]}),
    ],
)
def test_grants_on_partitioned_tables_are_those_of_the_parent(world: World, path: str, grants: Any) -> None:
    world.apply(BASE)
    world.there_and_back(BASE, path, grants)


def test_a_dropped_table_takes_its_policies_triggers_and_grants_along(world: World) -> None:
    world.apply(BASE)
    spec = changed(BASE, REGISTRY, None)
    plan = world.apply(spec)
    assert [t for t in texts(plan) if "registry" in t] == ["DROP TABLE agents.registry"]


def test_a_column_under_a_view_a_policy_and_a_trigger_changes_its_type(world: World) -> None:
    base = changed(BASE, f"{REGISTRY}.triggers.watch", {**TRIGGER, "events": ["update of tenant"]})
    base = changed(base, "schemas.agents.views", {"seen": {"query": "SELECT id, tenant FROM agents.registry"}})
    base = changed(base, "schemas.agents.views.seen.grants", {"app": ["select(id)"]})
    world.apply(base)
    world.there_and_back(base, f"{REGISTRY}.columns.tenant.type", "varchar(300)")
