"""An edit of several keys as one write: a record says all of it, then the keys follow.

The record lies under ``EDIT_KEY`` in the agent's subtree. Where a key it names is older than the record, the record
holds the key's newest value: an owner that died in between is finished by the next one, and the flusher writes all
rows of the record in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.errors import CodecError
from holdfast.kv.entry import Entry, Position
from holdfast.state.codec import canonical
from holdfast.state.keys import EDIT_KEY

if TYPE_CHECKING:
    from holdfast.state.unflushed import Kept


@dataclass(frozen=True, slots=True)
class Edit:
    """What one edit changes. ``values`` are canonical JSON by state key, None where a key is deleted.

    ``schema`` is the version of the model that the agent's state has from then on, 0 for none. ``event`` becomes a
    row of the life cycle when the edit reaches the database: {"type": text, "data": object}.
    """

    values: Mapping[str, bytes | None]
    schema: int = 0
    event: Mapping[str, Any] | None = field(default=None)

    def encode(self) -> bytes:
        """The record's value in the bucket."""
        kept = {key: json.loads(value) for key, value in self.values.items() if value is not None}
        deleted = sorted(key for key, value in self.values.items() if value is None)
        return canonical({"schema": self.schema, "values": kept, "deleted": deleted, "event": self.event})

    @classmethod
    def decode(cls, data: bytes) -> Edit:
        """Read a record. Raises CodecError."""
        try:
            plain = json.loads(data)
            values: dict[str, bytes | None] = {key: canonical(value) for key, value in plain["values"].items()}
            values |= dict.fromkeys(plain["deleted"])
            return cls(values, int(plain["schema"]), plain.get("event"))
        except (KeyError, ValueError, TypeError, AttributeError):
            raise CodecError("the record of an edit cannot be read") from None


def unfinished(edit: Edit, written: Position, heads: Mapping[str, Position]) -> dict[str, bytes | None]:
    """What of an edit is still to be put under its keys, given where the keys' newest values stand."""
    return {key: value for key, value in edit.values.items() if key not in heads or heads[key] < written}


def renewed(kept: Mapping[str, Kept], doubtful: Collection[str], room: int) -> tuple[bytes | None, set[str]]:
    """The unflushed record of an edit as it is to be put again, None without one; and the keys that only it has.

    In its new place the record is newer than what was written after it. So it takes over what its keys have since, and
    leaves out what the database has already. ``room``: the most bytes that it may have.
    """
    record = kept.get(EDIT_KEY)
    if record is None or record.value is None:
        return None, set()
    edit = Edit.decode(record.value)
    newer = {key: kept[key].value for key in edit.values if key in kept and kept[key].position > record.position}
    alone = (edit.values.keys() & set(doubtful)) - newer.keys()
    values = {key: newer.get(key, old) for key, old in edit.values.items() if key in newer or key in alone}
    data = replace(edit, values=values).encode()
    if len(data) > room:
        # Larger than the edit was: what was written since is put by itself.
        unchanged = {key: value for key, value in values.items() if value == edit.values[key]}
        data = replace(edit, values=unchanged).encode()
    return data, alone


@dataclass(frozen=True, slots=True)
class Record:
    """An edit as the bucket holds it."""

    edit: Edit
    position: Position

    def tells(self, key: str, entry: Entry | None) -> bool:
        """Whether the newest value of a key is in here, given the newest message under the key itself."""
        return key in self.edit.values and (entry is None or entry.position < self.position)
