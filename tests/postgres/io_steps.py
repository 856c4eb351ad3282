"""Steps and sessions for the tests of the I/O half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.plan.plan import Step
from provision.postgres.connect import Settings
from provision.spec.change import Hazard, Sql


def settings(database: Mapping[str, Any], /, **changes: Any) -> Settings:
    """The settings of a fixture's database."""
    found = {
        "host": database["host"],
        "port": database["port"],
        "database": database["dbname"],
        "user": database["user"],
        "password": database["password"],
        "sslmode": "disable",
    }
    return Settings(**(found | changes))


def step(
    name: str,
    sql: str,
    *,
    transactional: bool = True,
    fresh: bool = False,
    lock: str | None = None,
    undo: str | None = None,
    done_if: str | None = None,
    secrets: Mapping[str, Any] | None = None,
    hazards: tuple[Hazard, ...] = (),
    gone: tuple[str, ...] = (),
) -> Step:
    """A step that makes the object ``pg:main/<name>``."""
    address = f"pg:main/{name}"
    return Step(
        id=f"{address}#create",
        object=address,
        action="create",
        system="pg",
        target="main",
        summary=name,
        request=Sql(sql, secrets),
        lock=lock,
        hazards=hazards,
        transactional=transactional,
        fresh=fresh,
        after=(),
        undo=Sql(undo) if undo else None,
        done_if=done_if,
        made=() if gone else (address,),
        gone=gone,
    )


def index_is_valid(name: str) -> str:
    found = f"SELECT FROM pg_index WHERE indexrelid = to_regclass('{name}') AND indisvalid"
    return f"SELECT EXISTS ({found})"


def plan() -> list[Step]:
    """A plan with every kind of step: fresh ones together, single ones, and one outside of any transaction."""
    return [
        step("app", "CREATE SCHEMA app", fresh=True),
        step("app/jobs", "CREATE TABLE app.jobs (id bigint PRIMARY KEY, note text)", fresh=True),
        step("app/logs", "CREATE TABLE app.logs (id bigint, job bigint)", fresh=True),
        step(
            "app/logs/foreign_key/job",
            "ALTER TABLE app.logs ADD CONSTRAINT job FOREIGN KEY (job) REFERENCES app.jobs NOT VALID",
            lock="SHARE ROW EXCLUSIVE",
        ),
        step(
            "app/jobs/index/notes",
            "CREATE INDEX CONCURRENTLY notes ON app.jobs (note)",
            transactional=False,
            lock="SHARE UPDATE EXCLUSIVE",
            undo="DROP INDEX CONCURRENTLY IF EXISTS app.notes",
            done_if=index_is_valid("app.notes"),
        ),
        step(
            "app/logs/check/positive",
            "ALTER TABLE app.logs ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
            lock="ACCESS EXCLUSIVE",
        ),
    ]
