"""Reads command lines and files out of Markdown pages.

Before a block may stand ``<!-- exits N -->`` or ``<!-- not run: why -->``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\S*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Line(NamedTuple):
    """A command, the code it is said to exit with, and why a test does not run it, if so."""

    text: str
    code: int
    skipped: str | None


def lines(page: str) -> Iterator[Line]:
    """The command lines of every ``sh`` block, in order. Raises ValueError for a mark that means nothing."""
    for block in _BLOCK.finditer(page):
        if block["language"] != "sh":
            continue
        mark = block["mark"] or "exits 0"
        exits, why = re.fullmatch(r"exits (\d+)", mark), re.fullmatch(r"not run: (\S.*)", mark)
        if exits is None and why is None:
            raise ValueError(f"what does <!-- {mark} --> mean?")
        for text in block["body"].splitlines():
            if text.strip():
                yield Line(text, int(exits[1]) if exits else 0, why[1] if why else None)


def blocks(page: str, language: str) -> Iterator[str]:
    """The text of every block of a language."""
    return (block["body"] for block in _BLOCK.finditer(page) if block["language"] == language)


def files(page: str, language: str) -> Iterator[tuple[str, str]]:
    """The blocks of a language with the path that their first line names (``# stacks/Pulumi.dev.yaml``), if any."""
    for text in blocks(page, language):
        named = re.match(r"(?:#|--) (\S+\.(?:yaml|yml|py|sql))\n", text)
        yield named[1] if named else "", text
