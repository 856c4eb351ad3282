"""Let a server say what the desired expressions mean, in a transaction that is always rolled back.

``canonicalise`` gives desired records the very text that observing would give; ``validate`` tries everything
and tells what the server refuses. Both build through the lowering of an apply, and read back with the queries
and decoders of an observation.
"""

from __future__ import annotations

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
from provision.postgres.memo import Canonical, Keys, Memo
from provision.postgres.observe import copy
from provision.postgres.scratch import Scratch, Session
from provision.postgres.sql import quote_ident
from provision.spec.change import Change, Draft, Sql
from provision.spec.ident import Address
from provision.spec.kind import Kind
from provision.spec.record import Facts, Plane, Record

#: Belong to the cluster or say who may do what: no expression depends on them.
_ASIDE = frozenset({"role", "membership", "grant"})
#: Settings that a scratch server cannot or need not follow.
_BLANK = ("owner", "tablespace", "comment")
_PSEUDO_ROLES = frozenset({"public", "current_user", "current_role", "session_user"})
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


class Compiled(NamedTuple):
    """The plane with canonical expressions, and what stands against it.

    ``place`` says where it was compiled, "" when no server was asked.
    """

    plane: Plane
    problems: tuple[CompileProblem, ...] = ()
    skipped: tuple[NotCompiled, ...] = ()
    place: str = ""


def canonicalise(
    desired: Plane, facts: Facts, memo: Memo, scratch: Scratch, tools: Tools, *, product: str
) -> Compiled:
    """Give the records of one target with canonical expressions, asking a server for what no memo holds.

    ``product`` is our own version: another one may decode otherwise. Raises NoScratch where there is none.
    """
    keys = Keys(desired, facts, product)
    wanted = {r.address: keys.key(r) for r in desired if tools.compiles(r)}
    known = memo.get(wanted.values())
    # One record stands for all that share its key.
    missing = {key: address for address, key in reversed(wanted.items()) if key not in known}
    result = Compiled(desired)
    if missing:
        part = closure(desired, (desired[a] for a in missing.values()), keys)
        result, _ = _compile(part, scratch, tools)
        fresh = {wanted[a]: form for a, form in _forms(result.plane, tools).items() if a in wanted}
        memo.put(fresh)
        known |= fresh
    forms = {address: known[key] for address, key in wanted.items() if key in known}
    return result._replace(plane=_merged(desired, forms))


def validate(desired: Plane, memo: Memo, scratch: Scratch, tools: Tools, *, product: str) -> Compiled:
    """Build every record of one target and report all refusals in one run. What succeeds enters the memo."""
    result, facts = _compile(desired, scratch, tools)
    forms = _forms(result.plane, tools)
    keys = Keys(desired, facts, product)
    memo.put({keys.key(desired[a]): form for a, form in forms.items() if a in desired})
    return result._replace(plane=_merged(desired, forms))


def closure(desired: Plane, roots: Iterable[Record], keys: Keys) -> Plane:
    """The part of a plane that must stand so that the roots can be built. Pure."""
    found: dict[Address, Record] = {r.address: r for r in desired.of_kind("extension")}
    waiting = list(roots)
    while waiting:
        record = waiting.pop()
        if record.address in found:
            continue
        found[record.address] = record
        waiting += keys.mentions(record)
        needed = (*record.refs, *((record.parent,) if record.parent is not None else ()))
        waiting += [desired[a] for a in needed if a in desired]
        if record.address.kind == "table":
            waiting += desired.children(record.address, "column")
        elif record.address.kind == "view":  # its GROUP BY may lean on the primary keys of its tables
            tables = [r.address for r in keys.mentions(record) if r.address.kind == "table"]
            waiting += [key for table in tables for key in desired.children(table, "primary_key")]
    order = {address: index for index, address in enumerate(desired.records)}
    return Plane(sorted(found.values(), key=lambda r: order[r.address]), name=desired.name, env=desired.env)


def _merged(desired: Plane, forms: Mapping[Address, Canonical]) -> Plane:
    records = (forms[r.address].onto(r) if r.address in forms else r for r in desired)
    return Plane(records, name=desired.name, env=desired.env)


def _forms(read: Plane, tools: Tools) -> dict[Address, Canonical]:
    """The canonical forms in what was read back."""
    named = ((record, tools.expressions(record)) for record in read)
    return {record.address: Canonical.of(record, names) for record, names in named if names}


def _compile(desired: Plane, scratch: Scratch, tools: Tools) -> tuple[Compiled, Facts]:
    """Build and read back. Gives the facts of the server that it was done on, too."""
    roles = _roles(desired)
    with scratch(roles) as session:
        build = _Build(session, desired, tools)
        try:
            build.run(roles)
            read = build.read()
        finally:
            wire.send(session.connection, ["ROLLBACK"])
    return Compiled(read, tuple(build.problems), tuple(build.skipped), session.place), session.facts


def _roles(desired: Plane) -> list[str]:
    """The roles that policies name."""
    named = {role for r in desired.of_kind("policy") for role in r.settings.get("to") or ()}
    return sorted(named - _PSEUDO_ROLES)


