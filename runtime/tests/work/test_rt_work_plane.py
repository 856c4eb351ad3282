"""Work on the state of agents, through the plane: fenced, whole after a crash, ended by any plane with background."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest
from work.conftest import on_agent, short_lived
from work.test_rt_crash import crash

import holdfast
from holdfast import KvPut, Outcome, points
from holdfast.errors import ConfigurationError

#: (place, how often it is reached): three keys are written.
PLACES = [
    ("saga.journalled", 1),
    *(("saga.prior", n) for n in (1, 2, 3)),
    *(("saga.written", n) for n in (1, 2, 3)),
    ("saga.done", 3),
    ("saga.rows", 1),
    ("saga.committed", 1),
]


class Killed(BaseException):
    pass


@pytest.mark.req("D7.5", "D7.3", "D1.4")
@pytest.mark.parametrize("is_open", [True, False], ids=["owner-lives", "owner-is-gone"])
def test_work_left_on_an_agents_key_is_ended_under_its_lease(open_workshop: Any, environ: Any, is_open: bool) -> None:
    def hook(place: str) -> None:
        if place == "saga.written":
            raise Killed

    async def main() -> None:
        async with open_workshop(), holdfast.connect(environ) as plane:
            plane.work.recoverer._stale_s = 0.0
            async with plane.agent(uuid4(), wait_s=5) as agent:
                step = KvPut.on(agent, "n", 2)
                await agent.put("n", 1)
                points.set_hook(hook)
                try:
                    with pytest.raises(Killed):
                        await plane.work.run("test", [step])
                finally:
                    points.set_hook(None)
                if not is_open:
                    await agent.close()
                [result] = await plane.work.recoverer.step()
                assert result.outcome is Outcome.SUCCESS
                if is_open:
                    assert await agent.get("n") == 2
            async with plane.agent(agent.agent_id, owned=False) as reader:
                assert await reader.get("n") == 2

    asyncio.run(main())


@pytest.mark.req("D7.3", "D1.4")
def test_work_of_an_owner_that_was_taken_over_is_undone_and_the_new_owner_keeps_its_value(
    open_workshop: Any, environ: Any
) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            contract, name = await short_lived(environ), str(uuid4())
            await shop.prepare(name)
            async with (
                holdfast.connect(environ, contract=contract, background=False) as plane,
                holdfast.connect(environ, contract=contract, background=False) as other,
                plane.agent(name, wait_s=5) as old,
            ):
                await old.put("n", 1)
                await old.lease.stop_renewing()
                async with other.agent(name, wait_s=5) as new:
                    await new.put("n", 2)
                    result = await plane.work.run("test", [*shop.steps(name)[:1], KvPut.on(old, "n", 3)])
                    assert result.outcome is Outcome.ROLLED_BACK, result
                    assert await new.get("n") == 2
                    await new.put("n", 4)
                assert await shop.value("AGENT_CONFIG", f"test.{name}.a") == b"old"

    asyncio.run(main())


@pytest.mark.req("D7.3", "D1.4")
def test_pieces_of_work_share_an_agent_that_is_not_open_here(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with open_workshop(), holdfast.connect(environ) as plane:
            for _ in range(3):
                reader = plane.agent(uuid4(), owned=False)
                work = [plane.work.run("test", [KvPut.on(reader, f"k{n}", n)]) for n in range(4)]
                results = await asyncio.gather(*work)
                assert [result.outcome for result in results] == [Outcome.SUCCESS] * 4, results
                # The lease was given back, and what was written is there for the next owner.
                async with plane.agent(reader.agent_id) as agent:
                    assert await agent.items() == {f"k{n}": n for n in range(4)}

    asyncio.run(main())


def test_a_key_with_an_owner_that_is_no_agents_is_refused(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with open_workshop(), holdfast.connect(environ, background=False) as plane:
            bucket = plane.contract.names.state_bucket
            for key in ("elsewhere", f"{uuid4()}.lease"):
                result = await plane.work.run("test", [KvPut(bucket, key, b"1")])
                assert result.outcome is Outcome.ROLLED_BACK
                assert "have owners" in str(result.reason)
            with pytest.raises(ConfigurationError, match="in_order"):
                await plane.work.run(
                    "test", [KvPut(bucket, "a", b"1")], strategy=holdfast.Strategy.TWO_PHASE_COMMIT, in_order=True
                )

    asyncio.run(main())


def test_a_plane_that_is_closed_waits_for_its_work(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            async with holdfast.connect(environ, background=False) as plane:
                running = asyncio.create_task(plane.work.run("test", shop.steps(name)))
                await asyncio.sleep(0)
                while not plane.work.sagas.running:
                    await asyncio.sleep(0)
            assert (await running).is_success
            assert await shop.check_whole(name) == "all"

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.req("D7.5", "D7.3")
@pytest.mark.parametrize(("place", "nth"), PLACES)
def test_a_plane_ends_what_a_killed_owner_left(open_workshop: Any, environ: Any, place: str, nth: int) -> None:
    """Nobody calls a recoverer: another process with a plane takes the agent's lease and finishes, or undoes all."""

    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            await crash(environ, "agent", place, nth, name)
            started = time.monotonic()
            async with holdfast.connect(environ, contract=await short_lived(environ)) as plane:
                async with asyncio.timeout(60):
                    while await shop.execute(
                        "SELECT 1 FROM runtime.sagas WHERE state IN ('running', 'compensating')"
                    ) or not await shop.execute("SELECT 1 FROM runtime.sagas"):
                        await asyncio.sleep(0.1)
                async with plane.agent(name, wait_s=5) as agent:
                    value = await agent.get("step")
            whole = await shop.check_whole(name)
            print(f"agent killed at {place} ({nth}): {whole} after {time.monotonic() - started:.1f} s")
            assert value == ("new" if whole == "all" else "old")
            assert whole == "all" or place != "saga.committed"

    asyncio.run(main())


def test_the_work_of_the_killed_is_done_where_nobody_is_killed(open_workshop: Any, environ: Any) -> None:
    async def main() -> None:
        async with open_workshop() as shop:
            name = str(uuid4())
            await shop.prepare(name)
            assert (await on_agent(environ, name, lambda: None)).is_success
            assert await shop.check_whole(name) == "all"

    asyncio.run(main())
