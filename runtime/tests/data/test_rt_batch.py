"""Batches: bounded, timed, in order, with every outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from holdfast import batch
from holdfast.errors import NotFound, OperationTimeout, VersionConflict
from holdfast.retry import Result


@pytest.mark.req("D12.1")
def test_at_most_so_many_run_at_once_and_the_order_is_kept() -> None:
    running = most = 0

    async def operation(key: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02 if key % 3 else 0.001)
        running -= 1
        return key * key

    done = asyncio.run(batch.run(range(20), operation, parallel=4))
    assert most == 4
    assert [key for key, _ in done] == list(range(20))
    assert done.values == {key: key * key for key in range(20)}
    done.raise_failures()


@pytest.mark.req("D12.1")
def test_what_failed_and_what_succeeded_are_both_visible() -> None:
    async def operation(key: str) -> str:
        if key == "absent":
            raise NotFound("no such thing")
        if key == "taken":
            raise VersionConflict("written by somebody else")
        if key == "slow":
            await asyncio.sleep(5)
        return key.upper()

    done = asyncio.run(batch.run(["a", "absent", "slow", "taken", "b"], operation, parallel=2, timeout_s=0.1))
    assert done.values == {"a": "A", "b": "B"}
    assert {key: type(error) for key, error in done.failed.items()} == {
        "absent": NotFound,
        "slow": OperationTimeout,
        "taken": VersionConflict,
    }
    with pytest.raises(batch.PartialFailure, match="3 of 5 operations failed: NOT_FOUND, TIMEOUT, VERSION_CONFLICT"):
        done.raise_failures()


def test_a_batch_is_worth_a_retry_when_each_of_its_failures_is() -> None:
    async def operation(key: str) -> None:
        raise VersionConflict("") if key == "taken" else NotFound("")

    with pytest.raises(batch.PartialFailure) as some:
        asyncio.run(batch.run(["taken", "taken"], operation)).raise_failures()
    assert some.value.retryable
    with pytest.raises(batch.PartialFailure) as none:
        asyncio.run(batch.run(["taken", "absent"], operation)).raise_failures()
    assert not none.value.retryable


def test_the_time_limit_counts_from_the_start_of_each_operation() -> None:
    async def operation(key: int) -> int:
        await asyncio.sleep(0.05)
        return key

    done = asyncio.run(batch.run(range(8), operation, parallel=1, timeout_s=0.2))
    assert not done.failed


def test_cancelling_ends_what_runs_begins_nothing_more_and_tells_what_was_done() -> None:
    told: list[int] = []
    begun: list[int] = []
    ended: list[int] = []

    async def operation(key: int) -> int:
        begun.append(key)
        try:
            await asyncio.sleep(0.01 if key < 2 else 30)
        finally:
            ended.append(key)
        return key

    def tell(key: int, result: Result[int]) -> None:
        assert result.is_success
        told.append(key)

    async def main() -> None:
        task = asyncio.ensure_future(batch.run(range(50), operation, parallel=2, on_outcome=tell))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told == [0, 1]
    assert begun == [0, 1, 2, 3]
    assert sorted(ended) == begun


def test_a_mistake_in_the_operation_is_raised_and_ends_the_batch() -> None:
    begun: list[int] = []

    async def operation(key: int) -> int:
        begun.append(key)
        await asyncio.sleep(0.01)
        return 1 // (key - 1)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(batch.run(range(100), operation, parallel=2))
    assert len(begun) < 10


@pytest.mark.parametrize("keys", [[], ["x"]])
def test_small_batches(keys: list[str]) -> None:
    async def operation(key: str) -> str:
        return key

    assert len(asyncio.run(batch.run(keys, operation, parallel=0))) == len(keys)


@pytest.mark.req("D12.1")
def test_many_keys_of_a_bucket(open_plane: Callable[[], Any]) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            bucket = await plane.bucket("session")
            prefix = f"session.{uuid4().hex}"
            values = {f"{prefix}-{number}": str(number).encode() for number in range(40)}
            written = await batch.put_many(bucket, values)
            written.raise_failures()
            found = await batch.get_many(bucket, [*values, f"{prefix}-none", "not a key"])
            assert {key: entry.value for key, entry in found.values.items() if entry} == values
            assert found.values[f"{prefix}-none"] is None
            assert list(found.failed) == ["not a key"]
            first, second = list(values)[:2]
            expect = {first: written.values[first].revision, second: 0}
            again = await batch.put_many(bucket, dict.fromkeys(expect, b"new"), expect=expect)
            assert list(again.values) == [first]
            assert isinstance(again.failed[second], VersionConflict)

    asyncio.run(main())
