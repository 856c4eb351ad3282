"""Access privileges: their names, what each kind of object has, what PUBLIC has unasked, and ACL text.

Source: PostgreSQL docs, "Privileges" (tables 5.1 and 5.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

LETTERS: Mapping[str, str] = {
    "r": "select",
    "a": "insert",
    "w": "update",
    "d": "delete",
    "D": "truncate",
    "x": "references",
    "t": "trigger",
    "m": "maintain",
    "X": "execute",
    "U": "usage",
    "C": "create",
    "c": "connect",
    "T": "temporary",
}
_TABLE = ("select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain")
#: The words of SQL for the object, and its privileges, by kind of address.
NOUNS: Mapping[str, str] = {
    "table": "TABLE",
    "view": "TABLE",
    "sequence": "SEQUENCE",
    "function": "ROUTINE",
    "schema": "SCHEMA",
    "enum": "TYPE",
    "domain": "TYPE",
    "type": "TYPE",
    "database": "DATABASE",
}
_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "table": _TABLE,
    "view": _TABLE,
    "sequence": ("select", "update", "usage"),
    "function": ("execute",),
    "schema": ("create", "usage"),
    "enum": ("usage",),
    "domain": ("usage",),
    "type": ("usage",),
    "database": ("connect", "create", "temporary"),
}
#: Privileges that may be given for single columns.
OF_COLUMNS = frozenset(("select", "insert", "update", "references"))
_PUBLIC: Mapping[str, frozenset[str]] = {
    "function": frozenset(("execute",)),
    "enum": frozenset(("usage",)),
    "domain": frozenset(("usage",)),
    "type": frozenset(("usage",)),
    "database": frozenset(("connect", "temporary")),
}
_SYNONYMS = {"temp": "temporary", "all privileges": "all"}
_ENTRY = re.compile(r"^([a-z][a-z ]*?)\s*(?:\((.*)\))?$", re.IGNORECASE | re.DOTALL)


class Held(NamedTuple):
    """What one role holds on one object; ``grantable`` is the part it may pass on."""

    privileges: frozenset[str] = frozenset()
    grantable: frozenset[str] = frozenset()


def all_of(kind: str, major: int) -> frozenset[str]:
    """Every privilege that an object of this kind has in a server major (MAINTAIN came with 17)."""
    return frozenset(p for p in _OF_KIND[kind] if p != "maintain" or major >= 17)


def public_default(kind: str) -> frozenset[str]:
    """What PUBLIC may do with a new object of this kind."""
    return _PUBLIC.get(kind, frozenset())


def parse_entry(text: str) -> tuple[str, str | None]:
    """Split ``select(a, b)`` into ("select", "a, b"); without columns the second part is None."""
    match = _ENTRY.match(text.strip())
    if match is None:
        raise ValueError(f"not a privilege: {text!r}")
    word = re.sub(r"\s+", " ", match[1].lower())
    return _SYNONYMS.get(word, word), match[2]


def parse_acl(text: str) -> dict[str, Held]:
    """Read an aclitem[]: role -> what it holds, over all grantors; PUBLIC is ``public``."""
    found: dict[str, Held] = {}
    for item in parse_array(text):
        grantee, letters = _item(item)
        privileges, grantable = set(), set()
        for position, letter in enumerate(letters):
            if letter not in LETTERS:
                continue
            privileges.add(LETTERS[letter])
            if letters[position + 1 : position + 2] == "*":
                grantable.add(LETTERS[letter])
        before = found.get(grantee, Held())
        found[grantee] = Held(before.privileges | privileges, before.grantable | grantable)
    return found


def _item(text: str) -> tuple[str, str]:
    if text.startswith('"'):
        end = 1
        while text[end] != '"' or text[end + 1 : end + 2] == '"':
            end += 2 if text[end] == '"' else 1
        name, rest = text[1:end].replace('""', '"'), text[end + 2 :]
    else:
        name, _, rest = text.partition("=")
    return name or "public", rest.partition("/")[0]


_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)


def parse_array(text: str) -> list[str]:
    """Read the text of a one-dimensional array without nulls."""
    return [plain or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, plain in _ELEMENT.findall(text)]


def sort_privileges(names: Iterable[str]) -> list[str]:
    """The canonical order: alphabetical, column privileges after the privilege of the whole."""
    return sorted(set(names))
