"""Reading an agent's state: from its bucket, from the journal, from the database, in the order in which it moves.

A value that leaves the bucket is in the journal by then, and one that leaves the journal is in the database: whoever
reads in this order misses none. The newest position of each key wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from holdfast.errors import CodecError, HoldfastError
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified
from holdfast.kv.entry import ORIGIN, Position
from holdfast.state.codec import canonical, checksum
from holdfast.state.edits import Edit, unfinished
from holdfast.state.flush_sql import Change
from holdfast.state.keys import EDIT_KEY, parse_bucket_key

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket
    from holdfast.sql.pool import Pool
    from holdfast.state.journal import Journal

_STATEMENT_S: Final = 20.0
_NOWHERE: Final = Position(0, 0)


class Head(NamedTuple):
    """The newest value of a key: canonical JSON, None for a deleted one.

    ``in_bucket``: the bucket has it now. ``version`` is the row's where it comes from the database, else 0.
    """

    value: bytes | None
    position: Position
    in_bucket: bool = True
    version: int = 0


class Row(NamedTuple):
    """A row as hydrate_function gives it, its value spelled canonically."""

    state_key: str
    value: bytes
    checksum: str | None
    position: Position
    version: int

    @property
    def is_damaged(self) -> bool:
        """Whether the value is not the one that was flushed."""
        return self.checksum is not None and self.checksum != checksum(self.value)


@dataclass
class Snapshot:
    """An agent's state as read. ``damaged`` keys have a checksum that does not fit. ``is_complete``: the database
    answered, so a key that is not here is nowhere. ``trouble`` is why it did not.
    """

    heads: dict[str, Head] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    is_complete: bool = False
    trouble: HoldfastError | None = None
    #: Where the last record of an edit stands that the database has.
    recorded: Position = _NOWHERE
    #: Whether the bucket's record was put there again by an owner who had finished it.
    is_finished: bool = False
    #: What the record of the last edit says and its keys do not have yet.
    unfinished: dict[str, bytes | None] = field(default_factory=dict)
    #: Version of the model that wrote the state, 0 where none is noted.
    schema: int = 0


async def read(bucket: Bucket, journal: Journal | None, pool: Pool, hydrate_function: str, agent_id: UUID) -> Snapshot:
    """Read everything. Errors of the bucket or the journal are raised; one of the database is noted as ``trouble``.

    Raises ConsistencyViolation where the database has what the bucket has not come to yet; see ``Bucket.require``.
    """
    snapshot = Snapshot()
    async for entry in bucket.entries(f"{agent_id}.state.>"):
        named = parse_bucket_key(entry.key)
        if named is not None and entry.operation != "expired":
            snapshot.heads[named[1]] = Head(entry.value, entry.position)
            if named[1] == EDIT_KEY and entry.headers.get(ORIGIN) == "sql":
                snapshot.is_finished = True
    if journal is not None:
        merge_journal(snapshot, await journal.unflushed(agent_id, bucket.incarnation))
    try:
        rows = await read_rows(pool, hydrate_function, agent_id)
    except HoldfastError as error:
        snapshot.trouble = error
    else:
        await bucket.require(max((row.position for row in rows), default=_NOWHERE))
        merge_rows(snapshot, rows)
        snapshot.is_complete = True
    finish_edit(snapshot)
    return snapshot


async def read_rows(pool: Pool, hydrate_function: str, agent_id: UUID) -> list[Row]:
    """The agent's living rows. Raises the errors of holdfast.sql.failures."""
    statement = f"""
        SELECT h.state_key, h.state_value::text, h.checksum, h.kv_incarnation, h.kv_revision, h.version
          FROM {qualified(hydrate_function)}(%s) AS h"""
    async with limited(_STATEMENT_S, "the database"), pool.connection() as connection:
        cursor = await connection.execute(statement, [agent_id])
        found = await cursor.fetchall()
    return [
        Row(key, canonical(json.loads(text)), summed, Position(incarnation or 0, revision or 0), version)
        for key, text, summed, incarnation, revision, version in found
    ]


def merge_journal(snapshot: Snapshot, changes: Iterable[Change]) -> None:
    """Add what waits in the journal, where it is newer than what the bucket has."""
    for change in changes:
        known = snapshot.heads.get(change.state_key)
        if known is None or known.position < change.position:
            snapshot.heads[change.state_key] = Head(change.value, change.position, in_bucket=False)


def merge_rows(snapshot: Snapshot, rows: Iterable[Row]) -> None:
    """Add rows for keys of which nothing newer is known; damaged ones are only named."""
    for row in rows:
        if row.state_key == EDIT_KEY:
            snapshot.recorded = max(snapshot.recorded, row.position)
        known = snapshot.heads.get(row.state_key)
        if known is not None and known.position >= row.position:
            continue
        if row.is_damaged:
            snapshot.heads.pop(row.state_key, None)
            snapshot.damaged.add(row.state_key)
        else:
            snapshot.heads[row.state_key] = Head(row.value, row.position, in_bucket=False, version=row.version)


def finish_edit(snapshot: Snapshot) -> None:
    """Find what the last edit still has to write.

    Once the record is in the database, so are all its rows: the flusher writes them together. A key of it that is
    absent then was deleted since; one that it deletes may be in the bucket still, for the database tells of no deletes.
    """
    record = snapshot.heads.get(EDIT_KEY)
    if record is None or record.value is None:
        return
    try:
        edit = Edit.decode(record.value)
    except CodecError:
        snapshot.damaged.add(EDIT_KEY)
        return
    snapshot.schema = edit.schema
    if snapshot.is_finished:
        return
    positions = {key: head.position for key, head in snapshot.heads.items()}
    left = unfinished(edit, record.position, positions)
    if record.position <= snapshot.recorded:
        left = {key: None for key, value in left.items() if value is None and key in positions}
    snapshot.unfinished = left
