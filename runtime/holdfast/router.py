"""Which kind of data lives where, and one way to store, retrieve, remove and search all of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from holdfast.cache import MemoryCache
from holdfast.errors import CodecError, ConfigurationError, DuplicateKey, NotFound, Unsupported
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified
from holdfast.kv.attempts import overwrite
from holdfast.state.codec import Codec
from holdfast.state.keys import agent_uuid, decode_key, encode_key
from holdfast.vectors import Fact, Hit, VectorQuery, VectorStore

if TYPE_CHECKING:
    from holdfast.contract import Names
    from holdfast.kv.bucket import Bucket
    from holdfast.sql.pools import Pools

_COLUMN: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class StorageLayer(Enum):
    """What data are kept in."""

    MEMORY_CACHE = "MEMORY_CACHE"
    DISTRIBUTED_KV = "DISTRIBUTED_KV"
    RELATIONAL_DB = "RELATIONAL_DB"
    VECTOR_STORE = "VECTOR_STORE"


class DataType(Enum):
    """What data are about."""

    SESSION_DATA = "SESSION_DATA"
    AGENT_STATE = "AGENT_STATE"
    TASK_INFO = "TASK_INFO"
    MESSAGE_LOG = "MESSAGE_LOG"
    KNOWLEDGE_BASE = "KNOWLEDGE_BASE"


#: The layer that is asked first; agent state then reaches the database by the flusher, knowledge has its facts there.
ROUTES: Final[Mapping[DataType, StorageLayer]] = MappingProxyType(
    {
        DataType.SESSION_DATA: StorageLayer.DISTRIBUTED_KV,
        DataType.AGENT_STATE: StorageLayer.DISTRIBUTED_KV,
        DataType.TASK_INFO: StorageLayer.RELATIONAL_DB,
        DataType.MESSAGE_LOG: StorageLayer.RELATIONAL_DB,
        DataType.KNOWLEDGE_BASE: StorageLayer.VECTOR_STORE,
    }
)


class DataStorage(Protocol):
    """One store. What a value and a query are, its class says. Raises NotFound, CodecError and the servers' errors."""

    @property
    def layer(self) -> StorageLayer:
        """What it keeps its data in."""

    async def store(self, key: str, value: Any) -> None:
        """Store a value under a key, over what is there."""

    async def retrieve(self, key: str) -> Any:
        """Raises NotFound."""

    async def remove(self, key: str) -> None:
        """Raises NotFound."""

    async def search(self, query: Any, *, limit: int = 100) -> list[Any]:
        """What fits the query, ``limit`` at most."""


class DataRouter:
    """Every type of data with its store. Raises ConfigurationError unless each has one of the layer it belongs to."""

    def __init__(self, storages: Mapping[DataType, DataStorage]) -> None:
        for data_type, layer in ROUTES.items():
            storage = storages.get(data_type)
            if storage is None or storage.layer is not layer:
                raise ConfigurationError(f"{data_type.value} needs a storage of the layer {layer.value}")
        self._storages = dict(storages)

    @staticmethod
    def select_storage(data_type: DataType) -> StorageLayer:
        """The layer of a type of data."""
        return ROUTES[data_type]

    def storage(self, data_type: DataType) -> DataStorage:
        """The store of a type of data."""
        return self._storages[data_type]

    async def store(self, data_type: DataType, key: str, value: Any) -> None:
        """Store a value."""
        await self._storages[data_type].store(key, value)

    async def retrieve(self, data_type: DataType, key: str) -> Any:
        """Raises NotFound."""
        return await self._storages[data_type].retrieve(key)

    async def remove(self, data_type: DataType, key: str) -> None:
        """Raises NotFound."""
        await self._storages[data_type].remove(key)

    async def search(self, data_type: DataType, query: Any, *, limit: int = 100) -> list[Any]:
        """What fits the query."""
        return await self._storages[data_type].search(query, limit=limit)


class MemoryStorage:
    """Values of this process. A query is the beginning of keys; found are pairs of key and value."""

    layer = StorageLayer.MEMORY_CACHE

    def __init__(self, cache: MemoryCache[str, Any] | None = None) -> None:
        self.cache: MemoryCache[str, Any] = cache if cache is not None else MemoryCache()

    async def store(self, key: str, value: Any) -> None:
        self.cache.put(key, value)

    async def retrieve(self, key: str) -> Any:
        entry = self.cache.get(key)
        if entry is None:
            raise NotFound("there is no such key in memory")
        return entry.value

    async def remove(self, key: str) -> None:
        await self.retrieve(key)
        self.cache.remove(key)

    async def search(self, query: Any, *, limit: int = 100) -> list[Any]:
        keys = [key for key in self.cache.keys() if key.startswith(query)]  # noqa: SIM118 - no mapping
        entries = [(key, self.cache.get(key)) for key in sorted(keys)]
        return [(key, entry.value) for key, entry in entries if entry is not None][:limit]


