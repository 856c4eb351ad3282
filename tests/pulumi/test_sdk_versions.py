"""The codec and the server with the oldest and the newest SDK of Pulumi that pyproject.toml allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast" / "sdk"
TOOLS = ("hypothesis", "psutil", "pytest", "pytest-timeout")


def allowed() -> tuple[str, str]:
    """The oldest SDK and the first one that is too new."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (re.fullmatch(r"pulumi>=([\d.]+),<([\d.]+)", r) for r in project["optional-dependencies"]["pulumi"])
    (bounds,) = filter(None, found)
    return bounds[1], bounds[2]


def environment(name: str, requirement: str) -> Path:
    """The Python of a virtual environment that has this SDK; kept, and brought up to date."""
    folder = CACHE / f"{sys.implementation.cache_tag}-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*install, *TOOLS, requirement], check=True)
    return python


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_codec_and_server_work_with(name: str) -> None:
    oldest, too_new = allowed()
    python = environment(name, f"pulumi=={oldest}.*" if name == "oldest" else f"pulumi<{too_new}")
    # What tests/conftest.py imports is not installed there.
    options = ["-q", "-p", "no:cacheprovider", "--confcutdir", "tests/pulumi"]
    tests = ["tests/pulumi/test_codec.py", "tests/pulumi/test_server.py"]
    command: list[str | Path] = [python, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"^\d\d+ passed", done.stdout, re.MULTILINE)
