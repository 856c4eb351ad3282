"""Write the files that follow from the specs: PgBouncer's, for the pools that ask for it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from provision.pools import pgbouncer
from provision.pools.pgbouncer import Endpoint, Listen
from provision.reconcile.targets import Note, Targets
from provision.spec.record import Plane, Record
from provision.spec.target import version_tuple

#: PgBouncer's version where the target says nothing.
_NEWEST = (1, 24)


def write_pgbouncer(plane: Plane, targets: Targets, note: Note) -> Iterator[Path]:
    """Write pgbouncer.ini and userlist.txt for each Postgres target with pooled pools; gives the paths written.

    The user list holds SCRAM verifiers, so only its owner may read it. Files that are up to date are left alone.
    """
    pooled: dict[str, list[Record]] = defaultdict(list)
    for pool in plane.of_kind("pool"):
        if pool.settings["pgbouncer"]:
            pooled[pool.address.target].append(pool)
    for target, pools in pooled.items():
        settings = targets.targets["pg", target].settings
        folder = targets.root / ".holdfast" / targets.env / "pgbouncer" / target
        endpoints = {p.address: _endpoint(p, targets, target) for p in pools}
        version = version_tuple(settings.get("pgbouncer_version")) or _NEWEST
        rendered = pgbouncer.render(pools, endpoints, version, Listen(auth_file=str(folder / "userlist.txt")))
        for line in rendered.notes:
            note(line)
        users = pgbouncer.fill(rendered.userlist, *_known(pools, targets, target))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield from _write(folder / "pgbouncer.ini", rendered.ini)
        yield from _write(folder / "userlist.txt", users)


def _endpoint(pool: Record, targets: Targets, target: str) -> Endpoint:
    found = targets.postgres_settings(target, pool.settings["endpoint"])
    return Endpoint(found.host, found.port, found.database)


def _known(pools: list[Record], targets: Targets, target: str) -> tuple[list[str], Callable[[str], str]]:
    """The roles of the pools, and what the server knows each by."""
    roles = [p.settings["role"] for p in pools]
    verifiers = targets.verifiers(target, roles)
    return [r for r in roles if r in verifiers], verifiers.__getitem__


def _write(path: Path, text: str) -> Iterator[Path]:
    if path.exists() and path.read_text() == text:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    yield path
