"""Key-value buckets and object stores."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Required, TypedDict

from pulumi import Input

from provision.pulumi.inputs.streams import (
    StreamCompression,
    StreamConsumerLimits,
    StreamDiscard,
    StreamPersistMode,
    StreamPlacement,
    StreamRepublish,
    StreamRetention,
    StreamSource,
    StreamStorage,
    StreamSubjectTransform,
)


class KeyValueBucketStream(TypedDict, total=False):
    """Options of the stream behind it that differ from what a bucket is; rarely needed."""

    subjects: Input[Sequence[Input[str]]]
    """What the stream stores; its own name where nothing is said and it copies no other stream."""
    retention: Input[StreamRetention]
    """When messages go: by the limits, when every consumer has them, or when one consumer has them."""
    max_msgs: Input[int]
    """Most messages kept."""
    max_consumers: Input[int]
    """Most consumers."""
    discard: Input[StreamDiscard]
    """At a limit: old messages go, or new ones are refused."""
    discard_new_per_subject: Input[bool]
    """Refuse new messages at max_msgs_per_subject too; needs discard new."""
    duplicate_window: Input[str | int]
    """How long message ids are remembered; by default two minutes, or max_age if that is shorter. A duration such as
    `30s`."""
    no_ack: Input[bool]
    """Do not acknowledge what is stored."""
    sealed: Input[bool]
    """Nothing in, nothing out, for ever."""
    deny_delete: Input[bool]
    """Refuse deletes, for ever."""
    deny_purge: Input[bool]
    """Refuse purges, for ever."""
    mirror_direct: Input[bool]
    """Let a mirror answer reads; the server takes it from an origin that it can see."""
    first_seq: Input[int]
    """Sequence of the first message."""
    subject_transform: Input[StreamSubjectTransform]
    """Rewrite subjects before anything else."""
    consumer_limits: Input[StreamConsumerLimits]
    """Defaults and bounds for its consumers."""
    allow_msg_counter: Input[bool]
    """Messages are increments of distributed counters."""
    allow_atomic: Input[bool]
    """Let batches be atomic."""
    allow_batched: Input[bool]
    """Let batches be fast."""
    allow_msg_schedules: Input[bool]
    """Let a message be published later; cannot be undone."""
    persist_mode: Input[StreamPersistMode]
    """async acknowledges before anything is written: a crash loses messages."""


class KeyValueBucketArgs(TypedDict, total=False):
    """What makes a KeyValueBucket: A key-value bucket."""

    name: Required[Input[str]]
    """Its name."""
    target: Input[str] | None
    """The NATS target it lives on, main where nothing is said."""
    description: Input[str] | None
    """What it is for, at most 4096 bytes."""
    ttl: Input[str | int] | None
    """Values older than this go. A duration such as `30s`. Default: `0`."""
    history: Input[int] | None
    """Values kept of one key. Default: `1`."""
    max_bytes: Input[str | int] | None
    """Most bytes kept; reserved at creation. A size such as `10GiB`, or a number of bytes. Default: `-1`."""
    max_value_size: Input[str | int] | None
    """Largest value. A size such as `10GiB`, or a number of bytes. Default: `-1`."""
    storage: Input[StreamStorage] | None
    """Where messages are kept. Default: `file`."""
    replicas: Input[int] | None
    """Copies on different servers, 1 to 5. Default: `1`."""
    placement: Input[StreamPlacement] | None
    """Cluster and server tags; a change moves the data."""
    republish: Input[StreamRepublish] | None
    """Publish stored messages again."""
    mirror: Input[StreamSource] | None
    """The bucket this one is a copy of."""
    sources: Input[Sequence[Input[StreamSource]]] | None
    """Buckets whose keys are copied into this one."""
    compression: Input[StreamCompression] | None
    """Compression of new blocks. Default: `none`."""
    limit_marker_ttl: Input[str | int] | None
    """Leave a marker for this long where a key expired. A duration such as `30s`. Default: `0`. Since nats-server
    2.11."""
    allow_msg_ttl: Input[bool] | None
    """Let a key carry its own time to live; cannot be undone. Default: `false`. Since nats-server 2.11."""
    allow_direct: Input[bool] | None
    """Let every replica answer reads. Default: `true`."""
    allow_rollup_hdrs: Input[bool] | None
    """Let a purge replace a key's history. Default: `true`."""
    metadata: Input[Mapping[str, Input[str]]] | None
    """Labels; keys that begin with _nats. belong to the server."""
    stream: Input[KeyValueBucketStream] | None
    """Options of the stream behind it that differ from what a bucket is; rarely needed."""
    keys: Input[Sequence[Input[str]]] | None
    """Patterns of the keys that applications write."""
    journal: Input[str] | None
    """The stream that journals it for the flush to SQL."""


