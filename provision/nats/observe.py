"""Read everything a NATS target holds: paged lists in bulk, then records. Reading and decoding are apart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from provision.nats.api import Json, Link, Session, pages, pipelined
from provision.nats.errors import Unreachable
from provision.nats.kinds import bucket, consumer, object_store, stream
from provision.nats.kinds.backing import BackedKind
from provision.nats.kinds.fields import PLANE_METADATA, SERVER_METADATA
from provision.spec.ident import Address
from provision.spec.record import Facts, Record

#: The bucket of contracts, ledgers and locks; never an object of a plane.
OWN_STREAM = "KV_HOLDFAST"
_KINDS: tuple[tuple[str, BackedKind], ...] = (
    (bucket.PREFIX, bucket.KIND),
    (object_store.PREFIX, object_store.KIND),
    ("", stream.KIND),
)


@dataclass(frozen=True)
class Raw:
    """What one target answered: configurations without counters, timestamps and cluster state.

    ``streams`` maps a stream's name to its configuration, ``consumers`` maps (stream, consumer) to theirs.
    Ephemeral consumers belong to clients and are left out.
    """

    server: Json
    account: Json
    streams: dict[str, Json]
    consumers: dict[tuple[str, str], Json]

    @cached_property
    def digest(self) -> bytes:
        """Equal for equal configurations on equal servers: then decoding may be skipped."""
        server = [self.server.get(key) for key in ("version", "max_payload", "cluster")]
        facts = [server, self.account.get("limits"), self.account.get("tiers")]
        streams = sorted(self.streams.items())
        consumers = sorted(self.consumers.items())
        text = json.dumps([facts, streams, consumers], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=20).digest()


class Observation(NamedTuple):
    """A target as records. ``unmodelled`` lists (address, option, value) that no field table knows.

    ``foreign`` maps an address to the plane that created it, where that is another one than ours;
    ``unmarked`` are the objects that name no plane.
    ``facts.options["unmodelled"]`` holds the same values for ``lower``, which sends them back unchanged.
    """

    records: list[Record]
    facts: Facts
    unmodelled: list[tuple[Address, str, Any]]
    foreign: dict[Address, str]
    unmarked: frozenset[Address]
    raw_digest: bytes

    def knowing(self, hosts: Mapping[str, Any]) -> Observation:
        """The same with further facts, those that ``servers.measured`` gives."""
        text = json.dumps(hosts, sort_keys=True)
        digest = hashlib.blake2b(self.raw_digest + text.encode(), digest_size=20).digest()
        return self._replace(facts=self.facts._replace(options={**self.facts.options, **hosts}), raw_digest=digest)


def observe(session: Session, target: str, *, plane: str = "") -> Observation:
    """Read and decode a target. Raises a NatsError."""
    return decode(read(session), target, plane=plane)


def read(session: Session) -> Raw:
    """Ask the server: a fixed number of pages, and one list of consumers for each stream that has some."""
    return session.run(_read(session.link))


def facts(session: Session, target: str) -> Facts:
    """Measure the server's version and limits without reading any object."""

    async def ask() -> Facts:
        return measured(link.info, await link.request("$JS.API.INFO"), target)

    link = session.link
    return session.run(ask())


async def _read(link: Link) -> Raw:
    account, streams = await link.request("$JS.API.INFO"), await _streams(link)
    with_consumers = [s["config"]["name"] for s in streams if s["state"].get("consumer_count")]
    lists = await pipelined(
        [partial(pages, link, f"$JS.API.CONSUMER.LIST.{name}", "consumers") for name in with_consumers],
        link.in_flight,
    )
    return Raw(
        server=link.info,
        account=account,
        streams={s["config"]["name"]: s["config"] for s in streams if s["config"]["name"] != OWN_STREAM},
        consumers={
            (name, c["name"]): c["config"]
            for name, (found, _) in zip(with_consumers, lists, strict=True)
            for c in found
            if c["config"].get("durable_name")
        },
    )


