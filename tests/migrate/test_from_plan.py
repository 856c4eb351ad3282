"""``holdfast migrate new --from-plan``: files that add up to the specs and lead back, or that say what is lost."""

from __future__ import annotations

import json

import pytest

from tests.migrate.small_shop import SECRET, Json, Shop, document

NONE = "-- transaction: none\n"


class Author:
    """Edits specs and has a migration drafted after each edit."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.specs = document()
        self.all: Json = self.specs["schemas"]["shop"]
        self.item: Json = self.all["tables"]["item"]
        self.visit: Json = self.all["tables"]["visit"]
        self.order: Json = self.all["tables"]["order"]

    def draft(self, name: str, *, noted: bool = False) -> tuple[str, str]:
        """The text there and the text back; instead of that, what was noted where there is none, or if ``noted``."""
        self.shop.declare(self.specs)
        written, notes = self.shop.draft(name)
        assert [n.split(".")[1] for n in written] == (["up"] if notes and not noted else ["up", "down"])
        texts = [self.shop.files()[n] for n in written]
        for text in texts:
            assert "OWNER" not in text
        (other,) = notes or texts[1:]
        return texts[0], other

    def proves(self, migrations: int, reversed: int) -> None:
        proof = self.shop.prove()
        assert (proof.holds, proof.migrations, proof.reversed) == (True, migrations, reversed)
        self.shop.run("migrate", "lint")


@pytest.mark.req("C1.12", "C1.9")
def test_the_first_file_makes_everything_and_no_more(shop: Shop, shop_files: dict[str, str]) -> None:
    up, down = shop_files["0001_create_shop.up.sql"], shop_files["0001_create_shop.down.sql"]
    assert up.startswith(
        "-- version: 1.0.0\n-- description: Create shop\n-- kind: schema\n-- covered-by: specs\n\nCREATE SCHEMA shop;\n"
    )
    assert down.startswith("-- version: 1.0.0\n\n")
    for text in (up, down):
        for word in (SECRET, "CLERK_SECRET", "ROLE", "OWNER", "holdfast", "migrations", "visit_20", NONE):
            assert word not in text
    assert "CREATE TABLE shop.visit_default PARTITION OF shop.visit DEFAULT;" in up
    assert "-- ! data_loss: all rows of item are lost\nDROP TABLE shop.item;" in down
    proof = shop.prove()
    assert (proof.holds, proof.reversed) == (True, 1)


def test_nothing_to_write_and_names_and_versions_and_kinds(shop: Shop) -> None:
    done = shop.run("migrate", "new", "add_nothing", "--from-plan")
    assert done.stdout == ""
    assert "nothing to write: the migrations in migrations add up to the specs" in done.stderr
    author = Author(shop)
    author.item["grants"]["clerk"] = ["insert"]
    shop.declare(author.specs)
    arguments = ("migrate", "new", "let_clerks_sell", "--from-plan", "--kind", "data")
    told = shop.run(*arguments, "--version", "0.9.0", code=1).stderr
    assert "version 0.9.0 is not later than 1.0.0" in told
    shop.run(*arguments, "--version", "2.0.0")
    files = shop.files()
    assert files["0002_let_clerks_sell.up.sql"] == (
        "-- version: 2.0.0\n-- description: Let clerks sell\n-- kind: data\n-- covered-by: specs\n\n"
        "GRANT INSERT ON TABLE shop.item TO clerk;\n"
    )
    assert files["0002_let_clerks_sell.down.sql"] == (
        "-- version: 2.0.0\n\n-- ! security: clerk loses privileges\nREVOKE INSERT ON TABLE shop.item FROM clerk;\n"
    )


def test_a_file_that_cannot_name_every_partition_says_so(shop: Shop) -> None:
    author = Author(shop)
    author.visit["storage"] = {"fillfactor": 80}
    up, note = author.draft("fill_visits", noted=True)
    assert "ALTER TABLE shop.visit_default SET (fillfactor = 80);" in up
    assert note.startswith("pg:main/shop/visit: its DEFAULT partition is changed by name; those that maintenance makes")


def test_what_apply_does_not_make_is_not_called_covered(shop: Shop) -> None:
    specs = document()
    own: Json = {"columns": {"id": {"type": "bigint", "nullable": False}}, "primary_key": ["id"]}
    specs["schemas"]["own"] = {"managed": "migrations", "tables": {"log": own}}
    shop.declare(specs)
    assert shop.draft("create_log") == (["0002_create_log.up.sql", "0002_create_log.down.sql"], [])
    assert "covered" not in shop.files()["0002_create_log.up.sql"]
    assert shop.run("migrate", "lint").returncode == 0
    own["columns"]["at"] = {"type": "timestamptz"}
    specs["schemas"]["shop"]["tables"]["item"]["columns"]["at"] = {"type": "timestamptz"}
    shop.declare(specs)
    written, notes = shop.draft("add_times")
    assert notes == [
        "it changes schemas of both owners: put what is managed: migrations into a file without covered-by"
    ]
    assert "-- covered-by: specs\n" in shop.files()[written[0]]


@pytest.mark.req("C1.12", "C1.8", "C1.9")
def test_what_is_added_is_written_and_proves_itself(shop: Shop) -> None:
    author = Author(shop)
    author.item["columns"]["rank"] = {"type": "integer", "nullable": False, "default": 1}
    author.visit["columns"]["note"] = {"type": "text"}
    up, down = author.draft("add_columns")
    assert NONE not in up + down
    assert "-- kind: schema\n" in up
    assert "-- ! data_loss: the values of column rank are lost\nALTER TABLE shop.item DROP COLUMN rank;" in down

    author.item["indexes"]["item_name"] = {"columns": ["name"]}
    up, down = author.draft("index_names")
    assert f"-- kind: index\n-- covered-by: specs\n{NONE}\nCREATE INDEX CONCURRENTLY item_name ON" in up
    assert down.startswith(f"-- version: 1.2.0\n{NONE}")

    author.visit["indexes"] = {"visit_item": {"columns": ["item"]}}
    up, down = author.draft("index_visits")
    assert "\n\n-- ! blocking: the index is built on every partition in one piece while writes wait\nCREATE INDEX" in up
    assert "ONLY" not in up
    assert NONE not in up + down

    author.order["partitions"]["values"]["van"] = ["van"]
    up, note = author.draft("order_by_van")
    assert "-- kind: partition\n" in up
    assert note == "no way back is written, since none was found for pg:main/shop/order/partitions/set"
    author.proves(5, 4)


@pytest.mark.req("C1.12", "C1.8", "C1.9")
def test_what_is_changed_or_dropped_is_written_and_proves_itself(shop: Shop) -> None:
    author = Author(shop)
    author.item["checks"]["is_named"] = "shop.is_name(name) AND length(name) < 50"
    author.all["enums"]["state"] = ["new", "held", "sold"]
    up, down = author.draft("hold_items")
    assert NONE in up
    assert NONE in down
    assert "ADD VALUE IF NOT EXISTS 'held' AFTER 'new';" in up
    assert "-- ! rewrite: values are taken away (held)" in down

    author.all["functions"]["is_name"]["body"] = "SELECT given <> '' AND given <> '-'"
    up, down = author.draft("refuse_dashes")
    assert "-- kind: function\n" in up
    assert NONE not in up + down

    author.all["enums"]["state"] = ["new", "gone"]
    author.all["views"]["fresh"]["query"] = "SELECT id FROM shop.item WHERE state = 'gone' -- sold or held"
    del author.item["columns"]["price"], author.item["indexes"]["item_price"]
    author.visit["partitions"]["default"] = False
    up, down = author.draft("drop_price")
    assert "-- sold or held\n;\n" in up
    assert "-- ! data_loss: the values of column price are lost\nALTER TABLE shop.item DROP COLUMN price;" in up
    assert "-- ! data_loss: the rows of the DEFAULT partition visit_default are lost\nDROP TABLE shop.visit_def" in up
    assert "ALTER TABLE shop.visit ATTACH PARTITION shop.visit_default DEFAULT" in down
    author.proves(4, 4)


@pytest.mark.req("C1.12", "C1.9")
def test_the_way_back_of_a_rename_is_a_rename(shop: Shop) -> None:
    author = Author(shop)
    author.all["tables"]["goods"] = {**author.all["tables"].pop("item"), "renamed_from": "item"}
    goods = author.all["tables"]["goods"]
    goods["columns"]["label"] = {**goods["columns"].pop("name"), "renamed_from": "name"}
    goods["columns"]["cost"] = {**goods["columns"].pop("price"), "renamed_from": "price"}
    goods["indexes"] = {"item_price": {"columns": ["cost"]}}
    goods["checks"] = {"is_labelled": "shop.is_name(label)"}
    author.all["enums"]["stage"] = {"values": author.all["enums"].pop("state"), "renamed_from": "state"}
    goods["columns"]["state"]["type"] = "shop.stage"
    author.all["views"]["recent"] = {
        "query": "SELECT id, label FROM shop.goods WHERE state = 'new'", "renamed_from": "fresh"}  # fmt: skip
    del author.all["views"]["fresh"]
    up, down = author.draft("rename_items")
    assert "ALTER TABLE shop.item RENAME TO goods;" in up
    assert "ALTER TABLE shop.goods RENAME TO item;" in down
    for column in ("label TO name", "cost TO price"):
        assert f"RENAME COLUMN {column};" in down
    assert "ALTER TYPE shop.stage RENAME TO state;" in down
    for word in ("data_loss", "DROP TABLE", "DROP COLUMN", "CREATE TABLE", "ADD COLUMN"):
        assert word not in up + down
    author.proves(2, 2)


@pytest.mark.req("C1.12", "C1.9")
def test_the_way_back_of_a_renamed_schema_is_a_rename(shop: Shop) -> None:
    author = Author(shop)
    author.specs = json.loads(json.dumps(author.specs).replace("shop.", "store."))
    author.specs["schemas"]["store"] = {**author.specs["schemas"].pop("shop"), "renamed_from": "shop"}
    up, down = author.draft("rename_shop")
    assert "ALTER SCHEMA shop RENAME TO store;" in up
    assert "ALTER SCHEMA store RENAME TO shop;" in down
    assert "data_loss" not in up + down
    proof = shop.prove()
    assert (proof.holds, proof.reversed) == (True, 2)
