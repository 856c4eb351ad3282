"""``migrate verify`` looks at each partition that specs name: what it has of its own is told, up, down and in sum."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from provision.plan.plan import Drift
from tests.migrate.small_shop import NOWHERE, Json, Shop, document

SET = "pg:main/shop/order/partitions/set/member"
POST = f"{SET}/order_post"
HASH = "pg:main/shop/scan/partitions/set/member"
_SUPPRESS = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
#: What differs -> what does it to a partition, and what undoes it.
TOUCHES = {
    "constraint order_post_id_check": ("ADD CHECK (id > 0)", "DROP CONSTRAINT order_post_id_check"),
    "column note not null": ("ALTER note SET NOT NULL", "ALTER note DROP NOT NULL"),
    "column note default": ("ALTER note SET DEFAULT 'x'", "ALTER note DROP DEFAULT"),
    "column note storage": ("ALTER note SET STORAGE EXTERNAL", "ALTER note SET STORAGE EXTENDED"),
    "owner": ("OWNER TO staff", "OWNER TO CURRENT_USER"),
    "row security": ("ENABLE ROW LEVEL SECURITY", "DISABLE ROW LEVEL SECURITY"),
    "replica identity": ("REPLICA IDENTITY FULL", "REPLICA IDENTITY DEFAULT"),
}
STATEMENTS = {
    "grants": ("GRANT SELECT ON shop.order_post TO clerk", "REVOKE SELECT ON shop.order_post FROM clerk"),
    "column note grants": ("GRANT UPDATE (note) ON shop.order_post TO clerk",
                           "REVOKE UPDATE (note) ON shop.order_post FROM clerk"),
    "comment": ("COMMENT ON TABLE shop.order_post IS 'by hand'", "COMMENT ON TABLE shop.order_post IS NULL"),
    "column note comment": ("COMMENT ON COLUMN shop.order_post.note IS 'x'",
                            "COMMENT ON COLUMN shop.order_post.note IS NULL"),
    "index by_hand": ("CREATE INDEX by_hand ON shop.order_post (note)", "DROP INDEX shop.by_hand"),
    "trigger by_hand": (f"CREATE TRIGGER by_hand BEFORE UPDATE ON shop.order_post FOR EACH ROW {_SUPPRESS}",
                        "DROP TRIGGER by_hand ON shop.order_post"),
    "policy by_hand": ("CREATE POLICY by_hand ON shop.order_post USING (true)",
                       "DROP POLICY by_hand ON shop.order_post"),
    "rule by_hand": ("CREATE RULE by_hand AS ON DELETE TO shop.order_post DO ALSO NOTHING",
                     "DROP RULE by_hand ON shop.order_post"),
    "statistics by_hand": ("CREATE STATISTICS shop.by_hand ON way, note FROM shop.order_post",
                           "DROP STATISTICS shop.by_hand"),
    "publication by_hand": ("CREATE PUBLICATION by_hand FOR TABLE shop.order_post", "DROP PUBLICATION by_hand"),
}  # fmt: skip


def rich(*, unlogged: bool) -> Json:
    """The shop with sets by list and by hash whose tables have all that a partition may take from them."""
    specs = document()
    shop: Json = specs["schemas"]["shop"]
    columns = {
        "way": {"type": "text", "nullable": False},
        "id": {"type": "bigint", "nullable": False},
        "item": {"type": "bigint", "default": 1},
        "note": {"type": "text"},
        "twice": {"type": "bigint", "generated": "id * 2"},
        "packed": {"type": "text", "storage": "external"},
    }
    tables: Json = shop["tables"]
    tables["order"] |= {
        "columns": columns,
        "checks": {"has_id": "id > 0"},
        "foreign_keys": {"order_item": {"columns": ["item"], "references": "shop.item"}},
        "indexes": {"order_note": {"columns": ["note"]}},
        "grants": {"staff": ["select"]},
        "row_security": True,
        "comment": "What was ordered",
        "storage": {"fillfactor": 70},
    }
    tables["scan"] = {
        "columns": columns, "primary_key": ["id"], "unlogged": unlogged,
        "partitions": {"by": "hash", "key": ["id"], "modulus": 2},
    }  # fmt: skip
    return specs


def told(found: tuple[Drift, ...]) -> Mapping[str, set[str]]:
    return {d.object: set(d.fields) or {d.change} for d in found}


@pytest.mark.req("C1.12", "C1.9")
@pytest.mark.parametrize("major", [18, 16])
def test_partitions_that_are_like_their_table_are_no_difference_and_each_touch_is_one(shop: Shop, major: int) -> None:
    shop.place({"main": {**NOWHERE, "version": major}})
    shop.declare(rich(unlogged=major < 18))  # PostgreSQL 18 has no partitioned table that is unlogged
    shop.draft("make_all")
    proof = shop.prove()
    assert proof.holds, (proof.failure, proof.missing and proof.missing.drift, proof.ways_back)
    touches = {n: tuple(f"ALTER TABLE shop.order_post {t}" for t in both) for n, both in TOUCHES.items()} | STATEMENTS
    ups, downs = zip(*touches.values(), strict=True)
    shop.add("0003_touch_post.up.sql", ";\n".join(ups) + ";")
    shop.add("0003_touch_post.down.sql", ";\n".join(reversed(downs)) + ";")
    proof = shop.prove()
    assert proof.missing is not None, proof.failure
    assert told(proof.missing.drift) == {POST: set(touches)}
    assert proof.ways_back == (), "the way back is exact"
    shop.add("0003_touch_post.down.sql", "SELECT 1;")
    live, declared, way = ("true", None, "UNLOGGED") if major == 18 else (None, "true", "LOGGED")
    shop.add("0003_touch_post.up.sql", f"ALTER TABLE shop.scan_1 SET {way};")
    proof = shop.prove()
    assert proof.missing is not None, proof.failure
    (drift,) = proof.missing.drift
    assert (drift.object, drift.fields) == (f"{HASH}/scan_1", {"unlogged": {"live": live, "declared": declared}})
    (way_back,) = proof.ways_back
    assert (way_back.after, told(way_back.differences)) == ("down", {f"{HASH}/scan_1": {"unlogged"}})


@pytest.mark.req("C1.12")
def test_a_partition_that_no_values_ask_for_and_a_touched_default_are_told(shop: Shop) -> None:
    shop.add(
        "0002_add_mail.up.sql",
        "CREATE TABLE shop.order_mail PARTITION OF shop.order FOR VALUES IN ('mail');\n"
        "CREATE INDEX by_hand ON shop.visit_default (item);\n"
        "CREATE TABLE shop.visit_old PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z');\n"
        "CREATE INDEX of_maintenance ON shop.visit_old (item);",
    )
    proof = shop.prove()
    assert proof.missing is not None, proof.failure
    visit = "pg:main/shop/visit/partitions/set/member/visit_default"
    assert told(proof.missing.drift) == {f"{SET}/order_mail": {"undeclared"}, visit: {"index by_hand"}}
    said = shop.run("migrate", "verify", code=1).stdout
    assert f"~ {SET}/order_mail is made by the migrations, and not declared\n" in said


def test_an_index_by_names_of_partitions_does_not_pass_where_one_more_lives(
    shop: Shop, pg_database: dict[str, Any]
) -> None:
    specs = document()
    specs["schemas"]["shop"]["tables"]["order"]["indexes"] = {"order_id": {"columns": ["id"]}}
    shop.at(pg_database)
    shop.run("migrate", "up")
    shop.sql("CREATE TABLE shop.order_mail PARTITION OF shop.order FOR VALUES IN ('mail')")
    shop.declare(specs)
    shop.draft("index_orders")
    up = shop.files()["0002_index_orders.up.sql"]
    assert "-- assert-after index_is_valid: SELECT EXISTS (SELECT FROM pg_index i WHERE" in up
    assert shop.prove().holds
    said = shop.run("migrate", "up", code=1).stderr
    assert "assert-after index_is_valid does not hold" in said
    shop.sql("CREATE INDEX order_mail_id ON shop.order_mail (id)")
    shop.sql("ALTER INDEX shop.order_id ATTACH PARTITION shop.order_mail_id")
    assert "applied 1.1.0" in shop.run("migrate", "up").stderr


def test_each_index_and_constraint_that_is_built_part_by_part_is_asked_about_both_ways(shop: Shop) -> None:
    specs = document()
    order: Json = specs["schemas"]["shop"]["tables"]["order"]
    order["indexes"] = {"order_id": {"columns": ["id"]}}
    order["unique"] = {"Order %": {"columns": ["id", "way"]}}
    shop.declare(specs)
    shop.draft("index_orders")
    up = shop.files()["0002_index_orders.up.sql"]
    assert sorted(re.findall(r"assert-after (\w+): .*to_regclass\('(.*)'\)", up)) == [
        ("index_2_is_valid", "shop.order_id"), ("index_is_valid", 'shop."Order %"'),
    ]  # fmt: skip
    order["indexes"] = {}
    shop.declare(specs)
    shop.draft("drop_index")
    assert "-- assert-after index_is_valid: " in shop.files()["0003_drop_index.down.sql"]
    proof = shop.prove()
    assert proof.holds, proof.failure


def test_a_change_of_the_table_leaves_no_partition_behind(shop: Shop) -> None:
    specs = rich(unlogged=False)
    shop.declare(specs)
    shop.draft("make_all")
    for name in ("order", "scan"):
        table: Json = specs["schemas"]["shop"]["tables"][name]
        columns = table["columns"] = {n: dict(c) for n, c in table["columns"].items()}
        columns["note"] |= {"default": "'none'", "storage": "external", "nullable": False}
        del columns["item"]["default"], columns["packed"]["storage"]
        columns["more"] = {"type": "text", "default": "'x'", "nullable": False}
        table |= {"replica_identity": "full", "comment": "Another"}
    shop.declare(specs)
    _, notes = shop.draft("change_all")
    assert notes == []
    for name in ("order", "scan"):
        specs["schemas"]["shop"]["tables"][name]["owner"] = "staff"
    shop.declare(specs)
    _, notes = shop.draft("give_away")
    assert all(note.startswith("no way back is written") for note in notes), "no spec said whose it was"
    proof = shop.prove()
    assert proof.holds, (proof.failure, proof.missing and proof.missing.drift, proof.ways_back)
