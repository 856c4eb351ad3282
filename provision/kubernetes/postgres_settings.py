"""What the specs ask of a cluster of PostgreSQL: which pools reach it, and the server settings that follow. Pure.

Facts: PostgreSQL documentation, Server Configuration; CloudNativePG 1.30 documentation, PostgreSQL Configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from provision.kubernetes.objects import name_of, options
from provision.pools import budget
from provision.pools.kinds import FIELDS as POOL_FIELDS
from provision.postgres.kinds.partition_window import Every
from provision.spec.record import Plane, Record, Settings
from provision.spec.target import Target

Service = Literal["rw", "ro", "r"]
_SERVICES: tuple[Service, ...] = ("rw", "ro", "r")
#: Endpoints that take writes, whatever their host is called.
_WRITABLE = ("primary", "direct")

#: Settings that CloudNativePG sets itself or cannot work with: it refuses a Cluster that has one
#: (pkg/postgres/configuration.go of 1.30, FixedConfigurationParameters).
RESERVED_PARAMETERS = frozenset(
    """
    allow_system_table_mods archive_cleanup_command archive_command archive_mode bonjour bonjour_name cluster_name
    config_file data_directory data_sync_retry event_source external_pid_file hba_file hot_standby ident_file
    jit_provider listen_addresses log_destination log_directory log_file_mode log_filename log_rotation_age
    log_rotation_size log_truncate_on_rotation logging_collector pg_failover_slots.primary_dsn
    pg_failover_slots.standby_slot_names port primary_conninfo primary_slot_name promote_trigger_file
    recovery_end_command recovery_min_apply_delay recovery_target recovery_target_action recovery_target_inclusive
    recovery_target_lsn recovery_target_name recovery_target_time recovery_target_timeline recovery_target_xid
    restart_after_crash restore_command shared_preload_libraries ssl ssl_ca_file ssl_cert_file ssl_crl_file
    ssl_dh_params_file ssl_ecdh_curve ssl_key_file ssl_passphrase_command ssl_passphrase_command_supports_reload
    ssl_prefer_server_ciphers stats_temp_directory synchronized_standby_slots synchronous_standby_names
    syslog_facility syslog_ident syslog_sequence_numbers syslog_split_messages temp_tablespaces
    unix_socket_directories unix_socket_group unix_socket_permissions
    """.split()
)

#: Sessions of plan, apply, partition maintenance and a person, beside those of the pools.
_DEPLOYER = 8
#: The operator's exporter of metrics (its other sessions are a superuser's).
_EXPORTER = 4
#: Sessions of each PgBouncer that look up passwords.
_LOOKUPS = 2
_LEAST_CONNECTIONS = 100

_KB, _MB, _GB = 2**10, 2**20, 2**30
_MS = 1_000_000
#: What CloudNativePG keeps of the log for replicas that lag (its own default).
_WAL_KEPT = 512 * _MB
_LOCKS = 64
#: Any moment: only the number of intervals in a span is asked for.
_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def service(target: Target, endpoint: str) -> Service | None:
    """Say which Service of the cluster an endpoint leads to; None is a server elsewhere.

    A host that is one of its Services decides. Else ``primary`` and ``direct`` are ``rw``, other names ``ro``.
    """
    declared = (target.settings["endpoints"] or {}).get(endpoint) or {}
    host = declared.get("host") or (target.settings["host"] if endpoint == "primary" else None)
    cluster = name_of(target)
    if host is not None:
        label = host.partition(".")[0]
        for word in _SERVICES:
            if label == f"{cluster}-{word}":
                return word
        if not label.startswith(f"{cluster}-"):
            return None
    return "rw" if endpoint in _WRITABLE else "ro"


def pools(plane: Plane, target: Target) -> Iterator[tuple[Record, Service]]:
    """Give the pools that this cluster serves, each with its Service."""
    for pool in plane.of_kind("pool"):
        found = service(target, pool.settings["endpoint"]) if pool.address.target == target.name else None
        if found is not None:
            yield pool, found


def pooled(plane: Plane, target: Target) -> list[tuple[Record, Service]]:
    """Give those of them that PgBouncer stands before."""
    return [(pool, word) for pool, word in pools(plane, target) if pool.settings["pgbouncer"]]


def label(prefix: str, name: str) -> str:
    """Join a prefix and a name to a DNS label. A name that cannot stand in one keeps apart by a digest."""
    text = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")
    whole = f"{prefix}-{text}" if text else prefix
    if text == name and len(whole) <= 63:
        return whole
    digest = hashlib.sha256(f"{prefix}\0{name}".encode()).hexdigest()[:8]
    return f"{whole[:54].rstrip('-')}-{digest}"


def pooler_name(target: Target, pool: Record) -> str:
    """Name the Pooler of a pool, and its Service. It is no Cluster's name, nor that of a Cluster's Service."""
    return label(f"{name_of(target)}-pool", pool.address.name)


def pooler_size(target: Target, pool: Record) -> int:
    """Give the server connections of each PgBouncer of a pool: they share its ``max``."""
    instances: int = options(target)["poolers"]["instances"]
    return max(1, int(pool.settings["max"]) // instances)


def connections_needed(plane: Plane, target: Target) -> int:
    """Give the least ``max_connections`` that everybody fits into.

    Pools of replicas count too: a replica that becomes the primary keeps its clients while it takes new ones. A
    role counts with its pools or its ``connection_limit``, whichever is more.
    """
    instances: int = options(target)["poolers"]["instances"]
    by_role: Counter[str] = Counter()
    lookups = 0
    for pool, _ in pools(plane, target):
        if pool.settings["pgbouncer"]:
            by_role[pool.settings["role"]] += pooler_size(target, pool) * instances
            lookups += _LOOKUPS * instances
        else:
            by_role[pool.settings["role"]] += budget.demand(pool).connections
    for role in plane.of_kind("role"):
        if role.address.target == target.name and role.settings["login"]:
            name = role.address.name
            by_role[name] = max(by_role[name], role.settings["connection_limit"], 0)
    return by_role.total() + lookups + _DEPLOYER + _EXPORTER + budget.RESERVED


def max_connections(plane: Plane, target: Target) -> int:
    """Give what the target declares, else what is needed, rounded up to tens."""
    declared = target.settings["max_connections"]
    return int(declared) if declared else max(_LEAST_CONNECTIONS, -(-connections_needed(plane, target) // 10) * 10)


def parameters(plane: Plane, target: Target) -> dict[str, str]:
    """Give ``postgresql.parameters``. What the target's own ``parameters`` say wins.

    Time-outs are not among them: they belong to roles, since a global one ends dumps and maintenance as well.
    """
    given = options(target)
    connections = max_connections(plane, target)
    found = {
        "max_connections": str(connections),
        "max_locks_per_transaction": str(_locks(plane, target, connections)),
        **_capture(plane, target),
        **(_memory(given["memory"], connections) if given["memory"] else {}),
        **(_processors(given["cpu"]) if given["cpu"] else {}),
        **(_log(given) if given["wal_storage"] or given["storage"] else {}),
    }
    if any(word != "rw" for _, word in pools(plane, target)):
        # Else vacuum on the primary cancels what a replica is reading.
        found["hot_standby_feedback"] = "on"
    return dict(sorted({**found, **given["parameters"]}.items()))


def _capture(plane: Plane, target: Target) -> dict[str, str]:
    """Keep statistics of statements, and log slow ones from the shortest threshold of any pool on.

    Utility statements are left out of the statistics, which would hold the verifiers of ALTER ROLE … PASSWORD. The
    operator loads the library, and creates the extension everywhere, because a setting of it is there.
    """
    thresholds = [pool.settings["slow_query_threshold"] for pool, _ in pools(plane, target)]
    slow = min(filter(None, thresholds), default=POOL_FIELDS["slow_query_threshold"].default)
    return {
        "pg_stat_statements.max": "10000",
        "pg_stat_statements.track": "all",
        "pg_stat_statements.track_utility": "off",
        "track_io_timing": "on",
        "log_min_duration_statement": f"{-(-slow // _MS)}ms",
        "log_lock_waits": "on",
        "log_autovacuum_min_duration": "1min",
    }


def _memory(memory: int, connections: int) -> dict[str, str]:
    """Share out a server's memory: a quarter to the cache, some two fifths to sessions, the rest to maintenance."""
    return {
        "shared_buffers": _size(memory // 4),
        "effective_cache_size": _size(memory * 3 // 4),
        # A session sorts twice at a time, as a rule of thumb.
        "work_mem": _size(_within(memory // (5 * connections), _MB, 256 * _MB)),
        "maintenance_work_mem": _size(_within(memory // 16, 16 * _MB, _GB)),
        # Three workers by default.
        "autovacuum_work_mem": _size(_within(memory // 24, 16 * _MB, _GB)),
    }


def _processors(millicores: int) -> dict[str, str]:
    """Let no query start more workers than there are processors."""
    cores = -(-millicores // 1000)
    return {"max_parallel_workers": str(cores), "max_parallel_workers_per_gather": str(min(4, cores // 2))}


def _log(given: Mapping[str, Any]) -> dict[str, str]:
    """Bound the write-ahead log by its volume, so that a replica that is gone never fills it.

    Without a volume of its own the log may take a fifth of the data's. Between checkpoints a quarter of that is
    written, replicas are given half; one that lags more is made anew.
    """
    volume: int = given["wal_storage"] or given["storage"] // 5
    most = _within(volume // 4, 64 * _MB, 16 * _GB)
    return {
        "max_wal_size": _size(most),
        "min_wal_size": _size(max(most // 4, 32 * _MB)),
        "wal_keep_size": _size(min(_WAL_KEPT, volume // 8)),
        "max_slot_wal_keep_size": _size(volume // 2),
        "wal_compression": "pglz",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
    }


def _locks(plane: Plane, target: Target, connections: int) -> int:
    """Make room for a session that touches the largest set of partitions, and for one that touches everything twice."""
    sizes = [_relations(plane, table) for table in plane.of_kind("table") if table.address.target == target.name]
    largest, everything = max(sizes, default=0), sum(sizes)
    needed = max(largest, 2 * everything // connections, _LOCKS)
    return -(-needed // _LOCKS) * _LOCKS


def _relations(plane: Plane, table: Record) -> int:
    """Count a table, its indexes, its TOAST table and the index of that, once more for each partition."""
    indexed = plane.children(table.address)
    own = 3 + sum(r.address.kind in ("index", "primary_key", "unique") for r in indexed)
    sets = plane.children(table.address, "partitions")
    return own * (1 + sum(_partitions(s.settings) for s in sets))


def _partitions(settings: Settings) -> int:
    """Count the partitions of a set when it is as old as it gets; one that keeps all rows is a year old."""
    if settings["by"] == "hash":
        return int(settings["modulus"])
    if settings["by"] == "list":
        return len(settings["values"] or ()) + bool(settings["default"])
    if settings["every"] is None or (every := Every.parse(settings["every"])).unit == "integer":
        return int(settings["premake"]) + 1
    kept = Every.parse(settings["retain"] or "1 year")
    span, step = _MOMENT - kept.shift(_MOMENT, -1), every.shift(_MOMENT, 1) - _MOMENT
    return -(-span // step) + int(settings["premake"]) + 1 + bool(settings["default"])


def _within(size: int, least: int, most: int) -> int:
    return min(max(size, least), most)


def _size(size: int) -> str:
    """Write bytes as the server does, rounded down to a whole unit; its MB are binary."""
    return f"{size // _MB}MB" if size >= _MB else f"{max(1, size // _KB)}kB"
