"""Every code that reading migrations gives has its page, with examples that are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provision.migrate import codes, files, statements


@pytest.mark.parametrize("code", codes.CODES)
def test_the_bad_example_gives_the_code_and_the_good_one_none(tmp_path: Path, code: str) -> None:
    page = codes.CODES[code]
    for folder, example in (("bad", page.bad), ("good", page.good)):
        (tmp_path / folder).mkdir()
        for name, text in codes.files(example).items():
            (tmp_path / folder / name).write_text(text)
    assert {d.code for d in files.read(tmp_path / "bad")[1]} == {code}
    assert files.read(tmp_path / "good")[1] == ()
    assert codes.pages()[code].startswith(f"# {code}: {page.title}\n")


def test_codes_and_pages_are_the_same_set() -> None:
    sources = [Path(str(module.__file__)).read_text() for module in (files, statements)]
    assert {code for text in sources for code in re.findall(r'"(HF\d{4})"', text)} == set(codes.CODES)
