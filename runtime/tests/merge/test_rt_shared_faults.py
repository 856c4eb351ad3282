"""Writers who share a key while the server is killed under them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from holdfast.errors import HoldfastError
from holdfast.kv.bucket import Bucket
from holdfast.merge.crdt import Document
from holdfast.merge.shared import SharedBucket
from holdfast.merge.strategies import Resolver, Strategy

Open = Callable[[], Any]


@pytest.mark.req("D3.3", "D3.5")
@pytest.mark.parametrize("strategy", [Strategy.CRDT_MERGE, Strategy.VECTOR_CLOCK], ids=lambda each: each.value)
def test_no_acknowledged_update_is_lost_when_the_server_is_killed(
    servers: Any, open_bucket: Open, strategy: Strategy
) -> None:
    async def main() -> None:
        key, stop = f"shared.{uuid4().hex}", asyncio.Event()
        acknowledged = unknown = 0

        async def write(bucket: Bucket, slot: str) -> None:
            nonlocal acknowledged, unknown
            shared = SharedBucket(bucket, Resolver(strategy), actor=slot)
            while not stop.is_set():
                try:
                    if strategy is Strategy.CRDT_MERGE:
                        await shared.update_document(key, lambda held: held.increment(slot), Document("g-counter"))
                    else:
                        await shared.update(key, lambda held: (held or 0) + 1)
                except HoldfastError:
                    unknown += 1
                else:
                    acknowledged += 1
                await asyncio.sleep(0.003)

        async with open_bucket() as one, open_bucket() as two, open_bucket() as reader:
            writers = [asyncio.ensure_future(write(bucket, f"slot-{n}")) for n, bucket in enumerate([one, two, one])]
            try:
                for _ in range(2):
                    await asyncio.sleep(0.4)
                    await asyncio.to_thread(servers.kill, "nats")
                    await asyncio.to_thread(servers.start)
                await asyncio.sleep(0.4)
            finally:
                stop.set()
                await asyncio.gather(*writers)
            entry = await SharedBucket(reader, Resolver(strategy), actor="reader").get(key)
        assert entry is not None
        held = Document.from_json(entry.value).value() if strategy is Strategy.CRDT_MERGE else entry.value
        assert acknowledged > 50
        assert acknowledged <= held <= acknowledged + unknown
        assert not entry.siblings

    asyncio.run(main())
