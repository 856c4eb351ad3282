"""How large NATS servers must be for the streams of a plane, and whether the streams find a place on them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from provision.kubernetes.objects import options
from provision.nats.kinds import bucket, object_store, stream
from provision.spec.record import Plane, Record
from provision.spec.target import Target

Storage = Literal["file", "memory"]
_KINDS = {kind.name: kind for kind in (stream.KIND, bucket.KIND, object_store.KIND)}

MIB, GIB = 2**20, 2**30
#: Numbers of servers that form a cluster worth having: a majority of four is no smaller than one of five.
SERVERS = (1, 3, 5)
#: What our own bucket reserves on each server that holds it.
OWN_BUCKET = 64 * MIB
#: The server's ``max_pending`` default, which bounds ``max_payload`` (nats-server, server/const.go).
LARGEST_PAYLOAD = 64 * MIB
_USUAL_PAYLOAD = MIB
#: Room for streams without max_bytes and for what clients make at run time.
_SPARE = {"file": GIB, "memory": 256 * MIB}
#: What the server itself needs beside its memory storage: the least, and what leaves room for clients.
_LEAST_OWN, _USUAL_OWN = 256 * MIB, 2 * GIB
_USUAL_MEMORY = 4 * GIB


class Demand(NamedTuple):
    """What a stream, bucket or object store reserves on each of ``replicas`` servers; ``max_bytes`` 0 is unbounded."""

    record: Record
    storage: Storage
    max_bytes: int
    max_msg_size: int
    replicas: int
    tags: frozenset[str]


class Sizes(NamedTuple):
    """One NATS server of a target: JetStream's limits, the volume, the container's memory, in bytes."""

    max_file_store: int
    max_memory_store: int
    max_payload: int
    storage: int
    memory: int


def demands(plane: Plane, target: Target) -> list[Demand]:
    """Give what the streams, buckets and object stores of a target ask for, in declaration order."""
    records = plane.of_kind(*_KINDS)
    return [_demand(r) for r in records if r.address.target == target.name]


def _demand(record: Record) -> Demand:
    settings = _KINDS[record.address.kind].as_stream(record.address.name, record.settings)
    # Tags are compared without regard to case (server/jetstream_cluster.go, selectPeerGroup).
    tags = frozenset(tag.lower() for tag in (settings["placement"] or {}).get("tags") or ())
    reserved, message = max(settings["max_bytes"], 0), max(settings["max_msg_size"], 0)
    return Demand(record, settings["storage"], reserved, message, settings["replicas"], tags)


def server_tags(target: Target) -> list[list[str]]:
    """Give the tags of each server of a target, by ordinal."""
    tags = target.settings["tags"] or []
    servers = target.settings["servers"] or 1
    if any(isinstance(tag, list) for tag in tags):
        return [*tags[:servers], *([] for _ in range(servers - len(tags)))]
    return [list(tags) for _ in range(servers)]


def landing(demand: Demand, tags: Sequence[Sequence[str]]) -> list[int]:
    """Give the ordinals of the servers that a stream may lie on. A lone server takes everything."""
    if len(tags) == 1:
        return [0]
    return [i for i, own in enumerate(tags) if demand.tags <= {tag.lower() for tag in own}]


def nats(plane: Plane, target: Target) -> Sizes:
    """Size each server of a target, as declared, else as its streams need.

    Every server is large enough for all that may lie on it: streams move there when other servers are lost.
    """
    given, settings = options(target), target.settings
    asked = demands(plane, target)
    file = max(settings["max_file_store"] or 0, 0) or store_need(asked, target, "file")
    memory_store = max(settings["max_memory_store"] or 0, 0) or store_need(asked, target, "memory")
    largest = max((d.max_msg_size for d in asked), default=0)
    return Sizes(
        max_file_store=file,
        max_memory_store=memory_store,
        max_payload=max(settings["max_payload"] or 0, 0) or _up(max(largest, _USUAL_PAYLOAD), MIB),
        storage=given["storage"] or volume_for(file),
        memory=given["memory"] or max(_USUAL_MEMORY, _up(memory_store + _USUAL_OWN, GIB)),
    )


def store_need(asked: Iterable[Demand], target: Target, storage: Storage) -> int:
    """Give the storage that one server needs for all that may lie on it, and some to spare."""
    tags = server_tags(target)
    loads = [0] * len(tags)
    for demand in asked:
        for ordinal in landing(demand, tags) if demand.storage == storage else ():
            loads[ordinal] += demand.max_bytes
    own = OWN_BUCKET if storage == "file" else 0
    return _up(max(loads) + own + _SPARE[storage], GIB if storage == "file" else 256 * MIB)


def volume_for(max_file_store: int) -> int:
    """Give the volume for a file store: a quarter more, since Raft's logs and deleted blocks are not counted in it."""
    return _up(max_file_store * 5 // 4, GIB)


def memory_for(max_memory_store: int) -> int:
    """Give the least memory of a container whose server may hold that much in memory storage."""
    return max_memory_store + _LEAST_OWN


class Misfit(NamedTuple):
    """A stream for which ``wanted`` servers have no room left: ``fitting`` have."""

    demand: Demand
    wanted: int
    fitting: int


def misfits(asked: Iterable[Demand], target: Target, storage: Storage, store: int) -> list[Misfit]:
    """Place streams, the largest first, on the servers with most room, as JetStream does; give those left over."""
    tags = server_tags(target)
    free = [store - (OWN_BUCKET if storage == "file" else 0)] * len(tags)
    found = []
    for demand in sorted((d for d in asked if d.storage == storage), key=lambda d: (-d.max_bytes, -d.replicas)):
        places, wanted = landing(demand, tags), min(demand.replicas, len(tags))
        roomy = sorted((i for i in places if free[i] >= demand.max_bytes), key=lambda i: -free[i])
        if len(roomy) >= wanted:
            for ordinal in roomy[:wanted]:
                free[ordinal] -= demand.max_bytes
        elif len(places) >= wanted:
            found.append(Misfit(demand, wanted, len(roomy)))
    return found


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
