"""Which live records make up the plane that is imported, and which are somebody else's or nobody's. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.reconcile.world import World
from provision.spec.ident import Address
from provision.spec.record import Plane, Record

#: What every database has: its schema ``public`` is written only if something of the plane lives in it.
_PUBLIC = "public"
_BUILT_IN_EXTENSION = "plpgsql"


class Choice(NamedTuple):
    """The plane to write, and what was left out of it, one sentence each."""

    plane: Plane
    left_out: tuple[str, ...]


def select(world: World, schemas: Collection[str], streams: Collection[str], *, is_whole: bool = False) -> Choice:
    """Choose from everything that was seen: the named schemas and streams, and the roles that these need.

    ``is_whole`` takes the other roles too.
    """
    left_out: list[str] = []
    placed = [r for r in world.live if r.address.kind not in ("contract", "role", "membership")]
    chosen = [r for r in placed if _is_named(r, schemas, streams) and str(r.address) not in _unasked(world)]
    chosen = [r for r in chosen if not _is_foreign(r.address, world, left_out)]
    chosen = list(_without_bare_public(chosen))
    chosen = [r for r in chosen if r.address.system != "plane" or _has_target(r, world)]
    chosen = [_completed(r, world) for r in chosen]
    roles = _roles(chosen, world, left_out, is_whole=is_whole)
    records = [r for r in world.live if r.address in roles or (r.parent in roles and r.address.kind == "membership")]
    groups = [_completed(r, world) for r in records if r.address.kind == "role" or _stays(r, world)]
    left_out += [
        f"{role.address}: its password; to manage it, write password: {{env: NAME}}"
        for role in groups
        if role.settings.get("login") and role.settings["password"] is None
    ]
    return Choice(Plane([*groups, *chosen], name=world.plane, env=world.env), tuple(left_out))


def _is_named(record: Record, schemas: Collection[str], streams: Collection[str]) -> bool:
    address = record.address
    if address.system == "nats":
        return not streams or address.names[1] in streams
    if address.system == "pg" and schemas:
        return address.kind != "extension" and address.path[0] != "database" and address.names[0] in schemas
    return True


def _unasked(world: World) -> set[str]:
    """The language that every database comes with, unless the plane owns it."""
    every = {str(Address.root("pg", target, "extension", _BUILT_IN_EXTENSION)) for target in world.snapshots}
    return every - set(world.owned)


def _is_foreign(address: Address, world: World, left_out: list[str]) -> bool:
    for known, plane in world.foreign.items():
        if address.within(known):
            if address == known:
                left_out.append(f"{address}: belongs to plane {plane}")
            return True
    return False


def _without_bare_public(records: list[Record]) -> Iterator[Record]:
    """Drop every schema ``public`` that holds nothing but the privileges it came with."""
    full = {r.parent for r in records if r.parent is not None and r.address.kind != "grant"}
    for record in records:
        address = record.address
        schema = address if address.kind == "schema" else record.parent
        is_public = schema is not None and schema.kind == "schema" and schema.name == _PUBLIC
        if not (is_public and schema not in full and address.kind in ("schema", "grant")):
            yield record


def _has_target(record: Record, world: World) -> bool:
    """Whether the servers of a declared object were looked at: a pool's database, a publisher's NATS."""
    kind, target = record.address.kind, record.address.target
    system = {"pool": "pg", "publisher": "nats"}.get(kind)
    return system is None or (system, target) in world.facts


def _completed(record: Record, world: World) -> Record:
    """Add what only the contract knows, take away what the session itself owns."""
    kind, name, settings = record.address.kind, record.address.name, dict(record.settings)
    stored: Mapping[str, Any] = world.stored or {}
    if kind == "bucket":
        known = stored.get("buckets", {}).get(name, {})
        settings["journal"] = known.get("journal") if known.get("target") == record.address.target else None
    elif kind == "role":
        known = stored.get("roles", {}).get(name, {})
        settings["password"] = known.get("password") if known.get("target") == record.address.target else None
    elif kind == "extension":
        # The version is the server's business and the comment the extension's, unless somebody says otherwise.
        settings |= {"version": None, "comment": None}
        settings["schema"] = None if settings["schema"] == _PUBLIC else settings["schema"]
    elif settings.get("owner") is not None and settings["owner"] == _own_role(record.address.target, world):
        settings["owner"] = None
    elif kind == "schema" and name == _PUBLIC:
        settings |= {"owner": None, "comment": None}
    return record._replace(settings=settings)


def _own_role(target: str, world: World) -> str:
    """The role of the session, which owns what it makes: nobody writes that down."""
    return str(world.snapshots[target].facts.options["role"])


def _roles(chosen: Iterable[Record], world: World, left_out: list[str], *, is_whole: bool) -> set[Address]:
    """The roles that the plane owns or refers to, with the groups of each and the members of those groups."""
    every = {r.address: r for r in world.live.of_kind("role")}
    wanted = {a for a in every if str(a) in world.owned or (is_whole and not _is_session(a, every, world))}
    wanted |= {a for r in chosen for a in _mentioned(r, world) if a in every}
    members = [(r.parent, r.refs[0]) for r in world.live.of_kind("membership") if r.parent is not None and r.refs]
    while True:
        groups = {group for role, group in members if role in wanted}
        below = {role for role, group in members if group in wanted and role is not None}
        more = {a for a in groups | below if a in every and not _is_session(a, every, world)} - wanted
        if not more:
            break
        wanted |= more
    others = (a for a in every if a not in wanted and not _is_session(a, every, world))
    left_out += [f"{address}: nothing that was imported mentions this role" for address in others]
    return wanted


def _mentioned(record: Record, world: World) -> Iterator[Address]:
    """The roles that the record's spec will name: all it refers to, but for the session's own as an owner."""
    for ref in record.refs:
        is_session = ref.kind == "role" and ref.name == _own_role(ref.target, world)
        if ref.kind == "role" and not (is_session and "owner" in record.settings):
            yield ref


def _is_session(address: Address, every: Mapping[Address, Record], world: World) -> bool:
    return every[address].settings["superuser"] or address.name == _own_role(address.target, world)


def _stays(membership: Record, world: World) -> bool:
    """CREATEROLE gives its holder membership of every role it makes (PostgreSQL 16): no part of a plane."""
    assert membership.parent is not None
    return membership.parent.name != _own_role(membership.address.target, world)
