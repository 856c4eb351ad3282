"""What streams, buckets and object stores share: each is a JetStream stream. Pure.

A kind says how its settings read as stream settings (``as_stream``) and back (``from_stream``); defaults,
mutability and requests are then the stream's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from provision.nats.kinds import loss, requests
from provision.nats.kinds.fields import TWO_MINUTES
from provision.nats.kinds.stream_fields import OPTIONS
from provision.nats.kinds.wire import (
    Json,
    Version,
    align,
    from_wire,
    note_of,
    restore,
    to_wire,
    unsupported_fields,
)
from provision.spec.change import Api, Change, Context, Draft, Impact, Lowered
from provision.spec.ident import Address
from provision.spec.kind import PlainKind
from provision.spec.record import Facts, Record, Settings


class BackedKind(PlainKind):
    """A kind whose objects are JetStream streams."""

    system = "nats"
    #: Deleting a stream deletes its consumers.
    takes_children = True

    def as_stream(self, name: str, settings: Mapping[str, Any]) -> Settings:
        """Give the stream settings behind an object's settings."""
        raise NotImplementedError

    def from_stream(self, name: str, stream: Mapping[str, Any]) -> Settings:
        """Give the object's settings that stand for the stream settings."""
        raise NotImplementedError

    def stream_name(self, name: str) -> str:
        """The name of the stream behind an object."""
        raise NotImplementedError

    def wire(self, name: str, settings: Mapping[str, Any]) -> Json:
        """Give the stream configuration as the server's JSON, without defaults and our own metadata."""
        return {"name": self.stream_name(name), **to_wire(OPTIONS, self.as_stream(name, settings))}

    def unwire(self, name: str, config: Mapping[str, Any]) -> tuple[Settings, Json]:
        """Give settings from the server's JSON, and what we do not model (nested keys with dots)."""
        stream, unmodelled = from_wire(OPTIONS, config)
        unmodelled.pop("name", None)
        placement = stream["placement"]
        if placement is not None and not any(placement.values()):
            stream["placement"] = None
        return self.from_stream(name, stream), unmodelled

    def unsupported(self, record: Record, facts: Facts) -> list[tuple[str, Version]]:
        """The wanted options that the target's server version lacks, with the first version that has them."""
        stream = self.as_stream(record.address.name, record.settings)
        return unsupported_fields(OPTIONS, stream, facts)

    def unplaced(self, record: Record, facts: Facts) -> str | None:
        """Why the live servers cannot hold the object, in words; None where they can or nothing is known of them."""
        hosts = facts.options.get("hosts")
        if hosts is None:
            return None
        stream = self.as_stream(record.address.name, record.settings)
        placement = stream["placement"] or {"cluster": None, "tags": []}
        wanted = {tag.lower() for tag in placement["tags"]}
        fitting = Counter(
            host["cluster"]
            for host in hosts
            if wanted <= {tag.lower() for tag in host["tags"]} and placement["cluster"] in (None, host["cluster"])
        )
        found = max(fitting.values(), default=0)
        if found >= stream["replicas"]:
            return None
        where = [f"cluster {placement['cluster']}"] if placement["cluster"] else []
        where += [f"tags {', '.join(placement['tags'])}"] if wanted else []
        shown = f" with {' and '.join(where)}" if where else ""
        return f"wants {stream['replicas']} servers{shown}; {found} of {len(hosts)} live servers fit"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        if desired is None:
            return desired, live
        name = desired.address.name
        have = self.as_stream(name, live.settings) if live is not None else None
        want = settled(self.as_stream(name, desired.settings), have, facts)
        spec_only = {name: desired.settings[name] for name in self.spec_only}
        desired = desired._replace(settings={**self.from_stream(name, want), **spec_only})
        if live is not None and have is not None:
            aligned = self.from_stream(name, align(OPTIONS, want, have))
            live = live._replace(settings={**aligned, **spec_only})
            desired = requests.remarked(desired, facts)
        return desired, live

    def impact(self, change: Change, facts: Facts) -> Impact:
        if change.before is None or change.after is None:
            return "none"
        name = change.address.name
        before = self.as_stream(name, change.before.settings)
        after = self.as_stream(name, change.after.settings)
        return "replace" if refused(before, after, facts.version) else "none"

    def lower(self, change: Change, context: Context) -> Lowered:
        return _Lowering(self, change, context).run()


