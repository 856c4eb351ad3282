"""The provider and its targets."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from pulumi import Input

from provision.pulumi.inputs.databases import SecretReference

TargetKind = Literal["embedded", "external", "kubernetes"]


class NatsTargetTls(TypedDict, total=False):
    """Certificates."""

    ca: Input[str]
    """Path of the certificate authority's certificate."""
    cert: Input[str]
    """Path of the client certificate."""
    key: Input[str | SecretReference]
    """Path of the client key, or a reference to that path."""


class NatsTargetSystem(TypedDict, total=False):
    """A user of the system account; with it plan looks at the servers' tags."""

    creds: Input[str | SecretReference]
    """Path of a credentials file, or a reference to that path."""
    user: Input[str | SecretReference]
    """User name."""
    password: Input[SecretReference]
    """Password of the user."""
    nkey: Input[SecretReference]
    """Seed of an NKey."""


class NatsTargetAccountLimits(TypedDict, total=False):
    """JetStream limits of the account."""

    max_memory: Input[str | int]
    """Memory storage of the account. A size such as `10GiB`, or a number of bytes."""
    max_storage: Input[str | int]
    """File storage of the account. A size such as `10GiB`, or a number of bytes."""
    max_streams: Input[int]
    """Streams of the account."""
    max_consumers: Input[int]
    """Consumers of the account."""
    max_ack_pending: Input[int]
    """Largest max_ack_pending of a consumer."""
    max_bytes_required: Input[bool]
    """Whether each stream must set max_bytes."""


class NatsTargetKubernetesClient(TypedDict, total=False):
    """Pods that may connect; unset is every pod of the namespace."""

    namespace: Input[str]
    """Namespace of the pods; unset is the target's own."""
    namespace_labels: Input[Mapping[str, Input[str]]]
    """Labels of the namespaces of the pods, in place of one name."""
    pods: Input[Mapping[str, Input[str]]]
    """Labels of the pods; unset is every pod there."""


class NatsTargetKubernetesTls(TypedDict, total=False):
    """Certificates of the servers."""

    secret: Required[Input[str]]
    """Secret with tls.crt, tls.key and ca.crt, for NAME.NAMESPACE.svc and *.NAME-headless."""
    verify: Input[bool]
    """Whether clients too must show a certificate of this authority. Default: `false`."""


class NatsTargetKubernetesAuth(TypedDict, total=False):
    """Who may do what."""

    secret: Required[Input[str]]
    """Secret with a part of nats.conf: accounts, their users, system_account."""
    key: Input[str]
    """Its key. Default: `auth.conf`."""


class NatsTargetKubernetes(TypedDict, total=False):
    """What runs there; for kind kubernetes."""

    namespace: Input[str]
    """Namespace, which must exist. Default: `default`."""
    name: Input[str]
    """Name of the StatefulSet and the Service; unset is the cluster's name, else nats."""
    image: Input[str]
    """Image of the servers."""
    pull_secrets: Input[Sequence[Input[str]]]
    """Secrets to pull images with."""
    storage_class: Input[str]
    """StorageClass of the volumes; unset is the default one of Kubernetes."""
    cpu: Input[str | float]
    """Processors of one server: 2, 0.5 or 500m."""
    memory: Input[str | int]
    """Memory of one server, its limit too. A size such as `10GiB`, or a number of bytes."""
    topology_key: Input[str]
    """Label of nodes whose values the servers are spread over; two never share a node. Default:
    `kubernetes.io/hostname`."""
    clients: Input[Sequence[Input[NatsTargetKubernetesClient]]]
    """Pods that may connect; unset is every pod of the namespace."""
    monitoring: Input[Sequence[Input[NatsTargetKubernetesClient]]]
    """Pods that may read the metrics port."""
    storage: Input[str | int]
    """Volume of one server; unset is what max_file_store needs. A size such as `10GiB`, or a number of bytes."""
    tls: Input[NatsTargetKubernetesTls]
    """Certificates of the servers."""
    auth: Input[NatsTargetKubernetesAuth]
    """Who may do what."""
    sync_interval: Input[str | int]
    """When a write is on the disk: always before it is acknowledged, or within an interval that a power failure can
    take back. Default: `always`."""


