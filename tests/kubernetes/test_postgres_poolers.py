"""Poolers of the pools behind PgBouncer: their sizes, and a real PgBouncer on their settings."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded.process import free_ports
from provision.kubernetes import poolers, postgres
from provision.kubernetes.objects import Manifest
from provision.kubernetes.postgres_settings import pooler_name, pooler_size
from provision.pools import contract
from provision.reconcile.targets import reachable
from tests.kubernetes import postgres_specs
from tests.kubernetes.postgres_specs import POOLED, Found

BINARY = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
#: CloudNativePG 1.30, Connection Pooling, PgBouncer configuration options: the Pooler is refused with any other.
ALLOWED = frozenset(
    """
    application_name_add_host auth_type autodb_idle_timeout cancel_wait_timeout client_idle_timeout
    client_login_timeout client_tls13_ciphers client_tls_ciphers client_tls_sslmode default_pool_size disable_pqexec
    dns_max_ttl dns_nxdomain_ttl idle_transaction_timeout ignore_startup_parameters listen_backlog log_connections
    log_disconnections log_pooler_errors log_stats max_client_conn max_db_connections max_packet_size
    max_prepared_statements max_user_connections min_pool_size pkt_buf query_timeout query_wait_timeout
    reserve_pool_size reserve_pool_timeout sbuf_loopcnt server_check_delay server_check_query server_connect_timeout
    server_fast_close server_idle_timeout server_lifetime server_login_retry server_reset_query
    server_reset_query_always server_round_robin server_tls13_ciphers server_tls_ciphers server_tls_protocols
    server_tls_sslmode stats_period suspend_timeout tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle
    tcp_keepintvl tcp_socket_buffer tcp_user_timeout track_extra_parameters verbose
    """.split()
)


def made(found: Found) -> dict[str, Manifest]:
    manifests = poolers.manifests(found.plane, found.target)
    return {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Pooler"}


@pytest.mark.req("B3.2", "A4.4", "A4.5", "A4.15")
def test_a_pool_behind_pgbouncer_has_a_pooler_of_its_own(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    specs = made(found)
    assert {name: spec["type"] for name, spec in specs.items()} == {
        "postgres-pool-primary": "rw",
        "postgres-pool-replica": "ro",
    }
    primary = specs["postgres-pool-primary"]
    assert (primary["instances"], primary["cluster"]) == (2, {"name": "postgres"})
    assert primary["pgbouncer"]["poolMode"] == "transaction"
    settings = primary["pgbouncer"]["parameters"]
    # 20 and 5 connections over two PgBouncers; acquire 30 s, idle 600 s, lifetime 3600 s.
    assert {name: settings[name] for name in ("default_pool_size", "min_pool_size", "max_db_connections")} == {
        "default_pool_size": "10",
        "min_pool_size": "2",
        "max_db_connections": "10",
    }
    assert (settings["query_wait_timeout"], settings["server_idle_timeout"], settings["server_lifetime"]) == (
        "30",
        "600",
        "3600",
    )
    assert settings["max_prepared_statements"] == "100"
    assert settings["client_tls_sslmode"] == "require"


@pytest.mark.req("A4.14")
@pytest.mark.parametrize(("instances", "most"), [(1, 20), (2, 20), (3, 20), (7, 20), (25, 25)])
def test_poolers_together_open_no_more_than_the_pool_has(tmp_path: Path, instances: int, most: int) -> None:
    found = postgres_specs.plane(tmp_path, poolers={"instances": instances})
    (pool,) = (p for p in found.plane.of_kind("pool") if p.address.name == "primary")
    assert instances * pooler_size(found.target, pool) <= most
    settings = poolers.parameters(found.target, pool)
    assert int(settings["min_pool_size"]) <= int(settings["default_pool_size"]) == int(settings["max_db_connections"])
    # All clients can come to one of them.
    assert int(settings["max_client_conn"]) >= pool.settings["max"]


def test_only_settings_that_a_pooler_takes_are_in_it(tmp_path: Path) -> None:
    for spec in made(postgres_specs.plane(tmp_path)).values():
        settings = spec["pgbouncer"]["parameters"]
        assert settings.keys() <= ALLOWED
        assert all(isinstance(value, str) for value in settings.values())


@pytest.mark.parametrize(
    ("image", "has"), [(None, True), ("pgbouncer:1.25.1", True), ("r:5000/pgbouncer:1.20.1-2", False)]
)
def test_a_setting_newer_than_the_image_is_left_out(tmp_path: Path, image: str | None, has: bool) -> None:
    for spec in made(postgres_specs.plane(tmp_path, poolers={"image": image})).values():
        assert ("max_prepared_statements" in spec["pgbouncer"]["parameters"]) is has


def test_clients_find_each_pooler_and_its_certificate(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    hosts = poolers.hosts(found.plane, found.target)
    assert hosts == {
        "primary": "postgres-pool-primary.agents.svc.cluster.local",
        "replica": "postgres-pool-replica.agents.svc.cluster.local",
    }
    assert postgres.endpoints(found.target) == {
        "primary": "postgres-rw.agents.svc.cluster.local",
        "replica": "postgres-ro.agents.svc.cluster.local",
    }
    (cluster,) = (m for m in postgres.manifests(found.plane, found.target) if m["kind"] == "Cluster")
    assert set(hosts.values()) <= set(cluster["spec"]["certificates"]["serverAltDNSNames"])


def test_the_contract_tells_the_host_of_each_pooler_however_it_is_made(tmp_path: Path) -> None:
    """Of all records, or of the shares of a plane's parts."""
    found = postgres_specs.plane(tmp_path)
    reach = reachable(found.targets, found.plane)
    assert reach["postgres"]["main"]["poolers"] == poolers.hosts(found.plane, found.target)
    shares = [contract.share([record]) for record in found.plane]
    assert reachable(found.targets, contract.pools(shares)) == reach
    told = contract.build(found.plane, reach)
    for name in told["targets"]["postgres"]["main"]["poolers"]:
        assert (told["pools"][name]["pgbouncer"], told["pools"][name]["mode"]) == (True, "transaction")
    without = postgres_specs.plane(tmp_path / "without", {})
    assert "poolers" not in reachable(without.targets, without.plane)["postgres"]["main"]


