"""What the server asks of the provider: plain values and small immutable messages, no gRPC and no Pulumi.

``provision.pulumi.server`` turns the engine's requests into these and the answers back; whatever fulfils
``Behaviour`` can be served. Values are what JSON has, with ``UNKNOWN`` in a preview where a value comes from a
resource that is not there yet. Requests come in several threads at once.

Secrets are bare values here. The server remembers which properties of a request were secret and marks the same
top-level properties in the answer, so that the engine encrypts them; ``secret_keys`` of an answer adds others.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

#: Where a value is inside a resource: ``("schemas", "agents", "tables", "a.b", "columns", 0)``.
Pointer = tuple[str | int, ...]
#: Properties of a resource by name.
Values = Mapping[str, Any]
Kind = Literal["add", "update", "delete"]


class Unknown(enum.Enum):
    """The type of ``UNKNOWN``; an enumeration keeps it a singleton through every copy."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "UNKNOWN"


#: A value that only an up will know; compare by identity. It is not JSON: json.dumps refuses it.
UNKNOWN: Final = Unknown.UNKNOWN


def has_unknown(value: object) -> bool:
    """Whether the value is unknown or holds an unknown one."""
    if isinstance(value, Mapping):
        return any(map(has_unknown, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_unknown, value))
    return value is UNKNOWN


class Failure(NamedTuple):
    """Why an input cannot be used. The empty pointer is the resource as a whole."""

    pointer: Pointer
    reason: str


class PropertyChange(NamedTuple):
    """One changed input as the engine shows it. ``replace``: this change makes the resource anew."""

    pointer: Pointer
    kind: Kind
    replace: bool = False


@dataclass(frozen=True)
class Checked:
    """The inputs in the form in which they are kept and compared, and what is wrong with them."""

    inputs: Values
    failures: tuple[Failure, ...] = ()
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Difference:
    """What an update would do. A change without ``detailed`` is an update that shows no property."""

    changes: bool = False
    detailed: tuple[PropertyChange, ...] = ()
    delete_before_replace: bool = True

    def __post_init__(self) -> None:
        assert self.changes or not self.detailed, "a detailed difference is a change"

    @property
    def replaces(self) -> tuple[Pointer, ...]:
        """The inputs for which the resource is made anew."""
        return tuple(change.pointer for change in self.detailed if change.replace)


@dataclass(frozen=True)
class Made:
    """A resource that is there, or in a preview would be: its ``id`` then reaches the resources that refer to it, so
    it is the true one, or empty where only an up will know."""

    id: str
    properties: Values
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """A resource as it lives. ``inputs`` have the form that ``check`` gives, else a refresh shows a difference."""

    id: str
    inputs: Values
    properties: Values
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Resource:
    """Which resource a request is about. ``type`` is its token (``holdfast:index:Stream``), ``name`` its name in
    the program."""

    urn: str
    type: str
    name: str


@dataclass(frozen=True)
class CheckRequest(Resource):
    """``olds`` are the inputs in the state, None for a new resource. ``secret_keys`` are those of ``news``."""

    news: Values
    olds: Values | None = None
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DiffRequest(Resource):
    """``old_inputs`` and ``olds`` are inputs and outputs in the state. ``ignore_changes`` holds pointers; the engine
    has already put the old values there into ``news``."""

    id: str
    old_inputs: Values
    olds: Values
    news: Values
    ignore_changes: tuple[Pointer, ...] = ()
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CreateRequest(Resource):
    """``timeout_s`` is what the program asked for, None if it said nothing."""

    inputs: Values
    preview: bool = False
    timeout_s: float | None = None
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ReadRequest(Resource):
    """A refresh brings ``inputs`` and ``properties`` of the state; both are empty in an import."""

    id: str
    inputs: Values = field(default_factory=dict)
    properties: Values = field(default_factory=dict)
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UpdateRequest(Resource):
    """``old_inputs`` and ``olds`` are inputs and outputs in the state."""

    id: str
    old_inputs: Values
    olds: Values
    news: Values
    preview: bool = False
    timeout_s: float | None = None
    ignore_changes: tuple[Pointer, ...] = ()
    secret_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DeleteRequest(Resource):
    """``old_inputs`` and ``properties`` are inputs and outputs in the state."""

    id: str
    old_inputs: Values
    properties: Values
    timeout_s: float | None = None


class PartialFailure(Exception):
    """The resource is there, but not as it should be: the engine keeps it with these properties and reports the
    reasons. Raised by create, update and read; the next up updates it."""

    def __init__(self, id: str, properties: Values, inputs: Values, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.id = id
        self.properties = properties
        self.inputs = inputs
        self.reasons = reasons


class Behaviour(Protocol):
    """What a provider does. Any HoldfastError it raises becomes one line; any other exception is our bug."""

    version: str

    def schema(self) -> str:
        """Give the package's schema as JSON text."""

    def check_config(self, news: Values, secret_keys: frozenset[str]) -> Checked:
        """Judge the provider's own inputs; in a preview they may hold UNKNOWN. No engine says yet which are secret."""

    def diff_config(self, old_inputs: Values, news: Values) -> Difference:
        """Compare the provider's inputs. A replacement replaces every resource of the provider too."""

    def configure(self, config: Values) -> None:
        """Take the checked inputs, all of them known; connect to nothing yet."""

    def check(self, request: CheckRequest) -> Checked: ...

    def diff(self, request: DiffRequest) -> Difference: ...

    def create(self, request: CreateRequest) -> Made: ...

    def read(self, request: ReadRequest) -> Found | None:
        """Look at the live resource; None if it is gone."""

    def update(self, request: UpdateRequest) -> Values: ...

    def delete(self, request: DeleteRequest) -> None: ...

    def cancel(self) -> None:
        """Let the calls under way end soon, with an error where they are not done. Returns at once.

        The engine calls it at the end of every run, mostly when no call is under way.
        """

    def close(self) -> None:
        """Let go of locks and connections; called once, last, even while a call is stuck. A second must do."""

    def redact(self, text: str) -> str:
        """Mask every secret known by now."""
