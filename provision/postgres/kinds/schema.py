"""Schemas: the reader of the section ``schemas`` with everything nested in it, and the kind ``schema``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds import domain, enum, function, table, view
from provision.postgres.kinds.grant import GRANTS_SCHEMA, grants_of, read_grants
from provision.postgres.kinds.ownership import (
    COMMENT,
    NAMES,
    OWNER,
    RENAMED_FROM,
    TARGET,
    Noun,
    attributes,
    keep_live,
    parse,
    rename,
    renamed_from,
    retitle_owner,
    role_refs,
)
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Lowered, Sql
from provision.spec.fields import Field, FieldTable, Json
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Record

FIELDS = FieldTable(
    OWNER,
    COMMENT,
    Field(
        "managed",
        fields.enum("declarative", "migrations"),
        "Who changes the objects of the schema: apply, or migrations (apply then only reports).",
        default="declarative",
    ),
    Field("prune", fields.BOOL, "Drop undeclared objects of the schema, each with a consent.", default=False),
    extra=RENAMED_FROM | TARGET,
)
QUERIES = (
    Query(
        "schemas",
        lambda major: (
            f"""
        SELECT n.oid, n.nspname, n.nspowner, n.nspacl::text, obj_description(n.oid, 'pg_namespace')
          FROM pg_namespace n WHERE {SYSTEM_SCHEMAS} ORDER BY n.nspname"""
        ),
    ),
)


class SchemaKind(PlainKind):
    name = "schema"
    system = "pg"
    fields = FIELDS
    spec_only = frozenset({"managed", "prune"})
    left_to_server = frozenset({"owner"})
    expressions: tuple[str, ...] = ()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for _, name, owner, _, comment in catalog.rows("schemas"):
            role = catalog.roles[str(owner)]
            settings = {
                "owner": role,
                "comment": comment,
                "managed": "declarative",
                "prune": False,
            }
            refs = role_refs(catalog.target, role)
            yield Record(catalog.schema_address(str(name)), settings, refs=refs)

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Ownership may be left alone, ``managed`` and ``prune`` are ours, ``public`` has a comment unasked."""
        if desired is None or live is None:
            return desired, live
        ours = {k: desired.settings[k] for k in self.spec_only}
        unasked = ("owner", "comment") if desired.address.name == "public" else ("owner",)
        return keep_live(desired, live, *unasked), live._replace(settings={**live.settings, **ours})

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        return retitle_owner(record, old, new)

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        name = sql.quote_ident(address.name)
        noun = Noun("SCHEMA", name)
        if after is None:
            return Lowered((_drop(address, name),), (address, *grants_of(address, context)))
        drafts: list[Draft] = []
        known = before.settings if before is not None else None
        if before is None:
            drafts.append(_create(address, name))
        elif change.action == "rename":
            drafts.append(rename(noun, before.address, address))
        fresh, follows = known is None, tuple(d.key for d in drafts)
        drafts += attributes(noun, address, known, after.settings, fresh=fresh, follows=follows)
        return Lowered(tuple(drafts), (address,))


def _create(address: Address, name: str) -> Draft:
    return Draft(
        object=address,
        action="create",
        request=Sql(f"CREATE SCHEMA {name}"),
        summary=f"create schema {address.name}",
        makes=(address,),
        fresh=True,
        undo=Sql(f"DROP SCHEMA {name}"),
    )


def _drop(address: Address, name: str) -> Draft:
    return Draft(
        object=address,
        action="drop",
        request=Sql(f"DROP SCHEMA {name}"),
        summary=f"drop schema {address.name}, which must be empty",
        destroys=(address,),
    )


#: PostgreSQL keeps the first two for itself, and Holdfast its ledger in the third.
_SCHEMA_NAMES: Json = {
    "pattern": r"^(?!pg_|information_schema$|holdfast$)[^\x00]{1,63}$",
    "description": "A name has 1 to 63 characters; pg_…, information_schema and holdfast are taken.",
}


class SchemaSection:
    """``schemas``: each with its enums, domains, tables, functions and views."""

    name = "schemas"

    def schema(self) -> Mapping[str, Any]:
        one = FIELDS.schema()
        one["properties"] |= {
            "enums": named(enum.ENUM_SCHEMA),
            "domains": named(domain.FIELDS.schema()),
            "tables": named(table.TABLE_SCHEMA),
            "functions": named(function.FIELDS.schema()),
            "views": named(view.FIELDS.schema()),
            "grants": GRANTS_SCHEMA,
        }
        return named({"anyOf": [one, {"type": "null"}]}, _SCHEMA_NAMES)

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            yield from self._read_one(name, body or {}, ("schemas", name), reader)

    def _read_one(
        self, name: str, node: Mapping[str, Any], pointer: tuple[str, ...], reader: Reader
    ) -> Iterator[Record]:
        target = node.get("target") or "main"
        address = Address.root("pg", target, "schema", name, bare=True)
        settings = parse(FIELDS, node, pointer, reader)
        if settings is None:
            return
        yield Record(
            address,
            settings,
            refs=role_refs(target, settings["owner"]),
            origin=pointer,
            renamed_from=renamed_from(address, node),
        )
        yield from read_grants(address, node.get("grants") or {}, (*pointer, "grants"), reader, settings["owner"])
        for key, read in _NESTED.items():
            if node.get(key):
                yield from read(address, node[key], (*pointer, key), reader)


def named(schema: Mapping[str, Any], names: Json = NAMES) -> Json:
    """The JSON Schema of a mapping from names to one form."""
    return {
        "type": "object",
        "additionalProperties": schema,
        "propertyNames": names,
    }


_NESTED = {
    "enums": enum.read_enums,
    "domains": domain.read_domains,
    "functions": function.read_functions,
    "tables": table.read_tables,
    "views": view.read_views,
}
KIND = SchemaKind()
SECTION = SchemaSection()
decode = KIND.decode
