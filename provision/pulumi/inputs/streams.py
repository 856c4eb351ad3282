"""Streams, and what buckets and object stores share with them."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from pulumi import Input

StreamRetention = Literal["limits", "interest", "workqueue"]
StreamStorage = Literal["file", "memory"]


class StreamPlacement(TypedDict, total=False):
    """Cluster and server tags; a change moves the data."""

    cluster: Input[str]
    """Name of the cluster that holds the replicas."""
    tags: Input[Sequence[Input[str]]]
    """Tags that every server must have."""
    preferred: Input[str]
    """Preferred leader; servers refuse it in a stream so far."""


StreamDiscard = Literal["old", "new"]
StreamCompression = Literal["none", "s2"]


class StreamSubjectTransform(TypedDict, total=False):
    """Rewrite subjects before anything else."""

    src: Input[str]
    """Subjects that are rewritten. Default: `>`."""
    dest: Required[Input[str]]
    """The new subject, with {{wildcard(n)}} and others."""


class StreamRepublish(TypedDict, total=False):
    """Publish stored messages again."""

    src: Input[str]
    """Stored subjects that are published again. Default: `>`."""
    dest: Required[Input[str]]
    """Subject of the copy."""
    headers_only: Input[bool]
    """Publish only the headers. Default: `false`."""


class StreamSourceExternal(TypedDict, total=False):
    """Where the stream is, if in another account or domain."""

    api: Required[Input[str]]
    """Prefix of the other account's or domain's API."""
    deliver: Input[str]
    """Prefix of the subject that messages are delivered on."""


class StreamSourceConsumer(TypedDict, total=False):
    """Read through this consumer. Since nats-server 2.14."""

    name: Required[Input[str]]
    """The durable consumer to read through."""
    deliver_subject: Required[Input[str]]
    """The consumer's delivery subject."""


class StreamSource(TypedDict, total=False):
    """The stream this one is a copy of; removing it makes an ordinary stream."""

    name: Required[Input[str]]
    """The stream to copy from."""
    opt_start_seq: Input[int]
    """First one to copy. Default: `0`."""
    opt_start_time: Input[str]
    """Time of the first message. A time such as `2026-01-31T12:00:00Z`."""
    filter_subject: Input[str]
    """Copy only these subjects."""
    subject_transforms: Input[Sequence[Input[StreamSubjectTransform]]]
    """Filters with a new subject for what they take."""
    external: Input[StreamSourceExternal]
    """Where the stream is, if in another account or domain."""
    consumer: Input[StreamSourceConsumer]
    """Read through this consumer. Since nats-server 2.14."""


class StreamConsumerLimits(TypedDict, total=False):
    """Defaults and bounds for its consumers."""

    inactive_threshold: Input[str | int]
    """Largest inactive_threshold of consumers. A duration such as `30s`. Default: `0`."""
    max_ack_pending: Input[int]
    """Largest max_ack_pending of consumers. Default: `0`."""


StreamPersistMode = Literal["default", "async"]


class StreamArgs(TypedDict, total=False):
    """What makes a Stream: A stream: messages kept by subject."""

    name: Required[Input[str]]
    """Its name."""
    target: Input[str] | None
    """The NATS target it lives on, main where nothing is said."""
    description: Input[str] | None
    """What it is for, at most 4096 bytes."""
    subjects: Input[Sequence[Input[str]]] | None
    """What the stream stores; its own name where nothing is said and it copies no other stream."""
    retention: Input[StreamRetention] | None
    """When messages go: by the limits, when every consumer has them, or when one consumer has them. Default:
    `limits`."""
    storage: Input[StreamStorage] | None
    """Where messages are kept. Default: `file`."""
    max_age: Input[str | int] | None
    """Older messages go. A duration such as `30s`. Default: `0`."""
    max_bytes: Input[str | int] | None
    """Most bytes kept; reserved at creation. A size such as `10GiB`, or a number of bytes. Default: `-1`."""
    max_msgs: Input[int] | None
    """Most messages kept. Default: `-1`."""
    max_msgs_per_subject: Input[int] | None
    """Most messages kept of one subject. Default: `-1`."""
    max_msg_size: Input[str | int] | None
    """Largest message taken. A size such as `10GiB`, or a number of bytes. Default: `-1`."""
    max_consumers: Input[int] | None
    """Most consumers. Default: `-1`."""
    replicas: Input[int] | None
    """Copies on different servers, 1 to 5. Default: `1`."""
    placement: Input[StreamPlacement] | None
    """Cluster and server tags; a change moves the data."""
    discard: Input[StreamDiscard] | None
    """At a limit: old messages go, or new ones are refused. Default: `old`."""
    discard_new_per_subject: Input[bool] | None
    """Refuse new messages at max_msgs_per_subject too; needs discard new. Default: `false`."""
    duplicate_window: Input[str | int] | None
    """How long message ids are remembered; by default two minutes, or max_age if that is shorter. A duration such as
    `30s`."""
    no_ack: Input[bool] | None
    """Do not acknowledge what is stored. Default: `false`."""
    sealed: Input[bool] | None
    """Nothing in, nothing out, for ever. Default: `false`."""
    deny_delete: Input[bool] | None
    """Refuse deletes, for ever. Default: `false`."""
    deny_purge: Input[bool] | None
    """Refuse purges, for ever. Default: `false`."""
    allow_rollup_hdrs: Input[bool] | None
    """Let a message replace older ones. Default: `false`."""
    allow_direct: Input[bool] | None
    """Let every replica answer reads. Default: `false`."""
    mirror_direct: Input[bool] | None
    """Let a mirror answer reads; the server takes it from an origin that it can see."""
    compression: Input[StreamCompression] | None
    """Compression of new blocks. Default: `none`."""
    first_seq: Input[int] | None
    """Sequence of the first message. Default: `0`."""
    subject_transform: Input[StreamSubjectTransform] | None
    """Rewrite subjects before anything else."""
    republish: Input[StreamRepublish] | None
    """Publish stored messages again."""
    mirror: Input[StreamSource] | None
    """The stream this one is a copy of; removing it makes an ordinary stream."""
    sources: Input[Sequence[Input[StreamSource]]] | None
    """Streams whose messages are copied into this one."""
    consumer_limits: Input[StreamConsumerLimits] | None
    """Defaults and bounds for its consumers."""
    allow_msg_ttl: Input[bool] | None
    """Let a message carry its own time to live; cannot be undone. Default: `false`. Since nats-server 2.11."""
    subject_delete_marker_ttl: Input[str | int] | None
    """Leave a marker for this long where the last message of a subject expired. A duration such as `30s`. Default:
    `0`. Since nats-server 2.11."""
    allow_msg_counter: Input[bool] | None
    """Messages are increments of distributed counters. Default: `false`. Since nats-server 2.12."""
    allow_atomic: Input[bool] | None
    """Let batches be atomic. Default: `false`. Since nats-server 2.12."""
    allow_batched: Input[bool] | None
    """Let batches be fast. Default: `false`. Since nats-server 2.14."""
    allow_msg_schedules: Input[bool] | None
    """Let a message be published later; cannot be undone. Default: `false`. Since nats-server 2.12."""
    persist_mode: Input[StreamPersistMode] | None
    """async acknowledges before anything is written: a crash loses messages. Default: `default`. Since nats-server
    2.12."""
    metadata: Input[Mapping[str, Input[str]]] | None
    """Labels; keys that begin with _nats. belong to the server."""
    prune: Input[bool] | None
    """Consumers that are not declared may be removed, with a consent. Default: `false`."""
