"""Where a version stands by what happened to it, and what each kind of crash leaves to do."""

from __future__ import annotations

import pytest

from provision.migrate.history import Event, Standing, fold

STARTED, APPLIED, BACK = ("up", "started"), ("up", "applied"), ("down", "rolled_back")


def standing(*events: tuple[object, ...]) -> Standing:
    rows = []
    for direction, event, *rest in events:
        number = rest[0] if rest else None
        assert number is None or isinstance(number, int)
        digest = f"h{number}" if event in ("intended", "done") else None
        rows.append(Event("run", "1.0.0", str(direction), str(event), number, digest, "file", None, None, "me", "now"))
    return fold(rows)["1.0.0"]


@pytest.mark.req("C1.10")
@pytest.mark.parametrize(
    ("events", "word", "is_applied", "unfinished"),
    [
        ([STARTED], "interrupted", False, None),
        ([STARTED, APPLIED], "applied", True, None),
        ([("up", "baselined")], "applied", True, None),
        ([STARTED, ("up", "failed", 2)], "failed", False, None),
        ([STARTED, ("up", "interrupted")], "interrupted", False, None),
        ([STARTED, APPLIED, ("down", "started"), BACK], "rolled_back", False, None),
        ([STARTED, APPLIED, ("down", "started"), ("down", "failed", 1)], "applied", True, None),
        ([STARTED, APPLIED, ("down", "started")], "applied", True, None),
        ([STARTED, ("up", "done", 1), ("up", "failed", 2)], "failed", False, "up"),
        ([STARTED, ("up", "intended", 1)], "interrupted", False, "up"),
        ([STARTED, ("up", "intended", 1), ("up", "failed", 1)], "failed", False, None),
        ([STARTED, ("up", "intended", 1), ("up", "failed")], "failed", False, "up"),
        ([STARTED, APPLIED, ("down", "started"), ("down", "done", 1)], "interrupted", True, "down"),
        ([STARTED, ("up", "done", 1), STARTED, ("up", "done", 2), APPLIED], "applied", True, None),
    ],
)
def test_each_story_has_one_reading(
    events: list[tuple[object, ...]], word: str, is_applied: bool, unfinished: str | None
) -> None:
    found = standing(*events)
    assert (found.word, found.is_applied, found.unfinished) == (word, is_applied, unfinished)


def test_progress_adds_up_over_runs_and_ends_with_the_file() -> None:
    begun = [STARTED, ("up", "done", 1), ("up", "intended", 2), ("up", "interrupted"), STARTED, ("up", "done", 2)]
    found = standing(*begun, ("up", "intended", 3))
    assert (found.done, found.intended) == ({1: "h1", 2: "h2"}, {3: "h3"})
    found = standing(*begun, APPLIED)
    assert (found.done, found.intended, found.sql_hash) == ({}, {}, "file")


def test_a_run_without_an_end_is_known() -> None:
    assert standing(STARTED, ("up", "done", 1)).open_run is not None
    for end in ("applied", "failed", "interrupted"):
        assert standing(STARTED, ("up", end)).open_run is None
