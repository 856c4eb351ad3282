"""How a column of an existing table is added, changed and dropped: statements, locks, hazards, safe forms.

The rules are those of ALTER TABLE (PostgreSQL docs, "Notes") as measured: what rewrites, what scans, what is brief.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from provision.postgres import sql, types
from provision.postgres.kinds.column_type import collation_sql, is_constrained, retype
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    alter,
    blocking,
    chain,
    comment_on,
    extensions,
    leftover,
    rewrite,
    table_of,
    values_lost,
)
from provision.postgres.kinds.type_swap import in_one_statement
from provision.postgres.volatility import is_volatile
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Sql
from provision.spec.ident import Address
from provision.spec.record import Facts, Record, Settings

#: ALTER COLUMN … SET EXPRESSION came with 17; before, another expression means another column.
_SET_EXPRESSION_SINCE = 17
_STORAGE_IN_DEFINITION_SINCE = 16
_SEQUENCE = {"start": "START WITH", "increment": "INCREMENT BY", "min": "MINVALUE", "max": "MAXVALUE", "cache": "CACHE"}
_LATER = ("statistics", "options", "comment")


def identity_sql(identity: Settings) -> str:
    """``ALWAYS AS IDENTITY (START WITH 1 …)``."""
    options = [f"{words} {identity[name]}" for name, words in _SEQUENCE.items()]
    options.append("CYCLE" if identity["cycle"] else "NO CYCLE")
    return f"{_generation(identity)} AS IDENTITY ({' '.join(options)})"


def _generation(identity: Settings) -> str:
    return "ALWAYS" if identity["generation"] == "always" else "BY DEFAULT"


def definition(record: Record, major: int, *, default: bool = True) -> str:
    """The column as CREATE TABLE and ADD COLUMN take it; what needs a statement of its own is left out."""
    s = record.settings
    parts = [sql.quote_ident(record.address.name), s["type"]]
    if s["storage"] is not None and major >= _STORAGE_IN_DEFINITION_SINCE:
        parts.append(f"STORAGE {s['storage'].upper()}")
    if s["compression"] is not None:
        parts.append(f"COMPRESSION {s['compression']}")
    if s["collation"] is not None:
        parts.append(f"COLLATE {collation_sql(s['collation'])}")
    if s["generated"] is not None:
        parts.append(_generated(s["generated"]))
    elif s["identity"] is not None:
        parts.append(f"GENERATED {identity_sql(s['identity'])}")
    elif s["default"] is not None and default:
        parts.append(f"DEFAULT {s['default']}")
    if not s["nullable"]:
        parts.append("NOT NULL")
    return " ".join(parts)


def _generated(generated: Settings) -> str:
    return f"GENERATED ALWAYS AS ({generated['expression']}) {'STORED' if generated['stored'] else 'VIRTUAL'}"


def impact(change: Change, facts: Facts) -> Impact:
    """Another type or collation disturbs rigid dependents; some changes of generation need another column."""
    if change.before is None or change.after is None:
        return "none"
    old, new = change.before.settings["generated"], change.after.settings["generated"]
    if old != new and not _alters_in_place(old, new, facts.version[0]):
        return "replace"
    return "alter" if {"type", "collation"} & set(change.fields) else "none"


def _alters_in_place(old: Settings | None, new: Settings | None, major: int) -> bool:
    if old is None:
        return False
    if new is None:
        return bool(old["stored"])
    return old["stored"] == new["stored"] and major >= _SET_EXPRESSION_SINCE


def lower(change: Change, context: Context) -> tuple[Draft, ...]:
    """The steps for one column; its table exists before the plan."""
    before, after = change.before, change.after
    if after is None:
        assert before is not None
        return (_drop(before),)
    if before is None:
        return chain(add(after, context))
    if change.action == "replace":
        return chain((_drop(before, key="drop"), *add(after, context)))
    if change.action == "rebuild":
        return chain(_rebuild(change, before, after, context))
    drafts = [_rename(before.address, change.address)] if change.action == "rename" else []
    return chain((*drafts, *_update(before, after, context)))


def _rename(old: Address, new: Address) -> Draft:
    names = sql.quote_ident(old.name), sql.quote_ident(new.name)
    return alter(
        new,
        "rename",
        f"RENAME COLUMN {names[0]} TO {names[1]}",
        f"rename column {old.name} to {new.name}",
        action="rename",
        makes=(new,),
        destroys=(old,),
        undo=f"RENAME COLUMN {names[1]} TO {names[0]}",
    )


def _drop(before: Record, key: str = "") -> Draft:
    address = before.address
    derived = before.settings["generated"] is not None
    lost = values_lost(address, f"the values of column {address.name} are lost")
    return alter(
        address,
        key,
        f"DROP COLUMN {sql.quote_ident(address.name)}",
        f"drop column {address.name}",
        action="drop",
        destroys=(address,),
        hazards=() if derived else (lost,),
    )


def add(after: Record, context: Context) -> Iterator[Draft]:
    """ADD COLUMN in the form that does not write existing rows, or labelled with what it costs."""
    address, s = after.address, after.settings
    name = sql.quote_ident(address.name)
    major = context.facts(address).version[0]
    volatile = s["default"] is not None and is_volatile(s["default"])
    deferred = volatile and s["nullable"] and not is_constrained(s["type"], address, context)
    yield alter(
        address,
        "",
        f"ADD COLUMN {definition(after, major, default=not deferred)}",
        f"add column {address.name}",
        action="create",
        makes=(address,),
        needs=extensions(context),
        hazards=tuple(_adding(after, context, volatile=volatile and not deferred)),
        undo=f"DROP COLUMN {name}",
    )
    if deferred:
        summary = f"default for new rows of {address.name}; rows that exist keep NULL until a migration fills them"
        yield _set_default(address, s["default"], None, summary)
    yield from after_creation(after, major)


def after_creation(record: Record, major: int) -> Iterator[Draft]:
    """What CREATE TABLE and ADD COLUMN have no words for."""
    address, s = record.address, record.settings
    if s["storage"] is not None and major < _STORAGE_IN_DEFINITION_SINCE:
        yield _storage(address, s["storage"], None)
    blank: Settings = {"comment": None, "options": {}, "statistics": None}
    for field in _LATER:
        yield from _CHANGES[field](address, blank, s)


def _adding(after: Record, context: Context, *, volatile: bool) -> Iterator[Hazard]:
    s = after.settings
    generated = s["generated"]
    if generated is not None:
        if generated["stored"]:
            yield rewrite("the column is computed for every row")
    elif s["identity"] is not None:
        yield rewrite("every row gets a number")
    elif volatile:
        yield rewrite("the default may differ from row to row, so it is written into each")
    elif is_constrained(s["type"], after.address, context):
        yield rewrite(f"the constraints of domain {s['type']} are checked for every row")
    elif not s["nullable"] and s["default"] is None:
        yield blocking("scans the table, and is refused as soon as it has a row: the column has no default")


def _update(before: Record, after: Record, context: Context) -> Iterator[Draft]:
    """Changes in place, in an order in which each is allowed."""
    address, old, new = after.address, before.settings, after.settings
    if old["identity"] is not None and new["identity"] is None:
        yield _clause(address, "identity", "DROP IDENTITY", f"{address.name} takes no more numbers from its sequence")
    retyped = (old["type"], old["collation"]) != (new["type"], new["collation"])
    if retyped:
        yield retype(before, after, context)
    if old["generated"] != new["generated"]:
        yield _regenerate(before, after)
    if old["default"] is not None and new["default"] is None and new["generated"] is None:
        yield _set_default(address, None, old["default"], f"no default for {address.name}")
    if old["nullable"] != new["nullable"]:
        yield from _nullable(address, old["nullable"], new["nullable"], context)
    if new["identity"] is not None and old["identity"] != new["identity"]:
        yield _set_identity(address, old["identity"], new["identity"])
    if new["default"] is not None and old["default"] != new["default"]:
        yield _set_default(address, new["default"], old["default"], f"default of {address.name}")
    if old["storage"] != new["storage"] and not (retyped and new["storage"] is None):
        yield _storage(address, new["storage"] or types.default_storage(new["type"]), old["storage"])
    if old["compression"] != new["compression"]:
        words = [f"SET COMPRESSION {s['compression'] or 'DEFAULT'}" for s in (new, old)]
        yield _clause(address, "compression", words[0], f"compression of new values of {address.name}", undo=words[1])
    for field in _LATER:
        if old[field] != new[field]:
            yield from _CHANGES[field](address, old, new)


def _clause(address: Address, key: str, clause: str, summary: str, *, undo: str | None = None, **more: Any) -> Draft:
    column = f"ALTER COLUMN {sql.quote_ident(address.name)} "
    return alter(address, key, column + clause, summary, undo=column + undo if undo else None, **more)


def _set_default(address: Address, new: str | None, old: str | None, summary: str) -> Draft:
    do, undo = (f"SET DEFAULT {text}" if text is not None else "DROP DEFAULT" for text in (new, old))
    return _clause(address, "default", do, summary, undo=undo)


def _storage(address: Address, storage: str | None, old: str | None) -> Draft:
    summary = f"storage of new values of {address.name}"
    return _clause(
        address,
        "storage",
        f"SET STORAGE {(storage or 'default').upper()}",
        summary,
        undo=f"SET STORAGE {old.upper()}" if old else None,
    )


def _statistics(address: Address, old: Settings, new: Settings) -> Iterator[Draft]:
    do, undo = (f"SET STATISTICS {-1 if s['statistics'] is None else s['statistics']}" for s in (new, old))
    if old["statistics"] != new["statistics"]:
        summary = f"statistics target of {address.name}, used by the next ANALYZE"
        yield _clause(address, "statistics", do, summary, undo=undo, lock=SHARE_UPDATE_EXCLUSIVE)


def _options(address: Address, old: Settings, new: Settings) -> Iterator[Draft]:
    wanted = {k: v for k, v in new["options"].items() if old["options"].get(k) != v}
    gone = [k for k in old["options"] if k not in new["options"]]
    column = f"ALTER COLUMN {sql.quote_ident(address.name)} "
    clauses = [f"{column}RESET ({', '.join(gone)})"] if gone else []
    if wanted:
        clauses.append(f"{column}SET ({', '.join(f'{k} = {v}' for k, v in wanted.items())})")
    if clauses:
        summary = f"planner options of {address.name}, used by the next ANALYZE"
        yield alter(address, "options", ", ".join(clauses), summary, lock=SHARE_UPDATE_EXCLUSIVE)


def _comment(address: Address, old: Settings, new: Settings) -> Iterator[Draft]:
    what = f"COLUMN {sql.table_name(address)}.{sql.quote_ident(address.name)}"
    return comment_on(address, what, old, new, fresh=False)


_CHANGES = {"statistics": _statistics, "options": _options, "comment": _comment}


def _set_identity(address: Address, old: Settings | None, new: Settings) -> Draft:
    summary = f"{address.name} takes its numbers from a sequence of its own"
    if old is None:
        return _clause(address, "identity", f"ADD GENERATED {identity_sql(new)}", summary, undo="DROP IDENTITY")
    return _clause(address, "identity", _reset_identity(old, new), summary, undo=_reset_identity(new, old))


def _reset_identity(old: Settings, new: Settings) -> str:
    words = [f"SET GENERATED {_generation(new)}"] if old["generation"] != new["generation"] else []
    words += [f"SET {word} {new[name]}" for name, word in _SEQUENCE.items() if old[name] != new[name]]
    if old["cycle"] != new["cycle"]:
        words.append("SET CYCLE" if new["cycle"] else "SET NO CYCLE")
    return " ".join(words)


def _nullable(address: Address, old: Any, new: bool, context: Context) -> Iterator[Draft]:
    """NOT NULL is first proven by a CHECK that is validated without stopping anybody."""
    column = sql.quote_ident(address.name)
    if new:
        yield _clause(address, "not_null", "DROP NOT NULL", f"{address.name} may be NULL")
        return
    if old == "not valid":
        yield _prove_not_null(address)
        return
    name = sql.bounded("holdfast_not_null", table_of(address).name, address.name)
    check = sql.quote_ident(name)
    # An earlier run may have been interrupted after any of these steps.
    left, dropped = leftover(context, table_of(address).child("check", name))
    if left is None:
        yield alter(
            address,
            "not_null_check",
            f"ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID",
            f"refuse new NULLs in {address.name}",
            makes=dropped,
            undo=f"DROP CONSTRAINT IF EXISTS {check}",
        )
    if left is None or not left.settings["validated"]:
        yield alter(
            address,
            "not_null_validate",
            f"VALIDATE CONSTRAINT {check}",
            f"prove that {address.name} holds no NULL",
            lock=SHARE_UPDATE_EXCLUSIVE,
        )
    table = f"ALTER TABLE {sql.table_name(address)}"
    # One ALTER TABLE would drop the check before it looks for NULLs, and scan.
    body = [f"{table} ALTER COLUMN {column} SET NOT NULL", f"{table} DROP CONSTRAINT {check}"]
    yield Draft(
        object=address,
        action="alter",
        key="not_null",
        request=Sql(in_one_statement(body)),
        summary=f"{address.name} is NOT NULL; the proven check takes the place of a scan, and goes",
        makes=(address,),
        lock=ACCESS_EXCLUSIVE,
        undo=Sql(f"{table} ALTER COLUMN {column} DROP NOT NULL"),
    )


def _prove_not_null(address: Address) -> Draft:
    """PostgreSQL 18 knows NOT NULL constraints that were never checked; their names are the server's."""
    table = sql.quote_literal(sql.table_name(address))
    column = sql.quote_literal(address.name)
    body = (
        "DO $do$\nBEGIN\n  EXECUTE (\n"
        "  SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname)\n"
        "    FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]\n"
        f"   WHERE k.conrelid = {table}::regclass AND k.contype = 'n' AND a.attname = {column});\nEND\n$do$"
    )
    return Draft(
        object=address,
        action="alter",
        key="not_null_validate",
        request=Sql(body),
        summary=f"prove that {address.name} holds no NULL",
        makes=(address,),
        lock=SHARE_UPDATE_EXCLUSIVE,
    )


