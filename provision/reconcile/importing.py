"""``holdfast import``: look at live servers as plan does, choose what belongs to the plane, write it as specs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from provision import registry
from provision.reconcile import connecting, policy, selecting, writing
from provision.reconcile.world import World, observe
from provision.spec import schema
from provision.spec.errors import InputError
from provision.spec.ident import Address
from provision.spec.reading import Reading
from provision.spec.record import Plane, Record

Note = Callable[[str], None]


class Imported(NamedTuple):
    """The files that were written, and what the servers hold beyond them: one sentence each."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...]


def import_plane(
    specs: Path, env: str, output: Path, *, cache: Path, postgres: str | None = None, nats: str | None = None,
    schemas: Collection[str] = (), streams: Collection[str] = (), clock: datetime | None = None,
    note: Note = lambda text: None,
) -> Imported:  # fmt: skip
    """Write specs from the servers of an environment, or from those that are given.

    ``schemas`` and ``streams`` narrow what is taken. Nothing is overwritten. Raises InputError, and the typed
    error of a server that cannot be read.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty", "Name a new folder; nothing is overwritten.")
    given = postgres is not None or nats is not None
    origin = connecting.given(postgres, nats, env, note) if given else connecting.declared(specs, env, note)
    with origin:
        world = observe(origin.targets, origin.plane, env, {})
        left_out = list(_unmodelled(world, schemas, streams))
    now = clock or datetime.now(UTC)
    taken = take(world, schemas, streams, now)
    written = writing.write(taken.shown, registry.kinds(), origin.environment(world.stored))
    left_out = [*left_out, *taken.left_out, *written.left_out, *origin.notes]
    files = tuple(_store(output, written.files))
    left_out += _departures(taken.plane, world, output, env, now)
    return Imported(files, tuple(dict.fromkeys(left_out)))


class Taken(NamedTuple):
    """The records that were chosen, the same without what nobody would write, and what was not chosen."""

    plane: Plane
    shown: Plane
    left_out: tuple[str, ...]


def take(
    world: World, schemas: Collection[str], streams: Collection[str], clock: datetime, *, is_whole: bool = False
) -> Taken:
    """Choose what belongs to the plane, and bring it to the form that a person would write.

    ``is_whole`` takes every role, also those that nothing else mentions.
    """
    choice = selecting.select(world, schemas, streams, is_whole=is_whole)
    plane, notes = _with_policies(choice.plane, clock)
    shown = writing.kept(plane, (_unsaid(r, plane, world) for r in plane))
    return Taken(plane, shown, (*choice.left_out, *notes))


def _with_policies(plane: Plane, clock: datetime) -> tuple[Plane, list[str]]:
    """Give every partition set a policy that fits its partitions."""
    found: list[Record] = []
    notes: list[str] = []
    for record in plane:
        if record.address.kind == "partitions":
            guess = policy.guess(record, clock)
            if guess is None:
                notes.append(f"{record.address}: its partitions follow no calendar interval; write partitions yourself")
                continue
            notes += [f"{record.address}: {guess.note}"] if guess.note else []
            record = record._replace(settings=guess.settings)
        found.append(record)
    return writing.kept(plane, found), notes


def _unsaid(record: Record, plane: Plane, world: World) -> Record:
    """Take out what the server has by itself where nothing is said."""
    settings = dict(record.settings)
    if record.address.kind == "foreign_key":
        key = plane.children(_referenced(record), "primary_key")
        if key and key[0].settings["columns"] == settings["referenced_columns"]:
            settings["referenced_columns"] = None
    elif record.address.kind == "partitions" and settings["default"] is False:
        settings["default"] = None
    elif record.address.system == "nats":
        kind, facts = registry.kinds()[record.address.kind], world.facts[record.address[:2]]
        whole = kind.settle(record, None, facts, None)[0]
        for field in kind.fields:
            less = record._replace(settings={**settings, field.name: field.default})
            if settings[field.name] != field.default and _same(kind.settle(less, None, facts, None)[0], whole):
                settings = less.settings
    return record._replace(settings=settings)


def _same(one: Record | None, other: Record | None) -> bool:
    return one is not None and other is not None and one.settings == other.settings


def _referenced(record: Record) -> Address:
    from provision.postgres.kinds.foreign_key import referenced_table

    return referenced_table(record.address, record.settings)


def _store(output: Path, files: Mapping[str, str]) -> Iterator[Path]:
    for name, text in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        yield path
    yield from _schemas_beside(output)


def _schemas_beside(output: Path) -> Iterator[Path]:
    """Write the JSON Schemas that the header of every file names; present ones are ours and kept."""

    for name, text in schema.files(registry.sections()).items():
        path = output.resolve().parent / name
        if not path.exists():
            path.write_text(text)
        yield path


def _departures(plane: Plane, world: World, output: Path, env: str, clock: datetime) -> Iterator[str]:
    """Read what was written and say where it differs from what was seen: what plan would show as a change."""
    reading = _read(output, env)
    for diagnostic in reading.diagnostics:
        if diagnostic.severity == "error":
            yield f"{diagnostic.mark}: {diagnostic.code} {diagnostic.message}"
    kinds = registry.kinds()
    for live in plane:
        desired = reading.plane.get(live.address)
        if desired is None:
            yield f"{live.address}: is not part of the specs"
            continue
        wanted, found = kinds[live.address.kind].settle(desired, live, world.facts[live.address[:2]], clock)
        if wanted is None or found is None:
            continue
        for name, value in found.settings.items():
            if name in wanted.settings and wanted.settings[name] != value:
                yield f"{live.address}: {name} is {value!r} there, which the specs cannot say"


def _read(output: Path, env: str) -> Reading:
    from provision.spec.cache import read_specs

    return read_specs(output, env, registry.sections())[1]


def _unmodelled(world: World, schemas: Collection[str], streams: Collection[str]) -> Iterator[str]:
    """What the servers hold and no kind describes."""
    for address, option, _ in world.seen.unmodelled:
        taken = streams if address.system == "nats" else schemas
        name = address.names[1] if address.system == "nats" else address.names[0]
        if not taken or name in taken:
            yield f"{address}: {option} is nothing that specs can say"
