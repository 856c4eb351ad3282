"""An empty database to try things in: on the target itself where the role may create one, else embedded."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from provision.postgres import wire
from provision.postgres.connect import Settings, connect
from provision.postgres.errors import PostgresError, Refusal, translate
from provision.postgres.observe import observe
from provision.postgres.sql import quote_ident
from provision.spec.errors import OperationError
from provision.spec.record import Facts

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

_PREFIX = "holdfast_scratch_"
_NAME = re.compile(rf"{_PREFIX}(\d+)_[0-9a-f]+")
_STALE_S = 86_400

#: Starts an embedded server of a major version; the settings are those of its superuser.
Embedded = Callable[[int], AbstractContextManager[Settings]]
#: Called with the roles that must exist and the locks that will be held at once.
Scratch = Callable[[Collection[str], int], AbstractContextManager["Session"]]


class Session(NamedTuple):
    """A session in an empty database. ``place`` says where, for people."""

    connection: Connection
    facts: Facts
    place: str


class NoScratch(PostgresError, OperationError):
    """Neither the target nor this machine offers a database to compile in."""


class ScratchDatabases:
    """Gives scratch sessions for one target.

    ``settings`` and ``facts`` are the target's, None where there is no target (``check --compile`` offline).
    """

    def __init__(
        self,
        settings: Settings | None,
        facts: Facts | None,
        embedded: Embedded | None = None,
        *,
        target: str = "main",
        major: int = 18,
    ) -> None:
        self.settings = replace(settings, statement_timeout_ms=0) if settings is not None else None
        self.facts = facts
        self.target = facts.target if facts is not None else target
        self.major = facts.version[0] if facts is not None else major
        self._embedded = embedded

    def __call__(self, roles: Collection[str] = (), locks: int = 0) -> AbstractContextManager[Session]:
        """Open one. ``roles`` must be there or creatable, ``locks`` fit into the lock table with room to spare."""
        if self.settings is not None and self.facts is not None and _may_create(self.facts, roles):
            has_room = locks < _lock_table(self.facts) // 2
            if has_room or self._embedded is None:
                return self._on_target(self.settings)
        if self._embedded is not None:
            return self._in_embedded(self._embedded)
        role = quote_ident(self.facts.options["role"]) if self.facts is not None else "the role"
        raise NoScratch(
            f"not compiled here: needs CREATEDB for {role}, or an embedded PostgreSQL {self.major}",
            f"Run: ALTER ROLE {role} CREATEDB; or: pip install 'holdfast-provision[embedded]'",
        )

    @contextmanager
    def _on_target(self, settings: Settings) -> Iterator[Session]:
        """Make a database beside the target's, and drop it whatever happens, Ctrl-C included."""
        with connect(settings) as maintenance:
            drop_stale(maintenance)
            name = f"{_PREFIX}{int(time.time())}_{secrets.token_hex(4)}"
            try:
                _do(maintenance, f"CREATE DATABASE {name} TEMPLATE template0")
                place = f"scratch database on {settings.host}:{settings.port}"
                yield from self._session(settings.to(name), place)
            finally:
                drop(maintenance, name)

    @contextmanager
    def _in_embedded(self, start: Embedded) -> Iterator[Session]:
        with start(self.major) as settings:
            yield from self._session(settings, f"embedded PostgreSQL {self.major}")

    def _session(self, settings: Settings, place: str) -> Iterator[Session]:
        with connect(settings) as connection:
            facts = observe(connection, self.target, ()).facts
            try:
                yield Session(connection, facts, place)
            finally:
                if not connection.closed:
                    wire.send(connection, ["ROLLBACK"])


def drop(connection: Connection, name: str) -> None:
    """Drop a scratch database together with the sessions in it."""
    _do(connection, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def drop_stale(connection: Connection) -> None:
    """Drop what killed runs left behind: scratch databases of ours that are older than a day."""
    mine = "COPY (SELECT datname FROM pg_database WHERE pg_has_role(datdba, 'USAGE')) TO STDOUT"
    for name in wire.run(connection, mine)[0].decode().splitlines():
        match = _NAME.fullmatch(name)
        if match and time.time() - int(match[1]) > _STALE_S:
            wire.send(connection, [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"])  # another may be faster


def _do(connection: Connection, statement: str) -> None:
    try:
        wire.run(connection, statement)
    except Refusal as refusal:
        raise translate(refusal, step="scratch database", role=connection.info.user) from refusal


def _may_create(facts: Facts, roles: Collection[str]) -> bool:
    """Whether the target's role may make a database, and roles where some are needed."""
    return bool(facts.options["createdb"]) and (not roles or bool(facts.options["createrole"]))


def _lock_table(facts: Facts) -> int:
    """How many locks the server holds at least (PostgreSQL docs, 19.12)."""
    return int(facts.options["max_locks_per_transaction"]) * int(facts.options["max_connections"])
