"""Roles, memberships, settings and grants on a real server: each option changed, taken back, and what it permits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import jsonschema_rs
import psycopg
import pytest

from provision.postgres.kinds.grant import read_object, statements
from provision.postgres.kinds.guc import canonical
from provision.postgres.kinds.privileges import Held, parse_acl
from provision.spec.ident import Address
from tests.postgres.access_driver import World, texts
from tests.postgres.documents import SECTIONS, changed, desired, read

BASE: dict[str, Any] = {
    "roles": {
        "app": {
            "login": True,
            "password": {"env": "APP_PASSWORD"},
            "settings": {"statement_timeout": "30s"},
            "member_of": ["readers"],
        },
        "readers": None,
        "writers": {},
    },
    "schemas": {
        "agents": {
            "functions": {"one": {"returns": "int", "body": "SELECT 1"}},
            "enums": {"mood": {"values": ["good", "bad"]}},
            "views": {"v": {"query": "SELECT 1 AS a, 2 AS b, 3 AS c"}},
        }
    },
}


@pytest.fixture
def world(pg_database: dict[str, Any]) -> Iterator[World]:
    found = World(pg_database, {"APP_PASSWORD": "first 'secret'", "NEW_PASSWORD": "second"})
    yield found
    found.close()


@pytest.fixture
def old_world(pg16_database: dict[str, Any]) -> Iterator[World]:
    found = World(pg16_database, {"APP_PASSWORD": "first"})
    yield found
    found.close()


def log_in(world: World, role: str, password: str) -> psycopg.Connection[Any]:
    return psycopg.connect(**{**world.dsn, "user": role, "password": password}, autocommit=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("login", False),
        ("superuser", True),
        ("createdb", True),
        ("createrole", True),
        ("inherit", False),
        ("replication", True),
        ("bypassrls", True),
        ("connection_limit", 7),
        ("valid_until", "2031-02-03T04:05:06.5+02:00"),
        ("settings", {"statement_timeout": "5m", "lock_timeout": "1500us", "search_path": 'agents, "Odd"'}),
        ("settings", {"work_mem": "64MiB", "app.mode": "on'e", "jit": False, "deadlock_timeout": 2000}),
        ("settings", {}),
        ("comment", "it's the application"),
        ("member_of", []),
        ("member_of", ["readers", "pg_monitor", {"role": "writers", "admin": True, "inherit": False, "set": False}]),
    ],
)
@pytest.mark.req("H4.1")
def test_each_option_of_a_role_can_be_changed_and_taken_back(world: World, option: str, value: Any) -> None:
    world.apply(BASE)
    world.there_and_back(BASE, f"roles.app.{option}", value)


def test_roles_are_the_same_on_an_older_major(old_world: World) -> None:
    old_world.apply(BASE)
    old_world.there_and_back(BASE, "roles.app.member_of", [{"role": "readers", "admin": True, "inherit": False}])
    old_world.there_and_back(BASE, "schemas.agents.grants", {"app": ["all"]})


@pytest.mark.req("A4.8", "H1.5")
def test_a_role_logs_in_with_its_password_and_the_server_never_sees_it(world: World) -> None:
    plan = world.apply(BASE)
    with log_in(world, "app", "first 'secret'") as connection:
        row = connection.execute("SHOW statement_timeout").fetchone()
    assert row == ("30s",)
    assert not any("secret" in t or "SCRAM" in t for t in texts(plan))
    assert str(world.one("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")).startswith("SCRAM-SHA-256$")


@pytest.mark.req("H1.5")
def test_a_changed_secret_is_one_step_that_rotates_it(world: World) -> None:
    world.apply(BASE)
    world.secrets["APP_PASSWORD"] = "rotated"
    plan = world.apply(BASE)
    assert [s.action for s in plan.steps] == ["rotate"]
    log_in(world, "app", "rotated").close()
    world.run("ALTER ROLE app PASSWORD NULL")
    assert [s.action for s in world.apply(BASE).steps] == ["rotate"]
    assert [s.action for s in world.apply(changed(BASE, "roles.app.password", {"env": "NEW_PASSWORD"})).steps] == [
        "rotate"
    ]
    log_in(world, "app", "second").close()


def test_a_role_whose_password_is_not_declared_keeps_it(world: World) -> None:
    world.apply(BASE)
    assert world.apply(changed(BASE, "roles.app.password", None)).steps == ()
    log_in(world, "app", "first 'secret'").close()


def test_a_role_gaining_power_is_shown_as_a_hazard(world: World) -> None:
    world.apply(BASE)
    plan = world.apply(changed(BASE, "roles.app.bypassrls", True))
    assert [(h.kind, h.needs_consent) for s in plan.steps for h in s.hazards] == [("security", False)]


def test_a_dropped_role_goes_after_everything_granted_to_it(world: World) -> None:
    spec = changed(BASE, "schemas.agents.grants", {"app": ["usage"]})
    spec = changed(spec, "schemas.agents.views.v.grants", {"app": ["select(a)"], "readers": ["select"]})
    world.apply(spec)
    without = changed(BASE, "roles.app", None)
    plan = world.apply(without)
    assert plan.steps[-1].object == "pg:main/role/app"
    assert world.one("SELECT count(*) FROM pg_roles WHERE rolname = 'app'") == 0


@pytest.mark.parametrize(
    ("name", "spellings", "text"),
    [
        ("statement_timeout", ["30s", 30000, "30000", "30000ms", " 30 s ", "0.5min", "0.5m"], "30s"),
        ("lock_timeout", ["5min", "5m", "300s", 300000], "5min"),
        ("idle_session_timeout", [0, "0", "0s"], "0"),
        ("log_min_duration_statement", [-1, "-1"], "-1"),
        ("tcp_keepalives_idle", [60, "60s", "1min"], "1min"),
        ("work_mem", ["64MB", "64MiB", 65536, "65536kB"], "64MB"),
        ("effective_cache_size", [128, "1MB", "1MiB"], "1MB"),
        ("jit", [True, "on", "yes", "true"], "on"),
        ("search_path", ["a, b", "a,b", ["a", "b"], "A , B"], "a, b"),
        ("search_path", ["", '""', []], '""'),
        ("search_path", ['"$user", public', '"$user",public'], '"$user", public'),
        ("app.flag", ["true"], "true"),
        ("DateStyle", ["ISO, DMY"], "ISO, DMY"),
    ],
)
def test_spellings_of_one_setting_are_one_value(world: World, name: str, spellings: list[Any], text: str) -> None:
    assert {canonical(name, s) for s in spellings} == {text}
    world.apply(changed(BASE, "roles.app.settings", {name: spellings[0]}))
    for spelling in spellings:
        assert world.apply(changed(BASE, "roles.app.settings", {name: spelling})).steps == ()


def test_a_setting_typed_otherwise_outside_is_no_difference(world: World) -> None:
    world.apply(BASE)
    world.run("ALTER ROLE app SET statement_timeout = '30000'")
    assert world.apply(BASE).steps == ()
    world.run("ALTER ROLE app SET statement_timeout = '31s'")
    assert len(world.apply(BASE).steps) == 1


GRANTS: list[tuple[str, Any]] = [
    ("schemas.agents.grants", {"app": ["usage"]}),
    ("schemas.agents.grants", {"app": ["all"], "public": ["usage"]}),
    ("schemas.agents.grants", {"app": {"privileges": ["usage", "create"], "grantable": ["usage"]}}),
    ("schemas.agents.functions.one.grants", {"public": []}),
    ("schemas.agents.functions.one.grants", {"public": [], "app": ["execute"]}),
    ("schemas.agents.enums.mood.grants", {"public": [], "writers": {"privileges": ["usage"], "grantable": True}}),
    ("schemas.agents.views.v.grants", {"app": ["select", "insert"], "readers": ["select(a, c)", "update(b)"]}),
    ("schemas.agents.views.v.grants", {"app": ["all"]}),
    ("schemas.agents.views.v.grants", {"public": ["select"]}),
    ("schemas.agents.views.v.grants", {"app": {"privileges": ["select(a)", "select"], "grantable": ["select(a)"]}}),
]


@pytest.mark.parametrize(("path", "grants"), GRANTS)
def test_grants_are_given_as_declared_and_taken_back(world: World, path: str, grants: Any) -> None:
    world.apply(BASE)
    world.there_and_back(BASE, path, grants)


@pytest.mark.parametrize("number", range(len(GRANTS)))
def test_every_state_of_grants_leads_to_every_other(world: World, number: int) -> None:
    path, grants = GRANTS[number]
    others = [g for p, g in GRANTS if p == path] + [{"app": [], "public": []}] * path.endswith("one.grants")
    world.apply(changed(BASE, path, grants))
    for other in others:
        world.apply(changed(BASE, path, other))
        world.apply(changed(BASE, path, grants))


@pytest.mark.parametrize(
    ("on", "to", "privileges", "back"),
    [
        ("database", "app", ["connect", "temp", "create"], True),
        ("database", "public", [], True),
        ("schema agents", "app", ["usage"], True),
        ("view agents.v", "app", ["select(b)"], True),
        ("function agents.one()", "app", ["all"], True),
        ("enum agents.mood", "app", ["usage"], True),
        ("database", "public", ["connect", "temporary"], False),
        ("function agents.one()", "public", ["execute"], False),
    ],
)
def test_the_section_grants_reaches_every_kind_of_object(
    world: World, on: str, to: str, privileges: list[str], back: bool
) -> None:
    world.apply(BASE)
    spec = {**BASE, "grants": [{"on": on, "to": to, "privileges": privileges}]}
    steps = world.apply(spec).steps
    assert bool(steps) == back, "what PUBLIC has unasked is already there"
    world.apply(BASE)


def test_a_grant_option_is_taken_away_without_the_privilege(world: World) -> None:
    path = "schemas.agents.views.v.grants"
    world.apply(changed(BASE, path, {"app": {"privileges": ["select"], "grantable": True}}))
    plan = world.apply(changed(BASE, path, {"app": ["select"]}))
    assert texts(plan) == ["REVOKE GRANT OPTION FOR SELECT ON TABLE agents.v FROM app"]


def test_what_was_granted_outside_is_taken_back_where_the_plane_owns_it(world: World) -> None:
    spec = changed(BASE, "schemas.agents.views.v.grants", {"app": ["select"]})
    world.apply(spec)
    world.run("GRANT UPDATE (a), DELETE ON agents.v TO app", "REVOKE SELECT ON agents.v FROM app")
    assert {s.action for s in world.apply(spec).steps} == {"revoke", "grant"}


def test_an_owner_granting_itself_is_no_difference(world: World) -> None:
    spec = changed(BASE, "schemas.agents.views.v.owner", "writers")
    spec = changed(spec, "schemas.agents.grants", {"writers": ["all"]})
    spec = changed(spec, "schemas.agents.views.v.grants", {"writers": ["select"]})
    world.apply(spec)
    world.run("REVOKE DELETE ON agents.v FROM writers")
    assert world.apply(spec).steps == ()


def test_grants_survive_when_their_object_is_made_anew(world: World) -> None:
    spec = changed(BASE, "schemas.agents.functions.one.grants", {"public": [], "app": ["execute"]})
    spec = changed(spec, "schemas.agents.functions.one.comment", "kept")
    world.apply(spec)
    world.apply(changed(spec, "schemas.agents.functions.one.returns", "bigint"))


@pytest.mark.parametrize(
    "name", ["weird role", 'quo"te', "comma,role", "back\\slash", "br{ace}", "Upper", "user", "=x/y"]
)
def test_odd_names_of_roles_are_read_back(world: World, name: str) -> None:
    spec = changed(BASE, f"roles.{name}", {"login": True, "member_of": ["readers"]})
    spec = changed(spec, "schemas.agents.views.v.grants", {name: ["select", "insert(a)"]})
    world.apply(spec)
    held = world.live()[
        Address.root("pg", "main", "schema", "agents", bare=True).child("view", "v").child("grant", name)
    ]
    assert held.settings == {"privileges": ["insert(a)", "select"], "grantable": []}
    world.apply(BASE)


def test_access_lists_are_read_over_all_grantors() -> None:
    text = '{owner=arwd/owner,app=r*w/owner,app=d/other,=X/owner,"\\"a=\\"\\"b\\"=U/owner"}'
    assert parse_acl(text) == {
        "owner": Held(frozenset({"insert", "select", "update", "delete"}), frozenset()),
        "app": Held(frozenset({"select", "update", "delete"}), frozenset({"select"})),
        "public": Held(frozenset({"execute"}), frozenset()),
        'a="b': Held(frozenset({"usage"}), frozenset()),
    }


def test_statements_between_two_states_are_the_fewest() -> None:
    address = read_object("table agents.state", "main").child("grant", "app")
    before = {"privileges": ["delete", "insert", "select", "update(a)"], "grantable": ["select"]}
    after = {"privileges": ["insert", "select", "select(a)", "update(a)", "update(b)"], "grantable": []}
    assert list(statements(address, before, after, 18)) == [
        "REVOKE DELETE ON TABLE agents.state FROM app",
        "REVOKE GRANT OPTION FOR SELECT ON TABLE agents.state FROM app",
        "GRANT SELECT (a), UPDATE (b) ON TABLE agents.state TO app",
    ]
    assert list(statements(address, after, after, 18)) == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"grants": [{"on": "planet mars", "to": "a", "privileges": []}]}, "not an object"),
        ({"grants": [{"on": "table state", "to": "a", "privileges": []}]}, "not an object"),
        ({"grants": [{"on": "table a.b", "to": "a", "privileges": ["execute"]}]}, "not a privilege"),
        ({"grants": [{"on": "table a.b", "to": "a", "privileges": ["delete(x)"]}]}, "columns"),
        ({"grants": [{"on": "table a.b", "to": "public", "privileges": ["select"], "grantable": True}]}, "PUBLIC"),
        ({"grants": [{"on": "table a.b", "to": "a", "privileges": [], "grantable": ["select"]}]}, "not granted"),
        ({"roles": {"a": {"member_of": ["a"]}}}, "itself"),
        ({"roles": {"a": {"member_of": ["b", {"role": "b"}]}}}, "twice"),
        ({"roles": {"a": {"valid_until": "tomorrow"}}}, "not a time"),
        ({"roles": {"a": {"settings": {"work_mem": 1, "WORK_MEM": 2}}}}, "set twice"),
    ],
)
def test_wrong_access_is_reported(spec: dict[str, Any], words: str) -> None:
    _, complaints = read(spec)
    ((_, message),) = complaints
    assert words in message


def test_no_password_enters_a_record() -> None:
    plane = desired(BASE)
    assert plane[Address.root("pg", "main", "role", "app")].settings["password"] == {"env": "APP_PASSWORD"}


@pytest.mark.parametrize(
    ("section", "node", "valid"),
    [
        ("roles", {"app": None, "other": {"login": True, "member_of": ["app", {"role": "x", "set": None}]}}, True),
        ("roles", {"app": {"password": "plain text"}}, False),
        ("roles", {"app": {"logon": True}}, False),
        ("roles", {"pg_app": {}}, False),
        ("roles", {"public": {}}, False),
        ("extensions", {"vector": None, "citext": {"schema": "public", "version": None}}, True),
        ("extensions", {"vector": {"cascade": True}}, False),
        ("grants", [{"on": "database", "to": "app", "privileges": ["connect"], "grantable": True}], True),
        ("grants", [{"on": "database", "privileges": ["connect"]}], False),
        ("schemas", {"a": None, "b": {"enums": {"e": ["x"]}, "domains": {"d": {"type": "int", "default": 1}}}}, True),
        (
            "schemas",
            {"b": {"functions": {"f": {"returns": "int", "body": "SELECT 1", "grants": {"public": []}}}}},
            True,
        ),
        ("schemas", {"b": {"views": {"v": {"query": "SELECT 1", "options": {"check_option": "all"}}}}}, False),
        ("schemas", {"b": {"enums": {"e": [1]}}}, False),
        ("schemas", {"b": {"domains": {"d": {"nullable": True}}}}, False),
    ],
)
def test_the_json_schema_takes_what_can_be_read_and_refuses_the_rest(section: str, node: Any, valid: bool) -> None:
    schema = next(s.schema() for s in SECTIONS if s.name == section)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(node) == valid
    assert jsonschema_rs.validator_for(dict(schema)).is_valid(node) == valid
    if valid:
        assert read({section: node})[1] == []
