"""Durable consumers, and templates of ephemeral ones. Pure.

Rules: nats-server ``server/consumer.go`` (setConsumerConfigDefaults, checkNewConsumerConfig, updateConfig).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from provision.nats.kinds import fields as t
from provision.nats.kinds import reading, requests
from provision.nats.kinds.backing import is_recreated
from provision.nats.kinds.subjects import collide
from provision.nats.kinds.wire import (
    Json,
    Note,
    Version,
    align,
    from_wire,
    local_fields,
    note_of,
    restore,
    to_wire,
    unsupported_fields,
    utc_time,
)
from provision.spec import fields as f
from provision.spec.change import Api, Change, Context, Draft, Hazard, Impact, Lowered
from provision.spec.fields import DURATION, Field, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import Nature, PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

_NEVER = Note("never")
_SAMPLE = Type({"anyOf": [{"type": "string", "pattern": r"^(\d|[1-9]\d|100)%?$"},
                          {"type": "integer", "minimum": 0, "maximum": 100}]},
               lambda value: _sample(str(value)))  # fmt: skip
#: Values of options that came later than the option.
_VALUES_SINCE: dict[tuple[str, str], Version] = {
    ("ack_policy", "flow_control"): t.V2_14,
    ("priority_policy", "prioritized"): t.V2_12,
}


def _sample(value: str) -> str | None:
    percent = value.removesuffix("%")
    return percent if percent not in ("", "0") else None


FIELDS = FieldTable(
    t.description(),
    Field(
        name="deliver_policy", default="all", note=_NEVER, doc="Where delivery starts.",
        type=f.enum("all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject"),
    ),
    Field(name="opt_start_seq", type=f.integer(0, t.UINT64_MAX), default=0, note=_NEVER, doc="First one."),
    Field(
        name="opt_start_time", type=t.UTC_TIME, note=Note("never", decode=utc_time),
        doc="Time of the first message.",
    ),
    Field(
        name="ack_policy", type=f.enum("none", "all", "explicit", "flow_control"), default="none",
        note=_NEVER,
        doc="What an acknowledgement means; none is the server's own default.",
    ),
    Field(
        name="ack_wait", type=DURATION, note=Note(absent=0),
        doc="Time until a message is delivered again; by default 30s, or the first step of backoff.",
    ),
    Field(name="max_deliver", type=t.limit(), default=-1, doc="Most deliveries of one message."),
    Field(
        name="backoff", type=f.list_of(DURATION), default=[],
        doc="Waits between deliveries; the first one is ack_wait.",
    ),
    Field(name="filter_subject", type=t.SUBJECT, doc="Deliver only these subjects.",
          note=Note(decode=lambda value: value or None)),
    Field(
        name="filter_subjects", type=f.list_of(t.SUBJECT), default=[], note=Note(unordered=True),
        doc="Deliver only these subjects, several patterns.",
    ),
    Field(
        name="replay_policy", type=f.enum("instant", "original"), default="instant", note=_NEVER,
        doc="As fast as possible, or at the pace of storing.",
    ),
    Field(
        name="rate_limit_bps", type=f.integer(0, t.UINT64_MAX), default=0,
        doc="Bits per second, push consumers only.",
    ),
    Field(
        name="sample_freq", type=_SAMPLE, doc="Percent of acknowledgements that are reported.",
        note=Note(decode=lambda value: _sample(str(value))),
    ),
    Field(
        name="max_waiting", type=f.integer(0), note=Note("never", absent=0),
        doc="Most waiting pull requests; 512 where nothing is said.",
    ),
    Field(
        name="max_ack_pending", type=f.integer(-1), note=Note(absent=0),
        doc="Most unacknowledged messages, -1 without bound; 1000 where nothing is said.",
    ),
    Field(name="headers_only", type=f.BOOL, default=False, doc="Deliver headers and the size, no body."),
    Field(name="max_batch", type=f.integer(0), default=0, doc="Most messages of one pull request."),
    Field(name="max_expires", type=t.duration(t.MILLISECOND), default=0, doc="Longest pull request."),
    Field(
        name="max_bytes", type=Type(f.SIZE.schema, f.SIZE.parse), default=0,
        doc="Most bytes of one pull request.",
    ),
    Field(
        name="inactive_threshold", type=DURATION, default=0,
        doc="Remove the consumer when nobody used it for so long.",
    ),
    Field(
        name="replicas", wire="num_replicas", type=f.integer(0, 5), default=0,
        doc="Copies of its state; 0 takes the stream's.",
    ),
    Field(
        # Refused since 2.14.4; older servers keep the storage and only report the new value.
        name="mem_storage", type=f.BOOL, default=False, doc="Keep its state in memory.",
        note=Note("never", before="free", changed_in=(2, 14, 4)),
    ),
    Field(name="deliver_subject", type=t.SUBJECT, doc="Push to this subject; else clients pull."),
    Field(name="deliver_group", type=f.STRING, doc="Queue group that shares a push consumer."),
    Field(
        name="idle_heartbeat", type=t.duration(100 * t.MILLISECOND), default=0, note=_NEVER,
        doc="Heartbeat of an idle push consumer.",
    ),
    Field(name="flow_control", type=f.BOOL, default=False, note=_NEVER, doc="Pace a push consumer."),
    Field(
        name="priority_policy", default="none", since=t.V2_11,
        type=f.enum("none", "overflow", "pinned_client", "prioritized"),
        doc="Which of several pulling clients is served.",
    ),
    Field(
        name="priority_groups", type=f.list_of(f.text(r"^[a-zA-Z0-9/_=-]{1,16}$")), default=[], since=t.V2_11,
        doc="Groups that pull requests name.",
    ),
    Field(
        name="priority_timeout", type=DURATION, default=0, since=t.V2_11,
        doc="When a pinned client that is silent loses its pin; 2m where nothing is said.",
    ),
    Field(
        name="pause_until", type=t.UTC_TIME, since=t.V2_11, note=Note("pause", decode=utc_time),
        doc="Deliver nothing before this time.",
    ),
    t.metadata(),
    Field(
        name="dead_letter", type=f.STRING, note=Note(local=True),
        doc="The stream that captures what max_deliver gave up, or none.",
    ),
)  # fmt: skip


def filters(settings: Mapping[str, Any]) -> list[str]:
    """The subjects a consumer takes; empty means all."""
    single = settings["filter_subject"]
    return [single] if single is not None else list(settings["filter_subjects"])


def normalise(settings: Settings) -> Settings:
    """Write one filter as ``filter_subject``, several as ``filter_subjects``: both mean the same."""
    if settings["filter_subject"] is None and len(settings["filter_subjects"]) == 1:
        settings["filter_subject"], settings["filter_subjects"] = settings["filter_subjects"][0], []
    return settings


class ConsumerKind(PlainKind):
    """A durable consumer, pull or push."""

    name = "consumer"
    system = "nats"
    nature: Nature = "live"
    fields = FIELDS
    spec_only = local_fields(FIELDS)

    def wire(self, name: str, settings: Mapping[str, Any]) -> Json:
        """Give the consumer configuration as the server's JSON, without defaults and our own metadata."""
        return {"durable_name": name, "name": name, **to_wire(FIELDS, settings)}

    def unwire(self, name: str, config: Mapping[str, Any]) -> tuple[Settings, Json]:
        """Give settings from the server's JSON, and what we do not model."""
        settings, unmodelled = from_wire(FIELDS, config)
        for key in ("durable_name", "name"):
            unmodelled.pop(key, None)
        return normalise(settings), unmodelled

    def unsupported(self, record: Record, facts: Facts) -> list[tuple[str, Version]]:
        """The wanted options and values that the target's server lacks, with the first version."""
        found = unsupported_fields(FIELDS, record.settings, facts)
        for (field, value), since in _VALUES_SINCE.items():
            if record.settings[field] == value and facts.version and facts.version < since:
                found = [entry for entry in found if entry[0] != field] + [(field, since)]
        return found

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        if desired is None:
            return desired, live
        want = settled(desired.settings, facts)
        if live is not None:
            desired = requests.remarked(desired, facts)
            want["metadata"] = desired.settings["metadata"]
            have = align(FIELDS, want, live.settings)
            have |= {name: want[name] for name in self.spec_only}
            if _is_over(want["pause_until"], clock) and _is_over(have["pause_until"], clock):
                have["pause_until"] = want["pause_until"]
            live = live._replace(settings=have)
        return desired._replace(settings=want), live

    def impact(self, change: Change, facts: Facts) -> Impact:
        if change.before is None or change.after is None:
            return "none"
        return "replace" if refused(change.before.settings, change.after.settings, facts.version) else "none"

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered(tuple(_Lowering(self, change, context).run()), (change.address,))


