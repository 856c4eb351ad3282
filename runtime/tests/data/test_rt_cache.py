"""Memory entries and when they are not served; results of queries and when they are loaded anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.cache import CacheSource, MemoryCache, QueryCache, connection_epoch
from holdfast.errors import VersionConflict
from holdfast.kv.attempts import overwrite

Open = Callable[[], Any]


@pytest.mark.req("D4.3")
def test_the_least_used_entry_goes_first() -> None:
    cache: MemoryCache[str, int] = MemoryCache(capacity=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") is not None
    cache.put("c", 3)
    assert ("a" in cache, "b" in cache, "c" in cache, len(cache)) == (True, False, True, 2)
    assert cache.evictions == 1


@pytest.mark.req("D4.3", "D4.4")
def test_an_expired_entry_is_not_served_and_is_removed() -> None:
    cache: MemoryCache[str, int] = MemoryCache(ttl_s=0.03)
    cache.put("a", 1, source=CacheSource.DB)
    cache.put("long", 2, ttl_s=60)
    entry = cache.get("a")
    assert entry is not None
    assert (entry.value, entry.source, entry.ttl_s, entry.is_valid()) == (1, CacheSource.DB, 0.03, True)
    time.sleep(0.04)
    assert cache.peek("a") is not None
    assert cache.evict_expired() == 1
    cache.put("a", 1)
    time.sleep(0.04)
    assert cache.get("a") is None
    assert "a" not in cache
    assert cache.get("long") is not None


@pytest.mark.req("D4.3")
def test_an_entry_from_before_the_connection_was_lost_is_not_served() -> None:
    epoch: list[object] = [1]
    cache: MemoryCache[str, int] = MemoryCache(link=lambda: epoch[0])
    before = cache.epoch()
    cache.put("a", 1)
    assert cache.get("a") is not None
    epoch[0] = None
    assert cache.get("a") is None, "while the connection is down"
    cache.put("down", 1)
    epoch[0] = 2
    assert cache.get("a") is None, "after it came back"
    assert cache.get("down") is None
    cache.put("late", 1, epoch=before)
    assert cache.get("late") is None, "read before, put in after"
    cache.put("a", 2)
    assert cache.get("a") is not None


@pytest.mark.req("D4.3")
def test_a_read_from_memory_takes_less_than_five_microseconds() -> None:
    class Client:
        is_connected = True
        stats = {"reconnects": 0}  # noqa: RUF012

    cache: MemoryCache[UUID, str] = MemoryCache(link=connection_epoch(Client()))  # type: ignore[arg-type]
    keys = [uuid4() for _ in range(5_000)]
    for key in keys:
        cache.put(key, "value")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for key in keys:
            cache.get(key)
        best = min(best, (time.perf_counter() - start) / len(keys))
    assert cache.misses == 0
    assert best < 5e-6


def test_a_lost_connection_is_seen_without_a_callback(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            epoch = connection_epoch(plane.client)
            before = epoch()
            assert before is not None
            assert epoch() == before
            plane.client._transport.close()
            async with asyncio.timeout(10):
                while epoch() == before:
                    await asyncio.sleep(0.01)
                while epoch() is None:
                    await asyncio.sleep(0.01)
            assert epoch() != before

    asyncio.run(main())


class Loader:
    """A query: counts how often it ran, and can be held up."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.runs = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> Any:
        result = self.results[min(self.runs, len(self.results) - 1)]
        self.runs += 1
        await self.may_end.wait()
        return result


