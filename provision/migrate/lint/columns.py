"""Rules on columns: adding one, its NOT NULL, its type, its name."""

from __future__ import annotations

from collections.abc import Iterator

from provision.migrate.lint import parsing
from provision.migrate.lint.catalog import canonical, read_type
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import Command, Step, shown
from provision.postgres import conversions
from provision.postgres.types import TypeName
from provision.postgres.volatility import is_volatile

_SERIAL = frozenset("serial bigserial smallserial serial4 serial8 serial2".split())
_ONLINE = (
    "Add the column without it, let SET DEFAULT serve new rows, fill the old ones in batches, then prove NOT NULL "
    "by a CHECK added NOT VALID and validated."
)


def _constraints(column: parsing.Tree) -> dict[str, parsing.Tree]:
    return {str(c.get("contype")): c for c in column.get("constraints", ())}


def why_rewritten(step: Step, column: parsing.Tree) -> str | None:
    """What makes ADD COLUMN write every row; None where it only changes the catalog."""
    held = _constraints(column)
    written = parsing.type_text(column.get("type_name"))
    if written in _SERIAL:
        return f"{written} takes a value of its sequence for each row"
    if "CONSTR_IDENTITY" in held:
        return "an identity column takes a value for each row"
    generated = held.get("CONSTR_GENERATED")
    if generated is not None and generated.get("generated_kind") != "v":
        return "a stored generated column is computed for each row"
    default = held.get("CONSTR_DEFAULT", {}).get("raw_expr")
    if default is not None and (volatile := _volatile(default)) is not None:
        return f"the default calls {volatile}, which may give each row another value"
    return _domain_reason(step, canonical(column.get("type_name")))


def _volatile(expression: parsing.Tree) -> str | None:
    return next((f"{name}()" for name in parsing.called(expression) if is_volatile(f"{name}()")), None)


def _domain_reason(step: Step, type_name: str | None) -> str | None:
    parsed = read_type(type_name)
    if parsed is None or parsed.schema is None or parsed.is_array:
        return None
    known = step.catalog.domains.get((parsed.schema, parsed.name))
    if known is None and (parsed.schema, parsed.name) not in step.catalog.types:
        return f"nothing is known of the type {type_name}, which may be a domain with constraints"
    return f"the domain {type_name} has constraints, which are tested for each row" if known and known[0] else None


@rule("HF0831", "add-column-rewrites", "adding")
def add_column_rewrites(step: Step) -> Iterator[Finding]:
    """ADD COLUMN writes every row of the table.

    A default that is the same for all rows (a constant, now()) is kept in the catalog, and the command is brief. A
    volatile default, serial, identity, a stored generated column, and a domain with constraints make PostgreSQL
    write the whole table and build all its indexes again, under ACCESS EXCLUSIVE: nobody reads or writes meanwhile.

    Fix: add the column without it, SET DEFAULT for new rows, fill the old ones in batches, then prove NOT NULL by a
    CHECK that is added NOT VALID and validated.

    Source: PostgreSQL documentation, ALTER TABLE, Notes; ATExecAddColumn() in tablecmds.c.

    Bad:

        ALTER TABLE shop.item ADD COLUMN token uuid DEFAULT gen_random_uuid();

    Good:

        ALTER TABLE shop.item ADD COLUMN token uuid;
        ALTER TABLE shop.item ALTER COLUMN token SET DEFAULT gen_random_uuid();
    """
    for command in step.commands("AT_AddColumn"):
        reason = why_rewritten(step, command.definition)
        if reason is not None:
            column = command.definition.get("colname")
            message = f"adding {column} rewrites {shown(command.name)} under ACCESS EXCLUSIVE: {reason}"
            yield Finding(message, _ONLINE, offset=command.offset)


@rule("HF0832", "required-column-without-default", "rows that are there", severity="error")
def required_without_default(step: Step) -> Iterator[Finding]:
    """A column is added NOT NULL without a default.

    The statement fails as soon as the table holds one row (SQLSTATE 23502). It passes on an empty test database.

    Fix: give a constant default, or add the column nullable, fill it, and demand NOT NULL later.

    Source: PostgreSQL documentation, ALTER TABLE.

    Bad:

        ALTER TABLE shop.item ADD COLUMN colour text NOT NULL;

    Good:

        ALTER TABLE shop.item ADD COLUMN colour text NOT NULL DEFAULT 'red';
    """
    for command in step.commands("AT_AddColumn"):
        held = _constraints(command.definition)
        sourced = held.keys() & {"CONSTR_DEFAULT", "CONSTR_IDENTITY", "CONSTR_GENERATED"}
        serial = parsing.type_text(command.definition.get("type_name")) in _SERIAL
        if held.keys() & {"CONSTR_NOTNULL", "CONSTR_PRIMARY"} and not sourced and not serial:
            column = command.definition.get("colname")
            message = f"rows that are there have no value for {column}, which refuses NULL"
            help = "Give a constant default; or add it nullable, fill it, and demand NOT NULL in a later migration."
            yield Finding(message, help, offset=command.offset)


