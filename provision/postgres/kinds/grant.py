"""Grants: what one role may do with one object, as a child of the object. PUBLIC is the role ``public``.

An owner's rights over its own object are never a record. What PUBLIC has unasked (EXECUTE on functions, USAGE
on types, CONNECT and TEMPORARY on the database) is one only where it was taken away or is declared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Query
from provision.postgres.kinds import privileges as acl
from provision.postgres.kinds import signature
from provision.postgres.kinds.ownership import TARGET, in_schema, role_refs
from provision.postgres.references import name_of, split_list, split_name, tokens
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

PRIVILEGES = fields.list_of(fields.STRING)
FIELDS = FieldTable(
    Field("privileges", PRIVILEGES, "What the role may do; [] takes away what PUBLIC has unasked.", default=[]),
    Field("grantable", PRIVILEGES, "The part of it that the role may pass on.", default=[]),
)
_ONE: fields.Json = {
    "anyOf": [
        PRIVILEGES.schema,
        {
            "type": "object",
            "properties": {
                "privileges": PRIVILEGES.schema,
                "grantable": {"anyOf": [{"type": "boolean"}, PRIVILEGES.schema]},
            },
            "required": ["privileges"],
            "additionalProperties": False,
        },
    ]
}
#: ``grants`` of an object: role -> privileges.
GRANTS_SCHEMA: fields.Json = {
    "type": "object",
    "additionalProperties": _ONE,
    "description": "Who may do what with the object: role to privileges; 'public' is everybody.",
}
QUERIES = (
    Query(
        "column_grants",
        lambda major: (
            """
        SELECT a.attrelid, a.attname, a.attacl::text FROM pg_attribute a
         WHERE a.attacl IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attrelid >= 16384 ORDER BY a.attrelid, a.attnum"""
        ),
    ),
    Query(
        "database",
        lambda major: (
            """
        SELECT d.datname, d.datdba, d.datacl::text FROM pg_database d WHERE d.datname = current_database()"""
        ),
    ),
)


class GrantKind(PlainKind):
    name = "grant"
    system = "pg"
    fields = FIELDS
    expressions: tuple[str, ...] = ()

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        for address, owner, text in _access_lists(catalog):
            if text is not None:
                yield from _records(address, catalog.roles[owner], acl.parse_acl(text))
        yield from _relation_records(catalog)

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        """Spell out ``all``; where PUBLIC has what it has unasked and just that is declared, there is nothing to do."""
        if desired is None:
            return desired, live
        kind = _object(desired.address).kind
        desired = desired._replace(settings=_spelled_out(desired.settings, kind, facts.version[0]))
        unasked = acl.public_default(kind)
        untouched = {"privileges": sorted(unasked), "grantable": []}
        if live is None and desired.address.name == "public" and desired.settings == untouched:
            live = desired._replace(origin=None)
        return desired, live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        """Follow the rename of the role, which is the last part of the address."""
        if old.kind != "role" or record.address.name != old.name:
            return record
        address = record.address
        return record._replace(address=address._replace(path=(*address.path[:-1], new.path[-1])))

    def lower(self, change: Change, context: Context) -> Lowered:
        address = change.address
        major = context.facts(address).version[0]
        remade = change.action in ("create", "replace", "rebuild")
        before = None if remade or change.before is None else change.before.settings
        after = change.after.settings if change.after is not None else None
        database = context.facts(address).options.get("database")
        texts = list(statements(address, before, after, major, database))
        back = list(statements(address, after, before, major, database)) if before is not None else []
        drafts = [_draft(change, i, text, remade, back) for i, text in enumerate(texts)]
        return Lowered(tuple(drafts), (address,))


def _draft(change: Change, number: int, text: str, remade: bool, back: list[str]) -> Draft:
    address, gone = change.address, change.after is None
    revokes = text.startswith("REVOKE")
    hazard = Hazard("security", f"{address.name} loses privileges", needs_consent=False)
    return Draft(
        object=address,
        action="revoke" if revokes else "grant",
        key=str(number) if number else "",
        request=Sql(text),
        summary=f"{address.name}: {text.split(' ON ', maxsplit=1)[0].lower()} on {_object(address).name}",
        makes=() if gone else (address,),
        destroys=(address,) if gone else (),
        follows=(str(number - 1) if number > 1 else "",) if number else (),
        hazards=(hazard,) if revokes else (),
        fresh=remade and change.before is None,
        undo=Sql(back[0]) if len(back) == 1 else None,
    )


def grants_of(address: Address, context: Context) -> tuple[Address, ...]:
    """The grants that vanish with a dropped object."""
    return tuple(
        g.address
        for g in context.live.children(address, "grant")
        if (change := context.changes.get(g.address)) is not None and change.after is None
    )


def statements(
    address: Address, before: Settings | None, after: Settings | None, major: int, database: str | None = None
) -> Iterator[str]:
    """The fewest REVOKE and GRANT statements between two states; None is what a new object gives unasked."""
    target = _object(address)
    unasked = acl.public_default(target.kind) if address.name == "public" else frozenset()
    old, new = (_held(s, target.kind, major, unasked) for s in (before, after))
    role = "PUBLIC" if address.name == "public" else sql.quote_ident(address.name)
    name = _sql_name(target, database)
    lost = old.privileges - new.privileges
    # REVOKE on the whole object takes the same privilege off its columns (PostgreSQL docs, REVOKE).
    shadowed = {p for p in new.privileges if "(" in p and acl.parse_entry(p)[0] in lost}
    gained = (new.privileges - old.privileges) | shadowed
    optioned = (new.grantable - old.grantable) | (shadowed & new.grantable)
    fixed = (old.grantable - new.grantable) - lost
    plain = gained - optioned
    if lost:
        yield _statement(f"REVOKE {_words(lost)}", name, f"FROM {role}")
    if fixed:
        yield _statement(f"REVOKE GRANT OPTION FOR {_words(fixed)}", name, f"FROM {role}")
    if plain:
        yield _statement(f"GRANT {_words(plain)}", name, f"TO {role}")
    if optioned:
        yield _statement(f"GRANT {_words(optioned)}", name, f"TO {role} WITH GRANT OPTION")


def _held(settings: Settings | None, kind: str, major: int, unasked: frozenset[str]) -> acl.Held:
    if settings is None:
        return acl.Held(unasked)
    found = _spelled_out(settings, kind, major)
    return acl.Held(frozenset(found["privileges"]), frozenset(found["grantable"]))


def _spelled_out(settings: Settings, kind: str, major: int) -> Settings:
    if "all" not in settings["privileges"] and "all" not in settings["grantable"]:
        return settings
    every = acl.all_of(kind, major)
    return {
        k: acl.sort_privileges(every.union(p for p in v if p != "all") if "all" in v else v)
        for k, v in settings.items()
    }


def _words(privileges: frozenset[str] | set[str]) -> str:
    """``SELECT, UPDATE (a, b)``: columns of one privilege together."""
    whole: list[str] = []
    columns: dict[str, list[str]] = {}
    for entry in sorted(privileges):
        word, column = acl.parse_entry(entry)
        if column is None:
            whole.append(word.upper())
        else:
            columns.setdefault(word.upper(), []).append(column)
    return ", ".join([*whole, *(f"{word} ({', '.join(names)})" for word, names in columns.items())])


def _statement(verb: str, name: str, role: str) -> str:
    if name == "DATABASE":
        # The database's name is not known here: it is the one the session is connected to.
        text = f"{verb} ON DATABASE %I {role}".replace("'", "''")
        return f"DO $do$ BEGIN EXECUTE format('{text}', current_database()); END $do$"
    return f"{verb} ON {name} {role}"


def _sql_name(target: Address, database: str | None) -> str:
    noun = acl.NOUNS[target.kind]
    if target.kind == "database":
        return f"DATABASE {sql.quote_ident(database)}" if database else "DATABASE"
    if target.kind == "schema":
        return f"{noun} {sql.quote_ident(target.name)}"
    if target.kind == "function":
        name, arguments = signature.split_segment(target.name)
        return f"{noun} {sql.qualified(target.names[0], name)}({arguments})"
    return f"{noun} {in_schema(target)}"


def _object(grant: Address) -> Address:
    """The object that a grant is on: the path without the grant, its kind told by the path's form."""
    path = grant.path[:-2]
    kind = "schema" if len(path) == 1 else path[0] if path[0] == "database" else "table" if len(path) == 2 else path[1]
    return grant._replace(kind=kind, path=path)


