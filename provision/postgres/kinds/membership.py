"""Memberships: a role in a group, with what it may do there. Children of the member's role."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Query
from provision.postgres.kinds.ownership import role_address, role_refs
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

#: Memberships have options of their own since 16; before, the role's INHERIT decides and SET ROLE is free.
_OPTIONS_SINCE = (16,)
FIELDS = FieldTable(
    Field("admin", fields.BOOL, "May give the membership to others.", default=False),
    Field(
        "inherit",
        fields.BOOL,
        "Has the group's rights unasked; by default as the role itself.",
        since=_OPTIONS_SINCE,
    ),
    Field("set", fields.BOOL, "May SET ROLE to the group.", default=True, since=_OPTIONS_SINCE),
)
_ONE = FIELDS.schema()
_ONE["properties"] = {"role": {"type": "string", "description": "The group."}, **_ONE["properties"]}
_ONE["required"] = ["role"]
#: ``member_of`` of a role.
MEMBER_OF: fields.Json = {"type": "array", "items": {"anyOf": [{"type": "string"}, _ONE]}}
#: Memberships come with the query of roles.
QUERIES: tuple[Query, ...] = ()


class MembershipKind(PlainKind):
    name = "membership"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for row in catalog.rows("roles"):
            role = role_address(catalog.target, str(row[0]))
            for found in json.loads(row[12]) if row[12] else ():
                settings = {"admin": found["admin"], "inherit": found["inherit"], "set": found["set"]}
                refs = role_refs(catalog.target, found["group"])
                yield Record(role.child("membership", found["group"]), settings, role, refs)

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Servers before 16 keep no such options: they are as declared."""
        if desired is None or live is None or facts.version >= _OPTIONS_SINCE:
            return desired, live
        same = {k: desired.settings[k] for k in ("inherit", "set")}
        return desired, live._replace(settings={**live.settings, **same})

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        """Follow the rename of the group, which is the last part of the address."""
        if old.kind != "role" or record.address.name != old.name:
            return record
        address = record.address
        return record._replace(address=address._replace(path=(*address.path[:-1], new.path[-1])))

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after = change.address, change.after
        modern = context.facts(address).version >= _OPTIONS_SINCE
        before = change.before.settings if change.before is not None else None
        if after is None:
            assert before is not None
            return Lowered((_revoke(address, before, modern),), (address,))
        return Lowered((_grant(change, before, after.settings, modern),), (address,))


def _names(address: Address) -> tuple[str, str]:
    """The group and its member, quoted."""
    return sql.quote_ident(address.name), sql.quote_ident(address.names[1])


def grant_sql(address: Address, settings: Settings, before: Settings | None, *, modern: bool) -> str:
    group, member = _names(address)
    if not modern:
        if before is not None and before["admin"] and not settings["admin"]:
            return f"REVOKE ADMIN OPTION FOR {group} FROM {member}"
        return f"GRANT {group} TO {member}" + (" WITH ADMIN OPTION" if settings["admin"] else "")
    options = ", ".join(f"{k.upper()} {str(bool(settings[k])).upper()}" for k in ("admin", "inherit", "set"))
    return f"GRANT {group} TO {member} WITH {options}"


def _grant(change: Change, before: Settings | None, after: Settings, modern: bool) -> Draft:
    address = change.address
    group, member = _names(address)
    back = f"REVOKE {group} FROM {member}"
    return Draft(
        object=address,
        action="grant",
        request=Sql(grant_sql(address, after, before, modern=modern)),
        summary=f"make {address.names[1]} a member of {address.name}",
        makes=(address,),
        fresh=before is None,
        undo=Sql(back if before is None else grant_sql(address, before, after, modern=modern)),
    )


def _revoke(address: Address, before: Settings, modern: bool) -> Draft:
    group, member = _names(address)
    detail = f"{address.names[1]} loses the rights of {address.name}"
    return Draft(
        object=address,
        action="revoke",
        request=Sql(f"REVOKE {group} FROM {member}"),
        summary=f"take {address.names[1]} out of {address.name}",
        destroys=(address,),
        hazards=(Hazard("security", detail, needs_consent=False),),
        undo=Sql(grant_sql(address, before, None, modern=modern)),
    )


def read_memberships(
    role: Address, node: list[Any], inherit: bool, pointer: Pointer, reader: Reader
) -> Iterator[Record]:
    """Read ``member_of``; ``inherit`` is the role's own attribute, the default of its memberships."""
    seen: set[str] = set()
    for position, item in enumerate(node):
        body = {"role": item} if isinstance(item, str) else item
        group = body["role"]
        if group in seen or group == role.name:
            what = "itself" if group == role.name else f"{group} twice"
            reader.fail((*pointer, position), FieldError(f"{role.name} is a member of {what}"))
            continue
        seen.add(group)
        settings = FIELDS.parse(body)
        if settings["inherit"] is None:
            settings["inherit"] = inherit
        refs = role_refs(role.target, group)
        yield Record(role.child("membership", group), settings, role, refs, origin=(*pointer, position))


KIND = MembershipKind()
decode = KIND.decode
