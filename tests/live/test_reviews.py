"""What belongs to others stays theirs: ownership through adoption, crashes, lost objects and edited plans."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.live.conftest import Plane

CHEAP = 'cheap: {query: "SELECT id, price FROM app.item WHERE price < 10"}'


def request(plane: Plane, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A raw request to the plane's NATS server."""

    async def ask() -> dict[str, Any]:
        from nats.aio.client import Client

        client = Client()
        await client.connect(plane.url, connect_timeout=5)
        try:
            answer = await client.request(subject, json.dumps(body or {}).encode(), timeout=10)
            found: dict[str, Any] = json.loads(answer.data)
            return found
        finally:
            await client.close()

    return asyncio.run(ask())


def origins(plane: Plane) -> dict[str, str]:
    rows = plane.sql("SELECT address, origin FROM holdfast.objects")
    return {str(address): str(origin) for address, origin in rows}


def agree(plane: Plane, *command: str) -> None:
    """Run a command with every consent that it names."""
    consents = plane.plan()["consents"] if command[0] == "apply" else destroy_consents(plane)
    plane.run(*command, "--yes", *(f"--allow={c}" for c in consents))


def destroy_consents(plane: Plane) -> list[str]:
    told = plane.run("destroy", "--yes", code=None).stderr
    return [word for word in told.split() if ":pg:" in word or ":nats:" in word]


def test_what_existed_before_us_stays_adopted_however_its_change_is_made(plane: Plane) -> None:
    request(plane, "$JS.API.STREAM.CREATE.EVENTS", {"name": "EVENTS", "subjects": ["events.>"], "max_msgs": 5})
    plane.sql("CREATE SCHEMA app")
    plane.sql(
        "CREATE TABLE app.owner (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(50));"
        "CREATE TABLE app.item (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());"
        "CREATE INDEX item_at ON app.item (at DESC)"
    )
    agree(plane, "apply")
    known = origins(plane)
    existed = ("app/owner", "app/owner/column/name", "app/item/index/item_at")
    assert {known[f"pg:main/{name}"] for name in existed} == {"adopted"}
    assert known["nats:main/stream/EVENTS"] == "adopted"
    assert known["pg:main/app/log"] == "created"
    assert "delete:nats:main/stream/EVENTS" in destroy_consents(plane)


def test_an_adopted_table_stays_adopted_under_its_new_name(plane: Plane) -> None:
    plane.run("apply", "--yes")
    plane.sql("UPDATE holdfast.objects SET origin = 'adopted' WHERE address LIKE 'pg:main/app/log%'")
    plane.edit("      log:\n", "      journal:\n        renamed_from: log\n")
    agree(plane, "apply")
    assert origins(plane)["pg:main/app/journal"] == "adopted"
    assert "pg:main/app/log" not in origins(plane)


def test_a_name_whose_object_somebody_dropped_is_not_ours_for_ever(applied: Plane) -> None:
    applied.edit(f"      {CHEAP}\n", "      more: {query: SELECT 1 AS one}\n")
    applied.sql("DROP VIEW app.cheap; CREATE VIEW app.more AS SELECT 1 AS one")
    applied.run("apply", "--yes")
    assert "pg:main/app/view/cheap" not in origins(applied)
    applied.sql("CREATE VIEW app.cheap AS SELECT 'theirs' AS whose")
    assert applied.plan()["steps"] == []


def test_a_forgotten_name_needs_no_other_change(applied: Plane) -> None:
    applied.edit(f"    views:\n      {CHEAP}\n", "")
    consents = applied.plan()["consents"]
    applied.run("apply", "--yes", *(f"--allow={c}" for c in consents))
    applied.sql("INSERT INTO holdfast.objects SELECT plane, env, 'pg:main/app/view/cheap', 'view', origin, state"
                " FROM holdfast.objects WHERE address = 'pg:main/app'")  # fmt: skip
    assert applied.plan()["steps"] == []
    applied.run("apply", "--yes")
    assert "pg:main/app/view/cheap" not in origins(applied)


