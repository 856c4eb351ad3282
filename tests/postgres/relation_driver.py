"""A small world for tests of tables: specs in, plans by the engine, each step measured on tables with rows.

Measured are the locks a step takes, what it rewrites and what it scans; the labels of the plan must say the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

from provision import registry
from provision.plan.assemble import Seen, assemble
from provision.plan.plan import Plan, Step
from provision.postgres.catalog import Catalog
from provision.postgres.connect import SESSION
from provision.spec.change import Sql
from provision.spec.record import Facts, Plane, Record
from tests.postgres.documents import changed, desired

CLOCK = datetime(2026, 11, 21, 12, tzinfo=UTC)
#: From weak to strong (PostgreSQL docs, 13.3.1).
LOCKS = (
    None,
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
_RELATIONS = """
    SELECT c.oid, c.relkind, pg_relation_filenode(c.oid), pg_stat_get_xact_numscans(c.oid), c.relname
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'i', 'I')"""
_HELD = "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted"


class Measured(NamedTuple):
    """What one step did to relations that were there before it."""

    step: Step
    lock: str | None
    rewritten: frozenset[str]
    scanned: frozenset[str]

    def wrong(self) -> list[str]:
        """Where the step's label is not the truth. A stronger claim than needed is wrong too."""
        found = []
        kinds = {h.kind for h in self.step.hazards}
        if self.lock != self.step.lock and {self.lock, self.step.lock} != {None, "ACCESS SHARE"}:
            found.append(f"lock {self.lock}, claimed {self.step.lock}")
        if bool(self.rewritten) != ("rewrite" in kinds):
            found.append(f"rewrote {sorted(self.rewritten)}, hazards {sorted(kinds)}")
        stops = LOCKS.index(self.lock) >= LOCKS.index("SHARE")
        if self.scanned and stops and not kinds & {"rewrite", "blocking"}:
            found.append(f"scanned {sorted(self.scanned)} under {self.lock}")
        return [f"{self.step.id} ({_text(self.step)}): {f}" for f in found]


def _text(step: Step) -> str:
    assert isinstance(step.request, Sql)
    return step.request.text


