"""``holdfast import``: what was applied comes back as specs that plan nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.reconcile.local import secret_names
from tests.live.conftest import Plane

SPECS = Path(__file__).parents[2] / "specs"


def beside(plane: Plane, folder: Path) -> Plane:
    """The same servers and secrets with other specs."""
    found = object.__new__(Plane)
    found.__dict__.update(plane.__dict__)
    found.specs = folder
    return found


def imported(plane: Plane, *arguments: str) -> Plane:
    """Import into a folder of its own; gives the plane that works with it."""
    folder = plane.root / "imported"
    plane.run("import", "-o", str(folder), *arguments)
    return beside(plane, folder)


def owned(plane: Plane) -> set[str]:
    return {row[0] for row in plane.sql("SELECT address FROM holdfast.objects")}


def is_declared(address: str) -> bool:
    """Whether the object lives in the contract alone, which is adopted as a whole."""
    return re.match(r"plane:\w+/(pool|publisher|binding)/|nats:.*/template/", address) is not None


def everything(plane: Plane) -> str:
    return "\n".join(path.read_text() for path in sorted(plane.specs.rglob("*")) if path.is_file())


@pytest.fixture
def full(plane: Plane) -> Plane:
    """The plane of ``specs/`` on the test's servers, sized as for development."""
    folder = plane.root / "full"
    shutil.copytree(SPECS, folder)
    development = yaml.safe_load((SPECS / "environments" / "dev.yaml").read_text())
    targets = yaml.safe_load((plane.specs / "environments" / "dev.yaml").read_text())["targets"]
    environment = yaml.safe_dump({**development, "targets": targets})
    for path in (folder / "environments").iterdir():
        path.unlink()
    (folder / "environments" / "dev.yaml").write_text(environment)
    names: set[str] = set()
    for path in folder.rglob("*.yaml"):
        names |= secret_names(yaml.safe_load(path.read_text()))
    plane.variables |= {name: f"secret-of-{name.lower()}" for name in names - set(plane.variables)}
    return beside(plane, folder)


@pytest.mark.req("B2.1")
def test_an_imported_plane_plans_nothing_and_adopts_everything(applied: Plane) -> None:
    before = owned(applied)
    found = imported(applied)
    applied.sql("DELETE FROM holdfast.objects")
    plan = found.plan()
    assert (plan["steps"], plan["drift"]) == ([], [])
    assert set(plan["adopt"]) == before


def test_the_whole_plane_comes_back(full: Plane) -> None:
    full.run("apply", "--yes")
    before = owned(full)
    found = imported(full)
    full.sql("DELETE FROM holdfast.objects")
    plan = found.plan()
    assert (plan["steps"], plan["drift"]) == ([], [])
    assert set(plan["adopt"]) == {address for address in before if not is_declared(address)}
    found.run("apply", "--yes")
    assert found.plan()["adopt"] == []


def test_servers_named_on_the_command_line_need_no_specs(applied: Plane) -> None:
    database = applied.database
    dsn = f"postgresql://{database['user']}:{database['password']}@{database['host']}:{database['port']}/{database['dbname']}"
    shutil.rmtree(applied.specs)
    found = imported(applied, "--postgres", dsn, "--nats", applied.url)
    assert database["password"] not in everything(found)
    assert "plane: small" in (found.specs / "plane.yaml").read_text()
    applied.sql("DELETE FROM holdfast.objects")
    found.variables["POSTGRES_PASSWORD"] = str(database["password"])
    assert found.plan()["steps"] == []


