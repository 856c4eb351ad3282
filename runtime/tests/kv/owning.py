"""A program that owns an agent through ``plane.agent`` and is stopped, killed or given a wrong clock meanwhile.

    owning.py contend AGENT NAME SECONDS SEED [unguarded]
    owning.py hold AGENT NAME [CLOCK_OFFSET_S]
    owning.py flood AGENT

Each line it prints is JSON: what it was promised, or what it was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any

import holdfast
from holdfast.errors import Fenced, HoldfastError, LeaseHeld
from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import Position
from holdfast.kv.writing import Write

SHARED, PRIVATE = 40, 20
_lines: list[str] = []


def say(*words: Any, now: bool = False) -> None:
    """Keep a line for the end; a program that will be killed says it ``now``."""
    _lines.append(json.dumps(words))
    if now:
        spill()


def spill() -> None:
    sys.stdout.write("".join(f"{line}\n" for line in _lines))
    sys.stdout.flush()
    _lines.clear()


# Two owners ---------------------------------------------------------------------------------------------------

_known: dict[str, int] = {}


def take_the_guard_out() -> None:
    """An owner's write compares with its own key alone: there is no subtree header."""
    prepare, perform = Bucket.prepare, Bucket.perform

    def without(self: Bucket, key: str, value: bytes | None, **options: Any) -> Write:
        if options.get("subtree") is not None and not key.endswith(".lease"):
            options |= {"subtree": None, "expect": _known.get(key, 0)}
        return prepare(self, key, value, **options)

    async def noting(self: Bucket, write: Write) -> Position:
        position = await perform(self, write)
        _known[write.key] = position.revision
        return position

    Bucket.prepare, Bucket.perform = without, noting  # type: ignore[method-assign]


async def own(agent: holdfast.AgentState[Any], name: str, end: float, chance: random.Random) -> None:
    """Write tickets, each one more than all that this owner knows of, and count with ``update``."""
    found = await agent.items()
    ticket = max((value for key, value in found.items() if key != "counter"), default=0)
    epoch = list(agent.lease.epoch)
    say("owner", epoch)
    while time.monotonic() < end:
        ticket += 1
        key = f"k{chance.randrange(SHARED)}" if chance.random() < 0.5 else f"only.{name}.{chance.randrange(PRIVATE)}"
        value = ticket
        try:
            if chance.random() < 0.2:
                key = "counter"

                def counted(before: int) -> int:
                    nonlocal value
                    value = before + 1
                    return value

                written = await agent.update(key, counted, 0)
            else:
                written = await agent.put(key, value)
        except Fenced:
            say("refused", key)
            raise
        except HoldfastError as error:
            say("unknown", key, value, error.code)
            raise
        say("written", key, value, list(written.position), epoch)
        await asyncio.sleep(0.002)


async def contend(agent_id: str, name: str, seconds: str, seed: str, *guard: str) -> None:
    if guard:
        take_the_guard_out()
    chance = random.Random(f"{name}{seed}")
    end = time.monotonic() + float(seconds)
    async with holdfast.connect() as plane:
        say("ready", now=True)
        while time.monotonic() < end:
            try:
                async with plane.agent(agent_id, wait_s=2) as agent:
                    if guard:
                        async for entry in plane.home.bucket.entries(f"{agent_id}.state.>"):
                            _known[entry.key] = entry.position.revision
                    await own(agent, name, min(end, time.monotonic() + chance.uniform(2, 15)), chance)
            except (Fenced, LeaseHeld):
                pass
            except HoldfastError as error:
                assert error.retryable, error  # noqa: PT017
            await asyncio.sleep(chance.uniform(0, 0.05))
    spill()


# One owner ----------------------------------------------------------------------------------------------------


async def hold(agent_id: str, name: str, offset_s: str = "0") -> None:
    """Own, write, and at a line on stdin try every key, also such as nobody ever wrote."""
    wall = time.time
    time.time = lambda: wall() + float(offset_s)
    async with holdfast.connect() as plane:
        agent = await plane.agent(agent_id, wait_s=10).__aenter__()
        await agent.put("shared", name)
        await agent.put("mine", name)
        say("holds", list(agent.lease.epoch), now=True)
        await asyncio.to_thread(sys.stdin.readline)
        for key in ("shared", "mine", "theirs", "never-written", "another"):
            # What this process has learnt already is forgotten: the bucket itself has to refuse.
            agent.lease.lost.clear()
            say("refused" if await is_fenced(agent.put, key, "late") else "written", key, now=True)
        probes = (agent.get, "mine"), (agent.items,), (agent.delete, "mine"), (agent.update, "mine", str)
        for act, *arguments in probes:
            say("fenced" if await is_fenced(act, *arguments) else "answered", now=True)


async def is_fenced(act: Callable[..., Awaitable[Any]], *arguments: Any) -> bool:
    """Whether it is refused for good; what a cluster that elects cannot answer is tried again."""
    while True:
        try:
            await act(*arguments)
        except Fenced:
            return True
        except HoldfastError as error:
            assert error.retryable, error  # noqa: PT017
        else:
            return False


async def flood(agent_id: str) -> None:
    """Write key after key as fast as it goes until killed."""
    async with holdfast.connect(background=False) as plane, plane.agent(agent_id, wait_s=10) as agent:
        numbers = count()

        async def write() -> None:
            while True:
                key = f"k{next(numbers)}"
                with contextlib.suppress(HoldfastError):
                    say(key, list((await agent.put(key, 1)).position), now=True)

        await asyncio.gather(*(write() for _ in range(50)))


def main() -> None:
    what, *arguments = sys.argv[1:]
    programs: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"contend": contend, "hold": hold, "flood": flood}
    asyncio.run(programs[what](*arguments))


if __name__ == "__main__":
    main()
