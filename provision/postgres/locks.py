"""Session advisory locks: taken with patience, given back while the session lives, and who holds one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.postgres.errors import Refusal, Unreachable, translate

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: The server needs a moment to notice that a killed client, and its lock with it, is gone.
PATIENCE_S = 1.0
_HOLDER = """
    SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''),
           to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS')
      FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.classid::bigint = {high} AND l.objid::bigint = {low}"""


class Holder(NamedTuple):
    """The session that holds a lock. What we may not see of it is empty."""

    pid: int
    application: str
    user: str
    since: str

    def __str__(self) -> str:
        user = f"{self.user}, " if self.user else ""
        since = f", connected since {self.since} UTC" if self.since else ""
        return f"{self.application or 'a session'} ({user}pid {self.pid}){since}"


def key_of(*words: str) -> int:
    """The 64-bit key that some words name."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big", signed=True)


def holder(connection: Connection, key: int) -> Holder | None:
    """Who holds the lock of this database; None where nobody does."""
    unsigned = key & 0xFFFF_FFFF_FFFF_FFFF
    rows = parse_copy(_one(connection, _HOLDER.format(high=unsigned >> 32, low=unsigned & 0xFFFF_FFFF)))
    if not rows:
        return None
    pid, application, user, since = rows[0]
    return Holder(int(str(pid)), str(application), str(user), str(since or ""))


@contextmanager
def hold(
    connection: Connection, key: int, refuse: Callable[[Holder | None], Exception], *, patience_s: float = PATIENCE_S
) -> Iterator[None]:
    """Hold a lock. It ends with the session, so no crash leaves it behind. Raises what ``refuse`` gives."""
    deadline = time.monotonic() + patience_s
    while _one(connection, f"SELECT pg_try_advisory_lock({key})").strip() != b"t":
        if time.monotonic() > deadline:
            raise refuse(holder(connection, key))
        time.sleep(0.05)
    try:
        yield
    finally:
        if is_idle(connection):
            with suppress(Unreachable):  # a session that broke has lost its lock already
                wire.send(connection, [f"SELECT pg_advisory_unlock({key})"])


def is_idle(connection: Connection) -> bool:
    """Whether the session lives and is in no transaction."""
    from psycopg.pq import TransactionStatus

    return connection.pgconn.transaction_status == TransactionStatus.IDLE


def _one(connection: Connection, query: str) -> bytes:
    try:
        (output,) = wire.run(connection, f"COPY ({query}) TO STDOUT")
    except Refusal as refusal:
        raise translate(refusal, role=connection.info.user) from refusal
    return output
