"""docs/decisions/0004: the database as CloudNativePG makes it from our manifests, and holdfast as its deployer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.kubernetes import postgres
from tests.checks.specs import load
from tests.live.conftest import Plane

SPECS = """\
plane: owned
extensions: {vector: {schema: search}}
roles:
  reader: {}
  app: {login: true, password: {env: SMALL_PASSWORD}, member_of: [reader, pg_monitor]}
  sweeper: {bypassrls: true}
  app_owner: {}
schemas:
  search: {}
  app:
    owner: app_owner
    tables:
      item:
        columns: {id: {type: bigint, nullable: false}, at: {type: "search.vector(3)"}}
        primary_key: [id]
        grants: {reader: [select]}
"""
TARGETS = {"postgres": {"main": {"kind": "kubernetes", "database": "agents", "kubernetes": {"storage": "1GiB"}}}}
FLAGS = {
    "login": "LOGIN",
    "createrole": "CREATEROLE",
    "createdb": "CREATEDB",
    "bypassrls": "BYPASSRLS",
    "replication": "REPLICATION",
}


@pytest.fixture
def plane(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Iterator[Plane]:
    found = Plane(tmp_path, pg_database, nats_url)
    found.write(SPECS)
    yield found
    # The deployer goes last: it gave the others their memberships.
    for role in ("app", "reader", "sweeper", "app_owner", "holdfast"):
        if found.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
            found.sql(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
            found.sql(f"DROP OWNED BY {role} CASCADE")
            found.sql(f"DROP ROLE {role}")


def provide(plane: Plane, folder: Path) -> None:
    """Do with a superuser what the operator does for the manifests, in its order; then connect as the deployer."""
    folder.mkdir()
    loaded = load(folder, SPECS + f"targets: {json.dumps(TARGETS)}\n")
    made = postgres.manifests(loaded.plane, loaded.document.targets["pg", "main"])
    (cluster,) = (m["spec"] for m in made if m["kind"] == "Cluster")
    (database,) = (m["spec"] for m in made if m["kind"] == "Database")
    (role,) = cluster["managed"]["roles"]
    name = role["name"]
    assert name == cluster["bootstrap"]["initdb"]["owner"] == database["owner"]
    plane.sql(f"CREATE ROLE {name} LOGIN")
    plane.sql(f'ALTER DATABASE "{plane.database["dbname"]}" OWNER TO {name}')
    for statement in cluster["bootstrap"]["initdb"]["postInitApplicationSQL"]:
        plane.sql(statement)
    flags = " ".join(FLAGS[key] for key, value in role.items() if value is True)
    plane.sql(f"ALTER ROLE {name} {flags} PASSWORD 'pg-pass-1'")
    for group in role["inRoles"]:
        plane.sql(f"GRANT {group} TO {name}")
    for schema in database["schemas"]:
        plane.sql(f"CREATE SCHEMA {schema['name']} AUTHORIZATION {schema['owner']}")
    for extension in database["extensions"]:
        plane.sql(f"CREATE EXTENSION {extension['name']} SCHEMA {extension['schema']}")
    plane.variables["PG_SECRET"] = "pg-pass-1"
    plane.target(plane.database["port"], user=name)


@pytest.mark.req("B3.2")
def test_the_deployer_of_the_manifests_applies_the_specs_and_finds_the_extensions(plane: Plane, tmp_path: Path) -> None:
    provide(plane, tmp_path / "manifests")
    found = plane.plan()
    assert not {s["object"] for s in found["steps"]} & {"pg:main/extension/vector", "pg:main/search"}
    assert {"pg:main/extension/vector", "pg:main/search"} <= set(found["adopt"])
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []
    assert plane.sql("SELECT rolbypassrls FROM pg_roles WHERE rolname = 'sweeper'") == [(True,)]
    owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'app'"
    assert plane.sql(owner) == [("app_owner",)]
    doctor = json.loads(plane.run("doctor", "--format", "json", code=None).stdout)
    assert [f["remedy"] for f in doctor if not f["is_well"]] == []


@pytest.mark.parametrize("version", [None, "the one there is"])
def test_an_extension_that_is_there_is_no_step(plane: Plane, tmp_path: Path, version: str | None) -> None:
    provide(plane, tmp_path / "manifests")
    if version is not None:
        ((live,),) = plane.sql("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        plane.edit("{schema: search}", f'{{schema: search, version: "{live}"}}')
    assert "pg:main/extension/vector" not in {s["object"] for s in plane.plan()["steps"]}


def test_an_extension_that_only_the_operator_wants_is_left_alone(plane: Plane, tmp_path: Path) -> None:
    plane.write("plane: owned\nroles: {reader: {}}\n")
    plane.sql("CREATE EXTENSION vector")
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []
    plane.run("drift")
    assert plane.sql("SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == [(1,)]
