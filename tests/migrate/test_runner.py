"""Migrations run against a real server: in a transaction, statement by statement, forth and back, and refused."""

from __future__ import annotations

import hashlib

import psycopg
import pytest

from provision.plan.protocols import LockHeld
from provision.spec.errors import HoldfastError, InputError, OperationError
from tests.migrate.conftest import Bed

TABLE = "CREATE SCHEMA app; CREATE TABLE app.task (id bigint PRIMARY KEY, note text);"
NONE = "-- transaction: none\n"


def refused(bed: Bed, *, down: bool = False, to: str | None = None) -> HoldfastError:
    with pytest.raises(HoldfastError) as found:
        _ = bed.down(to) if down else bed.up(to)
    return found.value


@pytest.mark.req("C1.1", "C1.2", "C1.5", "C1.6", "C1.13")
def test_every_column_of_the_version_table_is_filled(bed: Bed) -> None:
    up = bed.write("0001_create_task.up.sql", TABLE, header="-- description: The first table\n")
    down = bed.write("0001_create_task.down.sql", "DROP SCHEMA app CASCADE;")
    header = "-- kind: data\n-- depends-on: 1.1.0\n"
    bed.write("0002_fill_task.up.sql", "INSERT INTO app.task VALUES (1, 'it''s \\\\ ü');", header=header)
    assert bed.up(application_version="4.5.6") == ["1.1.0", "1.2.0"]
    first, second = bed.sql(
        "SELECT version, name, description, migration_type, sql_hash, depends_on_version, rollback_sql,"
        " is_rollbackable, status, applied_by = CURRENT_USER, execution_time_ms >= 0,"
        " database_version = split_part(version(), ' ', 2), application_version, environment"
        " FROM migrations.applied_migrations ORDER BY version"
    )
    digest = hashlib.sha256(up.read_bytes()).hexdigest()
    assert first == (
        "1.1.0", "create_task", "The first table", "schema", digest, None, down.read_text(), True,
        "applied", True, True, True, "4.5.6", "dev",
    )  # fmt: skip
    other = hashlib.sha256((bed.folder / "0002_fill_task.up.sql").read_bytes()).hexdigest()
    assert second[3:8] == ("data", other, "1.1.0", None, False)
    assert bed.up() == []


