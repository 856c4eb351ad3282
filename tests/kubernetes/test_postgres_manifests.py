"""What is rendered for a target of PostgreSQL: accepted by the schemas, fitting the specs, and by real servers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded import postgres as embedded
from provision.kubernetes import poolers, postgres
from provision.kubernetes.objects import Manifest
from provision.kubernetes.postgres_settings import (
    RESERVED_PARAMETERS,
    connections_needed,
    label,
    max_connections,
    parameters,
    service,
)
from tests.checks.specs import load
from tests.kubernetes import postgres_specs, schemas
from tests.kubernetes.postgres_specs import Found

MEMORY_UNITS = {"kB": 2**10, "MB": 2**20}


def only(found: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [m for m in found if m["kind"] == kind]


def cluster(found: Found) -> dict[str, Any]:
    (manifest,) = only(postgres.manifests(found.plane, found.target), "Cluster")
    spec: dict[str, Any] = manifest["spec"]
    return spec


def size(text: str) -> int:
    return int(text[:-2]) * MEMORY_UNITS[text[-2:]]


@pytest.mark.req("B3.2", "H2.1")
@pytest.mark.parametrize(
    "kubernetes",
    [
        {},
        {"instances": 1, "wal_storage": None, "cpu": None, "memory": None, "deployer": None, "backup": None},
        {"instances": 2, "image": "postgres:17.2", "superuser_secret": "root", "pull_secrets": ["registry"]},
        {"backup": {"schedule": "0 0 2 * * *", "method": "volumeSnapshot", "snapshot_class": "fast"}},
        {"backup": {"schedule": "0 0 2 * * *", "method": "volumeSnapshot", "parameters": {"barmanObjectName": "b"}}},
        {"parameters": {"work_mem": "64MB", "jit": False}, "poolers": {"instances": 1, "image": "pgbouncer:1.25.1"}},
    ],
)
def test_every_manifest_is_what_its_schema_allows(tmp_path: Path, kubernetes: dict[str, Any]) -> None:
    override = {"pools": {"replica": {"endpoint": "primary"}}} if kubernetes.get("instances") == 1 else None
    found = postgres_specs.plane(tmp_path, override, **kubernetes)
    made = (*postgres.manifests(found.plane, found.target), *poolers.manifests(found.plane, found.target))
    assert [problem for manifest in made for problem in schemas.problems(manifest)] == []
    names = [(m["kind"], m["metadata"]["name"]) for m in made]
    assert len(set(names)) == len(names)


def test_no_secret_is_in_any_manifest(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    made = (*postgres.manifests(found.plane, found.target), *poolers.manifests(found.plane, found.target))
    assert only(made, "Secret") == []
    spec = cluster(found)
    assert spec["bootstrap"]["initdb"]["secret"] == {"name": "postgres-deployer"}
    assert [r["passwordSecret"] for r in spec["managed"]["roles"]] == [{"name": "postgres-deployer"}]
    assert spec["enableSuperuserAccess"] is False


def test_without_a_deployer_the_operator_makes_its_secret(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path, deployer=None)
    assert postgres.deployer(found.target) == ("holdfast", "postgres-app", True)
    spec = cluster(found)
    assert "secret" not in spec["bootstrap"]["initdb"]
    assert "passwordSecret" not in spec["managed"]["roles"][0]


@pytest.mark.req("A4.14", "B3.2")
def test_the_server_takes_everybody_at_once(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    # Limits of app_primary, app_replica, app_background, and of app_analytics whose pool is elsewhere; 2 lookups
    # for each of 2 PgBouncers of 2 pools; 8 for the deployer, 4 for metrics, 3 for superusers.
    assert connections_needed(found.plane, found.target) == 25 + 20 + 10 + 15 + 8 + 8 + 4 + 3
    assert max_connections(found.plane, found.target) == 100
    many = {
        "pools": {"background": {"processes": 40, "max": 5}},
        "roles": {"app_background": {"connection_limit": 200}},
    }
    found = postgres_specs.plane(tmp_path, many)
    assert int(parameters(found.plane, found.target)["max_connections"]) >= 25 + 20 + 40 * 5 + 15


@pytest.mark.req("H2.1")
@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (1, None),
        (2, {"method": "any", "number": 1, "dataDurability": "preferred"}),
        (3, {"method": "any", "number": 1, "failoverQuorum": True}),
    ],
)
def test_a_commit_is_on_two_servers_where_there_are_two(tmp_path: Path, instances: int, expected: Any) -> None:
    override = {"pools": {"replica": {"endpoint": "primary"}}} if instances == 1 else None
    found = postgres_specs.plane(tmp_path, override, instances=instances)
    spec = cluster(found)
    assert spec["instances"] == instances
    assert spec["postgresql"].get("synchronous") == expected
    assert ("hot_standby_feedback" in spec["postgresql"]["parameters"]) is (instances > 1)


@pytest.mark.parametrize("gib", [1, 2, 8, 64, 512])
def test_memory_is_shared_out_and_never_twice(tmp_path: Path, gib: int) -> None:
    found = postgres_specs.plane(tmp_path, memory=f"{gib}GiB")
    made, memory = parameters(found.plane, found.target), gib * 2**30
    assert 0.15 <= size(made["shared_buffers"]) / memory <= 0.4
    assert size(made["work_mem"]) * int(made["max_connections"]) * 2 < memory / 2
    assert size(made["autovacuum_work_mem"]) * 3 + size(made["maintenance_work_mem"]) < memory / 4
    spec = cluster(found)
    assert spec["resources"]["requests"] == spec["resources"]["limits"]


@pytest.mark.parametrize("gib", [1, 5, 20, 1000])
def test_the_log_stays_on_its_volume(tmp_path: Path, gib: int) -> None:
    for volumes in ({"wal_storage": f"{gib}GiB"}, {"wal_storage": None, "storage": f"{5 * gib}GiB"}):
        found = postgres_specs.plane(tmp_path, **volumes)
        made = parameters(found.plane, found.target)
        kept = [size(made[name]) for name in ("max_wal_size", "wal_keep_size", "max_slot_wal_keep_size")]
        assert sum(kept) < gib * 2**30
        assert 2 * 16 * 2**20 <= size(made["min_wal_size"]) < kept[0]


@pytest.mark.req("H4.3")
def test_statements_are_counted_and_slow_ones_logged(tmp_path: Path) -> None:
    override = {"pools": {"background": {"slow_query_threshold": "75ms"}, **postgres_specs.OVERRIDE["pools"]}}
    found = postgres_specs.plane(tmp_path, override)
    made = parameters(found.plane, found.target)
    assert made["log_min_duration_statement"] == "75ms"
    assert {"pg_stat_statements.max", "pg_stat_statements.track"} <= made.keys()
    # A statistic of ALTER ROLE … PASSWORD would hold its text.
    assert made["pg_stat_statements.track_utility"] == "off"


def test_what_the_target_says_of_a_setting_wins(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path, parameters={"work_mem": "1GB", "jit": False, "autovacuum_max_workers": 5})
    made = parameters(found.plane, found.target)
    assert (made["work_mem"], made["jit"], made["autovacuum_max_workers"]) == ("1GB", "false", "5")


PARTITIONED = """
plane: parts
targets: {postgres: {main: {kind: kubernetes, kubernetes: {storage: 10GiB}}}}
schemas:
  s:
    tables:
      t:
        columns: {id: {type: bigint, nullable: false}, at: {type: timestamptz, nullable: false}}
        primary_key: [id, at]
        partitions: {by: range, key: [at], every: 1 hour, premake: 24, retain: 90 days}
