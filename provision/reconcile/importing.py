"""``holdfast import``: look at live servers as plan does, choose what belongs to the plane, write it as specs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from provision import registry
from provision.reconcile import connecting, policy, selecting, writing
from provision.reconcile.connecting import Origin
from provision.reconcile.world import World, observe
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
        world = observe(origin.targets, origin.plane, env, tuple(origin.targets.targets), {})
        left_out = list(_unmodelled(world, origin, schemas, streams))
    choice = selecting.select(world, schemas, streams)
    plane, notes = _with_policies(choice.plane, clock or datetime.now(UTC))
    shown = writing.kept(plane, (_unsaid(r, plane, world) for r in plane))
    written = writing.write(shown, registry.kinds(), origin.environment(world.stored))
    left_out = [*left_out, *choice.left_out, *notes, *written.left_out, *origin.notes]
    files = tuple(_store(output, written.files))
    left_out += _departures(plane, world, output, env)
    return Imported(files, tuple(dict.fromkeys(left_out)))


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
    yield _schema_beside(output)


def _schema_beside(output: Path) -> Path:
    """Write the JSON Schema that the header of every file names; a present one is ours and kept."""
    import json

    from provision.spec import schema

    path = output.resolve().parent / "holdfast.schema.json"
    if not path.exists():
        path.write_text(json.dumps(schema.compose(registry.sections()), indent=2) + "\n")
    return path


def _departures(plane: Plane, world: World, output: Path, env: str) -> Iterator[str]:
    """Read what was written and say where it differs from what was seen: what plan would show as a change."""
    reading = _read(output, env)
    for diagnostic in reading.diagnostics:
        if diagnostic.severity == "error":
            yield f"{diagnostic.mark}: {diagnostic.code} {diagnostic.message}"
    kinds = registry.kinds()
    clock = datetime.now(UTC)
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


# What no kind models --------------------------------------------------------------------------------------

_POSTGRES = """
    SELECT 'materialized view', n.nspname, format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND {own}
    UNION ALL
    SELECT 'foreign table', n.nspname, format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f' AND {own}
    UNION ALL
    SELECT 'sequence', n.nspname, format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND {own}
       AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_class'::regclass AND i.objid = c.oid
                                                 AND i.deptype = 'i')
    UNION ALL
    SELECT 'type', n.nspname, format('%I.%I', n.nspname, t.typname)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
     WHERE (t.typtype = 'r' OR t.typtype = 'c' AND c.relkind = 'c' OR t.typtype = 'b' AND t.typcategory <> 'A')
       AND {own_type}
    UNION ALL
    SELECT 'aggregate', n.nspname, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind = 'a' AND {own_proc}
    UNION ALL
    SELECT 'rule', n.nspname, format('%I of %I.%I', r.rulename, n.nspname, c.relname)
      FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE r.rulename <> '_RETURN' AND {own}
    UNION ALL
    SELECT 'statistics', n.nspname, format('%I.%I', n.nspname, s.stxname)
      FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {schemas}
    UNION ALL
    SELECT 'exclusion constraint', n.nspname, format('%I of %I.%I', k.conname, n.nspname, c.relname)
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE k.contype = 'x' AND k.conparentid = 0 AND {own}
    UNION ALL
    SELECT 'default privileges', coalesce(n.nspname, ''), format('for %I in %s', r.rolname, coalesce(n.nspname, 'every schema'))
      FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    UNION ALL
    SELECT 'publication', '', quote_ident(p.pubname) FROM pg_publication p
    UNION ALL
    SELECT 'event trigger', '', quote_ident(e.evtname) FROM pg_event_trigger e"""
_BORROWED = (
    "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {row}.oid"
    " AND e.deptype = 'e')"
)


def _unmodelled(
    world: World, origin: Origin, schemas: Collection[str], streams: Collection[str]
) -> Iterator[str]:
    """What the servers hold and no kind describes."""
    for observation in world.observations.values():
        for address, option, value in observation.unmodelled:
            if not streams or address.names[1] in streams:
                yield f"{address}: {option} is {value!r}, which this version does not know"
    for name in world.snapshots:
        for what, schema, text in _ask(origin, name):
            if not schemas or schema in schemas:
                yield f"pg:{name}: {what} {text}"


def _ask(origin: Origin, target: str) -> Sequence[tuple[str, str, str]]:
    from provision.postgres.catalog import SYSTEM_SCHEMAS, Query
    from provision.postgres.observe import observe as look

    texts = {
        name: f"{SYSTEM_SCHEMAS} AND {_BORROWED.format(catalog=catalog, row=row)}"
        for name, catalog, row in (("own", "pg_class", "c"), ("own_type", "pg_type", "t"), ("own_proc", "pg_proc", "p"))
    }
    query = Query("unmodelled", lambda major: _POSTGRES.format(schemas=SYSTEM_SCHEMAS, **texts))
    rows = look(origin.targets.postgres(target), target, (query,)).catalog.rows("unmodelled")
    return [(str(what), str(schema), str(text)) for what, schema, text in rows]


