"""From a target's settings to an open session. The password travels in a keyword, never in a URL or text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from provision.postgres.errors import (
    AuthenticationFailed,
    ConfigurationError,
    NoSuchDatabase,
    PermissionDenied,
    PooledEndpoint,
    PostgresError,
    ServerTooOld,
    Unreachable,
)
from provision.postgres.sql import quote_ident

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

OLDEST = 150000
#: Everything that changes how the server prints or resolves an expression. Set in the start-up packet, where
#: it beats ALTER ROLE and ALTER DATABASE (PostgreSQL docs, 19.1), so that every session of ours reads alike.
SESSION: Mapping[str, str] = {
    "search_path": "pg_catalog",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "client_min_messages": "warning",
    "check_function_bodies": "on",
    "xmloption": "content",
}
Resolve = Callable[[Mapping[str, str]], str]


@dataclass(frozen=True, slots=True)
class Settings:
    """One endpoint. ``host`` is a name, an address, or the folder of a socket; times are in their units.

    ``sslmode`` None lets the form decide: verify-full where a CA is given.
    """

    host: str
    port: int = 5432
    database: str = "postgres"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    connect_timeout_s: int = 10
    statement_timeout_ms: int = 30_000
    application_name: str = "holdfast"
    pooled: bool = False

    @property
    def place(self) -> str:
        """Host, port and database, for messages."""
        return f"{self.host}:{self.port}/{self.database}"

    def to(self, database: str) -> Settings:
        """The same server, another database."""
        return replace(self, database=database)


#: form -> host unless told, and sslmode without a CA. local: a socket or the loopback, nothing to protect.
#: compose: a service name inside one host. kubernetes: the service's DNS name. cloud: always encrypted.
FORMS: Mapping[str, tuple[str, str]] = {
    "local": ("localhost", "disable"),
    "compose": ("{service}", "prefer"),
    "kubernetes": ("{service}.{namespace}.svc.cluster.local", "require"),
    "cloud": ("", "require"),
}
_FORMLESS = ("", "prefer")
_TLS = {"ca": "sslrootcert", "cert": "sslcert", "key": "sslkey", "mode": "sslmode"}


def settings(
    target: Mapping[str, Any],
    resolve: Resolve,
    *,
    endpoint: str = "primary",
    application_name: str = "holdfast",
    **overrides: Any,
) -> Settings:
    """Read the settings of a declared target. ``resolve`` turns a secret reference into its value.

    The target's ``dsn`` comes first, over it the named entry of ``endpoints`` or its own host, then its other
    keys, then ``overrides`` (an embedded server's place and superuser). Raises ConfigurationError.
    """
    form, sslmode = FORMS.get(target.get("form") or "", _FORMLESS)
    if target.get("kind") == "embedded":
        form, sslmode = FORMS["local"]
    given = (
        _from_dsn(target.get("dsn"), resolve),
        _place(target, endpoint, resolve),
        {key: target.get(key) for key in ("database", "user", "password", "mode")},
        {_TLS[key]: value for key, value in (target.get("tls") or {}).items()},
        overrides,
    )
    found = {key: _plain(value, resolve) for source in given for key, value in source.items() if value}
    host = found.get("host") or form.format(
        service=target.get("service") or "postgres", namespace=target.get("namespace") or "default"
    )
    if not host:
        raise ConfigurationError("the target has no host", "Give dsn, host, or endpoints.primary.")
    ca = found.get("sslrootcert")
    habit = "disable" if host.startswith("/") else "verify-full" if ca else sslmode
    timeout_ns = target.get("connect_timeout")
    return Settings(
        host=host,
        port=_number(found, "port", 5432),
        database=found.get("database") or found.get("dbname") or "postgres",
        user=found.get("user"),
        password=found.get("password"),
        sslmode=found.get("sslmode") or habit,
        sslrootcert=ca,
        sslcert=found.get("sslcert"),
        sslkey=found.get("sslkey"),
        connect_timeout_s=max(1, timeout_ns // 1_000_000_000) if timeout_ns else 10,
        application_name=application_name,
        pooled=found.get("mode") == "pooled",
    )


def _plain(value: Any, resolve: Resolve) -> Any:
    return resolve(value) if isinstance(value, Mapping) else value


def _number(found: Mapping[str, Any], key: str, default: int) -> int:
    try:
        return int(found.get(key) or default)
    except ValueError:
        raise ConfigurationError(f"the target's {key} is not one number", "Give one primary endpoint.") from None


def _place(target: Mapping[str, Any], endpoint: str, resolve: Resolve) -> Mapping[str, Any]:
    """Host and port of an endpoint: a mapping of both, ``host:port``, or a reference to that or to a DSN."""
    endpoints = target.get("endpoints") or {}
    if endpoint not in endpoints:
        if endpoint != "primary":
            known = ", ".join(["primary", *endpoints])
            raise ConfigurationError(f"the target has no endpoint {endpoint}", f"It has: {known}.")
        return {"host": target.get("host"), "port": target.get("port")}
    found = endpoints[endpoint]
    if isinstance(found, Mapping) and "host" in found:
        return found
    text = _plain(found, resolve)
    if "=" in text or "//" in text:
        return _from_dsn(text, resolve)
    host, _, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "")
    return {"host": host.strip("[]"), "port": port}


def _from_dsn(dsn: Any, resolve: Resolve) -> Mapping[str, Any]:
    if not dsn:
        return {}
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        return conninfo_to_dict(_plain(dsn, resolve))
    except ProgrammingError:  # its text may quote the password
        raise ConfigurationError(
            "the target's dsn cannot be read",
            "Percent-encode special characters, or give host, user and password beside it.",
        ) from None


def keywords(settings: Settings) -> dict[str, str]:
    """The libpq keywords of a connection; statement_timeout is none of them and travels in ``options``."""
    session = {**SESSION, "statement_timeout": f"{settings.statement_timeout_ms}ms"}
    options = " ".join(f"-c {key}={_escape(value)}" for key, value in session.items())
    found = {
        "host": settings.host,
        "port": str(settings.port),
        "dbname": settings.database,
        "connect_timeout": str(settings.connect_timeout_s),
        "application_name": settings.application_name,
        "options": options,
    }
    extra = {
        "user": settings.user,
        "password": settings.password,
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert,
        "sslcert": settings.sslcert,
        "sslkey": settings.sslkey,
    }
    return found | {key: value for key, value in extra.items() if value}


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def connect(settings: Settings) -> Connection:
    """Open a direct session in autocommit. Raises a PostgresError that names the place and the remedy."""
    if settings.pooled:
        raise _pooled(settings)
    import psycopg

    try:
        connection = psycopg.connect(autocommit=True, prepare_threshold=None, **keywords(settings))  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        raise _refused(settings, str(error)) from error
    if connection.pgconn.server_version < OLDEST:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise ServerTooOld(f"{settings.place} runs PostgreSQL {version}", "Holdfast needs PostgreSQL 15 or newer.")
    return connection


def _pooled(settings: Settings) -> PostgresError:
    return PooledEndpoint(
        f"{settings.place} is a pooled endpoint, and plan and apply need a session of their own",
        "Declare a direct endpoint of the same database as endpoints.primary (mode: direct).",
    )


#: What libpq and the server say when a session is refused; a failed start-up carries no SQLSTATE in libpq.
_SAYINGS: tuple[tuple[str, type[PostgresError], str, str], ...] = (
    (
        r"unsupported startup parameter",
        PooledEndpoint,
        "is a pooled endpoint, and plan and apply need a session of their own",
        "Declare a direct endpoint of the same database as endpoints.primary.",
    ),
    (
        r"no password supplied",
        AuthenticationFailed,
        "asks {user} for a password and none is set",
        "Set the secret that the target's password refers to.",
    ),
    (
        r"password authentication failed|role \".*\" does not exist|role \".*\" is not permitted to log in",
        AuthenticationFailed,
        "refuses the role or password of {user}",
        "Check the target's user and the secret that holds its password.",
    ),
    (
        r"no pg_hba.conf entry|authentication failed",
        AuthenticationFailed,
        "does not let {user} in from here",
        "Allow this client in the server's pg_hba.conf, and check sslmode.",
    ),
    (
        r"database \".*\" does not exist",
        NoSuchDatabase,
        "does not exist",
        "Create the database, or correct the target's database.",
    ),
    (
        r"certificate|SSL|TLS",
        Unreachable,
        "cannot be reached over TLS: {reason}",
        "Check sslmode and sslrootcert of the target.",
    ),
    (
        r"too many (clients|connections)|connection slots",
        Unreachable,
        "has no free connection",
        "Close sessions.",
    ),
    (
        r"starting up|shutting down|recovery mode",
        Unreachable,
        "is not ready: {reason}",
        "Try again in a moment.",
    ),
)


def _refused(settings: Settings, text: str) -> PostgresError:
    text = text.replace(settings.password, "***") if settings.password else text
    reason = re.sub(r"^.*?(failed|FATAL|error): +", "", text.split("\n")[0]).removeprefix("FATAL:  ")
    if "permission denied for database" in text:
        role = quote_ident(settings.user or "public")
        grant = f"GRANT CONNECT ON DATABASE {quote_ident(settings.database)} TO {role}"
        return PermissionDenied(f"{settings.place}: {reason}", object=f"database {settings.database}", grant=grant)
    for pattern, error, message, remedy in _SAYINGS:
        if re.search(pattern, text):
            told = message.format(user=settings.user or "this user", reason=reason)
            return error(f"{settings.place} {told}", remedy)
    return Unreachable(
        f"{settings.place} cannot be reached: {reason}", "Is the server running, and are host and port right?"
    )
