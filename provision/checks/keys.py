"""Rules about primary keys, unique constraints and foreign keys."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from provision.checks.rule import Finding, counted, listed, rule
from provision.checks.tables import unquoted
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.spec.record import Record

#: Rules of a reference that stop the delete of what it refers to.
_BLOCKING = ("no_action", "restrict")


@rule("HF0305", "key-on-missing-column", "key")
def key_on_missing_column(scene: Scene) -> Iterator[Finding]:
    """Key or foreign key names a column that its table lacks.

    Every column of a key must be declared in the table (SQLSTATE 42703 otherwise).

    Fix: name a declared column, or declare it.

    Source: PostgreSQL documentation, CREATE TABLE. Mistakes: SB-30.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {order_id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [orderid]

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {order_id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [order_id]
    """
    for table in scene.tables.values():
        for kind in ("primary_key", "unique", "foreign_key"):
            for record in table.of(kind):
                for i, column in enumerate(record.settings["columns"]):
                    if column not in table.columns and table.lacks(column):
                        yield Finding(
                            (*(record.origin or ()), "columns", i),
                            f"key {record.address.name} names the column {column}, which {table.qualified} lacks",
                            nearest(column, table.columns, f"Declare {column}, or name a declared column."),
                        )


@rule("HF0306", "fk-target-missing", "foreign key")
def foreign_key_target_missing(scene: Scene) -> Iterator[Finding]:
    """Foreign key refers to a table or column that is not declared.

    The referenced table and its columns must exist (SQLSTATE 42P01, 42703). Tables outside the plane cannot be
    referenced: nothing would say when they are made.

    Fix: refer to a declared `schema.table`.

    Source: PostgreSQL documentation, Constraints, Foreign Keys. Mistakes: SB-26.

    Bad:
        schemas:
          shop:
            tables:
              customers:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {customer_id: {type: uuid, nullable: false}}
                foreign_keys: {orders_customer_fkey: {columns: [customer_id], references: shop.customer}}

    Good:
        schemas:
          shop:
            tables:
              customers:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {customer_id: {type: uuid, nullable: false}}
                foreign_keys: {orders_customer_fkey: {columns: [customer_id], references: shop.customers}}
    """
    for table, key, target, columns in scene.references:
        wanted, origin = unquoted(key.settings["references"]), key.origin or ()
        if target is None and not scene.table_written(wanted):
            known = [t.qualified for t in scene.tables.values() if t.target == table.target]
            yield Finding(
                (*origin, "references"),
                f"foreign key {key.address.name} refers to {wanted}, which is not declared",
                nearest(wanted, known, f"Declare the table {wanted}."),
            )
        elif target is not None and not columns:
            yield Finding(
                (*origin, "references"),
                f"foreign key {key.address.name} refers to {wanted}, which has no primary key",
                "Name referenced_columns that are unique there.",
            )
        for i, column in enumerate(columns if target is not None else ()):
            if target is not None and target.lacks(column):
                yield Finding(
                    (*origin, "referenced_columns", i),
                    f"foreign key {key.address.name} refers to the column {column}, which {wanted} lacks",
                    nearest(column, target.columns, f"Name a column of {wanted}."),
                )


@rule("HF0315", "fk-target-not-unique", "foreign key")
def foreign_key_target_not_unique(scene: Scene) -> Iterator[Finding]:
    """Foreign key refers to columns that are not a key.

    The referenced columns must be exactly the columns of a primary key or unique constraint (SQLSTATE 42830). The
    key of a partitioned table contains its partition key, so references to it carry that column too; this holds
    for references of a table to itself as well.

    Fix: refer to all columns of the key, and carry the missing ones in the referring table.

    Source: PostgreSQL documentation, Constraints, Foreign Keys. Mistakes: SB-06.

    Bad:
        schemas:
          shop:
            tables:
              jobs:
                columns: {id: {type: uuid, default: gen_random_uuid()}, kind: {type: text, nullable: false}}
                primary_key: [id, kind]
                partitions: {by: list, key: [kind], default: true}
              runs:
                columns: {job_id: {type: uuid, nullable: false}}
                foreign_keys: {runs_job_fkey: {columns: [job_id], references: shop.jobs, referenced_columns: [id]}}

    Good:
        schemas:
          shop:
            tables:
              jobs:
                columns: {id: {type: uuid, default: gen_random_uuid()}, kind: {type: text, nullable: false}}
                primary_key: [id, kind]
                partitions: {by: list, key: [kind], default: true}
              runs:
                columns: {job_id: {type: uuid, nullable: false}, job_kind: {type: text, nullable: false}}
                foreign_keys: {runs_job_fkey: {columns: [job_id, job_kind], references: shop.jobs}}
    """
    for table, key, target, columns in scene.references:
        if target is None or not columns or any(c not in target.columns for c in columns):
            continue
        if target.primary_key is not None and columns == target.primary_key.columns:
            continue
        keys = [*target.keys, *target.unique_indexes]
        if set(columns) in [set(k.columns) for k in keys]:
            continue
        near = next((k for k in keys if set(columns) < set(k.columns)), None)
        mend = (
            f"The {near.noun} is ({', '.join(near.columns)}): carry "
            f"{', '.join(c for c in near.columns if c not in columns)} in {table.qualified} and refer to both."
            if near
            else f"Declare a unique constraint over ({', '.join(columns)}), or refer to a key."
        )
        yield Finding(
            (*(key.origin or ()), "referenced_columns" if key.settings.get("referenced_columns") else "references"),
            f"foreign key {key.address.name} refers to {target.qualified} ({', '.join(columns)}), which is not a key",
            mend,
        )


#: Types that one operator family compares, so that a reference between them is allowed.
_FAMILIES = (
    {"smallint", "integer", "bigint", "numeric", "real", "double precision"},
    {"text", "character varying", "character", "bpchar", "name"},
    {"date", "timestamp with time zone", "timestamp without time zone"},
)


def _family(name: str) -> str:
    return next((min(f) for f in _FAMILIES if name in f), name)


@rule("HF0316", "fk-columns-do-not-fit", "foreign key")
def foreign_key_columns_do_not_fit(scene: Scene) -> Iterator[Finding]:
    """Foreign key and its target differ in number or type of columns.

    Referring and referenced columns are compared pair by pair, so there must be as many of each (SQLSTATE 42830)
    and an operator must compare their types (SQLSTATE 42804). A reference that names no columns means the whole
    primary key, which in a partitioned table contains the partition key.

    Fix: name as many columns as the referenced key has, with its types.

    Source: PostgreSQL documentation, Constraints, Foreign Keys. Mistakes: SB-06.

    Bad:
        schemas:
          shop:
            tables:
              customers:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {customer: {type: text, nullable: false}}
                foreign_keys: {orders_customer_fkey: {columns: [customer], references: shop.customers}}

    Good:
        schemas:
          shop:
            tables:
              customers:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {customer: {type: uuid, nullable: false}}
                foreign_keys: {orders_customer_fkey: {columns: [customer], references: shop.customers}}
    """
    for table, key, target, columns in scene.references:
        own = key.settings.get("columns") or []
        if target is None or not columns:
            continue
        if len(own) != len(columns):
            yield Finding(
                (*(key.origin or ()), "columns"),
                f"foreign key {key.address.name} pairs ({', '.join(own)}) with {target.qualified} "
                f"({', '.join(columns)})",
                f"Name {counted(len(columns), 'column')}, one for each of ({', '.join(columns)}).",
            )
            continue
        for i, (mine, theirs) in enumerate(zip(own, columns, strict=True)):
            if mine not in table.columns or theirs not in target.columns:
                continue
            declared, wanted = table.columns[mine].settings["type"], target.columns[theirs].settings["type"]
            if declared == wanted:
                continue
            left, right = scene.base_type(table.target, declared), scene.base_type(target.target, wanted)
            if (left.schema, _family(left.name)) != (right.schema, _family(right.name)):
                yield Finding(
                    (*(key.origin or ()), "columns", i),
                    f"foreign key {key.address.name} compares {mine} {left.name} with {theirs} {right.name}",
                    f"Give {table.qualified}.{mine} the type of {target.qualified}.{theirs}.",
                )


@rule("HF0317", "mixed-delete-rules", "foreign key", severity="warning", level="cross-resource")
def mixed_delete_rules(scene: Scene) -> Iterator[Finding]:
    """Some references cascade a delete, others silently stop it.

    Where one child cascades and another has no rule, deleting the parent fails at the child without one
    (SQLSTATE 23503), although the cascading child promises that it works. A rule that is written down, even
    `no_action`, is a decision; one that is left out is an accident.

    Fix: write `on_delete` for each reference. `set_null` needs a column that may be NULL.

    Source: PostgreSQL documentation, Constraints, Foreign Keys. Mistakes: SB-99.

    Bad:
        schemas:
          shop:
            tables:
              users:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              notes:
                columns: {user_id: {type: uuid, nullable: false}}
                foreign_keys: {notes_user_fkey: {columns: [user_id], references: shop.users, on_delete: cascade}}
              orders:
                columns: {user_id: {type: uuid, nullable: false}}
                foreign_keys: {orders_user_fkey: {columns: [user_id], references: shop.users}}

    Good:
        schemas:
          shop:
            tables:
              users:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              notes:
                columns: {user_id: {type: uuid, nullable: false}}
                foreign_keys: {notes_user_fkey: {columns: [user_id], references: shop.users, on_delete: cascade}}
              orders:
                columns: {user_id: {type: uuid, nullable: false}}
                foreign_keys: {orders_user_fkey: {columns: [user_id], references: shop.users, on_delete: restrict}}
    """
    by_target: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for table, key, _, _ in scene.references:
        by_target[table.target, unquoted(key.settings["references"])].append(key)
    for (_, parent), keys in by_target.items():
        cascading = next((k for k in keys if k.settings.get("on_delete") == "cascade"), None)
        for key in keys if cascading is not None else ():
            if key.settings.get("on_delete") in _BLOCKING and not scene.stated(key, "on_delete"):
                assert cascading is not None
                yield Finding(
                    (*(key.origin or ()), "on_delete"),
                    f"foreign key {key.address.name} stops deletes from {parent}, which {cascading.address.name} "
                    "cascades",
                    "Write on_delete for each reference: cascade, set_null, restrict or no_action.",
                    related=(((*(cascading.origin or ()), "on_delete"), "this one cascades"),),
                )


@rule("HF0318", "set-null-on-required-column", "foreign key")
def set_null_on_required_column(scene: Scene) -> Iterator[Finding]:
    """Foreign key sets a column to NULL that refuses NULL.

    With `set_null` a delete of the referenced row writes NULL into the referring columns. A column that is NOT
    NULL, in the primary key, or of a domain that refuses NULL makes that delete fail (SQLSTATE 23502).

    Fix: let the column be NULL, name the columns that may be with `on_delete_columns`, or cascade.

    Source: PostgreSQL documentation, Constraints, Foreign Keys. Mistakes: SB-99, SB-07.

    Bad:
        schemas:
          shop:
            tables:
              users:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {user_id: {type: uuid, nullable: false}}
                foreign_keys: {orders_user_fkey: {columns: [user_id], references: shop.users, on_delete: set_null}}

    Good:
        schemas:
          shop:
            tables:
              users:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}}
                primary_key: [id]
              orders:
                columns: {user_id: {type: uuid}}
                foreign_keys: {orders_user_fkey: {columns: [user_id], references: shop.users, on_delete: set_null}}
    """
    for table, key, _, _ in scene.references:
        if key.settings.get("on_delete") != "set_null":
            continue
        columns = key.settings.get("on_delete_columns") or key.settings.get("columns") or []
        required = [c for c in columns if c in table.columns and not table.is_nullable(c)]
        if required:
            yield Finding(
                (*(key.origin or ()), "on_delete"),
                f"foreign key {key.address.name} sets {listed(required)} to NULL, which {table.qualified} refuses",
                "Let the column be NULL, name others in on_delete_columns, or cascade.",
            )


@rule("HF0320", "unique-with-nullable-column", "unique key", severity="warning")
def unique_with_nullable_column(scene: Scene) -> Iterator[Finding]:
    """Unique key over several columns contains one that may be NULL.

    NULL differs from NULL, so two rows that agree in all other columns are both taken when that one is NULL.
    Writing `nulls_not_distinct`, true or false, says that this was thought of.

    Fix: make the column NOT NULL, or write `nulls_not_distinct: true` (PostgreSQL 15 and later).

    Source: PostgreSQL documentation, Constraints, Unique Constraints. Mistakes: SB-23.

    Bad:
        schemas:
          shop:
            tables:
              subs:
                columns: {user_id: {type: uuid, nullable: false}, pattern: {type: text}}
                unique: {subs_key: [user_id, pattern]}

    Good:
        schemas:
          shop:
            tables:
              subs:
                columns: {user_id: {type: uuid, nullable: false}, pattern: {type: text}}
                unique: {subs_key: {columns: [user_id, pattern], nulls_not_distinct: true}}
    """
    for table in scene.tables.values():
        for key in (*table.keys, *table.unique_indexes):
            if len(key.columns) < 2 or key is table.primary_key or key.record.settings.get("nulls_not_distinct"):
                continue
            nullable = [c for c in key.columns if table.is_nullable(c)]
            if nullable and not scene.stated(key.record, "nulls_not_distinct"):
                yield Finding(
                    key.where,
                    f"unique key {key.record.address.name} of {table.qualified} lets duplicates in where "
                    f"{listed(nullable, 'or')} is NULL",
                    "Write nulls_not_distinct: true, or make the column NOT NULL.",
                )


RULES = (
    key_on_missing_column, foreign_key_target_missing, foreign_key_target_not_unique,
    foreign_key_columns_do_not_fit, mixed_delete_rules, set_null_on_required_column, unique_with_nullable_column,
)  # fmt: skip