def database_address(target: str) -> Address:
    """The database of a target; its own name differs by environment and is not part of the identity."""
    return Address.root("pg", target, "database", "current")


def _access_lists(catalog: Catalog) -> Iterator[tuple[Address, str, str | None]]:
    for _, name, owner, text, _ in catalog.rows("schemas"):
        yield catalog.schema_address(str(name)), str(owner), text
    for _, schema, name, typtype, owner, text, *_ in catalog.rows("types"):
        kind = "enum" if typtype == "e" else "domain"
        yield catalog.schema_address(str(schema)).child(kind, str(name)), str(owner), text
    for row in catalog.rows("functions"):
        if row[5] is not None:
            yield _function_address(catalog, row), str(row[4]), row[5]
    for _, owner, text in catalog.rows("database"):
        yield database_address(catalog.target), str(owner), text


def _function_address(catalog: Catalog, row: tuple[str | None, ...]) -> Address:
    segment = signature.function_segment(str(row[2]), json.loads(row[3] or "[]"))
    return catalog.schema_address(str(row[1])).child("function", segment)


def _records(address: Address, owner: str, held: Mapping[str, acl.Held]) -> Iterator[Record]:
    unasked = acl.public_default(address.kind)
    if unasked and "public" not in held:
        held = {**held, "public": acl.Held()}
    for role, has in held.items():
        if role == owner or (role == "public" and has == acl.Held(unasked)):
            continue
        settings = {
            "privileges": acl.sort_privileges(has.privileges),
            "grantable": acl.sort_privileges(has.grantable),
        }
        refs = role_refs(address.target, role)
        parent = None if address.kind == "database" else address
        yield Record(address.child("grant", role), settings, parent, refs)


