"""What a plane owns, its runs and its contract, in schema ``holdfast``; and the lock of an apply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.plan.protocols import LockHeld
from provision.postgres import locks
from provision.postgres.catalog import Query, parse_copy
from provision.postgres.errors import PermissionDenied, refusal_of, translate
from provision.postgres.sql import quote_literal
from provision.spec.change import Request, Sql
from provision.spec.ident import KIND_WORDS

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: The versions of our own schema, in order. One that was published never changes: add the next.
#: Addresses are text forms. ``state`` is "intended" from before a request is sent until its object is seen.
VERSIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE holdfast.objects (
            plane text NOT NULL, env text NOT NULL, address text NOT NULL, kind text NOT NULL,
            origin text NOT NULL CHECK (origin IN ('created', 'adopted')),
            state text NOT NULL CHECK (state IN ('intended', 'done')),
            created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (plane, env, address))""",
        """CREATE TABLE holdfast.runs (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), plane text NOT NULL, env text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz,
            status text NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
            fingerprint text NOT NULL, summary jsonb NOT NULL DEFAULT '{}')""",
        "CREATE INDEX runs_newest ON holdfast.runs (plane, env, started_at DESC)",
        """CREATE TABLE holdfast.contract (
            plane text NOT NULL, env text NOT NULL, content jsonb NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (plane, env))""",
    ),
)
#: One row of words, since rows cost more than bytes: addresses hold no white space.
_OBJECTS = """
    SELECT string_agg(address || ' ' || origin || ' ' || state, ' ')
      FROM holdfast.objects WHERE plane = {plane} AND env = {env}"""
_CONTRACT = "SELECT content FROM holdfast.contract WHERE plane = {plane} AND env = {env}"
_INTEND = """
    INSERT INTO holdfast.objects (plane, env, address, kind, origin, state)
    SELECT %s, %s, a, k, 'created', 'intended' FROM unnest(%s::text[], %s::text[]) AS t(a, k)
        ON CONFLICT DO NOTHING"""
#: The first origin stays: an adopted object keeps its own consent at ``destroy`` however often we change it.
_RECORD = """
    INSERT INTO holdfast.objects AS o (plane, env, address, kind, origin, state)
    SELECT %s, %s, a, k, %s, 'done' FROM unnest(%s::text[], %s::text[]) AS t(a, k)
        ON CONFLICT (plane, env, address) DO UPDATE SET state = 'done', updated_at = now()"""


class Held(NamedTuple):
    """The ledger of one plane as a snapshot showed it. ``owned`` maps address to origin.

    ``intended`` are addresses whose creation was begun and not seen to end.
    """

    owned: Mapping[str, str]
    intended: frozenset[str]
    contract: Mapping[str, Any] | None


def queries(plane: str, env: str) -> tuple[Query, ...]:
    """The queries that read the ledger of one plane; ``observe`` runs them in its snapshot."""
    names = {"plane": quote_literal(plane), "env": quote_literal(env)}
    return (
        Query("holdfast_objects", lambda major: _OBJECTS.format(**names)),
        Query("holdfast_contract", lambda major: _CONTRACT.format(**names)),
    )


def decode(raw: Mapping[str, bytes]) -> Held:
    """Give the ledger from what ``queries`` brought; empty where our schema does not exist yet."""
    rows = parse_copy(raw.get("holdfast_objects", b""))
    words = (rows[0][0] or "").split() if rows else []
    contract = parse_copy(raw.get("holdfast_contract", b""))
    return Held(
        dict(zip(words[0::3], words[1::3], strict=True)),
        frozenset(a for a, state in zip(words[0::3], words[2::3], strict=True) if state == "intended"),
        json.loads(str(contract[0][0])) if contract else None,
    )


def kind_of(address: str) -> str:
    """The kind that an address names: the word before its last segment; schemas and tables bear none."""
    path = address.partition("/")[2].split("/")
    if len(path) > 1 and path[-2] in KIND_WORDS:
        return path[-2]
    return "schema" if len(path) == 1 else "table"


