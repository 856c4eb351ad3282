"""How a column of an existing table gets another type or collation, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

from provision.postgres import conversions, sql, types
from provision.postgres.kinds.steps import alter, blocking, extensions, rewrite, values_lost
from provision.spec.change import Context, Draft, Hazard
from provision.spec.ident import Address
from provision.spec.record import Record, Settings


def collation_sql(collation: str) -> str:
    """A canonical collation as SQL takes it."""
    return collation if collation.startswith('"') else sql.qualified("pg_catalog", collation)


def is_constrained(type_name: str, address: Address, context: Context) -> bool:
    """Whether the type is a domain with constraints, its own or of a domain below it."""
    parsed = types.parse(type_name)
    if parsed.schema is None or parsed.is_array:
        return False
    domain = _domain(parsed, address, context)
    if domain is None:
        return False
    limits = domain.settings["checks"] or not domain.settings["nullable"]
    return bool(limits) or is_constrained(domain.settings["type"], address, context)


def _domain(parsed: types.TypeName, address: Address, context: Context) -> Record | None:
    schema = Address.root("pg", address.target, "schema", parsed.schema or "", bare=True)
    found = schema.child("domain", parsed.name)
    return context.desired.get(found) or context.live.get(found)


def retype(before: Record, after: Record, context: Context) -> Draft:
    """ALTER COLUMN TYPE; a default that cannot follow by itself is taken off and put back in the same statement."""
    address, old, new = after.address, before.settings, after.settings
    from_type, to_type = types.parse(old["type"]), types.parse(new["type"])
    plain = _unwrapped(from_type, address, context), _unwrapped(to_type, address, context)
    column = f"ALTER COLUMN {sql.quote_ident(address.name)} "
    clause = f"{column}TYPE {new['type']}"
    if new["collation"] is not None:
        clause += f" COLLATE {collation_sql(new['collation'])}"
    using = conversions.needs_using(*plain)
    if using:
        clause += f" USING {sql.quote_ident(address.name)}::{new['type']}"
    if old["default"] is not None and (using or old["default"] != new["default"]):
        clause = f"{column}DROP DEFAULT, {clause}"
        if new["default"] is not None:
            clause += f", {column}SET DEFAULT {new['default']}"
    unchanged = _retype_hazards(old, new, plain, to_type, address, context)
    return alter(
        address,
        "type",
        clause,
        f"type of {address.name}: {old['type']} to {new['type']}{_zone_note(*plain)}",
        makes=(address,),
        needs=extensions(context),
        hazards=tuple(unchanged),
    )


def _zone_note(old: types.TypeName, new: types.TypeName) -> str:
    """The session's time zone is UTC, so that the conversion relabels and is the same for everybody."""
    zoned = {old.name, new.name} == {"timestamp with time zone", "timestamp without time zone"}
    return ", times without a zone being UTC" if zoned else ""


def _retype_hazards(
    old: Settings,
    new: Settings,
    plain: tuple[types.TypeName, types.TypeName],
    to_type: types.TypeName,
    address: Address,
    context: Context,
) -> Iterator[Hazard]:
    constrained = old["type"] != new["type"] and is_constrained(str(to_type), address, context)
    if constrained or conversions.rewrites(*plain):
        yield rewrite(f"{old['type']} to {new['type']} writes every row and builds every index again")
    elif old["collation"] != new["collation"]:
        yield blocking("indexes on the column are built again for the new sort order")
    if _cuts(*plain):
        detail = f"the cast to {new['type']} may round or cut what does not fit"
        yield values_lost(address, detail)


def _cuts(old: types.TypeName, new: types.TypeName) -> bool:
    """Whether the conversion silently loses part of a value instead of refusing it."""
    if old.schema is not None or new.schema is not None or old[:2] == new[:2] == (None, "text"):
        return False
    pairs = {
        ("timestamp with time zone", "date"),
        ("timestamp without time zone", "date"),
        ("timestamp with time zone", "time without time zone"),
        ("timestamp without time zone", "time without time zone"),
        ("timestamp with time zone", "time with time zone"),
        ("double precision", "real"),
        ("numeric", "real"),
        ("numeric", "double precision"),
    }
    whole = {"smallint", "integer", "bigint"}
    fractional = {"numeric", "real", "double precision"}
    rounds = old.name in fractional and new.name in whole
    finer = old.name == new.name and " time zone" in new.name and conversions.rewrites(old, new)
    return (old.name, new.name) in pairs or rounds or finer or conversions.rounds(old, new)


def _unwrapped(parsed: types.TypeName, address: Address, context: Context) -> types.TypeName:
    """The base type below domains."""
    domain = _domain(parsed, address, context) if parsed.schema is not None and not parsed.is_array else None
    return parsed if domain is None else _unwrapped(types.parse(domain.settings["type"]), address, context)
