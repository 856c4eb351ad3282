"""Rules about buckets: their keys, and the journal that carries them to SQL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from provision.checks.rule import Finding, rule
from provision.pools import runtime
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provision.checks.jetstream import Stream
    from provision.checks.scene import Scene
    from provision.spec.record import Record

#: Keys as every client checks them (nats.go, jetstream/kv.go, validKeyRe); ``{…}`` stands for a value.
_KEY = re.compile(r"^[-/_=.a-zA-Z0-9]+$")
_HOLE = re.compile(r"\{[^{}]*\}")


@rule("HF0532", "kv-key-charset", "key")
def key_charset(scene: Scene) -> Iterator[Finding]:
    """Key pattern holds a character that keys cannot have.

    Keys are made of letters, digits and `- / _ = .`, and neither begin nor end with a dot; clients refuse others. A
    colon is the usual slip.

    Fix: separate the parts by dots.

    Source: NATS documentation, Key/Value Store, keys. Mistakes: SB-60.

    Bad:
        buckets: {STATE: {ttl: 30m, keys: ["agent:{id}"]}}

    Good:
        buckets: {STATE: {ttl: 30m, keys: ["agent.{id}"]}}
    """
    for record in scene.of("bucket"):
        for i, pattern in enumerate(record.settings["keys"]):
            key = _HOLE.sub("x", pattern).replace("*", "x").replace(">", "x")
            if not _KEY.match(key) or key.startswith(".") or key.endswith(".") or ".." in key:
                mended = re.sub(r"\.+", ".", re.sub(r"[^-/_=.a-zA-Z0-9{}*>]", ".", pattern)).strip(".")
                yield Finding(
                    (*(record.origin or ()), "keys", i),
                    f"key {pattern} of bucket {record.address.name} holds what keys cannot have",
                    f"Write {mended}." if mended else "Use letters, digits and - / _ = . only.",
                )


_SECTIONS = {
    runtime.BUCKET: "buckets",
    runtime.STREAM: "streams",
    runtime.CONSUMER: "consumers",
    runtime.TABLE: "tables",
    runtime.FUNCTION: "functions",
}


@rule("HF0537", "runtime-names-missing-object", "runtime name", level="cross-resource")
def runtime_names_missing_object(scene: Scene) -> Iterator[Finding]:
    """Runtime refers to an object under a name that nothing bears.

    The runtime finds its objects through the names in section `runtime`. A name with a prefix that the object
    does not have, or an older one, shows at run time only.

    Fix: write the declared name.

    Source: Holdfast, contract. Mistakes: SB-65, SB-26.

    Bad:
        buckets: {STATE: {ttl: 30m}}
        runtime: {state_bucket: agent_STATE}

    Good:
        buckets: {STATE: {ttl: 30m}}
        runtime: {state_bucket: STATE}
    """
    known: dict[str, set[str]] = {
        runtime.BUCKET: {r.address.name for r in scene.of("bucket")},
        runtime.STREAM: {r.address.name for r in scene.of("stream")},
        runtime.CONSUMER: {r.address.name for r in scene.of("consumer")},
        runtime.TABLE: {t.qualified for t in scene.tables.values()},
        runtime.FUNCTION: {name for _, name in scene.functions},
    }
    kinds = {field.name: field.note for field in runtime.FIELDS}
    for record in scene.of(runtime.KIND.name):
        role, name = record.address.name, record.settings["value"]
        kind = kinds.get(role)
        if kind in known and name not in known[kind] and not _is_written(scene, _SECTIONS[kind], name):
            yield Finding(
                record.origin or (),
                f"runtime name {name}, its {role}, is no declared {kind}",
                nearest(name, known[kind], f"Declare it under {_SECTIONS[kind]}."),
            )


def _is_written(scene: Scene, section: str, name: str) -> bool:
    if section in ("tables", "functions"):
        schema, _, bare = name.partition(".")
        return scene.written("schemas", schema, section, bare)
    return scene.written(section, name)


def _journals(scene: Scene) -> Iterator[tuple[Record, Stream]]:
    """Buckets with the journal streams that they name and that are declared."""
    for record in scene.of("bucket"):
        name = record.settings["journal"]
        stream = scene.streams.get((record.address.target, name)) if name else None
        if stream is not None:
            yield record, stream


@rule("HF0540", "journal-not-declared", "journal", level="cross-resource")
def journal_not_declared(scene: Scene) -> Iterator[Finding]:
    """Bucket names a journal that is not declared, or that copies another bucket.

    The journal of a flushed bucket is a stream whose one source is the bucket's own stream, `KV_NAME`: what it holds
    is what SQL does not hold yet.

    Fix: declare it with `sources: [{name: KV_NAME}]`, without subjects.

    Source: Holdfast, runtime library. Mistakes: SB-85, SB-88.

    Bad:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}

    Good:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: new
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}
    """
    for record in scene.of("bucket"):
        name = record.settings["journal"]
        where = (*(record.origin or ()), "journal")
        stream = scene.streams.get((record.address.target, name)) if name else None
        if name and stream is None and not scene.written("streams", name):
            yield Finding(
                where,
                f"journal {name} of bucket {record.address.name} is not declared",
                nearest(name, (r.address.name for r in scene.of("stream")), f"Declare the stream {name}."),
            )
        elif stream is not None:
            sources = [s["name"] for s in stream.settings["sources"]]
            if sources != [f"KV_{record.address.name}"] or stream.subjects:
                yield Finding(
                    (*stream.origin, "sources"),
                    f"journal {name} does not copy exactly the bucket {record.address.name}",
                    f"Write sources: [{{name: KV_{record.address.name}}}], without subjects.",
                    related=((where, "the bucket names it"),),
                )


#: code, slug, option, test that it is right, sentence, remedy: what the journal stream must be.
_JOURNAL: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("retention", lambda v: v == "workqueue", "keeps what is flushed: its retention is not workqueue",
     "Write retention: workqueue."),
    ("discard", lambda v: v == "new", "discards old entries when it is full, unflushed ones", "Write discard: new."),
    ("max_age", lambda v: not v, "drops entries by age before they are flushed", "Leave max_age out."),
    ("allow_msg_ttl", lambda v: not v, "lets entries expire before they are flushed", "Leave allow_msg_ttl out."),
    ("allow_rollup_hdrs", lambda v: not v, "lets a rollup empty it", "Leave allow_rollup_hdrs out."),
    ("max_bytes", lambda v: v > 0, "has no bound, so nothing slows writers down", "Declare max_bytes."),
)  # fmt: skip


@rule("HF0541", "journal-loses-entries", "journal", level="cross-resource")
def journal_loses_entries(scene: Scene) -> Iterator[Finding]:
    """Journal can lose entries, or never lets them go.

    A journal holds acknowledged writes until SQL has them. It is a work queue (an acknowledged entry goes), refuses
    new entries when full (`discard: new`) and has a bound in bytes, so that writers slow down; max_age, message
    time to live and rollups would drop what was not flushed.

    Fix: write the option as the message says.

    Source: Holdfast, runtime library; verified on nats-server 2.11 to 2.15. Mistakes: SB-85, SB-88.

    Bad:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: old
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}

    Good:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: new
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}
    """
    for record, stream in _journals(scene):
        for option, is_right, sentence, mend in _JOURNAL:
            if not is_right(stream.settings[option]):
                yield Finding(
                    (*stream.origin, option),
                    f"journal {stream.name} of bucket {record.address.name} {sentence}",
                    mend,
                    related=(((*(record.origin or ()), "journal"), "the bucket names it"),),
                )


@rule("HF0542", "journaled-bucket-can-be-purged", "journaled bucket", level="cross-resource")
def journaled_bucket_can_be_purged(scene: Scene) -> Iterator[Finding]:
    """Bucket with a journal writes what the journal cannot take.

    A purge is a rollup: copied into the journal it removes entries that were not flushed. A marker of an expired key
    (limit_marker_ttl) carries a rollup too and stalls the journal's source. Deletes are fine.

    Fix: write `allow_rollup_hdrs: false` and leave limit_marker_ttl out.

    Source: Holdfast, runtime library; verified on nats-server 2.11 to 2.15. Mistakes: SB-85.

    Bad:
        buckets: {STATE: {ttl: 30m, journal: FLUSH}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: new
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}

    Good:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: new
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}
    """
    for record, stream in _journals(scene):
        for option, mend in (
            ("allow_rollup_hdrs", "Write allow_rollup_hdrs: false."),
            ("limit_marker_ttl", "Leave limit_marker_ttl out."),
        ):
            if record.settings[option]:
                yield Finding(
                    (*(record.origin or ()), option),
                    f"journaled bucket {record.address.name} has {option}, which {stream.name} cannot take",
                    mend,
                    related=((stream.origin, "the journal"),),
                )


@rule("HF0543", "journal-without-flusher", "journal", severity="warning", level="cross-resource")
def journal_without_flusher(scene: Scene) -> Iterator[Finding]:
    """Nobody reads the journal.

    Without a durable consumer nothing is flushed; the journal fills up, and then the bucket's writers stop.

    Fix: declare a consumer with `ack_policy: explicit` and no bound of deliveries.

    Source: Holdfast, runtime library. Mistakes: SB-88.

    Bad:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams: {FLUSH: {sources: [{name: KV_STATE}], retention: workqueue, discard: new, max_bytes: 1GiB}}

    Good:
        buckets: {STATE: {ttl: 30m, journal: FLUSH, allow_rollup_hdrs: false}}
        streams:
          FLUSH:
            sources: [{name: KV_STATE}]
            retention: workqueue
            discard: new
            max_bytes: 1GiB
            consumers: {flusher: {ack_policy: explicit}}
    """
    for record, stream in _journals(scene):
        if not stream.consumers:
            yield Finding(
                stream.origin,
                f"journal {stream.name} of bucket {record.address.name} has no consumer that flushes it",
                "Declare consumers: {flusher: {ack_policy: explicit}}.",
                at_key=True,
            )
        for consumer in stream.consumers:
            if consumer.settings["max_deliver"] > 0:
                yield Finding(
                    (*consumer.origin, "max_deliver"),
                    f"journal {stream.name} gives an entry up after {consumer.settings['max_deliver']} tries",
                    "Leave max_deliver out: an entry stays until SQL has it.",
                )


RULES = (
    key_charset, runtime_names_missing_object, journal_not_declared, journal_loses_entries,
    journaled_bucket_can_be_purged, journal_without_flusher,
)  # fmt: skip
