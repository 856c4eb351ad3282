"""``holdfast import``: what was applied comes back as specs that plan nothing."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.reconcile.local import secret_names
from tests.live.conftest import Plane

SPECS = Path(__file__).parents[2] / "specs"


def beside(plane: Plane, folder: Path) -> Plane:
    """The same servers and secrets with other specs."""
    found = object.__new__(Plane)
    found.__dict__.update(plane.__dict__)
    found.specs = folder
    return found


def imported(plane: Plane, *arguments: str) -> Plane:
    """Import into a folder of its own; gives the plane that works with it."""
    folder = plane.root / "imported"
    plane.run("import", "-o", str(folder), *arguments)
    return beside(plane, folder)


def owned(plane: Plane) -> set[str]:
    return {row[0] for row in plane.sql("SELECT address FROM holdfast.objects")}


def everything(plane: Plane) -> str:
    return "\n".join(path.read_text() for path in sorted(plane.specs.rglob("*")) if path.is_file())


@pytest.fixture
def full(plane: Plane) -> Plane:
    """The plane of ``specs/`` on the test's servers, sized as for development."""
    folder = plane.root / "full"
    shutil.copytree(SPECS, folder)
    development = yaml.safe_load((SPECS / "environments" / "dev.yaml").read_text())
    targets = yaml.safe_load((plane.specs / "environments" / "dev.yaml").read_text())["targets"]
    environment = yaml.safe_dump({**development, "targets": targets})
    for path in (folder / "environments").iterdir():
        path.unlink()
    (folder / "environments" / "dev.yaml").write_text(environment)
    names: set[str] = set()
    for path in folder.rglob("*.yaml"):
        names |= secret_names(yaml.safe_load(path.read_text()))
    plane.variables |= {name: f"secret-of-{name.lower()}" for name in names - set(plane.variables)}
    return beside(plane, folder)


@pytest.mark.req("B2.1")
def test_an_imported_plane_plans_nothing_and_adopts_everything(applied: Plane) -> None:
    before = owned(applied)
    found = imported(applied)
    applied.sql("DELETE FROM holdfast.objects")
    plan = found.plan()
    assert (plan["steps"], plan["drift"]) == ([], [])
    assert set(plan["adopt"]) == before


def test_the_whole_plane_comes_back(full: Plane) -> None:
    full.run("apply", "--yes")
    before = owned(full)
    found = imported(full)
    full.sql("DELETE FROM holdfast.objects")
    plan = found.plan()
    assert (plan["steps"], plan["drift"]) == ([], [])
    assert set(plan["adopt"]) == before
