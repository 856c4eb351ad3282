"""What lint says of locks, rewrites and scans is what PostgreSQL does: measured while the transaction is open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded import postgres
from tests.migrate.lint import ABOUT_DOWN, judged, plane

SETUP = """
CREATE SCHEMA shop;
CREATE TYPE shop.order_status AS ENUM ('open', 'paid');
CREATE DOMAIN shop.amount AS integer CHECK (VALUE > 0);
CREATE DOMAIN shop.label AS text;
CREATE TABLE shop.maker (id bigint PRIMARY KEY);
CREATE TABLE shop.item (sku text PRIMARY KEY, colour text, label varchar(20), stock integer, maker bigint,
    CONSTRAINT item_maker_fkey FOREIGN KEY (maker) REFERENCES shop.maker);
CREATE INDEX item_colour ON shop.item (colour);
CREATE TABLE shop.crate (code text UNIQUE, label varchar(10), at timestamptz);
CREATE TABLE shop.sale (at timestamptz NOT NULL, item text, amount integer) PARTITION BY RANGE (at);
CREATE TABLE shop.sale_2026 PARTITION OF shop.sale FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE shop.visit (day date NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE shop.visit_2026 PARTITION OF shop.visit FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE shop.visit_default PARTITION OF shop.visit DEFAULT;
CREATE MATERIALIZED VIEW shop.bestseller AS SELECT sku FROM shop.item;
INSERT INTO shop.item SELECT i::text, 'red', 'l', 1, NULL FROM generate_series(1, 500) AS i;
INSERT INTO shop.crate SELECT i::text, 'l', '2027-03-01Z' FROM generate_series(1, 500) AS i;
INSERT INTO shop.sale SELECT '2026-05-01Z', '1', 1 FROM generate_series(1, 500);
INSERT INTO shop.visit SELECT '2030-01-01' FROM generate_series(1, 500);
"""
AE, SRE, SHARE, SUE = "AccessExclusive", "ShareRowExclusive", "Share", "ShareUpdateExclusive"
_ITEM = "ALTER TABLE shop.item "
_SPAN = "FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"
#: Statement, the code that warns of it or "", locks on relations, those rewritten, those read to the end.
CLAIMS = [
    (_ITEM + "ADD COLUMN a int DEFAULT 5", "", {"item": AE}, "", ""),
    (_ITEM + "ADD COLUMN a timestamptz DEFAULT now()", "", {"item": AE}, "", ""),
    (_ITEM + "ADD COLUMN a uuid DEFAULT gen_random_uuid()", "HF0831", {"item": AE}, "item", "item"),
    (_ITEM + "ADD COLUMN a bigserial", "HF0831", {"item": AE}, "item", "item"),
    (_ITEM + "ADD COLUMN a int GENERATED ALWAYS AS (stock * 2) STORED", "HF0831", {"item": AE}, "item", "item"),
    (_ITEM + "ADD COLUMN a shop.amount", "HF0831", {"item": AE}, "item", "item"),
    (_ITEM + "ADD COLUMN a shop.label", "", {"item": AE}, "", ""),
    (_ITEM + "ADD COLUMN a int CHECK (a > 0)", "HF0833", {"item": AE}, "", "item"),
    (_ITEM + "ALTER COLUMN colour SET NOT NULL", "HF0834", {"item": AE}, "", "item"),
    ("ALTER TABLE shop.sale ALTER COLUMN item SET NOT NULL", "HF0834", {"sale": AE, "sale_2026": AE}, "", "sale_2026"),
    ("ALTER TABLE shop.crate ALTER COLUMN label TYPE varchar(20)", "", {"crate": AE}, "", ""),
    ("ALTER TABLE shop.crate ALTER COLUMN label TYPE varchar(5)", "HF0835", {"crate": AE}, "crate", "crate"),
    (_ITEM + "ALTER COLUMN stock TYPE bigint", "HF0835", {"item": AE}, "item", "item"),
    (_ITEM + "ADD CONSTRAINT c CHECK (stock > 0)", "HF0838", {"item": AE}, "", "item"),
    (_ITEM + "ADD CONSTRAINT c CHECK (stock > 0) NOT VALID", "", {"item": AE}, "", ""),
    (_ITEM + "ADD FOREIGN KEY (maker) REFERENCES shop.maker", "HF0839", {"item": SRE, "maker": SRE}, "", "item"),
    (_ITEM + "ADD FOREIGN KEY (maker) REFERENCES shop.maker NOT VALID", "", {"item": SRE, "maker": SRE}, "", ""),
    ("ALTER TABLE shop.sale ADD FOREIGN KEY (item) REFERENCES shop.item", "HF0840",
     {"sale": SRE, "sale_2026": SRE, "item": SRE}, "", "sale_2026"),
    ("ALTER TABLE shop.crate ADD UNIQUE (at, code)", "HF0841", {"crate": AE}, "", "crate"),
    ("ALTER TABLE shop.crate ADD PRIMARY KEY USING INDEX spare", "HF0842", {"crate": AE}, "", "crate"),
    ("ALTER TABLE shop.crate ADD EXCLUDE (code WITH =)", "HF0843", {"crate": AE}, "", "crate"),
    (_ITEM + "DROP CONSTRAINT item_maker_fkey; SELECT 1", "HF0844", {"item": AE, "maker": AE}, "", ""),
    ("ALTER TABLE shop.sale ADD CHECK (amount > 0) NOT VALID", "HF0845", {"sale": AE, "sale_2026": AE}, "", ""),
    ("CREATE INDEX i ON shop.item (label)", "HF0846", {"item": SHARE}, "", "item"),
    ("CREATE INDEX i ON ONLY shop.sale (item)", "", {"sale": SHARE}, "", ""),
    ("DROP INDEX shop.item_colour", "HF0848", {"item": AE}, "", ""),
    ("REINDEX TABLE shop.crate", "HF0849", {"crate": SHARE}, "", "crate"),
    ("REFRESH MATERIALIZED VIEW shop.bestseller", "HF0850", {"bestseller": AE}, "bestseller", "item"),
    (_ITEM + "SET UNLOGGED", "HF0851", {"item": AE}, "item", "item"),
    (f"CREATE TABLE shop.s PARTITION OF shop.sale {_SPAN}", "HF0852", {"sale": AE}, "", ""),
    (f"CREATE TABLE shop.v PARTITION OF shop.visit {_SPAN}", "HF0852", {"visit": AE, "visit_default": AE}, "",
     "visit_default"),
    (f"CREATE TABLE shop.s (LIKE shop.sale); ALTER TABLE shop.sale ATTACH PARTITION shop.s {_SPAN}", "",
     {"sale": SUE}, "", ""),
    ("ALTER TABLE shop.sale DETACH PARTITION shop.sale_2026", "HF0854", {"sale": AE, "sale_2026": AE}, "", ""),
    ("DROP TABLE shop.sale_2026", "", {"sale": AE}, "", ""),
    ("TRUNCATE shop.item", "HF0857", {"item": AE}, "item", ""),
    (_ITEM + "RENAME COLUMN label TO tag", "HF0837", {"item": AE}, "", ""),
    ("CREATE TRIGGER t BEFORE UPDATE ON shop.item EXECUTE FUNCTION suppress_redundant_updates_trigger()", "",
     {"item": SRE}, "", ""),
    (_ITEM + "SET (fillfactor = 80)", "", {"item": SUE}, "", ""),
]  # fmt: skip
_LOCKS = """
SELECT c.relname, array_agg(replace(l.mode, 'Lock', '')) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'shop'::regnamespace AND c.relkind IN ('r', 'p', 'm') GROUP BY 1
"""
_FILES = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'm')"
_SCANS = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'shop'"
_STRENGTH = ["AccessShare", "RowShare", "RowExclusive", SUE, SHARE, SRE, "Exclusive", AE]


@pytest.fixture(scope="module")
def shop(pg_server: postgres.Server) -> Mapping[str, Any]:
    """A database with the tables of the examples and rows in them."""
    pg_server.create_database("lint_locks")
    dsn: Mapping[str, Any] = pg_server.dsn("lint_locks")
    with psycopg.connect(**dsn, autocommit=True) as connection:
        connection.execute(SETUP)
    return dsn


@pytest.mark.parametrize(("sql", "code", "locked", "rewritten", "read"), CLAIMS, ids=[c[0][:70] for c in CLAIMS])
def test_what_is_said_is_what_the_server_does(
    shop: Mapping[str, Any], tmp_path: Path, sql: str, code: str, locked: dict[str, str], rewritten: str, read: str
) -> None:
    with psycopg.connect(**shop) as connection:
        if "USING INDEX spare" in sql:
            connection.execute("CREATE UNIQUE INDEX spare ON shop.crate (code); COMMIT")
        before = dict(connection.execute(_FILES).fetchall())
        connection.execute("COMMIT; BEGIN; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off")
        seen = dict(connection.execute(_SCANS).fetchall())
        connection.execute(sql)
        scans = {k: v - seen.get(k, 0) for k, v in connection.execute(_SCANS).fetchall()}
        modes = {name: max(found, key=_STRENGTH.index) for name, found in connection.execute(_LOCKS).fetchall()}
        after = dict(connection.execute(_FILES).fetchall())
        connection.execute("ROLLBACK; DROP INDEX IF EXISTS shop.spare; COMMIT")
    assert {name: modes.get(name) for name in locked} == locked
    assert [
        n for n, m in modes.items() if n in before and m not in ("AccessShare", "RowShare") and n not in locked
    ] == []
    assert " ".join(sorted(n for n in before if n in after and after[n] != before[n])) == rewritten
    if read:
        assert scans.get(read, 0) > 0
    else:
        assert [n for n, count in scans.items() if count and n in before and n not in rewritten] == []
    found = {d.code for d in judged(tmp_path, sql, plane())} - ABOUT_DOWN
    assert code in found if code else not {c for c in found if c < "HF0856"}


REFUSED = [
    ("HF0822", "BEGIN; ALTER TYPE shop.order_status ADD VALUE 'x'; SELECT 'x'::shop.order_status", "55P04"),
    ("HF0832", _ITEM + "ADD COLUMN a text NOT NULL", "23502"),
    ("HF0847", "CREATE INDEX CONCURRENTLY i ON shop.sale (item)", "0A000"),
    ("HF0855", "ALTER TABLE shop.visit DETACH PARTITION shop.visit_2026 CONCURRENTLY", "55000"),
]


@pytest.mark.req("C1.8")
@pytest.mark.parametrize(("code", "sql", "state"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_lint_calls_an_error_the_server_refuses(
    shop: Mapping[str, Any], tmp_path: Path, code: str, sql: str, state: str
) -> None:
    *first, last = sql.split("; ")
    with psycopg.connect(**shop, autocommit=True) as connection:
        for statement in first:
            connection.execute(statement)
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(last)
    assert refused.value.sqlstate == state
    header = "-- transaction: none\n" if "CONCURRENTLY" in sql else ""
    found = judged(tmp_path, header + sql.removeprefix("BEGIN; "), plane())
    assert code in {d.code for d in found if d.severity == "error"}


def test_a_foreign_key_of_a_partitioned_table_cannot_be_not_valid_before_18(pg16_database: Mapping[str, Any]) -> None:
    with psycopg.connect(**pg16_database, autocommit=True) as connection:
        connection.execute(SETUP)
        with pytest.raises(psycopg.Error, match="NOT VALID foreign key"):
            connection.execute("ALTER TABLE shop.sale ADD FOREIGN KEY (item) REFERENCES shop.item NOT VALID")


def test_a_lock_timeout_ends_a_concurrent_build_and_if_not_exists_keeps_what_it_left(shop: Mapping[str, Any]) -> None:
    build = "CREATE INDEX CONCURRENTLY {} maker_late ON shop.maker (id)"
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.maker_late'::regclass"
    with psycopg.connect(**shop) as other, psycopg.connect(**shop, autocommit=True) as connection:
        other.execute("INSERT INTO shop.maker VALUES (77)")
        connection.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute(build.format(""))
        other.rollback()
        connection.execute(build.format("IF NOT EXISTS"))
        assert connection.execute(valid).fetchone() == (False,)
        connection.execute("DROP INDEX CONCURRENTLY IF EXISTS shop.maker_late")
        connection.execute(build.format("IF NOT EXISTS"))
        assert connection.execute(valid).fetchone() == (True,)
        connection.execute("DROP INDEX shop.maker_late")
