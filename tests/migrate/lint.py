"""Migrations written as one text, through the real reader and the real rules."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from provision.migrate.files import Migration, read
from provision.migrate.lint import lint
from provision.spec.diagnostic import Diagnostic
from provision.spec.record import Plane
from tests.checks.specs import load

_FILE = re.compile(r"^-- (\d{4}_\w+\.(?:up|down)\.sql)$", re.MULTILINE)
#: Of the way back; most examples show only the way there.
ABOUT_DOWN = {"HF0863", "HF0864"}
SPEC = """
plane: example
schemas:
  shop:
    managed: migrations
    domains:
      amount: {type: integer, checks: {positive: VALUE > 0}}
      label: {type: text}
    enums: {order_status: [open, paid]}
    tables:
      item:
        columns:
          sku: {type: text, nullable: false}
          colour: {type: text}
          label: {type: varchar(20)}
          stock: {type: integer}
          maker: {type: bigint}
        primary_key: [sku]
        foreign_keys: {item_maker_fkey: {columns: [maker], references: shop.maker}}
        checks: {item_known: length(sku) > 0}
        indexes: {item_colour: {columns: [colour]}}
      maker: {columns: {id: {type: bigint, nullable: false}}, primary_key: [id]}
      crate:
        columns: {code: {type: text}, label: {type: varchar(10)}, at: {type: timestamptz}}
        unique: {crate_code_key: [code]}
      sale:
        columns: {at: {type: timestamptz, nullable: false}, item: {type: text}, amount: {type: integer}}
        partitions: {by: range, key: [at], every: 1 month, premake: 2}
        indexes: {sale_amount: {columns: [amount]}}
      visit:
        columns: {day: {type: date, nullable: false}}
        partitions: {by: range, key: [day], every: 1 month, premake: 2, default: true}
    views: {shelf: {query: "SELECT sku, label FROM shop.item"}}
  agents:
    tables:
      state: {columns: {id: {type: bigint, nullable: false}, note: {type: text}}, primary_key: [id]}
      queue:
        columns: {kind: {type: text, nullable: false}}
        partitions: {by: list, key: [kind], values: {post: [post, mail]}}
      log:
        columns: {at: {type: timestamptz, nullable: false}}
        partitions: {by: range, key: [at], every: 1 month, premake: 2}
roles: {clerk: {}}
extensions: {vector: {}}
"""


@cache
def plane() -> Plane:
    """What the specs of the examples desire: they own ``agents``, migrations own ``shop``."""
    with TemporaryDirectory() as folder:
        loaded = load(Path(folder), SPEC)
    assert loaded.said == ()
    return loaded.plane


def migrations(folder: Path, text: str) -> tuple[Migration, ...]:
    """Write the files that a text holds, one after each ``-- NNNN_name.up.sql``, and read them."""
    first, *rest = _FILE.split(text)
    chunks = list(zip(rest[::2], rest[1::2], strict=True))
    if first.strip():
        chunks.insert(0, ("0001_begin_it.up.sql", first))
    folder.mkdir()
    for name, sql in chunks:
        (folder / name).write_text(f"-- version: 1.0.{int(name[:4])}\n{sql.lstrip()}", encoding="utf-8")
    found, said = read(folder)
    assert said == ()
    return found


def judged(folder: Path, text: str, desired: Plane | None = None) -> list[Diagnostic]:
    """All that lint says of a text."""
    return list(lint(migrations(folder / "migrations", text), desired))
