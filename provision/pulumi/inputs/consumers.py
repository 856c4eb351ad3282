"""Consumers, and templates of them."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from pulumi import Input

ConsumerDeliverPolicy = Literal["all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject"]
ConsumerAckPolicy = Literal["none", "all", "explicit", "flow_control"]
ConsumerReplayPolicy = Literal["instant", "original"]
ConsumerPriorityPolicy = Literal["none", "overflow", "pinned_client", "prioritized"]


class ConsumerArgs(TypedDict, total=False):
    """What makes a Consumer: A durable consumer of a stream, pull or push."""

    name: Required[Input[str]]
    """Its name."""
    stream: Required[Input[str]]
    """The stream that it reads."""
    target: Input[str] | None
    """The target it lives on, main where nothing is said."""
    description: Input[str] | None
    """What it is for, at most 4096 bytes."""
    deliver_policy: Input[ConsumerDeliverPolicy] | None
    """Where delivery starts. Default: `all`."""
    opt_start_seq: Input[int] | None
    """First one. Default: `0`."""
    opt_start_time: Input[str] | None
    """Time of the first message. A time such as `2026-01-31T12:00:00Z`."""
    ack_policy: Input[ConsumerAckPolicy] | None
    """What an acknowledgement means; none is the server's own default. Default: `none`."""
    ack_wait: Input[str | int] | None
    """Time until a message is delivered again; by default 30s, or the first step of backoff. A duration such as
    `30s`."""
    max_deliver: Input[int] | None
    """Most deliveries of one message. Default: `-1`."""
    backoff: Input[Sequence[Input[str | int]]] | None
    """Waits between deliveries; the first one is ack_wait."""
    filter_subject: Input[str] | None
    """Deliver only these subjects."""
    filter_subjects: Input[Sequence[Input[str]]] | None
    """Deliver only these subjects, several patterns."""
    replay_policy: Input[ConsumerReplayPolicy] | None
    """As fast as possible, or at the pace of storing. Default: `instant`."""
    rate_limit_bps: Input[int] | None
    """Bits per second, push consumers only. Default: `0`."""
    sample_freq: Input[str | int] | None
    """Percent of acknowledgements that are reported."""
    max_waiting: Input[int] | None
    """Most waiting pull requests; 512 where nothing is said."""
    max_ack_pending: Input[int] | None
    """Most unacknowledged messages, -1 without bound; 1000 where nothing is said."""
    headers_only: Input[bool] | None
    """Deliver headers and the size, no body. Default: `false`."""
    max_batch: Input[int] | None
    """Most messages of one pull request. Default: `0`."""
    max_expires: Input[str | int] | None
    """Longest pull request. A duration such as `30s`. Default: `0`."""
    max_bytes: Input[str | int] | None
    """Most bytes of one pull request. A size such as `10GiB`, or a number of bytes. Default: `0`."""
    inactive_threshold: Input[str | int] | None
    """Remove the consumer when nobody used it for so long. A duration such as `30s`. Default: `0`."""
    replicas: Input[int] | None
    """Copies of its state; 0 takes the stream's. Default: `0`."""
    mem_storage: Input[bool] | None
    """Keep its state in memory. Default: `false`."""
    deliver_subject: Input[str] | None
    """Push to this subject; else clients pull."""
    deliver_group: Input[str] | None
    """Queue group that shares a push consumer."""
    idle_heartbeat: Input[str | int] | None
    """Heartbeat of an idle push consumer. A duration such as `30s`. Default: `0`."""
    flow_control: Input[bool] | None
    """Pace a push consumer. Default: `false`."""
    priority_policy: Input[ConsumerPriorityPolicy] | None
    """Which of several pulling clients is served. Default: `none`. Since nats-server 2.11."""
    priority_groups: Input[Sequence[Input[str]]] | None
    """Groups that pull requests name. Since nats-server 2.11."""
    priority_timeout: Input[str | int] | None
    """When a pinned client that is silent loses its pin; 2m where nothing is said. A duration such as `30s`.
    Default: `0`. Since nats-server 2.11."""
    pause_until: Input[str] | None
    """Deliver nothing before this time. A time such as `2026-01-31T12:00:00Z`. Since nats-server 2.11."""
    metadata: Input[Mapping[str, Input[str]]] | None
    """Labels; keys that begin with _nats. belong to the server."""
    dead_letter: Input[str] | None
    """The stream that captures what max_deliver gave up, or none."""


