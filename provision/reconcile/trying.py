"""Create the NATS objects of a plane on a scratch server, to learn what a real one refuses. Nothing stays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from provision.spec.change import Api
from provision.spec.ident import Address
from provision.spec.record import Plane, Record

#: One server without limits stands in for a cluster: copies and places are compared elsewhere.
_ALONE = {"replicas": 1, "placement": None}
_ROOM = 1 << 50
#: Any instant does: no NATS object depends on it.
_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)


class Refusal(NamedTuple):
    """What the server said of an object; ``help`` is our advice."""

    address: Address
    message: str
    help: str


def refusals(plane: Plane, target: str) -> Iterator[Refusal]:
    """Try every stream, bucket, object store and consumer of a target. Objects that stand on a refused one are left."""
    from provision import registry
    from provision.embedded.nats import Server
    from provision.nats import api, observe
    from provision.nats.apply import execute
    from provision.nats.errors import ApiError
    from provision.plan.assemble import Seen, assemble

    records = {r.address: _alone(r) for r in plane if r.address[:2] == ("nats", target) and not _is_abroad(r)}
    store: dict[str, Any] = {"max_file_store": _ROOM, "max_memory_store": _ROOM, "sync_interval": "1m"}
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-") as folder,
        Server(Path(folder) / "nats", config={"jetstream": store}) as server,
        api.connect(api.settings({}, urls=[server.url])) as session,
    ):
        facts = observe.facts(session, target)
        seen = Seen(Plane([]), frozenset(), {("nats", target): facts})
        steps = assemble(Plane(records.values()), seen, registry.kinds(), _CLOCK).steps
        by_text = {str(a): a for a in records}
        refused: set[str] = set()
        for step in steps:
            if refused.intersection(step.after):
                refused.add(step.id)
                continue
            try:
                assert isinstance(step.request, Api)
                execute(session, step.request)
            except ApiError as error:
                refused.add(step.id)
                yield Refusal(by_text[step.object], error.description, error.help)


def _alone(record: Record) -> Record:
    changed = {k: v for k, v in _ALONE.items() if k in record.settings}
    if record.address.kind == "consumer":
        changed = {"replicas": record.settings["replicas"] and 1}
    return record._replace(settings=record.settings | changed)


def _is_abroad(record: Record) -> bool:
    """Whether the object copies from another account or domain, which a scratch server does not have."""
    origins = [record.settings.get("mirror"), *(record.settings.get("sources") or ())]
    return any(isinstance(o, dict) and o.get("external") for o in origins)
