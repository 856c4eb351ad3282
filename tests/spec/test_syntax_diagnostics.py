"""Each broken file of tests/diagnostics/syntax is reported exactly as the text beside it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.spec import render
from provision.spec.files import File
from provision.spec.layers import parse_file

FOLDER = Path(__file__).parent.parent / "diagnostics" / "syntax"
CASES = sorted(FOLDER.glob("*.yaml"))


def reported(case: Path) -> str:
    source = parse_file(File(case.name, case, case.read_bytes()))
    return render.text(source.diagnostics, lambda mark: source.line(mark.line))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_broken_file_is_reported_as_expected(case: Path) -> None:
    expected = case.with_suffix(".txt")
    found = reported(case)
    if os.environ.get("HOLDFAST_REWRITE_EXPECTATIONS"):
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")


def test_every_expectation_belongs_to_a_case() -> None:
    assert {p.stem for p in FOLDER.glob("*.txt")} == {p.stem for p in CASES}


def test_the_cases_cover_every_code_of_a_single_file() -> None:
    texts = "".join(p.read_text(encoding="utf-8") for p in FOLDER.glob("*.txt"))
    codes = [f"HF01{n:02}" for n in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)]
    assert [code for code in codes if f" {code} " not in texts] == []
