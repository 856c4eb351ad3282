"""Each form of the diagnostics holds the same findings, sorted, once, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

from provision.spec import render
from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.document import load
from tests.spec.sections import write

LINES = {
    ("specs/a.yaml", 3): "    max_age: 1d",
    ("specs/a.yaml", 6): "    max_age: 2d",
    ("specs/b, c.yaml", 2): "\tx: 100%",
}
FIRST = Diagnostic(
    "HF0102", "error", Mark("specs/a.yaml", 6, 5, 7), "key max_age is written twice", "Keep one of the two.",
    (Related(Mark("specs/a.yaml", 3, 5, 7), "first written here"),),
)  # fmt: skip
SECOND = Diagnostic("HF0132", "warning", Mark("specs/b, c.yaml", 2, 5), "odd: 100%", "")
FOUND = [SECOND, FIRST, SECOND]


def line(mark: Mark) -> str:
    return LINES.get((mark.file, mark.line), "")


def test_text_shows_both_places_with_carets_and_the_help() -> None:
    assert render.text(FOUND, line) == (
        "specs/a.yaml:6:5: HF0102 key max_age is written twice\n"
        "      6 |     max_age: 2d\n"
        "        |     ^^^^^^^\n"
        "  specs/a.yaml:3:5: first written here\n"
        "      3 |     max_age: 1d\n"
        "        |     ^^^^^^^\n"
        "  Keep one of the two.\n"
        "\n"
        "specs/b, c.yaml:2:5: HF0132 warning: odd: 100%\n"
        "      2 |  x: 100%\n"
        "        |     ^\n"
    )
    assert render.summary(FOUND[:2]) == "1 error, 1 warning"


def test_nothing_found_is_nothing_said() -> None:
    assert (render.text([], line), render.github([]), render.summary([])) == ("", "", "no problems")
    assert json.loads(render.as_json([])) == {"diagnostics": []}


def test_colours_only_add_escape_codes() -> None:
    import re

    assert re.sub("\x1b\\[[0-9]*m", "", render.text(FOUND, line, color=True)) == render.text(FOUND, line)
    assert "\x1b" not in render.text(FOUND, line)


def test_json_is_the_documented_contract() -> None:
    assert json.loads(render.as_json(FOUND))["diagnostics"] == [
        {
            "code": "HF0102", "severity": "error", "file": "specs/a.yaml", "line": 6, "column": 5,
            "message": "key max_age is written twice", "help": "Keep one of the two.",
            "related": [{"file": "specs/a.yaml", "line": 3, "column": 5, "message": "first written here"}],
        },
        {
            "code": "HF0132", "severity": "warning", "file": "specs/b, c.yaml", "line": 2, "column": 5,
            "message": "odd: 100%", "help": "", "related": [],
        },
    ]  # fmt: skip


def test_github_annotations_escape_what_would_end_them() -> None:
    assert render.github(FOUND).splitlines() == [
        (
            "::error file=specs/a.yaml,line=6,col=5,title=HF0102,endColumn=12::key max_age is written twice"
            "%0Aspecs/a.yaml:3:5: first written here%0AKeep one of the two."
        ),
        "::warning file=specs/b%2C c.yaml,line=2,col=5,title=HF0132::odd: 100%25",
    ]


def test_sarif_names_rules_levels_and_regions() -> None:
    log = json.loads(render.sarif(FOUND, version="1.2.3"))
    run = log["runs"][0]
    assert (log["version"], run["tool"]["driver"]["version"]) == ("2.1.0", "1.2.3")
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["HF0102", "HF0132"]
    first = run["results"][0]
    assert (first["ruleId"], first["level"], first["ruleIndex"]) == ("HF0102", "error", 0)
    region = first["locations"][0]["physicalLocation"]
    assert region == {
        "artifactLocation": {"uri": "specs/a.yaml"}, "region": {"startLine": 6, "startColumn": 5, "endColumn": 12},
    }  # fmt: skip
    assert first["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 3
    assert run["results"][1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "specs/b%2C%20c.yaml"


def test_a_long_line_is_cut_around_the_caret() -> None:
    mark = Mark("f", 1, 501, 5)
    shown = render.text([Diagnostic("HF0101", "error", mark, "m")], lambda _: "x" * 500 + "HERE!" + "y" * 500)
    source, caret = shown.splitlines()[1:]
    assert len(source) < 160
    assert source[caret.index("^") : caret.rindex("^") + 1] == "HERE!"


def test_control_characters_of_a_broken_file_do_not_reach_the_terminal() -> None:
    shown = render.text([Diagnostic("HF0101", "error", Mark("f", 1, 3), "m")], lambda _: "a\x1b[2Jb\x07\u202e")
    assert shown.isprintable() or set(shown) - {"\n"} == set(shown.replace("\n", ""))
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_a_password_in_a_spec_is_not_repeated(tmp_path: Path) -> None:
    text = (
        "plane: a\ntargets:\n"
        "  postgres: {main: {kind: external, dsn: 'postgresql://u:hunter2@h/d', nope: 1}}\n"
        "  nats: {main: {kind: external, password: hunter2, token: 'hunter 2', no: 1}}\n"
    )
    document = load(write(tmp_path, {"a.yaml": text}))
    assert {d.code for d in document.diagnostics} == {"HF0133", "HF0201"}
    forms = [
        render.text(document.diagnostics, document.line),
        render.as_json(document.diagnostics),
        render.github(document.diagnostics),
        render.sarif(document.diagnostics),
    ]
    assert "hunter" not in "".join(forms)
    shown = forms[0].splitlines()
    (unknown,) = [i for i, row in enumerate(shown) if "unknown key nope" in row]
    assert shown[unknown + 1][shown[unknown + 2].index("^") :].startswith("nope")
