"""Rules on partitions: making, attaching and detaching them under traffic."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.parsing import Name
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import Step, shown


@rule("HF0852", "partition-made-under-lock", "making")
def partition_made_under_lock(step: Step) -> Iterator[Finding]:
    """CREATE TABLE … PARTITION OF locks the parent.

    It takes ACCESS EXCLUSIVE on the partitioned table: it waits for every running query there, and everybody else
    waits behind it. Where there is a DEFAULT partition, it is locked too, and read to the end: a row there that
    belongs to the new partition is an error.

    Fix: CREATE TABLE … (LIKE parent INCLUDING ALL), add a CHECK equal to the bounds, then ATTACH PARTITION, which takes
    SHARE UPDATE EXCLUSIVE on the parent; or leave partitions to `holdfast partitions maintain`.

    Source: PostgreSQL documentation, Table Partitioning.

    Bad:

        CREATE TABLE shop.sale_2027 PARTITION OF shop.sale FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');

    Good:

        CREATE TABLE shop.sale_2027 (LIKE shop.sale INCLUDING ALL,
            CHECK (at IS NOT NULL AND at >= '2027-01-01' AND at < '2028-01-01'));
        ALTER TABLE shop.sale ATTACH PARTITION shop.sale_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
    """
    if step.kind != "CreateStmt" or "partbound" not in step.tree:
        return
    own = parsing.name_of(step.tree.get("relation"))
    for relation in step.tree.get("inh_relations", ()):
        parent = step.catalog.find(parsing.name_of(relation))
        if step.is_new(parent):
            continue
        default = step.catalog.table(parent).default_partition
        read = f", and reads {shown(default)} to the end" if default is not None else ""
        message = f"making {shown(own)} takes ACCESS EXCLUSIVE on {shown(parent)}{read}"
        help = "Create it LIKE the parent with a CHECK equal to its bounds, then ATTACH PARTITION."
        yield Finding(message, help + _default_help(step, parent, default))


def _default_help(step: Step, parent: Name, default: Name | None) -> str:
    if default is None and step.catalog.table(parent).partitioned:
        return ""
    which = shown(default) if default is not None else "a DEFAULT partition, if there is one,"
    return f" Give {which} a CHECK that excludes the bounds first (NOT VALID, then VALIDATE)."


@rule("HF0853", "attach-scans", "attaching")
def attach_scans(step: Step) -> Iterator[Finding]:
    """ATTACH PARTITION reads the whole table that it attaches.

    It takes ACCESS EXCLUSIVE on that table and reads it to the end, unless a validated CHECK already implies the
    bounds; and the same of the DEFAULT partition, unless a validated CHECK there excludes them. Whether a CHECK implies
    the bounds is the server's to say: any validated one counts here.

    Fix: ADD CONSTRAINT … CHECK (bounds) NOT VALID, VALIDATE it in the next migration, ATTACH, drop the CHECK. Likewise
    CHECK (NOT (bounds)) on the DEFAULT partition.

    Source: PostgreSQL documentation, ALTER TABLE, ATTACH PARTITION.

    Bad:

        ALTER TABLE shop.sale ATTACH PARTITION shop.crate FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');

    Good:

        -- 0001_add_bounds.up.sql
        ALTER TABLE shop.crate ADD CONSTRAINT bounds CHECK (at IS NOT NULL AND at >= '2027-01-01' AND at < '2028-01-01')
            NOT VALID;
        -- 0002_validate_bounds.up.sql
        ALTER TABLE shop.crate VALIDATE CONSTRAINT bounds;
        -- 0003_attach_crate.up.sql
        ALTER TABLE shop.sale ATTACH PARTITION shop.crate FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
    """
    for command in step.commands("AT_AttachPartition"):
        partition = step.catalog.find(parsing.name_of(command.definition.get("name")))
        default = command.table.default_partition
        read = [] if step.is_new(partition) or _is_checked(step, partition) else [partition]
        read += [default] if default is not None and default != partition and not _is_checked(step, default) else []
        if read:
            names = " and ".join(map(shown, read))
            message = f"attaching {shown(partition)} reads {names} to the end under ACCESS EXCLUSIVE"
            help = "Add a CHECK that implies its bounds (NOT VALID, then VALIDATE in the next migration) before it."
            if read == [default]:
                help = f"Give {names} a CHECK that excludes the bounds (NOT VALID, then VALIDATE) before it."
            yield Finding(message, help, offset=command.offset)


def _is_checked(step: Step, name: Name) -> bool:
    table = step.catalog.table(name)
    return any(held.kind == "check" and held.validated for held in table.constraints.values())


@rule("HF0854", "detach-blocks", "ACCESS EXCLUSIVE on the parent")
def detach_blocks(step: Step) -> Iterator[Finding]:
    """A partition is detached or dropped under a lock on its parent.

    DETACH PARTITION, and DROP TABLE of a partition, take ACCESS EXCLUSIVE on the partitioned table. DETACH …
    CONCURRENTLY takes SHARE UPDATE EXCLUSIVE; it needs a file with `transaction: none`, and is refused where there is a
    DEFAULT partition: there the plain form with a short lock-timeout is all there is.

    Fix: DETACH PARTITION … CONCURRENTLY, then drop the table in the next migration.

    Source: PostgreSQL documentation, ALTER TABLE, DETACH PARTITION.

    Bad:

        ALTER TABLE shop.sale DETACH PARTITION shop.sale_2026;

    Good:

        -- transaction: none
        ALTER TABLE shop.sale DETACH PARTITION shop.sale_2026 CONCURRENTLY;
    """
    for command in step.commands("AT_DetachPartition"):
        if command.definition.get("concurrent") or command.table.default_partition is not None:
            continue
        partition = shown(parsing.name_of(command.definition.get("name")))
        message = f"ACCESS EXCLUSIVE on the parent {shown(command.name)} is taken to detach {partition}"
        help = "Use DETACH PARTITION … CONCURRENTLY in a file with -- transaction: none."
        yield Finding(message, help, offset=command.offset)
    if step.kind == "DropStmt" and step.tree.get("remove_type") == "OBJECT_TABLE":
        for item in step.tree.get("objects", ()):
            name = step.catalog.find(parsing.dotted(item))
            parent = step.catalog.parents.get(name)
            if parent is not None and not step.is_new(name):
                message = f"ACCESS EXCLUSIVE on the parent {shown(parent)} is taken to drop its partition {shown(name)}"
                yield Finding(message, "DETACH it CONCURRENTLY in a migration of its own, then drop it.")


@rule("HF0855", "detach-refused", "DETACH … CONCURRENTLY is refused", severity="error")
def detach_refused(step: Step) -> Iterator[Finding]:
    """DETACH … CONCURRENTLY on a table with a DEFAULT partition.

    PostgreSQL refuses it (SQLSTATE 55000), because rows of the detached bounds would belong to the DEFAULT partition
    from then on.

    Fix: detach without CONCURRENTLY and with a short lock-timeout; or detach the DEFAULT partition first.

    Source: PostgreSQL documentation, ALTER TABLE, DETACH PARTITION.

    Bad:

        CREATE TABLE shop.visit (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE shop.visit_rest PARTITION OF shop.visit DEFAULT;
        -- 0002_detach_old.up.sql
        -- transaction: none
        ALTER TABLE shop.visit DETACH PARTITION shop.visit_2025 CONCURRENTLY;

    Good:

        CREATE TABLE shop.visit (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE shop.visit_rest PARTITION OF shop.visit DEFAULT;
        -- 0002_detach_old.up.sql
        -- lock-timeout: 1s
        ALTER TABLE shop.visit DETACH PARTITION shop.visit_2025;
    """
    for command in step.commands("AT_DetachPartition"):
        default = command.table.default_partition
        if command.definition.get("concurrent") and default is not None:
            message = f"DETACH … CONCURRENTLY is refused while {shown(command.name)} has {shown(default)} for the rest"
            help = "Detach without CONCURRENTLY in a transaction, with a short lock-timeout."
            yield Finding(message, help, offset=command.offset)


RULES = (partition_made_under_lock, attach_scans, detach_blocks, detach_refused)
