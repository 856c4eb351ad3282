"""Bring type names to the form in which format_type() shows them. Pure; used by columns, domains and functions.

Built-in types lose their aliases and get their default modifiers; every other type must name its schema,
because search_path is pinned to pg_catalog while objects are created and deparsed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from provision.postgres.sql import quote_ident
from provision.spec.fields import FieldError, Type

#: Other spellings of built-in types (PostgreSQL docs, table 8.1, and the internal names).
ALIASES = {
    "int": "integer",
    "int4": "integer",
    "int2": "smallint",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "decimal": "numeric",
    "dec": "numeric",
    "varchar": "character varying",
    "char varying": "character varying",
    "nchar varying": "character varying",
    "national character varying": "character varying",
    "national char varying": "character varying",
    "char": "character",
    "nchar": "character",
    "national character": "character",
    "national char": "character",
    "varbit": "bit varying",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "timetz": "time with time zone",
    "time": "time without time zone",
}
#: Built-in types that a column can have, as format_type() names them.
BUILT_IN = frozenset(
    (
        *ALIASES.values(),
        *"""
        aclitem bit box bpchar bytea cid cidr circle date datemultirange daterange gtsvector inet int4multirange
        int4range int8multirange int8range interval json jsonb jsonpath line lseg macaddr macaddr8 money name
        nummultirange numrange oid oidvector int2vector path pg_lsn pg_snapshot point polygon refcursor regclass
        regcollation regconfig regdictionary regnamespace regoper regoperator regproc regprocedure regrole regtype
        text tid tsmultirange tsquery tsrange tstzmultirange tstzrange tsvector txid_snapshot uuid xid xid8 xml
        """.split(),
    )
)
_SERIALS = {"serial": "integer", "serial4": "integer", "bigserial": "bigint", "serial8": "bigint"}
_SERIALS |= {"smallserial": "smallint", "serial2": "smallint"}
#: Types whose bare form means length 1 (PostgreSQL docs, 8.3 and 8.10).
_NUMBERS = re.compile(r"\s*-?\d+\s*(,\s*-?\d+\s*)?")
_LENGTH_ONE = frozenset(("character", "bit"))
_ZONED = re.compile(r"^(time|timestamp)(tz)?\s*(?:\(\s*(\d+)\s*\))?(?:\s+(with|without)\s+time\s+zone)?$")
_INTERVAL = re.compile(
    r"^interval(?:\s+(year to month|day to hour|day to minute|day to second|hour to minute|hour to second|"
    r"minute to second|year|month|day|hour|minute|second))?\s*(?:\(\s*(\d+)\s*\))?$"
)
_ARRAY = re.compile(r"(?:\s*\[\s*\d*\s*\])+$|\s+array(?:\s*\[\s*\d*\s*\])?$", re.IGNORECASE)
_PART = re.compile(r'\s*("(?:[^"]|"")+"|[^\W\d][\w$]*)\s*')


class TypeName(NamedTuple):
    """The parts of a type's name. ``schema`` is None for built-in types; ``modifiers`` is the text in brackets."""

    schema: str | None
    name: str
    modifiers: str | None = None
    is_array: bool = False

    def __str__(self) -> str:
        tail = "[]" if self.is_array else ""
        if self.schema is not None:
            typmod = f"({self.modifiers})" if self.modifiers else ""
            return f"{quote_ident(self.schema)}.{quote_ident(self.name)}{typmod}{tail}"
        if self.modifiers is None:
            return self.name + tail
        first, _, rest = self.name.partition(" ")
        if first in ("timestamp", "time"):
            return f"{first}({self.modifiers}) {rest}{tail}"
        return f"{self.name}({self.modifiers}){tail}"


def canonical(text: str) -> str:
    """The name as format_type() shows it: ``varchar(255)`` gives ``character varying(255)``. Raises FieldError."""
    return str(parse(text))


@lru_cache(maxsize=16384)
def parse(text: str) -> TypeName:
    """Read a type's name in any spelling. Raises FieldError with the remedy."""
    stripped = text.strip()
    array = _ARRAY.search(stripped)
    base = stripped[: array.start()] if array else stripped
    return _parse_base(base, text)._replace(is_array=array is not None)


