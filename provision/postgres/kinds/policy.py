"""Row-level security policies. Whether a table obeys them is a setting of the table (``row_security``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query, Row
from provision.postgres.kinds.depends import DEPENDENCIES, Dependencies
from provision.postgres.kinds.expression import SQL
from provision.postgres.kinds.ownership import (
    COMMENT,
    RENAMED_FROM,
    Noun,
    attributes,
    parse,
    relation_of,
    rename,
    renamed_from,
    retitle_texts,
    role_refs,
)
from provision.postgres.kinds.steps import is_fresh
from provision.postgres.kinds.type_swap import in_one_statement
from provision.postgres.printed import settled
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Pointer, Record, Settings

ROLES = fields.Type(
    {"type": "array", "items": {"type": "string"}, "minItems": 1}, lambda value: sorted(dict.fromkeys(value))
)
FIELDS = FieldTable(
    Field(
        "for",
        fields.enum("all", "select", "insert", "update", "delete"),
        "The commands it covers.",
        default="all",
    ),
    Field("to", ROLES, "The roles it covers; 'public' is everybody.", default=["public"]),
    Field("using", SQL, "Condition for rows to be seen, updated or deleted."),
    Field("with_check", SQL, "Condition for rows to be written; without it, the condition of using."),
    Field("permissive", fields.BOOL, "Combined with OR; restrictive ones with AND.", default=True),
    COMMENT,
    extra=RENAMED_FROM,
)
#: ``policies`` of a table.
QUERIES = (
    Query(
        "policies",
        lambda major: (
            f"""
        SELECT p.polrelid, p.polname, p.polcmd, p.polpermissive, to_json(p.polroles::text[]),
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
               obj_description(p.oid, 'pg_policy'),
               {DEPENDENCIES.format(object="d.classid = 'pg_policy'::regclass AND d.objid = p.oid")}
          FROM pg_policy p
          JOIN pg_class c ON c.oid = p.polrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {SYSTEM_SCHEMAS}
         ORDER BY p.polrelid, p.polname"""
        ),
    ),
)
_COMMANDS = {"*": "all", "r": "select", "a": "insert", "w": "update", "d": "delete"}


class PolicyKind(PlainKind):
    name = "policy"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ("using", "with_check")

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        edges = Dependencies(catalog)
        for row in catalog.rows("policies"):
            parent = catalog.relation_address(str(row[0]))
            if parent is None:
                continue
            settings = settings_of(catalog, row)
            refs, rigid = edges.edges(row[8], own=parent, also=role_refs(catalog.target, *settings["to"]))
            yield Record(parent.child("policy", str(row[1])), settings, parent, refs, rigid)

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        if old.kind != "role":
            return retitle_texts(record, old, new, "using", "with_check")
        to = sorted(new.name if r == old.name else r for r in record.settings["to"])
        return record._replace(settings={**record.settings, "to": to})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        table = relation_of(address)
        noun = Noun("POLICY", sql.quote_ident(address.name), f" ON {sql.table_name(table)}")
        above = context.changes.get(table)
        fresh = is_fresh(context, table)
        if after is None:
            assert before is not None
            return Lowered((_drop(before, noun, consent=not _goes(above)),), (address,))
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(before, noun, key="drop", consent=False)] if before is not None else []
            drafts.append(_create(address, noun, after.settings, fresh=fresh))
            drafts += attributes(noun, address, None, after.settings, fresh=fresh, follows=("",))
            return Lowered(tuple(drafts), (address,))
        return Lowered(tuple(_alter(change, noun, before.settings, after.settings)), (address,))


def settings_of(catalog: Catalog, row: Row) -> dict[str, Any]:
    """The settings of a policy, from a row of ``policies``."""
    return {
        "for": _COMMANDS[str(row[2])],
        "to": sorted(catalog.roles[r] for r in json.loads(str(row[4]))),
        "using": settled(row[5]),
        "with_check": settled(row[6]),
        "permissive": row[3] == "t",
        "comment": row[7],
    }


def _goes(table: Change | None) -> bool:
    return table is not None and table.action == "delete"


def create_sql(noun: Noun, settings: Settings) -> str:
    parts = [f"CREATE {noun}"]
    if not settings["permissive"]:
        parts.append("AS RESTRICTIVE")
    parts.append(f"FOR {settings['for'].upper()}")
    parts.append(f"TO {_roles(settings)}")
    return "\n  ".join([*parts, *_conditions(settings)])


def _roles(settings: Settings) -> str:
    return ", ".join("PUBLIC" if r == "public" else sql.quote_ident(r) for r in settings["to"])


def _conditions(settings: Settings) -> Iterator[str]:
    if settings["using"] is not None:
        yield f"USING ({settings['using']})"
    if settings["with_check"] is not None:
        yield f"WITH CHECK ({settings['with_check']})"


def _create(address: Address, noun: Noun, settings: Settings, *, fresh: bool) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(create_sql(noun, settings)),
        summary=f"create policy {address.name}",
        makes=(address,),
        lock=None if fresh else "ACCESS EXCLUSIVE",
        fresh=fresh,
        undo=Sql(f"DROP {noun}"),
    )


def _drop(before: Record, noun: Noun, key: str = "", *, consent: bool) -> Draft:
    kind = "permissive" if before.settings["permissive"] else "restrictive"
    detail = f"rows are no longer kept apart by the {kind} policy {before.address.name}"
    return Draft(
        object=before.address,
        action="drop",
        key=key,
        request=Sql(f"DROP {noun}"),
        summary=f"drop policy {before.address.name}",
        destroys=(before.address,),
        lock="ACCESS EXCLUSIVE",
        hazards=(Hazard("security", detail, needs_consent=consent),),
        undo=Sql(create_sql(noun, before.settings)),
    )


def _alter(change: Change, noun: Noun, before: Settings, after: Settings) -> Iterator[Draft]:
    follows: tuple[str, ...] = ()
    if change.action == "rename" and change.before is not None:
        yield rename(noun, change.before.address, change.address, lock="ACCESS EXCLUSIVE")
        follows = ("rename",)
    changed = set(change.fields) - {"comment"}
    if changed:
        remade = _must_remake(before, after)
        yield _change(change.address, noun, before, after, follows, remade=remade)
        follows = ("",)
        if remade:
            before = {**before, "comment": None}
    yield from attributes(noun, change.address, before, after, fresh=False, follows=follows)


def _must_remake(before: Settings, after: Settings) -> bool:
    """ALTER POLICY changes roles and conditions, but can neither drop a condition nor change the rest."""
    lost = any(before[k] is not None and after[k] is None for k in ("using", "with_check"))
    return lost or any(before[k] != after[k] for k in ("for", "permissive"))


def _change(
    address: Address, noun: Noun, before: Settings, after: Settings, follows: tuple[str, ...], *, remade: bool
) -> Draft:
    """Change a policy in one statement, so that the table is never without it."""
    statements = [
        in_one_statement([f"DROP {noun}", create_sql(noun, s)])
        if remade
        else " ".join([f"ALTER {noun} TO {_roles(s)}", *_conditions(s)])
        for s in (after, before)
    ]
    back = statements[1] if remade or not _must_remake(after, before) else None
    return Draft(
        object=address,
        action="alter",
        request=Sql(statements[0]),
        summary=f"change policy {address.name}",
        makes=(address,),
        follows=follows,
        lock="ACCESS EXCLUSIVE",
        hazards=(Hazard("security", f"policy {address.name} covers other rows or roles", needs_consent=False),),
        undo=Sql(back) if back is not None else None,
    )


def read_policies(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``policies`` of a table; ``pointer`` leads to that node."""
    for name, body in node.items():
        address, place = table.child("policy", name), (*pointer, name)
        settings = parse(FIELDS, body or {}, place, reader)
        if settings is None:
            continue
        error = _refused(settings)
        if error is not None:
            reader.fail(place, error)
            continue
        refs, former = role_refs(table.target, *settings["to"]), renamed_from(address, body or {})
        yield Record(address, settings, table, refs, origin=place, renamed_from=former)


def _refused(settings: Settings) -> FieldError | None:
    """What CREATE POLICY refuses (PostgreSQL docs, CREATE POLICY, table of policies applied)."""
    if settings["for"] == "insert" and settings["using"] is not None:
        return FieldError("a policy for insert has no using", help="Write with_check.", path=("using",))
    if settings["for"] in ("select", "delete") and settings["with_check"] is not None:
        return FieldError(
            f"a policy for {settings['for']} has no with_check", help="Write using.", path=("with_check",)
        )
    return None


KIND = PolicyKind()
decode = KIND.decode
