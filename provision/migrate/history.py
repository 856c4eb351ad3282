"""The declared schema ``migrations``: what it says of each version, and the SQL that adds to it.

``history`` is append-only and decides; ``applied_migrations`` shows its latest word for each version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from provision.migrate.files import Migration, Script, order_of
from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.postgres.errors import PermissionDenied, PostgresError, Refusal, translate
from provision.postgres.sql import quote_ident, quote_literal
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

Direction = Literal["up", "down"]
Phase = Literal["before", "after"]
#: The name of the row in ``locks``, for applying and rolling back alike.
LOCK_NAME = "migration_execution"
_COLUMNS = (
    "run_id, migration_version, direction, event, statement, statement_hash, sql_hash, error_message,"
    " execution_time_ms, recorded_by, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
)
_READ = f"SELECT {_COLUMNS} FROM migrations.history ORDER BY event_id"
#: undefined_table, invalid_schema_name, undefined_column
_NOT_THERE = ("42P01", "3F000", "42703")
_EFFECTS = ("applied", "baselined", "rolled_back")


class Event(NamedTuple):
    """One row of history, values as COPY gives them."""

    run: str
    version: str
    direction: str
    event: str
    statement: int | None
    statement_hash: str | None
    sql_hash: str
    error: str | None
    ms: int | None
    by: str
    at: str


@dataclass
class Standing:
    """What history says of one version.

    ``is_applied`` means that the whole of its up file is in effect, with ``sql_hash``. ``unfinished`` is the
    direction of a file without a transaction that was begun and not ended: its ``done`` statements are in
    effect, its ``intended`` ones were sent and nobody saw them end; both map numbers to hashes.
    ``open_run`` is a run whose end nobody wrote down.
    """

    version: str
    is_applied: bool = False
    sql_hash: str = ""
    unfinished: Direction | None = None
    done: dict[int, str] = field(default_factory=dict)
    intended: dict[int, str] = field(default_factory=dict)
    open_run: Event | None = None
    last: Event | None = None
    effect: Event | None = None

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of the up file is in effect or in doubt."""
        return not self.is_applied and self.unfinished is None

    @property
    def word(self) -> str:
        """applied, pending, rolled_back, failed or interrupted."""
        if self.unfinished or (not self.is_applied and self.last is not None and self.last.event != "rolled_back"):
            return "interrupted" if self.open_run or (self.last and self.last.event == "interrupted") else "failed"
        if self.is_applied:
            return "applied"
        return "rolled_back" if self.last else "pending"

    @property
    def is_baselined(self) -> bool:
        """Whether the file is in effect and did not run."""
        return self.is_applied and self.effect is not None and self.effect.event == "baselined"

    def add(self, event: Event) -> None:
        """Take in the next event of this version."""
        self.last = event
        if event.event == "started":
            self.open_run = event
        elif event.event in ("intended", "done"):
            assert event.statement is not None
            assert event.statement_hash is not None
            self.unfinished = "up" if event.direction == "up" else "down"
            target = self.done if event.event == "done" else self.intended
            self.intended.pop(event.statement, None)
            target[event.statement] = event.statement_hash
        elif event.event in _EFFECTS:
            self.is_applied = event.event != "rolled_back"
            self.sql_hash = event.sql_hash if self.is_applied else ""
            self.unfinished, self.done, self.intended, self.open_run, self.effect = None, {}, {}, None, event
        else:
            self.open_run = None
            if event.event == "failed" and event.statement is not None:
                self.intended.pop(event.statement, None)
                if not self.intended and not self.done:
                    self.unfinished = None


def fold(events: Iterable[Event]) -> dict[str, Standing]:
    """Where each version stands, by what happened to it. Pure."""
    found: dict[str, Standing] = {}
    for event in events:
        found.setdefault(event.version, Standing(event.version)).add(event)
    return found


def exists(connection: Connection) -> bool:
    """Whether the tables of the history are in this database."""
    (output,) = wire.run(connection, "COPY (SELECT to_regclass('migrations.history') IS NOT NULL) TO STDOUT")
    return output == b"t\n"


def read(connection: Connection) -> dict[str, Standing]:
    """Where each version stands. Raises InputError where the schema is not there yet."""
    try:
        (output,) = wire.run(connection, f"COPY ({_READ}) TO STDOUT")
    except Refusal as refusal:
        if refusal.sqlstate in _NOT_THERE:
            raise missing_schema() from refusal
        raise refused(refusal, connection) from refusal
    return fold(_event(row) for row in parse_copy(output))