class KvStorage:
    """Values of a bucket below a prefix, such as ``session``; the bucket's time to live counts from the last store.

    A query is the beginning of keys up to a dot, "" for all; found are pairs of key and value.
    """

    layer = StorageLayer.DISTRIBUTED_KV

    def __init__(self, bucket: Bucket, prefix: str, *, codec: Codec | None = None) -> None:
        self._bucket, self._prefix, self._codec = bucket, prefix, codec or Codec()

    async def store(self, key: str, value: Any) -> None:
        await overwrite(self._bucket, self._name(key), self._codec.encode(value))

    async def retrieve(self, key: str) -> Any:
        entry = await self._bucket.get(self._name(key))
        if entry is None or entry.value is None:
            raise NotFound("there is no such key in the bucket")
        return self._codec.decode(entry.value)

    async def remove(self, key: str) -> None:
        await overwrite(self._bucket, self._name(key), None, must_exist=True)

    async def search(self, query: Any, *, limit: int = 100) -> list[Any]:
        below = f"{self._prefix}.{encode_key(query)}.>" if query else f"{self._prefix}.>"
        found: dict[str, Any] = {}
        async for entry in self._bucket.entries(below):
            key = decode_key(entry.key.removeprefix(f"{self._prefix}."))
            found.pop(key, None)
            if entry.operation == "put" and entry.value is not None:
                found[key] = self._codec.decode(entry.value)
        return sorted(found.items())[:limit]

    def _name(self, key: str) -> str:
        return f"{self._prefix}.{encode_key(key)}"


class AgentHandle(Protocol):
    """What of an agent's state handle is needed here."""

    async def get(self, key: str) -> Any: ...

    async def put(self, key: str, value: Any) -> Any: ...

    async def delete(self, key: str) -> Any: ...

    async def items(self) -> dict[str, Any]: ...


class AgentStateStorage:
    """State of agents, through the handles that this process holds: the bucket first, the database by the flusher.

    A key is "<agent id>/<state key>", a query an agent's id; found are pairs of such a key and its value.
    """

    layer = StorageLayer.DISTRIBUTED_KV

    def __init__(self, handle_of: Callable[[UUID], AgentHandle]) -> None:
        self._handle_of = handle_of

    async def store(self, key: str, value: Any) -> None:
        handle, state_key = self._split(key)
        await handle.put(state_key, value)

    async def retrieve(self, key: str) -> Any:
        handle, state_key = self._split(key)
        return await handle.get(state_key)

    async def remove(self, key: str) -> None:
        handle, state_key = self._split(key)
        await handle.get(state_key)
        await handle.delete(state_key)

    async def search(self, query: Any, *, limit: int = 100) -> list[Any]:
        agent_id = agent_uuid(query)
        items = await self._handle_of(agent_id).items()
        return [(f"{agent_id}/{key}", value) for key, value in sorted(items.items())][:limit]

    def _split(self, key: str) -> tuple[AgentHandle, str]:
        agent, slash, state_key = key.partition("/")
        if not slash:
            raise CodecError('a key of agent state is "<agent id>/<state key>"')
        return self._handle_of(agent_uuid(agent)), state_key


