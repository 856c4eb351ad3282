"""Tables with all that belongs to them."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from pulumi import Input

ReplicaIdentity = Literal["default", "full", "nothing"]


class TableReplicaIdentity(TypedDict, total=False):
    """What logical replication tells of old rows. Default: `default`."""

    index: Required[Input[str]]
    """A unique index over NOT NULL columns."""


class TableRowSecurity(TypedDict, total=False):
    """Row-level security; its policies stand under policies."""

    enabled: Input[bool]
    """Policies apply to everybody but the owner. Default: `false`."""
    force: Input[bool]
    """Policies apply to the owner too. Default: `false`."""


IdentityGeneration = Literal["always", "by_default"]


class ColumnIdentity(TypedDict, total=False):
    """Values come from a sequence of the column."""

    generation: Required[Input[IdentityGeneration]]
    """Whether INSERT may give a value."""
    start: Input[int]
    """The first value."""
    increment: Input[int]
    """The step between values. Default: `1`."""
    min: Input[int]
    """The smallest value."""
    max: Input[int]
    """The largest value."""
    cache: Input[int]
    """How many values a session takes at once. Default: `1`."""
    cycle: Input[bool]
    """Start over at the end. Default: `false`."""


class ColumnGenerated(TypedDict, total=False):
    """The value is computed from other columns."""

    expression: Required[Input[str]]
    """SQL over other columns of the row."""
    stored: Input[bool]
    """Kept on disk, or computed on reading (PostgreSQL 18). Default: `true`."""


ColumnStorage = Literal["plain", "external", "extended", "main"]
ColumnCompression = Literal["pglz", "lz4", "default"]


class ColumnOptions(TypedDict, total=False):
    """Planner options."""

    n_distinct: Input[float]
    """Assumed number of distinct values; negative is a share of the rows."""
    n_distinct_inherited: Input[float]
    """The same for a table together with its children."""


class Column(TypedDict, total=False):
    """A column of a table."""

    type: Required[Input[str]]
    """The data type; types that are not built in name their schema."""
    nullable: Input[bool]
    """Whether NULL is allowed; columns of the primary key never are. Default: `true`."""
    default: Input[str | float | bool]
    """SQL expression for rows that give no value."""
    identity: Input[IdentityGeneration | ColumnIdentity]
    """Values come from a sequence of the column."""
    generated: Input[str | ColumnGenerated]
    """The value is computed from other columns."""
    collation: Input[str]
    """Another sort order than the type's."""
    storage: Input[ColumnStorage]
    """How large values are kept (TOAST); without it, as the type says."""
    compression: Input[ColumnCompression]
    """How large values are compressed."""
    statistics: Input[int]
    """Detail of the statistics that ANALYZE collects."""
    options: Input[ColumnOptions]
    """Planner options."""
    comment: Input[str]
    """The comment stored with the column."""
    renamed_from: Input[str]
    """The object's former name."""


class PrimaryKey(TypedDict, total=False):
    """The primary key of a table."""

    name: Input[str]
    """The constraint's name; without it, TABLE_pkey."""
    columns: Required[Input[Sequence[Input[str]]]]
    """The columns that together are unique."""
    include: Input[Sequence[Input[str]]]
    """Further columns kept in the index only."""
    deferrable: Input[bool]
    """Whether the check can wait for the end of the transaction. Default: `false`."""
    initially_deferred: Input[bool]
    """Whether the check waits unless told otherwise. Default: `false`."""
    without_overlaps: Input[bool]
    """The last column is a range that must not overlap. Default: `false`. Since PostgreSQL 18."""
    storage: Input[Mapping[str, Input[float | bool | str]]]
    """Storage parameters of the index, e.g. fillfactor."""
    tablespace: Input[str]
    """Where the index is kept; without it, the database's tablespace."""
    clustered: Input[bool]
    """CLUSTER without an index name sorts the table by this one. Default: `false`."""
    comment: Input[str]
    """The comment stored with the constraint."""


