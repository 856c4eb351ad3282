"""Steps of work over several systems, as they are written into its journal."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.errors import CodecError, ConfigurationError
from holdfast.events.outbox import Event, check_subject, encode, qualified
from holdfast.kv.entry import CORRELATION

if TYPE_CHECKING:
    from holdfast.state.codec import Codec


class Addressed(Protocol):
    """What of an agent's handle names one of its values: AgentState has it, with and without asyncio."""

    @property
    def codec(self) -> Codec: ...

    def address(self, key: str) -> tuple[str, str]: ...


@dataclass(frozen=True)
class KvPut:
    """Store ``value``. ``expect`` is the key's last revision, 0 for none; None takes what the step finds.

    A key of an agent's state, see ``on``, is written under the agent's lease: by its open handle in this process, else
    under a lease that is taken for the step.
    """

    bucket: str
    key: str
    value: bytes
    expect: int | None = None

    @classmethod
    def on(cls, agent: Addressed, key: str, value: Any, *, expect: int | None = None) -> KvPut:
        """Put ``value`` under a key of an agent's state. Raises CodecError."""
        return cls(*agent.address(key), agent.codec.encode(value), expect)


@dataclass(frozen=True)
class KvDelete:
    """Delete a key; ``expect`` as for KvPut."""

    bucket: str
    key: str
    expect: int | None = None

    @classmethod
    def on(cls, agent: Addressed, key: str, *, expect: int | None = None) -> KvDelete:
        """Delete a key of an agent's state. Raises CodecError."""
        return cls(*agent.address(key), expect)


@dataclass(frozen=True)
class SqlInsert:
    """Insert one row into a table with its schema; ``key`` names the columns of its primary key, all in ``row``."""

    table: str
    row: Mapping[str, Any]
    key: Sequence[str]


@dataclass(frozen=True)
class SqlUpdate:
    """Change columns of the one row that ``key`` names; there must be one."""

    table: str
    key: Mapping[str, Any]
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class SqlDelete:
    """Delete the one row that ``key`` names; there must be one."""

    table: str
    key: Mapping[str, Any]


@dataclass(frozen=True)
class Emit:
    """Publish an event with the last database transaction, through the outbox. It cannot be undone, so it is last."""

    subject: str
    payload: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def event(self, correlation_id: str) -> Event:
        """What goes into the outbox."""
        return Event(self.subject, self.payload, {**self.headers, CORRELATION: correlation_id})


KvStep = KvPut | KvDelete
SqlStep = SqlInsert | SqlUpdate | SqlDelete | Emit
Step = KvStep | SqlStep

_KINDS: dict[str, type[Step]] = {
    "kv.put": KvPut,
    "kv.delete": KvDelete,
    "sql.insert": SqlInsert,
    "sql.update": SqlUpdate,
    "sql.delete": SqlDelete,
    "emit": Emit,
}
_NAMES = {type_: kind for kind, type_ in _KINDS.items()}


def check(steps: Sequence[Step]) -> None:
    """Refuse work that could not be journalled or undone. Raises ConfigurationError, CodecError."""
    if not steps:
        raise ConfigurationError("the work has no steps")
    keys = [(step.bucket, step.key) for step in steps if isinstance(step, KvStep)]
    if len(set(keys)) < len(keys):
        raise ConfigurationError("two steps write the same key: join them into one")
    for step in steps:
        match step:
            case SqlInsert():
                qualified(step.table)
                if not step.key or not set(step.key) <= set(step.row):
                    raise ConfigurationError(f"the row for {step.table} does not hold its key")
            case SqlUpdate():
                qualified(step.table)
                if not step.key or not step.changes or set(step.key) & set(step.changes):
                    raise ConfigurationError(f"a change of {step.table} needs a key and columns outside it")
            case SqlDelete():
                qualified(step.table)
                if not step.key:
                    raise ConfigurationError(f"a deletion from {step.table} needs a key")
            case Emit():
                check_subject(step.subject)
        dump(step)


def dump(step: Step) -> str:
    """JSON for the journal. Raises CodecError for values that JSON does not hold."""
    fields: dict[str, Any] = {}
    for name in type(step).__dataclass_fields__:
        value = getattr(step, name)
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        fields[name] = value
    return encode({"kind": _NAMES[type(step)], **fields})


def load(action: Mapping[str, Any]) -> Step:
    """The step of an entry of the journal. Raises CodecError for one that a newer library wrote."""
    try:
        fields = dict(action)
        type_ = _KINDS[fields.pop("kind")]
        if type_ is KvPut:
            fields["value"] = base64.b64decode(fields["value"])
        return type_(**fields)
    except (KeyError, TypeError, ValueError) as error:
        text = "the journal holds a step that this version of the library does not know: a newer one finishes it"
        raise CodecError(text, driver_error=error) from None