def settled(stream: Settings, live: Mapping[str, Any] | None, facts: Facts) -> Settings:
    """Fill in what the server computes and forces, so that the result equals the live stream after an apply.

    Rules: nats-server ``server/stream.go`` (checkStreamCfgLocked, configUpdateCheckLocked).
    """
    stream = dict(stream)
    copies = stream["mirror"] is not None or bool(stream["sources"])
    if stream["subject_delete_marker_ttl"]:
        stream |= {"allow_msg_ttl": True}
        if not stream["allow_rollup_hdrs"]:
            stream |= {"allow_rollup_hdrs": True, "deny_purge": False}
    if stream["allow_msg_schedules"] and not stream["allow_rollup_hdrs"]:
        stream |= {"allow_rollup_hdrs": True, "deny_purge": False}
    if not stream["subjects"] and not copies and live is not None and live["mirror"] is not None:
        stream["subjects"] = list(live["subjects"])
    if stream["duplicate_window"] in (None, 0):
        stream["duplicate_window"] = default_duplicate_window(stream, facts)
    stream["mirror_direct"] = _mirror_direct(stream, live)
    if stream["sealed"]:
        stream |= {"max_age": 0, "discard": "new", "deny_delete": True, "deny_purge": True}
        stream["allow_rollup_hdrs"] = False
    return stream


def default_duplicate_window(stream: Mapping[str, Any], facts: Facts) -> int:
    """The window the server chooses: two minutes within max_age and its own limit, none for copies.

    Before 2.14 only mirrors had none.
    """
    if stream["mirror"] is not None or (stream["sources"] and facts.version >= (2, 14, 0)):
        return 0
    window = min(TWO_MINUTES, facts.options.get("max_duplicate_window") or TWO_MINUTES)
    return min(window, stream["max_age"] or window)


