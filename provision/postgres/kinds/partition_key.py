"""How a table is split: strategy and key, as the table itself carries them, because neither changes in place."""

from __future__ import annotations

import re
from collections.abc import Iterable

from provision.postgres import sql
from provision.postgres.catalog import Catalog
from provision.postgres.references import split_list
from provision.postgres.relations import Table, once, partitions, tables
from provision.spec.record import Record, Settings

_MODULUS = re.compile(r"modulus (\d+)", re.IGNORECASE)


def wanted_key(split: Record | None, columns: Iterable[Record]) -> Settings | None:
    """{by, key, modulus, types} of a declared partition set; ``types`` holds None for expressions."""
    if split is None:
        return None
    found = {c.address.name: c.settings["type"] for c in columns}
    s = split.settings
    return {"by": s["by"], "key": s["key"], "modulus": s["modulus"], "types": {k: found.get(k) for k in s["key"]}}


def live_key(catalog: Catalog, table: Table) -> Settings | None:
    """The same of a live table, from pg_get_partkeydef(): ``HASH (agent_id)``."""
    if table.partition_key is None:
        return None
    strategy, _, rest = table.partition_key.partition(" ")
    own = _types(catalog).get(table.oid, {})
    quoted = {sql.quote_ident(name): name for name in own}
    items = split_list(rest[1:-1])
    key = [quoted.get(item, item) for item in items]
    modulus = _modulus(catalog, table) if strategy == "HASH" else None
    return {"by": strategy.lower(), "key": key, "modulus": modulus, "types": {k: own.get(k) for k in key}}


@once
def _types(catalog: Catalog) -> dict[str, dict[str, str]]:
    """The types of the columns of partitioned tables, by oid of the table and name of the column."""
    split: dict[str, dict[str, str]] = {oid: {} for oid, t in tables(catalog).items() if t.is_partitioned}
    for row in catalog.rows("columns"):
        types = split.get(row[0] or "")
        if types is not None:
            types[str(row[2])] = str(row[3])
    return split


def _modulus(catalog: Catalog, table: Table) -> int | None:
    """The modulus of a hash set; the largest where several are mixed, None while it has no partition."""
    found = [_MODULUS.search(p.bound) for p in partitions(catalog).get(table.oid, ())]
    return max((int(m[1]) for m in found if m), default=None)


def partition_by(split: Settings) -> str:
    """``PARTITION BY HASH (agent_id)``."""
    items = [sql.quote_ident(k) if split["types"][k] is not None else k for k in split["key"]]
    return f"PARTITION BY {split['by'].upper()} ({', '.join(items)})"
