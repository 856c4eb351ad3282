"""Repositories of entities, and three tiers in front of one: memory, a bucket, the repository itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from holdfast.cache import CacheEntry, CacheSource, Loads, MemoryCache, Patience
from holdfast.errors import CodecError, HoldfastError, VersionConflict
from holdfast.events.limited import limited
from holdfast.kv.attempts import overwrite
from holdfast.kv.link import finish
from holdfast.state.codec import Codec
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.entry import Entry, Position

T = TypeVar("T")
I = TypeVar("I", bound=Hashable)  # noqa: E741
Id_contra = TypeVar("Id_contra", bound=Hashable, contravariant=True)

_log = logging.getLogger("holdfast.cache")


class Repository(Protocol[Id_contra, T]):
    """Entities by their id. Every call has a time limit and raises errors of this library only."""

    async def save(self, entity: T) -> T:
        """Store an entity, new or not, and give it as stored."""

    async def find(self, id: Id_contra) -> T:
        """Raises NotFound."""

    async def update(self, entity: T) -> T:
        """Replace an entity that is there. Raises NotFound."""

    async def delete(self, id: Id_contra) -> None:
        """Raises NotFound."""


class Tier(NamedTuple):
    """A bucket as the middle tier. ``key`` gives an id's key, ``id_of`` the id of a key or None for foreign keys.

    ``pattern`` is a filter that matches all these keys. ``fills`` is False where the repository itself keeps its
    entities in this bucket: it is then only watched.
    """

    bucket: Bucket
    key: Callable[[Hashable], str]
    id_of: Callable[[str], Hashable | None]
    pattern: str
    fills: bool = True


class TieredRepository(Generic[I, T]):
    """A repository behind a memory cache and, with ``tier``, a bucket. It is a Repository itself.

    Reads that the memory can answer touch no server; where the bucket does not answer within ``patience_s``, they ask
    the repository, and leave the bucket alone for ``rest_s``. Writes go to the repository and invalidate every tier.
    ``run``, a task of the caller's, evicts what other processes change, within the delay of a watch; without it memory
    may be as old as its time to live. An entry that was read before the connection was lost is not served any more.
    """

    def __init__(
        self,
        repository: Repository[I, T],
        *,
        id_of: Callable[[T], I],
        memory: MemoryCache[I, T],
        tier: Tier | None = None,
        codec: Codec | None = None,
        timeout_s: float = 10.0,
        patience_s: float = 0.25,
        rest_s: float = 5.0,
    ) -> None:
        self.memory = memory
        self._patience = Patience(patience_s, rest_s)
        self._repository = repository
        self._id_of = id_of
        self._tier = tier
        self._codec = codec or Codec()
        self._timeout_s = timeout_s
        self._loads: Loads[I, CacheEntry[T]] = Loads()

    # A repository

    async def find(self, id: I) -> T:
        """From memory, else the bucket, else the repository; the tiers before are filled. Raises NotFound."""
        entry = self.memory.get(id)
        return entry.value if entry is not None else (await self.find_entry(id)).value

    async def find_entry(self, id: I) -> CacheEntry[T]:
        """As ``find``, with where the value came from.

        Callers who miss at the same time share one load, unless a change in this process came in between: what another
        process changes may be seen as late as that load takes.
        """
        known = self.memory.get(id)
        if known is not None:
            return known
        return await self._loads.share(id, lambda: self._load(id))

    async def save(self, entity: T) -> T:
        """Store in the repository and invalidate every tier."""
        async with self._changing(self._id_of(entity)):
            return await self._repository.save(entity)

    async def update(self, entity: T) -> T:
        """Replace in the repository and invalidate every tier. Raises NotFound."""
        async with self._changing(self._id_of(entity)):
            return await self._repository.update(entity)

    async def delete(self, id: I) -> None:
        """Delete from the repository and invalidate every tier. Raises NotFound."""
        async with self._changing(id):
            await self._repository.delete(id)

    async def invalidate(self, id: I) -> None:
        """Forget an id in memory and in the bucket, for all processes that watch."""
        self._forget(id)
        if self._tier is not None and self._tier.fills:
            await overwrite(self._tier.bucket, self._tier.key(id), None)
        self._forget(id)

    # Upkeep

    async def run(self, *, evict_every_s: float = 30.0) -> None:
        """Watch for changes by others and remove what has expired, until cancelled."""
        evicting = asyncio.ensure_future(self._evict(evict_every_s))
        try:
            if self._tier is None:
                await evicting
                return
            await self._watch(self._tier)
        finally:
            await end(evicting)
            if self._tier is not None:
                self.memory.clear()  # from here on nobody tells of changes

    async def _watch(self, tier: Tier) -> None:
        async with tier.bucket.watch(tier.pattern) as entries:
            async for entry in entries:
                id = tier.id_of(entry.key)
                known = self.memory.peek(id) if id is not None else None  # type: ignore[arg-type]
                if id is not None and not _is_known(known, entry):
                    self._forget(id)  # type: ignore[arg-type]

    async def _evict(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self.memory.evict_expired()

    # Parts

    @asynccontextmanager
    async def _changing(self, id: I) -> AsyncIterator[None]:
        """Invalidate before, so that a crash in between leaves no old value behind, and after, whatever happened."""
        async with limited(self._timeout_s, "changing an entity"):
            await self.invalidate(id)
            try:
                yield
            except BaseException:
                try:
                    await finish(self.invalidate(id))
                except HoldfastError as error:
                    _log.warning("a bucket may hold an old entity until its time to live: %s", error)
                raise
            await finish(self.invalidate(id))

    def _forget(self, id: I) -> None:
        self.memory.remove(id)
        self._loads.drop(id)

    async def _load(self, id: I) -> CacheEntry[T]:
        epoch = self.memory.epoch()
        tier = self._tier if self._tier is not None and self._tier.fills else None
        async with limited(self._timeout_s, "finding an entity"):
            seen = await self._patience.ask(tier.bucket.head(tier.key(id))) if tier is not None else (None,)
            if seen is None:
                return self.memory.entry(await self._repository.find(id), source=CacheSource.DB)
            head = seen[0]
            value, position, source = self._decode(head), head.position if head is not None else None, CacheSource.KV
            if value is None:
                value, source = await self._repository.find(id), CacheSource.DB
                position = await self._fill(tier, id, value, head) if tier is not None else None
        entry = self.memory.entry(value, source=source, position=position, epoch=epoch)
        if self._loads.is_valid(id) and (tier is None or position is not None):
            self.memory.keep(id, entry)
        return entry

    async def _fill(self, tier: Tier, id: I, value: T, head: Entry | None) -> Position | None:
        """Write what was loaded, unless anybody wrote or invalidated the key since it was looked at."""
        try:
            return await tier.bucket.write(
                tier.key(id), self._codec.encode(value), expect=head.position.revision if head is not None else 0
            )
        except VersionConflict:
            return None
        except CodecError:
            raise
        except HoldfastError as error:
            _log.warning("an entity is not cached: %s", error)
            return None

    def _decode(self, head: Entry | None) -> T | None:
        if head is None or head.operation != "put" or head.value is None:
            return None
        try:
            value: T = self._codec.decode(head.value)
        except CodecError:
            return None  # another release wrote it; the repository knows better
        return value


def _is_known(known: CacheEntry[T] | None, entry: Entry) -> bool:
    """Whether memory holds this very write, or a later one."""
    return known is not None and known.position is not None and known.position >= entry.position
