"""What a bucket holds under a key, and the headers that the library writes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

#: Unique for each attempt to write: it tells one's own write after a lost acknowledgement.
WRITE_ID = "Holdfast-Write-Id"
#: Epoch of the owner, "incarnation-revision" of its lease; so the incarnation of the bucket as the writer knew it, too.
EPOCH = "Holdfast-Epoch"
#: "sql" for what hydration brought from the database: it need not go back there, and no event follows.
ORIGIN = "Holdfast-Origin"
#: The position at which a value that was put into the bucket again had been written: only its place is new.
MOVED = "Holdfast-Moved-From"
#: Version of the schema of the value, for upcasters.
SCHEMA = "Holdfast-Schema"
#: Time of the write in milliseconds since 1970, by the writer's clock; breaks ties, decides nothing alone.
TIME = "Holdfast-Time"
#: Own counter of the key, which survives a rebuilt bucket.
VERSION = "Holdfast-Version"
#: Vector clock, JSON.
CLOCK = "Holdfast-Clock"
CORRELATION = "Holdfast-Correlation-Id"

Operation = Literal["put", "delete", "expired"]


class Position(NamedTuple):
    """Where a write stands in the order of all writes to a bucket, also when the bucket was rebuilt.

    ``incarnation`` is the creation time of the bucket's stream in nanoseconds since 1970, ``revision`` its sequence.
    Positions compare as tuples: the later incarnation wins. Revisions alone are never compared.
    """

    incarnation: int
    revision: int

    def __str__(self) -> str:
        return f"{self.incarnation}-{self.revision}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``str(position)``. Raises ValueError."""
        incarnation, _, revision = text.partition("-")
        return cls(int(incarnation), int(revision))


class Entry(NamedTuple):
    """The newest message of a key. ``value`` is None for a delete or an expiry; ``created_ns`` is the server's time."""

    key: str
    value: bytes | None
    position: Position
    operation: Operation
    headers: Mapping[str, str]
    created_ns: int

    @property
    def is_moved(self) -> bool:
        """Whether somebody put the value into the bucket again, such as hydration; other headers are lost then."""
        return MOVED in self.headers

    @property
    def origin(self) -> Position:
        """Where the value was written first."""
        try:
            return Position.parse(self.headers[MOVED])
        except (KeyError, ValueError):
            return self.position
