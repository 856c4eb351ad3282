"""The router: each type of data goes to its layer, and every store keeps the same promises."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.errors import (
    CodecError,
    ConfigurationError,
    ConstraintViolation,
    DuplicateKey,
    NotFound,
    Unsupported,
)
from holdfast.router import (
    ROUTES,
    DataRouter,
    DataType,
    KvStorage,
    MemoryStorage,
    StorageLayer,
    standard_router,
)
from holdfast.vectors import Fact, VectorQuery

Open = Callable[[], Any]


class Handles:
    """Handles of agents' state by id, in memory."""

    def __init__(self) -> None:
        self.states: dict[UUID, dict[str, Any]] = {}

    def __call__(self, id: UUID) -> Handles.Handle:
        return Handles.Handle(self.states.setdefault(id, {}))

    class Handle:
        def __init__(self, state: dict[str, Any]) -> None:
            self.state = state

        async def get(self, key: str) -> Any:
            if key not in self.state:
                raise NotFound(key)
            return self.state[key]

        async def put(self, key: str, value: Any) -> None:
            self.state[key] = value

        async def delete(self, key: str) -> None:
            del self.state[key]

        async def items(self) -> dict[str, Any]:
            return self.state


async def _router(plane: Any, handles: Any = None) -> DataRouter:
    return standard_router(plane.pools, plane.contract.names, await plane.bucket("session"), handles or Handles())


@pytest.mark.req("D5.1", "D5.2")
def test_every_type_of_data_has_its_layer() -> None:
    assert {type_.value: DataRouter.select_storage(type_).value for type_ in DataType} == {
        "SESSION_DATA": "DISTRIBUTED_KV",
        "AGENT_STATE": "DISTRIBUTED_KV",
        "TASK_INFO": "RELATIONAL_DB",
        "MESSAGE_LOG": "RELATIONAL_DB",
        "KNOWLEDGE_BASE": "VECTOR_STORE",
    }
    assert [layer.value for layer in StorageLayer] == [
        "MEMORY_CACHE",
        "DISTRIBUTED_KV",
        "RELATIONAL_DB",
        "VECTOR_STORE",
    ]


@pytest.mark.req("D5.2")
def test_a_type_without_a_store_of_its_layer_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match="SESSION_DATA needs a storage of the layer DISTRIBUTED_KV"):
        DataRouter({})
    with pytest.raises(ConfigurationError, match="SESSION_DATA"):
        DataRouter(dict.fromkeys(ROUTES, MemoryStorage()))


def _task(**columns: Any) -> dict[str, Any]:
    return {"task_type": "inference", "task_name": "one", "payload": {"n": [1]}, **columns}


def _message(**columns: Any) -> dict[str, Any]:
    return {"message_type": "notification", "broadcast_to_type": "worker", "payload": {"x": 1}, **columns}


@pytest.mark.req("D5.1", "D5.2")
@pytest.mark.parametrize("data_type", [type_ for type_ in DataType if type_ is not DataType.MESSAGE_LOG])
def test_what_is_stored_is_retrieved_changed_and_removed(open_plane: Open, data_type: DataType) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            router, id = await _router(plane), str(uuid4())
            key = f"{id}/step" if data_type is DataType.AGENT_STATE else id
            first: Any = {"at": datetime.datetime.now(datetime.UTC), "n": 1}
            second: Any = {"n": 2}
            if data_type is DataType.TASK_INFO:
                first, second = _task(), _task(task_name="two", status="running")
            if data_type is DataType.KNOWLEDGE_BASE:
                first = Fact("e", "1", "is", {"v": 1}, fact_id=UUID(id))
                second = Fact("e", "2", "is", {"v": 2}, fact_id=UUID(id))
            with pytest.raises(NotFound):
                await router.retrieve(data_type, key)
            with pytest.raises(NotFound):
                await router.remove(data_type, key)
            for value in (first, second):
                await router.store(data_type, key, value)
                found = await router.retrieve(data_type, key)
                if data_type is DataType.TASK_INFO:
                    found = {name: found[name] for name in value}
                if data_type is DataType.KNOWLEDGE_BASE:
                    found, value = found.object_value, value.object_value
                assert found == value
            await router.remove(data_type, key)
            with pytest.raises(NotFound):
                await router.retrieve(data_type, key)

    asyncio.run(main())


