"""The command line on real servers: what each command does, and how each mistake ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import psycopg
import pytest

from tests.live.conftest import Plane


@pytest.mark.req("B2.1", "B2.4", "B2.6")
def test_apply_reaches_the_specs_and_a_second_one_changes_nothing(plane: Plane) -> None:
    first = plane.plan()
    assert first["steps"]
    plane.run("apply", "--yes")
    assert plane.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'") > [
        (2,)
    ]
    second = plane.plan()
    assert (second["steps"], second["adopt"], second["drift"]) == ([], [], [])
    assert plane.run("plan", "--detailed-exitcode").returncode == 0


def test_plan_changes_nothing(plane: Plane) -> None:
    plane.run("plan")
    assert plane.sql("SELECT count(*) FROM pg_namespace WHERE nspname IN ('app', 'holdfast')") == [(0,)]


def test_detailed_exitcode_says_that_steps_are_pending(plane: Plane) -> None:
    plane.run("plan", "--detailed-exitcode", code=2)


def test_a_plan_does_not_change_at_midnight(applied: Plane) -> None:
    for moment in ("23:59:59", "00:00:00", "00:00:01"):
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + (86400 if moment.startswith("00") else 0)))
        assert applied.plan("--as-of", f"{day}T{moment}Z")["steps"] == []


@pytest.mark.req("B2.2")
def test_drift_names_what_changed_and_apply_mends_it(applied: Plane) -> None:
    applied.sql("ALTER TABLE app.item ALTER COLUMN price SET DEFAULT 5")
    found = applied.run("drift", code=2).stdout
    assert "pg:main/app/item/column/price" in found
    assert "5" in found
    applied.run("apply", "--yes")
    assert applied.run("drift").returncode == 0


def test_an_object_that_nobody_declared_is_reported_and_left_alone(applied: Plane) -> None:
    applied.sql("CREATE TABLE app.stray (id int)")
    assert "pg:main/app/stray is unmanaged" in applied.run("drift", code=2).stdout
    assert applied.plan()["steps"] == []


def test_removing_a_table_needs_a_named_consent_and_shows_the_rows(applied: Plane) -> None:
    applied.sql("INSERT INTO app.owner (name) VALUES ('a'), ('b')")
    text = (applied.specs / "plane.yaml").read_text()
    applied.write(re.sub(r"      log:\n(?:        .*\n)+", "", text))
    refused = applied.run("apply", "--yes", code=3)
    assert "--allow data_loss:pg:main/app/log" in refused.stderr
    applied.run("apply", "--yes", "--allow", "data_loss:pg:main/app/log")
    assert applied.sql("SELECT to_regclass('app.log')") == [(None,)]


def test_a_saved_plan_is_refused_once_the_plane_moved(applied: Plane) -> None:
    applied.edit("varchar(50)", "varchar(80)")
    applied.run("plan", "-o", str(applied.root / "plan.json"))
    applied.sql("ALTER TABLE app.owner ALTER COLUMN name TYPE varchar(60)")
    assert "changed since this plan" in applied.run("apply", str(applied.root / "plan.json"), code=4).stderr


def test_a_saved_plan_is_applied_without_asking(applied: Plane) -> None:
    applied.edit("varchar(50)", "varchar(80)")
    applied.run("plan", "-o", str(applied.root / "plan.json"))
    applied.run("apply", str(applied.root / "plan.json"))
    assert applied.plan()["steps"] == []


def test_apply_without_anybody_to_ask_changes_nothing(plane: Plane) -> None:
    assert "--yes" in plane.run("apply", code=1).stderr
    assert plane.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == [(0,)]


@pytest.mark.req("B2.3")
def test_destroy_asks_for_consents_and_takes_only_what_is_ours(applied: Plane) -> None:
    applied.sql("CREATE TABLE public.theirs (id int)")
    refused = applied.run("destroy", "--yes", code=3)
    consents = re.findall(r"--allow (\S+)", refused.stderr)
    assert "data_loss:pg:main/app/item" in consents
    applied.run("destroy", "--yes", *(f"--allow={c}" for c in consents))
    assert applied.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == [(0,)]
    assert applied.sql("SELECT to_regclass('public.theirs') IS NOT NULL") == [(True,)]
    assert applied.sql("SELECT count(*) FROM holdfast.objects") == [(0,)]


def test_objects_that_are_there_already_are_adopted_without_a_step(applied: Plane) -> None:
    applied.sql("DELETE FROM holdfast.objects")
    found = applied.plan()
    assert found["steps"] == []
    assert "pg:main/app/item" in found["adopt"]
    applied.run("apply", "--yes")
    assert applied.plan()["adopt"] == []
    assert applied.sql("SELECT DISTINCT origin FROM holdfast.objects") == [("adopted",)]


def test_a_differing_object_of_somebody_else_needs_a_consent_to_be_adopted(applied: Plane) -> None:
    applied.sql("DELETE FROM holdfast.objects")
    applied.sql("ALTER TABLE app.item ALTER COLUMN price SET DEFAULT 5")
    refused = applied.run("apply", "--yes", code=3).stderr
    assert "adopt:pg:main/app/item/column/price" in refused


def test_a_changed_password_is_one_rotation_and_never_shown(applied: Plane) -> None:
    applied.variables["SMALL_PASSWORD"] = "s3cret-two"
    steps = applied.plan()["steps"]
    assert [s["object"] for s in steps] == ["pg:main/role/small_app"]
    applied.run("apply", "--yes")
    assert applied.plan()["steps"] == []
    with psycopg.connect(**{**applied.database, "user": "small_app", "password": "s3cret-two"}) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_applies_at_once_end_with_one_naming_the_other(applied: Plane) -> None:
    applied.edit("varchar(50)", "varchar(80)")
    blocker = psycopg.connect(**applied.database)
    blocker.execute("LOCK TABLE app.owner IN ACCESS SHARE MODE")
    first = subprocess.Popen(
        applied.command("apply", "--yes"), env=applied.environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(100):
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            if applied.sql(held) != [(0,)]:
                break
            time.sleep(0.1)
        assert "holds the lock" in applied.run("apply", "--yes", code=1).stderr
    finally:
        blocker.rollback()
        blocker.close()
        out, err = first.communicate(timeout=60)
    assert first.returncode == 0, out + err


def test_ctrl_c_leaves_a_state_that_the_next_apply_finishes(applied: Plane) -> None:
    applied.edit("varchar(50)", "varchar(80)")
    blocker = psycopg.connect(**applied.database)
    blocker.execute("LOCK TABLE app.owner IN ACCESS SHARE MODE")
    # In the background of a shell the signal is ignored, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        applied.command("apply", "--yes"), env=applied.environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    for _ in range(200):
        if applied.sql(waiting) != [(0,)]:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    blocker.rollback()
    blocker.close()
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    applied.run("apply", "--yes")
    assert applied.plan()["steps"] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_age: 1h", "max_agee: 1h", "did you mean max_age"),
        ("max_age: 1h", "max_age: 1 hour", "1h"),
        ("max_age: 1h", "max_age: 3600", "unit"),
        ("primary_key: [id, at]", "primary_key: [id]", "HF0312"),
        ("    subjects: [events.>]", "\tsubjects: [events.>]", "plane.yaml:"),
        ("plane: small", "plane: small\nplane: other", "twice"),
        ("references: app.owner", "references: app.ownr", "did you mean"),
    ],
)
def test_each_mistake_is_told_at_its_line_with_a_way_out(plane: Plane, old: str, new: str, said: str) -> None:
    before = (plane.specs / "plane.yaml").read_text().partition(old)[0]
    line = before.count("\n") + new.count("\n") + 1
    plane.edit(old, new)
    told = plane.run("check", code=1)
    assert f"plane.yaml:{line}:" in told.stdout
    assert said.lower() in told.stdout.lower()


def test_every_form_of_a_check_holds_the_same_diagnostic(plane: Plane) -> None:
    plane.edit("max_age: 1h", "max_agee: 1h")
    data = json.loads(plane.run("check", "--format", "json", code=1).stdout)
    found = data["diagnostics"][0]
    assert set(found) == {"code", "severity", "file", "line", "column", "message", "help", "related"}
    assert f"line={found['line']}" in plane.run("check", "--format", "github", code=1).stdout
    sarif = json.loads(plane.run("check", "--format", "sarif", code=1).stdout)
    assert sarif["version"] == "2.1.0"
    assert found["code"] in plane.run("explain", found["code"]).stdout


def test_specs_with_errors_are_neither_planned_nor_applied(plane: Plane) -> None:
    plane.edit("max_age: 1h", "max_agee: 1h")
    assert "holdfast check" in plane.run("plan", code=1).stderr


def test_a_server_that_is_down_is_named_with_exit_5(plane: Plane) -> None:
    plane.target(1)
    assert "127.0.0.1:1" in plane.run("plan", code=5).stderr
    plane.target(int(plane.database["port"]), url="nats://127.0.0.1:1")
    assert "127.0.0.1:1" in plane.run("plan", code=5).stderr


def test_a_wrong_password_and_an_unset_one_are_told_apart(plane: Plane) -> None:
    assert "PG_SECRET" in plane.run("plan", code=1, PG_SECRET="").stderr
    assert "password" in plane.run("plan", code=5, PG_SECRET="wrong").stderr


def test_a_missing_environment_lists_those_that_exist(plane: Plane) -> None:
    assert "dev" in plane.run("plan", "--env", "prod", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plann",), "Did you mean plan"),
        (("plan", "--nope"), "--nope"),
        (("plan", "--as-of", "yesterday"), "2026"),
        (("plan", "--only", "pg:main/app/nothing"), "no object"),
        (("apply", "missing.json"), "missing.json"),
        (("explain", "HF9999"), "HF9999"),
        (("apply", "--yes", "--allow", "everything"), "KIND:ADDRESS"),
    ],
)
def test_wrong_words_end_in_one_sentence(plane: Plane, arguments: tuple[str, ...], said: str) -> None:
    assert said in plane.run(*arguments, code=1).stderr


def test_only_narrows_the_plan(plane: Plane) -> None:
    steps = plane.plan("--only", "pg:main/app/owner")["steps"]
    assert {s["object"] for s in steps} <= {"pg:main/app", "pg:main/app/owner"}


def test_status_counts_declared_live_and_owned(applied: Plane) -> None:
    found = json.loads(applied.run("status", "--format", "json").stdout)
    tables = next(k for k in found["kinds"] if k["kind"] == "table")
    assert (tables["declared"], tables["live"], tables["owned"]) == ("3", "3", "3")
    assert found["runs"][0]["status"] == "done"


def test_markdown_of_a_plan_lists_its_steps(plane: Plane) -> None:
    assert "| + | `pg:main/app`" in plane.run("plan", "--format", "markdown").stdout


def test_init_gives_specs_that_check_without_a_finding(tmp_path_factory: pytest.TempPathFactory, plane: Plane) -> None:
    folder = tmp_path_factory.mktemp("new") / "specs"
    command = [*plane.command()[:3], "--specs", str(folder)]
    for arguments in (("init",), ("check",)):
        done = subprocess.run(
            [*command, *arguments], check=False, capture_output=True, text=True, env=plane.environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder.parent / "holdfast.schema.json").exists()


def test_colours_are_for_terminals_only(plane: Plane) -> None:
    assert "\x1b[" not in plane.run("plan").stdout
