"""Rules about consumers: what they read, how they acknowledge, what happens after the last try."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.nats.kinds.subjects import SubjectIndex, collide, covered
from provision.spec.nearest import nearest
from provision.spec.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.jetstream import Consumer
    from provision.checks.scene import Scene


def _all(scene: Scene) -> Iterator[Consumer]:
    """Consumers and the templates of ephemeral ones."""
    for stream in scene.streams.values():
        yield from stream.consumers
        yield from stream.templates


@rule("HF0504", "filter-outside-subjects", "filter", level="cross-resource")
def filter_outside_subjects(scene: Scene) -> Iterator[Finding]:
    """Consumer filters for subjects that its stream never holds.

    The server accepts any filter since 2.10; a consumer with a wrong one waits for ever. The rule follows subject
    transforms, sources and mirrors; where an origin is outside the plane it is silent.

    Fix: filter within the subjects of the stream.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig. Mistakes: SB-57.

    Bad:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {worker: {filter_subject: "task.started.>", ack_policy: explicit}}

    Good:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {worker: {filter_subject: "tasks.started.>", ack_policy: explicit}}
    """
    for consumer in _all(scene):
        held = consumer.stream.held
        for where, wanted in consumer.filter_places if held is not None else ():
            assert held is not None
            if not any(collide(wanted, subject) for subject in held):
                yield Finding(
                    where,
                    f"filter {wanted} of {consumer.title} matches none of its subjects",
                    nearest(wanted, held, f"Filter within {', '.join(held[:5])}."),
                    related=(((*consumer.stream.origin, "subjects"), "the stream's subjects"),),
                )


@rule("HF0505", "consumer-filters-overlap", "filters of")
def consumer_filters_overlap(scene: Scene) -> Iterator[Finding]:
    """Filters of one consumer overlap.

    A server refuses a consumer whose filters share a subject (10138), and one that has both `filter_subject` and
    `filter_subjects` (10136).

    Fix: keep the wider filter.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig. Mistakes: SB-66.

    Bad:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {worker: {filter_subjects: ["tasks.>", tasks.started], ack_policy: explicit}}

    Good:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {worker: {filter_subjects: [tasks.started, tasks.failed], ack_policy: explicit}}
    """
    for consumer in _all(scene):
        if consumer.settings["filter_subject"] is not None and consumer.settings["filter_subjects"]:
            yield Finding(
                (*consumer.origin, "filter_subjects"),
                f"filters of {consumer.title} are given twice, as filter_subject and filter_subjects",
                "Keep filter_subjects.",
            )
        for (_, first), (where, second) in combinations(consumer.filter_places, 2):
            if collide(first, second):
                yield Finding(
                    where,
                    f"filters of {consumer.title} overlap: {first} and {second}",
                    "Keep the wider one.",
                )


@rule("HF0506", "workqueue-consumers-overlap", "work queue", level="cross-resource")
def workqueue_consumers_overlap(scene: Scene) -> Iterator[Finding]:
    """Two consumers of a work queue take the same subject.

    In a work queue a message is for one consumer, so their filters must be disjoint (10100), and at most one may
    have no filter (10099).

    Fix: give each consumer subjects of its own; workers share one consumer.

    Source: nats-server, server/stream.go, partitionUnique. Mistakes: SB-57.

    Bad:
        streams:
          JOBS:
            subjects: ["jobs.>"]
            retention: workqueue
            max_bytes: 64MiB
            consumers:
              mail: {filter_subject: jobs.mail, ack_policy: explicit}
              rest: {filter_subject: "jobs.*", ack_policy: explicit}

    Good:
        streams:
          JOBS:
            subjects: ["jobs.>"]
            retention: workqueue
            max_bytes: 64MiB
            consumers:
              mail: {filter_subject: jobs.mail, ack_policy: explicit}
              report: {filter_subject: jobs.report, ack_policy: explicit}
    """
    for stream in scene.streams.values():
        if stream.settings["retention"] != "workqueue":
            continue
        index: SubjectIndex[Consumer] = SubjectIndex()
        for consumer in stream.consumers:
            met: dict[str, Consumer] = {}
            for subject in consumer.filters or [">"]:
                met |= {other.name: other for other in index.colliding(subject)}
            for other in met.values():
                yield Finding(
                    consumer.origin,
                    f"work queue {stream.name} has two consumers for one subject, {other.name} and {consumer.name}",
                    "Give each consumer subjects of its own.",
                    related=((other.origin, "the other consumer"),),
                    at_key=True,
                )
            for subject in consumer.filters or [">"]:
                index.add(subject, consumer)


@rule("HF0507", "workqueue-consumer-policy", "work queue", level="cross-resource")
def workqueue_consumer_policy(scene: Scene) -> Iterator[Finding]:
    """Consumer of a work queue has a policy that the queue cannot have.

    A work queue deletes what is acknowledged: its consumers acknowledge each message (10098) and begin with the
    first one (10101).

    Fix: write `ack_policy: explicit` and `deliver_policy: all`.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig. Mistakes: SB-66.

    Bad:
        streams:
          JOBS:
            subjects: [jobs]
            retention: workqueue
            max_bytes: 64MiB
            consumers: {worker: {ack_policy: explicit, deliver_policy: new}}

    Good:
        streams:
          JOBS:
            subjects: [jobs]
            retention: workqueue
            max_bytes: 64MiB
            consumers: {worker: {ack_policy: explicit}}
    """
    for consumer in _all(scene):
        if consumer.stream.settings["retention"] != "workqueue":
            continue
        for option, needed in (("ack_policy", "explicit"), ("deliver_policy", "all")):
            if consumer.settings[option] not in (needed, "flow_control"):
                yield Finding(
                    (*consumer.origin, option),
                    f"work queue {consumer.stream.name} needs {option} {needed}, and {consumer.name} has "
                    f"{consumer.settings[option]}",
                    f"Write {option}: {needed}.",
                )


@rule("HF0510", "rate-limit-on-pull-consumer", "rate limit of")
def rate_limit_on_pull_consumer(scene: Scene) -> Iterator[Finding]:
    """Pull consumer has a rate limit.

    `rate_limit_bps` is for push consumers (10086), and counts bits in a second, not messages: 1000 would be 125
    bytes. A pulling client takes what it asks for.

    Fix: drop it; bound the work with `max_ack_pending`.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig. Mistakes: SB-55.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, rate_limit_bps: 1000}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, max_ack_pending: 100}}
    """
    for consumer in _all(scene):
        if consumer.settings["rate_limit_bps"] and not consumer.is_push:
            yield Finding(
                (*consumer.origin, "rate_limit_bps"),
                f"rate limit of {consumer.title} is for push consumers, and counts bits in a second",
                "Drop it, and bound the work with max_ack_pending.",
            )


_PULL_ONLY = ("max_waiting", "max_batch", "max_expires", "max_bytes", "priority_groups")
_PUSH_ONLY = ("deliver_group", "idle_heartbeat", "flow_control")


@rule("HF0511", "consumer-option-of-other-mode", "option")
def option_of_other_mode(scene: Scene) -> Iterator[Finding]:
    """Consumer has an option of the other mode.

    Push consumers deliver to a subject, pull consumers answer requests; each has options that a server refuses for
    the other (10080, 10112, 10088, 10089, 10178).

    Fix: drop the option, or `deliver_subject`.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig. Mistakes: SB-55.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, idle_heartbeat: 5s}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, deliver_subject: out.tasks, idle_heartbeat: 5s}}
    """
    for consumer in _all(scene):
        wrong, own = (_PULL_ONLY, "push") if consumer.is_push else (_PUSH_ONLY, "pull")
        for option in wrong:
            if consumer.settings[option]:
                yield Finding(
                    (*consumer.origin, option),
                    f"option {option} does not suit {consumer.title}, a {own} consumer",
                    f"Drop it, or {'drop' if consumer.is_push else 'declare'} deliver_subject.",
                )


@rule("HF0512", "meaningless-consumer-option", "option", severity="warning")
def meaningless_option(scene: Scene) -> Iterator[Finding]:
    """Consumer has options that mean nothing together.

    Without acknowledgements nothing is delivered again, so ack_wait, max_deliver and backoff do nothing. `last`
    delivers one message of the whole stream; a monitor usually wants the last of each subject. Without
    inactive_threshold an ephemeral consumer lives five seconds after its client.

    Fix: drop the option, or acknowledge; write `last_per_subject` with a filter; state inactive_threshold.

    Source: NATS documentation, Consumers. Mistakes: SB-66.

    Bad:
        streams:
          STATE:
            subjects: ["state.>"]
            max_age: 1d
            templates:
              monitor: {deliver_policy: last, ack_policy: none, ack_wait: 5s, inactive_threshold: 1m}

    Good:
        streams:
          STATE:
            subjects: ["state.>"]
            max_age: 1d
            templates:
              monitor:
                {deliver_policy: last_per_subject, filter_subject: "state.>", ack_policy: none, inactive_threshold: 1m}
    """
    for consumer in _all(scene):
        settings = consumer.settings
        if settings["ack_policy"] == "none":
            for option in ("ack_wait", "max_deliver", "backoff", "max_ack_pending"):
                value = settings[option]
                if value and value != -1 and scene.stated(consumer.record, option):
                    yield Finding(
                        (*consumer.origin, option),
                        f"option {option} of {consumer.title} means nothing without acknowledgements",
                        "Drop it, or write ack_policy: explicit.",
                    )
        if settings["deliver_policy"] == "last" and not _one_subject(consumer):
            yield Finding(
                (*consumer.origin, "deliver_policy"),
                f"option deliver_policy last of {consumer.title} gives one message of the whole stream",
                "Write last_per_subject with a filter.",
            )
        is_template = consumer.record.address.kind == "template"
        if is_template and not settings["inactive_threshold"]:
            yield Finding(
                (*consumer.origin, "inactive_threshold"),
                f"option inactive_threshold of {consumer.title} is missing, so it ends 5s after its client is silent",
                "Declare inactive_threshold.",
            )


def _one_subject(consumer: Consumer) -> bool:
    filters = consumer.filters or consumer.stream.subjects
    return len(filters) == 1 and "*" not in filters[0] and ">" not in filters[0]


@rule("HF0513", "redelivery-outlives-stream", "redelivery of", severity="warning", level="cross-resource")
def redelivery_outlives_stream(scene: Scene) -> Iterator[Finding]:
    """Consumer still tries when the message is gone.

    The last delivery may come ack_wait times max_deliver after the first (or the sum of backoff). When max_age is
    not longer, the stream deletes the message before its last try.

    Fix: try less often or for a shorter time, or keep messages longer.

    Source: NATS documentation, Consumers, AckWait and MaxDeliver. Mistakes: SB-67.

    Bad:
        streams:
          MAIL:
            subjects: [mail]
            max_age: 5m
            duplicate_window: 5m
            consumers: {sender: {ack_policy: explicit, ack_wait: 60s, max_deliver: 5, dead_letter: none}}

    Good:
        streams:
          MAIL:
            subjects: [mail]
            max_age: 10m
            duplicate_window: 5m
            consumers: {sender: {ack_policy: explicit, ack_wait: 60s, max_deliver: 5, dead_letter: none}}
    """
    for consumer in _all(scene):
        horizon, age = consumer.horizon, consumer.stream.max_age
        if horizon is not None and age and horizon >= age:
            yield Finding(
                (*consumer.origin, "max_deliver"),
                f"redelivery of {consumer.title} goes on for {format_duration(horizon)}, and messages live "
                f"{format_duration(age)}",
                "Lower max_deliver or ack_wait, or raise max_age.",
                related=(((*consumer.stream.origin, "max_age"), "max_age"),),
            )


@rule("HF0519", "duplicate-window-below-retries", "duplicate window of", severity="warning", level="cross-resource")
def duplicate_window_below_retries(scene: Scene) -> Iterator[Finding]:
    """Duplicates are forgotten before the retries end.

    A worker that is handed a message again publishes its results again, under the same ids. The stream recognises
    them only within its duplicate window; retries that go on longer store them twice.

    Fix: make duplicate_window as long as ack_wait times max_deliver, or as the sum of backoff.

    Source: NATS documentation, JetStream, Message Deduplication. Mistakes: SB-67.

    Bad:
        streams:
          MAIL:
            subjects: [mail]
            max_age: 1h
            duplicate_window: 1m
            consumers: {sender: {ack_policy: explicit, ack_wait: 60s, max_deliver: 5, dead_letter: none}}

    Good:
        streams:
          MAIL:
            subjects: [mail]
            max_age: 1h
            duplicate_window: 5m
            consumers: {sender: {ack_policy: explicit, ack_wait: 60s, max_deliver: 5, dead_letter: none}}
    """
    for stream in scene.streams.values():
        longest = max((c for c in stream.consumers if c.horizon), key=lambda c: c.horizon or 0, default=None)
        if longest is not None and (longest.horizon or 0) > stream.duplicate_window:
            yield Finding(
                (*stream.origin, "duplicate_window"),
                f"duplicate window of {stream.title} is {format_duration(stream.duplicate_window)}, and "
                f"{longest.name} retries for {format_duration(longest.horizon or 0)}",
                f"Write duplicate_window: {format_duration(longest.horizon or 0)}.",
                related=((longest.origin, "the consumer"),),
            )


_ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"


@rule("HF0514", "no-dead-letter-after-max-deliver", "consumer", severity="warning", level="cross-resource")
def no_dead_letter(scene: Scene) -> Iterator[Finding]:
    """Nobody hears of messages that exhaust their tries.

    After max_deliver a message is not delivered again; it stays until max_age, and the server only publishes an
    advisory. A stream that captures the advisory makes a list of what failed.

    Fix: declare a stream with the subject `$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>`, or say on purpose
    `dead_letter: none`.

    Source: NATS documentation, JetStream, Advisories. Mistakes: SB-68.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, max_deliver: 3}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, max_deliver: 3}}
          FAILED: {subjects: ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"], max_age: 30d}
    """
    captured: dict[str, list[str]] = {}
    for stream in scene.streams.values():
        found = [s for s in stream.subjects if collide(s, f"{_ADVISORY}.>")]
        captured.setdefault(stream.target, []).extend(found)
    for consumer in scene.consumers:
        if consumer.settings["max_deliver"] <= 0 or not consumer.acknowledges or consumer.settings["dead_letter"]:
            continue
        advisory = f"{_ADVISORY}.{consumer.stream.name}.{consumer.name}"
        if not covered(advisory, captured.get(consumer.stream.target, ())):
            yield Finding(
                (*consumer.origin, "max_deliver"),
                f"consumer {consumer.name} gives up after {consumer.settings['max_deliver']} tries, and nobody is told",
                f"Declare a stream with the subject {_ADVISORY}.>, or dead_letter: none.",
            )


@rule("HF0523", "dead-letter-not-declared", "dead letter", level="cross-resource")
def dead_letter_not_declared(scene: Scene) -> Iterator[Finding]:
    """The stream named as dead letter does not listen.

    `dead_letter` says which declared stream captures the max-deliveries advisories of a consumer.

    Fix: name a stream whose subjects take the advisory.

    Source: NATS documentation, JetStream, Advisories. Mistakes: SB-68.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, max_deliver: 3, dead_letter: FAILED}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, max_deliver: 3, dead_letter: FAILED}}
          FAILED: {subjects: ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"], max_age: 30d}
    """
    for consumer in _all(scene):
        named = consumer.settings["dead_letter"]
        if not named or named == "none":
            continue
        stream = scene.streams.get((consumer.stream.target, named))
        advisory = f"{_ADVISORY}.{consumer.stream.name}.{consumer.name}"
        if stream is None and not scene.written("streams", named):
            known = [s.name for s in scene.streams.values()]
            yield Finding(
                (*consumer.origin, "dead_letter"),
                f"dead letter {named} of {consumer.title} is not declared",
                nearest(named, known, f"Declare the stream {named}, or write none."),
            )
        elif stream is not None and not covered(advisory, stream.subjects):
            yield Finding(
                (*consumer.origin, "dead_letter"),
                f"dead letter {named} of {consumer.title} does not capture its advisory",
                f"Add {_ADVISORY}.> to the subjects of {named}.",
            )


RULES = (
    filter_outside_subjects, consumer_filters_overlap, workqueue_consumers_overlap, workqueue_consumer_policy,
    rate_limit_on_pull_consumer, option_of_other_mode, meaningless_option, redelivery_outlives_stream,
    duplicate_window_below_retries, no_dead_letter, dead_letter_not_declared,
)  # fmt: skip
