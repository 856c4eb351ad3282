"""The one explicit list of kinds. Load, JSON Schema, checks, diff and lower receive it; nothing else imports kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from provision.postgres.catalog import RELATIONS, ROLE_NAMES, Query, queries_by_name
from provision.spec.kind import Kind, Section


@cache
def sections() -> Sequence[Section]:
    """The readers of the document's top-level sections, in the order in which they are read."""
    from provision.nats.kinds import bucket, object_store, publisher, stream
    from provision.pools import kinds as pools
    from provision.pools import runtime
    from provision.postgres.kinds import extension, grant, role, schema

    return (
        stream.SECTION,
        bucket.SECTION,
        object_store.SECTION,
        publisher.SECTION,
        role.SECTION,
        extension.SECTION,
        schema.SECTION,
        grant.SECTION,
        pools.SECTION,
        runtime.SECTION,
    )


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind by name."""
    from provision.nats.kinds import bucket, consumer, object_store, publisher, stream
    from provision.pools import contract, runtime
    from provision.pools import kinds as pools

    nats = (stream.KIND, bucket.KIND, object_store.KIND, consumer.KIND, consumer.TEMPLATE)
    declared = (publisher.KIND, pools.KIND, runtime.KIND, contract.KIND)
    return {k.name: k for k in (*nats, *postgres_kinds(), *declared)}


@cache
def postgres_kinds() -> Sequence[Kind]:
    """The kinds observed in a database, in the order in which they are decoded."""
    return tuple(module.KIND for module in postgres_modules())


@cache
def postgres_queries() -> Sequence[Query]:
    """The bulk catalog queries of all kinds, each once, and the one for what no kind models."""
    from provision.postgres import unmodelled

    groups = [module.QUERIES for module in postgres_modules()]
    return tuple(queries_by_name([(RELATIONS, ROLE_NAMES), *groups, (unmodelled.QUERY,)]).values())


@cache
def postgres_modules() -> Sequence[Any]:
    """The modules of Postgres kinds, each with KIND, QUERIES and decode, in the order in which they are decoded."""
    from provision.postgres.kinds import (
        check,
        column,
        domain,
        enum,
        extension,
        foreign_key,
        function,
        grant,
        index,
        membership,
        partitions,
        policy,
        primary_key,
        role,
        schema,
        table,
        trigger,
        unique,
        view,
    )

    return (
        role, membership, extension, schema, enum, domain, table, column, primary_key, unique, foreign_key,
        check, index, partitions, function, view, trigger, policy, grant,
    )  # fmt: skip
