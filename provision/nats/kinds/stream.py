"""Streams, and the section that also reads their consumers and templates. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.nats.kinds import backing, consumer, reading
from provision.nats.kinds.stream_fields import OPTIONS
from provision.nats.kinds.subjects import ASSET_NAME_PATTERN
from provision.nats.kinds.wire import Note, local_fields
from provision.spec import fields as f
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Record, Settings

FIELDS = FieldTable(
    *OPTIONS,
    Field(
        name="prune", type=f.BOOL, default=False, note=Note(local=True),
        doc="Consumers that are not declared may be removed, with a consent.",
    ),
    extra={
        "target": reading.TARGET,
        "consumers": reading.mapping(consumer.FIELDS.schema(), ASSET_NAME_PATTERN),
        "templates": reading.mapping(consumer.FIELDS.schema(), ASSET_NAME_PATTERN),
    },
)  # fmt: skip


class StreamKind(backing.BackedKind):
    """A stream, as itself."""

    name = "stream"
    fields = FIELDS
    spec_only = local_fields(FIELDS)

    def as_stream(self, name: str, settings: Mapping[str, Any]) -> Settings:
        return {key: value for key, value in settings.items() if key != "prune"}

    def from_stream(self, name: str, stream: Mapping[str, Any]) -> Settings:
        return {**stream, "prune": False}

    def stream_name(self, name: str) -> str:
        return name


KIND = StreamKind()
RESERVED_PREFIXES = ("KV_", "OBJ_")


class Streams:
    """The section ``streams``: streams with their consumers and templates."""

    name = "streams"

    def schema(self) -> Mapping[str, Any]:
        return reading.mapping(FIELDS.schema(), ASSET_NAME_PATTERN)

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            pointer = (self.name, name)
            problem = _name_problem(name)
            if problem is not None:
                reader.fail(pointer, problem)
                continue
            settings = reading.parse(FIELDS, body or {}, pointer, reader)
            if settings is None:
                continue
            problem = reading.check_mirror_direct(settings["mirror_direct"], settings["mirror"], node, usual=False)
            if problem is not None:
                reader.fail((*pointer, "mirror_direct"), problem)
                continue
            copies = settings["mirror"] is not None or settings["sources"]
            if not settings["subjects"] and not copies:
                settings["subjects"] = [name]
            address = Address.root("nats", reading.target(body), "stream", name)
            refs = reading.copied(address, settings, node, lambda origin: origin)
            yield Record(address, settings, refs=refs, origin=pointer)
            for section, kind in (("consumers", consumer.KIND), ("templates", consumer.TEMPLATE)):
                yield from consumer.read(kind, (body or {}).get(section) or {}, settings, address,
                                         (*pointer, section), reader)  # fmt: skip


def _name_problem(name: str) -> f.FieldError | None:
    if name.startswith(RESERVED_PREFIXES):
        return f.FieldError(
            f"stream {name} would be a bucket or object store",
            help="Declare it under buckets or object_stores, without the prefix.",
        )
    if len(name.encode()) > 255:
        return f.FieldError(f"the name {name[:20]}… is longer than 255 bytes", help="Shorten it.")
    return None


SECTION = Streams()
