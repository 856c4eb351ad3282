"""Write names and literals the way PostgreSQL itself writes them. Used by every kind that makes SQL. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from provision.spec.ident import Address

#: Key words that quote_identifier() quotes: every category but unreserved (pg_get_keywords(), 16 and 18 together).
KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case
    cast char character check coalesce collate collation column concurrently constraint create cross
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze
    from full grant greatest group grouping having ilike in initially inner inout int integer intersect interval
    into is isnull join json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar
    json_serialize json_table json_value lateral leading least left like limit localtime localtimestamp
    merge_action national natural nchar none normalize not notnull null nullif numeric offset on only or order out
    outer overlaps overlay placing position precision primary real references returning right row select
    session_user setof similar smallint some substring symmetric system_user table tablesample then time timestamp
    to trailing treat trim true union unique user using values varchar variadic verbose when where window with
    xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split()
)
#: NAMEDATALEN - 1 (PostgreSQL docs, "Identifiers and Key Words").
MAX_NAME_BYTES = 63
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz_")
_REST = _FIRST | frozenset("0123456789")


@lru_cache(maxsize=65536)
def quote_ident(name: str) -> str:
    """Quote a name where PostgreSQL would (quote_identifier() in ruleutils.c): case, signs, key words."""
    if name and name[0] in _FIRST and _REST.issuperset(name) and name not in KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string constant; a backslash makes it an E'' string, so the session's settings do not matter."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def qualified(schema: str, name: str) -> str:
    """A schema-qualified name."""
    return f"{quote_ident(schema)}.{quote_ident(name)}"


def columns(names: Iterable[str]) -> str:
    """A parenthesised list of names."""
    return f"({', '.join(map(quote_ident, names))})"


@lru_cache(maxsize=65536)
def table_name(address: Address) -> str:
    """The qualified name of the table that an address is or lies in (pg:T/SCHEMA/TABLE/…)."""
    schema, table = address.names[:2]
    return qualified(schema, table)


def regclass(schema: str, name: str) -> str:
    """An expression that gives the oid of a relation, or NULL when there is none."""
    return f"to_regclass({quote_literal(qualified(schema, name))})"


def bounded(*parts: str) -> str:
    """Join names to one of at most 63 bytes; a long one keeps its end, and a digest makes it its own."""
    whole = "_".join(parts)
    if len(whole.encode()) <= MAX_NAME_BYTES:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    tail = parts[-1].encode()[-24:].decode(errors="ignore")
    head = whole.encode()[: MAX_NAME_BYTES - len(digest) - len(tail.encode()) - 2].decode(errors="ignore")
    return f"{head}_{digest}_{tail}"
