"""Rules on who owns an object, on tables as they should be, and on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provision.migrate.lint import parsing
from provision.migrate.lint.catalog import Catalog, kind_of, name_of_constraint
from provision.migrate.lint.parsing import Name, Parsed, Tree
from provision.migrate.lint.rule import Finding, rule
from provision.migrate.lint.scene import File, Step, shown
from provision.migrate.lint.touching import outside_schemas, placed, touched

__all__ = ["RULES", "Thing", "made_by", "taken_by", "touched"]

#: A thing that a statement makes or takes away: its sort, and its full name.
Thing = tuple[str, tuple[str, ...]]
_TYPES = ("CreateEnumStmt", "CreateDomainStmt", "CompositeTypeStmt", "CreateRangeStmt")


@rule("HF0861", "declared-object", "the specs own", severity="error")
def declared_object(step: Step) -> Iterator[Finding]:
    """DDL on an object of a schema that the specs manage, in a file that does not say so.

    A schema has one owner of its DDL. Where it says `managed: declarative`, the specs do: `holdfast apply` makes every
    difference, and would undo what a migration did. Statements that only carry data are free, and so is all
    DDL in schemas with `managed: migrations`, or of which the specs say nothing. Roles and extensions that the specs
    declare are theirs too; publications are not, because no spec declares one.

    A file that does by hand what the specs say too, for example in steps that lock less, has the line
    `-- covered-by: specs`: a plane that apply made does not need it, and `holdfast migrate verify` holds the sum of the
    files to the specs. `holdfast migrate new --from-plan` writes such files.

    Fix: change the specs, and leave the statement out or say `-- covered-by: specs`; or set `managed: migrations` on
    the schema, and the migrations own it from then on.

    Source: docs/design.md, Postgres.

    Bad:

        ALTER TABLE agents.state ADD COLUMN note text;

    Good:

        -- covered-by: specs
        ALTER TABLE agents.state ADD COLUMN note text;
    """
    if step.file.migration.covered:
        return
    if step.parsed.kind == "GrantStmt" and not step.tree.get("objects"):
        return
    for name in dict.fromkeys(touched(step.parsed, step.catalog)):
        if name[0] in step.catalog.declarative:
            what = shown(name) if name[1] else f"the schema {name[0]}"
            message = f"the specs own {what}: its schema is managed: declarative"
            help = (
                "Change the specs and let apply make the difference; where they say the same as this file, begin it"
                f" with -- covered-by: specs; or set managed: migrations on {name[0]}."
            )
            yield Finding(message, help)
            return
    if (home := _home_of_extension(step.tree)) in step.catalog.declarative:
        message = f"the specs own the schema {home}, and what an extension makes there they would not know"
        yield Finding(message, "Put the extension into a schema of its own, or declare it in the specs.")
        return
    for sort, own in outside_schemas(step.parsed):
        if own in step.catalog.declared.get(sort, ()):
            help = "Change the specs and let apply make the difference."
            yield Finding(f"the specs own the {sort} {own}", help)
            return


def _home_of_extension(tree: Tree) -> str:
    """The schema that CREATE EXTENSION or ALTER EXTENSION … SET SCHEMA names; empty for none."""
    if tree.get("node") == "AlterObjectSchemaStmt" and tree.get("object_type") == "OBJECT_EXTENSION":
        return str(tree.get("newschema", ""))
    options = tree.get("options", ()) if tree.get("node") == "CreateExtensionStmt" else ()
    return next((str(o.get("arg", {}).get("sval", "")) for o in options if o.get("defname") == "schema"), "")


@rule("HF0862", "table-without-primary-key", "a table without a primary key")
def table_without_primary_key(step: Step) -> Iterator[Finding]:
    """A table is created without a primary key.

    Its rows cannot be named: logical replication refuses UPDATE and DELETE, and duplicates cannot be told apart.

    Fix: declare PRIMARY KEY. Partitions and temporary tables are exempt, and so is a key that the same file adds.

    Source: PostgreSQL documentation, Logical Replication, Publication.

    Bad:

        CREATE TABLE shop.note (body text NOT NULL);

    Good:

        CREATE TABLE shop.note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
    """
    tree = step.tree
    if step.kind == "CreateTableAsStmt" and tree.get("objtype") == "OBJECT_TABLE":
        relation = tree.get("into", {}).get("rel", {})
    elif step.kind == "CreateStmt" and not tree.get("inh_relations") and "of_typename" not in tree:
        relation = tree.get("relation", {})
    else:
        return
    elements = tree.get("table_elts", ())
    keyed = any(c.get("contype") == "CONSTR_PRIMARY" for c in parsing.nodes(elements, "Constraint"))
    copied = any(e.get("node") == "TableLikeClause" and e.get("options", 0) & _LIKE_INDEXES for e in elements)
    name = placed(parsing.name_of(relation), step.catalog)
    if keyed or copied or relation.get("relpersistence") == "t" or _keyed_later(step, name):
        return
    yield Finding(f"a table without a primary key: {shown(name)}", "Declare PRIMARY KEY.")


#: CREATE_TABLE_LIKE_INDEXES of parsenodes.h.
_LIKE_INDEXES = 1 << 6


def _keyed_later(step: Step, name: Name) -> bool:
    """Whether the rest of the file, the block at hand included, gives a table its key or makes it a partition."""
    for parsed in (inner for outer in step.file.parsed[step.index :] for inner in parsing.unfolded(outer)):
        is_own = parsing.name_of(parsed.tree.get("relation"))[1] == name[1]
        for command in parsed.tree.get("cmds", ()) if parsed.kind == "AlterTableStmt" else ():
            attached = command.get("subtype") == "AT_AttachPartition"
            if attached and (is_own or parsing.name_of(command.get("def", {}).get("name"))[1] == name[1]):
                return True
            inner = parsing.nodes(command, "Constraint")
            if is_own and any(c.get("contype") == "CONSTR_PRIMARY" for c in inner):
                return True
    return False


@rule("HF0863", "down-missing", "no way back", scope="file")
def down_missing(file: File) -> Iterator[Finding]:
    """A migration has no down file.

    `migrate down` stops here, and everything older than this migration is out of reach.

    Fix: write the .down.sql; where there is no way back, a down file that raises an exception says so to whoever
    tries.

    Source: docs/design.md.

    Bad:

        -- 0001_add_colour.up.sql
        ALTER TABLE shop.item ADD COLUMN colour text;

    Good:

        -- 0001_add_colour.up.sql
        ALTER TABLE shop.item ADD COLUMN colour text;
        -- 0001_add_colour.down.sql
        ALTER TABLE shop.item DROP COLUMN colour;
    """
    if file.way == "up" and file.migration.down is None:
        down = file.script.file.removesuffix(".up.sql") + ".down.sql"
        yield Finding("no way back: this migration has no down file", f"Write {down.rsplit('/', 1)[-1]}.")


def made_by(parsed: Parsed, catalog: Catalog) -> Iterator[Thing]:
    """What a statement makes and its down file should take away."""
    tree, kind = parsed.tree, parsed.kind
    if kind == "CreateStmt":
        yield "table", catalog.find(parsing.name_of(tree.get("relation")))
    elif kind == "CreateTableAsStmt":
        sort = "materialized view" if tree.get("objtype") == "OBJECT_MATVIEW" else "table"
        yield sort, catalog.find(parsing.name_of(tree.get("into", {}).get("rel")))
    elif kind == "ViewStmt" and not tree.get("replace"):
        yield "view", catalog.find(parsing.name_of(tree.get("view")))
    elif kind == "IndexStmt" and "idxname" in tree:
        table = catalog.find(parsing.name_of(tree.get("relation")))
        yield "index", (table[0], str(tree["idxname"]))
    elif kind == "CreateSeqStmt":
        yield "sequence", catalog.find(parsing.name_of(tree.get("sequence")))
    elif kind == "CreateSchemaStmt":
        yield "schema", ("", str(tree.get("schemaname", "")))
    elif kind in _TYPES:
        items = parsing.name_of(tree["typevar"]) if "typevar" in tree else None
        yield "type", items or parsing.dotted(tree.get("domainname") or tree.get("type_name"))
    elif kind == "CreateFunctionStmt" and not tree.get("replace"):
        yield "routine", parsing.dotted(tree.get("funcname"))
    elif kind == "CreateTrigStmt" and not tree.get("replace"):
        yield "trigger", (*catalog.find(parsing.name_of(tree.get("relation"))), str(tree.get("trigname", "")))
    elif kind == "CreatePolicyStmt":
        yield "policy", (*catalog.find(parsing.name_of(tree.get("table"))), str(tree.get("policy_name", "")))
    elif kind == "AlterTableStmt" and tree.get("objtype") == "OBJECT_TABLE":
        yield from _made_in_table(tree, catalog)


def _made_in_table(tree: Tree, catalog: Catalog) -> Iterator[Thing]:
    name = catalog.find(parsing.name_of(tree.get("relation")))
    for command in tree.get("cmds", ()):
        definition = command.get("def", {})
        if command.get("subtype") == "AT_AddColumn":
            yield "column", (*name, str(definition.get("colname", "")))
        elif command.get("subtype") == "AT_AddConstraint" and (sort := kind_of(definition)) is not None:
            if sort == "check" and "conname" not in definition:
                continue  # the server makes its name of the columns that the condition reads
            yield "constraint", (*name, name_of_constraint(name[1], definition, sort))


_DROPPED = {
    "OBJECT_TABLE": "table", "OBJECT_VIEW": "view", "OBJECT_MATVIEW": "materialized view", "OBJECT_INDEX": "index",
    "OBJECT_SEQUENCE": "sequence", "OBJECT_SCHEMA": "schema", "OBJECT_TYPE": "type", "OBJECT_DOMAIN": "type",
    "OBJECT_FUNCTION": "routine", "OBJECT_PROCEDURE": "routine", "OBJECT_ROUTINE": "routine",
    "OBJECT_TRIGGER": "trigger", "OBJECT_POLICY": "policy",
}  # fmt: skip


def taken_by(parsed: Parsed, catalog: Catalog) -> Iterator[Thing]:
    """What a statement takes away."""
    tree = parsed.tree
    if parsed.kind == "DropStmt":
        sort = _DROPPED.get(str(tree.get("remove_type")), "")
        for item in tree.get("objects", ()):
            if sort in ("trigger", "policy"):
                *table, own = parsing.strings(item.get("items", ())) or ["", ""]
                yield sort, (*catalog.find(("", *table)[-2:]), own)  # type: ignore[arg-type]
            elif sort in ("schema", "type", "routine"):
                yield sort, parsing.dotted(item)
            else:
                yield sort, catalog.find(parsing.dotted(item))
    elif parsed.kind == "AlterTableStmt":
        name = catalog.find(parsing.name_of(tree.get("relation")))
        for command in tree.get("cmds", ()):
            what = {"AT_DropColumn": "column", "AT_DropConstraint": "constraint"}.get(str(command.get("subtype")))
            if what is not None:
                yield what, (*name, str(command.get("name", "")))


@rule("HF0864", "down-does-not-revert", "after down and up", scope="file")
def down_does_not_revert(file: File) -> Iterator[Finding]:
    """The down file leaves something that the up file makes.

    A second up then finds the name taken (SQLSTATE 42P07 and its kin). What goes together with its table counts as
    gone. Compared are names of objects, not their content; `holdfast migrate verify` runs both.

    Fix: drop in the down file, in reverse order, what the up file makes.

    Source: docs/design.md.

    Bad:

        -- 0001_add_notes.up.sql
        CREATE TABLE shop.note (id bigint PRIMARY KEY);
        CREATE TABLE shop.note_tag (id bigint PRIMARY KEY);
        -- 0001_add_notes.down.sql
        DROP TABLE shop.note;

    Good:

        -- 0001_add_notes.up.sql
        CREATE TABLE shop.note (id bigint PRIMARY KEY);
        CREATE TABLE shop.note_tag (id bigint PRIMARY KEY);
        -- 0001_add_notes.down.sql
        DROP TABLE shop.note_tag;
        DROP TABLE shop.note;
    """
    down = file.migration.down
    if file.way != "up" or down is None:
        return
    back = [p for outer in file.other for p in parsing.unfolded(outer)]
    if any(p.fault is not None or p.kind in ("DoStmt", "CallStmt", "RenameStmt") for p in back):
        return
    gone = {t for p in back for t in taken_by(p, file.catalog)}
    if any(p.tree.get("behavior") == "DROP_CASCADE" for p in back):
        return
    for thing, (index, parsed) in _left_by(file).items():
        if (
            thing not in gone
            and not _named_in_block(thing, file.parsed[index + 1 :])
            and not _goes_along(thing, gone, parsed, file)
        ):
            sort, name = thing
            message = f"after down and up again the {sort} {'.'.join(p for p in name if p)} is still there"
            yield Finding(message, f"Drop it in {down.file.rsplit('/', 1)[-1]}.", index)


def _left_by(file: File) -> dict[Thing, tuple[int, Parsed]]:
    """What the statements of a file make and leave, each with the statement that made it.

    What comes in the place of something that was renamed away is not new. An index that a constraint takes over or
    that is attached to another goes with that.
    """
    made: dict[Thing, tuple[int, Parsed]] = {}
    replaced: set[Thing] = set()
    for index, outer in enumerate(file.parsed):
        for parsed in parsing.unfolded(outer):
            for thing in taken_by(parsed, file.catalog):
                if made.pop(thing, None) is None:
                    replaced.add(thing)
            for old, new in _renamed_by(parsed, file.catalog):
                known = made.pop(old, None)
                if known is None:
                    replaced.add(old)
                elif new not in replaced:
                    made[new] = known
            for thing in _absorbed_by(parsed, file.catalog):
                made.pop(thing, None)
            made.update({thing: (index, parsed) for thing in made_by(parsed, file.catalog) if thing not in replaced})
    return made


def _renamed_by(parsed: Parsed, catalog: Catalog) -> Iterator[tuple[Thing, Thing]]:
    """The old and the new name of what a statement renames."""
    tree = parsed.tree
    sort, new = _DROPPED.get(str(tree.get("rename_type"))), str(tree.get("newname", ""))
    if parsed.kind != "RenameStmt":
        return
    if sort in ("type", "routine"):
        name = parsing.dotted(tree.get("object"))
        yield (sort, name), (sort, (name[0], new))
    elif sort is not None and "relation" in tree and sort not in ("trigger", "policy"):
        name = catalog.find(parsing.name_of(tree["relation"]))
        yield (sort, name), (sort, (name[0], new))
    elif (inner := _INNER.get(str(tree.get("rename_type")))) is not None:
        name = catalog.find(parsing.name_of(tree.get("relation")))
        yield (inner, (*name, str(tree.get("subname", "")))), (inner, (*name, new))


_INNER = {
    "OBJECT_COLUMN": "column", "OBJECT_TABCONSTRAINT": "constraint", "OBJECT_TRIGGER": "trigger",
    "OBJECT_POLICY": "policy",
}  # fmt: skip


def gone_by(parsed: Parsed, catalog: Catalog) -> Iterator[tuple[str, ...]]:
    """The names of what a statement drops, detaches or renames: (schema, name), ("", schema), ("role", name) …"""
    yield from (name for _, name in taken_by(parsed, catalog))
    yield from (old[1] for old, _ in _renamed_by(parsed, catalog))
    if parsed.kind in ("DropStmt", "DropRoleStmt", "DropdbStmt"):
        yield from outside_schemas(parsed)
    if parsed.kind == "RenameStmt" and parsed.tree.get("rename_type") == "OBJECT_SCHEMA":
        yield "", str(parsed.tree.get("subname", ""))
    for command in parsed.tree.get("cmds", ()) if parsed.kind == "AlterTableStmt" else ():
        if command.get("subtype") == "AT_DetachPartition":
            yield placed(parsing.name_of(command.get("def", {}).get("name")), catalog)


def _absorbed_by(parsed: Parsed, catalog: Catalog) -> Iterator[Thing]:
    """The indexes that become a constraint's, or a part of another index."""
    if parsed.kind != "AlterTableStmt":
        return
    name = catalog.find(parsing.name_of(parsed.tree.get("relation")))
    for command in parsed.tree.get("cmds", ()):
        definition = command.get("def", {})
        if "indexname" in definition:
            yield "index", (name[0], str(definition["indexname"]))
        if parsed.tree.get("objtype") == "OBJECT_INDEX" and command.get("subtype") == "AT_AttachPartition":
            part = parsing.name_of(definition.get("name"))
            yield "index", (part[0] or name[0], part[1])


