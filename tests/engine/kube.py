"""A real Kubernetes API server with etcd below it, and a client that applies manifests on the server side.

There are no controllers, no kubelet and no webhooks: objects are validated, defaulted and stored, but nothing runs,
and deleting a namespace never ends. A namespace must exist before something is applied in it, even as a dry run.

    with kube.running(folder, tools.ready("kubernetes")) as cluster:
        cluster.apply(manifest, dry_run=True)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlencode

import psutil
import yaml

from provision.embedded import process

Manifest = dict[str, Any]
_PREFIX = "holdfast-kube-"
_ETCD, _APISERVER = "etcd", "kube-apiserver"


class Refused(Exception):
    """The API server refused a request; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Cluster:
    """A running API server, its administrator's token, and the certificate to trust."""

    url: str
    token: str
    ca: Path
    kubeconfig: Path
    _tls: ssl.SSLContext = field(repr=False)
    _resources: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def request(self, method: str, path: str, body: Manifest | None = None, form: str = "json", **query: str) -> Any:
        """Send one request and return the decoded answer."""
        request = urllib.request.Request(
            f"{self.url}{path}?{urlencode(query)}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{form}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
            with contextlib.suppress(ValueError):
                text = json.loads(text)["message"]
            raise Refused(error.code, text) from None
        return json.loads(text) if text.startswith("{") else text

    def path(self, manifest: Manifest) -> str:
        """The path of the object that a manifest describes; learnt from the server, also for custom resources."""
        version, kind, meta = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if kind not in self._resources.get(version, {}):
            listed = self.request("GET", base)["resources"]
            self._resources[version] = {r["kind"]: r for r in listed if "/" not in r["name"]}
        resource = self._resources[version].get(kind)
        if resource is None:
            raise Refused(404, f"{version} has no {kind}")
        space = f"/namespaces/{quote(meta.get('namespace', 'default'))}" if resource["namespaced"] else ""
        return f"{base}{space}/{resource['name']}/{quote(meta['name'])}"

    def apply(self, manifest: Manifest, *, dry_run: bool = False, manager: str = "tests", force: bool = False) -> Any:
        """Apply a manifest on the server side and return the object with all its defaults."""
        query = {"fieldManager": manager, "force": str(force).lower()} | ({"dryRun": "All"} if dry_run else {})
        return self.request("PATCH", self.path(manifest), manifest, "apply-patch+yaml", **query)

    def get(self, manifest: Manifest) -> Any:
        """Read the live object that a manifest describes."""
        return self.request("GET", self.path(manifest))

    def delete(self, manifest: Manifest) -> None:
        """Delete the object that a manifest describes."""
        self.request("DELETE", self.path(manifest))

    def define(self, crds: Path) -> None:
        """Apply all CustomResourceDefinitions of a folder and wait until the server knows their kinds."""
        waiting = []
        for file in sorted(crds.glob("*.yaml")):
            crd = yaml.load(file.read_text("utf-8"), Loader=yaml.CSafeLoader)
            self.apply(crd)
            waiting.append(crd)

        def serves(crd: Manifest) -> bool:
            conditions = self.get(crd).get("status", {}).get("conditions", [])
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
            try:
                self.path({"apiVersion": f"{group}/{_served(crd)}", "kind": kind, "metadata": {"name": "x"}})
            except Refused:
                return False
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        if not process.wait_until(lambda: all(serves(crd) for crd in waiting), 30, 0.1):
            raise TimeoutError("the API server did not establish all CRDs in 30 s")


def _served(crd: Manifest) -> str:
    return next(str(v["name"]) for v in crd["spec"]["versions"] if v["served"])


@contextlib.contextmanager
def running(parent: Path, programs: Path) -> Iterator[Cluster]:
    """Start etcd and kube-apiserver of ``programs`` in a folder below ``parent``; both end, and it goes, afterwards."""
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    etcd_port, peer_port, port = process.free_ports(3)
    etcd, peer = (f"http://{process.LOOPBACK}:{p}" for p in (etcd_port, peer_port))
    token = token_hex(16)
    tokens = folder / "tokens.csv"
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    tokens.chmod(0o600)
    certificate, key = folder / "apiserver.crt", folder / "apiserver.key"  # the server makes them
    etcd_options = {
        "data-dir": folder / "etcd",
        "listen-client-urls": etcd,
        "advertise-client-urls": etcd,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "unsafe-no-fsync": "true",
    }
    apiserver_options = {
        "etcd-servers": etcd,
        "bind-address": process.LOOPBACK,
        "advertise-address": process.LOOPBACK,
        "secure-port": port,
        "cert-dir": folder,
        "service-cluster-ip-range": "10.0.0.0/24",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "authorization-mode": "RBAC",
        "token-auth-file": tokens,
        "disable-admission-plugins": "ServiceAccount",
    }
    url = f"https://{process.LOOPBACK}:{port}"
    try:
        _start(programs / _ETCD, etcd_options, folder)
        pid = _start(programs / _APISERVER, apiserver_options, folder)
        if not process.wait_until(lambda: certificate.exists() or not process.is_alive(pid), 60):
            raise TimeoutError(_story(folder))
        if not process.wait_until(lambda: _answers(url, token, certificate) or not process.is_alive(pid), 90, 0.1):
            raise TimeoutError(_story(folder))
        if not process.is_alive(pid):
            raise RuntimeError(_story(folder))
        kubeconfig = _kubeconfig(folder, url, token, certificate)
        yield Cluster(url, token, certificate, kubeconfig, ssl.create_default_context(cafile=certificate))
    finally:
        _end(folder)


def _start(program: Path, options: dict[str, object], folder: Path) -> int:
    command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
    return process.spawn(command, folder, folder / f"{program.name}.log")


def _answers(url: str, token: str, certificate: Path) -> bool:
    """Whether the server is ready, its first namespaces included."""
    try:
        tls = ssl.create_default_context(cafile=certificate)
        cluster = Cluster(url, token, certificate, certificate, tls)
        cluster.request("GET", "/api/v1/namespaces/default")
        return bool(cluster.request("GET", "/readyz") == "ok")
    except (OSError, Refused):  # an ssl error is an OSError
        return False


def _kubeconfig(folder: Path, url: str, token: str, certificate: Path) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return file


def _story(folder: Path) -> str:
    return "\n".join(process.tail(folder / f"{name}.log") for name in (_ETCD, _APISERVER))


def _end(folder: Path) -> None:
    """End the servers that run in ``folder``, the API server first, and delete it."""
    for program in (_APISERVER, _ETCD):
        for pid in process.inside(folder, program):
            if not process.end(pid, program, folder, signal.SIGTERM, 15):
                process.end(pid, program, folder, signal.SIGKILL, 5)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """End what test runs left that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _end(folder)
