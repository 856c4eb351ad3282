"""Server settings that roles and functions carry (ALTER ROLE … SET, CREATE FUNCTION … SET) in one spelling.

PostgreSQL keeps such a value as it was typed: ``30s``, ``30000`` and ``30000ms`` are three texts for one value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from provision.postgres import sql
from provision.postgres.references import name_of, split_list, tokens
from provision.spec.fields import FieldError, Type

_MS, _S = 1_000, 1_000_000
#: Settings of time that a role may set, with the microseconds of a bare number (pg_settings.unit).
_TIME_US: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "statement_timeout",
            "lock_timeout",
            "transaction_timeout",
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
            "deadlock_timeout",
            "log_min_duration_statement",
            "log_min_duration_sample",
            "client_connection_check_interval",
            "tcp_user_timeout",
            "vacuum_cost_delay",
            "wal_sender_timeout",
        ),
        _MS,
    ),
    **dict.fromkeys(("tcp_keepalives_idle", "tcp_keepalives_interval", "post_auth_delay"), _S),
}
#: Settings of memory that a role may set, with the bytes of a bare number.
_MEMORY_BYTES: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "work_mem",
            "maintenance_work_mem",
            "logical_decoding_work_mem",
            "temp_file_limit",
            "max_stack_depth",
            "gin_pending_list_limit",
            "wal_skip_threshold",
            "vacuum_buffer_usage_limit",
        ),
        1024,
    ),
    **dict.fromkeys(
        (
            "temp_buffers",
            "effective_cache_size",
            "min_parallel_table_scan_size",
            "min_parallel_index_scan_size",
        ),
        8192,
    ),
}
#: Lists of names, stored with each element quoted as an identifier (GUC_LIST_QUOTE).
_LISTS = frozenset(("search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces"))
#: PostgreSQL's units, and the spec language's own where they do not contradict them.
_TIME_UNITS = {"us": 1, "ms": _MS, "s": _S, "min": 60 * _S, "m": 60 * _S, "h": 3600 * _S, "d": 86400 * _S}
_MEMORY_UNITS = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_MEMORY_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_TRUTH = {"true": "on", "yes": "on", "false": "off", "no": "off"}


def canonical(name: str, value: Any) -> str:
    """Give the one text of a value: the largest whole unit, ``on``/``off``, lists as quoted identifiers.

    Names with a dot are the application's own and keep their value untouched.
    """
    name = name.lower()
    if isinstance(value, bool):
        value = "on" if value else "off"
    if name in _LISTS:
        return ", ".join(sql.quote_ident(item) if item else '""' for item in _items(value))
    text = str(value)
    if name in _TIME_US:
        return _quantity(text, _TIME_US[name], _TIME_UNITS, ("d", "h", "min", "s", "ms", "us"))
    if name in _MEMORY_BYTES:
        return _quantity(text, _MEMORY_BYTES[name], _MEMORY_UNITS, ("TB", "GB", "MB", "kB", "B"))
    return text if "." in name else _TRUTH.get(text.lower(), text)


def assignment(name: str, value: str) -> str:
    """The words after SET: ``search_path TO 'pg_catalog', 'agents'``. The value is canonical."""
    shown = shown_name(name)
    if name in _LISTS:
        return f"{shown} TO {', '.join(map(sql.quote_literal, _items(value))) or repr('')}"
    return f"{shown} TO {sql.quote_literal(value)}"


def shown_name(name: str) -> str:
    """The name as SQL writes it; the application's own have a prefix and a dot."""
    return ".".join(sql.quote_ident(part) for part in name.split("."))


def read_config(config: list[str] | None) -> dict[str, str]:
    """Read setconfig or proconfig: ["name=value", …]."""
    pairs = (item.split("=", 1) for item in config or ())
    return {name.lower(): canonical(name, value) for name, value in sorted(pairs)}


def _items(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value] or [""]
    return [_element(part) for part in split_list(str(value))] or [""]


def _element(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    found = list(tokens(text))
    return name_of(found[0]) if len(found) == 1 and found[0].kind in ("word", "quoted") else text


def _quantity(text: str, base: int, units: Mapping[str, int], names: tuple[str, ...]) -> str:
    match = _QUANTITY.match(text)
    if match is None or (match[2] and match[2] not in units):
        return text
    total = Decimal(match[1]) * (units[match[2]] if match[2] else base)
    if total == 0:
        return "0"
    for name in names:
        count = total / units[name]
        if count == int(count):
            return f"{int(count)}{name}"
    return text


def _parse(value: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, item in value.items():
        if name.lower() in found:
            raise FieldError(f"{name.lower()} is set twice", path=(name,))
        found[name.lower()] = canonical(name, item)
    return dict(sorted(found.items()))


_VALUE = {"type": ["string", "integer", "number", "boolean", "array"], "items": {"type": "string"}}
#: ``{name: value}`` of server settings; the value goes to the server, so its units are allowed too.
SETTINGS = Type(
    {
        "type": "object",
        "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$"},
        "additionalProperties": _VALUE,
    },
    _parse,
)
