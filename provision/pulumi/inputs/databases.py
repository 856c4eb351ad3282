"""What else a database holds, and its roles."""

# Made by `make generate` from the package schema.

from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypedDict

from pulumi import Input

from provision.pulumi.inputs.tables import ObjectGrant, Table, Trigger

SchemaManaged = Literal["declarative", "migrations"]


class Enum(TypedDict, total=False):
    """An enumerated type."""

    values: Required[Input[Sequence[Input[str]]]]
    """The labels in their sort order."""
    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    renamed_from: Input[str]
    """The object's former name."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""


class Domain(TypedDict, total=False):
    """A domain: a type with a rule."""

    type: Required[Input[str]]
    """The base type."""
    nullable: Input[bool]
    """Whether NULL is a value of the domain. Default: `true`."""
    default: Input[str | float | bool]
    """The default of columns of the domain that have none."""
    collation: Input[str]
    """Another collation than the base type's."""
    checks: Input[Mapping[str, Input[str]]]
    """Named conditions on VALUE."""
    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    renamed_from: Input[str]
    """The object's former name."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""


FunctionArgumentMode = Literal["in", "out", "inout", "variadic"]


class FunctionArgument(TypedDict, total=False):
    """What callers pass and get."""

    name: Input[str]
    """The argument's name."""
    type: Required[Input[str]]
    """Its type; modifiers such as a length are not kept."""
    mode: Input[FunctionArgumentMode]
    """Its direction. Default: `in`."""
    default: Input[str]
    """SQL expression for callers that leave it out."""


FunctionVolatility = Literal["immutable", "stable", "volatile"]
FunctionSecurity = Literal["invoker", "definer"]
FunctionParallel = Literal["unsafe", "restricted", "safe"]


class Function(TypedDict, total=False):
    """A function or procedure."""

    arguments: Input[Sequence[Input[FunctionArgument]]]
    """What callers pass and get."""
    returns: Input[str]
    """A type, 'setof TYPE', 'table(name type, …)' or 'trigger'."""
    language: Input[str]
    """The language of the body. Default: `sql`."""
    procedure: Input[bool]
    """A procedure: called, returns nothing, may commit. Default: `false`."""
    window: Input[bool]
    """A window function (language c only). Default: `false`."""
    volatility: Input[FunctionVolatility]
    """What the planner may assume. Default: `volatile`."""
    strict: Input[bool]
    """NULL for any NULL argument, without a call. Default: `false`."""
    security: Input[FunctionSecurity]
    """Whose rights it runs with. Default: `invoker`."""
    parallel: Input[FunctionParallel]
    """Whether workers may run it. Default: `unsafe`."""
    leakproof: Input[bool]
    """Shows nothing of its arguments but the result. Default: `false`."""
    cost: Input[float]
    """Estimated cost; by default 100, for c and internal 1."""
    rows: Input[float]
    """Estimated rows of a set; by default 1000."""
    set: Input[Mapping[str, Input[str | float | bool | Sequence[Input[str]]]]]
    """Server settings while it runs."""
    support: Input[str]
    """Planner support function, schema.name."""
    library: Input[str]
    """The object file of a function in c; the body is then its link symbol."""
    body: Input[str]
    """The body, stored as it is written."""
    sql_body: Input[str]
    """A body that is parsed when created: BEGIN ATOMIC … END or RETURN …."""
    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""


ViewOptionsCheckOption = Literal["local", "cascaded"]


class ViewOptions(TypedDict, total=False):
    """Options of the view."""

    security_invoker: Input[bool]
    """Check rights and policies of the caller, not the owner. Default: `false`."""
    security_barrier: Input[bool]
    """Keep leaky conditions of callers behind the view's own. Default: `false`."""
    check_option: Input[ViewOptionsCheckOption]
    """Refuse rows that the view would not show."""


