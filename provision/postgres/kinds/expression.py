"""SQL of the specs that stands inside a statement of ours: one expression or one query, and nothing after it. Pure."""

from __future__ import annotations

from provision.postgres.lexer import scan
from provision.spec import fields
from provision.spec.fields import FieldError, Type


def embedded(text: str) -> str:
    """Refuse what would end the statement around it; end a comment in its last line with that line."""
    if ";" in text and any(kind == "op" and text[start] == ";" for kind, start, _ in scan(text)):
        raise FieldError("a semicolon would end the statement that this is part of", help="Write one expression.")
    return f"{text}\n" if "--" in text.rpartition("\n")[2] else text


#: An SQL expression, condition or query.
SQL = Type(fields.SQL.schema, embedded)
