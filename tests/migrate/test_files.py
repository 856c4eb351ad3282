"""Reading a folder of migrations: where statements end, what headers say, and each fault with its place."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.migrate import files
from provision.migrate.codes import LINTED
from provision.migrate.files import order_of
from provision.migrate.lint import RULES
from provision.migrate.statements import index_of, may_commit, runs_alone, shows_its_effect, split, words


def texts(sql: str, *, transactional: bool = True) -> list[str]:
    statements, faults = split(sql, transactional=transactional)
    assert faults == ()
    return [statement.text for statement in statements]


def write(folder: Path, name: str, text: str, version: str | None = None) -> None:
    (folder / name).write_text(f"-- version: {version or f'1.{int(name[:4])}.0'}\n{text}")


def faults(folder: Path) -> list[str]:
    return [
        f"{Path(d.mark.file).name}:{d.mark.line}:{d.mark.column}: {d.code} {d.message}" for d in files.read(folder)[1]
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ';', E'\\';', U&'\\003b;', \";\", $$;$$, $a$ $b$; $$; $a$",
        "SELECT 1 /* ; /* ; */ ; */ + 2 -- ; \n + 3",
        "CREATE FUNCTION app.f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
        "CREATE OR REPLACE PROCEDURE app.p() BEGIN ATOMIC SELECT t.end FROM t; SELECT CASE 1 WHEN 1 THEN 2 END; END",
        "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2'",
        "CREATE RULE r AS ON INSERT TO app.t DO ALSO (INSERT INTO app.u VALUES (1); DELETE FROM app.u)",
        "DO $body$ BEGIN PERFORM 1; END $body$",
    ],
)
@pytest.mark.req("C1.12")
def test_a_semicolon_inside_ends_nothing(statement: str) -> None:
    assert texts(f"SELECT 0;{statement};SELECT 9") == ["SELECT 0", statement, "SELECT 9"]


def test_statements_know_their_places() -> None:
    statements, _ = split("-- one\nSELECT 1; SELECT\n 2;;\n\n  /* x */ SELECT 3 -- end\n", transactional=True)
    assert [(s.text, s.line, s.column) for s in statements] == [
        ("SELECT 1", 2, 1),
        ("SELECT\n 2", 2, 11),
        ("SELECT 3", 5, 11),
    ]


_PIECES = [
    "SELECT 1",
    "a.b",
    "';'",
    "$x$;$x$",
    '";"',
    "/* ; */",
    "-- ;\n",
    "(1, 2)",
    "E'\\\\'",
    "1.5",
    "BEGIN",
    "CASE",
    " ",
]


@given(st.lists(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6), max_size=6))
def test_splitting_loses_nothing_but_semicolons_and_comments(statements: list[list[str]]) -> None:
    joined = [" ".join(pieces) for pieces in statements]
    found, _ = split(";\n".join(joined), transactional=True)
    assert [words(s.text) for s in found] == [w for text in joined if (w := words(text))]


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("\\i other.sql", "HF0808", 1),
        ("SELECT 1 \\gexec", "HF0808", 10),
        ("COPY app.t (a) FROM STDIN", "HF0808", 1),
        ("BEGIN", "HF0809", 1),
        ("commit", "HF0809", 1),
        ("ROLLBACK", "HF0809", 1),
        ("PREPARE TRANSACTION 'x'", "HF0809", 1),
        ("DISCARD ALL", "HF0809", 1),
        ("CREATE INDEX CONCURRENTLY i ON app.t (a)", "HF0810", 1),
        ("VACUUM app.t", "HF0810", 1),
        ("ALTER TABLE app.t DETACH PARTITION app.u CONCURRENTLY", "HF0810", 1),
        ("SELECT 'open", "HF0811", 8),
        ("SELECT 1; /* open", "HF0811", 11),
        ("SELECT $a$ open $b$", "HF0811", 8),
    ],
)
@pytest.mark.req("C1.8")
def test_what_the_runner_cannot_run_is_told_with_its_place(text: str, code: str, column: int) -> None:
    _, found = split(text, transactional=True)
    assert [(f.code, f.offset + 1) for f in found] == [(code, column)]


@pytest.mark.parametrize(
    "text", ["ROLLBACK TO SAVEPOINT a", "SAVEPOINT a", "COPY app.t TO STDOUT", "SET search_path = app"]
)
def test_what_a_transaction_may_hold_is_left_alone(text: str) -> None:
    assert split(text, transactional=True)[1] == ()


def test_without_a_transaction_settings_and_nameless_indexes_are_refused() -> None:
    text = "SET search_path = app; CREATE INDEX CONCURRENTLY ON app.t (a);"
    assert [f.code for f in split(text, transactional=False)[1]] == ["HF0809", "HF0812"]


@pytest.mark.parametrize(
    ("text", "alone", "index"),
    [
        ('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "My i" ON ONLY app.t (a)', True, ("app", "My i")),
        ("create index Idx on App.T using btree (a)", False, ("app", "idx")),
        ("DROP INDEX CONCURRENTLY IF EXISTS app.i", True, ("app", "i")),
        ("DROP INDEX app.i", False, ("app", "i")),
    ],
)
def test_indexes_are_recognised(text: str, alone: bool, index: tuple[str, ...]) -> None:
    assert (runs_alone(words(text)), index_of(words(text))) == (alone, index)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CREATE INDEX CONCURRENTLY i ON app.t (a)", True),
        ("DROP INDEX CONCURRENTLY app.i", True),
        ("REINDEX TABLE CONCURRENTLY app.t", True),
        ("ALTER TABLE app.t DETACH PARTITION app.u CONCURRENTLY", True),
        ("ALTER SYSTEM SET work_mem = '8MB'", True),
        ("DROP SUBSCRIPTION IF EXISTS s", True),
        ("DROP SUBSCRIPTION s", False),
        ("DROP SUBSCRIPTION s /* if exists */", False),
        ("CREATE DATABASE a", False),
        ("ALTER DATABASE a SET TABLESPACE b", False),
        ("CALL app.p()", False),
    ],
)
def test_what_shows_its_effect_is_recognised(text: str, shown: bool) -> None:
    assert shows_its_effect(words(text)) is shown


def test_blocks_that_commit_are_recognised() -> None:
    assert may_commit(words("DO $$ BEGIN COMMIT; END $$"))
    assert may_commit(words("CALL app.p()"))
    assert not may_commit(words("DO $$ BEGIN PERFORM 'commit'; END $$"))


@pytest.mark.req("C1.1", "C1.12")
def test_a_header_says_everything(tmp_path: Path) -> None:
    text = (
        "-- Why: the queue needs an order.\n-- description: Orders tasks\n-- kind: data\n-- depends-on: 1.1.0\n"
        "-- transaction: none\n-- lock-timeout: 500ms\n-- statement-timeout: 10min\n"
        "-- assert-before: true\n-- assert-after all_set: SELECT count(*) = 0 FROM app.t WHERE r IS NULL;\n"
        "\nSELECT 1;\n"
    )
    write(tmp_path, "0001_create_task.up.sql", "SELECT 1;")
    write(tmp_path, "0002_fill_rank.up.sql", text)
    write(tmp_path, "0002_fill_rank.down.sql", "SELECT 2;", version="1.2.0")
    (first, second), said = files.read(tmp_path)
    assert said == ()
    assert (first.kind, first.description, first.down, first.up.lock_timeout_ns) == ("schema", None, None, 3 * 10**9)
    assert second[:6] == (2, "fill_rank", "1.2.0", "data", "Orders tasks", ("1.1.0",))
    up = second.up
    assert (up.transactional, up.lock_timeout_ns, up.statement_timeout_ns) == (False, 5 * 10**8, 600 * 10**9)
    assert [(a.name, a.line) for a in (*up.before, *up.after)] == [("1", 9), ("all_set", 10)]
    assert up.after[0].sql == "SELECT count(*) = 0 FROM app.t WHERE r IS NULL"
    assert up.digest == sha256((tmp_path / "0002_fill_rank.up.sql").read_bytes()).hexdigest()
    assert second.down is not None
    assert second.down.statements[0].text == "SELECT 2"


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("-- verion: 1.0.0", "0001_a_b.up.sql:1:4: HF0804 verion is no directive of a migration"),
        ("", "0001_a_b.up.sql:1:1: HF0804 the file does not say its version"),
        ("-- version: 1.0", "0001_a_b.up.sql:1:4: HF0804 1.0 is no version"),
        ("-- version: 1.0.0\n-- version: 1.0.1", "0001_a_b.up.sql:2:4: HF0804 version is written twice"),
        ("-- version: 1.0.0\n-- transaction: off", "0001_a_b.up.sql:2:4: HF0804 transaction can only be none, not off"),
        ("-- version: 1.0.0\n-- kind: big", "0001_a_b.up.sql:2:4: HF0804 big is no kind of migration"),
        ("-- version: 1.0.0\n-- lock-timeout: 3", "0001_a_b.up.sql:2:4: HF0804 lock-timeout is not a duration: '3'"),
        ("-- version: 1.0.0\n-- assert-after x: SELECT 1; SELECT 2",
         "0001_a_b.up.sql:2:4: HF0804 assert-after x is not one query"),
        ("-- version: 1.0.0\n-- description:", "0001_a_b.up.sql:2:4: HF0804 description has no value"),
    ],
)  # fmt: skip
def test_each_fault_of_a_header_has_its_place(tmp_path: Path, header: str, told: str) -> None:
    (tmp_path / "0001_a_b.up.sql").write_text(f"{header}\nSELECT 1;")
    assert told in faults(tmp_path)


def test_a_file_says_that_the_specs_cover_it_and_what_lint_is_to_leave(tmp_path: Path) -> None:
    header = "-- covered-by: specs\n-- allow HF0829: a table of ten rows\n-- allow  HF0846 : it: is empty\n"
    write(tmp_path, "0001_create_task.up.sql", f"{header}SELECT 1;")
    write(tmp_path, "0001_create_task.down.sql", "-- allow HF0856: nobody reads it\nSELECT 1;", version="1.1.0")
    write(tmp_path, "0002_fill_task.up.sql", "SELECT 1;")
    (first, second), said = files.read(tmp_path)
    assert said == ()
    assert (first.covered, second.covered) == (True, False)
    assert first.up.allowed == {"HF0829": "a table of ten rows", "HF0846": "it: is empty"}
    assert first.down is not None
    assert (first.down.allowed, second.up.allowed) == ({"HF0856": "nobody reads it"}, {})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-- covered-by: plan", "HF0804 covered-by can only be specs, not plan"),
        ("-- covered-by:", "HF0804 covered-by has no value"),
        ("-- allow HF0829", "HF0804 allow HF0829 gives no reason"),
        ("-- allow HF0829:", "HF0804 allow HF0829 gives no reason"),
        ("-- allow HF0829: \r", "HF0804 allow HF0829 gives no reason"),
        ("-- allow: it is small", "HF0804 allow names no code"),
        ("-- allow HF0101: it is small", "HF0804 HF0101 is no code that can be allowed"),
        ("-- allow HF0804: it is small", "HF0804 HF0804 is no code that can be allowed"),
        ("-- alow HF0829: it is small", "HF0804 alow is no directive of a migration"),
        ("-- allow HF0829: it is small\n-- allow HF0829: it is", "HF0804 allow HF0829 is written twice"),
        ("-- allow HF0829 because it is small", "HF0804 allow HF0829 cannot be read"),
        ("-- allow HF0829, HF0846: it is small", "HF0804 allow HF0829 cannot be read"),
        ("-- allow HF0829:it is small", "HF0804 allow HF0829 cannot be read"),
        ("-- Allow HF0829: it is small", "HF0804 allow HF0829 cannot be read"),
        ("-- allow hf0829: it is small", "HF0804 hf0829 is no code that can be allowed"),
        ("SELECT 0;\n-- allow HF0829: it is small", "HF0804 allow HF0829 stands below a statement"),
        ("-- covered_by: specs", "HF0804 covered_by is no directive of a migration"),
        ("-- lock_timeout: 3s", "HF0804 lock_timeout is no directive of a migration"),
    ],
)
def test_each_fault_of_what_a_file_allows_is_told(tmp_path: Path, line: str, told: str) -> None:
    write(tmp_path, "0001_a_b.up.sql", f"{line}\nSELECT 1;")
    assert faults(tmp_path) == [f"0001_a_b.up.sql:{2 + line.count(chr(10))}:4: {told}"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-- Transaction: none", "4: HF0804 Transaction is not read as the directive transaction"),
        ("-- TRANSACTION: none", "4: HF0804 TRANSACTION is not read as the directive transaction"),
        ("-- Assert-Before x: SELECT true", "4: HF0804 Assert-Before is not read as the directive assert-before"),
        ("-- Statement-Timeout: 1ms", "4: HF0804 Statement-Timeout is not read as the directive statement-timeout"),
        ("-- Lock Timeout: 1ms", "4: HF0804 Lock Timeout is not read as the directive lock-timeout"),
        ("  -- transaction: none", "6: HF0804 transaction is not read as the directive transaction"),
        ("-- transaction:none", "4: HF0804 transaction is not read as the directive transaction"),
        ("SELECT 0;\n-- assert-after x: SELECT true", None),
        ("SELECT 0;\n-- transaction: none", None),
    ],
)
@pytest.mark.req("C1.8")
def test_a_directive_that_would_have_no_effect_is_told(tmp_path: Path, line: str, told: str | None) -> None:
    write(tmp_path, "0001_do_it.up.sql", f"{line}\nSELECT 1;")
    (found,) = faults(tmp_path)
    if told is None:
        key = line.partition("-- ")[2].partition(" ")[0].strip(":")
        assert found == f"0001_do_it.up.sql:3:4: HF0804 {key} stands below a statement"
    else:
        assert found == f"0001_do_it.up.sql:2:{told}"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("0002_do_it.up.sql", b"\xef\xbb\xbf-- version: 1.2.0\nSELECT 1;", "1:1: HF0803 the file begins with a byte"),
        ("0002_do_it.up.sql", b"-- version: 1.2.0\nSELECT \0;", "2:8: HF0803 the file holds a zero byte"),
        ("0002_do_it.up.SQL", b"-- version: 1.2.0\nSELECT 1;", "1:1: HF0803 0002_do_it.up.SQL is no name"),
        ("0002_do_it.up.sql", None, "1:1: HF0803 0002_do_it.up.sql is a folder"),
    ],
)
@pytest.mark.req("C1.8")
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, data: bytes | None, told: str) -> None:
    write(tmp_path, "0001_begin_it.up.sql", "SELECT 1;")
    if data is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(data)
    (found,) = faults(tmp_path)
    assert found.startswith(f"{name}:{told}")
    assert [m.number for m in files.read(tmp_path)[0]] == [1]


@pytest.mark.parametrize(
    "line",
    [
        "-- allow nulls: there are some",
        "-- also note: it is small",
        "-- task_type: what it is",
        "-- may allow HF0829: x",
    ],
)
def test_sentences_are_no_directives(tmp_path: Path, line: str) -> None:
    write(tmp_path, "0001_a_b.up.sql", f"{line}\nSELECT 1;")
    assert faults(tmp_path) == []


def test_only_the_up_file_says_that_the_specs_cover_it(tmp_path: Path) -> None:
    write(tmp_path, "0001_a_b.up.sql", "SELECT 1;")
    write(tmp_path, "0001_a_b.down.sql", "-- covered-by: specs\nSELECT 1;")
    assert faults(tmp_path) == ["0001_a_b.down.sql:2:4: HF0804 covered-by belongs into the up file"]


def test_each_code_that_can_be_allowed_is_a_rule() -> None:
    assert [r.code for r in RULES] == list(LINTED)


@pytest.mark.req("C1.11")
def test_gaps_order_and_dependencies_are_checked(tmp_path: Path) -> None:
    write(tmp_path, "0001_a_b.up.sql", "-- depends-on: 7.0.0\nSELECT 1;", version="1.9.0")
    write(tmp_path, "0002_a_c.up.sql", "-- depends-on: 2.0.0\nSELECT 1;", version="1.10.0")
    write(tmp_path, "0004_a_d.up.sql", "SELECT 1;", version="2.0.0")
    write(tmp_path, "0005_a_e.up.sql", "SELECT 1;", version="1.11.0")
    write(tmp_path, "0005_a_f.up.sql", "SELECT 1;", version="1.11.0")
    assert faults(tmp_path) == [
        "0004_a_d.up.sql:1:1: HF0805 0004_a_d.up.sql follows 0002: 0003 is missing",
        "0005_a_f.up.sql:1:1: HF0805 number 0005 is taken by 0005_a_e.up.sql",
        "0005_a_e.up.sql:1:1: HF0805 version 1.11.0 is not later than 2.0.0 of the file before it",
        "0005_a_f.up.sql:1:1: HF0805 version 1.11.0 is the same as 1.11.0 of the file before it",
        "0001_a_b.up.sql:1:1: HF0806 it depends on version 7.0.0, which no file has",
        "0002_a_c.up.sql:1:1: HF0806 it depends on version 2.0.0, which does not come before it",
    ]


def test_files_that_do_not_belong_are_told(tmp_path: Path) -> None:
    write(tmp_path, "0001_create_task.up.sql", "SELECT 1;")
    write(tmp_path, "0001_create_task.down.sql", "-- kind: data\n", version="1.3.0")
    write(tmp_path, "0002_lonely_way.down.sql", "SELECT 1;")
    (tmp_path / "0003_bad_bytes.up.sql").write_bytes(b"-- version: 1.3.0\n\xff")
    (tmp_path / "12-fix.sql").write_text("SELECT 1;")
    (tmp_path / "README.md").write_text("read me")
    assert faults(tmp_path) == [
        "0001_create_task.down.sql:1:1: HF0813 the file holds no statement",
        "0003_bad_bytes.up.sql:2:1: HF0803 the file is not UTF-8 text",
        "12-fix.sql:1:1: HF0803 12-fix.sql is no name of a migration",
        "0002_lonely_way.down.sql:1:1: HF0807 0002_lonely_way.down.sql has no 0002_lonely_way.up.sql",
        "0001_create_task.down.sql:1:4: HF0807 the way back is for version 1.3.0, the way there for 1.1.0",
        "0001_create_task.down.sql:2:4: HF0804 kind belongs into the up file",
        "0003_bad_bytes.up.sql:1:1: HF0805 0003_bad_bytes.up.sql follows 0001: 0002 is missing",
    ]


@pytest.mark.req("C1.11")
def test_versions_compare_as_numbers() -> None:
    rising = [
        "0.9.9",
        "1.2.0-1",
        "1.2.0-2",
        "1.2.0-10",
        "1.2.0-rc9",
        "1.2.0-rc10",
        "1.2.0",
        "1.9.0",
        "1.10.0",
        "10.0.0",
    ]
    assert sorted(set(rising), key=order_of) == rising


def test_an_absent_folder_holds_none(tmp_path: Path) -> None:
    assert files.read(tmp_path / "none") == ((), ())