def _regenerate(before: Record, after: Record) -> Draft:
    address, new = after.address, after.settings["generated"]
    if new is None:
        summary = f"{address.name} keeps its values and is computed no more"
        return _clause(address, "generated", "DROP EXPRESSION", summary)
    hazards = (rewrite("the column is computed again for every row"),) if new["stored"] else ()
    old = before.settings["generated"]
    return _clause(
        address,
        "generated",
        f"SET EXPRESSION AS ({new['expression']})",
        f"expression of {address.name}",
        undo=f"SET EXPRESSION AS ({old['expression']})",
        hazards=hazards,
    )


def _rebuild(change: Change, before: Record, after: Record, context: Context) -> Iterator[Draft]:
    """Make way for something the column stands on, and come back; the values stay unless they are computed."""
    address, new = after.address, after.settings
    replaced = [a for a in before.refs if _is_replaced(a, context)]
    if before.settings["generated"] is not None or new["generated"] is not None:
        yield _drop(before, key="drop")
        yield from add(after, context)
        return
    if any(a.kind in ("enum", "domain", "type", "extension") for a in replaced):
        yield from _retype_around(before, after, context)
        return
    if before.settings["default"] is not None:
        old = before.settings["default"]
        yield replace(_set_default(address, None, old, f"take the default off {address.name}"), destroys=(address,))
    settings = {**before.settings, "default": None}
    drafts = list(_update(before._replace(settings=settings), after, context))
    yield from (replace(d, makes=(*d.makes, address)) if d.key == "default" else d for d in _distinct(drafts))


