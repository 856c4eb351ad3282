"""Roles: the section ``roles`` and the kind ``role``. They belong to the whole server, not to one database.

A password is never part of a record: the setting is a reference, and the server gets a SCRAM verifier.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Query
from provision.postgres.kinds import guc
from provision.postgres.kinds.membership import MEMBER_OF, read_memberships
from provision.postgres.kinds.ownership import (
    COMMENT,
    RENAMED_FROM,
    TARGET,
    Noun,
    attributes,
    parse,
    rename,
    renamed_from,
    role_address,
)
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Record, Settings


def utc_time(text: str) -> str:
    """One spelling of a moment: UTC, no empty fraction. Raises FieldError."""
    try:
        moment = datetime.fromisoformat(text.replace(" ", "T")).astimezone(UTC)
    except ValueError as error:
        raise FieldError(f"not a time: {text!r}", help="Write 2030-01-31T00:00:00Z.") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{moment:%f}".rstrip("0").rstrip(".")) + "Z"


_TIME = fields.Type(fields.TIME.schema, utc_time)
FIELDS = FieldTable(
    Field("login", fields.BOOL, "May open a session.", default=False, note="LOGIN"),
    Field("password", fields.SECRET, "Reference to the password; without it, not managed."),
    Field("superuser", fields.BOOL, "Passes every check.", default=False, note="SUPERUSER"),
    Field("createdb", fields.BOOL, "May create databases.", default=False, note="CREATEDB"),
    Field("createrole", fields.BOOL, "May create and change roles.", default=False, note="CREATEROLE"),
    Field("inherit", fields.BOOL, "Uses the rights of its groups unasked.", default=True, note="INHERIT"),
    Field("replication", fields.BOOL, "May stream the log.", default=False, note="REPLICATION"),
    Field("bypassrls", fields.BOOL, "Ignores row-level security.", default=False, note="BYPASSRLS"),
    Field("connection_limit", fields.integer(-1), "Concurrent sessions; -1 is no limit.", default=-1),
    Field("valid_until", _TIME, "When the password stops working; without it, never."),
    Field("settings", guc.SETTINGS, "Server settings of its sessions (ALTER ROLE … SET).", default={}),
    COMMENT,
    extra=RENAMED_FROM | TARGET | {"member_of": MEMBER_OF},
)
_FLAGS: Mapping[str, str] = {f.name: f.note for f in FIELDS if f.note}
#: Attributes that let a role pass by what others declare.
_POWERS = ("superuser", "createrole", "bypassrls", "replication")


def _query(major: int) -> str:
    inherit, set_role = "r.rolinherit", "true"
    if major >= 16:
        inherit, set_role = "bool_or(m.inherit_option)", "bool_or(m.set_option)"
    return f"""
        SELECT r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolreplication,
               r.rolbypassrls, r.rolconnlimit,
               CASE WHEN isfinite(r.rolvaliduntil)
                    THEN to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
               to_json(r.rolconfig), shobj_description(r.oid, 'pg_authid'),
               (SELECT json_agg(json_build_object('group', g.rolname, 'admin', x.a, 'inherit', x.i, 'set', x.s)
                                ORDER BY g.rolname)
                  FROM (SELECT m.roleid, bool_or(m.admin_option), {inherit}, {set_role}
                          FROM pg_auth_members m WHERE m.member = r.oid GROUP BY m.roleid) x(roleid, a, i, s)
                  JOIN pg_roles g ON g.oid = x.roleid)
          FROM pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY r.rolname"""


QUERIES = (Query("roles", _query),)


class RoleKind(PlainKind):
    name = "role"
    system = "pg"
    fields = FIELDS
    spec_only = frozenset({"password"})
    expressions: tuple[str, ...] = ()
    takes_children = True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for name, *flags, limit, until, config, comment, _ in catalog.rows("roles"):
            settings = {
                "login": flags[0] == "t",
                "password": None,
                **{k: v == "t" for k, v in zip(list(_FLAGS)[1:], flags[1:], strict=True)},
                "connection_limit": int(str(limit)),
                "valid_until": utc_time(until) if until is not None else None,
                "settings": guc.read_config(json.loads(config) if config else None),
                "comment": comment,
            }
            yield Record(role_address(catalog.target, str(name)), settings)

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """A password that fits, or that nobody may look at, counts as the declared one."""
        if desired is None or live is None or desired.settings["password"] is None:
            return desired, live
        former = desired.renamed_from.name if desired.renamed_from is not None else ""
        states = facts.options.get("password_state", {})
        state = states.get(desired.address.name, states.get(former, "unknown"))
        if state == "differs":
            return desired, live
        return desired, live._replace(settings={**live.settings, "password": desired.settings["password"]})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        noun = Noun("ROLE", sql.quote_ident(address.name))
        if after is None:
            return Lowered((_drop(address, noun),), (address, *_memberships(address, context)))
        if before is None:
            drafts = [_create(address, noun, after.settings)]
            drafts += _set(address, noun, {}, after.settings["settings"], fresh=True, follows=("",))
            drafts += attributes(noun, address, None, after.settings, fresh=True, follows=("",))
            return Lowered(tuple(drafts), (address,))
        return Lowered(tuple(_alter(change, noun, before.settings, after.settings)), (address,))


def _memberships(address: Address, context: Context) -> tuple[Address, ...]:
    found = (m.address for m in context.live.children(address, "membership"))
    return tuple(a for a in found if a in context.changes and context.changes[a].after is None)


def _create(address: Address, noun: Noun, settings: Settings) -> Draft:
    unasked = {name: FIELDS[name].default for name in settings}
    words = [_options(settings, unasked)] if _options(settings, unasked) else []
    secrets = None
    if settings["password"] is not None:
        words.append("PASSWORD '{{verifier}}'")
        secrets = {"verifier": settings["password"]}
    return Draft(
        object=address,
        action="create",
        request=Sql(" ".join([f"CREATE {noun}", *(["WITH"] if words else []), *words]), secrets),
        summary=f"create role {address.name}",
        makes=(address,),
        hazards=_powers({}, settings),
        fresh=True,
        undo=Sql(f"DROP {noun}"),
    )


def _drop(address: Address, noun: Noun) -> Draft:
    detail = f"{address.name} can no longer log in or be granted anything; refused while it owns objects"
    return Draft(
        object=address,
        action="drop",
        request=Sql(f"DROP {noun}"),
        summary=f"drop role {address.name}",
        destroys=(address,),
        hazards=(Hazard("security", detail, needs_consent=False),),
    )


def _limits(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    if new["connection_limit"] != old["connection_limit"]:
        yield f"CONNECTION LIMIT {new['connection_limit']}"
    if new["valid_until"] != old["valid_until"]:
        yield f"VALID UNTIL {sql.quote_literal(new['valid_until'] or 'infinity')}"


def _options(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    flags = [word if new[flag] else f"NO{word}" for flag, word in _FLAGS.items() if new[flag] != old[flag]]
    return " ".join([*flags, *_limits(new, old)])


def _alter(change: Change, noun: Noun, before: Settings, after: Settings) -> Iterator[Draft]:
    address = change.address
    follows: tuple[str, ...] = ()
    if change.action == "rename" and change.before is not None:
        yield rename(noun, change.before.address, address)
        follows = ("rename",)
    options = _options(after, before)
    if options:
        yield Draft(
            object=address,
            action="alter",
            request=Sql(f"ALTER {noun} WITH {options}"),
            summary=f"role {address.name}: {options.lower()}",
            follows=follows,
            hazards=_powers(before, after),
            undo=Sql(f"ALTER {noun} WITH {_options(before, after)}"),
        )
    if after["password"] is not None and after["password"] != before["password"]:
        yield Draft(
            object=address,
            action="rotate",
            key="password",
            request=Sql(f"ALTER {noun} WITH PASSWORD '{{{{verifier}}}}'", {"verifier": after["password"]}),
            summary=f"rotate the password of {address.name}",
            follows=follows,
        )
    yield from _set(address, noun, before["settings"], after["settings"], fresh=False, follows=follows)
    yield from attributes(noun, address, before, after, fresh=False, follows=follows)


def _set(
    address: Address,
    noun: Noun,
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    fresh: bool,
    follows: tuple[str, ...],
) -> Iterator[Draft]:
    for name in dict.fromkeys((*new, *old)):
        if new.get(name) == old.get(name):
            continue
        yield Draft(
            object=address,
            action="create" if fresh else "alter",
            key=f"set {name}",
            request=Sql(_setting(noun, name, new.get(name))),
            summary=f"role {address.name}: {name} {new.get(name, 'reset')}",
            follows=follows,
            fresh=fresh,
            undo=Sql(_setting(noun, name, old.get(name))),
        )


def _setting(noun: Noun, name: str, value: str | None) -> str:
    if value is None:
        return f"ALTER {noun} RESET {guc.shown_name(name)}"
    return f"ALTER {noun} SET {guc.assignment(name, value)}"


def _powers(before: Mapping[str, Any], after: Settings) -> tuple[Hazard, ...]:
    gained = [p for p in _POWERS if after[p] and not before.get(p)]
    if not gained:
        return ()
    return (Hazard("security", f"the role gains {', '.join(gained)}", needs_consent=False),)


class RoleSection:
    """``roles``: names to attributes, settings and memberships."""

    name = "roles"

    def schema(self) -> Mapping[str, Any]:
        names = {
            "pattern": r"^(?!pg_|public$|none$)[^\x00]{1,63}$",
            "description": "A name has 1 to 63 characters; pg_…, public and none are taken.",
        }
        one = {"anyOf": [FIELDS.schema(), {"type": "null"}]}
        return {"type": "object", "additionalProperties": one, "propertyNames": names}

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            found, pointer = body or {}, ("roles", name)
            settings = parse(FIELDS, found, pointer, reader)
            if settings is None:
                continue
            address = role_address(found.get("target") or "main", name)
            yield Record(address, settings, origin=pointer, renamed_from=renamed_from(address, found))
            members = found.get("member_of") or []
            yield from read_memberships(address, members, settings["inherit"], (*pointer, "member_of"), reader)


KIND = RoleKind()
SECTION = RoleSection()
decode = KIND.decode
