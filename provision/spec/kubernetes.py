"""What a target of kind ``kubernetes`` says of the objects that run its servers. The manifests are made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from provision.spec.fields import (
    BOOL,
    DURATION,
    SIZE,
    Field,
    FieldError,
    FieldTable,
    Type,
    any_of,
    enum,
    integer,
    list_of,
    map_of,
    number,
    object_of,
    text,
)


def _plain_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


#: A DNS label that still is one, and a label value, with what controllers append to it: ``-rw``, ``-0-7d4f9c8b6``.
NAME = text(r"^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$")
#: Objects that others made: a namespace, a Secret, a StorageClass.
_OTHERS = text(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_IMAGE = text(r"^[^\s@]+(@sha256:[0-9a-f]{64})?$")
_WORD = text(r"^\S+$")
_LABELS = map_of(text(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"), key_pattern=r"^[A-Za-z0-9./_-]+$")
_SCALAR = any_of(Type({"type": ["string", "number", "boolean"]}), parse=_plain_text)
#: Seconds, minutes, hours, day of month, month, day of week.
_CRON6 = text(r"^[0-9A-Z*/,?-]+( [0-9A-Z*/,?-]+){5}$")
_CRON5 = text(r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[0-9A-Za-z*/,?-]+( [0-9A-Za-z*/,?-]+){4})$")


def _millicores(value: Any) -> int:
    amount = str(value)
    cores = Decimal(amount.removesuffix("m")) / (1000 if amount.endswith("m") else 1)
    if cores <= 0 or cores * 1000 != int(cores * 1000):
        raise FieldError(f"not a share of a processor: {value}", help="Write 2, 0.5 or 500m.")
    return int(cores * 1000)


#: ``2``, ``0.5``, ``500m`` -> integer thousandths of a processor.
CPU = any_of(text(r"^\d+m$"), number(0), parse=_millicores)
#: A size that is one: unlike a stream's, it has no form that says "without bound".
_SIZE = Type({"anyOf": [SIZE.schema["anyOf"][0], {"type": "integer", "minimum": 1}]}, SIZE.parse)
SYNC = any_of(enum("always"), DURATION, parse=lambda value: value if value == "always" else DURATION.parse(value))


def _field(name: str, type: Type, doc: str, *, default: Any = None, required: bool = False) -> Field:
    return Field(name=name, type=type, doc=doc, default=default, required=required)


_PEER = FieldTable(
    _field("namespace", _OTHERS, "Namespace of the pods; unset is the target's own."),
    _field("namespace_labels", _LABELS, "Labels of the namespaces of the pods, in place of one name."),
    _field("pods", _LABELS, "Labels of the pods; unset is every pod there."),
)
_PEERS = list_of(object_of(_PEER))


def _common(servers: str) -> tuple[Field, ...]:
    return (
        _field("namespace", _OTHERS, "Namespace, which must exist.", default="default"),
        _field("name", NAME, servers),
        _field("image", _IMAGE, "Image of the servers."),
        _field("pull_secrets", list_of(_OTHERS), "Secrets to pull images with.", default=[]),
        _field("storage_class", _OTHERS, "StorageClass of the volumes; unset is the default one of Kubernetes."),
        _field("cpu", CPU, "Processors of one server: 2, 0.5 or 500m."),
        _field("memory", _SIZE, "Memory of one server, its limit too."),
        _field(
            "topology_key", _WORD, "Label of nodes whose values the servers are spread over; two never share a node.",
            default="kubernetes.io/hostname",
        ),
        _field("clients", _PEERS, "Pods that may connect; unset is every pod of the namespace."),
        _field("monitoring", _PEERS, "Pods that may read the metrics port.", default=[]),
    )  # fmt: skip


_TLS = FieldTable(
    _field(
        "secret", _OTHERS, "Secret with tls.crt, tls.key and ca.crt, for NAME.NAMESPACE.svc and *.NAME-headless.",
        required=True,
    ),
    _field("verify", BOOL, "Whether clients too must show a certificate of this authority.", default=False),
)  # fmt: skip
_AUTH = FieldTable(
    _field("secret", _OTHERS, "Secret with a part of nats.conf: accounts, their users, system_account.", required=True),
    _field("key", text(r"^[A-Za-z0-9._-]+$"), "Its key.", default="auth.conf"),
)
NATS = FieldTable(
    *_common("Name of the StatefulSet and the Service; unset is the cluster's name, else nats."),
    _field("storage", _SIZE, "Volume of one server; unset is what max_file_store needs."),
    _field("tls", object_of(_TLS), "Certificates of the servers."),
    _field("auth", object_of(_AUTH), "Who may do what."),
    _field(
        "sync_interval", SYNC,
        "When a write is on the disk: always before it is acknowledged, or within an interval that a power failure "
        "can take back.",
        default="always",
    ),
)  # fmt: skip

_DEPLOYER = FieldTable(
    _field("name", text(max_length=63), "The role that plan and apply connect as.", required=True),
    _field("secret", _OTHERS, "Secret with its username and password (kubernetes.io/basic-auth).", required=True),
)
_BACKUP = FieldTable(
    _field("schedule", _CRON6, "When: second, minute, hour, day of month, month, day of week.", required=True),
    _field("method", enum("plugin", "volumeSnapshot"), "How a base backup is taken.", default="plugin"),
    _field("plugin", _OTHERS, "Name of the plugin.", default="barman-cloud.cloudnative-pg.io"),
    _field("parameters", map_of(_SCALAR), "Parameters of the plugin, such as barmanObjectName.", default={}),
    _field("snapshot_class", _OTHERS, "VolumeSnapshotClass, for method volumeSnapshot."),
    _field("retention", text(r"^[1-9]\d*[dwm]$"), "How long backups are kept: 30d, 12w, 12m."),
)
_POOLERS = FieldTable(
    _field("instances", integer(1), "Pods of each Pooler.", default=2),
    _field("image", _IMAGE, "Image of PgBouncer."),
    _field("cpu", CPU, "Processors of one pod."),
    _field("memory", _SIZE, "Memory of one pod, its limit too."),
)
_MAINTENANCE = FieldTable(
    _field("schedule", _CRON5, "When: minute, hour, day of month, month, day of week, in UTC.", default="17 * * * *"),
    _field("image", _IMAGE, "Image with holdfast.", required=True),
    _field("secret", _OTHERS, "Secret whose keys are the variables that the specs refer to."),
    _field("archive", _OTHERS, "PersistentVolumeClaim for archived partitions; it outlives the plane."),
)
POSTGRES = FieldTable(
    *_common("Name of the Cluster; unset is postgres."),
    _field("instances", integer(1), "Servers: a primary and its replicas.", default=3),
    _field("storage", _SIZE, "Volume of one server."),
    _field("wal_storage", _SIZE, "Volume of its own for the write-ahead log of one server."),
    _field("parameters", map_of(_SCALAR), "Settings of the server that win over ours.", default={}),
    _field("superuser_secret", _OTHERS, "Secret of the superuser; unset allows nobody in as superuser."),
    _field("deployer", object_of(_DEPLOYER), "The role that holdfast works as."),
    _field("backup", object_of(_BACKUP), "Scheduled base backups."),
    _field("poolers", object_of(_POOLERS), "PgBouncer for the pools that want it.", default=_POOLERS.parse({})),
    _field("maintenance", object_of(_MAINTENANCE), "The CronJob that keeps partitions ahead."),
)
TABLES: Mapping[str, FieldTable] = {"nats": NATS, "pg": POSTGRES}
_LABEL = re.compile(NAME.schema["pattern"])


def name_of(system: str, settings: Mapping[str, Any]) -> str:
    """Give the name that a target's objects share: the declared one, else that of the cluster, else the product's."""
    if given := (settings["kubernetes"] or {}).get("name"):
        return str(given)
    if system == "pg":
        return "postgres"
    cluster = settings["cluster"] or ""
    return cluster if _LABEL.match(cluster) else "nats"