def test_a_database_without_a_contract_gives_references_in_place_of_secrets(plane: Plane) -> None:
    plane.sql("CREATE SCHEMA shop; CREATE TABLE shop.item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
    database = plane.database
    dsn = "host={host} port={port} user={user} password={password} dbname={dbname}".format(**database)
    found = imported(plane, "--postgres", dsn)
    text = everything(found)
    assert database["password"] not in text
    assert "password: {env: POSTGRES_PASSWORD}" in text
    plan = found.run("plan", "--format", "json", POSTGRES_PASSWORD=str(database["password"]))
    assert [s["object"] for s in json.loads(plan.stdout)["steps"]] == [f"plane:main/contract/{database['dbname']}.dev"]


def test_what_no_kind_models_is_named(applied: Plane) -> None:
    applied.sql(
        "CREATE MATERIALIZED VIEW app.totals AS SELECT count(*) FROM app.item; CREATE SEQUENCE app.numbers;"
        "CREATE TYPE app.pair AS (a int, b int); CREATE STATISTICS app.guess ON id, price FROM app.item;"
        "CREATE RULE silent AS ON DELETE TO app.owner DO INSTEAD NOTHING"
    )
    done = applied.run("import", "-o", str(applied.root / "imported"))
    said = set(re.findall(r"note: (.*) is nothing that specs can say", done.stderr))
    assert said == {
        "pg:main/app: materialized view totals",
        "pg:main/app: sequence numbers",
        "pg:main/app: composite type pair",
        "pg:main/app/item: statistics guess",
        "pg:main/app/owner: rule silent",
    }


def test_only_the_named_schemas_and_streams_are_taken(applied: Plane) -> None:
    applied.sql("CREATE SCHEMA other; CREATE TABLE other.t (id int); CREATE ROLE bystander")
    found = imported(applied, "--schema", "app", "--stream", "STATE")
    names = {str(path.relative_to(found.specs)) for path in found.specs.rglob("*.yaml")}
    assert names == {"plane.yaml", "roles.yaml", "buckets.yaml", "schemas/app.yaml", "environments/dev.yaml"}
    assert set(yaml.safe_load((found.specs / "roles.yaml").read_text())["roles"]) == {"small_app"}


def test_partition_intervals_are_taken_from_the_partitions(applied: Plane) -> None:
    months = "; ".join(
        f"CREATE TABLE app.bill_{n} PARTITION OF app.bill FOR VALUES FROM ('{a}') TO ('{b}')"
        for n, (a, b) in enumerate(
            [
                ("2026-10-01", "2026-11-01"),
                ("2026-11-01", "2026-12-01"),
                ("2026-12-01", "2027-01-01"),
                ("2027-01-01", "2027-02-01"),
            ]
        )
    )
    applied.sql(f"CREATE TABLE app.bill (at date NOT NULL) PARTITION BY RANGE (at); {months}")
    folder = applied.root / "imported"
    note = applied.run("import", "-o", str(folder)).stderr
    split = yaml.safe_load((folder / "schemas" / "app.yaml").read_text())["schemas"]["app"]["tables"]["bill"][
        "partitions"
    ]
    assert split["every"] == "1 month"
    assert "retain" not in split
    assert "pg:main/app/bill/partitions/set: every 1 month" in note


def test_a_folder_that_holds_something_is_left_alone(applied: Plane) -> None:
    said = applied.run("import", "-o", str(applied.specs), code=1).stderr
    assert "is not empty" in said


def test_secrets_of_pools_are_known_from_the_contract(full: Plane) -> None:
    full.run("apply", "--yes")
    found = imported(full)
    roles = yaml.safe_load((found.specs / "roles.yaml").read_text())["roles"]
    assert roles["app_primary"]["password"] == {"env": "PRIMARY_DB_PASSWORD"}
    for secret in full.variables.values():
        assert secret not in everything(found)


def test_an_older_server_is_imported_as_well(tmp_path: Path, pg16_database: dict[str, Any], nats_url: str) -> None:
    plane = Plane(tmp_path, pg16_database, nats_url)
    plane.run("apply", "--yes")
    before = owned(plane)
    found = imported(plane)
    plane.sql("DELETE FROM holdfast.objects")
    plan = found.plan()
    assert (plan["steps"], set(plan["adopt"])) == ([], before)