@rule("HF0833", "add-column-scans", "the condition on")
def add_column_scans(step: Step) -> Iterator[Finding]:
    """ADD COLUMN with a CHECK reads the whole table.

    The condition is tested for each row under ACCESS EXCLUSIVE, even where the new column is NULL everywhere. A
    foreign key on a new column with a default does the same with the other table.

    Fix: add the column alone; add the constraint NOT VALID; validate it in the next migration.

    Source: PostgreSQL documentation, ALTER TABLE, Notes.

    Bad:

        ALTER TABLE shop.item ADD COLUMN weight integer CHECK (weight > 0);

    Good:

        ALTER TABLE shop.item ADD COLUMN weight integer;
        ALTER TABLE shop.item ADD CONSTRAINT item_weight CHECK (weight > 0) NOT VALID;
    """
    for command in step.commands("AT_AddColumn"):
        held = _constraints(command.definition)
        filled = "CONSTR_DEFAULT" in held or "CONSTR_GENERATED" in held
        if "CONSTR_CHECK" in held or ("CONSTR_FOREIGN" in held and filled):
            column = command.definition.get("colname")
            message = f"the condition on {column} is tested for every row of {shown(command.name)} under its lock"
            help = "Add the column alone, the constraint as NOT VALID, and validate it in the next migration."
            yield Finding(message, help, offset=command.offset)


@rule("HF0834", "set-not-null-scans", "SET NOT NULL")
def set_not_null_scans(step: Step) -> Iterator[Finding]:
    """SET NOT NULL reads the whole table.

    It looks at each row under ACCESS EXCLUSIVE, unless a validated CHECK (column IS NOT NULL) already proves what
    it looks for. On a partitioned table it locks and reads every partition at once.

    Fix: ADD CONSTRAINT … CHECK (column IS NOT NULL) NOT VALID; VALIDATE it in the next migration, which lets readers
    and writers work; then SET NOT NULL, and DROP the check. On a partitioned table do it partition by partition
    first. PostgreSQL 18 has ADD CONSTRAINT … NOT NULL column NOT VALID for this.

    Source: PostgreSQL documentation, ALTER TABLE; NotNullImpliedByRelConstraints() in tablecmds.c.

    Bad:

        ALTER TABLE shop.item ALTER COLUMN colour SET NOT NULL;

    Good:

        -- 0001_add_proof.up.sql
        ALTER TABLE shop.item ADD CONSTRAINT item_colour CHECK (colour IS NOT NULL) NOT VALID;
        -- 0002_validate_proof.up.sql
        ALTER TABLE shop.item VALIDATE CONSTRAINT item_colour;
        -- 0003_require_colour.up.sql
        ALTER TABLE shop.item ALTER COLUMN colour SET NOT NULL;
        ALTER TABLE shop.item DROP CONSTRAINT item_colour;
    """
    for command in step.commands("AT_SetNotNull"):
        column = command.subject
        if not command.table.proven(column):
            every = " and every partition" if command.table.partitioned else ""
            message = f"SET NOT NULL reads {shown(command.name)}{every} under ACCESS EXCLUSIVE"
            yield Finding(message, _proof(column, command), offset=command.offset)
    for command, constraint in step.added("CONSTR_NOTNULL"):
        columns = parsing.strings(constraint.get("keys", ()))
        if not constraint.get("skip_validation") and not all(map(command.table.proven, columns)):
            message = f"SET NOT NULL in the form of a constraint reads {shown(command.name)} under ACCESS EXCLUSIVE"
            yield Finding(message, "Add it NOT VALID, and validate it in the next migration.", offset=command.offset)


def _proof(column: str, command: Command) -> str:
    where = " of each partition first" if command.table.partitioned else ""
    return (
        f"Add CHECK ({column} IS NOT NULL) NOT VALID{where}, validate it in the next migration, then SET NOT NULL "
        "and drop the check."
    )


@rule("HF0835", "type-change-rewrites", "changing the type of")
def type_change_rewrites(step: Step) -> Iterator[Finding]:
    """ALTER COLUMN TYPE writes every row of the table.

    A length that grows, varchar to text, a wider numeric of the same scale, and the step between timestamp and
    timestamptz in a UTC session only change the catalog. Every other change writes the whole table and builds its
    indexes again under ACCESS EXCLUSIVE, a change of enum or from integer to bigint among them; USING with an
    expression always does. The old type is taken from earlier migrations, else from the specs; where neither knows
    it, a rewrite is assumed.

    Fix: add a column of the new type, keep it filled by a trigger, fill the old rows in batches, then swap the names.
    To shorten a varchar, a CHECK added NOT VALID and validated is enough. To take values out of an enum, put a CHECK
    beside it.

    Source: PostgreSQL documentation, ALTER TABLE; ATColumnChangeRequiresRewrite() in tablecmds.c.

    Bad:

        CREATE TABLE shop.box (id bigint PRIMARY KEY, size integer);
        -- 0002_widen_size.up.sql
        ALTER TABLE shop.box ALTER COLUMN size TYPE bigint;

    Good:

        CREATE TABLE shop.box (id bigint PRIMARY KEY, label varchar(20));
        -- 0002_widen_label.up.sql
        ALTER TABLE shop.box ALTER COLUMN label TYPE varchar(40);
    """
    for command in step.commands("AT_AlterColumnType"):
        reason = _why_retyped(step, command)
        if reason is not None:
            message = f"changing the type of {command.subject} rewrites {shown(command.name)}: {reason}"
            help = "Add a column of the new type, fill it in batches beside the old one, then swap their names."
            yield Finding(message, help, offset=command.offset)


