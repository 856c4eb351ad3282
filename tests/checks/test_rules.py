"""Every rule reports its mistake at its place, is silent about the sound form, and documents itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from provision.checks.registry import RULES, run
from provision.checks.rule import Rule
from tests.checks.specs import DIAGNOSTICS, everything, fixtures, load, places

FOLDERS = fixtures()
#: Its mistake takes a thousand objects, which no page can show; the fixture has them.
TOO_LARGE_FOR_A_PAGE = {"HF0707"}
EXPLAINED = [r for r in RULES if r.code not in TOO_LARGE_FOR_A_PAGE]


@pytest.mark.req("B1.1", "B1.2")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_mistake_is_reported_at_its_line_and_column(folder: Path, tmp_path: Path) -> None:
    found = everything(tmp_path, (folder / "bad.yaml").read_text(encoding="utf-8"))
    expected = (folder / "expect.txt").read_text(encoding="utf-8").splitlines()
    assert places(found) == expected
    assert {d.code for d in found} == {folder.name.split("-")[0]}


@pytest.mark.req("B1.2")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_the_sound_form_passes_every_rule(folder: Path, tmp_path: Path) -> None:
    found = everything(tmp_path, (folder / "good.yaml").read_text(encoding="utf-8"))
    assert [f"{d.mark} {d.code} {d.message}" for d in found] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_a_rule_has_its_page_and_its_fixtures(rule: Rule) -> None:
    assert re.fullmatch(r"HF0[3-7]\d\d", rule.code)
    assert rule.title
    assert "\nFix: " in rule.page
    assert "\nSource: " in rule.page
    folder = DIAGNOSTICS / f"{rule.code}-{rule.slug}"
    for name in ("bad.yaml", "good.yaml", "expect.txt"):
        assert (folder / name).is_file(), f"{folder.name}/{name} is missing"


def test_codes_and_slugs_are_unique_and_fixtures_belong_to_rules() -> None:
    for names in ([r.code for r in RULES], [r.slug for r in RULES]):
        assert [n for n, count in Counter(names).items() if count > 1] == []
    known = {f"{r.code}-{r.slug}" for r in RULES}
    assert [f.name for f in FOLDERS if f.name >= "HF03" and f.name not in known] == []


@pytest.mark.parametrize("rule", EXPLAINED, ids=lambda r: r.code)
def test_the_examples_of_a_page_do_what_the_page_says(rule: Rule, tmp_path: Path) -> None:
    assert {d.code for d in everything(tmp_path, f"plane: example\n{rule.example('Bad')}")} == {rule.code}
    assert everything(tmp_path, f"plane: example\n{rule.example('Good')}") == []


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.name >= "HF03"], ids=lambda f: f.name)
def test_messages_begin_alike_and_say_one_thing_and_its_remedy(folder: Path, tmp_path: Path) -> None:
    (rule,) = [r for r in RULES if r.code == folder.name.split("-")[0]]
    for found in everything(tmp_path, (folder / "bad.yaml").read_text(encoding="utf-8")):
        assert found.message.startswith(rule.opening)
        assert not found.message.endswith(".")
        assert found.help.endswith((".", "?"))
        assert found.severity == rule.severity


def test_the_runner_sorts_by_place_and_drops_what_is_said_twice(tmp_path: Path) -> None:
    (folder,) = DIAGNOSTICS.glob("HF0312-*")
    loaded = load(tmp_path, (folder / "bad.yaml").read_text(encoding="utf-8"))
    once = loaded.check()
    assert len(once) == 5
    assert loaded.check((*reversed(RULES), *RULES)) == once
    assert [d.mark.line for d in once] == sorted(d.mark.line for d in once)


@pytest.mark.req("A2.9")
def test_a_key_pattern_with_a_colon_is_refused_and_one_with_a_dot_is_not(tmp_path: Path) -> None:
    spec = "plane: example\nbuckets:\n  STATE: {keys: ['%s']}\n"
    assert [d.code for d in everything(tmp_path, spec % "agent:{id}")] == ["HF0532"]
    assert everything(tmp_path, spec % "agent.{id}") == []


@pytest.mark.req("B1.6")
@pytest.mark.parametrize("code", ["HF0701", "HF0702", "HF0703", "HF0704", "HF0706", "HF0708", "HF0709"])
def test_a_rule_is_silent_where_the_fact_is_not_declared(code: str, tmp_path: Path) -> None:
    (folder,) = DIAGNOSTICS.glob(f"{code}-*")
    loaded = load(tmp_path, (folder / "bad.yaml").read_text(encoding="utf-8"))
    assert loaded.check() != []
    assert run(loaded.plane, loaded.document, {}) == []


REFUSED = """
plane: example
schemas:
  shop:
    domains: {amount: {type: moneyy}}
    tables:
      users: {columns: {id: {type: uuidd, nullable: false}}, primary_key: [id]}
      jobs: {columns: {kind: {type: text}}, partitions: {by: list, key: [kind]}}
      orders:
        columns: {user_id: {type: uuid}, total: {type: shop.amount}, kind: {type: kindd}}
        foreign_keys: {orders_user_fkey: {columns: [user_id], references: shop.users}}
        indexes: {orders_kind: {columns: [kind], where: kind IS NOT NULL}}
streams:
  ORDERS: {subjects: [orders..a], max_age: 1d}
  COPY: {sources: [{name: ORDERS}], max_age: 1d}
"""


def test_what_reading_refused_is_no_second_mistake(tmp_path: Path) -> None:
    loaded = load(tmp_path, REFUSED)
    assert sorted(d.code for d in loaded.said) == ["HF0210"] * 5
    assert loaded.check() == []


NEAR = """
plane: example
schemas:
  shop:
    tables:
      orders:
        columns: {created_at: {type: timestamptz}}
        indexes: {orders_time: {columns: [create_at]}}
"""


def test_a_near_miss_is_suggested(tmp_path: Path) -> None:
    (found,) = load(tmp_path, NEAR).check()
    assert found.help == "Did you mean created_at?"


KIND_WORDS = """
plane: example
schemas:
  table:
    enums: {type: [a, b]}
    tables:
      role:
        columns: {type: {type: table.type, default: "'a'"}, index: {type: uuid, default: gen_random_uuid()}}
        primary_key: [index]
        indexes: {column: {columns: [type]}}
        foreign_keys: {check: {columns: [index], references: table.role}}
        triggers: {grant: {timing: before, events: [update], for_each: row, function: table.policy}}
    functions: {policy: {returns: trigger, language: plpgsql, body: "BEGIN NEW.type := 'b'; RETURN NEW; END"}}
    views: {view: {query: "SELECT r.type, r.index FROM table.role r"}}
"""


def test_objects_may_bear_the_names_of_kinds(tmp_path: Path) -> None:
    loaded = load(tmp_path, KIND_WORDS)
    assert loaded.said == ()
    assert loaded.check() == []
