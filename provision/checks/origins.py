"""Rules about streams that copy and republish: origins, cycles, multiplication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.nats.kinds.subjects import collide, transformed
from provision.spec.nearest import nearest
from provision.spec.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from provision.checks.jetstream import Stream
    from provision.checks.scene import Scene
    from provision.spec.record import Pointer


def _copies(scene: Scene) -> Iterator[tuple[Stream, Pointer, Mapping[str, Any]]]:
    for stream in scene.streams.values():
        for where, entry in stream.origins:
            yield stream, where, entry


@rule("HF0525", "origin-not-declared", "origin", level="cross-resource")
def origin_not_declared(scene: Scene) -> Iterator[Finding]:
    """Mirror or source names a stream that is not declared.

    The server accepts a source that does not exist and waits for it. Streams behind buckets are called `KV_NAME`;
    streams of another account or domain are marked with `external`.

    Fix: name a declared stream, or say where it is.

    Source: NATS documentation, Streams, Sources and Mirrors. Mistakes: SB-65.

    Bad:
        buckets: {STATE: {ttl: 30m}}
        streams: {JOURNAL: {sources: [{name: KV_AGENT_STATE}], max_bytes: 1GiB}}

    Good:
        buckets: {STATE: {ttl: 30m}}
        streams: {JOURNAL: {sources: [{name: KV_STATE}], max_bytes: 1GiB}}
    """
    for stream, where, entry in _copies(scene):
        name = entry["name"]
        if entry.get("external") or stream.origin_of(entry) is not None or _is_written(scene, stream, name):
            continue
        prefix = "KV_" if stream.record.address.kind == "bucket" else ""
        known = [s.name.removeprefix(prefix) for s in scene.streams.values() if s.target == stream.target]
        yield Finding(
            (*where, "name"),
            f"origin {name} of {stream.title} is not declared",
            nearest(name, known, "Declare it, or write external where it is elsewhere."),
        )


def _is_written(scene: Scene, stream: Stream, name: str) -> bool:
    if stream.record.address.kind == "bucket":
        return scene.written("buckets", name)
    if name.startswith("KV_"):
        return scene.written("buckets", name[3:])
    return scene.written("streams", name) or scene.written("object_stores", name.removeprefix("OBJ_"))


@rule("HF0526", "origin-cycle", "origin", level="cross-resource")
def origin_cycle(scene: Scene) -> Iterator[Finding]:
    """Streams copy each other in a circle.

    Every message goes round for ever; a server refuses it where it sees it (10052).

    Fix: break the circle.

    Source: nats-server, server/stream.go, checkStreamCfg.

    Bad:
        streams:
          A: {subjects: [a], sources: [{name: B}], max_age: 1d}
          B: {subjects: [b], sources: [{name: A}], max_age: 1d}

    Good:
        streams:
          A: {subjects: [a], max_age: 1d}
          B: {subjects: [b], sources: [{name: A}], max_age: 1d}
    """
    for stream, where, entry in _copies(scene):
        route = _route_back(stream, stream.origin_of(entry))
        if route:
            yield Finding(
                (*where, "name"),
                f"origin {entry['name']} of {stream.title} copies it back: {' → '.join(route)}",
                "Break the circle.",
            )


def _route_back(start: Stream, first: Stream | None) -> list[str]:
    """The names along a way from ``first`` back to ``start``, or nothing."""
    seen: dict[int, list[str]] = {}
    waiting = [(first, [start.name])] if first is not None else []
    while waiting:
        stream, route = waiting.pop()
        route = [*route, stream.name]
        if stream is start:
            return route
        if id(stream) in seen:
            continue
        seen[id(stream)] = route
        origins = (stream.origin_of(entry) for _, entry in stream.origins)
        waiting += [(o, route) for o in origins if o is not None]
    return []


@rule("HF0527", "origin-message-size", "max_msg_size of", level="cross-resource")
def origin_message_size(scene: Scene) -> Iterator[Finding]:
    """Stream takes smaller messages than the stream it copies.

    A message that the copy refuses stops the copying; a server refuses such a mirror (10030) or source (10046).

    Fix: allow at least the origin's max_msg_size.

    Source: nats-server, server/stream.go, checkStreamCfg.

    Bad:
        streams:
          A: {subjects: [a], max_age: 1d, max_msg_size: 1MiB}
          B: {sources: [{name: A}], max_age: 1d, max_msg_size: 64KiB}

    Good:
        streams:
          A: {subjects: [a], max_age: 1d, max_msg_size: 64KiB}
          B: {sources: [{name: A}], max_age: 1d, max_msg_size: 64KiB}
    """
    for stream, _, entry in _copies(scene):
        origin, own = stream.origin_of(entry), stream.settings["max_msg_size"]
        if origin is None or own <= 0:
            continue
        theirs = origin.settings["max_msg_size"]
        if theirs <= 0 or theirs > own:
            option = "max_value_size" if stream.record.address.kind == "bucket" else "max_msg_size"
            yield Finding(
                (*stream.origin, option),
                f"max_msg_size of {stream.title}, {format_size(own)}, is less than that of {origin.title}, "
                f"{format_size(theirs) if theirs > 0 else 'which has none'}",
                "Allow at least as much, or bound the origin.",
                related=((origin.origin, "the origin"),),
            )


@rule("HF0528", "origin-filter-outside", "filter", level="cross-resource")
def origin_filter_outside(scene: Scene) -> Iterator[Finding]:
    """Mirror or source filters for subjects that the origin never holds.

    Nothing is ever copied, and no error says so.

    Fix: filter within the origin's subjects.

    Source: NATS documentation, Streams, Sources and Mirrors.

    Bad:
        streams:
          A: {subjects: ["a.>"], max_age: 1d}
          B: {sources: [{name: A, filter_subject: b.x}], max_age: 1d}

    Good:
        streams:
          A: {subjects: ["a.>"], max_age: 1d}
          B: {sources: [{name: A, filter_subject: a.x}], max_age: 1d}
    """
    for stream, where, entry in _copies(scene):
        origin = stream.origin_of(entry)
        held = origin.held if origin is not None else None
        if held is None:
            continue
        wanted: list[tuple[Pointer, str | None]] = [(("filter_subject",), entry.get("filter_subject"))]
        wanted += [(("subject_transforms", i, "src"), t.get("src")) for i, t in enumerate(entry["subject_transforms"])]
        for path, subject in wanted:
            if subject and not any(collide(subject, h) for h in held):
                yield Finding(
                    (*where, *path),
                    f"filter {subject} of {stream.title} matches nothing that {entry['name']} holds",
                    nearest(subject, held, f"Filter within {', '.join(held[:5])}."),
                )


def _republished(stream: Stream) -> list[str]:
    republish = stream.settings["republish"]
    if not republish or stream.held is None:
        return []
    images = (transformed(s, republish["src"] or ">", republish["dest"]) for s in stream.held)
    return list(dict.fromkeys(i for i in images if i is not None))


@rule("HF0529", "republish-cycle", "republished subject", level="cross-resource")
def republish_cycle(scene: Scene) -> Iterator[Finding]:
    """Stream republishes into its own subjects.

    What it republishes it would store and republish again; a server refuses it ("forms a cycle").

    Fix: republish to a subject outside the stream.

    Source: nats-server, server/stream.go, checkStreamCfg.

    Bad:
        streams: {A: {subjects: ["a.>"], max_age: 1d, republish: {src: "a.>", dest: "a.copy.>"}}}

    Good:
        streams: {A: {subjects: ["a.>"], max_age: 1d, republish: {src: "a.>", dest: "copy.a.>"}}}
    """
    for stream in scene.streams.values():
        for subject in _republished(stream):
            if any(collide(subject, own) for own in stream.subjects):
                yield Finding(
                    (*stream.origin, "republish", "dest"),
                    f"republished subject {subject} of {stream.title} is stored by the stream itself",
                    "Republish to a subject outside the stream.",
                )


@rule("HF0530", "republish-into-stream", "republished subject", severity="warning", level="cross-resource")
def republish_into_stream(scene: Scene) -> Iterator[Finding]:
    """Stream republishes into another stream.

    Every message is stored twice, in whatever order and without the ids that would recognise duplicates.

    Fix: copy with `sources`, or republish to a subject that no stream takes.

    Source: NATS documentation, Streams, RePublish.

    Bad:
        streams:
          A: {subjects: ["a.>"], max_age: 1d, republish: {src: "a.>", dest: "b.>"}}
          B: {subjects: ["b.>"], max_age: 1d}

    Good:
        streams:
          A: {subjects: ["a.>"], max_age: 1d, republish: {src: "a.>", dest: "live.>"}}
          B: {subjects: ["b.>"], max_age: 1d}
    """
    for stream in scene.streams.values():
        for subject in _republished(stream):
            for theirs, other in scene.stored(stream.target, subject):
                if other is not stream:
                    yield Finding(
                        (*stream.origin, "republish", "dest"),
                        f"republished subject {subject} of {stream.title} is stored by {other.title} as {theirs}",
                        "Copy with sources, or republish to a subject that no stream takes.",
                        related=((other.origin, "the other stream"),),
                    )


RULES = (
    origin_not_declared, origin_cycle, origin_message_size, origin_filter_outside, republish_cycle,
    republish_into_stream,
)  # fmt: skip
