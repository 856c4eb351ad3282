"""Schemas, extensions, enums, domains, functions and views on a real server: create, change each option, take back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.postgres.access_driver import World, texts
from tests.postgres.documents import changed, desired, read

STATUS = ["initializing", "active", "idle", "suspended", "terminated", "error"]
BASE: dict[str, Any] = {
    "roles": {"keeper": {}, "app": {"login": True}},
    "schemas": {
        "agents": {
            "enums": {"agent_status_type": STATUS},
            "domains": {"positive": {"type": "int", "checks": {"above": "VALUE > 0"}}},
            "functions": {
                "label": {
                    "arguments": [
                        {"name": "status", "type": "agents.agent_status_type"},
                        {"name": "prefix", "type": "text", "default": "'is '"},
                    ],
                    "returns": "text",
                    "language": "plpgsql",
                    "body": "BEGIN\n  RETURN prefix || status::text;  -- $body$\nEND",
                },
                "many": {
                    "arguments": [{"name": "upto", "type": "int4"}],
                    "returns": 'table(n bigint, "Odd Name" varchar(20))',
                    "body": "SELECT g, g::varchar FROM pg_catalog.generate_series(1, upto) g",
                },
                "twice": {
                    "arguments": [{"name": "x", "type": "int"}],
                    "returns": "int",
                    "sql_body": "RETURN x * 2",
                },
                "bump": {
                    "procedure": True,
                    "arguments": [{"name": "x", "type": "int", "mode": "inout"}],
                    "language": "plpgsql",
                    "body": "BEGIN x := x + 1; END",
                },
            },
            "views": {
                "numbers": {"query": "SELECT n, agents.twice(n::int) AS doubled FROM agents.many(3)"},
                "totals": {
                    "query": "SELECT pg_catalog.sum(doubled), 'idle'::agents.agent_status_type FROM agents.numbers",
                    "columns": ["total", "status"],
                },
            },
        }
    },
}
S = "schemas.agents"


@pytest.fixture
def world(pg_database: dict[str, Any]) -> Iterator[World]:
    found = World(pg_database)
    yield found
    found.close()


@pytest.fixture
def old_world(pg16_database: dict[str, Any]) -> Iterator[World]:
    found = World(pg16_database)
    yield found
    found.close()


@pytest.mark.req("A5.3", "B2.4")
def test_a_declared_schema_is_created_as_declared_and_then_nothing_is_left(world: World) -> None:
    plan = world.apply(BASE)
    assert {s.action for s in plan.steps} == {"create"}
    labels = world.connection.execute(
        "SELECT enumlabel FROM pg_enum WHERE enumtypid = 'agents.agent_status_type'::regtype ORDER BY enumsortorder"
    )
    assert [row[0] for row in labels] == STATUS
    assert world.one("SELECT agents.label('idle')") == "is idle"
    assert world.one("SELECT total FROM agents.totals") == 12
    live = world.live()
    free = ("owner", "checks", "conditions", "arguments", "sql_body", "query", "columns", "shape", "default")
    for record in desired(BASE):
        found = live[record.address].settings
        assert {k: v for k, v in record.settings.items() if k not in free} == {
            k: v for k, v in found.items() if k not in free
        }


def test_the_same_holds_on_an_older_major(old_world: World) -> None:
    old_world.apply(BASE)
    old_world.there_and_back(BASE, f"{S}.functions.label.volatility", "stable")
    old_world.there_and_back(BASE, f"{S}.views.numbers.options", {"security_invoker": True})


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        (["new", *STATUS], 1),
        ([*STATUS, "it's new"], 1),
        (["initializing", "first", "second", *STATUS[1:]], 2),
    ],
)
def test_enum_values_are_added_in_place_and_in_position(world: World, values: list[str], steps: int) -> None:
    world.apply(BASE)
    plan = world.apply(changed(BASE, f"{S}.enums.agent_status_type", values))
    assert len(plan.steps) == steps
    assert not any(s.transactional or s.hazards for s in plan.steps)
    assert all(world.one(s.done_if) is True for s in plan.steps if s.done_if)


def test_an_enum_that_loses_a_value_is_swapped_under_its_dependents(world: World) -> None:
    world.apply(BASE)
    plan = world.apply(changed(BASE, f"{S}.enums.agent_status_type", STATUS[:3]))
    assert [s.action for s in plan.steps if s.object == "pg:main/agents/enum/agent_status_type"] == ["alter"]
    assert world.one("SELECT agents.label('idle')") == "is idle"
    assert world.one("SELECT status::text FROM agents.totals") == "idle"
    world.apply(BASE)


def test_a_swapped_enum_keeps_owner_comment_and_grants(world: World) -> None:
    spec = changed(
        BASE,
        f"{S}.enums.agent_status_type",
        {"values": STATUS, "owner": "keeper", "comment": "states", "grants": {"public": [], "app": ["usage"]}},
    )
    world.apply(spec)
    world.apply(changed(spec, f"{S}.enums.agent_status_type.values", STATUS[::-1]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("default", 7),
        ("nullable", False),
        ("checks", {"above": "VALUE > 0", "below": "VALUE < 100"}),
        ("checks", {"above": "VALUE > 1"}),
        ("checks", {}),
        ("type", "bigint"),
        ("owner", "keeper"),
        ("comment", "it's positive"),
    ],
)
@pytest.mark.req("A5.2")
def test_each_option_of_a_domain_can_be_changed_and_taken_back(world: World, option: str, value: Any) -> None:
    base = changed(BASE, f"{S}.domains.positive.owner", "app")
    world.apply(base)
    world.there_and_back(base, f"{S}.domains.positive.{option}", value)


def test_a_domain_takes_a_collation_of_its_own(world: World) -> None:
    base = changed(BASE, f"{S}.domains.word", {"type": "varchar(20)"})
    world.apply(base)
    world.there_and_back(base, f"{S}.domains.word.collation", "C")


def test_a_new_check_of_a_domain_leaves_the_others_alone(world: World) -> None:
    base = changed(BASE, f"{S}.domains.word", {"type": "varchar(9)", "checks": {"known": "VALUE IN ('a', 'b')"}})
    world.apply(base)
    plan = world.apply(changed(base, f"{S}.domains.word.checks.full", "VALUE <> ''"))
    assert texts(plan) == [
        "ALTER DOMAIN agents.word ADD CONSTRAINT \"full\" CHECK (VALUE <> '') NOT VALID",
        'ALTER DOMAIN agents.word VALIDATE CONSTRAINT "full"',
    ]


def test_a_check_left_unvalidated_is_found_and_only_validated(world: World) -> None:
    world.apply(BASE)
    world.run(
        "ALTER DOMAIN agents.positive DROP CONSTRAINT above",
        "ALTER DOMAIN agents.positive ADD CONSTRAINT above CHECK (VALUE > 0) NOT VALID",
    )
    plan = world.apply(BASE)
    assert texts(plan) == ["ALTER DOMAIN agents.positive VALIDATE CONSTRAINT above"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("volatility", "immutable"),
        ("strict", True),
        ("parallel", "safe"),
        ("leakproof", True),
        ("cost", 12.5),
        ("set", {"search_path": "pg_catalog, agents", "statement_timeout": "1500ms", "app.flag": "true"}),
        ("set", {"search_path": ""}),
        ("body", "BEGIN RETURN 'other'; END"),
        ("language", "sql"),
        ("comment", "shows a status"),
        ("owner", "app"),
    ],
)
@pytest.mark.req("A5.7")
def test_attributes_of_a_function_are_replaced_in_place(world: World, option: str, value: Any) -> None:
    base = changed(BASE, f"{S}.functions.label.owner", "keeper")
    base[S.split(".", maxsplit=1)[0]]["agents"]["functions"]["label"] |= {"body": "SELECT 'x'", "language": "plpgsql"}
    base = changed(base, f"{S}.functions.label.body", "BEGIN\nRETURN 'x';\nEND") if option != "language" else base
    if option == "language":
        base = changed(base, f"{S}.functions.label.body", "SELECT 'x' -- begin")
        base = changed(base, f"{S}.functions.label.language", "sql")
        value = "plpgsql"
        there = changed(base, f"{S}.functions.label.body", "begin return 'y'; end")
        world.apply(base)
        plan = world.apply(changed(there, f"{S}.functions.label.language", value))
    else:
        world.apply(base)
        plan = world.there_and_back(base, f"{S}.functions.label.{option}", value)
    assert {s.action for s in plan.steps} == {"alter"}


def test_a_function_that_starts_to_run_as_its_owner_needs_a_consent(world: World) -> None:
    world.apply(BASE)
    plan = world.there_and_back(BASE, f"{S}.functions.label.security", "definer")
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards] == [("security", True)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("twice.returns", "bigint"),
        ("twice.arguments", [{"name": "y", "type": "int"}]),
        ("many.returns", "setof int"),
        (
            "label.arguments",
            [{"name": "status", "type": "agents.agent_status_type"}, {"name": "prefix", "type": "text"}],
        ),
    ],
)
def test_a_new_signature_makes_a_new_function_and_its_views_follow(world: World, path: str, value: Any) -> None:
    spec = changed(BASE, f"{S}.functions.twice.grants", {"public": [], "app": ["execute"]})
    spec = changed(spec, f"{S}.views.numbers.comment", "kept")
    spec = changed(spec, f"{S}.views.numbers.grants", {"app": ["select"]})
    world.apply(spec)
    there = changed(spec, f"{S}.functions.{path}", value)
    if path == "twice.arguments":
        there = changed(there, f"{S}.functions.twice.sql_body", "RETURN y * 2")
    if path == "many.returns":
        there = changed(there, f"{S}.functions.many.body", "SELECT 1")
        there = changed(there, f"{S}.views.numbers.query", "SELECT n, agents.twice(n) AS doubled FROM agents.many(3) n")
    plan = world.apply(there)
    assert "drop" in {s.action for s in plan.steps}
    world.apply(spec)


@pytest.mark.parametrize(
    ("query", "replaced"),
    [
        ("SELECT n, agents.twice(n::int) AS doubled, 1 AS more FROM agents.many(3)", False),
        ("SELECT n, agents.twice(n::int) AS doubled FROM agents.many(3) WHERE n > 1", False),
        ("SELECT n, agents.twice(n::int)::bigint AS doubled FROM agents.many(3)", True),
        ("SELECT agents.twice(n::int) AS doubled FROM agents.many(3)", True),
    ],
)
def test_a_view_is_replaced_in_place_only_where_columns_are_appended(world: World, query: str, replaced: bool) -> None:
    spec = changed(BASE, f"{S}.views.totals.grants", {"app": ["select(total)"]})
    spec = changed(spec, f"{S}.views.totals.comment", "sums")
    world.apply(spec)
    plan = world.apply(changed(spec, f"{S}.views.numbers.query", query))
    assert ("drop" in {s.action for s in plan.steps}) == replaced
    world.apply(spec)


def test_a_query_that_only_looks_different_changes_nothing(world: World) -> None:
    world.apply(BASE)
    query = "SELECT  m.n,(agents.twice(CAST(m.n AS integer))) as doubled  from agents.many( 3 ) as m"
    other = "SELECT n, agents.twice(n::int) AS doubled FROM agents.many(3) many;"
    assert world.apply(changed(BASE, f"{S}.views.numbers.query", other)).steps == ()
    assert world.apply(changed(BASE, f"{S}.views.numbers.query", query)).steps != ()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("options", {"security_invoker": True}),
        ("options", {"security_barrier": True}),
        ("columns", ["a", "b"]),
        ("owner", "keeper"),
        ("comment", "numbers"),
    ],
)
def test_each_option_of_a_view_can_be_changed_and_taken_back(world: World, option: str, value: Any) -> None:
    base = changed(BASE, f"{S}.views.numbers.owner", "app")
    base = changed(base, f"{S}.grants", {"app": ["usage"], "keeper": ["usage"]})
    del base["schemas"]["agents"]["views"]["totals"]
    world.apply(base)
    world.there_and_back(base, f"{S}.views.numbers.{option}", value)


def test_an_updatable_view_takes_a_check_option(world: World) -> None:
    base = changed(BASE, f"{S}.views.plain", {"query": "SELECT oid FROM pg_catalog.pg_class WHERE oid > 1"})
    world.apply(base)
    world.there_and_back(base, f"{S}.views.plain.options", {"check_option": "local"})
    world.there_and_back(base, f"{S}.views.plain.options", {"check_option": "cascaded"})


def test_a_view_that_stops_to_check_its_callers_needs_a_consent(world: World) -> None:
    base = changed(BASE, f"{S}.views.numbers.options", {"security_invoker": True})
    world.apply(base)
    plan = world.apply(BASE)
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards] == [("security", True)]


@pytest.mark.parametrize(("option", "value"), [("owner", "keeper"), ("comment", "it's a schema")])
def test_each_option_of_a_schema_can_be_changed_and_taken_back(world: World, option: str, value: Any) -> None:
    base = changed(BASE, f"{S}.owner", "app")
    world.apply(base)
    world.there_and_back(base, f"{S}.{option}", value)


def test_who_manages_and_prunes_a_schema_is_no_difference(world: World) -> None:
    world.apply(BASE)
    spec = changed(changed(BASE, f"{S}.prune", True), f"{S}.managed", "migrations")
    assert world.apply(spec).steps == ()


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ({"agents.": "crew.", "'agents'": "'crew'"}, "schemas.crew"),
        ({"agent_status_type": "state"}, f"{S}.enums.state"),
        ({"'numbers'": "'digits'", "agents.numbers": "agents.digits"}, f"{S}.views.digits"),
        ({"'keeper'": "'guard'"}, "roles.guard"),
    ],
)
def test_everything_follows_a_rename_and_nothing_is_made_anew(world: World, words: dict[str, str], path: str) -> None:
    base = changed(BASE, f"{S}.enums.agent_status_type", {"values": STATUS, "owner": "keeper"})
    base = changed(base, f"{S}.views.numbers.grants", {"keeper": ["select"]})
    world.apply(base)
    text = repr(base)
    for old, new in words.items():
        text = text.replace(old, new)
    former = "agent_status_type" if path.endswith("state") else next(iter(words)).strip("'.")
    spec = changed(eval(text), f"{path}.renamed_from", former)
    plan = world.apply(spec)
    assert "rename" in {s.action for s in plan.steps}
    assert not {"create", "drop"} & {s.action for s in plan.steps}


def test_objects_are_dropped_in_order_and_never_with_what_stands_on_them(world: World) -> None:
    world.apply(BASE)
    plan = world.plan(desired({"roles": BASE["roles"]}))
    assert {s.action for s in plan.steps} == {"drop"}
    assert not any("CASCADE" in t for t in texts(plan))
    for step in plan.steps:
        world.send(step.request)
    assert world.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'agents'") == 0
    world.apply(BASE)
    world.run("CREATE VIEW agents.stranger AS SELECT agents.twice(1)")
    drop = next(s for s in plan.steps if s.object.endswith("function/twice(integer)"))
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        world.send(drop.request)


@pytest.mark.req("A5.7")
def test_an_extension_is_installed_where_it_is_declared_and_moved(world: World) -> None:
    spec = {"extensions": {"vector": None}, "schemas": {"lib": None}}
    world.apply(spec)
    assert world.one("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'") == "public"
    moved = changed(spec, "extensions.vector", {"schema": "lib", "comment": "vectors"})
    assert len(world.apply(moved).steps) == 2
    version = world.one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    assert world.apply(changed(moved, "extensions.vector.version", version)).steps == ()


def test_an_extension_is_updated_to_the_declared_version(world: World) -> None:
    world.apply({"extensions": {"vector": None}})
    newest = world.one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    # The build installs only its newest version; the scripts from older ones are there.
    world.run("UPDATE pg_extension SET extversion = '0.8.0' WHERE extname = 'vector'")
    plan = world.apply({"extensions": {"vector": {"version": newest}}})
    assert texts(plan) == [f"ALTER EXTENSION vector UPDATE TO '{newest}'"]


@pytest.mark.parametrize(
    ("path", "value", "place", "words"),
    [
        ("enums.agent_status_type", ["a", "b", "a"], ("values", 2), "twice"),
        ("enums.agent_status_type", ["x" * 64], ("values", 0), "63 bytes"),
        ("functions.twice.returns", None, (), "must say what it returns"),
        ("functions.twice.body", "SELECT 1", (), "either body or sql_body"),
        ("functions.twice.returns", "table(int)", ("returns",), "not a column"),
        ("functions.twice.arguments", [{"type": "nonsense"}], ("arguments", 0, "type"), "not a built-in type"),
        ("functions.label.grants", {"app": ["select"]}, ("grants", "app", "privileges", 0), "not a privilege"),
        ("views.numbers.triggers", {"t": {"timing": "before", "events": ["insert"], "function": "f"}},
         ("triggers", "t", "function"), "not a qualified name"),
    ],
)  # fmt: skip
def test_what_the_server_would_refuse_is_reported_at_its_place(
    path: str, value: Any, place: tuple[str | int, ...], words: str
) -> None:
    _, complaints = read(changed(BASE, f"{S}.{path}", value))
    ((pointer, message),) = complaints
    assert words in message
    assert pointer[-len(place) :] == place if place else pointer[-1] == path.split(".")[1]