def test_a_message_is_logged_once_and_stays(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            log, id = (await _router(plane)).storage(DataType.MESSAGE_LOG), str(uuid4())
            await log.store(id, _message())
            assert (await log.retrieve(id))["payload"] == {"x": 1}
            with pytest.raises(DuplicateKey):
                await log.store(id, _message(payload={"x": 2}))
            with pytest.raises(Unsupported):
                await log.remove(id)
            with pytest.raises(ConstraintViolation):
                await log.store(str(uuid4()), _message(broadcast_to_type=None))

    asyncio.run(main())


def test_a_task_that_changes_its_type_stays_one_task_also_when_stored_at_once(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            tasks, id = (await _router(plane)).storage(DataType.TASK_INFO), str(uuid4())
            kinds = ["inference", "tool_call", "other"] * 4
            await asyncio.gather(*(tasks.store(id, _task(task_type=kind)) for kind in kinds))
            rows = await plane.execute("SELECT task_type FROM tasks.queue WHERE task_id = %s", [id])
            assert len(rows) == 1
            found = await tasks.search({"task_type": rows[0][0], "task_name": "one"}, limit=1000)
            assert UUID(id) in [row["task_id"] for row in found]
            assert [row["created_at"] for row in found] == sorted((row["created_at"] for row in found), reverse=True)
            assert len(await tasks.search({}, limit=1)) == 1

    asyncio.run(main())


@pytest.mark.req("D10.6")
def test_names_of_columns_are_no_way_into_a_statement(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            tasks = (await _router(plane)).storage(DataType.TASK_INFO)
            for wrong in ({'x" = 1 OR "a': 1}, {"task_name; DROP TABLE x": 1}, {1: 1}, "task_name"):
                with pytest.raises(CodecError):
                    await tasks.search(wrong)
                with pytest.raises(CodecError):
                    await tasks.store(str(uuid4()), wrong)
            with pytest.raises(CodecError):
                await tasks.retrieve("1 OR true")

    asyncio.run(main())


@pytest.mark.parametrize("store", ["memory", "bucket"])
def test_keys_are_found_by_their_beginning(open_plane: Open, store: str) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            prefix = f"t{uuid4().hex}"
            storage: Any = MemoryStorage() if store == "memory" else KvStorage(await plane.bucket("session"), "session")
            values = {f"{prefix}.a": 1, f"{prefix}.b c": {"x": (1,)}, f"{prefix}.d": None}
            for key, value in values.items():
                await storage.store(key, value)
            await storage.store(f"{prefix}.gone", 1)
            await storage.remove(f"{prefix}.gone")
            assert dict(await storage.search(prefix)) == values
            assert len(await storage.search(prefix, limit=2)) == 2

    asyncio.run(main())


def test_state_of_agents_goes_through_their_handles(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            handles, id = Handles(), uuid4()
            router = await _router(plane, handles)
            await router.store(DataType.AGENT_STATE, f"{id}/plan/step", 1)
            assert handles.states[id] == {"plan/step": 1}
            assert await router.search(DataType.AGENT_STATE, str(id)) == [(f"{id}/plan/step", 1)]
            for wrong in ("no id/x", str(id)):
                with pytest.raises(CodecError):
                    await router.store(DataType.AGENT_STATE, wrong, 1)

    asyncio.run(main())


@pytest.mark.req("D5.3")
def test_knowledge_is_searched_by_vectors_only(open_plane: Open) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            router, id = await _router(plane), uuid4()
            query = VectorQuery([1.0] * 1536, f"m-{id}", "1")
            assert await router.search(DataType.KNOWLEDGE_BASE, query) == []
            with pytest.raises(CodecError):
                await router.search(DataType.KNOWLEDGE_BASE, "text")
            with pytest.raises(CodecError):
                await router.store(DataType.KNOWLEDGE_BASE, str(uuid4()), Fact("e", "1", "is", 1, fact_id=id))

    asyncio.run(main())
