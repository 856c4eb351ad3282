"""How foreign keys are made, changed and dropped. Every form locks both tables; the safe ones only for a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from provision.postgres import sql
from provision.postgres.kinds.check import comments, drop_constraint, swap_constraint
from provision.postgres.kinds.key_constraint import deferral
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    alter,
    blocking,
    chain,
    has_constraint,
    is_fresh,
    is_partitioned,
    leaf_names,
    makes_way,
    table_of,
)
from provision.postgres.references import split_name
from provision.spec.change import Change, Context, Draft, Sql
from provision.spec.ident import Address
from provision.spec.record import Record

#: From 18 on, a foreign key of a partitioned table can be added NOT VALID.
_PARTITIONED_NOT_VALID_SINCE = 18
_WORDS = {"restrict": "RESTRICT", "cascade": "CASCADE", "set_null": "SET NULL", "set_default": "SET DEFAULT"}
_GOING = ("delete", "replace", "rebuild")
_KEYS = ("primary_key", "unique", "index")


def clause(record: Record) -> str:
    """The constraint as ADD CONSTRAINT takes it."""
    s = record.settings
    text = f"CONSTRAINT {sql.quote_ident(record.address.name)} FOREIGN KEY {_columns(s['columns'], s['period'])}"
    text += f" REFERENCES {s['references']}"
    if s["referenced_columns"] is not None:
        text += f" {_columns(s['referenced_columns'], s['period'])}"
    if s["match"] == "full":
        text += " MATCH FULL"
    if s["on_update"] != "no_action":
        text += f" ON UPDATE {_WORDS[s['on_update']]}"
    if s["on_delete"] != "no_action":
        text += f" ON DELETE {_WORDS[s['on_delete']]}"
        if s["on_delete_columns"] is not None:
            text += f" {sql.columns(s['on_delete_columns'])}"
    return text + deferral(s) + ("" if s["enforced"] else " NOT ENFORCED")


def _columns(names: list[str], period: bool) -> str:
    if not period:
        return sql.columns(names)
    return f"({', '.join([*map(sql.quote_ident, names[:-1]), f'PERIOD {sql.quote_ident(names[-1])}'])})"


def goes_first(address: Address, context: Context) -> bool:
    """Whether a live foreign key must be dropped by itself: its table and the one it refers to both go."""
    record = context.live.get(address)
    if address.kind != "foreign_key" or record is None or not _goes(table_of(address), context):
        return False
    other = _referenced(record)
    return other != table_of(address) and _goes(other, context)


def _goes(address: Address, context: Context) -> bool:
    change = context.changes.get(address)
    return change is not None and change.action in _GOING


def _referenced(record: Record) -> Address:
    schema, name = split_name(record.settings["references"])
    address = record.address
    return Address.root("pg", address.target, "schema", schema, bare=True).child("table", name, bare=True)


def lower(change: Change, context: Context) -> tuple[Draft, ...]:
    """The steps for one foreign key."""
    address, before, after = change.address, change.before, change.after
    if after is None:
        return (drop_constraint(address),)
    fresh = is_fresh(context, table_of(address))
    commented = comments(after, fresh=fresh)
    made = _needing_keys(_add_fresh(after, context) if fresh else _add(after, context), after, context)
    if before is None or fresh:
        first = (drop_constraint(address, "drop"),) if before is not None and goes_first(address, context) else ()
        return chain((*first, *made, *commented))
    if change.action == "rebuild" or makes_way(before, context):
        return chain((drop_constraint(address, "drop"), *made, *commented))
    if change.action == "replace":
        return chain((*_swap(after, context), *commented))
    return chain(_update(before, after))


def _needing_keys(drafts: Iterable[Draft], after: Record, context: Context) -> Iterator[Draft]:
    """The server leans a constraint on any key that fits: those made anew must stand, or it takes the old one."""
    keys = [r.address for r in context.desired.children(_referenced(after)) if r.address.kind in _KEYS]
    moving = tuple(a for a in keys if a in context.changes)
    for draft in drafts:
        yield replace(draft, needs=(*draft.needs, *moving)) if moving else draft


def _add_fresh(after: Record, context: Context) -> Iterator[Draft]:
    """On a table without rows there is nothing to prove; an existing table referred to is locked for a moment."""
    other = _referenced(after)
    alone = is_fresh(context, other)
    unproven = " NOT VALID" if after.settings["enforced"] and not after.settings["validated"] else ""
    yield alter(
        after.address,
        "",
        f"ADD {clause(after)}{unproven}",
        f"add foreign key {after.address.name}",
        action="create",
        makes=(after.address,),
        lock=None if alone else SHARE_ROW_EXCLUSIVE,
        fresh=alone,
        undo=f"DROP CONSTRAINT {sql.quote_ident(after.address.name)}",
    )


def _add(after: Record, context: Context) -> Iterator[Draft]:
    address, s = after.address, after.settings
    table = table_of(address)
    if is_partitioned(context, table) and context.facts(address).version[0] < _PARTITIONED_NOT_VALID_SINCE:
        yield from _add_leaf_by_leaf(after, context)
        return
    yield alter(
        address,
        "",
        f"ADD {clause(after)}" + (" NOT VALID" if s["enforced"] else ""),
        f"add foreign key {address.name} for new rows",
        action="create",
        makes=(address,),
        lock=SHARE_ROW_EXCLUSIVE,
        undo=f"DROP CONSTRAINT {sql.quote_ident(address.name)}",
        done_if=has_constraint(address, address.name),
    )
    if s["enforced"] and s["validated"]:
        yield _validate(address)


def _validate(address: Address) -> Draft:
    """The referenced table is locked ROW SHARE, which stops nobody."""
    return alter(
        address,
        "validate",
        f"VALIDATE CONSTRAINT {sql.quote_ident(address.name)}",
        f"prove {address.name} for the rows that exist",
        lock=SHARE_UPDATE_EXCLUSIVE,
        done_if=has_constraint(address, address.name, "k.convalidated"),
    )


def _add_leaf_by_leaf(after: Record, context: Context) -> Iterator[Draft]:
    """The parent takes over proven constraints of its partitions and scans nothing."""
    address = after.address
    name = sql.quote_ident(address.name)
    for leaf in leaf_names(context, table_of(address)):
        found = (
            f"SELECT FROM pg_constraint WHERE conrelid = {sql.quote_literal(leaf)}::regclass"
            f" AND conname = {sql.quote_literal(address.name)} AND contype = 'f'"
        )
        add = f"ALTER TABLE {leaf} ADD {clause(after)} NOT VALID"
        # A run that was interrupted has left some of them, which no observation shows.
        yield Draft(
            object=address,
            action="create",
            key=f"add {leaf}",
            request=Sql(f"DO $do$\nBEGIN\n  IF NOT EXISTS ({found}) THEN\n    {add};\n  END IF;\nEND\n$do$"),
            summary=f"add {address.name} to partition {leaf} for new rows",
            lock=SHARE_ROW_EXCLUSIVE,
            undo=Sql(f"ALTER TABLE {leaf} DROP CONSTRAINT IF EXISTS {name}"),
        )
        yield Draft(
            object=address,
            action="create",
            key=f"validate {leaf}",
            request=Sql(f"ALTER TABLE {leaf} VALIDATE CONSTRAINT {name}"),
            summary=f"prove {address.name} for the rows of partition {leaf}",
            lock=SHARE_UPDATE_EXCLUSIVE,
        )
    yield alter(
        address,
        "",
        f"ADD {clause(after)}",
        f"add foreign key {address.name} over the proven ones of the partitions",
        action="create",
        makes=(address,),
        lock=ACCESS_EXCLUSIVE,
        undo=f"DROP CONSTRAINT {name}",
        done_if=has_constraint(address, address.name),
    )


def _swap(after: Record, context: Context) -> Iterator[Draft]:
    address, s = after.address, after.settings
    if is_partitioned(context, table_of(address)) and context.facts(address).version[0] < 18:
        yield drop_constraint(address, "drop")
        yield from _add_leaf_by_leaf(after, context)
        return
    yield swap_constraint(after, clause(after), "foreign key")
    if s["enforced"] and s["validated"]:
        yield _validate(address)


def _update(before: Record, after: Record) -> Iterator[Draft]:
    address, old, new = after.address, before.settings, after.settings
    name = sql.quote_ident(address.name)
    if deferral(old) != deferral(new):
        words = [f"ALTER CONSTRAINT {name}{deferral(s) or ' NOT DEFERRABLE'}" for s in (new, old)]
        summary = f"when {address.name} is checked"
        yield alter(address, "deferrable", words[0], summary, undo=words[1])
    if old["enforced"] != new["enforced"]:
        words = [f"ALTER CONSTRAINT {name} {'' if s['enforced'] else 'NOT '}ENFORCED" for s in (new, old)]
        scan = (blocking("every row is checked while both tables are locked"),) if new["enforced"] else ()
        summary = f"{address.name} is {'checked' if new['enforced'] else 'no longer checked'}"
        yield alter(address, "enforced", words[0], summary, undo=words[1], hazards=scan)
    elif old["validated"] != new["validated"]:
        yield _validate(address)
    yield from comments(after, old)