def _named_in_block(thing: Thing, after: Sequence[Parsed]) -> bool:
    """Whether a DO block that is no plain list speaks of an object: what it does with it, nobody reads."""
    return any(
        thing[1][-1] in p.statement.text for p in after if p.kind == "DoStmt" and parsing.statements_of_do(p) is None
    )


def _goes_along(thing: Thing, gone: set[Thing], parsed: Parsed, file: File) -> bool:
    """Whether an object vanishes with its table, its partitioned parent or a column."""
    tables = [file.catalog.find(parsing.name_of(parsed.tree[k])) for k in ("relation", "table") if k in parsed.tree]
    tables += [file.catalog.find(parsing.name_of(r)) for r in parsed.tree.get("inh_relations", ())]
    if thing[0] == "constraint" and any(sort == "column" and name[:2] == thing[1][:2] for sort, name in gone):
        return True
    if thing[0] == "index" and any(sort == "column" and name[:2] == tables[0] for sort, name in gone):
        return True
    return any(("table", table) in gone or ("schema", ("", table[0])) in gone for table in (*tables, thing[1][:2]))


@rule("HF0865", "row-security-without-policy", "row security without")
def row_security_without_policy(step: Step) -> Iterator[Finding]:
    """ENABLE ROW LEVEL SECURITY before there is a policy.

    From then on everybody but the owner sees no row and writes none. Within one transaction nobody notices if the
    policies follow; without one, they must come first. DISABLE comes before the policies go, for the same reason.

    Fix: CREATE POLICY first, ENABLE last.

    Source: PostgreSQL documentation, Row Security Policies.

    Bad:

        ALTER TABLE shop.item ENABLE ROW LEVEL SECURITY;

    Good:

        CREATE POLICY everybody ON shop.item USING (true);
        ALTER TABLE shop.item ENABLE ROW LEVEL SECURITY;
    """
    for command in step.commands("AT_EnableRowSecurity"):
        following = step.file.parsed[step.index + 1 :] if step.file.script.transactional else ()
        later = any(
            p.kind == "CreatePolicyStmt" and step.catalog.find(parsing.name_of(p.tree.get("table"))) == command.name
            for p in following
        )
        if not command.table.policies and not later:
            message = f"row security without a policy hides every row of {shown(command.name)} from all but its owner"
            yield Finding(message, "Create the policies first, and enable row security last.", offset=command.offset)


