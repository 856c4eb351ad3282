"""What commands share when they talk: colours only on a terminal, data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from provision.cli.main import Options

#: What --format says of itself, in every command that has it.
FORMAT = "Form of what goes to stdout."
_COLORS = {"+": "green", "~": "yellow", "-": "red", "±": "magenta", "→": "cyan", "!": "red"}


def options() -> Options:
    """The options of the running command."""
    found = click.get_current_context().find_object(Options)
    assert found is not None
    return found


def colored(stream: Any = None) -> bool:
    """Whether to colour what goes to a stream: only a terminal, unless NO_COLOR or --no-color is set."""
    stream = stream or sys.stdout
    return options().color and not os.environ.get("NO_COLOR") and bool(getattr(stream, "isatty", lambda: False)())


def show(text: str) -> None:
    """Write data to stdout, each line coloured by its first sign."""
    if not colored():
        click.echo(text, nl=False)
        return
    for line in text.splitlines():
        mark = line.lstrip()[:1]
        click.secho(line, fg=_COLORS.get(mark) if line.startswith(" ") else None, bold=not line.startswith(" "))


def show_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell the person at the terminal something that is not data."""
    click.echo(text, err=True)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns of text, aligned, without borders: readable by people and by awk."""
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells)


class Progress:
    """Shows steps as they are done: one rewritten line on a terminal, one line each elsewhere with -v."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.live = colored(sys.stderr)

    def __call__(self, summary: str) -> None:
        self.done += 1
        if self.live:
            click.echo(f"\r\x1b[K[{self.done}/{self.total}] {summary[:100]}", err=True, nl=False)
        elif options().verbose or self.total <= 20 or self.done % 50 == 0 or self.done == self.total:
            click.echo(f"[{self.done}/{self.total}] {summary}", err=True)

    def close(self) -> None:
        if self.live and self.done:
            click.echo("\r\x1b[K", err=True, nl=False)


def confirm(question: str) -> bool:
    """Ask, on a terminal only."""
    return click.confirm(question, err=True)


def is_attended() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty()
