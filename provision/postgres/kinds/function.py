"""Functions and procedures. Bodies given as text are stored and compared exactly as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds import guc, signature
from provision.postgres.kinds.depends import DEPENDENCIES, Dependencies
from provision.postgres.kinds.grant import GRANTS_SCHEMA, grants_of, read_grants
from provision.postgres.kinds.ownership import (
    COMMENT,
    OWNER,
    Noun,
    attributes,
    keep_live,
    parse,
    retitle_owner,
    retitle_texts,
    role_refs,
)
from provision.postgres.kinds.steps import retitled_sql
from provision.spec import fields
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Lowered, Sql
from provision.spec.fields import Field, FieldError, FieldTable
from provision.spec.ident import Address
from provision.spec.kind import PlainKind, Reader
from provision.spec.record import Facts, Pointer, Record, Settings

_RETURNS = fields.Type({"type": "string", "minLength": 1}, signature.read_returns)
FIELDS = FieldTable(
    Field(
        "arguments",
        fields.list_of(fields.object_of(signature.ARGUMENT)),
        "What callers pass and get.",
        default=[],
    ),
    Field("returns", _RETURNS, "A type, 'setof TYPE', 'table(name type, …)' or 'trigger'."),
    Field("language", fields.STRING, "The language of the body.", default="sql"),
    Field("procedure", fields.BOOL, "A procedure: called, returns nothing, may commit.", default=False),
    Field("window", fields.BOOL, "A window function (language c only).", default=False),
    Field(
        "volatility",
        fields.enum("immutable", "stable", "volatile"),
        "What the planner may assume.",
        default="volatile",
    ),
    Field("strict", fields.BOOL, "NULL for any NULL argument, without a call.", default=False),
    Field("security", fields.enum("invoker", "definer"), "Whose rights it runs with.", default="invoker"),
    Field(
        "parallel",
        fields.enum("unsafe", "restricted", "safe"),
        "Whether workers may run it.",
        default="unsafe",
    ),
    Field("leakproof", fields.BOOL, "Shows nothing of its arguments but the result.", default=False),
    Field("cost", fields.number(0), "Estimated cost; by default 100, for c and internal 1."),
    Field("rows", fields.number(0), "Estimated rows of a set; by default 1000."),
    Field("set", guc.SETTINGS, "Server settings while it runs.", default={}),
    Field("support", fields.STRING, "Planner support function, schema.name."),
    Field("library", fields.STRING, "The object file of a function in c; the body is then its link symbol."),
    Field("body", fields.SQL, "The body, stored as it is written."),
    Field("sql_body", fields.SQL, "A body that is parsed when created: BEGIN ATOMIC … END or RETURN …."),
    OWNER,
    COMMENT,
    extra={"grants": GRANTS_SCHEMA},
)
QUERIES = (
    Query(
        "functions",
        lambda major: (
            f"""
        SELECT p.oid, n.nspname, p.proname,
               (SELECT json_agg(json_build_array(p.proargmodes[u.i], p.proargnames[u.i], format_type(u.t, NULL),
                                                 pg_get_function_arg_default(p.oid, u.i::int)) ORDER BY u.i)
                  FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY u(t, i)),
               p.proowner, p.proacl::text, obj_description(p.oid, 'pg_proc'), p.prokind, l.lanname, p.provolatile,
               p.proisstrict, p.prosecdef, p.proparallel, p.proleakproof, p.procost, p.prorows, p.proretset,
               format_type(nullif(p.prorettype, 0), NULL), p.prosrc, p.probin::text, pg_get_function_sqlbody(p.oid),
               to_json(p.proconfig), nullif(p.prosupport, 0)::regproc::text,
               {DEPENDENCIES.format(object="d.classid = 'pg_proc'::regclass AND d.objid = p.oid")}
          FROM pg_proc p
          JOIN pg_namespace n ON n.oid = p.pronamespace
          JOIN pg_language l ON l.oid = p.prolang
         WHERE p.prokind IN ('f', 'p', 'w') AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid
                                                     AND x.deptype IN ('e', 'i'))
         ORDER BY n.nspname, p.proname, p.oid"""
        ),
    ),
)
_VOLATILITY = {"i": "immutable", "s": "stable", "v": "volatile"}
_PARALLEL = {"u": "unsafe", "r": "restricted", "s": "safe"}


class FunctionKind(PlainKind):
    name = "function"
    system = "pg"
    fields = FIELDS
    left_to_server = frozenset({"owner"})
    expressions: tuple[str, ...] = ("arguments", "sql_body")
    takes_children = True

    def decode(self, catalog: Catalog) -> Iterator[Record]:
        edges = Dependencies(catalog)
        for row in catalog.rows("functions"):
            schema, name, owner = str(row[1]), str(row[2]), str(row[4])
            arguments = signature.read_arguments(json.loads(row[3] or "[]"))
            settings = _decode(row, arguments, catalog.roles[owner])
            parent = catalog.schema_address(schema)
            address = parent.child("function", signature.segment(name, arguments))
            refs, rigid = edges.edges(row[23], own=address, also=role_refs(catalog.target, settings["owner"]))
            yield Record(address, settings, parent, refs, rigid)

    def compiles(self, record: Record) -> bool:
        """Whether the record holds text that only a server brings to its normal form."""
        defaults = any(a["default"] is not None for a in record.settings["arguments"])
        return defaults or record.settings["sql_body"] is not None

    def impact(self, change: Change, facts: Facts) -> Impact:
        """What CREATE OR REPLACE refuses makes a new function: another result, kind, or names of arguments."""
        if change.before is None or change.after is None:
            return "none"
        old, new = change.before.settings, change.after.settings
        same = all(old[k] == new[k] for k in ("returns", "procedure", "window"))
        return "none" if same and signature.keeps_identity(old["arguments"], new["arguments"]) else "replace"

    def settle(
        self, desired: Record | None, live: Record | None, facts: Facts, clock: Any
    ) -> tuple[Record | None, Record | None]:
        return keep_live(desired, live, *self.left_to_server), live

    def retitle(self, record: Record, old: Address, new: Address) -> Record:
        """Follow renames of the owner and of types; those of the signature are part of the address."""
        record = retitle_texts(retitle_owner(record, old, new), old, new, "returns", "sql_body")
        if old.kind == "role":
            return record
        arguments = [
            {**a, "type": retitled_sql(a["type"], old, new), "default": retitled_sql(a["default"], old, new)}
            for a in record.settings["arguments"]
        ]
        name = signature.split_segment(record.address.name)[0]
        assert record.parent is not None
        address = record.parent.child("function", signature.segment(name, arguments))
        return record._replace(address=address, settings=record.settings | {"arguments": arguments})

    def lower(self, change: Change, context: Context) -> Lowered:
        address, after, before = change.address, change.after, change.before
        name = signed_name(address)
        if after is None:
            assert before is not None
            return Lowered((_drop(before, name),), (address, *grants_of(address, context)))
        noun = Noun("PROCEDURE" if after.settings["procedure"] else "FUNCTION", name)
        if before is None or change.action in ("replace", "rebuild"):
            drafts = [_drop(before, name, key="drop")] if before is not None else []
            drafts.append(_create(address, after.settings, before, replaces=False))
            drafts += attributes(noun, address, None, after.settings, fresh=before is None, follows=("",))
            return Lowered(tuple(drafts), (address,))
        drafts = []
        if any(f not in ("owner", "comment") for f in change.fields):
            drafts.append(_create(address, after.settings, before, replaces=True))
        follows = tuple(d.key for d in drafts)
        drafts += attributes(noun, address, before.settings, after.settings, fresh=False, follows=follows)
        return Lowered(tuple(drafts), (address,))


def signed_name(address: Address) -> str:
    """``schema.name(types)`` quoted, as DROP, GRANT and COMMENT want it."""
    name, arguments = signature.split_segment(address.name)
    return f"{sql.qualified(address.names[0], name)}({arguments})"


def _number(text: str | None) -> int | float:
    value = float(text or 0)
    return int(value) if value == int(value) else value


def _decode(row: tuple[str | None, ...], arguments: list[dict[str, Any]], owner: str) -> Settings:
    (
        comment,
        prokind,
        language,
        volatility,
        strict,
        definer,
        parallel,
        leakproof,
        cost,
        rows,
        is_set,
        result,
    ) = row[6:18]
    source, library, sql_body, config, support = row[18:23]
    return {
        "arguments": [a for a in arguments if a["mode"] != "table"],
        "returns": _returns(arguments, result, is_set == "t", prokind == "p"),
        "language": language,
        "procedure": prokind == "p",
        "window": prokind == "w",
        "volatility": _VOLATILITY[str(volatility)],
        "strict": strict == "t",
        "security": "definer" if definer == "t" else "invoker",
        "parallel": _PARALLEL[str(parallel)],
        "leakproof": leakproof == "t",
        "cost": _number(cost),
        "rows": _number(rows) or None,
        "set": guc.read_config(json.loads(config) if config else None),
        "support": support,
        "library": library,
        "body": None if sql_body is not None else source,
        "sql_body": sql_body,
        "owner": owner,
        "comment": comment,
    }


def _returns(arguments: list[dict[str, Any]], result: str | None, is_set: bool, is_procedure: bool) -> str | None:
    if is_procedure or result is None:
        return None
    columns = [(a["name"] or "", a["type"]) for a in arguments if a["mode"] == "table"]
    if columns:
        return signature.show_table(columns)
    bare = signature.live_type(result)
    return f"setof {bare}" if is_set else bare


def dollar_quoted(text: str) -> str:
    """The text as a dollar-quoted string, with a tag that it does not hold."""
    tag = "body"
    while f"${tag}$" in text or text.endswith(f"${tag}"):
        tag += "_"
    return f"${tag}${text}${tag}$"


def create_sql(address: Address, settings: Settings, *, replaces: bool) -> str:
    """CREATE FUNCTION or PROCEDURE with every attribute that differs from the server's default."""
    name, _ = signature.split_segment(address.name)
    shown = ", ".join(signature.show(a) for a in settings["arguments"])
    word = "PROCEDURE" if settings["procedure"] else "FUNCTION"
    lines = [
        f"CREATE {'OR REPLACE ' if replaces else ''}{word} {sql.qualified(address.names[0], name)}({shown})",
        *_attributes(settings),
        *(f"SET {guc.assignment(k, v)}" for k, v in settings["set"].items()),
    ]
    if settings["sql_body"] is not None:
        lines.append(settings["sql_body"])
    elif settings["library"] is not None:
        lines.append(f"AS {sql.quote_literal(settings['library'])}, {sql.quote_literal(settings['body'] or name)}")
    else:
        lines.append(f"AS {dollar_quoted(settings['body'] or '')}")
    return "\n".join(lines)


