"""Views. PostgreSQL keeps the parsed query: two texts are equal when it shows them equally (pg_get_viewdef)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds.depends import DEPENDENCIES, Dependencies
from provision.postgres.kinds.expression import SQL
from provision.postgres.kinds.grant import GRANTS_SCHEMA, grants_of, read_grants
from provision.postgres.kinds.ownership import (
    COMMENT,
    OWNER,
    RENAMED_FROM,
    Noun,
    attributes,
    in_schema,
    keep_live,
    parse,
    rename,
    renamed_from,
    retitle_owner,
    retitle_texts,
    role_refs,
)
from provision.postgres.kinds.steps import retitled_sql
from provision.postgres.kinds.trigger import TRIGGERS_SCHEMA, read_triggers
from provision.postgres.printed import settled
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Lowered, Sql
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

OPTIONS = FieldTable(
    Field(
        "security_invoker",
        fields.BOOL,
        "Check rights and policies of the caller, not the owner.",
        default=False,
    ),
    Field(
        "security_barrier",
        fields.BOOL,
        "Keep leaky conditions of callers behind the view's own.",
        default=False,
    ),
    Field("check_option", fields.enum("local", "cascaded"), "Refuse rows that the view would not show."),
)
_NO_OPTIONS = {"security_invoker": False, "security_barrier": False, "check_option": None}
FIELDS = FieldTable(
    Field("query", SQL, "The SELECT.", required=True),
    Field("columns", fields.list_of(fields.STRING), "Names of its columns; without it, those of the query."),
    Field("options", fields.object_of(OPTIONS), "Options of the view.", default=_NO_OPTIONS),
    OWNER,
    COMMENT,
    extra=RENAMED_FROM | {"grants": GRANTS_SCHEMA, "triggers": TRIGGERS_SCHEMA},
)
QUERIES = (
    Query(
        "views",
        lambda major: (
            f"""
        SELECT c.oid, n.nspname, c.relname, c.relowner, pg_get_viewdef(c.oid), to_json(c.reloptions),
               obj_description(c.oid, 'pg_class'),
               (SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod))
                                ORDER BY a.attnum)
                  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
               {DEPENDENCIES.format(object="d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid")}
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
         WHERE c.relkind = 'v' AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid
                                                     AND x.deptype = 'e')
         ORDER BY n.nspname, c.relname"""
        ),
    ),
)


class ViewKind(PlainKind):
    name = "view"
    system = "pg"
    fields = FIELDS
    spec_only = frozenset({"columns"})
    left_to_server = frozenset({"owner"})
    #: ``shape`` is what a server alone knows: names and types of the columns. It decides what OR REPLACE may do.
    expressions: tuple[str, ...] = ("query", "shape")
    takes_children = True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        edges = Dependencies(catalog)
        for _, schema, name, owner, query, options, comment, columns, depends in catalog.rows("views"):
            role = catalog.roles[str(owner)]
            settings = {
                "query": settled(str(query).strip().removesuffix(";")),
                "columns": None,
                "options": _read_options(json.loads(options) if options else []),
                "owner": role,
                "comment": comment,
                "shape": json.loads(columns or "[]"),
            }
            parent = catalog.schema_address(str(schema))
            address = parent.child("view", str(name))
            refs, rigid = edges.edges(depends, own=address, also=role_refs(catalog.target, role))
            yield Record(address, settings, parent, refs, rigid)

    def impact(self, change: Change, facts: Facts) -> Impact:
        """CREATE OR REPLACE VIEW may only append columns; anything else makes a new view."""
        if change.before is None or change.after is None:
            return "none"
        if not _asks_otherwise(change):
            return "none"
        old, new = (r.settings.get("shape") for r in (change.before, change.after))
        return "none" if old and new and new[: len(old)] == old else "replace"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """The names of the columns are part of ``shape``; how the spec gives them is no difference."""
        if desired is not None and live is not None:
            live = live._replace(settings=live.settings | {"columns": desired.settings["columns"]})
        return keep_live(desired, live, *self.left_to_server), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        """Follow renames in the query and the columns' types; their names stay, as they do on the server."""
        record = retitle_texts(retitle_owner(record, old, new), old, new, "query")
        if old.kind in ("column", "role"):
            return record
        shape = [[name, retitled_sql(kind, old, new)] for name, kind in record.settings["shape"]]
        return record._replace(settings=record.settings | {"shape": shape})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        noun = Noun("VIEW", in_schema(address))
        if after is None:
            assert before is not None
            return Lowered((_drop(before),), (address, *_children(address, context)))
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(before, key="drop")] if before is not None else []
            drafts.append(_create(address, after.settings, before))
            drafts += attributes(noun, address, None, after.settings, fresh=before is None, follows=("",))
            return Lowered(tuple(drafts), (address,))
        drafts = []
        if change.action == "rename":
            drafts.append(rename(noun, before.address, address, lock="ACCESS EXCLUSIVE"))
        if _asks_otherwise(change):
            drafts.append(_replace(change, before.settings, after.settings, tuple(d.key for d in drafts)))
        elif "options" in change.fields:
            drafts += _set_options(noun, change, before.settings, after.settings, tuple(d.key for d in drafts))
        follows = tuple(d.key for d in drafts)
        drafts += attributes(noun, address, before.settings, after.settings, fresh=False, follows=follows)
        return Lowered(tuple(drafts), (address,))


