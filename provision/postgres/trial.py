"""Build a plane in one transaction that is never committed, past every refusal, and blame each on its record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from provision.plan.assemble import settle
from provision.plan.lower import Scene, lower
from provision.plan.order import order
from provision.postgres import wire
from provision.postgres.blame import Culprit, blame, narrow, neutral, suspects
from provision.postgres.catalog import Catalog, Query
from provision.postgres.errors import PostgresError, Refusal, translate
from provision.postgres.observe import copy
from provision.postgres.scratch import Session
from provision.postgres.sql import quote_ident
from provision.spec.change import Change, Draft, Sql
from provision.spec.ident import Address
from provision.spec.kind import Kind
from provision.spec.record import Facts, Plane, Record

#: Belong to the cluster or say who may do what: no expression depends on them.
_ASIDE = frozenset({"role", "membership", "grant"})
#: Settings that a scratch server cannot or need not follow.
_BLANK = ("owner", "tablespace", "comment")
#: Refusals that an extension which is lacking may cause: something undefined, unsupported or not permitted.
_UNDEFINED = frozenset({"42704", "42883", "42P01", "3F000", "0A000", "58P01", "42501"})
_TOGETHER = 200
#: Any instant does: it only decides which partitions are named, and of those one is built.
_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)


class Tools(NamedTuple):
    """What the registry knows of a database: the kinds of system "pg" by name, and their queries."""

    kinds: Mapping[str, Kind]
    queries: Sequence[Query]

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for kind in self.kinds.values():
            found = getattr(kind, "decode", None)
            if found is not None:
                yield from found(catalog)

    def expressions(self, record: Record) -> tuple[str, ...]:
        """The settings of a record's kind that only a server can put into canonical form."""
        names: tuple[str, ...] = getattr(self.kinds[record.address.kind], "expressions", ())
        return names

    def compiles(self, record: Record) -> bool:
        """Whether a record holds such text: its kind says so, or one of the settings is set."""
        says: Callable[[Record], bool] | None = getattr(self.kinds[record.address.kind], "compiles", None)
        if says is not None:
            return says(record)
        return any(record.settings.get(n) not in (None, [], {}) for n in self.expressions(record))


class CompileProblem(NamedTuple):
    """A server's refusal. ``field`` is a setting, "checks.positive" inside one, or None for the whole object.

    ``position`` counts characters from 1 inside the field's text.
    """

    address: Address
    field: str | None
    sqlstate: str
    message: str
    position: int | None
    help: str = ""


class NotCompiled(NamedTuple):
    """What could not be tried here: ``needs`` is an extension, a build option, or the object in its way."""

    address: Address
    needs: str


