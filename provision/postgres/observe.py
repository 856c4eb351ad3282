"""Read a database in one snapshot: the raw catalog for the kinds' ``decode``, the ledger, and facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.postgres import passwords as passwords_module
from provision.postgres import wire
from provision.postgres.catalog import Catalog, Query, parse_copy
from provision.postgres.connect import SESSION
from provision.postgres.errors import Refusal, translate
from provision.postgres.sql import quote_literal
from provision.spec.record import Facts

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: Says whether a password fits what pg_authid holds for a role.
Verify = Callable[[str, str | None, str], bool]

_LOCAL = "; ".join(f"SET LOCAL {key} = '{value}'" for key, value in SESSION.items())
_BEGIN = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *_LOCAL.split("; "))

_PROBE = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = 'holdfast' AND c.relname = 'objects'),
           has_table_privilege('pg_catalog.pg_authid', 'SELECT')"""
_SERVER = """
    SELECT json_build_object(
        'settings', (SELECT json_object_agg(name, setting) FROM pg_settings
                      WHERE name IN ('max_connections', 'superuser_reserved_connections', 'wal_level',
                                     'max_locks_per_transaction', 'server_encoding')),
        'compressions', (SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'),
        'available', (SELECT json_object_agg(name, default_version) FROM pg_available_extensions),
        'installed', (SELECT json_object_agg(extname, extversion) FROM pg_extension),
        'role', (SELECT json_build_object('name', rolname, 'superuser', rolsuper, 'createdb', rolcreatedb,
                                          'createrole', rolcreaterole)
                   FROM pg_roles WHERE rolname = current_user),
        'database', current_database(),
        'create', has_database_privilege(current_database(), 'CREATE'))"""
_PASSWORDS = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY (ARRAY[{names}]::name[])"


class Snapshot(NamedTuple):
    """One reading of one database. ``raw`` is the catalog and ``ledger`` our own tables, by name of query."""

    raw: Mapping[str, bytes]
    ledger: Mapping[str, bytes]
    facts: Facts

    @property
    def digest(self) -> str:
        """Hash of the raw catalog and the server's version: equal digests decode to equal planes."""
        found = hashlib.sha256(repr((self.facts.target, self.facts.version)).encode())
        for name in sorted(self.raw):
            found.update(f"\0{name}\0{len(self.raw[name])}\0".encode())
            found.update(self.raw[name])
        return found.hexdigest()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.facts.target, self.facts.version[0], self.raw)


class Observer:
    """Reads snapshots of one target through an open session."""

    def __init__(self, connection: Connection, target: str) -> None:
        self.connection = connection
        self.target = target

    @cached_property
    def version(self) -> tuple[int, int, int]:
        """(major, minor, 0); PostgreSQL has had two-part versions since 10."""
        number = self.connection.pgconn.server_version
        return number // 10000, number % 10000, 0

    def read(
        self,
        queries: Iterable[Query],
        *,
        ledger: Iterable[Query] = (),
        passwords: Mapping[str, str] | None = None,
        verify: Verify = passwords_module.verify,
    ) -> Snapshot:
        """Read everything in two round trips. ``ledger`` queries run only where our schema exists.

        ``passwords`` maps roles to the secrets they should have; what came of it is the fact
        ``password_state``: match, differs, or unknown where this role may not read pg_authid.
        """
        with_ledger, with_passwords = self._begin()
        kinds, own = list(queries), list(ledger) if with_ledger else []
        ask = with_passwords and bool(passwords)
        texts = [copy(q.sql(self.version[0])) for q in (*kinds, *own)]
        texts += [copy(_SERVER), *([copy(_password_query(passwords or {}))] if ask else [])]
        outputs = self._run(*texts, "COMMIT")
        raw = {q.name: data for q, data in zip(kinds, outputs, strict=False)}
        held = {q.name: data for q, data in zip(own, outputs[len(kinds) :], strict=False)}
        rest = outputs[len(kinds) + len(own) :]
        stored = {str(r[0]): r[1] for r in parse_copy(rest[1])} if ask else None
        states = password_states(passwords or {}, stored, verify)
        return Snapshot(raw, held, self._facts(json.loads(str(parse_copy(rest[0])[0][0])), states))

    def _begin(self) -> tuple[bool, bool]:
        (probe,) = parse_copy(self._run(*_BEGIN, copy(_PROBE))[0])
        return probe[0] == "t", probe[1] == "t"

    def _run(self, *statements: str) -> list[bytes]:
        try:
            return wire.run(self.connection, *statements)
        except Refusal as refusal:
            wire.send(self.connection, ["ROLLBACK"])
            raise translate(refusal, role=self.connection.info.user) from refusal
        except KeyboardInterrupt:
            wire.send(self.connection, ["ROLLBACK"])
            raise

    def _facts(self, server: Mapping[str, Any], passwords: Mapping[str, str]) -> Facts:
        settings, role = server["settings"], server["role"]
        return Facts(
            "pg",
            self.target,
            self.version,
            {
                "max_connections": int(settings["max_connections"]),
                "reserved_connections": int(settings["superuser_reserved_connections"]),
                "extensions": server["installed"] or {},
                "extensions_available": server["available"] or {},
                "superuser": role["superuser"],
                "role": role["name"],
                "createdb": role["superuser"] or role["createdb"],
                "createrole": role["superuser"] or role["createrole"],
                "create": server["create"],
                "database": server["database"],
                "encoding": settings["server_encoding"],
                "compressions": tuple(server["compressions"] or ()),
                "wal_level": settings["wal_level"],
                "max_locks_per_transaction": int(settings["max_locks_per_transaction"]),
                "password_state": dict(passwords),
            },
        )


def observe(connection: Connection, target: str, queries: Iterable[Query], **options: Any) -> Snapshot:
    """Read one snapshot; see ``Observer.read``."""
    return Observer(connection, target).read(queries, **options)


def copy(query: str) -> str:
    """The statement that streams a query's rows in COPY's text format."""
    return f"COPY ({query}\n) TO STDOUT"


def password_states(
    wanted: Mapping[str, str], stored: Mapping[str, str | None] | None, verify: Verify
) -> dict[str, str]:
    """Compare secrets with what the server keeps of them: role -> match, differs or unknown. Pure."""
    if stored is None:
        return dict.fromkeys(wanted, "unknown")
    fits = {role: verify(secret, stored.get(role), role) for role, secret in wanted.items()}
    return {role: "match" if fit else "differs" for role, fit in fits.items()}


def verifiers(connection: Connection, roles: Iterable[str]) -> dict[str, str]:
    """What pg_authid keeps of the roles' passwords, by role; empty where this role may not read it."""
    try:
        (output,) = wire.run(connection, copy(_password_query(dict.fromkeys(roles, ""))))
    except Refusal:
        return {}
    return {str(role): stored for role, stored in parse_copy(output) if stored is not None}


def _password_query(passwords: Mapping[str, str]) -> str:
    return _PASSWORDS.format(names=", ".join(map(quote_literal, passwords)))
