"""Vectors: the right facts in the right order, of one model and version, through the index where there is one."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import math
import random
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from holdfast.errors import CodecError, ConstraintViolation, NotFound
from holdfast.vectors import Embedding, Fact, VectorQuery, VectorStore, content_hash

Open = Callable[[], Any]
SIZE = 1536
_FACT_ID = [column.name for column in dataclasses.fields(Fact)].index("fact_id")


def _vector(*head: float) -> list[float]:
    return [*head, *([0.0] * (SIZE - len(head)))]


def _fact(text: str = "a text", **changes: Any) -> Fact:
    return Fact(**{"entity_type": "city", "entity_id": uuid4().hex, "predicate": "is", "object_value": {"t": text},
                   **changes})  # fmt: skip


def _store(plane: Any, **options: Any) -> VectorStore:
    return VectorStore(plane.pools, plane.contract.names, **options)


async def _fresh(plane: Any) -> int:
    """Where replicas must stand to show what was written."""
    return int(await plane.pools.position())


@pytest.mark.req("D5.3")
def test_the_nearest_by_cosine_come_first_with_their_facts(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model = _store(plane), f"m-{uuid4().hex}"
            angles = {0: "same", 30: "near", 90: "across", 180: "against"}
            facts = {}
            for angle, text in angles.items():
                turned = _vector(7 * math.cos(math.radians(angle)), 7 * math.sin(math.radians(angle)))
                facts[text] = await store.put(_fact(text), [Embedding(text, turned)], model=model, version="1")
            query = VectorQuery(_vector(1.0), model, "1")
            hits = await store.search(query, after_lsn=await _fresh(plane))
            assert [hit.text for hit in hits] == ["same", "near", "across", "against"]
            assert [hit.fact.fact_id for hit in hits] == [facts[text].fact_id for text in angles.values()]
            assert [hit.similarity for hit in hits] == pytest.approx([1, math.cos(math.radians(30)), 0, -1], abs=1e-5)
            assert hits[0].fact.object_value == {"t": "same"}
            close = await store.search(VectorQuery(_vector(1.0), model, "1", min_similarity=0.5))
            assert [hit.text for hit in close] == ["same", "near"]
            assert [hit.text for hit in await store.search(query, limit=1)] == ["same"]
            assert await store.search(query, limit=0) == []

    asyncio.run(main())


@pytest.mark.req("D5.3")
def test_models_versions_and_facts_that_do_not_hold_are_kept_apart(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model, here = _store(plane), f"m-{uuid4().hex}", _vector(1.0)
            now = datetime.datetime.now(datetime.UTC)
            day = datetime.timedelta(days=1)
            good = _fact(confidence_score=0.9)
            for version, fact in {
                "1": good,
                "2": _fact(),
            }.items():
                await store.put(fact, [Embedding(version, here)], model=model, version=version)
            await store.put(_fact(), [Embedding("other", here)], model=f"{model}-other", version="1")
            over = _fact(valid_from=now - 3 * day, valid_until=now - day, confidence_score=0.2)
            await store.put(over, [Embedding("over", here)], model=model, version="1")
            town = _fact(entity_type="town", predicate="has")
            await store.put(town, [Embedding("town", here)], model=model, version="1")
            lsn = await _fresh(plane)

            async def texts(**narrowed: Any) -> set[str]:
                hits = await store.search(VectorQuery(here, model, "1", **narrowed), after_lsn=lsn)
                return {hit.text for hit in hits}

            assert await texts() == {"1", "town"}
            assert await texts(at=now - 2 * day) == {"over"}
            assert await texts(entity_type="town") == await texts(predicate="has") == {"town"}
            assert await texts(entity_id=good.entity_id) == await texts(min_confidence=0.5) == {"1"}

    asyncio.run(main())


@pytest.mark.req("D5.3")
def test_a_text_is_embedded_once_and_replaced_when_it_changes(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model = _store(plane), f"m-{uuid4().hex}"
            fact = await store.put(_fact())
            key = {"model": model, "version": "1"}
            assert await store.unembedded(fact.fact_id, ["a", "b"], **key) == ["a", "b"]
            parts = [Embedding("a", _vector(1.0)), Embedding("b", _vector(0.0, 1.0))]
            assert await store.embed(fact.fact_id, parts, **key) == 2
            assert await store.unembedded(fact.fact_id, ["a", "b", "c"], **key) == ["c"]
            assert await store.unembedded(fact.fact_id, ["a"], model=model, version="2") == ["a"]
            assert await store.embed(fact.fact_id, parts, **key) == 0
            changed = [parts[0], Embedding("c", _vector(0.0, 0.0, 1.0))]
            assert await store.embed(fact.fact_id, changed, **key) == 1
            rows = await plane.execute(
                "SELECT text_content, content_hash FROM knowledge.embeddings WHERE fact_id = %s ORDER BY 1",
                [fact.fact_id],
            )
            assert [tuple(row) for row in rows] == [("a", content_hash("a")), ("c", content_hash("c"))]
            hits = await store.search(VectorQuery(_vector(1.0, 0.5), model, "1"), after_lsn=await _fresh(plane))
            assert [hit.text for hit in hits] == ["a"], "one hit for each fact: its best text"
            both = await asyncio.gather(
                *(store.embed(fact.fact_id, [*changed, Embedding("d", _vector(2.0))], **key) for _ in range(4))
            )
            assert sorted(both) == [0, 0, 0, 1]

    asyncio.run(main())


def test_a_row_whose_text_does_not_fit_its_hash_is_left_out(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model = _store(plane), f"m-{uuid4().hex}"
            for text in ("sound", "damaged"):
                await store.put(_fact(), [Embedding(text, _vector(1.0))], model=model, version="1")
            await plane.execute(
                "UPDATE knowledge.embeddings SET text_content = 'other' WHERE embedding_model = %s"
                " AND text_content = 'damaged'",
                [model],
            )
            hits = await store.search(VectorQuery(_vector(1.0), model, "1"), after_lsn=await _fresh(plane))
            assert [hit.text for hit in hits] == ["sound"]

    asyncio.run(main())


def test_facts_are_kept_changed_and_deleted_with_their_vectors(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model = _store(plane), f"m-{uuid4().hex}"
            fact = _fact(confidence_score=0.25, evidence={"from": [1]})
            await store.put(fact, [Embedding("x", _vector(1.0))], model=model, version="1")
            await store.put(Fact(**{**fact.__dict__, "object_value": [2]}))
            found = await store.get(fact.fact_id)
            assert (found.object_value, found.confidence_score, found.evidence) == ([2], 0.25, {"from": [1]})
            assert found.valid_from is not None
            await store.delete(fact.fact_id)
            left = "SELECT count(*) FROM knowledge.embeddings WHERE fact_id = %s"
            assert (await plane.execute(left, [fact.fact_id]))[0][0] == 0
            for attempt in (store.get(fact.fact_id), store.delete(fact.fact_id),
                            store.embed(fact.fact_id, [], model=model, version="1")):  # fmt: skip
                with pytest.raises(NotFound):
                    await attempt
            with pytest.raises(ConstraintViolation):
                await store.put(_fact(confidence_score=2.0))

    asyncio.run(main())


@pytest.mark.parametrize("vector", [[1.0], [], [0.0] * SIZE, [math.nan] * SIZE, [math.inf] * SIZE])
def test_a_vector_that_cannot_be_compared_is_refused(open_plane: Open, vector: list[float]) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store = _store(plane)
            with pytest.raises(CodecError):
                await store.search(VectorQuery(vector, "m", "1"))
            with pytest.raises(CodecError):
                await store.put(_fact(), [Embedding("x", vector)], model="m", version="1")
            with pytest.raises(CodecError):
                await store.put(_fact(), [Embedding("x", _vector(1.0))])

    asyncio.run(main())


@pytest.mark.req("D5.3")
def test_the_index_serves_a_search_and_a_narrow_filter_still_finds_what_is_there(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            store, model, rare = _store(plane), f"m-{uuid4().hex}", f"r-{uuid4().hex}"
            await _fill(plane, model, 300)
            dice = random.Random(5)
            around = [dice.gauss(0, 1) for _ in range(SIZE)]
            far = await store.put(_fact("far", entity_type=rare), [Embedding("far", [-x for x in around])],
                                  model=model, version="1")  # fmt: skip
            query = VectorQuery(around, model, "1")
            lsn = await _fresh(plane)
            true = {hit.fact.fact_id for hit in await store.search(query, limit=10, exact=True, after_lsn=lsn)}
            literal = "[" + ",".join(map(str, around)) + "]"
            async with plane.pools.primary.connection() as connection, connection.transaction():
                # So few rows are sorted sooner than looked up; from about a thousand on the planner takes the index.
                await connection.execute("SET LOCAL enable_sort = off")
                used = {}
                for exact in (False, True):
                    statement, values = await store.statement(connection, query, literal, 10, exact=exact)
                    plan = await connection.execute(f"EXPLAIN {statement}", values)
                    used[exact] = "using idx_knowledge_embeddings_vector" in str(await plan.fetchall())
                statement, values = await store.statement(connection, query, literal, 10, exact=False)
                rows = await (await connection.execute(statement, values)).fetchall()
            assert used == {False: True, True: False}
            assert len(true & {row[_FACT_ID] for row in rows}) >= 9, "nearly all of the true neighbours"
            narrow = VectorQuery(around, model, "1", entity_type=rare)
            assert [hit.fact.fact_id for hit in await store.search(narrow, after_lsn=lsn)] == [far.fact_id]

    asyncio.run(main())


async def _fill(plane: Any, model: str, number: int) -> None:
    """Facts with vectors made by the server: one with many random directions each."""
    await plane.execute("SELECT setseed(0.5)")
    await plane.execute(
        """WITH made AS (
             INSERT INTO knowledge.facts (entity_type, entity_id, predicate, object_value, object_type)
             SELECT 'bulk', n::text, 'is', '{}', 'text' FROM generate_series(1, %(number)s) n RETURNING fact_id)
           INSERT INTO knowledge.embeddings
             (fact_id, embedding_model, embedding_version, embedding_vector, text_content, content_hash)
           SELECT fact_id, %(model)s, '1',
             ARRAY(SELECT random() - 0.5 + length(fact_id::text) * 0 FROM generate_series(1, %(size)s))::vector,
             fact_id::text, encode(sha256(convert_to(fact_id::text, 'UTF8')), 'hex')
           FROM made""",
        {"number": number, "model": model, "size": SIZE},
    )