class View(TypedDict, total=False):
    """A view."""

    query: Required[Input[str]]
    """The SELECT."""
    columns: Input[Sequence[Input[str]]]
    """Names of its columns; without it, those of the query."""
    options: Input[ViewOptions]
    """Options of the view."""
    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    renamed_from: Input[str]
    """The object's former name."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""
    triggers: Input[Mapping[str, Input[Trigger]]]
    """By name: A trigger."""


class Schema(TypedDict, total=False):
    """A schema, and everything in it."""

    owner: Input[str]
    """The role that owns the object; without it, ownership is left as it is."""
    comment: Input[str]
    """The comment stored with the object."""
    managed: Input[SchemaManaged]
    """Who changes the objects of the schema: apply, or migrations (apply then only reports). Default: `declarative`."""
    prune: Input[bool]
    """Drop undeclared objects of the schema, each with a consent. Default: `false`."""
    renamed_from: Input[str]
    """The object's former name."""
    enums: Input[Mapping[str, Input[Sequence[Input[str]] | Enum]]]
    """By name: An enumerated type."""
    domains: Input[Mapping[str, Input[Domain]]]
    """By name: A domain: a type with a rule."""
    tables: Input[Mapping[str, Input[Table]]]
    """By name: A table, with what belongs to it."""
    functions: Input[Mapping[str, Input[Function]]]
    """By name: A function or procedure."""
    views: Input[Mapping[str, Input[View]]]
    """By name: A view."""
    grants: Input[Mapping[str, Input[Sequence[Input[str]] | ObjectGrant]]]
    """Who may do what with the object: role to privileges; 'public' is everybody."""


class Extension(TypedDict, total=False):
    """An extension of the database."""

    schema: Input[str]
    """The schema its objects go to; without it, public on creation."""
    version: Input[str]
    """The version to keep it at; without it, any."""
    comment: Input[str]
    """The comment stored with the object."""


class Grant(TypedDict, total=False):
    """Privileges of one role on one object."""

    on: Required[Input[str]]
    """schema NAME, table S.T, view S.V, sequence S.N, function S.F(types), type S.T, enum S.T, domain S.T or
    database."""
    to: Required[Input[str]]
    """The role; 'public' is everybody."""
    privileges: Required[Input[Sequence[Input[str]]]]
    """What the role may do; [] takes away what PUBLIC has unasked."""
    grantable: Input[bool | Sequence[Input[str]]]
    """The part of it that the role may pass on."""


class PostgresDatabaseArgs(TypedDict, total=False):
    """What makes a PostgresDatabase: The schemas of one database with all that is in them, its extensions and
    grants. There is one for each database, so that changes are ordered among each other."""

    target: Input[str] | None
    """The target it lives on, main where nothing is said."""
    schemas: Input[Mapping[str, Input[Schema]]] | None
    """By name: A schema, and everything in it."""
    extensions: Input[Mapping[str, Input[Extension]]] | None
    """By name: An extension of the database."""
    grants: Input[Sequence[Input[Grant]]] | None
    """Each: Privileges of one role on one object."""


class SecretReference(TypedDict, total=False):
    """Where a secret is. One of the two is said."""

    env: Input[str]
    """Name of an environment variable."""
    file: Input[str]
    """Path of a file."""


class Membership(TypedDict, total=False):
    """That a role belongs to another one."""

    role: Required[Input[str]]
    """The group."""
    admin: Input[bool]
    """May give the membership to others. Default: `false`."""
    inherit: Input[bool]
    """Has the group's rights unasked; by default as the role itself. Since PostgreSQL 16."""
    set: Input[bool]
    """May SET ROLE to the group. Default: `true`. Since PostgreSQL 16."""


class RoleArgs(TypedDict, total=False):
    """What makes a Role: A role of the server, with or without login."""

    name: Required[Input[str]]
    """Its name."""
    target: Input[str] | None
    """The declared server it lives on."""
    login: Input[bool] | None
    """May open a session. Default: `false`."""
    password: Input[SecretReference] | None
    """Reference to the password; without it, not managed."""
    superuser: Input[bool] | None
    """Passes every check. Default: `false`."""
    createdb: Input[bool] | None
    """May create databases. Default: `false`."""
    createrole: Input[bool] | None
    """May create and change roles. Default: `false`."""
    inherit: Input[bool] | None
    """Uses the rights of its groups unasked. Default: `true`."""
    replication: Input[bool] | None
    """May stream the log. Default: `false`."""
    bypassrls: Input[bool] | None
    """Ignores row-level security. Default: `false`."""
    connection_limit: Input[int] | None
    """Concurrent sessions; -1 is no limit. Default: `-1`."""
    valid_until: Input[str] | None
    """When the password stops working; without it, never. A time such as `2026-01-31T12:00:00Z`."""
    settings: Input[Mapping[str, Input[str | float | bool | Sequence[Input[str]]]]] | None
    """Server settings of its sessions (ALTER ROLE … SET)."""
    comment: Input[str] | None
    """The comment stored with the object."""
    renamed_from: Input[str] | None
    """The object's former name."""
    member_of: Input[Sequence[Input[str | Membership]]] | None
    """Each: That a role belongs to another one."""
