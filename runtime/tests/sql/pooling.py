"""Pools of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg

from holdfast.contract import Contract, PoolSpec
from holdfast.settings import Settings
from holdfast.sql.pools import Pools

#: No watch in the background: what happens, the test does.
NEVER_S = 3600.0


def changed(contract: Contract, pool: str, **fields: Any) -> Contract:
    """The contract with one pool declared otherwise."""
    spec: PoolSpec = replace(contract.pools[pool], **fields)
    return replace(contract, pools={**contract.pools, pool: spec})


@asynccontextmanager
async def pools_of(contract: Contract, settings: Settings, *, interval_s: float = NEVER_S) -> AsyncIterator[Pools]:
    """Open pools, closed at the end."""
    pools = await Pools.open(contract, settings, interval_s=interval_s)
    try:
        yield pools
    finally:
        await pools.close()


async def value(connection: psycopg.AsyncConnection[Any], query: Any, *arguments: Any) -> Any:
    """The first value that a query gives."""
    row = await (await connection.execute(query, arguments)).fetchone()
    assert row is not None
    return row[0]
