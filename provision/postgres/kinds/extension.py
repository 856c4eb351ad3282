"""Extensions: the section ``extensions`` and the kind ``extension``. They belong to the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Query
from provision.postgres.kinds.ownership import COMMENT, TARGET, Noun, attributes, keep_live, parse
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.fields import Field, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Record, Settings

FIELDS = FieldTable(
    Field("schema", fields.STRING, "The schema its objects go to; without it, public on creation."),
    Field("version", fields.STRING, "The version to keep it at; without it, any."),
    COMMENT,
    extra=TARGET,
)
QUERIES = (
    Query(
        "extensions",
        lambda major: (
            """
        SELECT e.extname, n.nspname, e.extversion, obj_description(e.oid, 'pg_extension')
          FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname"""
        ),
    ),
)
#: Where an extension goes when nothing is said. Sessions have search_path = pg_catalog, which would be taken.
_DEFAULT_SCHEMA = "public"


class ExtensionKind(PlainKind):
    name = "extension"
    system = "pg"
    fields = FIELDS
    left_to_server = frozenset({"schema", "version", "comment"})
    expressions: tuple[str, ...] = ()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for name, schema, version, comment in catalog.rows("extensions"):
            settings = {"schema": schema, "version": version, "comment": comment}
            yield Record(_address(catalog.target, str(name)), settings, refs=_refs(catalog.target, schema))

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """What is not said is not managed; the comment is the extension's own unless said."""
        return keep_live(desired, live, *self.left_to_server), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        if old.kind != "schema" or record.settings["schema"] != old.name:
            return record
        return record._replace(settings={**record.settings, "schema": new.name})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        noun = Noun("EXTENSION", sql.quote_ident(address.name))
        if after is None:
            return Lowered((_drop(address, noun),), (address,))
        if before is None:
            return Lowered(tuple(_create(address, noun, after.settings)), (address,))
        return Lowered(tuple(_alter(change, noun, before.settings, after.settings)), (address,))


def _create(address: Address, noun: Noun, settings: Settings) -> Iterator[Draft]:
    version = f" VERSION {sql.quote_literal(settings['version'])}" if settings["version"] else ""
    schema = sql.quote_ident(settings["schema"] or _DEFAULT_SCHEMA)
    yield Draft(
        object=address,
        action="create",
        request=Sql(f"CREATE {noun} WITH SCHEMA {schema}{version}"),
        summary=f"create extension {address.name}",
        makes=(address,),
        fresh=True,
        undo=Sql(f"DROP {noun}"),
    )
    yield from attributes(noun, address, None, settings, fresh=True, follows=("",))


def _alter(change: Change, noun: Noun, before: Settings, after: Settings) -> Iterator[Draft]:
    address = change.address
    follows: tuple[str, ...] = ()
    if before["version"] != after["version"]:
        detail = f"the extension's own script from {before['version']} to {after['version']} runs"
        yield Draft(
            object=address,
            action="alter",
            key="version",
            request=Sql(f"ALTER {noun} UPDATE TO {sql.quote_literal(after['version'])}"),
            summary=f"update extension {address.name} to {after['version']}",
            hazards=(Hazard("blocking", detail, needs_consent=False),),
        )
        follows = ("version",)
    if before["schema"] != after["schema"]:
        yield Draft(
            object=address,
            action="alter",
            key="schema",
            request=Sql(f"ALTER {noun} SET SCHEMA {sql.quote_ident(after['schema'])}"),
            summary=f"move extension {address.name} to schema {after['schema']}",
            follows=follows,
            undo=Sql(f"ALTER {noun} SET SCHEMA {sql.quote_ident(before['schema'])}"),
        )
    yield from attributes(noun, address, before, after, fresh=False, follows=follows)


def _drop(address: Address, noun: Noun) -> Draft:
    return Draft(
        object=address,
        action="drop",
        request=Sql(f"DROP {noun}"),
        summary=f"drop extension {address.name}, refused while anything uses it",
        destroys=(address,),
    )


def _address(target: str, name: str) -> Address:
    return Address.root("pg", target, "extension", name)


def _refs(target: str, schema: str | None) -> tuple[Address, ...]:
    if schema is None or schema == "pg_catalog":
        return ()
    return (Address.root("pg", target, "schema", schema, bare=True),)


class ExtensionSection:
    """``extensions``: names to options; ``NAME: null`` asks for no more than its presence."""

    name = "extensions"

    def schema(self) -> Mapping[str, Any]:
        return {"type": "object", "additionalProperties": {"anyOf": [FIELDS.schema(), {"type": "null"}]}}

    def read(self, node: Mapping[str, Any], reader: Reader) -> Iterator[Record]:
        for name, body in node.items():
            found, pointer = body or {}, ("extensions", name)
            settings = parse(FIELDS, found, pointer, reader)
            if settings is not None:
                target = found.get("target") or "main"
                yield Record(_address(target, name), settings, refs=_refs(target, settings["schema"]), origin=pointer)


KIND = ExtensionKind()
SECTION = ExtensionSection()
decode = KIND.decode
