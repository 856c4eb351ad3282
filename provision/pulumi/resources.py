"""The resources of package holdfast as Python classes. What they take stands in ``inputs``."""

# Made by `make generate` from the package schema.
# ruff: noqa: UP007, UP045 - what older SDKs of Pulumi read at run time

from __future__ import annotations

from typing import Any, Optional, Union, Unpack

from pulumi import Output, ResourceOptions

from provision.pulumi import inputs
from provision.pulumi.custom import ProviderResource, Resource


class Stream(Resource, arguments=inputs.StreamArgs):
    """A stream: messages kept by subject.

    Its id is its address, `nats:TARGET/stream/NAME`.
    """

    name: Output[str]
    target: Output[Optional[str]]
    description: Output[Optional[str]]
    subjects: Output[Optional[list[str]]]
    retention: Output[Optional[inputs.StreamRetention]]
    storage: Output[Optional[inputs.StreamStorage]]
    max_age: Output[Optional[Union[str, float]]]
    max_bytes: Output[Optional[Union[str, float]]]
    max_msgs: Output[Optional[int]]
    max_msgs_per_subject: Output[Optional[int]]
    max_msg_size: Output[Optional[Union[str, float]]]
    max_consumers: Output[Optional[int]]
    replicas: Output[Optional[int]]
    placement: Output[Any]
    discard: Output[Optional[inputs.StreamDiscard]]
    discard_new_per_subject: Output[Optional[bool]]
    duplicate_window: Output[Optional[Union[str, float]]]
    no_ack: Output[Optional[bool]]
    sealed: Output[Optional[bool]]
    deny_delete: Output[Optional[bool]]
    deny_purge: Output[Optional[bool]]
    allow_rollup_hdrs: Output[Optional[bool]]
    allow_direct: Output[Optional[bool]]
    mirror_direct: Output[Optional[bool]]
    compression: Output[Optional[inputs.StreamCompression]]
    first_seq: Output[Optional[int]]
    subject_transform: Output[Any]
    republish: Output[Any]
    mirror: Output[Any]
    sources: Output[Optional[list[Any]]]
    consumer_limits: Output[Any]
    allow_msg_ttl: Output[Optional[bool]]
    subject_delete_marker_ttl: Output[Optional[Union[str, float]]]
    allow_msg_counter: Output[Optional[bool]]
    allow_atomic: Output[Optional[bool]]
    allow_batched: Output[Optional[bool]]
    allow_msg_schedules: Output[Optional[bool]]
    persist_mode: Output[Optional[inputs.StreamPersistMode]]
    metadata: Output[Optional[dict[str, str]]]
    prune: Output[Optional[bool]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.StreamArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class KeyValueBucket(Resource, arguments=inputs.KeyValueBucketArgs):
    """A key-value bucket.

    Its id is its address, `nats:TARGET/bucket/NAME`.
    """

    name: Output[str]
    target: Output[Optional[str]]
    description: Output[Optional[str]]
    ttl: Output[Optional[Union[str, float]]]
    history: Output[Optional[int]]
    max_bytes: Output[Optional[Union[str, float]]]
    max_value_size: Output[Optional[Union[str, float]]]
    storage: Output[Optional[inputs.StreamStorage]]
    replicas: Output[Optional[int]]
    placement: Output[Any]
    republish: Output[Any]
    mirror: Output[Any]
    sources: Output[Optional[list[Any]]]
    compression: Output[Optional[inputs.StreamCompression]]
    limit_marker_ttl: Output[Optional[Union[str, float]]]
    allow_msg_ttl: Output[Optional[bool]]
    allow_direct: Output[Optional[bool]]
    allow_rollup_hdrs: Output[Optional[bool]]
    metadata: Output[Optional[dict[str, str]]]
    stream: Output[Any]
    keys: Output[Optional[list[str]]]
    journal: Output[Optional[str]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.KeyValueBucketArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class ObjectStore(Resource, arguments=inputs.ObjectStoreArgs):
    """An object store.

    Its id is its address, `nats:TARGET/object_store/NAME`.
    """

    name: Output[str]
    target: Output[Optional[str]]
    description: Output[Optional[str]]
    ttl: Output[Optional[Union[str, float]]]
    max_bytes: Output[Optional[Union[str, float]]]
    storage: Output[Optional[inputs.StreamStorage]]
    replicas: Output[Optional[int]]
    placement: Output[Any]
    compression: Output[Optional[inputs.StreamCompression]]
    metadata: Output[Optional[dict[str, str]]]
    stream: Output[Any]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

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
    target: Output[Optional[str]]
    description: Output[Optional[str]]
    deliver_policy: Output[Optional[inputs.ConsumerDeliverPolicy]]
    opt_start_seq: Output[Optional[int]]
    opt_start_time: Output[Optional[str]]
    ack_policy: Output[Optional[inputs.ConsumerAckPolicy]]
    ack_wait: Output[Optional[Union[str, float]]]
    max_deliver: Output[Optional[int]]
    backoff: Output[Optional[list[Union[str, float]]]]
    filter_subject: Output[Optional[str]]
    filter_subjects: Output[Optional[list[str]]]
    replay_policy: Output[Optional[inputs.ConsumerReplayPolicy]]
    rate_limit_bps: Output[Optional[int]]
    sample_freq: Output[Optional[Union[str, float]]]
    max_waiting: Output[Optional[int]]
    max_ack_pending: Output[Optional[int]]
    headers_only: Output[Optional[bool]]
    max_batch: Output[Optional[int]]
    max_expires: Output[Optional[Union[str, float]]]
    max_bytes: Output[Optional[Union[str, float]]]
    inactive_threshold: Output[Optional[Union[str, float]]]
    replicas: Output[Optional[int]]
    mem_storage: Output[Optional[bool]]
    deliver_subject: Output[Optional[str]]
    deliver_group: Output[Optional[str]]
    idle_heartbeat: Output[Optional[Union[str, float]]]
    flow_control: Output[Optional[bool]]
    priority_policy: Output[Optional[inputs.ConsumerPriorityPolicy]]
    priority_groups: Output[Optional[list[str]]]
    priority_timeout: Output[Optional[Union[str, float]]]
    pause_until: Output[Optional[str]]
    metadata: Output[Optional[dict[str, str]]]
    dead_letter: Output[Optional[str]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ConsumerArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class PostgresDatabase(Resource, arguments=inputs.PostgresDatabaseArgs):
    """The schemas of one database with all that is in them, its extensions and grants. There is one for each
    database, so that changes are ordered among each other.

    Its id is its address, `pg:TARGET`.
    """

    target: Output[Optional[str]]
    schemas: Output[Optional[dict[str, Any]]]
    extensions: Output[Optional[dict[str, Any]]]
    grants: Output[Optional[list[Any]]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

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
    target: Output[Optional[str]]
    by: Output[Optional[inputs.PartitionStrategy]]
    key: Output[Any]
    every: Output[str]
    premake: Output[Optional[int]]
    min_ahead: Output[Optional[int]]
    retain: Output[Optional[str]]
    on_expiry: Output[Optional[inputs.PartitionSetOnExpiry]]
    start: Output[Optional[Union[str, float]]]
    default: Output[Optional[Union[bool, str]]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.PartitionSetArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Role(Resource, arguments=inputs.RoleArgs):
    """A role of the server, with or without login.

    Its id is its address, `pg:TARGET/role/NAME`.
    """

    name: Output[str]
    target: Output[Optional[str]]
    login: Output[Optional[bool]]
    password: Output[Any]
    superuser: Output[Optional[bool]]
    createdb: Output[Optional[bool]]
    createrole: Output[Optional[bool]]
    inherit: Output[Optional[bool]]
    replication: Output[Optional[bool]]
    bypassrls: Output[Optional[bool]]
    connection_limit: Output[Optional[int]]
    valid_until: Output[Optional[str]]
    settings: Output[Optional[dict[str, Any]]]
    comment: Output[Optional[str]]
    renamed_from: Output[Optional[str]]
    member_of: Output[Optional[list[Any]]]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.RoleArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Pool(Resource, arguments=inputs.PoolArgs):
    """A pool of connections that an application keeps.

    Its id is its address, `plane:TARGET/pool/NAME`.
    """

    name: Output[str]
    target: Output[Optional[str]]
    role: Output[str]
    endpoint: Output[Optional[str]]
    database: Output[Optional[str]]
    min: Output[Optional[int]]
    max: Output[Optional[int]]
    processes: Output[Optional[int]]
    acquire_timeout: Output[Optional[Union[str, float]]]
    idle_timeout: Output[Optional[Union[str, float]]]
    max_lifetime: Output[Optional[Union[str, float]]]
    test_before_acquire: Output[Optional[bool]]
    statement_timeout: Output[Optional[Union[str, float]]]
    idle_in_transaction_timeout: Output[Optional[Union[str, float]]]
    application_name: Output[Optional[str]]
    statement_cache_capacity: Output[Optional[int]]
    recycling: Output[Optional[inputs.PoolRecycling]]
    slow_query_threshold: Output[Optional[Union[str, float]]]
    leak_detection: Output[Optional[bool]]
    after_connect: Output[Optional[list[str]]]
    mode: Output[Optional[inputs.PoolMode]]
    pgbouncer: Output[Optional[bool]]
    sizing: Output[Any]
    address: Output[str]
    part: Output[Any]
    plan: Output[list[str]]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.PoolArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Contract(Resource, arguments=inputs.ContractArgs):
    """What the runtime is told about the plane; it comes last and is made of the `part` of every other resource.

    Its id is its address, `plane:main/contract`.
    """

    parts: Output[dict[str, Any]]
    targets: Output[Optional[dict[str, Any]]]
    publishers: Output[Optional[dict[str, Any]]]
    runtime: Output[Any]
    templates: Output[Optional[dict[str, Any]]]
    address: Output[str]
    plan: Output[list[str]]
    content: Output[str]
    drift: Output[Optional[list[str]]]
    imported: Output[Optional[bool]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ContractArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)


class Provider(ProviderResource, arguments=inputs.ProviderArgs):
    """One plane in one environment, with all its targets."""

    plane: Output[str]
    env: Output[str]
    root: Output[Optional[str]]

    def __init__(
        self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.ProviderArgs]
    ) -> None:
        super().__init__(resource_name, opts, **arguments)
