"""A stack in a folder of its own: specs, a program, a file backend, servers; driven as a user would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from provision.reconcile import local
from tests.caches import expressions
from tests.engine import tools
from tests.live.drift_bed import Raw

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
#: Variables of the caller must not reach what is under test.
_ENVIRONMENT = {
    k: v for k, v in os.environ.items() if not k.startswith(("PG", "NATS_", "HOLDFAST_", "PULUMI_", "NO_COLOR"))
}

#: A plane with one object of each kind of resource, and each kind of record that people change by hand.
SPECS = """\
plane: small
streams:
  EVENTS:
    subjects: [events.>]
    max_age: 1h
    max_bytes: 1MiB
    consumers:
      worker: {ack_policy: explicit, ack_wait: 30s, max_deliver: 3, filter_subject: events.>, dead_letter: none}
buckets:
  STATE: {ttl: 30m, history: 5, max_bytes: 1MiB}
object_stores:
  FILES: {max_bytes: 2MiB}
roles:
  small_app: {login: true, connection_limit: 10, password: {env: SMALL_PASSWORD}}
pools:
  main: {role: small_app, endpoint: primary, min: 1, max: 4, acquire_timeout: 5s}
schemas:
  app:
    enums:
      mood: [calm, busy]
    functions:
      twice:
        arguments: [{name: n, type: bigint}]
        returns: bigint
        language: sql
        volatility: immutable
        body: SELECT n * 2
    tables:
      owner:
        columns:
          id: {type: bigint, nullable: false, identity: always}
          name: {type: varchar(50), nullable: false}
        primary_key: [id]
        checks: {owner_name: length(name) > 0}
      item:
        columns:
          id: {type: bigint, nullable: false}
          owner_id: {type: bigint, nullable: false}
          mood: {type: app.mood, nullable: false, default: "'calm'"}
          price: {type: "numeric(10,2)", nullable: false, default: 0}
          note: {type: text}
          at: {type: timestamptz, nullable: false, default: now()}
        primary_key: [id]
        foreign_keys: {item_owner: {columns: [owner_id], references: app.owner, on_delete: cascade}}
        indexes: {item_at: {columns: [at], where: price > 0}}
        grants: {small_app: [select, insert]}
      log:
        columns:
          id: {type: bigint, nullable: false}
          at: {type: timestamptz, nullable: false}
        primary_key: [id, at]
        partitions: {by: range, key: [at], every: 1 day, premake: 3, retain: 30 days}
    views:
      cheap: {query: "SELECT id, price FROM app.item WHERE price < 10"}
"""

#: The smallest program with a whole plane in it.
PROGRAM = """\
import os
import sys

import pulumi
from provision.pulumi.plane import Plane

# Pulumi interrupts the program when a resource fails, then waits for its threads: five seconds for nothing.
sys.excepthook = lambda kind, *more: os._exit(1) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)
config = pulumi.Config("holdfast")
plane = Plane(
    "plane",
    "specs",
    "dev",
    allow=config.get_object("allow") or (),
    secrets=config.get_secret_object("secrets"),
)
for name in ("connections", "contract", "plan"):
    pulumi.export(name, getattr(plane, name))
"""

#: Stands before pip for the ``python -m pip list`` of each command: it finds providers, and Pulumi.yaml names ours.
NO_PIP = 'print("[]")\n'


class Result(NamedTuple):
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What was printed, without indentation and names of resources; addresses stay, as ``[id=...]``."""
        told = (line.strip() for line in self.out.splitlines())
        return [line for line in told if not line.startswith(("[urn=", "[provider="))]

    @property
    def counts(self) -> dict[str, int]:
        """How pulumi counts the resources at the end: created (in a preview: create), updated, deleted, unchanged."""
        counted = self.out.partition("\nResources:")[2]
        found = re.findall(r"^\s*(?:[^\s\w]\S*\s+|\d+ changes\. )?(\d+) (?:to )?(\w+)$", counted, re.MULTILINE)
        return {what: int(number) for number, what in found}

    @property
    def is_unchanged(self) -> bool:
        """Whether there was nothing to do."""
        return set(self.counts) == {"unchanged"}


