"""What the manifests of all servers share: names, labels, quantities, security, and who may connect. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from provision.spec import kubernetes
from provision.spec.fields import Json
from provision.spec.record import Plane
from provision.spec.target import Target

#: One object of Kubernetes as its API takes it.
Manifest = dict[str, Any]

#: Service of the cluster's DNS (Kubernetes documentation, DNS for Services and Pods).
_DNS_PORT = 53
#: Pods of our own Jobs, in the namespace of what they work on.
HOLDFAST: Json = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "holdfast"}}}
_UNITS = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def options(target: Target) -> Mapping[str, Any]:
    """Give the ``kubernetes`` settings of a target, defaults where it has none."""
    found = target.settings["kubernetes"]
    return kubernetes.TABLES[target.system].parse({}) if found is None else found


def name_of(target: Target) -> str:
    """Give the name that a target's objects share."""
    return kubernetes.name_of(target.system, target.settings)


class Place(NamedTuple):
    """Whose objects they are: ``name`` of all, their ``namespace``, and the ``product`` that runs there."""

    name: str
    namespace: str
    product: str
    plane: str

    @property
    def selector(self) -> dict[str, str]:
        """The labels that find the pods. They never change: a StatefulSet's selector cannot."""
        return {"app.kubernetes.io/name": self.product, "app.kubernetes.io/instance": self.name}

    @property
    def labels(self) -> dict[str, str]:
        own = {"app.kubernetes.io/managed-by": "holdfast"}
        # A plane's name may end in - or _, a label's value may not.
        part = {"app.kubernetes.io/part-of": self.plane.rstrip("-_")} if self.plane else {}
        return {**self.selector, **own, **part}

    def metadata(self, suffix: str = "") -> Json:
        """Metadata of the object that has the shared name, or that name with a suffix."""
        return {"name": self.name + suffix, "namespace": self.namespace, "labels": self.labels}


def place(plane: Plane, target: Target, product: str) -> Place:
    """Say where the objects of a target go."""
    return Place(name_of(target), options(target)["namespace"], product, plane.name)


def quantity(size: int) -> str:
    """Write bytes as Kubernetes does, in the largest binary unit that keeps them whole."""
    return next((f"{size // unit}{word}" for word, unit in _UNITS if size and size % unit == 0), str(size))


def processors(millicores: int) -> str:
    """Write thousandths of a processor: ``2`` or ``500m``."""
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def resources(cpu: int | None, memory: int | None) -> Json:
    """Request what is also the limit, so that the pod is among the last to be evicted (QoS class Guaranteed)."""
    found = {}
    if cpu is not None:
        found["cpu"] = processors(cpu)
    if memory is not None:
        found["memory"] = quantity(memory)
    return {"requests": found, "limits": dict(found)} if found else {}


def pod_security(user: int) -> Json:
    """Run as an ordinary user, as the restricted Pod Security Standard wants it."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Json:
    """Allow a container nothing but its own volumes."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pull_secrets(target: Target) -> Json:
    """Name the Secrets to pull images with, as a pod's spec wants them; nothing where there are none."""
    names = options(target)["pull_secrets"]
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def service_account(where: Place) -> Manifest:
    """An account without a token: the servers ask Kubernetes for nothing."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": where.metadata(),
        "automountServiceAccountToken": False,
    }


def disruption_budget(where: Place) -> Manifest:
    """Let nodes be drained one server at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": where.metadata(),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": where.selector},
        },
    }


def spread(where: Place, topology_key: str) -> Json:
    """Put no two servers on a node, and spread them evenly over the values of a label of nodes."""
    selector = {"matchLabels": where.selector}
    nodes = "kubernetes.io/hostname"
    apart = {"labelSelector": selector, "topologyKey": nodes}
    found: Json = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}}
    if topology_key != nodes:
        found["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": topology_key,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector,
            }
        ]
    return found


class Opening(NamedTuple):
    """A port and the peers that may connect to it."""

    port: int
    peers: tuple[Json, ...]


def clients(target: Target, option: str = "clients") -> tuple[Json, ...]:
    """Give the peers that a target's ``clients`` or ``monitoring`` name; unset is every pod of the namespace."""
    named = options(target)[option]
    return ({"podSelector": {}},) if named is None else tuple(_peer(entry) for entry in named)


def _peer(entry: Mapping[str, Any]) -> Json:
    peer: Json = {"podSelector": {"matchLabels": entry["pods"]} if entry["pods"] else {}}
    labels = dict(entry["namespace_labels"] or {})
    if entry["namespace"]:
        labels["kubernetes.io/metadata.name"] = entry["namespace"]
    if labels:
        peer["namespaceSelector"] = {"matchLabels": labels}
    return peer


def network_policy(where: Place, inward: Iterable[Opening], outward: Iterable[Opening] | None = None) -> Manifest:
    """Close the pods to everyone but these peers. ``outward`` None leaves alone what they connect to; DNS is added.

    Kubelet's probes come from the pod's own node and are let in by every network (Kubernetes documentation,
    Network Policies).
    """
    spec: Json = {"podSelector": {"matchLabels": where.selector}, "policyTypes": ["Ingress"]}
    spec["ingress"] = [_rule("from", opening) for opening in inward if opening.peers]
    if outward is not None:
        dns = [{"protocol": protocol, "port": _DNS_PORT} for protocol in ("UDP", "TCP")]
        spec["policyTypes"].append("Egress")
        spec["egress"] = [*(_rule("to", opening) for opening in outward), {"ports": dns}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": where.metadata(),
        "spec": spec,
    }


def own_pods(where: Place) -> tuple[Json, ...]:
    """The servers themselves, as peers."""
    return ({"podSelector": {"matchLabels": where.selector}},)


def _rule(word: str, opening: Opening) -> Json:
    return {word: list(opening.peers), "ports": [{"protocol": "TCP", "port": opening.port}]}
