"""``up`` dies by kill -9 at drawn points after its first write, or loses a server: the next one finishes it."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from provision.reconcile.parts import TYPES
from tests.pulumi.stack import Json
from tests.pulumi.wire import PHASES, Phase, Trap
from tests.pulumi.wired import Wired, ends, errors, is_whole, provider_of, wired

#: Set HOLDFAST_SEED to the number that a failure printed, to draw the same points again.
SEED = int(os.environ.get("HOLDFAST_SEED") or random.SystemRandom().randrange(10**6))
VICTIMS = ("provider", "engine", "both")
#: By kind of resource: the system, and the requests of which one is drawn, each with how often it comes.
POINTS: dict[str, tuple[str, tuple[tuple[str, int], ...]]] = {
    "Stream": ("nats", ((r"STREAM\.CREATE\.EVENTS ", 1),)),
    "KeyValueBucket": ("nats", ((r"STREAM\.CREATE\.KV_STATE ", 1),)),
    "ObjectStore": ("nats", ((r"STREAM\.CREATE\.OBJ_FILES ", 1),)),
    "Consumer": ("nats", ((r"CONSUMER\.CREATE\.EVENTS\.worker ", 1),)),
    "Role": ("pg", (("CREATE ROLE small_app", 1), (r"holdfast\.objects.*role/small_app", 1))),
    "PostgresDatabase": ("pg", ((r"lock_timeout.*CREATE TABLE app\.item", 1), (r"holdfast\.objects.*app/item", 1))),
    "PartitionSet": (
        "pg",
        ((r"ATTACH PARTITION app\.log_", 4), (r"holdfast\.objects.*\{pg:main/app/log/partitions", 1)),
    ),
    "Contract": ("nats", ((r"STREAM\.CREATE\.KV_HOLDFAST ", 1), (r"\$KV\.HOLDFAST\.contract", 1))),
    "Pool": ("engine", (("Pool plane/main created", 1),)),
}


class Point(NamedTuple):
    """Where an ``up`` dies, and who."""

    system: str
    pattern: str
    nth: int
    phase: Phase
    victim: str


def drawn(kind: str, victims: Sequence[str] = VICTIMS) -> Point:
    """Draw a point for a kind."""
    chance = random.Random(f"{SEED} {kind} {victims}")
    system, requests = POINTS[kind]
    pattern, times = chance.choice(requests)
    return Point(system, pattern, chance.randint(1, times), chance.choice(PHASES), chance.choice(victims))


def killed_up(plane: Wired, point: Point) -> None:
    """Let an ``up`` die at the point, and all that it started; free the engine's own lock on the stack."""
    print(f"seed {SEED}: {point}")
    up = plane.start()
    provider: list[psutil.Process] = []

    def die() -> bool:
        provider.append(provider_of(up.pid))
        for name, pid in (("engine", up.pid), ("provider", provider[0].pid)):
            if point.victim in (name, "both"):
                os.kill(pid, signal.SIGKILL)
        return point.victim == "engine"

    trap = Trap(point.pattern, die, nth=point.nth, phase=point.phase)
    if point.system != "engine":
        plane.wires[point.system].trap = trap
    told = ""
    with up:
        assert up.stdout is not None
        for line in up.stdout:
            told += line
            if point.system == "engine" and trap.takes(line.encode()):
                trap.spring()
    assert up.returncode != 0, told
    assert trap.is_sprung.is_set(), f"never came: {point}\n{told}"
    assert ends(provider[0], 45), "the provider lives on"
    if point.victim != "provider":
        plane.run("cancel", "--yes")


@pytest.fixture
def plane(tmp_path: Path, pg_database: Json, nats_url: str) -> Iterator[Wired]:
    """The small plane over wires, not up yet."""
    with wired(tmp_path / "small", pg_database, nats_url) as found:
        yield found


#: Kinds that are created as a Stream is, by one request to JetStream.
ALIKE = ("KeyValueBucket", "ObjectStore", "Consumer")


