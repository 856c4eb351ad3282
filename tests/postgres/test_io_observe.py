"""One snapshot of a real database."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from provision.postgres import connect, ledger, observe, wire
from provision.postgres.catalog import RELATIONS, ROLE_NAMES, Query
from provision.postgres.errors import PermissionDenied, Refusal
from provision.postgres.passwords import build_verifier
from tests.postgres.io_steps import settings

QUERIES = (RELATIONS, ROLE_NAMES)


def test_raw_rows_decode_and_the_digest_follows_the_catalog(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        session.execute("CREATE SCHEMA odd")
        session.execute('CREATE TABLE odd."tab\tle\\n" ()')
        first = observe.observe(session, "main", QUERIES)
        again = observe.observe(session, "main", QUERIES)
        session.execute('ALTER TABLE odd."tab\tle\\n" SET (fillfactor = 50)')
        changed = observe.observe(session, "main", QUERIES)
    assert [r.name for r in first.catalog.relations.values()] == ["tab\tle\\n"]
    assert first.digest == again.digest != changed.digest


def test_facts_name_what_the_server_can_do(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        facts = observe.observe(session, "main", ()).facts
    assert facts.version[0] == 18
    assert facts.options["superuser"] is True
    assert facts.options["max_connections"] == 200
    assert "vector" in facts.options["extensions_available"]
    assert facts.options["extensions"].keys() == {"plpgsql"}
    assert facts.options["encoding"] == "UTF8"
    assert "pglz" in facts.options["compressions"]


def test_all_queries_see_one_moment(pg_database: dict[str, Any]) -> None:
    """A table that commits while the first query runs is in neither of the two."""
    count = "SELECT count(*) FROM pg_class WHERE relname = 'late'"
    slow = Query("slow", lambda major: "SELECT pg_sleep(0.5)")
    queries = (slow, Query("one", lambda major: count))
    with connect.connect(settings(pg_database)) as session, connect.connect(settings(pg_database)) as other:
        timer = threading.Timer(0.2, lambda: other.execute("CREATE TABLE public.late ()"))
        timer.start()
        found = observe.observe(session, "main", queries)
        timer.join()
        after = observe.observe(session, "main", queries[1:])
    assert (found.raw["one"], after.raw["one"]) == (b"0\n", b"1\n")


def test_ledger_comes_in_the_same_snapshot_once_it_exists(pg_database: dict[str, Any]) -> None:
    asked = ledger.queries("agents", "dev")
    with connect.connect(settings(pg_database)) as session:
        assert observe.observe(session, "main", QUERIES, ledger=asked).ledger == {}
        book = ledger.PostgresLedger(session, "agents", "dev")
        book.prepare()
        book.record(["pg:main/a"], "created")
        book.write({"contract_version": "1"})
        held = ledger.decode(observe.observe(session, "main", QUERIES, ledger=asked).ledger)
    assert held == ({"pg:main/a": "created"}, frozenset(), {"contract_version": "1"})


def test_a_ledger_that_may_not_be_read_is_an_error_never_an_empty_one(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as admin:
        ledger.PostgresLedger(admin, "agents", "dev").prepare()
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
    with (
        connect.connect(settings(pg_database, user="guest", password="x")) as session,
        pytest.raises(PermissionDenied) as caught,
    ):
        observe.observe(session, "main", QUERIES, ledger=ledger.queries("agents", "dev"))
    assert "ON SCHEMA holdfast TO guest" in caught.value.grant


def test_passwords_are_compared_where_pg_authid_can_be_read(pg_database: dict[str, Any]) -> None:
    wanted = {"right": "one", "wrong": "two", "unset": "three"}
    with connect.connect(settings(pg_database)) as admin:
        admin.execute(f"CREATE ROLE \"right\" LOGIN PASSWORD '{build_verifier('one')}'".encode())
        admin.execute("CREATE ROLE wrong LOGIN PASSWORD 'other'")
        admin.execute("CREATE ROLE unset LOGIN")
        snapshot = observe.observe(admin, "main", QUERIES, passwords=wanted)
    assert snapshot.facts.options["password_state"] == {
        "right": "match",
        "wrong": "differs",
        "unset": "differs",
    }
    assert b"SCRAM" not in b"".join(snapshot.raw.values())
    with connect.connect(settings(pg_database, user="wrong", password="other")) as guest:
        facts = observe.observe(guest, "main", QUERIES, passwords=wanted).facts
    assert set(facts.options["password_state"].values()) == {"unknown"}


def test_a_refused_query_leaves_the_session_usable(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        with pytest.raises(Exception, match="does not exist"):
            observe.observe(session, "main", (Query("bad", lambda major: "SELECT nothing"),))
        assert wire.run(session, "COPY (SELECT 1) TO STDOUT") == [b"1\n"]


def test_ctrl_c_cancels_the_query_on_the_server(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            wire.send(session, ["BEGIN", "COPY (SELECT pg_sleep(20)) TO STDOUT"])
        assert time.monotonic() - started < 5
        assert wire.send(session, ["ROLLBACK"]).refusal is None


def test_a_message_larger_than_the_socket_buffers_goes_through(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session:
        big = "x" * 3_000_000
        copies = wire.run(session, *[f"COPY (SELECT '{big}'::text) TO STDOUT"] * 4)
        assert [len(c) for c in copies] == [3_000_001] * 4
        with pytest.raises(Refusal):
            wire.run(session, "SELECT 1", "SELEC 2")
