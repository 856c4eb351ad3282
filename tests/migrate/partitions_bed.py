"""A plane with rolling sets on a real server, for tests: declared, applied, maintained, and looked at in plain SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded import postgres
from provision.migrate.partitions.report import Report
from provision.migrate.partitions.runner import Patience
from provision.plan.plan import Plan
from provision.reconcile import maintaining, open_plane
from tests.live.drift_bed import Bed as Plain

#: The clock of most tests.
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SET = "pg:main/app/events/partitions/set"
DAY = timedelta(days=1)
DAILY = {"every": "1 day", "premake": 3, "retain": "5 days"}
CONSENT = f"data_loss:{SET}"
HASTY = Patience(lock_timeout_ms=100, tries=2, quiet_ms=200)
COLUMNS = {"id": {"type": "bigint", "nullable": False}, "at": {"type": "timestamptz", "nullable": False}}
_PARTITIONS = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = %s::regclass ORDER BY c.relname"""

_FILL = """
    INSERT INTO app.events (id, at)
    SELECT (extract(epoch FROM t) / 3600)::bigint, t FROM generate_series(%s, %s, interval '1 hour') t"""


class Bed:
    """One database under maintenance. ``server`` are psycopg's keywords."""

    def __init__(self, root: Path, server: Mapping[str, Any]) -> None:
        self.server = dict(server)
        self.root = root
        target = {
            "kind": "external", "host": server["host"], "port": server["port"], "user": server["user"],
            "database": server["dbname"], "password": {"file": str(_secret(root, server["password"]))},
        }  # fmt: skip
        self.plain = Plain(root, {"postgres": {"main": target}})

    def declare(self, partitions: Mapping[str, Any], **table: Any) -> None:
        """Declare app.events with a partition set; its key is ``at`` unless told. ``roles`` stand beside it."""
        roles = table.pop("roles", {})
        split = {"by": "range", "key": ["at"], **partitions}
        events = {"columns": COLUMNS, "primary_key": ["id", split["key"][0]], "partitions": split, **table}
        if split["key"][0] == "id":
            events["primary_key"] = ["id"]
        self.plain.declare({"roles": roles, "schemas": {"app": {"tables": {"events": events}}}})

    def apply(self, clock: datetime = NOON, *allowed: str) -> Plan:
        with open_plane(self.plain.specs, "dev", cache=self.plain.cache) as plane:
            plan = plane.plan(clock=clock)
            plane.apply(plan, allowed=allowed)
            return plan

    def plan(self, clock: datetime = NOON) -> Plan:
        with open_plane(self.plain.specs, "dev", cache=self.plain.cache) as plane:
            return plane.plan(clock=clock)

    def maintain(self, clock: datetime = NOON, *allowed: str, **wish: Any) -> Report:
        """One run at a moment that the server's clock shows, too; nothing may fail unless ``failing`` is given."""
        failing = wish.pop("failing", False)
        wish.setdefault("patience", Patience(lock_timeout_ms=500))
        wish.setdefault("archive", self.root / "archive")
        wish.setdefault("server_clock", clock)
        asked = maintaining.Wish(clock, allowed=allowed, **wish)
        report = maintaining.maintain(self.plain.specs, "dev", asked, cache=self.plain.cache)
        assert failing or not report.problems, report.problems
        return report

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**self.server, autocommit=True, **options)

    def run(self, statement: str, *values: Any) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def partitions(self, table: str = "app.events") -> dict[str, str]:
        with self.connect(options="-c timezone=UTC") as connection:
            return dict(connection.execute(_PARTITIONS, [table]).fetchall())

    def names(self) -> list[str]:
        return [name.removeprefix("events_") for name in self.partitions()]


def _secret(root: Path, value: str) -> Path:
    place = root / "password"
    root.mkdir(parents=True, exist_ok=True)
    place.write_text(value)
    return place


def done(report: Report) -> list[tuple[str, str]]:
    """What was done to which partition."""
    return [(a.action, a.partition.removeprefix("events_")) for a in report.actions if a.state == "done"]


def debian(major: int, root: Path) -> postgres.Server:
    """A server that Debian installed and that does not run yet; skips where there is none."""
    programs = Path(f"/usr/lib/postgresql/{major}/bin")
    if not programs.exists():
        pytest.skip(f"PostgreSQL {major} is not on this machine")
    return postgres.Server(root / f"postgres-{major}", major=major, fsync=False, bin_dir=programs)


def fill(bed: Bed, first: datetime, last: datetime) -> int:
    """One row each hour; gives how many."""
    bed.run(_FILL, first, last)
    return int((last - first) / timedelta(hours=1)) + 1


def rows(bed: Bed) -> int:
    return int(bed.run("SELECT count(*) FROM app.events")[0][0])
