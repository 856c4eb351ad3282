"""One writer for each plane: what others are told, and when the lock is free again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pulumi.stack import PROGRAM, Json, Small
from tests.pulumi.wire import Trap
from tests.pulumi.wired import Wired, ends, errors, is_whole, provider_of, wired

NATS_ONLY = """\
plane: small
streams:
  EVENTS:
    subjects: [events.>]
    max_age: 1h
    consumers:
      worker: {ack_policy: explicit, ack_wait: 30s, max_deliver: 3, dead_letter: none}
buckets:
  STATE: {ttl: 30m, history: 5, max_bytes: 1MiB}
"""


class Pause:
    """Holds the first request that matches until ``end``. ``begun`` waits for it."""

    def __init__(self, plane: Wired, system: str, pattern: str, nth: int = 1) -> None:
        self._end = threading.Event()
        self._trap = Trap(pattern, lambda: self._end.wait(60), nth=nth)
        plane.wires[system].trap = self._trap

    def begun(self) -> None:
        assert self._trap.is_sprung.wait(60), "the request never came"

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def plane(tmp_path: Path, pg_database: Json, nats_url: str) -> Iterator[Wired]:
    """The small plane over wires, not up yet."""
    with wired(tmp_path / "small", pg_database, nats_url) as found:
        yield found


@pytest.fixture
def nats_only(plane: Wired) -> Wired:
    """The same for a plane without a database: its lock is a key in a bucket."""
    plane.write(NATS_ONLY)
    url = f"nats://127.0.0.1:{plane.wires['nats'].port}"
    plane.write(f"targets: {{nats: {{main: {{kind: external, urls: ['{url}']}}}}}}\n", "environments/dev.yaml")
    return plane


def apply(plane: Wired) -> subprocess.Popen[str]:
    """Begin a ``holdfast apply``."""
    command = [sys.executable, "-m", "provision.cli", "--specs", str(plane.specs), "apply", "--yes"]
    return subprocess.Popen(
        command, cwd=plane.root, env=plane.environment(), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def advisory_locks(plane: Wired) -> int:
    """How many sessions hold a lock of ours on the plane's database."""
    found: int = plane.sql(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
    )[0][0]
    return found


# Another holder ----------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1", "B2.4")
def test_an_up_names_the_apply_that_holds_the_lock(plane: Wired) -> None:
    pause = Pause(plane, "pg", r"lock_timeout.*CREATE TABLE app\.item")
    with apply(plane) as other:
        pause.begun()
        told = plane.up(check=False)
        pause.end()
        assert other.wait(60) == 0
    assert told.code != 0
    (line,) = errors(told.out)
    assert re.match(
        r"another apply holds the lock of small\.dev: holdfast dev \(\w+, pid \d+\), connected since .* UTC\."
        r" Wait for it, or end it with: SELECT pg_terminate_backend\(\d+\)$", line,
    ), line  # fmt: skip
    assert plane.up().counts.keys() == {"created", "unchanged"}
    assert plane.plan_is_empty()


@pytest.mark.req("B3.1")
def test_an_up_and_an_apply_name_the_up_that_holds_the_lock(plane: Wired, tmp_path: Path, nats_url: str) -> None:
    other = Small(tmp_path / "other", plane.database, nats_url)
    pause = Pause(plane, "pg", r"lock_timeout.*CREATE TABLE app\.item")
    with plane.start() as up:
        pause.begun()
        told = other.up(check=False)
        refused = other.holdfast("apply", "--yes", check=False)
        pause.end()
        assert up.communicate(timeout=60)[0]
        assert up.returncode == 0
    (line,) = errors(told.out)
    assert re.match(r"another apply holds the lock of small\.dev: pulumi 127\.0\.0\.1:\d+ holdfast dev \(", line), line
    assert refused.code == 1
    assert "another apply holds the lock of small.dev: pulumi 127.0.0.1:" in refused.err
    assert plane.plan_is_empty()


@pytest.mark.req("B3.1")
def test_a_second_provider_of_one_program_is_refused(plane: Wired) -> None:
    """It is a process of its own and would wait for the first for ever."""
    plane.program(
        PROGRAM
        + """
from provision.pulumi import resources as holdfast

own = holdfast.Provider("own", plane="small", env="dev", targets=plane.provider.targets)
holdfast.Stream(
    "later", pulumi.ResourceOptions(provider=own, depends_on=[plane.resources["pg:main"]]),
    name="LATER", subjects=["later.>"], max_age="1h",
)
"""
    )
    told = plane.up(check=False)
    assert told.code != 0
    (line,) = errors(told.out)
    assert line == (
        "another provider of this run works on plane small already."
        " Use the plane's provider: pass it as provider= in the resource's options."
    )
    text = (plane.root / "__main__.py").read_text()
    plane.program(text.replace("provider=own", "provider=plane.provider"))
    plane.up()
    assert plane.ask("STREAM.INFO.LATER")["config"]["subjects"] == ["later.>"]


