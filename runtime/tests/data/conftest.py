"""A plane opened for repositories, caches and stores: contract, pools, a NATS client, buckets by their roles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Plane:
    contract: Any
    pools: Any
    client: Any

    async def bucket(self, role: str) -> Any:
        """The bucket that the plane uses as ``state``, ``session``, ``config`` or ``cache``, opened anew."""
        from holdfast.kv.bucket import Bucket

        name = getattr(self.contract.names, f"{role}_bucket")
        return await Bucket.open(self.client, self.contract.bucket(name))

    async def make_cache_bucket(self) -> None:
        """Make the bucket of query results if it is gone, as apply would: it is in memory and ends with its server."""
        from nats.js.api import StorageType, StreamConfig
        from nats.js.errors import NotFoundError

        name, jetstream = self.contract.names.cache_bucket, self.client.jetstream()
        try:
            await jetstream.stream_info(f"KV_{name}")
        except NotFoundError:
            await jetstream.add_stream(
                StreamConfig(
                    name=f"KV_{name}",
                    subjects=[f"$KV.{name}.>"],
                    storage=StorageType.MEMORY,
                    max_msgs_per_subject=1,
                    max_age=300,
                    allow_rollup_hdrs=True,
                )
            )

    async def execute(self, statement: str, values: Any = None) -> list[Any]:
        async with self.pools.primary.connection() as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []


Open = Callable[[], AbstractAsyncContextManager[Plane]]


@pytest.fixture
def open_plane(environ: Mapping[str, str], contract_text: str) -> Open:
    """A function that opens the plane for one event loop."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Plane]:
        from nats.aio.client import Client

        from holdfast.contract import Contract
        from holdfast.settings import Settings
        from holdfast.sql.pools import Pools

        contract = Contract.parse(contract_text)
        client = Client()
        await client.connect(
            environ["NATS_SERVERS"],
            connect_timeout=5,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # it is only handed to sleep
            error_cb=_quiet,
        )
        pools = await Pools.open(contract, Settings.from_environment(environ))
        plane = Plane(contract, pools, client)
        try:
            await plane.make_cache_bucket()
            yield plane
        finally:
            await pools.close()
            await client.close()

    return opened


async def _quiet(error: Exception) -> None:
    """Connections are cut here: what the client says of it is no news."""
