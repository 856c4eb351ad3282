"""An empty database to try things in: on the target itself where the role may create one, else embedded."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from provision.postgres import wire
from provision.postgres.connect import Settings, connect
from provision.postgres.errors import PostgresError
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
Scratch = Callable[[Collection[str]], AbstractContextManager["Session"]]


class Session(NamedTuple):
    """A session in an empty database. ``place`` says where, for people."""

    connection: Connection
    facts: Facts
    place: str


class NoScratch(PostgresError, OperationError):
    """Neither the target nor this machine offers a database to compile in."""


class ScratchDatabases:
    """Gives scratch sessions for one target. Call it with the roles that must exist or be creatable.

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
        self.settings = settings
        self.facts = facts
        self.target = facts.target if facts is not None else target
        self.major = facts.version[0] if facts is not None else major
        self._embedded = embedded

    def __call__(self, roles: Collection[str] = ()) -> AbstractContextManager[Session]:
        if self.settings is not None and self.facts is not None and self._may_create(roles):
            return self._on_target(self.settings)
        if self._embedded is not None:
            return self._in_embedded(self._embedded)
        role = quote_ident(self.facts.options["role"]) if self.facts is not None else "the role"
        raise NoScratch(
            f"not compiled here: needs CREATEDB for {role}, or an embedded PostgreSQL {self.major}",
            f"Run: ALTER ROLE {role} CREATEDB; or: pip install 'holdfast-provision[embedded]'",
        )

    def _may_create(self, roles: Collection[str]) -> bool:
        assert self.facts is not None
        options = self.facts.options
        return bool(options["createdb"]) and (not roles or bool(options["createrole"]))

    @contextmanager
    def _on_target(self, settings: Settings) -> Iterator[Session]:
        """Make a database beside the target's, and drop it whatever happens, Ctrl-C included."""
        with connect(settings) as maintenance:
            drop_stale(maintenance)
            name = f"{_PREFIX}{int(time.time())}_{secrets.token_hex(4)}"
            try:
                maintenance.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
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
    connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def drop_stale(connection: Connection) -> None:
    """Drop what killed runs left behind: scratch databases of ours that are older than a day."""
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE datname LIKE 'holdfast\\_scratch\\_%'"
        " AND pg_has_role(datdba, 'USAGE')"
    ).fetchall()
    for (name,) in rows:
        match = _NAME.fullmatch(name)
        if match and time.time() - int(match[1]) > _STALE_S:
            drop(connection, name)
