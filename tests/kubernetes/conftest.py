"""The real specs with their servers on Kubernetes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from provision.reconcile.workspace import Workspace
from tests.engine.conftest import cluster

__all__ = ["cluster"]

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "specs" / "environments" / "production-kubernetes.yaml"


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A copy of the project's specs with the environment ``clusters``."""
    folder = tmp_path / "specs"
    shutil.copytree(ROOT / "specs", folder)
    shutil.copy(ENVIRONMENT, folder / "environments" / "clusters.yaml")
    return folder


@pytest.fixture
def workspace(specs: Path, tmp_path: Path) -> Workspace:
    """The same, read."""
    return Workspace(specs, "clusters", tmp_path / "cache")
