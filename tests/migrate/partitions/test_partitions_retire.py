"""Retirement of partitions on real servers: consents, archives, and runs that were interrupted."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path

import pytest

from provision.migrate.partitions import archive
from tests.migrate.partitions_bed import COLUMNS, CONSENT, DAILY, DAY, HASTY, NOON, SET, Bed, done, fill, rows


def archived(path: str) -> list[list[str]]:
    lines = gzip.decompress(Path(path).read_bytes()).decode().splitlines()
    return [line.split("\t") for line in lines]


# Retiring --------------------------------------------------------------------------------------------------


@pytest.mark.req("A6.7")
def test_a_retention_shortened_by_mistake_waits_for_a_consent_with_its_rows(bed: Bed) -> None:
    bed.declare({**DAILY, "retain": "30 days"})
    bed.apply()
    for number in range(20):
        bed.maintain(NOON + DAY * number)
    expected = fill(bed, NOON, NOON + DAY * 19)
    now = NOON + DAY * 19
    bed.declare({**DAILY, "retain": "3 days"})
    report = bed.maintain(now)
    assert report.consents == [CONSENT]
    assert rows(bed) == expected, "nothing was retired but what was empty"
    held = [a for a in report.actions if a.state == "held"]
    assert sum(a.rows or 0 for a in held) == 12 + 24 * 15
    assert "it was 30 days" in report.notes[0]
    assert bed.maintain(now).consents == [CONSENT], "asked for until it is given"
    after = bed.maintain(now, CONSENT)
    assert not after.consents
    assert rows(bed) == 24 * 3 + 13
    assert not bed.maintain(now + DAY).consents, "from now on it is the policy"


def test_the_first_maintenance_of_a_set_takes_no_rows_unasked(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    fill(bed, NOON, NOON + DAY)
    late = NOON + DAY * 20
    assert bed.maintain(late).consents == [CONSENT]
    assert rows(bed) == 25
    bed.maintain(late, CONSENT)
    assert rows(bed) == 0


def test_dry_run_shows_everything_and_changes_nothing(bed: Bed) -> None:
    bed.declare({**DAILY, "default": True})
    bed.apply()
    bed.maintain()
    fill(bed, NOON, NOON + DAY * 5)
    late = NOON + DAY * 8
    before = bed.partitions()
    report = bed.maintain(late, dry=True)
    assert bed.partitions() == before
    assert {a.state for a in report.actions} == {"planned"}
    assert {a.action for a in report.actions} == {"create", "move", "detach", "drop"}
    assert {a.lock for a in report.actions if a.action != "drop"} == {"ACCESS EXCLUSIVE"}
    assert bed.run("SELECT count(*) FROM holdfast.runs WHERE fingerprint ~ '^partitions'") == [(1,)]


@pytest.mark.req("A6.7")
def test_detached_partitions_are_kept_and_left_alone(each: Bed) -> None:
    each.declare({**DAILY, "on_expiry": "detach"})
    each.apply()
    each.maintain()
    expected = fill(each, NOON, NOON + DAY * 3)
    late = NOON + DAY * 8
    each.maintain(late)
    kept = "SELECT count(*) FROM app.events_2026_11_21"
    assert rows(each) == expected - 12 - 24 - 24, "three days left the set"
    assert each.run(kept) == [(12,)]
    ((comment,),) = each.run("SELECT obj_description('app.events_2026_11_21'::regclass)")
    assert '"then": "detach"' in comment
    assert done(each.maintain(late)) == []
    assert not each.plan(late).steps, "a table of its own now: reported, never dropped"
    each.declare(DAILY)
    each.maintain(late)
    assert each.run(kept) == [(12,)], "what was kept stays when the policy changes"


@pytest.mark.req("A6.7")
def test_an_archive_holds_every_row_before_its_table_goes(each: Bed) -> None:
    columns = {**COLUMNS, "note": {"type": "text"}, "twice": {"type": "bigint", "generated": {"expression": "id * 2"}}}
    each.declare({**DAILY, "on_expiry": "archive"}, columns=columns)
    each.apply()
    each.maintain()
    fill(each, NOON, NOON + DAY * 0.5 - timedelta(hours=1))
    each.run("UPDATE app.events SET note = E'line\\nbreak\\t\\\\' WHERE extract(hour FROM at AT TIME ZONE 'UTC') = 13")
    report = each.maintain(NOON + DAY * 7)
    found = {a.partition: a for a in report.actions if a.action == "archive"}
    action = found["events_2026_11_21"]
    assert action.rows == 12
    assert "2026_11_21" not in each.names()
    lines = archived(action.file or "")
    assert lines[0] == ["id", "at", "note"]
    assert len(lines) == 13
    about = json.loads(Path(action.file or "").with_suffix(".json").read_text())
    assert (about["rows"], about["of"]) == (12, SET)
    assert "2026-11-21" in about["bound"]
    each.run("CREATE TABLE app.back (id bigint, at timestamptz, note text)")
    with each.connect() as session, session.cursor().copy("COPY app.back FROM STDIN (HEADER MATCH)") as into:
        into.write(gzip.decompress(Path(action.file or "").read_bytes()))
    assert each.run("SELECT count(*), max(note) FROM app.back") == [(12, "line\nbreak\t\\")]


def test_an_archive_is_never_overwritten_and_never_made_twice(bed: Bed) -> None:
    bed.declare({**DAILY, "on_expiry": "archive"})
    bed.apply()
    bed.maintain()
    place = bed.root.joinpath("archive", "drifting", "dev", "main", "app") / "events_2026_11_21.copy.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(gzip.compress(b"id\tat\n1\tsomething else\n"))
    (place.parent / ".killed.new").write_bytes(b"half")
    fill(bed, NOON, NOON + DAY * 0.25)
    report = bed.maintain(NOON + DAY * 7)
    files = [a.file for a in report.actions if a.partition == "events_2026_11_21" and a.file]
    assert [Path(f).name for f in files] == ["events_2026_11_21-2.copy.gz"]
    assert b"something else" in gzip.decompress(place.read_bytes())
    assert not list(place.parent.glob(".*")), "nothing half-written is left"


def test_a_disk_that_lies_costs_no_row(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.declare({**DAILY, "on_expiry": "archive"})
    bed.apply()
    bed.maintain()
    fill(bed, NOON, NOON + DAY * 0.25)
    read = archive._unpacked
    monkeypatch.setattr(archive, "_unpacked", lambda path: (part.replace(b"2026", b"2025") for part in read(path)))
    report = bed.maintain(NOON + DAY * 7, failing=True)
    assert all("differs in content" in p for p in report.problems)
    assert bed.run("SELECT count(*) FROM app.events_2026_11_21") == [(7,)]
    monkeypatch.undo()
    report = bed.maintain(NOON + DAY * 7)
    assert ("archive", "2026_11_21") in done(report), "the next run ends what this one began"


def test_without_a_folder_that_lasts_nothing_is_archived(bed: Bed) -> None:
    bed.declare({**DAILY, "on_expiry": "archive"})
    bed.apply()
    bed.maintain()
    report = bed.maintain(NOON + DAY * 7, archive=None, failing=True)
    assert "HOLDFAST_ARCHIVE" in report.problems[0]
    assert "2026_11_21" in bed.names()


@pytest.mark.req("A6.7")
def test_a_partition_that_is_split_itself_is_retired_as_a_whole(bed: Bed) -> None:
    bed.declare({**DAILY, "on_expiry": "archive"})
    bed.apply()
    bed.maintain()
    bed.run(
        "CREATE TABLE app.deep (LIKE app.events) PARTITION BY HASH (id);"
        "CREATE TABLE app.deep_0 PARTITION OF app.deep FOR VALUES WITH (modulus 2, remainder 0);"
        "CREATE TABLE app.deep_1 PARTITION OF app.deep FOR VALUES WITH (modulus 2, remainder 1);"
        "ALTER TABLE app.events ATTACH PARTITION app.deep"
        " FOR VALUES FROM ('2026-11-18 00:00Z') TO ('2026-11-19 00:00Z')"
    )
    fill(bed, NOON - DAY * 3, NOON - DAY * 2.6)
    report = bed.maintain(NOON + DAY * 3)
    (action,) = (a for a in report.actions if a.action == "archive" and a.partition == "deep")
    assert action.rows == 10
    assert bed.run("SELECT count(*) FROM pg_class WHERE relname ~ '^deep'") == [(0,)]


# Interrupted, and in the way -------------------------------------------------------------------------------


@pytest.mark.req("A6.7")
def test_an_interrupted_detaching_is_ended_by_the_next_run(each: Bed) -> None:
    each.declare(DAILY)
    each.apply()
    each.maintain()
    fill(each, NOON, NOON + DAY * 0.25)
    late = NOON + DAY * 6
    with each.connect() as blocker, blocker.transaction():
        blocker.execute("SELECT count(*) FROM app.events")
        report = each.maintain(late, patience=HASTY, failing=True)
        assert report.problems
        pending = each.run("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
    assert pending == [(1,)], "the wait was cut off in the middle"
    found = done(each.maintain(late))
    assert found[0][0] == "finalize"
    assert ("drop", found[0][1]) in found
    assert each.run("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == [(0,)]
    assert not each.run("SELECT 1 FROM pg_class WHERE relname = 'events_2026_11_20'")


@pytest.mark.req("A6.7")
def test_what_was_detached_and_not_yet_dropped_goes_with_the_next_run(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    bed.run("CREATE VIEW app.leaning AS SELECT * FROM app.events_2026_11_20")
    report = bed.maintain(NOON + DAY * 6, failing=True)
    assert any("depend" in p for p in report.problems)
    assert "2026_11_20" not in bed.names()
    bed.run("DROP VIEW app.leaning")
    assert done(bed.maintain(NOON + DAY * 6)) == [("drop", "2026_11_20")]


def test_what_people_detach_is_theirs(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    bed.run("ALTER TABLE app.events DETACH PARTITION app.events_2026_11_20")
    bed.maintain(NOON + DAY * 9)
    assert bed.run("SELECT count(*) FROM app.events_2026_11_20") == [(0,)]


def test_a_mark_goes_when_the_partition_stays(bed: Bed) -> None:
    bed.declare(DAILY)
    bed.apply()
    bed.maintain()
    with bed.connect() as blocker, blocker.transaction():
        blocker.execute("LOCK TABLE ONLY app.events IN SHARE UPDATE EXCLUSIVE MODE")
        bed.maintain(NOON + DAY * 6, patience=HASTY, failing=True)
    comment = "SELECT obj_description('app.events_2026_11_20'::regclass)"
    assert "holdfast expired" in bed.run(comment)[0][0]
    bed.declare({**DAILY, "retain": "60 days"})
    bed.maintain(NOON + DAY * 6)
    assert bed.run(comment) == [(None,)]
