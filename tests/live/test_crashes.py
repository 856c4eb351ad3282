"""kill -9 of an apply at drawn points: the next apply converges and nothing is lost."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Plane

PHASES = ("before_send", "after_send", "before_record")
SEED = random.SystemRandom().randrange(10**6)
CHANGES = (
    ("varchar(50)", "varchar(80)"),
    ("{owner_name: length(name) > 0}", "{owner_name: length(name) > 0, owner_short: length(name) < 70}"),
    ("{item_at: {columns: [at], where: price > 0}}", "{item_at: {columns: [at]}, item_price: {columns: [price]}}"),
    ("mood: [calm, busy]", "mood: [calm, busy, asleep]"),
    ("max_age: 1h", "max_age: 2h"),
    ("ack_wait: 30s", "ack_wait: 45s"),
    ("ttl: 30m", "ttl: 45m"),
    ("premake: 3", "premake: 9, min_ahead: 8"),
    ("on_delete: cascade", "on_delete: restrict"),
    ("WHERE price < 10", "WHERE price < 20"),
    ("grants: {small_app: [select, insert]}", "grants: {small_app: [select]}"),
    ("connection_limit: 10", "connection_limit: 12"),
)  # fmt: skip


def die(plane: Plane, step: str, phase: str) -> None:
    """Run an apply that ends by SIGKILL at the point. The point is printed, so that a failure can be repeated."""
    print(f"seed {SEED}: killed at {step} {phase}")
    script = str(Path(__file__).with_name("crash.py"))
    arguments = [str(plane.specs), str(plane.root / "cache" / "holdfast"), step, phase]
    consents = plane.plan()["consents"]
    done = subprocess.run(
        [sys.executable, script, *arguments, *consents],
        check=False,
        env=plane.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def converge(plane: Plane) -> None:
    consents = plane.plan()["consents"]
    plane.run("apply", "--yes", *(f"--allow={c}" for c in consents))
    after = plane.plan()
    assert (after["steps"], after["drift"], after["adopt"]) == ([], [], [])
    assert plane.sql("SELECT count(*) FROM holdfast.objects WHERE state <> 'done'") == [(0,)]
    invalid = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid"
    assert plane.sql(invalid) == [(0,)]


def changed(plane: Plane) -> Plane:
    """An applied plane with rows, whose specs then change in many ways."""
    plane.run("apply", "--yes")
    plane.sql("INSERT INTO app.owner (name) SELECT 'n' || i FROM generate_series(1, 50) i")
    plane.sql("INSERT INTO app.item (id, owner_id, price) SELECT i, i, i FROM generate_series(1, 50) i")
    for old, new in CHANGES:
        plane.edit(old, new)
    return plane


def drawn(steps: list[dict[str, Any]], count: int | None) -> Iterator[tuple[str, str]]:
    """One point for each kind of step and each step outside a transaction; at most ``count`` of them."""
    chance = random.Random(SEED)
    chosen: dict[str, dict[str, Any]] = {}
    for step in chance.sample(steps, len(steps)):
        kind = re.sub(r"^.*/([a-z_]+)/[^/]*$", r"\1", step["object"])
        key = step["id"] if not step["transactional"] and step["system"] == "pg" else f"{kind} {step['action']}"
        chosen.setdefault(key, step)
    picked = chance.sample(list(chosen.values()), len(chosen))[:count]
    for step in picked:
        yield step["id"], chance.choice(PHASES)


def test_a_creation_killed_at_drawn_points_is_finished_by_the_next_apply(plane: Plane) -> None:
    for step, phase in drawn(plane.plan()["steps"], 3):
        if any(s["id"] == step for s in plane.plan()["steps"]):
            die(plane, step, phase)
    converge(plane)


def test_a_change_killed_at_drawn_points_is_finished_and_loses_nothing(plane: Plane) -> None:
    changed(plane)
    for step, phase in drawn(plane.plan()["steps"], 5):
        if any(s["id"] == step for s in plane.plan()["steps"]):
            die(plane, step, phase)
    converge(plane)
    assert plane.sql("SELECT count(*), sum(price) FROM app.item") == [(50, 1275)]


@pytest.mark.soak
def test_a_kill_at_every_kind_of_step_and_every_phase_converges(plane: Plane) -> None:
    changed(plane)
    for phase in PHASES:
        for step, _ in drawn(plane.plan()["steps"], None):
            if any(s["id"] == step for s in plane.plan()["steps"]):
                die(plane, step, phase)
    converge(plane)
    assert plane.sql("SELECT count(*), sum(price) FROM app.item") == [(50, 1275)]
