"""SQL text as tokens: comments gone, strings and quoted names whole, so that rules never match inside them. Pure.

It is no parser: whether text is valid SQL is for the compile level, which asks a server.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from provision.postgres.lexer import Kind, content, named, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Token(NamedTuple):
    """One token. ``text`` is folded to lower case for words, unquoted for strings and quoted names."""

    kind: Kind
    text: str
    start: int

    @property
    def is_name(self) -> bool:
        return self.kind in ("word", "quoted")


Tokens = tuple[Token, ...]


@lru_cache(maxsize=65536)
def tokenize(text: str) -> Tokens:
    """Split SQL into tokens. Text that ends inside a string or comment gives what there is."""
    return tuple(Token(kind, _folded(kind, text[start:end]), start) for kind, start, end in scan(text))


def _folded(kind: Kind, text: str) -> str:
    if kind == "word":
        return text.lower()
    if kind == "string":
        return content(text)
    return named(text) if kind == "quoted" else text


class Name(NamedTuple):
    """A name, qualified or not: ``parts`` and the token positions it spans. ``is_call`` where ``(`` follows."""

    parts: tuple[str, ...]
    first: int
    after: int
    is_call: bool

    @property
    def last(self) -> str:
        return self.parts[-1]

    @property
    def qualified(self) -> str:
        return ".".join(self.parts)


def names(tokens: Tokens) -> tuple[Name, ...]:
    """All names in order of appearance, ``a.b.c`` as one. Keywords are names too."""
    out: list[Name] = []
    i, count = 0, len(tokens)
    while i < count:
        if not tokens[i].is_name:
            i += 1
            continue
        first, parts = i, [tokens[i].text]
        while i + 2 < count and tokens[i + 1].text == "." and tokens[i + 1].kind == "op" and tokens[i + 2].is_name:
            i += 2
            parts.append(tokens[i].text)
        i += 1
        out.append(Name(tuple(parts), first, i, is_op(tokens, i, "(")))
    return tuple(out)


def words(tokens: Tokens) -> frozenset[str]:
    """The unquoted words of a text, for a quick look before a closer one."""
    return frozenset(t.text for t in tokens if t.kind == "word")


#: Written without parentheses, these words call a function of the clock (documentation, "Current Date/Time").
_CLOCK_WORDS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
_CLOCK_CALLS = frozenset({"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"})
#: Every word that may mean the clock.
CLOCK = _CLOCK_WORDS | _CLOCK_CALLS
_SYSTEM = ("pg_catalog",)


def calls(tokens: Tokens) -> Iterator[Name]:
    """The names that are called, without the keywords that may stand before a parenthesis."""
    for name in names(tokens):
        if name.is_call and name.last not in _NOT_CALLED:
            yield name


def clock_calls(tokens: Tokens) -> list[str]:
    """The functions of the clock that an expression calls, as they are written."""
    found: list[str] = []
    for name in names(tokens):
        own = len(name.parts) == 1 or name.parts[:-1] == _SYSTEM
        if name.is_call and own and name.last in _CLOCK_CALLS:
            found.append(f"{name.last}()")
        elif len(name.parts) == 1 and name.last in _CLOCK_WORDS and tokens[name.first].kind == "word":
            found.append(name.last)
    return found


def is_op(tokens: Sequence[Token], i: int, text: str) -> bool:
    """Whether token ``i`` exists and is this operator or punctuation."""
    return 0 <= i < len(tokens) and tokens[i].kind == "op" and tokens[i].text == text


def is_word(tokens: Sequence[Token], i: int, *texts: str) -> bool:
    """Whether token ``i`` exists and is one of these unquoted words."""
    return 0 <= i < len(tokens) and tokens[i].kind == "word" and tokens[i].text in texts


def closing(tokens: Sequence[Token], opening: int) -> int:
    """The position of the parenthesis that closes the one at ``opening``, or the length of the text."""
    depth = 0
    for i in range(opening, len(tokens)):
        if tokens[i].kind == "op":
            if tokens[i].text in "([":
                depth += 1
            elif tokens[i].text in ")]":
                depth -= 1
                if depth == 0:
                    return i
    return len(tokens)


def split(tokens: Tokens, separator: str) -> list[Tokens]:
    """Split at an operator that stands outside parentheses."""
    out: list[Tokens] = []
    depth, first = 0, 0
    for i, token in enumerate(tokens):
        if token.kind != "op":
            continue
        if token.text in "([":
            depth += 1
        elif token.text in ")]":
            depth -= 1
        elif depth == 0 and token.text == separator:
            out.append(tokens[first:i])
            first = i + 1
    out.append(tokens[first:])
    return [part for part in out if part] if separator == ";" else out


def unwrapped(tokens: Tokens) -> Tokens:
    """The tokens without parentheses around the whole."""
    while tokens and is_op(tokens, 0, "(") and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def arguments(tokens: Tokens, call: Name) -> list[Tokens]:
    """The arguments of a call, split at their commas."""
    inside = tokens[call.after + 1 : closing(tokens, call.after)]
    return split(inside, ",") if inside else []


def spelled(tokens: Sequence[Token]) -> str:
    """Write tokens back as one line, for messages and comparisons."""
    out = ""
    for token in tokens:
        text = f"'{token.text}'" if token.kind == "string" else token.text
        tight = token.kind == "op" and (token.text in ".,)::[]" or (token.text == "(" and out[-1:].isalnum()))
        out += text if tight or not out or out[-1] in ".([:" else f" {text}"
    return out


_NOT_CALLED = frozenset(
    "and or not in on as when then else case between from where values over filter within group using any all some "
    "exists array row select with returning interval by if elsif while into distinct like ilike set cube rollup sets "
    "check primary key references partition union except intersect lateral is similar to return execute perform "
    "recursive materialized join numeric decimal varchar char character bit timestamp timestamptz time".split()
)
