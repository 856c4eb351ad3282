"""What all pools together may take of a server and of a role. Pure; the checks call it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from provision.spec.record import Record

#: ``superuser_reserved_connections`` of a default server (PostgreSQL docs, Connections and Authentication).
RESERVED = 3


class Demand(NamedTuple):
    """The most server connections that one pool can open."""

    pool: Record
    connections: int


class Excess(NamedTuple):
    """A limit that its pools together can break. ``of`` names the server or the role."""

    of: str
    limit: int
    demands: tuple[Demand, ...]

    @property
    def total(self) -> int:
        return sum(d.connections for d in self.demands)


def demand(pool: Record) -> Demand:
    """Give a pool's demand: each client process opens ``max``; behind PgBouncer they share one ``max``."""
    settings = pool.settings
    processes = 1 if settings["pgbouncer"] else settings["processes"]
    return Demand(pool, settings["max"] * processes)


def host(pool: Record, endpoints: Mapping[str, Any]) -> Hashable:
    """What identifies the server behind a pool's endpoint.

    ``endpoints`` maps the endpoints of the pool's target to an address or a secret reference. An endpoint
    that the target does not name, as with embedded servers, is the target's own server.
    """
    found = endpoints.get(pool.settings["endpoint"], endpoints.get("primary"))
    identity = tuple(sorted(found.items())) if isinstance(found, Mapping) else found
    return pool.address.target, identity


def over_server(
    pools: Iterable[Record], endpoints: Mapping[str, Any], max_connections: int, reserved: int = RESERVED
) -> list[Excess]:
    """Give the servers of one target whose pools can open more connections than a server takes."""
    hosts: dict[Hashable, list[Demand]] = defaultdict(list)
    for pool in pools:
        hosts[host(pool, endpoints)].append(demand(pool))
    limit = max_connections - reserved
    found = (Excess(_endpoints(demands), limit, tuple(demands)) for demands in hosts.values())
    return [excess for excess in found if excess.total > limit]


def over_role(pools: Iterable[Record], roles: Mapping[str, Record]) -> list[Excess]:
    """Give the roles whose pools can open more connections than ``connection_limit`` allows (-1 is no limit).

    ``roles`` are the records of one target by name; the limit counts for each server, and a role that is
    used on several endpoints is judged by their sum.
    """
    by_role: dict[str, list[Demand]] = defaultdict(list)
    for pool in pools:
        by_role[pool.settings["role"]].append(demand(pool))
    found = []
    for name, demands in by_role.items():
        role = roles.get(name)
        limit = -1 if role is None else role.settings["connection_limit"]
        excess = Excess(name, limit, tuple(demands))
        if 0 <= limit < excess.total:
            found.append(excess)
    return found


def _endpoints(demands: Iterable[Demand]) -> str:
    return ", ".join(dict.fromkeys(d.pool.settings["endpoint"] for d in demands))