"""


def test_a_session_can_lock_the_largest_set_of_partitions(tmp_path: Path) -> None:
    loaded = load(tmp_path, PARTITIONED)
    target = loaded.document.targets["pg", "main"]
    locks = int(parameters(loaded.plane, target)["max_locks_per_transaction"])
    # Each partition: the table, its primary key, its TOAST table and that one's index.
    assert locks >= 4 * (90 * 24 + 24)
    assert locks < 2 * 4 * (90 * 24 + 24)


def test_no_setting_is_one_that_the_operator_refuses(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    assert not RESERVED_PARAMETERS & parameters(found.plane, found.target).keys()
    for name in parameters(found.plane, found.target):
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?", name)


@pytest.mark.req("B3.2", "H4.3")
@pytest.mark.parametrize("major", [16, 18])
def test_real_servers_take_every_setting(tmp_path: Path, server_root: Path, major: int) -> None:
    """pg_stat_statements is not in the embedded servers: its settings are only kept there, not judged."""
    found = postgres_specs.plane(tmp_path, memory="1GiB", wal_storage="2GiB")
    wanted = parameters(found.plane, found.target)
    home = server_root / f"postgres-parameters-{major}"
    settings: dict[str, embedded.Setting] = dict(wanted)
    with (
        embedded.Server(home, major=major, fsync=False, settings=settings) as server,
        psycopg.connect(**server.dsn(), autocommit=True) as admin,
    ):
        rows = admin.execute("SELECT name, source, pending_restart FROM pg_settings").fetchall()
        shown = {name: admin.execute("SELECT current_setting(%s)", [name]).fetchone() for name in wanted}
    known = {name for name, source, pending in rows if not pending and source in ("configuration file", "command line")}
    assert {name for name in wanted if "." not in name} <= known
    judged = {name: value for name, value in wanted.items() if not re.fullmatch(r"\d+[a-zA-Z]+", value)}
    assert {name: shown[name] for name in judged} == {name: (value,) for name, value in judged.items()}


SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/lib/pg_stat_statements.so"))


@pytest.mark.req("H4.3")
def test_a_server_with_the_library_counts_statements(tmp_path: Path, server_root: Path) -> None:
    if not SYSTEM:
        pytest.skip("no PostgreSQL with pg_stat_statements here; Debian has it as the package postgresql")
    programs = SYSTEM[-1].parents[1]
    found = postgres_specs.plane(tmp_path, memory="1GiB", wal_storage="2GiB")
    wanted = parameters(found.plane, found.target)
    settings: dict[str, embedded.Setting] = {**wanted, "shared_preload_libraries": "pg_stat_statements"}
    home, major = server_root / "postgres-statements", int(programs.name)
    with (
        embedded.Server(home, major=major, fsync=False, settings=settings, bin_dir=programs / "bin") as server,
        psycopg.connect(**server.dsn(), autocommit=True) as admin,
    ):
        admin.execute("CREATE EXTENSION pg_stat_statements")
        admin.execute("CREATE ROLE somebody PASSWORD 'never-seen'")
        admin.execute("SELECT relname AS counted FROM pg_class")
        texts = [row[0] for row in admin.execute("SELECT query FROM pg_stat_statements")]
        rows = admin.execute("SELECT name, setting FROM pg_settings WHERE name LIKE 'pg_stat_statements.%'")
        shown = dict(rows.fetchall())
    assert any("AS counted" in text for text in texts)
    assert not any("PASSWORD" in text for text in texts)
    assert {name: shown[name] for name in wanted if "." in name} == {n: v for n, v in wanted.items() if "." in n}


def test_databases_of_pools_are_made_where_the_cluster_serves_them(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    names = [m["spec"]["name"] for m in only(postgres.manifests(found.plane, found.target), "Database")]
    # analytics has a server of its own.
    assert names == ["mister_smith"]
    override = {"pools": {"analytics": {"endpoint": "replica"}}}
    found = postgres_specs.plane(tmp_path, override)
    first, second = only(postgres.manifests(found.plane, found.target), "Database")
    assert (first["spec"]["name"], second["spec"]["name"]) == ("mister_smith", "mister_smith_analytics")
    assert first["spec"]["extensions"] == [{"name": "vector", "ensure": "present", "schema": "public"}]
    assert "extensions" not in second["spec"]
    assert {m["spec"]["databaseReclaimPolicy"] for m in (first, second)} == {"retain"}


@pytest.mark.parametrize(
    ("endpoints", "endpoint", "expected"),
    [
        ({}, "primary", "rw"),
        ({}, "direct", "rw"),
        ({}, "replica", "ro"),
        ({"reading": "postgres-r.agents.svc"}, "reading", "r"),
        ({"replica": "postgres-rw"}, "replica", "rw"),
        ({"replica": "postgres-pool-replica.agents.svc:5432"}, "replica", "ro"),
        ({"replica": {"env": "REPLICA_HOST"}}, "replica", "ro"),
        ({"analytics": "elsewhere.internal"}, "analytics", None),
    ],
)
def test_an_endpoint_leads_to_a_service_of_the_cluster_or_elsewhere(
    tmp_path: Path, endpoints: dict[str, Any], endpoint: str, expected: str | None
) -> None:
    targets = {"postgres": {"main": {"kind": "kubernetes", "endpoints": endpoints, "kubernetes": {"storage": "1GiB"}}}}
    loaded = load(tmp_path, json.dumps({"plane": "p", "targets": targets}))
    assert service(loaded.document.targets["pg", "main"], endpoint) == expected


def test_names_become_labels_and_stay_apart() -> None:
    assert label("postgres", "reading") == "postgres-reading"
    names = ["a_b", "a-b", "A-B", "ab", "é", "x" * 80, "x" * 81, "-"]
    found = {label("postgres-pool", name) for name in names}
    assert len(found) == len(names)
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in found)


def test_strangers_are_kept_out_and_clients_let_in(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    (policy,) = only(postgres.manifests(found.plane, found.target), "NetworkPolicy")
    rules = {rule["ports"][0]["port"]: rule["from"] for rule in policy["spec"]["ingress"]}
    assert rules.keys() == {5432, 8000, 9187}
    agents = {
        "podSelector": {"matchLabels": {"app": "agents"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agents-app"}},
    }
    assert agents in rules[5432]
    assert agents not in rules[8000]
    # Nobody but the operator comes from every namespace.
    everywhere = [peer for peers in rules.values() for peer in peers if peer.get("namespaceSelector") == {}]
    assert all(p["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "cloudnative-pg"} for p in everywhere)
