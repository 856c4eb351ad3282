"""Each rule on migrations has its page, its examples do what the page says, and the published pages are current."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from provision.checks import pages as common
from provision.checks.registry import RULES as ON_SPECS
from provision.migrate.lint import RULES, pages
from provision.migrate.lint.rule import MigrationRule
from tests.migrate.lint import ABOUT_DOWN, judged, plane

FOLDER = Path(__file__).parents[2] / "docs" / "rules" / "migrations"


def test_the_committed_pages_are_those_of_the_rules() -> None:
    stale = common.stale(FOLDER, pages.files)
    assert stale == [], "run python -m provision.migrate.lint.pages --write docs/rules/migrations"


def test_codes_and_names_are_unique() -> None:
    for names in ([r.code for r in RULES], [r.slug for r in (*RULES, *ON_SPECS)]):
        assert [n for n, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_a_rule_documents_itself(rule: MigrationRule) -> None:
    assert re.fullmatch(r"HF08[2-7]\d", rule.code)
    assert rule.title
    assert "\nFix: " in rule.page
    assert "\nSource: " in rule.page


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_the_bad_example_is_reported_by_its_rule_alone(rule: MigrationRule, tmp_path: Path) -> None:
    found = judged(tmp_path, rule.example("Bad"), plane())
    silent = ABOUT_DOWN - {rule.code}
    assert {d.code for d in found} - silent == {rule.code}
    for diagnostic in found:
        if diagnostic.code == rule.code:
            assert diagnostic.message.startswith(rule.opening)
            assert not diagnostic.message.endswith(".")
            assert diagnostic.help.endswith(".")
            assert diagnostic.severity == rule.severity


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_the_good_example_passes_every_rule(rule: MigrationRule, tmp_path: Path) -> None:
    found = judged(tmp_path, rule.example("Good"), plane())
    silent = ABOUT_DOWN - {rule.code}
    assert [f"{d.mark.line} {d.code} {d.message}" for d in found if d.code not in silent] == []