@rule("HF0871", "runners-own", "the runner needs", severity="error")
def runners_own(step: Step) -> Iterator[Finding]:
    """A file lets go of the runner's lock, or writes to its history.

    The lock keeps a second runner away, and the tables of the schema `migrations` say what was applied. A file that
    changes them makes the next run do work twice or leave it out.

    Fix: leave it out. `holdfast migrate baseline` records files as applied; `pg_advisory_unlock(key)` lets go of one
    lock. Privileges on the tables, their comments and indexes are yours.

    Source: docs/design.md, Postgres.

    Bad:

        SELECT pg_advisory_unlock_all();

    Good:

        SELECT pg_advisory_unlock(7);
    """
    calls = [name.removeprefix("pg_catalog.") for name in parsing.called(step.tree)]
    if _UNLOCKS in calls or (step.kind in ("DoStmt", "CallStmt") and _UNLOCKS in step.parsed.statement.text.lower()):
        yield Finding(f"the runner needs its lock until the file is done: {_UNLOCKS}() lets go of it", "Leave it out.")
    names: list[Name] = []
    for tree in parsing.walk(step.tree):
        kind = tree.get("node")
        if kind in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt") or (
            kind == "CopyStmt" and "is_from" in tree
        ):
            names.append(placed(parsing.name_of(tree.get("relation")), step.catalog))
    if step.kind == "TruncateStmt":
        names += (placed(parsing.name_of(r), step.catalog) for r in step.tree.get("relations", ()))
    elif step.kind in ("DropStmt", "RenameStmt", "AlterObjectSchemaStmt"):
        names += touched(step.parsed, step.catalog)
    if any(name[0] == _HISTORY for name in names):
        help = "Leave it out; holdfast migrate baseline records files as applied."
        yield Finding(f"the runner needs its history as it is, in the schema {_HISTORY}", help)


_UNLOCKS = "pg_advisory_unlock_all"
_HISTORY = "migrations"
RULES = (
    declared_object, table_without_primary_key, down_missing, down_does_not_revert, row_security_without_policy,
    runners_own,
)  # fmt: skip
