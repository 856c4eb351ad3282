"""Every kind of index that performance needs can be said in specs, and comes to be as it was said."""

from __future__ import annotations

import pytest

from tests.live.conftest import Plane

INDEXES = {
    "item_composite": "{columns: [owner_id, {column: at, order: desc}]}",
    "item_covering": "{columns: [owner_id], include: [price]}",
    "item_partial": "{columns: [at], where: price > 100}",
    "item_expression": "{columns: ['(price * 2)']}",
    "item_gin": "{columns: [tags], method: gin}",
    "item_path_ops": "{columns: [{column: tags, opclass: jsonb_path_ops}], method: gin}",
    "item_brin": "{columns: [at], method: brin, storage: {pages_per_range: 32}}",
    "item_hash": "{columns: [owner_id], method: hash}",
    "item_unique": "{columns: [owner_id, at], unique: true, nulls_not_distinct: true}",
}
TABLE = "app.item USING "
SAID = {
    "item_composite": "btree (owner_id, at DESC)",
    "item_covering": "btree (owner_id) INCLUDE (price)",
    "item_partial": "btree (at) WHERE (price > (100)::numeric)",
    "item_expression": "btree (((price * (2)::numeric)))",
    "item_gin": "gin (tags)",
    "item_path_ops": "gin (tags jsonb_path_ops)",
    "item_brin": "brin (at) WITH (pages_per_range='32')",
    "item_hash": "hash (owner_id)",
    "item_unique": "btree (owner_id, at) NULLS NOT DISTINCT",
}


@pytest.mark.req("J1.4")
def test_covering_partial_expression_gin_and_composite_indexes_come_to_be(applied: Plane) -> None:
    """Added to a table that lives already, one by one where PostgreSQL wants that, and then nothing is left to do."""
    applied.edit("          price:", "          tags: {type: jsonb}\n          price:")
    said = "".join(f"          {name}: {text}\n" for name, text in INDEXES.items())
    applied.edit(
        "        indexes: {item_at: {columns: [at], where: price > 0}}\n",
        f"        indexes:\n          item_at: {{columns: [at], where: price > 0}}\n{said}",
    )
    applied.run("apply", "--yes")
    rows = applied.sql("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'app' AND tablename = 'item'")
    found = {str(name): str(text).partition(TABLE)[2] for name, text in rows}
    assert {name: found[name] for name in SAID} == SAID
    assert applied.plan()["steps"] == []
