"""Parts of requests to the JetStream API that several kinds need. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from provision.nats.kinds.fields import PLANE_METADATA
from provision.nats.kinds.subjects import collide
from provision.nats.kinds.wire import Json
from provision.spec.change import Context
from provision.spec.ident import Address
from provision.spec.record import Facts, Record, Settings


def marked(config: Json, plane: str) -> Json:
    """Add the metadata that says which plane owns the object."""
    if plane:
        config["metadata"] = {**config.get("metadata", {}), PLANE_METADATA: plane}
    return config


def remarked(desired: Record, facts: Facts) -> Record:
    """Want the mark of the plane back on an object that the plane created and that has lost it."""
    plane = facts.options.get("unmarked", {}).get(str(desired.address))
    if plane is None:
        return desired
    metadata = {**desired.settings["metadata"], PLANE_METADATA: plane}
    return desired._replace(settings={**desired.settings, "metadata": metadata})


def claims(address: Address, subjects: Iterable[str]) -> tuple[Address, ...]:
    """Sort points of subjects: whoever gives one up comes before whoever takes it."""
    return tuple(Address.root("nats", address.target, "subject", subject) for subject in subjects)


def contested(subjects: Iterable[str], address: Address, context: Context) -> tuple[Address, ...]:
    """The claims that other streams of the target give up in this plan and that ``subjects`` collide with."""
    wanted = list(subjects)
    found: list[str] = []
    for other, change in context.changes.items():
        if other == address or other.system != "nats" or other.target != address.target or change.before is None:
            continue
        stays = change.after if change.action == "update" else None
        kept = stays.settings.get("subjects") or () if stays else ()
        given_up = [s for s in change.before.settings.get("subjects") or () if s not in kept]
        found.extend(s for s in given_up if any(collide(s, w) for w in wanted))
    return claims(address, dict.fromkeys(found))


def stages(before: Settings, after: Settings, *, exchange: bool) -> list[tuple[str, Settings]]:
    """Split an update into the settings of each request; the last one has the key "".

    A server refuses new replicas together with a new placement (10123). Copies are added where they will
    stay and removed before the rest moves. With ``exchange`` subjects are given up before others are taken,
    so that two streams can swap theirs.
    """
    result: list[tuple[str, Settings]] = []
    current = before
    kept = [s for s in before["subjects"] if s in after["subjects"]]
    if exchange and len(kept) < len(before["subjects"]):
        current = {**current, "subjects": kept}
        result.append(("release", current))
    moved = before["placement"] != after["placement"] and after["placement"] is not None
    if moved and before["replicas"] != after["replicas"]:
        first = "replicas" if after["replicas"] < before["replicas"] else "placement"
        current = {**current, first: after[first]}
        result.append((first, current))
    result.append(("", after))
    return result
