"""The command line and the provider say the same of every change, and each leaves the other nothing to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from provision.plan.consents import required
from provision.plan.plan import Plan, Step
from provision.reconcile import open_plane
from tests.live.drift_bed import Bed, raw
from tests.reconcile.engine import CLOCK, Engine

Json = dict[str, Any]

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
TABLES: Any = {name: table(name) for name in ("item", "other")}
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
                        "tables": st.fixed_dictionaries({"log": LOG}, optional=TABLES),
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
        self.database, self.url = database, url
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
    replaced = tuple(f"{s.object}/consumer/" for s in known if "STREAM.DELETE" in getattr(s.request, "subject", ""))
    return {
        (s.object, "" if s.object.startswith(replaced) else json.dumps(s.request._asdict(), sort_keys=True))
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
    """Draw planes and go the way; every example starts where the last one ended."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(DOCUMENTS, DOCUMENTS)
    def holds(one: Json, other: Json) -> None:
        WAYS[way](both, one, other)

    holds()


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("way", WAYS)
def test_both_front_ends_do_the_same(both: Both, way: str) -> None:
    prove(both, way, 6)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_both_front_ends_do_the_same_for_many_planes(both: Both, way: str) -> None:
    prove(both, way, 250)


# What drawing finds too seldom ------------------------------------------------------------------------------

STREAM: Json = {"subjects": ["events.>"], "max_age": "1h", "max_bytes": "1MiB"}
WORKER: Json = {"filter_subject": "events.>", "max_deliver": 3, "dead_letter": "none"}
TABLES_OF_ONE: Json = {"item": {"columns": {"id": COLUMN}, "primary_key": ["id"]}}
ONE: Json = {
    "streams": {"EVENTS": {**STREAM, "consumers": {"worker": WORKER}}},
    "schemas": {"app": {"tables": TABLES_OF_ONE}},
}


def test_a_preview_tells_of_consumers_that_go_down_with_their_stream(both: Both) -> None:
    settled(both, ONE)
    both.declare({**ONE, "streams": {"EVENTS": {**STREAM, "storage": "memory", "consumers": {"worker": WORKER}}}})
    plan = foresee(both)
    assert "nats:main/stream/EVENTS/consumer/worker" in {s.object for s in plan.steps}


def test_a_refresh_tells_what_a_newer_plan_added(both: Both) -> None:
    settled(both, ONE)
    added = {**ONE, "schemas": {"app": {"tables": {**TABLES_OF_ONE, "more": TABLES_OF_ONE["item"]}}, "extra": {}}}
    both.bed.declare(added)
    both.apply()
    both.bed.declare(ONE)
    both.engine.refresh()
    told = both.engine.state["pg:main"].inputs["drift"]
    assert told == ["pg:main/app/more is not declared", "pg:main/extra is not declared"]
    contract = both.engine.state["plane:main/contract"].inputs["drift"]
    assert contract == ["plane:main/contract: digest is not as declared"]
    assert {s.object for s in foresee(both).steps} == {
        "pg:main/app/more",
        "pg:main/extra",
        "plane:main/contract/both.dev",
    }


def test_the_contract_of_a_refreshed_plane_is_that_of_its_inputs(both: Both) -> None:
    """What a refresh took over from the servers is told in the contract, without another change."""
    settled(both, ONE)
    changed = {**ONE, "streams": {"EVENTS": {**STREAM, "max_age": "2h", "consumers": {"worker": WORKER}}}}
    both.declare(changed)
    both.apply()
    both.engine.refresh()
    assert both.engine.up() == []
    both.assert_nothing_to_do()
    assert both.engine.changes() == []


def test_pruning_finds_strays_in_schemas_and_leaves_consumers_to_the_command(both: Both) -> None:
    document = {**ONE, "schemas": {"app": {"prune": True, "tables": TABLES_OF_ONE}}}
    document["streams"] = {"EVENTS": {**STREAM, "prune": True, "consumers": {"worker": WORKER}}}
    settled(both, document)
    with psycopg.connect(**both.database, autocommit=True) as connection:
        connection.execute("CREATE TABLE app.stray (id bigint)")
    with raw(both.url) as link:
        config = {"durable_name": "stray", "ack_policy": "explicit"}
        link.do("CONSUMER.CREATE.EVENTS.stray", {"stream_name": "EVENTS", "config": config})
    both.engine.refresh()
    plan = both.plan()
    assert {s.object for s in plan.steps} == {"pg:main/app/stray", "nats:main/stream/EVENTS/consumer/stray"}
    # A consumer is a resource of its own, and for this one there is none.
    done = both.engine.up(required(plan))
    assert {s.object for s in done} == {"pg:main/app/stray"}
