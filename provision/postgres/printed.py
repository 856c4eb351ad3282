"""Make what PostgreSQL prints of an expression equal to what it prints of that print. Pure; every ``decode`` uses it.

``kind IN ('a', 'b')`` over varchar is printed as a cast of the array, and that text, read again (by a restore
from a dump, by import), as casts of its elements. Both are one condition and must compare equal.
"""

from __future__ import annotations

import re
from typing import overload

_ELEMENT = r"E?'(?:[^']|'')*'::character varying"
_CAST_ARRAY = re.compile(rf"\(ARRAY\[({_ELEMENT}(?:, {_ELEMENT})*)\]\)::text\[\]")
_ONE = re.compile(_ELEMENT)


@overload
def settled(text: str) -> str: ...
@overload
def settled(text: None) -> None: ...
def settled(text: str | None) -> str | None:
    """The text in the form in which reading and printing it again changes nothing."""
    if text is None or ")::text[]" not in text:
        return text
    return _CAST_ARRAY.sub(_by_element, text)


def _by_element(found: re.Match[str]) -> str:
    return f"ARRAY[{', '.join(f'({item})::text' for item in _ONE.findall(found[1]))}]"
