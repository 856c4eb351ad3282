"""Folders for servers that a test may damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from provision.embedded import environment


@pytest.fixture
def homes(server_root: Path) -> Path:
    """A folder for the homes of single servers."""
    folder = server_root / uuid4().hex[:8]
    folder.mkdir()
    folder.chmod(0o711)
    return folder


@pytest.fixture
def project(server_root: Path) -> Iterator[Path]:
    """The root of a project; whatever a test starts in its environments is removed."""
    folder = server_root / uuid4().hex[:8]
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    for env in (folder / environment.FOLDER).glob("*/"):
        environment.reset(folder, env.name)
