"""Build indexes beside the traffic: concurrently, on partitioned tables leaf by leaf. For indexes and keys alike.

CREATE INDEX CONCURRENTLY leaves an INVALID index when it fails (PostgreSQL docs, CREATE INDEX). Such a leftover
is seen by observe and cleared first; within one apply, ``undo`` clears it and ``done_if`` tells whether it stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from provision.postgres import sql
from provision.postgres.catalog import Row
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    ACCESS_SHARE,
    SHARE,
    SHARE_UPDATE_EXCLUSIVE,
    alter,
    blocking,
    has_subpartitions,
    leaf_names,
    leftover,
    table_of,
)
from provision.postgres.references import split_name
from provision.postgres.relations import option_value
from provision.spec.change import Context, Draft, Sql
from provision.spec.ident import Address

_NO_STRAYS: Mapping[str, str] = {}
_UNUSABLE = (None, "invalid")


class Spec(NamedTuple):
    """What an index is made of, as SQL; ``items`` is the text between the brackets."""

    items: str
    method: str
    unique: bool
    nulls_not_distinct: bool
    include: tuple[str, ...]
    where: str | None
    storage: Mapping[str, Any]
    tablespace: str | None


def parameters(storage: Mapping[str, Any]) -> str:
    """``fillfactor = 70``."""
    return ", ".join(f"{name} = {_value(value)}" for name, value in storage.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return sql.quote_literal(str(value)) if isinstance(value, str | float) else str(value)


def missing(row: Row) -> dict[str, dict[str, str]]:
    """The partitions, by quoted name, for which a partitioned index lacks a valid part.

    With each come the indexes of the partition that are attached to none: "index", "constraint" or "invalid" by
    name. An interrupted build is among them.
    """
    return {sql.qualified(s, n): strays or {} for s, n, strays in json.loads(row[20])} if row[20] else {}


def successor(name: str) -> str:
    """The name under which an index is built that takes another one's place."""
    return sql.bounded(name, "_new")


def create_sql(spec: Spec, name: str, table: str, *, concurrently: bool = False, only: bool = False) -> str:
    """CREATE INDEX; ``table`` is a quoted name."""
    text = f"CREATE {'UNIQUE ' if spec.unique else ''}INDEX {'CONCURRENTLY ' if concurrently else ''}"
    text += f"{sql.quote_ident(name)} ON {'ONLY ' if only else ''}{table}"
    if spec.method != "btree":
        text += f" USING {sql.quote_ident(spec.method)}"
    text += f" ({spec.items})"
    if spec.include:
        text += f" INCLUDE {sql.columns(spec.include)}"
    if spec.nulls_not_distinct:
        text += " NULLS NOT DISTINCT"
    if spec.storage:
        text += f" WITH ({parameters(spec.storage)})"
    if spec.tablespace is not None:
        text += f" TABLESPACE {sql.quote_ident(spec.tablespace)}"
    if spec.where is not None:
        text += f" WHERE {spec.where}"
    return text


def is_valid(schema: str, name: str) -> str:
    """SQL that says whether an index stands and is complete."""
    return f"SELECT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = {sql.regclass(schema, name)} AND i.indisvalid)"


def concurrently(address: Address, spec: Spec, name: str, context: Context, **points: Any) -> Iterator[Draft]:
    """Build an index on a plain table; a leftover of that name is used if it fits, else cleared."""
    table = table_of(address)
    left, dropped = leftover(context, table.child("index", name))
    if left is not None:
        if fits(left.settings, spec):
            return
        yield drop_concurrently(address, name, "clear", f"clear what is left of an earlier index {name}")
    makes = (*points.pop("makes", ()), *dropped)
    yield _build(address, spec, name, sql.table_name(address), table.names[0], key="build", makes=makes, **points)


def build(address: Address, spec: Spec, **points: Any) -> Draft:
    """Build an index under its own name on a plain table."""
    return _build(address, spec, address.name, sql.table_name(address), address.names[0], key="build", **points)


def fits(settings: Mapping[str, Any], spec: Spec) -> bool:
    """Whether a live index is complete and made of the same parts."""
    from provision.postgres.kinds.index import spec_of

    return bool(settings["valid"]) and not settings["missing"] and spec_of(settings) == spec


def _build(address: Address, spec: Spec, name: str, table: str, schema: str, *, key: str, **points: Any) -> Draft:
    return Draft(
        object=address,
        action="create",
        key=key,
        request=Sql(create_sql(spec, name, table, concurrently=True)),
        summary=f"build index {name} on {table} beside the traffic",
        lock=SHARE_UPDATE_EXCLUSIVE,
        transactional=False,
        undo=Sql(f"DROP INDEX CONCURRENTLY IF EXISTS {sql.qualified(schema, name)}"),
        done_if=is_valid(schema, name),
        **points,
    )


def drop_concurrently(
    address: Address, name: str, key: str, summary: str, *, schema: str | None = None, **points: Any
) -> Draft:
    """DROP INDEX CONCURRENTLY: waits for transactions, stops nobody; not for partitioned tables or constraints."""
    schema = schema or address.names[0]
    return Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP INDEX CONCURRENTLY IF EXISTS {sql.qualified(schema, name)}"),
        summary=summary,
        lock=SHARE_UPDATE_EXCLUSIVE,
        transactional=False,
        done_if=f"SELECT {sql.regclass(schema, name)} IS NULL",
        **points,
    )


