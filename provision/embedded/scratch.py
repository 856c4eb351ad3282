"""A local PostgreSQL server to try statements in, for targets that offer no scratch database. Kept between runs, since
making a cluster takes seconds; used by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.embedded.account import for_servers, shelter
from provision.embedded.postgres import Server

#: A plane of thousands of tables is built in one transaction.
_LOCKS = 4096


@contextmanager
def scratch(cache: Path, major: int) -> Iterator[Server]:
    """Run the server of a cache folder while the context lasts. Waits for another process that uses it."""
    home = _home(cache, major)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Server(home, major=major, fsync=False, settings={"max_locks_per_transaction": _LOCKS}) as server:
            yield server


def _home(cache: Path, major: int) -> Path:
    """In the cache folder, or in the shelter when root's PostgreSQL account cannot pass into it."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = cache / f"scratch-{major}"
    if for_servers(home).can_enter(cache):
        return home
    digest = hashlib.sha256(os.fsencode(cache.absolute())).hexdigest()[:16]
    return shelter("scratch") / f"{digest}-{major}"
