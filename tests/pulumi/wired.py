"""The small plane over wires, where an ``up`` can be stopped, interrupted or killed at a request of its own."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from provision.reconcile.parts import TYPES
from tests.pulumi.stack import Json, Small, programs
from tests.pulumi.wire import Wire


class Wired(Small):
    """A stack of the small plane, not up yet; ``wires`` lead to its servers."""

    def __init__(self, root: Path, database: Json, url: str) -> None:
        super().__init__(root, database, url)
        where = urlsplit(url)
        self.wires = {
            "pg": Wire(database["host"], database["port"]),
            "nats": Wire(str(where.hostname), where.port or 4222),
        }
        self.targets({**database, "port": self.wires["pg"].port}, f"nats://127.0.0.1:{self.wires['nats'].port}")

    def start(self) -> subprocess.Popen[str]:
        """Begin an ``up``."""
        command = [str(programs() / "pulumi"), "up", "--yes", "--skip-preview", "--non-interactive"]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment(), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@contextmanager
def wired(root: Path, database: Json, url: str) -> Iterator[Wired]:
    """Give the plane; its wires are cut at the end."""
    plane = Wired(root, database, url)
    try:
        yield plane
    finally:
        for wire in plane.wires.values():
            wire.close()


def provider_of(engine: int) -> psutil.Process:
    """The provider that an engine has started."""
    for child in psutil.Process(engine).children(recursive=True):
        with suppress(psutil.Error):
            if any("pulumi-resource-holdfast" in part for part in child.cmdline()):
                return child
    raise AssertionError("no provider runs")


def ends(process: psutil.Process, within_s: float) -> bool:
    """Whether a process is gone in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.1)
                continue
        return True
    return False


def errors(told: str) -> set[str]:
    """The different lines that say why something failed."""
    found = re.findall(r"^ +error: (.*)$", told.partition("\nDiagnostics:")[2], re.MULTILINE)
    return {line for line in found if line != "update failed"}


def is_whole(plane: Small) -> None:
    """Assert that the specs, the servers and the state say the same, with one resource of each type."""
    assert plane.plan_is_empty()
    assert plane.sql("SELECT count(*) FROM holdfast.objects WHERE state <> 'done'") == [(0,)]
    assert plane.sql("SELECT count(*) FROM holdfast.objects WHERE origin <> 'created'") == [(0,)]
    assert plane.sql("SELECT count(*) FROM holdfast.runs WHERE status = 'running'") == [(0,)]
    assert plane.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    # What was being created when an engine died stays noted until a refresh has looked.
    assert plane.refresh("--clear-pending-creates").is_unchanged
    state = plane.state()["deployment"]
    assert not state.get("pending_operations")
    resources = [r for r in state["resources"] if r["type"].startswith("holdfast:") and r.get("custom")]
    assert sorted(r["type"].rpartition(":")[2] for r in resources) == sorted(TYPES)
    assert not [r["urn"] for r in resources if r.get("initErrors") or r["outputs"]["plan"]]
