"""Pools: who may hold how many connections to which endpoint, and for how long. Declared only; the contract
carries them to the runtime, checks compare them with roles and servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.pools import sizing
from provision.spec import fields as f
from provision.spec.change import Change, Context, Lowered
from provision.spec.fields import Field, FieldError, FieldTable, Json
from provision.spec.ident import Address
from provision.spec.kind import Nature, PlainKind, Reader
from provision.spec.record import Pointer, Record, Settings

MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND

SIZING = FieldTable(
    Field(name="ops_per_s", type=f.number(0), required=True, doc="Operations in a second, over all processes."),
    Field(name="avg_duration", type=f.DURATION, required=True, doc="How long one holds a connection."),
    Field(name="agents", type=f.integer(0), required=True, doc="Agents that share the pool."),
    Field(
        name="target_utilization",
        type=f.number(0.01, 1),
        default=0.8,
        doc="The part of the pool that is meant to be in use.",
    ),
)

FIELDS = FieldTable(
    Field(name="role", type=f.text(r"^\S+$"), required=True, doc="The login role of the pool."),
    Field(
        name="endpoint",
        type=f.text(r"^[A-Za-z0-9_-]+$"),
        default="primary",
        doc="The endpoint of the target it connects to.",
    ),
    Field(name="database", type=f.text(max_length=63), doc="The database; null is the target's."),
    Field(
        name="min",
        type=f.integer(0),
        default=2,
        doc="Connections kept open; null with sizing takes the recommendation.",
    ),
    Field(
        name="max",
        type=f.integer(1),
        default=10,
        doc="Most connections of one process; null with sizing takes the recommendation.",
    ),
    Field(name="processes", type=f.integer(1), default=1, doc="Client processes that hold a pool of this size."),
    Field(
        name="acquire_timeout",
        type=f.DURATION,
        default=30 * SECOND,
        doc="How long a caller waits for a connection.",
    ),
    Field(
        name="idle_timeout",
        type=f.DURATION,
        default=10 * MINUTE,
        doc="After this an idle connection above min is closed.",
    ),
    Field(
        name="max_lifetime",
        type=f.DURATION,
        default=120 * MINUTE,
        doc="After this a connection is replaced.",
    ),
    Field(
        name="test_before_acquire",
        type=f.BOOL,
        default=True,
        doc="Whether a connection is tried before it is handed out.",
    ),
    Field(name="statement_timeout", type=f.DURATION, default=30 * SECOND, doc="Limit of a statement; 0 is none."),
    Field(
        name="idle_in_transaction_timeout",
        type=f.DURATION,
        default=60 * SECOND,
        doc="Limit of idling inside a transaction; 0 is none.",
    ),
    Field(
        name="application_name",
        type=f.text(max_length=63),
        default="agent_system",
        doc="Shown in pg_stat_activity.",
    ),
    Field(
        name="statement_cache_capacity",
        type=f.integer(0),
        default=100,
        doc="Prepared statements kept for each connection; 0 prepares none.",
    ),
    Field(
        name="recycling",
        type=f.enum("fast", "verified", "clean"),
        default="fast",
        doc="What happens to a connection that comes back: nothing, a test, or DISCARD ALL.",
    ),
    Field(
        name="slow_query_threshold",
        type=f.DURATION,
        default=100 * MS,
        doc="Statements that take longer are logged.",
    ),
    Field(name="leak_detection", type=f.BOOL, default=True, doc="Whether connections kept for ever are told."),
    Field(name="after_connect", type=f.list_of(f.SQL), default=[], doc="Statements run on each new connection."),
    Field(
        name="mode",
        type=f.enum("session", "transaction", "statement"),
        default="session",
        doc="For how long a client keeps its server connection.",
    ),
    Field(name="pgbouncer", type=f.BOOL, default=False, doc="Whether PgBouncer stands in between."),
    Field(name="sizing", type=f.object_of(SIZING), doc="The load from which min and max follow where null."),
    extra={
        "target": {
            "anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}],
            "description": "The Postgres target, main where nothing is said.",
        }
    },
)


class PoolKind(PlainKind):
    """A connection pool; it changes nothing on a server."""

    name = "pool"
    system = "plane"
    nature: Nature = "declared"
    fields = FIELDS

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered((), (change.address,))


KIND = PoolKind()


class Pools:
    """The section ``pools``."""

    name = "pools"

    def schema(self) -> Mapping[str, Any]:
        pool: Json = FIELDS.schema()
        return {
            "type": "object",
            "propertyNames": {"pattern": r"^[A-Za-z0-9_-]+$"},
            "additionalProperties": pool,
        }

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            pointer = (self.name, name)
            settings = _parse(body, pointer, reader)
            if settings is not None:
                target = body.get("target") or "main"
                role = Address.root("pg", target, "role", settings["role"])
                address = Address.root("plane", target, "pool", name)
                yield Record(address, _sized(body, settings), refs=(role,), origin=pointer)


SECTION = Pools()


def _sized(body: Mapping[str, Any], settings: Settings) -> Settings:
    if settings["sizing"] is None:
        return settings
    load = settings["sizing"]
    found = sizing.recommend(load["agents"], load["ops_per_s"], load["avg_duration"], load["target_utilization"])
    sized = dict(settings)
    if body.get("max") is None:
        sized["max"] = found.maximum
    if body.get("min") is None:
        sized["min"] = min(found.minimum, sized["max"])
    return sized


def _parse(body: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Settings | None:
    """Give canonical settings, or None after reporting every value that is wrong."""
    try:
        return FIELDS.parse(body)
    except FieldError:
        for key, value in body.items():
            try:
                FIELDS.parse({key: value})
            except FieldError as error:
                reader.fail(pointer, error)
        return None
