"""``holdfast dev env``: what a program needs to reach embedded servers, as a shell takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from provision.embedded import environment, secrets
from provision.reconcile import local

NASTY = 'it\'s $HOME "and" `more`'


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "provision.cli", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def shop(project: Path) -> Path:
    """A folder with the small plane of init and a pool's role."""
    assert run(project, "init", "--plane", "shop").returncode == 0
    (project / "specs" / "pools.yaml").write_text(
        "roles:\n  app:\n    login: true\n    password: {env: APP_DB_PASSWORD}\n"
        "pools:\n  primary: {role: app}\n"
    )  # fmt: skip
    return project


@pytest.mark.req("D9.1")
def test_a_shell_takes_the_variables_and_reaches_the_servers(shop: Path) -> None:
    before = run(shop, "dev", "env")
    assert (before.returncode, before.stdout) == (1, "")
    assert "holdfast dev up" in before.stderr
    assert run(shop, "dev", "up").returncode == 0
    secrets_file = shop / ".holdfast" / "dev" / "secrets.env"
    secrets._write(secrets_file, {**secrets.read(secrets_file), "APP_DB_PASSWORD": NASTY})
    assert run(shop, "apply", "--yes").returncode == 0

    printed = run(shop, "dev", "env")
    assert printed.returncode == 0
    assert all(line.startswith("export ") for line in printed.stdout.splitlines())
    script = 'eval "$1"; env -0'
    shell = subprocess.run(
        ["sh", "-c", script, "sh", printed.stdout], env={}, capture_output=True, text=True, check=True
    )
    found = dict(entry.partition("=")[::2] for entry in shell.stdout.split("\0") if entry)
    running = environment.status(shop, "dev")
    assert running is not None
    assert found["HOLDFAST_PLANE"] == "shop"
    assert found["HOLDFAST_ENV"] == "dev"
    assert found["NATS_SERVERS"] == running.nats["main"].url
    assert found["APP_DB_PASSWORD"] == NASTY
    assert secrets.ADMIN_PASSWORD not in found
    with psycopg.connect(
        host=found["PG_HOST"],
        port=found["PG_PORT"],
        dbname=found["PG_DATABASE"],
        user="app",
        password=found["APP_DB_PASSWORD"],
    ) as connection:
        assert connection.info.user == "app"


def test_where_nothing_was_started_there_are_no_variables(shop: Path) -> None:
    assert local.variables(shop / "specs", "dev") is None
