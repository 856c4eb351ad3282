"""Rules about names: everything that an object refers to is declared, qualified and short enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.postgres_names import (
    EXTENSION_OF_TYPE,
)
from provision.checks.relations import local_relations, regclass_names
from provision.checks.rule import Finding, rule
from provision.checks.tables import bare, unquoted
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Record

#: Schemas that every database has.
_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "public", "pg_temp", "pg_toast"})


def _has_schema(scene: Scene, target: str, schema: str) -> bool:
    known = (target, schema) in scene.schemas or schema in _SYSTEM_SCHEMAS
    return known or schema in scene.extension_schemas or scene.written("schemas", schema)


@rule("HF0301", "schema-not-declared", "schema")
def schema_not_declared(scene: Scene) -> Iterator[Finding]:
    """Schema is used and never declared.

    A type, function, table or view that names a schema needs that schema first (SQLSTATE 3F000). The rule looks at
    declared references and into the SQL of functions, views and expressions.

    Fix: declare the schema, or correct its name.

    Source: PostgreSQL documentation, Schemas. Mistakes: SB-25.

    Bad:
        schemas:
          shop:
            views:
              today: {query: "SELECT 1 AS orders FROM watch.orders"}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric, nullable: false}}}
            views:
              today: {query: "SELECT 1 AS orders FROM shop.orders"}
    """
    for record, where, schema, offset in _schema_uses(scene):
        target = record.address.target
        if not _has_schema(scene, target, schema):
            known = [name for t, name in scene.schemas if t == target]
            yield Finding(
                where,
                f"schema {schema} is used by {scene.name(record)} and never declared",
                nearest(schema, known, f"Declare schemas: {schema}."),
                offset=offset,
            )


def _schema_uses(scene: Scene) -> Iterator[tuple[Record, Pointer, str, int | None]]:
    for record, path, name in scene.undeclared_types:
        yield record, (*(record.origin or ()), *path), name.schema or "", None
    for record in scene.of("trigger"):
        function = unquoted(record.settings["function"])
        if "." in function:
            yield record, (*(record.origin or ()), "function"), function.split(".", 1)[0], None
    for record in scene.of("extension"):
        if record.settings.get("schema"):
            yield record, (*(record.origin or ()), "schema"), record.settings["schema"], None
    for text in scene.texts:
        for schema, _, start in text.sql.qualified:
            yield text.record, text.where, schema, start


@rule("HF0302", "type-not-declared", "type")
def type_not_declared(scene: Scene) -> Iterator[Finding]:
    """Type is used and never declared.

    A type that is not built in is an enum, a domain or a type of the plane, or comes with an extension (SQLSTATE
    42704 otherwise).

    Fix: declare it, or correct its name.

    Source: PostgreSQL documentation, CREATE TYPE, CREATE DOMAIN.

    Bad:
        schemas:
          shop:
            enums: {order_status: [open, paid]}
            tables:
              orders: {columns: {status: {type: shop.orderstatus, nullable: false}}}

    Good:
        schemas:
          shop:
            enums: {order_status: [open, paid]}
            tables:
              orders: {columns: {status: {type: shop.order_status, nullable: false}}}
    """
    for record, path, name in scene.undeclared_types:
        target, qualified = record.address.target, f"{name.schema}.{name.name}"
        if scene.table(target, qualified) is not None:
            continue
        sections = ("enums", "domains", "types", "tables")
        if name.name in EXTENSION_OF_TYPE or any(
            scene.written("schemas", str(name.schema), section, name.name) for section in sections
        ):
            continue
        if _has_schema(scene, target, str(name.schema)) and name.schema not in scene.extension_schemas:
            yield Finding(
                (*(record.origin or ()), *path),
                f"type {qualified} of {scene.name(record)} is not declared",
                nearest(qualified, [n for t, n in scene.types if t == target], f"Declare {qualified}."),
            )


@rule("HF0303", "unqualified-reference", "unqualified name")
def unqualified_reference(scene: Scene) -> Iterator[Finding]:
    """SQL finds an object through search_path.

    Holdfast builds everything with search_path pinned to pg_catalog, so that a plan does not depend on the session:
    an unqualified name of the plane's is not found (SQLSTATE 42P01, 42883), or found in another schema by someone
    else's session. Unqualified types are refused when the spec is read.

    Fix: write schema.name. In a PL/pgSQL function, which is not parsed before it runs, `set: {search_path: …}` pins
    the path instead.

    Source: PostgreSQL documentation, The Schema Search Path. Mistakes: SB-28.

    Bad:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric, nullable: false}}}
            views:
              totals: {query: "SELECT sum(total) AS total FROM orders"}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric, nullable: false}}}
            views:
              totals: {query: "SELECT sum(total) AS total FROM shop.orders"}
    """
    tables = {(t.target, t.name): t.qualified for t in scene.tables.values()}
    tables |= {(v.address.target, v.address.name): scene.qualified(v) for v in scene.of("view")}
    functions = {(target, name.split(".", 1)[1]): name for target, name in scene.functions}
    suspect = {name for _, name in tables} | {name for _, name in functions}
    for text in scene.texts:
        if not text.sql.mentions & suspect:
            continue
        settings = text.record.settings.get("set") if text.language != "sql" else None
        if isinstance(settings, dict) and _names_a_schema(settings.get("search_path")):
            continue
        target = text.record.address.target
        local = local_relations(text.tokens)
        found = [
            (m.start, m.parts[0], tables.get((target, m.parts[0])))
            for m in text.sql.relations
            if len(m.parts) == 1 and m.parts[0] not in local
        ]
        found += [
            (text.tokens[c.first].start, c.parts[0], functions.get((target, c.parts[0])))
            for c in text.sql.called
            if len(c.parts) == 1
        ]
        for start, name, meant in found:
            if meant is not None:
                yield Finding(
                    text.where,
                    f"unqualified name {name} in {scene.name(text.record)} is found through search_path",
                    f"Write {meant}.",
                    offset=start,
                )


def _names_a_schema(search_path: object) -> bool:
    return bool(search_path) and str(search_path).strip("'\" ") not in ("pg_catalog", "pg_catalog, pg_temp")


@rule("HF0345", "relation-not-declared", "relation")
def relation_not_declared(scene: Scene) -> Iterator[Finding]:
    """SQL names a table or view that its declared schema does not have.

    A view is refused when it is made, a PL/pgSQL body fails when it runs (SQLSTATE 42P01).

    Fix: declare the relation, or correct its name.

    Source: PostgreSQL documentation, CREATE VIEW; PL/pgSQL, Plan Caching. Mistakes: SB-26.

    Bad:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric, nullable: false}}}
            views:
              totals: {query: "SELECT sum(total) AS total FROM shop.order"}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric, nullable: false}}}
            views:
              totals: {query: "SELECT sum(total) AS total FROM shop.orders"}
    """
    known = {(t.target, t.qualified) for t in scene.tables.values()}
    for kind in ("view", "sequence"):
        known |= {(r.address.target, scene.qualified(r)) for r in scene.of(kind)}
    for text in scene.texts:
        target = text.record.address.target
        if not text.sql.qualified:
            continue
        mentions = [(m.parts, m.start) for m in text.sql.relations] + regclass_names(text.tokens)
        for parts, start in mentions:
            schema = scene.schemas.get((target, parts[0])) if len(parts) == 2 else None
            if schema is None or schema.settings.get("managed") == "migrations":
                continue
            qualified = ".".join(parts)
            written = any(scene.written("schemas", parts[0], s, parts[1]) for s in ("tables", "views", "sequences"))
            if (target, qualified) in known or written or _is_partition(scene, target, qualified):
                continue
            yield Finding(
                text.where,
                f"relation {qualified}, which {scene.name(text.record)} names, is not declared",
                nearest(qualified, [n for t, n in known if t == target], f"Declare {qualified}."),
                offset=start,
            )


def _is_partition(scene: Scene, target: str, qualified: str) -> bool:
    """Partitions are declared as a set; their names begin with the parent's."""
    return any(t.target == target and qualified.startswith(f"{t.qualified}_") for t in scene.partitioned)