def _relation_records(catalog: Catalog) -> Iterator[Record]:
    """Tables, views and sequences, with what is granted on single columns."""
    columns: dict[str, dict[str, acl.Held]] = {}
    for oid, column, text in catalog.rows("column_grants"):
        for role, has in acl.parse_acl(str(text)).items():
            named = acl.Held(*(frozenset(_on_column(p, str(column)) for p in part) for part in has))
            of_role = columns.setdefault(str(oid), {})
            before = of_role.get(role, acl.Held())
            of_role[role] = acl.Held(before.privileges | named.privileges, before.grantable | named.grantable)
    for row in catalog.rows("relations"):
        oid, owner, text = str(row[0]), str(row[5]), row[12]
        if text is None and oid not in columns:
            continue
        address = catalog.relation_address(oid)
        if address is None:
            continue
        held = acl.parse_acl(text) if text is not None else {}
        for role, has in columns.get(oid, {}).items():
            whole = held.get(role, acl.Held())
            held[role] = acl.Held(whole.privileges | has.privileges, whole.grantable | has.grantable)
        yield from _records(address, catalog.roles[owner], held)


def _on_column(privilege: str, column: str) -> str:
    return f"{privilege}({sql.quote_ident(column)})"


def read_grants(
    address: Address,
    node: Mapping[str, Any],
    pointer: Pointer,
    reader: Reader,
    owner: str | None = None,
) -> Iterator[Record]:
    """Read the ``grants`` of an object: role -> privileges, or {privileges, grantable}.

    ``pointer`` leads to the ``grants`` node. A grant to the declared ``owner`` says nothing and is left out.
    """
    for role, body in node.items():
        if role == owner:
            continue
        place = (*pointer, role)
        found = {"privileges": body} if isinstance(body, list) else body
        record = _read_one(address, role, found, place, reader)
        if record is not None:
            yield record


