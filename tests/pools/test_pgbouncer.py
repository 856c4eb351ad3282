"""The rendered files, and a real PgBouncer that runs on them."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded.process import free_ports
from provision.pools import pgbouncer
from provision.pools.kinds import SECTION
from provision.spec.record import Record

BINARY = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
PASSWORD = 'pa"ss word'
DECLARED: dict[str, dict[str, Any]] = {
    "primary": {"role": "app_primary", "min": 2, "max": 4, "mode": "transaction"},
    "replica": {"role": "app_replica", "min": 1, "max": 3, "processes": 5},
    "background": {"role": "app_background", "min": 1, "max": 2, "application_name": "it's background"},
}


def pools() -> list[Record]:
    class Strict:
        plane, env = "test", "dev"

        def fail(self, pointer: object, error: Exception) -> None:
            raise error

        def report(self, *args: object, **kwargs: object) -> None:
            raise AssertionError(args)

    declared = {name: {**body, "pgbouncer": True} for name, body in DECLARED.items()}
    return list(SECTION.read(declared, Strict()))


def render(version: tuple[int, ...], **listen: Any) -> pgbouncer.Rendered:
    found = pools()
    endpoints = {p.address: pgbouncer.Endpoint("db.internal", 5432, "plane") for p in found}
    return pgbouncer.render(found, endpoints, version, pgbouncer.Listen(**listen))


def parsed(ini: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(ini)
    return parser


def test_no_secret_is_in_the_rendered_files() -> None:
    rendered = render((1, 18))
    assert '"app_primary" "{{app_primary}}"' in rendered.userlist
    assert "password" not in rendered.ini.lower()
    filled = pgbouncer.fill(rendered.userlist, ["app_primary"], lambda role: f'{role}"s')
    assert '"app_primary" "app_primary""s"' in filled
    assert '"app_replica" "{{app_replica}}"' in filled


@pytest.mark.parametrize(("version", "has"), [((1, 18, 0), False), ((1, 20, 1), False), ((1, 21, 0), True)])
def test_prepared_statements_are_kept_where_the_version_can(version: tuple[int, ...], has: bool) -> None:
    rendered = render(version)
    assert parsed(rendered.ini).has_option("pgbouncer", "max_prepared_statements") is has
    assert bool(rendered.notes) is not has
    if not has:
        assert [n.split(":")[0] for n in rendered.notes] == ["pool primary"]


def test_shared_settings_fit_every_pool() -> None:
    section = parsed(render((1, 21)).ini)["pgbouncer"]
    assert section["max_client_conn"] == str(2 * (4 + 3 * 5 + 2))
    assert section["auth_type"] == "scram-sha-256"


@pytest.fixture
def bouncer(pg_database: dict[str, Any], server_root: Path) -> Iterator[dict[str, Any]]:
    """Connection keywords of a running PgBouncer on the rendered files; the database is the pool's name."""
    if BINARY is None:
        pytest.skip("no pgbouncer program here; Debian has it as the package pgbouncer")
    said = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(n) for n in re.findall(r"\d+", said.splitlines()[0]))
    with psycopg.connect(**pg_database, autocommit=True) as admin:
        for role in ("app_primary", "app_replica", "app_background"):
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        verifiers = dict(admin.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"))
    found = pools()
    home = server_root / f"pgbouncer-{pg_database['dbname']}"
    home.mkdir(mode=0o755)
    (port,) = free_ports(1)
    server = pgbouncer.Endpoint(pg_database["host"], pg_database["port"], pg_database["dbname"])
    rendered = pgbouncer.render(
        found,
        {p.address: server for p in found},
        version,
        pgbouncer.Listen(port=port, auth_file=str(home / "userlist.txt"), admin_users=("app_background",), log_file=""),
    )
    (home / "pgbouncer.ini").write_text(rendered.ini)
    (home / "userlist.txt").write_text(pgbouncer.fill(rendered.userlist, verifiers, verifiers.__getitem__))
    user = ["--user", pwd.getpwnam("nobody").pw_name] if os.geteuid() == 0 else []
    log = (home / "log").open("wb")
    process = subprocess.Popen([BINARY, *user, str(home / "pgbouncer.ini")], stdout=log, stderr=log)
    keywords = {"host": "127.0.0.1", "port": port, "password": PASSWORD}
    try:
        _wait(process, keywords, home / "log")
        yield keywords
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait(process: subprocess.Popen[bytes], keywords: dict[str, Any], log: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(**keywords, user="app_background", dbname="pgbouncer", autocommit=True).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text())


def _show(keywords: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """Ask PgBouncer's console, which speaks the simple protocol only."""
    with psycopg.connect(
        **keywords,
        user="app_background",
        dbname="pgbouncer",
        autocommit=True,
        cursor_factory=psycopg.ClientCursor,
    ) as console:
        cursor = console.execute(f"SHOW {what}")
        names = [c.name for c in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def test_pgbouncer_runs_with_the_declared_sizes(bouncer: dict[str, Any]) -> None:
    databases = {d["name"]: d for d in _show(bouncer, "DATABASES")}
    for name, body in DECLARED.items():
        assert int(databases[name]["pool_size"]) == body["max"]
        assert int(databases[name]["min_pool_size"]) == body["min"]
        assert databases[name]["pool_mode"] == body.get("mode", "session")
    config = {row["key"]: row["value"] for row in _show(bouncer, "CONFIG")}
    assert config["max_client_conn"] == str(2 * (4 + 3 * 5 + 2))
    assert config["query_wait_timeout"] == "30"


def test_a_pool_opens_as_many_server_connections_as_declared_and_no_more(bouncer: dict[str, Any]) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(psycopg.connect(**bouncer, user="app_primary", dbname="primary"))
            assert client.execute("SELECT session_user").fetchone() == ("app_primary",)
        waiting = psycopg.connect(**bouncer, user="app_primary", dbname="primary", autocommit=True)
        stack.callback(waiting.close)
        waiting.pgconn.send_query(b"SELECT 1")
        deadline = time.monotonic() + 5
        while True:
            (pool,) = (p for p in _show(bouncer, "POOLS") if p["database"] == "primary")
            if int(pool["cl_waiting"]) == 1 or time.monotonic() > deadline:
                break
        assert (int(pool["sv_active"]), int(pool["cl_active"]), int(pool["cl_waiting"])) == (4, 4, 1)
