"""A local PostgreSQL server to try statements in, for targets that offer no scratch database. Kept between runs, since
making a cluster takes seconds; used by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
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
        settings = {"max_locks_per_transaction": _LOCKS}
        with Server(home, major=major, fsync=False, settings=settings, password=_password(home)) as server:
            yield server


def _password(home: Path) -> str:
    """Kept beside the server, for us alone: with a new one it would have to start twice each time."""
    place = home.with_name(f"{home.name}.password")
    if place.exists() and (found := place.read_text()):
        return found
    made = secrets.token_urlsafe(24)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(made)
    return made


def _home(cache: Path, major: int) -> Path:
    """In the cache folder, or in the shelter when root's PostgreSQL account cannot pass into it."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = cache / f"scratch-{major}"
    if for_servers(home).can_enter(cache):
        return home
    digest = hashlib.sha256(os.fsencode(cache.absolute())).hexdigest()[:16]
    return shelter("scratch") / f"{digest}-{major}"