@pytest.mark.req("B3.1", "B2.4")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.soak) if k in ALIKE else k for k in TYPES])
def test_a_first_up_that_was_killed_is_finished_by_the_next(plane: Wired, kind: str) -> None:
    killed_up(plane, drawn(kind))
    plane.up()
    is_whole(plane)


CHANGES = (
    ("varchar(50)", "varchar(80)"),
    ("{owner_name: length(name) > 0}", "{owner_name: length(name) > 0, owner_short: length(name) < 70}"),
    ("{item_at: {columns: [at], where: price > 0}}", "{item_at: {columns: [at]}, item_price: {columns: [price]}}"),
    ("mood: [calm, busy]", "mood: [calm, busy, asleep]"),
    ("premake: 3", "premake: 9, min_ahead: 8"),
    ("max_age: 1h", "max_age: 2h"),
    ("ack_wait: 30s", "ack_wait: 45s"),
    ("connection_limit: 10", "connection_limit: 12"),
)


@pytest.mark.req("B3.1", "B2.4")
def test_an_up_of_changes_that_was_killed_is_finished_by_the_next(plane: Wired) -> None:
    """One with indexes that are built outside a transaction; rows stay what they were."""
    plane.up()
    plane.sql("INSERT INTO app.owner (name) SELECT 'n' || i FROM generate_series(1, 50) i")
    plane.sql("INSERT INTO app.item (id, owner_id, price) SELECT i, i, i FROM generate_series(1, 50) i")
    for old, new in CHANGES:
        plane.edit(old, new)
    chance = random.Random(f"{SEED} changes")
    pattern = chance.choice(["INDEX CONCURRENTLY", "owner_short", "ADD VALUE"])
    point = Point("pg", pattern, 1, chance.choice(PHASES), chance.choice(VICTIMS))
    killed_up(plane, point)
    plane.up()
    is_whole(plane)
    assert plane.sql("SELECT count(*), sum(price) FROM app.item") == [(50, 1275)]


# A server goes -----------------------------------------------------------------------------------------------

REMEDY = {
    "pg": r"127\.0\.0\.1:\d+/test_\w+ cannot be reached: .* Is the server running, and are host and port right\?",
    "nats": r"no NATS server answers at nats://127\.0\.0\.1:\d+: .*Connect call failed.* Start it, or mend urls\.",
}


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("system", ["pg", "nats"])
def test_a_server_that_is_down_gives_one_line(plane: Wired, system: str) -> None:
    """A preview needs no server; an up says which one, and what to do."""
    plane.wires[system].close()
    told = plane.preview()
    assert told.counts == {"create": 12}
    assert len(re.findall("steps and live counts are missing", told.out)) == 2, told.out  # as it comes, and at the end
    told = plane.up(check=False)
    assert told.code != 0
    (line,) = errors(told.out)
    assert re.fullmatch(REMEDY[system], line), line
    plane.wires[system] = plane.wires[system].again()
    plane.up()
    is_whole(plane)


@pytest.mark.req("B3.1", "B2.4")
@pytest.mark.parametrize("kind", ["Consumer", "PartitionSet"])
def test_an_up_that_lost_a_server_is_finished_by_the_next(plane: Wired, kind: str) -> None:
    point = drawn(kind, ["server"])
    print(f"seed {SEED}: {point}")
    wire = plane.wires[point.system]
    closing = threading.Thread(target=wire.close)

    def go() -> bool:
        closing.start()
        time.sleep(0.2)
        return False

    wire.trap = Trap(point.pattern, go, nth=point.nth, phase=point.phase)
    told = plane.up(check=False)
    assert told.code != 0, told.out
    assert wire.trap.is_sprung.is_set()
    closing.join()
    (line,) = errors(told.out)
    assert "again" in line
    plane.wires[point.system] = wire.again()
    plane.up()
    is_whole(plane)