def _attributes(settings: Settings) -> Iterator[str]:
    if settings["returns"] is not None:
        yield f"RETURNS {settings['returns']}"
    yield f"LANGUAGE {sql.quote_ident(settings['language'])}"
    if settings["security"] == "definer":
        yield "SECURITY DEFINER"
    if settings["procedure"]:
        return
    if settings["window"]:
        yield "WINDOW"
    yield settings["volatility"].upper()
    if settings["strict"]:
        yield "STRICT"
    if settings["leakproof"]:
        yield "LEAKPROOF"
    yield f"PARALLEL {settings['parallel'].upper()}"
    yield f"COST {settings['cost']}"
    if settings["rows"] is not None:
        yield f"ROWS {settings['rows']}"
    if settings["support"] is not None:
        yield f"SUPPORT {settings['support']}"


def _create(address: Address, settings: Settings, before: Record | None, *, replaces: bool) -> Draft:
    undo = create_sql(address, before.settings, replaces=True) if replaces and before is not None else None
    noun = "PROCEDURE" if settings["procedure"] else "FUNCTION"
    return Draft(
        object=address,
        action="alter" if replaces else "create",
        request=Sql(create_sql(address, settings, replaces=replaces)),
        summary=f"{'replace' if replaces else 'create'} {noun.lower()} {address.name}",
        makes=(address,),
        hazards=_rights(settings, before),
        fresh=before is None,
        undo=Sql(undo or f"DROP {noun} {signed_name(address)}"),
    )


