"""Runs the servers of rendered manifests on this machine: their own configuration, with other ports and folders.

Only what a pod's surroundings decide is exchanged, each place once; all else reaches nats-server as rendered.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from provision.embedded.nats import program
from provision.embedded.process import LOOPBACK, free_ports, tail, wait_until

Manifest = Mapping[str, Any]
CERTIFICATES = ("tls.crt", "tls.key", "ca.crt")


class Pod(NamedTuple):
    """One server: its name, its folder, its ports, and the command and probes of its container."""

    name: str
    home: Path
    client: int
    monitor: int
    container: Manifest
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> tuple[int, Any]:
        """Ask the monitoring port; status 0 while it does not answer."""
        link = http.client.HTTPConnection(LOOPBACK, self.monitor, timeout=5)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException):
            return 0, {}
        finally:
            link.close()

    def is_healthy(self, probe: str) -> bool:
        """Whether a probe of the manifest succeeds."""
        return self.get(self.container[probe]["httpGet"]["path"])[0] == 200


def written(
    manifests: Sequence[Manifest], home: Path, secrets: Mapping[str, bytes]
) -> dict[str, tuple[Path, int, int]]:
    """Write each pod's folder of configuration; give folder, client port and monitoring port by the pod's name.

    ``secrets`` are what the Secrets of the manifests hold, by the path at which they are mounted.
    """
    (files,) = [m["data"] for m in manifests if m["kind"] == "ConfigMap"]
    (servers,) = [m["spec"] for m in manifests if m["kind"] == "StatefulSet"]
    (name,) = {m["metadata"]["name"] for m in manifests if m["kind"] == "StatefulSet"}
    pods = [f"{name}-{i}" for i in range(servers["replicas"])]
    clients, monitors, routes = (free_ports(3 * len(pods))[i::3] for i in range(3))
    assert len(set(clients) | set(monitors) | set(routes)) >= 2 * len(pods)
    for pod, client, monitor, route in zip(pods, clients, monitors, routes, strict=True):
        folder = home / pod
        folder.mkdir(parents=True)
        local = {
            r"^port: 4222$": f'host: "{LOOPBACK}"\nport: {client}',
            r"^http_port: 8222$": f'http: "{LOOPBACK}:{monitor}"',
            '"/data"': f'"{folder}/data"',
            '"/var/run/nats/nats.pid"': f'"{folder}/nats.pid"',
        }
        if len(pods) > 1:
            local["^  port: 6222$"] = f'  host: "{LOOPBACK}"\n  port: {route}'
            local |= {rf"//{p}\.{name}-headless:6222": f"//{LOOPBACK}:{r}" for p, r in zip(pods, routes, strict=True)}
        shared = files["nats.conf"]
        for pattern, here in local.items():
            shared, count = re.subn(pattern, here, shared, flags=re.MULTILINE)
            assert count == 1, f"{pattern} stands {count} times in nats.conf"
        (folder / "nats.conf").write_text(shared.replace('"/etc/nats/', f'"{folder}/'))
        (folder / f"{pod}.conf").write_text(files[f"{pod}.conf"])
        for path, data in secrets.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
    return {pod: (home / pod, c, m) for pod, c, m in zip(pods, clients, monitors, strict=True)}


@contextmanager
def running(manifests: Sequence[Manifest], home: Path, secrets: Mapping[str, bytes] = {}) -> Iterator[list[Pod]]:
    """Start what the StatefulSet starts, with its container's command, and wait until every startup probe succeeds."""
    (servers,) = [m["spec"] for m in manifests if m["kind"] == "StatefulSet"]
    (container,) = servers["template"]["spec"]["containers"]
    found = []
    try:
        for pod, (folder, client, monitor) in written(manifests, home, secrets).items():
            command = [part.replace("/etc/nats/$(POD_NAME)", str(folder / pod)) for part in container["command"][1:]]
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen([program(), *command], cwd=folder, stdout=log, stderr=log)
            found.append(Pod(pod, folder, client, monitor, container, process))
        if not wait_until(lambda: all(p.is_healthy("startupProbe") for p in found), 60, 0.1):
            raise AssertionError("\n".join(tail(pod.home / "log") for pod in found))
        yield found
    finally:
        for started in found:
            started.process.send_signal(signal.SIGKILL)
            started.process.wait()
        shutil.rmtree(home, ignore_errors=True)


def certificates(folder: Path, *names: str) -> dict[str, bytes]:
    """A Secret of certificates for these names and this machine, by the path of its keys."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH")
    folder.mkdir(parents=True)
    hosts = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in names)])

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-subj", "/CN=ca", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", *key, "-subj", "/CN=nats", "-keyout", "tls.key", "-out", "tls.csr")
    (folder / "extensions").write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
    openssl("x509", "-req", "-in", "tls.csr", "-out", "tls.crt", *signing)
    return {f"tls/{file}": (folder / file).read_bytes() for file in CERTIFICATES}