class Unique(TypedDict, total=False):
    """A unique constraint."""

    columns: Required[Input[Sequence[Input[str]]]]
    """The columns that together are unique."""
    include: Input[Sequence[Input[str]]]
    """Further columns kept in the index only."""
    deferrable: Input[bool]
    """Whether the check can wait for the end of the transaction. Default: `false`."""
    initially_deferred: Input[bool]
    """Whether the check waits unless told otherwise. Default: `false`."""
    without_overlaps: Input[bool]
    """The last column is a range that must not overlap. Default: `false`. Since PostgreSQL 18."""
    storage: Input[Mapping[str, Input[float | bool | str]]]
    """Storage parameters of the index, e.g. fillfactor."""
    tablespace: Input[str]
    """Where the index is kept; without it, the database's tablespace."""
    clustered: Input[bool]
    """CLUSTER without an index name sorts the table by this one. Default: `false`."""
    comment: Input[str]
    """The comment stored with the constraint."""
    nulls_not_distinct: Input[bool]
    """Whether two NULLs count as equal. Default: `false`."""


ForeignKeyAction = Literal["no_action", "restrict", "cascade", "set_null", "set_default"]
ForeignKeyMatch = Literal["simple", "full"]


class ForeignKey(TypedDict, total=False):
    """A foreign key."""

    columns: Required[Input[Sequence[Input[str]]]]
    """The columns that refer."""
    references: Required[Input[str]]
    """The table referred to, as schema.table."""
    referenced_columns: Input[Sequence[Input[str]]]
    """The key referred to; without it, the table's primary key."""
    on_delete: Input[ForeignKeyAction]
    """What happens when the referenced row is deleted. Default: `no_action`."""
    on_update: Input[ForeignKeyAction]
    """What happens when the referenced key changes. Default: `no_action`."""
    match: Input[ForeignKeyMatch]
    """Whether a partly NULL reference is allowed. Default: `simple`."""
    deferrable: Input[bool]
    """Whether the check can wait for the end of the transaction. Default: `false`."""
    initially_deferred: Input[bool]
    """Whether the check waits unless told otherwise. Default: `false`."""
    on_delete_columns: Input[Sequence[Input[str]]]
    """The columns that on_delete sets; without it, all of them."""
    period: Input[bool]
    """The last column is a range covered over time. Default: `false`. Since PostgreSQL 18."""
    enforced: Input[bool]
    """Whether new rows are checked. Default: `true`. Since PostgreSQL 18."""
    validated: Input[bool]
    """Whether the rows that existed before are proven too. Default: `true`."""
    comment: Input[str]
    """The comment stored with the constraint."""


class Check(TypedDict, total=False):
    """A check constraint."""

    expression: Required[Input[str]]
    """SQL condition; rows for which it is false are refused."""
    no_inherit: Input[bool]
    """Not passed on to tables that inherit from this one. Default: `false`."""
    enforced: Input[bool]
    """Whether new rows are checked. Default: `true`. Since PostgreSQL 18."""
    validated: Input[bool]
    """Whether the rows that existed before are proven too. Default: `true`."""
    comment: Input[str]
    """The comment stored with the constraint."""


IndexColumnOrder = Literal["asc", "desc"]
IndexColumnNulls = Literal["first", "last"]


class IndexColumn(TypedDict, total=False):
    """By name: An index."""

    column: Input[str]
    """A column of the table."""
    expression: Input[str]
    """SQL over columns of the row, instead of a column."""
    order: Input[IndexColumnOrder]
    """Ascending or descending."""
    nulls: Input[IndexColumnNulls]
    """Where NULLs go; last when ascending, first when descending."""
    opclass: Input[str]
    """The operator class, if not the type's own, e.g. public.vector_cosine_ops."""
    opclass_params: Input[Mapping[str, Input[float | bool | str]]]
    """Parameters of the operator class."""
    collation: Input[str]
    """Another sort order than the column's."""


