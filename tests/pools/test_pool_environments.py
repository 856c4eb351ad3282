"""The pools of specs/ in each environment, against the figures of the requirements."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from provision import registry
from provision.spec import document, reading

SPECS = Path(__file__).parents[2] / "specs"
SECOND = 1_000_000_000
#: pool -> max, min, acquire, idle, lifetime in seconds, test before acquire, endpoint, database, role.
PRODUCTION = {
    "primary": (20, 5, 30, 600, 3600, True, "primary", "mister_smith", "app_primary"),
    "replica": (15, 3, 20, 300, 1800, True, "replica", "mister_smith", "app_replica"),
    "background": (5, 1, 60, 1800, 7200, False, "primary", "mister_smith", "app_background"),
    "analytics": (10, 2, 45, 900, 3600, True, "analytics", "mister_smith_analytics", "app_analytics"),
}
HOSTS = {"primary": "primary-db.internal", "replica": "replica-db.internal", "analytics": "analytics-db.internal"}


@cache
def environment(env: str) -> tuple[dict[str, dict[str, Any]], Any]:
    """The settings of pools and bindings by name, and the Postgres target."""
    found = document.load(SPECS, env)
    read = reading.read(found, registry.sections())
    records = {r.address.name: r.settings for r in read.plane if r.address.kind in ("pool", "binding")}
    return records, found.targets["pg", "main"].settings


@pytest.mark.req("A4.4", "A4.5", "A4.6", "A4.7", "A4.15")
@pytest.mark.parametrize("pool", PRODUCTION)
def test_pools_of_production(pool: str) -> None:
    pools, target = environment("production")
    s = pools[pool]
    timeouts = (s[name] // SECOND for name in ("acquire_timeout", "idle_timeout", "max_lifetime"))
    database = s["database"] or target["database"]
    found = (s["max"], s["min"], *timeouts, s["test_before_acquire"], s["endpoint"], database, s["role"])
    assert found == PRODUCTION[pool]
    assert target["endpoints"][s["endpoint"]] == {"host": HOSTS[s["endpoint"]], "port": 5432}


@pytest.mark.req("A4.8")
def test_passwords_are_references_to_a_variable_for_each_pool() -> None:
    found = document.load(SPECS, "production")
    roles = {r.address.name: r.settings for r in reading.read(found, registry.sections()).plane.of_kind("role")}
    assert {name: roles[name]["password"] for *_, name in PRODUCTION.values()} == {
        f"app_{pool}": {"env": f"{pool.upper()}_DB_PASSWORD"} for pool in PRODUCTION
    }


@pytest.mark.req("A4.9")
@pytest.mark.parametrize(
    ("env", "most", "least", "jetstream", "acquire"),
    [("dev", 5, 1, 2, 10), ("staging", 10, 2, 5, 20), ("production", 20, 5, 10, 30)],
)
def test_each_environment_has_the_figures_of_its_template(
    env: str, most: int, least: int, jetstream: int, acquire: int
) -> None:
    settings, _ = environment(env)
    primary = settings["primary"]
    assert (primary["max"], primary["min"], primary["acquire_timeout"]) == (most, least, acquire * SECOND)
    assert settings["jetstream_max_connections"]["value"] == jetstream
    assert max(settings[pool]["max"] for pool in PRODUCTION) == most
