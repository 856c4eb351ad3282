"""Two small sections of our own, so that the machinery is tested without any real kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provision.spec.fields import (
    BOOL,
    DURATION,
    INTERVAL,
    SECRET,
    SIZE,
    SQL,
    STRING,
    Field,
    FieldError,
    FieldTable,
    Type,
    any_of,
    enum,
    integer,
    list_of,
    map_of,
    object_of,
)
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Record


def option(name: str, type: Type, *, default: Any = None, required: bool = False) -> Field:
    return Field(name=name, type=type, doc=f"The {name}.", default=default, required=required)


PLACEMENT = FieldTable(option("cluster", STRING), option("tags", list_of(STRING)))
CONSUMER = FieldTable(
    option("ack_policy", enum("none", "all", "explicit"), default="none"),
    option("ack_wait", DURATION, default=30_000_000_000),
)
STREAM = FieldTable(
    option("subjects", list_of(STRING, min_items=1), required=True),
    option("description", STRING),
    option("max_age", DURATION, default=0),
    option("max_bytes", SIZE, default=-1),
    option("every", INTERVAL),
    option("replicas", integer(1, 5), default=1),
    option("retention", enum("limits", "interest", "workqueue"), default="limits"),
    option("deny_delete", BOOL, default=False),
    option("placement", object_of(PLACEMENT)),
    option("metadata", map_of(STRING)),
    option("password", SECRET),
    option("keys", any_of(list_of(STRING), object_of(FieldTable(option("columns", list_of(STRING)))), parse=list)),
    extra={"consumers": {"type": "object", "additionalProperties": CONSUMER.schema()}},
)
FUNCTION = FieldTable(option("body", SQL, required=True), option("comment", STRING))


class Streams:
    """``streams``: name -> options, consumers nested."""

    name = "streams"

    def schema(self) -> Mapping[str, Any]:
        names = {"pattern": "^[A-Za-z0-9_-]+$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": STREAM.schema()}

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, options in node.items():
            pointer = ("streams", name)
            address = Address.root("nats", "main", "stream", name)
            if name == "FORBIDDEN":
                reader.report("HF0999", pointer, "this name is taken", "Take another.", at_key=True)
                continue
            try:
                yield Record(address, STREAM.parse(options), origin=pointer)
            except FieldError as error:
                reader.fail(pointer, error)
                continue
            for consumer, settings in (options.get("consumers") or {}).items():
                child, origin = address.child("consumer", consumer), (*pointer, "consumers", consumer)
                yield Record(child, CONSUMER.parse(settings or {}), address, (address,), (address,), origin)


class Schemas:
    """``schemas``: name -> functions, each with a body."""

    name = "schemas"

    def schema(self) -> Mapping[str, Any]:
        schema = FieldTable(
            option("comment", STRING),
            extra={
                "functions": {"type": "object", "additionalProperties": FUNCTION.schema()},
                "tables": {"type": "object", "additionalProperties": {"type": "object"}},
            },
        )
        return {"type": "object", "additionalProperties": schema.schema()}

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, options in node.items():
            schema = Address.root("pg", "main", "schema", name, bare=True)
            yield Record(schema, {"comment": options.get("comment")}, origin=("schemas", name))
            for function, settings in (options.get("functions") or {}).items():
                address = schema.child("function", function.split("(")[0])
                origin = ("schemas", name, "functions", function)
                yield Record(address, FUNCTION.parse(settings), schema, (schema,), (), origin)


SECTIONS = (Streams(), Schemas())


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Lay a folder of specs out; gives the folder."""
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return folder
