"""Whose objects migrations make: what the specs have made in their place, and what is there already. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from provision.migrate.files import Migration
from provision.migrate.lint import parsing
from provision.migrate.lint.agreement import Thing
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.changes import Event, events
from provision.migrate.lint.parsing import Parsed, parse, statements_of_do
from provision.migrate.lint.touching import touched
from provision.postgres.kinds.partition_members import covered
from provision.postgres.lexer import scan
from provision.spec.record import Plane, Record

#: Statements that change no object, so that a structural file may hold them unread.
_HARMLESS = ("VariableSetStmt", "VariableShowStmt", "VacuumStmt", "ReindexStmt", "ClusterStmt", "LockStmt")
#: What ``--from-plan`` writes as a block because it needs a name that only the server knows.
_WRITTEN = (
    re.compile(r"BEGIN\s+EXECUTE format\('(GRANT|REVOKE) [^']+ ON DATABASE %I [^']+', current_database\(\)\);\s+END"),
    re.compile(r"BEGIN\s+EXECUTE \(\s+SELECT format\('ALTER TABLE %s VALIDATE CONSTRAINT %I', [^;]+\);\s+END"),
    re.compile(r"BEGIN\s+IF NOT EXISTS \(SELECT FROM pg_constraint [^;]+\) THEN\s+ALTER TABLE [^;]+;\s+END IF;\s+END"),
)
#: A block of a data file with one of these words may do more than carry rows that are there.
_MORE_THAN_CARRIES = frozenset("create alter drop grant revoke truncate insert copy merge execute call perform".split())
#: Lists and hashes do not move with time.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_CONSTRAINTS = ("primary_key", "unique", "exclude", "check", "foreign_key")


class _Made(NamedTuple):
    """Who made a thing last. ``is_certain``: not with IF NOT EXISTS or OR REPLACE, and not after taking it away."""

    migration: Migration
    event: Event
    is_certain: bool


class _Sum(NamedTuple):
    """What migrations leave behind: what they made, and what they took away and did not make again."""

    made: dict[Thing, _Made]
    taken: dict[Thing, Migration]


def made_by_specs(candidates: Sequence[Migration], plane: Plane, others: Collection[str] = ()) -> tuple[Migration, ...]:
    """The migrations whose whole effect a plane has that equals these specs.

    Every statement can be read and works on objects of schemas with ``managed: declarative``; of what the files make
    together, the specs declare all that is left, and nothing that is taken away. A file that is ahead of the specs is
    none of them. A data file only has to be readable: its rows are the caller's to look for. ``others`` are versions
    among the candidates that will run in any case.
    """
    transient = _transient(candidates, plane)
    catalog = Catalog(plane)
    read = {m.version: found for m in candidates if (found := _events(m, catalog, transient)) is not None}
    chosen = [m for m in candidates if m.version in read and m.version not in others]
    there, members = things(plane), _members(plane)
    while True:
        total = _sum((m, read[m.version]) for m in chosen)
        ahead = {
            made.migration.version
            for thing, made in total.made.items()
            if thing not in there and made.event.table not in members
        }
        ahead |= {migration.version for thing, migration in total.taken.items() if thing in there}
        ahead |= _followers(candidates, chosen, read)
        if not ahead:
            return tuple(chosen)
        chosen = [m for m in chosen if m.version not in ahead]


def _followers(
    candidates: Sequence[Migration], chosen: Collection[Migration], read: Mapping[str, Sequence[Event]]
) -> set[str]:
    """The chosen that take away or rename what an earlier file, which is not chosen, makes or may make."""
    found: set[str] = set()
    own, others = set[Thing](), set[Thing]()
    unread: list[str] = []
    versions = {m.version for m in chosen}
    for migration in candidates:
        if migration.version not in read:
            unread.append(migration.up.text)
            continue
        for event in read[migration.version]:
            name = event.thing[1][-1]
            is_foreign = event.thing in others or (event.thing not in own and any(name in text for text in unread))
            if event.what != "make" and migration.version in versions and is_foreign:
                found.add(migration.version)
            new = event.thing if event.what == "make" else event.new
            if new is not None:
                (own if migration.version in versions else others).add(new)
    return found


def already_there(migrations: Sequence[Migration], plane: Plane, live: Plane) -> tuple[Migration, str] | None:
    """The first of the migrations that would make what the live plane has, and the name of that. None: no such one."""
    transient = _transient(migrations, plane)
    catalog = Catalog(plane)
    read = [(m, found) for m in migrations if (found := _events(m, catalog, transient)) is not None]
    there, total = things(live), _sum(read)
    known = [(made.migration.number, t, made) for t, made in total.made.items() if made.is_certain and t in there]
    if not known:
        return None
    _, (sort, name), first = min(known, key=lambda k: k[:2])
    return first.migration, f"the {sort} {'.'.join(part for part in name if part)}"


def things(plane: Plane) -> frozenset[Thing]:
    """What a plane's records say is there, named as the statements of migrations name it."""
    found: set[Thing] = {("table", name) for name in _members(plane)}
    for record in plane:
        found.update(_things(record))
    return frozenset(found)


