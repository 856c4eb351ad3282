"""What a change of a column's type costs, and whether it needs USING. Pure.

The rules are those of ATColumnChangeRequiresRewrite() in tablecmds.c: PostgreSQL keeps the table as it is when the
conversion is a mere relabelling: binary-coercible types, a length or precision that only grows, a domain without
constraints, and timestamp to timestamptz or back while the session's time zone is UTC (ours always is). Everything
else rewrites the table and builds all its indexes again.
"""

from __future__ import annotations

from provision.postgres.types import TypeName

_REGISTERED = frozenset(
    "regproc regprocedure regoper regoperator regclass regcollation regtype regconfig regdictionary regrole "
    "regnamespace".split()
)
#: Pairs that pg_cast marks as binary coercible (castmethod b), beside integer, oid and the reg* types.
_RELABELLED = frozenset(
    (
        ("character varying", "text"),
        ("text", "character varying"),
        ("cidr", "inet"),
        ("xml", "text"),
        ("xml", "character varying"),
        ("bit", "bit varying"),
        ("timestamp with time zone", "timestamp without time zone"),
        ("timestamp without time zone", "timestamp with time zone"),
    )
)
_PRECISE = frozenset(
    (
        "timestamp with time zone",
        "timestamp without time zone",
        "time with time zone",
        "time without time zone",
    )
)
_FIELDS = ("second", "minute", "hour", "day", "month", "year")
_MAX_PRECISION = 6

_NUMBERS = frozenset(("smallint", "integer", "bigint", "numeric", "real", "double precision"))
_STRINGS = frozenset(("text", "character varying", "character", "name", "bpchar"))
_STAMPS = frozenset(("date", "timestamp with time zone", "timestamp without time zone"))
_JSON = frozenset(("json", "jsonb"))
_BITS = frozenset(("bit", "bit varying"))
_NETWORKS = frozenset(("inet", "cidr"))
_GROUPS = (_NUMBERS, _STAMPS, _JSON, _BITS, _NETWORKS)
#: Further assignment casts (pg_cast.castcontext a or i) between built-in types.
_ASSIGNED = frozenset(
    (
        ("timestamp with time zone", "time with time zone"),
        ("timestamp with time zone", "time without time zone"),
        ("timestamp without time zone", "time without time zone"),
        ("time without time zone", "time with time zone"),
        ("time with time zone", "time without time zone"),
        ("integer", "money"),
        ("bigint", "money"),
        ("numeric", "money"),
        ("money", "numeric"),
        ("macaddr", "macaddr8"),
        ("macaddr8", "macaddr"),
        ("bigint", "oid"),
        ("oid", "bigint"),
        ("smallint", "oid"),
        *((number, name) for number in ("smallint", "bigint") for name in _REGISTERED),
        *((name, "bigint") for name in _REGISTERED),
        ("text", "regclass"),
        ("character varying", "regclass"),
    )
)


def rewrites(old: TypeName, new: TypeName) -> bool:
    """Whether changing a column from ``old`` to ``new`` rewrites its table. Domains count as their base types."""
    if old == new:
        return False
    if old[:2] == new[:2] and old.is_array == new.is_array and new.modifiers is None:
        return False
    if old.is_array or new.is_array or old.schema is not None or new.schema is not None:
        return True
    if _is_interval(old) and _is_interval(new):
        return not _keeps_fields(old, new)
    if old.name == new.name:
        return not _widens(old, new)
    if (old.name, new.name) in _RELABELLED:
        return not (new.modifiers is None or (new.name in _PRECISE and int(new.modifiers) >= _MAX_PRECISION))
    if new.name == "integer" or new.name == "oid":
        return not (old.name in _REGISTERED or {old.name, new.name} == {"integer", "oid"})
    return not (new.name in _REGISTERED and old.name in ("integer", "oid"))


def _widens(old: TypeName, new: TypeName) -> bool:
    """Whether every value of the one modifier fits the other unchanged, as the type's support function sees it."""
    if new.name in _PRECISE:
        return _precision(new) >= min(_precision(old), _MAX_PRECISION)
    if old.modifiers is None or new.modifiers is None:
        return new.modifiers is None
    if new.name in ("character varying", "bit varying"):
        return int(new.modifiers) >= int(old.modifiers)
    if new.name == "numeric":
        (old_precision, old_scale), (precision, scale) = (m.modifiers.split(",") for m in (old, new))  # type: ignore[union-attr]
        return int(scale) == int(old_scale) and int(precision) >= int(old_precision)
    return False


def rounds(old: TypeName, new: TypeName) -> bool:
    """Whether one numeric becomes another with fewer digits after the point. Too many before it are an error."""
    if not old.name == new.name == "numeric" or new.modifiers is None:
        return False
    return old.modifiers is None or int(new.modifiers.split(",")[1]) < int(old.modifiers.split(",")[1])


def _precision(name: TypeName) -> int:
    return _MAX_PRECISION if name.modifiers is None else int(name.modifiers)


def _is_interval(name: TypeName) -> bool:
    return name.name.partition(" ")[0] == "interval"


def _keeps_fields(old: TypeName, new: TypeName) -> bool:
    """The rule of interval_support(): only the finest field and its precision count."""
    if new.name == "interval" and new.modifiers is None:
        return True
    finest, wanted = (_FIELDS.index(n.name.rsplit(" ", 1)[-1]) if " " in n.name else 0 for n in (old, new))
    return wanted <= finest and (finest > 0 or _precision(new) >= _precision(old))


def needs_using(old: TypeName, new: TypeName) -> bool:
    """Whether the server has no assignment cast, so that the conversion must be written out.

    An assignment refuses what does not fit; an explicit cast cuts it off. So USING is the last resort.
    """
    if old.is_array != new.is_array:
        return not (new.name in _STRINGS and new.schema is None and not new.is_array)
    if old[:2] == new[:2]:
        return False
    if new.schema is None and new.name in _STRINGS:
        return False
    if old.schema is not None or new.schema is not None:
        return True
    if _is_interval(new) and (_is_interval(old) or old.name == "time without time zone"):
        return False
    if _is_interval(old) and new.name == "time without time zone":
        return False
    if any(old.name in group and new.name in group for group in _GROUPS):
        return False
    return (old.name, new.name) not in _ASSIGNED and rewrites(old, new)
