"""Rules on indexes, materialized views, and commands that write a table anew."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import Step, shown

_REWRITES = {
    "AT_SetLogged": "SET LOGGED",
    "AT_SetUnLogged": "SET UNLOGGED",
    "AT_SetTableSpace": "SET TABLESPACE",
    "AT_SetAccessMethod": "SET ACCESS METHOD",
}


@rule("HF0846", "index-blocks-writers", "building")
def index_blocks_writers(step: Step) -> Iterator[Finding]:
    """CREATE INDEX stops writers until the index stands.

    It takes SHARE on the table. CONCURRENTLY reads the table twice and waits for old transactions, but holds up
    nobody; it needs a file with `transaction: none`. A partitioned table takes CREATE INDEX ON ONLY (its index is
    invalid until all parts are attached), the same concurrently on each partition, and ALTER INDEX … ATTACH PARTITION.

    Fix: CREATE INDEX CONCURRENTLY; on a partitioned table, partition by partition.

    Source: PostgreSQL documentation, CREATE INDEX.

    Bad:

        CREATE INDEX item_colour ON shop.item (colour);

    Good:

        -- transaction: none
        DROP INDEX CONCURRENTLY IF EXISTS shop.item_colour;
        CREATE INDEX CONCURRENTLY item_colour ON shop.item (colour);
    """
    relation = step.tree.get("relation")
    name = step.catalog.find(parsing.name_of(relation))
    if step.kind != "IndexStmt" or step.tree.get("concurrent") or step.is_new(name):
        return
    if step.catalog.table(name).partitioned:
        if not (relation or {}).get("inh"):
            return
        help = "CREATE INDEX ON ONLY the parent; CONCURRENTLY on each partition; then ALTER INDEX … ATTACH PARTITION."
    else:
        help = "Use CREATE INDEX CONCURRENTLY in a file with -- transaction: none"
    index = step.tree.get("idxname", "the index")
    message = f"building {index} stops every writer of {shown(name)} until it is done"
    yield Finding(message, help.rstrip(".") + ".")


@rule("HF0847", "concurrently-on-partitions", "CONCURRENTLY is refused", severity="error")
def concurrently_on_partitions(step: Step) -> Iterator[Finding]:
    """An index of a partitioned table is built or dropped concurrently.

    PostgreSQL refuses both (SQLSTATE 0A000).

    Fix: CREATE INDEX ON ONLY the parent, then CREATE INDEX CONCURRENTLY on each partition and ALTER INDEX … ATTACH
    PARTITION. DROP INDEX without CONCURRENTLY, with a short lock-timeout.

    Source: PostgreSQL documentation, CREATE INDEX; DROP INDEX.

    Bad:

        -- transaction: none
        DROP INDEX CONCURRENTLY IF EXISTS shop.sale_amount;

    Good:

        -- lock-timeout: 1s
        DROP INDEX shop.sale_amount;
    """
    if not step.tree.get("concurrent"):
        return
    if step.kind == "IndexStmt":
        name = step.catalog.find(parsing.name_of(step.tree.get("relation")))
        if step.catalog.table(name).partitioned:
            help = (
                "CREATE INDEX ON ONLY the parent, CONCURRENTLY on each partition, then ALTER INDEX … ATTACH PARTITION."
            )
            yield Finding(f"CONCURRENTLY is refused for {shown(name)}, which is partitioned", help)
    elif step.kind == "DropStmt":
        for item in step.tree.get("objects", ()):
            index = step.catalog.find(parsing.dotted(item))
            table = step.catalog.indexes.get(index)
            if table is not None and step.catalog.table(table).partitioned:
                message = f"CONCURRENTLY is refused for {shown(index)}: its table {shown(table)} is partitioned"
                yield Finding(message, "Use DROP INDEX in a transaction, with a short lock-timeout.")


@rule("HF0848", "drop-index-blocks", "dropping")
def drop_index_blocks(step: Step) -> Iterator[Finding]:
    """DROP INDEX waits for, and then holds up, all users of the table.

    It takes ACCESS EXCLUSIVE on the table: it waits for every running query, and everybody else waits behind it.

    Fix: DROP INDEX CONCURRENTLY in a file with `transaction: none`. That is not for the index of a constraint or of a
    partitioned table.

    Source: PostgreSQL documentation, DROP INDEX.

    Bad:

        DROP INDEX shop.item_colour;

    Good:

        -- transaction: none
        DROP INDEX CONCURRENTLY IF EXISTS shop.item_colour;
    """
    if step.kind != "DropStmt" or step.tree.get("remove_type") != "OBJECT_INDEX" or step.tree.get("concurrent"):
        return
    for item in step.tree.get("objects", ()):
        index = step.catalog.find(parsing.dotted(item))
        table = step.catalog.indexes.get(index)
        if table is not None and (step.is_new(table) or step.catalog.table(table).partitioned):
            continue
        message = f"dropping {shown(index)} takes ACCESS EXCLUSIVE on its table"
        yield Finding(message, "Use DROP INDEX CONCURRENTLY IF EXISTS in a file with -- transaction: none.")


@rule("HF0849", "reindex-blocks", "REINDEX")
def reindex_blocks(step: Step) -> Iterator[Finding]:
    """REINDEX stops writers, and readers that would use the index.

    Fix: REINDEX … CONCURRENTLY in a file with `transaction: none`.

    Source: PostgreSQL documentation, REINDEX.

    Bad:

        REINDEX TABLE shop.item;

    Good:

        -- transaction: none
        REINDEX TABLE CONCURRENTLY shop.item;
    """
    if step.kind == "ReindexStmt" and not parsing.option(step.tree.get("params", ()), "concurrently"):
        name = shown(parsing.name_of(step.tree.get("relation"))) or str(step.tree.get("name", "the database"))
        message = f"REINDEX of {name} stops writers until it is done"
        yield Finding(message, "Use REINDEX … CONCURRENTLY in a file with -- transaction: none.")


@rule("HF0850", "refresh-blocks-readers", "refreshing")
def refresh_blocks_readers(step: Step) -> Iterator[Finding]:
    """REFRESH MATERIALIZED VIEW stops its readers.

    It takes ACCESS EXCLUSIVE on the view while its query runs. With CONCURRENTLY readers go on; that takes longer
    and needs a unique index over plain columns.

    Fix: REFRESH MATERIALIZED VIEW CONCURRENTLY.

    Source: PostgreSQL documentation, REFRESH MATERIALIZED VIEW.

    Bad:

        REFRESH MATERIALIZED VIEW shop.bestseller;

    Good:

        REFRESH MATERIALIZED VIEW CONCURRENTLY shop.bestseller;
    """
    if step.kind != "RefreshMatViewStmt" or step.tree.get("concurrent") or step.tree.get("skip_data"):
        return
    name = parsing.name_of(step.tree.get("relation"))
    if not step.is_new(name):
        help = "Use REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index on the view."
        yield Finding(f"refreshing {shown(name)} stops everybody who reads it until its query is done", help)


@rule("HF0851", "table-rewritten", "the whole of")
def table_rewritten(step: Step) -> Iterator[Finding]:
    """A command writes the whole table anew under ACCESS EXCLUSIVE.

    SET LOGGED, SET UNLOGGED, SET TABLESPACE, SET ACCESS METHOD, CLUSTER and VACUUM FULL have no online form.

    Fix: run it while nobody uses the table; or make a new table, copy the rows in batches beside a trigger, and swap
    the names.

    Source: PostgreSQL documentation, ALTER TABLE, CLUSTER, VACUUM.

    Bad:

        ALTER TABLE shop.item SET LOGGED;

    Good:

        CREATE TABLE shop.item2 (LIKE shop.item INCLUDING ALL);
    """
    for command in step.commands(*_REWRITES):
        yield _rewritten(command.name, _REWRITES[command.what])
    if step.kind == "ClusterStmt":
        yield _rewritten(step.catalog.find(parsing.name_of(step.tree.get("relation"))), "CLUSTER")
    elif step.kind == "VacuumStmt" and parsing.option(step.tree.get("options", ()), "full"):
        for relation in step.tree.get("rels") or [{}]:
            yield _rewritten(step.catalog.find(parsing.name_of(relation.get("relation"))), "VACUUM FULL")


def _rewritten(name: parsing.Name, command: str) -> Finding:
    what = shown(name) if name[1] else "each table of the database"
    message = f"the whole of {what} is written anew by {command} while nobody can read or write it"
    return Finding(message, "Run it while nobody uses the table, or copy the rows into a new table and swap the names.")


RULES = (
    index_blocks_writers, concurrently_on_partitions, drop_index_blocks, reindex_blocks, refresh_blocks_readers,
    table_rewritten,
)  # fmt: skip
