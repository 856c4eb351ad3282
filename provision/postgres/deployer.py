"""What the role that plans and applies may do, and the exact statements that give it what it lacks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from provision.postgres.catalog import Catalog, Query
from provision.postgres.sql import quote_ident
from provision.spec.record import Facts, Record

#: Since 16 a role changes only roles that it holds the ADMIN option of, and SET ROLE is an option of memberships.
_MEMBERSHIP_OPTIONS = 16
QUERIES = (
    Query(
        "deployer_roles",
        lambda major: (
            f"""
        SELECT r.rolname, pg_has_role(r.oid, '{"SET" if major >= _MEMBERSHIP_OPTIONS else "MEMBER"}'),
               pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
          FROM pg_roles r ORDER BY r.rolname"""
        ),
    ),
    Query(
        "deployer_extensions",
        lambda major: (
            """
        SELECT v.name FROM pg_available_extension_versions v JOIN pg_available_extensions e ON e.name = v.name
         WHERE v.version = e.default_version AND v.superuser AND NOT v.trusted AND e.installed_version IS NULL
         ORDER BY v.name"""
        ),
    ),
)


class Lack(NamedTuple):
    """One thing the role cannot do, and the statement by which somebody who may gives it to it."""

    what: str
    grant: str


def missing(
    facts: Facts, catalog: Catalog, desired: Iterable[Record], live: Iterable[Record], *, has_embedded: bool
) -> list[Lack]:
    """What the role lacks to plan and apply these records of one database. ``catalog`` holds ``QUERIES``.

    ``has_embedded`` says whether expressions can be compiled on this machine instead of on the server.
    """
    if facts.options["superuser"]:
        return []
    wanted = [r for r in desired if r.address[:2] == ("pg", facts.target)]
    role = quote_ident(facts.options["role"])
    found = list(_attributes(facts, wanted, role, has_embedded=has_embedded))
    found += _ownership(facts, catalog, wanted, live, role)
    found += _extensions(catalog, wanted)
    return found


def _attributes(facts: Facts, wanted: list[Record], role: str, *, has_embedded: bool) -> Iterator[Lack]:
    options, kinds = facts.options, {r.address.kind for r in wanted}
    if wanted and not options["create"]:
        database = quote_ident(options["database"])
        yield Lack("create schemas", f"GRANT CREATE ON DATABASE {database} TO {role}")
    if kinds & {"role", "membership"} and not options["createrole"]:
        yield Lack("manage roles", f"ALTER ROLE {role} CREATEROLE")
    if "unknown" in options["password_state"].values():
        yield Lack("see whether passwords fit", f"GRANT SELECT ON pg_catalog.pg_authid TO {role}")
    if not options["createdb"] and not has_embedded:
        yield Lack("make a scratch database", f"ALTER ROLE {role} CREATEDB")


def _ownership(
    facts: Facts, catalog: Catalog, wanted: list[Record], live: Iterable[Record], role: str
) -> Iterator[Lack]:
    """Whoever changes an object must act as its owner, whoever changes a role must hold its ADMIN option."""
    held = {name: (may_set == "t", is_admin == "t") for name, may_set, is_admin in catalog.rows("deployer_roles")}
    declared = {r.address for r in wanted}
    owned = (*wanted, *(r for r in live if r.address in declared))
    owners = {str(r.settings["owner"]) for r in owned if r.settings.get("owner") is not None}
    for owner in sorted(owners & set(held)):
        if not held[owner][0]:
            options = " WITH INHERIT TRUE, SET TRUE" if facts.version[0] >= _MEMBERSHIP_OPTIONS else ""
            yield Lack(f"act as {owner}, which owns objects", f"GRANT {quote_ident(owner)} TO {role}{options}")
    if facts.version[0] < _MEMBERSHIP_OPTIONS:
        return
    for name in sorted(a.name for a in declared if a.kind == "role" and a.name in held):
        if not held[name][1]:
            yield Lack(f"change role {name}", f"GRANT {quote_ident(name)} TO {role} WITH ADMIN OPTION")


def _extensions(catalog: Catalog, wanted: list[Record]) -> Iterator[Lack]:
    guarded = {str(row[0]) for row in catalog.rows("deployer_extensions")}
    for name in (r.address.name for r in wanted if r.address.kind == "extension"):
        if name in guarded:
            yield Lack(f"install extension {name}, which is not trusted", f"CREATE EXTENSION {quote_ident(name)}")
