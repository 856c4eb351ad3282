"""Maintains the rolling sets of one database: makes what lies ahead, empties DEFAULT partitions, retires what expired.

**Making.** Without a DEFAULT partition, CREATE TABLE LIKE and ATTACH lock the parent SHARE UPDATE EXCLUSIVE: readers
and writers pass. What is current is made first, and nothing that fails later takes it back.

**Beside a DEFAULT partition** a range can only be attached once no row of it is in DEFAULT. Such rows cannot be carried
away ahead of the attachment: a reader through the parent would miss them. Nor can they be carried under weaker locks:
a statement that was planned before the attachment and runs after it scans DEFAULT, where they were, and not the new
partition, where they are; an UPDATE that waited for one of them would find nothing and say so as a success. So one
transaction locks the parent first, ACCESS EXCLUSIVE, which lets running statements end and makes new ones plan
afterwards; then it deletes, inserts and attaches; MVCC shows each row at every moment. The lock is waited for briefly
and often. Few rows keep it for milliseconds. Many are cut at keys into several partitions of the interval, each moved
in a transaction of its own; what remains is ATTACH's scan of DEFAULT. A CHECK that excludes the range would save that
scan, but only if it stood before, when it would turn away rows that still have no other place.

**Retiring** goes by upper bounds. The partition is marked with a comment, detached CONCURRENTLY where no DEFAULT
partition forbids it, then dropped, archived and dropped, or kept. The mark lets the next run end what was interrupted.

**Consent.** Rows that the retention of the run before would have kept are only retired with a consent. A server that
was down for ten days retires ten days' partitions without one; a shorter ``retain`` does not. The first run of a set
has no run before it. Nor is anything taken by a clock that is ahead of the server's (``--as-of``, or a host that is
wrong) and would be kept by the server's: it waits for the same consent, empty or not, for writers need it today.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from provision.migrate.partitions import archive, due, steps
from provision.migrate.partitions.due import Member, Point
from provision.migrate.partitions.look import Leftover, Look
from provision.migrate.partitions.report import Action, Report, SetStatus
from provision.migrate.partitions.runner import Patience, Runner
from provision.migrate.partitions.steps import Rolling, Work
from provision.postgres import sql
from provision.postgres.apply import count
from provision.postgres.errors import LockTimeout, StatementFailed, Unreachable
from provision.postgres.kinds.partition_window import Range
from provision.postgres.kinds.steps import ACCESS_EXCLUSIVE
from provision.spec.errors import HoldfastError, InputError, OperationError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

Progress = Callable[[str], None]
#: Intervals emptied out of one DEFAULT partition, and turns of a set of numbers, in one run.
_TURNS = 10_000
#: How far a clock may be ahead of the server's before what it retires is looked at twice.
_AHEAD = timedelta(minutes=1)
_SERVER_CLOCK = "SELECT extract(epoch FROM clock_timestamp())"
#: The lock that partitions coming and going put on their parent.
_PARENT = "parent"
_COLUMNS = """
    SELECT attname FROM pg_attribute WHERE attrelid = {name}::regclass AND attnum > 0 AND NOT attisdropped
       AND attgenerated = '' ORDER BY attnum"""
_TRIGGERS = """
    SELECT bool_or(tgenabled = 'A'), current_setting('is_superuser') = 'on'
           OR has_parameter_privilege('session_replication_role', 'SET')
      FROM pg_trigger t
     WHERE tgenabled IN ('O', 'A') AND tgtype & 8 <> 0
       AND tgrelid IN (SELECT relid FROM pg_partition_tree({name}::regclass))
    HAVING count(*) > 0"""
_PENDING = """
    SELECT i.inhdetachpending FROM pg_inherits i
     WHERE i.inhrelid = to_regclass({name}) AND i.inhparent = {parent}::regclass"""


@dataclass(slots=True)
class Orders:
    """What a run may do. ``archive`` is None where no folder is known; ``dry`` changes nothing.

    ``server_clock`` stands for the server's; None asks the server.
    """

    clock: datetime
    allowed: Collection[str] = ()
    archive: Path | None = None
    dry: bool = False
    patience: Patience = field(default_factory=Patience)
    progress: Progress = lambda text: None
    server_clock: datetime | None = None


class Keeper:
    """Works on the sets of one target. Nothing that fails for one partition stops the others."""

    def __init__(self, connection: Connection, target: str, found: Look, orders: Orders, report: Report) -> None:
        self.connection = connection
        self.target = target
        self.look = found
        self.orders = orders
        self.report = report
        self.runner = Runner(connection, orders.patience)

    # Making ------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Make what is missing in every set and empty their DEFAULT partitions."""
        for rolling in self.look.sets:
            self._guarded(str(rolling.address), lambda r=rolling: self._advance(r))  # type: ignore[misc]

    def _advance(self, rolling: Rolling) -> None:
        self._finalize(rolling)
        current = self.position(rolling)
        for _ in range(_TURNS):
            lacking = due.missing(rolling.table.address.name, rolling.settings, rolling.members, current)
            if lacking and rolling.like.get("unfit"):
                self._tell_unfit(rolling)
            for member, bound in lacking.items():
                self._make(rolling, member, bound)
            self._empty(rolling, current)
            before, current = current, self.position(rolling)
            if self.orders.dry or current == before:
                return

    def _tell_unfit(self, rolling: Rolling) -> None:
        text = f"{rolling.address}: {rolling.like['member']} is split by {rolling.like['unfit']}, and new ones are not"
        if text not in self.report.notes:
            self.report.notes.append(text)

    def position(self, rolling: Rolling) -> Point:
        """The clock, or the greatest key outside of the DEFAULT partition."""
        if not rolling.grid.counts:
            return self.orders.clock.astimezone(UTC)
        found = due.members(rolling.grid, rolling.members)
        for member in reversed(found):
            greatest = self.runner.value(f"SELECT max({rolling.key})::text FROM {rolling.name(member.name)}")
            if greatest is not None:
                return rolling.grid.point(greatest)
        return found[0].low if found else rolling.grid.origin

    def _make(self, rolling: Rolling, member: str, bound: str) -> None:
        found = rolling.grid.read(bound)
        assert found is not None
        if rolling.default is not None:
            self._guarded(str(rolling.address), lambda: self._transfer(rolling, member, found))
            return
        action = self._action(rolling, "create", member)
        statements = steps.attach(rolling, member, bound, self.look.role)
        if self._done(action, lambda: self.runner.together(statements, _what(rolling, member))):
            rolling.members[member] = bound

    def _transfer(self, rolling: Rolling, member: str, found: Range) -> None:
        """Attach a range beside DEFAULT, with the rows that wait there; many rows make several partitions."""
        assert rolling.default is not None
        default, grid = rolling.name(rolling.default), rolling.grid
        rows = self._count(f"SELECT count(*) FROM {default} WHERE {rolling.within(grid.bound(found))}")
        portion = self.orders.patience.portion
        cuts = self._cuts(rolling, grid.bound(found)) if rows > portion else []
        for piece in due.pieces(found, cuts):
            bound = grid.bound(piece)
            name = member if piece == found else sql.bounded(rolling.table.address.name, grid.suffix(piece.low))
            inside = rows if not cuts else self._count(f"SELECT count(*) FROM {default} WHERE {rolling.within(bound)}")
            action = self._action(rolling, "move" if inside else "create", name, rows=inside or None)
            if self._done(action, lambda a=action, b=bound: self._carry(rolling, a, b)):  # type: ignore[misc]
                rolling.members[name] = bound

    def _carry(self, rolling: Rolling, action: Action, bound: str) -> None:
        assert rolling.default is not None
        literal = sql.quote_literal(rolling.name(rolling.default))
        columns = [str(r[0]) for r in self.runner.rows(_COLUMNS.format(name=sql.quote_literal(rolling.parent)))]
        triggers = self.runner.rows(_TRIGGERS.format(name=literal))
        loud = bool(triggers) and (triggers[0][0] == "t" or triggers[0][1] != "t")
        if loud and action.rows:
            raise InputError(
                f"moving rows out of {rolling.default} would fire its triggers as if they were deleted",
                f"As a superuser run: GRANT SET ON PARAMETER session_replication_role TO {self.look.role};"
                " and let no trigger be ENABLE ALWAYS.",
            )
        # Without rows nothing is carried, where triggers would hear of it; one that comes meanwhile stops ATTACH.
        given = () if loud else columns
        quiet = bool(triggers) and not loud
        work = steps.move(rolling, action.partition, bound, self.look.role, given, quiet=quiet)
        self._closed(rolling, action, work)

    def _cuts(self, rolling: Rolling, bound: str) -> list[Point]:
        assert rolling.default is not None
        if rolling.settings["key_type"] is None:
            return []  # what the expression gives is not known
        query = steps.cuts(rolling, rolling.name(rolling.default), bound, self.orders.patience.portion)
        return [rolling.grid.point(str(row[0])) for row in self.runner.rows(query)]

    def _empty(self, rolling: Rolling, current: Point) -> None:
        """Give each row of DEFAULT that time has reached a partition of its interval, the oldest first."""
        if rolling.default is None:
            return
        grid, default = rolling.grid, rolling.name(rolling.default)
        below = steps.literal(grid, due.horizon(rolling.settings, current))
        if self.orders.dry:
            rows = self._count(f"SELECT count(*) FROM {default} WHERE {rolling.key} < {below}")
            if rows and not any(a.action == "move" and a.object == str(rolling.address) for a in self.report.actions):
                self._action(rolling, "move", rolling.default, rows=rows)
            return
        for _ in range(_TURNS):
            text = self.runner.value(steps.least(rolling, default, below))
            if text is None:
                return
            found = due.room(grid, rolling.members, grid.point(text))
            before = len(rolling.members)
            self._transfer(rolling, sql.bounded(rolling.table.address.name, grid.suffix(found.low)), found)
            if len(rolling.members) == before:
                return  # it failed, and was reported

    # Retiring ----------------------------------------------------------------------------------------------

    def retire(self, former: Mapping[str, str | None]) -> dict[str, str | None]:
        """Retire what expired. Gives the retention, by address, that was not held back for want of a consent."""
        accepted: dict[str, str | None] = {}
        for rolling in self.look.sets:
            address = str(rolling.address)

            def act(rolling: Rolling = rolling, address: str = address) -> None:
                if self._retire(rolling, former.get(address)):
                    accepted[address] = rolling.settings["retain"]

            self._guarded(address, act)
        return accepted

    def _retire(self, rolling: Rolling, former: str | None) -> bool:
        limit = due.edge(rolling.settings, self.position(rolling))
        found = due.expired(due.members(rolling.grid, rolling.members), limit)
        pending = self._pending(rolling, limit)
        held = self._held(rolling, found, former)
        if early := self._early(rolling, [m for m in found if m not in held], pending):
            held += [m for m in found if m in early and m not in held]
            pending = [p for p in pending if p not in early]
        if self._lacks_folder(rolling, [*(m for m in found if m not in held), *pending]):
            return False
        for leftover in pending:
            name = sql.qualified(leftover.schema, leftover.name)
            self._finish(rolling, name, leftover.name, leftover.bound, leftover.then)
        for member in found:
            if member in held:
                continue
            action = self._action(rolling, "detach", member.name)
            bound, name = rolling.members[member.name], rolling.name(member.name)
            if self._done(action, lambda a=action: self._detach(rolling, a)) or self.orders.dry:  # type: ignore[misc]
                self._finish(rolling, name, member.name, bound, rolling.settings["on_expiry"])
        return not held

    @cached_property
    def _reached(self) -> datetime:
        """The latest moment that time has reached, by the run's clock and by the server's."""
        server = self.orders.server_clock
        if server is None:
            server = datetime.fromtimestamp(float(self.runner.value(_SERVER_CLOCK) or 0), UTC)
        return min(self.orders.clock, server + _AHEAD)

    def _early(self, rolling: Rolling, found: list[Member], pending: list[Leftover]) -> Collection[Member | Leftover]:
        """What only a clock ahead of the server's retires, reported with its rows; nothing where that is allowed."""
        consent = f"data_loss:{rolling.address}"
        if rolling.grid.counts or self._reached == self.orders.clock or consent in self.orders.allowed:
            return []
        limit = due.edge(rolling.settings, self._reached.astimezone(UTC))
        early: list[Member | Leftover] = [m for m in found if limit is None or m.high > limit]
        for leftover in pending:
            was = rolling.grid.read(leftover.bound)
            early += [leftover] if was is None or limit is None or was.high > limit else []
        rows = 0
        for each in early:
            name = sql.qualified(each.schema, each.name) if isinstance(each, Leftover) else rolling.name(each.name)
            action = self._action(rolling, rolling.settings["on_expiry"], each.name, rows=self._rows_of_table(name))
            action.state, rows = "held", rows + (action.rows or 0)
        if early:
            self._ask(consent)
            self.report.notes.append(
                f"{rolling.address}: {self.report.as_of} is later than the server's clock"
                f" ({self._reached - _AHEAD:%Y-%m-%dT%H:%M:%SZ}), by which {len(early)} partitions with {rows} rows"
                " have not expired"
            )
        return early

    def _ask(self, consent: str) -> None:
        if consent not in self.report.consents:
            self.report.consents.append(consent)

    def _held(self, rolling: Rolling, found: list[Member], former: str | None) -> list[Member]:
        """The expired members that wait for a consent, reported with their rows."""
        if rolling.settings["on_expiry"] == "detach":
            return []
        consent = f"data_loss:{rolling.address}"
        if consent in self.orders.allowed:
            return []
        sudden = due.beyond(found, rolling.settings, self.position(rolling), former)
        rows = {m: self._rows_of(rolling, m.name) for m in sudden}
        held = [m for m in sudden if rows[m] != 0]
        for member in held:
            action = self._action(rolling, rolling.settings["on_expiry"], member.name, rows=rows[member])
            action.state = "held"
        if held:
            self._ask(consent)
            was = f"it was {former}" if former is not None else "the first maintenance of this set"
            self.report.notes.append(
                f"{rolling.address}: retain {rolling.settings['retain']} ({was}) takes {len(held)} partitions with"
                f" {sum(n or 0 for n in rows.values())} rows that were kept until now"
            )
        return held

    def _finalize(self, rolling: Rolling) -> None:
        """End detachings that were interrupted: until then neither rows nor other detachings get through."""
        for member in rolling.detaching:
            action = self._action(rolling, "finalize", member)
            bound, what = rolling.members[member], _what(rolling, member)
            if self._done(action, lambda m=member, w=what: self.runner.alone(steps.finalize(rolling, m), w)):  # type: ignore[misc]
                del rolling.members[member]
                self._adopt_mark(rolling, member, bound)

    def _pending(self, rolling: Rolling, limit: Point | None) -> list[Leftover]:
        """What an interrupted run detached and did not finish. Marks of what stays after all are taken off."""
        going = {m.name for m in due.expired(due.members(rolling.grid, rolling.members), limit)}
        for member in rolling.marked:
            if member in rolling.members and member not in going and not self.orders.dry:
                self.runner.together([steps.unmark(rolling, member)], _what(rolling, member))
        found: list[Leftover] = []
        for leftover in self.look.leftovers.get(str(rolling.address), []):
            if leftover.then == "detach" or rolling.settings["on_expiry"] == "detach":
                continue
            was = rolling.grid.read(leftover.bound)
            if was is not None and limit is not None and was.high <= limit:
                found.append(leftover)
                continue
            self.report.notes.append(
                f"{leftover.schema}.{leftover.name} was detached to {leftover.then} it, and retain now keeps it:"
                f" attach it again ({leftover.bound}), or drop it"
            )
        return found

    def _adopt_mark(self, rolling: Rolling, member: str, bound: str) -> None:
        """A partition that was marked before its detaching was interrupted goes on as that run meant."""
        name = rolling.name(member)
        row = self.runner.rows(f"SELECT obj_description({sql.quote_literal(name)}::regclass, 'pg_class')")
        said = steps.parse_mark(row[0][0])
        if said is not None and said["of"] == str(rolling.address):
            schema, plain = (rolling.table.address.names[0], member) if '"."' not in member else _split(member)
            self.look.leftovers.setdefault(said["of"], []).append(Leftover(schema, plain, bound, said["then"]))

    def _detach(self, rolling: Rolling, action: Action) -> None:
        member = action.partition
        what = _what(rolling, member)
        self.runner.together([steps.mark(rolling, member, rolling.settings["on_expiry"])], what)
        if rolling.default is not None:
            self._closed(rolling, action, steps.detach(rolling, member))
        else:
            self._detach_concurrently(rolling, member, what)
        del rolling.members[member]

    def _detach_concurrently(self, rolling: Rolling, member: str, what: str) -> None:
        """Two transactions with a wait between them: whatever ends one attempt, the next goes on from there."""
        names = {"name": sql.quote_literal(rolling.name(member)), "parent": sql.quote_literal(rolling.parent)}
        tries = self.orders.patience.tries
        for attempt in range(tries):
            pending = self.runner.value(_PENDING.format(**names)) if attempt else "f"
            if pending is None:
                return
            statement = steps.finalize if pending == "t" else steps.detach_concurrently
            try:
                self.runner.alone(statement(rolling, member), what)
                return
            except LockTimeout:
                if attempt + 1 == tries:
                    raise
            self.runner.pause(attempt)

    def _finish(self, rolling: Rolling, name: str, member: str, bound: str, then: str) -> None:
        """Do with a detached table what was decided when it was detached; archiving comes before dropping."""
        policy = rolling.settings["on_expiry"]
        if policy == "detach":
            return
        if "archive" not in (then, policy):
            action = self._action(rolling, "drop", member, lock=_drop_lock(rolling))
            if self.orders.dry:
                action.rows = self._rows_of_table(name)
            self._done(action, lambda: self.runner.together([f"DROP TABLE {name}"], _what(rolling, member)))
            return
        action = self._action(rolling, "archive", member, lock=_drop_lock(rolling))
        self._done(action, lambda: self._archive(rolling, name, member, bound, action))

    def _archive(self, rolling: Rolling, name: str, member: str, bound: str, action: Action) -> None:
        assert self.orders.archive is not None
        schema = rolling.table.address.names[0]
        about = {
            "partition": member, "of": str(rolling.address), "bound": bound, "plane": self.report.plane,
            "env": self.report.env, "archived_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        where = (self.report.plane, self.report.env, self.target, schema, member)
        place = archive.place_of(self.orders.archive, *where)
        patience = self.orders.patience
        for attempt in range(patience.tries):
            try:
                stored = archive.store_and_drop(
                    self.connection, name, place, about, lock_timeout_ms=patience.lock_timeout_ms
                )
                action.rows, action.file = stored.rows, os.fspath(stored.path)
                return
            except LockTimeout:
                if attempt + 1 == patience.tries:
                    raise
            self.runner.pause(attempt)

    def _lacks_folder(self, rolling: Rolling, going: Collection[object]) -> bool:
        archives = rolling.settings["on_expiry"] == "archive" or any(
            isinstance(g, Leftover) and g.then == "archive" for g in going
        )
        if not archives or self.orders.archive is not None or not going:
            return False
        self.report.problems.append(
            f"{rolling.address}: no folder for archives is known, and nothing was retired. Name one that lasts:"
            " --archive DIR, or HOLDFAST_ARCHIVE"
        )
        return True

    # Status ------------------------------------------------------------------------------------------------

    def status(self, rolling: Rolling) -> SetStatus:
        """How a set stands at the orders' clock."""
        current, grid = self.position(rolling), rolling.grid
        found = due.members(grid, rolling.members)
        lacking = due.missing(rolling.table.address.name, rolling.settings, rolling.members, current)
        s = rolling.settings
        default = rolling.default and self._count(f"SELECT count(*) FROM {rolling.name(rolling.default)}")
        return SetStatus(
            str(rolling.address), s["every"], s["retain"], len(rolling.members) - (rolling.default is not None),
            found[0].name if found else None, found[-1].name if found else None, due.ahead(found, grid, current),
            s["premake"], s["min_ahead"], len(lacking), len(due.expired(found, due.edge(s, current))),
            default if isinstance(default, int) else None,
        )  # fmt: skip

    # Shared ------------------------------------------------------------------------------------------------

    def _closed(self, rolling: Rolling, action: Action, work: Work) -> None:
        """Do what locks the table against everybody, and note for how long."""
        action.held_ms = self.runner.together(work.statements, _what(rolling, action.partition), ahead=work.ahead)

    def _action(
        self, rolling: Rolling, action: str, member: str, *, lock: str | None = _PARENT, rows: int | None = None
    ) -> Action:
        found = Action(str(rolling.address), action, member, rolling.lock if lock is _PARENT else lock, rows)
        self.report.actions.append(found)
        return found

    def _done(self, action: Action, act: Callable[[], object]) -> bool:
        """Do it unless this run only shows what it would do. A failure is reported, and the run goes on."""
        if self.orders.dry:
            return False
        action.state = "failed"
        if self._guarded(f"{action.object}, {action.action} {action.partition}", act):
            action.state = "done"
            self.orders.progress(f"{action.action} {action.partition}")
            return True
        return False

    def _guarded(self, what: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except Unreachable:
            raise
        except (OperationError, InputError) as error:
            self.report.problems.append(_sentence(what, error))
            return False
        except OSError as error:
            self.report.problems.append(f"{what}: {error.filename or ''}: {error.strerror or error}")
            return False
        return True

    def _count(self, query: str) -> int:
        return int(self.runner.value(query) or 0)

    def _rows_of(self, rolling: Rolling, member: str) -> int | None:
        return self._rows_of_table(rolling.name(member))

    def _rows_of_table(self, name: str) -> int | None:
        """How many rows a table has; the planner's guess where counting takes long, None where it is gone."""
        found = count(self.connection, {"sql": f"SELECT count(*) FROM {name}"})
        return None if found is None else found.value


def _what(rolling: Rolling, member: str) -> str:
    return f"{rolling.address}#{member}"


def _split(member: str) -> tuple[str, str]:
    schema, name = member[1:-1].split('"."', 1)
    return schema.replace('""', '"'), name.replace('""', '"')


def _drop_lock(rolling: Rolling) -> str | None:
    """Nobody uses a detached table; but dropping its foreign keys locks the tables that they refer to."""
    return ACCESS_EXCLUSIVE if rolling.referring else None


def _sentence(what: str, error: HoldfastError) -> str:
    text = str(error)
    if isinstance(error, StatementFailed) and error.sqlstate == "42P07":
        text, error.help = "a table of that name is there and is no partition", "Attach it again, or rename it."
    return f"{what}: {text}{f'. {error.help}' if error.help else ''}"
