"""A folder of files is one document; an environment lies over it; every value is found in the right file."""

# ruff: noqa: E501  (a table reads best with one case on a line)

from __future__ import annotations

from pathlib import Path

import pytest

from provision.spec.diagnostic import Diagnostic
from provision.spec.document import environments, load
from provision.spec.reading import read
from provision.spec.record import Pointer
from tests.spec.sections import SECTIONS, write

BASE = "plane: agents\nstreams:\n  TASKS:\n    subjects: [tasks.>]\n    placement: {cluster: c1, tags: [a, b]}\n"


def only(diagnostics: tuple[Diagnostic, ...] | list[Diagnostic]) -> Diagnostic:
    assert len(diagnostics) == 1, diagnostics
    return diagnostics[0]


def test_files_share_sections_and_schemas(tmp_path: Path) -> None:
    files = {
        "a.yaml": "plane: agents\nstreams: {A: {subjects: [a]}}\nschemas: {s: {functions: {f: {body: x}}}}\nlist: [1, 2]\n",
        "deep/b.yaml": "streams: {B: {subjects: [b]}}\nschemas: {s: {comment: c, functions: {g: {body: y}}}}\nlist: [3]\n",
        ".hidden/c.yaml": "streams: {C: {}}",
    }
    document = load(write(tmp_path, files))
    assert document.diagnostics == ()
    assert list(document.root["streams"]) == ["A", "B"]
    assert list(document.root["schemas"]["s"]["functions"]) == ["f", "g"]
    assert document.root["list"] == [1, 2, 3]
    places: list[Pointer] = [
        ("streams", "B", "subjects", 0),
        ("schemas", "s", "functions", "g"),
        ("schemas", "s", "comment"),
        ("list", 2),
    ]
    assert {Path(document.locate(p).file).name for p in places} == {"b.yaml"}
    assert str(document.locate(("list", 1))) == f"{tmp_path}/a.yaml:4:11"
    assert str(document.locate(("list", 2))) == f"{tmp_path}/deep/b.yaml:3:8"


@pytest.mark.parametrize(
    ("first", "second", "name", "places"),
    [
        ("plane: a\nstreams: {A: {}}", "streams:\n  A: {}", "streams.A", ((2, 3), (2, 11))),
        ("plane: a", "plane: b", "plane", ((1, 1), (1, 1))),
        ("plane: a\nschemas: {s: {tables: {t: {}}}}", "schemas: {s: {tables: {t: {}}}}", "schemas.s.tables.t", ((1, 24), (2, 24))),
        ("plane: a\nschemas: {s: {comment: x}}", "schemas: {s: {comment: x}}", "schemas.s.comment", ((1, 15), (2, 15))),
    ],
)  # fmt: skip
def test_a_name_declared_twice_shows_both_places(
    tmp_path: Path, first: str, second: str, name: str, places: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    found = only(load(write(tmp_path, {"a.yaml": first, "b.yaml": second})).diagnostics)
    assert (found.code, found.message) == ("HF0103", f"{name} is declared twice")
    assert (Path(found.mark.file).name, found.mark[1:3]) == ("b.yaml", places[0])
    assert (Path(found.related[0].mark.file).name, found.related[0].mark[1:3]) == ("a.yaml", places[1])


def test_an_environment_merges_mappings_replaces_lists_and_clears_with_null(tmp_path: Path) -> None:
    over = "override:\n  streams:\n    TASKS: {replicas: 3, placement: {tags: [z]}, subjects: [t.*], max_age: null}\n"
    document = load(write(tmp_path, {"a.yaml": BASE + "    max_age: 1d\n", "environments/dev.yaml": over}), "dev")
    tasks = document.root["streams"]["TASKS"]
    assert tasks == {
        "subjects": ["t.*"], "placement": {"cluster": "c1", "tags": ["z"]}, "max_age": None, "replicas": 3,
    }  # fmt: skip
    assert document.base["streams"]["TASKS"]["max_age"] == "1d"
    where = {key: Path(document.locate(("streams", "TASKS", key)).file).name for key in tasks}
    assert where == {"subjects": "dev.yaml", "placement": "a.yaml", "max_age": "dev.yaml", "replicas": "dev.yaml"}
    assert Path(document.locate(("streams", "TASKS", "placement", "cluster")).file).name == "a.yaml"
    assert Path(document.locate(("streams", "TASKS", "placement", "tags", 0)).file).name == "dev.yaml"
    assert Path(document.locate(("streams", "TASKS"), key=True).file).name == "a.yaml"


def test_overriding_what_nobody_declared_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    over = "override:\n  streams: {TASK: {replicas: 3}, TASKS: {max_age: 1d, metadata: {x: y}, consumers: {new: {}}}}\n  stream: {}\n"
    document = load(write(tmp_path, {"a.yaml": BASE, "environments/dev.yaml": over}), "dev")
    found = read(document, SECTIONS).diagnostics
    assert [(d.code, d.mark[1:3], d.help) for d in found] == [
        ("HF0122", (2, 13), "Did you mean TASKS?"),
        ("HF0122", (2, 85), "Declare it outside environments/ first."),
        ("HF0122", (3, 3), "Did you mean streams?"),
    ]
    assert "'x': 'y'" in str(document.root)


def test_a_missing_environment_is_one_error_that_lists_the_others(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.yaml": BASE, "environments/dev.yaml": "", "environments/production.yaml": ""})
    assert environments(folder) == ("dev", "production")
    found = only(load(folder, "prod").diagnostics)
    assert found.code == "HF0121"
    assert found.help == "Did you mean production? There are: dev, production."


@pytest.mark.parametrize("name", ["../secrets", "/etc/passwd", "", "a/b", ".."])
def test_an_environment_is_never_looked_for_elsewhere(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"secrets.yaml": "plane: x", "environments/dev.yaml": ""})
    assert only(load(tmp_path, name).diagnostics).code == "HF0121"


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("target: {}", "HF0201", (1, 1)),
        ("override: []", "HF0202", (1, 11)),
        ("override: {plane: other}", "HF0122", (1, 12)),
        ("override: {targets: {}}", "HF0122", (1, 12)),
        ("targets: {nats: {main: {kind: embeded}}}", "HF0204", (1, 31)),
        ("targets: {nats: {main: {kind: external, urls: 'nats://u:hunter2@h'}}}", "HF0133", (1, 47)),
        ("targets: {postgres: {main: {kind: external, version: 16.10}}}", "HF0202", (1, 54)),
        ("targets: {postgres: {main: {}}}", "HF0206", (1, 22)),
    ],
)  # fmt: skip
def test_mistakes_of_an_environment_are_placed_in_its_file(
    tmp_path: Path, text: str, code: str, place: tuple[int, int]
) -> None:
    document = load(write(tmp_path, {"a.yaml": BASE, "environments/dev.yaml": text}), "dev")
    found = only(document.diagnostics)
    assert (found.code, Path(found.mark.file).name, found.mark[1:3]) == (code, "dev.yaml", place)
    assert "hunter2" not in found.message + found.help


