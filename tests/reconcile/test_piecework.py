"""Part by part on real servers: what one part does to another, what is broken behind our back, and how it all ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded import postgres
from provision.plan.consents import required
from provision.plan.plan import Plan
from provision.pulumi.protocol import CreateRequest
from provision.pulumi.provider import Provider
from provision.reconcile import open_plane
from provision.spec.errors import HoldfastError, UnreachableError
from tests.live.drift_bed import Bed
from tests.reconcile.engine import CLOCK, Engine, Silent

Json = dict[str, Any]
ID = {"type": "bigint", "nullable": False}
AT = {"type": "timestamptz", "nullable": False}
EVENTS = {"EVENTS": {"subjects": ["events.>"], "max_age": "1h", "max_bytes": "1MiB"}}
POOL = {"role": "app", "endpoint": "primary", "min": 1, "max": 4, "acquire_timeout": "5s"}


def external(database: Mapping[str, Any]) -> Json:
    """The target of a running database."""
    return {
        "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
        "password": {"env": "PG_SECRET"}, "database": database["dbname"], "max_connections": 50,
    }  # fmt: skip


class Ground:
    """A plane on servers, by command and by engine."""

    def __init__(self, root: Path, targets: Json) -> None:
        self.bed = Bed(root, targets, "piece")
        self.engine = Engine(self.bed, targets)

    def declare(self, document: Json) -> None:
        self.bed.declare(document)
        self.engine.declare(document)

    def plan(self) -> Plan:
        """What the command would do."""
        with open_plane(self.bed.specs, "dev", cache=self.bed.cache) as plane:
            return plane.plan(clock=CLOCK)

    def consented(self) -> list[str]:
        """One ``up`` with every consent that the command's plan asks for; gives the objects of its steps."""
        return [s.object for s in self.engine.up(required(self.plan()))]

    def assert_in_sync(self) -> None:
        """By either way, nothing is left to do."""
        plan = self.plan()
        assert [(s.object, s.summary) for s in plan.steps] == []
        assert (plan.adopt, plan.forget) == ((), ())
        assert self.engine.changes() == []


@pytest.fixture
def database(pg_database: Json, monkeypatch: pytest.MonkeyPatch) -> Json:
    """An empty database; its password and that of a role are in the environment."""
    monkeypatch.setenv("PG_SECRET", str(pg_database["password"]))
    monkeypatch.setenv("APP_PASSWORD", "s3cret-of-app")
    return pg_database


@pytest.fixture
def ground(tmp_path: Path, database: Json, nats_url: str) -> Ground:
    """A plane of one database and one account."""
    nats = {"kind": "external", "urls": [nats_url]}
    return Ground(tmp_path, {"postgres": {"main": external(database)}, "nats": {"main": nats}})