class _Build:
    """One attempt to build a plane in one transaction, carried on past every refusal."""

    def __init__(self, session: Session, desired: Plane, tools: Tools) -> None:
        self.session = session
        self.connection = session.connection
        self.tools = tools
        self.problems: list[CompileProblem] = []
        self.skipped: list[NotCompiled] = []
        self._failed: dict[Address, str] = {}
        self._altered: set[Address] = set()
        self._lacking = self._missing_extensions(desired)
        records = {r.address: _plain(r, session.facts) for r in desired if r.address.kind not in _ASIDE}
        for address in self._lacking:
            del records[address]
        self._records = records
        self._live = Plane(())

    def _missing_extensions(self, desired: Plane) -> dict[Address, str]:
        available = self.session.facts.options["extensions_available"]
        lacking = {
            r.address: r.address.name for r in desired.of_kind("extension") if r.address.name not in available
        }
        for address, name in lacking.items():
            self._skip(address, name)
        return lacking

    def run(self, roles: Sequence[str]) -> None:
        """Begin the transaction and build everything that can be built."""
        self._must(["BEGIN", "SET LOCAL statement_timeout = 0", "SET LOCAL client_min_messages = error"])
        self._live = self._observe()
        existing = {str(r) for r in self._role_names()}
        self._must([f"CREATE ROLE {quote_ident(role)}" for role in roles if role not in existing])
        drafts = [d for d in self._drafts(self._records) if d.transactional]
        drafts = _one_partition_each(drafts)
        for start in range(0, len(drafts), _TOGETHER):
            self._build(drafts[start : start + _TOGETHER])

    def read(self) -> Plane:
        """What was built, as observing shows it, without what had to be changed to be built."""
        found = self._observe()
        return Plane(r for r in found if r.address not in self._altered)

    def _observe(self) -> Plane:
        major = self.session.facts.version[0]
        outputs = self._must([copy(q.sql(major)) for q in self.tools.queries])
        raw = {q.name: data for q, data in zip(self.tools.queries, outputs, strict=True)}
        return Plane(self.tools.decode(Catalog(self.session.facts.target, major, raw)))

    def _role_names(self) -> list[str]:
        (names,) = self._must(["COPY (SELECT rolname FROM pg_roles) TO STDOUT"])
        return names.decode().split("\n")

    def _must(self, statements: Sequence[str]) -> list[bytes]:
        if not statements:
            return []
        try:
            return wire.run(self.connection, *statements)
        except Refusal as refusal:
            raise self._error(refusal) from refusal

    def _error(self, refusal: Refusal) -> PostgresError:
        found = translate(refusal, role=self.connection.info.user)
        found.args = (f"{self.session.place}: {found}",)
        return found

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
            blocker = self._blocker(draft)
            if blocker is not None:
                self._fail(draft.object, blocker)
                self._skip(draft.object, blocker)
                continue
            refusal = self._try(draft)
            if refusal is not None:
                self._mend(draft, refusal)

    def _try(self, *drafts: Draft) -> Refusal | None:
        """Send inside a savepoint. Gives the refusal, its position counted in the first statement."""
        texts = [_text(d) for d in drafts]
        reply = wire.send(self.connection, ["SAVEPOINT attempt", *texts, "RELEASE attempt"])
        if reply.refusal is not None:
            self._must(["ROLLBACK TO attempt", "RELEASE attempt"])
            if reply.refusal.position is not None:
                reply.refusal.position -= len("SAVEPOINT attempt;\n")
        return reply.refusal

    def _blocker(self, draft: Draft) -> str | None:
        """The refused object that a draft stands on."""
        if not self._failed:
            return None
        record = self._records.get(draft.object)
        refs = (*draft.needs, *(record.refs if record is not None else ()), draft.object)
        for address in refs:
            for failed in self._failed:
                if address.within(failed):
                    return str(failed)
        return None

    def _mend(self, draft: Draft, refusal: Refusal) -> None:
        """Report the culprit, take it out, and try the rest of the object until it stands."""
        for _ in range(len(self._records) + 1):
            own = [r for r in self._records.values() if r.address.within(draft.object)]
            culprit = blame(refusal, _text(draft), own) or self._search(draft, refusal, own)
            self._report(refusal, culprit or narrow(refusal, self._records[draft.object]))
            record = culprit.record if culprit is not None else None
            remedied = neutral(record, culprit.field) if culprit is not None and record is not None else None
            if record is None or (record.address == draft.object and remedied is None):
                self._fail(draft.object, str(draft.object))
                return
            self._altered.add(record.address)
            if remedied is None:
                del self._records[record.address]
                self._fail(record.address, str(record.address))
            else:
                self._records[record.address] = remedied
            again = self._again(draft, self._records)
            if again is None:
                return
            draft = again
            second = self._try(draft)
            if second is None:
                return
            refusal = second

    def _search(self, draft: Draft, refusal: Refusal, own: Sequence[Record]) -> Culprit | None:
        """Leave out one part after the other; the one without which the server stops saying so is to blame."""
        for record in suspects(draft.object, own):
            rest = dict(self._records)
            remedied = neutral(record, None)
            if remedied is None:
                del rest[record.address]
            else:
                rest[record.address] = remedied
            again = self._again(draft, rest)
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
            self._skip(address, ", ".join(self._lacking.values()))
            return
        if refusal.sqlstate == "0A000" and "built with" in refusal.detail:
            self._skip(address, refusal.detail.rstrip("."))
            return
        message = f"{refusal.message}: {refusal.detail}" if refusal.detail else refusal.message
        self.problems.append(
            CompileProblem(address, culprit.field, refusal.sqlstate, message, culprit.position, refusal.hint)
        )

    def _skip(self, address: Address, needs: str) -> None:
        found = NotCompiled(address, needs)
        if found not in self.skipped:
            self.skipped.append(found)

    def _fail(self, address: Address, reason: str) -> None:
        self._failed.setdefault(address, reason)


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