def _distinct(drafts: list[Draft]) -> Iterator[Draft]:
    for draft in drafts:
        yield replace(draft, key="default_again") if draft.key == "default" else draft


def _is_replaced(address: Address, context: Context) -> bool:
    change = context.changes.get(address)
    return change is not None and change.action in ("replace", "rebuild")


def _retype_around(before: Record, after: Record, context: Context) -> Iterator[Draft]:
    """Pass through text while the column's type is replaced."""
    address, old, new = after.address, before.settings, after.settings
    column, name = f"ALTER COLUMN {sql.quote_ident(address.name)} ", sql.quote_ident(address.name)
    array = "[]" if old["type"].endswith("[]") else ""
    off = f"{column}DROP DEFAULT, " if old["default"] is not None else ""
    on = f", {column}SET DEFAULT {new['default']}" if new["default"] is not None else ""
    hazard = rewrite("the column's type is replaced: every row is written twice")
    yield alter(
        address,
        "leave_type",
        f"{off}{column}TYPE text{array} USING {name}::text{array}",
        f"keep the values of {address.name} as text while its type is replaced",
        destroys=(address,),
        hazards=(hazard,),
    )
    yield alter(
        address,
        "type",
        f"{column}TYPE {new['type']} USING {name}::{new['type']}{on}",
        f"give {address.name} its new type",
        makes=(address,),
        hazards=(hazard,),
    )
    settings = {**old, **{k: new[k] for k in ("type", "default", "collation")}}
    yield from _update(before._replace(settings=settings), after, context)
