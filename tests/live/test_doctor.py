"""``holdfast doctor``: what stands between a plane and its servers, each with the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.live.conftest import Plane


def findings(plane: Plane, code: int = 0, **more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plane.run("doctor", "--format", "json", code=code, **more).stdout)
    return found


def test_healthy_servers_are_named_with_their_versions(plane: Plane) -> None:
    found = findings(plane)
    assert all(f["is_well"] for f in found)
    said = {f["subject"]: f["message"] for f in found}
    assert said["postgres main"].startswith("PostgreSQL 18.")
    assert said["nats main"].startswith("nats-server 2.")
    assert said["secret env SMALL_PASSWORD"] == "set, for role small_app"
    assert plane.sql("SELECT count(*) FROM pg_namespace WHERE nspname IN ('app', 'holdfast')") == [(0,)]


def test_a_stopped_server_ends_with_5_and_the_others_are_still_examined(plane: Plane) -> None:
    plane.target(1)
    found = {f["subject"]: f for f in findings(plane, code=5)}
    assert found["postgres main"]["unreachable"]
    assert "127.0.0.1:1" in found["postgres main"]["message"]
    assert found["nats main"]["is_well"]
    plane.target(int(plane.database["port"]), url="nats://127.0.0.1:1")
    found = {f["subject"]: f for f in findings(plane, code=5)}
    assert found["nats main"]["unreachable"]
    assert found["postgres main"]["is_well"]


def test_an_extension_that_the_server_lacks_is_named(plane: Plane) -> None:
    plane.write((plane.specs / "plane.yaml").read_text() + "extensions:\n  vector: {}\n  timescaledb: {}\n")
    wrong = [f for f in findings(plane, code=1) if not f["is_well"]]
    assert [f["message"] for f in wrong] == ["extension timescaledb is not installed there"]


def test_an_unset_secret_is_named_and_never_its_value(plane: Plane) -> None:
    found = [f for f in findings(plane, code=1, SMALL_PASSWORD="") if not f["is_well"]]
    assert [(f["subject"], f["message"]) for f in found] == [
        ("secret env SMALL_PASSWORD", "not set; role small_app needs it")
    ]


def test_an_unset_secret_of_a_target_is_named(plane: Plane) -> None:
    found = [f for f in findings(plane, code=1, PG_SECRET="") if not f["is_well"]]
    assert [f["subject"] for f in found] == ["postgres main"]
    assert "PG_SECRET" in found[0]["message"]


def test_a_wrong_password_is_told_apart_from_a_server_that_is_down(plane: Plane) -> None:
    found = [f for f in findings(plane, code=5, PG_SECRET="wrong") if not f["is_well"]]
    assert "password" in found[0]["message"]


def test_specs_with_errors_are_checked_first(plane: Plane) -> None:
    plane.edit("max_age: 1h", "max_agee: 1h")
    assert "holdfast check" in plane.run("doctor", code=1).stderr


@pytest.mark.parametrize("word", ["ok", "FAIL"])
def test_the_text_form_has_a_line_for_each_finding(plane: Plane, word: str) -> None:
    more = {} if word == "ok" else {"SMALL_PASSWORD": ""}
    out = plane.run("doctor", code=None, **more).stdout
    assert any(line.startswith(word) for line in out.splitlines())
    assert ("FAIL" in out) == (word == "FAIL")
