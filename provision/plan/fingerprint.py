"""The fingerprint of live configuration that makes a stale plan recognisable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from provision.plan.lower import Work
from provision.spec.ident import Address
from provision.spec.record import Plane


def touched(works: Iterable[Work], was: Mapping[Address, Address]) -> tuple[str, ...]:
    """The addresses whose live configuration a plan relies on: what its steps change and what that references.

    ``was`` gives the present address of what a rename moves.
    """
    found: set[str] = set()
    for work in works:
        d = work.draft
        for address in (d.object, *d.makes, *d.destroys, *d.needs, *d.releases, *work.made, *work.gone):
            found |= {str(address), str(was.get(address, address))}
    return tuple(sorted(found))


def fingerprint(addresses: Iterable[str], live: Plane) -> str:
    """Hash the live settings of the addresses, absent ones included. Counters never stand in settings."""
    wanted = set(addresses)
    settings = {text: r.settings for r in live if (text := str(r.address)) in wanted}
    body = json.dumps([[a, settings.get(a)] for a in sorted(wanted)], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(body.encode()).hexdigest()
