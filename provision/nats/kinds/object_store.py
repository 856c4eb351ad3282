"""Object stores: stream ``OBJ_<name>``, as the official clients make them. Pure.

The map is that of nats.go ``jetstream/object.go`` (prepareObjectStoreConfig).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.nats.kinds import backing, reading
from provision.nats.kinds import fields as t
from provision.nats.kinds.bucket import deviations, stream_overrides
from provision.nats.kinds.stream_fields import OPTIONS
from provision.nats.kinds.subjects import BUCKET_NAME_PATTERN
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Record, Settings

PREFIX = "OBJ_"
STREAM_OF = {
    "ttl": "max_age",
    **{n: n for n in "description max_bytes storage replicas placement compression metadata".split()},
}

FIELDS = FieldTable(
    t.description(),
    Field(name="ttl", type=t.duration(100 * t.MILLISECOND), default=0, doc="Objects older than this go."),
    Field(name="max_bytes", type=t.size_limit(), default=-1, doc="Most bytes kept; reserved at creation."),
    t.storage(),
    t.replicas(),
    t.placement(),
    t.compression(),
    t.metadata(),
    Field(
        name="stream", type=stream_overrides(STREAM_OF), default={},
        doc="Options of the stream behind it that differ from what an object store is; rarely needed.",
    ),
    extra={"target": reading.TARGET},
)  # fmt: skip


def fixed(name: str, settings: Mapping[str, Any]) -> Settings:
    """The stream options that make a stream an object store."""
    return {
        "subjects": [f"$O.{name}.C.>", f"$O.{name}.M.>"],
        "discard": "new",
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        # What the server chooses; said here so that a shorter one shows as a difference.
        "duplicate_window": min(t.TWO_MINUTES, settings["ttl"] or t.TWO_MINUTES),
    }


class ObjectStoreKind(backing.BackedKind):
    """An object store."""

    name = "object_store"
    fields = FIELDS

    def stream_name(self, name: str) -> str:
        return PREFIX + name

    def as_stream(self, name: str, settings: Mapping[str, Any]) -> Settings:
        stream = {field.name: field.default for field in OPTIONS}
        stream |= {option: settings[own] for own, option in STREAM_OF.items()}
        stream |= fixed(name, settings)
        stream |= settings["stream"]
        return stream

    def from_stream(self, name: str, stream: Mapping[str, Any]) -> Settings:
        settings: Settings = {own: stream[option] for own, option in STREAM_OF.items()}
        return settings | {"stream": deviations(fixed(name, settings), stream, STREAM_OF)}


KIND = ObjectStoreKind()


class ObjectStores:
    """The section ``object_stores``."""

    name = "object_stores"

    def schema(self) -> Mapping[str, Any]:
        return reading.mapping(FIELDS.schema(), BUCKET_NAME_PATTERN)

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            settings = reading.parse(FIELDS, body or {}, (self.name, name), reader)
            if settings is not None:
                address = Address.root("nats", reading.target(body), "object_store", name)
                yield Record(address, settings, origin=(self.name, name))


SECTION = ObjectStores()
