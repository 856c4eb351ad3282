"""Two owners of one agent, paused at random: nothing of a former owner gets in behind its successor's back."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.contract import BucketSpec
from holdfast.errors import Fenced, LeaseHeld, VersionConflict
from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import EPOCH, Entry, Position
from holdfast.kv.lease import acquire
from holdfast.kv.writing import Write

Run = Callable[..., Any]

_KEYS = 200
_LEASE_S = 0.2


class _WithoutSubtreeHeader(Bucket):
    """The guard taken out: an owner's write compares with its own key alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.known: dict[str, int] = {}

    def prepare(self, key: str, value: bytes | None, **options: Any) -> Write:
        if options.get("subtree") is not None and not key.endswith(".lease"):
            options |= {"subtree": None, "expect": self.known.get(key, 0)}
        return super().prepare(key, value, **options)

    async def perform(self, write: Write) -> Position:
        position = await super().perform(write)
        self.known[write.key] = position.revision
        return position


async def _own(bucket: Bucket, name: str, end: float, acknowledged: list[int], counts: dict[str, int]) -> None:
    """Own the agent again and again. Each write gives the next ticket of all that this owner knows of."""
    chance = random.Random(name)
    while time.monotonic() < end:
        try:
            lease = await acquire(bucket, "a", name, ttl_s=_LEASE_S, wait_s=1)
        except LeaseHeld:
            continue
        ticket = 0
        async for entry in bucket.entries("a.k.>"):
            ticket = max(ticket, int(entry.value or 0))
            if isinstance(bucket, _WithoutSubtreeHeader):
                bucket.known[entry.key] = entry.position.revision
        try:
            while time.monotonic() < end:
                position = await lease.writer.write(f"a.k.{chance.randrange(_KEYS)}", str(ticket + 1).encode())
                acknowledged.append(position.revision)
                ticket += 1
                await asyncio.sleep(0.002)
                if chance.random() < 0.02:
                    # Stopped, as by the scheduler: neither renewed nor aware of anything.
                    await lease.stop_renewing()
                    await asyncio.sleep(_LEASE_S * chance.uniform(0.5, 2.5))
                    counts["pauses"] += 1
        except Fenced:
            counts["refused"] += 1
        except VersionConflict:
            assert isinstance(bucket, _WithoutSubtreeHeader)
        await lease.release()


async def _log_of(bucket: Bucket) -> list[Entry]:
    """Every message of the agent, in order; the bucket keeps enough of each key."""
    found: list[Entry] = []
    async with bucket.watch("a.>", after=Position(bucket.incarnation, 0)) as watch:
        while (entry := await watch.next(0.5)) is not None:
            found.append(entry)
    return found


def _violations(log: list[Entry], acknowledged: list[int]) -> list[str]:
    """What the history of the bucket breaks: order of epochs, uniqueness of tickets, acknowledged writes."""
    found, newest, ticket = [], Position(0, 0), 0
    stored = {entry.position.revision for entry in log}
    found += [
        f"revision {revision} was acknowledged and is not there" for revision in acknowledged if revision not in stored
    ]
    for entry in log:
        if entry.key == "a.lease" and EPOCH not in entry.headers:
            newest = entry.position
            continue
        epoch = Position.parse(entry.headers[EPOCH])
        if epoch != newest:
            found.append(f"{entry.key} at {entry.position.revision} is of epoch {epoch}, the owner's is {newest}")
        if entry.key != "a.lease":
            if int(entry.value or 0) != ticket + 1:
                found.append(f"{entry.key} at {entry.position.revision} lost an update: {entry.value!r} after {ticket}")
            ticket = max(ticket, int(entry.value or 0))
    return found


async def _contest(site: Any, kind: type[Bucket], seconds: float) -> tuple[list[str], dict[str, int]]:
    counts = {"pauses": 0, "refused": 0}
    acknowledged: list[int] = []
    # One message of a key would do for the state, but the check wants to see all of them.
    async with site.bucket(kind, max_msgs_per_subject=-1) as first, site.client() as client:
        second = await kind.open(client, first.spec)
        end = time.monotonic() + seconds
        owners = [_own(bucket, name, end, acknowledged, counts) for bucket, name in ((first, "one"), (second, "two"))]
        await asyncio.gather(*owners)
        found = _violations(await _log_of(first), acknowledged)
        counts["writes"] = len(acknowledged)
        return found, counts


@pytest.mark.req("D3.3", "D3.6")
def test_two_owners_with_random_pauses_lose_no_update(any_site: Any, run: Run, tell: Run) -> None:
    found, counts = run(_contest(any_site, Bucket, 6))
    tell(counts)
    assert found == []
    assert counts["refused"] >= 2
    assert counts["writes"] > 100


@pytest.mark.req("D3.3")
def test_the_checker_sees_what_happens_without_the_subtree_header(site: Any, run: Run, tell: Run) -> None:
    found, counts = run(_contest(site, _WithoutSubtreeHeader, 6))
    tell(counts, found[:3])
    assert any("is of epoch" in violation for violation in found)
    assert any("lost an update" in violation for violation in found)


# Real processes, really stopped -------------------------------------------------------------------------------

_CHILD = """
import asyncio, sys, time
sys.path[:0] = {paths!r}
import test_rt_kv_owners as module
from conftest import Site
async def main():
    acknowledged, counts = [], {{"pauses": 0, "refused": 0}}
    async with Site([]).client({url!r}) as client:
        bucket = await module.Bucket.open(client, module.BucketSpec(name="STATE"))
        await module._own(bucket, {name!r}, time.monotonic() + {seconds}, acknowledged, counts)
    print(counts["refused"], *acknowledged)
asyncio.run(main())
"""


@pytest.mark.soak
@pytest.mark.req("D3.3")
@pytest.mark.parametrize(("line", "servers"), [("latest", 1), ("latest", 3), ("2.12", 3)])
def test_two_processes_stopped_at_random_lose_no_update(
    site_of: Any, run: Run, tell: Run, line: str, servers: int
) -> None:
    async def scenario() -> None:
        site = site_of(line, servers)
        seconds = 60
        async with site.bucket(max_msgs_per_subject=-1) as bucket:
            children = []
            for name in ("one", "two"):
                paths = [path for path in sys.path if path]
                code = _CHILD.format(paths=paths, url=site.server.url, name=name, seconds=seconds)
                children.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
            chance = random.Random(1)
            end = time.monotonic() + seconds
            while time.monotonic() < end - 1:
                await asyncio.sleep(chance.uniform(0.1, 0.8))
                child = chance.choice(children)
                child.send_signal(signal.SIGSTOP)
                await asyncio.sleep(_LEASE_S * chance.uniform(0.5, 3))
                child.send_signal(signal.SIGCONT)
            said = [(await asyncio.to_thread(child.communicate, timeout=60))[0].split() for child in children]
            assert all(child.returncode == 0 for child in children)
            acknowledged = [int(number) for words in said for number in words[1:]]
            found = _violations(await _log_of(bucket), acknowledged)
            tell("refused", [int(words[0]) for words in said], "acknowledged", len(acknowledged))
            assert found == []
            assert len(acknowledged) > 500

    run(scenario(), 180)


#: The child process uses it through this module.
__all__ = ["BucketSpec"]
