"""Small NATS planes and targets for tests, read as specs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.kubernetes import nats
from provision.kubernetes.objects import Manifest
from provision.nats.kinds import bucket, object_store, stream
from provision.spec.ident import Address
from provision.spec.record import Plane, Record
from provision.spec.target import NATS_TARGET, Target

_FIELDS = {"stream": stream.FIELDS, "bucket": bucket.FIELDS, "object_store": object_store.FIELDS}
Json = Mapping[str, Any]


def target(kubernetes: Json | None = None, **settings: Any) -> Target:
    """A target on Kubernetes, three servers unless it says otherwise."""
    node = {"kind": "kubernetes", "servers": 3, **settings, "kubernetes": kubernetes or {}}
    return Target("nats", "main", "kubernetes", NATS_TARGET.parse(node))


def plane(streams: Mapping[str, Json] | None = None, **others: Mapping[str, Json]) -> Plane:
    """A plane of streams; buckets and object stores by keyword: ``bucket={"STATE": {...}}``."""
    found = {"stream": streams or {}, **others}
    records = [
        Record(Address.root("nats", "main", kind, name), _FIELDS[kind].parse(node))
        for kind, nodes in found.items()
        for name, node in nodes.items()
    ]
    return Plane(records, name="example", env="test")


def of_kind(kind: str, of: Plane, on: Target, name: str | None = None) -> Manifest:
    """The one manifest of a kind, or the one that has a name too."""
    (found,) = [m for m in nats.manifests(of, on) if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return found
