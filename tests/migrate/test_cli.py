"""``holdfast migrate`` as people and pipelines call it: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from tests.migrate.conftest import Bed

TABLE = "CREATE SCHEMA app;\nCREATE TABLE app.task (id bigint);"


@pytest.mark.req("C1.12")
def test_from_new_to_up_to_down(bed: Bed) -> None:
    made = bed.run("migrate", "new", "create_task").stdout.split()
    assert made == ["migrations/0001_create_task.up.sql", "migrations/0001_create_task.down.sql"]
    told = bed.run("migrate", "up", code=1).stderr
    assert "migrations/0001_create_task.up.sql:1:1: HF0813 the file holds no statement" in told
    for name, text in (("up", TABLE), ("down", "DROP SCHEMA app CASCADE;")):
        path = bed.folder / f"0001_create_task.{name}.sql"
        path.write_text(path.read_text() + text)
    second = bed.run("migrate", "new", "add_rank", "--kind", "index").stdout.split()
    assert second[0] == "migrations/0002_add_rank.up.sql"
    for path in (bed.root / name for name in second):
        assert "-- version: 1.1.0" in path.read_text()
        path.unlink()
    assert "CREATE TABLE app.task (id bigint);" in bed.run("migrate", "up", "--dry-run").stdout
    ahead = json.loads(bed.run("migrate", "up", "--dry-run", "--format", "json").stdout)["ahead"]
    assert [(a["version"], a["transaction"], len(a["statements"])) for a in ahead] == [("1.0.0", True, 2)]
    assert bed.column("SELECT to_regclass('app.task')") == [None]
    assert "applied 1.0.0 create_task" in bed.run("migrate", "up", "--application-version", "7").stderr
    (row,) = json.loads(bed.run("migrate", "status", "--format", "json").stdout)["migrations"]
    assert (row["version"], row["state"], row["rollbackable"]) == ("1.0.0", "applied", True)
    assert "1.0.0    create_task  applied" in bed.run("migrate", "status").stdout
    bed.run("migrate", "status", "--detailed-exitcode")
    assert "nothing to apply" in bed.run("migrate", "up").stderr
    assert "DROP SCHEMA app CASCADE;" in bed.run("migrate", "down", "--dry-run").stdout
    assert "--allow data_loss:1.0.0" in bed.run("migrate", "down", code=3).stderr
    ran = json.loads(bed.run("migrate", "down", "--allow", "data_loss:1.0.0", "--format", "json").stdout)["ran"]
    assert [(r["version"], r["direction"]) for r in ran] == [("1.0.0", "down")]
    assert "rolled_back" in bed.run("migrate", "status", "--detailed-exitcode", code=2).stdout


@pytest.mark.req("C1.11", "C1.12")
def test_refusals_end_with_one_and_say_what_to_do(bed: Bed) -> None:
    file = bed.write("0001_create_task.up.sql", TABLE)
    bed.run("migrate", "up")
    told = bed.run("migrate", "down", code=1).stderr
    assert "1.1.0 (create_task) has no way back, so nothing was rolled back" in told
    assert "Write migrations/0001_create_task.down.sql" in told
    bed.write("0003_add_rank.up.sql", "SELECT 1;", header="-- depends-on: 9.0.0\n")
    told = bed.run("migrate", "up", code=1).stderr
    assert "HF0805 0003_add_rank.up.sql follows 0001: 0002 is missing" in told
    assert "HF0806 it depends on version 9.0.0, which no file has" in told
    assert "error: the migrations have faults, so none was run: 2 errors" in told
    (bed.folder / "0003_add_rank.up.sql").unlink()
    bed.write("0002_add_rank.up.sql", "SELECT 1;", header="-- assert-before wrong: false\n")
    told = bed.run("migrate", "up", code=1).stderr
    assert "migrations/0002_add_rank.up.sql:2:1: assert-before wrong does not hold: it gave false" in told
    assert "1.2.0 is failed" in bed.run("migrate", "status").stdout
    file.write_text(file.read_text() + "\n")
    assert "was changed after version 1.1.0 was applied" in bed.run("migrate", "up", code=1).stderr
    assert "1.1.0 is changed" in bed.run("migrate", "status", code=1).stdout


@pytest.mark.req("C1.1", "C1.3", "C1.4")
def test_the_declared_schema_stays_as_declared(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE, header="-- assert-after there: true\n")
    bed.run("apply", "--yes")
    bed.run("migrate", "up")
    bed.run("plan", "--detailed-exitcode")
    tables = bed.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'migrations'::regnamespace AND relkind = 'r'"
    )
    assert sorted(tables) == ["applied_migrations", "history", "locks", "validation_results"]


def test_a_baseline_is_told(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    assert bed.run("migrate", "baseline", "1.1.0").stdout == "1.1.0 create_task\n"
    assert "no file has version 3.0.0" in bed.run("migrate", "baseline", "3.0.0", code=1).stderr
    assert "nothing to apply" in bed.run("migrate", "up").stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "x"], "x is no name of a migration"),
        (["new", "add_rank", "--version", "1"], "1 is no version"),
        (["up", "--wait", "soon"], "--wait is not a duration"),
        (["up", "--target", "other"], "dev has no Postgres target other"),
        (["up", "--done", "1.0.0"], "--done 1.0.0 names no statement"),
        (["up", "--done", "1.1.0:1"], "statement 1 of 1.1.0 is not in doubt"),
        (["up", "--to", "4.0.0"], "no file has version 4.0.0"),
    ],
)
def test_wrong_input_is_refused(bed: Bed, arguments: list[str], told: str) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    assert told in bed.run("migrate", *arguments, code=1).stderr


def test_a_server_that_is_away_ends_with_five(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    specs = bed.root / "specs/environments/dev.yaml"
    specs.write_text(specs.read_text().replace(str(bed.database["port"]), "1"))
    bed.run("migrate", "up", code=5)


def test_without_the_schema_nothing_can_be_rolled_back(bed: Bed) -> None:
    bed.sql("DROP SCHEMA migrations CASCADE")
    assert bed.run("migrate", "status").stdout == "no migrations\n"
    told = bed.run("migrate", "down", code=1).stderr
    assert "the tables of schema migrations are not in this database" in told
    assert "holdfast migrate init" in told