class Index(TypedDict, total=False):
    """An index."""

    columns: Required[Input[Sequence[Input[str | IndexColumn]]]]
    """Columns or SQL expressions, each alone or with options."""
    method: Input[str]
    """The access method: btree, gin, gist, brin, hash, hnsw, ivfflat … Default: `btree`."""
    unique: Input[bool]
    """Whether two rows may be equal in it. Default: `false`."""
    nulls_not_distinct: Input[bool]
    """Whether two NULLs count as equal. Default: `false`."""
    include: Input[Sequence[Input[str]]]
    """Further columns kept in the index only."""
    where: Input[str]
    """Only rows that meet this condition are indexed."""
    storage: Input[Mapping[str, Input[float | bool | str]]]
    """Storage parameters: fillfactor, fastupdate, lists, m, ef_construction …"""
    tablespace: Input[str]
    """Where the index is kept; without it, the database's tablespace."""
    statistics: Input[Mapping[str, Input[int]]]
    """Detail of the statistics of expressions, by their number counted from 1."""
    clustered: Input[bool]
    """CLUSTER without an index name sorts the table by this one. Default: `false`."""
    comment: Input[str]
    """The comment stored with the index."""


PartitionStrategy = Literal["hash", "list", "range"]


class Partitions(TypedDict, total=False):
    """The partitioning of a table; its partitions follow from it."""

    by: Required[Input[PartitionStrategy]]
    """How rows are assigned to partitions."""
    key: Required[Input[str | Sequence[Input[str]]]]
    """The columns or SQL expressions that decide."""
    modulus: Input[int]
    """hash: how many partitions; they are named TABLE_0, TABLE_1 and so on."""
    values: Input[Mapping[str, Input[Sequence[Input[str | float | bool]]]]]
    """list: the values of each partition, by the end of its name."""
    default: Input[bool | str]
    """A partition for rows that no other takes; false refuses one, unset leaves it alone."""


PolicyFor = Literal["all", "select", "insert", "update", "delete"]
#: A policy of row security.
Policy = TypedDict(
    "Policy",
    {
        # The commands it covers. Default: `all`.
        "for": Input[PolicyFor],
        # The roles it covers; 'public' is everybody. Default: `['public']`.
        "to": Input[Sequence[Input[str]]],
        # Condition for rows to be seen, updated or deleted.
        "using": Input[str],
        # Condition for rows to be written; without it, the condition of using.
        "with_check": Input[str],
        # Combined with OR; restrictive ones with AND. Default: `true`.
        "permissive": Input[bool],
        # The comment stored with the object.
        "comment": Input[str],
        # The object's former name.
        "renamed_from": Input[str],
    },
    total=False,
)
TriggerTiming = Literal["before", "after", "instead_of"]
TriggerForEach = Literal["row", "statement"]


class TriggerReferencing(TypedDict, total=False):
    """Names of the transition tables."""

    old: Input[str]
    """Name of the table of old rows."""
    new: Input[str]
    """Name of the table of new rows."""


TriggerEnabled = Literal["origin", "disabled", "replica", "always"]


class Trigger(TypedDict, total=False):
    """A trigger."""

    timing: Required[Input[TriggerTiming]]
    """When it fires."""
    events: Required[Input[Sequence[Input[str]]]]
    """insert, update, 'update of column, …', delete, truncate."""
    for_each: Input[TriggerForEach]
    """How often it fires. Default: `statement`."""
    when: Input[str]
    """Condition on OLD and NEW under which it fires."""
    function: Required[Input[str]]
    """The trigger function, schema.name."""
    arguments: Input[Sequence[Input[str]]]
    """Strings handed to the function."""
    referencing: Input[TriggerReferencing]
    """Names of the transition tables."""
    constraint: Input[bool]
    """A constraint trigger, whose time can be deferred. Default: `false`."""
    from_table: Input[str]
    """The other table of a constraint trigger, schema.name."""
    deferrable: Input[bool]
    """May be deferred to the end of the transaction. Default: `false`."""
    initially_deferred: Input[bool]
    """Is deferred unless told otherwise. Default: `false`."""
    enabled: Input[TriggerEnabled]
    """In which sessions it fires (session_replication_role). Default: `origin`."""
    comment: Input[str]
    """The comment stored with the object."""
    renamed_from: Input[str]
    """The object's former name."""


