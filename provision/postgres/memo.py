"""What a server made of an expression, remembered between runs: keys, and a file in the user's cache folder.

A key covers all that the text can depend on, so a hit equals what a scratch server would say again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.postgres.references import TEXTS, names_in
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record

if TYPE_CHECKING:
    import sqlite3

#: Settings that no deparsed text depends on.
_ASIDE = frozenset({"owner", "comment", "prune", "compression", "statistics", "tablespace"})
#: What an expression over a table sees of a column.
_COLUMN = ("type", "collation", "generated")
_NAMED = frozenset({"table", "view", "function", "enum", "domain", "type", "sequence"})
_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_KEPT_DAYS = 90
_BUSY_S = 5.0


class Canonical(NamedTuple):
    """A server's form of a record: the expression settings, and the objects that they refer to.

    Addresses are kept as (kind, path), relative to the table of the record where they lie in it (the path then
    starts with ""), so that equal expressions over equal columns of many tables share one entry.
    """

    settings: Mapping[str, Any]
    refs: tuple[tuple[str, tuple[str, ...]], ...]
    rigid: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, record: Record, names: Iterable[str]) -> Canonical:
        """Take the form from a record that was read from a server. Its owner there is nobody's business."""
        refs = (a for a in record.refs if a.kind != "role")
        settings = {name: record.settings.get(name) for name in names}
        return cls(settings, _relative(refs, record.parent), _relative(record.rigid, record.parent))

    def onto(self, record: Record) -> Record:
        """Give the record in this form."""
        refs, rigid = (_absolute(found, record) for found in (self.refs, self.rigid))
        roles = (a for a in record.refs if a.kind == "role")
        return record._replace(settings=record.settings | dict(self.settings), refs=(*refs, *roles), rigid=rigid)

    def to_json(self) -> str:
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Canonical:
        settings, refs, rigid = json.loads(text)
        return cls(settings, *(tuple((kind, tuple(path)) for kind, path in found) for found in (refs, rigid)))