def _mirror_direct(stream: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Where nothing is said, the server takes the origin's allow_direct."""
    if stream["mirror_direct"] is None and stream["mirror"] is not None and live is not None:
        return bool(live["mirror_direct"])
    return bool(stream["mirror_direct"])


def refused(before: Mapping[str, Any], after: Mapping[str, Any], version: Version) -> list[str]:
    """The fields whose change a server of this version refuses to make in place."""
    found = []
    for field in OPTIONS:
        old, new = before.get(field.name), after.get(field.name)
        if old == new:
            continue
        rule = note_of(field).mutability(version)
        if (
            rule == "never"
            or (rule == "enable" and old)
            or (rule == "promote" and new is not None)
            or (field.name == "retention" and "workqueue" in (old, new))
        ):
            found.append(field.name)
    return found


def is_recreated(address: Address, context: Context) -> bool:
    """Whether this plan deletes and creates the stream behind an address."""
    change = context.changes.get(address)
    if change is None or change.after is None:
        return False
    if change.action == "rebuild":  # a mirror cannot follow an origin that starts again
        return change.after.settings.get("mirror") is not None
    return change.action in ("replace", "create")


class _Lowering:
    """The steps for one change of one stream-backed object."""

    def __init__(self, kind: BackedKind, change: Change, context: Context) -> None:
        self.change = change
        self.context = context
        self.address = change.address
        self.facts = context.facts(change.address)
        self.stream_name = kind.stream_name(change.address.name)
        self.before, self.after = (
            kind.as_stream(change.address.name, side.settings) if side is not None else None
            for side in (change.before, change.after)
        )
        self.taken = requests.contested(self.after["subjects"], self.address, context) if self.after else ()

    def run(self) -> Lowered:
        action: str = self.change.action
        drafts: list[Draft] = []
        gone: list[Address] = []
        if action == "rebuild" and not is_recreated(self.address, self.context):
            # A source goes on with an origin that starts again; only its own differences are left.
            action = "update" if self.change.fields else "none"
        if action in ("delete", "replace", "rebuild"):
            drafts.append(self._drop())
            # Templates lie below a stream too, but in the contract, which takes care of them.
            changes = self.context.changes
            gone = [r.address for r in self.context.live.children(self.address, "consumer") if r.address in changes]
            gone = [a for a in gone if changes[a].action == "delete"]
        if action in ("create", "replace", "rebuild"):
            drafts.extend(self._create())
        elif action == "update":
            drafts.extend(self._update())
        return Lowered(tuple(drafts), tuple(dict.fromkeys([self.address, *gone])))

    def _body(self, stream: Settings) -> Json:
        config = {"name": self.stream_name, **to_wire(OPTIONS, stream)}
        return requests.marked(config, self.context.desired.name)

    def _create(self) -> list[Draft]:
        assert self.after is not None
        start = {**self.after, "sealed": False}
        create = Draft(
            self.address, "create",
            Api(f"$JS.API.STREAM.CREATE.{self.stream_name}", self._body(start), self._settle(start)),
            f"create stream {self.stream_name}",
            makes=(self.address, *self.taken), needs=self.change.record.refs,
            fresh=True, transactional=False, undo=Api(f"$JS.API.STREAM.DELETE.{self.stream_name}"),
        )  # fmt: skip
        if not self.after["sealed"]:
            return [create]
        return [create, self._seal()]

    def _seal(self) -> Draft:
        assert self.after is not None
        return Draft(
            self.address, "update",
            Api(f"$JS.API.STREAM.UPDATE.{self.stream_name}", self._body(self.after)),
            f"seal stream {self.stream_name}", key="seal", follows=("",), transactional=False,
        )  # fmt: skip

    def _drop(self) -> Draft:
        action = "delete" if self.change.action == "delete" else "replace"
        assert self.before is not None
        children = tuple(r.address for r in self.context.live.children(self.address))
        return Draft(
            self.address, action, Api(f"$JS.API.STREAM.DELETE.{self.stream_name}"),
            f"delete stream {self.stream_name} and its messages", key="" if action == "delete" else "drop",
            destroys=(self.address, *children, *requests.claims(self.address, self.before["subjects"])),
            releases=self.change.before.refs if self.change.before else (),
            hazards=(loss.all_messages(self.stream_name),), transactional=False,
        )  # fmt: skip

    def _update(self) -> list[Draft]:
        assert self.before is not None
        assert self.after is not None
        stages = requests.stages(self.before, self.after, exchange=bool(self.taken))
        drafts: list[Draft] = []
        for key, stream in stages:
            previous = drafts[-1] if drafts else None
            last = key == ""
            given_up = [s for s in self.before["subjects"] if s not in stream["subjects"]]
            drafts.append(
                Draft(
                    self.address, "update",
                    Api(f"$JS.API.STREAM.UPDATE.{self.stream_name}", self._update_body(stream),
                        self._settle(stream)),
                    f"update stream {self.stream_name}" + (f" ({key} first)" if key else ""),
                    key=key, follows=(previous.key,) if previous else (),
                    makes=(self.address, *self.taken) if last else (),
                    destroys=requests.claims(self.address, given_up) if previous is None else (),
                    needs=self.change.record.refs,
                    hazards=loss.by_update(self.stream_name, self.before, stream, self._has_consumers())
                    if last else (),
                    transactional=False,
                    undo=self._undo() if last else None,
                )
            )  # fmt: skip
        return drafts

    def _update_body(self, stream: Settings) -> Json:
        unmodelled = self.facts.options.get("unmodelled", {}).get(str(self.address), {})
        return restore(self._body(stream), unmodelled)

    def _undo(self) -> Api | None:
        assert self.before is not None
        assert self.after is not None
        if refused(self.after, self.before, self.facts.version):
            return None
        return Api(f"$JS.API.STREAM.UPDATE.{self.stream_name}", self._update_body(self.before))

    def _settle(self, stream: Settings) -> Json:
        return {"stream": self.stream_name, "replicas": stream["replicas"]}

    def _has_consumers(self) -> bool:
        return bool(self.context.live.children(self.address, "consumer"))
