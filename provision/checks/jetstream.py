"""Streams as rules see them: buckets and object stores are streams too, with what each holds and who reads it. Pure."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from provision.nats.kinds import bucket, object_store
from provision.nats.kinds import consumer as consumers
from provision.nats.kinds import stream as streams
from provision.nats.kinds.subjects import intersect, subset, transformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Record, Settings

_KINDS = {"stream": streams.KIND, "bucket": bucket.KIND, "object_store": object_store.KIND}
SECOND = 10**9
#: The server's default of ack_wait (server/consumer.go, JsAckWaitDefault).
_ACK_WAIT = 30 * SECOND


class Stream:
    """The stream behind a stream, bucket or object store."""

    def __init__(self, record: Record, scene: Scene) -> None:
        kind = _KINDS[record.address.kind]
        self.record = record
        self.target = record.address.target
        self.name = kind.stream_name(record.address.name)
        self.settings: Settings = kind.as_stream(record.address.name, record.settings)
        self._scene = scene

    @property
    def title(self) -> str:
        return f"{self.record.address.kind.replace('_', ' ')} {self.record.address.name}"

    @property
    def origin(self) -> Pointer:
        return self.record.origin or ()

    @property
    def subjects(self) -> list[str]:
        return list(self.settings["subjects"])

    @cached_property
    def consumers(self) -> list[Consumer]:
        return self._read_by("consumer")

    @cached_property
    def templates(self) -> list[Consumer]:
        return self._read_by("template")

    def _read_by(self, kind: str) -> list[Consumer]:
        stated = self._scene.stated
        return [
            Consumer(r, self, written_as_list=stated(r, "filter_subjects"))
            for r in self._scene.children(self.record, kind)
        ]

    @property
    def max_age(self) -> int:
        return self.settings["max_age"] or 0

    @property
    def duplicate_window(self) -> int:
        """The window that holds: the declared one, else two minutes or max_age if that is shorter; ns."""
        declared = self.settings["duplicate_window"]
        return declared or min(120 * SECOND, self.max_age or 120 * SECOND)

    @property
    def origins(self) -> list[tuple[Pointer, Mapping[str, Any]]]:
        """Mirror and sources with their places, names as in the spec's own section."""
        settings = self.record.settings
        found: list[tuple[Pointer, Mapping[str, Any]]] = []
        if settings.get("mirror"):
            found.append(((*self.origin, "mirror"), settings["mirror"]))
        found += [((*self.origin, "sources", i), s) for i, s in enumerate(settings.get("sources") or ())]
        return found

    def origin_of(self, entry: Mapping[str, Any]) -> Stream | None:
        """The declared stream that a mirror or source entry names; None where it is elsewhere or missing."""
        if entry.get("external"):
            return None
        name = entry["name"]
        if self.record.address.kind == "bucket" and not name.startswith(bucket.PREFIX):
            name = bucket.PREFIX + name
        return self._scene.streams.get((self.target, name))

    @cached_property
    def held(self) -> list[str] | None:
        """Patterns of the subjects under which its messages lie; None where an origin is unknown."""
        return self.held_below(frozenset())

    def held_below(self, above: frozenset[str]) -> list[str] | None:
        """The same, for the streams named in ``above`` that copy this one; a circle is unknown."""
        found: list[str] = []
        transform = self.settings.get("subject_transform") or {}
        for subject in self.subjects:
            image = transformed(subject, transform.get("src") or ">", transform["dest"]) if transform else None
            if image is None or not subset(subject, transform.get("src") or ">"):
                found.append(subject)
            if image is not None:
                found.append(image)
        entries = [*([self.settings["mirror"]] if self.settings.get("mirror") else []), *self.settings["sources"]]
        for entry in entries:
            origin = self._scene.streams.get((self.target, entry["name"])) if not entry.get("external") else None
            inner = origin.held_below(above | {self.name}) if origin and origin.name not in above else None
            if inner is None:
                return None
            found += taken(inner, entry)
        return found


def taken(subjects: list[str], entry: Mapping[str, Any]) -> list[str]:
    """What a mirror or source entry takes of its origin's subjects, after its filter and transforms."""
    transforms = entry.get("subject_transforms") or []
    wanted = entry.get("filter_subject")
    if transforms:
        images = [transformed(s, t.get("src") or ">", t.get("dest") or "") for s in subjects for t in transforms]
        return [i for i in images if i is not None]
    if wanted:
        return [i for s in subjects if (i := intersect(s, wanted)) is not None]
    return subjects


class Consumer:
    """A consumer or template with its stream."""

    def __init__(self, record: Record, stream: Stream, *, written_as_list: bool) -> None:
        self.record = record
        self.stream = stream
        self.written_as_list = written_as_list
        self.settings = record.settings

    @property
    def name(self) -> str:
        return self.record.address.name

    @property
    def title(self) -> str:
        return f"{self.record.address.kind} {self.name} of {self.stream.record.address.name}"

    @property
    def origin(self) -> Pointer:
        return self.record.origin or ()

    @property
    def filters(self) -> list[str]:
        """The subjects it takes; empty means all."""
        return consumers.filters(self.settings)

    @property
    def filter_places(self) -> list[tuple[Pointer, str]]:
        """Each filter with its place."""
        # One filter is held as filter_subject, however it is written; places follow the document.
        is_list = self.settings["filter_subject"] is None or self.written_as_list
        return [
            ((*self.origin, *(("filter_subjects", i) if is_list else ("filter_subject",))), f)
            for i, f in enumerate(self.filters)
        ]

    @property
    def is_push(self) -> bool:
        return bool(self.settings["deliver_subject"])

    @property
    def acknowledges(self) -> bool:
        return self.settings["ack_policy"] in ("all", "explicit")

    @property
    def horizon(self) -> int | None:
        """How long the last delivery of a message may come after the first, ns; None without bound."""
        tries: int = self.settings["max_deliver"]
        if tries <= 0 or not self.acknowledges:
            return None
        backoff: list[int] = self.settings["backoff"]
        if backoff:
            return sum(backoff[min(i, len(backoff) - 1)] for i in range(tries))
        wait: int = self.settings["ack_wait"] or _ACK_WAIT
        return tries * wait
