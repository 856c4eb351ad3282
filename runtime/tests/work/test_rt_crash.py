"""Processes that end in the middle of work over both systems, at every numbered step; a recoverer comes after them.

The invariant is ``check_whole``: all of the work or nothing of it. What the drawn places are is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from holdfast import points
from holdfast.errors import HoldfastError
from holdfast.tasks import end
from holdfast.work.journal import Journal
from holdfast.work.result import Outcome
from holdfast.work.two_phase import TwoPhase

HERE = Path(__file__).parent

#: (place, how often it is reached)
SAGA = [
    ("saga.journalled", 1),
    ("saga.prior", 2),
    ("saga.written", 2),
    ("saga.done", 2),
    ("saga.rows", 1),
    ("saga.committed", 1),
    ("saga.finished", 1),
]
FAILING = [("saga.prior", 2), ("saga.compensating", 1), ("saga.restored", 2), ("saga.undone", 2), ("saga.finished", 1)]
EVENTUAL = [
    ("saga.journalled", 1),
    ("saga.rows", 1),
    ("saga.committed", 1),
    ("saga.prior", 2),
    ("saga.written", 2),
    ("saga.done", 2),
]
TWO_PHASE = [
    ("two_phase.rows", 1),
    ("two_phase.prepared", 1),
    ("two_phase.staged", 1),
    ("two_phase.decided", 1),
    ("two_phase.ended", 1),
    ("two_phase.written", 2),
    ("two_phase.finished", 1),
]
EVERY = [
    (kind, place, nth)
    for kind, places in {"saga": SAGA, "failing": FAILING, "eventual": EVENTUAL, "two_phase": TWO_PHASE}.items()
    for place, times in places
    for nth in range(1, times + 1)
]
#: From these places on the work is decided, and must be finished.
DECIDED = {
    "saga.committed",
    "saga.finished",
    "two_phase.decided",
    "two_phase.ended",
    "two_phase.written",
    "two_phase.finished",
}


async def crash(environ: Any, kind: str, place: str, nth: int, name: str) -> None:
    """Do the work in a process that ends at the nth time it reaches the place."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        HERE / "conftest.py",
        kind,
        place,
        str(nth),
        name,
        env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 77, f"{kind} at {place}: {said.decode()}"


@pytest.mark.req("D7.5", "D7.6")
@pytest.mark.parametrize(("kind", "place", "nth"), EVERY)
def test_a_process_killed_at_a_step_leaves_all_or_nothing(
    open_workshop: Any, environ: Any, kind: str, place: str, nth: int
) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            await crash(environ, kind, place, nth, name)
            await _until_given_up(shop)
            results = await shop.settle()
            found = await shop.check_whole(name)
            print(
                f"{kind} killed at {place} ({nth}): {found}; recovered: {[result.outcome.value for result in results]}"
            )
            if kind == "failing":
                assert found == "nothing"
            elif place in DECIDED or (kind == "eventual" and place not in {"saga.journalled", "saga.rows"}):
                assert found == "all"
            assert all(result.outcome in {Outcome.SUCCESS, Outcome.ROLLED_BACK} for result in results)

    asyncio.run(main())


async def _until_given_up(shop: Any) -> None:
    """A server session ends a moment after its client; a prepared transaction is given up after its second."""
    for _ in range(60):
        if all(found.commits is not None or found.age_s > 1.05 for found in await shop.two_phase.in_doubt()):
            return
        await asyncio.sleep(0.05)


