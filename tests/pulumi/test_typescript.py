"""A program in TypeScript, with the SDK that Pulumi makes of the provider's schema."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine import tools
from tests.engine.test_pulumi import PACKAGES
from tests.pulumi.stack import ROOT, Stack

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js and npm are not installed"),
]

PROGRAM = Path(__file__).parent / "typescript"
PROVIDER = Path(sys.executable).parent / "pulumi-resource-holdfast"
USUAL_GO = "/usr/local/go/bin/go"


class TypeScript(Stack):
    """A project in TypeScript with its packages and the SDK of the provider beside it."""

    def __init__(self, root: Path, database: dict[str, Any], url: str) -> None:
        tools.built("pulumi")
        super().__init__(root)
        self.database, self.url = database, url
        self.variables["PG_SECRET"] = str(database["password"])
        self.secrets.add(str(database["password"]))
        for name in ("index.ts", "tsconfig.json"):
            shutil.copy(PROGRAM / name, root)
        (root / "package.json").write_text('{"name": "typed", "private": true, "main": "index.ts"}')
        plugin = {"name": "holdfast", "path": str(PROVIDER.parent)}
        project = {"name": "typed", "runtime": "nodejs", "plugins": {"providers": [plugin]}}
        (root / "Pulumi.yaml").write_text(json.dumps(project))
        self._node("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *PACKAGES)
        self.run("stack", "init", "dev")
        postgres = {
            "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
            "password": {"env": "PG_SECRET"}, "database": database["dbname"],
        }  # fmt: skip
        targets = {"postgres": {"main": postgres}, "nats": {"main": {"kind": "external", "urls": [url]}}}
        self.run("config", "set", "--plaintext", "targets", json.dumps(targets))

    def make_sdk(self, generator: Path) -> None:
        """Ask the provider for its schema and make the SDK of it."""
        schema = self.root / "schema.json"
        schema.write_text(self.run("package", "get-schema", str(PROVIDER)).out)
        subprocess.run([generator, schema, self.root / "sdk"], check=True)

    def complaints(self) -> str:
        """What the compiler says of the program."""
        return self._node("npx", "tsc", "--noEmit", check=False).stdout

    def _node(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, env=self.environment(), capture_output=True, text=True, check=check
        )


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pulumi's generator of Node SDKs, from the modules of its CLI: the host that we build has none."""
    go = shutil.which("go") or USUAL_GO
    if not Path(go).exists():
        pytest.skip("no Go here to build the generator of SDKs with")
    folder = tmp_path_factory.mktemp("generator")
    for name in ("go.mod", "go.sum"):
        shutil.copy(ROOT / "tools" / "pulumi" / "cli" / name, folder)
    shutil.copy(PROGRAM / "sdk.go", folder)
    subprocess.run([go, "build", "-o", "sdk", "."], cwd=folder, check=True)
    return folder / "sdk"


@pytest.mark.req("B3.1")
@pytest.mark.timeout(1200)
def test_a_typescript_program_uses_the_provider_through_its_schema(
    tmp_path: Path, generator: Path, pg_database: dict[str, Any], nats_url: str
) -> None:
    stack = TypeScript(tmp_path / "typed", pg_database, nats_url)
    stack.make_sdk(generator)
    assert stack.complaints() == ""
    assert stack.up().counts == {"created": 4}
    assert stack.outputs() == {"stream": "nats:main/stream/EVENTS", "tables": "pg:main"}
    assert stack.ask("STREAM.INFO.EVENTS")["config"]["max_age"] == 3600 * 10**9
    comment = "SELECT col_description('app.item'::regclass, 2), 'app.item_name'::regclass::text"
    assert stack.sql(comment) == [("nats:main/stream/EVENTS", "app.item_name")]
    assert stack.up().is_unchanged

    stack.run("config", "set", "age", "2h")
    step = stack.steps()["events"]
    assert (step["op"], list(step["detailedDiff"])) == ("update", ["max_age"])
    assert stack.up().counts == {"updated": 1, "unchanged": 3}
    assert stack.ask("STREAM.INFO.EVENTS")["config"]["max_age"] == 7200 * 10**9

    text = (stack.root / "index.ts").read_text()
    (stack.root / "index.ts").write_text(text.replace("max_age:", "max_agee:").replace('"bigint"', "7"))
    told = stack.complaints()
    assert "'max_agee' does not exist" in told
    assert "Type 'number' is not assignable" in told
