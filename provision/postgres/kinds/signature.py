"""Arguments and results of functions: one form for what the spec says and what pg_proc holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from provision.postgres import sql, types
from provision.postgres.kinds.expression import SQL
from provision.postgres.references import name_of, split_list, tokens
from provision.spec import fields
from provision.spec.fields import Field, FieldError, FieldTable, Type

#: Types that only functions have (PostgreSQL docs, "Pseudo-Types").
PSEUDO = frozenset(
    """
    any anyelement anyarray anynonarray anyenum anyrange anymultirange anycompatible anycompatiblearray
    anycompatiblenonarray anycompatiblerange anycompatiblemultirange cstring internal language_handler fdw_handler
    table_am_handler index_am_handler tsm_handler record trigger event_trigger pg_ddl_command void unknown
    """.split()
)
_INPUT = frozenset(("in", "inout", "variadic"))
_MODES = {"i": "in", "o": "out", "b": "inout", "v": "variadic", "t": "table"}
_SETOF = re.compile(r"^setof\s+", re.IGNORECASE)
_TABLE = re.compile(r"^table\s*\((.*)\)$", re.IGNORECASE | re.DOTALL)


def argument_type(text: str) -> str:
    """The type's canonical name without modifiers, which functions do not keep. Raises FieldError."""
    stripped = text.strip()
    bare = stripped.lower().removeprefix("pg_catalog.")
    if bare.removesuffix("[]").strip('"') in PSEUDO:
        return '"any"' if bare.strip('"') == "any" else bare
    parsed = types.parse(stripped)._replace(modifiers=None)
    if parsed.schema is None and parsed.name.startswith("interval "):
        parsed = parsed._replace(name="interval")
    return str(parsed)


TYPE = Type({"type": "string", "minLength": 1}, argument_type)
ARGUMENT = FieldTable(
    Field("name", fields.STRING, "The argument's name."),
    Field("type", TYPE, "Its type; modifiers such as a length are not kept.", required=True),
    Field("mode", fields.enum("in", "out", "inout", "variadic"), "Its direction.", default="in"),
    Field("default", SQL, "SQL expression for callers that leave it out."),
)


def read_returns(text: str) -> str:
    """The canonical result: ``integer``, ``setof T`` or ``table(a integer, b text)``. Raises FieldError."""
    stripped = text.strip()
    if match := _TABLE.match(stripped):
        return show_table(_table_column(part) for part in split_list(match[1]))
    if match := _SETOF.match(stripped):
        return f"setof {argument_type(stripped[match.end() :])}"
    return argument_type(stripped)


def _table_column(text: str) -> tuple[str, str]:
    first = next(tokens(text), None)
    if first is None or first.kind not in ("word", "quoted") or first.end >= len(text.strip()):
        raise FieldError(f"not a column of a table result: {text!r}", help="Write table(name type, …).")
    return name_of(first), argument_type(text[first.end :])


def show_table(columns: Iterable[tuple[str, str]]) -> str:
    return f"table({', '.join(f'{sql.quote_ident(n)} {t}' for n, t in columns)})"


def function_segment(name: str, arguments: Iterable[list[Any]]) -> str:
    """The name segment of a function's address, from the raw arguments of the catalog."""
    return segment(name, read_arguments(arguments))


def segment(name: str, arguments: Iterable[Mapping[str, Any]]) -> str:
    """The name segment of a function's address: ``name(type,type)`` of what callers pass."""
    return f"{name}({','.join(a['type'] for a in arguments if a['mode'] in _INPUT)})"


def read_arguments(raw: Iterable[list[Any]]) -> list[dict[str, Any]]:
    """Arguments from the catalog's [mode, name, type, default]; columns of a table result have mode ``table``."""
    return [
        {"name": name or None, "type": live_type(kind), "mode": _MODES[mode or "i"], "default": default}
        for mode, name, kind, default in raw
    ]


def live_type(text: str) -> str:
    """A type as the server shows it; what the spec language cannot name stays as it is."""
    try:
        return argument_type(text)
    except FieldError:
        return text


def show(argument: Mapping[str, Any]) -> str:
    """One argument in CREATE FUNCTION."""
    mode = "" if argument["mode"] == "in" else f"{argument['mode'].upper()} "
    name = f"{sql.quote_ident(argument['name'])} " if argument["name"] else ""
    default = f" DEFAULT {argument['default']}" if argument["default"] is not None else ""
    return f"{mode}{name}{argument['type']}{default}"


def split_segment(text: str) -> tuple[str, str]:
    """Split ``name(types)`` into the name and the text between the brackets."""
    name, _, rest = text.partition("(")
    return name, rest.removesuffix(")")


def implied_result(arguments: Iterable[Mapping[str, Any]]) -> str | None:
    """The result that OUT arguments give a function without ``returns``; None when there are none."""
    outs = [a["type"] for a in arguments if a["mode"] in ("out", "inout")]
    return None if not outs else outs[0] if len(outs) == 1 else "record"


def keeps_identity(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> bool:
    """Whether CREATE OR REPLACE may change the arguments so (PostgreSQL docs, CREATE FUNCTION, notes).

    Input names may be given but not changed, OUT arguments must stay, defaults may come but not go.
    """
    if len(old) != len(new):
        return False
    for before, after in zip(old, new, strict=True):
        if (before["mode"], before["type"]) != (after["mode"], after["type"]):
            return False
        if before["name"] != after["name"] and (before["name"] is not None or before["mode"] not in _INPUT):
            return False
        if before["default"] is not None and after["default"] is None:
            return False
    return True