@pytest.mark.parametrize(
    ("files", "code"),
    [({}, "HF0120"), ({"a.txt": ""}, "HF0120"), ({"a.yaml": "streams: {}"}, "HF0206"), ({"a.yaml": "plane: a b"}, "HF0207")],
)  # fmt: skip
def test_a_document_needs_files_and_a_name(tmp_path: Path, files: dict[str, str], code: str) -> None:
    assert only(load(write(tmp_path, files)).diagnostics).code == code


def test_a_missing_folder_is_one_error(tmp_path: Path) -> None:
    assert only(load(tmp_path / "nowhere").diagnostics).code == "HF0120"


def test_a_yml_file_is_left_out_with_a_warning(tmp_path: Path) -> None:
    document = load(write(tmp_path, {"a.yaml": BASE, "b.yml": "streams: {B: {}}"}))
    found = only(document.diagnostics)
    assert (found.code, found.severity, document.is_complete) == ("HF0132", "warning", True)


def test_a_broken_file_does_not_hide_the_mistakes_of_the_others(tmp_path: Path) -> None:
    files = {"a.yaml": BASE + "    max_agee: 1d\n", "b.yaml": "streams: [", "c.yaml": "x: 010\nx: 1\n"}
    document = load(write(tmp_path, files))
    assert not document.is_complete
    codes = [(Path(d.mark.file).name, d.code) for d in read(document, SECTIONS).diagnostics]
    assert codes == [
        ("a.yaml", "HF0201"), ("b.yaml", "HF0101"), ("c.yaml", "HF0201"), ("c.yaml", "HF0107"), ("c.yaml", "HF0102"),
    ]  # fmt: skip


def test_a_body_is_the_text_of_its_file_and_mistakes_in_it_are_placed_there(tmp_path: Path) -> None:
    files = {
        "plane.yaml": "plane: agents\n",
        "schemas/a.yaml": "schemas: {s: {functions: {f: {body: {file: ../sql/f.sql}}, g: {body: {file: no.sql}}}}}",
        "sql/f.sql": "SELECT 1\nFROM nowhere\n",
    }
    document = load(write(tmp_path, files))
    body = ("schemas", "s", "functions", "f", "body")
    assert document.root["schemas"]["s"]["functions"]["f"]["body"] == "SELECT 1\nFROM nowhere\n"
    mark = document.locate_text(body, 14)
    assert (str(mark), document.line(mark)) == (f"{tmp_path}/sql/f.sql:2:6", "FROM nowhere")
    found = only(document.diagnostics)
    assert (found.code, found.mark[1:3]) == ("HF0130", (1, 77))
    assert [d.code for d in read(document, SECTIONS).diagnostics] == ["HF0130"]
    assert f"{tmp_path}/sql/f.sql" in document.files


def test_an_environment_may_bring_its_own_body(tmp_path: Path) -> None:
    files = {
        "a.yaml": "plane: agents\nschemas: {s: {functions: {f: {body: {file: a.sql}}, g: {body: {file: a.sql}}}}}",
        "a.sql": "SELECT 'a'",
        "environments/dev.yaml": "override: {schemas: {s: {functions: {f: {body: {file: d.sql}}, g: {body: inline}}}}}",
        "environments/d.sql": "SELECT 'd'",
    }
    document = load(write(tmp_path, files), "dev")
    functions = document.root["schemas"]["s"]["functions"]
    assert (functions["f"]["body"], functions["g"]["body"]) == ("SELECT 'd'", "inline")


def test_a_secret_file_is_no_body(tmp_path: Path) -> None:
    document = load(write(tmp_path, {"a.yaml": BASE + "    password: {file: secrets/pw}\n"}))
    assert document.root["streams"]["TASKS"]["password"] == {"file": "secrets/pw"}
    assert document.diagnostics == ()


def test_loading_changes_no_file_tree(tmp_path: Path) -> None:
    """The override of one environment must not leak into the base, nor a second file into the first."""
    over = "override: {streams: {TASKS: {replicas: 5, placement: {cluster: c9}}}}"
    document = load(write(tmp_path, {"a.yaml": BASE, "environments/dev.yaml": over}), "dev")
    read(document, SECTIONS)
    assert document.base["streams"]["TASKS"]["placement"] == {"cluster": "c1", "tags": ["a", "b"]}
    assert "replicas" not in document.base["streams"]["TASKS"]