def _things(record: Record) -> Iterator[Thing]:
    kind, names = record.address.kind, record.address.names
    full, inside = (names[0], names[-1]), (*names[:2], names[-1])
    if kind in ("schema", "extension"):
        yield kind, ("", names[-1])
    elif kind == "table":
        yield "table", full
    elif kind == "view":
        yield "view", full
        yield "materialized view", full
    elif kind in ("enum", "domain", "type"):
        yield "type", full
        for value in record.settings.get("values") or () if kind == "enum" else ():
            yield "value", (*full, str(value))
    elif kind == "function":
        yield "routine", (names[0], names[-1].partition("(")[0])
    elif kind in ("column", "trigger", "policy"):
        yield kind, inside
    elif kind == "index" or kind in _CONSTRAINTS:
        if kind != "index":
            yield "constraint", inside
        if kind not in ("check", "foreign_key"):
            yield "index", full


def _members(plane: Plane) -> frozenset[tuple[str, str]]:
    """The partitions that the specs name, or that a look showed. Those that come with time are nobody's to name."""
    found = set()
    for record in plane.of_kind("partitions"):
        schema, table = record.address.names[:2]
        settings = record.settings
        names = set(settings["members"] or ())
        if settings["every"] is None:
            names |= covered(table, settings, None, _NO_TIME).keys()
        if settings["default"]:
            names.add(str(settings["default"]))
        found |= {(schema, name) for name in names}
    return frozenset(found)


def _transient(migrations: Iterable[Migration], plane: Plane) -> frozenset[str]:
    """Schemas that files make and later files drop or rename, and of which no spec speaks any more."""
    made, dropped = set[str](), set[str]()
    for migration in migrations:
        for statement in migration.up.statements:
            parsed = parse(statement)
            if parsed.kind == "CreateSchemaStmt":
                made.add(str(parsed.tree.get("schemaname", "")))
            elif parsed.kind == "DropStmt" and parsed.tree.get("remove_type") == "OBJECT_SCHEMA":
                dropped |= {parsing.dotted(item)[1] for item in parsed.tree.get("objects", ())}
            elif parsed.kind == "RenameStmt" and parsed.tree.get("rename_type") == "OBJECT_SCHEMA":
                dropped.add(str(parsed.tree.get("subname", "")))
    return frozenset((made & dropped) - {r.address.name for r in plane.of_kind("schema")})


