"""Publishers: who publishes what. Declared only: checks compare them with streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.nats.kinds import fields as t
from provision.nats.kinds import reading
from provision.spec import fields as f
from provision.spec.change import Change, Context, Lowered
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import Nature, PlainKind, Reader
from provision.spec.record import Record

FIELDS = FieldTable(
    Field(name="description", type=f.STRING, doc="Who it is."),
    Field(name="subjects", type=f.list_of(t.SUBJECT, min_items=1), required=True, doc="What it publishes."),
    extra={"target": reading.TARGET},
)


class PublisherKind(PlainKind):
    """A publisher; it changes nothing on a server."""

    name = "publisher"
    system = "plane"
    nature: Nature = "declared"
    fields = FIELDS

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered((), (change.address,))


KIND = PublisherKind()


class Publishers:
    """The section ``publishers``."""

    name = "publishers"

    def schema(self) -> Mapping[str, Any]:
        return reading.mapping(FIELDS.schema(), r"^\S+$")

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            settings = reading.parse(FIELDS, body or {}, (self.name, name), reader)
            if settings is not None:
                address = Address.root("plane", reading.target(body), "publisher", name)
                yield Record(address, settings, origin=(self.name, name))


SECTION = Publishers()
