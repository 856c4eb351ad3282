"""From a target's settings to an open session. The password travels in a keyword, never in a URL or text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from provision.spec import target as target_module
from provision.spec.fields import FieldError

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
    """One endpoint. ``host`` is a name, an address, or the folder of a socket; times are in their units."""

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
    own = {key: _plain(target.get(key), resolve) for key in ("database", "user", "password")}
    try:
        place = _place(target_module.endpoint(target, endpoint), resolve)
        given = (_from_dsn(target.get("dsn"), resolve), place, own, overrides)
        found = {key: value for source in given for key, value in source.items() if value}
        tls = {key: _plain(value, resolve) for key, value in (target.get("tls") or {}).items()}
        reached = target_module.reach({**target, "tls": tls}, found)
    except FieldError as error:
        raise ConfigurationError(str(error), error.help) from None
    except ValueError:
        raise ConfigurationError("the target's port is not one number", "Give one primary endpoint.") from None
    return Settings(
        host=reached.host,
        port=reached.port,
        database=found.get("database") or found.get("dbname") or "postgres",
        user=found.get("user"),
        password=found.get("password"),
        sslmode=reached.tls["sslmode"],
        sslrootcert=reached.tls.get("sslrootcert"),
        sslcert=reached.tls.get("sslcert"),
        sslkey=reached.tls.get("sslkey"),
        connect_timeout_s=reached.connect_timeout_s,
        application_name=application_name,
        pooled=target.get("mode") == "pooled",
    )


def _plain(value: Any, resolve: Resolve) -> Any:
    return resolve(value) if isinstance(value, Mapping) else value


def _place(found: Mapping[str, Any], resolve: Resolve) -> Mapping[str, Any]:
    """Host and port of an endpoint; what a reference leads to is ``host:port`` or a DSN."""
    if "host" in found:
        return found
    text = resolve(found)
    return _from_dsn(text, resolve) if "=" in text or "//" in text else target_module.place_of(text)


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
    found = {
        "host": settings.host,
        "port": str(settings.port),
        "dbname": settings.database,
        "connect_timeout": str(settings.connect_timeout_s),
        "application_name": settings.application_name,
        "options": target_module.start_options(session),
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


def interrupt(connection: Connection) -> None:
    """Ask the server to end the statement of a session that another thread waits for."""
    import psycopg

    with suppress(psycopg.Error):  # a session that is gone runs nothing
        connection.cancel_safe(timeout=1.0)


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
