"""Specs and migrations of one database: ``apply`` records what it has made, and ``migrate up`` leaves it to adopt."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import psycopg
import pytest

from tests.migrate.small_shop import SECRET, Shop, document, external

COVERED = "-- covered-by: specs\n"
SEED = "INSERT INTO shop.item (name) VALUES ('first');"
EVENTS = "SELECT migration_version, event FROM migrations.history ORDER BY event_id"


def pending(shop: Shop) -> list[str]:
    rows = json.loads(shop.run("migrate", "status", "--format", "json").stdout)["migrations"]
    return [r["version"] for r in rows if r["state"] != "applied"]


def index(shop: Shop, name: str, column: str) -> None:
    """Declare an index more."""
    specs = json.loads((shop.root / "specs/plane.yaml").read_text())
    specs["schemas"]["shop"]["tables"]["item"]["indexes"][name] = {"columns": [column]}
    shop.declare(specs)


@pytest.mark.req("C1.1", "C1.10", "C1.11", "C1.13")
def test_apply_records_what_the_specs_cover_and_up_runs_the_rest(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.add("0002_seed_items.up.sql", SEED, header="-- kind: data\n")
    shop.add("0003_index_name.up.sql", "CREATE INDEX item_name ON shop.item (name);", header=COVERED)
    index(shop, "item_name", "name")
    told = shop.run("apply", "--yes").stderr
    assert "recorded as applied, since the specs cover them: 1.0.0, 1.2.0" in told
    assert shop.sql(EVENTS) == [("1.0.0", "baselined"), ("1.2.0", "baselined")]
    rows = shop.sql(
        "SELECT version, status, sql_hash, is_rollbackable, environment, execution_time_ms"
        " FROM migrations.applied_migrations ORDER BY version"
    )
    digest = {n: hashlib.sha256(text.encode()).hexdigest() for n, text in shop.files().items()}
    assert rows == [
        ("1.0.0", "applied", digest["0001_create_shop.up.sql"], True, "dev", None),
        ("1.2.0", "applied", digest["0003_index_name.up.sql"], False, "dev", None),
    ]
    assert pending(shop) == ["1.1.0"]
    assert "applied 1.1.0 seed_items" in shop.run("migrate", "up").stderr
    assert shop.column("SELECT name FROM shop.item") == ["first"]
    assert "nothing to apply" in shop.run("migrate", "up").stderr

    index(shop, "item_state", "state")
    shop.run("apply", "--yes")
    shop.add("0004_index_state.up.sql", "CREATE INDEX item_state ON shop.item (state);", header=COVERED)
    done = shop.run("apply", "--yes")
    assert "recorded as applied, since the specs cover them: 1.3.0" in done.stderr
    assert shop.sql(EVENTS)[-1] == ("1.3.0", "baselined")
    assert pending(shop) == []
    assert "recorded" not in shop.run("apply", "--yes").stderr


@pytest.mark.req("C1.1", "C1.5", "C1.12")
def test_up_in_an_empty_database_makes_the_history_first_and_apply_adopts(
    shop: Shop, pg_database: dict[str, Any]
) -> None:
    shop.at(pg_database)
    assert "CREATE SCHEMA shop" in shop.run("migrate", "up", "--dry-run").stdout
    assert "1.0.0    create_shop  pending" in shop.run("migrate", "status").stdout
    assert shop.column("SELECT to_regnamespace('migrations')") == [None]
    told = shop.run("migrate", "up").stderr
    assert "the schema migrations and the roles come first" in told
    assert "applied 1.0.0 create_shop" in told
    logins = shop.sql("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname IN ('clerk', 'staff') ORDER BY 1")
    assert logins == [("clerk", True), ("staff", False)]
    assert shop.column("SELECT relname FROM pg_class WHERE relname ~ '^visit_20' AND relkind = 'r'") == []
    shop.run("partitions", "maintain")
    assert len(shop.column("SELECT relname FROM pg_class WHERE relname ~ '^visit_20' AND relkind = 'r'")) > 3
    plan = json.loads(shop.run("plan", "--format", "json").stdout)
    assert [s["object"] for s in plan["steps"] if s["system"] == "pg"] == []
    assert "pg:main/shop/item" in plan["adopt"]
    assert "recorded" not in shop.run("apply", "--yes").stderr
    again = json.loads(shop.run("plan", "--format", "json", "--detailed-exitcode").stdout)
    assert (again["steps"], again["adopt"], again["drift"]) == ([], [], [])
    assert "nothing to apply" in shop.run("migrate", "up").stderr
    assert {event for _, event in shop.sql(EVENTS)} == {"started", "applied"}


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_are_carried_where_there_are_any(shop: Shop, pg_database: dict[str, Any], rows: int) -> None:
    shop.at(pg_database)
    shop.run("apply", "--yes")
    shop.sql(f"INSERT INTO shop.item (name) SELECT 'old' FROM generate_series(1, {rows})")
    text = "UPDATE shop.item SET name = 'new' WHERE name = 'old';"
    shop.add("0002_rename_items.up.sql", text, header=f"-- kind: data\n{COVERED}")
    shop.add("0003_index_price.up.sql", "CREATE INDEX item_price ON shop.item (price);", header=COVERED)
    told = shop.run("apply", "--yes").stderr
    assert f"the specs cover them: {'1.2.0' if rows else '1.1.0, 1.2.0'}\n" in told
    assert ("applied 1.1.0 rename_items" in shop.run("migrate", "up").stderr) == bool(rows)
    assert shop.column("SELECT name FROM shop.item") == ["new"] * rows


def test_what_apply_did_not_make_is_not_recorded(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    specs = document()
    specs["schemas"]["own"] = {"managed": "migrations", "tables": {"log": {"columns": {"id": {"type": "bigint"}}}}}
    shop.declare(specs)
    shop.add("0002_create_log.up.sql", "CREATE SCHEMA own;\nCREATE TABLE own.log (id bigint);", header=COVERED)
    data = "UPDATE shop.item SET name = 'new';"
    shop.add("0003_rename_items.up.sql", data, header=f"-- kind: data\n{COVERED}")
    assert "the specs cover them: 1.0.0, 1.2.0\n" in shop.run("apply", "--yes").stderr
    assert pending(shop) == ["1.1.0"]
    assert "applied 1.1.0 create_log" in shop.run("migrate", "up").stderr
    assert shop.column("SELECT to_regclass('own.log')::text") == ["own.log"]

    specs["schemas"]["shop"]["tables"]["item"]["columns"].pop("price")
    specs["schemas"]["shop"]["tables"]["item"].pop("indexes")
    shop.declare(specs)
    text = "ALTER TABLE shop.item DROP COLUMN price;"
    shop.add("0004_drop_price.up.sql", text, header=COVERED)
    before = shop.sql(EVENTS)
    shop.run("apply", "--yes", code=3)
    assert shop.sql(EVENTS) == before
    shop.run("apply", "--yes", "--allow", "data_loss:pg:main/shop/item/column/price")
    assert shop.sql(EVENTS)[-1] == ("1.3.0", "baselined")


def test_faults_in_the_folder_and_planes_without_one_do_not_disturb_apply(
    shop: Shop, pg_database: dict[str, Any]
) -> None:
    shop.at(pg_database)
    (shop.folder / "0007_odd.up.sql").write_text("SELECT 1;")
    told = shop.run("apply", "--yes").stderr
    assert "recorded" not in told
    assert shop.sql(EVENTS) == []
    shop.sql("DROP SCHEMA migrations, shop, holdfast CASCADE")
    specs = document()
    del specs["schemas"]["migrations"]
    shop.declare(specs)
    shop.write({"0001_create_shop.up.sql": "-- version: 1.0.0\n-- covered-by: specs\nCREATE SCHEMA shop;"})
    assert "recorded" not in shop.run("apply", "--yes").stderr
    shop.write({})
    shop.folder.rmdir()
    shop.run("apply", "--yes")
    assert shop.column("SELECT to_regclass('migrations.history')") == [None]


def test_another_target_has_a_folder_of_its_own(
    shop: Shop, pg_database: dict[str, Any], pg16_database: dict[str, Any]
) -> None:
    shop.at(pg_database)
    specs = document()
    for schema in specs["schemas"].values():
        schema["target"] = "side"
    for role in specs["roles"].values():
        role["target"] = "side"
    shop.declare(specs)
    elsewhere = {**external(pg16_database), "password": {"env": "CLERK_SECRET"}, "user": "clerk"}
    with psycopg.connect(**pg16_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE clerk LOGIN SUPERUSER PASSWORD '{SECRET}'".encode())
    shop.place({"main": elsewhere, "side": external(pg_database)})
    (shop.folder / "side").mkdir()
    for path in shop.folder.glob("*.sql"):
        path.rename(shop.folder / "side" / path.name)
    shop.run("migrate", "verify", "--target", "side")
    assert "the specs cover them: 1.0.0\n" in shop.run("apply", "--yes").stderr
    assert shop.sql(EVENTS) == [("1.0.0", "baselined")]
    assert "nothing to apply" in shop.run("migrate", "up", "--target", "side").stderr


def test_roles_that_are_there_and_differ_are_left_to_apply(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.sql("CREATE ROLE clerk NOLOGIN CREATEDB")
    told = shop.run("migrate", "up").stderr
    assert "applied 1.0.0 create_shop" in told
    assert shop.sql("SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = 'clerk'") == [(False, True)]