def _events(migration: Migration, catalog: Catalog, transient: Collection[str]) -> tuple[Event, ...] | None:
    """The changes of the way there; None where a statement cannot be read or is about what the specs do not own."""
    found: list[Event] = []
    owned = catalog.declarative | set(transient)
    for statement in migration.up.statements:
        parsed = parse(statement)
        inner = statements_of_do(parsed)
        if inner is None and parsed.kind == "DoStmt":
            if not (_only_carries(parsed) if migration.kind == "data" else is_written(parsed)):
                return None
            continue
        for one in (parsed,) if inner is None else map(parse, inner):
            own = tuple(events(one, catalog)) if one.fault is None else ()
            names = tuple(touched(one, catalog)) if one.fault is None else ()
            is_idle = not own and not names
            if one.fault is not None or any(schema not in owned for schema, _ in names):
                return None
            if is_idle and migration.kind != "data" and one.kind not in _HARMLESS and not _is_comment(one):
                return None
            found += own
            catalog.apply(one)
    return tuple(found)


def _is_comment(parsed: Parsed) -> bool:
    return parsed.kind == "CommentStmt" and parsed.tree.get("objtype") == "OBJECT_EXTENSION"


def _body(parsed: Parsed) -> str:
    found = (item.get("arg", {}).get("sval", "") for item in parsed.tree.get("args", ()) if item.get("defname") == "as")
    return str(next(found, ""))


def is_written(parsed: Parsed) -> bool:
    """Whether ``--from-plan`` writes such a block."""
    return any(pattern.fullmatch(_body(parsed).strip().rstrip(";")) for pattern in _WRITTEN)


def _only_carries(parsed: Parsed) -> bool:
    """Whether a block, whatever else it does, holds no word of a statement that makes objects or brings rows."""
    body = _body(parsed)
    return not any(body[start:end].lower() in _MORE_THAN_CARRIES for _, start, end in scan(body))


def _sum(read: Iterable[tuple[Migration, Sequence[Event]]]) -> _Sum:
    """Add up the changes of files in order."""
    made: dict[Thing, _Made] = {}
    taken: dict[Thing, Migration] = {}
    gone: set[Thing] = set()
    for migration, changes in read:
        for event in changes:
            thing = event.thing
            if event.what == "make":
                made[thing] = _Made(migration, event, event.is_certain and thing not in gone)
                taken.pop(thing, None)
                continue
            taken[thing] = migration
            gone.add(thing)
            inside = {t: m for t, m in made.items() if _goes_with(t, m, thing)}
            for other, known in inside.items():
                del made[other]
                if event.new is not None:
                    table = event.new[1] if known.event.table == thing[1] else known.event.table
                    moved = known.event._replace(table=(table[0], table[1]))
                    made[_moved(other, thing, event.new)] = known._replace(migration=migration, event=moved)
            if event.new is not None:
                known = inside.get(thing) or _Made(migration, event, is_certain=True)
                made[event.new] = known._replace(
                    migration=migration, is_certain=known.is_certain and event.new not in gone
                )
                taken.pop(event.new, None)
    return _Sum(made, taken)


def _goes_with(thing: Thing, made: _Made, gone: Thing) -> bool:
    """Whether a thing goes, or gets another name, together with one that does."""
    (sort, name), (kind, whole) = thing, gone
    if thing == gone:
        return True
    if kind == "schema":
        return name[0] == whole[1]
    if kind in ("table", "type"):
        return (name[:2] == whole and len(name) > 2) or (kind == "table" and made.event.table == whole)
    if kind == "column":
        return made.event.table == whole[:2] and whole[2] in made.event.words and sort in ("index", "constraint")
    return False


def _moved(thing: Thing, old: Thing, new: Thing) -> Thing:
    """The name of a thing after what it lies in was renamed."""
    (sort, name), (kind, _), (_, then) = thing, old, new
    if thing == old:
        return new
    if kind == "schema":
        return sort, (then[1], *name[1:])
    if kind in ("table", "type") and len(name) > 2:
        return sort, (*then, *name[2:])
    return (sort, (then[0], *name[1:])) if kind == "table" else thing
