"""A process that relays, and ends without a word at a place that the test drew: python relaying.py PLACE TIMES."""

from __future__ import annotations

import asyncio
import os
import sys


async def main(place: str, times: int) -> None:
    from nats.aio.client import Client

    from holdfast import points
    from holdfast.contract import fetch_contract
    from holdfast.events.relay import Relay
    from holdfast.settings import Settings
    from holdfast.sql.pools import Pools

    left = times

    def hook(name: str) -> None:
        nonlocal left
        left -= name == place
        if left == 0:
            os._exit(77)

    points.set_hook(hook)
    client = Client()
    await client.connect(os.environ["NATS_SERVERS"])
    contract = await fetch_contract(client, os.environ["HOLDFAST_PLANE"], os.environ["HOLDFAST_ENV"])
    pools = await Pools.open(contract, Settings.from_environment())
    relay = Relay(pools, client, contract, batch=20)
    while await relay.step():
        pass
    os._exit(0)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
