"""A PostgreSQL target on Kubernetes: CloudNativePG's Cluster, Databases and ScheduledBackup, and who may connect. Pure.

Who owns what is in docs/decisions/0004-kubernetes-owners.md. Facts: CloudNativePG 1.30 documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from provision.kubernetes.objects import (
    HOLDFAST,
    Manifest,
    Opening,
    Place,
    clients,
    name_of,
    network_policy,
    options,
    place,
    quantity,
    resources,
    spread,
)
from provision.kubernetes.postgres_settings import label, parameters, pooled, pooler_name, pools
from provision.postgres import sql
from provision.spec.fields import Json
from provision.spec.record import Plane, Settings
from provision.spec.target import Target

API_VERSION = "postgresql.cnpg.io/v1"
PORT = 5432
#: Ports of an instance: the operator reads its status, a scraper its metrics.
_STATUS_PORT, _METRICS_PORT = 8000, 9187
#: Pods of the operator, in whatever namespace it was installed.
_OPERATOR: Json = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "cloudnative-pg"}},
}
#: Where a target names none.
_DEPLOYER, _DATABASE, _STORAGE = "holdfast", "app", 10 * 2**30
#: Attributes that a role can only give to others if it has them (PostgreSQL 16).
_GIVEN_ON = ("bypassrls", "replication")


class Instances(Place):
    """The servers' pods. The operator makes and labels them."""

    __slots__ = ()

    @property
    def selector(self) -> dict[str, str]:
        return {"cnpg.io/cluster": self.name, "cnpg.io/podRole": "instance"}

    @property
    def labels(self) -> dict[str, str]:
        return Place(*self).labels


class Deployer(NamedTuple):
    """The role that holdfast works as, and the Secret with its ``username`` and ``password``."""

    name: str
    secret: str
    #: Whether the operator makes the Secret, as it does for the owner of the first database.
    is_generated: bool


def deployer(target: Target) -> Deployer:
    """Say who plans and applies."""
    given = options(target)["deployer"]
    if given is None:
        return Deployer(_DEPLOYER, f"{name_of(target)}-app", is_generated=True)
    return Deployer(given["name"], given["secret"], is_generated=False)


def endpoints(target: Target) -> dict[str, str]:
    """Give the hosts of the cluster's Services: ``primary`` takes writes, ``replica`` is one of the others."""
    cluster, namespace = name_of(target), options(target)["namespace"]
    words = {"primary": "rw", "replica": "ro"}
    return {name: f"{cluster}-{word}.{namespace}.svc.cluster.local" for name, word in words.items()}


def manifests(plane: Plane, target: Target) -> tuple[Manifest, ...]:
    """Give the objects of one target; its Poolers and Jobs are made elsewhere. No Secret is among them."""
    where = Instances(*place(plane, target, "postgres"))
    return (
        _cluster(plane, target, where),
        *_databases(plane, target, where),
        *_backup(target, where),
        _policy(target, where),
    )


