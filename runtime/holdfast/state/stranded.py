"""What is lost where a bucket is deleted and stays away for longer than an owner's lease: found, and told by name.

While it has the lease, an owner hands over what the database lacks: to the new bucket, or to the database. Once it has
not, another may have read the rows, and nothing of it may be written any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from holdfast.errors import ConsistencyViolation
from holdfast.state.flush_sql import Change, newest
from holdfast.state.keys import RESERVED

if TYPE_CHECKING:
    from holdfast.state.home import Home

#: Keys that an error names at most.
_NAMED: Final = 10


async def find(home: Home, agent_id: UUID, unflushed: Sequence[Change]) -> set[str]:
    """Keys of a fenced owner whose last write was in a bucket that is no more, and that the journal does not have.

    ``unflushed`` is what the database did not have a moment ago. Raises what the journal raises.
    """
    created = home.bucket.incarnation
    waiting = newest(await home.journal.unflushed(agent_id, created))
    return {
        change.state_key
        for row, change in newest(unflushed).items()
        if change.position.incarnation < created
        and (row not in waiting or waiting[row].position < change.position)
        and not change.state_key.startswith(RESERVED)
    }


def error(agent_id: UUID, keys: Collection[str]) -> ConsistencyViolation:
    """What to tell the owner, and to log."""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    named = ", ".join(map(repr, sorted(keys)[:_NAMED])) + more
    return ConsistencyViolation(
        f"the bucket was away for longer than this owner's lease, and of agent {agent_id} the last writes of {named}"
        " are lost: have the new owner write them again"
    )
