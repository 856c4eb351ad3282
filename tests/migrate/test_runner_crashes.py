"""Runners that are killed (-9) in and between statements of each kind: the next run finishes, and history is true."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.migrate.conftest import Bed

NONE = "-- transaction: none\n"
TABLES = """
CREATE SCHEMA app;
CREATE TABLE app.task (id bigint, note text, n serial);
INSERT INTO app.task VALUES (1, 'a'), (2, 'b');
CREATE TABLE app.seen (what text);
CREATE TABLE app.log (id bigint) PARTITION BY RANGE (id);
CREATE TABLE app.log_1 PARTITION OF app.log FOR VALUES FROM (0) TO (10);
CREATE INDEX task_old ON app.task (n);
"""
#: Waits while the test holds advisory lock 42.
GATE = "SELECT pg_advisory_xact_lock(42)"
_RUNNERS = "FROM pg_stat_activity WHERE application_name = 'holdfast dev' AND datname = current_database()"


def until(bed: Bed, condition: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a query gives true."""
    deadline = time.monotonic() + 40
    while bed.column(f"SELECT {condition}") != [True]:
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the runner ended: {process.communicate()}")
        assert time.monotonic() < deadline, (condition, bed.sql(f"SELECT state, wait_event, query {_RUNNERS}"))
        time.sleep(0.02)