async def _streams(link: Link) -> list[Json]:
    found, answers = await pages(link, "$JS.API.STREAM.LIST", "streams")
    missing = sorted({name for raw in answers for name in json.loads(raw).get("missing") or ()}) if any(
        b'"missing"' in raw for raw in answers
    ) else []  # fmt: skip
    if missing:
        raise Unreachable(
            f"{len(missing)} streams have no leader: {', '.join(missing[:5])}",
            "Wait until their servers are back; nothing is known of them now.",
        )
    return found


def measured(server: Mapping[str, Any], account: Mapping[str, Any], target: str) -> Facts:
    """The facts that a server tells an ordinary account. Pure. Server tags are not among them."""
    limits = account.get("limits") or {}
    options: dict[str, Any] = {
        "max_payload": server.get("max_payload"),
        "cluster": server.get("cluster") or None,
        "is_clustered": bool(server.get("cluster")),
        "api_level": int((account.get("api") or {}).get("level") or 0),
        "limits": limits,
        "unmodelled": {},
    }
    if not server.get("cluster"):
        options["servers"] = 1
    if limits.get("max_ack_pending", -1) > 0:
        options["max_ack_pending"] = limits["max_ack_pending"]
    return Facts("nats", target, version_of(server.get("version", "")), options)


def version_of(text: str) -> tuple[int, ...]:
    """``2.12.0-RC.1`` -> (2, 12, 0)."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else ()


def decode(raw: Raw, target: str, *, plane: str = "") -> Observation:
    """Turn answers into records. Pure."""
    known = measured(raw.server, raw.account, target)
    unmodelled: list[tuple[Address, str, Any]] = []
    foreign: dict[Address, str] = {}
    unmarked: set[Address] = set()
    records = []
    for record, config, unknown in _records(raw, target):
        records.append(record)
        if unknown:
            known.options["unmodelled"][str(record.address)] = unknown
            unmodelled.extend((record.address, option, value) for option, value in unknown.items())
        owner = (config.get("metadata") or {}).get(PLANE_METADATA)
        if owner is None:
            unmarked.add(record.address)
        elif owner != plane:
            foreign[record.address] = owner
    return Observation(records, known, unmodelled, foreign, frozenset(unmarked), raw.digest)


def _records(raw: Raw, target: str) -> Iterator[tuple[Record, Json, Json]]:
    addresses = {name: address_of(name, target) for name in raw.streams}
    for name, config in raw.streams.items():
        kind, address = _kind_of(name), addresses[name]
        settings, unknown = kind.unwire(address.name, config)
        # A mirror cannot follow an origin that starts again; a source can, so it is no dependent.
        origin = addresses.get((config.get("mirror") or {}).get("name", ""))
        external = (config.get("mirror") or {}).get("external")
        refs = (origin,) if origin is not None and not external else ()
        yield Record(address, settings, refs=refs), config, unknown
    for (name, own), config in raw.consumers.items():
        if name not in addresses:
            continue
        parent = addresses[name]
        settings, unknown = consumer.KIND.unwire(own, config)
        yield Record(parent.child("consumer", own), settings, parent=parent, refs=(parent,)), config, unknown


def _kind_of(stream_name: str) -> BackedKind:
    return next(kind for prefix, kind in _KINDS if stream_name.startswith(prefix))


def address_of(stream_name: str, target: str) -> Address:
    """The address of the object behind a stream: a bucket, an object store or the stream itself."""
    prefix, kind = next((p, k) for p, k in _KINDS if stream_name.startswith(p))
    return Address.root("nats", target, kind.name, stream_name.removeprefix(prefix))


__all__ = [
    "OWN_STREAM",
    "SERVER_METADATA",
    "Observation",
    "Raw",
    "address_of",
    "decode",
    "facts",
    "observe",
    "read",
]
