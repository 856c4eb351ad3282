"""Runs migrations under one lock, so that a crash at any moment leaves what the next run finishes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from provision.migrate import history, order
from provision.migrate.files import Migration, order_of
from provision.migrate.history import Direction, Run, Standing, standing_of
from provision.migrate.performing import Decision, Performer
from provision.plan.protocols import LockHeld
from provision.postgres import locks, wire
from provision.postgres.apply import Limits
from provision.postgres.errors import Unreachable
from provision.spec.errors import InputError, StalePlanError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

Note = Callable[[str], None]
#: Version and number of a statement -> what a person says of it.
Decisions = Mapping[tuple[str, int], Decision]
LOCK = locks.key_of("holdfast migrate")
LIMITS = Limits()
#: Longer than the server takes to see, by _WATCH, that a runner was killed.
_PATIENCE_S = 3.0
#: So that the server ends what a killed runner left running. Servers on some systems cannot.
_WATCH = "SET client_connection_check_interval = 1000"


class Ran(NamedTuple):
    """A file that took effect, and how long it took."""

    migration: Migration
    direction: Direction
    ms: int


class Runner:
    """Applies and rolls back the migrations of one database. The session must be direct and in autocommit.

    ``wait_s`` is how long to wait for another runner before saying who holds the lock.
    """

    def __init__(
        self, connection: Connection, migrations: Sequence[Migration], env: str, *,
        application_version: str | None = None, limits: Limits = LIMITS, wait_s: float = 0,
        note: Note = lambda text: None,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.migrations = tuple(migrations)
        self.env = env
        self.application_version = application_version
        self.limits = limits
        self.wait_s = wait_s
        self.note = note
        self._session: tuple[str, ...] = ()

    def ahead(self, to: str | None = None, recorded: Iterable[Migration] = ()) -> list[Migration]:
        """What ``up`` would run once ``stamp`` has recorded some. Changes nothing."""
        standings = dict(history.peek(self.connection))
        for migration in recorded:
            standings[migration.version] = history.as_baselined(migration)
        return order.ahead(self.migrations, standings, to)

    def standings(self) -> dict[str, Standing]:
        """Where each version stands that history knows."""
        return history.peek(self.connection)

    def back(self, to: str | None = None) -> list[Migration]:
        """What ``down`` would roll back. Changes nothing."""
        return order.back(self.migrations, history.peek(self.connection), to)

    def up(
        self, to: str | None = None, decisions: Decisions | None = None, agreed: Collection[str] | None = None
    ) -> list[Ran]:
        """Apply what is pending, in order. Raises at the first that fails; what was applied before it stays.

        ``agreed`` are the versions that somebody has looked at: where others are pending by now, none runs and
        StalePlanError says so.
        """
        with self._locked() as standings:
            chosen = order.ahead(self.migrations, standings, to)
            _refuse_others(chosen, agreed)
            return self._run(chosen, "up", standings, decisions or {})

    def down(
        self, to: str | None = None, decisions: Decisions | None = None, agreed: Collection[str] | None = None
    ) -> list[Ran]:
        """Roll back the newest migration, or all that are later than ``to`` ("0": all), newest first.

        ``agreed`` as for ``up``.
        """
        with self._locked() as standings:
            chosen = order.back(self.migrations, standings, to)
            _refuse_others(chosen, agreed)
            return self._run(chosen, "down", standings, decisions or {})

    def baseline(self, version: str) -> list[Migration]:
        """Record the migrations up to a version as applied without running them."""
        with self._locked() as standings:
            return self._record(order.baselined(self.migrations, standings, version))

    def stamp(self, made: Iterable[Migration]) -> list[Migration]:
        """Record migrations as applied whose effect somebody else has made; those that history knows are left alone."""
        with self._locked() as standings:
            return self._record(m for m in made if m.version not in standings)

    def _record(self, chosen: Iterable[Migration]) -> list[Migration]:
        done = list(chosen)
        for migration in done:
            run = Run(str(uuid4()), migration, "up", self.env, self.application_version)
            self._write(run.baselined())
        return done

    def status(self) -> list[dict[str, Any]]:
        """Each version with a file or a history, oldest first."""
        standings = history.peek(self.connection)
        holder = locks.holder(self.connection, LOCK)
        files = {m.version: m for m in self.migrations}
        versions = sorted({*files, *standings}, key=order_of)
        return [_row(v, files.get(v), standing_of(standings, v), holder) for v in versions]

    def holder(self) -> locks.Holder | None:
        """Who runs migrations now."""
        return locks.holder(self.connection, LOCK)

    def _run(
        self, chosen: Sequence[Migration], direction: Direction, standings: Mapping[str, Standing], decisions: Decisions
    ) -> list[Ran]:
        _refuse_idle_decisions(decisions, chosen, standings)
        done: list[Ran] = []
        for migration in chosen:
            run = Run(str(uuid4()), migration, direction, self.env, self.application_version)
            own = {number: word for (version, number), word in decisions.items() if version == migration.version}
            standing = standing_of(standings, migration.version)
            performer = Performer(
                self.connection, run, standing, limits=self.limits, session=self._session, decisions=own
            )
            done.append(Ran(migration, direction, performer.perform()))
            word = "applied" if direction == "up" else "rolled back"
            self.note(f"{word} {migration.version} {migration.name} in {done[-1].ms} ms")
        return done

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Standing]]:
        """Hold the lock, note who does, and write down the end of runs that were killed."""
        with self._patiently():
            standings = history.read(self.connection)
            if wire.send(self.connection, [_WATCH]).refusal is None:
                self._session = (_WATCH,)
            self._write([history.TAKE_NOTE])
            try:
                self._bury(standings)
                yield standings
            finally:
                if locks.is_idle(self.connection):
                    with suppress(Unreachable):
                        wire.send(self.connection, [history.DROP_NOTE])

    @contextmanager
    def _patiently(self) -> Iterator[None]:
        """The lock, after a while; whoever waits is told for whom."""
        try:
            held = locks.hold(self.connection, LOCK, _refuse, patience_s=_PATIENCE_S)
            held.__enter__()
        except LockHeld as refused:
            if not self.wait_s:
                raise
            self.note(f"waiting: {refused}")
            held = locks.hold(self.connection, LOCK, _refuse, patience_s=self.wait_s)
            held.__enter__()
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def _bury(self, standings: Mapping[str, Standing]) -> None:
        transactional = {(m.version, "up"): m.up.transactional for m in self.migrations}
        transactional |= {(m.version, "down"): m.down.transactional for m in self.migrations if m.down}
        for standing in standings.values():
            run = standing.open_run
            if run is not None:
                atomic = transactional.get((run.version, run.direction), True)
                self._write(history.interrupted(run, standing, transactional=atomic))
                standing.open_run = None

    def _write(self, statements: Sequence[str]) -> None:
        reply = wire.send(self.connection, ["BEGIN", *statements, "COMMIT"])
        if reply.refusal is not None:
            wire.send(self.connection, ["ROLLBACK"])
            raise history.refused(reply.refusal, self.connection)


def _refuse(holder: locks.Holder | None) -> LockHeld:
    who = f": {holder}" if holder else ""
    pid = holder.pid if holder else "PID"
    return LockHeld(
        f"another runner holds the lock of this database's migrations{who}. Wait for it (--wait 5m), or end it with:"
        f" SELECT pg_terminate_backend({pid})"
    )


def _refuse_others(chosen: Sequence[Migration], agreed: Collection[str] | None) -> None:
    """Another runner may have been at work between a look and the lock."""
    if agreed is not None and (others := [m.version for m in chosen if m.version not in agreed]):
        raise StalePlanError(
            f"another runner was at work, and {', '.join(others)} would come next now; nothing was done",
            "Look again: holdfast migrate status",
        )


def _refuse_idle_decisions(
    decisions: Decisions, chosen: Sequence[Migration], standings: Mapping[str, Standing]
) -> None:
    """A decision about a statement that is not in doubt is a slip of the pen."""
    versions = {m.version for m in chosen}
    for version, number in decisions:
        if version not in versions or number not in standing_of(standings, version).intended:
            raise InputError(
                f"statement {number} of {version} is not in doubt",
                "Leave --done and --redo out, or correct their value.",
            )


def _row(version: str, migration: Migration | None, standing: Standing, holder: locks.Holder | None) -> dict[str, Any]:
    state = standing.word
    if standing.open_run is not None and holder is not None:
        state = "running"
    elif migration is None and (standing.is_applied or standing.unfinished):
        state = "missing"
    elif migration is not None and standing.is_applied and migration.up.digest != standing.sql_hash:
        state = "changed"
    effect = standing.effect if standing.is_applied else None
    return {
        "version": version,
        "number": migration.number if migration else None,
        "name": migration.name if migration else None,
        "kind": migration.kind if migration else None,
        "state": state,
        "rollbackable": migration is not None and migration.down is not None,
        "applied_at": effect.at if effect else None,
        "applied_by": effect.by if effect else None,
        "execution_time_ms": effect.ms if effect else None,
        "statements_done": sorted(standing.done),
        "statements_in_doubt": sorted(standing.intended),
        "error": standing.last.error if standing.last else None,
    }
