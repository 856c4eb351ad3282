"""What concerns a whole plane."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from pulumi import Input

from provision.pulumi.inputs.consumers import Template

PoolRecycling = Literal["fast", "verified", "clean"]
PoolMode = Literal["session", "transaction", "statement"]


class PoolSizing(TypedDict, total=False):
    """The load from which min and max follow where null."""

    ops_per_s: Required[Input[float]]
    """Operations in a second, over all processes."""
    avg_duration: Required[Input[str | int]]
    """How long one holds a connection. A duration such as `30s`."""
    agents: Required[Input[int]]
    """Agents that share the pool."""
    target_utilization: Input[float]
    """The part of the pool that is meant to be in use. Default: `0.8`."""


class PoolArgs(TypedDict, total=False):
    """What makes a Pool: A pool of connections that an application keeps."""

    name: Required[Input[str]]
    """Its name."""
    target: Input[str] | None
    """The Postgres target, main where nothing is said."""
    role: Required[Input[str]]
    """The login role of the pool."""
    endpoint: Input[str] | None
    """The endpoint of the target it connects to. Default: `primary`."""
    database: Input[str] | None
    """The database; null is the target's."""
    min: Input[int] | None
    """Connections kept open; null with sizing takes the recommendation. Default: `2`."""
    max: Input[int] | None
    """Most connections of one process; null with sizing takes the recommendation. Default: `10`."""
    processes: Input[int] | None
    """Client processes that hold a pool of this size. Default: `1`."""
    acquire_timeout: Input[str | int] | None
    """How long a caller waits for a connection. A duration such as `30s`. Default: `30s`."""
    idle_timeout: Input[str | int] | None
    """After this an idle connection above min is closed. A duration such as `30s`. Default: `10m`."""
    max_lifetime: Input[str | int] | None
    """After this a connection is replaced. A duration such as `30s`. Default: `2h`."""
    test_before_acquire: Input[bool] | None
    """Whether a connection is tried before it is handed out. Default: `true`."""
    statement_timeout: Input[str | int] | None
    """Limit of a statement; 0 is none. A duration such as `30s`. Default: `30s`."""
    idle_in_transaction_timeout: Input[str | int] | None
    """Limit of idling inside a transaction; 0 is none. A duration such as `30s`. Default: `1m`."""
    application_name: Input[str] | None
    """Shown in pg_stat_activity. Default: `agent_system`."""
    statement_cache_capacity: Input[int] | None
    """Prepared statements kept for each connection; 0 prepares none. Default: `100`."""
    recycling: Input[PoolRecycling] | None
    """What happens to a connection that comes back: nothing, a test, or DISCARD ALL. Default: `fast`."""
    slow_query_threshold: Input[str | int] | None
    """Statements that take longer are logged. A duration such as `30s`. Default: `100ms`."""
    leak_detection: Input[bool] | None
    """Whether connections kept for ever are told. Default: `true`."""
    after_connect: Input[Sequence[Input[str]]] | None
    """Statements run on each new connection."""
    mode: Input[PoolMode] | None
    """For how long a client keeps its server connection. Default: `session`."""
    pgbouncer: Input[bool] | None
    """Whether PgBouncer stands in between. Default: `false`."""
    sizing: Input[PoolSizing] | None
    """The load from which min and max follow where null."""


class Part(TypedDict, total=False):
    """What the contract says of an object."""

    digest: Required[Input[str]]
    """Names the declaration of the object."""
    entries: Required[Input[str]]
    """What the runtime is told of it, as JSON."""


class Publisher(TypedDict, total=False):
    """Who publishes which subjects; checks compare it with streams."""

    description: Input[str]
    """Who it is."""
    subjects: Required[Input[Sequence[Input[str]]]]
    """What it publishes."""
    target: Input[str]
    """The NATS target it lives on, main where nothing is said."""


