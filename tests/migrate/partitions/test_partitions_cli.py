"""``holdfast partitions`` as people and schedulers call it: output, exit codes, and a second run at work."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provision.cli import exits
from provision.cli.main import run
from provision.reconcile import open_plane
from tests.migrate.partitions_bed import SET, Bed

DAY = timedelta(days=1)
#: Long past on every server: a clock that is ahead of the server's retires nothing unasked.
NOON = datetime(2025, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def bed(tmp_path: Path, pg_database: dict[str, Any]) -> Bed:
    found = Bed(tmp_path / "bed", pg_database)
    found.declare({"every": "1 day", "premake": 3, "retain": "5 days"})
    found.apply(NOON)
    return found


def call(bed: Bed, *arguments: str, at: Any = NOON) -> int:
    where = ["--specs", str(bed.plain.specs), "--env", "dev"]
    return run(["partitions", *arguments, *where, "--as-of", at.isoformat()])


@pytest.mark.req("A6.6", "A6.3")
def test_maintain_says_what_it_did(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bed, "maintain") == exits.DONE
    assert "nothing to do" in capsys.readouterr().out
    assert call(bed, "maintain", "--dry-run", at=NOON + DAY) == exits.DONE
    assert "+ create events_2025_11_25, lock SHARE UPDATE EXCLUSIVE" in capsys.readouterr().out
    assert call(bed, "maintain", "--format", "json", at=NOON + DAY) == exits.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == {"create": 1}
    assert told["actions"][0]["object"] == SET
    assert call(bed, "maintain", at=NOON + DAY * 7) == exits.DONE
    text = capsys.readouterr().out
    assert "- drop events_2025_11_20\n" in text
    assert "done: 6 create, 3 detach, 3 drop" in text


@pytest.mark.req("A6.12", "H4.1")
def test_locks_against_everybody_are_told_before_and_measured_after(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    bed.declare({"every": "1 day", "premake": 3, "retain": "5 days", "default": True})
    bed.apply(NOON)
    bed.run("INSERT INTO app.events VALUES (1, '2025-11-25 00:00Z')")
    capsys.readouterr()
    late = NOON + DAY * 5
    assert call(bed, "maintain", "--dry-run", at=late) == exits.DONE
    told = capsys.readouterr().out.splitlines()[2:]
    closed = [line for line in told if "drop" not in line]
    assert "  → move events_2025_11_25, 1 rows, lock ACCESS EXCLUSIVE" in closed
    assert all(line.endswith(", lock ACCESS EXCLUSIVE") for line in closed)
    assert call(bed, "maintain", "--portion", "1", at=late) == exits.DONE
    done = [line for line in capsys.readouterr().out.splitlines() if " events_" in line and "drop" not in line]
    assert len(done) == len(closed)
    assert all(re.search(r", lock ACCESS EXCLUSIVE for \d+ ms$", line) for line in done)


@pytest.mark.req("A6.7")
def test_the_folder_for_archives_comes_from_the_environment(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.declare({"every": "1 day", "premake": 3, "retain": "5 days", "on_expiry": "archive"})
    assert call(bed, "maintain", at=NOON + DAY * 7) == exits.FAILED
    monkeypatch.setenv("HOLDFAST_ARCHIVE", str(tmp_path / "kept"))
    assert call(bed, "maintain", at=NOON + DAY * 7) == exits.DONE
    assert [p.name for p in (tmp_path / "kept").rglob("*_2025_11_20.copy.gz")] == ["events_2025_11_20.copy.gz"]


def test_a_missing_consent_is_an_exit_code_of_its_own(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    bed.run("INSERT INTO app.events VALUES (1, '2025-11-21 00:00Z')")
    late = NOON + DAY * 9
    assert call(bed, "maintain", at=late) == exits.CONSENT
    said = capsys.readouterr()
    assert "drop events_2025_11_21, 1 rows" in said.out
    assert "[held]" in said.out
    assert f"--allow data_loss:{SET}" in said.err
    assert call(bed, "maintain", "--allow", f"data_loss:{SET}", at=late) == exits.DONE
    assert bed.run("SELECT count(*) FROM app.events") == [(0,)]


def test_failures_and_other_runs_end_with_one(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    with open_plane(bed.plain.specs, "dev", cache=bed.plain.cache) as plane, plane.ground.ledger.hold():
        assert call(bed, "maintain", at=NOON + DAY) == exits.FAILED
    assert "holds the lock" in capsys.readouterr().err
    bed.run("CREATE TABLE app.events_2025_11_25 ()")
    assert call(bed, "maintain", at=NOON + DAY) == exits.FAILED
    assert "events_2025_11_25" in capsys.readouterr().err


def test_a_server_that_is_away_is_told(bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = bed.plain.specs / "environments" / "dev.yaml"
    place.write_text(place.read_text().replace(f'"port": {bed.server["port"]}', '"port": 1'))
    assert call(bed, "maintain") == exits.UNREACHABLE
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.req("A6.8")
def test_status_shows_what_is_due(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bed, "status", "--detailed-exitcode") == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "set",
        "partitions",
        "oldest",
        "newest",
        "ahead",
        "missing",
        "expired",
        "default",
        "rows",
    ]
    assert lines[1].split() == [SET, "5", "events_2025_11_20", "events_2025_11_24", "3/3", "0", "0"]
    assert call(bed, "status", "--format", "json", "--detailed-exitcode", at=NOON + DAY * 8) == exits.PENDING
    (told,) = json.loads(capsys.readouterr().out)["sets"]
    assert (told["ahead"], told["missing"], told["expired"], told["default_rows"]) == (0, 8, 4, None)


@pytest.mark.parametrize("value", ["soon", "0", "-1s"])
def test_times_are_read_like_everywhere(bed: Bed, value: str) -> None:
    assert call(bed, "maintain", "--lock-timeout", value) == exits.FAILED


@pytest.mark.req("A6.7")
@pytest.mark.parametrize("on_expiry", ["drop", "archive", "detach"])
def test_a_clock_ahead_of_the_servers_retires_nothing_unasked(
    bed: Bed, on_expiry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the retention of which the run before acted on, and also what is empty: writers need it today."""
    monkeypatch.setenv("HOLDFAST_ARCHIVE", str(tmp_path / "kept"))
    now = datetime.now(UTC)
    bed.declare({"every": "1 day", "premake": 3, "retain": "5 days", "on_expiry": on_expiry})
    assert call(bed, "maintain", "--allow", f"data_loss:{SET}", at=now) == exits.DONE
    bed.run("INSERT INTO app.events SELECT n, clock_timestamp() FROM generate_series(1, 1000) n")
    before = bed.names()
    ahead = now + DAY * 365
    capsys.readouterr()
    for arguments in (["--dry-run"], []):
        assert call(bed, "maintain", *arguments, at=ahead) == exits.CONSENT
        told = capsys.readouterr()
        assert f"{on_expiry} events_{now:%Y_%m_%d}, 1000 rows" in told.out
        assert f"is later than the server's clock ({datetime.now(UTC):%Y-%m-%dT%H:}" in told.err
        assert f"--allow data_loss:{SET}" in told.err
    after = bed.names()
    assert set(before) <= set(after), "what writers need today is there, empty or not"
    assert f"{ahead + DAY * 3:%Y_%m_%d}" in after, "making ahead is harmless"
    assert bed.run("SELECT count(*) FROM app.events") == [(1000,)]
    assert call(bed, "maintain", at=now + timedelta(seconds=50)) == exits.DONE, "clocks differ by seconds"
    assert call(bed, "maintain", "--allow", f"data_loss:{SET}", at=ahead) == exits.DONE
    assert bed.run("SELECT count(*) FROM app.events") == [(0,)]


def test_what_an_interrupted_run_detached_waits_for_the_servers_clock_too(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    assert call(bed, "maintain", "--allow", f"data_loss:{SET}", at=now) == exits.DONE
    bed.run("INSERT INTO app.events VALUES (1, clock_timestamp())")
    name = f"events_{now:%Y_%m_%d}"
    mark = json.dumps({"of": SET, "bound": bed.partitions()[name], "then": "drop"}).replace("'", "''")
    bed.run(f"ALTER TABLE app.events DETACH PARTITION app.{name}")
    bed.run(f"COMMENT ON TABLE app.{name} IS 'holdfast expired {mark}'")
    assert call(bed, "maintain", at=now + DAY * 365) == exits.CONSENT
    assert bed.run(f"SELECT count(*) FROM app.{name}") == [(1,)]
    assert f"drop {name}, 1 rows" in capsys.readouterr().out
