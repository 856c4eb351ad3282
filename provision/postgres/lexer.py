"""The tokens of SQL text by PostgreSQL's rules (docs, "Lexical Structure"). Pure, and never a parser.

``references`` looks at raw tokens for names, ``checks.sqltext`` at folded ones for rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

Kind = Literal["word", "quoted", "string", "number", "op", "parameter"]

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\r\f\v]+|--[^\n]*)
      | (?P<block>/\*)
      | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
      | (?P<string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z))
      | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?:"|\Z))
      | (?P<number>0[xXoObB][\da-fA-F_]+|\d[\d_]*(?:\.(?!\.)[\d_]*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
      | (?P<parameter>\$\d+)
      | (?P<op>::|:=|=>|\.\.|[()\[\],;.:]|(?:(?!--|/\*)[+\-*/<>=~!@\#%^&|`?])+|.)""",
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")
#: An operator ends in + or - only if it holds one of these; else the sign belongs to what follows.
_MAY_END_IN_A_SIGN = re.compile(r"[~!@#%^&|`?]")
_UNICODE = re.compile(r"\\(?:\\|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4}))")


def scan(sql: str) -> Iterator[tuple[Kind, int, int]]:
    """Give kind, start and end of each token; white space and comments are left out.

    Literals and comments that nobody ends run to the end of the text.
    """
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None
        kind, start, position = match.lastgroup, position, match.end()
        if kind == "space":
            continue
        if kind == "block":
            position = _after_comment(sql, position)
        elif kind == "dollar":
            closing = sql.find(match[0], position)
            position = len(sql) if closing < 0 else closing + len(match[0])
            yield "string", start, position
        elif kind == "op":
            position = start + len(_operator(match[0]))
            yield "op", start, position
        else:
            yield kind, start, position  # type: ignore[misc]


def _operator(text: str) -> str:
    return text if len(text) < 2 or _MAY_END_IN_A_SIGN.search(text) else text.rstrip("+-") or text[0]


def _after_comment(sql: str, position: int) -> int:
    """Where a block comment ends; they nest."""
    depth = 1
    for match in _BLOCK.finditer(sql, position):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return len(sql)


def named(text: str) -> str:
    """The name that an identifier stands for: in lower case unless quoted."""
    if not text.endswith('"') and '"' not in text:
        return text.lower()
    inner = text[text.index('"') + 1 :].removesuffix('"').replace('""', '"')
    if text[0] == '"':
        return inner
    return _UNICODE.sub(lambda m: _character(m[1] or m[2]), inner)


def _character(code: str | None) -> str:
    """What a Unicode escape stands for; a doubled backslash is one."""
    if code is None:
        return "\\"
    number = int(code, 16)
    return chr(number) if number <= 0x10FFFF else "\ufffd"


def content(text: str) -> str:
    """What stands between the quotes of a string literal, doubled quotes made single; escapes stay as they are."""
    if text[0] == "$":
        tag = text[: text.index("$", 1) + 1]
        return text[len(tag) :].removesuffix(tag)
    return text[text.index("'") + 1 :].removesuffix("'").replace("''", "'")
