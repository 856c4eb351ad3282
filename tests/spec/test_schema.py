"""What the JSON Schema refuses is told in one plain sentence at its exact place; the rest is still read."""

# ruff: noqa: E501  (a table reads best with one case on a line)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.spec import schema
from provision.spec.document import load
from provision.spec.reading import Reading, read
from tests.spec.sections import SECTIONS, write

HEAD = "plane: agents\nstreams:\n  TASKS:\n    subjects: [tasks.>]\n"


def reading(tmp_path: Path, text: str) -> Reading:
    return read(load(write(tmp_path, {"a.yaml": text})), SECTIONS)


CASES = [
    ("max_agee: 1d", "HF0201", "5:5", "unknown key max_agee: TASKS has no such option", "Did you mean max_age?"),
    ("renamed_from: JOBS", "HF0201", "5:5", "unknown key renamed_from: TASKS has no such option", "NATS cannot rename: declare the new one, copy what the old one holds, then take the old one out."),
    ("placement: {clustr: x}", "HF0201", "5:17", "unknown key clustr: placement has no such option", "Did you mean cluster?"),
    ("consumers: {c: {ack: all}}", "HF0201", "5:21", "unknown key ack: c has no such option", "Known here: ack_policy, ack_wait."),
    ("max_age: 1800", "HF0203", "5:14", "max_age takes a duration such as 30s or 1h, not 1800", "Write a number with its unit: 500ms, 30s, 5m, 1h, 30d. 1800 seconds are 30m."),
    ("max_age: 30 days", "HF0203", "5:14", 'max_age takes a duration such as 30s or 1h, not "30 days"', "Write 30d."),
    ("max_age: -1s", "HF0203", "5:14", 'max_age takes a duration such as 30s or 1h, not "-1s"', "Write a number with its unit: 500ms, 30s, 5m, 1h, 30d."),
    ("max_age: true", "HF0203", "5:14", "max_age takes a duration such as 30s or 1h, not true", "Write a number with its unit: 500ms, 30s, 5m, 1h, 30d."),
    ("max_age: [1d]", "HF0203", "5:14", "max_age takes a duration such as 30s or 1h, not a list", "Write a number with its unit: 500ms, 30s, 5m, 1h, 30d."),
    ("max_bytes: 10 GB", "HF0203", "5:16", 'max_bytes takes a size such as 512MiB, not "10 GB"', "Write 10GB."),
    ("max_bytes: 512Mi", "HF0203", "5:16", 'max_bytes takes a size such as 512MiB, not "512Mi"', "Write 512MiB."),
    ("max_bytes: -2", "HF0205", "5:16", "max_bytes takes a whole number, at least -1, not -2", ""),
    ("every: 30d", "HF0203", "5:12", 'every takes a calendar interval such as 1 day, not "30d"', "Write 30 day."),
    ("replicas: 9", "HF0205", "5:15", "replicas takes a whole number from 1 to 5, not 9", ""),
    ('replicas: "3"', "HF0202", "5:15", 'replicas takes a whole number from 1 to 5, not "3"', "Take the quotes away: 3."),
    ("retention: limit", "HF0204", "5:16", 'retention takes one of limits, interest, workqueue, not "limit"', "Did you mean limits?"),
    ("retention: 7", "HF0204", "5:16", "retention takes one of limits, interest, workqueue, not 7", ""),
    ("deny_delete: yes", "HF0202", "5:18", 'deny_delete takes true or false, not "yes"', "Write true: in YAML 1.2 yes is a text."),
    ("description: 5", "HF0202", "5:18", "description takes text, not 5", 'Quote it if it is meant as text: "5".'),
    ("metadata: {a: 1}", "HF0202", "5:19", "a takes text, not 1", 'Quote it if it is meant as text: "1".'),
    ("metadata: [a]", "HF0202", "5:15", "metadata takes a mapping, not a list", ""),
    ("placement: {tags: [a, 5]}", "HF0202", "5:27", "tags[1] takes text, not 5", 'Quote it if it is meant as text: "5".'),
    ("password: hunter2", "HF0133", "5:15", "password takes a reference, never the secret itself", "Write {env: NAME} or {file: path}."),
    ("password: {env: A, file: b}", "HF0209", "5:15", "password takes either env or file, not both", "Keep one."),
    ("password: {}", "HF0206", "5:5", "password lacks env or file", "Add env or file."),
    ("password: {env: 1A}", "HF0207", "5:21", 'env cannot be "1A"', "It must match ^[A-Za-z_][A-Za-z0-9_]*$."),
    ("keys: {columns: [a], colums: b}", "HF0201", "5:26", "unknown key colums: keys has no such option", "Did you mean columns?"),
    ("keys: 5", "HF0202", "5:11", "keys takes a list of texts or a mapping, not 5", ""),
    ("keys: [5]", "HF0202", "5:12", "keys[0] takes text, not 5", 'Quote it if it is meant as text: "5".'),
]  # fmt: skip


