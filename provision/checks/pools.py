"""Rules about pools: bounds, budgets against roles and servers, endpoints, time-outs, poolers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from provision.checks.rule import Finding, listed, rule
from provision.checks.sqltext import is_word, tokenize
from provision.pools import budget, sizing
from provision.spec.nearest import nearest
from provision.spec.units import UnitError, duration_ns, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Record


def _pools(scene: Scene) -> dict[str, list[Record]]:
    """Pools by target."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in scene.of("pool"):
        found[record.address.target].append(record)
    return found


def _endpoints(scene: Scene, target: str) -> dict[str, Any]:
    node = scene.node(("targets", "postgres", target, "endpoints"))
    return dict(node) if isinstance(node, dict) else {}


@rule("HF0603", "pool-bounds-inverted", "pool")
def pool_bounds(scene: Scene) -> Iterator[Finding]:
    """Pool keeps more connections open than it may have.

    `min` connections stay open, `max` is the most; the first cannot exceed the second.

    Fix: lower min, or raise max.

    Source: Holdfast, pools. Mistakes: SB-75.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 10, max: 5}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}}
    """
    for record in scene.of("pool"):
        settings = record.settings
        if settings["min"] > settings["max"]:
            yield Finding(
                (*(record.origin or ()), "min"),
                f"pool {record.address.name} has min {settings['min']} above max {settings['max']}",
                f"Write min: {settings['max']} or less.",
            )


@rule("HF0604", "pool-clamp-inverted", "pool", severity="warning")
def pool_clamp(scene: Scene) -> Iterator[Finding]:
    """Load of a pool leads outside the bounds of its size.

    The size is kept between a quarter of the agents and twice their number, at most 50. Above 200 agents the lower
    bound exceeds the upper one, and no agents ask for no connections: the upper bound wins, and one agent counts.

    Fix: split the load over several pools or processes, or state min and max yourself.

    Source: Holdfast, pool sizing. Mistakes: SB-75.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools:
          primary:
            {role: app, min: null, max: null, sizing: {agents: 400, ops_per_s: 100, avg_duration: 20ms}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools:
          primary:
            {role: app, min: null, max: null, sizing: {agents: 40, ops_per_s: 500, avg_duration: 20ms}}
    """
    for record in scene.of("pool"):
        load = record.settings["sizing"]
        if load is None:
            continue
        found = sizing.recommend(load["agents"], load["ops_per_s"], load["avg_duration"], load["target_utilization"])
        for warning in found.warnings:
            yield Finding(
                (*(record.origin or ()), "sizing"),
                f"pool {record.address.name} is sized out of bounds: {warning}",
                "Split the load, or state min and max.",
            )


@rule("HF0605", "pools-exceed-role-limit", "connection limit of", level="cross-resource")
def pools_exceed_role(scene: Scene) -> Iterator[Finding]:
    """Pools can open more connections than their role may have.

    The connection limit of a role counts every session; the pools of all client processes together reach it at
    their maximum, and further connections fail (SQLSTATE 53300).

    Fix: raise connection_limit of the role, or lower max or processes.

    Source: PostgreSQL documentation, CREATE ROLE, CONNECTION LIMIT. Mistakes: SB-97.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, connection_limit: 25}}
        pools: {primary: {role: app, min: 1, max: 20, processes: 2}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, connection_limit: 45}}
        pools: {primary: {role: app, min: 1, max: 20, processes: 2}}
    """
    for target, pools in _pools(scene).items():
        for excess in budget.over_role(pools, scene.roles.get(target, {})):
            role = scene.roles[target][excess.of]
            yield Finding(
                (*(excess.demands[-1].pool.origin or ()), "max"),
                f"connection limit of role {excess.of} is {excess.limit}, and {_summed(excess)}",
                f"Write connection_limit: {excess.total}, or lower max.",
                related=(((*(role.origin or ()), "connection_limit"), "the limit"),),
            )


def _summed(excess: budget.Excess) -> str:
    names = listed(d.pool.address.name for d in excess.demands)
    return f"pool{'s' if len(excess.demands) > 1 else ''} {names} can open {excess.total}"


