"""The layers of the house: every module has one, and imports point one way."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def layers() -> list[set[str]]:
    """The modules of each layer, highest first."""
    rows = next(c for c in CONTRACTS if c["id"] == "layers")["layers"]
    return [set(re.findall(r"[\w.]+", row)) for row in rows]


@pytest.mark.req("J1.3")
def test_every_part_of_the_house_stands_in_one_layer() -> None:
    placed = [module for layer in layers() for module in layer]
    assert len(placed) == len(set(placed))
    parts = {p.stem for p in (ROOT / "provision").glob("*.py")} | {
        p.parent.name for p in (ROOT / "provision").glob("*/__init__.py")
    }
    assert parts - {"__init__"} <= {module.partition(".")[0] for module in placed}


@pytest.mark.req("J1.3")
@pytest.mark.parametrize(
    ("above", "below"),
    [("cli", "reconcile"), ("reconcile", "nats.api"), ("nats.api", "plan"), ("plan", "registry"), ("registry", "pools"),
     ("registry", "nats.kinds"), ("pools", "spec")],
)  # fmt: skip
def test_what_decides_stands_below_what_touches_servers(above: str, below: str) -> None:
    order = {module: depth for depth, layer in enumerate(layers()) for module in layer}
    assert order[above] < order[below]


@pytest.mark.req("J1.3")
def test_every_import_keeps_the_contracts() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout
