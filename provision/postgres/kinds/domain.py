"""Domains: a type with a default, a null rule and named checks. Another base type or collation swaps the type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog
from provision.postgres.kinds import enum
from provision.postgres.kinds.depends import Dependencies
from provision.postgres.kinds.expression import SQL, embedded
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
from provision.postgres.kinds.type_swap import swap, users
from provision.postgres.printed import settled
from provision.postgres.types import TYPE, canonical
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Lowered, Sql
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

#: An SQL expression; YAML numbers and booleans stand for their SQL text.
EXPRESSION = fields.Type(
    {"type": ["string", "number", "boolean"], "minLength": 1},
    lambda value: str(value).lower() if isinstance(value, bool) else embedded(str(value)),
)
FIELDS = FieldTable(
    Field("type", TYPE, "The base type.", required=True),
    Field("nullable", fields.BOOL, "Whether NULL is a value of the domain.", default=True),
    Field("default", EXPRESSION, "The default of columns of the domain that have none."),
    Field("collation", fields.STRING, "Another collation than the base type's."),
    Field("checks", fields.map_of(SQL), "Named conditions on VALUE.", default={}),
    OWNER,
    COMMENT,
    extra=RENAMED_FROM | {"grants": GRANTS_SCHEMA},
)
QUERIES = enum.QUERIES
_NOT_VALID = " NOT VALID"


class DomainKind(PlainKind):
    name = "domain"
    system = "pg"
    fields = FIELDS
    spec_only = frozenset({"checks"})
    left_to_server = frozenset({"owner"})
    #: ``conditions`` are the checks in the server's words, by which they are compared; steps use the spec's.
    expressions: tuple[str, ...] = ("default", "conditions")
    takes_children = True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        edges = Dependencies(catalog)
        for row in catalog.rows("types"):
            schema, name, typtype, owner = row[1:5]
            if typtype != "d":
                continue
            comment, _, base, not_null, default, collation, checks, depends = row[7:15]
            role = catalog.roles[str(owner)]
            settings = {
                "type": canonical(str(base)),
                "nullable": not_null == "f",
                "default": settled(default),
                "collation": _collation(collation),
                "checks": {n: settled(text) for n, text, _ in json.loads(checks or "[]")},
                "owner": role,
                "comment": comment,
                "conditions": {
                    n: settled(text) + ("" if valid else _NOT_VALID) for n, text, valid in json.loads(checks or "[]")
                },
            }
            parent = catalog.schema_address(str(schema))
            refs = edges.edges(depends, also=role_refs(catalog.target, role)).refs
            yield Record(parent.child("domain", str(name)), settings, parent, refs)

    def compiles(self, record: Record) -> bool:
        """Whether the record holds text that only a server brings to its normal form."""
        return record.settings["default"] is not None or bool(record.settings["checks"])

    def impact(self, change: Change, facts: Facts) -> Impact:
        return "alter" if change.action != "create" and _is_swap(change) else "none"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Compare checks by the server's words, or by the spec's where the live domain bears just these."""
        if desired is None or live is None:
            return desired, live
        said = desired.settings["checks"]
        found = live.settings.get("conditions") or live.settings["checks"]
        known = desired.settings.get("conditions") or said
        conditions = {n: said[n] if found.get(n) == said[n] else known[n] for n in said}
        desired = desired._replace(settings=desired.settings | {"conditions": conditions})
        live = live._replace(settings=live.settings | {"checks": said})
        return keep_live(desired, live, *self.left_to_server), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        return retitle_texts(retitle_owner(record, old, new), old, new, "type", "default", "conditions")

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        noun = Noun("DOMAIN", in_schema(address))
        if after is None:
            return Lowered((_drop(address),), (address, *grants_of(address, context)))
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(address, key="drop")] if before is not None else []
            drafts.append(_create(address, after.settings, fresh=before is None))
            drafts += attributes(noun, address, None, after.settings, fresh=before is None, follows=("",))
            return Lowered(tuple(drafts), (address,))
        drafts = [rename(noun, before.address, address)] if change.action == "rename" else []
        follows = tuple(d.key for d in drafts)
        for draft in _alter(change, before, after, context):
            drafts.append(replace(draft, follows=follows))
            follows = (draft.key,)
        drafts += attributes(noun, address, before.settings, after.settings, fresh=False, follows=follows)
        return Lowered(tuple(drafts), (address,))


def _collation(found: str | None) -> str | None:
    """A collation of pg_catalog by its bare name, others as quoted SQL text."""
    if found is None:
        return None
    schema, name = json.loads(found)
    return name if schema == "pg_catalog" else '"{}"."{}"'.format(*(p.replace('"', '""') for p in (schema, name)))