class ObjectStoreStream(TypedDict, total=False):
    """Options of the stream behind it that differ from what an object store is; rarely needed."""

    subjects: Input[Sequence[Input[str]]]
    """What the stream stores; its own name where nothing is said and it copies no other stream."""
    retention: Input[StreamRetention]
    """When messages go: by the limits, when every consumer has them, or when one consumer has them."""
    max_msgs: Input[int]
    """Most messages kept."""
    max_msgs_per_subject: Input[int]
    """Most messages kept of one subject."""
    max_msg_size: Input[str | int]
    """Largest message taken. A size such as `10GiB`, or a number of bytes."""
    max_consumers: Input[int]
    """Most consumers."""
    discard: Input[StreamDiscard]
    """At a limit: old messages go, or new ones are refused."""
    discard_new_per_subject: Input[bool]
    """Refuse new messages at max_msgs_per_subject too; needs discard new."""
    duplicate_window: Input[str | int]
    """How long message ids are remembered; by default two minutes, or max_age if that is shorter. A duration such as
    `30s`."""
    no_ack: Input[bool]
    """Do not acknowledge what is stored."""
    sealed: Input[bool]
    """Nothing in, nothing out, for ever."""
    deny_delete: Input[bool]
    """Refuse deletes, for ever."""
    deny_purge: Input[bool]
    """Refuse purges, for ever."""
    allow_rollup_hdrs: Input[bool]
    """Let a message replace older ones."""
    allow_direct: Input[bool]
    """Let every replica answer reads."""
    mirror_direct: Input[bool]
    """Let a mirror answer reads; the server takes it from an origin that it can see."""
    first_seq: Input[int]
    """Sequence of the first message."""
    subject_transform: Input[StreamSubjectTransform]
    """Rewrite subjects before anything else."""
    republish: Input[StreamRepublish]
    """Publish stored messages again."""
    mirror: Input[StreamSource]
    """The stream this one is a copy of; removing it makes an ordinary stream."""
    sources: Input[Sequence[Input[StreamSource]]]
    """Streams whose messages are copied into this one."""
    consumer_limits: Input[StreamConsumerLimits]
    """Defaults and bounds for its consumers."""
    allow_msg_ttl: Input[bool]
    """Let a message carry its own time to live; cannot be undone."""
    subject_delete_marker_ttl: Input[str | int]
    """Leave a marker for this long where the last message of a subject expired. A duration such as `30s`."""
    allow_msg_counter: Input[bool]
    """Messages are increments of distributed counters."""
    allow_atomic: Input[bool]
    """Let batches be atomic."""
    allow_batched: Input[bool]
    """Let batches be fast."""
    allow_msg_schedules: Input[bool]
    """Let a message be published later; cannot be undone."""
    persist_mode: Input[StreamPersistMode]
    """async acknowledges before anything is written: a crash loses messages."""


class ObjectStoreArgs(TypedDict, total=False):
    """What makes a ObjectStore: An object store."""

    name: Required[Input[str]]
    """Its name."""
    target: Input[str] | None
    """The NATS target it lives on, main where nothing is said."""
    description: Input[str] | None
    """What it is for, at most 4096 bytes."""
    ttl: Input[str | int] | None
    """Objects older than this go. A duration such as `30s`. Default: `0`."""
    max_bytes: Input[str | int] | None
    """Most bytes kept; reserved at creation. A size such as `10GiB`, or a number of bytes. Default: `-1`."""
    storage: Input[StreamStorage] | None
    """Where messages are kept. Default: `file`."""
    replicas: Input[int] | None
    """Copies on different servers, 1 to 5. Default: `1`."""
    placement: Input[StreamPlacement] | None
    """Cluster and server tags; a change moves the data."""
    compression: Input[StreamCompression] | None
    """Compression of new blocks. Default: `none`."""
    metadata: Input[Mapping[str, Input[str]]] | None
    """Labels; keys that begin with _nats. belong to the server."""
    stream: Input[ObjectStoreStream] | None
    """Options of the stream behind it that differ from what an object store is; rarely needed."""
