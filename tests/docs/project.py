"""The repository's own layout around the small plane: what pages and pipelines that use Pulumi are run in."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT
from tests.pulumi.stack import SPECS, Stack


class Project(Stack):
    """``specs/``, ``stacks/``, ``Pulumi.yaml`` and a virtual environment; the environments are on running servers."""

    def __init__(self, root: Path, database: Mapping[str, Any], url: str, *environments: str) -> None:
        super().__init__(root)
        self.database = dict(database)
        self.url = url
        self.variables["SMALL_PASSWORD"] = "s3cret-one"
        self.write(SPECS)
        for env in environments:
            self.targets(database, url, env)
        shutil.copytree(ROOT / "stacks", root / "stacks", ignore=shutil.ignore_patterns("__pycache__", "Pulumi.*"))
        shutil.copy(ROOT / "Pulumi.yaml", root)
        (root / ".venv").symlink_to(sys.prefix)

    def remove(self, pattern: str) -> None:
        """Take the one place that matches out of the specs."""
        path = self.specs / "plane.yaml"
        text, count = re.subn(pattern, "", path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{pattern!r} stands {count} times"
        path.write_text(text)
