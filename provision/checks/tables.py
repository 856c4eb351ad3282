"""A table as rules see it: its record and everything that hangs on it. Pure."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.checks.sqltext import tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provision.checks.sql import Sql
    from provision.spec.record import Pointer, Record


class Key(NamedTuple):
    """A primary key, unique constraint or plain unique index over columns."""

    record: Record
    columns: tuple[str, ...]

    @property
    def noun(self) -> str:
        return {"primary_key": "primary key", "unique": "unique key", "index": "unique index"}[self.record.address.kind]

    @property
    def where(self) -> Pointer:
        return (*(self.record.origin or ()), "columns")


class Table:
    """A declared table with its children by kind. ``node`` is what the document says of it."""

    def __init__(self, record: Record, children: Mapping[str, list[Record]], node: Mapping[str, Any]) -> None:
        self.record = record
        self.schema, self.name = record.address.names[0], record.address.names[-1]
        self.qualified = f"{self.schema}.{self.name}"
        self.target = record.address.target
        self._children = children
        self._written = node.get("columns") or {}

    def of(self, kind: str) -> list[Record]:
        return self._children.get(kind, [])

    @cached_property
    def columns(self) -> dict[str, Record]:
        return {r.address.path[-1]: r for r in self.of("column")}

    def lacks(self, column: str) -> bool:
        """Whether no such column is declared. One that reading refused is declared, if wrongly."""
        return column not in self.columns and column not in self._written

    @cached_property
    def primary_key(self) -> Key | None:
        found = self.of("primary_key")
        return Key(found[0], tuple(found[0].settings.get("columns") or ())) if found else None

    @cached_property
    def keys(self) -> list[Key]:
        """Primary key and unique constraints."""
        unique = [Key(r, tuple(r.settings.get("columns") or ())) for r in self.of("unique")]
        return [self.primary_key, *unique] if self.primary_key else unique

    @cached_property
    def unique_indexes(self) -> list[Key]:
        """Unique indexes over plain columns without predicate."""
        return [
            Key(i.record, tuple(column for column, _ in i.plain))
            for i in self.indexes
            if i.record.settings.get("unique") and not i.record.settings.get("where") and i.plain is not None
        ]

    @cached_property
    def indexes(self) -> list[Index]:
        return [Index(r) for r in self.of("index")]

    @cached_property
    def partitions(self) -> Record | None:
        found = self.of("partitions")
        return found[0] if found else None

    @cached_property
    def partition_key(self) -> tuple[str, ...]:
        return tuple(self.partitions.settings.get("key") or ()) if self.partitions else ()

    def is_nullable(self, column: str) -> bool:
        """Whether a declared column may hold NULL, by its own word, its key or its identity."""
        record = self.columns.get(column)
        if record is None or record.settings.get("nullable") is False or record.settings.get("identity"):
            return False
        return self.primary_key is None or column not in self.primary_key.columns


class IndexColumn(NamedTuple):
    """One column of an index: a column's name or an expression, and how it is ordered."""

    column: str | None
    expression: str | None
    order: str
    opclass: str | None


class Index:
    """An index with its columns in one form."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.method: str = record.settings["method"]

    @property
    def name(self) -> str:
        return self.record.address.name

    @property
    def origin(self) -> Pointer:
        return self.record.origin or ()

    @cached_property
    def items(self) -> list[IndexColumn]:
        columns = self.record.settings["columns"]
        return [IndexColumn(i.get("column"), i.get("expression"), i["order"], i["opclass"]) for i in columns]

    @cached_property
    def plain(self) -> list[tuple[str, str]] | None:
        """Column and order, where no column is an expression."""
        try:
            return [(item["column"], item["order"]) for item in self.record.settings["columns"]]
        except KeyError:
            return None

    @cached_property
    def has_opclass(self) -> bool:
        return any(item["opclass"] for item in self.record.settings["columns"])

    @property
    def expressions(self) -> Iterator[tuple[Pointer, str]]:
        """Expressions and predicate, with their places inside the index."""
        for i, item in enumerate(self.items if self.plain is None else ()):
            if item.expression:
                yield ("columns", i, "expression"), item.expression
        if self.record.settings["where"]:
            yield ("where",), self.record.settings["where"]


def is_plain_name(text: str) -> bool:
    """Whether an index or partition column is a name rather than an expression."""
    tokens = tokenize(text)
    return len(tokens) == 1 and tokens[0].is_name


def column_words(table: Table, sql: Sql) -> list[str]:
    """The columns of the table that an expression names, in column order."""
    named = {t.text for t in sql.tokens if t.is_name}
    return [c for c in table.columns if c in named]
