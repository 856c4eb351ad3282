"""Rules on what a file does as a whole: its transaction, its time-outs, and what happens when it is run again."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import File, Step, locks, shown
from provision.migrate.statements import may_commit, runs_alone, shows_its_effect, words

_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt")
_ROW_CHANGES = ("UpdateStmt", "DeleteStmt", "MergeStmt")


@rule("HF0820", "statement-not-parsed", "PostgreSQL cannot read this", severity="error")
def not_parsed(step: Step) -> Iterator[Finding]:
    """PostgreSQL's parser refuses the statement.

    The statement was read by the parser of PostgreSQL 18; the server would stop at the same place with a syntax
    error (SQLSTATE 42601). Nothing else was looked at in this statement.

    Fix: correct the SQL.

    Source: PostgreSQL documentation, SQL commands.

    Bad:

        CRATE INDEX item_sku ON shop.item (sku);

    Good:

        CREATE TABLE shop.item (sku text PRIMARY KEY);
    """
    fault = step.parsed.fault
    if fault is not None and fault.syntax:
        yield Finding(f"PostgreSQL cannot read this: {fault.message}", "Correct the SQL.", offset=fault.offset)


@rule("HF0821", "statement-not-looked-at", "this statement was not looked at")
def not_looked_at(step: Step) -> Iterator[Finding]:
    """The statement is valid, perhaps, but too deep to be looked at.

    Expressions nested more than about fifty times, such as a long chain of || or UNION ALL, exceed what the
    parser hands over. The statement may be sound; no rule has judged it.

    Fix: cut it into several statements, or look at it yourself.

    Source: provision/migrate/lint/parsing.py.

    Bad:

        SELECT 1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1;

    Good:

        SELECT 52;
    """
    fault = step.parsed.fault
    if fault is not None and not fault.syntax:
        message = f"this statement was not looked at: {fault.message}"
        yield Finding(message, "Cut it into several statements, or look at it yourself.", offset=fault.offset)


@rule("HF0822", "enum-value-used-early", "the new enum value", severity="error")
def enum_value_used_early(step: Step) -> Iterator[Finding]:
    """An enum value is used in the transaction that adds it.

    ALTER TYPE … ADD VALUE may run in a transaction, but the value cannot be used before that transaction has
    committed (SQLSTATE 55P04). A file without `transaction: none` is one transaction.

    Fix: add the value in a migration of its own, and use it in the next.

    Source: PostgreSQL documentation, ALTER TYPE.

    Bad:

        ALTER TYPE shop.order_status ADD VALUE 'returned';
        UPDATE shop.orders SET status = 'returned' WHERE returned_at IS NOT NULL;

    Good:

        ALTER TYPE shop.order_status ADD VALUE 'returned';
    """
    if not step.file.script.transactional:
        return
    made = {parsing.dotted(p.tree.get("type_name")) for p in step.before() if p.kind == "CreateEnumStmt"}
    added = {
        p.tree["new_val"]
        for p in step.before()
        if _adds_value(p.kind, p.tree) and parsing.dotted(p.tree.get("type_name")) not in made
    }
    for constant in parsing.nodes(step.tree, "A_Const"):
        value = constant.get("sval", {}).get("sval")
        if value in added:
            message = f"the new enum value '{value}' cannot be used before the transaction that adds it has committed"
            help = "Put ALTER TYPE … ADD VALUE into a migration of its own, before this one."
            yield Finding(message, help, offset=step.parsed.offset(constant.get("location", 0)))


def _adds_value(kind: str, tree: parsing.Tree) -> bool:
    return kind == "AlterEnumStmt" and "old_val" not in tree and "new_val" in tree


@rule("HF0823", "lock-timeout-off", "no lock_timeout")
def lock_timeout_off(step: Step) -> Iterator[Finding]:
    """A statement waits for its lock without a limit.

    While it waits, everybody who comes later waits behind it, even for locks that would not conflict: one long
    SELECT and one ALTER TABLE stop a table. With a time-out the migration gives up, and is tried again.
    CREATE INDEX CONCURRENTLY and its kin hold up nobody while they wait: there no limit is right.

    Fix: leave the lock-timeout of the runner as it is, or declare a short one.

    Source: PostgreSQL documentation, lock_timeout; Explicit Locking.

    Bad:

        -- lock-timeout: 0
        ALTER TABLE shop.item ADD COLUMN colour text;

    Good:

        -- lock-timeout: 2s
        ALTER TABLE shop.item ADD COLUMN colour text;
    """
    if step.kind == "VariableSetStmt" and step.tree.get("name") == "lock_timeout":
        values = [a.get("ival", {}).get("ival", a.get("sval", {}).get("sval", 0)) for a in step.tree.get("args", ())]
        if step.tree.get("kind") != "VAR_SET_VALUE" or any(str(v).strip("ms ") == "0" for v in values):
            yield Finding("no lock_timeout from here on: everybody waits behind a statement that waits", _TIMEOUT_HELP)
    elif step.file.script.lock_timeout_ns == 0 and locks(step.parsed) and _lock_on_others(step):
        yield Finding("no lock_timeout limits how long others wait behind this statement", _TIMEOUT_HELP)


_TIMEOUT_HELP = "Declare a short one in the header, such as -- lock-timeout: 3s; the runner tries again."


def _lock_on_others(step: Step) -> bool:
    relation = step.tree.get("relation")
    return relation is None or "partbound" in step.tree or not step.is_new(parsing.name_of(relation))


@rule("HF0824", "setting-outlives-its-transaction", "SET changes")
def setting_outlives(step: Step) -> Iterator[Finding]:
    """A setting is made for the session, not for the transaction.

    The runner takes every setting back after a file. Anything else that runs the file does not: with psql, or over a
    pooled connection, a search_path or role set here decides where later statements put their tables. (In a file
    with `transaction: none` the reader refuses SET, HF0809.)

    Fix: write SET LOCAL.

    Source: PostgreSQL documentation, SET.

    Bad:

        SET search_path = shop;
        UPDATE shop.item SET colour = 'red' WHERE colour IS NULL;

    Good:

        SET LOCAL search_path = shop;
        UPDATE shop.item SET colour = 'red' WHERE colour IS NULL;
    """
    tree = step.tree
    if not step.file.script.transactional:
        return
    if step.kind == "VariableSetStmt" and tree.get("kind") in ("VAR_SET_VALUE", "VAR_SET_DEFAULT", "VAR_SET_CURRENT"):
        local, name = bool(tree.get("is_local")), str(tree.get("name", "it"))
    elif (call := _set_config(step)) is not None:
        local, name = call
    else:
        return
    if not local:
        message = f"SET changes {name} for the session, not only for this transaction"
        yield Finding(message, "Write SET LOCAL; the runner takes the other back, psql and poolers do not.")


def _set_config(step: Step) -> tuple[bool, str] | None:
    for call in parsing.nodes(step.tree, "FuncCall"):
        arguments = call.get("args", [])
        if parsing.strings(call.get("funcname", ()))[-1:] == ["set_config"] and len(arguments) == 3:
            name = arguments[0].get("sval", {}).get("sval", "it")
            return bool(arguments[2].get("boolval", {}).get("boolval", False)), str(name)
    return None


@rule("HF0825", "effect-not-shown", "after a crash")
def effect_not_shown(step: Step) -> Iterator[Finding]:
    """After a crash nobody could tell whether a statement took effect.

    A file with `transaction: none` that stops half-way is resumed. What a transaction can hold is noted in the same
    transaction, so it is never done twice; indexes that are built concurrently and their kin are looked up in the
    catalogs. Of a procedure that commits, or of a command like CREATE SUBSCRIPTION, nothing shows it: if the runner
    dies between the statement and its note, the next one asks you.

    Fix: write procedures so that they go on where they stopped, say IF EXISTS where the command has it, and put the
    statement into a file of its own. Then the answer is --redo.

    Source: docs/how-to/migrations.md.

    Bad:

        -- transaction: none
        DROP SUBSCRIPTION orders;

    Good:

        -- transaction: none
        DROP SUBSCRIPTION IF EXISTS orders;
    """
    spoken = words(step.parsed.statement.text)
    if step.file.script.transactional or shows_its_effect(spoken):
        return
    if runs_alone(spoken) or may_commit(spoken):
        message = "after a crash nobody could tell whether this statement took effect"
        yield Finding(message, "Make sure that it does no harm twice, and put it into a file of its own.")


def _dropped_before(step: Step) -> bool:
    return any(
        p.kind == "DropStmt" and p.tree.get("missing_ok") and p.tree.get("remove_type") == "OBJECT_INDEX"
        and step.tree.get("idxname") in [parsing.dotted(item)[1] for item in p.tree.get("objects", ())]
        for p in step.before()
    )  # fmt: skip


@rule("HF0826", "invalid-index-kept", "IF NOT EXISTS keeps")
def invalid_index_kept(step: Step) -> Iterator[Finding]:
    """A failed concurrent build stays behind, and IF NOT EXISTS takes it for the index.

    CREATE INDEX CONCURRENTLY that fails or is interrupted leaves an index marked INVALID: it costs at each write
    and serves no query. Run again with IF NOT EXISTS, the statement finds the name taken and succeeds.

    Fix: leave IF NOT EXISTS out; the runner drops what a failed build of its own left, and builds it again.

    Source: PostgreSQL documentation, CREATE INDEX, Building Indexes Concurrently.

    Bad:

        -- transaction: none
        CREATE INDEX CONCURRENTLY IF NOT EXISTS item_colour ON shop.item (colour);

    Good:

        -- transaction: none
        CREATE INDEX CONCURRENTLY item_colour ON shop.item (colour);
    """
    if step.kind == "IndexStmt" and step.tree.get("concurrent") and step.tree.get("if_not_exists"):
        checked = any("indisvalid" in a.sql for a in step.file.script.after)
        if not checked and not _dropped_before(step):
            index = step.tree.get("idxname", "")
            message = f"IF NOT EXISTS keeps {index} even if a failed build left it invalid"
            yield Finding(message, "Leave IF NOT EXISTS out; the runner drops what its own failed build left.")


@rule("HF0827", "writes-without-transaction", "without a transaction", scope="file")
def writes_without_transaction(file: File) -> Iterator[Finding]:
    """Several statements change rows, each in a transaction of its own.

    With `transaction: none` everybody sees the rows between the statements, and a failure leaves the first change
    without the second. Nothing that changes rows needs to run outside a transaction.

    Fix: leave `transaction: none` to the statement that needs it, in a migration of its own.

    Source: PostgreSQL documentation, Transactions.

    Bad:

        -- transaction: none
        UPDATE shop.item SET stock = stock - 1 WHERE sku = 'a';
        UPDATE shop.item SET stock = stock + 1 WHERE sku = 'b';

    Good:

        UPDATE shop.item SET stock = stock - 1 WHERE sku = 'a';
        UPDATE shop.item SET stock = stock + 1 WHERE sku = 'b';
    """
    writes = [i for i, p in enumerate(file.parsed) if p.kind in _WRITES]
    if not file.script.transactional and len(writes) > 1:
        message = "without a transaction, a failure here leaves the rows that came before changed"
        help = "Take -- transaction: none away, or put these statements into a migration with a transaction."
        yield Finding(message, help, writes[1])


@rule("HF0828", "transaction-off-for-nothing", "nothing in this file", scope="file")
def transaction_off(file: File) -> Iterator[Finding]:
    """A file gives its transaction up although every statement may run in one.

    A failure in the middle then leaves the first half applied. Two things need it: statements that PostgreSQL
    refuses in a transaction, and VALIDATE CONSTRAINT after ADD … NOT VALID, which must not share one.

    Fix: take `transaction: none` away.

    Source: PostgreSQL documentation, Transactions.

    Bad:

        -- transaction: none
        ALTER TABLE shop.item ADD COLUMN IF NOT EXISTS colour text;
        ALTER TABLE shop.item ADD COLUMN IF NOT EXISTS size text;

    Good:

        ALTER TABLE shop.item ADD COLUMN colour text;
        ALTER TABLE shop.item ADD COLUMN size text;
    """
    counted = [p for p in file.parsed if p.kind not in ("VariableSetStmt", "SelectStmt")]
    if file.script.transactional or len(counted) < 2 or any(_needs_it(p) for p in counted):
        return
    message = "nothing in this file needs to run outside a transaction, and a failure leaves it half applied"
    yield Finding(message, "Take -- transaction: none away.", file.parsed.index(counted[0]))


def _needs_it(parsed: parsing.Parsed) -> bool:
    tree = parsed.tree
    if parsed.fault is not None or tree.get("concurrent") or parsed.kind in ("CallStmt", "DoStmt", *_WRITES):
        return True
    if parsed.kind == "AlterTableStmt":
        return any(
            c.get("subtype") in ("AT_ValidateConstraint", "AT_DetachPartitionFinalize")
            or bool(c.get("def", {}).get("concurrent"))
            for c in tree.get("cmds", ())
        )
    return parsed.kind in (
        "VacuumStmt", "AlterSystemStmt", "CreatedbStmt", "DropdbStmt", "AlterDatabaseStmt", "CreateTableSpaceStmt",
        "DropTableSpaceStmt", "ReindexStmt", "ClusterStmt", "CreateSubscriptionStmt", "DropSubscriptionStmt",
        "AlterSubscriptionStmt", "AlterEnumStmt",
    )  # fmt: skip


@rule("HF0829", "validated-under-lock", "VALIDATE CONSTRAINT")
def validated_under_lock(step: Step) -> Iterator[Finding]:
    """A constraint is added and validated in one transaction.

    ADD … NOT VALID is brief, but its lock is held until the transaction ends: ACCESS EXCLUSIVE for a check, SHARE
    ROW EXCLUSIVE for a foreign key. The scan of VALIDATE then runs under that lock, and nothing is won.

    Fix: validate in the next migration, or in a file with `transaction: none`.

    Source: PostgreSQL documentation, ALTER TABLE, Notes.

    Bad:

        ALTER TABLE shop.item ADD CONSTRAINT item_stock CHECK (stock >= 0) NOT VALID;
        ALTER TABLE shop.item VALIDATE CONSTRAINT item_stock;

    Good:

        -- 0001_add_check.up.sql
        ALTER TABLE shop.item ADD CONSTRAINT item_stock CHECK (stock >= 0) NOT VALID;
        -- 0002_validate_check.up.sql
        ALTER TABLE shop.item VALIDATE CONSTRAINT item_stock;
    """
    if not step.file.script.transactional:
        return
    for command in step.commands("AT_ValidateConstraint"):
        for parsed in step.file.parsed[: step.index + 1]:
            if _adds_constraint(step, parsed, command.name, command.subject):
                message = "VALIDATE CONSTRAINT scans the table under the lock that adding the constraint still holds"
                yield Finding(message, "Validate in the next migration, or write -- transaction: none in the header.")


def _adds_constraint(step: Step, parsed: parsing.Parsed, table: parsing.Name, constraint: str) -> bool:
    relation = parsing.name_of(parsed.tree.get("relation"))
    return (
        parsed.kind == "AlterTableStmt"
        and step.catalog.find(relation) == table
        and any(
            c.get("subtype") == "AT_AddConstraint" and c.get("def", {}).get("conname") == constraint
            for c in parsed.tree.get("cmds", ())
        )
    )


@rule("HF0830", "rows-changed-under-lock", "rows change while")
def rows_changed_under_lock(step: Step) -> Iterator[Finding]:
    """Rows are changed in the transaction that altered their table.

    ALTER TABLE keeps ACCESS EXCLUSIVE until the transaction ends; the back-fill then runs while nobody can read.

    Fix: alter in one migration, back-fill in the next, in batches if the table is large.

    Source: PostgreSQL documentation, Explicit Locking.

    Bad:

        ALTER TABLE shop.item ADD COLUMN colour text;
        UPDATE shop.item SET colour = 'red' WHERE colour IS NULL;

    Good:

        -- 0001_add_colour.up.sql
        ALTER TABLE shop.item ADD COLUMN colour text;
        -- 0002_fill_colour.up.sql
        UPDATE shop.item SET colour = 'red' WHERE colour IS NULL;
    """
    if step.kind not in _ROW_CHANGES or not step.file.script.transactional:
        return
    for parsed in step.before():
        relation = parsing.name_of(parsed.tree.get("relation"))
        if parsed.kind in ("AlterTableStmt", "RenameStmt") and locks(parsed) and not step.is_new(relation):
            message = f"rows change while {shown(relation)}, altered above, is locked against readers"
            yield Finding(message, "Put the change of rows into the next migration.")
            return


RULES = (
    not_parsed, not_looked_at, enum_value_used_early, lock_timeout_off, setting_outlives, effect_not_shown,
    invalid_index_kept, writes_without_transaction, transaction_off, validated_under_lock, rows_changed_under_lock,
)  # fmt: skip