def peek(connection: Connection) -> dict[str, Standing]:
    """Where each version stands; nowhere in a database without our tables."""
    return read(connection) if exists(connection) else {}


def refused(refusal: Refusal, connection: Connection) -> PostgresError:
    """The error for a read or write of history that the server refuses; a closed door names the GRANT."""
    role = connection.info.user
    found = translate(refusal, step="history of migrations", role=role)
    if isinstance(found, PermissionDenied):
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA migrations TO {quote_ident(role)}"
        if "schema" in found.object:
            grant = f"GRANT USAGE ON SCHEMA migrations TO {quote_ident(role)}; {grant}"
        return PermissionDenied(str(found), object=found.object, grant=grant)
    return found


def missing_schema() -> InputError:
    """The error for a database without our tables."""
    return InputError(
        "the tables of schema migrations are not in this database, so nothing can be recorded",
        "Where the specs declare them, holdfast migrate up makes them; to declare them: holdfast migrate init",
    )


def _event(row: Sequence[str | None]) -> Event:
    run, version, direction, event, statement, statement_hash, sql_hash, error, ms, by, at = row
    return Event(
        str(run), str(version), str(direction), str(event), int(statement) if statement else None, statement_hash,
        str(sql_hash), error, int(ms) if ms else None, str(by), str(at),
    )  # fmt: skip


class Result(NamedTuple):
    """What an assertion gave. ``status`` is one of passed, failed, skipped, error."""

    name: str
    status: str
    error: str | None
    ms: int


class Run(NamedTuple):
    """One attempt at one file; gives the SQL that writes it down. Pure."""

    id: str
    migration: Migration
    direction: Direction
    env: str
    application_version: str | None = None

    @property
    def script(self) -> Script:
        found = self.migration.up if self.direction == "up" else self.migration.down
        assert found is not None
        return found

    def started(self) -> list[str]:
        """The run begins. A version that was rolled back keeps its row."""
        if self.direction == "up":
            return [_upsert(self, "applying"), self._event("started")]
        return [self._state("reverting"), self._event("started")]

    def intended(self, number: int, digest: str) -> str:
        """A statement that no transaction can hold is about to be sent."""
        return self._event("intended", statement=number, statement_hash=digest)

    def done(self, number: int, digest: str, ms: int | None = None) -> str:
        """A statement is in effect."""
        return self._event("done", statement=number, statement_hash=digest, ms=ms)

    def finished(self, ms: int) -> list[str]:
        """The file is in effect."""
        word = "applied" if self.direction == "up" else "rolled_back"
        return [self._state(word, ms), self._event(word, ms=ms)]

    def failed(
        self, error: str, standing: Standing, *, statement: int | None, ms: int, event: str = "failed"
    ) -> list[str]:
        """The run ended without its effect. ``statement`` is one that surely had none."""
        is_whole_again = self.direction == "down" and standing.unfinished is None and self.script.transactional
        state = "applied" if is_whole_again else "failed"
        return [self._state(state), self._event(event, error=error, statement=statement, ms=ms)]

    def baselined(self) -> list[str]:
        """The file's effect was there before the runner came."""
        return [_upsert(self, "applied"), self._event("baselined")]

    def results(self, results: Iterable[Result], phase: Phase) -> list[str]:
        """What assertions gave."""
        kind = "integration" if self.direction == "up" else "rollback"
        return [
            "INSERT INTO migrations.validation_results"
            " (migration_version, test_name, test_type, status, error_message, execution_time_ms) VALUES"
            f" ({_list([self.migration.version, f'{phase}: {r.name}'[:255], kind, r.status, r.error, r.ms])})"
            for r in results
        ]

    def _event(
        self, event: str, *, statement: int | None = None, statement_hash: str | None = None,
        error: str | None = None, ms: int | None = None,
    ) -> str:  # fmt: skip
        return (
            "INSERT INTO migrations.history (run_id, migration_version, direction, event, statement,"
            " statement_hash, sql_hash, error_message, execution_time_ms) VALUES ("
            + _list([
                self.id, self.migration.version, self.direction, event, statement,
                statement_hash, self.script.digest, error, ms,
            ])
            + ")"
        )  # fmt: skip

    def _state(self, status: str, ms: int | None = None) -> str:
        timed = "" if ms is None else f", applied_at = clock_timestamp(), execution_time_ms = {ms}"
        by = ", applied_by = CURRENT_USER" if status == "applied" and ms is not None else ""
        return (
            f"UPDATE migrations.applied_migrations SET status = '{status}'{timed if status == 'applied' else ''}{by}"
            f" WHERE version = {quote_literal(self.migration.version)}"
        )