@rule("HF0708", "pools-exceed-max-connections", "max_connections of", level="cross-resource")
def pools_exceed_server(scene: Scene) -> Iterator[Finding]:
    """Pools can open more connections than the server takes.

    Pools that share a host share its max_connections, of which three are kept for superusers. Client processes count
    each; behind PgBouncer they share one pool.

    Fix: lower max or processes, raise max_connections, or put PgBouncer in between.

    Source: PostgreSQL documentation, Connections and Authentication. Mistakes: SB-97.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, max_connections: 30}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}, jobs: {login: true, password: {env: JOBS_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 20}, background: {role: jobs, min: 1, max: 10}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, max_connections: 100}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}, jobs: {login: true, password: {env: JOBS_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 20}, background: {role: jobs, min: 1, max: 10}}
    """
    for target, pools in _pools(scene).items():
        limit = scene.fact(pools[0], "max_connections")
        if not limit:
            continue
        for excess in budget.over_server(pools, _endpoints(scene, target), limit):
            yield Finding(
                (*(excess.demands[-1].pool.origin or ()), "max"),
                f"max_connections of target {target} leaves {excess.limit}, and {_summed(excess)}",
                "Lower max or processes, or raise max_connections.",
                related=((("targets", "postgres", target, "max_connections"), "declared here"),),
            )


@rule("HF0607", "pool-endpoint-not-declared", "endpoint", level="cross-resource")
def endpoint_not_declared(scene: Scene) -> Iterator[Finding]:
    """Pool connects to an endpoint that its target does not name.

    Besides `primary` a target names its hosts under `endpoints`. The rule is silent where the target is not declared,
    or is embedded: there every endpoint is the one server.

    Fix: declare the endpoint in the environment, or correct the name.

    Source: Holdfast, targets.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, endpoints: {replica: "db2:5432"}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {reading: {role: app, endpoint: replicas, min: 1, max: 5}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, endpoints: {replica: "db2:5432"}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {reading: {role: app, endpoint: replica, min: 1, max: 5}}
    """
    for target, pools in _pools(scene).items():
        node = scene.node(("targets", "postgres", target))
        if not isinstance(node, dict) or node.get("kind") == "embedded":
            continue
        known = ["primary", *_endpoints(scene, target)]
        for record in pools:
            endpoint = record.settings["endpoint"]
            if endpoint not in known:
                yield Finding(
                    (*(record.origin or ()), "endpoint"),
                    f"endpoint {endpoint} of pool {record.address.name} is not declared in target {target}",
                    nearest(endpoint, known, f"Declare endpoints: {{{endpoint}: host}}."),
                )


@rule("HF0614", "pool-declared-but-unused", "endpoint", severity="warning", level="cross-resource")
def endpoint_unused(scene: Scene) -> Iterator[Finding]:
    """Declared endpoint is reached by no pool.

    A replica that no pool connects to serves nobody. `primary` needs no pool: apply itself connects there.

    Fix: declare a pool for it, or leave the endpoint out.

    Source: Holdfast, targets. Mistakes: SB-92.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, endpoints: {analytics: "db3:5432"}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, endpoints: {analytics: "db3:5432"}}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}, reports: {role: app, endpoint: analytics, min: 1, max: 5}}
    """
    for target, pools in _pools(scene).items():
        used = {r.settings["endpoint"] for r in pools}
        declared = list(_endpoints(scene, target))
        if not used <= {"primary", "direct", *declared}:
            continue
        for endpoint in declared:
            if endpoint not in used and endpoint not in ("primary", "direct"):
                yield Finding(
                    ("targets", "postgres", target, "endpoints", endpoint),
                    f"endpoint {endpoint} of target {target} is reached by no pool",
                    "Declare a pool for it, or leave it out.",
                )


