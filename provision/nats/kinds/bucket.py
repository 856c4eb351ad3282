"""Key-value buckets: stream ``KV_<bucket>``, as the official clients make them. Pure.

The map is that of nats.go ``jetstream/kv.go`` (prepareKeyValueConfig). Other clients set slightly different
flags; those show as differences, in the options below or in ``stream``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.nats.kinds import backing, reading
from provision.nats.kinds import fields as t
from provision.nats.kinds.stream_fields import OPTIONS
from provision.nats.kinds.subjects import BUCKET_NAME_PATTERN
from provision.nats.kinds.wire import Json, Note, local_fields
from provision.spec import fields as f
from provision.spec.fields import Field, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Record, Settings

PREFIX = "KV_"

#: Bucket option -> option of the stream behind it. The others have the same name in both.
_RENAMED = {
    "ttl": "max_age",
    "history": "max_msgs_per_subject",
    "max_value_size": "max_msg_size",
    "limit_marker_ttl": "subject_delete_marker_ttl",
}
_SAME = (
    "description max_bytes storage replicas placement republish mirror sources compression allow_msg_ttl "
    "allow_direct allow_rollup_hdrs metadata"
).split()
STREAM_OF = {**_RENAMED, **{name: name for name in _SAME}}


def stream_overrides(named: Mapping[str, str]) -> Type:
    """The type of ``stream``: options of the stream behind an object that the object itself does not name."""
    table = FieldTable(*(field for field in OPTIONS if field.name not in named.values()))

    def parse(value: Mapping[str, Any]) -> Settings:
        settings = table.parse(value)
        return {key: settings[key] for key in value if value[key] is not None}

    return Type(table.schema(), parse)


FIELDS = FieldTable(
    t.description(),
    Field(name="ttl", type=t.duration(100 * t.MILLISECOND), default=0, doc="Values older than this go."),
    Field(name="history", type=f.integer(1, 64), default=1, doc="Values kept of one key."),
    Field(name="max_bytes", type=t.size_limit(), default=-1, doc="Most bytes kept; reserved at creation."),
    Field(name="max_value_size", type=t.size_limit(t.INT32_MAX), default=-1, doc="Largest value."),
    t.storage(),
    t.replicas(),
    t.placement(),
    t.republish(),
    t.mirror("The bucket this one is a copy of."),
    t.sources("Buckets whose keys are copied into this one."),
    t.compression(),
    Field(
        name="limit_marker_ttl", type=t.duration(t.SECOND), default=0, since=t.V2_11,
        doc="Leave a marker for this long where a key expired.",
    ),
    Field(
        name="allow_msg_ttl", type=f.BOOL, default=False, since=t.V2_11,
        doc="Let a key carry its own time to live; cannot be undone.",
    ),
    Field(name="allow_direct", type=f.BOOL, default=True, doc="Let every replica answer reads."),
    Field(name="allow_rollup_hdrs", type=f.BOOL, default=True, doc="Let a purge replace a key's history."),
    t.metadata(),
    Field(
        name="stream", type=stream_overrides(STREAM_OF), default={},
        doc="Options of the stream behind it that differ from what a bucket is; rarely needed.",
    ),
    Field(
        name="keys", type=f.list_of(f.STRING), default=[], note=Note(local=True),
        doc="Patterns of the keys that applications write.",
    ),
    Field(
        name="journal", type=f.STRING, note=Note(local=True),
        doc="The stream that journals it for the flush to SQL.",
    ),
    extra={"target": reading.TARGET},
)  # fmt: skip


def fixed(name: str, settings: Mapping[str, Any]) -> Settings:
    """The stream options that make a stream a bucket."""
    mirror = settings["mirror"]
    return {
        "subjects": [] if mirror is not None else [f"$KV.{name}.>"],
        "discard": "new",
        "deny_delete": True,
        "duplicate_window": min(t.TWO_MINUTES, settings["ttl"] or t.TWO_MINUTES),
        # The server takes it from an origin that it can see; of another domain we have to say it.
        "mirror_direct": None if mirror is None or mirror["external"] is None else True,
    }


class BucketKind(backing.BackedKind):
    """A key-value bucket."""

    name = "bucket"
    fields = FIELDS
    spec_only = local_fields(FIELDS)

    def stream_name(self, name: str) -> str:
        return PREFIX + name

    def as_stream(self, name: str, settings: Mapping[str, Any]) -> Settings:
        stream = {field.name: field.default for field in OPTIONS}
        stream |= {option: settings[own] for own, option in STREAM_OF.items()}
        stream |= fixed(name, settings)
        if stream["mirror"] is not None:
            stream["mirror"] = _prefixed(stream["mirror"])
        stream["sources"] = [_as_source(entry, name) for entry in stream["sources"]]
        stream |= settings["stream"]
        return stream

    def from_stream(self, name: str, stream: Mapping[str, Any]) -> Settings:
        settings: Settings = {own: stream[option] for own, option in STREAM_OF.items()}
        if settings["mirror"] is not None:
            settings["mirror"] = _bare(settings["mirror"])
        settings["sources"] = [_from_source(entry, name) for entry in settings["sources"]]
        return settings | {
            "stream": deviations(fixed(name, settings), stream, STREAM_OF),
            "keys": [],
            "journal": None,
        }


def deviations(fixed_options: Settings, stream: Mapping[str, Any], named: Mapping[str, str]) -> Settings:
    """The stream options that an object does not name and that are not what they would be for it."""
    covered = set(named.values())
    found: Settings = {}
    for field in OPTIONS:
        if field.name in covered:
            continue
        usual = fixed_options.get(field.name, field.default)
        value = stream[field.name]
        if field.name == "mirror_direct" and usual is None:
            usual = value if stream["mirror"] is not None else False
        if value != usual and value is not None:
            found[field.name] = value
    return found


def _prefixed(entry: Json) -> Json:
    return entry if entry["name"].startswith(PREFIX) else {**entry, "name": PREFIX + entry["name"]}


def _bare(entry: Json) -> Json:
    return {**entry, "name": entry["name"].removeprefix(PREFIX)}


def _key_transform(source: str, name: str) -> list[Json]:
    return [{"src": f"$KV.{source}.>", "dest": f"$KV.{name}.>"}]


def _as_source(entry: Json, name: str) -> Json:
    """A source of another bucket rewrites its keys' subjects; of the same bucket elsewhere it need not."""
    source = entry["name"].removeprefix(PREFIX)
    is_plain = not entry["subject_transforms"] and entry["filter_subject"] is None
    if is_plain and (entry["external"] is None or source != name):
        entry = {**entry, "subject_transforms": _key_transform(source, name)}
    return _prefixed(entry)


def _from_source(entry: Json, name: str) -> Json:
    entry = _bare(entry)
    if entry["subject_transforms"] == _key_transform(entry["name"], name):
        entry = {**entry, "subject_transforms": []}
    return entry


KIND = BucketKind()


class Buckets:
    """The section ``buckets``."""

    name = "buckets"

    def schema(self) -> Mapping[str, Any]:
        return reading.mapping(FIELDS.schema(), BUCKET_NAME_PATTERN)

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            pointer = (self.name, name)
            settings = reading.parse(FIELDS, body or {}, pointer, reader)
            if settings is None:
                continue
            settings |= {
                "mirror": _bare(settings["mirror"]) if settings["mirror"] else None,
                "sources": [_bare(entry) for entry in settings["sources"]],
            }
            given = settings["stream"].get("mirror_direct")
            problem = reading.check_mirror_direct(given, settings["mirror"], node, usual=True)
            if problem is not None:
                reader.fail((*pointer, "stream", "mirror_direct"), problem)
                continue
            address = Address.root("nats", reading.target(body), "bucket", name)
            refs = reading.copied(address, settings, node, lambda origin: origin)
            yield Record(address, settings, refs=refs, origin=pointer)


SECTION = Buckets()