@pytest.mark.req("D7.5")
def test_a_recoverer_killed_at_any_step_is_followed_by_another(open_workshop: Any, environ: Any) -> None:
    """The first process and two recoverers after it end at drawn steps."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    drawn = [(place, rng.randint(1, times)) for place, times in rng.sample(SAGA[1:4], 3)]
    print("seed", seed, "places", drawn)

    class Killed(BaseException):
        pass

    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            await crash(environ, "saga", "saga.journalled", 1, name)
            for place, nth in drawn:
                left = nth

                def hook(reached: str, place: str = place) -> None:
                    nonlocal left
                    left -= reached == place
                    if reached == place and left == 0:
                        raise Killed

                points.set_hook(hook)
                try:
                    await shop.recoverer().step()
                except Killed:
                    pass
                finally:
                    points.set_hook(None)
            await shop.settle()
            await shop.check_whole(name)

    asyncio.run(main())


def _forget(self: TwoPhase, gid: str, verdict: bool, writes: Any, events: Any, correlation: str) -> Any:
    """A decision that is made but never written down."""
    from holdfast.work.two_phase import Decision

    async def decided() -> Decision:
        return Decision(gid, verdict, tuple(writes), correlation, 2**62)

    return decided()


def test_without_the_decision_row_the_checker_finds_half_of_the_work(open_workshop: Any, monkeypatch: Any) -> None:
    """The guard taken out: after a crash behind COMMIT PREPARED nobody knows that keys are still to be written."""

    class Killed(BaseException):
        pass

    def hook(reached: str) -> None:
        if reached == "two_phase.ended":
            raise Killed

    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            with monkeypatch.context() as patch:
                patch.setattr(TwoPhase, "decide", _forget)
                points.set_hook(hook)
                try:
                    with pytest.raises(Killed):
                        await shop.two_phase.run(shop.steps(name))
                finally:
                    points.set_hook(None)
            await shop.settle()
            with pytest.raises(AssertionError, match="half of the work"):
                await shop.check_whole(name)

    asyncio.run(main())


def test_without_the_epoch_a_slow_process_and_its_recoverer_do_half_of_the_work(
    open_workshop: Any, monkeypatch: Any
) -> None:
    """A process that only sleeps is taken for dead and its saga undone: it must not go on afterwards.

    With the guards it is refused at the next write, also where it sleeps between deciding to write a key and
    writing it. Without the burnt revision the same check fails.
    """
    from holdfast.work import keys

    async def slow(shop: Any, name: str) -> None:
        apply, awake, asleep = keys.apply, asyncio.Event(), asyncio.Event()

        class Late:
            """The bucket as a process sees it that falls asleep right before it sends."""

            def __init__(self, store: Any) -> None:
                self._store = store

            def __getattr__(self, name: str) -> Any:
                return getattr(self._store, name)

            async def write(self, *values: Any, **options: Any) -> Any:
                asleep.set()
                await awake.wait()
                return await self._store.write(*values, **options)

        async def late(store: Any, saga: Any, noted: Any) -> None:
            await apply(Late(store) if saga.epoch == 1 else store, saga, noted)

        with monkeypatch.context() as patch:
            patch.setattr(keys, "apply", late)
            running = asyncio.create_task(shop.sagas.run("test", shop.steps(name)))
            await asleep.wait()
            await shop.execute("UPDATE runtime.sagas SET deadline = now() - interval '1 minute'")
            [result] = await shop.settle()
            assert result.outcome is Outcome.ROLLED_BACK
            awake.set()
            assert (await running).outcome is not Outcome.SUCCESS
        await shop.check_whole(name)

    async def main() -> None:
        async with open_workshop() as shop:
            names = [str(uuid4()) for _ in range(2)]
            for name in names:
                await shop.prepare(name)
            await slow(shop, names[0])
            undo = keys.undo

            async def trusting(store: Any, saga: Any, noted: Any) -> None:
                """Leave a key alone that still holds what it held before."""
                head = await store.head(noted.step.key)
                if head is None or head.position != noted.prior.position:
                    await undo(store, saga, noted)

            monkeypatch.setattr(keys, "undo", trusting)
            with pytest.raises(AssertionError, match="half of the work"):
                await slow(shop, names[1])

    asyncio.run(main())


def test_a_saga_that_somebody_works_on_is_left_alone(open_workshop: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            async with shop.pools.primary.connection() as other:
                async with other.transaction():
                    await other.execute("SELECT 1 FROM tasks.queue WHERE task_id = %s FOR UPDATE", [name])
                    running = asyncio.create_task(shop.sagas.run("test", shop.steps(name)))
                    await asyncio.sleep(0.3)
                    assert await shop.recoverer(stale_s=30.0).step() == []
                assert (await running).outcome is Outcome.SUCCESS
            assert await shop.check_whole(name) == "all"

    asyncio.run(main())


def test_two_recoverers_take_each_saga_once(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            names = [str(uuid4()) for _ in range(3)]
            for name in names:
                await shop.prepare(name)
                await crash(environ, "saga", "saga.prior", 1, name)
            await asyncio.sleep(0.3)
            claimed: list[Any] = []
            claim = Journal.claim

            async def noted(self: Journal, connection: Any, stale_s: float) -> Any:
                saga = await claim(self, connection, stale_s)
                claimed.append(saga.saga_id if saga else None)
                return saga

            Journal.claim = noted  # type: ignore[method-assign]
            try:
                await asyncio.gather(*(shop.recoverer(stale_s=0.2).step() for _ in range(2)))
            finally:
                Journal.claim = claim  # type: ignore[method-assign]
            taken = [saga_id for saga_id in claimed if saga_id]
            assert len(taken) == len(set(taken)) == 3
            for name in names:
                assert await shop.check_whole(name) == "all"

    asyncio.run(main())


def test_journals_of_finished_work_go_and_others_stay(open_workshop: Any) -> None:
    async def main() -> None:
        from holdfast.work.recoverer import Recoverer, unfinished

        async with open_workshop() as shop:
            for number in range(3):
                name = str(uuid4())
                await shop.prepare(name)
                await shop.sagas.run("test", shop.steps(name, fails=number == 1))
                await shop.two_phase.run(shop.steps(name))
            await shop.execute(
                "UPDATE runtime.sagas SET state = 'compensation_failed' WHERE saga_id ="
                " (SELECT saga_id FROM runtime.sagas WHERE state = 'completed' LIMIT 1)"
            )
            keeping = Recoverer(shop.pools.primary, shop.sagas, shop.contract)
            assert await keeping.clean_up() == 0
            forgetting = Recoverer(shop.pools.primary, shop.sagas, shop.contract, keep_s=0.0)
            assert await forgetting.clean_up() == 2 + 3
            assert await shop.execute("SELECT state::text FROM runtime.sagas") == [("compensation_failed",)]
            assert await unfinished(shop.pools.primary, shop.contract) == {"sagas": 0, "oldest_s": 0.0}
            running = asyncio.create_task(forgetting.run())
            await asyncio.sleep(0.2)
            assert not running.done()
            await end(running)

    asyncio.run(main())


@pytest.mark.req("D7.5")
@pytest.mark.parametrize("system", ["nats", "postgres"])
def test_a_server_killed_under_load_leaves_every_piece_of_work_whole(
    open_workshop: Any, servers: Any, system: str
) -> None:
    """Sagas and two-phase commits while a server is away; what was told to be done is done."""

    async def work(shop: Any, name: str, number: int) -> Any:
        await asyncio.sleep(number * 0.05)
        if number % 3:
            return await shop.sagas.run("test", shop.steps(name, fails=number % 3 == 1), timeout_s=20.0)
        return await shop.two_phase.run(shop.steps(name), timeout_s=5.0)

    async def main() -> None:
        async with open_workshop() as shop:
            names = [str(uuid4()) for _ in range(30)]
            for name in names:
                await shop.prepare(name)
            running = asyncio.gather(
                *(work(shop, name, number) for number, name in enumerate(names)), return_exceptions=True
            )
            await asyncio.sleep(0.4)
            await asyncio.to_thread(servers.kill, system)
            try:
                await asyncio.sleep(0.8)
            finally:
                await asyncio.to_thread(servers.start)
            results: list[Any] = await running
            await _patiently(shop.settle)
            outcomes: Counter[str] = Counter()
            for name, result in zip(names, results, strict=True):
                if isinstance(result, HoldfastError):
                    told = result.code
                    assert await shop.check_whole(name) == "nothing"
                else:
                    told = result.outcome.value
                    whole = await shop.check_whole(name)
                    if result.outcome is not Outcome.SAGA_FAILED:
                        assert whole == ("all" if result.is_success else "nothing"), result
                outcomes[told] += 1
            print(f"{system} killed: {dict(outcomes)}")

    asyncio.run(main())


async def _patiently(settle: Any) -> None:
    """Two-phase commits in doubt are given up after their five seconds only."""
    for _ in range(30):
        try:
            await settle()
        except (HoldfastError, AssertionError):
            await asyncio.sleep(0.5)
        else:
            return
    await settle()