def _rights(settings: Settings, before: Record | None) -> tuple[Hazard, ...]:
    """Running with the owner's rights is a door: a new one is shown, one opened in place needs a consent."""
    if settings["security"] != "definer" or (before is not None and before.settings["security"] == "definer"):
        return ()
    return (Hazard("security", "whoever may execute it acts with its owner's rights", before is not None),)


def _drop(before: Record, name: str, key: str = "") -> Draft:
    word = "PROCEDURE" if before.settings["procedure"] else "FUNCTION"
    return Draft(
        object=before.address,
        action="drop",
        key=key,
        request=Sql(f"DROP {word} {name}"),
        summary=f"drop {word.lower()} {before.address.name}",
        destroys=(before.address,),
        undo=Sql(create_sql(before.address, before.settings, replaces=False)),
    )


def read_functions(schema: Address, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Iterator[Record]:
    """Read the ``functions`` of a schema. A key may carry its types, ``name(uuid)``, to tell overloads apart."""
    for key, body in node.items():
        place = (*pointer, key)
        settings = parse(FIELDS, body, place, reader)
        if settings is None or not _complete(settings, place, reader):
            continue
        address = schema.child("function", signature.segment(key.partition("(")[0].strip(), settings["arguments"]))
        refs = role_refs(schema.target, settings["owner"])
        yield Record(address, settings, schema, refs, origin=place)
        yield from read_grants(address, body.get("grants") or {}, (*place, "grants"), reader, settings["owner"])


def _complete(settings: Settings, place: Pointer, reader: Reader) -> bool:
    """Fill the defaults that hang on other options; report what the server would refuse."""
    bodies = [k for k in ("body", "sql_body", "library") if settings[k] is not None]
    error = None
    if not bodies or set(bodies) == {"body", "sql_body"}:
        error = FieldError("a function has either body or sql_body", help="Give exactly one of them.")
    if settings["procedure"]:
        settings["returns"] = None
    elif settings["returns"] is None:
        settings["returns"] = signature.implied_result(settings["arguments"])
        if settings["returns"] is None:
            error = FieldError("a function must say what it returns", help="Add returns:, or procedure: true.")
    returns = settings["returns"] or ""
    if settings["rows"] is None and returns.startswith(("setof ", "table(")):
        settings["rows"] = 1000
    if settings["cost"] is None:
        settings["cost"] = 1 if settings["language"] in ("c", "internal") else 100
    settings["cost"], settings["rows"] = (
        None if v is None else _number(str(v)) for v in (settings["cost"], settings["rows"])
    )
    if error is not None:
        reader.fail(place, error)
    return error is None


KIND = FunctionKind()
decode = KIND.decode
