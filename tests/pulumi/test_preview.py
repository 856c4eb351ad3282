"""``pulumi preview`` refuses mistakes and losses before anything is touched, and names what changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from provision.embedded import nats
from tests.pulumi.stack import Result, Small

COLUMN = "data_loss:pg:main/app/item/column/note"
STREAM = "data_loss:nats:main/stream/EVENTS"


@pytest.fixture
def stack(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Small:
    """The small plane, not up yet."""
    return Small(tmp_path / "small", pg_database, nats_url)


@pytest.mark.req("B3.1")
def test_a_mistake_in_a_spec_is_told_with_its_place(stack: Small) -> None:
    stack.edit("    max_age: 1h", "    max_agee: 1h")
    done = stack.preview(check=False)
    assert done.code != 0
    assert "specs/plane.yaml:5:5: HF0201 unknown key max_agee" in done.out
    assert "holdfast:index:Stream" not in done.out, "nothing is registered"


@pytest.mark.req("B3.1")
def test_the_steps_of_a_new_plane_are_foreseen(stack: Small) -> None:
    done = stack.preview("--diff")
    assert done.counts == {"create": 12}
    plan = done.out.partition("--outputs:--")[2].partition("plan ")[2]
    for step in (
        "nats:main/stream/EVENTS: create stream EVENTS",
        "pg:main/app/item: create table item",
        "pg:main/app/log/partitions/set: create partitions as soon as the table is there",
        "plane:main/contract: write the contract",
    ):
        assert f'"{step}' in plan


@pytest.mark.req("B3.1")
def test_exactly_the_changed_column_and_option_are_named(stack: Small) -> None:
    stack.up()
    stack.edit("type: varchar(50)", "type: varchar(60)")
    stack.edit("max_age: 1h", "max_age: 2h")
    stack.edit("max_bytes: 2MiB", "max_bytes: 2048KiB")  # the same in other words
    update = {"kind": "update", "inputDiff": True}
    steps = stack.steps()
    assert {name: step["op"] for name, step in steps.items()} == dict.fromkeys(
        ("plane/EVENTS", "plane/main", "plane/small"), "update"
    )
    assert steps["plane/EVENTS"]["detailedDiff"] == {"max_age": update}
    assert steps["plane/main"]["detailedDiff"] == {"schemas.app.tables.owner.columns.name.type": update}
    assert steps["plane/small"]["detailedDiff"] == {
        'parts["nats:main/stream/EVENTS"]': update, 'parts["pg:main"]': update,
    }  # fmt: skip

    shown = stack.preview("--diff")
    at = shown.lines.index("[id=pg:main]")
    assert shown.lines[at + 1 : at + 8] == [
        "~ schemas: {", "~ app: {", "~ tables: {", "~ owner: {", "~ columns: {", "~ name: {",
        '~ type: "varchar(50)" => "varchar(60)"',
    ]  # fmt: skip
    at = shown.lines.index("[id=nats:main/stream/EVENTS]")
    assert shown.lines[at + 1] == '~ max_age: "1h" => "2h"'
    assert "[id=nats:main/object_store/FILES]" not in shown.lines
    assert '"nats:main/stream/EVENTS: update stream EVENTS"' in shown.out, "the steps, in the stack's output"
    assert "/column/name: type of name: character varying(50) to character varying(60) [ACCESS EXCLUSIVE]" in shown.out


def is_refused(done: Result, *consents: str) -> bool:
    """Whether it stopped for some of these consents and named no other. Pulumi stops at the first resource."""
    asked = set(re.findall(r"holdfast:allow\[\d+\]' (\S+)", done.out))
    return done.code != 0 and bool(asked) and asked <= set(consents)


@pytest.mark.req("B3.1")
def test_a_loss_needs_its_consent_also_where_a_server_is_down(
    tmp_path: Path, server_root: Path, pg_database: dict[str, Any]
) -> None:
    server = nats.Server(server_root / "nats-consents")
    server.start()
    stack = Small(tmp_path / "small", pg_database, server.url)
    stack.up()
    stack.sql("INSERT INTO app.owner (name) VALUES ('a')")
    stack.sql("INSERT INTO app.item (id, owner_id, note) SELECT n, 1, 'n' FROM generate_series(1, 5) n")
    stack.edit("          note: {type: text}\n", "")
    stack.edit("max_age: 1h", "max_age: 10m")
    assert is_refused(stack.preview(check=False), COLUMN, STREAM)
    assert is_refused(stack.up(check=False), COLUMN, STREAM)

    server.stop()
    assert is_refused(stack.preview(check=False), COLUMN, STREAM)
    stack.allow(COLUMN, STREAM)
    blind = stack.preview()
    assert blind.counts == {"update": 4, "unchanged": 8}
    assert (
        blind.out.partition("Diagnostics:")[2].count("steps and live counts are missing: no NATS server answers") == 1
    )
    assert "data_loss" not in blind.out

    server.start()
    assert stack.sql("SELECT count(note) FROM app.item") == [(5,)]
    seeing = stack.preview()
    assert "data_loss: pg:main/app/item/column/note: the values of column note are lost (5 rows)" in seeing.out
    assert "missing" not in seeing.out
    assert stack.up().counts == {"updated": 4, "unchanged": 8}
    assert stack.plan_is_empty()
    server.stop()
