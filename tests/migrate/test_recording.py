"""What is recorded without having run, and what is not: files that history knows, that lose rows, or are ahead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provision.migrate import files
from provision.migrate.lint.ownership import made_by_specs
from provision.reconcile.workspace import Workspace
from provision.spec.record import Plane
from tests.migrate.small_shop import NOWHERE, Shop, document
from tests.migrate.test_stamping import COVERED, EVENTS, index, pending

INDEX = "CREATE INDEX item_name ON shop.item (name);"


def made(shop: Shop) -> list[int]:
    """The numbers of the files whose effect a plane has that equals the specs."""
    workspace = Workspace(shop.root / "specs", "dev", shop.cache)
    workspace.refuse_errors()
    found, faults = files.read(shop.folder)
    assert faults == ()
    own = Plane([r for r in workspace.plane if r.address.system == "pg"], name="shop", env="dev")
    return [m.number for m in made_by_specs(found, own)]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE ROLE keeper;",
        "DROP OWNED BY staff;",
        "CREATE PUBLICATION all_items FOR TABLE shop.item;\nCREATE ROLE keeper;",
        "CREATE TABLE shop.visit_2020_01_01 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');",
        "CREATE TABLE shop.extra (id bigint PRIMARY KEY);",
        "CREATE TABLE public.extra (id bigint PRIMARY KEY);",
        "ALTER TABLE shop.item ADD COLUMN rank integer;",
        "ALTER TABLE shop.item DROP COLUMN price;",
        "ALTER TABLE shop.item RENAME COLUMN price TO cost;",
        "ALTER TYPE shop.state ADD VALUE 'held';",
        "CREATE INDEX item_name ON shop.item (name);",
        "CREATE EXTENSION hstore;",
        "SELECT setval('shop.item_id_seq', 1000);",
        "DO $$BEGIN IF true THEN ALTER TABLE shop.item ADD COLUMN rank integer; END IF; END$$;",
        "DO $$BEGIN ALTER TABLE shop.item ADD COLUMN rank integer; END$$;",
        "DO $$BEGIN EXECUTE 'ALTER TABLE shop.item ADD COLUMN rank integer'; END$$;",
        "ALTER TABLE shop.item ALTER COLUMN;",
    ],
)
def test_what_the_specs_did_not_make_is_left_to_the_file(shop: Shop, text: str) -> None:
    shop.add("0002_do_this.up.sql", text, header=COVERED)
    assert made(shop) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX IF NOT EXISTS item_price ON shop.item (price);",
        "COMMENT ON TABLE shop.item IS NULL;\nGRANT SELECT ON shop.item TO staff;",
        """CREATE TABLE shop.order_mail PARTITION OF shop.order DEFAULT;
        ALTER TABLE shop.order_mail RENAME TO order_default;""",
        """ALTER TABLE shop.item ADD CONSTRAINT proof CHECK (name IS NOT NULL);
        DO $$
        BEGIN
          ALTER TABLE shop.item ALTER COLUMN name SET NOT NULL;
          ALTER TABLE shop.item DROP CONSTRAINT proof;
        END
        $$;""",
        "DO $do$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO staff', current_database()); END $do$;",
        "CREATE SCHEMA old;\nCREATE TABLE old.item (id int PRIMARY KEY);\nDROP TABLE old.item;\nDROP SCHEMA old;",
    ],
)
def test_what_the_specs_made_is_theirs(shop: Shop, text: str) -> None:
    shop.add("0002_do_this.up.sql", text, header=COVERED)
    assert made(shop) == [1, 2]


def test_files_count_together(shop: Shop) -> None:
    """What one makes and a later one takes away again is no reason to run either; without the later one, it is."""
    shop.add("0002_add_old.up.sql", "ALTER TABLE shop.item ADD COLUMN old int;\n" + INDEX, header=COVERED)
    shop.add("0003_index_old.up.sql", "CREATE INDEX item_old ON shop.item (old);", header=COVERED)
    shop.add("0004_rename_old.up.sql", "ALTER TABLE shop.item RENAME COLUMN old TO older;", header=COVERED)
    shop.add("0005_drop_older.up.sql", "ALTER TABLE shop.item DROP COLUMN older;", header=COVERED)
    shop.add("0006_drop_indexes.up.sql", "DROP INDEX shop.item_name, shop.item_old;", header=COVERED)
    assert made(shop) == [1, 2, 3, 4, 5, 6]
    (shop.folder / "0006_drop_indexes.up.sql").unlink()
    assert made(shop) == [1]


def test_what_a_file_that_cannot_be_read_may_make_is_not_taken_away_without_it(shop: Shop) -> None:
    block = "DO $$BEGIN IF true THEN ALTER TABLE shop.item ADD COLUMN old int; END IF; END$$;"
    shop.add("0002_add_old.up.sql", block, header=COVERED)
    shop.add("0003_drop_old.up.sql", "ALTER TABLE shop.item DROP COLUMN old;", header=COVERED)
    shop.add("0004_drop_earlier.up.sql", "ALTER TABLE shop.item DROP COLUMN earlier;", header=COVERED)
    assert made(shop) == [1, 4]


@pytest.mark.parametrize(("text", "is_made"), [
    ("UPDATE shop.item SET name = 'new' WHERE name = 'old';", True),
    ("DO $$BEGIN LOOP UPDATE shop.item SET name = '' WHERE name = '-'; EXIT WHEN NOT FOUND; END LOOP; END$$;", True),
    ("DO $$BEGIN INSERT INTO shop.item (name) VALUES ('first'); END$$;", True),
    ("DO $$BEGIN FOR i IN 1..3 LOOP INSERT INTO shop.item (name) VALUES ('x'); END LOOP; END$$;", False),
    ("UPDATE shop.item SET;", False),
])  # fmt: skip
def test_a_data_file_has_to_be_readable(shop: Shop, text: str, is_made: bool) -> None:
    shop.add("0002_carry_rows.up.sql", text, header=f"-- kind: data\n{COVERED}")
    assert (2 in made(shop)) == is_made


@pytest.mark.req("C1.1", "C1.13")
def test_rows_of_tables_that_nobody_declares_are_carried(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.sql("CREATE SCHEMA legacy; CREATE TABLE legacy.item AS SELECT 'old' AS name")
    text = "INSERT INTO shop.item (name) SELECT name FROM legacy.item;"
    shop.add("0002_carry_items.up.sql", text, header=f"-- kind: data\n{COVERED}")
    assert "the specs cover them: 1.0.0\n" in shop.run("apply", "--yes").stderr
    assert "applied 1.1.0" in shop.run("migrate", "up").stderr
    assert shop.column("SELECT name FROM shop.item") == ["old"]


@pytest.mark.req("C1.9", "C1.10")
def test_a_way_back_asks_and_what_was_rolled_back_is_not_recorded_again(
    shop: Shop, pg_database: dict[str, Any]
) -> None:
    shop.at(pg_database)
    shop.run("apply", "--yes")
    shop.sql("INSERT INTO shop.item (name) VALUES ('first')")
    before = shop.sql(EVENTS)
    assert before == [("1.0.0", "baselined")]
    told = shop.run("migrate", "down", code=3).stderr
    assert "0001_create_shop.down.sql:" in told
    assert "(HF0856)" in told
    assert "a consent is missing; nothing was changed" in told
    assert "--allow data_loss:1.0.0" in told
    assert "is not a consent" in shop.run("migrate", "down", "--allow", "rows", code=1).stderr
    assert shop.run("migrate", "down", "--dry-run").stdout.count("DROP TABLE") > 2
    assert (shop.sql(EVENTS), shop.column("SELECT name FROM shop.item")) == (before, ["first"])
    shop.sql("DROP TABLE shop.visit, shop.order")
    shop.write({n: t for n, t in shop.files().items() if n.endswith(".up.sql")})
    shop.add("0001_create_shop.down.sql", "DROP SCHEMA shop CASCADE;")
    assert "--allow data_loss:1.0.0" in shop.run("migrate", "down", code=3).stderr
    told = shop.run("migrate", "down", "--allow", "data_loss:1.0.0").stderr
    assert "HF0860 warning" in told
    assert "rolled back 1.0.0" in told

    assert "recorded" not in shop.run("apply", "--yes").stderr
    told = shop.run("migrate", "up", code=1).stderr
    assert "0001_create_shop.up.sql makes the" in told
    assert "holdfast migrate baseline 1.0.0" in told
    shop.run("migrate", "baseline", "1.0.0")
    assert "nothing to apply" in shop.run("migrate", "up").stderr
    assert [event for _, event in shop.sql(EVENTS)] == ["baselined", "started", "rolled_back", "baselined"]


@pytest.mark.req("C1.9")
def test_a_way_there_that_loses_rows_asks(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.run("migrate", "up")
    shop.add("0002_empty_items.up.sql", "TRUNCATE shop.item;", header="-- kind: data\n")
    before = shop.sql(EVENTS)
    assert "0002_empty_items.up.sql:3:1: TRUNCATE loses" in shop.run("migrate", "up", code=3).stderr
    assert shop.sql(EVENTS) == before
    assert "applied 1.1.0" in shop.run("migrate", "up", "--allow", "data_loss:1.1.0").stderr
    shop.add("0003_empty_items.up.sql", "TRUNCATE shop.item;", header="-- kind: data\n-- allow HF0857: it is a test\n")
    assert "applied 1.2.0" in shop.run("migrate", "up").stderr


@pytest.mark.req("C1.1", "C1.11")
def test_up_to_a_version_records_no_later_one_and_says_what_it_would_record(
    shop: Shop, pg_database: dict[str, Any]
) -> None:
    shop.at(pg_database)
    index(shop, "item_name", "name")
    files_of = shop.files()
    shop.write({})
    shop.run("apply", "--yes")
    shop.write(files_of)
    shop.add("0002_index_name.up.sql", INDEX, header=COVERED)
    shop.add("0003_index_price.up.sql", "DROP INDEX shop.item_price;\nCREATE INDEX item_price ON shop.item (price);",
             header=COVERED)  # fmt: skip
    assert "would be recorded as applied, since the specs made them: 1.0.0, 1.1.0, 1.2.0" in shop.run(
        "migrate", "up", "--dry-run").stderr  # fmt: skip
    found = json.loads(shop.run("migrate", "up", "--dry-run", "--to", "1.1.0", "--format", "json").stdout)
    assert found == {"recorded": ["1.0.0", "1.1.0"], "ahead": []}
    assert shop.sql(EVENTS) == []
    shop.add("0001_create_shop.down.sql", "DROP TABLE shop.item; UPDATE shop.item SET name = 'x';")
    assert "the specs made them: 1.0.0, 1.1.0\n" in shop.run("migrate", "up", "--to", "1.1.0").stderr
    assert pending(shop) == ["1.2.0"]


def test_lint_errors_of_files_that_are_only_recorded_stop_nothing(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    files_of = shop.files()
    shop.write({})
    shop.run("apply", "--yes")
    shop.write(files_of)
    data = "UPDATE shop.item SET name = 'new' WHERE name = 'old';\nALTER TABLE shop.item ALTER name SET DEFAULT 'none';"
    shop.add("0002_rename_items.up.sql", data, header=f"-- kind: data\n{COVERED}")
    shop.run("migrate", "lint", code=1)
    assert "the specs made them: 1.0.0, 1.1.0\n" in shop.run("migrate", "up").stderr


@pytest.mark.req("C1.1")
def test_a_plane_that_is_behind_its_specs_is_to_be_applied_first(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    files_of = shop.files()
    shop.write({})
    shop.run("apply", "--yes")
    shop.write(files_of)
    index(shop, "item_name", "name")
    told = shop.run("migrate", "up", code=1).stderr
    assert "makes the " in told
    assert "which is there already, so nothing was run: 1 changes are pending" in told
    assert "Run holdfast apply first" in told
    assert shop.sql(EVENTS) == []
    assert "the specs cover them: 1.0.0" in shop.run("apply", "--yes").stderr


@pytest.mark.req("C1.5")
def test_two_at_once_in_an_empty_database_both_succeed(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.run("status")
    both = [shop.start("migrate", "up", "--wait", "1m") for _ in range(2)]
    said = [(running.communicate(timeout=90)[1], running.returncode) for running in both]
    assert [code for _, code in said] == [0, 0], said
    assert [event for _, event in shop.sql(EVENTS)] == ["started", "applied"]


@pytest.mark.req("C1.5")
def test_recording_waits_for_a_runner(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.run("apply", "--yes")
    shop.add("0002_take_long.up.sql", "SELECT pg_sleep(6);", header="-- kind: data\n")
    first = shop.start("migrate", "up")
    while not any(version == "1.1.0" for version, _ in shop.sql(EVENTS)):
        assert first.poll() is None
    index_text = "CREATE INDEX IF NOT EXISTS item_price ON shop.item (price);"
    shop.add("0003_index_price.up.sql", index_text, header=COVERED)
    told = shop.run("migrate", "up", "--wait", "1m").stderr
    assert "the specs made them: 1.2.0" in told
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_the_history_of_another_target(shop: Shop) -> None:
    specs = document()
    del specs["schemas"]["migrations"]
    shop.declare(specs)
    shop.place({"main": NOWHERE, "side": NOWHERE})
    assert "dev has no Postgres target nope" in shop.run("migrate", "init", "--target", "nope", code=1).stderr
    shop.run("migrate", "init", "--target", "side")
    written: Path = shop.root / "specs/migrations.yaml"
    assert "\n  migrations:\n    target: side\n" in written.read_text()
    shop.run("check")


@pytest.mark.req("C1.5", "C1.9")
def test_two_ways_back_at_once_undo_no_more_than_was_agreed_to(shop: Shop, pg_database: dict[str, Any]) -> None:
    shop.at(pg_database)
    shop.add("0002_take_long.up.sql", "SELECT 1;")
    shop.add("0002_take_long.down.sql", "SELECT pg_sleep(3);")
    shop.run("migrate", "up")
    allowed = ("--allow", "data_loss:1.0.0", "--wait", "1m")
    both = [shop.start("migrate", "down", *allowed) for _ in range(2)]
    said = {running.returncode: errors for running in both if (errors := running.communicate(timeout=60)[1])}
    assert set(said) == {0, 4}, said
    assert "another runner was at work, and 1.0.0 would come next now; nothing was done" in said[4]
    assert pending(shop) == ["1.1.0"]
