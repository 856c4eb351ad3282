"""Expressions through a real server: canonical text, the memo, refusals at their places, and scratch databases."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from provision import registry
from provision.postgres import connect, scratch
from provision.postgres.compile import Compiled, CompileProblem, Tools, canonicalise, validate
from provision.postgres.errors import StatementFailed
from provision.postgres.linking import link
from provision.postgres.memo import Canonical, Memo
from provision.postgres.observe import Snapshot, observe
from provision.postgres.scratch import NoScratch, ScratchDatabases, Session
from provision.spec.ident import Address
from provision.spec.record import Plane, Record
from tests.postgres.io_steps import settings

if TYPE_CHECKING:
    from provision.embedded.postgres import Server
    from provision.postgres.connect import Connection

OBJECTS = """
    CREATE SCHEMA app;
    CREATE TYPE app.mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN app.short AS text CHECK (length(VALUE) < 10);
    CREATE FUNCTION app.is_fine(m app.mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS
        $$ SELECT m = 'ok'::app.mood $$;
    CREATE TABLE app.people (
        id bigint PRIMARY KEY, name varchar(50) DEFAULT 'x' NOT NULL, nick app.short,
        mood app.mood DEFAULT 'ok', age int, twice int GENERATED ALWAYS AS (age * 2) STORED,
        CONSTRAINT grown CHECK (age > 17 AND app.is_fine(mood)));
    CREATE INDEX fine ON app.people (lower(name)) WHERE age > 17;
    CREATE TABLE app.events (at timestamptz NOT NULL, kind text CHECK (kind <> '')) PARTITION BY RANGE (at);
    CREATE VIEW app.grown AS SELECT id, name, count(*) FROM app.people WHERE age > 17 GROUP BY id;
    CREATE POLICY own ON app.people TO public USING (age > 3);
"""
PEOPLE = "pg:main/app/people"
#: What a person would write for what OBJECTS made.
RAW: dict[str, dict[str, Any]] = {
    "pg:main/app/domain/short": {"checks": {"short_check": "length(value)<10"}},
    f"{PEOPLE}/column/name": {"default": "'x'"},
    f"{PEOPLE}/column/mood": {"default": "'ok'"},
    f"{PEOPLE}/column/twice": {"generated": {"expression": "age * 2", "stored": True}},
    f"{PEOPLE}/check/grown": {"expression": "age>17 and app.is_fine(mood)"},
    f"{PEOPLE}/policy/own": {"using": "age>3"},
    "pg:main/app/view/grown": {
        "query": "select id, name, count(*) from app.people where age > 17 group by id",
        "columns": None,
    },
}


@pytest.fixture
def session(pg_database: dict[str, Any]) -> Iterator[Connection]:
    with connect.connect(settings(pg_database)) as found:
        found.execute(OBJECTS.encode())
        yield found


@pytest.fixture
def tools() -> Tools:
    return Tools({k.name: k for k in registry.postgres_kinds()}, registry.postgres_queries())


@pytest.fixture
def seen(session: Connection, tools: Tools) -> Snapshot:
    return observe(session, "main", tools.queries)


@pytest.fixture
def live(seen: Snapshot, tools: Tools) -> Plane:
    return Plane(tools.decode(seen.catalog))


@pytest.fixture
def databases(pg_database: dict[str, Any], seen: Snapshot) -> ScratchDatabases:
    return ScratchDatabases(settings(pg_database), seen.facts)


def written(live: Plane, texts: Mapping[str, Mapping[str, Any]] = RAW) -> Plane:
    """The plane as a spec would give it: raw texts, a policy of partitions, no edges that only a server draws."""
    texts = {"pg:main/app/events/partitions/set": {"every": "1 day", "premake": 30}, **texts}
    return Plane(link(_write(r, texts[str(r.address)]) if str(r.address) in texts else r for r in live))


def _write(record: Record, texts: Mapping[str, Any]) -> Record:
    roles = tuple(a for a in record.refs if a.kind == "role")
    return record._replace(settings=record.settings | dict(texts), refs=roles, rigid=())


def refuse(roles: Collection[str], locks: int) -> AbstractContextManager[Session]:
    raise AssertionError("a scratch database was asked for")


class Counting:
    """A scratch that remembers how often it was asked."""

    def __init__(self, inner: ScratchDatabases) -> None:
        self.inner = inner
        self.times = 0

    def __call__(self, roles: Collection[str], locks: int) -> AbstractContextManager[Session]:
        self.times += 1
        return self.inner(roles, locks)


def by_field(result: Compiled) -> dict[tuple[str, str | None], CompileProblem]:
    return {(str(p.address), p.field): p for p in result.problems}


def test_written_expressions_become_what_observing_gives(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools
) -> None:
    found = canonicalise(written(live), seen.facts, Memo(None), databases, tools, product="1")
    assert (found.problems, found.skipped) == ((), ())
    for address, record in live.records.items():
        if address.kind == "partitions":
            continue
        got, names = found.plane[address], tools.expressions(record)
        assert {n: got.settings[n] for n in names} == {n: record.settings[n] for n in names}
        assert set(got.refs) == set(record.refs)
        assert set(got.rigid) == set(record.rigid)


def test_an_unchanged_plane_asks_no_server(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools, tmp_path: Path, session: Connection
) -> None:
    first = canonicalise(written(live), seen.facts, Memo(tmp_path), databases, tools, product="1")
    before = _transactions(session)
    again = canonicalise(written(live), seen.facts, Memo(tmp_path), refuse, tools, product="1")
    assert _transactions(session) == before
    assert again.plane.records == first.plane.records
    assert (first.place != "", again.place) == (True, "")


def _transactions(session: Connection) -> Any:
    """The next transaction id: only what writes takes one."""
    return session.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())").fetchone()


@pytest.mark.parametrize(
    ("address", "change", "asks"),
    [
        (f"{PEOPLE}/column/name", {"comment": "their name"}, False),
        (PEOPLE, {"comment": "people"}, False),
        (f"{PEOPLE}/column/age", {"type": "bigint"}, True),
        (f"{PEOPLE}/check/grown", {"expression": "age > 18"}, True),
        ("pg:main/app/enum/mood", {"values": ["sad", "ok", "new"]}, True),
        ("pg:main/app/function/is_fine(app.mood)", {"returns": "bool"}, True),
    ],
)
def test_a_memo_is_used_exactly_while_what_it_depends_on_stands(
    live: Plane,
    seen: Snapshot,
    databases: ScratchDatabases,
    tools: Tools,
    address: str,
    change: dict[str, Any],
    asks: bool,
) -> None:
    memo, counting = Memo(None), Counting(databases)
    desired = written(live)
    canonicalise(desired, seen.facts, memo, counting, tools, product="1")
    changed = Plane(r._replace(settings=r.settings | change) if str(r.address) == address else r for r in desired)
    canonicalise(changed, seen.facts, memo, counting, tools, product="1")
    assert counting.times == 1 + asks


def test_another_server_version_or_product_starts_anew(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools
) -> None:
    memo, counting = Memo(None), Counting(databases)
    canonicalise(written(live), seen.facts, memo, counting, tools, product="1")
    canonicalise(written(live), seen.facts, memo, counting, tools, product="2")
    canonicalise(written(live), seen.facts._replace(version=(17, 0, 0)), memo, counting, tools, product="1")
    assert counting.times == 3


WRONG: dict[str, dict[str, Any]] = {
    "pg:main/app/domain/short": {"checks": {"short_check": "lenght(VALUE) < 10"}},
    f"{PEOPLE}/column/name": {"default": "nosuch('x')"},
    f"{PEOPLE}/column/nick": {"type": "app.shrot"},
    f"{PEOPLE}/column/twice": {"generated": {"expression": "age * random()::int", "stored": True}},
    f"{PEOPLE}/check/grown": {"expression": "agee > 17"},
    f"{PEOPLE}/policy/own": {"using": "age > 3 AND"},
    "pg:main/app/view/grown": {"query": "SELECT id, nam FROM app.people", "columns": None},
}


@pytest.mark.req("B1.7")
def test_every_refusal_comes_in_one_run_at_its_place(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools
) -> None:
    result = validate(written(live, WRONG), Memo(None), databases, tools, product="1")
    found = by_field(result)
    assert {(a, f): (p.sqlstate, p.position) for (a, f), p in found.items()} == {
        ("pg:main/app/domain/short", "checks.short_check"): ("42883", 1),
        (f"{PEOPLE}/column/name", "default"): ("42883", 1),
        (f"{PEOPLE}/column/nick", "type"): ("42704", 1),
        (f"{PEOPLE}/column/twice", "generated.expression"): ("42P17", None),
        (f"{PEOPLE}/check/grown", "expression"): ("42703", 1),
        (f"{PEOPLE}/policy/own", "using"): ("42601", len("age > 3 AND") + 1),
        ("pg:main/app/view/grown", "query"): ("42703", len("SELECT id, ") + 1),
    }
    index = Address("pg", "main", "index", ("app", "people", "index", "fine"))
    assert result.plane[index].settings == live[index].settings


def test_what_stands_on_a_refused_object_is_no_second_error(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools
) -> None:
    wrong = {"pg:main/app/function/is_fine(app.mood)": {"body": "SELECT nosuch()"}}
    result = validate(written(live, wrong), Memo(None), databases, tools, product="1")
    assert [str(p.address) for p in result.problems] == ["pg:main/app/function/is_fine(app.mood)"]
    assert {str(s.address) for s in result.skipped} <= {f"{PEOPLE}/check/grown"}


def test_a_lacking_extension_is_no_error_of_the_spec(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools
) -> None:
    extension = Record(
        Address.root("pg", "main", "extension", "geo"), {"schema": "app", "version": None, "comment": None}
    )
    wrong = {f"{PEOPLE}/column/nick": {"type": "app.geometry"}, f"{PEOPLE}/check/grown": {"expression": "age > 1"}}
    result = validate(Plane([extension, *written(live, wrong)]), Memo(None), databases, tools, product="1")
    assert result.problems == ()
    assert {(str(s.address), s.needs) for s in result.skipped} == {
        ("pg:main/extension/geo", "geo"),
        (f"{PEOPLE}/column/nick", "geo"),
    }
    check = Address("pg", "main", "check", ("app", "people", "check", "grown"))
    assert result.plane[check].settings["expression"] == "(age > 1)"


def test_roles_that_policies_name_exist_only_inside(
    live: Plane, seen: Snapshot, databases: ScratchDatabases, tools: Tools, session: Connection
) -> None:
    wanted = {f"{PEOPLE}/policy/own": {"using": "age>3", "to": ["nobody_yet"]}}
    result = canonicalise(written(live, wanted), seen.facts, Memo(None), databases, tools, product="1")
    policy = Address("pg", "main", "policy", ("app", "people", "policy", "own"))
    assert result.problems == ()
    assert result.plane[policy].settings["using"] == "(age > 3)"
    assert session.execute("SELECT 1 FROM pg_roles WHERE rolname = 'nobody_yet'").fetchone() is None


def scratch_names(session: Connection) -> list[str]:
    rows = session.execute("SELECT datname FROM pg_database WHERE datname LIKE 'holdfast_scratch%'").fetchall()
    return [row[0] for row in rows]


def test_a_scratch_database_goes_after_use_failure_and_ctrl_c(databases: ScratchDatabases, session: Connection) -> None:
    with databases() as found:
        assert len(scratch_names(session)) == 1
        assert found.place.startswith("scratch database on 127.0.0.1:")
    assert scratch_names(session) == []
    with pytest.raises(ZeroDivisionError), databases():
        raise ZeroDivisionError
    assert scratch_names(session) == []
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), databases() as found:
        found.connection.execute("SELECT pg_sleep(20)")
    assert scratch_names(session) == []


def test_an_interrupted_process_drops_its_scratch_database(pg_database: dict[str, Any], session: Connection) -> None:
    """The same from outside: a whole process that gets SIGINT while the scratch server works."""
    script = (
        "import json, sys; from tests.postgres.io_steps import settings\n"
        "from provision.postgres import connect, observe, scratch\n"
        "s = settings(json.loads(sys.argv[1])); c = connect.connect(s)\n"
        "facts = observe.observe(c, 'main', ()).facts\n"
        "with scratch.ScratchDatabases(s, facts)() as found:\n"
        "    print('ready', flush=True); found.connection.execute('SELECT pg_sleep(20)')\n"
    )
    import json

    with subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(pg_database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        assert run.wait(10) != 0
    assert scratch_names(session) == []


def test_what_a_killed_run_left_is_dropped_after_a_day(databases: ScratchDatabases, session: Connection) -> None:
    now = int(time.time())
    old, new = f"holdfast_scratch_{now - 90_000}_ab", f"holdfast_scratch_{now - 60}_cd"
    session.execute(f"CREATE DATABASE {old}".encode())
    session.execute(f"CREATE DATABASE {new}".encode())
    with databases():
        assert old not in scratch_names(session)
    assert scratch_names(session) == [new]
    scratch.drop(session, new)


def login(session: Connection, pg_database: dict[str, Any], attributes: str) -> connect.Settings:
    session.execute(f"CREATE ROLE guest LOGIN PASSWORD 'x' {attributes}".encode())
    return settings(pg_database, user="guest", password="x")


def test_an_ordinary_role_with_createdb_compiles_on_the_target(
    live: Plane, tools: Tools, session: Connection, pg_database: dict[str, Any]
) -> None:
    guest = login(session, pg_database, "CREATEDB")
    with connect.connect(guest) as connection:
        facts = observe(connection, "main", tools.queries).facts
    databases = ScratchDatabases(guest, facts)
    result = canonicalise(written(live), facts, Memo(None), databases, tools, product="1")
    assert result.problems == ()
    assert "scratch database on" in result.place
    assert result.plane[_check()].settings == live[_check()].settings


def test_without_createdb_an_embedded_server_stands_in(
    live: Plane, tools: Tools, session: Connection, pg_database: dict[str, Any], pg_server: Server
) -> None:
    guest = login(session, pg_database, "")
    asked: list[int] = []

    @contextmanager
    def embedded(major: int) -> Iterator[connect.Settings]:
        asked.append(major)
        database = pg_server.dsn("template1")
        yield settings(database)

    with connect.connect(guest) as connection:
        facts = observe(connection, "main", tools.queries).facts
    with pytest.raises(NoScratch, match="needs CREATEDB") as caught:
        canonicalise(written(live), facts, Memo(None), ScratchDatabases(guest, facts), tools, product="1")
    assert "ALTER ROLE guest CREATEDB" in caught.value.help
    databases = ScratchDatabases(guest, facts, embedded)
    result = canonicalise(written(live), facts, Memo(None), databases, tools, product="1")
    assert asked == [18]
    assert result.place == "embedded PostgreSQL 18"
    assert result.plane[_check()].settings == live[_check()].settings


def _check() -> Address:
    return Address("pg", "main", "check", ("app", "people", "check", "grown"))


def entries(start: int, count: int) -> dict[str, Canonical]:
    column = ("column", ("", "column", "c"))
    return {f"{i:064x}": Canonical({"expression": f"(c > {i})"}, (column,), ()) for i in range(start, start + count)}


def _writer(folder: Path, start: int) -> None:
    for offset in range(0, 100, 10):
        Memo(folder).put(entries(start + offset, 10))


def test_several_processes_may_write_the_memo(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(tmp_path, n * 100)) for n in range(4)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
        assert process.exitcode == 0
    expected = entries(0, 400)
    assert Memo(tmp_path).get(expected) == expected


def test_a_damaged_memo_is_forgotten(tmp_path: Path) -> None:
    expected = entries(0, 10)
    Memo(tmp_path).put(expected)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    assert Memo(tmp_path).get(expected) == {}
    Memo(tmp_path).put(expected)
    assert Memo(tmp_path).get(expected) == expected


def test_a_memo_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    memo = Memo(blocked / "cache")
    memo.put(entries(0, 3))
    assert memo.get(entries(0, 3)) == entries(0, 3)
    assert Memo(blocked / "cache").get(entries(0, 3)) == {}


def test_a_lock_table_that_is_too_small_sends_us_to_an_embedded_server(
    seen: Snapshot, pg_database: dict[str, Any]
) -> None:
    @contextmanager
    def embedded(major: int) -> Iterator[connect.Settings]:
        yield settings(pg_database)

    small = seen.facts._replace(options={**seen.facts.options, "max_locks_per_transaction": 64, "max_connections": 10})
    databases = ScratchDatabases(settings(pg_database), small, embedded)
    with databases((), 100) as found:
        assert found.place.startswith("scratch database on")
    with databases((), 600) as found:
        assert found.place == "embedded PostgreSQL 18"


def test_a_full_disk_is_no_error_of_the_spec(live: Plane, databases: ScratchDatabases, tools: Tools) -> None:
    """An immutable function without arguments is evaluated while the index is made."""
    address = Address.root("pg", "main", "schema", "app", bare=True).child("function", "full()")
    options = {
        "arguments": [],
        "returns": "integer",
        "language": "plpgsql",
        "body": "BEGIN RAISE EXCEPTION 'could not extend file: No space left' USING ERRCODE = '53100'; END",
    }
    model = next(r for r in live if r.address.kind == "function")
    full = model._replace(address=address, settings=model.settings | options)
    desired = Plane([full, *written(live, {f"{PEOPLE}/index/fine": {"where": "app.full() > age"}})])
    with pytest.raises(StatementFailed, match="No space left") as caught:
        validate(desired, Memo(None), databases, tools, product="1")
    assert caught.value.sqlstate == "53100"
    assert "disk space" in caught.value.help
