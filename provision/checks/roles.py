"""Rules about roles and connections: who is named, how time-outs are written, what connection strings mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from provision.checks.postgres_names import MILLISECOND_SETTINGS, SESSION_SETTINGS
from provision.checks.rule import Finding, rule
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Record

#: Role names that every server has or that mean someone else.
_ALWAYS = frozenset({"public", "postgres", "current_user", "session_user", "current_role"})


@rule("HF0601", "role-not-declared", "role", level="cross-resource")
def role_not_declared(scene: Scene) -> Iterator[Finding]:
    """Role is named and never declared.

    Owners, grants, policies, memberships and pools name roles, which must exist (SQLSTATE 42704). Roles that begin
    with `pg_` are the server's own.

    Fix: declare the role, or correct its name.

    Source: PostgreSQL documentation, Database Roles.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: ap, min: 1, max: 5}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools: {primary: {role: app, min: 1, max: 5}}
    """
    for record, where, name in _named_roles(scene):
        known = scene.roles.get(record.address.target, {})
        if name in known or name.lower() in _ALWAYS or name.startswith("pg_") or scene.written("roles", name):
            continue
        yield Finding(
            where,
            f"role {name}, which {scene.name(record)} names, is not declared",
            nearest(name, known, f"Declare roles: {{{name}: …}}."),
        )


def _named_roles(scene: Scene) -> Iterator[tuple[Record, Pointer, str]]:
    for kind in ("schema", "enum", "domain", "type", "table", "function", "view", "sequence"):
        for record in scene.of(kind):
            if record.settings.get("owner"):
                yield record, (*(record.origin or ()), "owner"), record.settings["owner"]
    for record in scene.of("policy"):
        for i, name in enumerate(record.settings.get("to") or ()):
            yield record, (*(record.origin or ()), "to", i), name
    for record in scene.of("pool"):
        yield record, (*(record.origin or ()), "role"), record.settings["role"]
    for kind in ("membership", "grant"):
        for record in scene.of(kind):
            yield record, record.origin or (), record.address.name


@rule("HF0620", "membership-cycle", "membership of", level="cross-resource")
def membership_cycle(scene: Scene) -> Iterator[Finding]:
    """Roles are members of each other in a circle.

    A server refuses the membership that would close the circle (SQLSTATE 0LP01).

    Fix: leave one membership out.

    Source: PostgreSQL documentation, Role Membership.

    Bad:
        roles: {readers: {member_of: [writers]}, writers: {member_of: [readers]}}

    Good:
        roles: {readers: {}, writers: {member_of: [readers]}}
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in scene.of("membership"):
        if record.parent is not None:
            groups.setdefault((record.address.target, record.parent.name), []).append(record)
    for (target, member), memberships in groups.items():
        for record in memberships:
            waiting, seen = [record.address.name], set[str]()
            while waiting:
                name = waiting.pop()
                if name not in seen:
                    seen.add(name)
                    waiting += [r.address.name for r in groups.get((target, name), ())]
            if member in seen:
                yield Finding(
                    record.origin or (),
                    f"membership of {member} in {record.address.name} closes a circle",
                    "Leave one membership out.",
                )


@rule("HF0612", "timeout-without-unit", "setting", severity="warning")
def timeout_without_unit(scene: Scene) -> Iterator[Finding]:
    """Time-out is a bare number.

    PostgreSQL reads it as milliseconds: 30 cancels every statement after 30 ms.

    Fix: write the unit, `30s`.

    Source: PostgreSQL documentation, Parameter Names and Values. Mistakes: SB-77.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {statement_timeout: 30}}}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {statement_timeout: 30s}}}
    """
    for kind, option in (("role", "settings"), ("function", "set")):
        for record in scene.of(kind):
            for name in record.settings.get(option) or {}:
                written = scene.node((*(record.origin or ()), option, name))
                bare = str(written).isdigit() and not isinstance(written, bool) and int(str(written)) != 0
                if name in MILLISECOND_SETTINGS and bare:
                    yield Finding(
                        (*(record.origin or ()), option, name),
                        f"setting {name} of {scene.name(record)} is {written} milliseconds",
                        f"Write the unit: {written}s or {written}ms.",
                    )


#: Parameter key words of libpq (documentation, 34.1.2), version 18.
_LIBPQ = frozenset(
    "host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding "
    "options application_name fallback_application_name keepalives keepalives_idle keepalives_interval "
    "keepalives_count tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation sslcompression "
    "sslcert sslkey sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer "
    "ssl_min_protocol_version ssl_max_protocol_version min_protocol_version max_protocol_version krbsrvname gsslib "
    "gssdelegation scram_client_key scram_server_key service servicefile target_session_attrs load_balance_hosts "
    "oauth_issuer oauth_client_id oauth_client_secret oauth_scope".split()
)
_URI = re.compile(r"^(?P<scheme>postgres(?:ql)?)://(?P<rest>.*)$", re.DOTALL)


