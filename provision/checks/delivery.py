"""Rules about consumers against the limits of their stream, where they deliver, and what they leave unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, counted, rule
from provision.nats.kinds.subjects import collide
from provision.spec.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.jetstream import Consumer
    from provision.checks.scene import Scene
    from provision.spec.record import Settings


@rule("HF0515", "consumer-exceeds-stream-limits", "consumer", level="cross-resource")
def consumer_exceeds_stream(scene: Scene) -> Iterator[Finding]:
    """Consumer asks for more than its stream allows.

    Replicas may not exceed the stream's (10126), and must equal them for interest and work-queue streams (10134);
    max_ack_pending and inactive_threshold stay within `consumer_limits` (10121, 10153), the number of consumers
    within `max_consumers` (10026).

    Fix: lower the consumer's value, or raise the stream's.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumer_limits: {max_ack_pending: 100}
            consumers: {worker: {ack_policy: explicit, max_ack_pending: 1000}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumer_limits: {max_ack_pending: 1000}
            consumers: {worker: {ack_policy: explicit, max_ack_pending: 1000}}
    """
    for stream in scene.streams.values():
        limit = stream.settings["max_consumers"]
        for consumer in stream.consumers[limit:] if limit > 0 else ():
            yield Finding(
                consumer.origin,
                f"consumer {consumer.name} is one more than max_consumers {limit} of {stream.name}",
                "Raise max_consumers, or leave the consumer out.",
                at_key=True,
            )
    for consumer in scene.readers:
        for option, problem in _excesses(consumer):
            yield Finding(
                (*consumer.origin, option),
                f"consumer {consumer.name} {problem} of {consumer.stream.title}",
                "Lower it, or raise the stream's.",
                related=((consumer.stream.origin, "the stream"),),
            )


def _excesses(consumer: Consumer) -> Iterator[tuple[str, str]]:
    settings, stream = consumer.settings, consumer.stream.settings
    limits = stream["consumer_limits"] or {}
    replicas, most = settings["replicas"], stream["replicas"]
    if replicas > most:
        yield "replicas", f"has {counted(replicas, 'replica')}, more than the {most}"
    elif replicas and replicas != most and stream["retention"] != "limits":
        yield "replicas", f"has {counted(replicas, 'replica')}, which must equal the {most}"
    pending, bound = settings["max_ack_pending"] or 0, limits.get("max_ack_pending") or 0
    if bound > 0 and pending > bound:
        yield "max_ack_pending", f"has max_ack_pending {pending}, more than the {bound}"
    idle, longest = settings["inactive_threshold"] or 0, limits.get("inactive_threshold") or 0
    if longest and idle > longest:
        yield "inactive_threshold", f"is kept {format_duration(idle)}, more than the {format_duration(longest)}"


@rule("HF0516", "deliver-subject-loops", "delivery subject", level="cross-resource")
def deliver_subject_loops(scene: Scene) -> Iterator[Finding]:
    """Push consumer delivers into its own stream.

    What it delivers is stored again and delivered again, without end; a server refuses it (10081).

    Fix: deliver to a subject outside the stream.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

    Bad:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {feed: {ack_policy: explicit, deliver_subject: tasks.feed}}

    Good:
        streams:
          TASKS:
            subjects: ["tasks.>"]
            max_age: 1d
            consumers: {feed: {ack_policy: explicit, deliver_subject: feed.tasks}}
    """
    for consumer in scene.readers:
        target = consumer.settings["deliver_subject"]
        if target and any(collide(target, s) for s in consumer.stream.subjects):
            yield Finding(
                (*consumer.origin, "deliver_subject"),
                f"delivery subject {target} of {consumer.title} is stored by the stream itself",
                "Deliver to a subject outside the stream.",
            )


@rule("HF0517", "deliver-subject-shared", "delivery subject", severity="warning", level="cross-resource")
def deliver_subject_shared(scene: Scene) -> Iterator[Finding]:
    """Push consumer delivers where others listen or store.

    Another stream that takes the subject stores every delivery, tries included. Two consumers that deliver to one
    subject without a group mix their messages for every subscriber.

    Fix: deliver to a subject of its own.

    Source: NATS documentation, Consumers, Push.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {feed: {ack_policy: explicit, deliver_subject: log.tasks}}
          LOG: {subjects: ["log.>"], max_age: 1d}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {feed: {ack_policy: explicit, deliver_subject: feed.tasks}}
          LOG: {subjects: ["log.>"], max_age: 1d}
    """
    seen: dict[tuple[str, str], Consumer] = {}
    for consumer in (c for c in scene.consumers if c.is_push):
        target = consumer.settings["deliver_subject"]
        where = (*consumer.origin, "deliver_subject")
        for subject, stream in scene.stored(consumer.stream.target, target):
            if stream is not consumer.stream:
                yield Finding(
                    where,
                    f"delivery subject {target} of {consumer.title} is stored by {stream.title} as {subject}",
                    "Deliver to a subject that no stream takes.",
                    related=((stream.origin, "the stream that stores it"),),
                )
        first = seen.setdefault((consumer.stream.target, target), consumer)
        if first is not consumer and not consumer.settings["deliver_group"]:
            yield Finding(
                where,
                f"delivery subject {target} of {consumer.title} is also that of {first.title}",
                "Deliver to a subject of its own, or declare deliver_group.",
                related=((first.origin, "the other consumer"),),
            )


def _contradictions(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(option, what is wrong, what mends it), by checkNewConsumerConfig of server/consumer.go."""
    policy = settings["deliver_policy"]
    starts = {"opt_start_seq": "by_start_sequence", "opt_start_time": "by_start_time"}
    for option, needed in starts.items():
        if settings[option] and policy != needed:
            yield option, f"needs deliver_policy {needed}, and it is {policy}", f"Write deliver_policy: {needed}."
        if policy == needed and not settings[option]:
            yield "deliver_policy", f"is {policy}, which needs {option}", f"Declare {option}."
    if policy == "last_per_subject" and not settings["filter_subject"] and not settings["filter_subjects"]:
        yield "deliver_policy", "is last_per_subject, which needs a filter", "Declare filter_subject."
    steps, tries = len(settings["backoff"]), settings["max_deliver"]
    if steps and 0 < tries < steps:
        yield (
            "backoff",
            f"has {counted(steps, 'step')}, more than max_deliver {tries}",
            "Raise max_deliver, or drop steps.",
        )
    if settings["flow_control"] and not settings["idle_heartbeat"] and settings["ack_policy"] != "flow_control":
        yield "flow_control", "needs idle_heartbeat", "Declare idle_heartbeat."
    if settings["priority_policy"] != "none" and not settings["priority_groups"]:
        yield "priority_policy", "needs priority_groups", "Declare priority_groups."
    if settings["priority_timeout"] and settings["priority_policy"] != "pinned_client":
        yield "priority_timeout", "is for priority_policy pinned_client", "Drop it."
    if settings["sample_freq"] and settings["ack_policy"] == "none":
        yield "sample_freq", "samples acknowledgements, and there are none", "Drop it."


@rule("HF0521", "consumer-options-exclude-each-other", "option")
def consumer_options_exclude(scene: Scene) -> Iterator[Finding]:
    """Consumer has options that do not go together.

    A server refuses it: a start needs its policy (10094), last_per_subject a filter (10094), backoff no more steps
    than deliveries (10116), flow control a heartbeat (10108), a priority policy its groups (10159).

    Fix: add what is missing, or drop the option.

    Source: nats-server, server/consumer.go, checkNewConsumerConfig.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, deliver_policy: all, opt_start_seq: 100}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            consumers: {worker: {ack_policy: explicit, deliver_policy: by_start_sequence, opt_start_seq: 100}}
    """
    for consumer in scene.readers:
        for option, problem, mend in _contradictions(consumer.settings):
            yield Finding((*consumer.origin, option), f"option {option} of {consumer.title} {problem}", mend)


@rule("HF0524", "batch-smaller-than-message", "max_bytes of", severity="warning", level="cross-resource")
def batch_smaller_than_message(scene: Scene) -> Iterator[Finding]:
    """Pull consumer's batch cannot hold the largest message.

    A request that asks for at most max_bytes never gets a larger message; one such message blocks the consumer.

    Fix: raise max_bytes of the consumer to max_msg_size of the stream.

    Source: NATS documentation, Consumers, MaxRequestMaxBytes.

    Bad:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            max_msg_size: 1MiB
            consumers: {worker: {ack_policy: explicit, max_bytes: 64KiB}}

    Good:
        streams:
          TASKS:
            subjects: [tasks]
            max_age: 1d
            max_msg_size: 64KiB
            consumers: {worker: {ack_policy: explicit, max_bytes: 1MiB}}
    """
    for consumer in scene.readers:
        batch, largest = consumer.settings["max_bytes"] or 0, consumer.stream.settings["max_msg_size"]
        if 0 < batch < largest:
            yield Finding(
                (*consumer.origin, "max_bytes"),
                f"max_bytes of {consumer.title}, {format_size(batch)}, is less than a message may have, "
                f"{format_size(largest)}",
                f"Write max_bytes: {format_size(largest)} or more.",
            )


@rule("HF0531", "ack-policy-not-stated", "consumer", severity="warning")
def ack_policy_not_stated(scene: Scene) -> Iterator[Finding]:
    """Durable consumer does not say how it acknowledges.

    The server's default is none: what is delivered is done with, whatever becomes of it. For work this is seldom
    meant, and it cannot be changed in place.

    Fix: write `ack_policy: explicit`, or `none` on purpose.

    Source: NATS documentation, Consumers, AckPolicy.

    Bad:
        streams: {TASKS: {subjects: [tasks], max_age: 1d, consumers: {worker: {description: does the work}}}}

    Good:
        streams: {TASKS: {subjects: [tasks], max_age: 1d, consumers: {worker: {ack_policy: explicit}}}}
    """
    for consumer in scene.consumers:
        workqueue = consumer.stream.settings["retention"] == "workqueue"
        if not workqueue and not scene.stated(consumer.record, "ack_policy"):
            yield Finding(
                consumer.origin,
                f"consumer {consumer.name} does not say how it acknowledges, so it does not",
                "Write ack_policy: explicit, or none on purpose.",
                at_key=True,
            )


RULES = (
    consumer_exceeds_stream, deliver_subject_loops, deliver_subject_shared, consumer_options_exclude,
    batch_smaller_than_message, ack_policy_not_stated,
)  # fmt: skip
