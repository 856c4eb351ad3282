"""NATS servers as a StatefulSet with JetStream, and everything that belongs to it. Pure.

Probes, shutdown and discovery follow the official chart (nats-io/k8s, helm/charts/nats). Each server has a file
of configuration of its own, chosen by the pod's name, so that servers may bear different tags.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from provision.kubernetes import objects, sizes
from provision.kubernetes.objects import Manifest, Opening, Place
from provision.spec.fields import Json
from provision.spec.record import Plane
from provision.spec.target import Target
from provision.spec.units import format_duration

#: Where a target names none. 2.15.1 loses keys of a bucket that is written to while it is backed up.
VERSION = "2.14.6"
CLIENT, ROUTE, MONITOR = 4222, 6222, 8222
HEADLESS = "-headless"
_USER = 1000
_CONFIG, _DATA, _RUN = "/etc/nats", "/data", "/var/run/nats"
_PID = f"{_RUN}/nats.pid"
_VOLUME = "data"
_CPU = 2000
#: After the grace clients are asked to leave, spread over the duration; 20 s are for the end itself.
_GRACE_S, _LAME_DUCK_S, _END_S = 10, 30, 20


def manifests(plane: Plane, target: Target) -> tuple[Manifest, ...]:
    """Give the objects that run a NATS target whose specs have passed the checks."""
    where = objects.place(plane, target, "nats")
    files = config(plane, target)
    budget = [objects.disruption_budget(where)] if _servers(target) > 1 else []
    return (
        objects.service_account(where),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where.metadata(), "data": files},
        _service(where, target, HEADLESS, {"clusterIP": "None", "publishNotReadyAddresses": True}),
        _service(where, target, "", {}),
        _stateful_set(plane, target, where, files),
        *budget,
        _network_policy(where, target),
    )


def claims(plane: Plane, target: Target) -> tuple[Manifest, ...]:
    """Give what must be true of the volumes' claims, to be patched into those that the StatefulSet made.

    A StatefulSet cannot change its templates of claims, and never touches a claim again; a StorageClass may let
    claims grow. Whoever applies this must own nothing but the field, so that no volume is deleted with it.
    """
    where = objects.place(plane, target, "nats")
    size = objects.quantity(sizes.nats(plane, target).storage)
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{_VOLUME}-{where.name}-{i}", "namespace": where.namespace},
            "spec": {"resources": {"requests": {"storage": size}}},
        }
        for i in range(_servers(target))
    )


def url(target: Target) -> str:
    """Give the address of a target's servers for clients inside the same Kubernetes."""
    given = objects.options(target)
    scheme = "tls" if given["tls"] else "nats"
    return f"{scheme}://{objects.name_of(target)}.{given['namespace']}.svc:{CLIENT}"


def services(target: Target) -> tuple[str, ...]:
    """Give the names of the Services that a target has in its namespace."""
    name = objects.name_of(target)
    return name, name + HEADLESS


def _servers(target: Target) -> int:
    return int(target.settings["servers"] or 1)


# Configuration ----------------------------------------------------------------------------------------------


def config(plane: Plane, target: Target) -> dict[str, str]:
    """Give the files of configuration: ``nats.conf``, and one for each pod, under its name, that includes it."""
    files = {"nats.conf": _shared(plane, target)}
    for ordinal, tags in enumerate(sizes.server_tags(target)):
        pod = f"{objects.name_of(target)}-{ordinal}"
        own = {"server_name": pod, **({"server_tags": tags} if tags else {})}
        files[f"{pod}.conf"] = _written(own) + _include("nats.conf")
    return files


def _shared(plane: Plane, target: Target) -> str:
    given, made = objects.options(target), sizes.nats(plane, target)
    shared: Json = {
        "port": CLIENT,
        "http_port": MONITOR,
        "pid_file": _PID,
        "max_payload": made.max_payload,
        "lame_duck_grace_period": f"{_GRACE_S}s",
        "lame_duck_duration": f"{_LAME_DUCK_S}s",
        "jetstream": _jetstream(target, made),
    }
    if given["tls"]:
        shared["tls"] = {**_certificates(), "verify": given["tls"]["verify"]}
    if _servers(target) > 1:
        shared["cluster"] = _cluster(target)
    return _written(shared) + (_include("auth.conf") if given["auth"] else "")


def _jetstream(target: Target, made: sizes.Sizes) -> Json:
    # What was acknowledged within the interval is lost with the power; the server's default is two minutes.
    sync = objects.options(target)["sync_interval"]
    found = {
        "store_dir": _DATA,
        "max_file_store": made.max_file_store,
        "max_memory_store": made.max_memory_store,
        "sync_interval": sync if sync == "always" else format_duration(sync),
    }
    return {**found, "domain": target.settings["domain"]} if target.settings["domain"] else found


def _cluster(target: Target) -> Json:
    given, name = objects.options(target), objects.name_of(target)
    scheme = "tls" if given["tls"] else "nats"
    found: Json = {
        "name": target.settings["cluster"] or name,
        "port": ROUTE,
        # Addresses of pods are of no use to clients: they change, and no certificate names them.
        "no_advertise": True,
        "routes": [f"{scheme}://{name}-{i}.{name}{HEADLESS}:{ROUTE}" for i in range(_servers(target))],
    }
    return {**found, "tls": _certificates()} if given["tls"] else found


def _certificates() -> Json:
    return {
        "cert_file": f"{_CONFIG}/tls/tls.crt",
        "key_file": f"{_CONFIG}/tls/tls.key",
        "ca_file": f"{_CONFIG}/tls/ca.crt",
    }


