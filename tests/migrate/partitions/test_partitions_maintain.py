"""Maintenance of partition sets on real servers: what it makes, what it carries out of DEFAULT, and who waits."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.migrate.partitions.runner import Patience
from provision.plan.protocols import LockHeld
from provision.postgres.errors import StatementFailed
from provision.spec.errors import InputError
from tests.migrate.partitions_bed import COLUMNS, DAILY, DAY, HASTY, NOON, SET, Bed, done, fill, rows

# Making ----------------------------------------------------------------------------------------------------


@pytest.mark.req("A6.6", "A6.12", "A6.8")
def test_a_set_rolls_day_by_day_and_its_plan_stays_empty(each: Bed) -> None:
    each.declare(DAILY)
    each.apply()
    assert done(each.maintain()) == []
    for number in range(1, 9):
        now = NOON + DAY * number
        found = done(each.maintain(now))
        ahead = f"{now + DAY * 3:%Y_%m_%d}"
        gone = f"{now - DAY * 6:%Y_%m_%d}" if now - DAY * 6 >= NOON - DAY else None
        assert found == [("create", ahead), *([("detach", gone), ("drop", gone)] if gone else [])]
        assert done(each.maintain(now)) == [], "a second run finds nothing to do"
        for later in (now, now.replace(hour=23, minute=59), now + DAY * 0.5):
            assert each.plan(later).is_empty
    assert each.names() == [f"{NOON + DAY * n:%Y_%m_%d}" for n in range(3, 12)]
    statuses = each.run("SELECT status, summary FROM holdfast.runs ORDER BY started_at DESC LIMIT 2")
    assert [s[0] for s in statuses] == ["done", "done"]


@pytest.mark.req("A6.8", "A6.6")
def test_ten_days_down_cost_no_consent_and_leave_no_hole(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    fill(bed, NOON, NOON + DAY * 3)
    late = NOON + DAY * 10
    report = bed.maintain(late)
    assert not report.consents
    assert bed.names() == [f"{late + DAY * n:%Y_%m_%d}" for n in range(-5, 4)]
    assert next(a.partition for a in report.actions) == "events_2026_12_01", "what is current comes first"


@pytest.mark.req("A6.3", "A6.4", "H4.2")
def test_a_new_partition_has_indexes_owner_options_and_what_its_parent_grants(bed: Bed) -> None:
    bed.run("CREATE ROLE app_user LOGIN PASSWORD 'x'")
    bed.declare(
        {**DAILY, "retain": None},
        owner="keeper",
        roles={"keeper": {}},
        indexes={"events_at": {"columns": ["at"]}},
        storage={"autovacuum_vacuum_scale_factor": 0.02},
        checks={"positive": "id > 0"},
    )
    bed.apply()
    bed.run("GRANT USAGE ON SCHEMA app TO app_user; GRANT SELECT, INSERT ON app.events TO app_user")
    bed.maintain(NOON + DAY * 2)
    ((owner, options),) = bed.run(
        "SELECT relowner::regrole::text, reloptions::text FROM pg_class WHERE relname = 'events_2026_11_26'"
    )
    assert (owner, options) == ("keeper", "{autovacuum_vacuum_scale_factor=0.02}")
    found = bed.run("SELECT indexdef FROM pg_indexes WHERE tablename = 'events_2026_11_26'")
    assert len(found) == 2, "key and index of the parent"
    server = {**bed.server, "user": "app_user", "password": "x"}
    with psycopg.connect(**server, autocommit=True) as user:
        user.execute("INSERT INTO app.events VALUES (1, '2026-11-26 01:00Z')")
        with pytest.raises(psycopg.errors.CheckViolation):
            user.execute("INSERT INTO app.events VALUES (-1, '2026-11-26 01:00Z')")
        plan = user.execute("EXPLAIN SELECT * FROM app.events WHERE at = '2026-11-26 01:00Z'").fetchall()
    assert "Append" not in str(plan), "one partition is looked at"
    assert "events_2026_11_26" in str(plan)


@pytest.mark.req("A6.5")
@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_bounds_are_in_utc_wherever_the_database_thinks_it_is(bed: Bed, zone: str) -> None:
    spring = datetime.fromisoformat("2026-03-07T12:00:00+00:00")
    bed.run(f"ALTER DATABASE {bed.server['dbname']} SET timezone = '{zone}'")
    bed.declare({"every": "1 hour", "premake": 48, "retain": "1 day"})
    bed.apply(spring)
    bed.maintain(spring)
    bed.maintain(spring + DAY * 1.5)
    bounds = list(bed.partitions().values())
    assert len(bounds) == len(set(bounds)) == 24 + 1 + 48
    assert all(b.count("+00'") == 2 for b in bounds)
    fill(bed, spring + DAY * 0.5, spring + DAY * 3)
    assert bed.plan(spring + DAY * 1.5).is_empty


@pytest.mark.req("A6.3", "A6.7")
def test_strange_names_and_foreign_tables_are_left_alone(bed: Bed) -> None:
    bed.declare({**DAILY, "retain": "1 day"})
    bed.apply()
    bed.maintain()
    bed.run("CREATE SCHEMA other; CREATE TABLE other.events_2000_01_01 (); CREATE TABLE app.events_2000_01_01 ()")
    bed.run('CREATE TABLE app."events_%" (); CREATE TABLE app."o\'dd.Name" (LIKE app.events)')
    bed.run(
        'ALTER TABLE app.events ATTACH PARTITION app."o\'dd.Name"'
        " FOR VALUES FROM ('2026-11-01 00:00Z') TO ('2026-11-05 00:00Z')"
    )
    assert ("drop", "o'dd.Name") in done(bed.maintain(NOON + DAY))
    left = {r[0] for r in bed.run("SELECT relname FROM pg_class WHERE relname ~ '2000_01_01|events_%'")}
    assert left == {"events_2000_01_01", "events_%"}


def test_what_fails_for_one_partition_stops_no_other(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    bed.run("CREATE TABLE app.events_2026_11_25 ()")
    report = bed.maintain(NOON + DAY * 6, failing=True)
    assert len(report.problems) == 1
    assert "events_2026_11_25" in report.problems[0]
    assert "Attach it again, or rename it" in report.problems[0]
    assert "2026_11_30" in bed.names()
    assert ("drop", "2026_11_20") in done(report), "retirement goes on"
    ((status, summary),) = bed.run("SELECT status, summary FROM holdfast.runs ORDER BY started_at DESC LIMIT 1")
    assert (status, summary["failed"]) == ("failed", 1)
    bed.run("DROP TABLE app.events_2026_11_25")
    assert done(bed.maintain(NOON + DAY * 6)) == [("create", "2026_11_25")], "the hole is filled"


@pytest.mark.req("A6.6")
def test_numbers_are_followed_and_a_stray_one_stays_in_default(bed: Bed) -> None:
    numbers = {"key": ["id"], "every": "100 integers", "premake": 2, "retain": "300 integers", "default": True}
    bed.declare(numbers)
    bed.apply()
    bed.maintain()
    bed.run("INSERT INTO app.events SELECT g, now() FROM generate_series(0, 950) g")
    bed.run("INSERT INTO app.events VALUES (9000000000000000000, now())")
    report = bed.maintain()
    assert not report.consents
    assert bed.names() == ["1000", "1100", "600", "700", "800", "900", "default"]
    assert bed.run("SELECT min(id), max(id), count(*) FROM app.events") == [(600, 9000000000000000000, 352)]
    assert done(bed.maintain()) == []


# DEFAULT ---------------------------------------------------------------------------------------------------


@pytest.mark.req("A6.8")
def test_rows_in_default_get_partitions_of_their_own(each: Bed) -> None:
    each.declare({**DAILY, "retain": None, "default": True})
    each.apply()
    expected = fill(each, NOON - DAY * 40, NOON + DAY * 20)
    report = each.maintain()
    assert rows(each) == expected
    assert each.run("SELECT count(*), min(at) FROM app.events_default")[0] == (
        24 * 16 + 13,
        (NOON + DAY * 4).replace(hour=0),
    ), "what lies further ahead than premake has time"
    moves = [a for a in report.actions if a.action == "move"]
    assert {a.lock for a in moves} == {"ACCESS EXCLUSIVE"}
    assert sum(a.rows or 0 for a in moves) == 24 * 38 + 12
    assert each.plan().is_empty
    assert done(each.maintain()) == []


@pytest.mark.req("A6.8")
def test_an_apply_that_default_rows_stop_says_what_moves_them(each: Bed) -> None:
    each.declare({**DAILY, "retain": None, "default": True})
    each.apply()
    expected = fill(each, NOON + DAY * 5, NOON + DAY * 6)
    late = NOON + DAY * 6
    with pytest.raises(StatementFailed) as failed:
        each.apply(late, f"blocking:{SET}")
    assert failed.value.sqlstate == "23514"
    assert "run: holdfast partitions maintain" in failed.value.help
    each.maintain(late)
    assert each.apply(late).steps == (), "maintenance made them all"
    assert rows(each) == expected


@pytest.mark.req("A6.8")
def test_many_rows_of_one_interval_are_moved_in_portions(bed: Bed) -> None:
    bed.declare({**DAILY, "default": True})
    bed.apply()
    late = NOON + DAY * 6
    bed.run(
        "INSERT INTO app.events SELECT g, '2026-11-27 00:00Z'::timestamptz + g * interval '1 minute'"
        " FROM generate_series(0, 1439) g"
    )
    bed.maintain(late, patience=Patience(portion=300))
    cut = [name for name in bed.names() if name.startswith("2026_11_27")]
    assert len(cut) == 5
    assert rows(bed) == 1440
    assert bed.run("SELECT count(*) FROM app.events_default") == [(0,)]
    assert max(bed.run(f"SELECT count(*) FROM app.events_{name}")[0][0] for name in cut) <= 300
    assert bed.plan(late).is_empty
    gone = done(bed.maintain(late + DAY * 9))
    assert [n for word, n in gone if word == "drop" and n.startswith("2026_11_27")] == cut


@pytest.mark.req("A6.8")
def test_moving_deletes_nothing_in_the_eyes_of_triggers_and_references(bed: Bed) -> None:
    bed.declare({**DAILY, "default": True})
    bed.apply()
    bed.run("CREATE TABLE app.heard (what text); CREATE TABLE app.child (id bigint, at timestamptz)")
    bed.run(
        "ALTER TABLE app.child ADD FOREIGN KEY (id, at) REFERENCES app.events ON DELETE CASCADE;"
        " CREATE FUNCTION app.hear() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO app.heard VALUES (tg_op); RETURN coalesce(new, old); END $$;"
        " CREATE TRIGGER hear AFTER INSERT OR DELETE ON app.events FOR EACH ROW EXECUTE FUNCTION app.hear()"
    )
    bed.run("INSERT INTO app.events VALUES (1, '2026-11-27 01:00Z')")
    bed.run("INSERT INTO app.child VALUES (1, '2026-11-27 01:00Z')")
    bed.maintain(NOON + DAY * 6)
    assert bed.run("SELECT tableoid::regclass::text FROM app.events") == [("app.events_2026_11_27",)]
    assert bed.run("SELECT count(*) FROM app.child") == [(1,)]
    assert bed.run("SELECT what FROM app.heard") == [("INSERT",)]
    bed.run("DELETE FROM app.events")
    assert bed.run("SELECT count(*) FROM app.child") == [(0,)], "references work on in the new partition"


def test_a_deployer_that_may_not_silence_triggers_moves_no_row(tmp_path: Path, pg_database: dict[str, Any]) -> None:
    boss = Bed(tmp_path / "boss", pg_database)
    boss.run(f"CREATE ROLE deployer LOGIN PASSWORD 'x'; ALTER DATABASE {pg_database['dbname']} OWNER TO deployer")
    bed = Bed(tmp_path / "bed", {**pg_database, "user": "deployer", "password": "x"})
    bed.declare({**DAILY, "default": True})
    bed.apply()
    bed.maintain()
    bed.run(
        "CREATE FUNCTION app.hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'heard'; END $$;"
        " CREATE TRIGGER hear BEFORE DELETE ON app.events FOR EACH ROW EXECUTE FUNCTION app.hear()"
    )
    bed.run("INSERT INTO app.events VALUES (1, '2026-11-27 01:00Z')")
    late = NOON + DAY * 6
    report = bed.maintain(late, failing=True)
    assert all("GRANT SET ON PARAMETER session_replication_role TO deployer" in p for p in report.problems)
    assert {"2026_11_26", "2026_11_28"} <= set(bed.names()), "where nothing waits nothing is heard"
    assert "2026_11_27" not in bed.names()
    boss.run("GRANT SET ON PARAMETER session_replication_role TO deployer")
    try:
        assert ("move", "2026_11_27") in done(bed.maintain(late))
    finally:
        boss.run("REVOKE SET ON PARAMETER session_replication_role FROM deployer")
        boss.run(f"ALTER DATABASE {pg_database['dbname']} OWNER TO CURRENT_USER")


def test_rows_are_carried_by_name_whatever_the_order_of_columns(bed: Bed) -> None:
    columns = {
        **COLUMNS,
        "size": {"type": "integer", "nullable": False, "default": 7},
        "twice": {"type": "integer", "generated": {"expression": "size * 2"}},
    }
    bed.declare({**DAILY, "default": "strays"}, columns=columns)
    bed.apply()
    bed.run(
        "ALTER TABLE app.events DETACH PARTITION app.strays; DROP TABLE app.strays;"
        "CREATE TABLE app.strays (gone int, size int NOT NULL DEFAULT 7, at timestamptz NOT NULL,"
        " twice int GENERATED ALWAYS AS (size * 2) STORED, id bigint NOT NULL);"
        "ALTER TABLE app.strays DROP COLUMN gone; ALTER TABLE app.events ATTACH PARTITION app.strays DEFAULT"
    )
    bed.run("INSERT INTO app.events (id, at, size) VALUES (5, '2026-11-27 01:00Z', 21)")
    bed.maintain(NOON + DAY * 6)
    assert bed.run("SELECT id, size, twice FROM app.events_2026_11_27") == [(5, 21, 42)]


# In the way ----------------------------------------------------------------------------------------------


class Writer:
    """Writes a row again and again while the block runs, and notes how long each took."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.waits: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with self.bed.connect() as session:
            while not self._over.is_set():
                begun = time.monotonic()
                session.execute("INSERT INTO app.events VALUES (%s, '2026-11-21 00:00Z')", [len(self.waits) + 1])
                self.waits.append(time.monotonic() - begun)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()


