"""Settings of targets, and what people are told when a server does not let us in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from provision.postgres import connect, wire
from provision.postgres.errors import (
    AuthenticationFailed,
    ConfigurationError,
    NoSuchDatabase,
    PermissionDenied,
    PooledEndpoint,
    ServerTooOld,
    Unreachable,
)
from provision.spec.errors import UnreachableError
from tests.postgres.io_steps import settings

SECRET = "p@ss/w:rd ?&'\\%41"


def resolve(reference: Mapping[str, str]) -> str:
    known = {
        "PW": SECRET,
        "DSN": "postgresql://u:p%40ss@h:6000/d?sslmode=require",
        "PLACE": "db.example:5434",
    }
    return known[reference["env"]]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"form": "local"}, {"host": "localhost", "sslmode": "disable"}),
        ({"form": "local", "host": "/run/pg"}, {"host": "/run/pg", "sslmode": "disable"}),
        ({"host": "/run/pg", "user": "app"}, {"host": "/run/pg", "user": "app", "sslmode": "disable"}),
        ({"form": "compose"}, {"host": "postgres", "sslmode": "prefer"}),
        (
            {"form": "kubernetes", "service": "db", "namespace": "data"},
            {"host": "db.data.svc.cluster.local", "sslmode": "require"},
        ),
        ({"form": "cloud", "host": "db.example"}, {"host": "db.example", "sslmode": "require"}),
        (
            {"form": "cloud", "host": "db.example", "tls": {"ca": "/ca.pem", "mode": None}},
            {"sslmode": "verify-full", "sslrootcert": "/ca.pem"},
        ),
        (
            {
                "host": "h",
                "connect_timeout": 5_000_000_000,
                "endpoints": {"primary": {"host": "db", "port": 5433}},
            },
            {"host": "db", "port": "5433", "connect_timeout": "5"},
        ),
        ({"endpoints": {"primary": {"env": "PLACE"}}}, {"host": "db.example", "port": "5434"}),
        (
            {"dsn": {"env": "DSN"}, "database": "other"},
            {"host": "h", "port": "6000", "password": "p@ss", "dbname": "other", "sslmode": "require"},
        ),
        (
            {"dsn": "host=a user=u", "host": "b", "password": {"env": "PW"}},
            {"host": "b", "user": "u", "password": SECRET},
        ),
    ],
)
@pytest.mark.req("D9.3", "D9.4", "D9.5")
def test_each_form_of_target_gives_its_keywords(target: dict[str, Any], expected: dict[str, str]) -> None:
    found = connect.keywords(connect.settings(target, resolve))
    assert expected.items() <= found.items()


@pytest.mark.req("D9.5")
def test_statement_timeout_travels_in_options_with_its_unit() -> None:
    found = connect.keywords(connect.settings({"form": "local"}, resolve))
    assert "-c statement_timeout=30000ms" in found["options"]


def test_a_replica_endpoint_that_is_not_declared_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no endpoint replica") as caught:
        connect.settings({"endpoints": {"primary": {"host": "a"}}}, resolve, endpoint="replica")
    assert "primary" in caught.value.help


def test_a_broken_dsn_is_refused_without_quoting_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect.settings({"dsn": "postgresql://u:hunter2@[broken"}, resolve)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_session_reads_and_prints_alike_whatever_the_role_is_set_to(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as admin:
        admin.execute("CREATE ROLE odd LOGIN PASSWORD 'x'")
        admin.execute("ALTER ROLE odd SET search_path = public")
        admin.execute("ALTER ROLE odd SET timezone = 'Asia/Tokyo'")
        admin.execute("ALTER ROLE odd SET statement_timeout = '1ms'")
    with connect.connect(settings(pg_database, user="odd", password="x")) as session:
        shown = [
            session.execute(f"SHOW {name}".encode()).fetchone()[0]  # type: ignore[index]
            for name in ("search_path", "timezone", "statement_timeout", "datestyle")
        ]
    assert shown == ["pg_catalog", "UTC", "30s", "ISO, MDY"]


@pytest.mark.req("D9.4")
def test_any_character_in_a_password_works(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as admin:
        admin.execute(psycopg.sql.SQL("CREATE ROLE special LOGIN PASSWORD {}").format(SECRET))
    with connect.connect(settings(pg_database, user="special", password=SECRET)) as session:
        assert session.execute("SELECT current_user").fetchone() == ("special",)


@pytest.mark.req("A4.8")
def test_a_wrong_password_is_one_sentence_without_it(pg_database: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        connect.connect(settings(pg_database, password="wrong-hunter2"))
    assert isinstance(caught.value, UnreachableError)
    assert "hunter2" not in f"{caught.value}{caught.value.help}{caught.value.__cause__}"
    assert caught.value.__cause__ is not None
    assert pg_database["user"] in str(caught.value)


def test_a_missing_password_is_said(pg_database: dict[str, Any]) -> None:
    assert "PGPASSWORD" not in os.environ
    with pytest.raises(AuthenticationFailed, match="none is set"):
        connect.connect(settings(pg_database, password=None))


def test_a_server_that_is_down_is_named(pg_database: dict[str, Any]) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/") as caught:
        connect.connect(settings(pg_database, port=1))
    assert caught.value.help


def test_a_missing_database_and_a_forbidden_one_are_told_apart(pg_database: dict[str, Any]) -> None:
    with pytest.raises(NoSuchDatabase):
        connect.connect(settings(pg_database, database="nowhere"))
    with connect.connect(settings(pg_database)) as admin:
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
        admin.execute(f'REVOKE CONNECT ON DATABASE "{pg_database["dbname"]}" FROM public'.encode())
    with pytest.raises(PermissionDenied) as caught:
        connect.connect(settings(pg_database, user="guest", password="x"))
    assert caught.value.grant == f"GRANT CONNECT ON DATABASE {pg_database['dbname']} TO guest"


def test_a_pooled_endpoint_is_refused_with_the_way_out(pg_database: dict[str, Any]) -> None:
    with pytest.raises(PooledEndpoint) as caught:
        connect.connect(settings(pg_database, pooled=True))
    assert "direct" in caught.value.help


def test_an_old_server_is_refused(pg_database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "OLDEST", 990000)
    with pytest.raises(ServerTooOld, match="PostgreSQL 18"):
        connect.connect(settings(pg_database))


def test_a_connection_that_breaks_is_unreachable(pg_database: dict[str, Any]) -> None:
    with connect.connect(settings(pg_database)) as session, connect.connect(settings(pg_database)) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid])
        for _ in range(2):
            with pytest.raises(Unreachable):
                wire.run(session, "SELECT 1")
