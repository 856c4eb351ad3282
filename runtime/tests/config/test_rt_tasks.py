"""Tasks end for certain, and none is left behind."""

from __future__ import annotations

import asyncio
import contextlib

from holdfast.tasks import together


def test_a_cancellation_leaves_none_of_several_running() -> None:
    async def main() -> None:
        ended = []

        async def work(name: str, last_s: float) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(last_s)  # as a driver that still cancels its statement
                ended.append(name)

        task = asyncio.create_task(together(work(name, last_s) for name, last_s in (("soon", 0.0), ("late", 0.05))))
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ended == ["soon", "late"]

    asyncio.run(main())


def test_each_gives_its_value_in_the_order_asked() -> None:
    async def give(value: int) -> int:
        await asyncio.sleep(0.01 / (value + 1))
        return value

    assert asyncio.run(together(give(value) for value in range(4))) == [0, 1, 2, 3]