def _cluster(plane: Plane, target: Target, where: Place) -> Manifest:
    given = options(target)
    apart = spread(where, given["topology_key"])
    spec: Json = {
        "instances": given["instances"],
        "imageName": given["image"],
        "imagePullSecrets": [{"name": name} for name in given["pull_secrets"]],
        "storage": _volume(given["storage"] or _STORAGE, given),
        "walStorage": _volume(given["wal_storage"], given) if given["wal_storage"] else None,
        "resources": resources(given["cpu"], given["memory"]),
        "affinity": {
            "enablePodAntiAffinity": True,
            "podAntiAffinityType": "required",
            "topologyKey": "kubernetes.io/hostname",
        },
        "topologySpreadConstraints": apart.get("topologySpreadConstraints"),
        "primaryUpdateStrategy": "unsupervised",
        "enableSuperuserAccess": given["superuser_secret"] is not None,
        "superuserSecret": {"name": given["superuser_secret"]} if given["superuser_secret"] else None,
        "certificates": _certificates(plane, target),
        "bootstrap": {"initdb": _initdb(plane, target)},
        "managed": {"roles": [_deployer_role(plane, target)]},
        "postgresql": {
            # The operator's own rules come first, its rule for passwords last.
            "pg_hba": ["hostnossl all all all reject"],
            "synchronous": _synchronous(given["instances"]),
            "parameters": parameters(plane, target),
        },
        **_archive(given["backup"]),
    }
    spec["postgresql"] = _said(spec["postgresql"])
    return {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": where.metadata(), "spec": _said(spec)}


def _said(spec: Json) -> Json:
    """Leave out what is not said."""
    return {key: value for key, value in spec.items() if value not in (None, {}, [])}


def _volume(size: int, given: Mapping[str, Any]) -> Json:
    return _said({"size": quantity(size), "storageClass": given["storage_class"]})


def _synchronous(instances: int) -> Json | None:
    """Make a commit wait for one replica, so that no failover loses it.

    Of two servers one must be able to go on alone. From three on it waits whatever happens, and a replica is
    promoted only where it is known to hold everything.
    """
    if instances < 2:
        return None
    one: Json = {"method": "any", "number": 1}
    return one | ({"dataDurability": "preferred"} if instances == 2 else {"failoverQuorum": True})


def _certificates(plane: Plane, target: Target) -> Json:
    """Let the server's certificate stand for the Poolers too: they show the same one."""
    namespace = options(target)["namespace"]
    names = [pooler_name(target, pool) for pool, _ in pooled(plane, target)]
    domains = ("", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
    return _said({"serverAltDNSNames": [name + domain for name in names for domain in domains]})


def _initdb(plane: Plane, target: Target) -> Json:
    """Say how the first database is made. It runs once, as superuser; what changes later is managed elsewhere."""
    role = deployer(target)
    return _said(
        {
            "database": _database(target),
            "owner": role.name,
            "secret": None if role.is_generated else {"name": role.secret},
            "dataChecksums": True,
            "encoding": "UTF8",
            "postInitApplicationSQL": list(_grants(plane, target)),
        }
    )


def _grants(plane: Plane, target: Target) -> Iterator[str]:
    """What only a superuser can give to the deployer: docs/how-to/least-privilege.md."""
    role = sql.quote_ident(deployer(target).name)
    yield f"GRANT SELECT ON pg_catalog.pg_authid TO {role}"
    for group in _server_groups(plane, target):
        yield f"GRANT {sql.quote_ident(group)} TO {role} WITH ADMIN OPTION"
    if any(r.settings.get("owner") for r in plane if r.address[:2] == ("pg", target.name)):
        setting = f"ALTER ROLE {role} SET createrole_self_grant = 'set, inherit'"
        version = "pg_catalog.current_setting('server_version_num')::int"
        yield f"DO $$BEGIN IF {version} >= 160000 THEN {setting}; END IF; END$$"


def _server_groups(plane: Plane, target: Target) -> list[str]:
    """The predefined roles that declared roles are members of."""
    found = (r.address for r in plane.of_kind("membership") if r.address.target == target.name)
    return sorted({address.name for address in found if address.name.startswith("pg_")})


def _deployer_role(plane: Plane, target: Target) -> Json:
    role = deployer(target)
    declared = [r.settings for r in plane.of_kind("role") if r.address.target == target.name]
    return _said(
        {
            "name": role.name,
            "comment": "Plans and applies the plane",
            "ensure": "present",
            "login": True,
            "createrole": True,
            # For the scratch database in which expressions are compiled.
            "createdb": True,
            **{word: True for word in _GIVEN_ON if any(settings[word] for settings in declared)},
            "inRoles": _server_groups(plane, target),
            "passwordSecret": None if role.is_generated else {"name": role.secret},
        }
    )


def _database(target: Target) -> str:
    return str(target.settings["database"] or _DATABASE)


def _databases(plane: Plane, target: Target, where: Place) -> Iterator[Manifest]:
    """The plane's database with its extensions, and those that pools name themselves."""
    named = [pool.settings["database"] for pool, _ in pools(plane, target)]
    for database in dict.fromkeys([_database(target), *filter(None, named)]):
        spec: Json = {
            "cluster": {"name": where.name},
            "name": database,
            "owner": deployer(target).name,
            "databaseReclaimPolicy": "retain",
        }
        if database == _database(target):
            spec |= _extensions(plane, target)
        metadata = {**where.metadata(), "name": label(where.name, database)}
        yield {"apiVersion": API_VERSION, "kind": "Database", "metadata": metadata, "spec": spec}


def _extensions(plane: Plane, target: Target) -> Json:
    """Extensions as declared, with the schemas they go to: the operator cannot wait for ours to be made.

    A schema that has another owner is left to apply, and the extension comes after it.
    """
    extensions = [r for r in plane.of_kind("extension") if r.address.target == target.name]
    wanted = dict.fromkeys(r.settings["schema"] for r in extensions)
    owners = {r.address.name: r.settings["owner"] for r in plane.of_kind("schema") if r.address.target == target.name}
    role = deployer(target).name
    schemas = [name for name in wanted if name and name in owners and owners[name] in (None, role)]
    found = [{"name": r.address.name, "ensure": "present", **_extension(r.settings)} for r in extensions]
    return _said({"schemas": [{"name": name, "owner": role} for name in schemas], "extensions": found})


def _extension(settings: Settings) -> Json:
    return _said({"version": settings["version"], "schema": settings["schema"]})


def _archive(backup: Settings | None) -> Json:
    """Archive the write-ahead log through the plugin; of snapshots alone only those of a stopped replica are whole."""
    if backup is None:
        return {}
    found: Json = {}
    is_archived = backup["method"] == "plugin" or bool(backup["parameters"])
    if is_archived:
        plugin = {"name": backup["plugin"], "isWALArchiver": True, "parameters": backup["parameters"]}
        found["plugins"] = [_said(plugin)]
    if backup["method"] == "volumeSnapshot":
        snapshot = {"className": backup["snapshot_class"], "online": is_archived, "snapshotOwnerReference": "none"}
        found["backup"] = {"volumeSnapshot": _said(snapshot)}
    return found


def _backup(target: Target, where: Place) -> Iterator[Manifest]:
    backup = options(target)["backup"]
    if backup is None:
        return
    spec: Json = {
        "cluster": {"name": where.name},
        "schedule": backup["schedule"],
        "method": backup["method"],
        "immediate": True,
        # Backups outlive their schedule.
        "backupOwnerReference": "none",
    }
    if backup["method"] == "plugin":
        spec["pluginConfiguration"] = _said({"name": backup["plugin"], "parameters": backup["parameters"]})
    yield {"apiVersion": API_VERSION, "kind": "ScheduledBackup", "metadata": where.metadata(), "spec": spec}


def _policy(target: Target, where: Place) -> Manifest:
    """Let in the operator, the cluster's own pods (servers, Poolers, the Jobs that make servers), ours, and clients."""
    own: Json = {"podSelector": {"matchLabels": {"cnpg.io/cluster": where.name}}}
    inward = (
        Opening(PORT, (own, _OPERATOR, HOLDFAST, *clients(target))),
        Opening(_STATUS_PORT, (own, _OPERATOR)),
        Opening(_METRICS_PORT, clients(target, "monitoring")),
    )
    return network_policy(where, inward)
