"""What diff hands to the kinds and what the kinds hand back: changes in, drafts of steps out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record

#: ``rebuild`` is added by closure: equal on both sides, but something it stands on is replaced or altered.
ChangeAction = Literal["create", "update", "replace", "rebuild", "rename", "delete"]
#: What a change does to its dependents: nothing; rigid ones are rebuilt; all are rebuilt.
Impact = Literal["none", "alter", "replace"]


class Change(NamedTuple):
    """A difference between two planes at record grain. ``fields`` are the settings that differ."""

    address: Address
    action: ChangeAction
    before: Record | None
    after: Record | None
    fields: tuple[str, ...] = ()

    @property
    def record(self) -> Record:
        """The side that exists; the wanted one where both do."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Hazard:
    """A danger of a step. ``kind`` is one of data_loss, blocking, rewrite, adopt, downtime, security, delete.

    ``needs_consent`` hazards stop an apply unless ``KIND:ADDRESS`` is allowed. ``count`` is the number of
    rows or messages at stake when planned (None = not applicable), read again before the step. ``probe``
    says how: {"sql": "select count(*) …"} or {"stream": "NAME", …}; a kind gives it, the I/O half runs it.
    """

    kind: str
    detail: str
    needs_consent: bool = True
    count: int | None = None
    unit: str = "rows"
    probe: Mapping[str, Any] | None = None


class Sql(NamedTuple):
    """One SQL statement. ``secret`` names placeholders ``{{name}}`` that apply fills at send time only."""

    text: str
    secrets: Mapping[str, Any] | None = None


class Api(NamedTuple):
    """One request to the JetStream API: subject and JSON body.

    ``settle`` says what apply waits for after the answer: {"stream": NAME, "replicas": 3} and so on.
    """

    subject: str
    body: Mapping[str, Any] | None = None
    settle: Mapping[str, Any] | None = None


Request = Sql | Api


@dataclass(frozen=True, slots=True)
class Draft:
    """A step before it is ordered.

    ``key`` distinguishes the steps of one object ("", "validate", …). ``makes``/``destroys``/``needs``/
    ``releases`` are points for the sort: a step runs after the makers of what it needs, before the
    destroyers of what it releases, and a destroyer runs before the maker of the same address.
    ``follows`` names keys of drafts of the same object that come first.
    ``lock`` is the strongest lock on an existing relation ("ACCESS EXCLUSIVE") or None.
    ``fresh`` marks statements on objects that the same plan creates: they may share one transaction.
    ``done_if`` is SQL giving one boolean: true means the step is already done (resume after a crash).
    """

    object: Address
    action: str
    request: Request
    summary: str
    key: str = ""
    makes: tuple[Address, ...] = ()
    destroys: tuple[Address, ...] = ()
    needs: tuple[Address, ...] = ()
    releases: tuple[Address, ...] = ()
    follows: tuple[str, ...] = ()
    lock: str | None = None
    hazards: tuple[Hazard, ...] = ()
    transactional: bool = True
    fresh: bool = False
    undo: Request | None = None
    done_if: str | None = None


class Lowered(NamedTuple):
    """Steps for a change, and every change they take care of (the change itself included)."""

    drafts: tuple[Draft, ...]
    absorbs: tuple[Address, ...]


class Context(Protocol):
    """What a kind may look at while it lowers a change. Pure data."""

    @property
    def desired(self) -> Plane: ...

    @property
    def live(self) -> Plane: ...

    @property
    def changes(self) -> Mapping[Address, Change]: ...

    def facts(self, address: Address) -> Facts:
        """The facts of the target that an address lives on."""
        ...
