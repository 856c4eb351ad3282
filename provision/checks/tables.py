"""A table as rules see it: its record and everything that hangs on it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from provision.checks.sqltext import tokenize
from provision.postgres.references import split_name

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


def bare(segment: str) -> str:
    """The name in a path segment; names that are kind words are escaped there (see ``ident``)."""
    return unquote(segment) if "%" in segment else segment


class Table:
    """A declared table with its children by kind. ``node`` is what the document says of it.

    What most rules ask is made at once: with thousands of tables, deferring it costs more than making it.
    """

    def __init__(self, record: Record, children: Mapping[str, list[Record]], node: Mapping[str, Any]) -> None:
        self.record = record
        self.schema, self.name = map(bare, record.address.path)
        self.qualified = f"{self.schema}.{self.name}"
        self.target = record.address.target
        self._children = children
        self._written = node.get("columns") or {}
        self.columns = {bare(r.address.path[-1]): r for r in self.of("column")}
        self.indexes = [Index(r) for r in self.of("index")]
        keys = [Key(r, tuple(r.settings["columns"])) for r in (*self.of("primary_key"), *self.of("unique"))]
        #: Primary key and unique constraints.
        self.keys = keys
        self.primary_key = keys[0] if keys and keys[0].record.address.kind == "primary_key" else None
        partitions = self.of("partitions")
        self.partitions = partitions[0] if partitions else None
        self.partition_key: tuple[str, ...] = tuple(partitions[0].settings["key"]) if partitions else ()

    def of(self, kind: str) -> list[Record]:
        """The table's children of a kind, in document order."""
        return self._children.get(kind, [])

    def lacks(self, column: str) -> bool:
        """Whether no such column is declared. One that reading refused is declared, if wrongly."""
        return column not in self.columns and column not in self._written

    @property
    def unique_indexes(self) -> list[Key]:
        """Unique indexes over plain columns without predicate."""
        return [
            Key(i.record, tuple(column for column, _ in i.plain))
            for i in self.indexes
            if i.record.settings["unique"] and not i.record.settings["where"] and i.plain is not None
        ]

    def is_nullable(self, column: str) -> bool:
        """Whether a declared column may hold NULL, by its own word, its key or its identity."""
        record = self.columns.get(column)
        if record is None or not record.settings["nullable"]:
            return False
        return self.primary_key is None or column not in self.primary_key.columns


class IndexColumn(NamedTuple):
    """One column of an index: a column's name or an expression, and how it is ordered."""

    column: str | None
    expression: str | None
    order: str
    opclass: str | None


class Index:
    """An index with its columns in one form.

    ``plain`` is column and order of each, or None where one is an expression.
    """

    __slots__ = ("has_opclass", "method", "plain", "record")

    def __init__(self, record: Record) -> None:
        columns = record.settings["columns"]
        self.record = record
        self.method: str = record.settings["method"]
        self.has_opclass = any(item["opclass"] for item in columns)
        self.plain: list[tuple[str, str]] | None
        try:
            self.plain = [(item["column"], item["order"]) for item in columns]
        except KeyError:
            self.plain = None

    @property
    def name(self) -> str:
        return self.record.address.name

    @property
    def origin(self) -> Pointer:
        return self.record.origin or ()

    @property
    def items(self) -> list[IndexColumn]:
        columns = self.record.settings["columns"]
        return [IndexColumn(i.get("column"), i.get("expression"), i["order"], i["opclass"]) for i in columns]

    @property
    def expressions(self) -> Iterator[tuple[Pointer, str]]:
        """Expressions and predicate, with their places inside the index."""
        for i, item in enumerate(self.items if self.plain is None else ()):
            if item.expression:
                yield ("columns", i, "expression"), item.expression
        if self.record.settings["where"]:
            yield ("where",), self.record.settings["where"]


def unquoted(text: str) -> str:
    """``schema.name`` without quotes, as ``Table.qualified`` has it; other text as it is."""
    if '"' not in text:
        return text
    try:
        return ".".join(split_name(text))
    except ValueError:
        return text


def is_plain_name(text: str) -> bool:
    """Whether an index or partition column is a name rather than an expression."""
    tokens = tokenize(text)
    return len(tokens) == 1 and tokens[0].is_name


def column_words(table: Table, sql: Sql) -> list[str]:
    """The columns of the table that an expression names, in column order."""
    named = {t.text for t in sql.tokens if t.is_name}
    return [c for c in table.columns if c in named]
