"""``pulumi refresh`` shows what was changed behind its back, and the next ``up`` mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pulumi.stack import Json, Small


@pytest.fixture
def stack(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Small:
    """The small plane, up."""
    stack = Small(tmp_path / "small", pg_database, nats_url)
    stack.up()
    return stack


def inputs(stack: Small) -> dict[str, Json]:
    """What the state holds as inputs, by address."""
    return {address: resource["inputs"] for address, resource in stack.resources().items()}


def reconfigure(stack: Small, stream: str, **options: Any) -> None:
    """Change a stream as any client could."""
    config = stack.ask(f"STREAM.INFO.{stream}")["config"]
    assert "error" not in stack.ask(f"STREAM.UPDATE.{stream}", {**config, **options})


def partitions(stack: Small) -> list[str]:
    found = stack.sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'app.log'::regclass ORDER BY 1"
    )
    return [row[0] for row in found]


def follows(told: list[str], *expected: str) -> None:
    """Each line is told, in this order."""
    rest = iter(told)
    for line in expected:
        assert line in rest, f"{line!r} is missing in\n" + "\n".join(told)


@pytest.mark.req("B3.1")
def test_changes_behind_its_back_are_shown_one_by_one_and_mended(stack: Small) -> None:
    made = stack.resources()
    declared = inputs(stack)
    assert stack.refresh().is_unchanged
    again = stack.resources()
    assert {a: r["inputs"] for a, r in again.items()} == declared
    assert {a: r["outputs"] for a, r in again.items()} == {a: r["outputs"] for a, r in made.items()}

    reconfigure(stack, "EVENTS", max_age=1800 * 10**9)
    reconfigure(stack, "KV_STATE", max_age=600 * 10**9)
    reconfigure(stack, "OBJ_FILES", max_bytes=1 << 20)
    config = stack.ask("CONSUMER.INFO.EVENTS.worker")["config"] | {"max_deliver": 7}
    request = {"stream_name": "EVENTS", "config": config, "action": "update"}
    assert "error" not in stack.ask("CONSUMER.CREATE.EVENTS.worker.events.>", request)
    stack.sql("ALTER ROLE small_app CONNECTION LIMIT 3")
    stack.sql("ALTER TABLE app.owner ALTER name TYPE varchar(40), DROP CONSTRAINT owner_name")
    stack.sql("ALTER TABLE app.owner ADD CONSTRAINT owner_name CHECK (length(name) > 3)")
    stack.sql("DROP INDEX app.item_at")
    stack.sql("REVOKE INSERT ON app.item FROM small_app")
    stack.sql("CREATE OR REPLACE FUNCTION app.twice(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT n * 3'")
    standing = partitions(stack)
    gone = standing[1]  # today's: the newest may be missing for a while
    stack.sql(f"DROP TABLE {gone}")

    shown = stack.refresh("--preview-only", "--diff")
    assert shown.counts == {"update": 7, "unchanged": 5}
    told = shown.lines
    follows(told, "[id=nats:main/stream/EVENTS]", '~ max_age: "1h" => "30m"')
    follows(told, "[id=nats:main/bucket/STATE]", '~ ttl: "30m" => "10m"')
    follows(told, "[id=nats:main/object_store/FILES]", '~ max_bytes: "2MiB" => "1MiB"')
    follows(told, "[id=nats:main/stream/EVENTS/consumer/worker]", "~ max_deliver: 3 => 7")
    follows(told, "[id=pg:main/role/small_app]", "~ connection_limit: 10 => 3")
    follows(
        told,
        "[id=pg:main/app/log/partitions/set]",
        "+ drift: [",
        f'+     [0]: "pg:main/app/log/partitions/set: {gone.removeprefix("app.")} is missing"',
    )
    follows(told, "[id=pg:main]", "~ twice: {", '~ body: "SELECT n * 2" => "SELECT n * 3"')
    follows(told, "[id=pg:main]", "~ item : {", "~ small_app: [", '- [1]: "insert"', "- item_at: {")
    follows(told, "[id=pg:main]", "~ owner: {", '~ owner_name: "length(name) > 0" => "(length((name)::text) > 3)"')
    follows(told, "[id=pg:main]", "~ owner: {", "~ name: {", '~ type: "varchar(50)" => "varchar(40)"')
    assert inputs(stack) == declared, "a preview changes nothing"

    assert stack.up("--refresh").counts == {"updated": 7, "unchanged": 5}
    assert partitions(stack) == standing
    assert stack.ask("CONSUMER.INFO.EVENTS.worker")["config"]["max_deliver"] == 3
    assert stack.sql("SELECT app.twice(2)") == [(4,)]
    assert stack.plan_is_empty()
    assert inputs(stack) == declared


@pytest.mark.req("B3.1")
def test_what_was_deleted_is_made_again(stack: Small) -> None:
    declared = inputs(stack)
    stack.ask("STREAM.DELETE.KV_STATE")
    stack.ask("CONSUMER.DELETE.EVENTS.worker")
    stack.sql("DROP VIEW app.cheap")
    stack.sql("ALTER TABLE app.item DROP note, DROP CONSTRAINT item_owner, ALTER mood SET DEFAULT 'busy'")
    stack.sql("ALTER TABLE app.item ALTER at DROP NOT NULL, ADD stray integer")
    stack.sql("COMMENT ON TABLE app.item IS 'changed'")

    shown = stack.refresh("--diff")
    assert shown.counts == {"updated": 1, "deleted": 2, "unchanged": 9}
    told = shown.lines
    follows(
        told, "[id=pg:main]", "~ at  : {", "- nullable: false", "~ mood: {", "- note: {", '+ comment     : "changed"'
    )
    follows(told, "[id=pg:main]", "- item_owner: {")
    follows(told, "[id=pg:main]", "- cheap: {")
    assert "stray" not in shown.out, "what nobody declared is no difference"

    assert stack.changes() == {"plane/STATE": "create", "plane/EVENTS.worker": "create", "plane/main": "update"}
    assert stack.up().counts == {"created": 2, "updated": 1, "unchanged": 9}
    assert inputs(stack) == declared
    plan = stack.holdfast("plan", "--format", "json", check=False).json()
    assert not plan["steps"]
    assert [d["object"] for d in plan["drift"]] == ["pg:main/app/item/column/stray"]
