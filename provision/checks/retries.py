"""Rules about redelivery: how long it goes on, what it duplicates, who hears of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.nats.kinds.subjects import collide, covered
from provision.spec.nearest import nearest
from provision.spec.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene


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
    for consumer in scene.readers:
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

    Source: NATS documentation, JetStream, Message Deduplication.

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
    for consumer in scene.readers:
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


RULES = (redelivery_outlives_stream, duplicate_window_below_retries, no_dead_letter, dead_letter_not_declared)
