"""SQL of the specs that stands inside a statement of ours: one expression or one query, and nothing after it. Pure."""

from __future__ import annotations

from provision.postgres.lexer import scan
from provision.spec import fields
from provision.spec.fields import FieldError, Type


def embedded(text: str) -> str:
    """SQL that other SQL may follow: without the semicolon at its end, a last line with a comment closed.

    Raises FieldError for a semicolon elsewhere: the rest would run as a statement that no plan speaks of.
    """
    if ";" in text:
        tokens = list(scan(text))
        if any(_is_semicolon(text, token) for token in tokens[:-1]):
            raise FieldError("a semicolon would end the statement that this is part of", help="Write one expression.")
        for _, start, end in (token for token in tokens[-1:] if _is_semicolon(text, token)):
            text = text[:start] + text[end:]
    return f"{text}\n" if "--" in text.rpartition("\n")[2] else text


def _is_semicolon(text: str, token: tuple[str, int, int]) -> bool:
    kind, start, end = token
    return kind == "op" and text[start:end] == ";"


#: An SQL expression, condition or query.
SQL = Type(fields.SQL.schema, embedded)
