"""Find schema-qualified names in SQL text. Pure.

PL/pgSQL and quoted SQL bodies leave no trace in pg_depend, and desired objects have no catalog yet; what their
text names is matched against the plane by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.postgres.lexer import Kind, named, scan
from provision.spec.record import Record

#: The settings of each kind that hold SQL text or type names.
TEXTS: Mapping[str, tuple[str, ...]] = {
    "domain": ("type", "default", "checks"),
    "function": ("arguments", "returns", "body", "sql_body", "support"),
    "view": ("query",),
    "trigger": ("when",),
    "policy": ("using", "with_check"),
    "column": ("type", "default", "generated"),
    "check": ("expression",),
    "index": ("columns", "where"),
}


class Token(NamedTuple):
    """One token as it is written."""

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def tokens(sql: str) -> Iterator[Token]:
    """Give the tokens of SQL text without white space and comments. Unfinished literals run to the end."""
    for kind, start, end in scan(sql):
        yield Token(kind, sql[start:end], start)


def name_of(token: Token) -> str:
    """The name that an identifier token stands for: folded to lower case unless quoted."""
    return named(token.text)


def qualified_names(sql: str) -> set[tuple[str, str]]:
    """Give every ``schema.name`` that the text could mean, among them ``alias.column`` pairs.

    Strings, comments and dollar-quoted text are skipped; of longer chains the first two parts count.
    """
    found: set[tuple[str, str]] = set()
    window: list[Token] = []
    for token in tokens(sql):
        window = [*window[-3:], token]
        if len(window) < 3 or window[-2].text != "." or not (_is_name(window[-3]) and _is_name(token)):
            continue
        if len(window) == 4 and window[0].text == ".":
            continue
        found.add((name_of(window[-3]), name_of(token)))
    return found


def _is_name(token: Token) -> bool:
    return token.kind in ("word", "quoted")


def split_name(text: str) -> tuple[str, ...]:
    """The parts of a dotted name: ``a."B.c"`` gives ("a", "B.c"). Raises ValueError for anything else."""
    parts = list(tokens(text))
    names, dots = parts[::2], parts[1::2]
    if not names or len(names) == len(dots) or any(d.text != "." for d in dots) or not all(map(_is_name, names)):
        raise ValueError(f"not a name: {text!r}")
    return tuple(map(name_of, names))


def split_list(sql: str, separator: str = ",") -> list[str]:
    """Split SQL text at separators outside brackets, strings and comments; the parts are stripped."""
    parts, start, depth = [], 0, 0
    for token in tokens(sql):
        if token.kind != "op":
            continue
        depth += (token.text in "([") - (token.text in ")]")
        if token.text == separator and depth == 0:
            parts.append(sql[start : token.start].strip())
            start = token.end
    tail = sql[start:].strip()
    return [*parts, tail] if parts or tail else []


def bracketed(sql: str, opening: int) -> str:
    """The text inside the round bracket that opens at ``opening``. Raises ValueError when none closes it."""
    depth = 0
    for token in tokens(sql[opening:]):
        if token.kind == "op" and token.text in "()":
            depth += 1 if token.text == "(" else -1
            if depth == 0:
                return sql[opening + 1 : opening + token.start]
    raise ValueError(f"no closing bracket in {sql!r}")


def names_in(record: Record) -> set[tuple[str, str]]:
    """Every qualified name in the SQL texts of a record (see ``TEXTS``)."""
    found: set[tuple[str, str]] = set()
    for key in TEXTS.get(record.address.kind, ()):
        for text in _strings(record.settings.get(key)):
            found |= qualified_names(text)
    return found


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
