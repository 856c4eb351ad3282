"""What is generated is committed, equal to what the code would write now, and complete. ``make generate`` mends it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from provision import reference, registry
from provision.checks import pages
from provision.nats.kinds import backing, consumer, stream_fields
from provision.nats.kinds.wire import note_of
from provision.spec import files, schema
from provision.spec.events import parse
from provision.spec.layers import BODY_KEYS

ROOT = Path(__file__).parents[2]
STALE = "stale: run make generate and commit the result"
SPECS = sorted((ROOT / "specs").rglob("*.yaml"))
Version = tuple[int, ...]


@pytest.mark.parametrize("name", [schema.FILE, schema.ENVIRONMENT_FILE])
def test_the_json_schemas_are_those_of_the_field_tables(name: str) -> None:
    assert (ROOT / name).read_text() == schema.files(registry.sections())[name], STALE
    jsonschema.Draft202012Validator.check_schema(json.loads((ROOT / name).read_text()))


def test_the_pages_of_rules_are_those_of_their_docstrings() -> None:
    assert pages.stale(ROOT / pages.FOLDER) == [], STALE


def test_the_reference_is_that_of_the_field_tables() -> None:
    committed = {path.name: path.read_text() for path in (ROOT / reference.FOLDER).glob("*.md")}
    assert committed == reference.files(), STALE


def test_make_generate_writes_every_generated_file() -> None:
    recipe = re.search(r"^generate:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    for wanted in (schema.FILE, schema.ENVIRONMENT_FILE, str(pages.FOLDER), str(reference.FOLDER)):
        assert re.search(rf"(^|[\s]){re.escape(wanted)}$", recipe[1], re.MULTILINE), wanted


# Specs as editors see them -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SPECS, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_header_of_a_spec_names_the_json_schema_that_it_satisfies(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named is not None, first
    target = (path.parent / named[1]).resolve()
    is_environment = path.parent.name == files.ENVIRONMENTS
    assert target == ROOT / (schema.ENVIRONMENT_FILE if is_environment else schema.FILE)
    content = parse(path.read_text(), path.name).root
    assert content
    jsonschema.Draft202012Validator(json.loads(target.read_text())).validate(content)


def test_editors_accept_a_text_in_a_file_where_reading_does() -> None:
    node = {"schemas": {"a": {"views": {"v": {"query": {"file": "v.sql"}}}}}}
    validator = jsonschema.Draft202012Validator(schema.compose(registry.sections()))
    assert "query" in BODY_KEYS
    assert validator.is_valid(node)
    node["schemas"]["a"]["views"]["v"]["query"] = {"path": "v.sql"}
    assert not validator.is_valid(node)


# Reference -----------------------------------------------------------------------------------------------


def test_every_kind_has_its_page_with_every_option() -> None:
    for name, kind in registry.kinds().items():
        page = (ROOT / reference.FOLDER / f"{name}.md").read_text()
        assert page.startswith(f"{reference.NOTE}# {name}\n")
        if name == "grant":  # who and on what are options of the list; privileges are the kind's own
            assert "`privileges`" in page
        elif name not in ("binding", "contract"):
            for field in kind.fields:
                assert f"\n| `{field.name}` |" in page, (name, field.name)


def test_every_option_is_explained() -> None:
    for name, text in reference.files().items():
        for line in text.splitlines():
            if line.startswith("| `"):
                assert line.split("|")[-2].strip(), f"{name}: {line}"


def test_every_page_is_in_the_index_and_every_link_leads_somewhere() -> None:
    written = reference.files()
    for name in written:
        if name != "README.md":
            assert f"({name})" in written["README.md"]
    for text in written.values():
        for page, anchor in re.findall(r"\]\(([\w.-]*)(#[\w.-]*)?\)", text):
            assert not page or page in written
            assert not anchor or f"\n## {anchor[1:]}" in text.replace(".", "")


def _changed_values(name: str) -> tuple[Any, Any]:
    return {"retention": ("limits", "workqueue"), "deliver_subject": (None, "push.here")}[name]


@pytest.mark.parametrize("kind", ["stream", "consumer"])
@pytest.mark.parametrize("version", [(2, 10, 0), (2, 11, 0), (2, 12, 0), (2, 12, 5), (2, 14, 4), (2, 15, 1)])
def test_pages_say_of_a_change_what_planning_does_with_it(kind: str, version: Version) -> None:
    """An option is "made anew" on a page exactly where the kind refuses to change it in place."""
    table, refused = {
        "stream": (stream_fields.OPTIONS, backing.refused),
        "consumer": (consumer.FIELDS, consumer.refused),
    }[kind]
    page = (ROOT / reference.FOLDER / f"{kind}.md").read_text()
    for field in table:
        line = re.search(rf"^\| `{field.name}` \|.*$", page, re.MULTILINE)
        assert line is not None
        if "it is made anew" in line[0]:
            before, after = _changed_values(field.name)
            assert refused({field.name: before}, {field.name: after}, version) == [field.name]
            continue
        said = _said(line[0].split("|")[-3].strip(), version)
        on = refused({field.name: False}, {field.name: True}, version) == [field.name]
        off = refused({field.name: True}, {field.name: False}, version) == [field.name]
        if note_of(field).mutability(version) != "promote":
            assert said == {
                (False, False): said if said in ("in place", "spec only", "in place, by a request of its own") else "-",
                (False, True): "on in place; off: made anew",
                (True, True): "made anew",
            }.get((on, off)), (field.name, version)


def _said(cell: str, version: Version) -> str:
    """The part of a cell that holds for a version: ``now; before 2.12: earlier``."""
    now, _, earlier = cell.partition("; before ")
    since, _, rule = earlier.partition(": ")
    return rule if earlier and version < tuple(map(int, since.split("."))) else now
