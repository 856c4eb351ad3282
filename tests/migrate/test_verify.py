"""``holdfast migrate verify``: the migrations add up to the specs, and each way back leads back, or what differs."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from provision.plan.plan import Drift
from provision.reconcile import canonical
from provision.reconcile.proving import Proof
from tests.migrate.small_shop import NOWHERE, ROOT, Shop, document

UP = "0001_create_shop.up.sql"
COVERED = "-- covered-by: specs\n"


def told(found: Iterable[Drift]) -> set[str]:
    """Each difference as one line: object, and what is with it or which of its fields."""
    return {" ".join([d.object.removeprefix("pg:main/"), *(sorted(d.fields) or [d.change])]) for d in found}


def differences(proof: Proof) -> set[str]:
    assert proof.missing is not None, proof.failure
    return told(proof.missing.drift)


@pytest.fixture
def plane(tmp_path: Path, scratch_cache: Path) -> Shop:
    """A copy of the plane: its specs and its migrations."""
    for name in ("specs", "migrations"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return Shop(tmp_path, scratch_cache, made=True)


def leftovers(cache: Path, major: int = 18) -> list[str]:
    """Databases and roles of a scratch server that it was not made with."""
    from provision.postgres import wire
    from provision.postgres.connect import connect

    query = (
        "SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template[01])$'"
        " UNION ALL SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> SESSION_USER"
    )
    with canonical.embedded_scratch(cache / "holdfast")(major) as settings, connect(settings) as session:
        (found,) = wire.run(session, f"COPY ({query}) TO STDOUT")
    return found.decode().split()


@pytest.mark.req("C1.12", "C1.9")
def test_the_plane_holds_and_one_edit_shows(plane: Shop) -> None:
    ups, downs = (len(list((ROOT / "migrations").glob(f"*.{way}.sql"))) for way in ("up", "down"))
    assert plane.run("migrate", "verify").stdout == (
        "The migrations add up to the specs, and every way back leads back.\n"
        f"  {ups} up, {downs} of them down and up again\n"
    )
    plane.edit("0004_index_agent_heartbeats.up.sql", "(last_heartbeat)", "(last_heartbeat DESC)")
    done = plane.run("migrate", "verify", "--format", "json", code=1)
    found = json.loads(done.stdout)
    assert (found["holds"], found["migrations"], found["ways_back"], found["astray"]) == (False, ups, downs, [])
    (difference,) = found["differences"]
    assert difference["object"] == "pg:main/agents/registry/index/idx_agents_registry_heartbeat"
    orders = {side: columns[0]["order"] for side, columns in difference["fields"]["columns"].items()}
    assert orders == {"live": "desc", "declared": "asc"}
    assert "Traceback" not in done.stderr


@pytest.mark.req("C1.12")
def test_each_edit_shows_and_nothing_else(shop: Shop) -> None:
    assert shop.prove().holds
    shop.edit(UP, ",\n  price integer,", ",")
    shop.edit(UP, "CREATE INDEX item_price ON shop.item (price);", "")
    shop.edit(UP, "DEFAULT 'none'", "DEFAULT 'nobody'")
    shop.edit(UP, "item bigint", "item integer")
    shop.edit(UP, "GRANT SELECT ON TABLE shop.item TO staff;", "CREATE TABLE shop.extra (id int);")
    shop.edit(UP, "shop.order_post PARTITION OF", "shop.order_mail PARTITION OF")
    shop.edit(UP, "IN ('post')", "IN ('mail')")
    (shop.folder / "0001_create_shop.down.sql").unlink()
    proof = shop.prove()
    assert differences(proof) == {
        "shop/item/column/price missing", "shop/item/index/item_price missing", "shop/item/column/name default",
        "shop/visit/column/item type", "shop/item/grant/staff missing", "shop/extra undeclared",
        "shop/extra/column/id undeclared", "shop/order/partitions/set members",
        "shop/order/partitions/set/member/order_mail undeclared",
    }  # fmt: skip
    assert (proof.holds, proof.reversed, proof.ways_back, proof.failure) == (False, 0, (), None)


@pytest.mark.req("C1.9")
def test_ways_back_that_leave_something_or_lose_something_are_told(shop: Shop) -> None:
    shop.add("0002_index_name.up.sql", "CREATE INDEX IF NOT EXISTS item_name ON shop.item (name);")
    shop.add("0002_index_name.down.sql", "SELECT 1;")
    shop.add("0003_add_rank.up.sql", "ALTER TABLE shop.item ADD COLUMN IF NOT EXISTS rank int;")
    down = "ALTER TABLE shop.item DROP COLUMN rank; ALTER TABLE shop.item DROP CONSTRAINT is_named;"
    shop.add("0003_add_rank.down.sql", down)
    shop.add("0004_check_again.up.sql", "ALTER TABLE shop.item ADD CONSTRAINT is_named CHECK (shop.is_name(name));")
    shop.add("0004_check_again.down.sql", "ALTER TABLE shop.item DROP CONSTRAINT is_named;")
    proof = shop.prove()
    assert [(w.migration.number, w.after, told(w.differences)) for w in proof.ways_back] == [
        (2, "down", {"shop/item/index/item_name undeclared"}),
        (3, "down", {"shop/item/check/is_named missing"}),
        (3, "up again", {"shop/item/check/is_named missing"}),
    ]
    assert differences(proof) == {"shop/item/index/item_name undeclared", "shop/item/column/rank undeclared"}
    assert not proof.holds


@pytest.mark.req("C1.9")
def test_a_way_back_that_drops_what_holds_rows_and_makes_it_anew_is_told(shop: Shop) -> None:
    shop.add("0002_rename_price.up.sql", "ALTER TABLE shop.item RENAME COLUMN price TO cost;")
    back = "ALTER TABLE shop.item DROP COLUMN cost;\nALTER TABLE shop.item ADD COLUMN price integer;"
    shop.add("0002_rename_price.down.sql", f"{back}\nCREATE INDEX item_price ON shop.item (price);")
    shop.add("0003_rename_back.up.sql", "ALTER TABLE shop.item RENAME COLUMN cost TO price;")
    shop.add("0003_rename_back.down.sql", "ALTER TABLE shop.item RENAME COLUMN price TO cost;")
    told = shop.run("migrate", "verify", code=1).stdout
    assert told == (
        "migrations/0002_rename_price.down.sql: down drops what held rows and makes it anew, empty:\n"
        "  ~ pg:main/shop/item/column/price\n"
        "  Rename or change it instead; if the file carries the rows: -- allow HF0856: REASON\n"
    )
    text = shop.files()["0002_rename_price.down.sql"]
    shop.add("0002_rename_price.down.sql", text.partition("\n")[2], header="-- allow HF0856: nobody has prices\n")
    shop.run("migrate", "verify")


def test_a_way_back_that_leaves_what_the_next_up_trips_over_is_told_with_the_error(shop: Shop) -> None:
    shop.add("0002_index_name.up.sql", "CREATE INDEX item_name ON shop.item (name);")
    shop.add("0002_index_name.down.sql", "SELECT 1;")
    shop.add("0003_never_tried.up.sql", "SELECT 1;")
    done = shop.run("migrate", "verify", code=1)
    assert done.stdout == (
        "migrations/0002_index_name.down.sql: down does not give what was there before it:\n"
        "  ~ pg:main/shop/item/index/item_name is left over\n"
    )
    assert 'error: migrations/0002_index_name.up.sql:2:1: relation "item_name" already exists' in done.stderr
    assert "run again: holdfast migrate verify" in done.stderr


@pytest.mark.parametrize(
    ("name", "place"), [("up", "0002_index_name.up.sql:4:1"), ("down", "0002_index_name.down.sql:4:1")]
)
def test_a_file_that_the_server_refuses_is_told_with_its_place(shop: Shop, name: str, place: str) -> None:
    texts = {"up": "CREATE INDEX item_name ON shop.item (name);", "down": "DROP INDEX shop.item_name;"}
    texts[name] = "SELECT 1;\n\nCREATE INDEX item_name ON shop.item (nane);"
    for way, text in texts.items():
        shop.add(f"0002_index_name.{way}.sql", text)
    done = shop.run("migrate", "verify", "--format", "json", code=1)
    found = json.loads(done.stdout)
    assert (found["holds"], found["differences"], found["astray"]) == (False, [], [])
    assert f'migrations/{place}: column "nane" does not exist' in found["failure"]
    assert f"error: {found['failure']}" in done.stderr
    assert leftovers(shop.cache) == []


def test_what_cannot_be_verified_says_why(shop: Shop) -> None:
    shop.place({"main": {**NOWHERE, "version": 17}})
    told = shop.run("migrate", "verify", code=1).stderr
    assert "no embedded PostgreSQL 17 to rehearse in, which main declares; there are 16 and 18" in told
    assert "version: 18" in told
    shop.place({"main": NOWHERE})
    for more in ([], ["--dir", "migrations"]):
        told = shop.run("migrate", "verify", "--target", "other", *more, code=1).stderr
        assert "dev has no Postgres target other" in told
    assert "no such folder: nope" in shop.run("migrate", "verify", "--dir", "nope", code=1).stderr
    specs = document()
    specs["extensions"] = {"postgis": {}}
    shop.declare(specs)
    for command in (("verify",), ("new", "add_maps", "--from-plan")):
        told = shop.run("migrate", *command, code=1).stderr
        assert "the embedded PostgreSQL 18 has no extension postgis, which main declares" in told
    shop.declare(document())
    shop.add("0003_add_rank.up.sql", "SELECT 1;")
    assert "HF0805 0003_add_rank.up.sql follows 0001: 0002 is missing" in shop.run("migrate", "verify", code=1).stderr
    shop.write({})
    assert "no migrations in migrations" in shop.run("migrate", "verify", code=1).stderr


def test_faults_of_the_specs_come_first(shop: Shop) -> None:
    shop.change(lambda schema: schema["tables"]["item"].update(primary_key=["nobody"]))
    assert "nobody" in shop.run("migrate", "verify", code=1).stderr


def test_schemas_of_migrations_are_held_to_the_specs_alike_on_16(shop: Shop) -> None:
    shop.place({"main": {**NOWHERE, "version": 16}})
    shop.change(lambda schema: schema.update(managed="migrations"))
    assert shop.prove().holds
    shop.change(lambda schema: [schema.update(managed="migrations"), schema["views"].pop("fresh")])
    assert differences(shop.prove()) == {"shop/view/fresh undeclared"}


# The scratch server ----------------------------------------------------------------------------------------


def test_roles_and_databases_that_files_make_do_not_stay(shop: Shop) -> None:
    shop.add(
        "0002_make_role.up.sql",
        "CREATE ROLE keeper; GRANT keeper TO staff; GRANT CONNECT ON DATABASE postgres TO keeper;"
        " ALTER TABLE shop.item OWNER TO keeper; CREATE DATABASE other;",
        header="-- transaction: none\n",
    )
    assert shop.prove().failure is None
    assert leftovers(shop.cache) == []


def test_an_end_in_the_middle_leaves_nothing(shop: Shop) -> None:
    folder = Path(tempfile.mkdtemp(dir=shop.cache))
    folder.chmod(0o777)
    reached = folder / "reached"
    for how in (signal.SIGKILL, signal.SIGINT):
        text = f"CREATE ROLE keeper;\nCOPY (SELECT 1) TO '{reached}{how}';\nSELECT pg_sleep(60);"
        shop.add("0002_take_long.up.sql", text, header="-- transaction: none\n")
        running = shop.start("migrate", "verify")
        while not reached.with_name(f"reached{how}").exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.send_signal(how)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said.strip()) == (130, "interrupted; run the same command again to continue")
    assert leftovers(shop.cache) == []


def test_two_at_once_take_turns(shop: Shop) -> None:
    both = [shop.start("migrate", "verify") for _ in range(2)]
    for running in both:
        said, errors = running.communicate(timeout=60)
        assert (running.returncode, errors) == (0, "")
        assert said.startswith("The migrations add up to the specs")
