"""A bucket of the plane for writers who share it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest


@pytest.fixture
def open_bucket(environ: Mapping[str, str], contract_text: str) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """A function that opens the bucket of configuration for one event loop."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        from nats.aio.client import Client

        from holdfast.contract import Contract
        from holdfast.kv.bucket import Bucket

        contract = Contract.parse(contract_text)
        client = Client()
        await client.connect(
            environ["NATS_SERVERS"],
            connect_timeout=5,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # it is only handed to sleep
            error_cb=_quiet,
        )
        try:
            yield await Bucket.open(client, contract.bucket(contract.names.config_bucket))
        finally:
            await client.close()

    return opened


async def _quiet(error: Exception) -> None:
    """Servers are killed here: what the client says of it is no news."""
