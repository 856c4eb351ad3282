"""What can go wrong with a PostgreSQL server. Each error is one sentence and its ``help``; none holds a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from provision.postgres.sql import quote_ident
from provision.spec.errors import HoldfastError, InputError, OperationError, UnreachableError

if TYPE_CHECKING:
    from psycopg import Error
    from psycopg.errors import Diagnostic


class PostgresError(HoldfastError):
    """A failed dealing with a PostgreSQL server. The shared base besides it decides the exit code."""


class ConfigurationError(PostgresError, InputError):
    """The target's settings do not describe a connection."""


class Unreachable(PostgresError, UnreachableError):
    """No server answers at the address, or the connection to it was lost."""


class AuthenticationFailed(PostgresError, UnreachableError):
    """The server refuses this role or its password."""


class NoSuchDatabase(PostgresError, UnreachableError):
    """The server has no database of that name."""


class PooledEndpoint(PostgresError, InputError):
    """The endpoint is a pooler, which keeps neither sessions nor advisory locks."""


class ServerTooOld(PostgresError, OperationError):
    """The server is older than the oldest supported version."""


class PermissionDenied(PostgresError, OperationError):
    """The role lacks a privilege. ``object`` is what it was refused on, ``grant`` the SQL that mends it."""

    def __init__(self, message: str, *, object: str = "", grant: str = "") -> None:
        super().__init__(message, f"As its owner or a superuser run: {grant};" if grant else "")
        self.object = object
        self.grant = grant


class LockTimeout(PostgresError, OperationError):
    """A lock was not granted in time, or a deadlock was broken, on every try."""


class StatementFailed(PostgresError, OperationError):
    """The server refused a statement of ours. ``step`` is the id of the plan's step, "" outside a plan.

    ``position`` counts characters of that statement from 1; None when the server gave none.
    """

    def __init__(self, step: str, sqlstate: str, message: str, help: str = "", position: int | None = None) -> None:
        where = f"{step}: " if step else ""
        super().__init__(f"{where}{message} (SQLSTATE {sqlstate})", help)
        self.step = step
        self.sqlstate = sqlstate
        self.reason = message
        self.position = position


class Refusal(Exception):
    """The server's own words about a statement: what ``translate`` turns into the types above."""

    def __init__(self, diag: Diagnostic) -> None:
        super().__init__(diag.message_primary or "")
        self.sqlstate = diag.sqlstate or ""
        self.message = diag.message_primary or "no message"
        self.detail = diag.message_detail or ""
        self.hint = diag.message_hint or ""
        self.position = int(diag.statement_position) if diag.statement_position else None
        self.column = diag.column_name
        self.constraint = diag.constraint_name


#: After lock_not_available, deadlock_detected and serialization_failure the same statement may succeed.
_TRANSIENT = frozenset({"55P03", "40P01", "40001"})
_DISK_FULL = "53100"
_REMEDIES = {
    _DISK_FULL: "Free disk space on the server and run the command again.",
    "53200": "Raise max_locks_per_transaction on the server, or memory, and run the command again.",
    "53300": "Close sessions or raise max_connections on the server.",
    "57014": "The statement ran into statement_timeout or was cancelled; run the command again.",
    "58P01": "Install the extension's files on the server.",
    "0A000": "The server does not support this; see its version and installed extensions.",
}
#: (pattern of the server's message, object, grant); {0} is what the pattern caught, {role} the current role.
_GRANTS: tuple[tuple[str, str, str], ...] = (
    (r"permission denied for database (.+)", "database {0}", "GRANT CREATE ON DATABASE {0} TO {role}"),
    (r"permission denied for schema (.+)", "schema {0}", "GRANT USAGE, CREATE ON SCHEMA {0} TO {role}"),
    (r"permission denied for (?:table|view|relation) (.+)", "table {0}", "GRANT ALL ON TABLE {0} TO {role}"),
    (r"permission denied for sequence (.+)", "sequence {0}", "GRANT ALL ON SEQUENCE {0} TO {role}"),
    (r"permission denied for function (.+)", "function {0}", "GRANT EXECUTE ON FUNCTION {0} TO {role}"),
    (r"permission denied for type (.+)", "type {0}", "GRANT USAGE ON TYPE {0} TO {role}"),
    (r"permission denied for language (.+)", "language {0}", "GRANT USAGE ON LANGUAGE {0} TO {role}"),
    (r"permission denied to create extension (.+)", "extension {0}", "CREATE EXTENSION {0}"),
    (r"permission denied to create database", "database", "ALTER ROLE {role} CREATEDB"),
    (r"permission denied to (?:create|alter|drop|grant) role", "role", "ALTER ROLE {role} CREATEROLE"),
    (r"must be superuser", "server", "ALTER ROLE {role} SUPERUSER"),
    (r'must be (?:able to SET ROLE|member of role) "?([^"]+)"?', "role {0}", "GRANT {0} TO {role}"),
    (r'must have admin option on role "?([^"]+)"?', "role {0}", "GRANT {0} TO {role} WITH ADMIN OPTION"),
)
_IN_DEFAULT = re.compile(r"updated partition constraint for default partition .* would be violated")
_OWNER = re.compile(r"must be owner of (materialized view|event trigger|large object|relation|\w+) (.+)")