def _why_retyped(step: Step, command: Command) -> str | None:
    new = canonical(command.definition.get("type_name"))
    old = command.table.columns.get(command.subject)
    using = command.definition.get("raw_default")
    if using is not None and not _is_plain(using, command.subject):
        return "USING computes each value"
    if old is None or new is None or (old == new and not command.table.migrated):
        return f"nothing is known of its old type, so the worst is assumed of {new or 'the new one'}"
    new_domain = _domain_reason(step, new)
    if new_domain is not None and old != new:
        return new_domain
    before, after = _below(step, old), _below(step, new)
    if before is None or after is None or conversions.rewrites(before, after):
        return f"{old} becomes {new}"
    return None


def _below(step: Step, type_name: str) -> TypeName | None:
    base = step.catalog.base(type_name)
    return read_type(base)


def _is_plain(expression: parsing.Tree, column: str) -> bool:
    """Whether USING is the column itself, perhaps cast."""
    while expression.get("node") == "TypeCast":
        expression = expression.get("arg", {})
    return parsing.strings(expression.get("fields", ()))[-1:] == [column]


@rule("HF0836", "type-change-meets-view", "views read")
def type_change_meets_view(step: Step) -> Iterator[Finding]:
    """A column changes its type while views read its table.

    PostgreSQL refuses to alter the type of a column that a view, a policy or a generated column uses (SQLSTATE
    0A000). Which columns a view uses is not looked up: that it reads the table is enough for this warning.

    Fix: drop the views before and create them again after, in the same transaction, with their owner, grants and
    comments.

    Source: PostgreSQL documentation, ALTER TABLE.

    Bad:

        CREATE VIEW shop.cheap AS SELECT sku, label FROM shop.crate;
        -- 0002_widen_label.up.sql
        ALTER TABLE shop.crate ALTER COLUMN label TYPE text;

    Good:

        CREATE VIEW shop.cheap AS SELECT sku, label FROM shop.crate;
        -- 0002_widen_label.up.sql
        DROP VIEW shop.cheap;
        ALTER TABLE shop.crate ALTER COLUMN label TYPE text;
        CREATE VIEW shop.cheap AS SELECT sku, label FROM shop.crate;
    """
    for command in step.commands("AT_AlterColumnType"):
        reading = sorted(shown(v) for v, tables in step.catalog.views.items() if command.name in tables)
        if reading:
            message = (
                f"views read {shown(command.name)}: {', '.join(reading)}; the server refuses if they use the column"
            )
            help = "Drop them before and create them again after, in this transaction, with owner, grants and comments."
            yield Finding(message, help, offset=command.offset)


@rule("HF0837", "rename-breaks-clients", "renaming")
def rename(step: Step) -> Iterator[Finding]:
    """A table or column changes its name under running programs.

    The command is brief, but programs that know the old name fail from that moment, and those that know the new
    one failed before: no order of deployment is right.

    Fix: for a table, create a view with the old name in the same transaction; for a column, add the new one, keep
    both equal by a trigger, and drop the old one once nobody uses it.

    Source: PostgreSQL documentation, ALTER TABLE; CREATE VIEW, Updatable Views.

    Bad:

        ALTER TABLE shop.item RENAME TO article;

    Good:

        ALTER TABLE shop.item RENAME TO article;
        CREATE VIEW shop.item AS SELECT * FROM shop.article;
    """
    tree = step.tree
    name = step.catalog.find(parsing.name_of(tree.get("relation")))
    if step.kind != "RenameStmt" or step.is_new(name) or step.file.way == "down":
        return
    if tree.get("rename_type") == "OBJECT_TABLE" and not _has_view(step, name):
        message = f"renaming {shown(name)} to {tree.get('newname')} breaks every program that knows the old name"
        help = f"Create an updatable view {shown(name)} over the new table in the same transaction."
        yield Finding(message, help)
    elif tree.get("rename_type") == "OBJECT_COLUMN" and tree.get("relation_type") == "OBJECT_TABLE":
        message = f"renaming {shown(name)}.{tree.get('subname')} breaks every program that knows the old name"
        help = f"Add {tree.get('newname')}, keep both equal by a trigger, and drop the old one once nobody uses it."
        yield Finding(message, help)


def _has_view(step: Step, name: parsing.Name) -> bool:
    later = step.file.parsed[step.index + 1 :]
    return any(p.kind == "ViewStmt" and parsing.name_of(p.tree.get("view"))[1] == name[1] for p in later)


RULES = (
    add_column_rewrites, required_without_default, add_column_scans, set_not_null_scans, type_change_rewrites,
    type_change_meets_view, rename,
)  # fmt: skip
