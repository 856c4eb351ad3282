"""Rules on constraints: what adding and dropping one locks, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import taken_by
from provision.migrate.lint.catalog import kind_of
from provision.migrate.lint.parsing import Name
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import Command, Step, shown


def _inherited(command: Command) -> bool:
    """Whether the command reaches partitions: not with ONLY."""
    return command.table.partitioned and command.recurses


@rule("HF0838", "check-scans", "adding a check")
def check_scans(step: Step) -> Iterator[Finding]:
    """ADD CHECK reads the whole table.

    The condition is tested for each row under ACCESS EXCLUSIVE. NOT VALID tests only rows written from now on, and
    is brief; VALIDATE then reads the table while readers and writers work (SHARE UPDATE EXCLUSIVE), provided that
    it runs in a later transaction.

    Fix: add it NOT VALID, and VALIDATE it in the next migration.

    Source: PostgreSQL documentation, ALTER TABLE, Notes.

    Bad:

        ALTER TABLE shop.item ADD CONSTRAINT item_stock CHECK (stock >= 0);

    Good:

        ALTER TABLE shop.item ADD CONSTRAINT item_stock CHECK (stock >= 0) NOT VALID;
    """
    for command, constraint in step.added("CONSTR_CHECK"):
        if not constraint.get("skip_validation") and constraint.get("is_enforced", False):
            message = f"adding a check reads every row of {shown(command.name)} under ACCESS EXCLUSIVE"
            help = "Add it NOT VALID, and VALIDATE it in the next migration."
            yield Finding(message, help, offset=command.offset)


@rule("HF0839", "foreign-key-scans", "adding a foreign key")
def foreign_key_scans(step: Step) -> Iterator[Finding]:
    """ADD FOREIGN KEY reads both tables while neither can be written.

    It takes SHARE ROW EXCLUSIVE on both tables and looks up each row. NOT VALID takes the same locks for a moment
    only; VALIDATE then looks the rows up while both tables are written.

    Fix: add it NOT VALID, and VALIDATE it in the next migration.

    Source: PostgreSQL documentation, ALTER TABLE, Notes.

    Bad:

        ALTER TABLE shop.item ADD CONSTRAINT item_maker_fkey FOREIGN KEY (maker) REFERENCES shop.maker (id);

    Good:

        ALTER TABLE shop.item ADD CONSTRAINT item_maker_fkey FOREIGN KEY (maker) REFERENCES shop.maker (id) NOT VALID;
    """
    for command, constraint in step.added("CONSTR_FOREIGN"):
        if constraint.get("skip_validation") or not constraint.get("is_enforced", False) or _inherited(command):
            continue
        target = shown(step.catalog.find(parsing.name_of(constraint.get("pktable"))))
        message = (
            f"adding a foreign key looks up every row of {shown(command.name)} while it and {target} are read-only"
        )
        help = "Add it NOT VALID, and VALIDATE it in the next migration."
        yield Finding(message, help, offset=command.offset)


@rule("HF0840", "foreign-key-on-partitions", "a foreign key of a partitioned table")
def foreign_key_on_partitions(step: Step) -> Iterator[Finding]:
    """A partitioned table gets a foreign key in one go.

    It takes SHARE ROW EXCLUSIVE on the table, on each partition and on the other table, and looks up every row.
    NOT VALID, the way out elsewhere, is refused before PostgreSQL 18, and no hazard from then on.

    Fix: for each partition, add the same foreign key NOT VALID, and VALIDATE it in a later migration. Added to the
    parent after that, it finds them, reads nothing and is brief.

    Source: PostgreSQL documentation, ALTER TABLE; release notes of 18.

    Bad:

        ALTER TABLE shop.sale ADD CONSTRAINT sale_item_fkey FOREIGN KEY (item) REFERENCES shop.item (sku);

    Good:

        ALTER TABLE shop.sale_2026 ADD CONSTRAINT sale_item_fkey FOREIGN KEY (item) REFERENCES shop.item (sku)
            NOT VALID;
    """
    for command, constraint in step.added("CONSTR_FOREIGN"):
        if not _inherited(command):
            continue
        if constraint.get("skip_validation"):
            if step.catalog.version >= (18,):
                continue
            message = "a foreign key of a partitioned table cannot be NOT VALID before PostgreSQL 18"
        else:
            message = "a foreign key of a partitioned table looks up the rows of all partitions, which are read-only"
        help = "Add it NOT VALID to each partition, validate those in a later migration, then add it to the parent."
        yield Finding(message, help, offset=command.offset)


@rule("HF0841", "key-builds-index", "the index of this key")
def key_builds_index(step: Step) -> Iterator[Finding]:
    """ADD UNIQUE or PRIMARY KEY builds its index under a lock.

    Nobody reads or writes the table until the index stands.

    Fix: CREATE UNIQUE INDEX CONCURRENTLY in a file with `transaction: none`; then ADD CONSTRAINT … USING INDEX, which
    is brief. On a partitioned table: ALTER TABLE ONLY … ADD CONSTRAINT, the same for each partition concurrently,
    then ALTER INDEX … ATTACH PARTITION.

    Source: PostgreSQL documentation, ALTER TABLE, ADD table_constraint_using_index.

    Bad:

        ALTER TABLE shop.item ADD CONSTRAINT item_label_key UNIQUE (label);

    Good:

        -- 0001_build_index.up.sql
        -- transaction: none
        DROP INDEX CONCURRENTLY IF EXISTS shop.item_label_key;
        CREATE UNIQUE INDEX CONCURRENTLY item_label_key ON shop.item (label);
        -- 0002_add_key.up.sql
        ALTER TABLE shop.item ADD CONSTRAINT item_label_key UNIQUE USING INDEX item_label_key;
    """
    for command, constraint in step.added("CONSTR_UNIQUE", "CONSTR_PRIMARY"):
        if "indexname" not in constraint and (command.recurses or not command.table.partitioned):
            yield _built(command, command.table.partitioned)
    for command in step.commands("AT_AddColumn"):
        kinds = {c.get("contype") for c in command.definition.get("constraints", ())}
        if kinds & {"CONSTR_UNIQUE", "CONSTR_PRIMARY"}:
            yield _built(command, command.table.partitioned)


def _built(command: Command, partitioned: bool) -> Finding:
    message = f"the index of this key is built while nobody can read or write {shown(command.name)}"
    help = "Build it first: CREATE UNIQUE INDEX CONCURRENTLY; then ADD CONSTRAINT … USING INDEX."
    if partitioned:
        help = (
            "Use ALTER TABLE ONLY … ADD CONSTRAINT; for each partition build the index concurrently and add it "
            "USING INDEX; then ALTER INDEX … ATTACH PARTITION."
        )
    return Finding(message, help, offset=command.offset)


@rule("HF0842", "primary-key-scans", "a primary key demands NOT NULL")
def primary_key_scans(step: Step) -> Iterator[Finding]:
    """ADD PRIMARY KEY USING INDEX still reads the table.

    A primary key makes its columns NOT NULL. Where they are not yet, each row is looked at under ACCESS EXCLUSIVE,
    although the index is there. Whether they are is known from earlier migrations only.

    Fix: prove NOT NULL first: CHECK (column IS NOT NULL) NOT VALID, VALIDATE in the next migration, SET NOT NULL.

    Source: PostgreSQL documentation, ALTER TABLE, ADD table_constraint_using_index.

    Bad:

        ALTER TABLE shop.item ADD CONSTRAINT item_pkey PRIMARY KEY USING INDEX item_id;

    Good:

        -- 0001_add_proof.up.sql
        ALTER TABLE shop.crate ADD CONSTRAINT crate_code CHECK (code IS NOT NULL) NOT VALID;
        -- 0002_validate_proof.up.sql
        ALTER TABLE shop.crate VALIDATE CONSTRAINT crate_code;
        -- 0003_require_code.up.sql
        ALTER TABLE shop.crate ALTER COLUMN code SET NOT NULL;
        -- 0004_add_key.up.sql
        ALTER TABLE shop.crate ADD CONSTRAINT crate_pkey PRIMARY KEY USING INDEX crate_code_key;
    """
    for command, constraint in step.added("CONSTR_PRIMARY"):
        columns = step.catalog.index_columns.get((command.name[0], str(constraint.get("indexname"))))
        if "indexname" in constraint and (columns is None or not all(map(command.table.proven, columns))):
            what = ", ".join(columns) if columns else f"the columns of {constraint['indexname']}"
            message = f"a primary key demands NOT NULL of {what}, and reads the table to make sure"
            help = "Prove it first: CHECK (… IS NOT NULL) NOT VALID, VALIDATE in the next migration, then SET NOT NULL."
            yield Finding(message, help, offset=command.offset)


@rule("HF0843", "exclusion-builds-index", "an exclusion constraint")
def exclusion_builds_index(step: Step) -> Iterator[Finding]:
    """ADD EXCLUDE builds its index under ACCESS EXCLUSIVE.

    There is no online form: neither NOT VALID nor USING INDEX exists for it.

    Fix: make a new table with the constraint, keep it filled by a trigger, copy the old rows in batches, swap the
    names; or run it while nobody uses the table.

    Source: PostgreSQL documentation, ALTER TABLE.

    Bad:

        ALTER TABLE shop.booking ADD CONSTRAINT booking_span EXCLUDE USING gist (span WITH &&);

    Good:

        CREATE TABLE shop.booking2 (id bigint PRIMARY KEY, span tstzrange, EXCLUDE USING gist (span WITH &&));
    """
    for command, _ in step.added("CONSTR_EXCLUSION"):
        message = f"an exclusion constraint is built while nobody can read or write {shown(command.name)}"
        help = "Make a new table that has it, copy the rows, swap the names; or run it while nobody uses the table."
        yield Finding(message, help, offset=command.offset)


@rule("HF0844", "drop-foreign-key-locks-both", "dropping")
def drop_foreign_key(step: Step) -> Iterator[Finding]:
    """DROP CONSTRAINT of a foreign key locks the table it refers to.

    ACCESS EXCLUSIVE is taken on both tables, although the statement names one. In a transaction that takes other
    locks too, programs that lock in the other order make a deadlock. A constraint that neither an earlier
    migration nor the specs know may be a foreign key. Where the file drops the other table too, nothing is told.

    Fix: drop it in a migration of its own, with a short lock-timeout.

    Source: ATExecDropConstraint() in tablecmds.c.

    Bad:

        ALTER TABLE shop.item DROP CONSTRAINT item_maker_fkey;
        ALTER TABLE shop.maker ADD COLUMN country text;

    Good:

        ALTER TABLE shop.item DROP CONSTRAINT item_maker_fkey;
    """
    if not step.file.script.transactional or len(step.file.parsed) < 2:
        return
    for command in step.commands("AT_DropConstraint"):
        known = command.table.constraints.get(command.subject)
        if known is not None and (known.kind != "foreign_key" or step.is_new(known.references or ("", ""))):
            continue
        if known is not None and known.references is not None and _drops_later(step, known.references):
            continue
        target = shown(known.references) if known is not None and known.references else "the table it refers to"
        perhaps = "" if known is not None else ", if it is a foreign key,"
        message = f"dropping {command.subject}{perhaps} also takes ACCESS EXCLUSIVE on {target}, among other work"
        yield Finding(message, "Drop it in a migration of its own, with a short lock-timeout.", offset=command.offset)


def _drops_later(step: Step, table: Name) -> bool:
    """Whether the file goes on to drop a table, and so locks it anyway."""
    gone = {t for p in step.file.parsed[step.index + 1 :] for t in taken_by(p, step.catalog)}
    return ("table", table) in gone or ("schema", ("", table[0])) in gone


@rule("HF0845", "locks-every-partition", "every partition of")
def locks_every_partition(step: Step) -> Iterator[Finding]:
    """A constraint of a partitioned table locks all its partitions at once.

    ACCESS EXCLUSIVE is taken on the table and on each partition, even with NOT VALID. With thousands of them that
    needs as many entries of the lock table (max_locks_per_transaction), and any one that is busy holds up all.

    Fix: do it partition by partition first, in short transactions; the command on the parent finds it done and is
    brief. Raise max_locks_per_transaction where there are thousands.

    Source: PostgreSQL documentation, ALTER TABLE; max_locks_per_transaction.

    Bad:

        ALTER TABLE shop.sale ADD CONSTRAINT sale_amount CHECK (amount > 0) NOT VALID;

    Good:

        ALTER TABLE shop.sale_2026 ADD CONSTRAINT sale_amount CHECK (amount > 0) NOT VALID;
    """
    for command in step.commands("AT_AddConstraint", "AT_SetNotNull"):
        if not _inherited(command):
            continue
        if command.what == "AT_AddConstraint" and kind_of(command.definition) not in ("check", "not_null"):
            continue
        message = f"every partition of {shown(command.name)} is locked in ACCESS EXCLUSIVE at once"
        yield Finding(message, "Do it partition by partition first, then on the parent.", offset=command.offset)


RULES = (
    check_scans, foreign_key_scans, foreign_key_on_partitions, key_builds_index, primary_key_scans,
    exclusion_builds_index, drop_foreign_key, locks_every_partition,
)  # fmt: skip