class World:
    """One database, changed only through plans made at ``clock``; every transactional step is measured."""

    def __init__(self, dsn: Mapping[str, Any], clock: datetime = CLOCK) -> None:
        self.dsn = dict(dsn)
        self.clock = clock
        self.measured: list[Measured] = []
        self.trial: World | None = None
        self.connection = psycopg.connect(**dsn, autocommit=True)
        self.major = self.connection.info.server_version // 10000
        self.kinds = {k.name: k for k in registry.postgres_kinds()}
        self.run(*(f"SET {key} = '{value}'" for key, value in SESSION.items()))

    def close(self) -> None:
        """End the sessions and drop the database that expressions were tried in."""
        self.connection.close()
        if self.trial is not None:
            self.trial.close()
            with psycopg.connect(**self.dsn, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{self.trial.dsn["dbname"]}" WITH (FORCE)'.encode())

    def run(self, *statements: str) -> None:
        for text in statements:
            self.connection.execute(text.encode())

    def one(self, query: str) -> Any:
        row = self.connection.execute(query.encode()).fetchone()
        return row[0] if row is not None else None

    def live(self) -> Plane:
        raw = {}
        for query in registry.postgres_queries():
            with self.connection.cursor().copy(f"COPY ({query.sql(self.major)}) TO STDOUT".encode()) as copy:
                raw[query.name] = b"".join(copy)
        catalog = Catalog("main", self.major, raw)
        return Plane(r for kind in self.kinds.values() for r in kind.decode(catalog))  # type: ignore[attr-defined]

    def facts(self) -> Facts:
        options = {
            "password_state": {},
            "database": self.dsn["dbname"],
            "extensions": {},
            "superuser": True,
            "role": self.connection.info.user,
        }
        return Facts("pg", "main", (self.major, 0, 0), options)

    def canonical(self, wanted: Plane) -> Plane:
        """The plane with its expressions as the server shows them: built elsewhere, and rolled back."""
        if self.trial is None:
            with psycopg.connect(**self.dsn, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{self.dsn["dbname"]}_trial" TEMPLATE template0'.encode())
            self.trial = World({**self.dsn, "dbname": f"{self.dsn['dbname']}_trial"}, clock=self.clock)
        known = self.trial.live()
        rest = Plane(r for r in wanted if r.address not in known or r.address.kind == "schema")
        self.trial.run("BEGIN")
        for step in self.trial.plan(rest, owned=()).steps:
            self.trial.send(step)
        read_back = self.trial.live()
        self.trial.run("ROLLBACK")
        return Plane([self._canonical(r, read_back.get(r.address)) for r in wanted], name="agents", env="test")

    def _canonical(self, record: Record, read_back: Record | None) -> Record:
        names = getattr(self.kinds[record.address.kind], "expressions", ())
        if read_back is None or not names:
            return record
        settings = {n: read_back.settings[n] for n in names}
        return record._replace(settings=record.settings | settings, refs=read_back.refs, rigid=read_back.rigid)

    def plan(self, wanted: Plane, owned: tuple[str, ...] | None = None) -> Plan:
        """The plan to the records. Everything that is there is owned, unless told otherwise."""
        live = self.live()
        held = tuple(map(str, live.records)) if owned is None else owned
        mine = {a for a in held if not a.startswith(("pg:main/public", "pg:main/extension", "pg:main/role"))}
        return assemble(wanted, Seen(live, mine, {("pg", "main"): self.facts()}), self.kinds, self.clock)

    def send(self, step: Step) -> None:
        assert isinstance(step.request, Sql)
        self.run(step.request.text)

    def relations(self) -> dict[int, Any]:
        """Tables and indexes by oid."""
        return {r[0]: r for r in self.connection.execute(_RELATIONS)}

    def measure(self, step: Step, existing: Container[int]) -> Measured:
        """Do one step and see what it locks, rewrites and scans of the relations that the plan found."""
        self.run("BEGIN")
        before = {oid: row for oid, row in self.relations().items() if oid in existing}
        self.send(step)
        after = self.relations()
        held = [_spelled(mode) for oid, mode in self.connection.execute(_HELD) if oid in before]
        self.run("COMMIT")
        kept = {oid: (old, after[oid]) for oid, old in before.items() if oid in after and old[1] == "r"}
        return Measured(
            step,
            max(held, key=LOCKS.index, default=None),
            frozenset(old[4] for old, new in kept.values() if old[2] != new[2]),
            frozenset(old[4] for old, new in kept.values() if new[3] > old[3]),
        )

    def apply(self, spec: Mapping[str, Any], owned: tuple[str, ...] | None = None) -> Plan:
        """Bring the database to the spec, measuring; fails unless it equals it then and every label was true."""
        wanted = self.canonical(desired(spec))
        plan = self.plan(wanted, owned)
        self.measured = []
        existing = self.relations()
        for step in plan.steps:
            if step.transactional:
                self.measured.append(self.measure(step, existing))
            else:
                self.send(step)
            if step.done_if is not None:
                assert self.one(step.done_if) is True, f"not done: {step.id}: {step.done_if}"
        wrong = [w for m in self.measured for w in m.wrong()]
        assert not wrong, "\n".join(wrong)
        again = self.plan(wanted, owned)
        assert not again.steps, "\n".join(f"{s.id}: {_text(s)}" for s in again.steps)
        return plan

    def there_and_back(self, base: Mapping[str, Any], path: str, value: Any) -> Plan:
        """Change one thing and take it back. Gives the first plan; both must change something and end equal."""
        there = self.apply(changed(base, path, value))
        back = self.apply(base)
        assert all((there.steps, back.steps)), f"{path} = {value!r} changed nothing"
        return there


def _spelled(mode: str) -> str:
    words = mode.removesuffix("Lock")
    return "".join(f" {c}" if c.isupper() else c for c in words).strip().upper()


def ids(plan: Plan) -> list[str]:
    """The steps by what they do, without the address up to the table."""
    return [s.id.split("/", 1)[-1] for s in plan.steps]


def hazards(plan: Plan) -> set[str]:
    """The consents that a plan asks for."""
    return {f"{h.kind}:{s.object}" for s in plan.steps for h in s.hazards if h.needs_consent}


@contextmanager
def world(dsn: Mapping[str, Any], **options: Any) -> Iterator[World]:
    """A world for the length of a block."""
    found = World(dsn, **options)
    try:
        yield found
    finally:
        found.close()


class Bench:
    """A database that goes from test to test, in the state that ``base`` and ``rows`` describe."""

    def __init__(self, server: Any, name: str, base: Mapping[str, Any], rows: Sequence[str]) -> None:
        server.create_database(name)
        self._dsn, self._base, self._rows = server.dsn(name), base, rows
        self._world: World | None = None

    @contextmanager
    def use(self) -> Iterator[World]:
        """The world in its first state; a test that fails leaves it to be made anew."""
        if self._world is None:
            self._world = self._made()
        try:
            yield self._world
        except BaseException:
            self.end()
            raise

    @contextmanager
    def spend(self) -> Iterator[World]:
        """The world in its first state, never used again."""
        try:
            with self.use() as found:
                yield found
        finally:
            self.end()

    def _made(self) -> World:
        found = World(self._dsn)
        found.run("DROP SCHEMA IF EXISTS a CASCADE")
        found.apply(self._base, ())
        found.run(*self._rows)
        return found

    def end(self) -> None:
        """Close the world, if there is one."""
        if self._world is not None:
            self._world.close()
        self._world = None
