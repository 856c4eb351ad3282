"""Rules about streams: subjects that overlap or reach nobody, options that exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provision.checks.rule import Finding, listed, rule
from provision.nats.kinds.subjects import SubjectIndex, collide, covered, subset
from provision.spec.nearest import nearest
from provision.spec.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provision.checks.jetstream import Stream
    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Settings


@rule("HF0502", "overlapping-streams", "subject", level="cross-resource")
def overlapping_streams(scene: Scene) -> Iterator[Finding]:
    """Two streams store the same subject.

    Within an account a subject belongs to one stream; a server refuses the second (10065). Buckets count with
    `$KV.NAME.>`, object stores with `$O.NAME.>`. Within one stream subjects may not overlap either (10052).

    Fix: narrow one of the subjects.

    Source: nats-server, server/sublist.go, SubjectsCollide.

    Bad:
        streams:
          ORDERS: {subjects: ["orders.>"], max_age: 1d}
          PAID: {subjects: [orders.paid], max_age: 1d}

    Good:
        streams:
          ORDERS: {subjects: ["orders.open.>"], max_age: 1d}
          PAID: {subjects: [orders.paid], max_age: 1d}
    """
    indexes: dict[str, SubjectIndex[tuple[Stream, str, Pointer]]] = {}
    for stream in scene.streams.values():
        index = indexes.setdefault(stream.target, SubjectIndex())
        for i, subject in enumerate(stream.subjects):
            where = (*stream.origin, "subjects", i)
            for other, theirs, place in index.colliding(subject):
                yield Finding(
                    where,
                    f"subject {subject} of {stream.title} overlaps with {theirs} of {other.title}",
                    "Narrow one of them: a subject belongs to one stream.",
                    related=((place, "the other subject"),),
                )
            index.add(subject, (stream, subject, where))


@rule("HF0508", "interest-stream-uncovered-subjects", "interest stream", level="cross-resource")
def interest_stream_uncovered(scene: Scene) -> Iterator[Finding]:
    """Interest stream has subjects that no consumer takes.

    With interest retention a message goes as soon as every consumer that wants it has it: at once, when none wants
    it. What is published before the consumers exist is gone too.

    Fix: declare consumers that cover all subjects, or use `retention: limits`.

    Source: NATS documentation, Streams, Retention. Mistakes: SB-57.

    Bad:
        streams:
          ORDERS:
            subjects: ["orders.open.>", "orders.paid.>"]
            retention: interest
            max_age: 1d
            consumers: {open: {filter_subject: "orders.open.>", ack_policy: explicit}}

    Good:
        streams:
          ORDERS:
            subjects: ["orders.open.>", "orders.paid.>"]
            retention: interest
            max_age: 1d
            consumers:
              open: {filter_subject: "orders.open.>", ack_policy: explicit}
              paid: {filter_subject: "orders.paid.>", ack_policy: explicit}
    """
    for stream in scene.streams.values():
        if stream.settings["retention"] != "interest":
            continue
        if any(not c.filters for c in stream.consumers):
            continue
        taken = [f for c in stream.consumers for f in c.filters]
        for i, subject in enumerate(stream.subjects):
            if stream.settings["subject_transform"] is None and not covered(subject, taken):
                yield Finding(
                    (*stream.origin, "subjects", i),
                    f"interest stream {stream.name} discards {subject}, which no consumer takes",
                    "Declare a consumer for it, or write retention: limits.",
                )


@rule("HF0509", "publish-subject-without-stream", "published subject", level="cross-resource")
def publish_without_stream(scene: Scene) -> Iterator[Finding]:
    """Published subject lies in no stream.

    JetStream answers a publisher when the message is stored. Where no stream takes the subject, nobody answers and
    nothing is kept.

    Fix: add the subject to a stream, or publish another one.

    Source: NATS documentation, JetStream, Publishing. Mistakes: SB-45.

    Bad:
        streams: {TASKS: {subjects: ["tasks.created.>"], max_age: 1d}}
        publishers: {api: {subjects: ["tasks.created.*", "tasks.updated.*"]}}

    Good:
        streams: {TASKS: {subjects: ["tasks.created.>", "tasks.updated.>"], max_age: 1d}}
        publishers: {api: {subjects: ["tasks.created.*", "tasks.updated.*"]}}
    """
    indexes: dict[str, SubjectIndex[str]] = {}
    for stream in scene.streams.values():
        index = indexes.setdefault(stream.target, SubjectIndex())
        for subject in stream.subjects:
            index.add(subject, subject)
    for record in scene.of("publisher"):
        found = indexes.setdefault(record.address.target, SubjectIndex())
        for i, subject in enumerate(record.settings["subjects"]):
            taken = list(found.colliding(subject))
            if not covered(subject, taken):
                part = f" but for {listed(taken[:3])}" if taken else ""
                yield Finding(
                    (*(record.origin or ()), "subjects", i),
                    f"published subject {subject} of {record.address.name} lies in no stream{part}",
                    nearest(subject, found.everything(), "Add it to the subjects of a stream."),
                )


@rule("HF0518", "duplicate-window-exceeds-age", "duplicate window of")
def duplicate_window_exceeds_age(scene: Scene) -> Iterator[Finding]:
    """Duplicate window is longer than messages live.

    A server refuses a window longer than max_age (10052).

    Fix: shorten the window, or leave it out: it is then two minutes, or max_age if that is shorter.

    Source: nats-server, server/stream.go, checkStreamCfg.

    Bad:
        streams: {PINGS: {subjects: [pings], max_age: 1m, duplicate_window: 2m}}

    Good:
        streams: {PINGS: {subjects: [pings], max_age: 1m, duplicate_window: 1m}}
    """
    for stream in scene.streams.values():
        if stream.max_age and stream.duplicate_window > stream.max_age:
            yield Finding(
                (*stream.origin, "duplicate_window"),
                f"duplicate window of {stream.title}, {format_duration(stream.duplicate_window)}, exceeds its max_age "
                f"of {format_duration(stream.max_age)}",
                f"Write duplicate_window: {format_duration(stream.max_age)} or less.",
            )


def _is_set(value: Any) -> bool:
    return value not in (None, False, 0, -1, [], {}, "default", "none")


#: (what is set, what it excludes, why): names of stream options, from checkStreamCfg and NewJS… errors.
_EXCLUSIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("mirror", ("subjects", "sources", "first_seq", "allow_msg_counter", "allow_atomic", "allow_batched",
                "allow_msg_schedules", "subject_delete_marker_ttl"), "a mirror copies its origin, nothing else"),
    ("allow_msg_counter", ("allow_msg_ttl", "allow_msg_schedules"), "counters keep every increment"),
    ("allow_msg_schedules", ("sources",), "schedules are not copied"),
    ("deny_purge", ("allow_rollup_hdrs",), "a rollup is a purge"),
)  # fmt: skip
#: (what is wrong, the option at fault, sentence): conditions on stream options.
_CONDITIONS: tuple[tuple[Callable[[Settings], bool], str, str], ...] = (
    (lambda s: bool(s["discard_new_per_subject"]) and (s["discard"] != "new" or s["max_msgs_per_subject"] <= 0),
     "discard_new_per_subject", "needs discard: new and max_msgs_per_subject"),
    (lambda s: bool(s["allow_msg_counter"]) and (s["discard"] == "new" or s["retention"] != "limits"),
     "allow_msg_counter", "needs discard: old and retention: limits"),
    (lambda s: bool(s["allow_msg_schedules"]) and s["discard"] == "new", "allow_msg_schedules", "needs discard: old"),
    (lambda s: s["persist_mode"] == "async" and (s["storage"] != "file" or s["replicas"] > 1 or s["allow_atomic"]),
     "persist_mode", "is async, which needs file storage, one replica and no allow_atomic"),
    (lambda s: bool((s["placement"] or {}).get("preferred")), "placement", "takes no preferred leader"),
    (lambda s: any(_needs_no_ack(x) for x in s["subjects"]) and not s["no_ack"],
     "subjects", "reach into the server's own subjects, so it needs no_ack: true"),
    (lambda s: bool(s["mirror_direct"]) and s["mirror"] is None, "mirror_direct", "is for mirrors only"),
)  # fmt: skip
#: Subjects of the server itself, and the parts of them that a stream may capture all the same.
_SYSTEM = ("$JS.>", "$JSC.>", "$NRG.>", "$SYS.>")
_FREE = ("$JS.EVENT.>", "$SYS.ACCOUNT.>")


def _needs_no_ack(subject: str) -> bool:
    reaches = any(collide(subject, system) for system in _SYSTEM)
    return reaches and not any(subset(subject, free) for free in _FREE)


@rule("HF0520", "stream-options-exclude-each-other", "option")
def stream_options_exclude(scene: Scene) -> Iterator[Finding]:
    """Stream has options that do not go together.

    A server refuses such a stream: a mirror has no subjects (10034) and no sources (10031), a rollup cannot work
    where purges are denied (10052), counters and schedules exclude other options, and more.

    Fix: leave one of the two out.

    Source: nats-server, server/stream.go, checkStreamCfg.

    Bad:
        streams: {ORDERS: {subjects: [orders], max_age: 1d, deny_purge: true, allow_rollup_hdrs: true}}

    Good:
        streams: {ORDERS: {subjects: [orders], max_age: 1d, deny_purge: true}}
    """
    for stream in scene.streams.values():
        settings = stream.settings
        for option, excluded, why in _EXCLUSIONS:
            for other in excluded if _is_set(settings[option]) else ():
                if _is_set(settings[other]):
                    yield Finding(
                        (*stream.origin, other),
                        f"option {other} of {stream.title} does not go with {option}",
                        f"Leave one of them out: {why}.",
                        related=(((*stream.origin, option), f"{option} is set here"),),
                    )
        for is_wrong, option, sentence in _CONDITIONS:
            if is_wrong(settings):
                yield Finding(
                    (*stream.origin, option),
                    f"option {option} of {stream.title} {sentence}",
                    "Change it, or leave it out.",
                )


@rule("HF0535", "stream-without-bound", "stream", severity="warning")
def stream_without_bound(scene: Scene) -> Iterator[Finding]:
    """Stream grows without bound.

    With retention by limits and no limit a stream grows until the storage of the server is full, and then every
    stream stops. Messages per subject are no bound where subjects are many.

    Fix: declare max_age, max_bytes or max_msgs.

    Source: NATS documentation, Streams, Limits.

    Bad:
        streams: {ORDERS: {subjects: [orders.>]}}

    Good:
        streams: {ORDERS: {subjects: [orders.>], max_age: 7d, max_bytes: 1GiB}}
    """
    for stream in scene.streams.values():
        settings = stream.settings
        limits = ("max_age", "max_bytes", "max_msgs")
        # A bound that is written and was refused by reading is no second mistake.
        refused = any(scene.stated(stream.record, o) and not settings[o] for o in limits)
        bounded = refused or any((settings[o] or 0) > 0 for o in limits)
        if not bounded and stream.record.address.kind == "stream" and settings["mirror"] is None:
            yield Finding(
                stream.origin,
                f"stream {stream.name} has no bound: neither max_age nor max_bytes nor max_msgs",
                "Declare one of them.",
                at_key=True,
            )


@rule("HF0536", "critical-data-not-durable", "stream", severity="warning", level="cross-resource")
def critical_data_not_durable(scene: Scene) -> Iterator[Finding]:
    """Stream that others rely on does not survive a crash.

    Work queues, interest streams, journals and streams that others copy hold messages that exist nowhere else. In
    memory they end with the server; with `persist_mode: async` they are acknowledged before they are written.

    Fix: use file storage, and replicas where there is a cluster. On one server set `sync_interval: always`.

    Source: Jepsen, NATS 2.12.1; NATS documentation, JetStream persistence.

    Bad:
        streams: {JOBS: {subjects: [jobs.>], retention: workqueue, storage: memory, max_bytes: 64MiB}}

    Good:
        streams: {JOBS: {subjects: [jobs.>], retention: workqueue, max_bytes: 64MiB}}
    """
    copied = {id(o): s for s in scene.streams.values() for _, e in s.origins if (o := s.origin_of(e)) is not None}
    for stream in scene.streams.values():
        settings = stream.settings
        reason = None
        if settings["retention"] != "limits":
            reason = f"its retention is {settings['retention']}"
        elif id(stream) in copied:
            reason = f"{copied[id(stream)].title} copies it"
        weak = "storage" if settings["storage"] == "memory" else None
        weak = weak or ("persist_mode" if settings["persist_mode"] == "async" else None)
        if reason and weak:
            yield Finding(
                (*stream.origin, weak),
                f"stream {stream.name} does not survive a crash with {weak} {settings[weak]}, and {reason}",
                "Use file storage, and persist_mode: default.",
            )


RULES = (
    overlapping_streams, interest_stream_uncovered, publish_without_stream, duplicate_window_exceeds_age,
    stream_options_exclude, stream_without_bound, critical_data_not_durable,
)  # fmt: skip
