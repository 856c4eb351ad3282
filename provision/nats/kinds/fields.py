"""Types, limits and nested tables that the NATS kinds share. Pure.

Ranges are those of nats-server ``server/stream.go`` (checkStreamCfgLocked) and ``server/consumer.go``.
"""

from __future__ import annotations

from typing import Any

from provision.nats.kinds.subjects import ASSET_NAME_PATTERN, valid_subject
from provision.nats.kinds.wire import Note, utc_time
from provision.spec import fields as f
from provision.spec.fields import DURATION, SIZE, Field, FieldError, FieldTable, Type
from provision.spec.units import format_duration

MILLISECOND, SECOND, TWO_MINUTES = 10**6, 10**9, 120 * 10**9
INT32_MAX, INT64_MAX, UINT64_MAX = 2**31 - 1, 2**63 - 1, 2**64 - 1
V2_11, V2_12, V2_14 = (2, 11, 0), (2, 12, 0), (2, 14, 0)
#: Metadata that the server writes itself (``_nats.ver``, ``_nats.level`` …).
SERVER_METADATA = "_nats."
#: Metadata that says which plane created an object.
PLANE_METADATA = "holdfast_plane"


def duration(minimum_ns: int) -> Type:
    """A duration that is 0 (none) or at least ``minimum_ns``."""

    def parse(value: Any) -> int:
        ns = int(DURATION.parse(value))
        if 0 < ns < minimum_ns:
            raise FieldError(
                f"shorter than the server takes: {format_duration(ns)}",
                help=f"Write at least {format_duration(minimum_ns)}, or 0 for none.",
            )
        return ns

    return Type(DURATION.schema, parse)


def limit(maximum: int = INT64_MAX) -> Type:
    """A count where -1 means unlimited; the server reads 0 as -1 too."""
    return Type({"type": "integer", "minimum": -1, "maximum": maximum}, lambda value: int(value) or -1)


def size_limit(maximum: int = INT64_MAX) -> Type:
    """A size in bytes where -1 means unlimited; the server reads 0 as -1 too."""

    def parse(value: Any) -> int:
        size = int(SIZE.parse(value))
        if size > maximum:
            raise FieldError(f"larger than the server takes: {value}", help=f"Write at most {maximum} bytes.")
        return size or -1

    return Type(SIZE.schema, parse)


def _parse_subject(value: str) -> str:
    if not valid_subject(value):
        raise FieldError(
            f"not a subject: {value!r}",
            help="Separate tokens that are not empty by dots; '*' is one whole token, '>' only the last one.",
        )
    return value


def _parse_time(value: str) -> str:
    try:
        return utc_time(value)
    except ValueError:
        raise FieldError(f"no such time: {value!r}", help="Write it like 2026-01-31T12:00:00Z.") from None


