"""Durable, typed state for fleets of agents, on a plane that was provisioned before.

The library creates no object: names, pools and limits come from the contract of the plane, whose form
``contract.schema.json`` defines. Drivers are imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast import errors as errors
from holdfast.errors import HoldfastError as HoldfastError

if TYPE_CHECKING:
    from holdfast.contract import Contract as Contract
    from holdfast.kv.entry import Position as Position
    from holdfast.plane import Plane as Plane
    from holdfast.plane import connect as connect
    from holdfast.settings import Settings as Settings
    from holdfast.state.agent import AgentState as AgentState
    from holdfast.state.checkpoints import Checkpoint as Checkpoint
    from holdfast.state.codec import Codec as Codec
    from holdfast.state.home import StateChange as StateChange
    from holdfast.state.home import Written as Written
    from holdfast.state.lag import Consistency as Consistency
    from holdfast.state.lifecycle import Status as Status
    from holdfast.state.schema import upcaster as upcaster

__version__ = "0.1.0"

_HOMES = {
    "AgentState": "state.agent",
    "Checkpoint": "state.checkpoints",
    "Codec": "state.codec",
    "Consistency": "state.lag",
    "Contract": "contract",
    "Plane": "plane",
    "Position": "kv.entry",
    "Settings": "settings",
    "StateChange": "state.home",
    "Status": "state.lifecycle",
    "Written": "state.home",
    "connect": "plane",
    "upcaster": "state.schema",
}

__all__ = ["HoldfastError", "errors", *_HOMES]  # noqa: PLE0604 - names of the table above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"holdfast.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