def _is_swap(change: Change) -> bool:
    return "type" in change.fields or "collation" in change.fields


def _create_sql(address: Address, settings: Settings) -> str:
    parts = [f"CREATE DOMAIN {in_schema(address)} AS {settings['type']}"]
    collation = settings["collation"]
    if collation:
        shown = collation if collation.startswith('"') else sql.qualified("pg_catalog", collation)
        parts.append(f"COLLATE {shown}")
    if settings["default"] is not None:
        parts.append(f"DEFAULT {settings['default']}")
    if not settings["nullable"]:
        parts.append("NOT NULL")
    for name, text in settings["checks"].items():
        parts.append(f"CONSTRAINT {sql.quote_ident(name)} CHECK ({text})")
    return "\n  ".join(parts)


def _create(address: Address, settings: Settings, *, fresh: bool) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(_create_sql(address, settings)),
        summary=f"create domain {address.name}",
        makes=(address,),
        fresh=fresh,
        undo=Sql(f"DROP DOMAIN {in_schema(address)}"),
    )


def _drop(address: Address, key: str = "") -> Draft:
    return Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP DOMAIN {in_schema(address)}"),
        summary=f"drop domain {address.name}, refused while anything uses it",
        destroys=(address,),
    )


def _alter(change: Change, before: Record, after: Record, context: Context) -> Iterator[Draft]:
    if _is_swap(change):
        detail = f"the base type becomes {after.settings['type']}: every column of the domain is rewritten"
        create = _create_sql(change.address, after.settings)
        yield swap(change, context, create, via=after.settings["type"], detail=detail)
        return
    old, new, used = before.settings, after.settings, bool(users(change.address, context))
    if old["default"] != new["default"]:
        yield _step(change.address, "default", *(_default(s["default"]) for s in (new, old)))
    if old["nullable"] and not new["nullable"]:
        yield _scan(change.address, "not null", "SET NOT NULL", "DROP NOT NULL", used)
    elif new["nullable"] and not old["nullable"]:
        yield _step(change.address, "not null", "DROP NOT NULL", "SET NOT NULL")
    yield from _alter_checks(change.address, old["conditions"], new, used)


def _alter_checks(address: Address, old: Mapping[str, str], settings: Settings, used: bool) -> Iterator[Draft]:
    """Checks come in without looking at rows, and are then validated, which is a step of its own."""
    new: Mapping[str, str] = settings["conditions"]
    for name, text in old.items():
        if new.get(name) not in (text, text.removesuffix(_NOT_VALID)):
            quoted = sql.quote_ident(name)
            bare = text.removesuffix(_NOT_VALID)
            again = f"ADD CONSTRAINT {quoted} CHECK ({bare}) NOT VALID"
            yield _step(address, f"drop {name}", f"DROP CONSTRAINT {quoted}", again)
    for name, text in new.items():
        quoted, found = sql.quote_ident(name), old.get(name)
        if found == text:
            continue
        if found != text + _NOT_VALID:
            add = f"ADD CONSTRAINT {quoted} CHECK ({settings['checks'][name]}) NOT VALID"
            yield _step(address, f"add {name}", add, f"DROP CONSTRAINT {quoted}")
        yield _scan(address, f"validate {name}", f"VALIDATE CONSTRAINT {quoted}", None, used)


def _default(text: str | None) -> str:
    return "DROP DEFAULT" if text is None else f"SET DEFAULT {text}"


def _step(address: Address, key: str, clause: str, undo: str | None) -> Draft:
    name = in_schema(address)
    return Draft(
        object=address,
        action="alter",
        key=key,
        request=Sql(f"ALTER DOMAIN {name} {clause}"),
        summary=f"domain {address.name}: {key}",
        undo=Sql(f"ALTER DOMAIN {name} {undo}") if undo else None,
    )


def _scan(address: Address, key: str, clause: str, undo: str | None, used: bool) -> Draft:
    """A step that reads every table with a column of the domain; SHARE keeps writers out meanwhile."""
    detail = "every table with a column of the domain is read, and cannot be written meanwhile"
    hazards = (Hazard("blocking", detail),) if used else ()
    return replace(_step(address, key, clause, undo), lock="SHARE" if used else None, hazards=hazards)


def read_domains(schema: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``domains`` of a schema."""
    for name, body in node.items():
        address, place = schema.child("domain", name), (*pointer, name)
        settings = parse(FIELDS, body, place, reader)
        if settings is None:
            continue
        refs = role_refs(schema.target, settings["owner"])
        former = renamed_from(address, body)
        yield Record(address, settings, schema, refs, origin=place, renamed_from=former)
        yield from read_grants(address, body.get("grants") or {}, (*place, "grants"), reader, settings["owner"])


KIND = DomainKind()
decode = KIND.decode