def _asks_otherwise(change: Change) -> bool:
    return "query" in change.fields or "shape" in change.fields


def _children(address: Address, context: Context) -> tuple[Address, ...]:
    """Grants and triggers go with the view."""
    triggers = (t.address for t in context.live.children(address, "trigger"))
    gone = (a for a in triggers if a in context.changes and context.changes[a].after is None)
    return (*grants_of(address, context), *gone)


def _read_options(reloptions: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(_NO_OPTIONS)
    for item in reloptions:
        name, _, value = item.partition("=")
        if name in found:
            found[name] = value if name == "check_option" else value in ("true", "on", "yes", "1", "t", "y")
    return found


def create_sql(address: Address, settings: Settings, *, replaces: bool = False) -> str:
    """CREATE VIEW with its column names and options; OR REPLACE keeps owner, grants and comment."""
    columns = f" {sql.columns(settings['columns'])}" if settings["columns"] else ""
    options = settings["options"]
    given = [f"{k} = {str(v).lower()}" for k, v in options.items() if v not in (None, False)]
    shown = f" WITH ({', '.join(given)})" if given else ""
    word = "CREATE OR REPLACE VIEW" if replaces else "CREATE VIEW"
    return f"{word} {in_schema(address)}{columns}{shown} AS\n{settings['query']}"


def _create(address: Address, settings: Settings, before: Record | None) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(create_sql(address, settings)),
        summary=f"create view {address.name}",
        makes=(address,),
        hazards=_rights(before.settings if before is not None else None, settings),
        fresh=before is None,
        undo=Sql(f"DROP VIEW {in_schema(address)}"),
    )


def _replace(change: Change, before: Settings, after: Settings, follows: tuple[str, ...]) -> Draft:
    appends = len(after["shape"]) > len(before["shape"])
    return Draft(
        object=change.address,
        action="alter",
        request=Sql(create_sql(change.address, after, replaces=True)),
        summary=f"replace the query of view {change.address.name}",
        makes=(change.address,),
        follows=follows,
        lock="ACCESS EXCLUSIVE",
        hazards=_rights(before, after),
        undo=None if appends else Sql(create_sql(change.address, before, replaces=True)),
    )


def _set_options(
    noun: Noun, change: Change, before: Settings, after: Settings, follows: tuple[str, ...]
) -> Iterator[Draft]:
    for name, value in after["options"].items():
        old = before["options"][name]
        if value == old:
            continue
        yield Draft(
            object=change.address,
            action="alter",
            key=name,
            request=Sql(_option(noun, name, value)),
            summary=f"view {change.address.name}: {name} {_word(value)}",
            follows=follows,
            lock="ACCESS EXCLUSIVE",
            hazards=_rights(before, after) if name == "security_invoker" else (),
            undo=Sql(_option(noun, name, old)),
        )


def _option(noun: Noun, name: str, value: Any) -> str:
    return (
        f"ALTER {noun} SET ({name} = {_word(value)})" if value not in (None, False) else f"ALTER {noun} RESET ({name})"
    )


def _word(value: Any) -> str:
    return str(value).lower() if value is not None else "none"


def _rights(before: Settings | None, after: Settings) -> tuple[Hazard, ...]:
    if before is None or not before["options"]["security_invoker"] or after["options"]["security_invoker"]:
        return ()
    detail = "callers read with the rights of the view's owner, past their own row policies"
    return (Hazard("security", detail),)


def _drop(before: Record, key: str = "") -> Draft:
    address = before.address
    return Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP VIEW {in_schema(address)}"),
        summary=f"drop view {address.name}",
        destroys=(address,),
        lock="ACCESS EXCLUSIVE",
        undo=Sql(create_sql(address, before.settings)),
    )


def read_views(schema: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``views`` of a schema."""
    for name, body in node.items():
        address, place = schema.child("view", name), (*pointer, name)
        settings = parse(FIELDS, body, place, reader)
        if settings is None:
            continue
        refs = role_refs(schema.target, settings["owner"])
        former = renamed_from(address, body)
        yield Record(address, settings, schema, refs, origin=place, renamed_from=former)
        yield from read_triggers(address, body.get("triggers") or {}, (*place, "triggers"), reader)
        yield from read_grants(address, body.get("grants") or {}, (*place, "grants"), reader, settings["owner"])


KIND = ViewKind()
decode = KIND.decode
