"""What the statements of a migration do, also inside of DO blocks: what they lose, and what is not theirs to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.migrate.files import Script, Statement, read_script
from provision.migrate.lint.loss import losses
from provision.migrate.lint.parsing import parse, statements_of_do
from tests.migrate.lint import ABOUT_DOWN, judged, plane


def _script(text: str) -> Script:
    script, _ = read_script("0001_do_it.up.sql", f"-- version: 1.0.0\n{text}".encode())
    assert script is not None
    return script


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("DROP TABLE shop.item", "HF0856"),
        ("DROP TABLE IF EXISTS shop.item, shop.maker", "HF0856 HF0856"),
        ("ALTER TABLE shop.item DROP COLUMN label, DROP COLUMN colour", "HF0856 HF0856"),
        ("ALTER TYPE shop.point DROP ATTRIBUTE x", "HF0856"),
        ("DROP SCHEMA shop CASCADE", "HF0856"),
        ("DROP OWNED BY staff", "HF0856"),
        ("TRUNCATE shop.item", "HF0857"),
        ("DELETE FROM shop.item", "HF0858"),
        ("WITH gone AS (DELETE FROM shop.item RETURNING sku) SELECT count(*) FROM gone", "HF0858"),
        ("EXPLAIN (ANALYZE) DELETE FROM shop.item", "HF0858"),
        ("DROP TYPE shop.order_status CASCADE", "HF0860"),
        ("DROP EXTENSION vector CASCADE", "HF0860"),
        ("DO $$ BEGIN DROP TABLE shop.item; END $$", "HF0856"),
        ("DO $$ BEGIN IF true THEN DELETE FROM shop.item; ELSE TRUNCATE shop.item; END IF; END $$", "HF0858 HF0857"),
        ("DO $$ BEGIN EXECUTE format('DROP TABLE %I.%I', 'shop', 'item'); END $$", "HF0856"),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE ' || quote_ident('item'); END $$", "HF0856"),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE IF EXISTS ' || 'shop.' || quote_ident(n); END $$", "HF0856"),
        ("DO $$ BEGIN EXECUTE 'ALTER TABLE ' || a || ' DROP COLUMN ' || b; END $$", "HF0856"),
        ("DO $$ DECLARE q text := 'DELETE FROM shop.item'; BEGIN EXECUTE q; END $$", "HF0858"),
        ("CREATE TABLE IF NOT EXISTS shop.item (id int PRIMARY KEY); DROP TABLE shop.item", "HF0856"),
        ("DROP SCHEMA shop", ""),  # the server refuses while it holds something
        ("EXPLAIN DELETE FROM shop.item", ""),
        ("DELETE FROM shop.item WHERE sku = 'x'; UPDATE shop.item SET label = ''", ""),
        ("CREATE TABLE shop.a (id int PRIMARY KEY); TRUNCATE shop.a; DROP TABLE shop.a", ""),
        ("CREATE FUNCTION shop.f() RETURNS void BEGIN ATOMIC DELETE FROM shop.item; END", ""),
        ("ALTER TABLE shop.item DROP CONSTRAINT item_pkey CASCADE; DROP TRIGGER t ON shop.item CASCADE", ""),
        ("DO $$ BEGIN RAISE EXCEPTION 'no way to drop table shop.item'; END $$", ""),
    ],
)  # fmt: skip
@pytest.mark.req("C1.8")
def test_what_statements_lose_is_told(text: str, codes: str) -> None:
    assert " ".join(loss.code for loss in losses(_script(text))) == codes


def test_a_loss_has_its_place_and_is_silent_where_the_file_allows_it() -> None:
    text = "DROP TABLE shop.item;\nDO $do$\nBEGIN\n  TRUNCATE shop.maker;\nEND\n$do$;"
    assert [(loss.code, *loss.mark[:3], loss.what) for loss in losses(_script(text))] == [
        ("HF0856", "0001_do_it.up.sql", 2, 1, "dropping the table shop.item loses what it holds"),
        ("HF0857", "0001_do_it.up.sql", 5, 3, "TRUNCATE loses every row of shop.maker"),
    ]
    allowing = _script(f"-- allow HF0856: nobody reads it any more\n{text}")
    assert [loss.code for loss in losses(allowing)] == ["HF0857"]
    assert [loss.code for loss in losses(allowing, allowed=True)] == ["HF0856", "HF0857"]


def test_what_a_way_back_allows_is_not_for_nothing(tmp_path: Path) -> None:
    """Lint knows that the way there made the table; who runs the way back loses its rows all the same."""
    up = "-- 0001_add_it.up.sql\nCREATE TABLE shop.a (id int PRIMARY KEY);\n"
    down = "-- 0001_add_it.down.sql\n-- allow HF0856: its rows come from elsewhere\nDROP TABLE shop.a;"
    assert judged(tmp_path, up + down, plane()) == []


@pytest.mark.parametrize(
    ("block", "inner"),
    [
        ("DO $$ BEGIN DROP TABLE a; SELECT ';'; END $$", ["DROP TABLE a", "SELECT ';'"]),
        ("DO LANGUAGE plpgsql 'BEGIN\n DELETE FROM a WHERE b = ''x'';\nEND;'", ["DELETE FROM a WHERE b = 'x'"]),
        ("DO $a$begin null; /* END */ truncate a; -- END\nend;$a$", ["truncate a"]),
        ("DO $$ BEGIN END $$", []),
        ("DO $$ DECLARE n int; BEGIN DROP TABLE a; END $$", None),
        ("DO $$ BEGIN IF true THEN DROP TABLE a; END IF; END $$", None),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE a'; END $$", None),
        ("DO $$ BEGIN EXECUTE a; END $$", None),
        ("DO $$ BEGIN PERFORM f(); END $$", None),
        ("DO $$ BEGIN DROP TABLE a; COMMIT; END $$", None),
        ("DO $$ BEGIN BEGIN DROP TABLE a; END; END $$", None),
        ("DO $$ BEGIN DROP TABLE a; EXCEPTION WHEN OTHERS THEN NULL; END $$", None),
        ("DO $$ <<b>> BEGIN DROP TABLE a; END b $$", None),
        ("DO LANGUAGE plpython3u $$ BEGIN DROP TABLE a; END $$", None),
        ("SELECT 1", None),
    ],
)
def test_a_block_that_is_a_plain_list_is_read(block: str, inner: list[str] | None) -> None:
    found = statements_of_do(parse(Statement(block, 1, 1)))
    assert (None if found is None else [s.text for s in found]) == inner


def test_statements_of_a_block_know_their_places_in_the_file() -> None:
    (statement,) = _script("SELECT 1; DO $a$ BEGIN DROP TABLE a;\n  DROP TABLE b; END $a$").statements[1:]
    found = statements_of_do(parse(statement))
    assert found is not None
    assert [(s.text, s.line, s.column) for s in found] == [("DROP TABLE a", 2, 24), ("DROP TABLE b", 3, 3)]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("SELECT pg_advisory_unlock_all()", "HF0871"),
        ("SELECT pg_catalog.pg_advisory_unlock_all() FROM shop.item", "HF0871"),
        ("DO $$ BEGIN PERFORM pg_advisory_unlock_all(); END $$", "HF0871"),
        ("DELETE FROM migrations.history WHERE event_id = 1", "HF0871"),
        ("WITH a AS (UPDATE migrations.applied_migrations SET status = 'applied' WHERE true RETURNING 1) TABLE a",
         "HF0859 HF0871"),
        ("SET search_path = migrations; INSERT INTO history VALUES (1)", "HF0824 HF0871"),
        ("TRUNCATE migrations.history", "HF0857 HF0871"),
        ("DO $$ BEGIN IF true THEN DELETE FROM migrations.history WHERE event_id = 1; END IF; END $$", "HF0871"),
        ("DROP SCHEMA migrations", "HF0856 HF0871"),
        ("ALTER SCHEMA migrations RENAME TO old", "HF0871"),
        ("ALTER TABLE migrations.history RENAME TO old", "HF0837 HF0871"),
        ("DROP TABLE migrations.locks", "HF0856 HF0871"),
        ("SELECT pg_advisory_unlock(7), count(*) FROM migrations.history", ""),
        ("GRANT SELECT ON migrations.history TO staff; COMMENT ON TABLE migrations.locks IS 'x'", ""),
        ("COPY migrations.history TO '/rows'", ""),
        ("CREATE TABLE shop.a AS SELECT * FROM migrations.history", "HF0862"),
    ],
)  # fmt: skip
@pytest.mark.req("C1.8")
def test_the_runners_own_is_left_to_it(text: str, codes: str, tmp_path: Path) -> None:
    found = judged(tmp_path, text, plane())
    assert " ".join(sorted({d.code for d in found} - ABOUT_DOWN)) == codes, [d.message for d in found]