def _parse_base(base: str, text: str) -> TypeName:
    if base == '"char"':
        return TypeName(None, '"char"')
    parts, modifiers = _split(base, text)
    if len(parts) == 2 and parts[0] != "pg_catalog":
        return TypeName(parts[0], parts[1], _compact(modifiers))
    if len(parts) > 2:
        raise FieldError(f"not a type: {text!r}", help="Write schema.type; a type has no database or column part.")
    words = re.sub(r"\s+", " ", base.split(".", 1)[-1]).strip().lower()
    return _zoned(words) or _interval(words) or _built_in(parts[-1], modifiers, text, named=len(parts) == 2)


def _split(base: str, text: str) -> tuple[list[str], str | None]:
    """The dotted parts (unquoted names; several words stay one part) and what stands in brackets."""
    head, bracket, tail = base.partition("(")
    modifiers = None
    if bracket:
        modifiers, closing, rest = tail.rpartition(")")
        if not closing:
            raise FieldError(f"not a type: {text!r}", help="Close the bracket after the type's modifiers.")
        head += " " + rest
    if "." not in head and '"' not in head:
        return [re.sub(r"\s+", " ", head).strip().lower()], modifiers
    parts, position = [], 0
    while match := _PART.match(head, position):
        token = match[1]
        parts.append(token[1:-1].replace('""', '"') if token[0] == '"' else token.lower())
        position = match.end()
        if position < len(head) and head[position] == ".":
            position += 1
        else:
            break
    if position < len(head.rstrip()) or not parts:
        raise FieldError(
            f"not a type: {text!r}", help="Write a PostgreSQL type such as text, varchar(50), agents.status."
        )
    return parts, modifiers


def _compact(modifiers: str | None) -> str | None:
    return None if modifiers is None else ",".join(p.strip() for p in modifiers.split(","))


def _zoned(words: str) -> TypeName | None:
    match = _ZONED.match(words)
    if match is None:
        return None
    zone = "with" if match[2] or match[4] == "with" else "without"
    return TypeName(None, f"{match[1]} {zone} time zone", match[3])


def _interval(words: str) -> TypeName | None:
    match = _INTERVAL.match(words)
    if match is None:
        return None
    return TypeName(None, f"interval {match[1]}" if match[1] else "interval", match[2])


def _built_in(word: str, modifiers: str | None, text: str, *, named: bool) -> TypeName:
    if word in _SERIALS:
        raise FieldError(
            f"{word} is not a type but a short form", help=f"Write type: {_SERIALS[word]} with identity: by_default."
        )
    name = ALIASES.get(word, word)
    if name == "float":
        return _float(modifiers, text)
    if name not in BUILT_IN and not named:
        raise FieldError(
            f"{text!r} is not a built-in type",
            help=f"Name its schema, e.g. public.{word}; the search path is pinned to pg_catalog.",
        )
    if modifiers is None and name in _LENGTH_ONE:
        return TypeName(None, name, "1")
    if name in BUILT_IN and modifiers is not None and not _NUMBERS.fullmatch(modifiers):
        raise FieldError(f"not a type: {text!r}", help=f"In the brackets after {word} stand whole numbers.")
    if name == "numeric" and modifiers is not None and "," not in modifiers:
        return TypeName(None, name, f"{modifiers.strip()},0")
    return TypeName(None, name, _compact(modifiers))


def _float(modifiers: str | None, text: str) -> TypeName:
    if modifiers is None:
        return TypeName(None, "double precision")
    if not modifiers.strip().isdigit() or not 1 <= int(modifiers) <= 53:
        raise FieldError(f"not a type: {text!r}", help="The precision of float is 1 to 53.")
    return TypeName(None, "real" if int(modifiers) <= 24 else "double precision")


#: A type of the spec language whose canonical value is the server's name of the type.
TYPE = Type({"type": "string", "minLength": 1}, canonical)

#: Built-in types whose default storage is not ``plain`` (pg_type.typstorage).
_EXTENDED = frozenset(
    """
    text bytea json jsonb jsonpath xml tsvector bit path polygon numrange int4range int8range tsrange tstzrange
    daterange nummultirange int4multirange int8multirange tsmultirange tstzmultirange datemultirange bpchar character
    refcursor txid_snapshot pg_snapshot
    """.split()
) | {"character varying", "bit varying"}
_MAIN = frozenset(("numeric", "inet", "cidr"))


def default_storage(canonical_name: str) -> str | None:
    """The storage that a column of a built-in type has unless told otherwise; None for other types."""
    name = parse(canonical_name)
    if name.schema is not None:
        return "extended" if name.is_array else None
    if name.is_array or name.name in _EXTENDED:
        return "extended"
    return "main" if name.name in _MAIN else "plain"