def on_parent(address: Address, spec: Spec, name: str, context: Context, **points: Any) -> Iterator[Draft]:
    """Build an index on a partitioned table: the parent's alone, then one for each leaf, attached as it is done."""
    table = sql.table_name(address)
    schema = address.names[0]
    left, dropped = leftover(context, table_of(address).child("index", name))
    if left is not None and left.address != address:
        yield Draft(
            object=address,
            action="drop",
            key="clear",
            request=Sql(f"DROP INDEX {sql.qualified(schema, name)}"),
            summary=f"clear what is left of an earlier index {name}",
            lock=ACCESS_EXCLUSIVE,
        )
    deep = has_subpartitions(context, table_of(address))
    detail = "the index is built on every partition in one piece while writes wait"
    yield Draft(
        object=address,
        action="create",
        key="build",
        request=Sql(create_sql(spec, name, table, only=not deep)),
        summary=f"declare index {name} on the parent alone" if not deep else f"build index {name}",
        lock=SHARE,
        hazards=(blocking(detail),) if deep else (),
        undo=Sql(f"DROP INDEX {sql.qualified(schema, name)}"),
        done_if=f"SELECT {sql.regclass(schema, name)} IS NOT NULL",
        makes=(*points.pop("makes", ()), *dropped),
        **points,
    )
    if not deep:
        yield from leaf_by_leaf(address, spec, context, name=name)


def leaf_by_leaf(
    address: Address,
    spec: Spec,
    context: Context,
    *,
    name: str | None = None,
    takes: str | None = None,
    leaves: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Draft]:
    """Give leaves their part of a partitioned index. ``takes`` makes the part a constraint; {index} is its name.

    ``leaves`` are those that lack a part, with the stray indexes that an interrupted run may have left there.
    """
    parent = name or address.name
    schema = address.names[0]
    # Parts keep their names when the parent is renamed, so the names follow what they are made of.
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:8]
    wanted = dict.fromkeys(leaf_names(context, table_of(address)), _NO_STRAYS) if leaves is None else leaves
    for leaf, strays in wanted.items():
        home, bare = split_name(leaf)
        part = sql.bounded(bare, address.name, digest)
        stray = strays.get(part)
        if stray == "invalid":
            summary = f"clear what is left of an interrupted index of partition {leaf}"
            yield drop_concurrently(address, part, f"clear {leaf}", summary, schema=home)
        if stray in _UNUSABLE:
            yield _build(address, spec, part, leaf, home, key=f"build {leaf}")
        if takes is not None and stray != "constraint":
            quoted = sql.quote_ident(part)
            yield Draft(
                object=address,
                action="create",
                key=f"constraint {leaf}",
                request=Sql(f"ALTER TABLE {leaf} ADD CONSTRAINT {quoted} {takes.format(index=quoted)}"),
                summary=f"constraint of partition {leaf} on the finished index",
                lock=ACCESS_EXCLUSIVE,
                done_if=f"SELECT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = {sql.regclass(home, part)})",
            )
        lock = ACCESS_SHARE if leaves is None else SHARE_UPDATE_EXCLUSIVE if stray in _UNUSABLE else ACCESS_EXCLUSIVE
        yield _attach(address, (schema, parent), (home, part), leaf, lock)


def _attach(address: Address, parent: tuple[str, str], part: tuple[str, str], leaf: str, lock: str) -> Draft:
    """Both indexes are locked, a new part's for nobody who knows it; tables are only looked at."""
    return Draft(
        object=address,
        action="create",
        key=f"attach {leaf}",
        request=Sql(f"ALTER INDEX {sql.qualified(*parent)} ATTACH PARTITION {sql.qualified(*part)}"),
        summary=f"attach the index of partition {leaf}",
        lock=lock,
    )


def reset(address: Address, old: Mapping[str, Any], new: Mapping[str, Any]) -> Draft:
    """SET and RESET storage parameters that take effect without building the index again."""
    index = f"ALTER INDEX {sql.qualified(address.names[0], address.name)}"

    def clauses(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        gone = [k for k in old if k not in new]
        wanted = {k: v for k, v in new.items() if old.get(k) != v}
        parts = [f"RESET ({', '.join(gone)})"] if gone else []
        return ", ".join([*parts, *([f"SET ({parameters(wanted)})"] if wanted else [])])

    return Draft(
        object=address,
        action="alter",
        key="storage",
        request=Sql(f"{index} {clauses(old, new)}"),
        summary=f"storage parameters of index {address.name}",
        lock=SHARE_UPDATE_EXCLUSIVE,
        undo=Sql(f"{index} {clauses(new, old)}"),
    )


def cluster(address: Address, *, clustered: bool) -> Draft:
    """Mark the index by which CLUSTER sorts the table; rows are not moved."""
    words = f"CLUSTER ON {sql.quote_ident(address.name)}", "SET WITHOUT CLUSTER"
    do, undo = words if clustered else words[::-1]
    return alter(
        address, "clustered", do, f"CLUSTER order of the table: {do.lower()}", undo=undo, lock=SHARE_UPDATE_EXCLUSIVE
    )


__all__ = ["Spec", "concurrently", "leaf_by_leaf", "on_parent", "option_value"]
