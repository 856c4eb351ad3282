"""Enum types. Values are added in place and in position; taking one away or reordering replaces the type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
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
    role_refs,
)
from provision.postgres.kinds.type_swap import swap
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Impact, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record

#: NAMEDATALEN - 1: longer labels are refused by the server.
_LABEL_BYTES = 63


def _labels(value: list[str]) -> list[str]:
    for position, label in enumerate(value):
        if len(label.encode()) > _LABEL_BYTES:
            raise FieldError(f"longer than {_LABEL_BYTES} bytes: {label!r}", path=(position,))
        if label in value[:position]:
            raise FieldError(f"the value {label!r} is given twice", path=(position,))
    return value


VALUES = fields.Type({"type": "array", "items": {"type": "string", "minLength": 1}}, _labels)
FIELDS = FieldTable(
    Field("values", VALUES, "The labels in their sort order.", required=True),
    OWNER,
    COMMENT,
    extra=RENAMED_FROM | {"grants": GRANTS_SCHEMA},
)
ENUM_SCHEMA: Mapping[str, Any] = {"anyOf": [VALUES.schema, FIELDS.schema()]}
QUERIES = (
    Query(
        "types",
        lambda major: (
            f"""
        SELECT t.oid, n.nspname, t.typname, t.typtype, t.typowner, t.typacl::text, t.typarray,
               obj_description(t.oid, 'pg_type'),
               (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder)
                  FROM pg_enum e WHERE e.enumtypid = t.oid),
               CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END, t.typnotnull,
               pg_get_expr(t.typdefaultbin, 0),
               (SELECT json_build_array(cn.nspname, c.collname)
                  FROM pg_collation c JOIN pg_namespace cn ON cn.oid = c.collnamespace
                 WHERE t.typtype = 'd' AND c.oid = t.typcollation AND t.typcollation <> b.typcollation),
               (SELECT json_agg(json_build_array(c.conname, pg_get_expr(c.conbin, 0), c.convalidated)
                                ORDER BY c.conname)
                  FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'),
               (SELECT json_agg(json_build_array(
                           CASE d.refclassid WHEN 'pg_proc'::regclass THEN 'p' ELSE 't' END,
                           d.refobjid::text, NULL, NULL))
                  FROM pg_depend d
                 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_type'::regclass) AND d.refobjid <> t.oid
                   AND ((d.classid = 'pg_type'::regclass AND d.objid = t.oid) OR
                        (d.classid = 'pg_constraint'::regclass
                         AND d.objid IN (SELECT c.oid FROM pg_constraint c WHERE c.contypid = t.oid))))
          FROM pg_type t
          JOIN pg_namespace n ON n.oid = t.typnamespace
          LEFT JOIN pg_type b ON b.oid = t.typbasetype
         WHERE t.typtype IN ('e', 'd') AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid
                                                     AND x.deptype = 'e')
         ORDER BY n.nspname, t.typname"""
        ),
    ),
)


class EnumKind(PlainKind):
    name = "enum"
    system = "pg"
    fields = FIELDS
    left_to_server = frozenset({"owner"})
    expressions: tuple[str, ...] = ()
    takes_children = True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for _, schema, name, typtype, owner, _, _, comment, labels, *_ in catalog.rows("types"):
            if typtype != "e":
                continue
            parent = catalog.schema_address(str(schema))
            role = catalog.roles[str(owner)]
            settings = {"values": json.loads(labels or "[]"), "owner": role, "comment": comment}
            yield Record(parent.child("enum", str(name)), settings, parent, role_refs(catalog.target, role))

    def impact(self, change: Change, facts: Facts) -> Impact:
        """Only additions leave dependents alone; otherwise what stands on the type makes way for the swap."""
        if change.before is None or change.after is None or "values" not in change.fields:
            return "none"
        grows = additions(change.before.settings["values"], change.after.settings["values"]) is not None
        return "none" if grows else "alter"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        return keep_live(desired, live, *self.left_to_server), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        return retitle_owner(record, old, new)

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        noun = Noun("TYPE", in_schema(address))
        if after is None:
            return Lowered((_drop(address),), (address, *grants_of(address, context)))
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(address, key="drop")] if before is not None else []
            drafts.append(_create(address, after, change))
            drafts += attributes(noun, address, None, after.settings, fresh=True, follows=("",))
            return Lowered(tuple(drafts), (address,))
        drafts = [rename(noun, before.address, address)] if change.action == "rename" else []
        follows = tuple(d.key for d in drafts)
        for draft in _revalue(change, before, after, context):
            drafts.append(_after(draft, follows))
            follows = (draft.key,)
        drafts += attributes(noun, address, before.settings, after.settings, fresh=False, follows=follows)
        return Lowered(tuple(drafts), (address,))


def additions(old: list[str], new: list[str]) -> list[tuple[str, str]] | None:
    """The labels to add, each with its place (``BEFORE x``, ``AFTER x`` or ""); None when adding is not enough."""
    kept = [label for label in new if label in old]
    if kept != old:
        return None
    known = set(old)
    found: list[tuple[str, str]] = []
    for position, label in enumerate(new):
        if label in known:
            continue
        is_last = not any(later in known for later in new[position + 1 :])
        if is_last:
            place = ""
        elif position:
            place = f" AFTER {sql.quote_literal(new[position - 1])}"
        else:
            place = f" BEFORE {sql.quote_literal(old[0])}"
        found.append((label, place))
    return found


def _revalue(change: Change, before: Record, after: Record, context: Context) -> Iterator[Draft]:
    if before.settings["values"] == after.settings["values"]:
        return
    added = additions(before.settings["values"], after.settings["values"])
    if added is None:
        gone = [v for v in before.settings["values"] if v not in after.settings["values"]]
        what = f"values are taken away ({', '.join(gone)})" if gone else "values change their order"
        detail = f"{what}: every column of this type is rewritten; the step fails while a row holds a removed value"
        yield swap(change, context, _create_sql(change.address, after), via="text", detail=detail)
        return
    for label, place in added:
        yield _add(change.address, label, place)


def _add(address: Address, label: str, place: str) -> Draft:
    """ADD VALUE commits by itself: a value cannot be used in the transaction that adds it."""
    return Draft(
        object=address,
        action="alter",
        key=f"value {label}",
        request=Sql(f"ALTER TYPE {in_schema(address)} ADD VALUE IF NOT EXISTS {sql.quote_literal(label)}{place}"),
        summary=f"add value {label} to {address.name}",
        makes=(address,),
        transactional=False,
        done_if=(
            "SELECT EXISTS (SELECT FROM pg_enum WHERE enumtypid = "
            f"to_regtype({sql.quote_literal(in_schema(address))}) AND enumlabel = {sql.quote_literal(label)})"
        ),
    )


def _after(draft: Draft, follows: tuple[str, ...]) -> Draft:
    return replace(draft, follows=follows)


def _create_sql(address: Address, record: Record) -> str:
    labels = ", ".join(map(sql.quote_literal, record.settings["values"]))
    return f"CREATE TYPE {in_schema(address)} AS ENUM ({labels})"


def _create(address: Address, record: Record, change: Change) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(_create_sql(address, record)),
        summary=f"create enum {address.name}",
        makes=(address,),
        fresh=change.before is None,
        undo=Sql(f"DROP TYPE {in_schema(address)}"),
    )


def _drop(address: Address, key: str = "") -> Draft:
    return Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP TYPE {in_schema(address)}"),
        summary=f"drop enum {address.name}, refused while anything uses it",
        destroys=(address,),
    )


def read_enums(schema: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``enums`` of a schema: names to a list of labels, or to options."""
    for name, body in node.items():
        address, place = schema.child("enum", name), (*pointer, name)
        found: Mapping[str, Any] = {"values": body} if isinstance(body, list) else body
        settings = parse(FIELDS, found, place, reader)
        if settings is None:
            continue
        refs = role_refs(schema.target, settings["owner"])
        former = renamed_from(address, found)
        yield Record(address, settings, schema, refs, origin=place, renamed_from=former)
        yield from read_grants(address, found.get("grants") or {}, (*place, "grants"), reader, settings["owner"])


KIND = EnumKind()
decode = KIND.decode
