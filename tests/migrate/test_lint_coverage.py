"""Lint of what a file says of itself: that the specs cover it, and what lint is not to tell of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migrate.lint import ABOUT_DOWN, judged, plane

COVERED = "-- covered-by: specs\n"
DATA = "-- kind: data\n"
INDEX = "CREATE INDEX item_label ON shop.item (label);"
BOTH = COVERED + DATA
#: Files, and all that lint says of them.
CASES = [
    # who may touch what the specs own
    (COVERED + "ALTER TABLE agents.state ADD COLUMN a int", ""),
    ("ALTER TABLE agents.state ADD COLUMN a int", "HF0861"),
    (COVERED + "CREATE SCHEMA agents; CREATE TYPE agents.e AS ENUM ('a'); GRANT SELECT ON agents.state TO app", ""),
    (COVERED + "CREATE INDEX i ON agents.state (note)", "HF0846"),
    # structure and rows
    (COVERED + "CREATE VIEW agents.v AS SELECT 1 AS a; DELETE FROM agents.state WHERE id = 1", "HF0866"),
    (COVERED + "UPDATE agents.state SET note = 'x' WHERE id = 1", "HF0866"),
    (COVERED + "-- kind: index\nUPDATE agents.state SET note = 'x' WHERE id = 1", "HF0866"),
    (BOTH + "UPDATE agents.state SET note = 'x' WHERE id = 1", ""),
    (BOTH + "DROP VIEW agents.v; UPDATE agents.state SET note = 'x' WHERE id = 1", "HF0866"),
    (BOTH + "DROP VIEW agents.v", ""),
    (COVERED + "COPY agents.state FROM '/rows'", "HF0866"),
    (COVERED + "COPY agents.state TO '/rows'", ""),
    (COVERED + "MERGE INTO agents.state USING agents.v ON false WHEN MATCHED THEN DELETE", "HF0866"),
    (COVERED + "WITH gone AS (DELETE FROM agents.state WHERE id = 1 RETURNING id) SELECT * FROM gone", "HF0866"),
    (COVERED + "SELECT id INTO agents.a FROM agents.state", "HF0866"),
    (COVERED + "CREATE TABLE agents.a AS SELECT id FROM agents.state; ALTER TABLE agents.a ADD PRIMARY KEY (id)",
     "HF0866"),
    (COVERED + "CREATE TABLE agents.a AS TABLE agents.state WITH NO DATA; ALTER TABLE agents.a ADD PRIMARY KEY (id)",
     ""),
    (COVERED + "CREATE MATERIALIZED VIEW agents.m AS SELECT id FROM agents.state", ""),
    (COVERED + "CREATE FUNCTION agents.f() RETURNS void BEGIN ATOMIC DELETE FROM agents.state; END", ""),
    (COVERED + "CREATE RULE r AS ON DELETE TO agents.state DO ALSO DELETE FROM agents.state", ""),
    (COVERED + "SELECT count(*) FROM agents.state", ""),
    # rows that no spec declares
    (BOTH + "INSERT INTO agents.state VALUES (1, 'x')", "HF0867"),
    (BOTH + "INSERT INTO agents.state SELECT 1, 'x'", "HF0867"),
    (BOTH + "INSERT INTO agents.state SELECT n, 'x' FROM generate_series(1, 3) AS n", "HF0867"),
    (BOTH + "INSERT INTO agents.state DEFAULT VALUES", "HF0867"),
    (BOTH + "INSERT INTO agents.state SELECT id, label FROM shop.item, (VALUES (1)) AS v (id)", ""),
    (DATA + "INSERT INTO agents.state VALUES (1, 'x')", ""),
    (COVERED + "INSERT INTO agents.state VALUES (1, 'x')", "HF0866"),
    (BOTH + "CREATE VIEW agents.v AS SELECT 1 AS a; INSERT INTO agents.state VALUES (1, 'x')", "HF0866"),
    # what apply does not make
    (COVERED + "ALTER TABLE shop.item ADD COLUMN a int", ""),  # managed: migrations
    (COVERED + "CREATE SCHEMA shop; CREATE TABLE shop.a (id int PRIMARY KEY)", ""),
    (COVERED + "CREATE ROLE clerk", ""),
    (COVERED + "CREATE ROLE other", "HF0868"),
    (COVERED + "CREATE PUBLICATION p FOR TABLE agents.state", "HF0868"),
    (COVERED + "ALTER DATABASE example SET timezone = 'UTC'", "HF0868"),
    (COVERED + "DO $$ BEGIN CREATE ROLE other; END $$", "HF0868"),
    (COVERED + "CREATE TABLE agents.x PARTITION OF agents.queue FOR VALUES IN ('parcel')", "HF0852 HF0868"),
    (COVERED + "CREATE TABLE agents.x PARTITION OF agents.queue FOR VALUES IN ('mail', 'post')", "HF0852"),
    (COVERED + "CREATE TABLE agents.x PARTITION OF agents.queue DEFAULT", "HF0852 HF0868"),
    (COVERED + "CREATE TABLE agents.x PARTITION OF agents.log FOR VALUES FROM ('2027-01-01') TO ('2027-02-01')",
     "HF0852"),
    (COVERED + "CREATE TABLE agents.x (kind text NOT NULL, CHECK (kind = 'parcel'));"
     "ALTER TABLE agents.queue ATTACH PARTITION agents.x FOR VALUES IN ('parcel')", "HF0868"),
    (COVERED + "CREATE TABLE other.a (id int PRIMARY KEY)", "HF0868"),
    (COVERED + "CREATE TABLE a (id int PRIMARY KEY)", "HF0868"),
    (COVERED + "CREATE SCHEMA other", "HF0868"),
    (COVERED + "CREATE TRIGGER t BEFORE UPDATE ON agents.state EXECUTE FUNCTION shop.f()", ""),
    (COVERED + "CREATE TEMP TABLE a (id int)", ""),
    (COVERED + "ALTER SCHEMA other RENAME TO agents; ALTER TABLE shop.item SET SCHEMA agents", ""),
    (COVERED + "DROP VIEW other.v", ""),
    (COVERED + "CREATE EXTENSION pgcrypto", "HF0868"),
    (COVERED + "CREATE EXTENSION vector; COMMENT ON EXTENSION vector IS 'x'", ""),
    # what nobody can read
    (COVERED + "DO $$ BEGIN IF true THEN NULL; END IF; END $$", "HF0870"),
    (COVERED + "DO $$ BEGIN PERFORM agents.fill(); END $$", "HF0870"),
    (COVERED + "CALL agents.fill()", "HF0870"),
    (COVERED + "SELECT agents.fill()", "HF0870"),
    (COVERED + "SELECT setval('agents.s', 5)", "HF0870"),
    (COVERED + "SELECT set_config('search_path', 'agents', true), pg_catalog.now()", ""),
    (COVERED + "DO $$ BEGIN ALTER TABLE agents.state ADD COLUMN a int; END $$", ""),
    (COVERED + "DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO clerk', current_database()); END $$", ""),
    (BOTH + "DO $$ BEGIN IF true THEN NULL; END IF; END $$", ""),
    ("CALL agents.fill()", ""),
    # in a block
    (COVERED + "DO $$ BEGIN UPDATE agents.state SET note = 'x' WHERE id = 1; END $$", "HF0866"),
    (BOTH + "DO $$ BEGIN DROP VIEW agents.v; UPDATE agents.state SET note = 'x' WHERE id = 1; END $$", "HF0866"),
    (BOTH + "DO $$ BEGIN INSERT INTO agents.state VALUES (1, 'x'); END $$", "HF0867"),
    # what a file allows
    ("-- allow HF0846: it is small\n" + INDEX, ""),
    ("-- allow HF0846: it is small\n" + INDEX + INDEX.replace("item_label", "two"), ""),
    ("-- allow HF0861: by hand\nDROP VIEW agents.v", ""),
    ("-- allow HF0820: a newer server reads it\nCREATE WONDER", ""),
    ("-- allow HF0848: it is small\n" + INDEX, "HF0846 HF0869"),
    ("-- allow HF0846: it is small\nSELECT 1", "HF0869"),
    ("-- allow HF0846: of another environment\n-- allow HF0869: the same\nSELECT 1", ""),
    ("-- allow HF0869: not needed\nSELECT 1", ""),
]  # fmt: skip


@pytest.mark.req("C1.8")
@pytest.mark.parametrize(("text", "codes"), CASES, ids=[f"{n}" for n in range(len(CASES))])
def test_what_lint_says_of_a_file(text: str, codes: str, tmp_path: Path) -> None:
    found = judged(tmp_path, text, plane())
    assert " ".join(sorted({d.code for d in found} - ABOUT_DOWN)) == codes, [d.message for d in found]


def test_what_is_allowed_in_one_file_is_told_in_the_next(tmp_path: Path) -> None:
    up = f"-- 0001_index_item.up.sql\n-- allow HF0846: it is small\n{INDEX}\n"
    down = "-- 0001_index_item.down.sql\n-- allow HF0863: x\nDROP INDEX shop.item_label;\n"
    again = "-- 0002_index_maker.up.sql\n-- allow HF0863: no way back\nCREATE INDEX maker_two ON shop.maker (id);\n"
    found = judged(tmp_path, up + down + again, plane())
    assert [(Path(d.mark.file).name, d.mark.line, d.code) for d in found] == [
        ("0001_index_item.down.sql", 2, "HF0869"),
        ("0001_index_item.down.sql", 3, "HF0848"),
        ("0002_index_maker.up.sql", 3, "HF0846"),
    ]


def test_an_allowance_for_nothing_is_told_at_its_line(tmp_path: Path) -> None:
    text = "-- description: allow HF0847\n-- allow HF0846: x\n--  allow HF0847: y\n" + INDEX
    found = [d for d in judged(tmp_path, text, plane()) if d.code not in ABOUT_DOWN]
    assert [(d.mark.line, d.severity, d.message) for d in found] == [(4, "warning", "nothing here needs allow HF0847")]


def test_the_way_back_of_a_covered_file_is_free(tmp_path: Path) -> None:
    text = (
        "-- 0001_add_view.up.sql\n-- covered-by: specs\nCREATE VIEW agents.v AS SELECT 1 AS a;\n"
        "-- 0001_add_view.down.sql\nDROP VIEW agents.v; DELETE FROM agents.state WHERE id = 1;"
    )
    assert judged(tmp_path, text, plane()) == []


def test_without_specs_nobody_knows_what_is_declared(tmp_path: Path) -> None:
    found = judged(tmp_path, COVERED + "CREATE TABLE shop.a (id int PRIMARY KEY)")
    assert {d.code for d in found} <= ABOUT_DOWN


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("CREATE TABLE agents.x PARTITION OF agents.queue DEFAULT", "DROP TABLE agents.x"),
        (
            "CREATE TABLE agents.x PARTITION OF agents.queue DEFAULT",
            "ALTER TABLE agents.queue DETACH PARTITION agents.x",
        ),
        ("CREATE TABLE agents.x PARTITION OF agents.queue DEFAULT", "DO $$ BEGIN DROP TABLE agents.x; END $$"),
        ("CREATE SCHEMA other; CREATE VIEW other.v AS SELECT 1 AS a", "DROP SCHEMA other CASCADE"),
        ("CREATE VIEW other.v AS SELECT 1 AS a", "DROP VIEW other.v"),
        ("CREATE SCHEMA other", "ALTER SCHEMA other RENAME TO agents"),
        ("CREATE ROLE other", "DROP ROLE other"),
        ("CREATE EXTENSION pgcrypto", "DROP EXTENSION pgcrypto"),
    ],
)
def test_what_a_later_file_takes_away_needs_no_spec(first: str, later: str, tmp_path: Path) -> None:
    """Specs say where the files end; what an old file made on the way is no fault of it."""
    text = f"{COVERED}{first};\n-- 0002_end_it.up.sql\n"
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    found = judged(tmp_path / "with", f"{text}{COVERED}{later};", plane())
    assert "HF0868" not in {d.code for d in found}
    assert "HF0868" in {d.code for d in judged(tmp_path / "without", f"{text}SELECT 1;", plane())}
