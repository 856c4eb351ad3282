"""``pulumi up`` makes a plane, takes over one that is there, and goes on where it was stopped."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provision.embedded import postgres
from tests.pulumi.stack import Small, Stack, whole

#: Typed resources with what Pulumi does not know before the first of them is made: its id.
TYPED = """\
import pulumi
from provision.pulumi.resources import Consumer, KeyValueBucket, PostgresDatabase, Provider, Stream

targets = pulumi.Config().require_object("targets")
plane = pulumi.ResourceOptions(provider=Provider("typed", plane="typed", env="dev", targets=targets))
first = Stream("first", plane, name="FIRST", subjects=["first.>"], max_bytes="1MiB", max_age="1h")
second = Stream("second", plane, name="SECOND", description=first.id, sources=[{"name": first.name}], max_bytes="1MiB",
                max_age="1h")
reader = Consumer("reader", plane, name="reader", stream=second.id.apply(lambda id: id.rpartition("/")[2]),
                  ack_policy="explicit", max_deliver=3)
pulumi.export("reader", reader.address)
for name in ("main", "archive"):
    columns = {"id": {"type": "bigint", "nullable": False}, "about": {"type": "text"}}
    table = {"columns": columns, "primary_key": ["id"], "comment": first.address}
    PostgresDatabase(name, plane, target=name, schemas={"app": {"tables": {"note": table}}})
late = Provider("late", plane="late", env="dev", targets=first.id.apply(lambda _: targets))
KeyValueBucket("settings", pulumi.ResourceOptions(provider=late), name="SETTINGS", max_bytes="1MiB")
"""


def written(stack: Stack, since: str) -> list[Any]:
    """Rows of the catalog that a transaction after this one wrote, outside our own ledger."""
    catalogs = (
        "pg_class",
        "pg_attribute",
        "pg_constraint",
        "pg_proc",
        "pg_type",
        "pg_policy",
        "pg_trigger",
        "pg_authid",
    )
    rows = " UNION ALL ".join(f"SELECT '{name}' FROM {name} WHERE age(xmin) < age('{since}'::xid)" for name in catalogs)
    return stack.sql(rows)


@pytest.mark.req("B3.1")
def test_the_whole_plane_comes_up_once(server_root: Path) -> None:
    with whole(server_root / "plane-up") as stack:
        made = stack.up()
        assert set(made.counts) == {"created"}
        assert stack.up().counts == {"unchanged": made.counts["created"]}
        assert stack.plan_is_empty()
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=1) + timedelta(days=1)
        assert stack.up(HOLDFAST_AS_OF=midnight.isoformat()).is_unchanged
        assert stack.plan_is_empty("--as-of", midnight.isoformat())
        content = json.loads(stack.resources()["plane:main/contract"]["outputs"]["content"])
        primary = content["pools"]["primary"]
        assert (primary["max"], primary["min"], primary["acquire_timeout"]) == (5, 1, 10 * 10**9), "as dev has it"


@pytest.mark.req("B3.1")
def test_a_plane_that_was_applied_is_taken_over_as_it_is(server_root: Path) -> None:
    with whole(server_root / "plane-adopted") as stack:
        stack.holdfast("apply", "--yes")
        contracts = stack.ask("STREAM.INFO.KV_HOLDFAST")["state"]["last_seq"]
        created = {s: stack.ask(f"STREAM.INFO.{s}")["created"] for s in stack.ask("STREAM.NAMES")["streams"]}
        now = stack.sql("SELECT pg_current_xact_id()::text")[0][0]
        assert set(stack.up().counts) == {"created"}
        assert not written(stack, now)
        assert stack.ask("STREAM.INFO.KV_HOLDFAST")["state"]["last_seq"] == contracts
        assert {s: stack.ask(f"STREAM.INFO.{s}")["created"] for s in created} == created
        assert stack.plan_is_empty()


@pytest.fixture
def stack(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Small:
    """The small plane, not up yet."""
    return Small(tmp_path / "small", pg_database, nats_url)


@pytest.mark.req("B3.1")
def test_what_a_server_refuses_keeps_nothing_else_from_being_made(stack: Small) -> None:
    stack.edit("streams:\n", "streams:\n  BAD: {subjects: [bad.>], max_age: 1h, max_bytes: 1MiB}\n")
    stack.ask("STREAM.CREATE.SQUATTER", {"name": "SQUATTER", "subjects": ["bad.*"]})
    failed = stack.up("--continue-on-error", check=False)
    assert failed.code != 0
    assert "subjects overlap with an existing stream" in failed.out
    assert failed.counts["created"] == 11
    assert not stack.resources().keys() & {"nats:main/stream/BAD", "plane:main/contract"}
    assert stack.sql("SELECT count(*) FROM app.item") == [(0,)]

    stack.ask("STREAM.DELETE.SQUATTER")
    assert stack.up().counts == {"created": 2, "unchanged": 11}
    assert stack.plan_is_empty()


@pytest.mark.req("B3.1")
def test_typed_resources_take_what_is_not_known_yet(
    stack: Small, pg_server: postgres.Server, pg_database: dict[str, Any]
) -> None:
    archive = f"{pg_database['dbname']}_archive"
    pg_server.create_database(archive)
    try:
        targets = json.loads((stack.specs / "environments" / "dev.yaml").read_text())["targets"]
        targets["postgres"]["archive"] = {**targets["postgres"]["main"], "database": archive}
        stack.program(TYPED)
        stack.config_set("small:targets", json.dumps(targets))
        ahead = stack.preview("--diff")
        assert ahead.counts == {"create": 9}
        assert "reader: [unknown]" in ahead.lines
        assert stack.up().counts == {"created": 9}
        assert stack.ask("STREAM.INFO.SECOND")["config"]["description"] == "nats:main/stream/FIRST"
        assert stack.outputs() == {"reader": "nats:main/stream/SECOND/consumer/reader"}
        assert stack.sql("SELECT obj_description('app.note'::regclass)") == [("nats:main/stream/FIRST",)]
        assert stack.resources()["pg:archive"]["outputs"]["address"] == "pg:archive"
        assert stack.up().is_unchanged
    finally:
        pg_server.query(f'DROP DATABASE "{archive}" WITH (FORCE)')
