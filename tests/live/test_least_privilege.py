"""docs/how-to/least-privilege.md: its blocks are run as they stand, and then plan, apply and doctor with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.embedded import nats
from provision.nats import privileges
from tests.live.conftest import Plane

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "least-privilege.md").read_text()
DEPLOYER = "holdfast_deployer"


def block(language: str, name: str) -> str:
    found = re.search(rf"^```{language} {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


NATS = json.loads(block("json", "nats"))


@pytest.fixture(scope="module")
def guarded(server_root: Path) -> Iterator[nats.Server]:
    """A NATS server with the users of the page, and one that may do everything."""
    users = [{**user, "password": "nats-pass-1"} for user in NATS["users"]]
    users.append({"user": "admin", "password": "nats-pass-1"})
    # A deployer without one permission, for each of them.
    allowed = NATS["users"][0]["permissions"]["publish"]["allow"]
    for number, subject in enumerate(allowed):
        rest = {"publish": {"allow": [s for s in allowed if s != subject]}, "subscribe": {"allow": ["_INBOX.>"]}}
        users.append({"user": f"without_{number}", "password": "nats-pass-1", "permissions": rest})
    config = {"accounts": {"PLANE": {"jetstream": "enabled", "users": users}}}
    with nats.Server(server_root / "nats-guarded", config=config) as server:
        yield server


class Guarded(Plane):
    """The small plane as a role of the database and a user of NATS that are no administrators."""

    def use(self, role: str | None = None, user: str = "deployer") -> None:
        path = self.specs / "environments" / "dev.yaml"
        node = json.loads(path.read_text())["targets"]
        if role is not None:
            node["postgres"]["main"]["user"] = role
        node["nats"]["main"] |= {"user": user, "password": {"env": "NATS_SECRET"}}
        path.write_text(json.dumps({"targets": node}))

    def become(self, role: str, *blocks: str) -> None:
        """Run blocks of the page as the administrator, then connect as the role."""
        for text in blocks:
            self.sql(block("sql", text).replace("DATABASE agents", f'DATABASE "{self.database["dbname"]}"'))
        self.sql(f"ALTER ROLE {role} PASSWORD 'pg-pass-1'")
        self.variables["PG_SECRET"] = "pg-pass-1"
        self.use(role)

    def faults(self) -> list[str]:
        found = json.loads(self.run("doctor", "--format", "json", code=None).stdout)
        return [f["remedy"] for f in found if not f["is_well"]]


@pytest.fixture
def plane(tmp_path: Path, pg_database: dict[str, Any], guarded: nats.Server) -> Iterator[Guarded]:
    found = Guarded(tmp_path, pg_database, guarded.url)
    found.cache = str(tmp_path / "cache")  # a cold one: the role's rights are what compiles
    found.variables["NATS_SECRET"] = "nats-pass-1"
    found.use()
    yield found
    # The account is the module's: leave no stream behind. What the role owns goes with the database.
    from provision.nats.api import Session, settings

    with Session(settings({"urls": [guarded.url], "user": "admin", "password": "nats-pass-1"})) as session:
        for name in session.request("$JS.API.STREAM.NAMES").get("streams") or ():
            session.request(f"$JS.API.STREAM.DELETE.{name}")
    with psycopg.connect(**pg_database, autocommit=True) as admin:
        for role in ("small_app", "small_owner", DEPLOYER, "holdfast_planner", "app_owner"):
            exists = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            if exists is not None:
                admin.execute(f"DROP OWNED BY {role} CASCADE".encode())


@pytest.mark.parametrize("blocks", [("deployer",), ("deployer", "scratch")])
def test_the_deployer_of_the_page_plans_and_applies(plane: Guarded, blocks: tuple[str, ...]) -> None:
    plane.become(DEPLOYER, *blocks)
    assert plane.faults() == []
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []
    plane.edit("varchar(50)", "varchar(80)")
    plane.variables["SMALL_PASSWORD"] = "another-one"
    changed = {s["object"] for s in plane.plan()["steps"]} - {"plane:main/contract/small.dev"}
    assert changed == {"pg:main/app/owner/column/name", "pg:main/role/small_app"}
    plane.run("apply", "--yes")
    assert plane.plan()["steps"] == []
    assert plane.faults() == []


def test_the_planner_of_the_page_plans_and_can_change_nothing(plane: Guarded) -> None:
    plane.become(DEPLOYER, "deployer")
    plane.run("apply", "--yes")
    plane.become("holdfast_planner", "planner")
    plane.use(user="planner")
    assert plane.plan()["steps"] == []
    plane.edit("max_age: 1h", "max_age: 2h")
    plane.edit("varchar(50)", "varchar(80)")
    steps = plane.plan()["steps"]
    assert {"pg:main/app/owner/column/name", "nats:main/stream/EVENTS"} <= {s["object"] for s in steps}
    plane.run("apply", "--yes", code=1)
    assert plane.plan()["steps"] == steps


@pytest.mark.parametrize(
    ("taken", "remedy"),
    [
        (
            "REVOKE CREATE ON DATABASE {database} FROM holdfast_deployer",
            "GRANT CREATE ON DATABASE {database} TO holdfast_deployer;",
        ),
        ("ALTER ROLE holdfast_deployer NOCREATEROLE", "ALTER ROLE holdfast_deployer CREATEROLE;"),
        (
            "REVOKE SELECT ON pg_authid FROM holdfast_deployer",
            "GRANT SELECT ON pg_catalog.pg_authid TO holdfast_deployer;",
        ),
    ],
)
def test_without_one_grant_doctor_names_just_that_one(plane: Guarded, taken: str, remedy: str) -> None:
    plane.become(DEPLOYER, "deployer")
    database = f'"{plane.database["dbname"]}"'
    plane.sql(taken.format(database=database))
    found = plane.faults()
    assert [f.replace('"', "") for f in found] == [remedy.format(database=plane.database["dbname"])]
    plane.sql(found[0])
    assert plane.faults() == []


def test_objects_of_another_owner_need_the_memberships_of_the_page(plane: Guarded) -> None:
    plane.sql("CREATE ROLE app_owner; CREATE SCHEMA app AUTHORIZATION app_owner; CREATE ROLE small_app LOGIN")
    plane.sql("CREATE TABLE app.owner (id bigint GENERATED ALWAYS AS IDENTITY, name varchar(50) NOT NULL)")
    plane.sql("ALTER TABLE app.owner OWNER TO app_owner")
    plane.become(DEPLOYER, "deployer")
    asked = plane.faults()
    assert asked == [line for line in block("sql", "owners").splitlines() if line]
    plane.become(DEPLOYER, "owners")
    assert plane.faults() == []
    consents = list(plane.plan()["consents"])
    plane.run("apply", "--yes", *(f"--allow={c}" for c in consents))
    assert plane.plan()["steps"] == []


def test_owners_that_the_specs_declare_need_the_self_grant_of_the_page(plane: Guarded) -> None:
    plane.edit("roles:\n", "roles:\n  small_owner: {}\n")
    plane.edit("  app:\n    enums:", "  app:\n    owner: small_owner\n    enums:")
    plane.become(DEPLOYER, "deployer", "self-grant")
    plane.run("apply", "--yes")
    assert plane.sql("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'app'") == [("small_owner",)]
    assert plane.plan()["steps"] == []


def test_the_page_lists_what_the_code_asks_for() -> None:
    deployer, planner = (user["permissions"]["publish"]["allow"] for user in NATS["users"])
    assert set(deployer) == {privileges.USER_INFO, *privileges.TO_PLAN, *privileges.TO_APPLY}
    assert set(planner) == {privileges.USER_INFO, *privileges.TO_PLAN}


def test_without_one_permission_doctor_names_just_that_subject(plane: Guarded) -> None:
    for number, subject in enumerate(NATS["users"][0]["permissions"]["publish"]["allow"]):
        plane.use(user=f"without_{number}")
        told = plane.run("doctor", code=None).stdout
        named = re.findall(r"may not publish to (\S+)", told)
        assert named == [subject], told


@pytest.mark.parametrize("held", [None, {}, {"publish": {"allow": [">"]}}, {"subscribe": {"allow": ["_INBOX.>"]}}])
def test_a_user_without_rules_may_do_everything(held: Any) -> None:
    assert privileges.lacking(held) == []


def test_what_is_denied_counts_as_missing() -> None:
    held = {"publish": {"deny": ["$JS.API.STREAM.DELETE.>"]}, "subscribe": {"allow": ["x"]}}
    assert privileges.lacking(held) == ["publish to $JS.API.STREAM.DELETE.*", "subscribe to _INBOX.>"]