@rule("HF0346", "trigger-function-not-declared", "trigger")
def trigger_function_not_declared(scene: Scene) -> Iterator[Finding]:
    """Trigger calls a function that is not declared, or not one for triggers.

    A trigger function takes no arguments and returns `trigger` (SQLSTATE 42883, 42P17).

    Fix: declare it, or correct its name.

    Source: PostgreSQL documentation, CREATE TRIGGER.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {total: {type: numeric}}
                triggers: {touch: {timing: before, events: [update], for_each: row, function: shop.touch}}

    Good:
        schemas:
          shop:
            functions:
              touch: {returns: trigger, language: plpgsql, body: "BEGIN NEW.total := 0; RETURN NEW; END"}
            tables:
              orders:
                columns: {total: {type: numeric}}
                triggers: {touch: {timing: before, events: [update], for_each: row, function: shop.touch}}
    """
    for record in scene.of("trigger"):
        name = unquoted(record.settings["function"])
        target = record.address.target
        schema, _, bare = name.partition(".")
        if schema == "pg_catalog" or not _has_schema(scene, target, schema):
            continue
        found = scene.functions.get((target, name))
        where = (*(record.origin or ()), "function")
        if found is None:
            if not scene.written("schemas", schema, "functions", bare) and schema not in scene.extension_schemas:
                yield Finding(
                    where,
                    f"trigger {record.address.name} calls {name}, which is not declared",
                    nearest(name, [n for t, n in scene.functions if t == target], f"Declare the function {name}."),
                )
        elif all(str(f.settings.get("returns")) != "trigger" for f in found):
            yield Finding(
                where,
                f"trigger {record.address.name} calls {name}, which does not return trigger",
                "Write returns: trigger, without arguments.",
                related=((found[0].origin or (), "the function"),),
            )