@pytest.mark.req("D4.6")
def test_a_result_is_loaded_once_for_all_processes_and_comes_back_as_it_was(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            one, other = QueryCache(await plane.bucket("cache")), QueryCache(await plane.bucket("cache"))
            rows = [{"id": uuid4(), "n": 1, "set": {1, 2}}, None]
            load, query, parameters = Loader(rows), f"SELECT {uuid4()}", [uuid4(), 7]
            assert await one.get_or_load(query, parameters, load) == rows
            assert await other.get_or_load(query, parameters, load) == rows
            assert load.runs == 1
            assert await one.get_or_load(query, [7], load) == rows
            assert load.runs == 2, "other parameters, another result"
            nothing = Loader(None)
            assert [await one.get_or_load("none", [query], nothing) for _ in range(2)] == [None, None]
            assert nothing.runs == 1

    asyncio.run(main())


@pytest.mark.req("D4.6")
def test_an_invalidated_result_is_loaded_anew(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            memory: MemoryCache[str, Any] = MemoryCache(link=connection_epoch(plane.client))
            cache, load, query = QueryCache(await plane.bucket("cache"), memory=memory), Loader(1, 2, 3), str(uuid4())
            assert [await cache.get_or_load(query, [], load) for _ in range(2)] == [1, 1]
            assert memory.hits == 1
            await cache.invalidate(query, [])
            assert [await cache.get_or_load(query, [], load) for _ in range(2)] == [2, 2]

    asyncio.run(main())


@pytest.mark.req("D4.6")
def test_a_group_makes_all_its_results_stale_also_in_the_cache_of_others(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            one, other = QueryCache(await plane.bucket("cache")), QueryCache(await plane.bucket("cache"))
            group, query = f"tasks of {uuid4()}", str(uuid4())
            loads = {number: Loader(f"{number} old", f"{number} new") for number in range(3)}
            free = Loader("old", "new")
            for number, load in loads.items():
                await one.get_or_load(query, number, load, groups=[group, "all"])
            await one.get_or_load(query, "free", free, groups=["another"])
            await other.invalidate_group(group)
            for number, load in loads.items():
                assert await one.get_or_load(query, number, load, groups=["all", group]) == f"{number} new"
            assert await one.get_or_load(query, "free", free, groups=["another"]) == "old"

    asyncio.run(main())


@pytest.mark.req("D4.6")
@pytest.mark.parametrize("by_group", [False, True])
def test_an_invalidation_during_a_load_wins(open_plane: Open, by_group: bool) -> None:
    """What was read before the change must not be cached after it."""

    async def main() -> None:
        async with open_plane() as plane:
            memory: MemoryCache[str, Any] = MemoryCache()
            reader = QueryCache(await plane.bucket("cache"), memory=memory)
            writer = QueryCache(await plane.bucket("cache"))
            query, load = str(uuid4()), Loader("old", "new")
            load.may_end.clear()
            reading = asyncio.ensure_future(reader.get_or_load(query, [], load, groups=[query]))
            while not load.runs:
                await asyncio.sleep(0.001)
            if by_group:
                await writer.invalidate_group(query)
            else:
                await writer.invalidate(query, [], groups=[query])
            load.may_end.set()
            assert await reading == "old", "it was true when it was asked"
            if by_group:  # memory of another process learns of it by its time limit
                memory.clear()
            assert await reader.get_or_load(query, [], load, groups=[query]) == "new"

    asyncio.run(main())


@pytest.mark.req("D4.6")
def test_memory_does_not_keep_a_result_whose_group_was_invalidated_here_meanwhile(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            cache = QueryCache(await plane.bucket("cache"), memory=MemoryCache())
            query, load = str(uuid4()), Loader("old", "new")
            load.may_end.clear()
            reading = asyncio.ensure_future(cache.get_or_load(query, [], load, groups=[query]))
            while not load.runs:
                await asyncio.sleep(0.001)
            await cache.invalidate_group(query)
            load.may_end.set()
            assert await reading == "old"
            assert await cache.get_or_load(query, [], load, groups=[query]) == "new"

    asyncio.run(main())


def test_an_older_result_does_not_come_back_when_the_marker_of_its_group_expires(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            bucket = await plane.bucket("cache")
            cache, query, load = QueryCache(bucket), str(uuid4()), Loader("old", "new")
            load.may_end.clear()
            reading = asyncio.ensure_future(cache.get_or_load(query, [], load, groups=[query]))
            while not load.runs:
                await asyncio.sleep(0.001)
            await QueryCache(bucket).invalidate_group(query)
            load.may_end.set()
            await reading  # its result is younger than the marker, and would outlive it
            key = cache.key(query, [], [query])
            async for entry in bucket.entries():
                if entry.key != key:
                    await plane.client.jetstream().purge_stream(bucket.stream, subject=bucket.prefix + entry.key)
            assert await bucket.get(key) is not None
            assert await cache.get_or_load(query, [], load, groups=[query]) == "new"

    asyncio.run(main())


def test_callers_who_miss_together_share_one_load_and_one_may_go(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            cache, load, query = QueryCache(await plane.bucket("cache")), Loader("value"), str(uuid4())
            load.may_end.clear()
            callers = [asyncio.ensure_future(cache.get_or_load(query, [], load)) for _ in range(10)]
            while not load.runs:
                await asyncio.sleep(0.001)
            callers[0].cancel()
            await asyncio.sleep(0)
            load.may_end.set()
            assert await asyncio.gather(*callers[1:]) == ["value"] * 9
            assert callers[0].cancelled()
            assert load.runs == 1

    asyncio.run(main())


def test_a_failed_load_is_raised_and_not_cached(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            cache, query = QueryCache(await plane.bucket("cache"), load_timeout_s=0.05), str(uuid4())

            async def fail() -> None:
                raise VersionConflict("somebody else")

            with pytest.raises(VersionConflict):
                await cache.get_or_load(query, [], fail)
            assert await cache.get_or_load(query, [], Loader(5)) == 5

    asyncio.run(main())


def test_a_result_that_is_too_large_is_not_cached_and_stops_no_other(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            cache, id = QueryCache(await plane.bucket("cache")), str(uuid4())
            large, small = Loader("x" * 9_000_000, "again"), Loader(1, 2)
            assert len(await cache.get_or_load("large", [id], large)) == 9_000_000
            assert await cache.get_or_load("large", [id], large) == "again"
            assert [await cache.get_or_load("small", [id], small) for _ in range(2)] == [1, 1]

    asyncio.run(main())


def test_a_bucket_out_of_reach_costs_the_caching_and_not_the_query(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            bucket = await plane.bucket("cache")
            bucket.timeout_s = 0.2
            cache = QueryCache(bucket)
            await plane.client.close()
            assert await cache.get_or_load("q", [], Loader(5)) == 5

    asyncio.run(main())


def test_marking_a_key_as_gone_refuses_who_looked_before(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            bucket = await plane.bucket("cache")
            key = f"query.{uuid4().hex}"
            assert await bucket.head(key) is None
            await overwrite(bucket, key, None)
            with pytest.raises(VersionConflict):
                await bucket.write(key, b"old", expect=0)
            assert await bucket.get(key) is None

    asyncio.run(main())