def waiting_in_default(bed: Bed) -> None:
    """A set beside a DEFAULT partition, in which one row waits for its own partition."""
    bed.declare({**DAILY, "default": True})
    bed.apply()
    bed.maintain()
    bed.run("INSERT INTO app.events VALUES (0, '2026-11-25 00:00Z')")


def is_moved(bed: Bed) -> bool:
    return bed.run("SELECT tableoid::regclass::text FROM app.events WHERE id = 0") == [("app.events_2026_11_25",)]


@pytest.mark.req("A6.12", "H4.1")
def test_nobody_waits_longer_than_the_lock_timeout_behind_a_run_that_waits(bed: Bed) -> None:
    waiting_in_default(bed)
    writer = Writer(bed)
    with bed.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM app.events")
        with writer:
            slow = threading.Thread(target=lambda: bed.maintain(NOON + DAY, patience=Patience(lock_timeout_ms=200)))
            slow.start()
            time.sleep(2)
    slow.join()
    assert is_moved(bed)
    assert max(writer.waits) < 0.2 + 0.8, "the margin is for a machine under load"
    assert sum(w > 0.15 for w in writer.waits) >= 2, "it was waited for, again and again"


@pytest.mark.req("A6.12", "H4.1")
@pytest.mark.parametrize(("mode", "tries"), [("SHARE UPDATE EXCLUSIVE", 1), ("ACCESS SHARE", 20)])
def test_who_uses_default_itself_holds_up_maintenance_and_no_writer(bed: Bed, mode: str, tries: int) -> None:
    """A long VACUUM, or a report on it: were the table locked while these are waited for, each writer would wait.

    VACUUM is waited for beforehand, with no strong lock at all, so that one try is enough.
    """
    waiting_in_default(bed)
    writer = Writer(bed)
    with bed.connect() as other, other.transaction():
        other.execute(f"LOCK TABLE app.events_default IN {mode} MODE".encode())
        with writer:
            patience = Patience(lock_timeout_ms=1500, tries=tries, calm_ms=20_000)
            slow = threading.Thread(target=lambda: bed.maintain(NOON + DAY, patience=patience))
            slow.start()
            time.sleep(2)
            assert not is_moved(bed)
    slow.join()
    assert is_moved(bed)
    assert len(writer.waits) > 100
    assert max(writer.waits) < 0.8, "less than the lock timeout of the run"


