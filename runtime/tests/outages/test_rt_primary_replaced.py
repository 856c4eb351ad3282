"""The primary is killed and its standby promoted under everything that a plane does; the old one comes back."""

from __future__ import annotations

import asyncio
import re
import sys
import time

import pytest
from outages.bed import Bed, bed
from outages.loads import Load, loaded

import holdfast

#: What the load writes, by number of rows and by the newest transaction that wrote one.
_WRITTEN = """
SELECT (SELECT (count(*), max(xmin::text::bigint)) FROM agents.state)::text,
       (SELECT (count(*), max(xmin::text::bigint)) FROM tasks.queue)::text,
       (SELECT (count(*), max(xmin::text::bigint)) FROM runtime.outbox)::text,
       (SELECT (count(*), max(xmin::text::bigint)) FROM runtime.inbox)::text,
       (SELECT (count(*), max(xmin::text::bigint)) FROM runtime.sagas)::text,
       (SELECT (count(*), max(xmin::text::bigint)) FROM runtime.decisions)::text"""


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.req("D8.6", "D1.5", "D6.6", "D13.4", "E1.4")
def test_a_promoted_standby_takes_over_from_a_killed_primary_which_is_fenced_when_it_returns() -> None:
    async def main(place: Bed) -> None:
        async with loaded(place) as load:
            async with load.running():
                await asyncio.sleep(4)
                before = dict(load.ledger.acknowledged)
                await asyncio.to_thread(place.first.kill)
                killed = time.monotonic()
                await asyncio.to_thread(place.promote)
                promoted = time.monotonic()
                went_on = await _next_event(load)
                await asyncio.sleep(3)
                await asyncio.to_thread(_come_back, place)
                old = place.first.query(_WRITTEN, "mister_smith")
                during = dict(load.ledger.acknowledged)
                await asyncio.sleep(6)
                after = dict(load.ledger.acknowledged)
            took = await load.settle()
            found = await load.check()
        # The old primary takes writes and is no standby; nobody gave it any.
        assert place.first.query("SELECT pg_is_in_recovery()") == [["f"]]
        assert place.first.query(_WRITTEN, "mister_smith") == old
        assert all(after[what] > during[what] + 10 for what in after)
        async with holdfast.connect(place.environ) as later, later.agent(load.agents[0], wait_s=10) as agent:
            await agent.put("later", 1, ack="sql")
        assert place.second.query("SELECT count(*) FROM agents.state WHERE state_key = 'later'", "mister_smith") == [
            ["1"]
        ]
        assert place.first.query(_WRITTEN, "mister_smith") == old
        figures = {"promotion, s": promoted - killed, "events after it, s": went_on - promoted, "settled, s": took}
        told = {name: round(value, 2) for name, value in figures.items()}
        sys.stdout.write(f"acknowledged before the kill {before}, with the old primary back {after}\n{told}\n{found}\n")

    with bed(runtime={"lease_ttl": "5s"}) as place:
        place.add_standby()
        asyncio.run(main(place))


async def _next_event(load: Load) -> float:
    known, deadline = load.ledger.acknowledged["events"], time.monotonic() + 30
    while load.ledger.acknowledged["events"] <= known + 1:
        assert time.monotonic() < deadline, "no transaction gets through after the promotion"
        await asyncio.sleep(0.01)
    return time.monotonic()


def _come_back(place: Bed) -> None:
    """The old primary, as it was, but waiting for no standby: it would take what it is given."""
    settings = place.first.data_dir / "postgresql.auto.conf"
    settings.write_text(re.sub(r"(?m)^synchronous_standby_names.*$", "", settings.read_text()))
    place.first.start()