class PostgresLedger:
    """The ledger of one plane and environment, written through the apply's own session.

    Inside a transaction the writes are part of it; outside, each call is one. The tables come into being
    with the first ``prepare``.
    """

    def __init__(self, connection: Connection, plane: str, env: str) -> None:
        self.connection = connection
        self.plane = plane
        self.env = env

    def prepare(self) -> None:
        """Create or upgrade schema ``holdfast``. Safe to repeat, and for two at once."""
        with _typed(self.connection), self.connection.transaction():
            execute = self.connection.execute
            execute("SELECT pg_advisory_xact_lock(hashtextextended('holdfast schema', 0))")
            if self._version() is None:
                execute("CREATE SCHEMA IF NOT EXISTS holdfast")
                execute("CREATE TABLE holdfast.version (version integer NOT NULL)")
                execute("INSERT INTO holdfast.version VALUES (0)")
            version = self._version() or 0
            for statement in (s for v in VERSIONS[version:] for s in v):
                execute(statement.encode())
            if version < len(VERSIONS):
                execute("UPDATE holdfast.version SET version = %s", [len(VERSIONS)])

    def _version(self) -> int | None:
        found = self.connection.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'holdfast' AND c.relname = 'version'"
        ).fetchone()
        if found is None:
            return None
        row = self.connection.execute("SELECT version FROM holdfast.version").fetchone()
        return int(row[0]) if row else 0

    def exists(self) -> bool:
        """Whether the tables are there."""
        return self._version() is not None

    def held(self) -> Held:
        """Read the ledger outside of a snapshot."""
        if not self.exists():
            return Held({}, frozenset(), None)
        raw = {}
        for query in queries(self.plane, self.env):
            with self.connection.cursor().copy(f"COPY ({query.sql(0)}) TO STDOUT".encode()) as rows:
                raw[query.name] = b"".join(rows)
        return decode(raw)

    def owned(self) -> Mapping[str, str]:
        return self.held().owned

    def intend(self, addresses: Iterable[str]) -> None:
        found = list(addresses)
        if found:
            self._execute(_INTEND, [self.plane, self.env, found, [kind_of(a) for a in found]])

    def record(self, addresses: Iterable[str], origin: str) -> None:
        found = list(dict.fromkeys(addresses))
        if found:
            self._execute(_RECORD, [self.plane, self.env, origin, found, [kind_of(a) for a in found]])

    def forget(self, addresses: Iterable[str]) -> None:
        found = list(addresses)
        if found:
            self._execute(
                "DELETE FROM holdfast.objects WHERE plane = %s AND env = %s AND address = ANY (%s)",
                [self.plane, self.env, found],
            )

    def start_run(self, fingerprint: str) -> str:
        """Note that an apply begins; gives the id of the run. Under the lock, any other that still runs was killed."""
        self._execute(
            "UPDATE holdfast.runs SET status = 'interrupted', finished_at = now()"
            " WHERE plane = %s AND env = %s AND status = 'running'",
            [self.plane, self.env],
        )
        rows = self._execute(
            "INSERT INTO holdfast.runs (plane, env, status, fingerprint) VALUES (%s, %s, 'running', %s) RETURNING id",
            [self.plane, self.env, fingerprint],
        )
        return str(rows[0][0])

    def finish_run(self, run: str, status: str, summary: Mapping[str, Any]) -> None:
        """Note how a run ended: done, failed or interrupted."""
        self._execute(
            "UPDATE holdfast.runs SET status = %s, finished_at = now(), summary = %s::jsonb WHERE id = %s",
            [status, json.dumps(summary), run],
        )

    def runs(self, limit: int = 10) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        if not self.exists():
            return []
        names = ("id", "started_at", "finished_at", "status", "fingerprint", "summary")
        rows = self._execute(
            f"SELECT {', '.join(names)} FROM holdfast.runs WHERE plane = %s AND env = %s"
            " ORDER BY started_at DESC LIMIT %s",
            [self.plane, self.env, limit],
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def read(self) -> Mapping[str, Any] | None:
        """The stored contract, for planes without NATS."""
        return self.held().contract

    def write(self, content: Mapping[str, Any]) -> None:
        self._execute(
            "INSERT INTO holdfast.contract (plane, env, content) VALUES (%s, %s, %s::jsonb)"
            " ON CONFLICT (plane, env) DO UPDATE SET content = excluded.content, updated_at = now()",
            [self.plane, self.env, json.dumps(content)],
        )

    def drop_contract(self) -> None:
        self._execute("DELETE FROM holdfast.contract WHERE plane = %s AND env = %s", [self.plane, self.env])

    def perform(self, request: Request) -> None:
        """Run the step of a plan that writes the contract."""
        assert isinstance(request, Sql)
        with _typed(self.connection):
            self.connection.execute(request.text.encode())

    def hold(self) -> AbstractContextManager[None]:
        """Hold the plane's lock: a session advisory lock, gone with the session. Raises HeldBy."""
        key = lock_key(self.plane, self.env)
        return locks.hold(self.connection, key, lambda holder: HeldBy(f"{self.plane}.{self.env}", holder))

    def _execute(self, statement: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with _typed(self.connection):
            cursor = self.connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []


class HeldBy(LockHeld):
    """Another apply works on this plane; ``holder`` is its session, where the server shows it."""

    def __init__(self, plane: str, holder: locks.Holder | None = None) -> None:
        super().__init__(
            f"another apply holds the lock of {plane}{f': {holder}' if holder else ''}. Wait for it, or end it with:"
            f" SELECT pg_terminate_backend({holder.pid if holder else 'PID'})"
        )
        self.holder = holder


def lock_key(plane: str, env: str) -> int:
    """The 64-bit key of the advisory lock."""
    return locks.key_of("holdfast apply", plane, env)


@contextmanager
def _typed(connection: Connection) -> Iterator[None]:
    """Turn psycopg's errors into ours; a closed door to our schema names the GRANT."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        found = translate(refusal_of(error), step="holdfast ledger", role=connection.info.user)
        if isinstance(found, PermissionDenied) and not found.grant:
            found = PermissionDenied(str(found), object="schema holdfast", grant=_LEDGER_GRANT)
        raise found from error


_LEDGER_GRANT = "GRANT ALL ON SCHEMA holdfast TO current_user"
