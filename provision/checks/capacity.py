"""Rules about targets: what the declared servers can hold, and which options their version has."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from provision.checks.rule import Finding, counted, listed, rule
from provision.nats.kinds import bucket, consumer, object_store
from provision.nats.kinds import stream as streams
from provision.spec.nearest import nearest
from provision.spec.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from provision.checks.jetstream import Stream
    from provision.checks.scene import Scene
    from provision.spec.record import Record


def _facts(scene: Scene, stream: Stream) -> dict[str, Any]:
    facts = scene.facts.get(("nats", stream.target))
    return dict(facts.options) if facts is not None else {}


@rule("HF0701", "replicas-exceed-cluster", "replicas of", level="cross-resource")
def replicas_exceed_cluster(scene: Scene) -> Iterator[Finding]:
    """Stream wants more replicas than the cluster has servers.

    Each replica needs a server of its own (10074, 10005). Some versions accept them on a single server and keep one
    copy all the same. An even number is no safer than the odd one below it.

    Fix: lower replicas in this environment, or declare the servers.

    Source: nats-server, server/stream.go; NATS documentation, JetStream Clustering. Mistakes: SB-59.

    Bad:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 1}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 3}}

    Good:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 3}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 3}}
    """
    for stream in scene.streams.values():
        servers, replicas = _facts(scene, stream).get("servers"), stream.settings["replicas"]
        if servers and replicas > servers:
            yield Finding(
                (*stream.origin, "replicas"),
                f"replicas of {stream.title} are {replicas}, and target {stream.target} has "
                f"{counted(servers, 'server')}",
                f"Write replicas: {servers}, or declare more servers.",
                related=((("targets", "nats", stream.target, "servers"), "declared servers"),),
            )


@rule("HF0711", "even-replicas", "replicas of", severity="warning")
def even_replicas(scene: Scene) -> Iterator[Finding]:
    """Stream has an even number of replicas.

    A majority of two is two, of four is three: an even number survives no more failures than the odd one below it,
    and costs a copy.

    Fix: write 1, 3 or 5.

    Source: NATS documentation, JetStream Clustering, RAFT.

    Bad:
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 2}}

    Good:
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 3}}
    """
    for stream in scene.streams.values():
        replicas = stream.settings["replicas"]
        if replicas % 2 == 0:
            yield Finding(
                (*stream.origin, "replicas"),
                f"replicas of {stream.title} are {replicas}, no safer than {replicas - 1}",
                f"Write replicas: {replicas - 1} or {replicas + 1}.",
            )


@rule("HF0702", "placement-unmatched", "placement of", level="cross-resource")
def placement_unmatched(scene: Scene) -> Iterator[Finding]:
    """No server of the target fits the placement.

    Every replica goes to a server of the named cluster that has all the tags (10005). A lone server ignores
    placement without a word.

    Fix: correct cluster or tags, or declare the servers' tags.

    Source: NATS documentation, Streams, Placement. Mistakes: SB-59.

    Bad:
        targets:
          nats: {main: {kind: external, urls: "nats://n:4222", servers: 3, cluster: east, tags: [ssd]}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 3, placement: {cluster: east, tags: [nvme]}}}

    Good:
        targets:
          nats: {main: {kind: external, urls: "nats://n:4222", servers: 3, cluster: east, tags: [ssd]}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, replicas: 3, placement: {cluster: east, tags: [ssd]}}}
    """
    for stream in scene.streams.values():
        placement, options = stream.settings["placement"] or {}, _facts(scene, stream)
        cluster, wanted = placement.get("cluster"), list(placement.get("tags") or ())
        origin = (*stream.origin, "placement")
        if cluster and options.get("cluster") and cluster != options["cluster"]:
            yield Finding(
                (*origin, "cluster"),
                f"placement of {stream.title} names the cluster {cluster}, and target {stream.target} is "
                f"{options['cluster']}",
                nearest(cluster, [options["cluster"]], f"Write cluster: {options['cluster']}."),
            )
        servers = options.get("server_tags")
        if not wanted or servers is None:
            continue
        # Tags are compared without regard to case (server/jetstream_cluster.go, selectPeerGroup).
        have = [{tag.lower() for tag in tags} for tags in servers]
        unknown = [t for t in wanted if not any(t.lower() in tags for tags in have)]
        fitting = sum({t.lower() for t in wanted} <= tags for tags in have)
        if unknown:
            known = list(dict.fromkeys(tag for tags in servers for tag in tags))
            yield Finding(
                (*origin, "tags", wanted.index(unknown[0])),
                f"placement of {stream.title} wants the tag {listed(unknown)}, which no server of {stream.target} has",
                nearest(unknown[0], known, f"Use one of {', '.join(known)}." if known else "Declare the tags."),
            )
        elif fitting < (replicas := stream.settings["replicas"]):
            yield Finding(
                (*origin, "tags"),
                f"placement of {stream.title} fits {counted(fitting, 'server')}, and it has {replicas} replicas",
                "Use fewer tags, or lower replicas.",
            )


@rule("HF0703", "storage-overcommit", "storage of", level="cross-resource")
def storage_overcommit(scene: Scene) -> Iterator[Finding]:
    """Streams together reserve more than the servers can store.

    max_bytes is reserved when a stream is made, once for each replica; what goes beyond max_file_store (or
    max_memory_store) of the servers, or the account's limit, is refused (10047, 10028).

    Fix: lower max_bytes or replicas, or give the servers more.

    Source: nats-server, server/jetstream.go, storage reservation. Mistakes: SB-59.

    Bad:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 1, max_file_store: 5GiB}}}
        streams: {ORDERS: {subjects: [orders], max_bytes: 10GiB}}

    Good:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 1, max_file_store: 20GiB}}}
        streams: {ORDERS: {subjects: [orders], max_bytes: 10GiB}}
    """
    reserved: dict[tuple[str, str], list[Stream]] = defaultdict(list)
    for stream in scene.streams.values():
        if stream.settings["max_bytes"] > 0:
            reserved[stream.target, stream.settings["storage"]].append(stream)
    for (target, storage), group in reserved.items():
        options = _facts(scene, group[0])
        word = "max_file_store" if storage == "file" else "max_memory_store"
        account = (options.get("account_limits") or {}).get("max_storage" if storage == "file" else "max_memory")
        store = options.get(word)
        room = store * (options.get("servers") or 1) if store else None
        total = sum(s.settings["max_bytes"] * s.settings["replicas"] for s in group)
        limits = [(room, f"{word} of the servers"), (account, "the account's limit")]
        exceeded = [(limit, what) for limit, what in limits if limit and total > limit]
        largest = max(group, key=lambda s: s.settings["max_bytes"] * s.settings["replicas"])
        for limit, what in exceeded:
            yield Finding(
                (*largest.origin, "max_bytes"),
                f"storage of target {target} is overcommitted: {counted(len(group), 'stream')} reserve "
                f"{format_size(total)} in {storage}, and {what} is {format_size(limit)}",
                "Lower max_bytes or replicas; this stream reserves most.",
                related=((("targets", "nats", target, word), "declared here"),),
            )
        for stream in group if store and not exceeded else ():
            if stream.settings["max_bytes"] > (store or 0):
                yield Finding(
                    (*stream.origin, "max_bytes"),
                    f"storage of one server, {format_size(store or 0)}, is less than max_bytes of {stream.title}",
                    "Lower max_bytes: a replica lies on one server.",
                )


@rule("HF0704", "msg-size-over-max-payload", "max_msg_size of", level="cross-resource")
def message_over_payload(scene: Scene) -> Iterator[Finding]:
    """Stream allows messages that the server does not take.

    A message larger than max_payload is refused before it reaches the stream; the default is 1 MiB.

    Fix: lower max_msg_size, or raise max_payload of the servers.

    Source: NATS documentation, Server Configuration, max_payload. Mistakes: SB-58.

    Bad:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", max_payload: 1MiB}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, max_msg_size: 5MiB}}

    Good:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", max_payload: 8MiB}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, max_msg_size: 5MiB}}
    """
    for stream in scene.streams.values():
        payload, size = _facts(scene, stream).get("max_payload"), stream.settings["max_msg_size"]
        if payload and size > payload:
            option = "max_value_size" if stream.record.address.kind == "bucket" else "max_msg_size"
            yield Finding(
                (*stream.origin, option),
                f"max_msg_size of {stream.title} is {format_size(size)}, and target {stream.target} takes "
                f"{format_size(payload)}",
                f"Write {option}: {format_size(payload)}, or raise max_payload.",
                related=((("targets", "nats", stream.target, "max_payload"), "declared here"),),
            )


_WORDS = {"nats": "nats", "pg": "postgres"}


@rule("HF0705", "target-not-declared", "target", level="cross-resource")
def target_not_declared(scene: Scene) -> Iterator[Finding]:
    """Object lives on a target that is not declared.

    Streams, schemas, roles and pools name their target, `main` where nothing is said. The rule is silent where no
    target at all is declared, as in the base without an environment.

    Fix: declare the target in the environment, or correct the name.

    Source: Holdfast, targets.

    Bad:
        targets: {nats: {main: {kind: embedded}}}
        streams: {ORDERS: {target: mian, subjects: [orders], max_age: 1d}}

    Good:
        targets: {nats: {main: {kind: embedded}}}
        streams: {ORDERS: {target: main, subjects: [orders], max_age: 1d}}
    """
    systems = {"publisher": "nats", "pool": "pg"}
    kinds = ("stream", "bucket", "object_store", "schema", "role", "extension", "publisher", "pool")
    known = {system: [t for s, t in scene.facts if s == system] for system in ("nats", "pg")}
    for kind in kinds:
        for record in scene.of(kind):
            system, target = systems.get(kind, record.address.system), record.address.target
            names = known[system]
            if scene.facts and target not in names and not scene.written("targets", _WORDS[system], target):
                yield Finding(
                    (*(record.origin or ()), "target"),
                    f"target {target} of {scene.name(record)} is not declared",
                    nearest(target, names, f"Declare targets: {{{_WORDS[system]}: {{{target}: …}}}}."),
                )


_NATS_KINDS = (streams.KIND, bucket.KIND, object_store.KIND, consumer.KIND, consumer.TEMPLATE)


def _postgres_needs(record: Record) -> Iterator[tuple[str, int, str]]:
    """(option, first major, what it is) of options that PostgreSQL gained (release notes 15 to 18)."""
    settings, kind = record.settings, record.address.kind
    if kind in ("unique", "index") and settings.get("nulls_not_distinct"):
        yield "nulls_not_distinct", 15, "NULLS NOT DISTINCT"
    if kind == "view" and (settings.get("options") or {}).get("security_invoker"):
        yield "options", 15, "security_invoker"
    if kind == "column" and isinstance(settings.get("generated"), dict) and not settings["generated"]["stored"]:
        yield "generated", 18, "a virtual generated column"
    if kind in ("primary_key", "unique") and settings.get("without_overlaps"):
        yield "without_overlaps", 18, "WITHOUT OVERLAPS"
    if kind == "membership" and (settings.get("inherit") is False or settings.get("set") is False):
        yield "inherit", 16, "INHERIT and SET of memberships"
    if kind == "foreign_key" and settings.get("on_delete_columns"):
        yield "on_delete_columns", 15, "a column list of ON DELETE"


@rule("HF0706", "field-needs-newer-server", "option", level="cross-resource")
def field_needs_newer_server(scene: Scene) -> Iterator[Finding]:
    """Option needs a newer server than the target declares.

    Older NATS servers drop options that they do not know without an error, so a time to live for each key on 2.10
    is simply absent. PostgreSQL refuses the syntax.

    Fix: leave the option out in this environment, or declare the version that runs there.

    Source: NATS release notes 2.11, 2.12, 2.14; PostgreSQL release notes. Mistakes: SB-61.

    Bad:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", version: "2.10.25"}}}
        buckets: {STATE: {ttl: 30m, allow_msg_ttl: true}}

    Good:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", version: "2.11.2"}}}
        buckets: {STATE: {ttl: 30m, allow_msg_ttl: true}}
    """
    for kind in _NATS_KINDS:
        for record in scene.of(kind.name):
            facts = scene.facts.get(("nats", record.address.target))
            found = kind.unsupported(record, facts) if facts is not None and facts.version else []
            for field, since in found:
                option = _spec_name(record, field)
                yield Finding(
                    (*(record.origin or ()), *option.split(".")),
                    f"option {option} of {scene.name(record)} needs NATS {_dotted(since)}, and target "
                    f"{record.address.target} is {_dotted(facts.version if facts else ())}",
                    "Leave it out here, or declare a newer version.",
                )
    majors = {target: f.version[0] for (system, target), f in scene.facts.items() if system == "pg" and f.version}
    for name in ("unique", "index", "view", "column", "primary_key", "membership", "foreign_key") if majors else ():
        for record in scene.of(name):
            major = majors.get(record.address.target)
            for option, first, what in _postgres_needs(record) if major is not None and major < 18 else ():
                if major is not None and major < first:
                    yield Finding(
                        (*(record.origin or ()), option),
                        f"option {option} of {scene.name(record)}, {what}, needs PostgreSQL {first}, and target "
                        f"{record.address.target} is {major}",
                        "Leave it out here, or declare a newer version.",
                    )


def _spec_name(record: Record, field: str) -> str:
    """The name that a bucket gives an option of its stream."""
    if record.address.kind != "bucket":
        return field
    return next((own for own, option in bucket.STREAM_OF.items() if option == field), field)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:2] if version[2:] == (0,) else version))


#: Replicated streams and consumers of one server above which the NATS team warns.
_HA_ASSETS = 1000


@rule("HF0707", "too-many-ha-assets", "replicated assets of", severity="warning", level="cross-resource")
def too_many_ha_assets(scene: Scene) -> Iterator[Finding]:
    """Servers carry very many replicated streams and consumers.

    Each replicated stream and each consumer on it is a Raft group; about a thousand on one server is where latency
    and restarts begin to suffer.

    Fix: fewer replicas or consumers, or more servers.

    Source: Synadia, JetStream anti-patterns; NATS documentation, max_ha_assets.

    Bad:
        # 26 streams with 39 consumers each make 1040 assets on every server
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 5}}}
        streams: {ORDERS_01: {subjects: [orders.01], max_age: 1d, replicas: 5}}

    Good:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", servers: 5}}}
        streams: {ORDERS_01: {subjects: [orders.01], max_age: 1d, replicas: 3}}
    """
    assets: dict[str, int] = defaultdict(int)
    for stream in scene.streams.values():
        replicas = stream.settings["replicas"]
        if replicas > 1:
            assets[stream.target] += replicas
            assets[stream.target] += sum(c.settings["replicas"] or replicas for c in stream.consumers)
    for target, count in assets.items():
        facts = scene.facts.get(("nats", target))
        servers = facts.options.get("servers") if facts else None
        if servers and count / servers > _HA_ASSETS:
            yield Finding(
                ("targets", "nats", target, "servers"),
                f"replicated assets of target {target} are {count}, above {_HA_ASSETS} on each of {servers} servers",
                "Use fewer replicas or consumers, or more servers.",
            )


@rule("HF0710", "account-limit-exceeded", "account of", level="cross-resource")
def account_limit(scene: Scene) -> Iterator[Finding]:
    """Plane needs more than its NATS account allows.

    An account may bound the number of streams (10027) and consumers (10026) and demand max_bytes of every stream
    (10113).

    Fix: raise the account's limit, or declare less.

    Source: NATS documentation, Accounts, JetStream limits.

    Bad:
        targets:
          nats: {main: {kind: external, urls: "nats://n:4222", account_limits: {max_bytes_required: true}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d}}

    Good:
        targets:
          nats: {main: {kind: external, urls: "nats://n:4222", account_limits: {max_bytes_required: true}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, max_bytes: 1GiB}}
    """
    by_target: dict[str, list[Stream]] = defaultdict(list)
    for stream in scene.streams.values():
        by_target[stream.target].append(stream)
    for target, group in by_target.items():
        limits = _facts(scene, group[0]).get("account_limits") or {}
        where = ("targets", "nats", target, "account_limits")
        counts = {"max_streams": len(group), "max_consumers": sum(len(s.consumers) for s in group)}
        for option, count in counts.items():
            if 0 < (limits.get(option) or 0) < count:
                yield Finding(
                    (*where, option),
                    f"account of target {target} allows {counted(limits[option], option[4:-1])}, "
                    f"and {count} are declared",
                    "Raise the limit, or declare less.",
                )
        for stream in group if limits.get("max_bytes_required") else ():
            if stream.settings["max_bytes"] <= 0:
                yield Finding(
                    (*stream.origin, "max_bytes"),
                    f"account of target {target} demands max_bytes, and {stream.title} has none",
                    "Declare max_bytes.",
                )


RULES = (
    replicas_exceed_cluster, even_replicas, placement_unmatched, storage_overcommit, message_over_payload,
    target_not_declared, field_needs_newer_server, too_many_ha_assets, account_limit,
)  # fmt: skip
