"""Write plain values as the YAML that people write: blocks for what is nested, one line for what is small. Pure.

``events.parse`` reads the text back as the same values; ``import`` is its user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Lines are kept within this width where a value can be broken at all.
WIDTH = 110
#: Levels that are always written as blocks: a section and the names in it.
_BLOCKS = 2
#: Text that needs no quotes anywhere, also not inside {…} and […]; what YAML reads as something else is below.
_PLAIN = re.compile(
    r"(?:[A-Za-z_($/]|\.\.?/|[0-9]+[A-Za-z]+$|[0-9]+ [a-z]+$)"
    r"(?:[A-Za-z0-9_ .()/<>=+*$@%^~;?-]|:(?=[A-Za-z0-9/:]))*(?<! )$"
)
_OTHERS = re.compile(r"(?i)null|true|false|0[xo].*|[0-9.]+e[0-9]+")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u2028\u2029\ufeff\ufffe\uffff]")


def dump(root: Mapping[str, Any]) -> str:
    """The document of a mapping; ends with a newline."""
    return "".join(f"{line}\n" for line in _block(root, 0))


def scalar(value: Any) -> str:
    """A value on one line, quoted only where it must be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.match(text) and not _OTHERS.fullmatch(text):
        return text
    if _UNPRINTABLE.search(text) or "\n" in text or "\t" in text or "\x85" in text:
        quoted = json.dumps(text, ensure_ascii=False)
        return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)
    return "'" + text.replace("'", "''") + "'" if '"' in text or "\\" in text or "'" not in text else f'"{text}"'


def flow(value: Any) -> str:
    """A value on one line, mappings and lists in brackets."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def _block(node: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in node.items():
        yield from _entry(f"{scalar(key)}:", value, depth)


def _entry(head: str, value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, str) and _is_literal(value):
        yield f"{indent}{head} |{'' if value.endswith(chr(10)) else '-'}"
        for line in value.removesuffix("\n").split("\n"):
            yield f"{indent}  {line}" if line else ""
        return
    line = f"{indent}{head} {flow(value)}"
    if not value or not isinstance(value, Mapping | list) or (_is_small(value, depth) and len(line) <= WIDTH):
        yield line
    elif isinstance(value, Mapping):
        yield f"{indent}{head}"
        yield from _block(value, depth + 1)
    else:
        yield f"{indent}{head}"
        for item in value:
            yield from _item(item, depth + 1)


def _item(item: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    line = f"{indent}- {flow(item)}"
    if not isinstance(item, Mapping) or not item or (len(line) <= WIDTH and not _holds_literal(item)):
        yield line
        return
    first, *rest = _block(item, depth + 1)
    yield f"{indent}- {first.lstrip()}"
    yield from rest


def _is_small(value: Any, depth: int) -> bool:
    """Whether a value may stand on one line: nothing in it is a mapping of mappings, no text has several lines."""
    if _holds_literal(value):
        return False
    if isinstance(value, list):
        return not any(isinstance(item, Mapping) and len(value) > 1 for item in value)
    inner = [v for v in value.values() if isinstance(v, Mapping) and v]
    deeper = any(isinstance(v, Mapping) and v for m in inner for v in m.values())
    return depth >= _BLOCKS and len(inner) < 2 and not deeper


def _holds_literal(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_literal(v) for v in value.values())
    if isinstance(value, list):
        return any(_holds_literal(v) for v in value)
    return isinstance(value, str) and _is_literal(value)


def _is_literal(text: str) -> bool:
    """Whether a text is written as it is, line by line, under its key."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 2 or _UNPRINTABLE.search(text) or "\r" in text or "\x85" in text:
        return False
    # Leading blanks of the first line would be taken for the indentation, blanks at the end are easily lost.
    return bool(lines[0]) and not lines[0].startswith((" ", "\t")) and bool(lines[-1].strip())
