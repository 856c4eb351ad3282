"""What a new user trips over: each test is a mistake or a mishap that once ended badly."""

from __future__ import annotations

import json
import re

import pytest

from tests.live.conftest import Plane

_TEMPLATE = """\
    templates:
      look: {ack_policy: none, deliver_policy: last, filter_subject: events.look, inactive_threshold: 5m}
"""


@pytest.mark.req("B2.3")
def test_destroy_takes_a_stream_with_templates(plane: Plane) -> None:
    plane.edit("    consumers:\n", f"{_TEMPLATE}    consumers:\n")
    plane.run("apply", "--yes")
    consents = re.findall(r"--allow (\S+)", plane.run("destroy", "--yes", code=3).stderr)
    plane.run("destroy", "--yes", *(f"--allow={c}" for c in consents))
    assert plane.sql("SELECT count(*) FROM holdfast.objects") == [(0,)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_age: 1h", "max_age: 99999999999d", "292 years"),
        ("varchar(50)", "varchar(abc)", "not a type"),
        ("owner_name: length(name) > 0", 'c: "true); DROP TABLE app.log; --"', "semicolon"),
        ("      item:\n", '      "a\\0b":\n', "cannot be a name"),
        ("  app:\n", "  holdfast:\n", "cannot be a name"),
        ("  app:\n", "  pg_app:\n", "cannot be a name"),
        ("  STATE:", "  HOLDFAST:", "cannot be a name"),
    ],
)
def test_what_no_server_takes_is_told_before_one_is_asked(plane: Plane, old: str, new: str, said: str) -> None:
    plane.edit(old, new)
    assert said in plane.run("check", code=1).stdout


def test_a_target_that_the_environment_lacks_is_told_at_check_and_at_plan(plane: Plane) -> None:
    place = plane.specs / "environments" / "dev.yaml"
    targets = json.loads(place.read_text())["targets"]
    place.write_text(json.dumps({"targets": {"postgres": targets["postgres"]}}))
    assert "HF0705" in plane.run("check", "--env", "dev", code=1).stdout
    assert "not declared" in plane.run("plan", code=1).stderr


def test_sql_with_comments_and_a_last_semicolon_is_taken(plane: Plane) -> None:
    plane.edit("owner_name: length(name) > 0", 'owner_name: "length(name) > 0 -- never empty"')
    plane.edit("default: 0}", 'default: "0; -- nothing"}')
    plane.edit("WHERE price < 10", "WHERE price < 10; -- cheap")
    plane.edit("where: price > 0", 'where: "price > 0 -- sold"')
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []


def test_sql_that_the_scratch_server_refuses_is_neither_planned_nor_applied(plane: Plane) -> None:
    plane.edit("length(name) > 0", "length(name > 0")
    assert "holdfast check --compile" in plane.run("apply", "--yes", code=1).stderr
    assert plane.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == [(0,)]


def test_compile_finds_the_place_in_the_short_form_of_a_check(plane: Plane) -> None:
    plane.edit("length(name) > 0", "id IN (SELECT 1)")
    told = plane.run("check", "--compile", "--env", "dev", code=1).stdout
    assert "HF0801" in told
    line = (plane.specs / "plane.yaml").read_text().partition("id IN")[0].count("\n") + 1
    assert f"plane.yaml:{line}:" in told


def test_a_whole_number_may_be_written_with_an_exponent(plane: Plane) -> None:
    plane.edit("max_msgs: 1000", "max_msgs: 1e3")
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "-o", "missing/folder/plan.json"), "missing/folder"),
        (("check", "nothing.yaml"), "nothing.yaml"),
        (("plan", "--as-of", "9999-12-31T00:00:00Z"), "year"),
    ],
)
def test_what_is_not_there_is_named(plane: Plane, arguments: tuple[str, ...], said: str) -> None:
    assert said in plane.run(*arguments, code=1).stderr


def test_the_summary_of_a_run_is_data_in_json_and_words_in_text(applied: Plane) -> None:
    runs = json.loads(applied.run("status", "--format", "json").stdout)["runs"]
    assert runs[0]["summary"]["create"] > 0
    assert "{" not in applied.run("status").stdout


def test_a_saved_plan_is_not_applied_in_the_name_of_another_environment(plane: Plane) -> None:
    plane.run("plan", "-o", str(plane.root / "plan.json"))
    refused = plane.run("apply", str(plane.root / "plan.json"), "--env", "production", code=1)
    assert "environment dev" in refused.stderr
    assert plane.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == [(0,)]


def test_import_names_what_no_kind_models_and_writes_specs_that_read(plane: Plane) -> None:
    plane.sql("CREATE SCHEMA odd")
    plane.sql("CREATE FUNCTION odd.f() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'")
    plane.sql("REVOKE EXECUTE ON FUNCTION odd.f() FROM PUBLIC")
    plane.sql("CREATE EVENT TRIGGER odd_ddl ON ddl_command_end EXECUTE FUNCTION odd.f()")
    plane.sql("CREATE TYPE odd.span AS RANGE (subtype = float8)")
    plane.sql("CREATE TABLE odd.t (id int, k text) PARTITION BY LIST (id)")
    plane.sql("CREATE TABLE odd.t_1 PARTITION OF odd.t FOR VALUES IN (1) PARTITION BY LIST (k)")
    plane.sql("CREATE OPERATOR odd.=== (leftarg = int, rightarg = int, function = int4eq)")
    plane.sql("ALTER DEFAULT PRIVILEGES IN SCHEMA odd GRANT SELECT ON TABLES TO PUBLIC")
    plane.sql("CREATE PUBLICATION odd_all FOR TABLES IN SCHEMA odd")
    told = plane.run("import", "-o", str(plane.root / "written"), "--schema", "odd").stderr
    for what in ("event trigger", "range type", "partitions of partition", "operator", "default priv", "publication"):
        assert what in told
    written = "".join(f.read_text() for f in (plane.root / "written").rglob("*.yaml"))
    assert "span(" not in written
    assert "public: []" in written
    plane.run("check", "--specs", str(plane.root / "written"))


def test_import_of_partitions_by_whole_numbers_has_nothing_left_to_do(plane: Plane) -> None:
    plane.sql("CREATE SCHEMA odd")
    plane.sql("CREATE TABLE odd.t (id int) PARTITION BY RANGE (id)")
    for low in (0, 100, 200):
        plane.sql(f"CREATE TABLE odd.t_{low} PARTITION OF odd.t FOR VALUES FROM ({low}) TO ({low + 100})")
    plane.run("import", "-o", str(plane.root / "written"), "--schema", "odd")
    assert "every: 100 integers" in (plane.root / "written" / "schemas" / "odd.yaml").read_text()
    plane.run("check", "--specs", str(plane.root / "written"))
    found = plane.plan("--specs", str(plane.root / "written"))
    assert [s for s in found["steps"] if s["system"] == "pg"] == []


@pytest.mark.req("B1.4")
def test_compile_tries_streams_on_a_real_server_and_names_the_line(plane: Plane) -> None:
    plane.run("check", "--compile", "--env", "dev")
    transform = "    subject_transform: {src: 'events.*', dest: 'x.{{wildcard(3)}}'}\n"
    plane.edit("    max_msgs: 1000\n", f"    max_msgs: 1000\n{transform}")
    plane.run("check", "--env", "dev")
    told = plane.run("check", "--compile", "--env", "dev", code=1).stdout
    assert re.search(r"plane\.yaml:3:\d+: HF0802 NATS refuses nats:main/stream/EVENTS", told), told
