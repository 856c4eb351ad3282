"""How tables are made, changed and dropped. CREATE TABLE takes columns, keys, checks and partitions with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from provision.postgres import sql
from provision.postgres.kinds import check, column_change, key_constraint, partition_change
from provision.postgres.kinds.foreign_key_change import goes_first
from provision.postgres.kinds.ownership import Noun, attributes, role_refs
from provision.postgres.kinds.partition_key import partition_by
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    all_fresh,
    alter,
    chain,
    child_changes,
    comment_on,
    extensions,
    is_partitioned,
    leaf_names,
    member_name,
    rewrite,
    rows_lost,
)
from provision.spec.change import Change, Context, Draft, Hazard, Lowered, Sql
from provision.spec.ident import Address
from provision.spec.record import Record, Settings

_INLINE = ("column", "primary_key", "unique", "check")
#: Keys that agree in these are one to CREATE TABLE.
_ONE_INDEX = ("columns", "include", "nulls_not_distinct", "deferrable", "initially_deferred")


def lower(change: Change, context: Context) -> Lowered:
    """Steps for a table, and the changes of its parts that they take care of."""
    address, before, after = change.address, change.before, change.after
    if after is None:
        return _drop(address, context, key="")
    if before is None:
        return _create(after, context)
    if change.action in ("replace", "rebuild"):
        gone, made = _drop(address, context, key="drop"), _create(after, context)
        rest = tuple(a for a in gone.absorbs if a not in made.absorbs)
        return Lowered((*gone.drafts, *made.drafts), (*made.absorbs, *rest))
    drafts = [_rename(before.address, address)] if change.action == "rename" else []
    return Lowered(chain((*drafts, *_update(before, after, context))), (address,))


def _create(after: Record, context: Context) -> Lowered:
    address = after.address
    parts = [r for r in context.desired.children(address) if r.address.kind in _INLINE]
    inline = [r for r in _apart(parts) if r.address.kind != "check" or check.is_inline(r)]
    split = context.desired.get(address.child("partitions", "set"))
    absorbed = (address, *(r.address for r in inline), *((split.address,) if split is not None else ()))
    create = Draft(
        object=address,
        action="create",
        request=Sql(create_table(after, inline, context.facts(address).version[0])),
        summary=f"create table {address.name}",
        makes=absorbed,
        needs=extensions(context),
        fresh=True,
        undo=Sql(f"DROP TABLE {sql.table_name(address)}"),
    )
    drafts = [create, *_after_creation(after, inline, context)]
    if split is not None:
        drafts += partition_change.fresh_members(split, after, context.facts(address).options.get("role"))
    return Lowered(tuple(drafts), absorbed)


def _apart(parts: Iterable[Record]) -> Iterator[Record]:
    """Leave out keys equal to one before them: CREATE TABLE makes only one of both (transformIndexConstraints)."""
    seen: list[Settings] = []
    for record in parts:
        if record.address.kind in ("primary_key", "unique"):
            index = {k: record.settings.get(k) or False for k in _ONE_INDEX}
            if index in seen:
                continue
            seen.append(index)
        yield record


def create_table(table: Record, parts: list[Record], major: int) -> str:
    """The statement for a table with its columns and constraints."""
    s = table.settings
    lines = [column_change.definition(r, major) for r in parts if r.address.kind == "column"]
    lines += [key_constraint.clause(r) for r in parts if r.address.kind in ("primary_key", "unique")]
    lines += [check.clause(r) for r in parts if r.address.kind == "check"]
    body = "".join(f"\n  {line}," for line in lines).removesuffix(",")
    text = f"CREATE {'UNLOGGED ' if s['unlogged'] else ''}TABLE {sql.table_name(table.address)} ({body}\n)"
    if s["partitioned"] is not None:
        text += "\n" + partition_by(s["partitioned"])
    if s["access_method"] is not None:
        text += f"\nUSING {sql.quote_ident(s['access_method'])}"
    if s["storage"] and s["partitioned"] is None:
        text += f"\nWITH ({parameters(s['storage'])})"
    if s["tablespace"] is not None:
        text += f"\nTABLESPACE {sql.quote_ident(s['tablespace'])}"
    return text


def parameters(storage: Settings) -> str:
    """``fillfactor = 85, autovacuum_enabled = false``."""
    return ", ".join(f"{name} = {parameter(value)}" for name, value in storage.items())


def parameter(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return sql.quote_literal(str(value)) if isinstance(value, str | float) else str(value)


def _after_creation(after: Record, inline: list[Record], context: Context) -> Iterator[Draft]:
    """What CREATE TABLE has no words for."""
    address, s = after.address, after.settings
    major = context.facts(address).version[0]
    for part in inline:
        if part.address.kind == "column":
            drafts = column_change.after_creation(part, major)
        elif part.address.kind == "check":
            drafts = check.comments(part, fresh=True)
        else:
            drafts = key_constraint.after_creation(part)
        yield from all_fresh(replace(d, needs=(*d.needs, address)) for d in drafts)
    noun = Noun("TABLE", sql.table_name(address))
    maker: Settings = {"owner": context.facts(address).options.get("role"), "comment": None}
    yield from attributes(noun, address, maker, s, fresh=True, follows=("",))
    if s["replica_identity"] != "default":
        yield from all_fresh([replace(_replica_identity(address, s, None), follows=("",))])
    for draft in _row_security(address, None, s["row_security"], context):
        yield replace(draft, lock=None, fresh=True, follows=("",))


def _drop(address: Address, context: Context, key: str) -> Lowered:
    """DROP TABLE takes everything in the table along, but foreign keys to tables that go too: they go first."""
    gone = [a for a in child_changes(context, address, lambda c: c.after is None) if not goes_first(a, context)]
    below: list[Address] = []
    pending = [address]
    while pending:
        found = [r.address for r in context.live.children(pending.pop())]
        below += found
        pending += found
    draft = Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP TABLE {sql.table_name(address)}"),
        summary=f"drop table {address.name}",
        destroys=(address, *(a for a in below if not goes_first(a, context))),
        lock=ACCESS_EXCLUSIVE,
        hazards=(rows_lost(address, f"all rows of {address.name} are lost"),),
    )
    return Lowered((draft,), (address, *gone))


def _rename(old: Address, new: Address) -> Draft:
    names = sql.quote_ident(old.name), sql.quote_ident(new.name)
    return Draft(
        object=new,
        action="rename",
        key="rename",
        request=Sql(f"ALTER TABLE {sql.table_name(old)} RENAME TO {names[1]}"),
        summary=f"rename table {old.name} to {new.name}",
        makes=(new,),
        destroys=(old,),
        lock=ACCESS_EXCLUSIVE,
        undo=Sql(f"ALTER TABLE {sql.qualified(old.names[0], new.name)} RENAME TO {names[0]}"),
    )


def _update(before: Record, after: Record, context: Context) -> Iterator[Draft]:
    address, old, new = after.address, before.settings, after.settings
    yield from _rewritten(address, old, new)
    if old["storage"] != new["storage"] or old["deviating"] != new["deviating"]:
        yield from _storage(address, old, new, context)
    if old["replica_identity"] != new["replica_identity"]:
        yield _replica_identity(address, new, old)
    if old["row_security"] != new["row_security"]:
        yield from _row_security(address, old["row_security"], new["row_security"], context)
    owner = {**old, "comment": new["comment"]}
    noun = Noun("TABLE", sql.table_name(address))
    yield from attributes(noun, address, owner, new, fresh=False, follows=())
    if new["owner"] is not None and new["owner"] != old["owner"]:
        yield from _leaf_owners(address, old["owner"], new["owner"], context)
    yield from comment_on(address, str(noun), old, new, fresh=False)


def _leaf_owners(address: Address, old: str | None, new: str, context: Context) -> Iterator[Draft]:
    """Partitions keep their owner when that of the table changes."""
    for leaf in leaf_names(context, address):
        yield Draft(
            object=address,
            action="alter",
            key=f"owner {leaf}",
            request=Sql(f"ALTER TABLE {leaf} OWNER TO {sql.quote_ident(new)}"),
            summary=f"give partition {leaf} to {new}",
            needs=role_refs(address.target, new),
            lock=ACCESS_EXCLUSIVE,
            undo=Sql(f"ALTER TABLE {leaf} OWNER TO {sql.quote_ident(old)}") if old is not None else None,
        )


def _rewritten(address: Address, old: Settings, new: Settings) -> Iterator[Draft]:
    """Options whose change writes the whole table again."""
    if old["unlogged"] != new["unlogged"]:
        words = ["SET UNLOGGED" if s["unlogged"] else "SET LOGGED" for s in (new, old)]
        hazard = rewrite("the whole table and its indexes are written again")
        yield alter(address, "unlogged", words[0], words[0].lower(), undo=words[1], hazards=(hazard,))
    if old["tablespace"] != new["tablespace"]:
        words = [f"SET TABLESPACE {sql.quote_ident(s['tablespace'] or 'pg_default')}" for s in (new, old)]
        hazard = rewrite("the whole table is copied to another tablespace")
        summary = f"move {address.name} to tablespace {new['tablespace'] or 'pg_default'}"
        yield alter(address, "tablespace", words[0], summary, undo=words[1], hazards=(hazard,))
    if old["access_method"] != new["access_method"]:
        words = [f"SET ACCESS METHOD {sql.quote_ident(s['access_method'] or 'heap')}" for s in (new, old)]
        hazard = rewrite("the whole table is written again by another access method")
        summary = f"access method of {address.name}: {new['access_method'] or 'heap'}"
        yield alter(address, "access_method", words[0], summary, undo=words[1], hazards=(hazard,))


def _storage(address: Address, old: Settings, new: Settings, context: Context) -> Iterator[Draft]:
    """SET and RESET storage parameters; on a partitioned table they belong to the partitions."""
    if not is_partitioned(context, address):
        clause = _set_and_reset(old["storage"], new["storage"])
        undo = _set_and_reset(new["storage"], old["storage"])
        summary = f"storage parameters of {address.name}"
        yield alter(address, "storage", clause, summary, undo=undo, lock=SHARE_UPDATE_EXCLUSIVE)
        return
    for leaf, found in _leaf_storage(address, old, context):
        if found != new["storage"]:
            yield Draft(
                object=address,
                action="alter",
                key=f"storage {leaf}",
                request=Sql(f"ALTER TABLE {leaf} {_set_and_reset(found, new['storage'])}"),
                summary=f"storage parameters of partition {leaf}",
                lock=SHARE_UPDATE_EXCLUSIVE,
                undo=Sql(f"ALTER TABLE {leaf} {_set_and_reset(new['storage'], found)}"),
            )


def _leaf_storage(address: Address, old: Settings, context: Context) -> Iterator[tuple[str, Settings]]:
    deviating = {member_name(address, k): v for k, v in old["deviating"].items()}
    for leaf in leaf_names(context, address):
        usual: Settings = old["storage"] or {}
        yield leaf, deviating.get(leaf, usual)


def _set_and_reset(old: Settings, new: Settings) -> str:
    wanted = {k: v for k, v in new.items() if old.get(k) != v}
    gone = [k for k in old if k not in new]
    clauses = [f"RESET ({', '.join(gone)})"] if gone else []
    if wanted:
        clauses.append(f"SET ({parameters(wanted)})")
    return ", ".join(clauses)


def _replica_identity(address: Address, new: Settings, old: Settings | None) -> Draft:
    """ACCESS EXCLUSIVE, but brief: a flag of the catalog."""
    wanted = new["replica_identity"]
    index = wanted.get("index") if isinstance(wanted, dict) else None
    carriers = (address.child(kind, index) for kind in ("index", "primary_key", "unique")) if index else ()
    return alter(
        address,
        "replica_identity",
        f"REPLICA IDENTITY {_identity_sql(wanted)}",
        f"replica identity of {address.name}",
        undo=f"REPLICA IDENTITY {_identity_sql(old['replica_identity'])}" if old is not None else None,
        needs=tuple(carriers),
    )


def _identity_sql(wanted: str | Settings) -> str:
    if isinstance(wanted, str):
        return wanted.upper()
    return f"USING INDEX {sql.quote_ident(wanted['index'])}"


def _row_security(address: Address, old: Settings | None, new: Settings, context: Context) -> Iterator[Draft]:
    """Row-level security goes on when its policies are there: without any, it hides every row."""
    old = old or {"enabled": False, "force": False}
    policies = tuple(r.address for r in context.desired.children(address, "policy"))
    if old["force"] != new["force"]:
        words = [f"{'FORCE' if s['force'] else 'NO FORCE'} ROW LEVEL SECURITY" for s in (new, old)]
        opens = () if new["force"] else (Hazard("security", "policies no longer bind the owner of the table"),)
        yield alter(
            address, "force_row_security", words[0], words[0].lower(), undo=words[1], needs=policies, hazards=opens
        )
    if old["enabled"] != new["enabled"]:
        words = [f"{'ENABLE' if s['enabled'] else 'DISABLE'} ROW LEVEL SECURITY" for s in (new, old)]
        needs = policies if new["enabled"] else ()
        opens = () if new["enabled"] else (Hazard("security", "policies no longer keep rows apart"),)
        yield alter(address, "row_security", words[0], words[0].lower(), undo=words[1], needs=needs, hazards=opens)