class TableStorage:
    """Rows of one table by their id. A value is a mapping of columns, of which dicts and lists are JSON.

    A query is a mapping of columns and the values that they must have; found are rows, newest first. A log takes each
    id once and gives nothing up: its days are dropped by the partition set.
    """

    layer = StorageLayer.RELATIONAL_DB

    def __init__(
        self, pools: Pools, table: str, *, key: str, newest: str, is_log: bool = False, timeout_s: float = 10.0
    ) -> None:
        self._pools, self._table, self._key, self._newest = pools, table, key, newest
        self._rows = qualified(table)
        self._is_log = is_log
        self._timeout_s = timeout_s

    async def store(self, key: str, value: Any) -> None:
        """Raises DuplicateKey where a log has the id already, ConstraintViolation for a row that cannot be."""
        row = {**_columns(value), self._key: _uuid(key)}
        async with (
            limited(self._timeout_s, "storing a row"),
            self._pools.primary.connection() as connection,
            connection.transaction(),
        ):
            # The primary key has more columns than the id: only a lock keeps two of one id from being made.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{self._table}/{row[self._key]}"]
            )
            if await self._is_there(connection, row[self._key]):
                if self._is_log:
                    raise DuplicateKey("the log has a row of this id already")
                await self._update(connection, row)
            else:
                await self._insert(connection, row)

    async def retrieve(self, key: str) -> Any:
        rows = await self._select({self._key: _uuid(key)}, 1)
        if not rows:
            raise NotFound("there is no such row")
        return rows[0]

    async def remove(self, key: str) -> None:
        """Raises ConstraintViolation while others need the row, Unsupported for a log."""
        if self._is_log:
            raise Unsupported("a log gives up whole days only, when their time is over")
        query = f"DELETE FROM {self._rows} WHERE {self._key} = %s"
        async with limited(self._timeout_s, "deleting a row"), self._pools.primary.connection() as connection:
            if not (await connection.execute(query, [_uuid(key)])).rowcount:
                raise NotFound("there is no such row")

    async def search(self, query: Any, *, limit: int = 100) -> list[Any]:
        return await self._select(_columns(query), limit)

    async def _is_there(self, connection: Any, id: UUID) -> bool:
        query = f"SELECT 1 FROM {self._rows} WHERE {self._key} = %s LIMIT 1"
        return await (await connection.execute(query, [id])).fetchone() is not None

    async def _insert(self, connection: Any, row: Mapping[str, Any]) -> None:
        names = ", ".join(map(_quoted, row))
        query = f"INSERT INTO {self._rows} ({names}) VALUES ({', '.join(['%s'] * len(row))})"
        await connection.execute(query, _adapted(row.values()))

    async def _update(self, connection: Any, row: Mapping[str, Any]) -> None:
        given = {name: value for name, value in row.items() if name != self._key}
        if given:
            changed = ", ".join(f"{_quoted(name)} = %s" for name in given)
            query = f"UPDATE {self._rows} SET {changed} WHERE {self._key} = %s"
            await connection.execute(query, [*_adapted(given.values()), row[self._key]])

    async def _select(self, wanted: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
        from psycopg.rows import dict_row

        tests = " AND ".join(f"{_quoted(name)} = %s" for name in wanted) or "true"
        query = f"SELECT * FROM {self._rows} WHERE {tests} ORDER BY {self._newest} DESC LIMIT %s"
        async with (
            limited(self._timeout_s, "reading rows"),
            self._pools.primary.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query, [*_adapted(wanted.values()), limit])
            return list(await cursor.fetchall())


class KnowledgeStorage:
    """Facts by their id, and search by vector. A value is a Fact, a query a VectorQuery, found are Hits."""

    layer = StorageLayer.VECTOR_STORE

    def __init__(self, vectors: VectorStore) -> None:
        self.vectors = vectors

    async def store(self, key: str, value: Any) -> None:
        if not isinstance(value, Fact) or value.fact_id != _uuid(key):
            raise CodecError("what is stored in the knowledge base is a Fact, under its own id")
        await self.vectors.put(value)

    async def retrieve(self, key: str) -> Fact:
        return await self.vectors.get(_uuid(key))

    async def remove(self, key: str) -> None:
        await self.vectors.delete(_uuid(key))

    async def search(self, query: Any, *, limit: int = 100) -> list[Hit]:
        if not isinstance(query, VectorQuery):
            raise CodecError("the knowledge base is searched by a VectorQuery")
        return await self.vectors.search(query, limit=limit)


def standard_router(
    pools: Pools,
    names: Names,
    sessions: Bucket,
    handle_of: Callable[[UUID], AgentHandle],
    *,
    codec: Codec | None = None,
) -> DataRouter:
    """The router over a plane's own buckets and tables. ``handle_of`` gives this process's handle of an agent."""
    return DataRouter(
        {
            DataType.SESSION_DATA: KvStorage(sessions, "session", codec=codec),
            DataType.AGENT_STATE: AgentStateStorage(handle_of),
            DataType.TASK_INFO: TableStorage(pools, names.task_table, key="task_id", newest="created_at"),
            DataType.MESSAGE_LOG: TableStorage(
                pools, names.message_table, key="message_id", newest="sent_at", is_log=True
            ),
            DataType.KNOWLEDGE_BASE: KnowledgeStorage(VectorStore(pools, names)),
        }
    )


def _uuid(key: str) -> UUID:
    try:
        return UUID(key)
    except (ValueError, AttributeError, TypeError):
        raise CodecError("the key of a row is a UUID") from None


def _columns(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and _COLUMN.fullmatch(name) for name in value):
        raise CodecError("a row is a mapping of columns to values")
    return dict(value)


def _adapted(values: Any) -> list[Any]:
    from psycopg.types.json import Jsonb

    return [Jsonb(value) if isinstance(value, (dict, list)) else value for value in values]


def _quoted(name: str) -> str:
    """A name that ``_columns`` or this module knows to be one."""
    return f'"{name}"'