class NatsTarget(TypedDict, total=False):
    """NATS targets by name; main is the default."""

    kind: Required[Input[TargetKind]]
    """Who runs the servers."""
    urls: Input[str | Sequence[Input[str]] | SecretReference]
    """Where to connect: a URL, a list of them, or a reference."""
    creds: Input[str | SecretReference]
    """Path of a credentials file, or a reference to that path."""
    user: Input[str | SecretReference]
    """User name."""
    password: Input[SecretReference]
    """Password of the user."""
    token: Input[SecretReference]
    """Token."""
    nkey: Input[SecretReference]
    """Seed of an NKey."""
    tls: Input[NatsTargetTls]
    """Certificates."""
    system: Input[NatsTargetSystem]
    """A user of the system account; with it plan looks at the servers' tags."""
    servers: Input[int]
    """How many servers the cluster has."""
    cluster: Input[str]
    """Name of the cluster."""
    tags: Input[Sequence[Input[str]] | Sequence[Input[Sequence[Input[str]]]]]
    """Server tags: a list that every server has, or one list for each server."""
    max_payload: Input[str | int]
    """Largest message the servers take. A size such as `10GiB`, or a number of bytes."""
    max_file_store: Input[str | int]
    """File storage of one server. A size such as `10GiB`, or a number of bytes."""
    max_memory_store: Input[str | int]
    """Memory storage of one server. A size such as `10GiB`, or a number of bytes."""
    max_duplicate_window: Input[str | int]
    """Largest duplicate_window the account allows. A duration such as `30s`."""
    version: Input[str | int]
    """Version of the servers."""
    domain: Input[str]
    """JetStream domain."""
    account_limits: Input[NatsTargetAccountLimits]
    """JetStream limits of the account."""
    kubernetes: Input[NatsTargetKubernetes]
    """What runs there; for kind kubernetes."""


PostgresTargetForm = Literal["local", "compose", "kubernetes", "cloud"]


class PostgresTargetEndpoint(TypedDict, total=False):
    """Further names for hosts: primary, replica, …"""

    host: Required[Input[str]]
    """Host name, address, or folder of a Unix socket."""
    port: Input[int]
    """TCP port. Default: `5432`."""


PostgresTargetMode = Literal["direct", "pooled"]
PostgresTargetTlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


class PostgresTargetTls(TypedDict, total=False):
    """Certificates and sslmode."""

    ca: Input[str | SecretReference]
    """Path of the certificate authority's certificate."""
    cert: Input[str]
    """Path of the client certificate."""
    key: Input[str]
    """Path of the client key."""
    mode: Input[PostgresTargetTlsMode]
    """libpq's sslmode."""


class PostgresTargetKubernetesDeployer(TypedDict, total=False):
    """The role that holdfast works as."""

    name: Required[Input[str]]
    """The role that plan and apply connect as."""
    secret: Required[Input[str]]
    """Secret with its username and password (kubernetes.io/basic-auth)."""


PostgresTargetKubernetesBackupMethod = Literal["plugin", "volumeSnapshot"]


class PostgresTargetKubernetesBackup(TypedDict, total=False):
    """Scheduled base backups."""

    schedule: Required[Input[str]]
    """When: second, minute, hour, day of month, month, day of week."""
    method: Input[PostgresTargetKubernetesBackupMethod]
    """How a base backup is taken. Default: `plugin`."""
    plugin: Input[str]
    """Name of the plugin. Default: `barman-cloud.cloudnative-pg.io`."""
    parameters: Input[Mapping[str, Input[str | float | bool]]]
    """Parameters of the plugin, such as barmanObjectName."""
    snapshot_class: Input[str]
    """VolumeSnapshotClass, for method volumeSnapshot."""
    retention: Input[str]
    """How long backups are kept: 30d, 12w, 12m."""


class PostgresTargetKubernetesPoolers(TypedDict, total=False):
    """PgBouncer for the pools that want it. Default: `{'instances': 2, 'image': None, 'cpu': None, 'memory': None}`."""

    instances: Input[int]
    """Pods of each Pooler. Default: `2`."""
    image: Input[str]
    """Image of PgBouncer."""
    cpu: Input[str | float]
    """Processors of one pod."""
    memory: Input[str | int]
    """Memory of one pod, its limit too. A size such as `10GiB`, or a number of bytes."""


class PostgresTargetKubernetesMaintenance(TypedDict, total=False):
    """The CronJob that keeps partitions ahead."""

    schedule: Input[str]
    """When: minute, hour, day of month, month, day of week, in UTC. Default: `17 * * * *`."""
    image: Required[Input[str]]
    """Image with holdfast."""
    secret: Input[str]
    """Secret whose keys are the variables that the specs refer to."""
    archive: Input[str]
    """PersistentVolumeClaim for archived partitions; it outlives the plane."""