class ObjectGrant(TypedDict, total=False):
    """Who may do what with the object: role to privileges; 'public' is everybody."""

    privileges: Required[Input[Sequence[Input[str]]]]
    """What the role may do; [] takes away what PUBLIC has unasked."""
    grantable: Input[bool | Sequence[Input[str]]]
    """The part of it that the role may pass on."""


class Table(TypedDict, total=False):
    """A table, with what belongs to it."""

    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    unlogged: Input[bool]
    """Not written to the log: fast, and empty after a crash. Default: `false`."""
    replica_identity: Input[ReplicaIdentity | TableReplicaIdentity]
    """What logical replication tells of old rows. Default: `default`."""
    storage: Input[Mapping[str, Input[float | bool | str]]]
    """Storage parameters, among them autovacuum_*; of a partitioned table they are set on the partitions."""
    row_security: Input[bool | TableRowSecurity]
    """Row-level security; its policies stand under policies."""
    tablespace: Input[str]
    """Where the table is kept; without it, the database's tablespace."""
    access_method: Input[str]
    """The table access method; without it, heap."""
    touch: Input[str]
    """The column that says when a row was last changed; kept by a trigger or the writer."""
    writer_touches: Input[bool]
    """Whoever writes the row sets the touch column. Default: `false`."""
    access_orders: Input[Mapping[str, Input[Sequence[Input[str]]]]]
    """Orders in which the application reads rows; check wants an index for each."""
    prune: Input[bool]
    """Drop undeclared parts of the table, each with a consent. Default: `false`."""
    renamed_from: Input[str]
    """The object's former name."""
    columns: Required[Input[Mapping[str, Input[Column]]]]
    """By name: A column of a table."""
    primary_key: Input[Sequence[Input[str]] | PrimaryKey]
    """The primary key of a table."""
    unique: Input[Mapping[str, Input[Sequence[Input[str]] | Unique]]]
    """By name: A unique constraint."""
    foreign_keys: Input[Mapping[str, Input[ForeignKey]]]
    """By name: A foreign key."""
    checks: Input[Mapping[str, Input[str | Check]]]
    """By name: A check constraint."""
    indexes: Input[Mapping[str, Input[Sequence[Input[str | IndexColumn]] | Index]]]
    """By name: An index."""
    partitions: Input[Partitions]
    """The partitioning of a table; its partitions follow from it."""
    policies: Input[Mapping[str, Input[Policy]]]
    """By name: A policy of row security."""
    triggers: Input[Mapping[str, Input[Trigger]]]
    """By name: A trigger."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""
    column_order: Input[Sequence[Input[str]]]
    """The columns in the order in which a new table gets them: engines sort the keys of mappings."""


PartitionSetOnExpiry = Literal["drop", "detach", "archive"]


class PartitionSetArgs(TypedDict, total=False):
    """What makes a PartitionSet: How the partitions of a table that is partitioned by range roll on. The table
    itself says by what."""

    schema: Required[Input[str]]
    """The schema of the table."""
    table: Required[Input[str]]
    """The partitioned table."""
    target: Input[str] | None
    """The target it lives on, main where nothing is said."""
    by: Input[PartitionStrategy] | None
    """How rows are assigned to partitions."""
    key: Input[str | Sequence[Input[str]]] | None
    """The columns or SQL expressions that decide."""
    every: Required[Input[str]]
    """range: what one partition holds, counted in UTC, or in whole numbers. An interval such as `1 day`."""
    premake: Input[int] | None
    """range: how many partitions after the current one are made. Default: `7`."""
    min_ahead: Input[int] | None
    """range: how many of them must be there; half of premake, rounded up."""
    retain: Input[str] | None
    """range: how long rows are kept; without it, for ever. An interval such as `1 day`."""
    on_expiry: Input[PartitionSetOnExpiry] | None
    """range: what happens then. Default: `drop`."""
    start: Input[str | int] | None
    """range: where the first partition begins; without it, one interval before now."""
    default: Input[bool | str] | None
    """A partition for rows that no other takes; false refuses one, unset leaves it alone."""
