"""Steps on a real server: in transactions and outside, refused, blocked, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from provision.plan.plan import Step
from provision.postgres import connect
from provision.postgres.apply import Applier, Count, Limits, batches, count
from provision.postgres.errors import LockTimeout, PermissionDenied, StatementFailed
from provision.postgres.ledger import PostgresLedger
from provision.postgres.passwords import verify
from tests.postgres.io_steps import index_is_valid, plan, settings, step

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

QUICK = Limits(lock_timeout_ms=100, tries=3, first_pause_s=0.05, longest_pause_s=0.1)


@pytest.fixture
def session(pg_database: dict[str, Any]) -> Iterator[Connection]:
    with connect.connect(settings(pg_database)) as found:
        yield found


@pytest.fixture
def ledger(session: Connection) -> PostgresLedger:
    found = PostgresLedger(session, "agents", "dev")
    found.prepare()
    return found


def no_secret(reference: Mapping[str, str]) -> str:
    raise AssertionError(reference)


def objects(session: Connection) -> set[str]:
    rows = session.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('app') UNION"
        " SELECT conname FROM pg_constraint WHERE connamespace = to_regnamespace('app') AND contype <> 'n'"
    ).fetchall()
    return {row[0] for row in rows}


WHOLE = {"jobs", "jobs_pkey", "logs", "job", "notes", "positive"}


def test_fresh_steps_share_a_transaction_and_others_stand_alone() -> None:
    assert [[s.object for s in batch] for batch in batches(plan(), 2)] == [
        ["pg:main/app", "pg:main/app/jobs"],
        ["pg:main/app/logs"],
        ["pg:main/app/logs/foreign_key/job"],
        ["pg:main/app/jobs/index/notes"],
        ["pg:main/app/logs/check/positive"],
    ]


@pytest.mark.req("B2.4")
def test_a_plan_is_done_and_recorded_in_order(session: Connection, ledger: PostgresLedger) -> None:
    seen: list[tuple[str, str]] = []
    first, *others = plan()
    steps = [replace(first, adopted=first.made), *others]
    Applier(session, ledger, no_secret, hook=lambda *event: seen.append(event)).run(steps)
    assert objects(session) == WHOLE
    assert ledger.held().intended == frozenset()
    assert ledger.owned() == {s.object: "created" for s in plan()} | {"pg:main/app": "adopted"}
    phases = ("before_send", "after_send", "before_record", "done")
    assert {(s.id, p) for s in plan() for p in phases} == set(seen)
    assert len(seen) == len(set(seen))


def test_a_gone_object_leaves_the_ledger_with_its_statement(session: Connection, ledger: PostgresLedger) -> None:
    applier = Applier(session, ledger, no_secret)
    applier.run(plan()[:2])
    applier.run([step("app/jobs", "DROP TABLE app.jobs", gone=("pg:main/app/jobs",))])
    assert ledger.owned() == {"pg:main/app": "created"}


@pytest.mark.parametrize("fresh", [True, False])
def test_a_refused_statement_names_its_step_and_leaves_nothing(
    session: Connection, ledger: PostgresLedger, fresh: bool
) -> None:
    sql = "CREATE TABLE app.bad (id bigint, x int DEFAULT nosuch())"
    bad = step("app/bad", sql, fresh=fresh)
    with pytest.raises(StatementFailed) as caught:
        Applier(session, ledger, no_secret).run([*plan()[:2], bad, step("app/c", "CREATE TABLE app.c ()", fresh=True)])
    assert caught.value.step == "pg:main/app/bad#create"
    assert caught.value.sqlstate == "42883"
    assert caught.value.position == sql.index("nosuch") + 1
    assert set(ledger.owned()) == (set() if fresh else {"pg:main/app", "pg:main/app/jobs"})


def test_a_syntax_error_among_many_is_found(session: Connection, ledger: PostgresLedger) -> None:
    bad = step("app/bad", "CREATE TABEL app.bad ()", fresh=True)
    with pytest.raises(StatementFailed, match="pg:main/app/bad#create") as caught:
        Applier(session, ledger, no_secret).run([*plan()[:2], bad, plan()[2]])
    assert caught.value.position == len("CREATE ") + 1


def test_a_missing_privilege_names_the_grant(pg_database: dict[str, Any], session: Connection) -> None:
    session.execute("CREATE SCHEMA app")
    session.execute("CREATE TABLE app.jobs (id bigint)")
    session.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
    session.execute(f'GRANT CREATE ON DATABASE "{pg_database["dbname"]}" TO guest'.encode())
    with connect.connect(settings(pg_database, user="guest", password="x")) as guest:
        book = PostgresLedger(guest, "agents", "dev")
        book.prepare()
        with pytest.raises(PermissionDenied) as caught:
            Applier(guest, book, no_secret).run([plan()[2]])
        assert caught.value.grant == "GRANT USAGE, CREATE ON SCHEMA app TO guest"
        session.execute("GRANT USAGE, CREATE ON SCHEMA app TO guest")
        with pytest.raises(PermissionDenied) as caught:
            Applier(guest, book, no_secret).run([step("app/jobs/column/c", "ALTER TABLE app.jobs ADD c int")])
        assert caught.value.grant == "ALTER TABLE app.jobs OWNER TO guest"


def test_a_lock_held_for_a_while_is_waited_for_in_short_tries(
    pg_database: dict[str, Any], session: Connection, ledger: PostgresLedger
) -> None:
    Applier(session, ledger, no_secret).run(plan()[:2])
    alter = step("app/jobs/column/x", "ALTER TABLE app.jobs ADD x int", lock="ACCESS EXCLUSIVE")
    with connect.connect(settings(pg_database)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE app.jobs IN ACCESS SHARE MODE")
        release = threading.Timer(0.8, lambda: other.execute("COMMIT"))
        release.start()
        sent: list[str] = []
        limits = Limits(lock_timeout_ms=100, tries=30, first_pause_s=0.05, longest_pause_s=0.1)
        Applier(session, ledger, no_secret, limits=limits, hook=lambda _, p: sent.append(p)).run([alter])
        release.join()
    assert sent.count("before_send") > 1
    assert sent.count("done") == 1
    assert "pg:main/app/jobs/column/x" in ledger.owned()


def test_a_lock_that_never_comes_ends_in_one_message(
    pg_database: dict[str, Any], session: Connection, ledger: PostgresLedger
) -> None:
    Applier(session, ledger, no_secret).run(plan()[:2])
    alter = step("app/jobs/column/x", "ALTER TABLE app.jobs ADD x int", lock="ACCESS EXCLUSIVE")
    with connect.connect(settings(pg_database)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE app.jobs IN ACCESS SHARE MODE")
        with pytest.raises(LockTimeout, match="pg:main/app/jobs/column/x") as caught:
            Applier(session, ledger, no_secret, limits=QUICK).run([alter])
        other.execute("ROLLBACK")
    assert caught.value.help.startswith("Tried 3 times")
    assert "pg:main/app/jobs/column/x" not in ledger.owned()


def test_a_deadlock_victim_tries_again(
    pg_database: dict[str, Any], session: Connection, ledger: PostgresLedger
) -> None:
    """We hold jobs and ask for logs; the other holds logs and asks for jobs, and is more patient."""
    Applier(session, ledger, no_secret).run(plan()[:3])
    session.execute(f"ALTER DATABASE {pg_database['dbname']} SET deadlock_timeout = '200ms'".encode())
    both = step("x", "LOCK TABLE app.jobs, app.logs IN ACCESS EXCLUSIVE MODE")
    with connect.connect(settings(pg_database)) as mine, connect.connect(settings(pg_database)) as other:
        other.execute("SET deadlock_timeout = '10s'")
        other.execute("BEGIN")
        other.execute("LOCK TABLE app.logs")
        rival = threading.Thread(target=lambda: (other.execute("LOCK TABLE app.jobs"), other.execute("COMMIT")))
        threading.Timer(0.3, rival.start).start()
        events: list[str] = []
        book = PostgresLedger(mine, "agents", "dev")
        Applier(mine, book, no_secret, hook=lambda _, p: events.append(p)).run([both])
        rival.join()
    assert events.count("before_send") == 2
    assert events[-1] == "done"


def test_more_locks_than_the_server_has_are_taken_in_smaller_transactions(
    session: Connection, ledger: PostgresLedger
) -> None:
    """The lock table holds max_locks_per_transaction * (max_connections + max_prepared_transactions)."""
    session.execute("CREATE SCHEMA app")
    slots = 1024 * (200 + 200)
    take = "DO $$ BEGIN PERFORM pg_advisory_xact_lock({0}, i) FROM generate_series(1, {1}) i; END $$"
    steps = [step(f"lock{i}", take.format(i, slots // 2), fresh=True) for i in range(4)]
    events: list[tuple[str, str]] = []
    Applier(session, ledger, no_secret, hook=lambda *e: events.append(e)).run(steps)
    assert [e for e in events if e[1] == "done"] == [(s.id, "done") for s in steps]


def test_a_step_outside_of_transactions_is_skipped_when_it_is_done(session: Connection, ledger: PostgresLedger) -> None:
    Applier(session, ledger, no_secret).run(plan()[:3])
    session.execute("CREATE INDEX notes ON app.jobs (note)")
    sent: list[str] = []
    Applier(session, ledger, no_secret, hook=lambda _, p: sent.append(p)).run([plan()[4]])
    assert "before_send" not in sent
    assert ledger.owned()["pg:main/app/jobs/index/notes"] == "created"


def test_a_failed_concurrent_build_leaves_no_invalid_index(session: Connection, ledger: PostgresLedger) -> None:
    Applier(session, ledger, no_secret).run(plan()[:3])
    session.execute("INSERT INTO app.jobs VALUES (1, 'same'), (2, 'same')")
    unique = step(
        "app/jobs/index/u",
        "CREATE UNIQUE INDEX CONCURRENTLY u ON app.jobs (note)",
        transactional=False,
        undo="DROP INDEX CONCURRENTLY IF EXISTS app.u",
        done_if=index_is_valid("app.u"),
    )
    with pytest.raises(StatementFailed, match="could not create unique index") as caught:
        Applier(session, ledger, no_secret).run([unique])
    assert caught.value.sqlstate == "23505"
    assert "u" not in objects(session)
    assert ledger.held().intended == {"pg:main/app/jobs/index/u"}
    session.execute("DELETE FROM app.jobs WHERE id = 2")
    Applier(session, ledger, no_secret).run([unique])
    assert ledger.held().intended == frozenset()


def test_a_password_leaves_only_as_a_verifier(session: Connection, ledger: PostgresLedger) -> None:
    login = step(
        "role/app",
        "CREATE ROLE app_login LOGIN PASSWORD {{password}}",
        secrets={"password": {"env": "APP_PASSWORD"}},
    )
    asked: list[Any] = []

    def resolve(reference: Mapping[str, str]) -> str:
        asked.append(reference)
        return "hunter2"

    Applier(session, ledger, resolve).run([login])
    stored = session.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_login'").fetchone()
    assert stored is not None
    assert verify("hunter2", stored[0], "app_login")
    assert asked == [{"env": "APP_PASSWORD"}]


def test_an_error_never_quotes_a_secret(session: Connection, ledger: PostgresLedger) -> None:
    login = step(
        "role/app",
        "CREATE ROLE app_login LOGIN PASWORD {{password}}",
        secrets={"password": {"env": "APP_PASSWORD"}},
    )
    with pytest.raises(StatementFailed) as caught:
        Applier(session, ledger, lambda reference: "hunter2").run([login])
    everything = repr([caught.value, caught.value.__cause__, caught.value.__context__, caught.value.help])
    assert "hunter2" not in everything
    assert "SCRAM" not in everything


def test_ctrl_c_cancels_rolls_back_and_a_second_run_finishes(session: Connection, ledger: PostgresLedger) -> None:
    Applier(session, ledger, no_secret).run(plan()[:2])
    slow = step("app/slow", "CREATE TABLE app.slow AS SELECT 1 AS one FROM pg_sleep(20)")

    threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Applier(session, ledger, no_secret).run([slow, *plan()[2:]])
    assert time.monotonic() - started < 5
    assert set(ledger.owned()) == {"pg:main/app", "pg:main/app/jobs"}
    Applier(session, ledger, no_secret).run(plan()[2:])
    assert objects(session) == WHOLE


PHASES = ("before_send", "after_send", "before_record", "done")


@pytest.mark.req("B2.4")
@pytest.mark.parametrize("victim", plan(), ids=lambda s: s.object.removeprefix("pg:main/"))
def test_a_killed_apply_is_finished_by_another(pg_database: dict[str, Any], victim: Step) -> None:
    for phase in PHASES:
        with connect.connect(settings(pg_database)) as session:
            session.execute("DROP SCHEMA IF EXISTS app CASCADE")
            session.execute("DROP SCHEMA IF EXISTS holdfast CASCADE")
        run = subprocess.run(
            [sys.executable, "-m", "tests.postgres.crashing", json.dumps(pg_database), victim.id, phase],
            check=False,
            capture_output=True,
            text=True,
        )
        assert run.returncode == -signal.SIGKILL, run.stderr
        with connect.connect(settings(pg_database)) as session:
            ledger = PostgresLedger(session, "agents", "dev")
            with ledger.hold():
                pass
            held = ledger.held()
            done = set(held.owned) - held.intended
            assert objects(session) >= {a.rpartition("/")[2] for a in done} - {"app"}, phase
            Applier(session, ledger, no_secret).run([s for s in plan() if s.object not in done])
            assert objects(session) == WHOLE, phase
            assert ledger.held() == ({s.object: "created" for s in plan()}, frozenset(), None), phase


def test_rows_at_stake_are_counted_or_estimated(session: Connection) -> None:
    session.execute("CREATE TABLE public.t AS SELECT i FROM generate_series(1, 100000) i")
    session.execute("ANALYZE public.t")
    probe = {"sql": "SELECT count(*) FROM public.t"}
    assert count(session, probe) == Count(100_000, False)
    slow = {"sql": "SELECT count(*) FROM public.t WHERE pg_sleep(0.001) IS NOT NULL"}
    found = count(session, slow, timeout_ms=50)
    assert found is not None
    assert found.is_estimate
    assert 90_000 < found.value < 110_000
    assert count(session, {"sql": "SELECT count(*) FROM public.gone"}) is None
    assert count(session, {"stream": "TASKS"}) is None
    assert session.execute("SELECT 1").fetchone() == (1,)
