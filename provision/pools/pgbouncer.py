"""The files of a PgBouncer that stands between pools and a server. Pure; what a version lacks is left out.

Facts: PgBouncer's config page and changelog. Each pool is a database of PgBouncer's under the pool's name, so
clients connect to ``primary`` as ``app_primary``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from provision.spec.ident import Address
from provision.spec.record import Record

SECOND = 1_000_000_000
#: The first version that keeps prepared statements alive in transaction and statement mode.
PREPARED_STATEMENTS = (1, 21)
#: The first version that takes a setting, or takes it for each database.
_SINCE: Mapping[str, tuple[int, int]] = {
    "max_prepared_statements": PREPARED_STATEMENTS,
    "server_lifetime": (1, 24),
}


class Endpoint(NamedTuple):
    """The server behind pools: where it is and the database for pools that name none."""

    host: str
    port: int
    database: str


class Listen(NamedTuple):
    """Where PgBouncer takes clients, and the files it is told of."""

    address: str = "127.0.0.1"
    port: int = 6432
    auth_file: str = "userlist.txt"
    socket_dir: str = ""
    log_file: str = ""
    pid_file: str = ""
    admin_users: tuple[str, ...] = ()


class Rendered(NamedTuple):
    """The two files. ``userlist`` holds placeholders ``{{role}}`` and no secret; ``notes`` are for people."""

    ini: str
    userlist: str
    notes: tuple[str, ...]


def render(
    pools: Iterable[Record],
    endpoints: Mapping[Address, Endpoint],
    version: tuple[int, ...],
    listen: Listen = Listen(),  # noqa: B008 - immutable
) -> Rendered:
    """Give the files for these pools. ``endpoints`` says by pool address which server each one reaches."""
    chosen = list(pools)
    lines = ["[databases]", *(_database(p, endpoints[p.address], version) for p in chosen)]
    lines += ["", "[pgbouncer]"]
    lines += [f"{key} = {value}" for key, value in _settings(chosen, version, listen).items()]
    users = dict.fromkeys([*(p.settings["role"] for p in chosen), *listen.admin_users])
    userlist = "".join(f'"{_quoted(user)}" "{{{{{user}}}}}"\n' for user in users)
    return Rendered("\n".join(lines) + "\n", userlist, _notes(chosen, version))


def fill(userlist: str, roles: Iterable[str], secret: Callable[[str], str]) -> str:
    """Put what the server knows each role by, its SCRAM verifier or password, in place of the placeholders.

    A verifier must be the server's own, byte by byte: PgBouncer logs in with the client's proof of it. The
    result belongs into a file that only PgBouncer may read.
    """
    for role in roles:
        userlist = userlist.replace(f'"{{{{{role}}}}}"', f'"{_quoted(secret(role))}"')
    return userlist


def _database(pool: Record, endpoint: Endpoint, version: tuple[int, ...]) -> str:
    place = {
        "host": endpoint.host,
        "port": str(endpoint.port),
        "dbname": pool.settings["database"] or endpoint.database,
    }
    parts = place | own(pool, version)
    return f"{pool.address.name} = " + " ".join(f"{key}={_value(value)}" for key, value in parts.items())


def own(pool: Record, version: tuple[int, ...]) -> dict[str, str]:
    """The settings of one pool, wherever its database is."""
    settings = pool.settings
    parts = {
        "pool_mode": settings["mode"],
        "pool_size": str(settings["max"]),
        "min_pool_size": str(settings["min"]),
        "reserve_pool": "0",
        "max_db_connections": str(settings["max"]),
        "application_name": settings["application_name"],
    }
    if _has("server_lifetime", version):
        parts["server_lifetime"] = str(_seconds(settings["max_lifetime"]))
    return parts


def _settings(pools: list[Record], version: tuple[int, ...], listen: Listen) -> dict[str, str]:
    """The settings of one PgBouncer: where it listens, and what its pools share."""
    found = {
        "listen_addr": listen.address,
        "listen_port": str(listen.port),
        "unix_socket_dir": listen.socket_dir,
        "logfile": listen.log_file,
        "pidfile": listen.pid_file,
        "auth_type": "scram-sha-256",
        "auth_file": listen.auth_file,
        "admin_users": ", ".join(listen.admin_users),
    }
    optional = {"unix_socket_dir", "logfile", "pidfile", "admin_users"}
    return {key: value for key, value in found.items() if value or key not in optional} | shared(pools, version)


def shared(pools: list[Record], version: tuple[int, ...]) -> dict[str, str]:
    """The settings that all pools of one PgBouncer share; each takes the value that fits every pool."""

    def longest(field: str) -> str:
        return str(max(_seconds(p.settings[field]) for p in pools))

    clients = sum(p.settings["max"] * p.settings["processes"] for p in pools)
    found = {
        # Every client connection, and as many again for those that wait their turn.
        "max_client_conn": str(2 * clients),
        "query_wait_timeout": longest("acquire_timeout"),
        "server_idle_timeout": longest("idle_timeout"),
        "server_lifetime": str(min(_seconds(p.settings["max_lifetime"]) for p in pools)),
        "server_check_delay": "0" if any(p.settings["test_before_acquire"] for p in pools) else "30",
        "idle_transaction_timeout": longest("idle_in_transaction_timeout"),
        # Sent by common drivers, of no use behind a pooler.
        "ignore_startup_parameters": "extra_float_digits",
    }
    prepared = max(p.settings["statement_cache_capacity"] for p in pools)
    if _has("max_prepared_statements", version) and prepared:
        found["max_prepared_statements"] = str(prepared)
    return found


def _notes(pools: list[Record], version: tuple[int, ...]) -> tuple[str, ...]:
    if _has("max_prepared_statements", version):
        return ()
    text = ".".join(map(str, version))
    return tuple(
        f"pool {p.address.name}: PgBouncer {text} loses prepared statements in {p.settings['mode']} mode;"
        " clients must not prepare, or use 1.21 or newer"
        for p in pools
        if p.settings["mode"] != "session" and p.settings["statement_cache_capacity"]
    )


def _has(setting: str, version: tuple[int, ...]) -> bool:
    return tuple(version[:2]) >= _SINCE[setting]


def _seconds(ns: int) -> int:
    return -(-ns // SECOND)


def _value(text: str) -> str:
    """Quote a value of a connection string; PgBouncer doubles the quote inside."""
    plain = text and all(c.isalnum() or c in "._-:/" for c in text)
    return text if plain else "'" + text.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    return text.replace('"', '""')
