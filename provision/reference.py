"""The reference: one page for each kind, made of its field table and the JSON Schema at its place. Pure.

``make generate`` writes the pages to ``docs/reference``; a test fails when they are stale. What a page says of an
option is what reading, comparing and editors use, so there is nothing here to keep in step by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from provision import registry
from provision.nats.kinds import bucket, object_store, stream_fields
from provision.nats.kinds.wire import Note, Version, note_of
from provision.pools import runtime
from provision.spec import fields as f
from provision.spec import schema, target
from provision.spec.fields import Field, FieldTable, Json
from provision.spec.units import DURATION_PATTERN, SIZE_PATTERN, format_duration, format_size

FOLDER = Path("docs/reference")
NOTE = "<!-- Made by `make generate` from the field tables. -->\n"
_SYSTEMS = {"nats": "NATS", "pg": "PostgreSQL", "plane": "the plane itself"}
_NATURES = {
    "live": "observed on the server and changed there",
    "declared": "declared in the contract; nothing on a server changes",
    "rendered": "written to files",
}


class Place(NamedTuple):
    """Where the objects of a kind stand in the document, the first one leading, and what they are.

    A path's capital words stand for names, ``[]`` for an item of a list.
    """

    what: str
    paths: tuple[str, ...]


_TABLE = "schemas.NAME.tables.NAME"
PLACES: dict[str, Place] = {
    "stream": Place("A stream: messages kept by subject.", ("streams.NAME",)),
    "consumer": Place("A durable consumer of a stream, pull or push.", ("streams.NAME.consumers.NAME",)),
    "template": Place(
        "What clients create an ephemeral consumer from; the runtime finds it in the contract.",
        ("streams.NAME.templates.NAME",),
    ),
    "bucket": Place("A key-value bucket.", ("buckets.NAME",)),
    "object_store": Place("An object store.", ("object_stores.NAME",)),
    "publisher": Place("Who publishes which subjects; checks compare it with streams.", ("publishers.NAME",)),
    "role": Place("A role of the server, with or without login.", ("roles.NAME",)),
    "membership": Place("That a role belongs to another one.", ("roles.NAME.member_of[]",)),
    "extension": Place("An extension of the database.", ("extensions.NAME",)),
    "schema": Place("A schema, and everything in it.", ("schemas.NAME",)),
    "enum": Place("An enumerated type.", ("schemas.NAME.enums.NAME",)),
    "domain": Place("A domain: a type with a rule.", ("schemas.NAME.domains.NAME",)),
    "table": Place("A table, with what belongs to it.", (_TABLE,)),
    "column": Place("A column of a table.", (f"{_TABLE}.columns.NAME",)),
    "primary_key": Place("The primary key of a table.", (f"{_TABLE}.primary_key",)),
    "unique": Place("A unique constraint.", (f"{_TABLE}.unique.NAME",)),
    "foreign_key": Place("A foreign key.", (f"{_TABLE}.foreign_keys.NAME",)),
    "check": Place("A check constraint.", (f"{_TABLE}.checks.NAME",)),
    "index": Place("An index.", (f"{_TABLE}.indexes.NAME",)),
    "partitions": Place("The partitioning of a table; its partitions follow from it.", (f"{_TABLE}.partitions",)),
    "function": Place("A function or procedure.", ("schemas.NAME.functions.NAME",)),
    "view": Place("A view.", ("schemas.NAME.views.NAME",)),
    "trigger": Place("A trigger.", (f"{_TABLE}.triggers.NAME", "schemas.NAME.views.NAME.triggers.NAME")),
    "policy": Place("A policy of row security.", (f"{_TABLE}.policies.NAME",)),
    "grant": Place(
        "Privileges of one role on one object.",
        (
            "grants[]",
            *(f"{place}.grants.ROLE" for place in (
                "schemas.NAME", _TABLE, "schemas.NAME.functions.NAME", "schemas.NAME.views.NAME",
                "schemas.NAME.enums.NAME", "schemas.NAME.domains.NAME",
            )),
        ),
    ),
    "pool": Place("A pool of connections that an application keeps.", ("pools.NAME",)),
    "binding": Place("What the runtime calls an object, and how patient it is.", ("runtime",)),
    "contract": Place("The stored description of the plane. Nobody writes it: `apply` does.", ()),
}  # fmt: skip
#: Pages about what is not a kind: the connections of an environment.
TARGETS: dict[str, tuple[str, FieldTable]] = {
    "nats": ("A NATS server or cluster.", target.NATS_TARGET),
    "postgres": ("A PostgreSQL server.", target.POSTGRES_TARGET),
}
#: Objects that repeat the options of a kind.
_SAME_AS = {("bucket", "stream"): "stream", ("object_store", "stream"): "stream"}
#: What nats-server refuses by the value, not by the option: see the kinds' ``refused``.
_BY_VALUE = {
    ("stream", "retention"): "in place; to or from `workqueue` it is made anew",
    ("consumer", "deliver_subject"): "in place; between pull and push it is made anew",
}
_CHANGES = {
    "free": "in place",
    "never": "made anew",
    "enable": "on in place; off: made anew",
    "promote": "taken away in place; else made anew",
    "pause": "in place, by a request of its own",
    "identity": "part of the name",
}


class Row(NamedTuple):
    """One option as the page shows it."""

    name: str
    type: str
    default: str
    since: str
    changed: str
    doc: str


# What a value is -----------------------------------------------------------------------------------------


def branches(node: Json) -> Iterator[Json]:
    """The alternatives of a JSON Schema, ``null`` left out."""
    if "anyOf" in node:
        for branch in node["anyOf"]:
            yield from branches(branch)
    elif node.get("type") != "null":
        yield node


_UNITS = (
    (f.SECRET.schema, "secret reference"),
    (schema.FILE_REFERENCE, "file"),
    ({"pattern": DURATION_PATTERN}, "duration"),
    ({"pattern": SIZE_PATTERN}, "size"),
    (f.INTERVAL.schema, "interval"),
    (f.TIME.schema, "time"),
)


def words(node: Json) -> str:
    """Say in words what a JSON Schema takes."""
    found = list(dict.fromkeys(_words(branch) for branch in branches(node)))
    if {"duration", "size"} & set(found):  # the bare number beside a unit is told once, in the index
        found = [text for text in found if not text.startswith(("integer", "`0`"))]
    return " or ".join(found) or "any value"


_TYPES: dict[Any, str] = {"string": "text", "array": "list", None: "any value"}


def _words(node: Json) -> str:
    for known, text in _UNITS:
        if all(node.get(key) == value for key, value in known.items()):
            return text
    if "enum" in node or "const" in node:
        return ", ".join(f"`{_plain(value)}`" for value in node.get("enum", [node.get("const")]))
    kind = node.get("type")
    if kind == "array":
        return f"list of {words(node['items'])}" if node.get("items") else "list"
    if kind == "object":
        inner = node.get("additionalProperties")
        return f"mapping of names to {words(inner)}" if isinstance(inner, dict) else "object"
    if kind in ("integer", "number"):
        return f"{kind}{_range(node.get('minimum'), node.get('maximum'))}"
    if isinstance(kind, list):
        return " or ".join(_TYPES.get(k, str(k)) for k in kind if k != "null")
    return _TYPES.get(kind, str(kind))


def _range(low: Any, high: Any) -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None or abs(high) >= 2**31 - 1:
        return f" ≥ {low}" if low is not None else f" ≤ {high}"
    return f" {low} to {high}"


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_of(field: Field) -> str:
    """The default as a person would write it."""
    if field.required:
        return "required"
    value = field.default
    if value is None:
        return ""
    patterns = {branch.get("pattern") for branch in branches(field.type.schema)}
    if type(value) is int and DURATION_PATTERN in patterns and value:
        return f"`{format_duration(value)}`"
    if type(value) is int and SIZE_PATTERN in patterns and value > 0:
        return f"`{format_size(value)}`"
    if isinstance(value, Mapping) and any(value.values()) is False:
        return "`{}`"
    return f"`{_plain(value)}`" if value != "" else "empty"


# Where an object stands ----------------------------------------------------------------------------------


def descend(document: Json, path: str) -> Json:
    """The JSON Schema of what stands at a place. Raises LookupError for a place that the language lacks."""
    node = document
    for word in path.split("."):
        name = word.removesuffix("[]")
        if name.isupper():
            values = (b.get("additionalProperties") for b in branches(node))
            node = next((value for value in values if isinstance(value, dict)), {})
        else:
            node = next((b["properties"][name] for b in branches(node) if name in b.get("properties", {})), {})
        if word.endswith("[]"):
            node = next((b["items"] for b in branches(node) if "items" in b), {})
        if not node:
            raise LookupError(f"{path}: no {word}")
    return node


def _kind_at(path: str) -> str | None:
    return next((kind for kind, place in PLACES.items() if path in place.paths), None)


def _changed(kind: str, field: Field) -> str:
    """What a server does when the option changes: in place, or only by making the object anew."""
    if (kind, field.name) in _BY_VALUE:
        return _BY_VALUE[kind, field.name]
    note = _note(kind, field)
    if note is None:
        return ""
    if note.local:
        return "spec only"
    if note.before is None or note.changed_in is None:
        return _CHANGES[note.change]
    return f"{_CHANGES[note.change]}; before {_dotted(note.changed_in)}: {_CHANGES[note.before]}"


def _note(kind: str, field: Field) -> Note | None:
    """The rule of the option, or of the one of the stream behind a bucket or object store."""
    if kind not in ("stream", "consumer", "bucket", "object_store") or field.name == "stream":
        return None
    behind = {"bucket": bucket.STREAM_OF, "object_store": object_store.STREAM_OF}.get(kind, {})
    return note_of(stream_fields.OPTIONS[behind[field.name]] if field.name in behind else field)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version)).removesuffix(".0") if len(version) > 2 else ".".join(map(str, version))


# Pages ---------------------------------------------------------------------------------------------------


_MANY = {"": "", ".NAME": "names of ", ".ROLE": "roles and their ", "[]": "list of "}


class _Page:
    """Collects the options of one object, then those of the objects inside it."""

    def __init__(self, kind: str, paths: tuple[str, ...]) -> None:
        self.kind = kind
        self.paths = paths
        self.inner: list[tuple[str, Json, FieldTable | None]] = []
        self.anchors: list[tuple[Json, str]] = []

    def rows(self, node: Json, table: FieldTable | None, above: str = "") -> Iterator[Row]:
        """The options of an object; what is an object itself is noted for later."""
        properties, required = _properties(node)
        for name, option in properties.items():
            field = table.fields.get(name) if table is not None else None
            type_ = self._nested(name, option, field, above) or words(option)
            doc = option.get("description") or (field.doc if field is not None else "") or self._doc(name)
            if field is not None:
                default, since = default_of(field), _dotted(field.since) if field.since else ""
            else:
                given = option.get("default")
                default, since = "required" if name in required else f"`{given}`" if given is not None else "", ""
            changed = _changed(self.kind, field) if field is not None and not above else ""
            yield Row(name, type_, default, since, changed, doc)

    def _nested(self, name: str, option: Json, field: Field | None, above: str) -> str | None:
        """The words for an option that holds objects: a link to their kind, or to a part of this page."""
        if not above and (held_kind := self._kind(name)) is not None:
            kind, end = held_kind
            return f"{_MANY[end]}[{kind}]({kind}.md)"
        if not above and (same := _SAME_AS.get((self.kind, name))):
            return f"options of [{same}]({same}.md)"
        held = _object_in(option)
        if held is None:
            return None
        where = f"{above}.{name}" if above else name
        table = field.type.table if field is not None else None
        if table is None and field is not None and isinstance(field.note, Note):
            table = field.note.table
        anchor = next((known for shape, known in self.anchors if shape == held), None)
        if anchor is None:
            anchor = where.replace(".", "")
            self.anchors.append((held, anchor))
            self.inner.append((where, held, table))
        return words(option).replace("object", f"[object](#{anchor})")

    def _kind(self, name: str) -> tuple[str, str] | None:
        """The kind whose objects stand under an option, and how: one, by name, by role, in a list."""
        ends = ((f"{path}.{name}", end) for path in self.paths for end in _MANY)
        return next(((kind, end) for start, end in ends if (kind := _kind_at(start + end))), None)

    def _doc(self, name: str) -> str:
        held = self._kind(name)
        return PLACES[held[0]].what if held is not None else ""

    def text(self, node: Json, table: FieldTable | None) -> str:
        """The tables of the page."""
        parts = [_table(list(self.rows(node, table)))]
        while self.inner:
            where, held, inner = self.inner.pop(0)
            parts.append(f"\n## {where}\n\n{_table(list(self.rows(held, inner, where)))}")
        return "".join(parts)


def _properties(node: Json) -> tuple[dict[str, Json], set[str]]:
    for branch in branches(node):
        if "properties" in branch:
            return branch["properties"], set(branch.get("required", ()))
    return {}, set()


def _object_in(node: Json) -> Json | None:
    """The described object that a value is, or is a list or mapping of; not a reference to a secret or file."""
    for branch in branches(node):
        if "properties" in branch and branch not in (f.SECRET.schema, schema.FILE_REFERENCE):
            return branch
        held = branch.get("items") or branch.get("additionalProperties")
        if isinstance(held, dict) and (found := _object_in(held)) is not None:
            return found
    return None


_TITLES = {"name": "option", "type": "value", "default": "default", "since": "since", "changed": "change", "doc": ""}


def _table(rows: list[Row]) -> str:
    """A table of the columns that say anything."""
    columns = [c for c in Row._fields if c in ("name", "type", "doc") or any(getattr(row, c) for row in rows)]
    lines = ["| " + " | ".join(_TITLES[c] for c in columns).rstrip() + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = {**row._asdict(), "name": f"`{row.name}`"}
        lines.append("| " + " | ".join(cells[c].replace("|", "\\|") for c in columns) + " |")
    return "\n".join(lines) + "\n"


_HOW = "- How values are written: [README.md](README.md).\n"


def page(kind: str) -> str:
    """The page of a kind. Raises KeyError for a kind without a place."""
    place, known = PLACES[kind], registry.kinds()[kind]
    head = f"# {kind}\n\n{place.what}\n\n- System: {_SYSTEMS[known.system]}; {_NATURES[known.nature]}.\n"
    if not place.paths:
        return head
    node = descend(schema.compose(registry.sections()), place.paths[0])
    table = runtime.FIELDS if kind == "binding" else known.fields
    also = "".join(f", `{path}`" for path in place.paths[1:])
    forms = [words(b) for b in branches(node) if "properties" not in b]
    head += f"- Place: `{place.paths[0]}`{also}.\n"
    head += f"- Short form: {' or '.join(forms)}.\n" if forms else ""
    return f"{head}{_HOW}\n{_Page(kind, place.paths).text(node, table)}"


def target_page(system: str) -> str:
    """The page of the targets of a system."""
    what, table = TARGETS[system]
    head = f"# {system} target\n\n{what} An environment declares it.\n\n- Place: `targets.{system}.NAME`.\n{_HOW}\n"
    return head + _Page("target", ()).text(table.schema(), table)


_INDEX = """\
# Reference

