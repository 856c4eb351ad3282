"""What a read of an agent's state promises, and reading what the database has."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from holdfast.errors import ConsistencyViolation, OperationTimeout
from holdfast.kv.entry import ORIGIN, Position
from holdfast.state.hydration import read_rows
from holdfast.state.keys import RESERVED, parse_bucket_key

if TYPE_CHECKING:
    from holdfast.state.home import Home

_POLL_S: Final = 0.02
_NOWHERE: Final = Position(0, 0)


class ConsistencyLevel(StrEnum):
    """How consistent a read is. Of a write, ``ack="sql"`` is strong and ``ack="kv"`` eventual."""

    #: What the database has committed, with every write in it that was acknowledged before the read began.
    STRONG = "strong"
    #: The newest acknowledged write, from memory or the bucket; the database follows. The default.
    EVENTUAL = "eventual"
    #: All keys of one moment, no edit in part, which the database has by then, too. For the owner alone;
    #: ``checkpoint()`` keeps such a snapshot, and ``plane.work`` writes over both systems.
    CROSS_SYSTEM = "cross_system"


async def read_strong(home: Home, agent_id: UUID, timeout_s: float) -> dict[str, bytes]:
    """The agent's values as committed, once nothing acknowledged is missing from them.

    Raises OperationTimeout while the database is behind, ConsistencyViolation for a damaged row, and what bucket and
    database raise.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await _settled(home, agent_id)
    except TimeoutError:
        raise OperationTimeout("the database does not have the newest writes yet; nothing was changed") from None
    rows = await read_rows(home.pools.primary, home.contract.names.hydrate_function, agent_id)
    found = [row for row in rows if not row.state_key.startswith(RESERVED)]
    for row in found:
        if row.is_damaged:
            raise ConsistencyViolation(f"the checksum of {row.state_key!r} does not fit the value in the database")
    return {row.state_key: row.value for row in found}


async def _settled(home: Home, agent_id: UUID) -> None:
    """Wait until the database has what bucket and journal hold now."""
    wanted: dict[str, Position] = {}
    async for entry in home.bucket.entries(f"{agent_id}.state.>"):
        named = parse_bucket_key(entry.key)
        # What hydration put back is younger than its row and never flushed.
        if named is not None and entry.operation != "expired" and entry.headers.get(ORIGIN) != "sql":
            wanted[named[1]] = entry.position
    for change in await home.journal.unflushed(agent_id, home.bucket.incarnation):
        wanted[change.state_key] = max(change.position, wanted.get(change.state_key, _NOWHERE))
    if home.flusher is not None:
        home.flusher.ask()
    while wanted:
        held = await home.writer.positions(agent_id, list(wanted))
        wanted = {key: position for key, position in wanted.items() if held.get(key, _NOWHERE) < position}
        if wanted:
            await asyncio.sleep(_POLL_S)
