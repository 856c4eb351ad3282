"""Caches: entries in memory that know when they may not be trusted, and results of queries in a bucket.

A memory entry is served while its time lasts, nobody has invalidated it, and the connection over which news of changes
would come has not been interrupted since it was read (``connection_epoch``).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from holdfast.errors import CodecError, ConfigurationError, HoldfastError, OperationTimeout, VersionConflict
from holdfast.kv.attempts import overwrite
from holdfast.state.codec import Codec

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry, Position

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = logging.getLogger("holdfast.cache")

#: Gives a token that changes when the connection is lost, and None while it is down.
LinkEpoch = Callable[[], object]
_PRESENT: Any = object()


class CacheSource(Enum):
    """Where a value came from."""

    MEMORY = "MEMORY"
    KV = "KV"
    DB = "DB"


@dataclass(slots=True)
class CacheEntry(Generic[V]):
    """A value in memory. ``timestamp`` and ``expires`` are seconds of ``time.monotonic``; ``source`` is where the value
    was read from when it was put in. ``epoch`` is the connection's at that time."""

    value: V
    timestamp: float
    ttl_s: float
    source: CacheSource
    position: Position | None
    expires: float
    epoch: object

    def is_valid(self) -> bool:
        """Whether its time has not passed."""
        return time.monotonic() < self.expires


