"""The resources of package holdfast as Python classes. What they take stands in ``inputs``."""

# Made by `make generate` from the package schema.

from __future__ import annotations

from typing import Any, Unpack

from pulumi import Output, ResourceOptions

from provision.pulumi import inputs
from provision.pulumi.custom import ProviderResource, Resource


class Stream(Resource, arguments=inputs.StreamArgs):
    """A stream: messages kept by subject.

    Its id is its address, `nats:TARGET/stream/NAME`.
    """

    name: Output[str]
    target: Output[str | None]
    description: Output[str | None]
    subjects: Output[list[str] | None]
    retention: Output[inputs.StreamRetention | None]
    storage: Output[inputs.StreamStorage | None]
    max_age: Output[str | float | None]
    max_bytes: Output[str | float | None]
    max_msgs: Output[int | None]
    max_msgs_per_subject: Output[int | None]
    max_msg_size: Output[str | float | None]
    max_consumers: Output[int | None]
    replicas: Output[int | None]
    placement: Output[Any]
    discard: Output[inputs.StreamDiscard | None]
    discard_new_per_subject: Output[bool | None]
    duplicate_window: Output[str | float | None]
    no_ack: Output[bool | None]
    sealed: Output[bool | None]
    deny_delete: Output[bool | None]
    deny_purge: Output[bool | None]
    allow_rollup_hdrs: Output[bool | None]
    allow_direct: Output[bool | None]
    mirror_direct: Output[bool | None]
    compression: Output[inputs.StreamCompression | None]
    first_seq: Output[int | None]
    subject_transform: Output[Any]
    republish: Output[Any]
    mirror: Output[Any]
    sources: Output[list[Any] | None]
    consumer_limits: Output[Any]
    allow_msg_ttl: Output[bool | None]
    subject_delete_marker_ttl: Output[str | float | None]
    allow_msg_counter: Output[bool | None]
    allow_atomic: Output[bool | None]
    allow_batched: Output[bool | None]
    allow_msg_schedules: Output[bool | None]
    persist_mode: Output[inputs.StreamPersistMode | None]
    metadata: Output[dict[str, str] | None]
    prune: Output[bool | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.StreamArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class KeyValueBucket(Resource, arguments=inputs.KeyValueBucketArgs):
    """A key-value bucket.

    Its id is its address, `nats:TARGET/bucket/NAME`.
    """

    name: Output[str]
    target: Output[str | None]
    description: Output[str | None]
    ttl: Output[str | float | None]
    history: Output[int | None]
    max_bytes: Output[str | float | None]
    max_value_size: Output[str | float | None]
    storage: Output[inputs.StreamStorage | None]
    replicas: Output[int | None]
    placement: Output[Any]
    republish: Output[Any]
    mirror: Output[Any]
    sources: Output[list[Any] | None]
    compression: Output[inputs.StreamCompression | None]
    limit_marker_ttl: Output[str | float | None]
    allow_msg_ttl: Output[bool | None]
    allow_direct: Output[bool | None]
    allow_rollup_hdrs: Output[bool | None]
    metadata: Output[dict[str, str] | None]
    stream: Output[Any]
    keys: Output[list[str] | None]
    journal: Output[str | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.KeyValueBucketArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class ObjectStore(Resource, arguments=inputs.ObjectStoreArgs):
    """An object store.

    Its id is its address, `nats:TARGET/object_store/NAME`.
    """

    name: Output[str]
    target: Output[str | None]
    description: Output[str | None]
    ttl: Output[str | float | None]
    max_bytes: Output[str | float | None]
    storage: Output[inputs.StreamStorage | None]
    replicas: Output[int | None]
    placement: Output[Any]
    compression: Output[inputs.StreamCompression | None]
    metadata: Output[dict[str, str] | None]
    stream: Output[Any]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ObjectStoreArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Consumer(Resource, arguments=inputs.ConsumerArgs):
    """A durable consumer of a stream, pull or push.

    Its id is its address, `nats:TARGET/stream/STREAM/consumer/NAME`.
    """

    name: Output[str]
    stream: Output[str]
    target: Output[str | None]
    description: Output[str | None]
    deliver_policy: Output[inputs.ConsumerDeliverPolicy | None]
    opt_start_seq: Output[int | None]
    opt_start_time: Output[str | None]
    ack_policy: Output[inputs.ConsumerAckPolicy | None]
    ack_wait: Output[str | float | None]
    max_deliver: Output[int | None]
    backoff: Output[list[str | float] | None]
    filter_subject: Output[str | None]
    filter_subjects: Output[list[str] | None]
    replay_policy: Output[inputs.ConsumerReplayPolicy | None]
    rate_limit_bps: Output[int | None]
    sample_freq: Output[str | float | None]
    max_waiting: Output[int | None]
    max_ack_pending: Output[int | None]
    headers_only: Output[bool | None]
    max_batch: Output[int | None]
    max_expires: Output[str | float | None]
    max_bytes: Output[str | float | None]
    inactive_threshold: Output[str | float | None]
    replicas: Output[int | None]
    mem_storage: Output[bool | None]
    deliver_subject: Output[str | None]
    deliver_group: Output[str | None]
    idle_heartbeat: Output[str | float | None]
    flow_control: Output[bool | None]
    priority_policy: Output[inputs.ConsumerPriorityPolicy | None]
    priority_groups: Output[list[str] | None]
    priority_timeout: Output[str | float | None]
    pause_until: Output[str | None]
    metadata: Output[dict[str, str] | None]
    dead_letter: Output[str | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ConsumerArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class PostgresDatabase(Resource, arguments=inputs.PostgresDatabaseArgs):
    """The schemas of one database with all that is in them, its extensions and grants. There is one for each
    database, so that changes are ordered among each other.

    Its id is its address, `pg:TARGET`.
    """

    target: Output[str | None]
    schemas: Output[dict[str, Any] | None]
    extensions: Output[dict[str, Any] | None]
    grants: Output[list[Any] | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.PostgresDatabaseArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class PartitionSet(Resource, arguments=inputs.PartitionSetArgs):
    """How the partitions of a table that is partitioned by range roll on. The table itself says by what.

    Its id is its address, `pg:TARGET/SCHEMA/TABLE/partitions/set`.
    """

    schema: Output[str]
    table: Output[str]
    target: Output[str | None]
    every: Output[str]
    premake: Output[int | None]
    min_ahead: Output[int | None]
    retain: Output[str | None]
    on_expiry: Output[inputs.PartitionSetOnExpiry | None]
    start: Output[str | float | None]
    default: Output[bool | str | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.PartitionSetArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Role(Resource, arguments=inputs.RoleArgs):
    """A role of the server, with or without login.

    Its id is its address, `pg:TARGET/role/NAME`.
    """

    name: Output[str]
    target: Output[str | None]
    login: Output[bool | None]
    password: Output[Any]
    superuser: Output[bool | None]
    createdb: Output[bool | None]
    createrole: Output[bool | None]
    inherit: Output[bool | None]
    replication: Output[bool | None]
    bypassrls: Output[bool | None]
    connection_limit: Output[int | None]
    valid_until: Output[str | None]
    settings: Output[dict[str, Any] | None]
    comment: Output[str | None]
    renamed_from: Output[str | None]
    member_of: Output[list[Any] | None]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.RoleArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Pool(Resource, arguments=inputs.PoolArgs):
    """A pool of connections that an application keeps.

    Its id is its address, `plane:TARGET/pool/NAME`.
    """

    name: Output[str]
    target: Output[str | None]
    role: Output[str]
    endpoint: Output[str | None]
    database: Output[str | None]
    min: Output[int | None]
    max: Output[int | None]
    processes: Output[int | None]
    acquire_timeout: Output[str | float | None]
    idle_timeout: Output[str | float | None]
    max_lifetime: Output[str | float | None]
    test_before_acquire: Output[bool | None]
    statement_timeout: Output[str | float | None]
    idle_in_transaction_timeout: Output[str | float | None]
    application_name: Output[str | None]
    statement_cache_capacity: Output[int | None]
    recycling: Output[inputs.PoolRecycling | None]
    slow_query_threshold: Output[str | float | None]
    leak_detection: Output[bool | None]
    after_connect: Output[list[str] | None]
    mode: Output[inputs.PoolMode | None]
    pgbouncer: Output[bool | None]
    sizing: Output[Any]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.PoolArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Contract(Resource, arguments=inputs.ContractArgs):
    """What the runtime is told about the plane; it comes last and is made of the `part` of every other resource.

    Its id is its address, `plane:main/contract`.
    """

    parts: Output[dict[str, Any]]
    publishers: Output[dict[str, Any] | None]
    runtime: Output[Any]
    templates: Output[dict[str, Any] | None]
    address: Output[str]
    plan: Output[list[str]]
    content: Output[str]
    drift: Output[list[str] | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ContractArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Provider(ProviderResource, arguments=inputs.ProviderArgs):
    """One plane in one environment, with all its targets."""

    plane: Output[str]
    env: Output[str]
    root: Output[str | None]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ProviderArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)