def is_transient(sqlstate: str, message: str) -> bool:
    """Whether trying again may help. Concurrent changes of one ACL end in an internal error, XX000."""
    return sqlstate in _TRANSIENT or (sqlstate == "XX000" and message.startswith("tuple concurrently"))


def is_connection_lost(sqlstate: str) -> bool:
    """Whether the session is gone: class 08 and the shutdown codes of class 57."""
    return sqlstate.startswith("08") or sqlstate in ("57P01", "57P02", "57P03", "57P05")


def translate(refusal: Refusal, *, step: str = "", role: str = "") -> PostgresError:
    """Give the typed error for what the server said, without any part of the statement."""
    state, message = refusal.sqlstate, refusal.message
    where = f"{step}: " if step else ""
    if state == "42501":
        found, grant = _grant(message, role, step.partition("#")[0])
        return PermissionDenied(f"{where}{message}", object=found, grant=grant)
    if is_connection_lost(state):
        return Unreachable(f"{where}the server closed the connection: {message}", "Run the command again.")
    if is_transient(state, message):
        return LockTimeout(
            f"{where}{message}", "Another session is in the way; find it in pg_stat_activity and run again."
        )
    detail = f"{message}: {refusal.detail}" if refusal.detail else message
    remedy = refusal.hint or _REMEDIES.get(state, "")
    if state == "23514" and _IN_DEFAULT.match(message):
        remedy = "The DEFAULT partition holds rows of this range. To move them, run: holdfast partitions maintain"
    return StatementFailed(step, state, detail.rstrip("."), remedy, refusal.position)


def refusal_of(error: Error) -> Refusal:
    """The server's words in an exception of psycopg."""
    found = Refusal(error.diag)
    if not found.sqlstate:
        found.sqlstate = error.sqlstate or "08006"
        found.message = str(error).strip().split("\n")[0]
    return found


def _grant(message: str, role: str, address: str) -> tuple[str, str]:
    """What was refused, and the SQL that allows it."""
    quoted = quote_ident(role) if role else "current_user"
    owner = _OWNER.match(message)
    if owner:
        kind = "table" if owner[1] == "relation" else owner[1]
        name = _name(owner[2], address)
        return f"{kind} {name}", f"ALTER {kind.upper()} {name} OWNER TO {quoted}"
    for pattern, found, grant in _GRANTS:
        match = re.match(pattern, message)
        if match:
            names = [_name(name, address) for name in match.groups()]
            return found.format(*names), grant.format(*names, role=quoted)
    return "", ""


def _name(name: str, address: str) -> str:
    """Quoted; qualified where it is the table or object of a step, since the server's message leaves it bare."""
    path = [unquote(part) for part in address.partition("/")[2].split("/")]
    if len(path) > 1 and name in path[1:] and name != path[0]:
        return f"{quote_ident(path[0])}.{quote_ident(name)}"
    return quote_ident(name)


def quote(identifier: str) -> str:
    """Quote an identifier where it needs it."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", identifier):
        return identifier
    return '"' + identifier.replace('"', '""') + '"'