@pytest.mark.req("B3.1")
def test_a_plane_without_a_database_names_the_holder_too(nats_only: Wired) -> None:
    pause = Pause(nats_only, "nats", r"CONSUMER\.CREATE\.EVENTS")
    with apply(nats_only) as other:
        pause.begun()
        told = nats_only.up(check=False)
        pause.end()
        assert other.wait(60) == 0
    (line,) = errors(told.out)
    assert re.match(
        r"another apply works on small\.dev: holdfast dev, pid \d+ on \S+, seen \d+ s ago\."
        r" Wait for it; if it died, its lock ends by itself within 60 s\.$", line,
    ), line  # fmt: skip
    nats_only.up()
    assert nats_only.plan_is_empty()


# The end of an engine ----------------------------------------------------------------------------------------


@pytest.mark.req("B3.1", "B2.4")
def test_the_lock_is_free_after_an_engine_was_killed(plane: Wired) -> None:
    """The provider sees that its engine is gone, ends the step that it is in, and goes."""
    pause = Pause(plane, "pg", r"lock_timeout.*CREATE TABLE app\.item")
    with plane.start() as up:
        pause.begun()
        provider = provider_of(up.pid)
        assert advisory_locks(plane) == 1
        up.kill()
        time.sleep(2)
        pause.end()
        assert ends(provider, 15)
    assert advisory_locks(plane) == 0
    assert plane.sql("SELECT status FROM holdfast.runs WHERE status = 'running'") == []
    plane.run("cancel", "--yes")
    plane.up()
    is_whole(plane)


@pytest.mark.req("B3.1")
def test_the_lock_in_a_bucket_is_free_after_an_engine_was_killed(nats_only: Wired) -> None:
    pause = Pause(nats_only, "nats", r"CONSUMER\.CREATE\.EVENTS")
    with nats_only.start() as up:
        pause.begun()
        provider = provider_of(up.pid)
        up.kill()
        time.sleep(2)
        pause.end()
        assert ends(provider, 15)
    nats_only.run("cancel", "--yes")
    nats_only.up()
    assert nats_only.plan_is_empty()
    assert nats_only.refresh("--clear-pending-creates").is_unchanged


@pytest.mark.soak
@pytest.mark.req("B3.1")
def test_the_lock_in_a_bucket_ends_after_its_holder_was_killed(nats_only: Wired) -> None:
    """Nobody can say that a killed provider is gone; its lock is not renewed, and passes."""
    pause = Pause(nats_only, "nats", r"CONSUMER\.CREATE\.EVENTS")
    with nats_only.start() as up:
        pause.begun()
        provider_of(up.pid).kill()
        pause.end()
        assert up.communicate(timeout=60)[0]
    told = nats_only.up(check=False)
    (line,) = errors(told.out)
    assert "its lock ends by itself within 60 s" in line
    time.sleep(62)
    nats_only.up()
    assert nats_only.plan_is_empty()


# Ctrl-C ------------------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1", "B2.4")
def test_an_interrupt_stops_before_the_next_step(plane: Wired) -> None:
    """The step under way is finished and noted; the next up goes on from there."""
    pause = Pause(plane, "pg", r"ATTACH PARTITION app\.log_", nth=2)
    with plane.start() as up:
        pause.begun()
        os.kill(up.pid, signal.SIGINT)
        time.sleep(2)
        pause.end()
        told = up.communicate(timeout=60)[0]
    assert up.returncode != 0
    assert "the run was cancelled. Run it again: what was done stays done." in told, told
    attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.log'::regclass"
    assert plane.sql(attached) == [(2,)]
    assert advisory_locks(plane) == 0
    left = plane.holdfast("plan", "--format", "json").json()["steps"]
    assert {s["object"] for s in left} == {"pg:main/app/log/partitions/set", "plane:main/contract/small.dev"}
    plane.up()
    is_whole(plane)


@pytest.mark.req("B3.1")
def test_an_interrupt_stops_a_plane_without_a_database(nats_only: Wired) -> None:
    pause = Pause(nats_only, "nats", r"STREAM\.CREATE\.EVENTS")
    with nats_only.start() as up:
        pause.begun()
        os.kill(up.pid, signal.SIGINT)
        time.sleep(2)
        pause.end()
        told = up.communicate(timeout=60)[0]
    assert up.returncode != 0, told
    assert "error" in nats_only.ask("CONSUMER.INFO.EVENTS.worker")
    nats_only.up()
    assert nats_only.plan_is_empty()
    assert nats_only.up().is_unchanged
