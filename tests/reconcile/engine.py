"""Asks a provider what Pulumi's engine would ask, in this process, and keeps the state as the engine does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from provision.plan.consents import required
from provision.plan.plan import Step
from provision.pulumi.protocol import (
    CheckRequest,
    CreateRequest,
    DeleteRequest,
    DiffRequest,
    ReadRequest,
    UpdateRequest,
)
from provision.pulumi.provider import Provider
from provision.reconcile.parts import TYPES
from provision.reconcile.piecework import Done
from provision.reconcile.portions import Setting, portion, transition
from provision.reconcile.splitting import split
from tests.live.drift_bed import Bed

Json = dict[str, Any]
#: The provider's clock, so that nothing changes at midnight.
CLOCK = datetime(2026, 11, 21, 12, tzinfo=UTC)
#: An engine does these in turn, and takes them away in reverse.
ORDER = tuple(
    "Role Stream KeyValueBucket ObjectStore Consumer PostgresDatabase PartitionSet Pool Contract".split()
)  # fmt: skip
_CONSENT = re.compile(r"holdfast:allow\[\d+\]' (\S+)")


class Resource(NamedTuple):
    """What an engine keeps of a resource."""

    type: str
    inputs: Json
    outputs: Json


class Foreseen(NamedTuple):
    """What previews gave, and what checks refused for want of a consent."""

    steps: tuple[Step, ...]
    refused: frozenset[str]


class Silent:
    """A screen that nobody looks at."""

    def info(self, text: str, urn: str = "") -> None: ...

    def warn(self, text: str, urn: str = "") -> None: ...


class Engine:
    """Asks the provider what Pulumi's engine would ask, one provider for each run, and keeps the state."""

    def __init__(self, bed: Bed, targets: Json) -> None:
        self.bed = bed
        self.targets = targets
        self.state: dict[str, Resource] = {}
        self._parts: list[tuple[str, str, Json]] = []

    def declare(self, document: Json) -> None:
        """Take the parts of the document as the program's resources."""
        found = [(TYPES[p.type].id(p.inputs), p.type, dict(p.inputs)) for p in split(document, self.bed.name)]
        self._parts = sorted(found, key=lambda part: ORDER.index(part[1]))

    @property
    def leaving(self) -> list[str]:
        """The ids of resources that are no longer in the program."""
        declared = {id for id, _, _ in self._parts}
        return [id for id in self.state if id not in declared]

    def loses(self, address: str) -> bool:
        """Whether the object goes with a resource that is no longer in the program."""
        return any(address == id or address.startswith(f"{id}/") for id in self.leaving)

    def farewell(self) -> set[str]:
        """The consents without which the component keeps the objects of resources that leave."""
        setting = Setting(self.bed.name, "dev", {}, self.bed.cache)
        known = [self.state[id] for id in self.leaving]
        parts = [portion(TYPES[r.type], r.inputs, setting) for r in known]
        return {c for part in parts for c in required(transition(part, None, setting))}

    def preview(self, allowed: Iterable[str] = ()) -> Foreseen:
        """Ask for every part that changes; a part that goes is not asked for."""
        refused: set[str] = set()
        shares: dict[str, Any] = {}
        with self._run(allowed) as (provider, told):
            for id, type, inputs in self._parts:
                news = {**inputs, "parts": dict(shares)} if type == "Contract" else inputs
                known = self.state.get(id)
                checked = provider.check(CheckRequest(**_named(id, type), news=news, olds=known and known.inputs))
                refused |= {c for f in checked.failures for c in _CONSENT.findall(f.reason)}
                shares[id] = self._previewed(provider, id, type, news, known)["part"]
        return Foreseen(tuple(s for done in told for s in done.steps), frozenset(refused))

    def _previewed(
        self, provider: Provider, id: str, type: str, news: Json, known: Resource | None
    ) -> Mapping[str, Any]:
        if known is None:
            return provider.create(CreateRequest(**_named(id, type), inputs=news, preview=True)).properties
        if not self._changes(provider, id, known, news):
            return known.outputs
        return provider.update(
            UpdateRequest(
                **_named(id, type), id=id, old_inputs=known.inputs, olds=known.outputs, news=news, preview=True
            )
        )

    def up(self, allowed: Iterable[str] = ()) -> list[Step]:
        """Create, update and delete; gives the steps that were done."""
        with self._run(allowed) as (provider, told):
            for id, type, inputs in self._parts:
                shares = {other: r.outputs["part"] for other, r in self.state.items() if r.type != "Contract"}
                wanted = {key for key, _, _ in self._parts}
                shares = {other: share for other, share in shares.items() if other in wanted}
                news = {**inputs, "parts": shares} if type == "Contract" else inputs
                known = self.state.get(id)
                request = _named(id, type)
                checked = provider.check(CheckRequest(**request, news=news, olds=known and known.inputs))
                assert checked.failures == ()
                if known is None:
                    outputs = provider.create(CreateRequest(**request, inputs=news)).properties
                elif self._changes(provider, id, known, news):
                    update = UpdateRequest(**request, id=id, old_inputs=known.inputs, olds=known.outputs, news=news)
                    outputs = provider.update(update)
                else:
                    continue
                self.state[id] = Resource(type, news, dict(outputs))
            for id in sorted(self.leaving, key=lambda id: -ORDER.index(self.state[id].type)):
                known = self.state.pop(id)
                delete = DeleteRequest(
                    **_named(id, known.type), id=id, old_inputs=known.inputs, properties=known.outputs
                )
                provider.delete(delete)
        return [s for done in told for s in done.steps]

    def refresh(self) -> None:
        """Read every resource; what is gone leaves the state."""
        with self._run(()) as (provider, _):
            for id, known in list(self.state.items()):
                read = ReadRequest(**_named(id, known.type), id=id, inputs=known.inputs, properties=known.outputs)
                found = provider.read(read)
                if found is None:
                    del self.state[id]
                else:
                    self.state[id] = Resource(known.type, dict(found.inputs), dict(found.properties))

    def changes(self) -> list[str]:
        """The ids of what a preview would create, update or delete."""
        with self._run(()) as (provider, _):
            found = self.leaving
            for id, type, inputs in self._parts:
                known = self.state.get(id)
                shares = {other: r.outputs["part"] for other, r in self.state.items() if r.type != "Contract"}
                news = {**inputs, "parts": shares} if type == "Contract" else inputs
                if known is None or self._changes(provider, id, known, news):
                    found.append(id)
        return found

    @staticmethod
    def _changes(provider: Provider, id: str, known: Resource, news: Json) -> bool:
        request = DiffRequest(**_named(id, known.type), id=id, old_inputs=known.inputs, olds=known.outputs, news=news)
        found = provider.diff(request)
        assert found.replaces == ()
        return found.changes

    @contextmanager
    def _run(self, allowed: Iterable[str]) -> Iterator[tuple[Provider, list[Done]]]:
        """A provider for one run, and what its plane's queue says of each thing it is asked to do."""
        provider = Provider(Silent(), cache=self.bed.cache, as_of=CLOCK)
        config = {"plane": self.bed.name, "env": "dev", "root": str(self.bed.specs.parent),
                  "targets": self.targets, "allow": sorted(allowed)}  # fmt: skip
        assert provider.check_config(config, frozenset()).failures == ()
        provider.configure(config)
        told: list[Done] = []
        pieces = provider._pieces
        for name in ("preview", "apply"):
            _listen(pieces, name, told)
        try:
            yield provider, told
        finally:
            provider.close()


def _listen(pieces: Any, name: str, told: list[Done]) -> None:
    answer = getattr(pieces, name)

    def heard(work: Any) -> Done:
        done: Done = answer(work)
        told.append(done)
        return done

    setattr(pieces, name, heard)


def _named(id: str, type: str) -> Any:
    return {"urn": f"urn:{id}", "type": f"holdfast:index:{type}", "name": id}
