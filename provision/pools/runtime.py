"""Bindings: what the runtime calls its objects and how patient it is. Declared only, in section ``runtime``.

The runtime knows roles ("the bucket that holds state"), the plane knows names; the contract joins the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.spec import fields as f
from provision.spec.change import Change, Context, Lowered
from provision.spec.fields import Field, FieldError, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import Nature, PlainKind, Reader
from provision.spec.record import Record

MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND

#: Kinds of the objects that names stand for; ``note`` of a field. None is a name that no object bears.
BUCKET, STREAM, CONSUMER, TABLE, FUNCTION = "bucket", "stream", "consumer", "table", "function"
_JETSTREAM_NAME = f.text(r"^[A-Za-z0-9_-]+$", max_length=255)
_QUALIFIED_NAME = f.text(r"^[^.\s]+\.[^.\s]+$")


def _names(kind: str, type_: Type, **docs: str) -> tuple[Field, ...]:
    return tuple(Field(name=f"{role}_{kind}", type=type_, doc=doc, note=kind) for role, doc in docs.items())


FIELDS = FieldTable(
    *_names(
        BUCKET,
        _JETSTREAM_NAME,
        state="Hot state of agents.",
        session="Sessions.",
        config="Configuration of agents.",
        cache="Cached results of queries.",
    ),
    *_names(
        STREAM,
        _JETSTREAM_NAME,
        flush="Journal of the state bucket: what SQL does not hold yet.",
        state="Events of agents.",
        task="Events of tasks.",
        message="Messages between agents.",
        dead_letter="Advisories of messages that nobody acknowledged.",
    ),
    *_names(CONSUMER, _JETSTREAM_NAME, flush="The durable of the journal."),
    *_names(
        TABLE,
        _QUALIFIED_NAME,
        registry="Agents.",
        state="State of agents.",
        checkpoint="Snapshots of state.",
        lifecycle="Events of agents.",
        task="Tasks.",
        message="Messages.",
        session="Sessions.",
        fact="Facts.",
        embedding="Embeddings of facts.",
        outbox="Events to publish.",
        inbox="Messages already handled.",
        saga="Sagas.",
        saga_step="Steps of sagas.",
        decision="Verdicts of two-phase commits.",
    ),
    *_names(
        FUNCTION,
        _QUALIFIED_NAME,
        hydrate="Gives the living state rows of an agent.",
        cleanup="Deletes expired rows.",
    ),
    Field(name="wake_channel", type=f.text(max_length=63), doc="NOTIFY channel that wakes the outbox relay."),
    Field(name="flush_dirty_keys", type=f.integer(1), default=50, doc="Dirty keys that start a flush."),
    Field(name="flush_interval", type=f.DURATION, default=100 * MS, doc="Longest time that a key stays dirty."),
    Field(name="consistency_window", type=f.DURATION, default=200 * MS, doc="Age at which a write is late."),
    Field(name="lease_ttl", type=f.DURATION, default=30 * SECOND, doc="How long a lease holds without renewal."),
    Field(name="outbox_poll_interval", type=f.DURATION, default=20 * MS, doc="How often a relay looks unwoken."),
    Field(
        name="jetstream_max_connections",
        type=f.integer(1),
        default=5,
        doc="Most NATS connections of one process.",
    ),
    Field(
        name="jetstream_connect_timeout",
        type=f.DURATION,
        default=10 * SECOND,
        doc="How long a connection to NATS may take.",
    ),
    Field(name="saga_timeout", type=f.DURATION, default=5 * MINUTE, doc="How long a saga may run."),
    Field(
        name="compensation_timeout",
        type=f.DURATION,
        default=2 * MINUTE,
        doc="How long undoing a saga may take.",
    ),
    Field(name="max_attempts", type=f.integer(1), default=3, doc="Tries of an operation before it fails."),
)


class BindingKind(PlainKind):
    """One binding: a name or a limit under the runtime's word for it. It changes nothing on a server."""

    name = "binding"
    system = "plane"
    nature: Nature = "declared"
    fields = FieldTable(Field(name="value", type=Type({}), required=True, doc="The name or the limit."))

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered((), (change.address,))


KIND = BindingKind()


class Runtime:
    """The section ``runtime``; a plane without it has no bindings."""

    name = "runtime"

    def schema(self) -> Mapping[str, Any]:
        return FIELDS.schema()

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for field in FIELDS:
            try:
                value = FIELDS.parse({field.name: node.get(field.name)})[field.name]
            except FieldError as error:
                reader.fail((self.name,), error)
                continue
            if value is not None:
                yield Record(address(field.name), {"value": value}, origin=(self.name, field.name))


SECTION = Runtime()


def address(name: str) -> Address:
    """The address of a binding."""
    return Address.root("plane", "main", "binding", name)
