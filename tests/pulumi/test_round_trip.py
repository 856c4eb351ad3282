"""The server under the real engine: one resource from its preview to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine import tools

ROOT = Path(__file__).parents[2]
PROJECT = "name: trip\nruntime: python\nplugins: {providers: [{name: notes, path: ./bin}]}\n"
PROGRAM = """
import json
import pulumi

class Shelf(pulumi.ProviderResource):
    def __init__(self):
        topics = pulumi.Output.from_input(["a"]).apply(json.dumps)
        super().__init__("notes", "shelf", {"shelf": "top", "topics": topics, "tokens": {"x": "hunter2"}})

class Note(pulumi.CustomResource):
    def __init__(self, name, properties, shelf):
        options = pulumi.ResourceOptions(provider=shelf)
        super().__init__("notes:index:Note", name, {**properties, "length": None}, options)

shelf = Shelf()
properties = json.load(open("properties.json"))
first = Note("first", {**properties, "pin": pulumi.Output.secret("hunter3")}, shelf)
Note("second", {"title": first.id.apply(lambda id: id + " again".strip()), "lines": [first.length]}, shelf)
"""


class Project:
    """A stack with two notes, the second made from outputs of the first."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.store = folder / "notes.json"
        (folder / "Pulumi.yaml").write_text(PROJECT)
        (folder / "__main__.py").write_text(PROGRAM)
        plugin = folder / "bin" / "pulumi-resource-notes"
        plugin.parent.mkdir()
        plugin.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.pulumi.notes "$@"\n')
        plugin.chmod(0o755)
        (folder / "state").mkdir()
        self._environment = os.environ | {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), str(programs), os.environ["PATH"])),
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": (folder / "state").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "NOTES": str(self.store),
            "PYTHONPATH": str(ROOT),
        }
        self.pulumi("stack", "init", "dev")

    def pulumi(self, *arguments: str, fails: bool = False, **properties: Any) -> str:
        """Run pulumi with these properties of the first note; what it printed."""
        (self.folder / "properties.json").write_text(json.dumps(properties))
        closed = self.store.with_suffix(".closed")
        closed.unlink(missing_ok=True)
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        assert "prematurely" not in said
        assert "hunter" not in said
        assert closed.exists() == (arguments[0] != "stack")
        return done.stdout if "--json" in arguments else said

    @property
    def state(self) -> str:
        return (self.folder / "state" / ".pulumi" / "stacks" / "trip" / "dev.json").read_text()


@pytest.mark.req("B3.1", "B3.3")
def test_the_engine_takes_resources_from_preview_to_destroy(tmp_path: Path) -> None:
    project = Project(tmp_path, tools.ready("pulumi"))
    up = ("up", "--yes", "--skip-preview")
    first: dict[str, Any] = {"title": "one", "lines": ["a", None], "deep": {"null": None, "__z": 1}}

    assert "would write one, ***" in project.pulumi("preview", **first)
    assert not project.store.exists()
    project.pulumi(*up, **first)
    notes = json.loads(project.store.read_text())
    assert notes == {"one": {**first, "pin": "hunter3"}, "oneagain": {"title": "oneagain", "lines": [2]}}
    assert "hunter" not in project.state
    project.pulumi("preview", "--refresh", "--expect-no-changes", **first)

    steps = json.loads(project.pulumi("preview", "--json", **{**first, "lines": []}))["steps"]
    changed = {step["urn"].rpartition("::")[2]: step["detailedDiff"] for step in steps if step["op"] == "update"}
    assert changed == {name: {"lines": {"kind": "update", "inputDiff": True}} for name in ("first", "second")}

    assert "one blank} has a problem: has a blank, ***" in project.pulumi(
        "preview", fails=True, **{**first, "title": "one blank"}
    )
    assert "error: nobody answers at tcp://notes:***@host\n" in project.pulumi(*up, fails=True, **first, fail="server")
    said = project.pulumi(*up, fails=True, **first, fail="half")
    assert "* ink ran out, ***" in said
    assert "* so did paper" in said
    assert "so did paper" in project.state
    project.pulumi(*up, **first)
    assert "so did paper" not in project.state
    project.pulumi("destroy", "--yes", "--skip-preview", **first)
    assert json.loads(project.store.read_text()) == {}