@rule("HF0602", "pool-role-cannot-login", "role", level="cross-resource")
def pool_role_cannot_login(scene: Scene) -> Iterator[Finding]:
    """Pool connects as a role that cannot log in.

    A role is a group unless it has LOGIN; connecting as one fails (SQLSTATE 28000).

    Fix: write `login: true`, or use a login role that is a member of the group.

    Source: PostgreSQL documentation, Role Attributes.

    Bad:
        roles: {app: {login: false}}
        pools: {primary: {role: app, min: 1, max: 5}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}}
    """
    for record in scene.of("pool"):
        role = scene.roles.get(record.address.target, {}).get(record.settings["role"])
        if role is not None and not role.settings.get("login"):
            yield Finding(
                (*(record.origin or ()), "role"),
                f"role {role.address.name} of pool {record.address.name} cannot log in",
                "Write login: true for the role.",
                related=((role.origin or (), "the role"),),
            )


#: Option of a pool -> setting of its role that says the same.
_SAME = {
    "statement_timeout": "statement_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
    "slow_query_threshold": "log_min_duration_statement",
}


@rule("HF0608", "conflicting-thresholds", "threshold", severity="warning", level="cross-resource")
def conflicting_thresholds(scene: Scene) -> Iterator[Finding]:
    """Pool and role set one threshold to two values.

    What the client sets for its session wins over the role, so the role's value holds for everyone but the pool, and
    nobody knows which one was meant.

    Fix: write one value, in one place.

    Source: PostgreSQL documentation, Setting Parameters. Mistakes: SB-90.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {statement_timeout: 10s}}}
        pools: {primary: {role: app, min: 1, max: 5, statement_timeout: 30s}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {statement_timeout: 30s}}}
        pools: {primary: {role: app, min: 1, max: 5, statement_timeout: 30s}}
    """
    for record in scene.of("pool"):
        role = scene.roles.get(record.address.target, {}).get(record.settings["role"])
        for option, setting in _SAME.items() if role is not None else ():
            assert role is not None
            theirs = _setting_ns((role.settings.get("settings") or {}).get(setting))
            ours = record.settings[option]
            if theirs is not None and ours != theirs and scene.stated(record, option):
                yield Finding(
                    (*(record.origin or ()), option),
                    f"threshold {option} of pool {record.address.name} is {format_duration(ours)}, and role "
                    f"{role.address.name} has {setting} {format_duration(theirs)}",
                    "Write one value.",
                    related=(((*(role.origin or ()), "settings", setting), "the role's"),),
                )


def _setting_ns(value: Any) -> int | None:
    """A time setting of PostgreSQL in ns; a bare number is milliseconds."""
    if value is None or value == "-1":
        return None
    text = str(value).replace("min", "m").replace(" ", "")
    try:
        return duration_ns(f"{text}ms" if text.isdigit() else text)
    except UnitError:
        return None


@rule("HF0615", "conflicting-database-name", "database of", severity="warning", level="cross-resource")
def conflicting_database(scene: Scene) -> Iterator[Finding]:
    """Pools of one endpoint connect to different databases.

    Two defaults for one database mean that half of the application looks into the other one.

    Fix: name the database once, in the target, and leave it out of the pools.

    Source: Holdfast, pools. Mistakes: SB-93.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, database: agents}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5, database: agent_system}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, database: agents}}}
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}}
    """
    for target, pools in _pools(scene).items():
        declared = scene.node(("targets", "postgres", target, "database"))
        first: dict[str, tuple[str, Pointer]] = {}
        if isinstance(declared, str):
            first["primary"] = (declared, ("targets", "postgres", target, "database"))
        for record in pools:
            database, endpoint = record.settings["database"], record.settings["endpoint"]
            if database is None:
                continue
            where = (*(record.origin or ()), "database")
            other, place = first.setdefault(endpoint, (database, where))
            if other != database:
                yield Finding(
                    where,
                    f"database of pool {record.address.name} is {database}, and endpoint {endpoint} has {other}",
                    "Name the database once, in the target.",
                    related=((place, "the other name"),),
                )