class Template(TypedDict, total=False):
    """What clients create an ephemeral consumer from; the runtime finds it in the contract."""

    description: Input[str]
    """What it is for, at most 4096 bytes."""
    deliver_policy: Input[ConsumerDeliverPolicy]
    """Where delivery starts. Default: `all`."""
    opt_start_seq: Input[int]
    """First one. Default: `0`."""
    opt_start_time: Input[str]
    """Time of the first message. A time such as `2026-01-31T12:00:00Z`."""
    ack_policy: Input[ConsumerAckPolicy]
    """What an acknowledgement means; none is the server's own default. Default: `none`."""
    ack_wait: Input[str | int]
    """Time until a message is delivered again; by default 30s, or the first step of backoff. A duration such as
    `30s`."""
    max_deliver: Input[int]
    """Most deliveries of one message. Default: `-1`."""
    backoff: Input[Sequence[Input[str | int]]]
    """Waits between deliveries; the first one is ack_wait."""
    filter_subject: Input[str]
    """Deliver only these subjects."""
    filter_subjects: Input[Sequence[Input[str]]]
    """Deliver only these subjects, several patterns."""
    replay_policy: Input[ConsumerReplayPolicy]
    """As fast as possible, or at the pace of storing. Default: `instant`."""
    rate_limit_bps: Input[int]
    """Bits per second, push consumers only. Default: `0`."""
    sample_freq: Input[str | int]
    """Percent of acknowledgements that are reported."""
    max_waiting: Input[int]
    """Most waiting pull requests; 512 where nothing is said."""
    max_ack_pending: Input[int]
    """Most unacknowledged messages, -1 without bound; 1000 where nothing is said."""
    headers_only: Input[bool]
    """Deliver headers and the size, no body. Default: `false`."""
    max_batch: Input[int]
    """Most messages of one pull request. Default: `0`."""
    max_expires: Input[str | int]
    """Longest pull request. A duration such as `30s`. Default: `0`."""
    max_bytes: Input[str | int]
    """Most bytes of one pull request. A size such as `10GiB`, or a number of bytes. Default: `0`."""
    inactive_threshold: Input[str | int]
    """Remove the consumer when nobody used it for so long. A duration such as `30s`. Default: `0`."""
    replicas: Input[int]
    """Copies of its state; 0 takes the stream's. Default: `0`."""
    mem_storage: Input[bool]
    """Keep its state in memory. Default: `false`."""
    deliver_subject: Input[str]
    """Push to this subject; else clients pull."""
    deliver_group: Input[str]
    """Queue group that shares a push consumer."""
    idle_heartbeat: Input[str | int]
    """Heartbeat of an idle push consumer. A duration such as `30s`. Default: `0`."""
    flow_control: Input[bool]
    """Pace a push consumer. Default: `false`."""
    priority_policy: Input[ConsumerPriorityPolicy]
    """Which of several pulling clients is served. Default: `none`. Since nats-server 2.11."""
    priority_groups: Input[Sequence[Input[str]]]
    """Groups that pull requests name. Since nats-server 2.11."""
    priority_timeout: Input[str | int]
    """When a pinned client that is silent loses its pin; 2m where nothing is said. A duration such as `30s`.
    Default: `0`. Since nats-server 2.11."""
    pause_until: Input[str]
    """Deliver nothing before this time. A time such as `2026-01-31T12:00:00Z`. Since nats-server 2.11."""
    metadata: Input[Mapping[str, Input[str]]]
    """Labels; keys that begin with _nats. belong to the server."""
    dead_letter: Input[str]
    """The stream that captures what max_deliver gave up, or none."""
