"""The plane of specs/ in an environment whose PostgreSQL runs on Kubernetes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from provision.reconcile.workspace import Workspace
from provision.spec.record import Plane
from provision.spec.target import Target

SPECS = Path(__file__).parents[2] / "specs"
KUBERNETES: dict[str, Any] = {
    "namespace": "agents",
    "storage": "100GiB",
    "wal_storage": "20GiB",
    "cpu": 2,
    "memory": "8GiB",
    "deployer": {"name": "holdfast_deployer", "secret": "postgres-deployer"},
    "backup": {"schedule": "0 0 2 * * *", "parameters": {"barmanObjectName": "postgres"}},
    "maintenance": {"image": "holdfast:1", "secret": "holdfast"},
    "clients": [{"namespace": "agents-app", "pods": {"app": "agents"}}],
    "monitoring": [{"namespace": "monitoring"}],
    "poolers": {"cpu": "250m", "memory": "128MiB"},
    "topology_key": "topology.kubernetes.io/zone",
}
POSTGRES: dict[str, Any] = {
    "kind": "kubernetes",
    "host": "postgres-rw.agents.svc",
    "endpoints": {"replica": "postgres-ro.agents.svc", "analytics": "analytics-db.internal"},
    "database": "mister_smith",
    "user": "holdfast_deployer",
    "password": {"env": "DEPLOYER_PASSWORD"},
}
POOLED = {"pgbouncer": True, "mode": "transaction"}
OVERRIDE: dict[str, Any] = {"pools": {"primary": POOLED, "replica": POOLED}}


class Found(NamedTuple):
    """Specs as the manifests' functions take them. ``files`` are their texts by path from the folder ``root``."""

    root: Path
    plane: Plane
    target: Target
    targets: dict[tuple[str, str], Target]

    @property
    def files(self) -> dict[str, str]:
        paths = sorted(p for p in (self.root / "specs").rglob("*") if p.is_file())
        return {p.relative_to(self.root).as_posix(): p.read_text() for p in paths}


def plane(root: Path, override: dict[str, Any] | None = None, **kubernetes: Any) -> Found:
    """Read specs/ with an environment ``cluster``; keywords replace or, with None, remove settings of the cluster."""
    given = {key: value for key, value in {**KUBERNETES, **kubernetes}.items() if value is not None}
    targets = {
        "nats": {"main": {"kind": "external", "urls": {"env": "NATS_SERVERS"}}},
        "postgres": {"main": {**POSTGRES, "kubernetes": given}},
    }
    shutil.copytree(SPECS, root / "specs", dirs_exist_ok=True)
    environment = {"targets": targets, "override": OVERRIDE if override is None else override}
    (root / "specs" / "environments" / "cluster.yaml").write_text(json.dumps(environment))
    return read(root)


def read(root: Path) -> Found:
    """Read the specs of a folder in the environment ``cluster``."""
    workspace = Workspace(root / "specs", "cluster", root / "cache")
    assert workspace.errors == []
    return Found(root, workspace.plane, workspace.targets["pg", "main"], workspace.targets)