def interrupted(run: Event, standing: Standing, *, transactional: bool) -> list[str]:
    """Write down that a run was killed: its session is gone and said no last word."""
    state = "applied" if transactional and standing.is_applied and standing.unfinished is None else "failed"
    why = "the runner was killed or lost the server"
    values = _list([run.run, run.version, run.direction, "interrupted", run.sql_hash, why])
    insert = (
        "INSERT INTO migrations.history (run_id, migration_version, direction, event, sql_hash, error_message)"
        f" VALUES ({values})"
    )
    update = f"UPDATE migrations.applied_migrations SET status = '{state}' WHERE version = {quote_literal(run.version)}"
    return [update, insert]


#: Who works, for people: the advisory lock decides, and a row that outlives its session means nothing.
TAKE_NOTE = (
    "INSERT INTO migrations.locks AS l (lock_name, locked_by, expires_at) VALUES"
    f" ('{LOCK_NAME}', left(format('%s %s pid %s', CURRENT_USER, current_setting('application_name'),"
    " pg_backend_pid()), 100), now() + interval '1 hour')"
    " ON CONFLICT (lock_name) DO UPDATE SET locked_by = excluded.locked_by, locked_at = now(),"
    " expires_at = excluded.expires_at"
)
RENEW_NOTE = f"UPDATE migrations.locks SET expires_at = now() + interval '1 hour' WHERE lock_name = '{LOCK_NAME}'"
DROP_NOTE = f"DELETE FROM migrations.locks WHERE lock_name = '{LOCK_NAME}'"

_VERSIONS = "split_part(current_setting('server_version'), ' ', 1), {application}, {env}"
_SET = (
    "name", "description", "migration_type", "sql_hash", "depends_on_version", "rollback_sql", "is_rollbackable",
    "status", "database_version", "application_version", "environment",
)  # fmt: skip


def _upsert(run: Run, status: str) -> str:
    """The row of a version. The hash is the server's own, of the very text that it was given."""
    m = run.migration
    down = m.down.text if m.down is not None else None
    latest = max(m.depends_on, key=order_of, default=None)
    given = run.application_version
    application = quote_literal(given) if given else "nullif(current_setting('application.version', true), '')"
    fixed = _list([m.version, m.name, m.description, m.kind])
    more = _list([latest, down, m.down is not None, status])
    versions = _VERSIONS.format(application=f"left({application}, 50)", env=quote_literal(run.env[:50]))
    changed = ", ".join(f"{c} = excluded.{c}" for c in _SET)
    return (
        f"INSERT INTO migrations.applied_migrations (version, {', '.join(_SET)}) VALUES ({fixed},"
        f" encode(sha256(convert_to({quote_literal(m.up.text)}, 'UTF8')), 'hex'), {more}, {versions})"
        f" ON CONFLICT (version) DO UPDATE SET {changed}, applied_at = clock_timestamp(), applied_by = CURRENT_USER,"
        " execution_time_ms = NULL"
    )


def _list(values: Iterable[str | int | bool | None]) -> str:
    return ", ".join(_literals(values))


def _literals(values: Iterable[str | int | bool | None]) -> Iterator[str]:
    for value in values:
        if value is None:
            yield "NULL"
        elif isinstance(value, bool):
            yield "true" if value else "false"
        else:
            yield quote_literal(value) if isinstance(value, str) else str(value)


def standing_of(standings: Mapping[str, Standing], version: str) -> Standing:
    """Where a version stands; one that history does not know is pending."""
    return standings.get(version) or Standing(version)


def as_baselined(migration: Migration) -> Standing:
    """Where a version will stand once it is recorded without having run."""
    digest = migration.up.digest
    effect = Event("", migration.version, "up", "baselined", None, None, digest, None, None, "", "")
    return Standing(migration.version, is_applied=True, sql_hash=digest, last=effect, effect=effect)
