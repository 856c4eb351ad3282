"""Health is about the whole plane, and tests of other folders may have killed its servers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import holdfast

if TYPE_CHECKING:
    from conftest import Servers


def provision_again(servers: Servers) -> None:
    """Bring back what does not outlive a server: a bucket in memory, on the only one."""
    command = [str(Path(sys.executable).with_name("holdfast")), "apply", "--yes"]
    subprocess.run(command, cwd=servers.project, check=True, timeout=60, capture_output=True)


@pytest.fixture(scope="session", autouse=True)
def whole_plane(servers: Servers) -> None:
    """The plane with every bucket."""

    async def missing() -> bool:
        async with holdfast.connect(servers.environ, background=False) as plane:
            report = await plane.health()
            return any("does not exist" in reason for reason in report.reasons)

    if asyncio.run(missing()):
        provision_again(servers)