def _read_one(address: Address, role: str, node: Mapping[str, Any], place: Pointer, reader: Reader) -> Record | None:
    try:
        privileges = _entries(node["privileges"], address.kind, "privileges")
        wanted = node.get("grantable") or []
        grantable = privileges if wanted is True else _entries(wanted, address.kind, "grantable")
        extra = [p for p in grantable if p not in privileges and "all" not in privileges]
        if extra:
            raise FieldError(f"{extra[0]} is grantable but not granted", path=("grantable",))
        if role == "public" and grantable:
            raise FieldError("PUBLIC cannot hold grant options", path=("grantable",))
    except FieldError as error:
        # The short form, a bare list, has no inner field to point at.
        reader.fail(place, error)
        return None
    settings = {"privileges": privileges, "grantable": grantable}
    parent = None if address.kind == "database" else address
    return Record(address.child("grant", role), settings, parent, role_refs(address.target, role), origin=place)


def _entries(items: list[str], kind: str, key: str) -> list[str]:
    """Canonical privileges, column lists taken apart: ``select(a, b)`` gives ``select(a)`` and ``select(b)``."""
    known = acl.all_of(kind, 99) | {"all"}
    found: list[str] = []
    for position, item in enumerate(items):
        try:
            word, columns = acl.parse_entry(item)
        except ValueError as error:
            raise FieldError(str(error), path=(key, position)) from None
        if word not in known:
            raise FieldError(
                f"{word!r} is not a privilege of a {kind}", help=f"Known: {', '.join(sorted(known))}.",
                path=(key, position),
            )  # fmt: skip
        if columns is None:
            found.append(word)
            continue
        if kind not in ("table", "view") or word not in acl.OF_COLUMNS:
            raise FieldError(f"{word} cannot be granted on columns of a {kind}", path=(key, position))
        names = (name_of(next(tokens(c))) for c in split_list(columns) if c)
        found += (_on_column(word, name) for name in names)
    return ["all"] if "all" in found and not any("(" in f for f in found) else acl.sort_privileges(found)


class GrantSection:
    """``grants``: a list of {on, to, privileges, grantable}."""

    name = "grants"

    def schema(self) -> Mapping[str, Any]:
        item = {
            "type": "object",
            "properties": {
                "on": {
                    "type": "string",
                    "description": "schema NAME, table S.T, view S.V, sequence S.N, function S.F(types), type S.T, "
                    "enum S.T, domain S.T or database.",
                },
                "to": {"type": "string", "description": "The role; 'public' is everybody."},
                "privileges": PRIVILEGES.schema,
                "grantable": {"anyOf": [{"type": "boolean"}, PRIVILEGES.schema, {"type": "null"}]},
                **TARGET,
            },
            "required": ["on", "to", "privileges"],
            "additionalProperties": False,
        }
        return {"type": "array", "items": item}

    def read(self, node: Any, reader: Reader) -> Iterator[Record]:
        for position, item in enumerate(node):
            place = ("grants", position)
            try:
                address = read_object(item["on"], item.get("target") or "main")
            except FieldError as error:
                reader.fail(place, error)
                continue
            record = _read_one(address, item["to"], item, place, reader)
            if record is not None:
                yield record


def read_object(text: str, target: str) -> Address:
    """The address that ``on`` names. Raises FieldError."""
    word, _, rest = text.strip().partition(" ")
    kind = word.lower()
    if kind == "database" and not rest:
        return database_address(target)
    try:
        name, bracket, arguments = rest.strip().partition("(")
        names = split_name(name)
        if kind == "schema" and len(names) == 1:
            return Address.root("pg", target, "schema", names[0], bare=True)
        if kind not in acl.NOUNS or len(names) != 2 or bool(bracket) != (kind == "function"):
            raise ValueError(f"not an object: {text!r}")
    except ValueError as error:
        help = "Write 'schema agents', 'table agents.state', 'function agents.touch(uuid)' or 'database'."
        raise FieldError(str(error), help=help, path=("on",)) from None
    schema = Address.root("pg", target, "schema", names[0], bare=True)
    if kind == "table":
        return schema.child("table", names[1], bare=True)
    if kind == "function":
        types = ",".join(map(signature.argument_type, split_list(arguments.rstrip().removesuffix(")"))))
        return schema.child("function", f"{names[1]}({types})")
    return schema.child(kind, names[1])


KIND = GrantKind()
SECTION = GrantSection()
decode = KIND.decode
