"""Records as readable specs: one node for each object, put together into files. Pure; ``import`` is its user.

What a kind's options mean is known to its field table. Known here is where the language keeps an object of a
kind, and which option may stand alone for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.reconcile.spelling import options
from provision.spec import schema, yamltext
from provision.spec.fields import FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Kind
from provision.spec.record import Plane, Record, Settings

#: Where the objects of a kind stand: a section of the document, or a key of their parent.
SECTIONS = {
    "stream": "streams", "bucket": "buckets", "object_store": "object_stores", "publisher": "publishers",
    "role": "roles", "extension": "extensions", "schema": "schemas", "pool": "pools", "binding": "runtime",
    "consumer": "consumers", "template": "templates", "enum": "enums", "domain": "domains", "table": "tables",
    "function": "functions", "view": "views", "column": "columns", "primary_key": "primary_key", "unique": "unique",
    "foreign_key": "foreign_keys", "check": "checks", "index": "indexes", "partitions": "partitions",
    "policy": "policies", "trigger": "triggers", "grant": "grants", "membership": "member_of",
}  # fmt: skip
#: Kinds of which a parent has one, so that no name stands above its options.
_SINGLE = frozenset({"primary_key", "partitions"})
#: The option that may stand for the whole object when it is the only one.
_SHORT = {
    "enum": "values", "unique": "columns", "primary_key": "columns", "check": "expression", "index": "columns",
    "grant": "privileges",
}  # fmt: skip
#: Kinds whose objects stand in lists or share a mapping: they have no place of their own.
_LISTED = frozenset({"membership", "binding", "contract"})
#: Texts that get files of their own from this many lines on.
_BODY_LINES = 6
_BODIES = {"function": "body", "view": "query"}
_ALIASES = (
    (re.compile(r"^character varying\b"), "varchar"),
    (re.compile(r"^timestamp with time zone$"), "timestamptz"),
)
Pointer = tuple[str, ...]


class Written(NamedTuple):
    """Files by their path below the folder of specs, and what could not be said, one line each."""

    files: Mapping[str, str]
    left_out: tuple[str, ...]


def write(plane: Plane, kinds: Mapping[str, Kind], targets: Mapping[str, Any] | None = None) -> Written:
    """Give the specs of a plane. Reading them gives equal records; what cannot is named in ``left_out``.

    ``targets`` is the node of that name for the environment ``plane.env``.
    """
    writer = _Writer(plane, kinds)
    for record in plane:
        writer.add(record)
    return Written(dict(_files(writer.finish(), plane, targets, writer.bodies)), tuple(writer.left_out))


class Spoken(NamedTuple):
    """The document of a plane, where each object stands in it, and what could not be said."""

    root: Mapping[str, Any]
    places: Mapping[Address, Pointer]
    left_out: tuple[str, ...]


def speak(plane: Plane, kinds: Mapping[str, Kind]) -> Spoken:
    """Give the document of a plane as values, every text in its place."""
    writer = _Writer(plane, kinds, inline=True)
    for record in plane:
        writer.add(record)
    places = {r.address: writer.pointer(r.address) for r in plane if r.address.kind not in _LISTED}
    return Spoken(writer.finish(), places, tuple(writer.left_out))


class _Writer:
    """The document as it grows. Every node is found again by the address of its object."""

    def __init__(self, plane: Plane, kinds: Mapping[str, Kind], *, inline: bool = False) -> None:
        self.plane = plane
        self.kinds = kinds
        self.inline = inline
        self.root: dict[str, Any] = {}
        self.left_out: list[str] = []
        self.bodies: dict[str, str] = {}
        self._short: list[tuple[Pointer, str]] = []
        self._overloaded = Counter(_bare(r.address) for r in plane.of_kind("function"))

    def add(self, record: Record) -> None:
        """Put the node of one object in its place."""
        address = record.address
        if address.kind == "membership":
            self._member(record)
            return
        if address.kind == "binding":
            self._binding(record)
            return
        if address.kind == "grant" and not self._stands(record):
            self._listed_grant(record)
            return
        pointer = self.pointer(address)
        node = self._node(record, pointer)
        place = self._open(pointer[:-1])
        place[pointer[-1]] = node | place.get(pointer[-1], {})
        if address.kind in _SHORT:
            self._short.append((pointer, _SHORT[address.kind]))

    def finish(self) -> dict[str, Any]:
        """Give the document, objects of a single option written as that option."""
        for pointer, key in self._short:
            place = self._open(pointer[:-1])
            if set(place[pointer[-1]]) == {key}:
                place[pointer[-1]] = place[pointer[-1]][key]
        return self.root

    def pointer(self, address: Address) -> Pointer:
        """Where the object stands in the document."""
        record = self.plane.get(address)
        above = self.pointer(record.parent) if record is not None and record.parent is not None else ()
        section = SECTIONS[address.kind]
        return (*above, section) if address.kind in _SINGLE else (*above, section, self._name(address))

    def _name(self, address: Address) -> str:
        if address.kind != "function" or self._overloaded[_bare(address)] > 1:
            return address.name
        return address.name.partition("(")[0]

    def _open(self, pointer: Pointer) -> dict[str, Any]:
        node = self.root
        for key in pointer:
            node = node.setdefault(key, {})
        return node

    def _stands(self, grant: Record) -> bool:
        """Whether the object of a grant is written, so that the grant can stand below it."""
        return grant.parent is not None and grant.parent in self.plane

    def _node(self, record: Record, pointer: Pointer) -> dict[str, Any]:
        address = record.address
        node = self._options(record, self.kinds[address.kind].fields, _sayable(record, self.plane))
        if record.parent is None and address.target != "main":
            node = {"target": address.target, **node}
        if address.kind == "grant":  # nothing granted is an option too: what PUBLIC has of itself was taken away
            node = {"privileges": [], **node}
        if address.kind == "primary_key" and address.name != f"{_parent(address).name}_pkey":
            node = {"name": address.name, **node}
        if address.kind == "table":
            node = {k: v for k, v in node.items() if k == "comment"} | {"columns": {}} | node
        if address.kind == "column":
            node["type"] = _alias(record.settings["type"], self.kinds["column"].fields)
        if address.kind in _BODIES:
            self._outsource(node, _BODIES[address.kind], pointer)
        return node

    def _options(self, record: Record, table: FieldTable, settings: Mapping[str, Any]) -> dict[str, Any]:
        node, wrong = options(table, settings)
        self.left_out += [f"{record.address}: {error}" for error in wrong]
        return node

    def _outsource(self, node: dict[str, Any], key: str, pointer: Pointer) -> None:
        """Move a long text to a file of its own. A file is read as UTF-8 with any line ends."""
        text = node.get(key)
        if self.inline or not isinstance(text, str) or text.count("\n") < _BODY_LINES:
            return
        if "\r" in text or text.startswith("\ufeff"):
            return
        schema, name = pointer[1], pointer[-1]
        file = f"sql/{_file_name(schema)}.{_file_name(name)}.sql"
        number = 1
        while file in self.bodies:
            number += 1
            file = f"sql/{_file_name(schema)}.{_file_name(name)}.{number}.sql"
        self.bodies[file] = text
        node[key] = {"file": f"../{file}"}

    def _member(self, record: Record) -> None:
        assert record.parent is not None
        role = self._open(self.pointer(record.parent))
        inherits = self.plane[record.parent].settings["inherit"] if record.parent in self.plane else True
        usual = {"admin": False, "inherit": inherits, "set": True}
        rest = {k: v for k, v in record.settings.items() if v != usual[k]}
        role.setdefault("member_of", []).append({"role": record.address.name, **rest} if rest else record.address.name)

    def _binding(self, record: Record) -> None:
        from provision.pools import runtime

        section = self._open(("runtime",))
        name = record.address.name
        if name not in runtime.FIELDS.fields:
            self.left_out.append(f"{record.address}: this version knows no such name")
            return
        node, wrong = options(FieldTable(runtime.FIELDS[name]), {name: record.settings["value"]})
        self.left_out += [f"{record.address}: {error}" for error in wrong]
        section.update(node)

    def _listed_grant(self, record: Record) -> None:
        noun = _noun(record.address)
        if noun is None:
            self.left_out.append(f"{record.address}: a grant on what no spec declares")
            return
        node = self._options(record, self.kinds["grant"].fields, record.settings)
        target = {} if record.address.target == "main" else {"target": record.address.target}
        entry = {"on": noun, "to": record.address.name, "privileges": [], **node, **target}
        self.root.setdefault("grants", []).append(entry)


def _sayable(record: Record, plane: Plane) -> Settings:
    """Settings without what reading fills in again: nobody would write that."""
    settings, kind = dict(record.settings), record.address.kind
    if kind == "column":
        key = {c for k in plane.children(_parent(record.address), "primary_key") for c in k.settings["columns"]}
        if settings["identity"] is not None or record.address.name in key:
            settings["nullable"] = True
        settings["identity"] = _bare_identity(settings)
    elif kind == "index":
        settings["columns"] = [_index_item(i, plane, _parent(record.address)) for i in settings["columns"]]
    elif kind == "function":
        returns = settings["returns"] or ""
        if settings["cost"] == (1 if settings["language"] in ("c", "internal") else 100):
            settings["cost"] = None
        if settings["rows"] == 1000 and returns.startswith(("setof ", "table(")):
            settings["rows"] = None
    elif kind == "view" and settings["columns"] is not None:
        settings["columns"] = None
    elif kind == "stream" and settings["subjects"] == [record.address.name]:
        settings["subjects"] = []
    elif kind == "partitions":
        settings = _policy(record)
    return settings


def _bare_identity(settings: Settings) -> Settings | None:
    """An identity without the bounds that it has unasked."""
    from provision.postgres.kinds.column import IDENTITY, bounded

    identity: Settings | None = settings["identity"]
    if identity is None:
        return None
    bare = {**identity, "start": None, "min": None, "max": None}
    for key in ("start", "min", "max"):
        if bounded(bare, settings["type"]) == identity:
            break
        bare[key] = identity[key]
    return {f.name: bare[f.name] for f in IDENTITY}


def _index_item(item: Settings, plane: Plane, table: Address) -> Settings | str:
    """One column or expression of an index; alone where it has no options."""
    key = "column" if "column" in item else "expression"
    usual = "first" if item["order"] == "desc" else "last"
    rest = {k: v for k, v in item.items() if k not in ("column", "expression") and v}
    if rest["nulls"] == usual:
        del rest["nulls"]
    if rest["order"] == "asc":
        del rest["order"]
    is_column = table.child("column", str(item[key])) in plane
    if not rest and is_column == (key == "column"):
        return str(item[key])
    return {**dict.fromkeys(("column", "expression", "nulls", "opclass", "collation")), "order": "asc",
            "opclass_params": {}, key: item[key], **rest}  # fmt: skip


def _policy(record: Record) -> Settings:
    """A partition set without what it fills in itself."""
    from provision.postgres.kinds.partition_members import default_name

    settings = dict(record.settings)
    if settings["min_ahead"] == -(-settings["premake"] // 2):
        settings["min_ahead"] = None
    if settings["default"] == default_name(_parent(record.address).name):
        settings["default"] = True
    return settings


def _alias(name: str, table: FieldTable) -> str:
    """The everyday name of a type, if it means the same."""
    for pattern, alias in _ALIASES:
        short = pattern.sub(alias, name)
        if short != name and table["type"].type.parse(short) == name:
            return short
    return name


def _parent(address: Address) -> Address:
    return address._replace(kind="table", path=address.path[:2])


def _bare(address: Address) -> tuple[str, str, str]:
    return address.target, address.path[0], address.name.partition("(")[0]


def _noun(grant: Address) -> str | None:
    """What ``grants: - on:`` calls the object: a database, or one whose own declaration is elsewhere."""
    from provision.postgres import sql

    if grant.path[0] == "database":
        return "database"
    names = grant.names[:-2]
    if len(names) == 1:
        return f"schema {sql.quote_ident(names[0])}"
    kind = "table" if len(names) == 2 else names[1]
    if kind == "function":
        name, bracket, types = names[-1].partition("(")
        return f"function {sql.qualified(names[0], name)}{bracket}{types}"
    known = ("table", "view", "sequence", "enum", "domain", "type")
    return f"{kind} {sql.qualified(names[0], names[-1])}" if kind in known else None


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


# Files ---------------------------------------------------------------------------------------------------

#: Sections that share a file; the others have one each.
_SHARED = {"object_stores": "buckets", "grants": "roles", "publishers": "streams"}


def _files(
    root: Mapping[str, Any], plane: Plane, targets: Mapping[str, Any] | None, bodies: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    yield "plane.yaml", _page({"plane": plane.name}, 1)
    pages: dict[str, dict[str, Any]] = {}
    for section, node in root.items():
        if section != "schemas":
            pages.setdefault(_SHARED.get(section, section), {})[section] = node
    for name, page in pages.items():
        yield f"{name}.yaml", _page(page, 1)
    for name, node in root.get("schemas", {}).items():
        yield f"schemas/{_file_name(name)}.yaml", _page({"schemas": {name: node}}, 2)
    yield from bodies.items()
    if targets is not None:
        yield f"environments/{plane.env}.yaml", _page({"targets": targets}, 2, schema.ENVIRONMENT_FILE)


def _page(page: Mapping[str, Any], depth: int, file: str = schema.FILE) -> str:
    return schema.header(file, depth) + yamltext.dump(page)


def kept(plane: Plane, records: Iterable[Record]) -> Plane:
    """The plane with other records: its name and environment stay."""
    return Plane(records, name=plane.name, env=plane.env)