def test_no_pooler_takes_the_name_of_the_cluster_or_of_its_services(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    (pool,) = (p for p in found.plane.of_kind("pool") if p.address.name == "primary")
    taken = {"postgres", *(f"postgres-{word}" for word in ("rw", "ro", "r", "any"))}
    for name in ("rw", "ro", "r", "any", "Main_Pool"):
        named = pool._replace(address=pool.address._replace(path=("pool", name)))
        assert pooler_name(found.target, named) not in taken


def test_a_pool_elsewhere_or_without_pgbouncer_has_none(tmp_path: Path) -> None:
    override = {"pools": {"analytics": POOLED}}
    assert made(postgres_specs.plane(tmp_path, override)) == {}


def test_a_real_pgbouncer_takes_every_setting(tmp_path: Path, server_root: Path) -> None:
    """Its console shows each one as the Pooler says it, but for what is newer than the program here."""
    if BINARY is None:
        pytest.skip("no pgbouncer program here; Debian has it as the package pgbouncer")
    said = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(n) for n in re.findall(r"\d+", said.splitlines()[0]))
    settings: dict[str, Any] = made(postgres_specs.plane(tmp_path))["postgres-pool-primary"]["pgbouncer"]["parameters"]
    # Without a certificate there is no TLS here; prepared statements came with 1.21.
    left_out = {"client_tls_sslmode"} | ({"max_prepared_statements"} if version < (1, 21) else set())
    tried = {name: value for name, value in settings.items() if name not in left_out}
    home = server_root / "pgbouncer-settings"
    home.mkdir(mode=0o755)
    (port,) = free_ports(1)
    own = {"listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any"}
    lines = [f"{name} = {value}" for name, value in {**own, **tried, "pool_mode": "transaction"}.items()]
    (home / "pgbouncer.ini").write_text("\n".join(["[databases]", "* = host=127.0.0.1", "[pgbouncer]", *lines, ""]))
    user = ["--user", pwd.getpwnam("nobody").pw_name] if os.geteuid() == 0 else []
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, *user, str(home / "pgbouncer.ini")], stdout=log, stderr=log)
    try:
        shown = _configuration(process, port, home / "log")
    finally:
        process.terminate()
        process.wait(10)
    assert {name: shown.get(name) for name in tried} == tried
    assert "WARNING" not in (home / "log").read_text()


def _configuration(process: subprocess.Popen[bytes], port: int, log: Path) -> dict[str, str]:
    for _ in range(100):
        assert process.poll() is None, log.read_text()
        try:
            console = psycopg.connect(
                host="127.0.0.1", port=port, user="pgbouncer", dbname="pgbouncer", autocommit=True,
                cursor_factory=psycopg.ClientCursor,
            )  # fmt: skip
        except psycopg.OperationalError:
            time.sleep(0.05)
            continue
        with console:
            return {row[0]: row[1] for row in console.execute("SHOW CONFIG")}
    raise AssertionError(log.read_text())