@pytest.mark.req("B1.1", "B1.3", "B1.4", "B1.5")
@pytest.mark.parametrize(("line", "code", "place", "message", "help"), CASES, ids=[c[0] for c in CASES])
def test_a_wrong_option_is_explained_and_left_out(
    tmp_path: Path, line: str, code: str, place: str, message: str, help: str
) -> None:
    found = reading(tmp_path, f"{HEAD}    {line}\n")
    assert len(found.diagnostics) == 1
    diagnostic = found.diagnostics[0]
    where = f"{diagnostic.mark.line}:{diagnostic.mark.column}"
    assert (diagnostic.code, where, diagnostic.message, diagnostic.help) == (code, place, message, help)
    assert [r.address.name for r in found.plane if r.address.kind == "stream"] == ["TASKS"]
    assert "hunter2" not in str(found.diagnostics)


@pytest.mark.req("B1.1")
def test_all_mistakes_are_reported_in_one_run_and_the_rest_is_read(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        "plane: agents\nstrems: {}\nstreams:\n  A: {max_age: 1d}\n  B: {subjects: [], replicas: 0}\n"
        "  C D: {subjects: [c]}\n  E: {subjects: [e], consumers: {x: {ack_wait: 1}, y: {ack_policy: al}}}\n  F: null\n"
        "  FORBIDDEN: {subjects: [f]}\n  G: {subjects: [g], max_age: 0.5ns}\n",
    )
    assert [(d.code, d.mark.line, d.mark.column) for d in found.diagnostics] == [
        ("HF0201", 2, 1), ("HF0206", 4, 3), ("HF0208", 5, 17), ("HF0205", 5, 31), ("HF0207", 6, 3),
        ("HF0203", 7, 48), ("HF0204", 7, 68), ("HF0202", 8, 6), ("HF0999", 9, 3), ("HF0210", 10, 31),
    ]  # fmt: skip
    assert [str(r.address) for r in found.plane] == [
        "nats:main/stream/E", "nats:main/stream/E/consumer/x", "nats:main/stream/E/consumer/y",
    ]  # fmt: skip
    assert {("streams", "A"), ("streams", "B"), ("streams", "C D"), ("streams", "F")} <= set(found.dropped)
    assert ("streams", "G") in {pointer[:2] for pointer in found.dropped}


def test_two_declarations_of_one_object_show_both_places(tmp_path: Path) -> None:
    text = "plane: a\nschemas:\n  s:\n    functions:\n      f(int): {body: x}\n      f(integer): {body: y}\n"
    (found,) = reading(tmp_path, text).diagnostics
    assert (found.code, found.mark[1:3], found.related[0].mark[1:3]) == ("HF0211", (6, 7), (5, 7))


def test_what_the_syntax_refused_is_not_refused_again(tmp_path: Path) -> None:
    found = reading(tmp_path, f"{HEAD}    replicas: {{{{ n }}}}\n    retention: ${{X}}\n    subject: 010\n")
    assert [d.code for d in found.diagnostics] == ["HF0106", "HF0106", "HF0201", "HF0107"]


def test_reading_changes_nothing_it_was_given(tmp_path: Path) -> None:
    document = load(write(tmp_path, {"a.yaml": f"{HEAD}    max_agee: 1d\n    placement: {{clustr: x}}\n"}))
    before = json.dumps(document.root)
    read(document, SECTIONS)
    assert json.dumps(document.root) == before


def test_an_empty_section_is_no_mistake(tmp_path: Path) -> None:
    assert reading(tmp_path, "plane: agents\nstreams:\n").diagnostics == ()


@pytest.mark.req("B1.1")
def test_the_composed_schemas_are_valid_draft_2020_12_and_name_no_host() -> None:
    from jsonschema import Draft202012Validator

    for composed in (schema.compose(SECTIONS), schema.compose_environment(SECTIONS)):
        Draft202012Validator.check_schema(composed)
        assert composed["$id"].startswith("urn:holdfast:")


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_jsonschema_agrees_that_the_option_is_wrong(tmp_path: Path, case: tuple[str, ...]) -> None:
    """A second, independent implementation reads our schema the same way."""
    from jsonschema import Draft202012Validator

    document = load(write(tmp_path, {"a.yaml": f"{HEAD}    {case[0]}\n"}))
    assert not Draft202012Validator(schema.compose(SECTIONS)).is_valid(document.root)


def test_an_environment_may_leave_required_keys_out() -> None:
    from jsonschema import Draft202012Validator

    environment = Draft202012Validator(schema.compose_environment(SECTIONS))
    assert environment.is_valid({"override": {"streams": {"TASKS": {"replicas": 1}}}})
    assert not environment.is_valid({"override": {"streams": {"TASKS": {"password": {}}}}})
    assert not environment.is_valid({"override": {"strems": {}}})