class Stack:
    """A folder with ``specs/``, a Pulumi project and its state; the stack is ``dev``.

    Folders beside each other share one home of Pulumi, all stacks of a process one cache of canonical expressions.
    ``variables`` are added to the environment of every command, which may print none of ``secrets``; ``database``
    (libpq keywords) and ``url`` say where its servers are.
    """

    def __init__(self, root: Path, name: str = "dev") -> None:
        self.root = root
        self.name = name
        self.specs = root / "specs"
        self.database: dict[str, Any] = {}
        self.url = ""
        self.secrets: set[str] = set()
        self.variables: dict[str, str] = {}
        shared = root.parent / "pulumi-shared"
        (root / "state").mkdir(parents=True, exist_ok=True)
        self._kept = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(programs()), _ENVIRONMENT["PATH"]]),
            "PULUMI_HOME": str(shared / "home"),
            # Without metadata=skip a killed engine can leave an empty dev.json.attrs, which no command reads past.
            "PULUMI_BACKEND_URL": f"{(root / 'state').as_uri()}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "HOLDFAST_CACHE": expressions(),
        }

    # Files ------------------------------------------------------------------------------------------------

    def write(self, text: str, file: str = "plane.yaml") -> None:
        """Write a file of the specs."""
        path = self.specs / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, old: str, new: str, file: str = "plane.yaml") -> None:
        """Change the one place in a file of the specs where ``old`` stands."""
        text = (self.specs / file).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        (self.specs / file).write_text(text.replace(old, new))

    def project(self, name: str) -> None:
        """Write a project of this name for a program in the folder, and make the stack."""
        plugin = {"name": "holdfast", "path": str(Path(sys.executable).parent)}
        project = {"name": name, "runtime": "python", "plugins": {"providers": [plugin]}}
        (self.root / "Pulumi.yaml").write_text(json.dumps(project))
        self.run("stack", "init", self.name)

    def program(self, text: str) -> None:
        """Write the program. It finds the specs in ``specs``."""
        (self.root / "__main__.py").write_text(text)

    def targets(self, database: Mapping[str, Any], url: str, env: str = "dev") -> None:
        """Point an environment at running servers; their password comes from PG_SECRET."""
        self.variables["PG_SECRET"] = str(database["password"])
        self.secrets.add(self.variables["PG_SECRET"])
        postgres = {
            "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
            "password": {"env": "PG_SECRET"}, "database": database["dbname"],
        }  # fmt: skip
        targets = {"postgres": {"main": postgres}, "nats": {"main": {"kind": "external", "urls": [url]}}}
        self.write(json.dumps({"targets": targets}), f"environments/{env}.yaml")

    # Commands ---------------------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a command."""
        return {**_ENVIRONMENT, **self._kept, **self.variables, **more}

    def run(self, *arguments: str, check: bool = True, **more: str) -> Result:
        """Run ``pulumi`` on the stack; ``more`` are variables. No secret and no traceback may be told."""
        return self._run([str(programs() / "pulumi"), *arguments, "--non-interactive"], check, more)

    def holdfast(self, *arguments: str, check: bool = True, **more: str) -> Result:
        """Run ``holdfast`` on the same specs."""
        command = [sys.executable, "-m", "provision.cli", "--specs", str(self.specs), "--env", self.name]
        return self._run([*command, *arguments], check, more)

    def _run(self, command: list[str], check: bool, more: Mapping[str, str]) -> Result:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**more), capture_output=True, text=True, timeout=170,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in result.told, result.told
        assert not [s for s in self.secrets if s in result.told], "a secret was printed"
        assert not check or result.code == 0, f"{' '.join(command[:6])}\n{result.told}"
        return result

    def up(self, *arguments: str, check: bool = True, **more: str) -> Result:
        return self.run("up", "--yes", "--skip-preview", *arguments, check=check, **more)

    def preview(self, *arguments: str, check: bool = True, **more: str) -> Result:
        return self.run("preview", *arguments, check=check, **more)

    def refresh(self, *arguments: str, check: bool = True, **more: str) -> Result:
        """``pulumi refresh``; with "--preview-only" it changes nothing."""
        sure = () if "--preview-only" in arguments else ("--yes", "--skip-preview")
        return self.run("refresh", *sure, *arguments, check=check, **more)

    def destroy(self, *arguments: str, check: bool = True, **more: str) -> Result:
        return self.run("destroy", "--yes", "--skip-preview", *arguments, check=check, **more)

    def import_(self, type: str, name: str, id: str, *arguments: str, check: bool = True) -> Result:
        """Import one object as ``holdfast:index:TYPE``."""
        return self.run("import", f"holdfast:index:{type}", name, id, "--yes", *arguments, check=check)

    def config_set(self, path: str, value: str, *, secret: bool = False) -> None:
        """Set configuration, say ``holdfast:allow[0]``."""
        self.run("config", "set", "--path", path, value, "--secret" if secret else "--plaintext")

    def allow(self, *consents: str) -> None:
        """Give exactly these consents in the stack's configuration."""
        self.run("config", "rm", "holdfast:allow")
        if consents:
            keys = (f"holdfast:allow[{i}]={consent}" for i, consent in enumerate(consents))
            self.run("config", "set-all", "--path", *(word for key in keys for word in ("--plaintext", key)))

    # What is so afterwards --------------------------------------------------------------------------------

    def state(self) -> Json:
        """The deployment as ``pulumi stack export`` gives it."""
        found: Json = self.run("stack", "export").json()
        return found

    def resources(self) -> dict[str, Json]:
        """The state of this provider's resources by id, which is the address."""
        found = self.state()["deployment"].get("resources") or []
        return {r["id"]: r for r in found if r["type"].startswith("holdfast:") and r.get("custom")}

    def outputs(self) -> Json:
        """What the program exported."""
        found: Json = self.run("stack", "output", "--json").json()
        return found

    def steps(self, *arguments: str, **more: str) -> dict[str, Json]:
        """What a preview says of each resource, by its name, as in ``--json``; what stays the same is left out."""
        found = self.run("preview", "--json", *arguments, check=True, **more).json().get("steps", ())
        return {s["urn"].rpartition("::")[2]: s for s in found if s["op"] != "same"}

    def changes(self, *arguments: str, **more: str) -> dict[str, str]:
        """The operation that a preview foresees for each resource, by its name."""
        return {name: step["op"] for name, step in self.steps(*arguments, **more).items()}

    def plan_is_empty(self, *arguments: str) -> bool:
        """Whether ``holdfast plan`` finds neither steps nor drift."""
        plan = self.holdfast("plan", "--format", "json", *arguments, check=False).json()
        return not (plan["steps"] or plan["adopt"] or plan["drift"])

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL as the administrator."""
        with psycopg.connect(**self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def ask(self, subject: str, body: Json | None = None) -> Json:
        """One request below ``$JS.API.``."""
        raw = Raw(self.url)
        try:
            return raw.ask(subject, body)
        finally:
            raw.close()


class Small(Stack):
    """A stack of the small plane on given servers."""

    def __init__(self, root: Path, database: Mapping[str, Any], url: str) -> None:
        super().__init__(root)
        self.database = dict(database)
        self.url = url
        self.variables["SMALL_PASSWORD"] = "s3cret-one"
        self.secrets.add("s3cret-one")
        self.write(SPECS)
        self.targets(database, url)
        (root / "pip.py").write_text(NO_PIP)
        self.project("small")
        self.program(PROGRAM)


@contextmanager
def whole(root: Path, env: str = "dev") -> Iterator[Stack]:
    """A copy of the project: its specs, its program, its Pulumi.yaml; its embedded servers run and are removed."""
    root.mkdir(parents=True, exist_ok=True)
    for part in ("specs", "stacks"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Pulumi.yaml", root)
    (root / ".venv").symlink_to(sys.prefix)
    stack = Stack(root, env)
    stack.run("stack", "init", env)
    try:
        stack.holdfast("dev", "up")
        running = local.status(stack.specs, env)
        assert running is not None
        stack.database, stack.url = running.postgres["main"].dsn(), running.nats["main"].url
        made = (root / ".holdfast" / env / "secrets.env").read_text().splitlines()
        stack.secrets |= {line.partition("=")[2].strip("'\"") for line in made if "=" in line}
        yield stack
    finally:
        stack.holdfast("dev", "reset", "--yes", check=False)


@cache
def programs() -> Path:
    """The folder of ``pulumi``; without it the test is skipped."""
    return tools.ready("pulumi")
