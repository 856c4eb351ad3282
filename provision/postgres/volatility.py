"""Whether a default is the same for all rows of one statement, so that ADD COLUMN need not write them. Pure."""

from __future__ import annotations

from provision.postgres.references import Token, name_of, tokens
from provision.postgres.types import ALIASES, BUILT_IN

#: Built-in functions that pg_proc marks stable or immutable and that defaults use. Others count as volatile:
#: a warning too many is better than an unexpected rewrite.
STEADY = frozenset(
    """
    abs age array_fill array_length ceil char_length chr coalesce concat concat_ws convert_from convert_to cos
    current_setting current_date current_database date_bin date_part date_trunc decode encode exp extract floor
    format greatest hashtext host int4range int8range interval isfinite json_array json_build_array
    json_build_object json_object jsonb_array jsonb_build_array jsonb_build_object jsonb_object
    jsonb_set jsonb_strip_nulls daterange numrange tsrange tstzrange least left length ln localtime localtimestamp log
    lower lpad ltrim
    make_date make_interval make_time make_timestamp make_timestamptz md5 mod now nullif numeric octet_length overlay
    pi position power quote_ident quote_literal replace repeat reverse right round row row_to_json rpad rtrim sha256
    sign sqrt statement_timestamp string_to_array strpos substr substring text to_char to_date to_json to_jsonb
    to_number to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim trunc timezone upper cast
    current_time current_timestamp array btrim initcap pg_catalog version
    """.split()
)
_TYPE_WORDS = frozenset(word for name in (*BUILT_IN, *ALIASES) for word in name.split())


def is_volatile(expression: str) -> bool:
    """Whether an expression calls a function that is not known to be stable or immutable."""
    found = list(tokens(expression))
    for index, token in enumerate(found[:-1]):
        if found[index + 1].text == "(" and token.kind in ("word", "quoted") and not _is_steady(found, index):
            return True
    return False


def _is_steady(found: list[Token], index: int) -> bool:
    name = name_of(found[index])
    if index >= 2 and found[index - 1].text == "." and name_of(found[index - 2]) != "pg_catalog":
        return _is_cast(found, index - 2)
    return name in STEADY or name in _TYPE_WORDS or _is_cast(found, index)


def _is_cast(found: list[Token], index: int) -> bool:
    """Whether a type's name stands here: ``::numeric(3,2)``."""
    return index >= 1 and found[index - 1].text == "::"