class PostgresTargetKubernetes(TypedDict, total=False):
    """What runs there; for kind kubernetes."""

    namespace: Input[str]
    """Namespace, which must exist. Default: `default`."""
    name: Input[str]
    """Name of the Cluster; unset is postgres."""
    image: Input[str]
    """Image of the servers."""
    pull_secrets: Input[Sequence[Input[str]]]
    """Secrets to pull images with."""
    storage_class: Input[str]
    """StorageClass of the volumes; unset is the default one of Kubernetes."""
    cpu: Input[str | float]
    """Processors of one server: 2, 0.5 or 500m."""
    memory: Input[str | int]
    """Memory of one server, its limit too. A size such as `10GiB`, or a number of bytes."""
    topology_key: Input[str]
    """Label of nodes whose values the servers are spread over; two never share a node. Default:
    `kubernetes.io/hostname`."""
    clients: Input[Sequence[Input[NatsTargetKubernetesClient]]]
    """Pods that may connect; unset is every pod of the namespace."""
    monitoring: Input[Sequence[Input[NatsTargetKubernetesClient]]]
    """Pods that may read the metrics port."""
    instances: Input[int]
    """Servers: a primary and its replicas. Default: `3`."""
    storage: Input[str | int]
    """Volume of one server. A size such as `10GiB`, or a number of bytes."""
    wal_storage: Input[str | int]
    """Volume of its own for the write-ahead log of one server. A size such as `10GiB`, or a number of bytes."""
    parameters: Input[Mapping[str, Input[str | float | bool]]]
    """Settings of the server that win over ours."""
    superuser_secret: Input[str]
    """Secret of the superuser; unset allows nobody in as superuser."""
    deployer: Input[PostgresTargetKubernetesDeployer]
    """The role that holdfast works as."""
    backup: Input[PostgresTargetKubernetesBackup]
    """Scheduled base backups."""
    poolers: Input[PostgresTargetKubernetesPoolers]
    """PgBouncer for the pools that want it. Default: `{'instances': 2, 'image': None, 'cpu': None, 'memory': None}`."""
    maintenance: Input[PostgresTargetKubernetesMaintenance]
    """The CronJob that keeps partitions ahead."""


class PostgresTarget(TypedDict, total=False):
    """PostgreSQL targets by name; main is the default."""

    kind: Required[Input[TargetKind]]
    """Who runs the server."""
    form: Input[PostgresTargetForm]
    """Shape of the connection: decides host and TLS."""
    dsn: Input[str | SecretReference]
    """Connection string, or a reference to one. It must not hold a password as text."""
    host: Input[str]
    """Host of the primary, or folder of its Unix socket."""
    port: Input[int]
    """Port of the primary."""
    endpoints: Input[Mapping[str, Input[str | PostgresTargetEndpoint | SecretReference]]]
    """Further names for hosts: primary, replica, …"""
    service: Input[str]
    """Name of the service (compose, kubernetes)."""
    namespace: Input[str]
    """Namespace of the service (kubernetes)."""
    user: Input[str | SecretReference]
    """Role that plan and apply connect as."""
    password: Input[SecretReference]
    """Its password."""
    database: Input[str]
    """Database of the plane."""
    connect_timeout: Input[str | int]
    """How long a connection may take. A duration such as `30s`. Default: `10s`."""
    max_connections: Input[int]
    """max_connections of the server."""
    version: Input[str | int]
    """Version of the server."""
    extensions: Input[Sequence[Input[str]]]
    """Extensions that can be created there."""
    mode: Input[PostgresTargetMode]
    """Whether a transaction pooler stands in between. Default: `direct`."""
    tls: Input[PostgresTargetTls]
    """Certificates and sslmode."""
    kubernetes: Input[PostgresTargetKubernetes]
    """What runs there; for kind kubernetes."""


class Targets(TypedDict, total=False):
    """The servers of a plane."""

    nats: Input[Mapping[str, Input[NatsTarget]]]
    """NATS targets by name; main is the default."""
    postgres: Input[Mapping[str, Input[PostgresTarget]]]
    """PostgreSQL targets by name; main is the default."""


class ProviderArgs(TypedDict, total=False):
    """The Provider: One plane in one environment, with all its targets."""

    plane: Required[Input[str]]
    """Name of the plane."""
    env: Required[Input[str]]
    """Name of the environment."""
    root: Input[str] | None
    """The folder that relative paths start from, the program's where nothing is said."""
    targets: Input[Targets] | None
    """The servers of the plane, as an environment declares them."""
    allow: Input[Sequence[Input[str]]] | None
    """Consents, such as `data_loss:pg:main/agents/state`."""
    secrets: Input[Mapping[str, Input[str]]] | None
    """Values of `{env: NAME}` references, for variables that the environment lacks."""
