"""The command line and the provider say the same of every change, and each leaves the other nothing to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from provision.plan.consents import required
from provision.plan.plan import Plan, Step
from provision.pulumi.protocol import (
    CheckRequest,
    CreateRequest,
    DeleteRequest,
    DiffRequest,
    ReadRequest,
    UpdateRequest,
)
from provision.pulumi.provider import ConsentRefused, Provider
from provision.reconcile import open_plane
from provision.reconcile.parts import TYPES, split
from provision.reconcile.piecework import Done
from provision.reconcile.portions import Setting, portion, transition
from tests.live.drift_bed import Bed

Json = dict[str, Any]
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


# A small plane that changes ---------------------------------------------------------------------------------


def some(**options: Any) -> st.SearchStrategy[Json]:
    """A node: each option is one of some values; None stands for its absence."""
    drawn = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in options.items()})
    return drawn.map(lambda node: {k: v for k, v in node.items() if v is not None})


COLUMN = {"type": "bigint", "nullable": False}
CONSUMER = some(
    ack_wait=["30s", "30000ms", "1m"], max_deliver=[3, 5], dead_letter=["none"], filter_subject=["events.>"]
)


def table(name: str) -> st.SearchStrategy[Json]:
    """A table whose indexes have names of its own."""
    by_at, by_name = f"{name}_by_at", f"{name}_by_name"
    indexes = [{by_at: ["at"]}, {by_at: {"columns": ["at"], "where": "id > 0"}}, {by_name: ["name"]}]
    return st.fixed_dictionaries(TABLE, optional={
        **OPTIONAL, "indexes": st.sampled_from(indexes), "unique": st.just({f"{name}_one": ["name"]}),
    })  # fmt: skip


TABLE: Any = {
    "columns": st.fixed_dictionaries(
        {
            "id": st.just(COLUMN),
            "name": some(type=["varchar(50)", "varchar(90)", "text"], comment=[None, "Its name"]),
            "at": some(type=["timestamptz"], nullable=[False], default=["now()", "CURRENT_TIMESTAMP", None]),
        },
        optional={"note": some(type=["text", "varchar(9)"]), "price": some(type=["integer", "bigint"], default=[0, 1])},
    ),
    "primary_key": st.just(["id"]),
}
OPTIONAL: Any = {
    "checks": st.sampled_from([{"long": "length(name) > 0"}, {"long": "length(name)>0"}, {"long": "length(name) > 1"}]),
    "grants": st.sampled_from([{"reader": ["select"]}, {"reader": ["select", "insert"]}]),
    "comment": st.just("Things"),
    "storage": st.sampled_from([{"fillfactor": 80}, {"fillfactor": 90}]),
}
LOG = some(premake=[2, 4], retain=[None, "20 days", "30 days"], on_expiry=[None, "detach"]).map(
    lambda policy: {
        "columns": {"id": COLUMN, "at": {"type": "timestamptz", "nullable": False}},
        "primary_key": ["id", "at"],
        "partitions": {"by": "range", "key": ["at"], "every": "1 day",
                       **{k: v for k, v in policy.items() if k != "on_expiry" or "retain" in policy}},
    }
)  # fmt: skip
_BASE: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {
        "roles": st.fixed_dictionaries(
            {
                "reader": some(comment=[None, "Reads"]),
                "app": some(
                    login=[True], connection_limit=[10, 20], password=[{"env": "APP_PASSWORD"}],
                    settings=[None, {"statement_timeout": "30s"}, {"statement_timeout": "1min"}],
                    member_of=[None, ["reader"], [{"role": "reader", "admin": True}]],
                ),
            },
            optional={"guest": some(connection_limit=[5, 6])},
        ),
        "streams": st.fixed_dictionaries(
            {
                "EVENTS": st.fixed_dictionaries(
                    {"subjects": st.sampled_from([["events.>"], ["events.>", "more.>"]]),
                     "max_age": st.sampled_from(["1h", "60m", "2h"]), "max_bytes": st.sampled_from(["1MiB", "2MiB"]),
                     "storage": st.sampled_from(["file", "memory"])},
                    optional={"description": st.just("What happened"),
                              "templates": st.just({"watch": {"filter_subject": "events.>", "dead_letter": "none"}}),
                              "consumers": st.fixed_dictionaries({}, optional={"one": CONSUMER, "two": CONSUMER})},
                ),
            },
            optional={"OLD": st.just({"subjects": ["old.>"], "max_age": "1h", "max_bytes": "1MiB"})},
        ),
        "buckets": st.fixed_dictionaries(
            {"STATE": some(ttl=["30m", "1800s", "1h"], history=[1, 5], max_bytes=["1MiB"], storage=["file", "memory"])},
            optional={"CACHE": some(ttl=["1m"], max_bytes=["1MiB"])},
        ),
        "object_stores": st.fixed_dictionaries({}, optional={"FILES": some(max_bytes=["1MiB", "2MiB"])}),
        "pools": st.fixed_dictionaries(
            {"main": some(role=["app"], endpoint=["primary"], min=[1], max=[4, 5], acquire_timeout=["5s", "5000ms"])}
        ),
        "publishers": st.sampled_from([{}, {"front": {"subjects": ["events.>"]}}]),
        "schemas": st.fixed_dictionaries(
            {
                "app": st.fixed_dictionaries(
                    {
                        "tables": st.fixed_dictionaries({"log": LOG}, optional={"item": table("item"), "other": table("other")}),
                        "enums": st.sampled_from([{"mood": ["calm", "busy"]}, {"mood": ["calm", "busy", "wild"]}]),
                    },
                    optional={"comment": st.just("Ours")},
                ),
            },
            optional={"extra": st.sampled_from([{"tables": {}}, {"enums": {"side": ["left", "right"]}}])},
        ),
        "grants": st.sampled_from([[], [{"on": "schema app", "to": "reader", "privileges": ["usage"]}]]),
    }
)  # fmt: skip
#: Objects that stand on tables, which may not be there.
EXTRAS = st.sets(st.sampled_from(["view", "other view", "key", "function", "trigger"]))
_TOUCH = "BEGIN NEW.at := now(); RETURN NEW; END"


def joined(base: Json, extras: set[str]) -> Json:
    """The document with the extras whose tables it has, and no empty section."""
    schema = {**base["schemas"]["app"], "tables": dict(base["schemas"]["app"]["tables"])}
    tables = schema["tables"]
    if "item" in tables and "view" in extras:
        schema["views"] = {"few": {"query": f"SELECT id, name FROM app.item WHERE id < {9 if 'key' in extras else 10}"}}
        if "other view" in extras:
            schema["views"]["fewer"] = {"query": "SELECT id FROM app.few"}
    if {"item", "other"} <= tables.keys() and "key" in extras:
        rule = "cascade" if "view" in extras else "no_action"
        key = {"columns": ["id"], "references": "app.other", "on_delete": rule}
        tables["item"] = {**tables["item"], "foreign_keys": {"of_other": key}}
    if "function" in extras:
        schema["functions"] = {"touch": {"returns": "trigger", "language": "plpgsql", "body": _TOUCH}}
        if "item" in tables and "trigger" in extras:
            trigger = {"timing": "before", "events": ["update"], "function": "app.touch"}
            tables["item"] = {**tables["item"], "triggers": {"touch": trigger}}
    whole = {**base, "schemas": {**base["schemas"], "app": schema}}
    return {section: node for section, node in whole.items() if node}


DOCUMENTS = st.builds(joined, _BASE, EXTRAS)


class Both:
    """One plane on real servers, by both front ends."""

    def __init__(self, root: Path, database: Json, url: str) -> None:
        postgres = {
            "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
            "password": {"env": "PG_SECRET"}, "database": database["dbname"],
        }  # fmt: skip
        targets = {"postgres": {"main": postgres}, "nats": {"main": {"kind": "external", "urls": [url]}}}
        self.bed = Bed(root, targets, "both")
        self.engine = Engine(self.bed, targets)

    def declare(self, document: Json) -> None:
        self.bed.declare(document)
        self.engine.declare(document)

    def plan(self) -> Plan:
        with open_plane(self.bed.specs, "dev", cache=self.bed.cache) as plane:
            return plane.plan(clock=CLOCK)

    def apply(self) -> Plan:
        """Apply with every consent that the plan asks for."""
        with open_plane(self.bed.specs, "dev", cache=self.bed.cache) as plane:
            plan = plane.plan(clock=CLOCK)
            plane.apply(plan, allowed=required(plan))
            return plan

    def assert_nothing_to_do(self) -> None:
        plan = self.plan()
        assert [(s.object, s.summary) for s in plan.steps] == []
        assert (plan.adopt, plan.forget, plan.drift) == ((), (), ())


@pytest.fixture
def both(tmp_path: Path, pg_database: Json, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> Both:
    """A plane that nobody has applied yet."""
    monkeypatch.setenv("PG_SECRET", str(pg_database["password"]))
    monkeypatch.setenv("APP_PASSWORD", "s3cret-of-app")
    return Both(tmp_path, pg_database, nats_url)


def essence(steps: Iterable[Step], without: Callable[[str], bool] = lambda address: False) -> set[tuple[str, str]]:
    """Objects with their requests. What goes down with a replaced stream comes back as it was, then as it should be: of
    these consumers only that something is done."""
    known = [s for s in steps if not without(s.object)]
    replaced = {f"{s.object}/consumer/" for s in known if s.action == "delete" and "/stream/" in s.object}
    return {
        (s.object, "" if s.object.startswith(tuple(replaced)) else json.dumps(s.request._asdict(), sort_keys=True))
        for s in known
    }


def settled(both: Both, document: Json) -> None:
    """Apply the plane by command and take it over by engine, which is no step."""
    both.declare(document)
    both.apply()
    both.assert_nothing_to_do()
    both.engine.state.clear()
    assert both.engine.up() == []
    both.assert_nothing_to_do()
    assert both.engine.changes() == []


def foresee(both: Both) -> Plan:
    """Plan with both: the same steps, the same consents."""
    plan, engine = both.plan(), both.engine
    consents = required(plan)
    foreseen = engine.preview(consents)
    assert essence(foreseen.steps, engine.loses) == essence(plan.steps, engine.loses)
    assert foreseen.refused == set()
    return plan


def agree(both: Both, one: Json, other: Json) -> None:
    """The way from one plane to another, done by engine."""
    settled(both, one)
    both.declare(other)
    plan, engine = foresee(both), both.engine
    asked = {c for c in required(plan) if not engine.loses(c.partition(":")[2])}
    assert engine.preview().refused == asked
    is_whole = not engine.leaving
    done = engine.up({*required(plan), *engine.farewell()})
    # A part that leaves is removed alone, where the command may remove it with what it stands in.
    assert not is_whole or essence(done) == essence(plan.steps)
    both.assert_nothing_to_do()
    for _ in range(2):
        assert engine.changes() == []
        engine.refresh()


def follow(both: Both, one: Json, other: Json) -> None:
    """The same way done by command: the engine then finds nothing to do, with and without a refresh."""
    settled(both, one)
    both.declare(other)
    plan, engine = both.apply(), both.engine
    assert engine.preview(required(plan)).steps == ()
    engine.refresh()
    assert engine.up(required(plan)) == []
    both.assert_nothing_to_do()
    for _ in range(2):
        assert engine.changes() == []
        engine.refresh()


def within(document: Json, other: Json) -> Json:
    """The document without the parts that the other lacks: of those an engine knows nothing."""
    found = dict(document)
    for section in ("roles", "streams", "buckets", "object_stores"):
        found[section] = {
            name: node for name, node in document.get(section, {}).items() if name in other.get(section, {})
        }
    for name, node in found["streams"].items():
        known = other["streams"][name].get("consumers", {})
        kept = {consumer: c for consumer, c in node.get("consumers", {}).items() if consumer in known}
        found["streams"] = {**found["streams"], name: {**node, "consumers": kept}}
    return found


def mend(both: Both, one: Json, other: Json) -> None:
    """The servers have left the plane behind the engine's back: a refresh shows all of it, and up leads back."""
    settled(both, one)
    both.bed.declare(within(other, one))
    both.apply()
    both.bed.declare(one)
    engine = both.engine
    engine.refresh()
    plan = foresee(both)
    assert essence(engine.up(required(plan))) == essence(plan.steps)
    both.assert_nothing_to_do()
    assert engine.changes() == []


WAYS = {way.__name__: way for way in (agree, follow, mend)}


def prove(both: Both, way: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(DOCUMENTS, DOCUMENTS)
    def holds(one: Json, other: Json) -> None:
        WAYS[way](both, one, other)

    holds()


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("way", WAYS)
def test_both_front_ends_do_the_same(both: Both, way: str) -> None:
    prove(both, way, int(__import__("os").environ.get("N", "6")))
