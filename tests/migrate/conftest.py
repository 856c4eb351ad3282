"""A database with the schema ``migrations`` as the plane declares it, and a folder of migrations beside its specs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from provision.embedded import postgres
from provision.migrate import files
from provision.migrate.runner import Runner
from provision.postgres import connect
from provision.postgres.apply import Limits
from tests.migrate.small_shop import Shop, plain_history
from tests.postgres.io_steps import settings


def _specs() -> dict[str, Any]:
    return {"plane": "small", "schemas": {"migrations": plain_history()}}


class Bed:
    """Specs, a folder of migrations and a database; ``run`` is the command line."""

    def __init__(self, root: Path, database: Mapping[str, Any]) -> None:
        self.root = root
        self.folder = root / "migrations"
        self.database = dict(database)
        (root / "specs/environments").mkdir(parents=True)
        self.folder.mkdir()
        (root / "specs/plane.yaml").write_text(json.dumps(_specs()))
        target = {
            "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
            "password": {"env": "PG_SECRET"}, "database": database["dbname"],
        }  # fmt: skip
        (root / "specs/environments/dev.yaml").write_text(json.dumps({"targets": {"postgres": {"main": target}}}))

    def write(self, name: str, text: str, *, header: str = "", version: str | None = None) -> Path:
        """Write a file; without ``version`` it is 1.N.0 for the number N of its name."""
        path = self.folder / name
        path.write_text(f"-- version: {version or f'1.{int(name[:4])}.0'}\n{header}{text}\n")
        return path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "provision.cli", "--specs", str(self.root / "specs"), *arguments]

    def environment(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if k != "NO_COLOR"},
            "PG_SECRET": str(self.database["password"]), "HOLDFAST_CACHE": str(self.root / "cache"),
        }  # fmt: skip

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment(), check=False, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL, cwd=self.root,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert "Traceback" not in told, told
        assert code is None or done.returncode == code, told
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.environment(), text=True, cwd=self.root, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def column(self, statement: str) -> list[Any]:
        return [row[0] for row in self.sql(statement)]

    def runner(self, connection: connect.Connection, **more: Any) -> Runner:
        """A runner of the folder's migrations, which must be faultless."""
        migrations, faults = files.read(self.folder)
        assert faults == ()
        limits = Limits(tries=3, first_pause_s=0.05, longest_pause_s=0.1)
        return Runner(connection, migrations, "dev", **{"limits": limits, **more})

    def session(self) -> connect.Connection:
        return connect.connect(settings(self.database))

    def up(self, to: str | None = None, **more: Any) -> list[str]:
        with self.session() as connection:
            return [ran.migration.version for ran in self.runner(connection, **more).up(to)]

    def down(self, to: str | None = None, **more: Any) -> list[str]:
        with self.session() as connection:
            return [ran.migration.version for ran in self.runner(connection, **more).down(to)]

    def events(self, version: str) -> list[tuple[Any, ...]]:
        return self.sql(
            "SELECT direction, event, statement FROM migrations.history"
            f" WHERE migration_version = '{version}' ORDER BY event_id"
        )

    def states(self) -> dict[str, str]:
        with self.session() as connection:
            return {row["version"]: row["state"] for row in self.runner(connection).status()}


@pytest.fixture(scope="session")
def migrations_template(pg_server: postgres.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database to copy, to which the specs were applied."""
    name = f"template_{uuid4().hex[:12]}"
    pg_server.create_database(name)
    bed = Bed(tmp_path_factory.mktemp("template"), pg_server.dsn(name))
    bed.run("apply", "--yes")
    yield name
    pg_server.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def bed(pg_server: postgres.Server, migrations_template: str, tmp_path: Path) -> Iterator[Bed]:
    """An empty folder of migrations, and a database that has the schema they are recorded in."""
    name = f"test_{uuid4().hex[:12]}"
    pg_server.query(f'CREATE DATABASE "{name}" TEMPLATE "{migrations_template}"')
    yield Bed(tmp_path, pg_server.dsn(name))
    pg_server.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def scratch_cache(server_root: Path) -> Path:
    """A cache folder that scratch servers can live in, so that each is made once."""
    found = server_root / "cache"
    for folder in (found, found / "holdfast"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
    return found


@pytest.fixture(scope="session")
def shop_files(scratch_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The first migration of the small shop, as ``migrate new --from-plan`` writes it."""
    shop = Shop(tmp_path_factory.mktemp("first"), scratch_cache)
    shop.run("migrate", "new", "create_shop", "--from-plan")
    return shop.files()


@pytest.fixture
def shop(tmp_path: Path, scratch_cache: Path, shop_files: dict[str, str]) -> Shop:
    """The small shop with its first migration; its database is not there."""
    found = Shop(tmp_path, scratch_cache)
    found.write(shop_files)
    return found
