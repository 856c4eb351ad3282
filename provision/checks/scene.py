"""What rules look at: the plane indexed once, its tables, types and names, the SQL texts, the declared targets."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from provision.checks.jetstream import Consumer, Stream
from provision.checks.sql import Sql, sql_of
from provision.checks.tables import Index, Table, unquoted
from provision.nats.kinds.subjects import SubjectIndex
from provision.postgres.types import TypeName
from provision.postgres.types import parse as parse_type
from provision.spec.ident import KIND_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provision.checks.sqltext import Tokens
    from provision.spec.diagnostic import Mark
    from provision.spec.ident import Address
    from provision.spec.record import Facts, Plane, Pointer, Record


class Document(Protocol):
    """What checks need of a loaded document: its merged values and their places."""

    @property
    def root(self) -> Any: ...

    def locate(self, pointer: Pointer, *, key: bool = False) -> Mark: ...

    def locate_text(self, pointer: Pointer, position: int) -> Mark: ...


class Text(NamedTuple):
    """One SQL text of the plane. ``role`` says what it is; ``where`` leads to it in the document."""

    record: Record
    role: Literal["body", "query", "expression", "statement"]
    language: str
    sql: Sql
    where: Pointer

    @property
    def tokens(self) -> Tokens:
        return self.sql.tokens


class Column(NamedTuple):
    """A column with its table."""

    table: Table
    name: str
    record: Record


class Reference(NamedTuple):
    """A foreign key, the declared table it points to, and the columns there: its primary key if none are named."""

    table: Table
    key: Record
    target: Table | None
    columns: tuple[str, ...]


class Scene:
    """Everything a rule may ask. Pure; built once for each run, each index on first use."""

    def __init__(self, plane: Plane, document: Document, facts: Mapping[tuple[str, str], Facts]) -> None:
        self.plane = plane
        self.document = document
        # A declared 2.12 is at least 2.12.0, which (2, 12) is not.
        self.facts = {k: f._replace(version=(*f.version, 0, 0)[:3] if f.version else ()) for k, f in facts.items()}
        self.by_kind: dict[str, list[Record]] = defaultdict(list)
        self._children: dict[Address, dict[str, list[Record]]] = {}
        self._base_types: dict[tuple[str, str], TypeName] = {}
        for record in plane:
            kind = record.address.kind
            self.by_kind[kind].append(record)
            if record.parent is not None:
                of_parent = self._children.get(record.parent)
                if of_parent is None:
                    of_parent = self._children[record.parent] = defaultdict(list)
                of_parent[kind].append(record)

    def of(self, kind: str) -> list[Record]:
        """All records of a kind in document order."""
        return self.by_kind.get(kind, [])

    def children(self, record: Record, kind: str) -> list[Record]:
        """The children of a record that have this kind."""
        return self._children.get(record.address, {}).get(kind, [])

    def node(self, pointer: Pointer) -> Any:
        """The value of the document at a place, or None."""
        node = self.document.root
        for step in pointer:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def stated(self, record: Record, *path: str | int) -> bool:
        """Whether the document itself says something at this path of an object."""
        return self.node((*(record.origin or ()), *path)) is not None

    def written(self, *pointer: str) -> bool:
        """Whether the document has this key. What reading refused is no record, but its absence is no mistake."""
        *above, key = pointer
        node = self.node(tuple(above))
        return isinstance(node, dict) and key in node

    def target_facts(self, record: Record) -> Facts | None:
        """What is declared of the target that a record lives on."""
        system = "pg" if record.address.kind == "pool" else record.address.system
        return self.facts.get((system, record.address.target))

    def fact(self, record: Record, name: str) -> Any:
        """One declared fact of a record's target, or None."""
        facts = self.target_facts(record)
        return None if facts is None else facts.options.get(name)

    @cached_property
    def tables(self) -> dict[Address, Table]:
        return {
            r.address: Table(r, self._children.get(r.address, {}), self.node(r.origin or ()) or {})
            for r in self.of("table")
        }

    @cached_property
    def partitioned(self) -> list[Table]:
        return [t for t in self.tables.values() if t.partitions is not None]

    @cached_property
    def schemas(self) -> dict[tuple[str, str], Record]:
        """Declared schemas by target and name."""
        return {(r.address.target, r.address.name): r for r in self.of("schema")}

    @cached_property
    def roles(self) -> dict[str, dict[str, Record]]:
        """Declared roles by target, then name."""
        found: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in self.of("role"):
            found[record.address.target][record.address.name] = record
        return found

    @cached_property
    def types(self) -> dict[tuple[str, str], Record]:
        """Declared enums, domains and types by target and ``schema.name``."""
        return {
            (r.address.target, f"{r.address.names[0]}.{r.address.name}"): r
            for kind in ("enum", "domain", "type")
            for r in self.of(kind)
        }

    @cached_property
    def extensions(self) -> set[tuple[str, str]]:
        """Declared extensions by target and name."""
        return {(r.address.target, r.address.name) for r in self.of("extension")}

    @cached_property
    def extension_schemas(self) -> set[str]:
        """The schemas that extensions put their objects into, as far as declared."""
        return {r.settings["schema"] for r in self.of("extension") if r.settings.get("schema")}

    @cached_property
    def functions(self) -> dict[tuple[str, str], list[Record]]:
        """Declared functions by target and ``schema.name``, overloads together."""
        found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in self.of("function"):
            schema, name = record.address.names[0], record.address.name.split("(", 1)[0]
            found[record.address.target, f"{schema}.{name}"].append(record)
        return found

    @cached_property
    def function_names(self) -> frozenset[str]:
        """The bare names of declared functions."""
        return frozenset(name.split(".", 1)[1] for _, name in self.functions)

    def tables_with_trigger(self, function: Record) -> list[Table]:
        """The tables on which a trigger calls this function."""
        name = self.qualified(function).split("(", 1)[0]
        return self._trigger_tables.get((function.address.target, name), [])

    @cached_property
    def _trigger_tables(self) -> dict[tuple[str, str], list[Table]]:
        found: dict[tuple[str, str], list[Table]] = defaultdict(list)
        for table in self.tables.values():
            for trigger in table.of("trigger"):
                held = found[table.target, unquoted(trigger.settings["function"])]
                if table not in held:
                    held.append(table)
        return found

    def table(self, target: str, qualified: str) -> Table | None:
        """A declared table by ``schema.table``."""
        return self._tables_by_name.get((target, qualified))

    @cached_property
    def _tables_by_name(self) -> dict[tuple[str, str], Table]:
        return {(t.target, t.qualified): t for t in self.tables.values()}

    def table_written(self, qualified: str) -> bool:
        """Whether the document has a table of this name."""
        schema, _, name = qualified.rpartition(".")
        return self.written("schemas", schema, "tables", name)

    @cached_property
    def columns_by_type(self) -> dict[tuple[str, str], list[Column]]:
        """Columns of tables by target and type as written; there are few types and many columns."""
        found: dict[tuple[str, str], list[Column]] = defaultdict(list)
        for table in self.tables.values():
            for name, record in table.columns.items():
                found[table.target, record.settings["type"]].append(Column(table, name, record))
        return found

    @cached_property
    def undeclared_types(self) -> list[tuple[Record, Pointer, TypeName]]:
        """Every use of a type that is neither built in nor declared: columns, domains, arguments of functions."""
        uses: list[tuple[Record, Pointer, str]] = []
        for (target, declared), columns in self.columns_by_type.items():
            name = parse_type(declared)
            if name.schema is not None and self.type_record(target, name) is None:
                uses += [(c.record, ("type",), declared) for c in columns]
        uses += [(r, ("type",), r.settings["type"]) for r in self.of("domain")]
        for record in self.of("function"):
            uses += [(record, ("arguments", i, "type"), a["type"]) for i, a in enumerate(record.settings["arguments"])]
        named = ((record, path, parse_type(text)) for record, path, text in uses)
        return [
            (record, path, name)
            for record, path, name in named
            if name.schema is not None and self.type_record(record.address.target, name) is None
        ]

    @cached_property
    def made_columns(self) -> list[Record]:
        """The columns whose values are an identity or computed."""
        special = ((r, r.settings) for r in self.of("column"))
        return [r for r, s in special if s["identity"] is not None or s["generated"] is not None]

    @cached_property
    def references(self) -> list[Reference]:
        """Every foreign key with what it refers to."""
        found: list[Reference] = []
        for key in self.of("foreign_key"):
            assert key.parent is not None
            table = self.tables[key.parent]
            target = self.table(table.target, unquoted(key.settings["references"]))
            columns = tuple(key.settings["referenced_columns"] or ())
            if not columns and target is not None and target.primary_key is not None:
                columns = target.primary_key.columns
            found.append(Reference(table, key, target, columns))
        return found

    @cached_property
    def indexes(self) -> list[tuple[Table, Index]]:
        """Every index with its table."""
        return [(table, index) for table in self.tables.values() for index in table.indexes]

    def type_record(self, target: str, name: TypeName) -> Record | None:
        """The declared enum, domain or type of a qualified type name."""
        return self.types.get((target, f"{name.schema}.{name.name}")) if name.schema else None

    def domains(self, target: str, text: str) -> list[Record]:
        """The domains that a type name stands on, the outermost first."""
        found: list[Record] = []
        record = self.type_record(target, parse_type(text))
        while record is not None and record.address.kind == "domain" and record not in found:
            found.append(record)
            record = self.type_record(target, parse_type(record.settings["type"]))
        return found

    def base_type(self, target: str, text: str) -> TypeName:
        """The type behind domains."""
        found = self._base_types.get((target, text))
        if found is None:
            domains = self.domains(target, text)
            found = parse_type(domains[-1].settings["type"] if domains else text)
            self._base_types[target, text] = found
        return found

    def enum_values(self, target: str, text: str) -> list[str] | None:
        """The values of the enum that a column type names, through domains; None for other types."""
        record = self.type_record(target, self.base_type(target, text))
        return record.settings["values"] if record is not None and record.address.kind == "enum" else None

    def qualified(self, record: Record) -> str:
        """``schema.name`` of an object that lies in a schema."""
        return f"{record.address.names[0]}.{record.address.name}"

    def name(self, record: Record) -> str:
        """Write an object as people name it: ``agents.state.version``, ``stream TASKS``, ``function agents.f``."""
        address = record.address
        if address.kind == "membership":
            return f"role {address.names[1]}"
        if address.system != "pg" or address.path[0] in ("role", "extension"):
            return f"{address.kind.replace('_', ' ')} {address.name}"
        if address.kind == "grant":
            return f"a grant on {'.'.join(n for n in address.names[:-1] if n not in KIND_WORDS)}"
        named = ".".join(n for n, raw in zip(address.names, address.path, strict=True) if raw not in KIND_WORDS)
        return named if address.kind in ("table", "column") else f"{address.kind.replace('_', ' ')} {named}"

    @cached_property
    def streams(self) -> dict[tuple[str, str], Stream]:
        """Streams, and those behind buckets and object stores, by target and the stream's own name."""
        kinds = ("stream", "bucket", "object_store")
        found = (Stream(record, self) for kind in kinds for record in self.of(kind))
        return {(s.target, s.name): s for s in found}

    @cached_property
    def consumers(self) -> list[Consumer]:
        """Every durable consumer."""
        return [c for s in self.streams.values() for c in s.consumers]

    @cached_property
    def readers(self) -> list[Consumer]:
        """Consumers, and the templates of ephemeral ones."""
        return [c for s in self.streams.values() for c in (*s.consumers, *s.templates)]

    @cached_property
    def _subjects(self) -> dict[str, SubjectIndex[tuple[str, Stream]]]:
        found: dict[str, SubjectIndex[tuple[str, Stream]]] = defaultdict(SubjectIndex)
        for stream in self.streams.values():
            for subject in stream.subjects:
                found[stream.target].add(subject, (subject, stream))
        return found

    def stored(self, target: str, subject: str) -> list[tuple[str, Stream]]:
        """The streams that take messages of a subject, each with its own pattern."""
        return list(self._subjects[target].colliding(subject))

    @cached_property
    def texts(self) -> list[Text]:
        """Every SQL text: bodies, queries, expressions, and the statements that pools run."""
        return list(self._texts())

    @cached_property
    def generated(self) -> list[Text]:
        """The expressions of generated columns."""
        return [t for t in self.texts if t.record.address.kind == "column" and "generated" in t.where]

    @cached_property
    def checks(self) -> list[tuple[Table, Record, Sql]]:
        """Every check of a table."""
        return [(t, r, sql_of(r.settings["expression"])) for t in self.tables.values() for r in t.of("check")]

    @cached_property
    def bodies(self) -> list[Text]:
        """The texts of functions and views."""
        return [t for t in self.texts if t.role in ("body", "query")]

    def _texts(self) -> Iterator[Text]:
        for record in self.of("column"):
            # A default without a call or a qualified name says nothing to any rule of texts.
            default = record.settings["default"]
            if default and ("(" in default or "." in default):
                yield _text(record, "expression", ("default",), default)
        for record in self.made_columns:
            if record.settings["generated"]:
                where = ("generated", "expression")
                yield _text(record, "expression", where, record.settings["generated"]["expression"])
        for record in self.of("function"):
            language = (record.settings.get("language") or "sql").lower()
            for field in ("body", "sql_body"):
                if record.settings.get(field):
                    yield _text(record, "body", (field,), record.settings[field], language)
        for record in self.of("view"):
            if record.settings.get("query"):
                yield _text(record, "query", ("query",), record.settings["query"])
        for kind, fields in _EXPRESSIONS.items():
            for record in self.of(kind):
                for field in fields:
                    value = record.settings.get(field)
                    if value:
                        yield _text(record, "expression", (field,), value)
        for record in self.of("domain"):
            for name, value in (record.settings.get("checks") or {}).items():
                yield _text(record, "expression", ("checks", name), value)
        for record in self.of("pool"):
            for i, value in enumerate(record.settings.get("after_connect") or ()):
                yield _text(record, "statement", ("after_connect", i), value)


#: The settings that hold one expression, by kind.
_EXPRESSIONS = {
    "check": ("expression",),
    "index": ("where",),
    "policy": ("using", "with_check"),
    "trigger": ("when",),
    "domain": ("default",),
}


def _text(
    record: Record,
    role: Literal["body", "query", "expression", "statement"],
    path: Pointer,
    value: str,
    language: str = "sql",
) -> Text:
    return Text(record, role, language, sql_of(value), (*(record.origin or ()), *path))