def test_streams_that_left_the_specs_are_deleted_though_no_other_object_uses_nats(applied: Plane) -> None:
    text = (applied.specs / "plane.yaml").read_text()
    start, end = text.index("streams:"), text.index("roles:")
    applied.write(text[:start] + text[end:])
    found = {s["object"] for s in applied.plan()["steps"]}
    assert {"nats:main/stream/EVENTS", "nats:main/bucket/STATE"} <= found
    agree(applied, "apply")
    assert request(applied, "$JS.API.STREAM.INFO.EVENTS")["error"]["code"] == 404
    assert not [a for a in origins(applied) if a.startswith("nats:")]
    assert applied.plan()["steps"] == []


def test_a_stream_that_another_plane_made_anew_is_left_alone(applied: Plane) -> None:
    request(applied, "$JS.API.STREAM.DELETE.EVENTS")
    theirs = {"name": "EVENTS", "subjects": ["theirs.>"], "metadata": {"holdfast_plane": "other"}}
    request(applied, "$JS.API.STREAM.CREATE.EVENTS", theirs)
    assert "EVENTS" in applied.run("plan", code=None).stderr
    text = (applied.specs / "plane.yaml").read_text()
    applied.write(text[: text.index("streams:")] + text[text.index("buckets:") :])
    assert "nats:main/stream/EVENTS" not in {s["object"] for s in applied.plan()["steps"]}
    agree(applied, "destroy")
    assert request(applied, "$JS.API.STREAM.INFO.EVENTS")["config"]["subjects"] == ["theirs.>"]


def test_a_destroy_that_stopped_before_the_contract_is_finished_by_the_next(applied: Plane) -> None:
    request(applied, "$JS.API.STREAM.DELETE.EVENTS")
    request(applied, "$JS.API.STREAM.DELETE.KV_STATE")
    agree(applied, "destroy")
    key = {"last_by_subj": "$KV.HOLDFAST.contract.small.dev"}
    found = request(applied, "$JS.API.STREAM.MSG.GET.KV_HOLDFAST", key)
    assert "error" in found or "KV-Operation" in json.dumps(found) or found["message"].get("hdrs")
    assert not origins(applied)


def test_what_changes_between_plan_and_apply_is_not_adopted(plane: Plane) -> None:
    plane.sql("CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('calm', 'busy')")
    file = str(plane.root / "plan.json")
    plane.run("plan", "-o", file)
    assert "pg:main/app/enum/mood" in json.loads((plane.root / "plan.json").read_text())["adopt"]
    plane.sql("ALTER TYPE app.mood ADD VALUE 'theirs'")
    plane.run("apply", file, code=4)


def test_only_adopts_what_lies_within_it(plane: Plane) -> None:
    plane.sql("CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('calm', 'busy')")
    assert plane.plan("--only", "nats:main/stream/EVENTS")["adopt"] == []


def test_a_plan_edited_by_hand_is_refused(applied: Plane) -> None:
    applied.edit("max_msgs: 1000", "max_msgs: 10")
    file = applied.root / "plan.json"
    applied.run("plan", "-o", str(file))
    saved = json.loads(file.read_text())
    for step in saved["steps"]:
        step["hazards"] = []
    file.write_text(json.dumps(saved))
    assert "changed" in applied.run("apply", str(file), code=1).stderr


def test_a_run_that_was_killed_is_shown_as_interrupted(applied: Plane) -> None:
    applied.sql("UPDATE holdfast.runs SET status = 'running', finished_at = NULL")
    applied.edit("max_msgs: 1000", "max_msgs: 2000")
    applied.run("apply", "--yes")
    rows = applied.sql("SELECT status FROM holdfast.runs ORDER BY started_at")
    assert rows == [("interrupted",), ("done",)]