class TemplateKind(ConsumerKind):
    """What clients create an ephemeral consumer from; it lives in the contract and never on a server."""

    name = "template"
    nature: Nature = "declared"

    def lower(self, change: Change, context: Context) -> Lowered:
        return Lowered((), (change.address,))


KIND = ConsumerKind()
TEMPLATE = TemplateKind()


def read(
    kind: ConsumerKind,
    node: Mapping[str, Any],
    stream: Settings,
    parent: Address,
    pointer: Pointer,
    reader: Reader,
) -> Iterator[Record]:
    """Give the consumers (or templates) under a stream, with the defaults that the stream's limits set."""
    limits = stream["consumer_limits"]
    for name, body in node.items():
        settings = reading.parse(FIELDS, body or {}, (*pointer, name), reader)
        if settings is None:
            continue
        settings["max_ack_pending"] = settings["max_ack_pending"] or limits["max_ack_pending"] or None
        settings["inactive_threshold"] = settings["inactive_threshold"] or limits["inactive_threshold"]
        address = parent.child(kind.name, name)
        yield Record(address, normalise(settings), parent=parent, refs=(parent,), origin=(*pointer, name))


def settled(settings: Mapping[str, Any], facts: Facts) -> Settings:
    """Fill in what the server computes and forces."""
    want = dict(settings)
    acknowledged = want["ack_policy"] != "none"
    if want["backoff"]:
        want["ack_wait"] = want["backoff"][0]
    elif not want["ack_wait"]:
        want["ack_wait"] = 30 * t.SECOND if want["ack_policy"] in ("all", "explicit") else 0
    if not want["max_waiting"]:
        want["max_waiting"] = 512 if want["deliver_subject"] is None else 0
    if not want["max_ack_pending"]:
        bounds = [1000, facts.options.get("max_ack_pending") or 0]
        want["max_ack_pending"] = min(b for b in bounds if b > 0) if acknowledged else 0
    if want["priority_policy"] == "pinned_client" and not want["priority_timeout"]:
        want["priority_timeout"] = t.TWO_MINUTES
    if want["ack_policy"] == "flow_control":
        want |= {"flow_control": True, "idle_heartbeat": t.SECOND}
    return want


