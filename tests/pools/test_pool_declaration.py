"""The section ``pools`` and the budgets of servers and roles."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from provision.pools import budget
from provision.pools.kinds import SECTION
from provision.spec.ident import Address
from provision.spec.record import Record
from tests.complaints import Complaints

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def read(**pools: dict[str, Any]) -> dict[str, Record]:
    complaints = Complaints()
    found = {r.address.name: r for r in SECTION.read(pools, complaints)}
    assert complaints.found == []
    return found


def role(name: str, limit: int) -> Record:
    return Record(Address.root("pg", "main", "role", name), {"connection_limit": limit})


@pytest.mark.req("A4.1", "A4.2", "A4.3")
def test_a_pool_that_says_nothing_has_the_documented_defaults() -> None:
    settings = read(work={"role": "app"})["work"].settings
    assert {k: settings[k] for k in ("max", "min", "acquire_timeout", "idle_timeout", "max_lifetime")} == {
        "max": 10,
        "min": 2,
        "acquire_timeout": 30 * SECOND,
        "idle_timeout": 10 * MINUTE,
        "max_lifetime": 120 * MINUTE,
    }
    assert settings["statement_cache_capacity"] == 100
    assert settings["test_before_acquire"] is True
    assert settings["application_name"] == "agent_system"
    assert settings["statement_timeout"] == 30 * SECOND
    assert settings["idle_in_transaction_timeout"] == 60 * SECOND
    assert settings["after_connect"] == []
    assert settings["recycling"] == "fast"
    assert settings["slow_query_threshold"] == SECOND // 10
    assert settings["leak_detection"] is True


def test_a_pool_refers_to_the_role_of_its_target() -> None:
    pool = read(work={"role": "app", "target": "other"})["work"]
    assert str(pool.address) == "plane:other/pool/work"
    assert pool.refs == (Address.root("pg", "other", "role", "app"),)


@pytest.mark.req("A4.10", "A4.13")
def test_sizing_fills_only_what_is_not_said() -> None:
    load = {"ops_per_s": 100, "avg_duration": "80ms", "agents": 5}
    pools = read(
        sized={"role": "app", "sizing": load},
        nulls={"role": "app", "sizing": load, "min": None, "max": None},
        said={"role": "app", "sizing": load, "max": 7},
    )
    assert (pools["sized"].settings["min"], pools["sized"].settings["max"]) == (2, 10)
    assert (pools["nulls"].settings["min"], pools["nulls"].settings["max"]) == (2, 10)
    assert pools["said"].settings["max"] == 7


def test_every_wrong_value_is_reported_at_its_field() -> None:
    complaints = Complaints()
    body = {"role": "app", "acquire_timeout": "30", "idle_timeout": "ten minutes"}
    assert list(SECTION.read({"work": body}, complaints)) == []
    assert sorted(pointer for pointer, _ in complaints.found) == [
        ("pools", "work", "acquire_timeout"),
        ("pools", "work", "idle_timeout"),
    ]


@pytest.mark.parametrize(
    "body", [{}, {"role": "app", "max": 0}, {"role": "app", "maxx": 1}, {"role": "app", "mode": "txn"}]
)
def test_the_schema_refuses_what_no_pool_can_be(body: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SECTION.schema())
    assert list(validator.iter_errors({"work": body}))
    assert not list(validator.iter_errors({"work": {"role": "app", "idle_timeout": "10m", "database": None}}))


@pytest.mark.req("A4.14")
def test_pools_of_one_host_share_its_connections() -> None:
    pools = read(
        primary={"role": "a", "max": 20},
        background={"role": "b", "max": 5},
        replica={"role": "c", "endpoint": "replica", "max": 15},
    )
    hosts = {"primary": "one:5432", "replica": "two:5432"}
    assert budget.over_server(pools.values(), hosts, max_connections=28) == []
    (excess,) = budget.over_server(pools.values(), hosts, max_connections=27)
    assert (excess.of, excess.total, excess.limit) == ("primary", 25, 24)
    assert [d.pool.address.name for d in excess.demands] == ["primary", "background"]


@pytest.mark.req("A4.14")
def test_endpoints_that_lead_to_one_server_are_added_up() -> None:
    pools = read(primary={"role": "a", "max": 20}, replica={"role": "b", "endpoint": "replica", "max": 15})
    same: list[dict[str, Any]] = [
        {},
        {"primary": "one:5432", "replica": "one:5432"},
        {"primary": {"env": "PG"}, "replica": {"env": "PG"}},
    ]
    for endpoints in same:
        (excess,) = budget.over_server(pools.values(), endpoints, max_connections=30)
        assert excess.total == 35


@pytest.mark.req("A4.14")
def test_processes_multiply_a_pool_unless_pgbouncer_gathers_them() -> None:
    direct = read(work={"role": "a", "max": 20, "processes": 4})
    gathered = read(work={"role": "a", "max": 20, "processes": 4, "pgbouncer": True})
    assert budget.demand(direct["work"]).connections == 80
    assert budget.demand(gathered["work"]).connections == 20


def test_the_limit_of_a_role_covers_all_its_pools() -> None:
    pools = read(one={"role": "app", "max": 10}, two={"role": "app", "max": 8}, free={"role": "other", "max": 90})
    roles = {"app": role("app", 17), "other": role("other", -1)}
    (excess,) = budget.over_role(pools.values(), roles)
    assert (excess.of, excess.total, excess.limit) == ("app", 18, 17)
    assert budget.over_role(pools.values(), {"app": role("app", 18)}) == []
