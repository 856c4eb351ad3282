"""A plane opened for events: contract, pools, a NATS client, and what the streams hold."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Plane:
    contract: Any
    pools: Any
    client: Any

    async def execute(self, statement: str, values: Any = None) -> list[Any]:
        async with self.pools.background.connection() as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def messages(self, subject: str) -> list[Any]:
        """What the stream of a subject (wildcards allowed) holds of it, in order: (id, JSON)."""
        jetstream = self.client.jetstream()
        stream = await jetstream.find_stream_name_by_subject(subject)
        found: list[Any] = []
        sequence = 1
        while True:
            request = json.dumps({"seq": sequence, "next_by_subj": subject}).encode()
            answer = json.loads((await self.client.request(f"$JS.API.STREAM.MSG.GET.{stream}", request)).data)
            if "error" in answer:
                return found
            message = await jetstream.get_msg(stream, answer["message"]["seq"])
            found.append(((message.headers or {}).get("Nats-Msg-Id"), json.loads(message.data)))
            sequence = answer["message"]["seq"] + 1


Open = Callable[[], AbstractAsyncContextManager[Plane]]


@pytest.fixture
def open_plane(servers: Any, contract_text: str) -> Open:
    """A function that opens the plane; tests of this folder begin with an empty outbox."""
    import psycopg

    with psycopg.connect(**servers.admin, autocommit=True) as connection:
        connection.execute("TRUNCATE runtime.outbox, runtime.inbox")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Plane]:
        from nats.aio.client import Client

        from holdfast.contract import Contract
        from holdfast.settings import Settings
        from holdfast.sql.pools import Pools

        contract = Contract.parse(contract_text)
        client = Client()
        await client.connect(
            servers.nats_url,
            connect_timeout=5,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            error_cb=_quiet,
        )
        try:
            async with await Pools.open(contract, Settings.from_environment(servers.environ)) as pools:
                yield Plane(contract, pools, client)
        finally:
            await client.close()

    return opened


async def _quiet(error: Exception) -> None:
    """Servers are killed here: what the client says of it is no news."""