def _written(settings: Json, indent: str = "") -> str:
    """Write settings in the server's language: blocks, in which JSON's scalars and lists are values."""
    return "".join(
        f"{indent}{key} {{\n{_written(value, indent + '  ')}{indent}}}\n"
        if isinstance(value, dict)
        else f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in settings.items()
    )


def _include(file: str) -> str:
    """Include a file that lies beside the including one."""
    return f'include "{file}"\n'


# The pods ---------------------------------------------------------------------------------------------------


def _stateful_set(plane: Plane, target: Target, where: Place, files: dict[str, str]) -> Manifest:
    given = objects.options(target)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    volume: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": objects.quantity(sizes.nats(plane, target).storage)}},
    }
    if given["storage_class"]:
        volume["storageClassName"] = given["storage_class"]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": where.metadata(),
        "spec": {
            "replicas": _servers(target),
            "serviceName": where.name + HEADLESS,
            # Servers need each other to become ready.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "selector": {"matchLabels": where.selector},
            "template": {
                # A change of configuration replaces the pods, one at a time.
                "metadata": {"labels": where.labels, "annotations": {"holdfast/config": digest}},
                "spec": _pod(plane, target, where),
            },
            "volumeClaimTemplates": [{"metadata": {"name": _VOLUME, "labels": where.selector}, "spec": volume}],
        },
    }


def _pod(plane: Plane, target: Target, where: Place) -> Json:
    given = objects.options(target)
    return {
        "serviceAccountName": where.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **objects.pull_secrets(target),
        "securityContext": objects.pod_security(_USER),
        "terminationGracePeriodSeconds": _GRACE_S + _LAME_DUCK_S + _END_S,
        **(objects.spread(where, given["topology_key"]) if _servers(target) > 1 else {}),
        "containers": [_container(plane, target)],
        "volumes": [
            {"name": "config", "projected": {"sources": _sources(target, where)}},
            {"name": "run", "emptyDir": {}},
        ],
    }


def _sources(target: Target, where: Place) -> list[Json]:
    """What lies in the folder of configuration: our files, and the Secrets that they name."""
    given = objects.options(target)
    found: list[Json] = [{"configMap": {"name": where.name}}]
    if auth := given["auth"]:
        found.append({"secret": {"name": auth["secret"], "items": [{"key": auth["key"], "path": "auth.conf"}]}})
    if tls := given["tls"]:
        items = [{"key": key, "path": f"tls/{key}"} for key in ("tls.crt", "tls.key", "ca.crt")]
        found.append({"secret": {"name": tls["secret"], "items": items}})
    return found


def _container(plane: Plane, target: Target) -> Json:
    given, made = objects.options(target), sizes.nats(plane, target)
    ports = {"nats": CLIENT, "cluster": ROUTE, "monitor": MONITOR}
    pod_name = {"fieldRef": {"fieldPath": "metadata.name"}}
    return {
        "name": "nats",
        "image": image(target),
        "command": ["nats-server", "--config", f"{_CONFIG}/$(POD_NAME).conf"],
        "env": [
            {"name": "POD_NAME", "valueFrom": pod_name},
            # Go collects harder before the kernel kills: an eighth is left for what is not its heap.
            {"name": "GOMEMLIMIT", "value": f"{made.memory * 7 // 8 // sizes.MIB}MiB"},
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": objects.resources(given["cpu"] or _CPU, made.memory),
        "securityContext": objects.container_security(),
        # Let clients move to other servers before this one goes.
        "lifecycle": {"preStop": {"exec": {"command": ["nats-server", f"-sl=ldm={_PID}"]}}},
        "startupProbe": _probe("/healthz", period_s=10, failures=90),
        "readinessProbe": _probe("/healthz?js-server-only=true", period_s=10, failures=3),
        "livenessProbe": _probe("/healthz?js-enabled-only=true", period_s=30, failures=3),
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            {"name": "run", "mountPath": _RUN},
            {"name": _VOLUME, "mountPath": _DATA},
        ],
    }


def image(target: Target) -> str:
    """Give the image of a target's servers; a version of less than three parts leaves the choice to the registry."""
    given: str | None = objects.options(target)["image"]
    return given or f"nats:{target.settings['version'] or VERSION}-alpine"


def _probe(path: str, *, period_s: int, failures: int) -> Json:
    """Ask the server for its health (NATS documentation, Monitoring, /healthz)."""
    return {
        "httpGet": {"path": path, "port": "monitor"},
        "initialDelaySeconds": 10,
        "timeoutSeconds": 5,
        "periodSeconds": period_s,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


# The network ------------------------------------------------------------------------------------------------


def _service(where: Place, target: Target, suffix: str, more: dict[str, Any]) -> Manifest:
    """Name the servers: all together for clients, and each one, ready or not, for the others."""
    encrypted = "tls" if objects.options(target)["tls"] else "tcp"
    ports = [("nats", CLIENT, encrypted)]
    if suffix == HEADLESS:
        ports += [("cluster", ROUTE, encrypted), ("monitor", MONITOR, "http")]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": where.metadata(suffix),
        "spec": {
            **more,
            "selector": where.selector,
            "ports": [{"name": n, "port": p, "targetPort": n, "appProtocol": protocol} for n, p, protocol in ports],
        },
    }


def _network_policy(where: Place, target: Target) -> Manifest:
    own = objects.own_pods(where)
    inward = [
        Opening(CLIENT, (*objects.clients(target), objects.HOLDFAST)),
        Opening(ROUTE, own),
        Opening(MONITOR, objects.clients(target, "monitoring")),
    ]
    return objects.network_policy(where, inward, [Opening(ROUTE, own)])
