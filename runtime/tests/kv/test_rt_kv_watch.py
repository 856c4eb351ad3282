"""Watching a bucket over crashes of the server and rebuilt buckets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import Entry
from holdfast.kv.watching import _Session

Run = Callable[..., Any]


async def _take(watch: Any, number: int) -> list[Entry]:
    return [await asyncio.wait_for(anext(watch), 10) for _ in range(number)]


def test_a_watch_gives_the_heads_then_what_follows(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            first = await bucket.create("a.1", b"1")
            await bucket.write("a.1", b"2", expect=first.revision)
            await bucket.create("b.1", b"other")
            third = await bucket.create("a.2", b"3")
            async with bucket.watch("a.>") as watch:
                assert [(entry.key, entry.value) for entry in await _take(watch, 2)] == [("a.1", b"2"), ("a.2", b"3")]
                assert watch.caught_up.is_set()
                gone = await bucket.write("a.2", None, expect=third.revision)
                (entry,) = await _take(watch, 1)
                assert (entry.operation, entry.position, entry.value) == ("delete", gone, None)
            async with bucket.watch(after=third) as watch:
                assert [entry.position for entry in await _take(watch, 1)] == [gone]
            async with bucket.watch(initial=False) as watch:
                assert await watch.next(0.3) is None
                assert watch.is_live
                await bucket.create("c", b"4")
                assert [entry.key for entry in await _take(watch, 1)] == ["c"]

    run(scenario())


def test_entries_that_expire_before_they_are_sent_hold_up_no_reader(
    site: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = _Session._pull

    async def late(session: _Session) -> None:
        await asyncio.sleep(1.6)  # the server has counted them as pending, and has none left
        await pull(session)

    async def scenario() -> None:
        async with site.bucket(max_age=10**9) as bucket:
            for number in range(3):
                await bucket.create(f"k{number}", b"v")
            monkeypatch.setattr(_Session, "_pull", late)
            assert [entry.key async for entry in bucket.entries()] == []

    run(scenario())


def test_a_watch_gives_more_than_one_pull(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            keys = [f"k{number}" for number in range(1500)]
            for start in range(0, 1000, 50):
                await asyncio.gather(*(bucket.create(key, b"v") for key in keys[start : start + 50]))
            async with bucket.watch() as watch:
                seen = [entry.key for entry in await _take(watch, 1000)]
                for start in range(1000, 1500, 50):
                    await asyncio.gather(*(bucket.create(key, b"v") for key in keys[start : start + 50]))
                seen += [entry.key for entry in await _take(watch, 500)]
            assert sorted(seen) == sorted(keys)

    run(scenario())


@pytest.mark.req("D8.6")
def test_a_watch_goes_on_within_two_seconds_of_a_restart(any_site: Any, run: Run, tell: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, bucket.watch() as watch:
            await bucket.create("k0", b"v")
            await _take(watch, 1)
            waits = []
            for number in range(1, 4):
                server = any_site.servers[number % len(any_site.servers)]
                server.kill()
                await asyncio.to_thread(server.start)
                started = time.monotonic()
                writing = asyncio.ensure_future(bucket.create(f"k{number}", b"v"))
                (entry,) = await _take(watch, 1)
                waits.append(time.monotonic() - started)
                assert entry.key == f"k{number}"
                assert await writing == entry.position
            tell("resumed after", [round(wait, 2) for wait in waits])
            if len(any_site.servers) == 1:
                assert max(waits) < 2
            assert await watch.next(0.3) is None, "nothing comes twice"

    run(scenario())


@pytest.mark.req("D8.6")
def test_no_head_is_missed_under_load_and_crashes(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, any_site.client() as client:
            reader = await Bucket.open(client, bucket.spec)
            stored: dict[str, Entry | int] = {}
            seen: dict[str, Any] = {}
            done = asyncio.Event()

            async def write() -> None:
                expect: dict[str, int] = {}
                number = 0
                while not done.is_set():
                    key = f"k{number % 40}"
                    position = await bucket.write(key, b"v", expect=expect.get(key, 0))
                    stored[key] = expect[key] = position.revision
                    number += 1
                    await asyncio.sleep(0.001)

            async def follow() -> None:
                last = None
                async with reader.watch() as watch:
                    while not done.is_set() or {key: p.revision for key, p in seen.items()} != stored:
                        entry = await watch.next(0.2)
                        if entry is not None:
                            assert last is None or entry.position > last
                            last = seen[entry.key] = entry.position

            writing, following = asyncio.ensure_future(write()), asyncio.ensure_future(follow())
            for number in range(3):
                await asyncio.sleep(0.5)
                server = any_site.servers[number % len(any_site.servers)]
                server.kill()
                await asyncio.to_thread(server.start)
            await asyncio.sleep(0.5)
            done.set()
            await asyncio.wait_for(writing, 20)
            await asyncio.wait_for(following, 20)

    run(scenario())


@pytest.mark.req("D2.5")
def test_a_watch_goes_on_over_a_rebuilt_bucket(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, any_site.client() as other, bucket.watch() as watch:
            for number in range(5):
                await bucket.create(f"old.{number}", b"v")
            before = (await _take(watch, 5))[-1]
            await any_site.drop(other)
            await asyncio.sleep(0.3)
            await any_site.make(other)
            newer = await Bucket.open(other, bucket.spec)
            position = await newer.create("new.1", b"v")
            assert position.revision < before.position.revision
            started = time.monotonic()
            (entry,) = await _take(watch, 1)
            assert time.monotonic() - started < 3
            assert (entry.key, entry.position) == ("new.1", position)
            assert entry.position > before.position
            assert bucket.incarnation == newer.incarnation

    run(scenario())


def test_a_watch_after_a_position_of_a_former_bucket_gives_all_heads(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket, site.client() as other:
            for number in range(5):
                old = await bucket.create(f"old.{number}", b"v")
            await site.drop(other)
            await site.make(other)
            newer = await Bucket.open(other, bucket.spec)
            await newer.create("new", b"v")
            async with newer.watch(after=old) as watch:
                assert [entry.key for entry in await _take(watch, 1)] == ["new"]

    run(scenario())


def test_consumers_do_not_stay_behind(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            await bucket.create("a", b"v")
            for _ in range(5):
                assert [entry.key async for entry in bucket.entries()] == ["a"]
                async with bucket.watch() as watch:
                    await _take(watch, 1)
            left = 1
            for _ in range(40):
                left = (await bucket.state())["state"]["consumer_count"]
                if not left:
                    break
                await asyncio.sleep(0.05)
            assert not left

    run(scenario())
