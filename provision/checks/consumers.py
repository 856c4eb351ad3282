"""Rules about consumers: what they read, how they acknowledge, what happens after the last try."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.nats.kinds.subjects import SubjectIndex, collide
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.jetstream import Consumer
    from provision.checks.scene import Scene


@rule("HF0504", "filter-outside-subjects", "filter", level="cross-resource")
def filter_outside_subjects(scene: Scene) -> Iterator[Finding]:
    """Consumer filters for subjects that its stream never holds.

    The server accepts any filter since 2.10; a consumer with a wrong one waits for ever. The rule follows subject
    transforms, sources and mirrors; where an origin is outside the plane it is silent.

    Fix: filter within the subjects of the stream.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

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
    for consumer in scene.readers:
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

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

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
    for consumer in scene.readers:
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

    Source: nats-server, server/stream.go, partitionUnique.

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

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

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
    for consumer in scene.readers:
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
    for consumer in scene.readers:
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

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

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
    for consumer in scene.readers:
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
    for consumer in scene.readers:
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


RULES = (
    filter_outside_subjects, consumer_filters_overlap, workqueue_consumers_overlap, workqueue_consumer_policy,
    rate_limit_on_pull_consumer, option_of_other_mode, meaningless_option,
)  # fmt: skip
