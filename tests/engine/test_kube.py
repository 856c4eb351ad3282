"""The API server that other tests rely on answers as a cluster does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine import kube, tools

pytestmark = pytest.mark.soak


def stateful_set(**spec: Any) -> kube.Manifest:
    labels = {"app": "nats"}
    container = {"name": "nats", "image": "nats:2"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "nats", "namespace": "default"},
        "spec": {"serviceName": "nats", "selector": {"matchLabels": labels}, "template": template, **spec},
    }


def cnpg_cluster(**spec: Any) -> kube.Manifest:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "main", "namespace": "default"},
        "spec": {"instances": 3, "storage": {"size": "1Gi"}, **spec},
    }


def test_a_dry_run_fills_defaults_and_stores_nothing(cluster: kube.Cluster) -> None:
    filled = cluster.apply(stateful_set(), dry_run=True)
    assert filled["spec"]["podManagementPolicy"] == "OrderedReady"
    with pytest.raises(kube.Refused, match="not found") as refused:
        cluster.get(stateful_set())
    assert refused.value.status == 404


def test_a_misspelled_field_is_refused(cluster: kube.Cluster) -> None:
    with pytest.raises(kube.Refused, match=r"\.spec\.replicaz: field not declared in schema"):
        cluster.apply(stateful_set(replicaz=2), dry_run=True)
    with pytest.raises(kube.Refused, match=r"\.spec\.instancez: field not declared in schema"):
        cluster.apply(cnpg_cluster(instancez=2), dry_run=True)


def test_custom_resources_get_their_defaults(cluster: kube.Cluster) -> None:
    assert cluster.apply(cnpg_cluster(), dry_run=True)["spec"]["enableSuperuserAccess"] is False


def test_an_applied_object_can_be_read_changed_and_deleted(cluster: kube.Cluster) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    cluster.apply(config)
    cluster.apply(config | {"data": {"b": "2"}})
    assert cluster.get(config)["data"] == {"b": "2"}
    with pytest.raises(kube.Refused, match="conflict") as refused:
        cluster.apply(config | {"data": {"b": "3"}}, manager="another", dry_run=True)
    assert refused.value.status == 409
    cluster.delete(config)
    with pytest.raises(kube.Refused, match="not found"):
        cluster.get(config)


def test_servers_of_a_killed_run_end_with_the_next(tmp_path: Path) -> None:
    programs = tools.built("kubernetes")
    script = (
        "import os, signal; from pathlib import Path; from tests.engine import kube\n"
        f"with kube.running(Path({str(tmp_path)!r}), Path({str(programs)!r})): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=tools.DRIVER.parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    servers = [p for p in psutil.process_iter() if _cwd(p) == left]
    assert sorted(p.name() for p in servers) == ["etcd", "kube-apiserver"]
    with kube.running(tmp_path, programs):
        assert not left.exists()
        assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in servers)
    assert list(tmp_path.iterdir()) == []


def _cwd(process: psutil.Process) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/{process.pid}/cwd"))
    except OSError:
        return None