class Runtime(TypedDict, total=False):
    """What the runtime calls an object, and how patient it is."""

    state_bucket: Input[str]
    """Hot state of agents."""
    session_bucket: Input[str]
    """Sessions."""
    config_bucket: Input[str]
    """Configuration of agents."""
    cache_bucket: Input[str]
    """Cached results of queries."""
    flush_stream: Input[str]
    """Journal of the state bucket: what SQL does not hold yet."""
    state_stream: Input[str]
    """Events of agents."""
    task_stream: Input[str]
    """Events of tasks."""
    message_stream: Input[str]
    """Messages between agents."""
    dead_letter_stream: Input[str]
    """Advisories of messages that nobody acknowledged."""
    flush_consumer: Input[str]
    """The durable of the journal."""
    registry_table: Input[str]
    """Agents."""
    state_table: Input[str]
    """State of agents."""
    checkpoint_table: Input[str]
    """Snapshots of state."""
    lifecycle_table: Input[str]
    """Events of agents."""
    task_table: Input[str]
    """Tasks."""
    message_table: Input[str]
    """Messages."""
    session_table: Input[str]
    """Sessions."""
    fact_table: Input[str]
    """Facts."""
    embedding_table: Input[str]
    """Embeddings of facts."""
    outbox_table: Input[str]
    """Events to publish."""
    inbox_table: Input[str]
    """Messages already handled."""
    saga_table: Input[str]
    """Sagas."""
    saga_step_table: Input[str]
    """Steps of sagas."""
    decision_table: Input[str]
    """Verdicts of two-phase commits."""
    hydrate_function: Input[str]
    """Gives the living state rows of an agent."""
    cleanup_function: Input[str]
    """Deletes expired rows."""
    wake_channel: Input[str]
    """NOTIFY channel that wakes the outbox relay."""
    flush_dirty_keys: Input[int]
    """Dirty keys that start a flush. Default: `50`."""
    flush_interval: Input[str | int]
    """Longest time that a key stays dirty. A duration such as `30s`. Default: `100ms`."""
    consistency_window: Input[str | int]
    """Age at which a write is late. A duration such as `30s`. Default: `200ms`."""
    lease_ttl: Input[str | int]
    """How long a lease holds without renewal. A duration such as `30s`. Default: `30s`."""
    outbox_poll_interval: Input[str | int]
    """How often a relay looks unwoken. A duration such as `30s`. Default: `20ms`."""
    jetstream_max_connections: Input[int]
    """Most NATS connections of one process. Default: `5`."""
    jetstream_connect_timeout: Input[str | int]
    """How long a connection to NATS may take. A duration such as `30s`. Default: `10s`."""
    saga_timeout: Input[str | int]
    """How long a saga may run. A duration such as `30s`. Default: `5m`."""
    compensation_timeout: Input[str | int]
    """How long undoing a saga may take. A duration such as `30s`. Default: `2m`."""
    max_attempts: Input[int]
    """Tries of an operation before it fails. Default: `3`."""


class StreamTemplates(TypedDict, total=False):
    """The templates that stand under a stream."""

    templates: Input[Mapping[str, Input[Template]]]
    """By name."""
    target: Input[str]
    """The target of the stream, main where nothing is said."""


class ContractArgs(TypedDict, total=False):
    """What makes a Contract: What the runtime is told about the plane; it comes last and is made of the `part` of
    every other resource."""

    parts: Required[Input[Mapping[str, Input[Part]]]]
    """The `part` of every other resource of the plane, under any names."""
    targets: Input[Mapping[str, Input[Any]]] | None
    """How clients reach the targets, as the runtime is told; without it, the provider's targets."""
    publishers: Input[Mapping[str, Input[Publisher]]] | None
    """By name: Who publishes which subjects; checks compare it with streams."""
    runtime: Input[Runtime] | None
    """What the runtime calls its objects, and its limits."""
    templates: Input[Mapping[str, Input[StreamTemplates]]] | None
    """By stream: What clients create an ephemeral consumer from; the runtime finds it in the contract."""
