"""The runtime library beside the least that the same work costs, in one run.

usage: python bench/runtime.py [--rounds N] [--only SCENARIO]… [--disk FOLDER]

Starts its own servers with the whole of specs/, as the library's tests do. A ratio is the median over interleaved
rounds: its floor is measured in the same round. Exit code 1 when a bar is missed. Other work on the machine disturbs
times more than ratios; the load is printed at both ends.

start   import of the package; the first connect() less bare connections with their imports; a process for each
hot     put of an owned agent, 1 KiB, by nats-py's put of the same bytes to a bucket of the same configuration that
        no journal follows and nobody flushes; with the flusher in another process (none runs), and in this one
read    what memory answers
flush   a batch of 50 new keys, by one INSERT … SELECT unnest of as many new rows
outbox  from the COMMIT of a bare connection to the time at which the stream has the message
many    64 agents at once by 64 bare puts in flight; 1,000 keys read back; 1,000 agents open in one process
lag     from the bucket's acknowledgement of each write to its commit in PostgreSQL, with all data on a disk (--disk)
        and sync_interval: always; at 1,000 writes a second, and where bare puts stay below 2,000 a second there, at
        half of what they reach. The journal is synced too, so a slow disk may not take even those.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

import hotset
import latency
from realplane import Plane, Table
from stage import workplace

SCENARIOS = {
    "start": latency.start,
    "hot": hotset.hot,
    "read": hotset.read,
    "flush": hotset.flush,
    "outbox": latency.outbox,
    "many": hotset.many,
}


def _load() -> str:
    one, five, _ = os.getloadavg()
    return f"{one:.1f} {five:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, "lag"], default=[])
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk, for lag")
    options = parser.parse_args()
    wanted = options.only or [*SCENARIOS, "lag"]
    table = Table()
    table.note("load of the machine, 1 and 5 minutes", _load())
    if set(wanted) & set(SCENARIOS):
        with workplace() as folder, Plane(folder / "plane") as plane:
            for name, scenario in SCENARIOS.items():
                if name in wanted:
                    asyncio.run(scenario(plane, table, options.rounds))
    if "lag" in wanted:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.disk) as name:
            Path(name).chmod(0o711)
            with Plane(Path(name) / "plane") as plane:
                asyncio.run(latency.lag(plane, table, options.rounds))
    table.note("load of the machine, 1 and 5 minutes", _load())
    if table.missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