def ask(database: Mapping[str, Any], statement: str) -> list[tuple[Any, ...]]:
    """Run SQL behind the plane's back."""
    with psycopg.connect(**database, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def log(key: str, **policy: Any) -> Json:
    """A table whose partitions roll on."""
    rolling = {"by": "range", "key": [key], "every": "1 day", "premake": 3, "retain": "30 days", **policy}
    columns = {"id": ID, "at": AT, "seen": AT}
    return {"columns": columns, "primary_key": ["id", key], "partitions": rolling}


def children(database: Mapping[str, Any], table: str = "app.log") -> int:
    return int(ask(database, f"SELECT count(*) FROM pg_inherits WHERE inhparent = '{table}'::regclass")[0][0])


def soon(holds: Callable[[], Any], within_s: float) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


# One part and another -------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1", "A5.12")
def test_a_table_that_is_laid_out_anew_gets_its_partitions_in_the_same_up(ground: Ground, database: Json) -> None:
    ground.declare({"schemas": {"app": {"tables": {"log": log("at")}}}})
    ground.engine.up()
    had = children(database)
    ground.declare({"schemas": {"app": {"tables": {"log": log("seen")}}}})
    assert set(ground.engine.changes()) >= {"pg:main", "pg:main/app/log/partitions/set"}
    ground.consented()
    (layout,) = ask(database, "SELECT pg_get_partkeydef('app.log'::regclass)")
    assert layout == ("RANGE (seen)",)
    assert children(database) == had > 0
    ground.assert_in_sync()


@pytest.mark.req("B3.1")
def test_a_dropped_rolling_table_leaves_no_trace_in_the_ledger(ground: Ground, database: Json) -> None:
    item = {"columns": {"id": ID}, "primary_key": ["id"]}
    ground.declare({"schemas": {"app": {"tables": {"log": log("at"), "item": item}}}})
    ground.engine.up()
    held = "SELECT count(*) FROM holdfast.objects WHERE address LIKE 'pg:main/app/log%'"
    assert ask(database, held)[0][0] > 1
    ground.declare({"schemas": {"app": {"prune": True, "tables": {"item": item}}}})
    ground.consented()
    assert ask(database, "SELECT to_regclass('app.log')") == [(None,)]
    assert ask(database, held) == [(0,)]
    ground.assert_in_sync()


@pytest.mark.req("B3.1")
def test_a_schema_of_migrations_gets_no_ddl_and_its_table_is_in_the_contract(ground: Ground, database: Json) -> None:
    columns = "id bigint NOT NULL, at timestamptz NOT NULL, seen timestamptz NOT NULL, PRIMARY KEY (id, at)"
    ask(database, f"CREATE SCHEMA app; CREATE TABLE app.log ({columns}) PARTITION BY RANGE (at)")

    def plane(premake: int) -> Json:
        schema = {"managed": "migrations", "tables": {"log": log("at", premake=premake)}}
        return {"streams": EVENTS, "schemas": {"app": schema}}

    ground.declare(plane(3))
    assert {s.object.partition(":")[0] for s in ground.engine.up()} == {"nats", "plane"}
    assert children(database) == 0
    # The contract has a digest of all parts: the command would write the very same.
    assert [s.object for s in ground.plan().steps] == []
    ground.declare(plane(5))
    assert [s.object for s in ground.engine.up() if s.system == "pg"] == []
    assert [s.object for s in ground.plan().steps] == []
    assert ground.engine.changes() == []
    assert children(database) == 0


@pytest.mark.req("B3.1", "A6.2")
def test_a_pool_at_a_second_database_changes_by_either_way(
    tmp_path: Path, database: Json, pg_server: postgres.Server, nats_url: str
) -> None:
    name = f"{database['dbname']}_edge"
    pg_server.create_database(name)
    try:
        targets = {"main": external(database), "edge": external({**database, "dbname": name})}
        ground = Ground(tmp_path, {"postgres": targets, "nats": {"main": {"kind": "external", "urls": [nats_url]}}})
        role = {"login": True, "target": "edge", "password": {"env": "APP_PASSWORD"}}

        def pooled(most: int) -> Json:
            return {"roles": {"app": role}, "pools": {"side": {**POOL, "target": "edge", "max": most}}}

        ground.declare(pooled(4))
        ground.engine.up()
        ground.assert_in_sync()
        ground.declare(pooled(5))
        assert "plane:edge/pool/side" in ground.engine.changes()
        ground.engine.up()
        ground.assert_in_sync()
        ground.declare(pooled(6))
        assert ground.bed.apply().steps
        ground.engine.up()
        ground.assert_in_sync()
    finally:
        pg_server.query(f'DROP DATABASE "{name}" WITH (FORCE)')


# Behind our back ------------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1", "B3.3")
def test_a_password_changed_on_the_server_is_drift_that_an_up_mends(ground: Ground, database: Json) -> None:
    role = {"login": True, "password": {"env": "APP_PASSWORD"}, "connection_limit": 20}
    ground.declare({"roles": {"app": role}, "pools": {"main": POOL}})
    ground.engine.up()
    ask(database, "ALTER ROLE app PASSWORD 'another'")
    assert ground.engine.changes() == []
    ground.engine.refresh()
    found = ground.engine.state["pg:main/role/app"].inputs
    assert len(found["drift"]) == 1
    assert "password" in found["drift"][0]
    assert ground.engine.changes() == ["pg:main/role/app"]
    assert [s.object for s in ground.engine.up()] == ["pg:main/role/app"]
    assert "drift" not in ground.engine.state["pg:main/role/app"].inputs
    psycopg.connect(**{**database, "user": "app", "password": "s3cret-of-app"}).close()
    ground.engine.refresh()
    ground.assert_in_sync()


class Listening(Silent):
    """A screen that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, urn: str = "") -> None:
        self.lines.append(text)


@pytest.mark.req("B3.1")
def test_a_schema_of_migrations_that_differs_is_told_and_is_no_drift(
    ground: Ground, database: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(database, "CREATE SCHEMA app; CREATE TABLE app.item (id integer NOT NULL PRIMARY KEY, stray text)")
    table = {"columns": {"id": ID}, "primary_key": ["id"]}
    ground.declare({"schemas": {"app": {"managed": "migrations", "tables": {"item": table}}}})
    ground.engine.up()
    screen = Listening()
    monkeypatch.setattr("tests.reconcile.engine.Silent", lambda: screen)
    ground.engine.refresh()
    assert "drift" not in ground.engine.state["pg:main"].inputs
    assert [line for line in screen.lines if "pg:main/app/item/column/id" in line and "migrations own" in line]
    assert ground.engine.changes() == []


# The end ----------------------------------------------------------------------------------------------------------

SLOW = "BEGIN PERFORM pg_catalog.pg_sleep(60); RETURN n; END"


def provider(targets: Json, root: Path, cache: Path, env: str = "dev") -> Provider:
    """A provider that was told where everything is."""
    found = Provider(Silent(), cache=cache)
    found.configure({"plane": "piece", "env": env, "root": str(root), "targets": targets, "allow": []})
    return found


def create(made: Provider, type: str, **inputs: Any) -> Json:
    """Ask for one resource; gives its outputs."""
    name = str(inputs.get("name", type))
    request = CreateRequest(f"urn:{name}", f"holdfast:index:{type}", name, inputs=inputs)
    return dict(made.create(request).properties)


@contextmanager
def stuck(made: Provider, database: Json, waits: str, **inputs: Any) -> Iterator[list[Exception]]:
    """A create of a whole database under way whose backend does as the condition says; gives its errors."""
    errors: list[Exception] = []

    def act() -> None:
        try:
            create(made, "PostgresDatabase", **inputs)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    soon(lambda: ask(database, f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND {waits}"), 30)
    yield errors
    thread.join(10)
    assert not thread.is_alive()


#: The plane's backends in this database, and advisory locks that anybody holds there.
OURS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pulumi%' UNION ALL"
    " SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory'"
    " AND datname = current_database()"
)  # fmt: skip


def assert_ends(made: Provider, database: Json) -> None:
    """Closing takes no longer than an engine waits, and leaves neither backend nor lock."""
    assert ask(database, OURS)
    began = time.monotonic()
    made.close()
    soon(lambda: not ask(database, OURS), 4)
    assert time.monotonic() - began < 4


@pytest.mark.req("B3.1")
def test_closing_ends_a_long_statement_and_frees_the_lock(tmp_path: Path, database: Json) -> None:
    ask(
        database,
        "CREATE SCHEMA app; CREATE TABLE app.item (id bigint NOT NULL PRIMARY KEY); INSERT INTO app.item VALUES (1)",
    )
    slow = {"arguments": [{"name": "n", "type": "bigint"}], "returns": "bigint", "language": "plpgsql",
            "volatility": "immutable", "body": SLOW}  # fmt: skip
    table = {"columns": {"id": ID}, "primary_key": ["id"], "indexes": {"item_slow": {"columns": ["app.slow(id)"]}}}
    targets = {"postgres": {"main": external(database)}}
    made = provider(targets, tmp_path, tmp_path / "cache")
    with stuck(
        made,
        database,
        "wait_event = 'PgSleep'",
        schemas={"app": {"functions": {"slow": slow}, "tables": {"item": table}}},
    ) as errors:
        assert_ends(made, database)
    assert [isinstance(e, HoldfastError) for e in errors] == [True]
    invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('app.item_slow')"
    assert ask(database, invalid) == []


@pytest.mark.req("B3.1")
def test_closing_ends_a_wait_for_a_lock(tmp_path: Path, database: Json) -> None:
    item = {"columns": {"id": ID}, "primary_key": ["id"]}
    targets = {"postgres": {"main": external(database)}}
    first = provider(targets, tmp_path, tmp_path / "cache")
    create(first, "PostgresDatabase", schemas={"app": {"tables": {"item": item}}})
    first.close()
    wider = {**item, "columns": {"id": ID, "note": {"type": "text"}}}
    made = provider(targets, tmp_path, tmp_path / "cache")
    with psycopg.connect(**database) as other:
        other.execute("LOCK TABLE app.item IN ACCESS SHARE MODE")
        with stuck(made, database, "wait_event_type = 'Lock'", schemas={"app": {"tables": {"item": wider}}}) as errors:
            assert_ends(made, database)
    assert len(errors) == 1
    made.close()


@pytest.mark.req("B3.1")
def test_a_session_that_broke_is_closed_without_a_word(tmp_path: Path, database: Json, nats_url: str) -> None:
    nats = {"kind": "external", "urls": [nats_url]}
    made = provider({"postgres": {"main": external(database)}, "nats": {"main": nats}}, tmp_path, tmp_path / "cache")
    create(made, "Stream", name="EVENTS", **EVENTS["EVENTS"])
    ask(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pulumi%'")
    made.close()
    made.close()
    assert ask(database, OURS) == []


@pytest.mark.req("B3.1")
def test_a_lock_that_was_lost_in_an_account_is_closed_without_a_word(tmp_path: Path, nats_url: str) -> None:
    from tests.live.drift_bed import raw

    made = provider({"nats": {"main": {"kind": "external", "urls": [nats_url]}}}, tmp_path, tmp_path / "cache")
    create(made, "Stream", name="EVENTS", **EVENTS["EVENTS"])
    with raw(nats_url) as link:
        link.do("STREAM.DELETE.KV_HOLDFAST")
    made.close()


class Deaf:
    """A server that takes connections and hangs up after a while."""

    def __init__(self) -> None:
        self.connects = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connects += 1
            time.sleep(0.4)
            client.close()


@pytest.mark.req("B3.1")
def test_creates_that_wait_for_a_dead_server_fail_together(tmp_path: Path, database: Json) -> None:
    def attempt(number: int) -> int:
        with closing(Deaf()) as server:
            target = {**external(database), "host": "127.0.0.1", "port": server.port}
            made = provider({"postgres": {"main": target}}, tmp_path, tmp_path / "cache")
            with ThreadPoolExecutor(number) as pool:
                tries = [pool.submit(create, made, "Role", name=f"role_{n}") for n in range(number)]
            assert all(isinstance(t.exception(), UnreachableError) for t in tries)
            made.close()
            return server.connects

    alone = attempt(1)
    # Those that come while the first connects are answered by the next attempt, all of them.
    assert attempt(8) <= 2 * alone