def _dsns(scene: Scene) -> Iterator[tuple[Pointer, str, str]]:
    """Connection strings that stand in the document as text: place, target, text."""
    targets = scene.node(("targets", "postgres"))
    for name, node in targets.items() if isinstance(targets, dict) else ():
        dsn = node.get("dsn") if isinstance(node, dict) else None
        if isinstance(dsn, str):
            yield ("targets", "postgres", name, "dsn"), name, dsn


def _query(dsn: str) -> list[tuple[str, str]]:
    return parse_qsl(dsn.split("?", 1)[1], keep_blank_values=True) if "?" in dsn else []


@rule("HF0609", "conninfo-unknown-parameter", "connection string of")
def conninfo_unknown_parameter(scene: Scene) -> Iterator[Finding]:
    """Connection string has a parameter that libpq does not know.

    libpq refuses the string. Server settings such as statement_timeout travel in `options`, with their unit: a bare
    30 is 30 ms.

    Fix: write `options=-c%20statement_timeout%3D30s`, or put the setting into the role.

    Source: PostgreSQL documentation, libpq, Parameter Key Words. Mistakes: SB-77.

    Bad:
        targets: {postgres: {main: {kind: external, dsn: "postgresql://db/agents?statement_timeout=30"}}}

    Good:
        targets:
          postgres: {main: {kind: external, dsn: "postgresql://db/agents?options=-c%20statement_timeout%3D30s"}}
    """
    for where, target, dsn in _dsns(scene):
        for name, value in _query(dsn):
            if name not in _LIBPQ:
                mend = f"Write options=-c%20{name}%3D{value}, with a unit, or put it into the role."
                near = "" if name in SESSION_SETTINGS else nearest(name, _LIBPQ)
                yield Finding(
                    where,
                    f"connection string of target {target} has the parameter {name}, which libpq does not know",
                    near or mend,
                    offset=dsn.index(name),
                )


@rule("HF0610", "conninfo-not-encoded", "connection string of")
def conninfo_not_encoded(scene: Scene) -> Iterator[Finding]:
    """Connection string holds a character that must be percent-encoded.

    An `@`, `/` or space in a user name or path is read as the end of that part: `u@corp@db` has the host `corp@db`. A
    socket folder is given as `host=/path` or encoded.

    Fix: write `%40` for @, `%2F` for /, `%20` for a space; or give host, user and database as fields.

    Source: PostgreSQL documentation, libpq, Connection URIs. Mistakes: SB-78.

    Bad:
        targets: {postgres: {main: {kind: external, dsn: "postgresql://agent@corp@db/agents"}}}

    Good:
        targets: {postgres: {main: {kind: external, dsn: "postgresql://agent%40corp@db/agents"}}}
    """
    for where, target, dsn in _dsns(scene):
        match = _URI.match(dsn)
        if match is None:
            continue
        path = match["rest"].split("?", 1)[0]
        authority, _, database = path.partition("/")
        wrong = "@" if authority.count("@") > 1 or "@" in database else "/" if "/" in database else None
        wrong = wrong or (" " if re.search(r"\s", dsn) else None)
        if wrong:
            yield Finding(
                where,
                f"connection string of target {target} holds {wrong!r} where it ends a part",
                f"Write %{ord(wrong):02X} for it, or give host, user and database as fields.",
                offset=dsn.index(wrong, len(match["scheme"]) + 3),
            )


@rule("HF0611", "tls-mode-too-weak", "TLS of", severity="warning")
def tls_mode_too_weak(scene: Scene) -> Iterator[Finding]:
    """Connection has a certificate authority and does not check the server against it.

    `require` encrypts, and talks to whoever answers; only `verify-full` compares certificate and host name. An empty
    sslrootcert is a file that does not exist.

    Fix: write `mode: verify-full`; leave an empty path out.

    Source: PostgreSQL documentation, libpq, SSL Support. Mistakes: SB-80.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, tls: {ca: /etc/ca.pem, mode: require}}}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, tls: {ca: /etc/ca.pem, mode: verify-full}}}}
    """
    targets = scene.node(("targets", "postgres"))
    for name, node in targets.items() if isinstance(targets, dict) else ():
        tls: Any = node.get("tls") if isinstance(node, dict) else None
        if isinstance(tls, dict) and tls.get("ca") and tls.get("mode") in ("disable", "prefer", "require", "verify-ca"):
            yield Finding(
                ("targets", "postgres", name, "tls", "mode"),
                f"TLS of target {name} has a certificate authority and the mode {tls['mode']}",
                "Write mode: verify-full.",
            )
    for where, name, dsn in _dsns(scene):
        query = dict(_query(dsn))
        if query.get("sslrootcert") == "":
            yield Finding(where, f"TLS of target {name} has an empty sslrootcert", "Leave it out.")
        elif "sslrootcert" in query and query.get("sslmode") != "verify-full":
            yield Finding(
                where,
                f"TLS of target {name} has a certificate authority and sslmode {query.get('sslmode', 'prefer')}",
                "Write sslmode=verify-full.",
            )


RULES = (
    role_not_declared, membership_cycle, timeout_without_unit, conninfo_unknown_parameter, conninfo_not_encoded,
    tls_mode_too_weak,
)  # fmt: skip