@pytest.mark.req("A6.12", "H4.1")
def test_without_default_partitions_come_while_rows_are_being_written(each: Bed) -> None:
    """A writer's transaction is open all the time: any lock against writers would wait for it in vain."""
    each.declare(DAILY, indexes={"events_at": {"columns": ["at"]}})
    each.apply()
    with each.connect() as writer, writer.transaction():
        writer.execute("INSERT INTO app.events VALUES (1, '2026-11-21 00:00Z')")
        report = each.maintain(NOON + DAY * 3, patience=HASTY)
        assert len(done(report)) == 3
        assert {a.lock for a in report.actions} == {"SHARE UPDATE EXCLUSIVE"}
        assert {a.held_ms for a in report.actions} == {None}
        writer.execute("INSERT INTO app.events VALUES (2, '2026-11-27 00:00Z')")
    assert rows(each) == 2


@pytest.mark.req("A6.12")
def test_a_second_run_is_told_who_is_at_work(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        from provision.reconcile import open_plane

        with open_plane(bed.plain.specs, "dev", cache=bed.plain.cache) as plane, plane.ground.ledger.hold():
            inside.set()
            leave.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(30)
    try:
        with pytest.raises(LockHeld, match=r"holdfast dev \(.*pid \d+\)"):
            bed.maintain(NOON + DAY)
    finally:
        leave.set()
        other.join()
    assert done(bed.maintain(NOON + DAY)) == [("create", "2026_11_25")]


@pytest.mark.req("A6.12")
def test_many_at_once_do_the_work_of_one(bed: Bed) -> None:
    bed.declare({**DAILY, "default": True})
    bed.apply()
    bed.maintain()
    expected = fill(bed, NOON, NOON + DAY * 6)
    work: list[list[tuple[str, str]]] = []
    held: list[LockHeld] = []

    def run() -> None:
        try:
            work.append(done(bed.maintain(NOON + DAY * 4)))
        except LockHeld as error:
            held.append(error)

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [action for one in work for action in one]
    assert len(everything) == len(set(everything)), "nothing was done twice"
    assert len(work) + len(held) == 5
    assert rows(bed) == expected
    assert done(bed.maintain(NOON + DAY * 4)) == []


def test_an_address_that_names_no_set_is_told(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    assert done(bed.maintain(NOON + DAY, only=("pg:main/app/events",))) == [("create", "2026_11_25")]
    with pytest.raises(InputError, match="no rolling partition set"):
        bed.maintain(only=("pg:main/app/other",))
    with pytest.raises(InputError, match="is not a consent"):
        bed.maintain(NOON, "everything")


def test_a_set_that_was_not_applied_yet_is_noted(bed: Bed) -> None:
    bed.declare(DAILY)
    assert "holdfast apply creates it" in bed.maintain().notes[0]
