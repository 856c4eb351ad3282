"""Durable, typed state for fleets of agents, on a plane that was provisioned before: ``holdfast.connect()``.

The library creates no object: names, pools and limits come from the contract of the plane, whose form
``contract.schema.json`` defines. Drivers are imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast import errors as errors
from holdfast.errors import HoldfastError as HoldfastError

if TYPE_CHECKING:
    from holdfast.batch import PartialFailure as PartialFailure
    from holdfast.batch import get_many as get_many
    from holdfast.batch import put_many as put_many
    from holdfast.contract import Contract as Contract
    from holdfast.events.inbox import Inbox as Inbox
    from holdfast.events.inbox import Told as Told
    from holdfast.events.inbox import events_of as events_of
    from holdfast.events.outbox import Event as Event
    from holdfast.events.triggers import TaskRow as TaskRow
    from holdfast.events.triggers import heartbeat_event as heartbeat_event
    from holdfast.events.triggers import lifecycle_event as lifecycle_event
    from holdfast.events.triggers import task_event as task_event
    from holdfast.health import HealthLimits as HealthLimits
    from holdfast.health import HealthMonitor as HealthMonitor
    from holdfast.health import HealthReport as HealthReport
    from holdfast.health import HealthStatus as HealthStatus
    from holdfast.kv.entry import Position as Position
    from holdfast.merge.crdt import Document as Document
    from holdfast.merge.strategies import Resolver as Resolver
    from holdfast.merge.strategies import Strategy as _MergeStrategy
    from holdfast.plane import Plane as Plane
    from holdfast.plane import connect as connect
    from holdfast.registry import Agent as Agent
    from holdfast.retry import Retry as Retry
    from holdfast.router import DataType as DataType
    from holdfast.router import StorageLayer as StorageLayer
    from holdfast.settings import Settings as Settings
    from holdfast.sql.transactions import Boundary as Boundary
    from holdfast.sql.transactions import Isolation as Isolation
    from holdfast.sql.transactions import TransactionContext as TransactionContext
    from holdfast.sql.transactions import TransactionResult as TransactionResult
    from holdfast.state.agent import AgentState as AgentState
    from holdfast.state.checkpoints import Checkpoint as Checkpoint
    from holdfast.state.codec import Codec as Codec
    from holdfast.state.home import StateChange as StateChange
    from holdfast.state.home import Written as Written
    from holdfast.state.lag import Consistency as Consistency
    from holdfast.state.levels import ConsistencyLevel as ConsistencyLevel
    from holdfast.state.lifecycle import Status as Status
    from holdfast.state.schema import upcaster as upcaster
    from holdfast.vectors import Embedding as Embedding
    from holdfast.vectors import Fact as Fact
    from holdfast.vectors import VectorQuery as VectorQuery
    from holdfast.work.result import Outcome as Outcome
    from holdfast.work.result import Result as Result
    from holdfast.work.result import Strategy as Strategy
    from holdfast.work.steps import Emit as Emit
    from holdfast.work.steps import KvDelete as KvDelete
    from holdfast.work.steps import KvPut as KvPut
    from holdfast.work.steps import SqlDelete as SqlDelete
    from holdfast.work.steps import SqlInsert as SqlInsert
    from holdfast.work.steps import SqlUpdate as SqlUpdate
    from holdfast.work.steps import Step as Step

    MergeStrategy = _MergeStrategy  # an import under another name would not be exported

__version__ = "0.1.0"

#: Where each name is made.
_HOMES = {
    "Agent": "registry",
    "AgentState": "state.agent",
    "Boundary": "sql.transactions",
    "Checkpoint": "state.checkpoints",
    "Codec": "state.codec",
    "Consistency": "state.lag",
    "ConsistencyLevel": "state.levels",
    "Contract": "contract",
    "DataType": "router",
    "Document": "merge.crdt",
    "Embedding": "vectors",
    "Emit": "work.steps",
    "Event": "events.outbox",
    "Fact": "vectors",
    "HealthLimits": "health",
    "HealthMonitor": "health",
    "HealthReport": "health",
    "HealthStatus": "health",
    "Inbox": "events.inbox",
    "Isolation": "sql.transactions",
    "KvDelete": "work.steps",
    "KvPut": "work.steps",
    "MergeStrategy": "merge.strategies",
    "Outcome": "work.result",
    "PartialFailure": "batch",
    "Plane": "plane",
    "Position": "kv.entry",
    "Resolver": "merge.strategies",
    "Result": "work.result",
    "Retry": "retry",
    "Settings": "settings",
    "SqlDelete": "work.steps",
    "SqlInsert": "work.steps",
    "SqlUpdate": "work.steps",
    "StateChange": "state.home",
    "Status": "state.lifecycle",
    "Step": "work.steps",
    "StorageLayer": "router",
    "Strategy": "work.result",
    "TaskRow": "events.triggers",
    "Told": "events.inbox",
    "TransactionContext": "sql.transactions",
    "TransactionResult": "sql.transactions",
    "VectorQuery": "vectors",
    "Written": "state.home",
    "connect": "plane",
    "events_of": "events.inbox",
    "get_many": "batch",
    "heartbeat_event": "events.triggers",
    "lifecycle_event": "events.triggers",
    "put_many": "batch",
    "task_event": "events.triggers",
    "upcaster": "state.schema",
}
#: Names that are others where they are made.
_NAMES = {"MergeStrategy": "Strategy"}

__all__ = ["HoldfastError", "errors", *_HOMES]  # noqa: PLE0604 - names of the table above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"holdfast.{home}"), _NAMES.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
