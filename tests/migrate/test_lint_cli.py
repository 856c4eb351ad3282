"""``holdfast migrate lint``, and what ``migrate up`` does with what lint finds."""

from __future__ import annotations

import json

import pytest

from tests.migrate.conftest import Bed

TABLE = "CREATE SCHEMA app;\nCREATE TABLE app.task (id bigint PRIMARY KEY, note text);"
BACK = "DROP TABLE app.task;\nDROP SCHEMA app;"
BROKEN = "ALTER TABLE app.task ADD COLUMN rank int NOT NULL;"
OWNED = "ALTER TABLE migrations.locks ADD COLUMN note text;"


@pytest.fixture
def folder(bed: Bed) -> Bed:
    """A first migration that lint finds nothing in."""
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0001_create_task.down.sql", BACK)
    return bed


def away(bed: Bed) -> None:
    """Nobody answers at the address of the server any more."""
    specs = bed.root / "specs/environments/dev.yaml"
    specs.write_text(specs.read_text().replace(str(bed.database["port"]), "1"))


@pytest.mark.req("C1.8")
def test_lint_needs_no_server_and_prints_like_check(folder: Bed) -> None:
    away(folder)
    quiet = folder.run("migrate", "lint")
    assert (quiet.stdout, quiet.stderr) == ("", "checked migrations against dev: no problems\n")
    folder.write("0002_add_rank.up.sql", BROKEN)
    found = folder.run("migrate", "lint", code=1)
    place, line, caret, _help = found.stdout.splitlines()[:4]
    assert place.startswith("migrations/0002_add_rank.up.sql:1:1: HF0863 warning: no way back")
    assert (line, caret.strip()) == ("      1 | -- version: 1.2.0", "| ^")
    assert "migrations/0002_add_rank.up.sql:2:33: HF0832 " in found.stdout
    assert "      2 | ALTER TABLE app.task ADD COLUMN rank int NOT NULL;" in found.stdout
    assert found.stderr == "checked migrations against dev: 1 error, 1 warning\n"


@pytest.mark.parametrize("form", ["json", "github", "sarif"])
def test_lint_has_the_forms_of_check(folder: Bed, form: str) -> None:
    folder.write("0002_add_rank.up.sql", BROKEN)
    said = folder.run("migrate", "lint", "--format", form, code=1).stdout
    if form == "json":
        assert [(d["code"], d["line"]) for d in json.loads(said)["diagnostics"]] == [("HF0863", 1), ("HF0832", 2)]
    elif form == "sarif":
        results = json.loads(said)["runs"][0]["results"]
        assert [(r["ruleId"], r["level"]) for r in results] == [("HF0863", "warning"), ("HF0832", "error")]
    else:
        assert "::error file=migrations/0002_add_rank.up.sql,line=2,col=33,title=HF0832::" in said


def test_warnings_alone_pass(folder: Bed) -> None:
    folder.write("0002_fill_task.up.sql", "UPDATE app.task SET note = 'x';")
    assert "1:1: HF0863 warning" in folder.run("migrate", "lint").stdout


def test_lint_tells_the_faults_of_reading_too(folder: Bed) -> None:
    folder.write("0002_add_rank.up.sql", "BEGIN;\n" + BROKEN)
    found = folder.run("migrate", "lint", code=1).stdout
    assert "HF0809" in found
    assert "HF0832" in found


def test_what_the_specs_own_is_known(folder: Bed) -> None:
    file = folder.write("0002_add_note.up.sql", OWNED)
    assert "HF0861 the specs own migrations.locks" in folder.run("migrate", "lint", code=1).stdout
    file.write_text("-- covered-by: specs\n" + file.read_text())
    assert "HF0861" not in folder.run("migrate", "lint").stdout


def test_lint_refuses_faulty_specs_and_targets_and_folders_that_are_none(folder: Bed) -> None:
    assert "dev has no Postgres target other" in folder.run("migrate", "lint", "--target", "other", code=1).stderr
    assert "no such folder: none" in folder.run("migrate", "lint", "--dir", "none", code=1).stderr
    (folder.root / "specs/plane.yaml").write_text("plane: small\nschemas: {app: {tables: 5}}\n")
    assert "See everything: holdfast check" in folder.run("migrate", "lint", code=1).stderr


@pytest.mark.req("C1.8", "C1.14")
def test_up_refuses_before_anything_ran_and_tells_everything(folder: Bed) -> None:
    folder.write("0002_add_rank.up.sql", BROKEN)
    folder.write("0003_add_note.up.sql", OWNED)
    for more in ((), ("--dry-run",)):
        told = folder.run("migrate", "up", *more, code=1)
        assert "migrations/0002_add_rank.up.sql:2:33: HF0832 " in told.stderr
        assert "migrations/0003_add_note.up.sql:2:1: HF0861 " in told.stderr
        assert "error: lint refuses what is pending, so none was run: 2 errors, 2 warnings" in told.stderr
        assert told.stdout == ""
    assert folder.column("SELECT count(*) FROM migrations.history") == [0]
    assert folder.column("SELECT to_regclass('app.task')") == [None]
    ran = folder.run("migrate", "up", "--to", "1.1.0").stderr
    assert "HF0832" not in ran
    assert folder.states() == {"1.1.0": "applied", "1.2.0": "pending", "1.3.0": "pending"}


def test_up_runs_what_is_allowed_or_not_to_be_judged(folder: Bed) -> None:
    folder.write("0002_add_rank.up.sql", BROKEN, header="-- allow HF0832: the table is empty\n")
    told = folder.run("migrate", "up").stderr
    assert "HF0832" not in told
    assert "applied 1.2.0 add_rank" in told
    folder.write("0003_add_note.up.sql", OWNED)
    folder.run("migrate", "up", code=1)
    told = folder.run("migrate", "up", "--no-lint").stderr
    assert "HF0861" in told
    assert "applied 1.3.0 add_note" in told


def test_warnings_are_told_once_and_hold_nothing_up(folder: Bed) -> None:
    folder.write("0002_index_task.up.sql", "CREATE INDEX task_note ON app.task (note);")
    first = folder.run("migrate", "up").stderr
    assert first.count("migrations/0002_index_task.up.sql:2:1: HF0846 warning: ") == 1
    assert "applied 1.2.0 index_task" in first
    assert "HF0846" not in folder.run("migrate", "up").stderr
