"""The folders of tools/build.py, for tests that need pulumi, a Kubernetes API server or schemas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[2] / "tools" / "build.py"


def ready(name: str) -> Path:
    """The folder of a tool that is there already; else the test is skipped."""
    done = subprocess.run([sys.executable, DRIVER, "--cached", name], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return Path(done.stdout.splitlines()[-1])


def built(name: str) -> Path:
    """The folder of a tool, built now if it is not there: for make soak."""
    done = subprocess.run([sys.executable, DRIVER, name], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])