@rule("HF0616", "pooler-breaks-session", "session state of", level="cross-resource")
def pooler_breaks_session(scene: Scene) -> Iterator[Finding]:
    """Pooled connection relies on a session that it does not keep.

    In transaction or statement mode PgBouncer gives a client another server connection each time: what
    after_connect set is gone, or is left to others.

    Fix: put settings into the role, or use `mode: session`.

    Source: PgBouncer documentation, Features.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools:
          primary:
            {role: app, min: 1, max: 5, pgbouncer: true, mode: transaction, after_connect: ["SET work_mem = '64MB'"]}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {work_mem: 64MB}}}
        pools: {primary: {role: app, min: 1, max: 5, pgbouncer: true, mode: transaction}}
    """
    for record in scene.of("pool"):
        settings = record.settings
        if settings["pgbouncer"] and settings["mode"] != "session" and settings["after_connect"]:
            yield Finding(
                (*(record.origin or ()), "after_connect"),
                f"session state of pool {record.address.name} is lost in {settings['mode']} mode",
                "Put settings into the role, or write mode: session.",
            )


_LEVELS = "default_transaction_isolation"


@rule("HF0432", "isolation-alias", "isolation", severity="warning")
def isolation_alias(scene: Scene) -> Iterator[Finding]:
    """READ UNCOMMITTED is another name for READ COMMITTED.

    PostgreSQL never shows uncommitted rows, so the level makes nothing faster; whoever wrote it expects something
    else.

    Fix: write READ COMMITTED.

    Source: PostgreSQL documentation, Transaction Isolation. Mistakes: SB-82.

    Bad:
        roles:
          app:
            login: true
            password: {env: APP_PASSWORD}
            settings: {default_transaction_isolation: read uncommitted}

    Good:
        roles:
          app:
            login: true
            password: {env: APP_PASSWORD}
            settings: {default_transaction_isolation: read committed}
    """
    for kind, option in (("role", "settings"), ("function", "set")):
        for record in scene.of(kind):
            value = (record.settings.get(option) or {}).get(_LEVELS)
            if value is not None and "uncommitted" in str(value).lower():
                yield Finding(
                    (*(record.origin or ()), option, _LEVELS),
                    f"isolation read uncommitted of {scene.name(record)} is read committed",
                    "Write read committed.",
                )
    for text in scene.texts:
        if text.role in ("body", "statement") and {"uncommitted", "read"} <= text.sql.words:
            at = next(t for t in text.tokens if t.text == "uncommitted")
            yield Finding(
                text.where,
                f"isolation read uncommitted in {scene.name(text.record)} is read committed",
                "Write READ COMMITTED.",
                offset=at.start,
            )


@rule("HF0433", "two-phase-unavailable", "PREPARE TRANSACTION")
def two_phase_unavailable(scene: Scene) -> Iterator[Finding]:
    """PREPARE TRANSACTION stands where it cannot work.

    It cannot run inside a function, nor through a pooler that shares connections, and needs
    max_prepared_transactions above its default of 0 (SQLSTATE 55000). NATS has no prepare, so a work over both needs
    a staged record anyway.

    Fix: journal the work in a table and finish or undo it after a crash.

    Source: PostgreSQL documentation, PREPARE TRANSACTION. Mistakes: SB-83.

    Bad:
        schemas:
          shop:
            functions:
              stage: {returns: void, language: plpgsql, body: "BEGIN EXECUTE 'PREPARE TRANSACTION ''x'''; END"}

    Good:
        schemas:
          shop:
            tables:
              journal: {columns: {what: {type: text, nullable: false}}}
            functions:
              stage: {returns: void, language: sql, body: INSERT INTO shop.journal VALUES ('staged')}
    """
    for text in scene.texts:
        if text.role not in ("body", "statement"):
            continue
        inner = [(t.start, tokenize(t.text)) for t in text.tokens if t.kind == "string" and "repare" in t.text.lower()]
        for start, tokens in [(0, text.tokens), *inner]:
            for i, token in enumerate(tokens):
                if is_word(tokens, i, "prepare", "prepared") and is_word(tokens, i + 1, "transaction"):
                    yield Finding(
                        text.where,
                        f"PREPARE TRANSACTION in {scene.name(text.record)} cannot work there",
                        "Journal the work in a table, and finish or undo it after a crash.",
                        offset=start or token.start,
                    )


RULES = (
    pool_bounds, pool_clamp, pools_exceed_role, pools_exceed_server, endpoint_not_declared, endpoint_unused,
    pool_role_cannot_login, conflicting_thresholds, conflicting_database, pooler_breaks_session, isolation_alias,
    two_phase_unavailable,
)  # fmt: skip