#: NAMEDATALEN - 1.
_LONGEST = 63


@rule("HF0347", "name-too-long", "name")
def name_too_long(scene: Scene) -> Iterator[Finding]:
    """Name is longer than 63 bytes.

    PostgreSQL cuts longer names with no more than a notice, so the object has another name than the spec says and
    two long names may become one.

    Fix: shorten it.

    Source: PostgreSQL documentation, Lexical Structure, Identifiers.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {a: {type: integer, nullable: false}}
                indexes: {größenübersicht_für_ältere_aufträge_über_größere_beträge_übrig: {columns: [a]}}

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {a: {type: integer, nullable: false}}
                indexes: {orders_a: {columns: [a]}}
    """
    for record in scene.plane:
        segment = record.address.path[-1]
        if len(segment) <= _LONGEST and segment.isascii():
            continue
        if record.address.system != "pg" or record.address.kind == "grant":
            continue
        name = record.address.name.split("(", 1)[0] if record.address.kind == "function" else record.address.name
        if len(name.encode()) > _LONGEST:
            yield Finding(
                record.origin or (),
                f"name {name[:20]}… has {len(name.encode())} bytes, and PostgreSQL keeps {_LONGEST}",
                "Shorten it.",
                at_key=True,
            )


_RELATION_KINDS = ("table", "view", "sequence", "primary_key", "unique", "index")


@rule("HF0329", "name-taken", "name")
def relation_name_taken(scene: Scene) -> Iterator[Finding]:
    """Two relations of a schema have one name.

    Tables, views, sequences and indexes share their schema's names, and keys make indexes of their own name
    (SQLSTATE 42P07).

    Fix: rename one of them.

    Source: PostgreSQL documentation, CREATE INDEX; pg_class.

    Bad:
        schemas:
          shop:
            tables:
              orders: {columns: {a: {type: integer, nullable: false}}, indexes: {by_a: {columns: [a]}}}
              items: {columns: {a: {type: integer, nullable: false}}, indexes: {by_a: {columns: [a]}}}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {a: {type: integer, nullable: false}}, indexes: {orders_a: {columns: [a]}}}
              items: {columns: {a: {type: integer, nullable: false}}, indexes: {items_a: {columns: [a]}}}
    """
    records = [r for kind in _RELATION_KINDS for r in scene.of(kind)]
    names = [(r[0].target, r[0].path[0], r[0].path[-1]) for r in records]
    if len(set(names)) == len(names):
        return
    seen: dict[tuple[str, str, str], Record] = {}
    for name, record in zip(names, records, strict=True):
        first = seen.setdefault(name, record)
        if first is not record:
            kind = record.address.kind.replace("_", " ")
            yield Finding(
                record.origin or (),
                f"name {bare(name[2])} of this {kind} is taken in schema {bare(name[1])}",
                "Rename one of them.",
                related=((first.origin or (), f"the {first.address.kind.replace('_', ' ')}"),),
                at_key=True,
            )


RULES = (
    schema_not_declared, type_not_declared, unqualified_reference, relation_not_declared,
    trigger_function_not_declared, name_too_long, relation_name_taken,
)  # fmt: skip
