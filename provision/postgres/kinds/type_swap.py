"""Replace an enum or a domain under the columns that use it: a new type, rewritten columns, the old type gone.

One DO statement does it, so it happens whole or not at all. What reads those columns (views, checks, policies,
partial indexes) is rigid on the type and rebuilt around it by closure; column defaults are carried here.
"""

from __future__ import annotations

from collections.abc import Iterator

from provision.postgres import sql
from provision.postgres.kinds.grant import statements
from provision.postgres.kinds.ownership import in_schema
from provision.spec.change import Change, Context, Draft, Hazard, Sql
from provision.spec.ident import Address
from provision.spec.record import Record

_SUFFIX = "__replaced"


def users(address: Address, context: Context) -> list[Record]:
    """The live columns whose type is this one or an array of it."""
    name = in_schema(address)
    return [
        r
        for r in context.live.of_kind("column")
        if str(r.settings["type"]).removesuffix("[]") == name and r.address.target == address.target
    ]


def swap(change: Change, context: Context, create: str, *, via: str, detail: str) -> Draft:
    """The step that swaps the type. ``create`` makes the new one, ``via`` is the type values pass through."""
    address = change.address
    columns = [c for c in users(address, context) if _stays(c, address, context)]
    body = [
        f"ALTER TYPE {in_schema(address)} RENAME TO {sql.quote_ident(_old_name(address))}",
        create,
        *_carry_over(change, context),
        *(line for c in columns for line in _alter(c, address, via, context.changes.get(c.address))),
        f"DROP TYPE {sql.qualified(address.names[0], _old_name(address))}",
    ]
    tables = tuple(dict.fromkeys(c.parent for c in columns if c.parent is not None))
    hazards = [Hazard("rewrite", detail, needs_consent=bool(columns))]
    return Draft(
        object=address,
        action="alter",
        key="swap",
        request=Sql(in_one_statement(body)),
        summary=f"replace type {address.name}",
        needs=tables,
        lock="ACCESS EXCLUSIVE" if columns else None,
        hazards=tuple(hazards),
    )


def in_one_statement(statements: list[str]) -> str:
    """Several statements as one, so that they take effect together."""
    body = "".join(f"  {s};\n" for s in statements)
    tag = "do"
    while f"${tag}$" in body:
        tag += "_"
    return f"DO ${tag}$\nBEGIN\n{body}END\n${tag}$"


def _old_name(address: Address) -> str:
    return address.name[: 63 - len(_SUFFIX)] + _SUFFIX


def _stays(column: Record, address: Address, context: Context) -> bool:
    """Whether the column still exists, with this type, when the swap runs."""
    change = context.changes.get(column.address)
    if change is None:
        return True
    if change.after is None or change.before is None:
        return False
    return str(change.after.settings["type"]) == str(change.before.settings["type"])


def _alter(column: Record, address: Address, via: str, change: Change | None) -> Iterator[str]:
    """Rewrite one column. Its default cannot follow: it is taken off, and put back unless it changes."""
    table = sql.table_name(column.address)
    name = sql.quote_ident(column.address.name)
    is_array = str(column.settings["type"]).endswith("[]")
    array = "[]" if is_array else ""
    default = column.settings.get("default")
    if default is not None:
        yield f"ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT"
    new = in_schema(address) + array
    yield f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {new} USING {name}::{via}{array}::{new}"
    if default is not None and (change is None or "default" not in change.fields):
        yield f"ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {default}"


def _carry_over(change: Change, context: Context) -> Iterator[str]:
    """Give the new type the owner, the comment and the grants that the old one had."""
    assert change.before is not None
    noun, before = f"TYPE {in_schema(change.address)}", change.before.settings
    if before["owner"] is not None:
        yield f"ALTER {noun} OWNER TO {sql.quote_ident(before['owner'])}"
    if before["comment"]:
        yield f"COMMENT ON {noun} IS {sql.quote_literal(before['comment'])}"
    for grant in context.live.children(change.address, "grant"):
        yield from statements(grant.address, None, grant.settings, context.facts(change.address).version[0])