class Trial:
    """One attempt to build a plane. Afterwards ``problems`` and ``skipped`` say what did not come to be."""

    def __init__(self, session: Session, desired: Plane, tools: Tools) -> None:
        self.session = session
        self.connection = session.connection
        self.tools = tools
        self.problems: list[CompileProblem] = []
        self.skipped: list[NotCompiled] = []
        #: What others may not be built on -> what is said to be in their way.
        self._failed: dict[Address, str] = {}
        self._altered: set[Address] = set()
        self._records = {r.address: _plain(r, session.facts) for r in desired if r.address.kind not in _ASIDE}
        self._parts: dict[Address, list[Address]] = defaultdict(list)
        for record in self._records.values():
            if record.parent is not None and record.parent.kind == "table":
                self._parts[record.parent].append(record.address)
        self._lacking = self._without_extensions(desired)
        self._live = Plane(())

    def _without_extensions(self, desired: Plane) -> list[str]:
        """Leave out the extensions that the scratch server has not."""
        available = self.session.facts.options["extensions_available"]
        lacking = [r.address for r in desired.of_kind("extension") if r.address.name not in available]
        for address in lacking:
            del self._records[address]
            self._failed[address] = address.name
            self._skip(address, address.name)
        return [a.name for a in lacking]

    def run(self, roles: Sequence[str]) -> None:
        """Begin the transaction and build everything that can be built."""
        self._must(["BEGIN", "SET LOCAL statement_timeout = 0", "SET LOCAL client_min_messages = error"])
        self._live = self._observe()
        (existing,) = self._must(["COPY (SELECT rolname FROM pg_roles) TO STDOUT"])
        missing = sorted(set(roles) - set(existing.decode().split("\n")))
        self._must([f"CREATE ROLE {quote_ident(role)}" for role in missing])
        drafts = _one_partition_each(d for d in self._drafts(self._records) if d.transactional)
        for start in range(0, len(drafts), _TOGETHER):
            self._build(drafts[start : start + _TOGETHER])

    def read(self) -> Plane:
        """What was built, as observing shows it, without what had to be changed to be built."""
        return Plane(r for r in self._observe() if r.address not in self._altered)

    def _observe(self) -> Plane:
        major = self.session.facts.version[0]
        outputs = self._must([copy(q.sql(major)) for q in self.tools.queries])
        raw = {q.name: data for q, data in zip(self.tools.queries, outputs, strict=True)}
        return Plane(self.tools.decode(Catalog(self.session.facts.target, major, raw)))

    def _must(self, statements: Sequence[str]) -> list[bytes]:
        if not statements:
            return []
        try:
            return wire.run(self.connection, *statements)
        except Refusal as refusal:
            raise self._error(refusal) from refusal

    def _error(self, refusal: Refusal) -> PostgresError:
        return translate(refusal, step=self.session.place, role=self.connection.info.user)

    def _drafts(self, records: Mapping[Address, Record], only: Address | None = None) -> list[Draft]:
        """The ordered statements that create the records, all or those of one object."""
        facts = {("pg", self.session.facts.target): self.session.facts}
        wanted, live = settle(Plane(records.values()), self._live, self.tools.kinds, facts, _CLOCK)
        changes = {
            r.address: Change(r.address, "create", None, r)
            for r in wanted
            if r.address not in live and (only is None or r.address.within(only))
        }
        works = lower(Scene(wanted, live, changes, facts), self.tools.kinds)
        return [work.draft for work, _ in order(works)]

    # Building ----------------------------------------------------------------------------------------------

    def _build(self, drafts: Sequence[Draft]) -> None:
        """Try all at once; if that fails, one by one."""
        if not self._failed and self._try(*drafts) is None:
            return
        for draft in drafts:
            free = self._unblocked(draft)
            refusal = self._try(free) if free is not None else None
            if free is not None and refusal is not None:
                self._mend(free, refusal)

    def _try(self, *drafts: Draft) -> Refusal | None:
        """Send inside a savepoint, which a refusal leads back to."""
        self._must(["SAVEPOINT attempt"])
        reply = wire.send(self.connection, [_text(d) for d in drafts])
        if reply.refusal is not None and _is_no_fault_of_the_spec(reply.refusal.sqlstate):
            raise self._error(reply.refusal) from reply.refusal
        self._must(["ROLLBACK TO attempt", "RELEASE attempt"] if reply.refusal else ["RELEASE attempt"])
        return reply.refusal

    def _unblocked(self, draft: Draft) -> Draft | None:
        """The draft without the parts that stand on refused objects; None when it stands on one itself."""
        if not self._failed:
            return draft
        record = self._records.get(draft.object)
        blocker = self._blocker(record) if record is not None else str(draft.object)
        if blocker is not None:
            self._failed.setdefault(draft.object, blocker)
            self._skip(draft.object, blocker)
            return None
        if draft.action != "create":
            return draft
        blocked = [(part, b) for part in self._own(draft)[1:] if (b := self._blocker(part)) is not None]
        for part, blocker in blocked:
            self._skip(part.address, blocker)
            self._leave_out(part, "type", blocker)
        return self._again(draft, self._records) if blocked else draft

    def _blocker(self, record: Record) -> str | None:
        """What the refused object is called that a record stands on."""
        for address in (record.address, *record.refs):
            for failed, name in self._failed.items():
                if address.within(failed):
                    return name
        return None

    def _own(self, draft: Draft) -> list[Record]:
        """The record of a draft and, of a table, the parts that are created with it or later."""
        addresses = [draft.object, *self._parts.get(draft.object, ())]
        return [self._records[a] for a in addresses if a in self._records]

    def _mend(self, draft: Draft, refusal: Refusal) -> None:
        """Report the culprit, take it out, and try the rest of the object until it stands or is nothing."""
        again: Draft | None = draft
        now: Refusal | None = refusal
        while again is not None and now is not None:
            own = self._own(again)
            found = blame(now, _text(again), own) or self._search(again, now, own)
            culprit = found or narrow(now, self._records[again.object])
            self._report(now, culprit)
            self._leave_out(culprit.record, culprit.field, str(culprit.record.address))
            if culprit.record.address == draft.object and draft.object in self._failed:
                return
            again = self._again(again, self._records)
            now = self._try(again) if again is not None else None

    def _leave_out(self, record: Record, field: str | None, reason: str) -> None:
        """Go on without a record, or with a harmless one that has its name."""
        self._altered.add(record.address)
        harmless = neutral(record, field)
        if harmless is None:
            self._records.pop(record.address, None)
            self._failed.setdefault(record.address, reason)
            return
        self._records[record.address] = harmless
        if harmless.settings["type"] != record.settings["type"]:
            self._failed.setdefault(record.address, reason)

    def _search(self, draft: Draft, refusal: Refusal, own: Sequence[Record]) -> Culprit | None:
        """Leave out one part after the other; without the one to blame the server no longer says so."""
        for record in suspects(draft.object, own):
            rest = dict(self._records)
            del rest[record.address]
            harmless = neutral(record, None)
            again = self._again(draft, rest if harmless is None else rest | {record.address: harmless})
            if again is None:
                continue
            self._must(["SAVEPOINT search"])
            now = self._try(again)
            self._must(["ROLLBACK TO search", "RELEASE search"])
            if now is None or (now.sqlstate, now.message) != (refusal.sqlstate, refusal.message):
                return narrow(refusal, record)
        return None

    def _again(self, draft: Draft, records: Mapping[Address, Record]) -> Draft | None:
        """The same step of the object, lowered from other records; None when nothing is left to do."""
        return next((d for d in self._drafts(records, draft.object) if _same(d, draft)), None)

    # Reporting ---------------------------------------------------------------------------------------------

    def _report(self, refusal: Refusal, culprit: Culprit) -> None:
        address = culprit.record.address
        if refusal.sqlstate in _UNDEFINED and self._lacking:
            self._skip(address, ", ".join(self._lacking))
        elif refusal.sqlstate == "0A000" and "built with" in refusal.detail:
            self._skip(address, refusal.detail.rstrip("."))
        else:
            message = f"{refusal.message}: {refusal.detail}" if refusal.detail else refusal.message
            self.problems.append(
                CompileProblem(address, culprit.field, refusal.sqlstate, message, culprit.position, refusal.hint)
            )

    def _skip(self, address: Address, needs: str) -> None:
        found = NotCompiled(address, needs)
        if found not in self.skipped:
            self.skipped.append(found)


def _is_no_fault_of_the_spec(sqlstate: str) -> bool:
    """Insufficient resources, intervention, system and internal errors; not a missing file of an extension."""
    return sqlstate[:2] in ("53", "57", "58", "XX") and sqlstate != "58P01"


def _text(draft: Draft) -> str:
    assert isinstance(draft.request, Sql)
    return draft.request.text


def _same(one: Draft, other: Draft) -> bool:
    return (one.object, one.action, one.key) == (other.object, other.action, other.key)


def _plain(record: Record, facts: Facts) -> Record:
    """Without what a scratch server cannot follow: owners, tablespaces, a compression it lacks."""
    found = record.settings
    blank = {key: None for key in _BLANK if found.get(key) is not None}
    if found.get("compression") not in (None, *facts.options["compressions"]):
        blank["compression"] = None
    return record._replace(settings=found | blank) if blank else record


def _one_partition_each(drafts: Iterable[Draft]) -> list[Draft]:
    """Of every partition set keep the first statement only: one child shows what all of them would."""
    seen: set[Address] = set()
    kept = []
    for draft in drafts:
        if draft.object.kind == "partitions":
            if draft.object in seen:
                continue
            seen.add(draft.object)
        kept.append(draft)
    return kept
