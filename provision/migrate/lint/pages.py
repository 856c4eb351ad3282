"""The published pages of the rules on migrations, made of their docstrings. Pure.

``python -m provision.migrate.lint.pages`` prints what would change in ``docs/rules/migrations``; with ``--write
FOLDER`` it writes there. ``holdfast explain`` prints single pages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from provision.checks import pages
from provision.migrate import codes
from provision.migrate.lint.registry import RULES
from provision.migrate.lint.rule import MigrationRule

FOLDER = Path("docs/rules/migrations")
_COMMAND = "python -m provision.migrate.lint.pages --write docs/rules/migrations"
_NOTE = f"<!-- Made by `{_COMMAND}` from the docstrings of rules. -->\n"


def page(rule: MigrationRule) -> str:
    """The page of one rule, as Markdown."""
    text = rule.page.split("\n", 1)[1].split("\nBad:\n", 1)[0].strip()
    return (
        f"# {rule.code}: {rule.title} ({rule.slug})\n\n"
        f"{rule.severity.capitalize()}. Messages begin with “{rule.opening}”.\n\n"
        f"{text}\n\n"
        f"Bad:\n\n```sql\n{rule.example('Bad')}```\n\n"
        f"Good:\n\n```sql\n{rule.example('Good')}```\n"
    )


def all_pages() -> dict[str, str]:
    """Every page by code, those of faults in reading the folder among them."""
    return codes.pages() | {rule.code: page(rule) for rule in RULES}


def index() -> str:
    """The list of all rules."""
    head = (
        "# Rules on migrations\n\nWhat a statement of a migration locks, reads, rewrites and loses, and its safe form. "
        "`holdfast explain CODE` prints a page.\n\nIn the examples the schema `shop` is `managed: migrations` and "
        "`agents` is `managed: declarative`; `-- 0002_….up.sql` begins the next file.\n\n"
        "| code | rule | |\n|---|---|---|\n"
    )
    reading = "".join(f"| [{code}]({code}.md) | {p.title} | error |\n" for code, p in codes.CODES.items())
    return (
        head
        + reading
        + "".join(f"| [{r.code}]({r.code}.md) | {r.title} (`{r.slug}`) | {r.severity} |\n" for r in RULES)
    )


def files() -> Mapping[str, str]:
    """Every published file by name."""
    published = {f"{code}.md": _NOTE + text for code, text in all_pages().items()}
    return published | {"README.md": _NOTE + index()}


if __name__ == "__main__":
    sys.exit(pages.main(make=files, published=FOLDER))
