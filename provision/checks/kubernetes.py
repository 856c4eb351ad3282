"""Rules about targets of kind ``kubernetes``: whether what is rendered for them can run and hold the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

from provision.checks.rule import Finding, counted, listed, rule
from provision.kubernetes import nats, postgres_settings, sizes
from provision.kubernetes.objects import name_of, options
from provision.pools import budget
from provision.spec.target import SYSTEMS, Target
from provision.spec.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provision.checks.scene import Scene
    from provision.kubernetes.sizes import Demand
    from provision.spec.record import Pointer

Word = Literal["nats", "postgres"]
_STORES: tuple[tuple[sizes.Storage, str], ...] = (("file", "max_file_store"), ("memory", "max_memory_store"))


class _Declared(Protocol):
    """The document, which has read its targets: what was wrong with them has been said and left out."""

    @property
    def targets(self) -> Mapping[tuple[str, str], Target]: ...


def _targets(scene: Scene, word: Word) -> Iterator[tuple[Pointer, Target]]:
    """The targets of kind ``kubernetes`` with their places."""
    return ((where, target) for where, target in _declared(scene, word) if target.kind == "kubernetes")


def _declared(scene: Scene, word: str) -> Iterator[tuple[Pointer, Target]]:
    for (system, name), target in cast("_Declared", scene.document).targets.items():
        if system == SYSTEMS[word]:
            yield ("targets", word, name), target


def _title(demand: Demand) -> str:
    return f"{demand.record.address.kind.replace('_', ' ')} {demand.record.address.name}"


@rule("HF0720", "kubernetes-on-another-kind", "kubernetes of target")
def kubernetes_on_another_kind(scene: Scene) -> Iterator[Finding]:
    """Target says how it runs on Kubernetes, and does not run there.

    Manifests are made of targets of kind kubernetes alone; elsewhere the section would do nothing, silently.

    Fix: write `kind: kubernetes`, or leave the section out.

    Source: Holdfast, targets.

    Bad:
        targets: {nats: {main: {kind: external, urls: "nats://n:4222", kubernetes: {namespace: agents}}}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 1, kubernetes: {namespace: agents}}}}
    """
    for word in SYSTEMS:
        for where, target in _declared(scene, word):
            if target.kind != "kubernetes" and target.settings["kubernetes"] is not None:
                yield Finding(
                    (*where, "kubernetes"),
                    f"kubernetes of target {target.name} does nothing: the target is {target.kind}",
                    "Write kind: kubernetes, or leave it out.",
                    at_key=True,
                )


@rule("HF0721", "cluster-size", "servers of target")
def cluster_size(scene: Scene) -> Iterator[Finding]:
    """Cluster on Kubernetes has a number of servers that makes no cluster.

    JetStream decides by majority: 3 servers survive the loss of one, 5 that of two, and an even number none more than
    the odd one below it. One server is for development. Tags given for each server are as many lists.

    Fix: write `servers: 3`, and one list of tags for each server, or one list for all.

    Source: NATS documentation, JetStream Clustering, RAFT. Mistakes: SB-59.

    Bad:
        targets: {nats: {main: {kind: kubernetes, servers: 2, kubernetes: {auth: {secret: nats-auth}}}}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 3, kubernetes: {auth: {secret: nats-auth}}}}}
    """
    for where, target in _targets(scene, "nats"):
        servers, tags = target.settings["servers"], target.settings["tags"] or ()
        if servers not in sizes.SERVERS:
            said = f"are {servers}" if servers else "are not stated"
            yield Finding(
                (*where, "servers"), f"servers of target {target.name} {said}, and a cluster has 1, 3 or 5",
                "Write servers: 3.",
            )  # fmt: skip
        elif any(isinstance(tag, list) for tag in tags) and len(tags) != servers:
            yield Finding(
                (*where, "tags"),
                f"servers of target {target.name} are {servers}, and {counted(len(tags), 'list')} of tags are given",
                "Write one list for each server, or one list of tags for all.",
            )


@rule("HF0722", "volume-size-unknown", "volume of", level="cross-resource")
def volume_size_unknown(scene: Scene) -> Iterator[Finding]:
    """Nothing says how large the volumes of a target on Kubernetes must be.

    NATS servers are sized for the max_bytes of their streams; a stream without a bound leaves that open. How large a
    database becomes nobody can tell from its tables.

    Fix: bound the stream with max_bytes, or declare max_file_store (max_memory_store); declare `storage` for Postgres.

    Source: Holdfast, targets. Mistakes: SB-59.

    Bad:
        targets: {nats: {main: {kind: kubernetes, servers: 1}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 1}}}
        streams: {ORDERS: {subjects: [orders], max_age: 1d, max_bytes: 1GiB}}
    """
    for where, target in _targets(scene, "nats"):
        for demand in sizes.demands(scene.plane, target):
            word = dict(_STORES)[demand.storage]
            if not demand.max_bytes and not target.settings[word]:
                yield Finding(
                    (*(demand.record.origin or ()), "max_bytes"),
                    f"volume of target {target.name} cannot be sized: {_title(demand)} has no max_bytes",
                    f"Write max_bytes, or {word} for the target.",
                    related=((where, "the target"),),
                )
    for where, target in _targets(scene, "postgres"):
        if not options(target)["storage"]:
            yield Finding(
                (*where, "kubernetes", "storage"),
                f"volume of target {target.name} has no size",
                "Write kubernetes: {storage: 100GiB}.",
            )


@rule("HF0723", "server-too-small", "servers of target")
def server_too_small(scene: Scene) -> Iterator[Finding]:
    """Volume or memory of a server is smaller than what JetStream may store there.

    A full volume stops every stream on the server, and a container above its memory is killed. Both must hold what
    JetStream is allowed to use, and the server itself.

    Fix: raise storage or memory, or lower max_file_store or max_memory_store.

    Source: NATS documentation, JetStream, Configuration; Kubernetes documentation, Resource Management.

    Bad:
        targets: {nats: {main: {kind: kubernetes, servers: 1, max_file_store: 64GiB, kubernetes: {storage: 10GiB}}}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 1, max_file_store: 64GiB, kubernetes: {storage: 80GiB}}}}
    """
    for where, target in _targets(scene, "nats"):
        given, made = options(target), sizes.nats(scene.plane, target)
        if made.storage < made.max_file_store:
            yield Finding(
                (*where, "kubernetes", "storage"),
                f"servers of target {target.name} have volumes of {format_size(made.storage)} and store up to "
                f"{format_size(made.max_file_store)} in files",
                f"Write storage: {format_size(sizes.volume_for(made.max_file_store))}, or leave it out.",
            )
        if given["memory"] and given["memory"] < (least := sizes.memory_for(made.max_memory_store)):
            yield Finding(
                (*where, "kubernetes", "memory"),
                f"servers of target {target.name} have {format_size(given['memory'])} of memory and store up to "
                f"{format_size(made.max_memory_store)} in it",
                f"Write memory: {format_size(least)} or more, or leave it out.",
            )


@rule("HF0724", "stream-finds-no-place", "room for", level="cross-resource")
def stream_finds_no_place(scene: Scene) -> Iterator[Finding]:
    """Stream fits the sum of the servers' storage, but no server has room left for it.

    A replica lies on one server in one piece. JetStream takes the servers with most room that bear the tags; placed
    so, the largest streams first, this one is left over (10005). Made within a second of the others it may be
    accepted, since servers do not know yet what the others reserved, and fill up later.

    Fix: give the servers more storage, or the stream less, or leave max_file_store to be computed.

    Source: nats-server, server/jetstream_cluster.go, selectPeerGroup. Mistakes: SB-59.

    Bad:
        targets:
          nats: {main: {kind: kubernetes, servers: 3, max_file_store: 10GiB, kubernetes: {auth: {secret: nats-auth}}}}
        streams:
          A: {subjects: [a], max_bytes: 6GiB}
          B: {subjects: [b], max_bytes: 6GiB}
          C: {subjects: [c], max_bytes: 6GiB}
          D: {subjects: [d], max_bytes: 6GiB}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 3, kubernetes: {auth: {secret: nats-auth}}}}}
        streams:
          A: {subjects: [a], max_bytes: 6GiB}
          B: {subjects: [b], max_bytes: 6GiB}
          C: {subjects: [c], max_bytes: 6GiB}
          D: {subjects: [d], max_bytes: 6GiB}
    """
    for where, target in _targets(scene, "nats"):
        asked = sizes.demands(scene.plane, target)
        for storage, word in _STORES:
            store, servers = target.settings[word], target.settings["servers"] or 1
            mine = [d for d in asked if d.storage == storage]
            total = sum(d.max_bytes * d.replicas for d in mine)
            # More than all servers together, or than one server, is said by another rule.
            if not store or total > store * servers or any(d.max_bytes > store for d in mine):
                continue
            for misfit in sizes.misfits(asked, target, storage, store):
                yield Finding(
                    (*(misfit.demand.record.origin or ()), "max_bytes"),
                    f"room for {_title(misfit.demand)}, {format_size(misfit.demand.max_bytes)}, is on "
                    f"{counted(misfit.fitting, 'server')} of target {target.name}, and it takes {misfit.wanted}",
                    f"Raise {word}, or lower max_bytes.",
                    related=(((*where, word), "declared here"),),
                )


@rule("HF0725", "payload-above-server", "message of", level="cross-resource")
def payload_above_server(scene: Scene) -> Iterator[Finding]:
    """Messages are larger than a NATS server can be set to take.

    The server refuses to start with a max_payload above its max_pending, 64 MiB; above 8 MiB it warns, since a large
    message holds up every smaller one behind it.

    Fix: send large values through an object store, which cuts them into pieces.

    Source: nats-server, server/const.go and server/opts.go. Mistakes: SB-58.

    Bad:
        targets: {nats: {main: {kind: kubernetes, servers: 1, max_payload: 128MiB}}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 1, max_payload: 8MiB}}}
    """
    limit = sizes.LARGEST_PAYLOAD
    for where, target in _targets(scene, "nats"):
        payload = target.settings["max_payload"]
        found: list[tuple[Pointer, int, str]] = []
        if payload and payload > limit:
            found.append(((*where, "max_payload"), payload, f"target {target.name}"))
        for demand in sizes.demands(scene.plane, target) if not payload else ():
            if demand.max_msg_size > limit:
                option = "max_value_size" if demand.record.address.kind == "bucket" else "max_msg_size"
                found.append(((*(demand.record.origin or ()), option), demand.max_msg_size, _title(demand)))
        for place, size, allowed in found:
            yield Finding(
                place,
                f"message of {format_size(size)} is allowed by {allowed}, and a server takes {format_size(limit)}",
                f"Write {format_size(limit)} or less, better 8MiB.",
            )


@rule("HF0726", "replica-without-instance", "instances of target", level="cross-resource")
def replica_without_instance(scene: Scene) -> Iterator[Finding]:
    """Pool reads from a replica of a cluster that has only its primary.

    Every endpoint but `primary` and `direct` leads to the replicas; with one instance there is none, and every
    connection fails.

    Fix: write `instances: 2` or more, or let the pool use the primary.

    Source: CloudNativePG documentation, Service Management.

    Bad:
        targets:
          postgres:
            main: {kind: kubernetes, endpoints: {replica: postgres-ro}, kubernetes: {instances: 1, storage: 1GiB}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {reading: {role: app, endpoint: replica, min: 1, max: 5}}

    Good:
        targets:
          postgres:
            main: {kind: kubernetes, endpoints: {replica: postgres-ro}, kubernetes: {instances: 3, storage: 1GiB}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {reading: {role: app, endpoint: replica, min: 1, max: 5}}
    """
    for where, target in _targets(scene, "postgres"):
        instances = options(target)["instances"]
        served = postgres_settings.pools(scene.plane, target) if instances < 2 else ()
        reading = [pool for pool, service in served if service == "ro"]
        if reading:
            yield Finding(
                (*where, "kubernetes", "instances"),
                f"instances of target {target.name} are {instances}, and replicas are read by "
                f"{listed(f'pool {r.address.name}' for r in reading)}",
                "Write instances: 2 or more.",
                related=(((*(reading[0].origin or ()), "endpoint"), "the pool"),),
            )


@rule("HF0727", "kubernetes-name-taken", "name", level="cross-resource")
def kubernetes_name_taken(scene: Scene) -> Iterator[Finding]:
    """Objects of two targets have one name in one namespace.

    A Cluster, its Services and Poolers, and the Services and accounts of NATS servers share their names' room; the
    second one would take the first one's over.

    Fix: give one of the targets another name or namespace.

    Source: CloudNativePG documentation, Connection Pooling; Kubernetes documentation, Object Names.

    Bad:
        targets:
          nats: {main: {kind: kubernetes, servers: 1}, other: {kind: kubernetes, servers: 1}}

    Good:
        targets:
          nats: {main: {kind: kubernetes, servers: 1}, other: {kind: kubernetes, servers: 1, kubernetes: {name: other}}}
    """
    taken: dict[tuple[str, str], tuple[Pointer, Target]] = {}
    words: tuple[Word, ...] = ("nats", "postgres")
    for where, target in (found for word in words for found in _targets(scene, word)):
        namespace = options(target)["namespace"]
        clashes = [name for name in _names(scene, target) if (namespace, name) in taken]
        for name in clashes[:1]:
            place, other = taken[namespace, name]
            yield Finding(
                (*where, "kubernetes", "name"),
                f"name {name} in namespace {namespace} is taken by {_called(other)}, and {_called(target)} needs it",
                "Write kubernetes: {name: …}.",
                related=(((*place, "kubernetes", "name"), "the other target"),),
            )
        taken |= {(namespace, name): (where, target) for name in _names(scene, target) if name not in clashes}


def _called(target: Target) -> str:
    return f"{'NATS' if target.system == 'nats' else 'Postgres'} target {target.name}"


def _names(scene: Scene, target: Target) -> list[str]:
    """The names that a target's objects have in its namespace, those included that an operator makes."""
    if target.system == "nats":
        return list(nats.services(target))
    name = name_of(target)
    poolers = [postgres_settings.pooler_name(target, pool) for pool, _ in postgres_settings.pooled(scene.plane, target)]
    return [name, f"{name}-rw", f"{name}-ro", f"{name}-r", *poolers]


@rule("HF0728", "cluster-connections-short", "max_connections of", level="cross-resource")
def cluster_connections_short(scene: Scene) -> Iterator[Finding]:
    """Cluster on Kubernetes takes fewer connections than its clients may open.

    Beside the pools there are the sessions of PgBouncer's password lookups, of the operator, of plan and apply, three
    kept for superusers, and what roles without a pool are allowed. A replica that becomes the primary serves the pools
    of both, so they count together.

    Fix: raise max_connections, or leave it out: it is computed then.

    Source: CloudNativePG documentation, Connection Pooling; PostgreSQL documentation, Connections. Mistakes: SB-97.

    Bad:
        targets: {postgres: {main: {kind: kubernetes, max_connections: 50, kubernetes: {storage: 1GiB}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 45}}

    Good:
        targets: {postgres: {main: {kind: kubernetes, max_connections: 100, kubernetes: {storage: 1GiB}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 45}}
    """
    for where, target in _targets(scene, "postgres"):
        limit = target.settings["max_connections"]
        served = [pool for pool, _ in postgres_settings.pools(scene.plane, target)]
        # What the pools of one host alone exceed is said by another rule.
        if not limit or budget.over_server(served, target.settings["endpoints"] or {}, limit):
            continue
        needed = postgres_settings.connections_needed(scene.plane, target)
        if needed > limit:
            yield Finding(
                (*where, "max_connections"),
                f"max_connections of target {target.name} are {limit}, and all its clients together may open {needed}",
                f"Write max_connections: {-(-needed // 10) * 10}, or leave it out.",
            )


@rule("HF0729", "cluster-without-accounts", "accounts of target", severity="warning")
def cluster_without_accounts(scene: Scene) -> Iterator[Finding]:
    """Cluster on Kubernetes asks nobody who they are.

    Without accounts every pod that reaches the servers may read, write and delete every stream; the network policy is
    then all that stands in between. A system account, which plan uses to see the servers' tags, needs a user too.

    Fix: put accounts and users into a Secret, and name it: `auth: {secret: nats-auth}`.

    Source: NATS documentation, Accounts.

    Bad:
        targets: {nats: {main: {kind: kubernetes, servers: 3}}}

    Good:
        targets: {nats: {main: {kind: kubernetes, servers: 3, kubernetes: {auth: {secret: nats-auth}}}}}
    """
    for where, target in _targets(scene, "nats"):
        if (target.settings["servers"] or 1) > 1 and not options(target)["auth"]:
            yield Finding(
                (*where, "kubernetes", "auth"),
                f"accounts of target {target.name} are not declared: {name_of(target)} lets every client do everything",
                "Write kubernetes: {auth: {secret: NAME}}.",
            )


@rule("HF0730", "parameter-of-operator", "parameter")
def parameter_of_operator(scene: Scene) -> Iterator[Finding]:
    """Parameter of a cluster is the operator's to set, or is said elsewhere.

    CloudNativePG refuses a Cluster that sets what it sets itself: addresses, files, TLS, archiving, the log. What the
    target declares, max_connections, stands there alone.

    Fix: leave the parameter out.

    Source: CloudNativePG documentation, PostgreSQL Configuration, Fixed Parameters.

    Bad:
        targets: {postgres: {main: {kind: kubernetes, kubernetes: {storage: 1GiB, parameters: {port: 5433}}}}}

    Good:
        targets: {postgres: {main: {kind: kubernetes, kubernetes: {storage: 1GiB, parameters: {work_mem: 16MB}}}}}
    """
    for where, target in _targets(scene, "postgres"):
        for name in options(target)["parameters"]:
            place = (*where, "kubernetes", "parameters", name)
            if name in postgres_settings.RESERVED_PARAMETERS:
                yield Finding(
                    place, f"parameter {name} of target {target.name} is set by CloudNativePG", "Leave it out."
                )
            elif name == "max_connections":
                yield Finding(
                    place,
                    f"parameter {name} of target {target.name} is declared with the target",
                    "Write max_connections beside kubernetes.",
                )


RULES = (
    kubernetes_on_another_kind, cluster_size, volume_size_unknown, server_too_small, stream_finds_no_place,
    payload_above_server, replica_without_instance, kubernetes_name_taken, cluster_connections_short,
    cluster_without_accounts, parameter_of_operator,
)  # fmt: skip
