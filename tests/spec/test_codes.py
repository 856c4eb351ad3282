"""Every code of the language has its page, and no page is left without a code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import provision.reconcile
import provision.spec
from provision.spec.codes import CODES
from provision.spec.document import load
from provision.spec.reading import read
from tests.spec.sections import SECTIONS, write

PACKAGES = (provision.spec, provision.reconcile)
SOURCES = [p for k in PACKAGES for p in Path(next(iter(k.__path__))).glob("*.py") if p.name != "codes.py"]


def test_codes_and_pages_are_the_same_set() -> None:
    used = {code for p in SOURCES for code in re.findall(r'"(HF0[128]\d\d)"', p.read_text(encoding="utf-8"))}
    assert used == set(CODES)


def test_pages_are_complete_and_readable() -> None:
    for code, page in CODES.items():
        assert page.title, code
        assert not page.title.endswith("."), code
        assert page.explanation.endswith("."), code
        assert page.bad != page.good, code


#: Pages whose examples are a whole spec file that our small test sections understand.
FILES = ["HF0101", "HF0102", "HF0104", "HF0105", "HF0106", "HF0108", "HF0110", "HF0113", "HF0201", "HF0202", "HF0203",
         "HF0204", "HF0205", "HF0207", "HF0208", "HF0210"]  # fmt: skip


@pytest.mark.parametrize("code", FILES)
def test_the_bad_example_gives_the_code_and_the_good_one_does_not(tmp_path: Path, code: str) -> None:
    def codes(text: str) -> set[str]:
        complete = text if text.startswith(("plane", "{", "-")) else f"plane: agents\n{text}"
        document = load(write(tmp_path, {"a.yaml": complete}))
        return {d.code for d in read(document, SECTIONS).diagnostics}

    assert code in codes(CODES[code].bad)
    assert code not in codes(CODES[code].good)
