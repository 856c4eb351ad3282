"""What the flusher says to the database: changes as rows, and the statements that take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from holdfast.errors import CodecError
from holdfast.events.outbox import qualified
from holdfast.kv.entry import Position
from holdfast.state.codec import checksum
from holdfast.state.edits import Edit
from holdfast.state.keys import EDIT_KEY

#: Values that one statement takes, bytes: more of them are not written within its time limit.
LARGEST_BYTES: Final = 8 << 20
#: A row only moves forward, whoever writes it and however late.
GUARD: Final = (
    "st.kv_incarnation IS NULL OR (st.kv_incarnation, st.kv_revision) < (excluded.kv_incarnation, excluded.kv_revision)"
)


class Change(NamedTuple):
    """One revision of one key. ``value`` is canonical JSON, None for a delete; ``epoch`` the revision of the lease."""

    agent_id: UUID
    state_key: str
    value: bytes | None
    position: Position
    epoch: int | None = None
    correlation_id: str | None = None

    @property
    def row(self) -> tuple[UUID, str]:
        """The key of its row."""
        return self.agent_id, self.state_key

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return len(self.value or b"")


def newest(changes: Iterable[Change]) -> dict[tuple[UUID, str], Change]:
    """The newest change of each row; the record of an edit stands for all rows that it names."""
    found: dict[tuple[UUID, str], Change] = {}
    for change in changes:
        for part in expand(change):
            known = found.get(part.row)
            if known is None or known.position < part.position:
                found[part.row] = part
    return found


def expand(change: Change) -> list[Change]:
    """The changes that one message stands for: itself, and those of an edit's record, if that can be read."""
    if change.state_key != EDIT_KEY or change.value is None:
        return [change]
    try:
        edit = Edit.decode(change.value)
    except CodecError:
        return [change]
    parts = [change._replace(state_key=key, value=value) for key, value in edit.values.items() if key != EDIT_KEY]
    return [change, *parts]


def fitting(changes: Sequence[Change]) -> int:
    """How many of the first may be written together: LARGEST_BYTES of values, or one change that is larger."""
    size = 0
    for number, change in enumerate(changes):
        size += change.size
        if number and size > LARGEST_BYTES:
            return number
    return len(changes)


def columns(changes: Sequence[Change]) -> list[list[Any]]:
    """The parameters of ``write_statement``. Ordered by key, so that two flushers never wait for each other in turn."""
    rows = []
    for change in sorted(changes, key=lambda change: change.row):
        value = b"null" if change.value is None else change.value
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise CodecError("a value is not UTF-8") from None
        incarnation, revision = change.position
        deleted = change.value is None
        summed = None if deleted else checksum(value)
        rows.append((change.agent_id, change.state_key, text, summed, incarnation, revision, change.epoch, deleted))
    return [list(column) for column in zip(*rows, strict=True)]


def write_statement(state_table: str, *, returning: bool = False, guard: str = GUARD) -> str:
    """One upsert for any number of rows. ``returning`` gives agent, key and version of each row that moved."""
    last = "\nRETURNING st.agent_id, st.state_key, st.version" if returning else ""
    return f"""
INSERT INTO {qualified(state_table)} AS st
       (agent_id, state_key, state_value, version, checksum, kv_incarnation, kv_revision, owner_epoch, deleted_at)
SELECT n.agent_id, n.state_key, n.state_value::jsonb, 1, n.checksum, n.incarnation, n.revision, n.epoch,
       CASE WHEN n.deleted THEN now() END
  FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::boolean[])
       AS n (agent_id, state_key, state_value, checksum, incarnation, revision, epoch, deleted)
    ON CONFLICT (agent_id, state_key) DO UPDATE
   SET state_value = excluded.state_value, version = st.version + 1, checksum = excluded.checksum,
       kv_incarnation = excluded.kv_incarnation, kv_revision = excluded.kv_revision,
       owner_epoch = excluded.owner_epoch, deleted_at = excluded.deleted_at, expires_at = NULL
 WHERE {guard}{last}"""


def register_statement(registry_table: str) -> str:
    """Rows for agents that nobody has registered yet, under their ids for a name."""
    return f"""
INSERT INTO {qualified(registry_table)} (agent_id, agent_type, agent_name)
SELECT n.agent_id, 'agent', n.agent_id::text FROM unnest(%s::uuid[]) AS n (agent_id) ORDER BY n.agent_id
    ON CONFLICT (agent_id) DO NOTHING"""


def name_statement(registry_table: str, state_table: str) -> str:
    """Register one agent by (id, type, name); a row that stood in for it takes type and name over.

    Gives the latest position that the database has of its state (parameter: the id again), if it has any.
    """
    return f"""
WITH named AS (
INSERT INTO {qualified(registry_table)} AS r (agent_id, agent_type, agent_name) VALUES (%s, %s, %s)
    ON CONFLICT (agent_id) DO UPDATE SET agent_type = excluded.agent_type, agent_name = excluded.agent_name
 WHERE r.agent_name = r.agent_id::text AND r.agent_name <> excluded.agent_name)
SELECT st.kv_incarnation, st.kv_revision FROM {qualified(state_table)} AS st
 WHERE st.agent_id = %s AND st.kv_incarnation IS NOT NULL ORDER BY 1 DESC, 2 DESC LIMIT 1"""


def before_statement(state_table: str) -> str:
    """The values that rows have before a batch, locked: events tell of old and new."""
    return f"""
SELECT st.agent_id, st.state_key, st.state_value, st.deleted_at IS NOT NULL
  FROM {qualified(state_table)} AS st
  JOIN unnest(%s::uuid[], %s::text[]) AS n (agent_id, state_key) USING (agent_id, state_key)
 ORDER BY 1, 2
   FOR UPDATE OF st"""


def positions_statement(state_table: str) -> str:
    """The positions that the database holds of one agent's keys."""
    return f"""
SELECT st.state_key, st.kv_incarnation, st.kv_revision
  FROM {qualified(state_table)} AS st
 WHERE st.agent_id = %s AND st.state_key = ANY (%s::text[]) AND st.kv_incarnation IS NOT NULL"""


def later_statement(state_table: str) -> str:
    """The positions that the database holds of any rows, by (agents, keys)."""
    return f"""
SELECT st.agent_id, st.state_key, st.kv_incarnation, st.kv_revision
  FROM {qualified(state_table)} AS st
  JOIN unnest(%s::uuid[], %s::text[]) AS n (agent_id, state_key) USING (agent_id, state_key)
 WHERE st.kv_incarnation IS NOT NULL"""


def lifecycle_statement(lifecycle_table: str) -> str:
    """One event in an agent's life: agent, type, data. Gives its id and its time in seconds since 1970."""
    return f"""
INSERT INTO {qualified(lifecycle_table)} (agent_id, event_type, event_data) VALUES (%s, %s, %s::jsonb)
RETURNING event_id, extract(epoch FROM created_at)::float8"""


def noted_statement(lifecycle_table: str) -> str:
    """Whether an agent's life has an event of a type whose data hold these."""
    return f"""
SELECT 1 FROM {qualified(lifecycle_table)}
 WHERE agent_id = %s AND event_type = %s AND event_data @> %s::jsonb LIMIT 1"""


def descent_statement(registry_table: str) -> str:
    """Make the agent of the first parameter the parent of the second, unless that has one."""
    return f"""
UPDATE {qualified(registry_table)} AS r SET parent_agent_id = p.agent_id FROM {qualified(registry_table)} AS p
 WHERE p.agent_id = %s AND r.agent_id = %s AND r.parent_agent_id IS NULL"""
