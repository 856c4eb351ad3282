"""Typed edits: the model's fields as keys, read together and written together."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from holdfast.errors import HoldfastError, VersionConflict
from holdfast.kv.link import finish
from holdfast.state.codec import record_fields
from holdfast.state.edits import Edit
from holdfast.state.keys import RESERVED
from holdfast.state.schema import build, upcast, values_of, version_of

if TYPE_CHECKING:
    from holdfast.state.agent import AgentState
    from holdfast.state.home import Durability, Written

M = TypeVar("M")
#: The version of state that was never edited with a model of a later one.
_FIRST = 1


class Editing(Generic[M]):
    """The context manager of ``agent.edit()``. ``written`` says afterwards where it stands, None without a change."""

    def __init__(self, agent: AgentState[Any], model: type[M], ack: Durability) -> None:
        self._agent = agent
        self._model = model
        self._ack = ack
        self._fields = record_fields(model)
        self._instance: M | None = None
        self._before: dict[str, object] = {}
        self._dropped: set[str] = set()
        self._version = version_of(model)
        self.written: Written | None = None

    async def __aenter__(self) -> M:
        agent = self._agent
        await agent.hydrate()
        heads = {key: head for key, head in agent.heads().items() if not key.startswith(RESERVED)}
        self._before = {name: agent.head(name) for name in self._fields}
        values = {key: agent.codec.decode(head.value, key) for key, head in heads.items() if head.value is not None}
        if values:
            raised = upcast(self._model, values, agent.schema or _FIRST)
            self._dropped = set(values) - set(raised)
            values = raised
        self._instance = build(self._model, values)
        return self._instance

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        if self._instance is None:
            raise HoldfastError("an edit was left that was never entered")
        agent = self._agent
        after = {name: agent.codec.encode(value) for name, value in values_of(self._instance).items()}
        await agent.admit(self._ack)
        async with agent.lock:
            if any(agent.head(name) is not self._before[name] for name in self._fields):
                raise VersionConflict("the state was written while it was edited: read again, and decide again")
            changed: dict[str, bytes | None] = {}
            for name, value in after.items():
                head = agent.head(name)
                if head is None or head.value != value:
                    changed[name] = value
            changed |= dict.fromkeys(self._dropped)
            schema = self._version if self._version > _FIRST else agent.schema
            if not changed and schema == agent.schema:
                return
            positions = await finish(agent.commit_fields(Edit(changed, schema)))
        self.written = await agent.acknowledge(positions, self._ack)
