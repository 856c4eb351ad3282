"""The ledger and the lock in a real database."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from provision.plan.protocols import LockHeld
from provision.postgres import connect, ledger
from provision.postgres.errors import PermissionDenied
from provision.postgres.ledger import PostgresLedger, kind_of
from tests.postgres.io_steps import settings


def test_intents_become_done_and_go(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        book = PostgresLedger(session, "agents", "dev")
        assert book.owned() == {}
        book.prepare()
        book.prepare()
        book.intend(["pg:main/a", "pg:main/b"])
        book.record(["pg:main/a"], "created")
        book.record(["nats:main/stream/S"], "adopted")
        assert book.held().intended == {"pg:main/b"}
        book.record(["nats:main/stream/S"], "created")
        book.forget(["pg:main/b"])
        assert book.owned() == {"pg:main/a": "created", "nats:main/stream/S": "adopted"}
        assert PostgresLedger(session, "agents", "staging").owned() == {}


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("pg:main/agents", "schema"),
        ("pg:main/agents/state", "table"),
        ("pg:main/agents/state/column/version", "column"),
        ("pg:main/%63olumn/state", "table"),
        ("pg:main/agents/function/f(text,agents.t)", "function"),
        ("nats:main/stream/TASKS/consumer/c", "consumer"),
    ],
)
def test_the_kind_is_read_off_an_address(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_twenty_thousand_rows_are_quick(pg_database: dict[str, Any]) -> None:
    addresses = [f"pg:main/agents/table_{i // 20}/column/c{i % 20}" for i in range(20_000)]
    with connect.connect(settings(pg_database)) as session:
        book = PostgresLedger(session, "agents", "dev")
        book.prepare()
        started = time.monotonic()
        book.record(addresses, "created")
        wrote = time.monotonic() - started
        assert len(book.owned()) == 20_000
    assert wrote < 2.0  # 0.3 s on a quiet machine


def test_runs_keep_how_they_ended(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        book = PostgresLedger(session, "agents", "dev")
        assert book.runs() == []
        book.prepare()
        run = book.start_run("sha256:1")
        assert [r["status"] for r in book.runs()] == ["running"]
        book.finish_run(run, "done", {"create": 3})
        (found,) = book.runs()
    assert (found["status"], found["summary"], found["fingerprint"]) == ("done", {"create": 3}, "sha256:1")
    assert found["finished_at"] >= found["started_at"]


def test_two_may_prepare_at_once(pg_database: dict[str, Any]) -> None:
    def prepare(_: int) -> None:
        with connect.connect(settings(pg_database)) as session:
            PostgresLedger(session, "agents", "dev").prepare()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, range(8)))
    with connect.connect(settings(pg_database)) as session:
        assert session.execute("SELECT version FROM holdfast.version").fetchall() == [(len(ledger.VERSIONS),)]


@pytest.mark.req("B2.4")
def test_the_lock_names_its_holder_and_goes_with_the_session(pg_database: dict[str, Any]) -> None:
    first = connect.connect(settings(pg_database, application_name="holdfast apply on build-7"))
    with connect.connect(settings(pg_database)) as second:
        mine, theirs = PostgresLedger(first, "agents", "dev"), PostgresLedger(second, "agents", "dev")
        with mine.hold():
            with pytest.raises(LockHeld, match="holdfast apply on build-7") as caught, theirs.hold():
                pass
            assert f"pid {first.info.backend_pid}" in str(caught.value)
            with PostgresLedger(second, "agents", "staging").hold():
                pass
        with theirs.hold():
            pass
        with mine.hold():
            first.close()
        with theirs.hold():
            pass


def test_a_role_that_may_not_create_the_ledger_is_told_the_grant(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as admin:
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
    with connect.connect(settings(pg_database, user="guest", password="x")) as session:
        with pytest.raises(PermissionDenied) as caught:
            PostgresLedger(session, "agents", "dev").prepare()
        assert caught.value.grant == f"GRANT CREATE ON DATABASE {pg_database['dbname']} TO guest"
