"""Triggers of tables and views. Copies that PostgreSQL makes on partitions are never records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds.depends import DEPENDENCIES, Dependencies
from provision.postgres.kinds.expression import SQL
from provision.postgres.kinds.ownership import (
    COMMENT,
    RENAMED_FROM,
    Noun,
    attributes,
    in_schema,
    parse,
    relation_of,
    rename,
    renamed_from,
    retitle_texts,
)
from provision.postgres.kinds.steps import is_fresh
from provision.postgres.kinds.type_swap import in_one_statement
from provision.postgres.printed import settled
from provision.postgres.references import bracketed, name_of, split_list, split_name, tokens
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Pointer, Record, Settings

_EVENTS = ("insert", "delete", "update", "truncate")
#: Bits of pg_trigger.tgtype (src/include/catalog/pg_trigger.h).
_BITS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_ROW, _BEFORE, _INSTEAD = 1, 2, 64


def _parse_events(value: list[str]) -> list[str]:
    """Canonical order, ``update of`` with its columns sorted. Raises FieldError."""
    found: dict[str, str] = {}
    for position, item in enumerate(value):
        word, _, rest = item.strip().partition(" ")
        event = word.lower()
        head, _, listed = rest.strip().partition(" ")
        if event not in _EVENTS or (rest and (event != "update" or head.lower() != "of" or not listed.strip())):
            help = "Write insert, delete, truncate, update, or 'update of column, …'."
            raise FieldError(f"not an event: {item!r}", help=help, path=(position,))
        if event in found:
            raise FieldError(f"{event} is given twice", path=(position,))
        names = [name_of(next(tokens(c))) for c in split_list(listed) if c]
        found[event] = show_update(names) if names else event
    return [found[e] for e in _EVENTS if e in found]


def show_update(columns: Iterable[str]) -> str:
    return f"update of {', '.join(map(sql.quote_ident, sorted(columns)))}"


def update_columns(events: list[str]) -> list[str]:
    """The columns that an ``update of`` event names."""
    listed = next((e.removeprefix("update of ") for e in events if e.startswith("update of ")), "")
    return [name_of(next(tokens(c))) for c in split_list(listed)]


def _parse_name(value: str) -> str:
    """``schema.name`` with quotes where they are needed; empty brackets may follow. Raises FieldError."""
    text = value.strip().removesuffix("()")
    try:
        parts = split_name(text)
    except ValueError:
        parts = ()
    if len(parts) != 2:
        raise FieldError(f"not a qualified name: {value!r}", help="Write schema.name.")
    return sql.qualified(*parts)


EVENTS = Type({"type": "array", "items": {"type": "string"}, "minItems": 1}, _parse_events)
NAME = Type({"type": "string", "minLength": 1}, _parse_name)
REFERENCING = FieldTable(
    Field("old", fields.STRING, "Name of the table of old rows."),
    Field("new", fields.STRING, "Name of the table of new rows."),
)
FIELDS = FieldTable(
    Field("timing", fields.enum("before", "after", "instead_of"), "When it fires.", required=True),
    Field("events", EVENTS, "insert, update, 'update of column, …', delete, truncate.", required=True),
    Field("for_each", fields.enum("row", "statement"), "How often it fires.", default="statement"),
    Field("when", SQL, "Condition on OLD and NEW under which it fires."),
    Field("function", NAME, "The trigger function, schema.name.", required=True),
    Field("arguments", fields.list_of(fields.STRING), "Strings handed to the function.", default=[]),
    Field(
        "referencing",
        fields.object_of(REFERENCING),
        "Names of the transition tables.",
        default={"old": None, "new": None},
    ),
    Field("constraint", fields.BOOL, "A constraint trigger, whose time can be deferred.", default=False),
    Field("from_table", NAME, "The other table of a constraint trigger, schema.name."),
    Field("deferrable", fields.BOOL, "May be deferred to the end of the transaction.", default=False),
    Field("initially_deferred", fields.BOOL, "Is deferred unless told otherwise.", default=False),
    Field(
        "enabled",
        fields.enum("origin", "disabled", "replica", "always"),
        "In which sessions it fires (session_replication_role).",
        default="origin",
    ),
    COMMENT,
    extra=RENAMED_FROM,
)
#: ``triggers`` of a table or view.
TRIGGERS_SCHEMA: fields.Json = {"type": "object", "additionalProperties": FIELDS.schema()}
QUERIES = (
    Query(
        "triggers",
        lambda major: (
            f"""
        SELECT t.tgrelid, t.tgname, t.tgtype, t.tgenabled, fn.nspname, f.proname, encode(t.tgargs, 'hex'),
               (SELECT json_agg(a.attname) FROM pg_attribute a
                 WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[])),
               CASE WHEN t.tgqual IS NOT NULL THEN pg_get_triggerdef(t.oid) END,
               t.tgoldtable, t.tgnewtable, t.tgconstraint <> 0, t.tgconstrrelid, t.tgdeferrable, t.tginitdeferred,
               obj_description(t.oid, 'pg_trigger'),
               {DEPENDENCIES.format(object="d.classid = 'pg_trigger'::regclass AND d.objid = t.oid")}
          FROM pg_trigger t
          JOIN pg_class c ON c.oid = t.tgrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_proc f ON f.oid = t.tgfoid
          JOIN pg_namespace fn ON fn.oid = f.pronamespace
         WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND {SYSTEM_SCHEMAS}
         ORDER BY t.tgrelid, t.tgname"""
        ),
    ),
)
_ENABLED = {"O": "origin", "D": "disabled", "R": "replica", "A": "always"}
_ENABLING = {
    "origin": "ENABLE TRIGGER",
    "disabled": "DISABLE TRIGGER",
    "replica": "ENABLE REPLICA TRIGGER",
    "always": "ENABLE ALWAYS TRIGGER",
}


class TriggerKind(PlainKind):
    name = "trigger"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ("when",)

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        edges = Dependencies(catalog)
        for row in catalog.rows("triggers"):
            parent = catalog.relation_address(str(row[0]))
            if parent is None:
                continue
            function = _function_address(parent, str(row[4]), str(row[5]))
            refs, rigid = edges.edges(row[16], own=parent, also=(function,))
            yield Record(parent.child("trigger", str(row[1])), _decode(row, catalog), parent, refs, rigid)

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        """Follow renames of what its condition speaks of, its columns, and the schemas of its names."""
        record = retitle_texts(record, old, new, "when")
        if old.kind == "column":
            return record._replace(settings=record.settings | {"events": _retitled_events(record, old, new)})
        if old.kind != "schema":
            return record
        moved = {
            key: sql.qualified(new.name, name)
            for key in ("function", "from_table")
            if record.settings[key] is not None
            for schema, name in [split_name(record.settings[key])]
            if schema == old.name
        }
        return record._replace(settings={**record.settings, **moved})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        table = in_schema(relation_of(address))
        noun = Noun("TRIGGER", sql.quote_ident(address.name), f" ON {table}")
        fresh = is_fresh(context, relation_of(address))
        if after is None:
            assert before is not None
            return Lowered((_drop(before, noun),), (address,))
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(before, noun, key="drop")] if before is not None else []
            drafts.append(_create(address, noun, after.settings, fresh=fresh))
            drafts += _enable(address, table, "origin", after.settings["enabled"], ("",), fresh=fresh)
            drafts += attributes(noun, address, None, after.settings, fresh=fresh, follows=("",))
            return Lowered(tuple(drafts), (address,))
        return Lowered(tuple(_alter(change, noun, table, before.settings, after.settings)), (address,))


def _retitled_events(record: Record, old: Address, new: Address) -> list[str]:
    events: list[str] = record.settings["events"]
    columns = [new.name if c == old.name else c for c in update_columns(events)]
    return [show_update(columns) if e.startswith("update of ") else e for e in events]


def _function_address(parent: Address, schema: str, name: str) -> Address:
    return Address.root("pg", parent.target, "schema", schema, bare=True).child("function", f"{name}()")


def _decode(row: tuple[str | None, ...], catalog: Catalog) -> Settings:
    bits = int(str(row[2]))
    columns = json.loads(row[7]) if row[7] else []
    events = [e for e in _EVENTS if bits & _BITS[e]]
    other = catalog.relations.get(str(row[12]))
    return {
        "timing": "before" if bits & _BEFORE else "instead_of" if bits & _INSTEAD else "after",
        "events": [show_update(columns) if e == "update" and columns else e for e in events],
        "for_each": "row" if bits & _ROW else "statement",
        "when": settled(condition(row[8])) if row[8] is not None else None,
        "function": sql.qualified(str(row[4]), str(row[5])),
        "arguments": [part.decode() for part in bytes.fromhex(row[6] or "").split(b"\0")[:-1]],
        "referencing": {"old": row[9], "new": row[10]},
        "constraint": row[11] == "t",
        "from_table": sql.qualified(other.schema, other.name) if other is not None else None,
        "deferrable": row[13] == "t",
        "initially_deferred": row[14] == "t",
        "enabled": _ENABLED[str(row[3])],
        "comment": row[15],
    }


def condition(definition: str) -> str:
    """The WHEN condition in the text of pg_get_triggerdef; pg_get_expr cannot show it (it reads two rows)."""
    previous = ""
    depth = 0
    for token in tokens(definition):
        if token.text == "(" and token.kind == "op":
            if depth == 0 and previous == "when":
                return bracketed(definition, token.start)
            depth += 1
        elif token.text == ")" and token.kind == "op":
            depth -= 1
        previous = token.text.lower() if token.kind == "word" else ""
    raise ValueError(f"no condition in {definition!r}")


def create_sql(noun: Noun, settings: Settings, *, replaces: bool = False) -> str:
    """CREATE TRIGGER; OR REPLACE is refused by the server for constraint triggers."""
    timing = settings["timing"].replace("_", " ").upper()
    events = " OR ".join(_show_event(e) for e in settings["events"])
    kind = "CONSTRAINT TRIGGER" if settings["constraint"] else "TRIGGER"
    parts = [f"CREATE {'OR REPLACE ' if replaces else ''}{kind} {noun.name}", f"{timing} {events}{noun.on}"]
    if settings["from_table"] is not None:
        parts.append(f"FROM {settings['from_table']}")
    if settings["constraint"]:
        parts.append("DEFERRABLE" if settings["deferrable"] else "NOT DEFERRABLE")
        if settings["initially_deferred"]:
            parts.append("INITIALLY DEFERRED")
    tables = [f"{k.upper()} TABLE AS {sql.quote_ident(v)}" for k, v in settings["referencing"].items() if v]
    if tables:
        parts.append(f"REFERENCING {' '.join(tables)}")
    parts.append(f"FOR EACH {settings['for_each'].upper()}")
    if settings["when"] is not None:
        parts.append(f"WHEN ({settings['when']})")
    arguments = ", ".join(map(sql.quote_literal, settings["arguments"]))
    parts.append(f"EXECUTE FUNCTION {settings['function']}({arguments})")
    return "\n  ".join(parts)


def _show_event(event: str) -> str:
    return f"UPDATE OF {event.removeprefix('update of ')}" if event.startswith("update of ") else event.upper()


def _create(address: Address, noun: Noun, settings: Settings, *, fresh: bool) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(create_sql(noun, settings)),
        summary=f"create trigger {address.name}",
        makes=(address,),
        lock=None if fresh else "SHARE ROW EXCLUSIVE",
        fresh=fresh,
        undo=Sql(f"DROP {noun}"),
    )


def _drop(before: Record, noun: Noun, key: str = "") -> Draft:
    return Draft(
        object=before.address,
        action="drop",
        key=key,
        request=Sql(f"DROP {noun}"),
        summary=f"drop trigger {before.address.name}",
        destroys=(before.address,),
        lock="ACCESS EXCLUSIVE",
        undo=Sql(create_sql(noun, before.settings)),
    )


def _alter(change: Change, noun: Noun, table: str, before: Settings, after: Settings) -> Iterator[Draft]:
    address, enabled = change.address, before["enabled"]
    follows: tuple[str, ...] = ()
    if change.action == "rename" and change.before is not None:
        yield rename(noun, change.before.address, address, lock="ACCESS EXCLUSIVE")
        follows = ("rename",)
    if any(f not in ("enabled", "comment") for f in change.fields):
        yield _remake(address, noun, before, after, follows)
        follows, enabled = ("",), "origin"
        if before["constraint"] or after["constraint"]:
            before = {**before, "comment": None}
    yield from _enable(address, table, enabled, after["enabled"], follows)
    yield from attributes(noun, address, before, after, fresh=False, follows=follows)


def _remake(address: Address, noun: Noun, before: Settings, after: Settings, follows: tuple[str, ...]) -> Draft:
    """Put another trigger in the place of the old one, in one statement. It then fires on ``origin`` again."""
    drops = before["constraint"] or after["constraint"]
    old, new = (create_sql(noun, s, replaces=not drops) for s in (before, after))
    swap = [in_one_statement([f"DROP {noun}", text]) if drops else text for text in (new, old)]
    return Draft(
        object=address,
        action="alter",
        request=Sql(swap[0]),
        summary=f"replace trigger {address.name}",
        makes=(address,),
        follows=follows,
        lock="ACCESS EXCLUSIVE" if drops else "SHARE ROW EXCLUSIVE",
        undo=Sql(swap[1]),
    )


def _enable(
    address: Address, table: str, old: str, new: str, follows: tuple[str, ...], *, fresh: bool = False
) -> Iterator[Draft]:
    if old == new:
        return
    name = sql.quote_ident(address.name)
    yield Draft(
        object=address,
        action="alter",
        key="enabled",
        request=Sql(f"ALTER TABLE {table} {_ENABLING[new]} {name}"),
        summary=f"trigger {address.name}: {new}",
        follows=follows,
        lock=None if fresh else "SHARE ROW EXCLUSIVE",
        fresh=fresh,
        undo=Sql(f"ALTER TABLE {table} {_ENABLING[old]} {name}"),
    )


def read_triggers(table: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``triggers`` of a table or view; ``pointer`` leads to that node."""
    for name, body in node.items():
        address, place = table.child("trigger", name), (*pointer, name)
        settings = parse(FIELDS, body, place, reader)
        if settings is None:
            continue
        schema, function = split_name(settings["function"])
        columns = tuple(table.child("column", c) for c in update_columns(settings["events"]))
        refs = (_function_address(table, schema, function), *columns)
        former = renamed_from(address, body)
        yield Record(address, settings, table, refs, columns, origin=place, renamed_from=former)


KIND = TriggerKind()
decode = KIND.decode
