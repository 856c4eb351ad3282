"""The published pages: one for each rule, made of its docstring, an index, and the table of mistakes. Pure.

``python -m provision.checks.pages`` prints what would change in ``docs/rules``; with ``--write FOLDER`` it writes
there. ``holdfast explain`` prints single pages.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from provision.checks.mistakes import ELSEWHERE, NAMES
from provision.checks.registry import RULES
from provision.spec.codes import CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provision.checks.rule import Rule

FOLDER = Path("docs/rules")
_NOTE = "<!-- Made by `python -m provision.checks.pages --write docs/rules` from the rule's docstring. -->\n"
_AREAS = {
    "HF03": "Tables, keys, partitions, columns, indexes, names",
    "HF04": "SQL text: checks, functions, views",
    "HF05": "Streams, buckets, consumers, publishers",
    "HF06": "Pools, roles, connections",
    "HF07": "Capacity and targets",
}


def page(rule: Rule) -> str:
    """The page of one rule, as Markdown."""
    text = rule.page.split("\n", 1)[1].split("\nBad:\n", 1)[0].strip()
    return (
        f"# {rule.code}: {rule.title} ({rule.slug})\n\n"
        f"{rule.severity.capitalize()}, level {rule.level}. Messages begin with “{rule.opening}”.\n\n"
        f"{text}\n\n"
        f"Bad:\n\n```yaml\n{rule.example('Bad')}```\n\n"
        f"Good:\n\n```yaml\n{rule.example('Good')}```\n"
    )


def language_page(code: str) -> str:
    """The page of a code of the language itself, which no rule reports."""
    found = CODES[code]
    return (
        f"# {code}: {found.title}\n\n{found.explanation}\n\n"
        f"Bad:\n\n```yaml\n{found.bad}```\n\nGood:\n\n```yaml\n{found.good}```\n"
    )


def all_pages() -> dict[str, str]:
    """Every page by code: those of the language, then those of rules."""
    return {code: language_page(code) for code in sorted(CODES)} | {rule.code: page(rule) for rule in RULES}


def index() -> str:
    """The list of all rules by area."""
    parts = ["# Rules\n\nEach rule reports its code; `holdfast explain CODE` prints its page.\n"]
    parts.append("Rules on migrations have [pages of their own](migrations/README.md).\n")
    for prefix, area in _AREAS.items():
        parts.append(f"\n## {area}\n\n| code | rule | | level |\n|---|---|---|---|\n")
        parts += [
            f"| [{r.code}]({r.code}.md) | {r.title} (`{r.slug}`) | {r.severity} | {r.level} |\n"
            for r in RULES
            if r.code.startswith(prefix)
        ]
    parts.append("\n## The language itself\n\n| code | what |\n|---|---|\n")
    parts += [f"| [{code}]({code}.md) | {CODES[code].title} |\n" for code in sorted(CODES)]
    return "".join(parts)


def mistakes() -> str:
    """The table of mistakes found in the source documents: what catches each class."""
    catching: dict[str, list[Rule]] = defaultdict(list)
    for rule in RULES:
        for label in rule.mistakes:
            catching[label].append(rule)
    head = (
        "# Mistakes of the source documents\n\n"
        "Each class of mistakes found there, and the rule, stage or later issue that catches it.\n\n"
        "| class | mistake | caught by |\n|---|---|---|\n"
    )
    rows = [head]
    for number, name in NAMES.items():
        label = f"SB-{number:02}"
        found = [f"[{r.code}]({r.code}.md) {r.severity}, {r.level}" for r in catching[label]]
        if number in ELSEWHERE:
            found.append(ELSEWHERE[number])
        rows.append(f"| {label} | {name} | {'; '.join(found)} |\n")
    return "".join(rows)


def files() -> Mapping[str, str]:
    """Every published file by name."""
    pages = {f"{code}.md": _NOTE + text for code, text in all_pages().items()}
    return pages | {"README.md": _NOTE + index(), "seed-mistakes.md": _NOTE + mistakes()}


def stale(folder: Path, make: Callable[[], Mapping[str, str]] = files) -> list[str]:
    """The names of published files that are missing, differ, or belong to no rule any more."""
    wanted = make()
    have = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name))


def main(
    arguments: list[str] | None = None, *, make: Callable[[], Mapping[str, str]] = files, published: Path = FOLDER
) -> int:
    """Write the pages, or say which of ``published`` are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    folder = parser.parse_args(arguments).write
    if folder is None:
        names = stale(published, make)
        sys.stdout.write("".join(f"{name}\n" for name in names))
        return 1 if names else 0
    folder.mkdir(parents=True, exist_ok=True)
    wanted = make()
    for name in stale(folder, make):
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