def waits_in(text: str) -> str:
    return f"EXISTS (SELECT {_RUNNERS} AND wait_event_type = 'Lock' AND strpos(query, $x${text}$x$) > 0)"


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@contextmanager
def holding(bed: Bed, statement: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session in whose open transaction a statement has run."""
    with psycopg.connect(**bed.database) as session:
        session.execute(statement.encode())
        yield session
        session.rollback()


def is_told(bed: Bed) -> bool:
    """Whether each run has an end, and each version one word that fits its events."""
    open_runs = bed.sql(
        "SELECT run_id FROM migrations.history GROUP BY run_id HAVING bool_or(event = 'started') AND NOT"
        " bool_or(event IN ('applied', 'rolled_back', 'failed', 'interrupted'))"
    )
    states = bed.column("SELECT status FROM migrations.applied_migrations")
    return open_runs == [] and set(states) == {"applied"}


@pytest.mark.req("C1.7", "C1.10")
@pytest.mark.parametrize("header", ["", NONE], ids=["transaction", "none"])
def test_killed_in_a_statement_and_before_its_record(bed: Bed, header: str) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.up()
    before, after = "INSERT INTO app.seen VALUES ('before');", "INSERT INTO app.seen VALUES ('after');"
    bed.write("0002_fill_seen.up.sql", f"{before}\n{GATE};\n{after}", header=header)
    with holding(bed, "SELECT pg_advisory_lock(42)"):
        process = bed.start("migrate", "up")
        until(bed, waits_in(GATE), process)
        kill(process)
    assert bed.run("migrate", "up", "--wait", "20s").returncode == 0
    assert bed.column("SELECT what FROM app.seen ORDER BY 1") == ["after", "before"]
    assert is_told(bed)
    ends = [event for _, event, _ in bed.events("1.2.0") if event in ("interrupted", "applied")]
    assert ends == ["interrupted", "applied"]


@pytest.mark.req("C1.7", "C1.10")
@pytest.mark.parametrize(
    ("header", "table", "point"),
    [
        ("", "applied_migrations", "start"),
        ("", "applied_migrations", "end"),
        (NONE, "applied_migrations", "start"),
        (NONE, "history", "progress"),
        (NONE, "applied_migrations", "end"),
    ],
)
def test_killed_between_statements_while_it_writes(bed: Bed, header: str, table: str, point: str) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.up()
    text = f"INSERT INTO app.seen VALUES ('one');\nINSERT INTO app.seen VALUES ('two');\n{GATE}"
    bed.write("0002_fill_seen.up.sql", text, header=header)
    with psycopg.connect(**bed.database, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(42)")
        lock = f"BEGIN; LOCK migrations.{table} IN EXCLUSIVE MODE"
        if point == "start":
            gate.execute(lock.encode())
        process = bed.start("migrate", "up")
        if point != "start":
            until(bed, waits_in(GATE), process)
            gate.execute(lock.encode())
            gate.execute("SELECT pg_advisory_unlock(42)")
        until(bed, waits_in(f"migrations.{table}"), process)
        kill(process)
        gate.execute("ROLLBACK")
        gate.execute("SELECT pg_advisory_unlock_all()")
    bed.run("migrate", "up", "--wait", "20s")
    assert bed.column("SELECT what FROM app.seen ORDER BY 1") == ["one", "two"]
    assert is_told(bed)


INDEXES = """(SELECT array_agg(c.relname::text || i.indisvalid ORDER BY c.relname)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'app.task'::regclass)"""
#: Statement, what another session does to make it wait, and what must be true once it is in effect.
ALONE = {
    "create": (
        "CREATE INDEX CONCURRENTLY task_note ON app.task (note)", "UPDATE app.task SET note = note",
        f"{INDEXES} = '{{task_notetrue,task_oldtrue}}'",
    ),
    "drop": (
        "DROP INDEX CONCURRENTLY app.task_old", "UPDATE app.task SET note = note",
        "to_regclass('app.task_old') IS NULL",
    ),
    "reindex": (
        "REINDEX INDEX CONCURRENTLY app.task_old", "UPDATE app.task SET note = note",
        f"{INDEXES} = '{{task_oldtrue}}'",
    ),
    "detach": (
        "ALTER TABLE app.log DETACH PARTITION app.log_1 CONCURRENTLY", "SELECT * FROM app.log",
        "NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'app.log'::regclass)",
    ),
    "vacuum": ("VACUUM app.task", "LOCK TABLE app.task IN SHARE UPDATE EXCLUSIVE MODE", "true"),
}  # fmt: skip


@pytest.mark.req("C1.8", "C1.10")
@pytest.mark.parametrize("point", ["inside", "after"])
@pytest.mark.parametrize("kind", ALONE)
def test_killed_in_or_after_what_no_transaction_can_hold(bed: Bed, kind: str, point: str) -> None:
    statement, blocker, holds = ALONE[kind]
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.up()
    text = f"INSERT INTO app.seen VALUES ('one');\n{statement};\nINSERT INTO app.seen VALUES ('two');"
    bed.write("0002_change_task.up.sql", text, header=NONE)
    with holding(bed, blocker) as other:
        process = bed.start("migrate", "up")
        until(bed, waits_in(statement), process)
        if point == "inside":
            kill(process)
            until(bed, f"NOT EXISTS (SELECT {_RUNNERS})")
        else:
            with holding(bed, "LOCK migrations.history IN EXCLUSIVE MODE"):
                other.rollback()
                until(bed, waits_in("INSERT INTO migrations.history"), process)
                kill(process)
                until(bed, f"NOT EXISTS (SELECT {_RUNNERS})")
    assert bed.sql("SELECT statement FROM migrations.history WHERE event = 'intended'") == [(2,)]
    bed.run("migrate", "up", "--wait", "20s")
    assert bed.column(f"SELECT {holds}") == [True]
    assert bed.column("SELECT what FROM app.seen ORDER BY 1") == ["one", "two"]
    assert is_told(bed)


@pytest.mark.req("C1.10")
def test_killed_in_a_block_that_commits_the_person_decides(bed: Bed) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.up()
    body = f"INSERT INTO app.seen VALUES ('one'); COMMIT; PERFORM ({GATE});"
    bed.write("0002_fill_seen.up.sql", f"DO $$ BEGIN {body} END $$;", header=NONE)
    with holding(bed, "SELECT pg_advisory_lock(42)"):
        process = bed.start("migrate", "up")
        until(bed, waits_in(GATE), process)
        kill(process)
    told = bed.run("migrate", "up", "--wait", "20s", code=1).stderr
    assert "--done 1.2.0:1" in told
    assert "--redo 1.2.0:1" in told
    assert "interrupted" in bed.run("migrate", "status").stdout or "failed" in bed.run("migrate", "status").stdout
    bed.run("migrate", "up", "--redo", "1.2.0:1")
    assert bed.column("SELECT count(*) FROM app.seen") == [2]
    assert is_told(bed)


@pytest.mark.req("C1.9", "C1.10")
def test_killed_on_the_way_back(bed: Bed) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.write("0002_fill_seen.up.sql", "INSERT INTO app.seen VALUES ('one');")
    header = "-- allow HF0858: the way there filled it\n"
    bed.write("0002_fill_seen.down.sql", f"DELETE FROM app.seen;\n{GATE};", header=header)
    bed.up()
    with holding(bed, "SELECT pg_advisory_lock(42)"):
        process = bed.start("migrate", "down")
        until(bed, waits_in(GATE), process)
        kill(process)
        until(bed, f"NOT EXISTS (SELECT {_RUNNERS})")
        assert bed.states()["1.2.0"] == "applied"
        assert bed.column("SELECT what FROM app.seen") == ["one"]
    bed.run("migrate", "down", "--wait", "20s")
    assert bed.column("SELECT what FROM app.seen") == []
    assert [e for _, e, _ in bed.events("1.2.0")][-4:] == ["started", "interrupted", "started", "rolled_back"]


@pytest.mark.req("C1.10")
@pytest.mark.parametrize("header", ["", NONE], ids=["transaction", "none"])
def test_ctrl_c_is_written_down_and_gives_the_lock_back(bed: Bed, header: str) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    bed.write("0002_fill_seen.up.sql", f"INSERT INTO app.seen VALUES ('one');\n{GATE};", header=header)
    with holding(bed, "SELECT pg_advisory_lock(42)"):
        process = bed.start("migrate", "up")
        until(bed, waits_in(GATE), process)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert [e for _, e, _ in bed.events("1.2.0")][-1] == "interrupted"
        assert bed.states()["1.2.0"] == "interrupted"
        assert bed.column("SELECT count(*) FROM migrations.locks") == [0]
    assert bed.up() == ["1.2.0"]
    assert bed.column("SELECT what FROM app.seen") == ["one"]


@pytest.mark.req("C1.7", "C1.10")
def test_killed_at_drawn_moments_nothing_runs_twice(bed: Bed) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    print(f"seed {seed}")
    bed.write("0001_create_log.up.sql", "CREATE SCHEMA app; CREATE TABLE app.log (id int);")
    for number in range(2, 14):
        rows = "\n".join(f"INSERT INTO app.log VALUES ({number * 10 + i}); SELECT pg_sleep(0.03);" for i in range(3))
        index = f"CREATE INDEX CONCURRENTLY log_{number} ON app.log (id);\n" if number % 3 == 0 else ""
        bed.write(f"{number:04}_fill_log.up.sql", index + rows, header=NONE if index or number % 2 else "")
    for _ in range(6):
        process = bed.start("migrate", "up", "--wait", "20s")
        while process.poll() is None and bed.column(f"SELECT count(*) {_RUNNERS}") == [0]:
            time.sleep(0.02)
        pause = draw.uniform(0, 0.8)
        time.sleep(pause)
        print(f"killed after {pause:.2f} s: {bed.column('SELECT count(*) FROM migrations.history')} events")
        kill(process)
    bed.run("migrate", "up", "--wait", "20s")
    assert bed.column("SELECT id FROM app.log ORDER BY 1") == [n * 10 + i for n in range(2, 14) for i in range(3)]
    assert set(bed.states().values()) == {"applied"}
    assert is_told(bed)
    assert bed.column("SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
                      " WHERE indisvalid AND c.relname LIKE 'log%'") == [4]  # fmt: skip


@pytest.mark.req("C1.7")
def test_of_two_runners_at_once_one_works_and_the_other_names_it_or_waits(bed: Bed) -> None:
    bed.write("0001_create_tables.up.sql", TABLES)
    text = f"{GATE};\nINSERT INTO app.seen VALUES ('one');"
    bed.write("0002_fill_seen.up.sql", text, header="-- allow HF0863: nobody goes back\n")
    with holding(bed, "SELECT pg_advisory_lock(42)"):
        first = bed.start("migrate", "up")
        until(bed, waits_in(GATE), first)
        refusal = bed.run("migrate", "up", code=1).stderr
        pid = bed.column(f"SELECT pid {_RUNNERS}")[0]
        assert "another runner holds the lock of this database's migrations: holdfast dev" in refusal
        assert f"pid {pid}" in refusal
        assert "running now: holdfast dev" in bed.run("migrate", "status").stdout
        second = bed.start("migrate", "up", "--wait", "30s")
        assert second.stderr is not None
        assert "waiting: another runner" in second.stderr.readline()
    told = [process.communicate(timeout=60) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert bed.column("SELECT what FROM app.seen") == ["one"]
    assert [e for _, e, _ in bed.events("1.2.0")] == ["started", "applied"]
