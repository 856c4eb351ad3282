"""The embedded servers of an environment: found again, safe after crashes, private, and gone after reset."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from provision.embedded import environment
from provision.embedded.account import Account
from provision.embedded.environment import NatsSpec, PostgresSpec, Running
from provision.embedded.nats import Server as NatsServer
from provision.embedded.postgres import Server as PostgresServer
from provision.embedded.process import ServerError

#: Tests wait for no disk.
POSTGRES = {"main": PostgresSpec(settings={"fsync": False})}
NATS = {"main": NatsSpec()}


def start(project: Path, secrets: tuple[str, ...] = ("PRIMARY_DB_PASSWORD",)) -> Running:
    return environment.up(project, "dev", POSTGRES, NATS, secrets)


def pids(running: Running) -> list[int | None]:
    return [running.postgres["main"].pid, running.nats["main"].pid]


def modes(folder: Path) -> dict[str, tuple[int, int]]:
    """Mode and owner of a folder and of everything in it that we made."""
    found = [folder, *folder.parents, folder / ".holdfast", *folder.glob(".holdfast/**/*")]
    kept = [p for p in found if "data" not in p.parts and "jetstream" not in p.parts and p.exists()]
    return {str(p): (p.stat().st_mode, p.stat().st_uid) for p in kept if not p.is_socket()}


def test_up_gives_a_database_and_jetstream(project: Path) -> None:
    running = start(project)
    assert running.started == ("postgres main", "nats main")
    assert running.notes == ()
    assert running.is_up
    assert running.postgres["main"].home.is_relative_to(project / ".holdfast" / "dev")
    with psycopg.connect(**running.postgres["main"].dsn()) as link:
        assert link.info.dbname == "agents"
        assert link.info.user == "holdfast_admin"
    info = NatsServer(running.nats["main"].home, port=running.nats["main"].port).info()
    assert info is not None
    assert info["jetstream"] is True


def test_up_again_changes_nothing(project: Path) -> None:
    first = start(project)
    before = modes(project)
    second = start(project)
    assert second.started == ()
    assert second.notes == ()
    assert pids(second) == pids(first)
    assert second.postgres["main"].dsn() == first.postgres["main"].dsn()
    assert modes(project) == before


def test_up_after_kill_9_finds_its_data_and_ports(project: Path) -> None:
    first = start(project)
    with psycopg.connect(**first.postgres["main"].dsn()) as link:
        link.execute("CREATE TABLE kept AS SELECT 42 AS value")
    PostgresServer(first.postgres["main"].home).kill()
    NatsServer(first.nats["main"].home).kill()
    crashed = environment.status(project, "dev")
    assert crashed is not None
    assert pids(crashed) == [None, None]
    second = start(project)
    assert second.started == ("postgres main", "nats main")
    assert second.nats["main"].url == first.nats["main"].url
    with psycopg.connect(**first.postgres["main"].dsn()) as link:
        assert link.execute("SELECT value FROM kept").fetchone() == (42,)


def test_down_keeps_the_data_and_reset_does_not(project: Path) -> None:
    first = start(project)
    assert environment.down(project, "dev") == ("postgres main", "nats main")
    assert environment.down(project, "dev") == ()
    stopped = environment.status(project, "dev")
    assert stopped is not None
    assert not stopped.is_up
    assert first.postgres["main"].home.exists()
    assert environment.reset(project, "dev")
    assert environment.status(project, "dev") is None
    assert not first.postgres["main"].home.exists()
    assert not environment.reset(project, "dev")
    assert environment.load_secrets(project, "dev") == {}


def test_secrets_are_made_once_kept_private_and_never_shown(project: Path) -> None:
    running = start(project)
    file = project / ".holdfast" / "dev" / "secrets.env"
    first = environment.load_secrets(project, "dev")
    assert set(first) == {"HOLDFAST_ADMIN_PASSWORD", "PRIMARY_DB_PASSWORD"}
    assert file.stat().st_mode & 0o777 == 0o600
    second = start(project, ("PRIMARY_DB_PASSWORD", "OTHER"))
    later = environment.load_secrets(project, "dev")
    assert later.items() > first.items()
    sourced = subprocess.run(
        ["sh", "-ec", f'. "{file}"; printf %s "$OTHER"'], capture_output=True, text=True, check=True
    )
    assert sourced.stdout == later["OTHER"]
    shown = repr(running) + repr(second) + (file.parent / "state.json").read_text()
    assert not [value for value in later.values() if value in shown]


def test_a_lost_secrets_file_gets_new_passwords(project: Path) -> None:
    start(project)
    (project / ".holdfast" / "dev" / "secrets.env").unlink()
    running = start(project)
    psycopg.connect(**running.postgres["main"].dsn()).close()


def test_a_lost_state_file_does_not_lose_the_servers(project: Path) -> None:
    first = start(project)
    (project / ".holdfast" / "dev" / "state.json").unlink()
    second = start(project)
    assert second.started == ()
    assert pids(second) == pids(first)
    assert second.postgres["main"].port == first.postgres["main"].port


def test_starts_at_the_same_time_start_one_of_each(project: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path; from provision.embedded import environment as e;"
        "r = e.up(Path(sys.argv[1]), 'dev', {'main': e.PostgresSpec(settings={'fsync': False})},"
        " {'main': e.NatsSpec()}, ['A']);"
        "p, n = r.postgres['main'], r.nats['main'];"
        "print(json.dumps([r.started, p.pid, n.pid, p.password]))"
    )
    command = [sys.executable, "-c", script, str(project)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [json.loads(run.communicate(timeout=90)[0]) for run in runs]
    assert sorted(len(started) for started, *_ in answers) == [0, 0, 2]
    assert len({tuple(rest) for _, *rest in answers}) == 1


def test_targets_are_separate_servers(project: Path) -> None:
    running = environment.up(
        project,
        "dev",
        {
            "main": PostgresSpec(database="one", settings={"fsync": False}),
            "archive": PostgresSpec(major=16, database="two", settings={"fsync": False}),
        },
        {"main": NatsSpec(), "edge": NatsSpec(max_payload=4096, tags=("edge",))},
    )
    assert [s.version.partition(".")[0] for s in running.postgres.values()] == ["18", "16"]
    ports = [s.port for s in running.postgres.values()] + [s.port for s in running.nats.values()]
    assert len(set(ports)) == 4
    with psycopg.connect(**running.postgres["archive"].dsn()) as link:
        assert link.info.dbname == "two"
    info = NatsServer(running.nats["edge"].home, port=running.nats["edge"].port).info()
    assert info is not None
    assert info["max_payload"] == 4096


def test_changed_settings_are_announced_and_used_after_a_restart(project: Path) -> None:
    start(project)
    spec = {"main": PostgresSpec(settings={"fsync": False, "max_connections": 250})}
    (note,) = environment.up(project, "dev", spec, NATS).notes
    assert "runs with older settings" in note
    environment.down(project, "dev")
    running = environment.up(project, "dev", spec, NATS)
    with psycopg.connect(**running.postgres["main"].dsn()) as link:
        assert link.execute("SHOW max_connections").fetchone() == ("250",)


def test_a_moved_project_finds_its_data(project: Path) -> None:
    before = start(project)
    with psycopg.connect(**before.postgres["main"].dsn()) as link:
        link.execute("CREATE TABLE kept ()")
    moved = project / "moved"
    moved.mkdir(mode=0o755)
    (project / ".holdfast").rename(moved / ".holdfast")
    running = start(moved)
    assert running.started == ()  # they run on, and are recognised under the new path
    environment.down(moved, "dev")
    start(moved)
    with psycopg.connect(**running.postgres["main"].dsn()) as link:
        assert link.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    environment.reset(moved, "dev")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_a_name_that_leaves_the_folder_is_refused(project: Path, name: str) -> None:
    with pytest.raises(ServerError, match="cannot be the name"):
        environment.up(project, name, POSTGRES, NATS)
    with pytest.raises(ServerError, match="cannot be the name"):
        environment.up(project, "dev", {}, {name: NatsSpec()})


def test_a_folder_that_cannot_be_made_is_one_clear_error(project: Path) -> None:
    (project / ".holdfast").write_text("a file")
    with pytest.raises(ServerError, match=r"\.holdfast"):
        start(project)
    (project / ".holdfast").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers have an account of their own")
def test_data_goes_where_the_account_can_reach_it(
    tmp_path: Path, server_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelter = server_root / "shelter"
    monkeypatch.setattr("provision.embedded.account.SHELTER", shelter)
    monkeypatch.setattr("provision.embedded.environment.SHELTER", shelter)
    tmp_path.chmod(0o700)
    before = modes(tmp_path)
    running = environment.up(tmp_path, "dev", POSTGRES, {})
    assert running.postgres["main"].home.is_relative_to(shelter)
    assert str(running.postgres["main"].home) in running.notes[0]
    assert {path: modes(tmp_path)[path] for path in before} == before
    again = environment.up(tmp_path, "dev", POSTGRES, {})
    assert (again.started, again.notes) == ((), ())
    assert environment.reset(tmp_path, "dev")
    assert not running.postgres["main"].home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_needs_nothing_of_root(server_root: Path) -> None:
    user = pwd.getpwnam("nobody")
    if not Account(user.pw_uid, user.pw_gid).can_read(Path(environment.__file__).parent):
        pytest.skip("other users cannot read this checkout")
    project = server_root / "ordinary"
    project.mkdir(mode=0o700)
    os.chown(project, user.pw_uid, user.pw_gid)
    # Python itself may lie in root's home: it starts as root and gives root up before the first call.
    script = (
        "import os, sys, email.parser, encodings.idna, json, psutil; from pathlib import Path;"
        "from provision.embedded import environment as e; root = Path(sys.argv[1]);"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]));"
        "specs = ({'main': e.PostgresSpec(settings={'fsync': False})}, {'main': e.NatsSpec()}, ['A']);"
        "r = e.up(root, 'dev', *specs); again = e.up(root, 'dev', *specs);"
        "uids = [psutil.Process(s.pid).uids().real for s in (r.postgres['main'], r.nats['main'])];"
        "print(json.dumps([r.started, again.started, uids, e.down(root, 'dev'), e.reset(root, 'dev')]))"
    )
    command = [sys.executable, "-c", script, str(project), str(user.pw_gid), str(user.pw_uid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    finally:
        environment.reset(project, "dev")
    assert done.returncode == 0, done.stderr
    both = ["postgres main", "nats main"]
    assert json.loads(done.stdout) == [both, [], [user.pw_uid, user.pw_uid], both, True]
    assert project.stat().st_mode & 0o777 == 0o700
