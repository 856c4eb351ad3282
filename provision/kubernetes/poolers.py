"""PgBouncer before a target on Kubernetes: one Pooler of CloudNativePG for each pool that asks for it. Pure.

PgBouncer gives every pair of database and role the same size, and a Pooler has no more than one pool's settings. So
pools keep the sizes they declare only with a Pooler each; they differ in mode and time-outs as well.
"""

from __future__ import annotations

import re
from typing import Any

from provision.kubernetes.objects import (
    Manifest,
    Opening,
    Place,
    clients,
    disruption_budget,
    name_of,
    network_policy,
    options,
    place,
    resources,
)
from provision.kubernetes.postgres import API_VERSION, PORT
from provision.kubernetes.postgres_settings import Service, pooled, pooler_name, pooler_size
from provision.pools import pgbouncer
from provision.spec.fields import Json
from provision.spec.record import Plane, Record
from provision.spec.target import Target

#: The PgBouncer that CloudNativePG 1.30 takes where no image is named; one that does not know a setting fails to start.
_VERSION = (1, 25)
_TAG = re.compile(r":(\d+)\.(\d+)")
_METRICS_PORT = 9127
#: What pgbouncer.py renders and a Pooler takes. It sets the rest itself, and refuses it in a manifest.
_SHARED = (
    "max_client_conn",
    "query_wait_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "server_check_delay",
    "idle_transaction_timeout",
    "max_prepared_statements",
)


class PoolerPods(Place):
    """The pods of the Pooler that is named; the operator makes and labels them."""

    __slots__ = ()

    @property
    def selector(self) -> dict[str, str]:
        return {"cnpg.io/poolerName": self.name}

    @property
    def labels(self) -> dict[str, str]:
        return Place(*self).labels


def manifests(plane: Plane, target: Target) -> tuple[Manifest, ...]:
    """Give the Poolers of one target, and what keeps each alive and closed to strangers."""
    found: list[Manifest] = []
    for pool, word in pooled(plane, target):
        where = PoolerPods(*place(plane, target, "pgbouncer")._replace(name=pooler_name(target, pool)))
        found.append(_pooler(target, where, pool, word))
        inward = (Opening(PORT, clients(target)), Opening(_METRICS_PORT, clients(target, "monitoring")))
        found.append(network_policy(where, inward))
        if options(target)["poolers"]["instances"] > 1:
            found.append(disruption_budget(where))
    return tuple(found)


def hosts(plane: Plane, target: Target) -> dict[str, str]:
    """Give the host that the clients of each pooled pool connect to. Behind it databases have their own names."""
    namespace = options(target)["namespace"]
    return {
        pool.address.name: f"{pooler_name(target, pool)}.{namespace}.svc.cluster.local"
        for pool, _ in pooled(plane, target)
    }


def parameters(target: Target, pool: Record) -> dict[str, str]:
    """Give the settings of each PgBouncer of a pool. Together they open no more connections than the pool has.

    Each takes all of the pool's clients, for the others may be gone.
    """
    instances: int = options(target)["poolers"]["instances"]
    size = pooler_size(target, pool)
    found = {
        "default_pool_size": str(size),
        "min_pool_size": str(min(pool.settings["min"] // instances, size)),
        "reserve_pool_size": "0",
        "max_db_connections": str(size),
        "client_tls_sslmode": "require",
        **_shared(pool, _version(options(target)["poolers"]["image"])),
    }
    return dict(sorted(found.items()))


def _version(image: str | None) -> tuple[int, ...]:
    tag = _TAG.search(image or "")
    return tuple(map(int, tag.groups())) if tag else _VERSION


def _shared(pool: Record, version: tuple[int, ...]) -> dict[str, str]:
    """What a PgBouncer of our own would be told for the same pool."""
    return {key: value for key, value in pgbouncer.shared([pool], version).items() if key in _SHARED}


def _pooler(target: Target, where: Place, pool: Record, word: Service) -> Manifest:
    given: dict[str, Any] = options(target)["poolers"]
    container: Json = {"name": "pgbouncer", "resources": resources(given["cpu"], given["memory"])}
    pod: Json = {
        "containers": [container] if container["resources"] else [],
        "topologySpreadConstraints": _spread(where, options(target)["topology_key"]),
    }
    if names := options(target)["pull_secrets"]:
        pod["imagePullSecrets"] = [{"name": name} for name in names]
    bouncer: Json = {"poolMode": pool.settings["mode"], "parameters": parameters(target, pool)}
    if given["image"]:
        bouncer["image"] = given["image"]
    return {
        "apiVersion": API_VERSION,
        "kind": "Pooler",
        "metadata": where.metadata(),
        "spec": {
            "cluster": {"name": name_of(target)},
            "instances": given["instances"],
            "type": word,
            "pgbouncer": bouncer,
            "template": {"metadata": {"labels": where.selector}, "spec": pod},
        },
    }


def _spread(where: Place, topology_key: str) -> list[Json]:
    """Spread the pods where that can be. They keep nothing, so one beside another is better than one that waits."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": where.selector},
        }
        for key in dict.fromkeys(("kubernetes.io/hostname", topology_key))
    ]
