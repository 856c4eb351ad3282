"""Indexes built concurrently beside an old transaction: what limits do to them, and that a later run mends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from provision.migrate import effects
from provision.spec.errors import HoldfastError
from tests.migrate.conftest import Bed

TABLE = "CREATE SCHEMA app;\nCREATE TABLE app.task (id bigint, note text);\nINSERT INTO app.task VALUES (1, 'a');"
BUILD = "CREATE INDEX CONCURRENTLY task_note ON app.task (note)"
NONE = "-- transaction: none\n"
VALID = "SELECT indisvalid FROM pg_index i WHERE indrelid = 'app.task'::regclass ORDER BY indexrelid"


@pytest.fixture
def built(bed: Bed) -> Bed:
    """A database that has the table."""
    bed.write("0001_create_task.up.sql", TABLE)
    bed.up()
    return bed


@contextmanager
def old(bed: Bed, work: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An old transaction that has done some work and stays open."""
    with psycopg.connect(**bed.database) as session:
        session.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute(work.encode())
        yield session
        session.rollback()


#: It waits for the first before it builds, and for the second before it calls the index valid.
WORKS = {"writer": "UPDATE app.task SET note = note", "snapshot": "SELECT 1 FROM pg_class"}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_limit_on_waiting_leaves_an_invalid_index(built: Bed, work: str) -> None:
    """What the server does, and why the runner sets no such limit."""
    with old(built, work), psycopg.connect(**built.database, autocommit=True) as session:
        session.execute(b"SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute(BUILD.encode())
    assert built.column(VALID) == [False]


@pytest.mark.req("C1.8")
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_build_waits_beyond_the_lock_timeout_and_writers_do_not(built: Bed, work: str) -> None:
    built.write("0002_index_task.up.sql", BUILD, header=f"{NONE}-- lock-timeout: 100ms\n")
    ran: list[list[str]] = []
    with old(built, work) as session:
        runner = threading.Thread(target=lambda: ran.append(built.up()))
        runner.start()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            built.sql("SET lock_timeout = '300ms'; INSERT INTO app.task VALUES (2, 'b')")
        assert runner.is_alive()
        session.rollback()
        runner.join(30)
    assert ran == [["1.2.0"]]
    assert built.column(VALID) == [True]


@pytest.mark.req("C1.8", "C1.10")
@pytest.mark.parametrize(("work", "left"), [("writer", [False]), ("snapshot", [])])
def test_what_a_cancelled_build_leaves_is_built_by_the_next_run(
    built: Bed, work: str, left: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropping the index waits for who uses the table: where that is too long, the next run does it."""
    monkeypatch.setattr(effects, "_PATIENCE_MS", 500)
    built.write("0002_index_task.up.sql", f"{BUILD};\nINSERT INTO app.task VALUES (3, 'c')",
                header=f"{NONE}-- statement-timeout: 300ms\n")  # fmt: skip
    with old(built, WORKS[work]):
        started = time.monotonic()
        with pytest.raises(HoldfastError, match="statement timeout"):
            built.up()
        assert time.monotonic() - started < 5
        assert built.column(VALID) == left
        assert built.states()["1.2.0"] == "failed"
    # what could not be dropped is known to be in doubt, what was dropped is not
    assert [e for e in built.events("1.2.0") if e[1] == "failed"] == [("up", "failed", None if left else 1)]
    assert built.up() == ["1.2.0"]
    assert built.column(VALID) == [True]
    assert built.column("SELECT count(*) FROM app.task WHERE id = 3") == [1]


def test_an_invalid_index_of_somebody_else_is_named_and_left(built: Bed) -> None:
    with old(built, WORKS["writer"]), psycopg.connect(**built.database, autocommit=True) as session:
        session.execute(b"SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute(BUILD.encode())
    file = built.write("0002_index_task.up.sql", BUILD, header=NONE)
    with pytest.raises(HoldfastError) as found:
        built.up()
    assert str(found.value) == f"{file}:3:1: the index app.task_note exists and is not valid"
    assert "DROP INDEX CONCURRENTLY app.task_note" in found.value.help
    assert built.column(VALID) == [False]
    built.sql("DROP INDEX app.task_note")
    assert built.up() == ["1.2.0"]


def test_a_unique_build_that_fails_under_an_old_snapshot_is_mended(built: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "_PATIENCE_MS", 500)
    built.sql("INSERT INTO app.task VALUES (2, 'a')")
    built.write("0002_index_task.up.sql", BUILD.replace("INDEX", "UNIQUE INDEX", 1), header=NONE)
    with pytest.raises(HoldfastError, match="could not create unique index"):
        built.up()
    assert built.column(VALID) == []
    built.sql("DELETE FROM app.task WHERE id = 2")
    assert built.up() == ["1.2.0"]
    assert built.column(VALID) == [True]
