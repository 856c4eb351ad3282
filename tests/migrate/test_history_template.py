"""The history that ``holdfast migrate init`` declares is the one of our own plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from provision.cli.main import program

ROOT = Path(__file__).parents[2]


def _ours() -> dict[str, Any]:
    """The schema of the plane, with its SQL in place and without grants, which name the plane's roles."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "specs/schemas/operations.yaml").read_text())["schemas"][
        "migrations"
    ]
    for table in found["tables"].values():
        del table["grants"]
    for function in found["functions"].values():
        function["body"] = (ROOT / "specs/schemas" / function["body"]["file"]).read_text()
    return found


@pytest.mark.req("C1.1", "C1.3", "C1.4", "C1.12")
def test_init_declares_the_history_of_our_own_plane(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    done = CliRunner().invoke(program, ["--specs", str(specs), "migrate", "init"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((specs / "migrations.yaml").read_text()) == {"schemas": {"migrations": _ours()}}


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "migrations.yaml").write_text("schemas: {}\n")
    done = CliRunner().invoke(program, ["--specs", str(specs), "migrate", "init"])
    assert done.exit_code == 1
    assert (specs / "migrations.yaml").read_text() == "schemas: {}\n"