def refused(before: Mapping[str, Any], after: Mapping[str, Any], version: Version) -> list[str]:
    """The fields whose change a server of this version refuses to make in place."""
    found = []
    for field in FIELDS:
        old, new = before.get(field.name), after.get(field.name)
        if old == new or note_of(field).local:
            continue
        if note_of(field).mutability(version) == "never" or (field.name == "deliver_subject" and None in (old, new)):
            found.append(field.name)
    return found


def _is_over(time: str | None, clock: Any) -> bool:
    """Whether a pause has no effect any more; ``clock`` is the time of the plan, if it is one."""
    if time is None:
        return True
    return isinstance(clock, datetime) and datetime.fromisoformat(time) <= clock


class _Lowering:
    """The steps for one change of one consumer."""

    def __init__(self, kind: ConsumerKind, change: Change, context: Context) -> None:
        self.kind = kind
        self.change = change
        self.context = context
        self.address = change.address
        self.name = change.address.name
        parent = change.record.parent
        assert parent is not None
        self.parent = parent
        self.stream = parent.name
        stream = context.live.get(parent) or context.desired.get(parent)
        self.retention = stream.settings["retention"] if stream is not None else "limits"

    def run(self) -> list[Draft]:
        action = self.change.action
        if is_recreated(self.parent, self.context):
            return [] if action == "delete" else [self._create()]
        if action == "rebuild":
            return self._update() if self.change.fields else []
        if action == "create":
            return [self._create()]
        if action == "delete":
            return [self._drop("delete")]
        if action == "replace":
            return [self._drop("replace"), self._create()]
        return self._update()

    def _request(self, settings: Mapping[str, Any], action: str) -> Api:
        config = requests.marked(self.kind.wire(self.name, settings), self.context.desired.name)
        if action == "update":
            config.pop("pause_until", None)  # an update ignores it; CONSUMER.PAUSE is its own request
            unmodelled = self.context.facts(self.address).options.get("unmodelled", {})
            restore(config, unmodelled.get(str(self.address), {}))
        body = {"stream_name": self.stream, "config": config, "action": action}
        return Api(
            f"$JS.API.CONSUMER.CREATE.{self.stream}.{self.name}", body,
            {"stream": self.stream, "consumer": self.name},
        )  # fmt: skip

    def _create(self) -> Draft:
        assert self.change.after is not None
        settings = self.change.after.settings
        return Draft(
            self.address, "create", self._request(settings, "create"),
            f"create consumer {self.name} on stream {self.stream}",
            makes=(self.address, *self._contested(filters(settings))), needs=(self.parent,),
            fresh=True, transactional=False, undo=Api(f"$JS.API.CONSUMER.DELETE.{self.stream}.{self.name}"),
        )  # fmt: skip

    def _drop(self, action: str) -> Draft:
        assert self.change.before is not None
        return Draft(
            self.address, action, Api(f"$JS.API.CONSUMER.DELETE.{self.stream}.{self.name}"),
            f"delete consumer {self.name} of stream {self.stream}", key="" if action == "delete" else "drop",
            destroys=(self.address, *self._claims(filters(self.change.before.settings))),
            releases=(self.parent,), hazards=(self._hazard(action),), transactional=False,
        )  # fmt: skip

    def _hazard(self, action: str) -> Hazard:
        """What forgetting the delivery state costs."""
        probe = {"stream": self.stream, "consumer": self.name}
        after = self.change.after
        if self.retention == "interest":
            return Hazard("data_loss", "messages that only this consumer waits for are deleted",
                          unit="messages", probe=probe)  # fmt: skip
        if action == "delete":
            return Hazard("delete", "its position and its unacknowledged messages are forgotten",
                          unit="messages", probe=probe)  # fmt: skip
        if after is not None and after.settings["deliver_policy"] != "all":
            return Hazard("data_loss", "starts again after messages that it has not finished",
                          unit="messages", probe=probe)  # fmt: skip
        return Hazard("downtime", "starts again: what it has finished is delivered once more",
                      unit="messages", probe=probe)  # fmt: skip

    def _update(self) -> list[Draft]:
        before, after = self.change.before, self.change.after
        assert before is not None
        assert after is not None
        drafts: list[Draft] = []
        if set(self.change.fields) != {"pause_until"}:
            given_up = [s for s in filters(before.settings) or [">"] if s not in (filters(after.settings) or [">"])]
            drafts.append(Draft(
                self.address, "update", self._request(after.settings, "update"),
                f"update consumer {self.name} of stream {self.stream}",
                makes=(self.address, *self._contested(filters(after.settings))),
                destroys=self._claims(given_up), needs=(self.parent,),
                hazards=self._narrowed(before.settings, after.settings), transactional=False,
                undo=self._request(before.settings, "update"),
            ))  # fmt: skip
        if before.settings["pause_until"] != after.settings["pause_until"]:
            drafts.append(self._pause(before.settings["pause_until"], after.settings["pause_until"], drafts))
        return drafts

    def _pause(self, before: str | None, after: str | None, earlier: list[Draft]) -> Draft:
        subject = f"$JS.API.CONSUMER.PAUSE.{self.stream}.{self.name}"
        verb = f"pause consumer {self.name} until {after}" if after else f"resume consumer {self.name}"
        return Draft(
            self.address, "update", Api(subject, {"pause_until": after} if after else {}), verb,
            key="pause" if earlier else "", follows=("",) if earlier else (), needs=(self.parent,),
            transactional=False, undo=Api(subject, {"pause_until": before} if before else {}),
        )  # fmt: skip

    def _narrowed(self, before: Settings, after: Settings) -> tuple[Hazard, ...]:
        if self.retention != "interest" or filters(before) == filters(after):
            return ()
        detail = "messages that no consumer waits for after the change of filter are deleted (at most this many)"
        probe = {"stream": self.stream, "consumer": self.name}
        return (Hazard("data_loss", detail, unit="messages", probe=probe),)

    def _claims(self, taken: list[str]) -> tuple[Address, ...]:
        """Sort points of filters; only work queues refuse two consumers of one subject (10100)."""
        if self.retention != "workqueue":
            return ()
        return tuple(self.parent.child("filter", subject) for subject in taken or [">"])

    def _contested(self, wanted: list[str]) -> tuple[Address, ...]:
        """The filters that other consumers of the work queue give up in this plan and this one takes."""
        if self.retention != "workqueue":
            return ()
        found: list[str] = []
        for other, change in self.context.changes.items():
            if other == self.address or other.kind != "consumer" or change.before is None:
                continue
            if change.before.parent == self.parent:
                kept = filters(change.after.settings) or [">"] if change.after and change.action == "update" else []
                given_up = [s for s in filters(change.before.settings) or [">"] if s not in kept]
                found.extend(s for s in given_up if any(collide(s, w) for w in wanted or [">"]))
        return tuple(self.parent.child("filter", s) for s in dict.fromkeys(found))
