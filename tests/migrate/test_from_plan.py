"""``holdfast migrate new --from-plan``: files that add up to the specs and lead back, or that say what is lost."""

from __future__ import annotations

import pytest

from tests.migrate.small_shop import SECRET, Json, Shop, document

NONE = "-- transaction: none\n"


class Schema:
    """The schema ``shop`` of some specs, and short words for what is in it."""

    def __init__(self) -> None:
        self.specs = document()
        self.all: Json = self.specs["schemas"]["shop"]
        self.item: Json = self.all["tables"]["item"]
        self.visit: Json = self.all["tables"]["visit"]
        self.order: Json = self.all["tables"]["order"]


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
    schema = Schema()
    schema.item["grants"]["clerk"] = ["insert"]
    shop.declare(schema.specs)
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
    assert shop.draft("add_nothing") == ([], [])


@pytest.mark.req("C1.12", "C1.8", "C1.9")
def test_edit_after_edit_gives_files_that_prove_themselves(shop: Shop) -> None:
    schema = Schema()
    item = schema.item

    def draft(name: str, *, back: bool = True) -> tuple[str, str]:
        shop.declare(schema.specs)
        written, notes = shop.draft(name)
        assert [n.rpartition(".sql")[0].rpartition(".")[2] for n in written] == (["up", "down"] if back else ["up"])
        assert back == (not notes), notes
        texts = [shop.files()[n] for n in written]
        for text in texts:
            assert "OWNER" not in text
        return texts[0], texts[1] if back else notes[0]

    item["columns"]["rank"] = {"type": "integer", "nullable": False, "default": 1}
    schema.visit["columns"]["note"] = {"type": "text"}
    up, down = draft("add_columns")
    assert NONE not in up + down
    assert "-- kind: schema\n" in up
    assert "-- ! data_loss: the values of column rank are lost\nALTER TABLE shop.item DROP COLUMN rank;" in down

    item["indexes"]["item_name"] = {"columns": ["name"]}
    up, down = draft("index_names")
    assert f"-- kind: index\n-- covered-by: specs\n{NONE}\nCREATE INDEX CONCURRENTLY item_name ON" in up
    assert down.startswith(f"-- version: 1.2.0\n{NONE}")

    schema.visit["indexes"] = {"visit_item": {"columns": ["item"]}}
    up, down = draft("index_visits")
    assert "\n\n-- ! blocking: the index is built on every partition in one piece while writes wait\nCREATE INDEX" in up
    assert "ONLY" not in up
    assert NONE not in up + down

    item["checks"]["is_named"] = "shop.is_name(name) AND length(name) < 50"
    schema.all["enums"]["state"] = ["new", "held", "sold"]
    up, down = draft("hold_items")
    assert NONE in up
    assert NONE in down
    assert "ADD VALUE IF NOT EXISTS 'held' AFTER 'new';" in up
    assert "-- ! rewrite: values are taken away (held)" in down

    schema.all["functions"]["is_name"]["body"] = "SELECT given <> '' AND given <> '-'"
    up, down = draft("refuse_dashes")
    assert "-- kind: function\n" in up
    assert NONE not in up + down

    schema.all["views"]["fresh"]["query"] = "SELECT id, name, rank FROM shop.item WHERE rank > 0 -- ranked"
    up, down = draft("show_ranks")
    assert up.endswith("-- ranked\n;\n")
    assert "DROP VIEW shop.fresh;\nCREATE VIEW shop.fresh AS" in down

    schema.order["partitions"]["values"]["van"] = ["van"]
    up, note = draft("order_by_van", back=False)
    assert "-- kind: partition\n" in up
    assert note == "no way back is written, since none was found for pg:main/shop/order/partitions/set"

    schema.all["enums"]["state"] = ["new", "gone"]
    del item["columns"]["price"], item["indexes"]["item_price"]
    schema.visit["partitions"]["default"] = False
    up, down = draft("drop_price")
    assert "-- ! data_loss: the values of column price are lost\nALTER TABLE shop.item DROP COLUMN price;" in up
    assert "-- ! data_loss: the rows of the DEFAULT partition visit_default are lost\nDROP TABLE shop.visit_def" in up
    assert "ALTER TABLE shop.visit ATTACH PARTITION shop.visit_default DEFAULT" in down

    proof = shop.prove()
    assert (proof.holds, proof.migrations, proof.reversed) == (True, 9, 8)
    assert shop.run("migrate", "lint").returncode == 0
