"""``holdfast partitions`` as people and schedulers call it: output, exit codes, and a second run at work."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provision.cli import exits
from provision.cli.main import run
from provision.reconcile import open_plane
from tests.migrate.partitions_bed import NOON, SET, Bed

DAY = timedelta(days=1)


@pytest.fixture
def bed(tmp_path: Path, pg_database: dict[str, Any]) -> Bed:
    found = Bed(tmp_path / "bed", pg_database)
    found.declare({"every": "1 day", "premake": 3, "retain": "5 days"})
    found.apply()
    return found


def call(bed: Bed, *arguments: str, at: Any = NOON) -> int:
    where = ["--specs", str(bed.plain.specs), "--env", "dev"]
    return run(["partitions", *arguments, *where, "--as-of", at.isoformat()])


@pytest.mark.req("A6.6", "A6.3")
def test_maintain_says_what_it_did(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(bed, "maintain") == exits.DONE
    assert "nothing to do" in capsys.readouterr().out
    assert call(bed, "maintain", "--dry-run", at=NOON + DAY) == exits.DONE
    assert "+ create events_2026_11_25, lock SHARE UPDATE EXCLUSIVE" in capsys.readouterr().out
    assert call(bed, "maintain", "--format", "json", at=NOON + DAY) == exits.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == {"create": 1}
    assert told["actions"][0]["object"] == SET
    assert call(bed, "maintain", at=NOON + DAY * 7) == exits.DONE
    text = capsys.readouterr().out
    assert "- drop events_2026_11_20\n" in text
    assert "done: 6 create, 3 detach, 3 drop" in text


@pytest.mark.req("A6.12", "H4.1")
def test_locks_against_everybody_are_told_before_and_measured_after(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    bed.declare({"every": "1 day", "premake": 3, "retain": "5 days", "default": True})
    bed.apply()
    bed.run("INSERT INTO app.events VALUES (1, '2026-11-25 00:00Z')")
    capsys.readouterr()
    late = NOON + DAY * 5
    assert call(bed, "maintain", "--dry-run", at=late) == exits.DONE
    told = capsys.readouterr().out.splitlines()[2:]
    closed = [line for line in told if "drop" not in line]
    assert "  → move events_2026_11_25, 1 rows, lock ACCESS EXCLUSIVE" in closed
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
    assert [p.name for p in (tmp_path / "kept").rglob("*_2026_11_20.copy.gz")] == ["events_2026_11_20.copy.gz"]


def test_a_missing_consent_is_an_exit_code_of_its_own(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    bed.run("INSERT INTO app.events VALUES (1, '2026-11-21 00:00Z')")
    late = NOON + DAY * 9
    assert call(bed, "maintain", at=late) == exits.CONSENT
    said = capsys.readouterr()
    assert "drop events_2026_11_21, 1 rows" in said.out
    assert "[held]" in said.out
    assert f"--allow data_loss:{SET}" in said.err
    assert call(bed, "maintain", "--allow", f"data_loss:{SET}", at=late) == exits.DONE
    assert bed.run("SELECT count(*) FROM app.events") == [(0,)]


def test_failures_and_other_runs_end_with_one(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    with open_plane(bed.plain.specs, "dev", cache=bed.plain.cache) as plane, plane.ground.ledger.hold():
        assert call(bed, "maintain", at=NOON + DAY) == exits.FAILED
    assert "holds the lock" in capsys.readouterr().err
    bed.run("CREATE TABLE app.events_2026_11_25 ()")
    assert call(bed, "maintain", at=NOON + DAY) == exits.FAILED
    assert "events_2026_11_25" in capsys.readouterr().err


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
    assert lines[1].split() == [SET, "5", "events_2026_11_20", "events_2026_11_24", "3/3", "0", "0"]
    assert call(bed, "status", "--format", "json", "--detailed-exitcode", at=NOON + DAY * 8) == exits.PENDING
    (told,) = json.loads(capsys.readouterr().out)["sets"]
    assert (told["ahead"], told["missing"], told["expired"], told["default_rows"]) == (0, 8, 4, None)


@pytest.mark.parametrize("value", ["soon", "0", "-1s"])
def test_times_are_read_like_everywhere(bed: Bed, value: str) -> None:
    assert call(bed, "maintain", "--lock-timeout", value) == exits.FAILED