One page for each kind of object: every option, its values, its default, the first server version that has it, and,
for NATS, what the server does when it changes ("made anew" costs what the plan says, and needs a consent).

## Values

| value | form |
|---|---|
| duration | a number with its unit: `500ms`, `30s`, `5m`, `1h`, `30d`, `1h30m`; `0` is none |
| size | a number with its unit: `64KiB`, `512MiB`, `10GiB`; a bare integer is bytes; `-1` may be unlimited |
| interval | a calendar interval in UTC: `1 hour`, `1 day`, `1 week`, `1 month` |
| time | RFC 3339: `2026-01-31T12:00:00Z` |
| file | `{file: path}`: the text lies there, from the folder of the spec |
| secret reference | `{env: NAME}` or `{file: path}`; the value itself never stands in a spec |

`null` means the server's default wherever an option is not required. The same in a form for editors:
`holdfast schema` and `holdfast schema --environment`.

## Kinds

| kind | place | |
|---|---|---|
"""


def index() -> str:
    """The list of pages."""
    rows = [
        f"| [{kind}]({kind}.md) | {f'`{place.paths[0]}`' if place.paths else ''} | {place.what} |\n"
        for kind, place in PLACES.items()
    ]
    rows += [f"| [{s} target](target-{s}.md) | `targets.{s}.NAME` | {what} |\n" for s, (what, _) in TARGETS.items()]
    return _INDEX + "".join(rows)


def files() -> dict[str, str]:
    """Every page by the name of its file."""
    pages = {f"{kind}.md": page(kind) for kind in registry.kinds()}
    pages |= {f"target-{system}.md": target_page(system) for system in TARGETS}
    return {name: NOTE + text for name, text in (pages | {"README.md": index()}).items()}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, and take away those that belong to no kind any more."""
    parser = argparse.ArgumentParser(prog="python -m provision.reference", description="Write the reference pages.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
