"""A small world for tests of kinds: specs in, plans by the engine, statements out, the database read back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg

from provision import registry
from provision.plan.assemble import Seen, assemble
from provision.plan.plan import Plan
from provision.postgres.catalog import Catalog
from provision.postgres.passwords import build_verifier, verify
from provision.reconcile.canonical import spelled
from provision.spec.change import Sql
from provision.spec.record import Facts, Plane, Record
from tests.postgres.documents import changed, desired

CLOCK = datetime(2026, 1, 1, tzinfo=UTC)


def texts(plan: Plan) -> list[str]:
    """The SQL of a plan's steps."""
    return [s.request.text for s in plan.steps if isinstance(s.request, Sql)]


class World:
    """One database, changed only through plans."""

    def __init__(self, dsn: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> None:
        self.dsn = dict(dsn)
        self.secrets = dict(secrets or {})
        self.known: dict[str, Plane] = {}
        self.connection = psycopg.connect(**dsn, autocommit=True)
        self.kinds = {k.name: k for k in registry.postgres_kinds()}
        self.run("SET search_path = pg_catalog", "SET timezone = 'UTC'", "SET client_min_messages = warning")

    def close(self) -> None:
        self.connection.close()

    def run(self, *statements: str) -> None:
        for text in statements:
            self.connection.execute(text.encode())

    def one(self, query: str) -> Any:
        row = self.connection.execute(query.encode()).fetchone()
        return row[0] if row is not None else None

    @property
    def major(self) -> int:
        return self.connection.info.server_version // 10000

    def live(self) -> Plane:
        raw = {}
        for query in registry.postgres_queries():
            with self.connection.cursor().copy(f"COPY ({query.sql(self.major)}) TO STDOUT".encode()) as copy:
                raw[query.name] = b"".join(copy)
        catalog = Catalog("main", self.major, raw)
        return Plane(r for kind in self.kinds.values() for r in kind.decode(catalog))  # type: ignore[attr-defined]

    def facts(self, wanted: Plane) -> Facts:
        states = {}
        for record in wanted.of_kind("role"):
            reference = record.settings["password"]
            if reference is not None:
                name = (record.renamed_from or record.address).name
                stored = self.one(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'")
                states[name] = "match" if verify(self.secrets[reference["env"]], stored) else "differs"
        options = {
            "password_state": states,
            "database": self.dsn["dbname"],
            "extensions": {},
            "superuser": True,
        }
        return Facts("pg", "main", (self.major, 0, 0), options)

    def canonical(self, wanted: Plane) -> Plane:
        """The plane with its expressions as the server shows them: built in a database that is thrown away."""
        key = repr([r[:2] for r in wanted if r.address.kind not in ("role", "membership", "grant")])
        if key not in self.known:
            self.known[key] = self._built(wanted)
        found = self.known[key]
        return Plane([self._canonical(r, found.get(r.address)) for r in wanted], name="agents", env="test")

    def _built(self, wanted: Plane) -> Plane:
        with scratch(self.dsn) as dsn:
            other = World(dsn, self.secrets)
            try:
                known = other.live()
                rest = Plane(r for r in wanted if r.address not in known or r.address.kind == "schema")
                other.run("BEGIN")
                for step in other.plan(rest, owned=()).steps:
                    other.send(step.request)
                return other.live()
            finally:
                other.close()

    def _canonical(self, record: Record, read_back: Record | None) -> Record:
        names = getattr(self.kinds[record.address.kind], "expressions", ())
        if read_back is None or not names:
            return record
        settings = {n: read_back.settings[n] for n in names}
        return record._replace(settings=record.settings | settings, refs=read_back.refs, rigid=read_back.rigid)

    def plan(self, wanted: Plane, owned: tuple[str, ...] | None = None, declared: Plane | None = None) -> Plan:
        live = self.live()
        held = tuple(map(str, live.records)) if owned is None else owned
        mine = frozenset(a for a in held if not _not_ours(a))
        seen = Seen(live, mine, {("pg", "main"): self.facts(wanted)})
        return assemble(wanted, seen, self.kinds, CLOCK, spelled=spelled(declared, wanted) if declared else None)

    def send(self, request: Any) -> None:
        assert isinstance(request, Sql)
        text = request.text
        for name, reference in (request.secrets or {}).items():
            text = text.replace("{{" + name + "}}", build_verifier(self.secrets[reference["env"]]))
        self.run(text)

    def apply(self, spec: Mapping[str, Any], owned: tuple[str, ...] | None = None) -> Plan:
        """Bring the database to the spec; fails unless it equals it then."""
        declared = desired(spec)
        wanted = self.canonical(declared)
        plan = self.plan(wanted, owned, declared)
        for step in plan.steps:
            self.send(step.request)
        again = self.plan(wanted, owned, declared)
        assert [(s.id, s.request) for s in again.steps] == []
        return plan

    def there_and_back(self, base: Mapping[str, Any], path: str, value: Any) -> Plan:
        """Change one thing and take it back. Gives the first plan; both must change something and end equal."""
        there = self.apply(changed(base, path, value))
        back = self.apply(base)
        assert all((there.steps, back.steps)), f"{path} = {value!r} changed nothing"
        return there


def _not_ours(address: str) -> bool:
    return address in (
        "pg:main/public",
        "pg:main/extension/plpgsql",
        "pg:main/role/holdfast_admin",
        "pg:main/role/postgres",
    ) or (address.startswith("pg:main/public/grant/"))


@contextmanager
def scratch(dsn: Mapping[str, Any]) -> Any:
    name = f"scratch_{uuid4().hex[:10]}"
    with psycopg.connect(**dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
        try:
            yield {**dsn, "dbname": name}
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
