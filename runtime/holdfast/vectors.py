"""Facts and the vectors of their texts: what is stored, and search by cosine.

A vector means something only among those of its own model and version, and only while its text is the one that was
embedded. So each search names model and version, and a row whose text does not fit its hash is left out.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

from holdfast.errors import CodecError, ConfigurationError, NotFound
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from holdfast.contract import Names
    from holdfast.sql.pools import Pools

_log = logging.getLogger("holdfast.vectors")

_JSON: Final = frozenset({"object_value", "evidence"})
#: pgvector's own bounds of hnsw.ef_search.
_EF_LEAST, _EF_MOST = 40, 1000
#: The first pgvector that goes on searching when a filter has left too little.
_ITERATIVE: Final = (0, 8)
_MOST_ROWS: Final = 10_000


@dataclass(frozen=True)
class Fact:
    """One statement about an entity. ``object_value`` and ``evidence`` are JSON; times have a time zone."""

    entity_type: str
    entity_id: str
    predicate: str
    object_value: Any
    object_type: str = "text"
    fact_id: UUID = field(default_factory=uuid4)
    source_agent_id: UUID | None = None
    confidence_score: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    valid_from: datetime.datetime | None = None
    valid_until: datetime.datetime | None = None


@dataclass(frozen=True)
class Embedding:
    """A text and its vector. A fact may have several, one for each piece of its text."""

    text: str
    vector: Sequence[float]


@dataclass(frozen=True)
class VectorQuery:
    """What to search for.

    ``vector`` was made by ``model`` in ``version``. ``min_similarity`` is a cosine, from -1 to 1. The others narrow
    down the facts; ``at`` is the time at which they must hold, now unless given.
    """

    vector: Sequence[float]
    model: str
    version: str
    min_similarity: float = -1.0
    entity_type: str | None = None
    entity_id: str | None = None
    predicate: str | None = None
    min_confidence: float | None = None
    at: datetime.datetime | None = None


class Hit(NamedTuple):
    """A fact and its best text; ``similarity`` is the cosine, 1 for the same direction."""

    fact: Fact
    text: str
    similarity: float


class _Column(NamedTuple):
    """What the database says of the column of vectors."""

    dimensions: int
    schema: str
    version: tuple[int, ...]


_FACT_COLUMNS: Final = tuple(column.name for column in fields(Fact))
_COLUMNS: Final = ", ".join(f"f.{name}" for name in _FACT_COLUMNS)
_OF_MODEL: Final = "fact_id = %s AND embedding_model = %s AND embedding_version = %s"


def content_hash(text: str) -> str:
    """SHA-256 of a text in lower-case hexadecimal, as it stands beside its vector."""
    return hashlib.sha256(text.encode()).hexdigest()


class VectorStore:
    """Facts with vectors, in the plane's tables of facts and embeddings. Every call ends within ``timeout_s``.

    Raises ConstraintViolation, CodecError for a vector of the wrong size, and what the pools raise.
    """

    def __init__(self, pools: Pools, names: Names, *, timeout_s: float = 10.0) -> None:
        self._pools = pools
        self._facts, self._embeddings = qualified(names.fact_table), qualified(names.embedding_table)
        self._timeout_s = timeout_s
        self._known: _Column | None = None
        self._looking = asyncio.Lock()

    async def put(
        self, fact: Fact, embeddings: Iterable[Embedding] | None = None, *, model: str = "", version: str = ""
    ) -> Fact:
        """Store a fact, new or not, and with ``embeddings`` replace those of ``model`` and ``version``, in one go."""
        texts = None if embeddings is None else list(embeddings)
        async with (
            limited(self._timeout_s, "storing a fact"),
            self._pools.primary.connection() as connection,
            connection.transaction(),
        ):
            await self._put_fact(connection, fact)
            if texts is not None:
                await self._put_texts(connection, fact.fact_id, texts, model, version)
        return fact

    async def embed(self, fact_id: UUID, embeddings: Iterable[Embedding], *, model: str, version: str) -> int:
        """Replace a fact's texts and vectors of one model and version; what is there already stays untouched.

        Gives how many were written. Raises NotFound for an unknown fact.
        """
        async with (
            limited(self._timeout_s, "storing embeddings"),
            self._pools.primary.connection() as connection,
            connection.transaction(),
        ):
            return await self._put_texts(connection, fact_id, list(embeddings), model, version)

    async def unembedded(self, fact_id: UUID, texts: Iterable[str], *, model: str, version: str) -> list[str]:
        """The texts that have no vector of this model and version yet: only these need be embedded."""
        asked = list(texts)
        query = f"""
            SELECT content_hash FROM {self._embeddings}
             WHERE {_OF_MODEL} AND embedding_vector IS NOT NULL"""
        async with limited(self._timeout_s, "reading embeddings"), self._pools.primary.connection() as connection:
            rows = await (await connection.execute(query, [fact_id, model, version])).fetchall()
        known = {row[0] for row in rows}
        return [text for text in asked if content_hash(text) not in known]

    async def get(self, fact_id: UUID) -> Fact:
        """Raises NotFound."""
        from psycopg.rows import dict_row

        query = f"SELECT {_COLUMNS} FROM {self._facts} AS f WHERE fact_id = %s"
        async with (
            limited(self._timeout_s, "reading a fact"),
            self._pools.primary.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query, [fact_id])
            row = await cursor.fetchone()
        if row is None:
            raise NotFound("there is no such fact")
        return _fact(row)

    async def delete(self, fact_id: UUID) -> None:
        """Delete a fact and its vectors. Raises NotFound."""
        query = f"DELETE FROM {self._facts} WHERE fact_id = %s"
        async with limited(self._timeout_s, "deleting a fact"), self._pools.primary.connection() as connection:
            if not (await connection.execute(query, [fact_id])).rowcount:
                raise NotFound("there is no such fact")

    async def search(
        self, query: VectorQuery, *, limit: int = 10, exact: bool = False, after_lsn: int | None = None
    ) -> list[Hit]:
        """The most similar facts, best first, each with its best text.

        Uses the table's index where the planner finds it cheaper, which is approximate. When the filters leave less
        than ``limit`` of what the index gave, or with ``exact``, all vectors of the model are compared. Reads a replica
        that may lag; ``after_lsn`` as of ``Pools.read``. Rows whose text does not fit its hash are left out and logged.
        """
        if limit < 1:
            return []
        async with limited(self._timeout_s, "searching vectors"):
            pool = self._pools.read(after_lsn)
            async with pool.connection() as connection:
                column = await self._column(connection)
                literal = _literal(query.vector, column)
                return await self._search(connection, query, literal, limit, exact)

    # Searching

    async def _search(
        self, connection: AsyncConnection[Any], query: VectorQuery, literal: str, limit: int, exact: bool
    ) -> list[Hit]:
        """Ask for more until there are enough different facts, or no more rows."""
        rows_asked = 2 * limit
        while True:
            rows = await self._rows(connection, query, literal, rows_asked, exact)
            is_all = len(rows) < rows_asked
            if is_all and not exact:
                exact = True  # an approximate search may have given up early
                continue
            hits = _hits(rows, query.min_similarity)
            is_below = bool(rows) and _similarity(rows[-1]) < query.min_similarity
            if len(hits) >= limit or is_all or is_below or rows_asked >= _MOST_ROWS:
                return hits[:limit]
            rows_asked = min(rows_asked * 4, _MOST_ROWS)

    async def _rows(
        self, connection: AsyncConnection[Any], query: VectorQuery, literal: str, limit: int, exact: bool
    ) -> list[dict[str, Any]]:
        from psycopg.rows import dict_row

        statement, values = await self.statement(connection, query, literal, limit, exact=exact)
        async with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            if not exact:
                await self._tune(connection, limit)
            await cursor.execute(statement, values)
            return list(await cursor.fetchall())

    async def _tune(self, connection: AsyncConnection[Any], limit: int) -> None:
        """For this transaction: consider as many candidates as rows are wanted, more while a filter rejects them."""
        breadth = str(min(max(limit, _EF_LEAST), _EF_MOST))
        settings = "set_config('hnsw.ef_search', %s, true)"
        if (await self._column(connection)).version >= _ITERATIVE:
            settings += ", set_config('hnsw.iterative_scan', 'strict_order', true)"
        await connection.execute(f"SELECT {settings}", [breadth])

    async def statement(
        self, connection: AsyncConnection[Any], query: VectorQuery, literal: str, limit: int, *, exact: bool
    ) -> tuple[str, dict[str, Any]]:
        """The SELECT of a search and its values. ``exact`` orders by an expression that no index serves."""
        column = await self._column(connection)
        distance = f'e.embedding_vector OPERATOR("{column.schema}".<=>) %(vector)s::"{column.schema}".vector'
        conditions, values = _conditions(query)
        statement = f"""
            SELECT {_COLUMNS}, e.text_content, e.content_hash, {distance} AS distance
              FROM {self._embeddings} AS e JOIN {self._facts} AS f ON f.fact_id = e.fact_id
             WHERE {" AND ".join(conditions)}
             ORDER BY {f"({distance}) + 0" if exact else distance} LIMIT %(limit)s"""
        return statement, {**values, "vector": literal, "limit": limit}

    async def _column(self, connection: AsyncConnection[Any]) -> _Column:
        """Size and type of the column, asked once. Raises ConfigurationError where there is no such column."""
        async with self._looking:
            if self._known is None:
                cursor = await connection.execute(
                    "SELECT a.atttypmod, n.nspname, x.extversion FROM pg_catalog.pg_attribute a"
                    " JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
                    " JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
                    " JOIN pg_catalog.pg_extension x ON x.extname = 'vector'"
                    " WHERE a.attrelid = to_regclass(%s) AND a.attname = 'embedding_vector' AND t.typname = 'vector'",
                    [self._embeddings],
                )
                row = await cursor.fetchone()
                if row is None:
                    raise ConfigurationError(
                        "the table of embeddings has no column embedding_vector of pgvector's type"
                    )
                version = tuple(int(part) for part in str(row[2]).split(".") if part.isdigit())
                self._known = _Column(int(row[0]), str(row[1]), version)
            return self._known

    # Writing

    async def _put_fact(self, connection: AsyncConnection[Any], fact: Fact) -> None:
        from psycopg.types.json import Jsonb

        # What is None is left to the table's defaults when the fact is new, and as it is when it is not.
        given = {name: getattr(fact, name) for name in _FACT_COLUMNS}
        given = {name: value for name, value in given.items() if value is not None or name in _JSON}
        changed = ", ".join(f"{name} = excluded.{name}" for name in given if name != "fact_id")
        query = f"""
            INSERT INTO {self._facts} ({", ".join(given)}) VALUES ({", ".join(["%s"] * len(given))})
                ON CONFLICT (fact_id) DO UPDATE SET {changed}"""
        await connection.execute(query, [Jsonb(v) if name in _JSON else v for name, v in given.items()])

    async def _put_texts(
        self, connection: AsyncConnection[Any], fact_id: UUID, embeddings: list[Embedding], model: str, version: str
    ) -> int:
        if not model or not version:
            raise CodecError("embeddings need the name and the version of their model")
        column = await self._column(connection)
        wanted = {content_hash(each.text): each for each in embeddings}
        literals = {digest: _literal(each.vector, column) for digest, each in wanted.items()}
        # The row's lock: two who embed one fact at once must not both find a text missing.
        lock = f"SELECT 1 FROM {self._facts} WHERE fact_id = %s FOR NO KEY UPDATE"
        if await (await connection.execute(lock, [fact_id])).fetchone() is None:
            raise NotFound("there is no such fact")
        await connection.execute(
            f"DELETE FROM {self._embeddings} WHERE {_OF_MODEL}"
            " AND (content_hash <> ALL(%s) OR embedding_vector IS NULL)",
            [fact_id, model, version, list(wanted)],
        )
        there = await connection.execute(
            f"SELECT content_hash FROM {self._embeddings} WHERE {_OF_MODEL}", [fact_id, model, version]
        )
        missing = wanted.keys() - {row[0] for row in await there.fetchall()}
        insert = f"""
            INSERT INTO {self._embeddings}
                   (fact_id, embedding_model, embedding_version, embedding_vector, text_content, content_hash)
            VALUES (%s, %s, %s, %s::"{column.schema}".vector, %s, %s)"""
        for digest in sorted(missing):
            await connection.execute(insert, [fact_id, model, version, literals[digest], wanted[digest].text, digest])
        return len(missing)


def _conditions(query: VectorQuery) -> tuple[list[str], dict[str, Any]]:
    conditions = [
        "e.embedding_model = %(model)s",
        "e.embedding_version = %(version)s",
        "e.embedding_vector IS NOT NULL",
        "(f.valid_from IS NULL OR f.valid_from <= coalesce(%(at)s::timestamptz, now()))",
        "(f.valid_until IS NULL OR f.valid_until > coalesce(%(at)s::timestamptz, now()))",
    ]
    values: dict[str, Any] = {"model": query.model, "version": query.version, "at": query.at}
    for name in ("entity_type", "entity_id", "predicate"):
        if getattr(query, name) is not None:
            conditions.append(f"f.{name} = %({name})s")
            values[name] = getattr(query, name)
    if query.min_confidence is not None:
        conditions.append("f.confidence_score >= %(confidence)s::float8")
        values["confidence"] = query.min_confidence
    return conditions, values


def _hits(rows: Iterable[Mapping[str, Any]], least: float) -> list[Hit]:
    hits: dict[UUID, Hit] = {}
    for row in rows:
        if row["content_hash"] != content_hash(row["text_content"]):
            _log.warning("the text of an embedding of fact %s does not fit its hash; it is left out", row["fact_id"])
            continue
        if row["fact_id"] not in hits and _similarity(row) >= least:
            hits[row["fact_id"]] = Hit(_fact(row), row["text_content"], _similarity(row))
    return list(hits.values())


def _similarity(row: Mapping[str, Any]) -> float:
    return 1.0 - float(row["distance"])


def _fact(row: Mapping[str, Any]) -> Fact:
    values = {name: row[name] for name in _FACT_COLUMNS}
    score = values["confidence_score"]
    values["confidence_score"] = float(score) if score is not None else None
    values["evidence"] = values["evidence"] or {}
    return Fact(**values)


def _literal(vector: Sequence[float], column: _Column) -> str:
    """A vector as pgvector reads it. Raises CodecError for one that has no direction or the wrong size."""
    numbers = [float(number) for number in vector]
    if column.dimensions > 0 and len(numbers) != column.dimensions:
        raise CodecError(f"a vector of {len(numbers)} numbers; the table takes {column.dimensions}")
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        raise CodecError("a vector of zeros, or with a number that is not finite, has no direction to compare")
    return "[" + ",".join(map(repr, numbers)) + "]"
