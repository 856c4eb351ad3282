"""Holdfast inside the cluster: a CronJob that keeps partitions ahead, and a Job that applies the specs. Pure.

Both take the specs from a ConfigMap and secrets by reference. The image is the reader's: the Dockerfile at the root
of the project makes one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from provision.kubernetes.objects import (
    Manifest,
    Place,
    container_security,
    name_of,
    options,
    place,
    pod_security,
    pull_secrets,
)
from provision.kubernetes.postgres import deployer
from provision.spec.errors import InputError
from provision.spec.fields import Json
from provision.spec.record import Plane
from provision.spec.target import Target

#: Where the Secret of the specs is mounted, if they name files in it.
SECRETS = "/run/secrets/holdfast"
#: Where the certificate authority of each cluster of PostgreSQL is, as TARGET.crt.
AUTHORITIES = "/run/secrets/postgres"
#: The user of the Dockerfile.
USER = 65532
_WORK = "/plane"
#: Where the claim for archived partitions is.
_ARCHIVE = "/archive"
#: Together the values of a ConfigMap take no more (Kubernetes documentation, ConfigMaps).
_CONFIG_MAP_BYTES = 2**20
_KEY_LENGTH = 253
_RESOURCES: Json = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
_DAY_S, _HOUR_S = 86_400, 3_600
#: Exit code of apply for a missing consent: another try misses it too.
_CONSENT = 3


class Specs(NamedTuple):
    """Specs on their way into a cluster. ``paths`` are the files by their key in the ConfigMap."""

    config_map: Manifest
    paths: Mapping[str, str]
    folder: str

    @property
    def name(self) -> str:
        return str(self.config_map["metadata"]["name"])


def specs(plane: Plane, target: Target, files: Mapping[str, str], folder: str = "specs") -> Specs:
    """Put spec files and the files that they refer to into a ConfigMap that never changes: others have other names.

    ``files`` are texts by path from the folder that holds the specs' ``folder``. Raises InputError for a path that
    leads out of it, and for specs that are too large.
    """
    size = sum(len(text.encode()) for text in files.values())
    if size > _CONFIG_MAP_BYTES:
        message = f"the specs have {size} bytes, and a ConfigMap takes {_CONFIG_MAP_BYTES}"
        raise InputError(message, "Split the plane, or apply from outside of the cluster.")
    paths = {_key(path): path for path in sorted(files)}
    data = {key: files[path] for key, path in paths.items()}
    where = place(plane, target, "holdfast")
    name = f"{where.name}-specs-{_digest([folder, *paths.items(), *data.items()])}"
    metadata = {**where.metadata(), "name": name}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}
    return Specs(config_map, paths, folder)


def maintenance(plane: Plane, target: Target, found: Specs) -> tuple[Manifest, ...]:
    """Give the CronJob of a Postgres target; none where the target does not ask for it.

    A run that hangs would keep out all later ones, so it ends after an hour. Raises InputError for a secret of the
    specs that no Secret holds, and where partitions are archived and no claim is named for them.
    """
    wanted = options(target)["maintenance"]
    if wanted is None:
        return ()
    where = place(plane, target, "holdfast")
    secrets = _Secrets(where.namespace, (target,), (), wanted["secret"])
    args = ["partitions", "maintain", *_where(plane, found)]
    template = _template(where, target, "maintenance", wanted["image"], args, found, secrets)
    _keep_archives(template["spec"], _claim(plane, target))
    spec: Json = {
        "schedule": wanted["schedule"],
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": {"backoffLimit": 2, "activeDeadlineSeconds": _HOUR_S, "template": template}},
    }
    # A CronJob adds the time to the names of its Jobs.
    metadata = {**where.metadata(), "name": f"{where.name[:41].rstrip('-')}-partitions"}
    return ({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec},)


def _claim(plane: Plane, target: Target) -> str | None:
    """The claim for archives; a run works on the sets of all targets."""
    claim = options(target)["maintenance"]["archive"]
    sets = (r for r in plane.of_kind("partitions") if r.settings["retain"] and r.settings["on_expiry"] == "archive")
    first = next((str(r.address) for r in sets), None)
    if first is not None and claim is None:
        help = (
            "Name a PersistentVolumeClaim in kubernetes.maintenance.archive of the target,"
            " or let the set's on_expiry be drop or detach."
        )
        raise InputError(f"{first} archives what expired, and the disk of a Job is gone with it", help)
    return None if claim is None else str(claim)


def _keep_archives(pod: Json, claim: str | None) -> None:
    if claim is None:
        return
    (container,) = pod["containers"]
    container["env"].append({"name": "HOLDFAST_ARCHIVE", "value": _ARCHIVE})
    container["volumeMounts"].append({"name": "archive", "mountPath": _ARCHIVE})
    pod["volumes"].append({"name": "archive", "persistentVolumeClaim": {"claimName": claim}})


def apply_job(
    plane: Plane,
    target: Target,
    targets: Iterable[Target],
    found: Specs,
    *,
    image: str,
    secret: str | None = None,
    allow: Sequence[str] = (),
) -> Manifest:
    """Give the Job that applies the specs where the servers can be reached; it goes to the namespace of ``target``.

    Its name holds a digest of everything it does: what changes makes a new Job, what does not makes none. ``targets``
    are those of the plane, ``secret`` has the variables that they and the roles refer to. Raises InputError for a
    secret of the specs that no Secret holds.
    """
    where = place(plane, target, "holdfast")
    passwords = [role.settings["password"] for role in plane.of_kind("role")]
    wanted = options(target).get("maintenance")
    secrets = _Secrets(where.namespace, tuple(targets), passwords, secret or (wanted and wanted["secret"]))
    consents = [part for consent in allow for part in ("--allow", consent)]
    args = ["apply", "--yes", *_where(plane, found), *consents]
    spec: Json = {
        "backoffLimit": 3,
        "ttlSecondsAfterFinished": _DAY_S,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "holdfast", "operator": "In", "values": [_CONSENT]},
                }
            ]
        },
        "template": _template(where, target, "apply", image, args, found, secrets),
    }
    metadata = {**where.metadata(), "name": f"{where.name[:46].rstrip('-')}-apply-{_digest(spec)}"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


class _Secrets:
    """What a pod needs to resolve the references of targets and of roles' passwords.

    ``clusters`` are those whose own Secrets it may use: those of its namespace.
    """

    def __init__(self, namespace: str, targets: Sequence[Target], passwords: Iterable[Any], secret: str | None) -> None:
        self.secret = secret
        self.clusters = [
            t for t in targets if (t.system, t.kind) == ("pg", "kubernetes") and options(t)["namespace"] == namespace
        ]
        self._keys: dict[str, tuple[str, str]] = {}
        for target in self.clusters:
            role = deployer(target)
            for word, key in (("user", "username"), ("password", "password")):
                reference = target.settings[word]
                if isinstance(reference, Mapping) and "env" in reference:
                    self._keys[reference["env"]] = (role.secret, key)
        settings = [{k: v for k, v in t.settings.items() if k != "kubernetes"} for t in targets]
        texts = list(_texts([*settings, *passwords]))
        self.names = sorted({text for word, text in texts if word == "env"})
        self._refuse(sorted({text for word, text in texts if word == "file"}))
        self.has_files = secret is not None and any(text.startswith(f"{SECRETS}/") for _, text in texts)

    def _refuse(self, files: list[str]) -> None:
        """Raise InputError for what the pod would not find."""
        missing = [name for name in self.names if name not in self._keys] if self.secret is None else []
        if missing:
            help = "Name a Secret that has them as keys, in kubernetes.maintenance.secret of the target."
            raise InputError(f"no Secret holds {', '.join(missing)}, which the specs refer to", help)
        strange = [path for path in files if self.secret is None or PurePosixPath(path).parent.as_posix() != SECRETS]
        if strange:
            help = f"Write {{file: {SECRETS}/KEY}}, with a key of the Secret in kubernetes.maintenance.secret."
            raise InputError(f"inside the cluster there is no file {', '.join(strange)}", help)

    def variables(self) -> list[Json]:
        """The variables of the container. A single cluster's authority is trusted unless the specs name another."""
        found: list[Json] = []
        for name in self.names:
            secret, key = self._keys.get(name, (self.secret, name))
            found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
        if len(self.clusters) == 1:
            found.append({"name": "PGSSLROOTCERT", "value": f"{AUTHORITIES}/{self.clusters[0].name}.crt"})
        return found

    def volumes(self) -> Iterator[tuple[Json, Json]]:
        """Volumes, each with its mount."""
        sources = [
            {"secret": {"name": f"{name_of(t)}-ca", "items": [{"key": "ca.crt", "path": f"{t.name}.crt"}]}}
            for t in self.clusters
        ]
        if sources:
            volume = {"name": "authorities", "projected": {"sources": sources, "defaultMode": 0o440}}
            yield volume, {"name": "authorities", "mountPath": AUTHORITIES, "readOnly": True}
        if self.has_files:
            yield (
                {"name": "secrets", "secret": {"secretName": self.secret, "defaultMode": 0o440}},
                {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
            )


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Give every text below a value with the key that leads to it: ``env`` and ``file`` for references."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from ((key, inner),) if isinstance(inner, str) else _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from (("", inner),) if isinstance(inner, str) else _texts(inner)


def _where(plane: Plane, found: Specs) -> list[str]:
    return ["--specs", f"{_WORK}/{found.folder}", "--env", plane.env]


def _template(
    where: Place, target: Target, component: str, image: str, args: list[str], found: Specs, secrets: _Secrets
) -> Json:
    """The pod: nothing of the image can be written, and nothing of Kubernetes be asked.

    Parts of a ConfigMap are mounted by ``subPath``: whole, its folders are links, which a search for specs does
    not follow. Besides them the working folder is empty and may be written.
    """
    items = [{"key": key, "path": path} for key, path in found.paths.items()]
    tops = dict.fromkeys(path.partition("/")[0] for path in found.paths.values())
    further = list(secrets.volumes())
    container: Json = {
        "name": "holdfast",
        "image": image,
        "command": ["holdfast"],
        "args": args,
        "workingDir": _WORK,
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own
            {"name": "NO_COLOR", "value": "1"},
            *secrets.variables(),
        ],
        "resources": _RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "work", "mountPath": _WORK},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            *({"name": "specs", "mountPath": f"{_WORK}/{top}", "subPath": top, "readOnly": True} for top in tops),
            *(mount for _, mount in further),
        ],
    }
    spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": pod_security(USER),
        "containers": [container],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "specs", "configMap": {"name": found.name, "items": items}},
            *(volume for volume, _ in further),
        ],
        **pull_secrets(target),
    }
    labels = {**where.labels, "app.kubernetes.io/component": component}
    return {"metadata": {"labels": labels}, "spec": spec}


def _key(path: str) -> str:
    """A key of a ConfigMap for a path. One that had to be changed keeps apart by a digest."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path:
        raise InputError(f"{path} lies outside of the folder of the specs", "Move it beside the specs, or below them.")
    plain = path.replace("/", "--")
    if (
        re.fullmatch(r"[A-Za-z0-9._-]+", plain)
        and not plain.startswith("..")
        and "--" not in path
        and len(plain) <= _KEY_LENGTH
    ):
        return plain
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', plain)[:200]}-{_digest(path)}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
