"""A small plane on real servers, driven through the command as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.caches import expressions

SPECS = """\
plane: small
streams:
  EVENTS:
    subjects: [events.>]
    max_age: 1h
    max_bytes: 1MiB
    max_msgs: 1000
    consumers:
      worker: {ack_policy: explicit, ack_wait: 30s, max_deliver: 3, filter_subject: events.>, dead_letter: none}
buckets:
  STATE: {ttl: 30m, history: 5, max_bytes: 1MiB}
roles:
  small_app: {login: true, connection_limit: 10, password: {env: SMALL_PASSWORD}}
schemas:
  app:
    enums:
      mood: [calm, busy]
    tables:
      owner:
        columns:
          id: {type: bigint, nullable: false, identity: always}
          name: {type: varchar(50), nullable: false}
        primary_key: [id]
        checks: {owner_name: length(name) > 0}
      item:
        columns:
          id: {type: bigint, nullable: false}
          owner_id: {type: bigint, nullable: false}
          mood: {type: app.mood, nullable: false, default: "'calm'"}
          price: {type: "numeric(10,2)", nullable: false, default: 0}
          at: {type: timestamptz, nullable: false, default: now()}
        primary_key: [id]
        foreign_keys: {item_owner: {columns: [owner_id], references: app.owner, on_delete: cascade}}
        indexes: {item_at: {columns: [at], where: price > 0}}
        grants: {small_app: [select, insert]}
      log:
        columns:
          id: {type: bigint, nullable: false}
          at: {type: timestamptz, nullable: false}
        primary_key: [id, at]
        partitions: {by: range, key: [at], every: 1 day, premake: 3}
    views:
      cheap: {query: "SELECT id, price FROM app.item WHERE price < 10"}
"""


class Plane:
    """A folder with specs and an environment for running servers; ``run`` is the command line."""

    def __init__(self, root: Path, database: dict[str, Any], url: str) -> None:
        self.root = root
        self.specs = root / "specs"
        self.database = database
        self.url = url
        self.cache = expressions()
        self.variables = {"PG_SECRET": str(database["password"]), "SMALL_PASSWORD": "s3cret-one"}
        (self.specs / "environments").mkdir(parents=True)
        self.write(SPECS)
        self.target(database["port"])

    def write(self, text: str) -> None:
        (self.specs / "plane.yaml").write_text(text)

    def edit(self, old: str, new: str) -> None:
        text = (self.specs / "plane.yaml").read_text()
        assert old in text
        self.write(text.replace(old, new))

    def target(self, port: int, user: str | None = None, url: str | None = None) -> None:
        database = {**self.database, "port": port, "user": user or self.database["user"]}
        postgres = {
            "kind": "external", "host": database["host"], "port": port, "user": database["user"],
            "password": {"env": "PG_SECRET"}, "database": database["dbname"],
        }  # fmt: skip
        targets = {"postgres": {"main": postgres}, "nats": {"main": {"kind": "external", "urls": [url or self.url]}}}
        (self.specs / "environments" / "dev.yaml").write_text(json.dumps({"targets": targets}))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "provision.cli", "--specs", str(self.specs), *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        return {**kept, **self.variables, "HOLDFAST_CACHE": self.cache, **more}

    def run(self, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment(**more), check=False, capture_output=True, text=True,
            timeout=120, stdin=subprocess.DEVNULL, cwd=self.root,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert "Traceback" not in told, told
        for secret in self.variables.values():
            assert secret not in told
        assert code is None or done.returncode == code, told
        return done

    def plan(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("plan", "--format", "json", *arguments).stdout)
        return found

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def plane(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Plane:
    """A small plane that nobody has applied yet."""
    return Plane(tmp_path, pg_database, nats_url)


@pytest.fixture
def applied(plane: Plane) -> Plane:
    """The same, applied."""
    plane.run("apply", "--yes")
    return plane
