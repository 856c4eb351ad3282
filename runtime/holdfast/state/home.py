"""What the handles of one plane share, and what they give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

from holdfast.errors import Unsupported
from holdfast.kv.entry import Position

if TYPE_CHECKING:
    from holdfast.contract import Contract
    from holdfast.kv.bucket import Bucket
    from holdfast.sql.pools import Pools
    from holdfast.state.flusher import Flusher
    from holdfast.state.journal import Journal
    from holdfast.state.lag import Pressure
    from holdfast.state.writer import Writer

#: What holds a write: ``kv`` the bucket and its journal, ``sql`` the database too.
Durability = Literal["kv", "sql"]


def check_durability(ack: str) -> None:
    """Raise Unsupported unless it is one that a write can have."""
    if ack not in ("kv", "sql"):
        raise Unsupported(f'a write is acknowledged by "kv" or by "sql", not by {ack!r}')


class Written(NamedTuple):
    """Where a write stands, and what is known to hold it."""

    position: Position
    durability: Durability


class StateChange(NamedTuple):
    """One write to an agent's state as a watch sees it. ``value`` is None for a delete."""

    key: str
    value: Any
    position: Position
    deleted: bool


@dataclass(frozen=True)
class Home:
    """The plane as its handles need it. ``flusher`` is None where another process flushes."""

    contract: Contract
    bucket: Bucket
    journal: Journal
    pressure: Pressure
    pools: Pools
    writer: Writer
    flusher: Flusher | None
    holder: str
    #: Agent and key of what owners here wrote to a bucket that was deleted, and lost before they could hand it over.
    stranded: set[tuple[UUID, str]] = field(default_factory=set)
