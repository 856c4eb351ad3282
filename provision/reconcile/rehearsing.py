"""A database to rehearse migrations in: of the target's major version, with its roles and the tables of the history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from provision import registry
from provision.migrate import comparing, members
from provision.migrate.comparing import Sides
from provision.plan.assemble import Seen, assemble
from provision.plan.plan import Plan
from provision.postgres import wire
from provision.postgres.catalog import parse_copy
from provision.postgres.connect import connect
from provision.postgres.errors import Refusal, translate
from provision.postgres.observe import Observer
from provision.postgres.scratch import ScratchDatabases
from provision.postgres.sql import quote_ident
from provision.reconcile import canonical
from provision.reconcile.workspace import Workspace
from provision.reconcile.world import World
from provision.spec.change import Sql
from provision.spec.errors import HoldfastError
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane

if TYPE_CHECKING:
    from provision.postgres.connect import Connection, Settings

Note = Callable[[str], None]
#: Where the history of migrations is kept; it has to stand before the first of them runs.
HISTORY = "migrations"
_LATEST = 18
_AGAIN = re.compile(r"\b[Rr]un (it )?again: holdfast migrate (up|down)( --\w+ \S+)?")

#: Every table and column, with the numbers that neither a rename nor a change gives anew.
_HOLDERS = """
    SELECT n.nspname, c.relname, a.attname, concat_ws('.', c.oid, a.attnum)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN LATERAL (SELECT NULL::name AS attname, NULL::int2 AS attnum
                          UNION ALL SELECT attname, attnum FROM pg_attribute
                                     WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""


def history_of(target: str) -> Address:
    """The schema that holds the history of a database's migrations."""
    return Address.root("pg", target, "schema", HISTORY, bare=True)


def on_scratch(error: HoldfastError, command: str) -> HoldfastError:
    """The error of a migration that fails here: what helps is another run of ``command``."""
    error.help = _AGAIN.sub(f"run again: holdfast migrate {command}", error.help)
    return error


class Rehearsal(NamedTuple):
    """An open session in the database, and how to look at it."""

    connection: Connection
    target: str
    plane: Plane
    #: What migrations of this target answer for.
    wanted: Plane
    given: Plane
    settings: Settings
    facts: Facts
    cache: Path
    clock: datetime
    note: Note

    def look(self) -> Seen:
        """What the database holds now."""
        snapshot = Observer(self.connection, self.target).read((*registry.postgres_queries(), members.QUERY))
        own = {members.FACT: members.portraits(snapshot.catalog)}
        facts = snapshot.facts._replace(options={**snapshot.facts.options, **own})
        snapshot = snapshot._replace(facts=facts)
        return World(self.plane.name, self.plane.env, {self.target: snapshot}, {}, dict, lambda: None).seen

    def sides(self, seen: Seen) -> Sides:
        """The specs beside a look, in comparable form."""
        facts = seen.facts["pg", self.target]
        scratch = ScratchDatabases(self.settings, self.facts)
        desired = canonical.of_database(self.wanted, facts, scratch, self.cache, self.note)
        return Sides(desired, seen, canonical.spelled(self.wanted, desired), self.given)

    def missing(self, seen: Seen) -> Plan:
        """What the database lacks to equal the specs."""
        return comparing.towards(self.sides(seen), registry.kinds(), self.clock)

    def run(self, plan: Plan) -> None:
        """Do the steps of a plan, one by one: what a transaction cannot hold needs none around it."""
        try:
            for step in plan.steps:
                if isinstance(step.request, Sql):
                    wire.run(self.connection, step.request.text)
        except Refusal as refusal:
            raise translate(refusal, step="scratch database", role=self.connection.info.user) from refusal

    def back(self, before: Seen, after: Seen) -> Plan:
        """The plan from one look to an earlier one, between which the specs' renames were done."""
        names = comparing.renames(self.sides(before), registry.kinds())
        return comparing.back(before, after, self.given, registry.kinds(), self.clock, names)

    def identities(self) -> dict[Address, str]:
        """What holds rows: each table and column, and what the server calls it as long as it lives."""
        (output,) = wire.run(self.connection, f"COPY ({_HOLDERS}) TO STDOUT")
        found: dict[Address, str] = {}
        for schema, table, column, identity in parse_copy(output):
            address = Address.root("pg", self.target, "schema", str(schema), bare=True)
            address = address.child("table", str(table), bare=True)
            found[address if column is None else address.child("column", str(column))] = str(identity)
        return found


@contextmanager
def rehearsal(workspace: Workspace, target: str, *, cache: Path, clock: datetime, note: Note) -> Iterator[Rehearsal]:
    """Make the database, and drop it with the roles made for it.

    Raises InputError for a target that the environment does not declare, ServerError without an embedded server of
    its major version.
    """
    from provision.embedded.postgres import MAJORS
    from provision.embedded.process import ServerError

    workspace.refuse_unknown(target)
    declared = workspace.facts["pg", target]
    major = declared.version[0] if declared.version else _LATEST
    if major not in MAJORS:
        there = " and ".join(map(str, MAJORS))
        raise ServerError(
            f"no embedded PostgreSQL {major} to rehearse in, which {target} declares; there are {there}",
            "What --from-plan writes for another version may differ. To rehearse all the same, use an environment that"
            f" declares version: {max(MAJORS)} for this target: holdfast --env NAME migrate verify.",
        )
    wanted = comparing.of_database(workspace.plane, target)
    with canonical.embedded_scratch(cache)(major) as settings, connect(settings) as cluster:
        try:
            _sweep(cluster)
            _refuse_extensions(cluster, wanted, target, major)
            _make_roles(cluster, workspace.plane, target)
            facts = Observer(cluster, target).read(()).facts
            with ScratchDatabases(settings, facts)() as session:
                found = Rehearsal(
                    session.connection, target, workspace.plane, wanted, Plane(()), settings, facts, cache, clock, note
                )  # fmt: skip
                found = found._replace(given=found.look().live)
                _make_history(found)
                yield found
        finally:
            _sweep(cluster)


def _sweep(cluster: Connection) -> None:
    """Drop every database and role that the server was not made with: those of ours, of files, and of killed runs.

    The server is a throw-away one, and ours alone as long as it runs.
    """
    databases, roles = wire.run(
        cluster,
        "COPY (SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> current_database()) TO STDOUT",
        "COPY (SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> SESSION_USER) TO STDOUT",
    )
    for name in (str(row[0]) for row in parse_copy(databases)):
        wire.send(cluster, [f"DROP DATABASE {quote_ident(name)} WITH (FORCE)"])
    for name in (quote_ident(str(row[0])) for row in parse_copy(roles)):
        wire.send(cluster, [f"DROP OWNED BY {name}", f"DROP ROLE {name}"])


def _refuse_extensions(cluster: Connection, plane: Plane, target: str, major: int) -> None:
    """Raise ServerError for declared extensions that the server was not built with."""
    from provision.embedded.process import ServerError

    (output,) = wire.run(cluster, "COPY (SELECT name FROM pg_available_extensions) TO STDOUT")
    there = {row[0] for row in parse_copy(output)}
    if lacking := [r.address.name for r in plane.of_kind("extension") if r.address.name not in there]:
        raise ServerError(
            f"the embedded PostgreSQL {major} has no extension {', '.join(lacking)}, which {target} declares",
            f"It has: {', '.join(sorted(map(str, there)))}. Rehearse in an environment whose specs leave out what needs"
            " it: holdfast --env NAME migrate verify; or run the files on a copy of the target: migrate up, then plan.",
        )


def _make_roles(cluster: Connection, plane: Plane, target: str) -> None:
    """Roles belong to the cluster: here they only have a name, so that it can be granted to."""
    part = canonical.part_of(plane, target)
    named = sorted({a.name for r in part for a in (r.address, *r.refs) if a.kind == "role"})
    (output,) = wire.run(cluster, "COPY (SELECT rolname FROM pg_roles) TO STDOUT")
    there = {row[0] for row in parse_copy(output)}
    wire.run(cluster, *(f"CREATE ROLE {quote_ident(role)}" for role in named if role not in there))


def _make_history(found: Rehearsal) -> None:
    """As ``migrate up`` does in an empty database: what is declared of the history comes first."""
    here = history_of(found.target)
    if here not in found.wanted:
        return
    sides = found.sides(found.look())
    plan = assemble(sides.desired, sides.seen, registry.kinds(), found.clock, (str(here),), sides.spelled)
    found.run(plan)
