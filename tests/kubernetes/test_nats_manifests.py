"""The objects that run NATS on Kubernetes say what a cluster needs to keep its data and to be left in peace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provision.kubernetes import nats
from provision.kubernetes.objects import processors, quantity
from provision.spec.target import Target
from tests.kubernetes.nats_plane import of_kind, plane, target

ORDERS = {"ORDERS": {"subjects": ["orders"], "max_bytes": 2**30, "replicas": 3}}


def pod(on: Target) -> Any:
    return of_kind("StatefulSet", plane(ORDERS), on)["spec"]["template"]["spec"]


@pytest.mark.req("A1.12", "B3.2")
@pytest.mark.parametrize("servers", [3, 5])
def test_a_cluster_survives_the_drain_of_a_node(servers: int) -> None:
    on = target(servers=servers)
    assert of_kind("StatefulSet", plane(ORDERS), on)["spec"]["replicas"] == servers
    assert of_kind("PodDisruptionBudget", plane(ORDERS), on)["spec"]["maxUnavailable"] == 1
    (rule,) = pod(on)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    routes = [line for line in nats.config(plane(), on)["nats.conf"].splitlines() if "routes" in line]
    assert routes[0].count("nats://") == servers


def test_servers_spread_over_zones_and_still_share_no_node() -> None:
    found = pod(target({"topology_key": "topology.kubernetes.io/zone"}))
    (spread,) = found["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["maxSkew"], spread["whenUnsatisfiable"]) == (
        "topology.kubernetes.io/zone", 1, "DoNotSchedule",
    )  # fmt: skip
    assert found["affinity"]["podAntiAffinity"]
    assert "topologySpreadConstraints" not in pod(target())


def test_one_server_is_no_cluster() -> None:
    on = target(servers=1)
    made = nats.manifests(plane(ORDERS), on)
    assert "PodDisruptionBudget" not in {m["kind"] for m in made}
    assert "affinity" not in pod(on)
    assert "cluster" not in nats.config(plane(ORDERS), on)["nats.conf"]


@pytest.mark.req("A1.12")
def test_each_server_has_its_own_tags() -> None:
    files = nats.config(plane(), target({"name": "n"}, tags=[["a", "b"], ["b"], []]))
    assert 'server_tags: ["a", "b"]\n' in files["n-0.conf"]
    assert 'server_tags: ["b"]\n' in files["n-1.conf"]
    assert "server_tags" not in files["n-2.conf"]
    assert all('include "nats.conf"' in files[f"n-{i}.conf"] for i in range(3))


def test_a_pod_starts_with_the_file_that_bears_its_name() -> None:
    on = target({"name": "n"})
    (container,) = pod(on)["containers"]
    folder, _, file = container["command"][-1].rpartition("/")
    assert {file.replace("$(POD_NAME)", f"n-{i}") for i in range(3)} < set(nats.config(plane(), on))
    assert {"name": "config", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    (source,) = [v["projected"]["sources"] for v in pod(on)["volumes"] if v["name"] == "config"]
    assert source == [{"configMap": {"name": "n"}}]


@pytest.mark.req("B3.2")
def test_the_volume_holds_what_jetstream_may_store() -> None:
    on = target({"storage_class": "fast"}, max_file_store="64GiB")
    (claim,) = of_kind("StatefulSet", plane(ORDERS), on)["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "80Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert f"max_file_store: {64 * 2**30}\n" in nats.config(plane(), on)["nats.conf"]


def test_the_heap_is_bounded_below_the_containers_memory() -> None:
    (container,) = pod(target({"memory": "8GiB", "cpu": "500m"}))["containers"]
    assert container["resources"] == {"requests": (r := {"cpu": "500m", "memory": "8Gi"}), "limits": r}
    assert {"name": "GOMEMLIMIT", "value": "7168MiB"} in container["env"]


@pytest.mark.parametrize(
    ("given", "written"),
    [({}, '"always"'), ({"sync_interval": "10s"}, '"10s"'), ({"sync_interval": "1.5s"}, '"1500ms"')],
)
def test_writes_are_synced_before_they_are_acknowledged_unless_told_otherwise(given: Any, written: str) -> None:
    assert f"sync_interval: {written}\n" in nats.config(plane(), target(given))["nats.conf"]


def test_a_change_of_the_streams_sizes_replaces_the_pods_and_others_do_not() -> None:
    def template(streams: Any) -> Any:
        return of_kind("StatefulSet", plane(streams), target())["spec"]["template"]

    larger = {"ORDERS": {**ORDERS["ORDERS"], "max_bytes": 2**34}}
    assert template(larger)["metadata"]["annotations"] != template(ORDERS)["metadata"]["annotations"]
    described = {"ORDERS": {**ORDERS["ORDERS"], "description": "Orders"}}
    assert template(described) == template(ORDERS)


@pytest.mark.req("B3.3")
def test_accounts_and_certificates_come_from_secrets() -> None:
    on = target({"auth": {"secret": "accounts", "key": "a.conf"}, "tls": {"secret": "certs"}})
    (config,) = [v["projected"]["sources"] for v in pod(on)["volumes"] if v["name"] == "config"]
    secrets = {s["secret"]["name"]: [i["path"] for i in s["secret"]["items"]] for s in config if "secret" in s}
    assert secrets == {"accounts": ["auth.conf"], "certs": ["tls/tls.crt", "tls/tls.key", "tls/ca.crt"]}
    shared = nats.config(plane(), on)["nats.conf"]
    assert shared.endswith('include "auth.conf"\n')
    assert shared.count('ca_file: "/etc/nats/tls/ca.crt"') == 2
    assert "tls://nats-0.nats-headless:6222" in shared
    assert nats.url(on) == "tls://nats.default.svc:4222"
    assert nats.url(target()) == "nats://nats.default.svc:4222"


def test_a_pod_may_write_nothing_but_its_volumes_and_ask_kubernetes_for_nothing() -> None:
    found = pod(target())
    (container,) = found["containers"]
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["automountServiceAccountToken"] is False
    assert of_kind("ServiceAccount", plane(), target())["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_lives_longer_than_the_time_that_clients_get_to_leave() -> None:
    conf = nats.config(plane(), target())["nats.conf"]
    assert 'lame_duck_duration: "30s"' in conf
    assert 'lame_duck_grace_period: "10s"' in conf
    assert pod(target())["terminationGracePeriodSeconds"] > 40


def ports(on: Target) -> dict[int, Any]:
    policy = of_kind("NetworkPolicy", plane(), on)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    return {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}


def test_only_named_pods_reach_the_clients_port_and_only_servers_the_routes() -> None:
    peers = [
        {"namespace": "apps", "pods": {"app": "worker"}},
        {"namespace_labels": {"team": "agents"}},
        {"pods": {"x": "y"}},
    ]
    found = ports(target({"clients": peers, "monitoring": [{"namespace": "prometheus"}]}))
    named = {"kubernetes.io/metadata.name": "apps"}
    assert found[4222][:3] == [
        {"podSelector": {"matchLabels": {"app": "worker"}}, "namespaceSelector": {"matchLabels": named}},
        {"podSelector": {}, "namespaceSelector": {"matchLabels": {"team": "agents"}}},
        {"podSelector": {"matchLabels": {"x": "y"}}},
    ]
    own = of_kind("StatefulSet", plane(), target())["spec"]["selector"]["matchLabels"]
    assert found[6222] == [{"podSelector": {"matchLabels": own}}]
    assert len(found[8222]) == 1


def test_unless_told_otherwise_the_namespace_may_connect_and_nobody_reads_the_monitor() -> None:
    found = ports(target())
    assert {"podSelector": {}} in found[4222]
    assert 8222 not in found


@pytest.mark.parametrize(
    ("given", "cluster", "name"),
    [({"name": "bus"}, "east", "bus"), ({}, "nats-east", "nats-east"), ({}, "East 1", "nats"), ({}, None, "nats")],
)
def test_objects_are_named_after_the_cluster_where_that_is_a_name(given: Any, cluster: str | None, name: str) -> None:
    on = target(given, cluster=cluster)
    assert {m["metadata"]["name"] for m in nats.manifests(plane(), on)} == {name, f"{name}-headless"}
    assert set(nats.services(on)) == {name, f"{name}-headless"}
    assert f"name: {json.dumps(cluster or 'nats')}" in nats.config(plane(), on)["nats.conf"]
    assert on.facts.options["cluster"] == (cluster or "nats")


def test_the_image_is_of_the_declared_version_or_the_declared_one() -> None:
    assert nats.image(target(version="2.12.8")) == "nats:2.12.8-alpine"
    assert nats.image(target({"image": "mirror.example/nats:x"})) == "mirror.example/nats:x"
    assert nats.image(target()).startswith("nats:2.")


@pytest.mark.parametrize(
    ("size", "text"), [(2**30, "1Gi"), (3 * 2**29, "1536Mi"), (1000, "1000"), (2**41, "2Ti"), (0, "0")]
)
def test_sizes_are_written_exactly(size: int, text: str) -> None:
    assert quantity(size) == text


@pytest.mark.parametrize(("millicores", "text"), [(2000, "2"), (500, "500m"), (1500, "1500m")])
def test_processors_are_written_exactly(millicores: int, text: str) -> None:
    assert processors(millicores) == text


def test_the_claims_of_a_cluster_that_grew_bear_the_names_that_its_pods_use() -> None:
    on = target({"name": "n", "namespace": "agents", "storage": "100GiB"})
    found = nats.claims(plane(ORDERS), on)
    assert [c["metadata"]["name"] for c in found] == ["data-n-0", "data-n-1", "data-n-2"]
    (template,) = of_kind("StatefulSet", plane(ORDERS), on)["spec"]["volumeClaimTemplates"]
    assert {c["spec"]["resources"]["requests"]["storage"] for c in found} == {"100Gi"}
    assert template["spec"]["resources"] == found[0]["spec"]["resources"]
    assert {c["metadata"]["namespace"] for c in found} == {"agents"}