def _parse_metadata(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if key.startswith(SERVER_METADATA) or key == PLANE_METADATA:
            raise FieldError(f"metadata key {key} is reserved", help="Choose another key.", path=(key,))
    if sum(len(k.encode()) + len(v.encode()) for k, v in value.items()) > 128 * 1024:
        raise FieldError("metadata is larger than 128 KiB", help="Keep only short labels here.")
    return dict(value)


def own_metadata(value: dict[str, str]) -> dict[str, str]:
    """Metadata without what the server and we keep there."""
    return {k: v for k, v in value.items() if not k.startswith(SERVER_METADATA) and k != PLANE_METADATA}


def _parse_description(value: str) -> str | None:
    if len(value.encode()) > 4096:
        raise FieldError("description is longer than 4096 bytes", help="Shorten it.")
    return value or None


SUBJECT = Type({"type": "string", "minLength": 1}, _parse_subject)
#: A subject, or "" where the server reads it as every subject.
ANY_SUBJECT = Type({"type": "string"}, lambda value: _parse_subject(value) if value else ">")
ASSET_NAME = f.text(ASSET_NAME_PATTERN, max_length=255)
UTC_TIME = Type(f.TIME.schema, _parse_time)
DESCRIPTION_TYPE = Type({"type": "string"}, _parse_description)
STORAGE_TYPE = f.enum("file", "memory")
COMPRESSION_TYPE = f.enum("none", "s2")

PLACEMENT = FieldTable(
    Field(name="cluster", type=f.STRING, doc="Name of the cluster that holds the replicas."),
    Field(
        name="tags", type=f.list_of(f.text(r"^\S+$")), default=[], doc="Tags that every server must have.",
        note=Note(unordered=True),
    ),
    Field(name="preferred", type=f.STRING, doc="Preferred leader; servers refuse it in a stream so far."),
)  # fmt: skip
SUBJECT_TRANSFORM = FieldTable(
    Field(
        name="src", type=ANY_SUBJECT, default=">", doc="Subjects that are rewritten.",
        note=Note(absent=">", decode=lambda value: value or ">"),
    ),
    Field(name="dest", type=f.STRING, required=True, doc="The new subject, with {{wildcard(n)}} and others."),
)  # fmt: skip
REPUBLISH = FieldTable(
    Field(
        name="src", type=ANY_SUBJECT, default=">", doc="Stored subjects that are published again.",
        note=Note(absent=">", decode=lambda value: value or ">"),
    ),
    Field(name="dest", type=f.STRING, required=True, doc="Subject of the copy."),
    Field(name="headers_only", type=f.BOOL, default=False, doc="Publish only the headers."),
)  # fmt: skip
EXTERNAL = FieldTable(
    Field(name="api", type=f.STRING, required=True, doc="Prefix of the other account's or domain's API."),
    Field(name="deliver", type=f.STRING, default="", doc="Prefix of the subject that messages are delivered on."),
)
SOURCE_CONSUMER = FieldTable(
    Field(name="name", type=ASSET_NAME, required=True, doc="The durable consumer to read through."),
    Field(name="deliver_subject", type=SUBJECT, required=True, doc="The consumer's delivery subject."),
)
SOURCE = FieldTable(
    Field(name="name", type=ASSET_NAME, required=True, doc="The stream to copy from."),
    Field(name="opt_start_seq", type=f.integer(0, UINT64_MAX), default=0, doc="First one to copy."),
    Field(
        name="opt_start_time", type=UTC_TIME, doc="Time of the first message.", note=Note(decode=utc_time)
    ),
    Field(name="filter_subject", type=SUBJECT, doc="Copy only these subjects."),
    Field(
        name="subject_transforms", type=f.list_of(f.object_of(SUBJECT_TRANSFORM)), default=[],
        doc="Filters with a new subject for what they take.", note=Note(table=SUBJECT_TRANSFORM, many=True),
    ),
    Field(
        name="external", type=f.object_of(EXTERNAL),
        doc="Where the stream is, if in another account or domain.", note=Note(table=EXTERNAL),
    ),
    Field(
        name="consumer", type=f.object_of(SOURCE_CONSUMER), doc="Read through this consumer.", since=V2_14,
        note=Note(table=SOURCE_CONSUMER),
    ),
)  # fmt: skip
CONSUMER_LIMITS = FieldTable(
    Field(name="inactive_threshold", type=DURATION, default=0, doc="Largest inactive_threshold of consumers."),
    Field(name="max_ack_pending", type=f.integer(-1), default=0, doc="Largest max_ack_pending of consumers."),
)


def parse_placement(value: dict[str, Any]) -> dict[str, Any] | None:
    """Placement, or None where it asks for nothing."""
    placement = PLACEMENT.parse(value)
    return placement if any(placement.values()) else None


def description() -> Field:
    return Field(
        name="description", type=DESCRIPTION_TYPE, doc="What it is for, at most 4096 bytes.",
        note=Note(decode=lambda value: value or None),
    )  # fmt: skip


def metadata() -> Field:
    return Field(
        name="metadata", type=Type(f.map_of(f.STRING).schema, _parse_metadata), default={},
        doc="Labels; keys that begin with _nats. belong to the server.", note=Note(decode=own_metadata),
    )  # fmt: skip


def placement() -> Field:
    return Field(
        name="placement", type=Type(PLACEMENT.schema(), parse_placement),
        doc="Cluster and server tags; a change moves the data.", note=Note(table=PLACEMENT),
    )  # fmt: skip


def republish() -> Field:
    return Field(
        name="republish", type=f.object_of(REPUBLISH), doc="Publish stored messages again.",
        note=Note(table=REPUBLISH),
    )  # fmt: skip


def replicas(doc: str = "Copies on different servers, 1 to 5.") -> Field:
    return Field(name="replicas", wire="num_replicas", type=f.integer(1, 5), default=1, doc=doc)


def storage() -> Field:
    return Field(name="storage", type=STORAGE_TYPE, default="file", doc="Where messages are kept.", note=Note("never"))


def compression() -> Field:
    return Field(name="compression", type=COMPRESSION_TYPE, default="none", doc="Compression of new blocks.")


def mirror(doc: str) -> Field:
    # Removing it promotes the mirror from 2.12 on; everything else is refused (10055).
    return Field(
        name="mirror", type=f.object_of(SOURCE), doc=doc,
        note=Note("promote", before="never", changed_in=V2_12, table=SOURCE),
    )  # fmt: skip


def sources(doc: str) -> Field:
    return Field(
        name="sources", type=f.list_of(f.object_of(SOURCE)), default=[], doc=doc,
        note=Note(table=SOURCE, many=True, unordered=True),
    )  # fmt: skip
