"""Observe everything a plane touches, at once: databases, NATS accounts, the ledger and the stored contract."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from provision.reconcile.targets import Targets
from provision.spec.errors import InputError
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record

if TYPE_CHECKING:
    from provision.nats.ledger import Held as NatsHeld
    from provision.nats.observe import Observation
    from provision.plan.assemble import Seen
    from provision.postgres.catalog import Catalog, Query
    from provision.postgres.ledger import Held
    from provision.postgres.observe import Snapshot

#: Facts of the plane itself, where declared kinds live: it has no server and no version.
_PLANE_FACTS = Facts("plane", "main", (), {})


class World:
    """What one look at the servers brought. Raw until asked; equal digests mean equal worlds."""

    def __init__(
        self, plane: str, env: str, snapshots: Mapping[str, Snapshot], observations: Mapping[str, Observation],
        ledger: Callable[[], Mapping[str, str]], stored: Callable[[], Mapping[str, Any] | None],
        intended: Callable[[], frozenset[str]] = frozenset,
    ) -> None:  # fmt: skip
        self.plane = plane
        self.env = env
        self.snapshots = snapshots
        self.observations = observations
        self._ledger = ledger
        self._stored = stored
        self._intended = intended

    @cached_property
    def owned(self) -> Mapping[str, str]:
        """Every address in the ledger with its origin."""
        return self._ledger()

    @property
    def adopted(self) -> frozenset[str]:
        """The owned addresses whose objects the plane did not create."""
        return frozenset(address for address, origin in self.owned.items() if origin == "adopted")

    @cached_property
    def stored(self) -> Mapping[str, Any] | None:
        """The stored contract. Raises InputError for one that a later version of us wrote."""
        from provision.pools import contract

        found = self._stored()
        if found is not None and not contract.is_readable(found):
            version = found.get("contract_version")
            raise InputError(f"the stored contract has version {version}, unknown to us", "Update holdfast.")
        return found

    @cached_property
    def digest(self) -> str:
        """Hash of everything a plan depends on besides the specs and the clock."""
        found = hashlib.sha256()
        for name, snapshot in sorted(self.snapshots.items()):
            options = json.dumps(snapshot.facts.options, sort_keys=True, default=list)
            found.update(f"pg {name} {snapshot.digest} {options}\n".encode())
            for query, raw in sorted(snapshot.ledger.items()):
                found.update(query.encode() + raw)
        for name, observation in sorted(self.observations.items()):
            found.update(f"nats {name} ".encode() + observation.raw_digest)
        if not self.snapshots:
            found.update(json.dumps([sorted(self.owned.items()), sorted(self._intended())]).encode())
        if self.observations:
            found.update(json.dumps(self.stored, sort_keys=True).encode())
        return found.hexdigest()

    @cached_property
    def facts(self) -> dict[tuple[str, str], Facts]:
        """Facts of every target, by (system, name)."""
        known = [s.facts for s in self.snapshots.values()] + [self._with_marks(o) for o in self.observations.values()]
        # What lives in the contract is placed at a target, too.
        names = {"main", *self.snapshots, *self.observations}
        return {(f.system, f.target): f for f in known} | {("plane", n): _PLANE_FACTS._replace(target=n) for n in names}

    @cached_property
    def live(self) -> Plane:
        """Every live record, decoded."""
        return Plane(self._records(), name=self.plane, env=self.env)

    @property
    def seen(self) -> Seen:
        """What the pure core works on. Declared kinds live in the contract, so the plane owns them as they are."""
        from provision.plan.assemble import Seen
        from provision.postgres import unmodelled as strange

        unmodelled = (
            *(found for catalog in self._catalogs for found in strange.findings(catalog)),
            *(found for o in self.observations.values() for found in o.unmodelled),
        )
        foreign = {str(address) for address in self.foreign}
        return Seen(self.live, self.owned.keys(), self.facts, unmodelled, self._intended(), self.adopted, foreign)

    @property
    def foreign(self) -> dict[Address, str]:
        """Objects that another plane marked as its own."""
        found: dict[Address, str] = {}
        for observation in self.observations.values():
            found |= {a: plane for a, plane in observation.foreign.items() if plane != self.plane}
        return found

    @cached_property
    def _catalogs(self) -> list[Catalog]:
        """The raw catalogs, each parsed once."""
        return [snapshot.catalog for snapshot in self.snapshots.values()]

    def _with_marks(self, observation: Observation) -> Facts:
        """Facts with the objects that this plane created and that no longer say so. What was adopted never did."""
        lost = {str(a): self.plane for a in observation.unmarked if self.owned.get(str(a)) == "created"}
        return observation.facts._replace(options={**observation.facts.options, "unmarked": lost})

    def _records(self) -> Iterator[Record]:
        from provision import registry
        from provision.pools import contract

        for catalog in self._catalogs:
            for module in registry.postgres_modules():
                yield from module.decode(catalog)
        for observation in self.observations.values():
            yield from observation.records
        if self.stored is not None:
            yield from contract.declared_records(self.stored)


def observe(
    targets: Targets, plane: str, env: str, passwords: Mapping[str, Mapping[str, Any]],
    queries: Sequence[Query] | None = None,
) -> World:  # fmt: skip
    """Look at every declared target, databases and NATS accounts side by side.

    A target that no object of the specs lives on any more may hold objects that have to go.
    ``passwords`` maps a Postgres target to {role: secret reference}, ``queries`` are those of all kinds where
    the caller knows them already.
    Raises the typed error of the first server that cannot be read, InputError without any target.
    """
    postgres, nats = targets.names("pg"), targets.names("nats")
    if not (postgres or nats):
        raise InputError(f"environment {env} declares no targets", f"Declare them in environments/{env}.yaml.")

    def look(name: str) -> Snapshot:
        held = _ledger_queries(plane, env) if name == postgres[0] else ()
        return _observe_postgres(targets, name, passwords.get(name, {}), queries or _all_queries(), held)

    with ThreadPoolExecutor(max_workers=max(1, len(nats))) as pool:
        pending = {name: pool.submit(_observe_nats, targets, name, plane, env) for name in nats}
        snapshots = {name: look(name) for name in postgres}
        answers = {name: future.result() for name, future in pending.items()}
    observations = {name: observation for name, (observation, _, _) in answers.items()}
    # Ledger and contract are where they are written: in the first target.
    stored = answers[nats[0]][1] if nats else None
    if not postgres:
        noted = answers[nats[0]][2]
        return World(plane, env, snapshots, observations, lambda: noted.owned, lambda: stored, lambda: noted.intended)

    @cache
    def held() -> Held:
        from provision.postgres.ledger import decode

        return decode(snapshots[postgres[0]].ledger)

    return World(
        plane, env, snapshots, observations, lambda: held().owned,
        lambda: stored if nats else held().contract, lambda: held().intended,
    )  # fmt: skip


def _all_queries() -> Sequence[Query]:
    from provision import registry

    return registry.postgres_queries()


def _ledger_queries(plane: str, env: str) -> Sequence[Query]:
    from provision.postgres import ledger

    return ledger.queries(plane, env)


def _observe_postgres(
    targets: Targets, name: str, passwords: Mapping[str, Any], queries: Sequence[Query], held: Sequence[Query]
) -> Snapshot:
    from provision.postgres.observe import Observer

    known = {role: targets.resolve(ref) for role, ref in passwords.items() if targets.is_set(ref)}
    return Observer(targets.postgres(name), name).read(queries, ledger=held, passwords=known)


def _observe_nats(
    targets: Targets, name: str, plane: str, env: str
) -> tuple[Observation, Mapping[str, Any] | None, NatsHeld]:
    from provision.nats.ledger import Ledger
    from provision.nats.observe import observe as look

    session = targets.nats(name)
    store = Ledger(session, plane, env)
    observation = look(session, name, plane=plane)
    if hosts := targets.nats_hosts(name):
        observation = observation.knowing(hosts)
    return observation, store.read(), store.held()