@pytest.mark.req("C1.13")
def test_the_application_version_is_read_from_its_setting(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.sql(f"ALTER DATABASE {bed.database['dbname']} SET application.version = '9.1'")
    bed.up()
    assert bed.column("SELECT application_version FROM migrations.applied_migrations") == ["9.1"]


@pytest.mark.req("C1.9", "C1.10", "C1.12")
def test_forth_and_back_and_forth_leaves_the_whole_story(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE, header="-- assert-after there: to_regclass('app.task') IS NOT NULL\n")
    bed.write("0001_create_task.down.sql", "DROP TABLE app.task; DROP SCHEMA app;")
    bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD COLUMN rank int;")
    bed.write("0002_add_rank.down.sql", "ALTER TABLE app.task DROP COLUMN rank;")
    assert bed.up(to="1.1.0") == ["1.1.0"]
    assert bed.up() == ["1.2.0"]
    assert bed.down() == ["1.2.0"]
    assert bed.states() == {"1.1.0": "applied", "1.2.0": "rolled_back"}
    assert bed.up() == ["1.2.0"]
    assert bed.down(to="0") == ["1.2.0", "1.1.0"]
    assert bed.column("SELECT to_regnamespace('app')") == [None]
    once = [("up", "started", None), ("up", "applied", None), ("down", "started", None), ("down", "rolled_back", None)]
    assert bed.events("1.2.0") == once * 2
    assert bed.sql("SELECT version, status FROM migrations.applied_migrations ORDER BY 1") == [
        ("1.1.0", "rolled_back"),
        ("1.2.0", "rolled_back"),
    ]
    assert bed.column("SELECT count(*) FROM migrations.validation_results WHERE migration_version = '1.1.0'") == [1]


@pytest.mark.req("C1.10")
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET event = 'done'", "TRUNCATE {}"])
def test_history_cannot_be_rewritten(bed: Bed, change: str) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.up()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        bed.sql(change.format("migrations.history"))


@pytest.mark.req("C1.10", "C1.14")
def test_a_failed_file_leaves_nothing_but_its_trace(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    text = "INSERT INTO app.task VALUES (1);\n\n  -- half\n  INSERT INTO app.task (id, nope)\n  VALUES (2, 3);"
    bad = bed.write("0002_fill_task.up.sql", text)
    error = refused(bed)
    assert f"{bad}:5:29: " in str(error), error
    assert "nope" in str(error)
    assert "Nothing of this file was kept; mend statement 2" in error.help
    assert bed.column("SELECT count(*) FROM app.task") == [0]
    assert bed.events("1.2.0") == [("up", "started", None), ("up", "failed", 2)]
    assert bed.column("SELECT status FROM migrations.applied_migrations WHERE version = '1.2.0'") == ["failed"]
    assert bed.states() == {"1.1.0": "applied", "1.2.0": "failed"}
    bad.write_text(bad.read_text().replace("nope", "note"))
    assert bed.up() == ["1.2.0"]


@pytest.mark.parametrize("text", ["SELECT 1;\nSELEC 2;\nSELECT 3", "SELECT 1;\nSELECT 1/0", "SELECT 'ü', 1;\nSELECT x"])
def test_an_error_names_the_line_of_its_statement(bed: Bed, text: str) -> None:
    bad = bed.write("0001_do_sums.up.sql", text)
    assert f"{bad}:3:" in str(refused(bed))


def test_a_deferred_constraint_that_fails_at_the_end_is_told(bed: Bed) -> None:
    text = TABLE + "CREATE TABLE app.part (task bigint REFERENCES app.task DEFERRABLE INITIALLY DEFERRED);"
    bed.write("0001_create_task.up.sql", text + "INSERT INTO app.part VALUES (7);")
    assert "part_task_fkey" in str(refused(bed))
    assert bed.states() == {"1.1.0": "failed"}


@pytest.mark.req("C1.4", "C1.12", "C1.14")
@pytest.mark.parametrize(
    ("sql", "status", "said"),
    [
        ("SELECT count(*) = 2 FROM app.task", "failed", "it gave false"),
        ("NULL::boolean", "failed", "it gave null"),
        ("SELECT true FROM generate_series(1, 3)", "failed", "it gave 3 rows"),
        ("SELECT missing", "error", "42703"),
    ],
)
@pytest.mark.parametrize("phase", ["before", "after"])
def test_an_assertion_that_does_not_hold_undoes_the_file(
    bed: Bed, phase: str, sql: str, status: str, said: str
) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    header = f"-- assert-{phase} first: true\n-- assert-{phase} rows: {sql}\n-- assert-{phase} last: true\n"
    file = bed.write("0002_fill_task.up.sql", "INSERT INTO app.task VALUES (1);", header=header)
    error = refused(bed)
    assert f"{file}:3:1: assert-{phase} rows does not hold: " in str(error)
    assert said in str(error)
    assert bed.column("SELECT count(*) FROM app.task") == [0]
    told = bed.sql("SELECT test_name, test_type, status FROM migrations.validation_results ORDER BY test_name")
    assert told == [
        (f"{phase}: first", "integration", "passed"),
        (f"{phase}: last", "integration", "skipped"),
        (f"{phase}: rows", "integration", status),
    ]


@pytest.mark.req("C1.8")
def test_a_file_without_a_transaction_keeps_what_ran_and_goes_on_from_there(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE + "INSERT INTO app.task VALUES (1, 'a'), (2, 'a');")
    text = (
        "INSERT INTO app.task VALUES (3, 'b');\nCREATE INDEX CONCURRENTLY task_note ON app.task (note);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY task_note_key ON app.task (note);\nINSERT INTO app.task VALUES (4, 'c');"
    )
    bad = bed.write("0002_index_task.up.sql", text, header=NONE)
    error = refused(bed)
    assert f"{bad}:5:1: " in str(error)
    assert "Its first 2 statements have run and stay; mend statement 3" in error.help
    assert bed.column("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []
    assert "is applied by half" in str(refused(bed, down=True))
    bad.write_text(bad.read_text().replace("CREATE UNIQUE", "CREATE").replace("task_note_key", "task_second"))
    assert bed.up() == ["1.2.0"]
    assert bed.column("SELECT id FROM app.task ORDER BY 1") == [1, 2, 3, 4]
    assert [e[1:] for e in bed.events("1.2.0")] == [
        ("started", None), ("done", 1), ("intended", 2), ("done", 2), ("intended", 3), ("failed", 3),
        ("started", None), ("intended", 3), ("done", 3), ("done", 4), ("applied", None),
    ]  # fmt: skip


def test_what_has_run_may_not_change_before_the_rest_is_applied(bed: Bed) -> None:
    file = bed.write("0001_do_sums.up.sql", "SELECT 1;\nSELECT 1/0;", header=NONE)
    refused(bed)
    file.write_text(file.read_text().replace("SELECT 1;", "SELECT 3;"))
    error = refused(bed)
    assert "statement 1 has run and is not the same any more" in str(error)


@pytest.mark.req("C1.8")
def test_a_new_enum_value_can_be_used_by_the_next_statement(bed: Bed) -> None:
    bed.write("0001_create_mood.up.sql", "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a');")
    text = "ALTER TYPE app.mood ADD VALUE 'b';\nCREATE TABLE app.t AS SELECT 'b'::app.mood AS m;\nVACUUM app.t;"
    bed.write("0002_add_mood.up.sql", text, header=NONE)
    assert bed.up() == ["1.1.0", "1.2.0"]


def test_what_a_file_does_to_its_session_ends_with_it(bed: Bed) -> None:
    bed.sql("CREATE ROLE stranger")
    text = "SET search_path = app; SET ROLE stranger; SET lock_timeout = '7s'; SET SESSION AUTHORIZATION stranger;"
    bed.write("0001_create_task.up.sql", TABLE + text)
    check = "current_setting('lock_timeout') <> '7s' AND current_user <> 'stranger'"
    bed.write("0002_fill_task.up.sql", "INSERT INTO app.task VALUES (1);", header=f"-- assert-before own: {check}\n")
    assert bed.up() == ["1.1.0", "1.2.0"]
    assert bed.column("SELECT DISTINCT recorded_by = CURRENT_USER FROM migrations.history") == [True]
    bed.sql("DROP ROLE stranger")


def test_another_session_in_the_way_is_waited_for_and_then_named(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.up()
    bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD rank int;", header="-- lock-timeout: 50ms\n")
    with psycopg.connect(**bed.database) as other:
        other.execute("SELECT * FROM app.task")
        error = refused(bed)
        assert "0002_add_rank.up.sql:3:1: " in str(error)
        assert "lock timeout" in str(error)
        assert "Tried 3 times" in error.help
    assert bed.up() == ["1.2.0"]


def test_a_statement_timeout_is_obeyed(bed: Bed) -> None:
    bed.write("0001_do_sleep.up.sql", "SELECT pg_sleep(20);", header="-- statement-timeout: 100ms\n")
    assert "statement timeout" in str(refused(bed))


@pytest.mark.req("C1.3", "C1.7")
def test_whoever_holds_the_lock_is_named_for_up_and_down(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0001_create_task.down.sql", "DROP SCHEMA app CASCADE;")
    with bed.session() as first, bed.runner(first)._locked():
        pid = first.info.backend_pid
        assert bed.column("SELECT locked_by LIKE '%pid ' || %s FROM migrations.locks".replace("%s", str(pid))) == [True]
        for down in (False, True):
            error = refused(bed, down=down)
            assert isinstance(error, LockHeld)
            assert f"pid {pid}" in str(error)
            assert f"pg_terminate_backend({pid})" in str(error)
    assert bed.up() == ["1.1.0"]
    assert bed.column("SELECT count(*) FROM migrations.locks") == [0]


@pytest.mark.req("C1.11")
def test_a_file_that_was_edited_after_it_was_applied_is_refused(bed: Bed) -> None:
    file = bed.write("0001_create_task.up.sql", TABLE)
    bed.up()
    kept = file.read_text()
    file.write_text(kept + "-- more\n")
    error = refused(bed)
    assert isinstance(error, InputError)
    assert "was changed after version 1.1.0 was applied" in str(error)
    assert "git log -p" in error.help
    assert bed.states() == {"1.1.0": "changed"}
    file.write_text(kept)
    assert bed.up() == []


@pytest.mark.req("C1.11")
def test_a_file_that_went_away_is_refused(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    lost = bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD rank int;")
    bed.up()
    lost.unlink()
    assert "version 1.2.0 was applied, and no file of this folder has it" in str(refused(bed))
    assert bed.states() == {"1.1.0": "applied", "1.2.0": "missing"}


@pytest.mark.req("C1.11")
def test_a_file_that_slips_in_between_is_refused(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD rank int;", version="1.3.0")
    bed.up()
    (bed.folder / "0002_add_rank.up.sql").rename(bed.folder / "0003_add_rank.up.sql")
    bed.write("0002_add_size.up.sql", "ALTER TABLE app.task ADD size int;")
    error = refused(bed)
    assert "was never applied, and 1.3.0 after it was" in str(error)
    assert "Renumber" in error.help


@pytest.mark.req("C1.9")
def test_down_without_a_way_back_changes_nothing(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD rank int;")
    bed.write("0002_add_rank.down.sql", "ALTER TABLE app.task DROP rank;")
    bed.up()
    error = refused(bed, down=True, to="0")
    assert "1.1.0 (create_task) has no way back" in str(error)
    assert "0001_create_task.down.sql" in error.help
    assert bed.states() == {"1.1.0": "applied", "1.2.0": "applied"}


def test_a_failed_way_back_leaves_the_version_applied(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0001_create_task.down.sql", "DROP TABLE app.task; DROP TABLE app.nothing;")
    bed.up()
    refused(bed, down=True)
    assert bed.states() == {"1.1.0": "applied"}
    assert bed.column("SELECT status FROM migrations.applied_migrations") == ["applied"]
    assert bed.column("SELECT count(*) FROM app.task") == [0]


@pytest.mark.req("C1.9")
def test_a_way_back_without_a_transaction_resumes(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE + "CREATE INDEX task_note ON app.task (note);")
    text = "DROP INDEX CONCURRENTLY app.task_note;\nDROP TABLE app.nothing;"
    down = bed.write("0001_create_task.down.sql", text, header=NONE)
    bed.up()
    refused(bed, down=True)
    assert bed.states() == {"1.1.0": "failed"}
    assert "is rolled back by half" in str(refused(bed))
    down.write_text(down.read_text().replace("app.nothing", "app.task"))
    assert bed.down() == ["1.1.0"]
    assert bed.column("SELECT status FROM migrations.applied_migrations") == ["rolled_back"]


def test_a_baseline_records_and_runs_nothing(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.write("0002_add_rank.up.sql", "ALTER TABLE app.task ADD rank int;")
    with bed.session() as session:
        assert [m.version for m in bed.runner(session).baseline("1.1.0")] == ["1.1.0"]
    assert bed.column("SELECT to_regclass('app.task')") == [None]
    bed.sql(TABLE)
    assert bed.up() == ["1.2.0"]
    assert bed.events("1.1.0") == [("up", "baselined", None)]


def test_the_schema_is_asked_for_before_anything_runs(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    bed.sql("DROP SCHEMA migrations CASCADE")
    error = refused(bed)
    assert isinstance(error, InputError)
    assert "holdfast migrate init" in error.help


def test_a_role_that_may_not_write_history_is_told_what_it_lacks(bed: Bed) -> None:
    bed.write("0001_do_sums.up.sql", "SELECT 1;")
    role = f"runner_{bed.database['dbname']}"
    bed.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'runner'; GRANT USAGE ON SCHEMA migrations TO {role}")
    bed.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA migrations TO {role}")
    owner, bed.database = bed.database, {**bed.database, "user": role, "password": "runner"}
    error = refused(bed)
    bed.database = owner
    assert "permission denied for table locks" in str(error)
    bed.sql(error.help.removeprefix("As its owner or a superuser run: "))
    bed.database = {**owner, "user": role, "password": "runner"}
    assert bed.up() == ["1.1.0"]
    bed.database = owner
    assert bed.column("SELECT applied_by FROM migrations.applied_migrations") == [role]
    bed.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_block_that_commits_by_itself_is_never_run_again_unasked(bed: Bed) -> None:
    bed.write("0001_create_task.up.sql", TABLE)
    text = "DO $$ BEGIN INSERT INTO app.task VALUES (1); COMMIT; PERFORM 1/0; END $$;"
    bed.write("0002_fill_task.up.sql", text, header=NONE)
    refused(bed)
    error = refused(bed)
    assert isinstance(error, OperationError)
    assert "does not show whether it took effect" in str(error)
    assert "--done 1.2.0:1" in error.help
    with bed.session() as session:
        ran = bed.runner(session).up(decisions={("1.2.0", 1): "done"})
    assert [r.migration.version for r in ran] == ["1.2.0"]
    assert bed.column("SELECT id FROM app.task") == [1]
