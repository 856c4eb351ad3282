"""The published pages are those of the rules, and every mistake of the source documents has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.checks import pages
from provision.checks.mistakes import ELSEWHERE, NAMES
from provision.checks.registry import RULES

RULES_FOLDER = Path(__file__).parents[2] / "docs" / "rules"


def test_the_committed_pages_are_those_of_the_rules() -> None:
    assert pages.stale(RULES_FOLDER) == [], "run python -m provision.checks.pages --write docs/rules"


def test_writing_adds_what_is_missing_and_removes_what_no_rule_has(tmp_path: Path) -> None:
    (tmp_path / "HF0399.md").write_text("gone", encoding="utf-8")
    (tmp_path / "HF0312.md").write_text("old", encoding="utf-8")
    assert pages.main(["--write", str(tmp_path)]) == 0
    assert pages.stale(tmp_path) == []
    assert not (tmp_path / "HF0399.md").exists()


def test_every_code_has_a_page_that_names_it() -> None:
    for code, text in pages.all_pages().items():
        assert text.startswith(f"# {code}: ")
        assert "\nBad:\n" in text
        assert "\nGood:\n" in text


@pytest.mark.req("B1.2")
def test_every_class_of_mistakes_is_caught_by_a_rule_a_stage_or_a_later_issue() -> None:
    caught = {label for rule in RULES for label in rule.mistakes}
    assert [n for n in NAMES if f"SB-{n:02}" not in caught and n not in ELSEWHERE] == []
    assert list(NAMES) == list(range(1, 100))
    assert {int(label[3:]) for label in caught} <= set(NAMES)
