"""One embedded PostgreSQL server through its life: starts, crashes, strangers' pids, other passwords."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from provision.embedded import postgres
from provision.embedded.account import Account, readable_copy
from provision.embedded.postgres import Server
from provision.embedded.process import ServerError, inside


@pytest.fixture
def server(homes: Path) -> Iterator[Server]:
    """A server of its own, down."""
    server = Server(homes / "pg", fsync=False)
    yield server
    server.remove()


@pytest.mark.parametrize("fixture", ["pg_server", "pg16_server"])
def test_settings_carry_the_plane(fixture: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(fixture)
    with psycopg.connect(**server.dsn()) as link:
        shown = dict(link.execute("SELECT name, setting FROM pg_settings").fetchall())
        assert link.info.server_version // 10000 == server.major
        assert link.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone()
    assert int(shown["max_connections"]) >= 200
    assert int(shown["max_prepared_transactions"]) > 0
    assert int(shown["max_locks_per_transaction"]) >= 1024
    assert shown["wal_level"] == "logical"
    assert shown["password_encryption"] == "scram-sha-256"
    assert shown["listen_addresses"] == "127.0.0.1"
    assert shown["TimeZone"] == "UTC"
    assert shown["server_encoding"] == "UTF8"
    assert shown["data_checksums"] == "on"


def test_data_is_synced_to_disk_unless_told_otherwise(homes: Path) -> None:
    with Server(homes / "pg") as server:
        assert server.query("SELECT current_setting('fsync')") == [["on"]]


def test_every_connection_needs_the_password(pg_server: Server) -> None:
    methods = pg_server.query("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert methods == [["scram-sha-256"]]
    for host in ("127.0.0.1", str(pg_server.socket_dir)):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(**pg_server.dsn() | {"password": "wrong", "host": host})


def test_it_never_runs_as_root(pg_server: Server) -> None:
    assert pg_server.pid is not None
    assert 0 not in psutil.Process(pg_server.pid).uids()


def test_starting_twice_leaves_the_running_server_alone(server: Server) -> None:
    assert server.start()
    other = Server(server.home, password=server.password, fsync=False)
    assert not other.start()
    assert (other.pid, other.port) == (server.pid, server.port)
    assert not other.is_outdated
    assert Server(server.home, settings={"work_mem": "64MB"}).is_outdated


def test_committed_rows_survive_kill_9(server: Server) -> None:
    server.start()
    server.query("CREATE TABLE kept AS SELECT 42 AS value")
    port = server.port
    server.kill()
    assert server.pid is None
    assert server.start()
    assert server.query("SELECT value FROM kept") == [["42"]]
    assert server.port == port


def test_a_child_that_outlives_kill_9_does_not_hold_up_the_next_start(server: Server) -> None:
    server.start()
    link = psycopg.connect(**server.dsn(), autocommit=True)
    link.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
    busy = link.info.backend_pid
    time.sleep(0.2)
    server.kill()
    assert busy in inside(server.data_dir, "postgres")
    assert server.start()
    assert busy not in inside(server.data_dir, "postgres")
    link.close()
    assert server.query("SELECT 1") == [["1"]]


def test_a_pid_that_became_another_process_is_never_signalled(server: Server) -> None:
    server.start()
    server.kill()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lock_file = server.data_dir / "postmaster.pid"
        _, _, rest = lock_file.read_text().partition("\n")
        lock_file.write_text(f"{stranger.pid}\n{rest}")
        assert server.pid is None
        assert not server.stop()
        assert server.start()
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert server.query("SELECT 1") == [["1"]]


def test_an_interrupted_first_start_leaves_nothing_in_the_way(server: Server) -> None:
    server.home.mkdir()
    (server.home / "data.new").mkdir()
    (server.home / "data.new" / "PG_VERSION").write_text("18\n")
    os.chown(server.home, *_owner(server.account))
    assert server.start()


def test_a_lost_password_is_replaced(server: Server) -> None:
    server.start()
    server.query("CREATE TABLE kept AS SELECT 1")
    with Server(server.home, password="a 'new' one", fsync=False) as other:
        assert other.query("SELECT count(*) FROM kept") == [["1"]]
        with pytest.raises(ServerError, match="password authentication failed"):
            server.query("SELECT 1")


def test_a_taken_port_is_left_to_its_owner(server: Server, pg_server: Server) -> None:
    server.port = pg_server.port
    server.start()
    assert server.port != pg_server.port
    assert pg_server.pid != server.pid


def test_a_long_path_gets_a_short_socket_folder(homes: Path) -> None:
    with Server(homes / ("long" * 30), fsync=False) as server:
        assert len(str(server.socket_dir)) < 100
        with psycopg.connect(**server.dsn() | {"host": str(server.socket_dir)}) as link:
            assert link.execute("SELECT 1").fetchone() == (1,)
        server.remove()
        assert not server.socket_dir.exists()


def test_another_major_than_the_stored_one_is_refused(server: Server) -> None:
    server.start()
    server.stop()
    with pytest.raises(ServerError, match="holds PostgreSQL 18, and 16 is asked for"):
        Server(server.home, major=16).start()


def test_an_unknown_major_is_refused() -> None:
    with pytest.raises(ServerError, match="no embedded PostgreSQL 12"):
        postgres.programs(12, Account(None, None))


def test_a_setting_that_the_server_refuses_is_reported_with_its_log(server: Server) -> None:
    server.settings["wal_level"] = "sometimes"
    with pytest.raises(ServerError, match='invalid value for parameter "wal_level"'):
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user reads what it installed")
def test_programs_that_the_account_cannot_read_are_copied(
    tmp_path: Path, homes: Path, pg_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    (private / "package").mkdir(parents=True)
    private.chmod(0o700)
    (private / "package" / "program").write_text("#!/bin/sh\n")
    monkeypatch.setattr("provision.embedded.account.SHELTER", homes / "shelter")
    for _ in range(2):
        copy = readable_copy(pg_server.account, [private / "package"], "program-1.0")
        assert pg_server.account.can_read(copy / "package")
    assert private.stat().st_mode & 0o777 == 0o700


def _owner(account: Account) -> tuple[int, int]:
    return (-1, -1) if account.uid is None or account.gid is None else (account.uid, account.gid)
