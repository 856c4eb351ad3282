"""The options of a JetStream stream, every one of a server up to 2.15. Pure.

Streams, buckets and object stores stand on this one table. Ranges and mutability: nats-server
``server/stream.go`` (checkStreamCfgLocked, configUpdateCheckLocked), versions by trying each release.
"""

from __future__ import annotations

from provision.nats.kinds import fields as t
from provision.nats.kinds.wire import Note
from provision.spec import fields as f
from provision.spec.fields import Field, FieldTable

_ENABLE = Note("enable")

OPTIONS = FieldTable(
    t.description(),
    Field(
        name="subjects", type=f.list_of(t.SUBJECT), default=[], note=Note(unordered=True),
        doc="What the stream stores; its own name where nothing is said and it copies no other stream.",
    ),
    Field(
        name="retention", type=f.enum("limits", "interest", "workqueue"), default="limits",
        doc="When messages go: by the limits, when every consumer has them, or when one consumer has them.",
    ),
    t.storage(),
    Field(name="max_age", type=t.duration(100 * t.MILLISECOND), default=0, doc="Older messages go."),
    Field(name="max_bytes", type=t.size_limit(), default=-1, doc="Most bytes kept; reserved at creation."),
    Field(name="max_msgs", type=t.limit(), default=-1, doc="Most messages kept."),
    Field(name="max_msgs_per_subject", type=t.limit(), default=-1, doc="Most messages kept of one subject."),
    Field(name="max_msg_size", type=t.size_limit(t.INT32_MAX), default=-1, doc="Largest message taken."),
    Field(
        name="max_consumers", type=t.limit(), default=-1, doc="Most consumers.",
        note=Note("free", before="never", changed_in=(2, 12, 5)),
    ),
    t.replicas(),
    t.placement(),
    Field(
        name="discard", type=f.enum("old", "new"), default="old",
        doc="At a limit: old messages go, or new ones are refused.",
    ),
    Field(
        name="discard_new_per_subject", type=f.BOOL, default=False,
        doc="Refuse new messages at max_msgs_per_subject too; needs discard new.",
    ),
    Field(
        name="duplicate_window", type=t.duration(100 * t.MILLISECOND), note=Note(absent=0),
        doc="How long message ids are remembered; by default two minutes, or max_age if that is shorter.",
    ),
    Field(name="no_ack", type=f.BOOL, default=False, doc="Do not acknowledge what is stored."),
    Field(name="sealed", type=f.BOOL, default=False, note=_ENABLE, doc="Nothing in, nothing out, for ever."),
    Field(name="deny_delete", type=f.BOOL, default=False, note=_ENABLE, doc="Refuse deletes, for ever."),
    Field(name="deny_purge", type=f.BOOL, default=False, note=_ENABLE, doc="Refuse purges, for ever."),
    Field(name="allow_rollup_hdrs", type=f.BOOL, default=False, doc="Let a message replace older ones."),
    Field(name="allow_direct", type=f.BOOL, default=False, doc="Let every replica answer reads."),
    Field(
        name="mirror_direct", type=f.BOOL, note=Note(absent=False),
        doc="Let a mirror answer reads; the server takes it from an origin that it can see.",
    ),
    t.compression(),
    Field(
        # Stored by an update but never applied to existing messages, so only a new stream honours it.
        name="first_seq", type=f.integer(0, t.UINT64_MAX), default=0, note=Note("never", decode=lambda v: v),
        doc="Sequence of the first message.",
    ),
    Field(
        name="subject_transform", type=f.object_of(t.SUBJECT_TRANSFORM), note=Note(table=t.SUBJECT_TRANSFORM),
        doc="Rewrite subjects before anything else.",
    ),
    t.republish(),
    t.mirror("The stream this one is a copy of; removing it makes an ordinary stream."),
    t.sources("Streams whose messages are copied into this one."),
    Field(
        name="consumer_limits", type=f.object_of(t.CONSUMER_LIMITS), note=Note(table=t.CONSUMER_LIMITS),
        default={"inactive_threshold": 0, "max_ack_pending": 0}, doc="Defaults and bounds for its consumers.",
    ),
    Field(
        name="allow_msg_ttl", type=f.BOOL, default=False, since=t.V2_11,
        note=Note("enable", before="never", changed_in=(2, 11, 2)),
        doc="Let a message carry its own time to live; cannot be undone.",
    ),
    Field(
        name="subject_delete_marker_ttl", type=t.duration(t.SECOND), default=0, since=t.V2_11,
        doc="Leave a marker for this long where the last message of a subject expired.",
    ),
    Field(
        name="allow_msg_counter", type=f.BOOL, default=False, since=t.V2_12, note=Note("never"),
        doc="Messages are increments of distributed counters.",
    ),
    Field(name="allow_atomic", type=f.BOOL, default=False, since=t.V2_12, doc="Let batches be atomic."),
    Field(name="allow_batched", type=f.BOOL, default=False, since=t.V2_14, doc="Let batches be fast."),
    Field(
        name="allow_msg_schedules", type=f.BOOL, default=False, since=t.V2_12, note=_ENABLE,
        doc="Let a message be published later; cannot be undone.",
    ),
    Field(
        name="persist_mode", type=f.enum("default", "async"), default="default", since=t.V2_12,
        note=Note("never"), doc="async acknowledges before anything is written: a crash loses messages.",
    ),
    t.metadata(),
)  # fmt: skip
