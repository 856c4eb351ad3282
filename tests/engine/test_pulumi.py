"""The pulumi that tools/build.py builds runs programs in Python and TypeScript, without any further download."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine import tools

pytestmark = pytest.mark.soak

#: The newest that still runs on Node.js 20.
PACKAGES = ("@pulumi/pulumi@3.248.0", "typescript@5.9.3", "@types/node@20")

PYTHON = """
import pulumi

class Part(pulumi.ComponentResource):
    def __init__(self, name: str) -> None:
        super().__init__("test:index:Part", name)

Part("one")
pulumi.export("answer", 41 + 1)
"""

TYPESCRIPT = """
import * as pulumi from "@pulumi/pulumi";

class Part extends pulumi.ComponentResource {
    constructor(name: string) { super("test:index:Part", name); }
}

new Part("one");
export const answer: number = 41 + 1;
"""


def environment(folder: Path, programs: Path) -> dict[str, str]:
    """Settings under which pulumi keeps everything below ``folder`` and downloads nothing."""
    (folder / "state").mkdir()
    path = [str(Path(sys.executable).parent), str(programs), os.environ["PATH"]]  # the virtual environment first
    return os.environ | {
        "PATH": os.pathsep.join(path),
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_BACKEND_URL": (folder / "state").as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def up(project: Path, programs: Path) -> dict[str, object]:
    """Create the project's stack and return its outputs."""
    env = environment(project, programs)
    pulumi = programs / "pulumi"
    for command in (["stack", "init", "dev"], ["up", "--yes", "--skip-preview"]):
        done = subprocess.run(
            [pulumi, *command, "--non-interactive"], cwd=project, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    outputs: dict[str, object] = json.loads(
        subprocess.run(
            [pulumi, "stack", "output", "--json"], cwd=project, env=env, capture_output=True, check=True
        ).stdout
    )
    return outputs


def test_a_python_program_runs(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: test\nruntime: python\n")
    (tmp_path / "__main__.py").write_text(PYTHON)
    assert up(tmp_path, tools.built("pulumi")) == {"answer": 42}


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js and npm are not installed")
def test_a_typescript_program_runs(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: test\nruntime: nodejs\n")
    (tmp_path / "package.json").write_text('{"name": "test", "private": true, "main": "index.ts"}')
    (tmp_path / "index.ts").write_text(TYPESCRIPT)
    options = {"compilerOptions": {"strict": True, "module": "nodenext", "target": "es2022"}, "files": ["index.ts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(options))
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *PACKAGES]
    subprocess.run(npm, cwd=tmp_path, check=True)
    assert up(tmp_path, tools.built("pulumi")) == {"answer": 42}
