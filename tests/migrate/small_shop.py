"""A small plane with one object of each kind that migrations meet, and a folder of migrations that add up to it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from provision.migrate import files
from provision.migrate.new import Draft, write
from provision.reconcile import drafting, proving
from provision.reconcile.proving import Proof
from provision.reconcile.workspace import Workspace

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
SECRET = "s3cr3t-of-nobody"
#: What the environment says of a target that no test reaches.
NOWHERE = {"kind": "external", "host": "127.0.0.1", "port": 1, "user": "nobody", "database": "none"}


def external(database: Mapping[str, Any]) -> Json:
    """What an environment says of a database, given as libpq keywords."""
    return {
        "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
        "password": {"env": "PG_SECRET"}, "database": database["dbname"],
    }  # fmt: skip


def plain_history() -> dict[str, Any]:
    """The plane's own schema ``migrations``, without the roles that the rest of the plane declares."""
    document = yaml.safe_load((ROOT / "specs/schemas/operations.yaml").read_text())
    schema: dict[str, Any] = document["schemas"]["migrations"]
    for table in schema["tables"].values():
        table.pop("grants", None)
    for function in schema["functions"].values():
        function["body"] = (ROOT / "specs/schemas" / function["body"]["file"]).read_text()
    return schema


def document() -> Json:
    """The specs. A test changes its copy."""
    return copy.deepcopy(_DOCUMENT)


_DOCUMENT: Json = {
    "plane": "shop",
    "roles": {
        "clerk": {"login": True, "password": {"env": "CLERK_SECRET"}, "member_of": ["staff"]},
        "staff": {"comment": "May look"},
    },
    "schemas": {
        "migrations": plain_history(),
        "shop": {
            "comment": "What is sold",
            "enums": {"state": ["new", "sold"]},
            "functions": {
                "is_name": {
                    "arguments": [{"name": "given", "type": "text"}], "returns": "boolean", "language": "sql",
                    "volatility": "immutable", "body": "SELECT given <> ''",
                }
            },
            "views": {"fresh": {"query": "SELECT id, name FROM shop.item WHERE state = 'new' -- unsold"}},
            "tables": {
                "item": {
                    "columns": {
                        "id": {"type": "bigint", "nullable": False, "identity": "always"},
                        "name": {"type": "text", "nullable": False, "default": "'none'"},
                        "state": {"type": "shop.state", "nullable": False, "default": "'new'"},
                        "price": {"type": "integer"},
                    },
                    "primary_key": ["id"],
                    "checks": {"is_named": "shop.is_name(name)"},
                    "indexes": {"item_price": {"columns": ["price"]}},
                    "grants": {"staff": ["select"]},
                },
                "visit": {
                    "columns": {
                        "at": {"type": "timestamptz", "nullable": False},
                        "item": {"type": "bigint", "nullable": False},
                    },
                    "primary_key": ["at", "item"],
                    "partitions": {"by": "range", "key": ["at"], "every": "1 day", "premake": 3, "default": True},
                },
                "order": {
                    "columns": {
                        "way": {"type": "text", "nullable": False},
                        "id": {"type": "bigint", "nullable": False},
                    },
                    "primary_key": ["way", "id"],
                    "partitions": {"by": "list", "key": ["way"], "values": {"post": ["post"]}, "default": True},
                },
            },
        },
    },
}  # fmt: skip


class Shop:
    """A folder with specs and migrations; ``run`` is the command line. ``target`` is where the database is.

    Nothing is written where the specs are ``made`` already.
    """

    def __init__(self, root: Path, cache: Path, target: Mapping[str, Any] = NOWHERE, *, made: bool = False) -> None:
        self.root = root
        self.cache = cache
        self.folder = root / "migrations"
        self.password = ""
        self.database: Json = {}
        self.more: dict[str, str] = {}
        if made:
            return
        (root / "specs/environments").mkdir(parents=True)
        self.place({"main": dict(target)})
        self.declare(document())

    def place(self, targets: Mapping[str, Any]) -> None:
        """Write what the environment says of its targets."""
        path = self.root / "specs/environments/dev.yaml"
        path.write_text(json.dumps({"targets": {"postgres": dict(targets)}}))

    def declare(self, specs: Json) -> None:
        """Write the specs; JSON is YAML."""
        (self.root / "specs/plane.yaml").write_text(json.dumps(specs))

    def change(self, act: Callable[[Json], object]) -> Json:
        """Write the specs with a change in the schema ``shop``."""
        specs = document()
        act(specs["schemas"]["shop"])
        self.declare(specs)
        return specs

    def environment(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "XDG_CACHE_HOME")},
            "PG_SECRET": self.password, "CLERK_SECRET": SECRET, "HOLDFAST_CACHE": str(self.cache), **self.more,
        }  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "provision.cli", "--specs", str(self.root / "specs"), *arguments]

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment(), check=False, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL, cwd=self.root,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert "Traceback" not in told, told
        assert done.returncode == code, told
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.environment(), text=True, cwd=self.root, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def files(self) -> dict[str, str]:
        """The text of each file of the folder, by name."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("*.sql"))}

    def write(self, files: Mapping[str, str]) -> None:
        """Put these files, and no others, into the folder."""
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.glob("*.sql"):
            path.unlink()
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def add(self, name: str, text: str, *, header: str = "") -> Path:
        """Write one file; the version follows from the number of its name, 0001 is 1.0.0."""
        path = self.folder / name
        path.write_text(f"-- version: 1.{int(name[:4]) - 1}.0\n{header}{text}\n")
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that a file holds once."""
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, (old, text)
        path.write_text(text.replace(old, new))

    def at(self, database: Mapping[str, Any]) -> Shop:
        """Put the shop's main target into a database, given as libpq keywords."""
        self.password = str(database["password"])
        self.database = dict(database)
        self.place({"main": external(database)})
        return self

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def column(self, statement: str) -> list[Any]:
        return [row[0] for row in self.sql(statement)]

    def _workspace(self) -> Workspace:
        found = Workspace(self.root / "specs", "dev", self.cache / "holdfast")
        found.refuse_errors()
        return found

    def prove(self) -> Proof:
        """What ``migrate verify`` finds, in this process."""
        found, faults = files.read(self.folder)
        assert faults == ()
        return proving.prove(self._workspace(), found, "main", clock=datetime.now(UTC), cache=self.cache / "holdfast")

    def draft(self, name: str) -> tuple[list[str], list[str]]:
        """What ``migrate new NAME --from-plan`` does, in this process: the files that it wrote, and what it noted."""
        found, faults = files.read(self.folder)
        assert faults == ()
        notes: list[str] = []
        steps = drafting.lacking(
            self._workspace(), found, "main", clock=datetime.now(UTC), cache=self.cache / "holdfast", note=notes.append
        )  # fmt: skip
        if not steps.up:
            return [], notes
        draft = Draft(name, up=steps.up, down=steps.down, covered=steps.covered)
        return [p.name for p in write(self.folder, draft, found)], notes
