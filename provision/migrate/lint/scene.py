"""What rules look at: a file's statements in order, and before each one what is known of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from provision.migrate.files import Migration, Script
from provision.migrate.lint import parsing
from provision.migrate.lint.catalog import Catalog, Table
from provision.migrate.lint.parsing import Name, Parsed, Tree

#: ALTER TABLE commands that take no lock which readers or writers notice.
MILD = frozenset(
    "AT_ValidateConstraint AT_SetStatistics AT_SetRelOptions AT_ResetRelOptions AT_SetOptions AT_ResetOptions "
    "AT_ClusterOn AT_DropCluster".split()
)


@dataclass
class File:
    """One script of a migration, up or down."""

    migration: Migration
    script: Script
    way: Literal["up", "down"]
    parsed: tuple[Parsed, ...]
    #: What is known after the last statement.
    catalog: Catalog
    #: The statements of the migration's other file, none where there is no way back.
    other: tuple[Parsed, ...] = ()
    #: Tables that the file itself has made so far: nobody else can be waiting for them.
    created: set[Name] = field(default_factory=set)
    #: The codes that rules found in it, those that it allows among them.
    told: set[str] = field(default_factory=set)
    #: The names of what this file or a later one takes away, by ``agreement.gone_by``.
    gone: frozenset[tuple[str, ...]] = frozenset()
    #: What the up file makes, once a rule has asked.
    made_up: frozenset[tuple[str, tuple[str, ...]]] | None = None


class Command(NamedTuple):
    """One command of an ALTER TABLE on a table that others may use."""

    name: Name
    table: Table
    tree: Tree
    offset: int
    recurses: bool

    @property
    def what(self) -> str:
        return str(self.tree.get("subtype", ""))

    @property
    def subject(self) -> str:
        """The column or constraint that the command names."""
        return str(self.tree.get("name", ""))

    @property
    def definition(self) -> dict[str, Any]:
        found = self.tree.get("def")
        return found if isinstance(found, dict) else {}


@dataclass
class Step:
    """One statement, and what is known before it."""

    file: File
    index: int
    parsed: Parsed
    catalog: Catalog

    @property
    def tree(self) -> Tree:
        return self.parsed.tree

    @property
    def kind(self) -> str:
        return self.parsed.kind

    def is_new(self, name: Name) -> bool:
        """Whether the file itself made this table."""
        return self.catalog.find(name) in self.file.created

    def commands(self, *wanted: str) -> Iterator[Command]:
        """The commands of an ALTER TABLE, of the named kinds or all; none on a table that the file made."""
        if self.kind != "AlterTableStmt" or self.tree.get("objtype") != "OBJECT_TABLE":
            return
        relation = self.tree.get("relation", {})
        name = self.catalog.find(parsing.name_of(relation))
        if name in self.file.created:
            return
        for tree in self.tree.get("cmds", ()):
            if not wanted or tree.get("subtype") in wanted:
                definition = tree.get("def", {})
                place = definition.get("location", 0) or definition.get("type_name", {}).get("location", 0)
                yield Command(name, self.catalog.table(name), tree, self.parsed.offset(place), "inh" in relation)

    def added(self, *kinds: str) -> Iterator[tuple[Command, Tree]]:
        """The constraints that an ALTER TABLE adds by themselves, of these ``contype``."""
        for command in self.commands("AT_AddConstraint"):
            if command.definition.get("contype") in kinds:
                yield command, command.definition

    def before(self) -> Iterator[Parsed]:
        """The statements that stand before this one in the file."""
        return iter(self.file.parsed[: self.index])

    def note(self, parsed: Parsed) -> None:
        """Remember which tables a statement made."""
        relation = parsed.tree.get("relation") if parsed.kind == "CreateStmt" else None
        if parsed.kind == "CreateTableAsStmt":
            relation = parsed.tree.get("into", {}).get("rel")
        if relation:
            name = parsing.name_of(relation)
            self.file.created.add((name[0] or self.catalog.home, name[1]))


def shown(name: Name) -> str:
    """A name as messages write it."""
    return ".".join(part for part in name if part)


def locks(parsed: Parsed) -> bool:
    """Whether a statement takes a lock on a relation that somebody may be using, other than a writer's own."""
    tree = parsed.tree
    if parsed.kind == "AlterTableStmt":
        return any(c.get("subtype") not in MILD for c in tree.get("cmds", ()))
    if parsed.kind == "IndexStmt":
        return not tree.get("concurrent", False)
    if parsed.kind == "DropStmt":
        return not tree.get("concurrent", False) and tree.get("remove_type") in (
            "OBJECT_TABLE", "OBJECT_INDEX", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_TRIGGER", "OBJECT_POLICY",
            "OBJECT_SCHEMA", "OBJECT_RULE",
        )  # fmt: skip
    if parsed.kind == "CreateStmt":
        return "partbound" in tree
    if parsed.kind == "ReindexStmt":
        return not parsing.option(tree.get("params", ()), "concurrently")
    if parsed.kind == "VacuumStmt":
        return parsing.option(tree.get("options", ()), "full")
    return parsed.kind in (
        "RenameStmt", "TruncateStmt", "ClusterStmt", "LockStmt", "CreateTrigStmt", "CreatePolicyStmt",
        "AlterPolicyStmt", "RefreshMatViewStmt", "AlterObjectSchemaStmt", "RuleStmt",
    )  # fmt: skip
