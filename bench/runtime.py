"""The runtime library beside the least that the same work costs, in one run.

usage: python bench/runtime.py [--rounds N] [--only SCENARIO[,SCENARIO]…] [--disk FOLDER]

Starts its own servers with the whole of specs/, as the library's tests do. Each ratio is the median of interleaved
rounds: the floor is measured in the same round as what is compared with it. Exit code 1 when a bar is missed. A
shared machine disturbs single rounds; judge a ratio, and only on a quiet machine (its load is printed) a time.

hot          put of an owned agent, 1 KiB, by nats-py's KeyValue.put of the same bytes to a bucket of the same
             configuration without a journal; nothing else runs while the floor is measured. Without and with the
             flusher in this process.
read         reads that memory answers
flush        a batch of 50 keys, by one INSERT … SELECT unnest of the same rows
outbox       from COMMIT of another process's transaction to the time that the stream gave its message
lag          from the call of put to the commit in PostgreSQL, with both servers' data on a disk (--disk) and
             sync_interval: always; at 1,000 writes a second, or half of what bare puts reach there
start        import of the package; the first connect, by bare connections with their imports. Each a process.
many         64 agents at once by 64 bare puts in flight; 1,000 keys of an agent read back; 1,000 agents in a process
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import runtime_hot
import runtime_start
from runtime_stage import Plane, Table

#: What each scenario needs: a plane in memory, one on a disk, or none.
SCENARIOS: dict[str, Callable[[Plane, Table, int], Awaitable[None]]] = {
    "start": runtime_start.start,
    "hot": runtime_hot.hot,
    "read": runtime_hot.read,
    "flush": runtime_hot.flush,
    "outbox": runtime_start.outbox,
    "many": runtime_hot.many,
    "lag": runtime_start.lag,
}