class MemoryCache(Generic[K, V]):
    """The newest-used ``capacity`` entries, each for ``ttl_s`` seconds. For one event loop.

    All callers get the same object: change none.
    """

    def __init__(self, *, capacity: int = 10_000, ttl_s: float = 60.0, link: LinkEpoch | None = None) -> None:
        self.capacity = capacity
        self.ttl_s = ttl_s
        self.hits = self.misses = self.evictions = 0
        self._link = link
        self._entries: OrderedDict[K, CacheEntry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def keys(self) -> list[K]:
        """All keys, least used first."""
        return list(self._entries)

    def get(self, key: K) -> CacheEntry[V] | None:
        """The entry, if it can be trusted; an expired one is removed, a suspect one is a miss."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        if entry.expires <= time.monotonic():
            del self._entries[key]
            self.misses += 1
            return None
        if self._link is not None:
            epoch = self._link()
            if epoch is None or epoch != entry.epoch:
                self.misses += 1
                return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def peek(self, key: K) -> CacheEntry[V] | None:
        """The entry even if it is suspect or expired; None if there is none."""
        return self._entries.get(key)

    def epoch(self) -> object:
        """The connection's epoch: take it *before* reading what is then put in."""
        return None if self._link is None else self._link()

    def put(
        self,
        key: K,
        value: V,
        *,
        source: CacheSource = CacheSource.MEMORY,
        position: Position | None = None,
        epoch: object = _PRESENT,
        ttl_s: float | None = None,
    ) -> None:
        """Keep a value. ``epoch`` is that of before it was read; without one it is the present one."""
        self.keep(key, self.entry(value, source=source, position=position, epoch=epoch, ttl_s=ttl_s))

    def entry(
        self,
        value: V,
        *,
        source: CacheSource,
        position: Position | None = None,
        epoch: object = _PRESENT,
        ttl_s: float | None = None,
    ) -> CacheEntry[V]:
        """An entry for :meth:`keep`."""
        now, lasting = time.monotonic(), self.ttl_s if ttl_s is None else ttl_s
        epoch = self.epoch() if epoch is _PRESENT else epoch
        return CacheEntry(value, now, lasting, source, position, now + lasting, epoch)

    def keep(self, key: K, entry: CacheEntry[V]) -> None:
        """Keep an entry; the least used go where there are too many."""
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
            self.evictions += 1

    def remove(self, key: K) -> None:
        """Forget a key."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def evict_expired(self) -> int:
        """Remove what has expired and say how many that were."""
        now = time.monotonic()
        gone = [key for key, entry in self._entries.items() if entry.expires <= now]
        for key in gone:
            del self._entries[key]
        self.evictions += len(gone)
        return len(gone)


def connection_epoch(client: Client) -> LinkEpoch:
    """A token that changes with every lost connection of ``client``, and is None while there is none.

    It needs no callback: whoever reads memory next sees the difference.
    """
    stats = client.stats

    def epoch() -> object:
        return stats["reconnects"] + 1 if client.is_connected else None

    return epoch


class Loads(Generic[K, V]):
    """Loads under way, of which there is one for each key: who misses at the same time shares it."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def share(self, key: K, load: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What the load of a key gives; the first who asks begins it, and who goes away does not end it."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(load())
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def is_valid(self, key: K) -> bool:
        """For the load that runs: whether what it has read may be kept."""
        return self._tasks.get(key) is asyncio.current_task()

    def drop(self, key: K) -> None:
        """The key has changed: a load under way may end, but nobody joins it, and what it gives is not kept."""
        self._tasks.pop(key, None)

    def drop_all(self) -> None:
        """As ``drop`` for every key."""
        self._tasks.clear()

    def _end(self, key: K, done: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key]
        if not done.cancelled():
            done.exception()


class Patience:
    """Asks a bucket that may be away: for ``patience_s`` seconds at most, and not again for ``rest_s`` after that."""

    def __init__(self, patience_s: float, rest_s: float) -> None:
        self.patience_s, self._rest_s = patience_s, rest_s
        self._again_at = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether the bucket is not asked now."""
        return time.monotonic() < self._again_at

    async def ask(self, work: Coroutine[Any, Any, V]) -> tuple[V] | None:
        """What ``work`` gives; None where the bucket does not give it in time, or is not asked."""
        if self.is_resting:
            work.close()
            return None
        try:
            async with asyncio.timeout(self.patience_s):
                return (await work,)
        except (HoldfastError, TimeoutError) as error:
            self.rest(error)
            return None

    def rest(self, error: Exception) -> None:
        """Leave the bucket alone for a while."""
        self._again_at = time.monotonic() + self._rest_s
        _log.warning("nothing is cached for %g s: %s", self._rest_s, str(error) or "the bucket does not answer")


class QueryCache:
    """Results of queries in the cache bucket, under ``query.<digest>``; the bucket's time to live bounds their age.

    A result can belong to *groups* ("the tasks of agent 7"); invalidating a group makes all its results stale at once,
    without listing them. A result counts as old as the moment before it was loaded: an invalidation meanwhile wins.
    A bucket that cannot be reached, is full, or is gone (one in memory ends with its server) costs the caching and not
    the query: after ``patience_s`` the query runs without, and for ``rest_s`` the bucket is not asked again. To
    invalidate what cannot be reached is an error.
    ``memory`` adds a tier that learns of invalidations elsewhere only by its own, then short, time limit.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        codec: Codec | None = None,
        memory: MemoryCache[str, Any] | None = None,
        load_timeout_s: float = 30.0,
        patience_s: float = 0.25,
        rest_s: float = 5.0,
    ) -> None:
        self._bucket = bucket
        self._patience = Patience(patience_s, rest_s)
        self._codec = codec or Codec()
        self._memory = memory
        self._load_timeout_s = load_timeout_s
        self._loads: Loads[str, Any] = Loads()
        self._writing: set[asyncio.Task[Position]] = set()

    def key(self, query: str, parameters: object = (), groups: Iterable[str] = ()) -> str:
        """The bucket's key of a result. Raises CodecError for parameters of an unknown type."""
        told = self._codec.encode([query, parameters, sorted(set(groups))])
        return "query." + hashlib.sha256(told).hexdigest()

    async def get_or_load(
        self, query: str, parameters: object, load: Callable[[], Awaitable[Any]], *, groups: Iterable[str] = ()
    ) -> Any:
        """The cached result, or what ``load()`` gives, which is then cached. ``None`` is a result like any other.

        Callers in one process that miss at the same time share one load. Raises what ``load`` raises; OperationTimeout
        after ``load_timeout_s``; CodecError for a result of an unknown type.
        """
        names = sorted(set(groups))
        key = self.key(query, parameters, names)
        if self._memory is not None and (known := self._memory.get(key)) is not None:
            return known.value
        return await self._loads.share(key, lambda: self._find(key, [_marker(name) for name in names], load))

    async def invalidate(self, query: str, parameters: object = (), *, groups: Iterable[str] = ()) -> None:
        """Forget one result, here and in the bucket. ``groups`` as it was read with."""
        key = self.key(query, parameters, groups)
        await self._invalidate(key, overwrite(self._bucket, key, None))

    async def invalidate_group(self, name: str) -> None:
        """Make all results of a group stale."""
        await self._invalidate(None, overwrite(self._bucket, _marker(name), b"{}"))

    async def _invalidate(self, key: str | None, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            if self._patience.is_resting and await self._is_gone():
                return  # and all results with it
            await task
        except HoldfastError:
            if not await self._is_gone():
                raise
        finally:
            task.cancel()
            self._drop(key)

    async def _is_gone(self) -> bool:
        """Whether there is no such bucket any more."""
        try:
            await self._bucket.state(is_patient=False)
        except ConfigurationError:
            return True
        except HoldfastError:
            return False
        return False

    def _drop(self, key: str | None) -> None:
        """Forget a key, or all."""
        if key is None:
            self._loads.drop_all()
        else:
            self._loads.drop(key)
        if self._memory is not None:
            self._memory.clear() if key is None else self._memory.remove(key)

    async def _find(self, key: str, markers: list[str], load: Callable[[], Awaitable[Any]]) -> Any:
        epoch = self._memory.epoch() if self._memory is not None else None
        seen = await self._patience.ask(self._look(key, markers))
        if seen is None:
            return await self._load(load)
        head, standing = seen[0]
        found = self._read(head, standing)
        if found is not None:
            self._remember(key, found.value, CacheSource.KV, epoch)
            return found.value
        value = await self._load(load)
        content = self._codec.encode({"groups": standing, "value": value})
        revision = head.position.revision if head is not None else 0
        if await self._is_written(asyncio.ensure_future(self._bucket.write(key, content, expect=revision))):
            self._remember(key, value, CacheSource.DB, epoch)
        return value

    async def _look(self, key: str, markers: list[str]) -> tuple[Entry | None, list[str]]:
        """What the bucket has of a result, and where its groups stand."""
        head = await self._bucket.head(key)
        return head, list(await asyncio.gather(*map(self._stand, markers)))

    async def _is_written(self, writing: asyncio.Task[Position]) -> bool:
        """Whether the result is in the bucket; who asked for it does not wait long for that."""
        self._writing.add(writing)
        writing.add_done_callback(self._ended)
        await asyncio.wait({writing}, timeout=self._patience.patience_s)
        error = writing.exception() if writing.done() else TimeoutError()
        if isinstance(error, CodecError):
            _log.info("a result is not cached: %s", error)
        elif error is not None and not isinstance(error, VersionConflict):
            if not isinstance(error, (HoldfastError, TimeoutError)):
                raise error
            self._patience.rest(error)
        return error is None  # a conflict: invalidated, or loaded by somebody else, meanwhile

    def _ended(self, writing: asyncio.Task[Position]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()

    async def _stand(self, marker: str) -> str:
        """Where a group stands. One without a marker gets it: an expired marker must never match an older result."""
        head = await self._bucket.head(marker)
        if head is not None and head.operation == "put":
            return str(head.position)
        return str(await overwrite(self._bucket, marker, b"{}"))

    async def _load(self, load: Callable[[], Awaitable[Any]]) -> Any:
        deadline = asyncio.timeout(self._load_timeout_s)
        try:
            async with deadline:
                return await load()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise OperationTimeout("loading a query's result took too long", driver_error=error) from None

    def _read(self, head: Entry | None, standing: list[str]) -> _Found | None:
        if head is None or head.operation != "put" or head.value is None:
            return None
        try:
            content = self._codec.decode(head.value)
        except CodecError:
            return None  # another release wrote it
        if not isinstance(content, dict) or content.get("groups") != standing or "value" not in content:
            return None
        return _Found(content["value"])

    def _remember(self, key: str, value: Any, source: CacheSource, epoch: object) -> None:
        if self._memory is not None and self._loads.is_valid(key):
            self._memory.put(key, value, source=source, epoch=epoch)


class _Found(NamedTuple):
    value: Any


def _marker(group: str) -> str:
    return "query." + hashlib.sha256(f"group:{group}".encode()).hexdigest()