def _relative(addresses: Iterable[Address], table: Address | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if table is None or table.kind != "table":
        return tuple((a.kind, a.path) for a in addresses)
    depth = len(table.path)
    return tuple((a.kind, ("", *a.path[depth:]) if a.path[:depth] == table.path else a.path) for a in addresses)


def _absolute(found: Iterable[tuple[str, tuple[str, ...]]], record: Record) -> tuple[Address, ...]:
    system, target = record.address[:2]
    own = record.parent.path if record.parent is not None else ()
    return tuple(Address(system, target, kind, (*own, *path[1:]) if path[0] == "" else path) for kind, path in found)


class Keys:
    """The memo keys of one desired plane on one server. Pure; what records share is digested once."""

    def __init__(self, desired: Plane, facts: Facts, product: str) -> None:
        self.desired = desired
        self._environment = _digest([product, facts.version[0], extension_versions(desired, facts)])
        self._named: dict[tuple[str, str], list[Record]] | None = None
        self._tables: dict[Address, dict[str, Record]] = {}
        self._columns: dict[Address, str] = {}
        self._objects: dict[Address, str] = {}
        self._keys: dict[tuple[Any, ...], str] = {}
        self._identifiers: dict[str, tuple[str, ...]] = {}

    def key(self, record: Record) -> str:
        """The key of a record: its settings, the columns it may mean, what its texts name, the server."""
        table = record.parent if record.parent is not None and record.parent.kind == "table" else None
        if table is None:
            return _digest([self._environment, record.address[2:], _relevant(record), self._mentioned(record)])
        shown = repr(record.settings)
        qualified = _has_dot(record)
        parts = (
            record.address.kind,
            shown,
            self._seen_columns(record, shown, table),
            tuple(self._mentioned(record)) if qualified else (),
            table.path if qualified else (),
        )
        found = self._keys.get(parts)
        if found is None:
            kind, _, *rest = parts
            found = self._keys[parts] = _digest([self._environment, kind, _relevant(record), *rest])
        return found

    def _seen_columns(self, record: Record, shown: str, table: Address) -> tuple[str, ...]:
        """The columns that the texts of a record may mean, by their identifiers; all, if they name the table."""
        if record.address.kind == "column" and record.settings.get("generated") is None:
            return ()  # a default sees no columns
        words = self._identifiers.get(shown)
        if words is None:
            words = self._identifiers[shown] = tuple(sorted(identifiers(record)))
        columns = self._table(table)
        if record.address.kind not in TEXTS or table.name in words:
            words = tuple(columns)
        return tuple(self._column(columns[w]) for w in words if w in columns)

    def _table(self, table: Address) -> dict[str, Record]:
        found = self._tables.get(table)
        if found is None:
            children = self.desired.children(table, "column")
            found = self._tables[table] = {c.address.name: c for c in children}
        return found

    def _column(self, column: Record) -> str:
        """A column as expressions see it."""
        found = self._columns.get(column.address)
        if found is None:
            self._columns[column.address] = ""  # it may mention the type of its own table
            seen = [column.address.name, *(column.settings.get(f) for f in _COLUMN)]
            found = self._columns[column.address] = repr([*seen, *self._mentioned(column)])
        return found

    def _mentioned(self, record: Record) -> list[str]:
        return [self._object(found) for found in self.mentions(record)]

    def mentions(self, record: Record) -> list[Record]:
        """The declared objects whose qualified names stand in the texts of a record."""
        if not _has_dot(record):
            return []
        named = self._index()
        return [r for name in sorted(names_in(record)) for r in named.get(name, ()) if r is not record]

    def _object(self, record: Record) -> str:
        found = self._objects.get(record.address)
        if found is None:
            own = self._objects[record.address] = _digest([record.address[2:], _relevant(record)])
            columns = [self._column(c) for c in self._table(record.address).values()]
            found = self._objects[record.address] = _digest([own, columns, self._mentioned(record)])
        return found

    def _index(self) -> Mapping[tuple[str, str], list[Record]]:
        if self._named is None:
            self._named = defaultdict(list)
            for record in self.desired.of_kind(*_NAMED):
                schema, name = record.address.names[0], record.address.name.partition("(")[0]
                self._named[schema, name].append(record)
        return self._named


def extension_versions(desired: Plane, facts: Facts) -> list[list[str | None]]:
    """The versions that the declared extensions have or would get: equal before and after an apply."""
    installed = facts.options.get("extensions") or {}
    available = facts.options.get("extensions_available") or {}
    return [
        [name, r.settings.get("version") or installed.get(name) or available.get(name)]
        for r in desired.of_kind("extension")
        for name in [r.address.name]
    ]


def identifiers(record: Record) -> frozenset[str]:
    """Every word in the SQL texts of a record that may be the name of a column, folded as the server does."""
    found: set[str] = set()
    for text in _strings([record.settings.get(key) for key in TEXTS.get(record.address.kind, ())]):
        found.add(text)
        for match in _IDENTIFIER.finditer(text):
            found.add(match[1].replace('""', '"') if match[1] else match[2].lower())
    return frozenset(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _relevant(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.settings.items() if key not in _ASIDE}


def _has_dot(record: Record) -> bool:
    return any("." in str(record.settings.get(key) or "") for key in TEXTS.get(record.address.kind, ()))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Memo:
    """An SQLite file of key -> canonical form. Losing it costs time, never correctness.

    Writers of several processes take turns; a damaged or unwritable file is replaced or done without.
    ``folder`` None keeps everything in this process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / "compiled.sqlite" if folder is not None else None
        self._found: dict[str, Canonical] = {}

    def get(self, keys: Collection[str]) -> dict[str, Canonical]:
        """The known ones among the keys."""
        wanted = [k for k in keys if k not in self._found]
        if wanted and self._file is not None and self._file.exists():
            with self._open() as connection:
                if connection is not None:
                    self._load(connection, wanted)
        return {k: self._found[k] for k in keys if k in self._found}

    def put(self, entries: Mapping[str, Canonical]) -> None:
        """Remember new ones; entries unused to the end of their time are thrown out."""
        self._found.update(entries)
        if not entries or self._file is None:
            return
        today = int(time.time() // 86_400)
        with self._open() as connection:
            if connection is None:
                return
            rows = [(bytes.fromhex(k), v.to_json(), today) for k, v in entries.items()]
            connection.execute(_TABLE)
            connection.executemany("INSERT OR REPLACE INTO memo VALUES (?, ?, ?)", rows)
            connection.execute("DELETE FROM memo WHERE day < ?", [today - _KEPT_DAYS])
            connection.commit()

    def _load(self, connection: sqlite3.Connection, keys: list[str]) -> None:
        for start in range(0, len(keys), 10_000):
            part = [bytes.fromhex(k) for k in keys[start : start + 10_000]]
            marks = ",".join("?" * len(part))
            for key, text in connection.execute(f"SELECT key, value FROM memo WHERE key IN ({marks})", part):
                self._found[key.hex()] = Canonical.from_json(text)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """Yield the open file, or None; a failure inside is taken for damage, and the file is dropped."""
        import sqlite3

        assert self._file is not None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._file, timeout=_BUSY_S)
        except (OSError, sqlite3.Error):
            yield None
            return
        try:
            yield connection
        except sqlite3.OperationalError:  # locked, read-only, full: without the memo it is only slower
            return
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._file.unlink(missing_ok=True)
        finally:
            connection.close()


_TABLE = """
    CREATE TABLE IF NOT EXISTS memo (
        key BLOB PRIMARY KEY, value TEXT NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID"""
