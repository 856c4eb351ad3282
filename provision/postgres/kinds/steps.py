"""How the kinds inside a table make their steps: ALTER TABLE drafts, the usual hazards, and what the plan remakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from provision.postgres import sql
from provision.spec.change import Change, Context, Draft, Hazard, Sql
from provision.spec.ident import Address
from provision.spec.record import Plane, Record, Settings

if TYPE_CHECKING:
    from provision.postgres.references import Token

#: Names of table locks (PostgreSQL docs, 13.3.1) as they stand in plans.
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
SHARE = "SHARE"
SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
ACCESS_SHARE = "ACCESS SHARE"
_NAMES = ("word", "quoted")
#: Kinds whose objects are never printed without their schema.
_IN_SCHEMA = ("enum", "domain", "type", "function")
_EXTENSIONS: WeakKeyDictionary[Plane, tuple[Address, ...]] = WeakKeyDictionary()


def makes_way(before: Record, context: Context) -> bool:
    """Whether something that a live object stands on is dropped and made again, so that the object goes first."""
    found = (context.changes.get(a) for a in (*before.refs, *before.rigid))
    return any(c is not None and c.action in ("replace", "rebuild") for c in found)


def table_of(address: Address) -> Address:
    """The table that a column, constraint, index or partition set belongs to."""
    return address._replace(kind="table", path=address.path[:2])


def is_fresh(context: Context, table: Address) -> bool:
    """Whether the plan creates the table, so that nothing can wait for a lock on it."""
    change = context.changes.get(table)
    return change is not None and change.action in ("create", "replace", "rebuild")


def is_partitioned(context: Context, table: Address) -> bool:
    """Whether the live table is partitioned."""
    found = context.live.get(table)
    return found is not None and found.settings["partitioned"] is not None


def leftover(context: Context, address: Address) -> tuple[Record | None, tuple[Address, ...]]:
    """What an interrupted run left under a working name.

    If the plan drops it anyway, nothing is left; whoever then takes the name names the second part among what it
    makes, so that the drop comes first.
    """
    found = context.live.get(address)
    change = context.changes.get(address)
    if found is not None and change is not None and change.after is None:
        return None, (address,)
    return found, ()


def extensions(context: Context) -> tuple[Address, ...]:
    """All declared extensions: which of them gives a type, a method or an operator class, only the server knows."""
    plane = context.desired
    if plane not in _EXTENSIONS:
        _EXTENSIONS[plane] = tuple(r.address for r in plane.of_kind("extension"))
    return _EXTENSIONS[plane]


def leaf_names(context: Context, table: Address) -> list[str]:
    """The quoted names of the live partitions that hold rows, at any depth."""
    found = context.live.get(table.child("partitions", "set"))
    if found is None:
        return []
    deeper = found.settings["subpartitioned"]
    below = ((name, deeper.get(name)) for name in found.settings["members"])
    return [leaf for name, leaves in below for leaf in (leaves or [member_name(table, name)])]


def has_subpartitions(context: Context, table: Address) -> bool:
    found = context.live.get(table.child("partitions", "set"))
    return found is not None and bool(found.settings["subpartitioned"])


def member_name(table: Address, member: str) -> str:
    """The quoted name of a partition: its schema is the table's unless the member names one."""
    return member if '"."' in member else sql.qualified(table.names[0], member)


def alter(
    address: Address,
    key: str,
    clause: str,
    summary: str,
    *,
    lock: str | None = ACCESS_EXCLUSIVE,
    undo: str | None = None,
    action: str = "alter",
    only: bool = False,
    **points: Any,
) -> Draft:
    """``ALTER TABLE … clause`` on the table of an address; ``points`` are further fields of the Draft."""
    table = f"ALTER TABLE {'ONLY ' if only else ''}{sql.table_name(address)}"
    return Draft(
        object=address,
        action=action,
        key=key,
        request=Sql(f"{table} {clause}"),
        summary=summary,
        lock=lock,
        undo=Sql(f"{table} {undo}") if undo is not None else None,
        **points,
    )


def comment_on(
    address: Address,
    what: str,
    before: Settings | None,
    after: Settings,
    *,
    fresh: bool,
    lock: str = SHARE_UPDATE_EXCLUSIVE,
) -> Iterator[Draft]:
    """``COMMENT ON`` where the comments differ; ``before`` is None for a new object."""
    old, new = (before or {}).get("comment"), after["comment"]
    if old == new:
        return
    yield Draft(
        object=address,
        action="create" if fresh else "alter",
        key="comment",
        request=_comment(what, new),
        summary=f"comment on {address.name}",
        lock=None if fresh else lock,
        fresh=fresh,
        undo=None if fresh else _comment(what, old),
    )


def _comment(what: str, text: str | None) -> Sql:
    return Sql(f"COMMENT ON {what} IS {sql.quote_literal(text) if text else 'NULL'}")


def has_constraint(address: Address, name: str, condition: str = "true") -> str:
    """SQL that says whether the table of an address has a constraint of that name that meets the condition."""
    table = sql.quote_literal(sql.table_name(address))
    return (
        f"SELECT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = to_regclass({table})"
        f" AND k.conname = {sql.quote_literal(name)} AND {condition})"
    )


def chain(drafts: Iterable[Draft]) -> tuple[Draft, ...]:
    """Let each draft follow the one before it."""
    result: list[Draft] = []
    for draft in drafts:
        if result:
            draft = replace(draft, follows=(*draft.follows, result[-1].key))
        result.append(draft)
    return tuple(result)


def all_fresh(drafts: Iterable[Draft]) -> Iterator[Draft]:
    """Drafts on a table that the plan creates: no lock that anybody could wait for, and no hazard."""
    for draft in drafts:
        yield replace(draft, lock=None, fresh=True, hazards=())


def blocking(detail: str) -> Hazard:
    """The step holds its lock for as long as it reads or writes the table."""
    return Hazard("blocking", detail)


def rewrite(detail: str) -> Hazard:
    """The step writes the whole table again, under ACCESS EXCLUSIVE."""
    return Hazard("rewrite", detail)


def rows_lost(table: Address, detail: str) -> Hazard:
    """All rows of a table are lost."""
    return Hazard("data_loss", detail, probe={"sql": f"SELECT count(*) FROM {sql.table_name(table)}"})


def values_lost(column: Address, detail: str) -> Hazard:
    """The values of a column are lost; rows where it is NULL lose nothing."""
    query = f"SELECT count({sql.quote_ident(column.name)}) FROM {sql.table_name(column)}"
    return Hazard("data_loss", detail, probe={"sql": query})


def child_changes(context: Context, table: Address, wanted: Callable[[Change], bool]) -> list[Address]:
    """The changes of everything below a table, on either side, that ``wanted`` takes."""
    found: dict[Address, None] = {}
    pending = [table]
    while pending:
        parent = pending.pop()
        for plane in (context.desired, context.live):
            for record in plane.children(parent):
                if record.address in found:
                    continue
                change = context.changes.get(record.address)
                if change is not None and wanted(change):
                    found[record.address] = None
                pending.append(record.address)
    return list(found)


def retitled(value: Any, old: str, new: str) -> Any:
    """Replace a name wherever it stands as a whole value in lists and dicts."""
    if isinstance(value, str):
        return new if value == old else value
    if isinstance(value, list):
        return [retitled(v, old, new) for v in value]
    if isinstance(value, dict):
        return {k: retitled(v, old, new) for k, v in value.items()}
    return value


def retitled_sql(text: str | None, old: Address, new: Address) -> str | None:
    """Replace the name of a renamed column, relation, type, function or schema in deparsed SQL text."""
    from provision.postgres.references import name_of, tokens

    if text is None:
        return None
    parts, position, found = [], 0, list(tokens(text))
    for index, token in enumerate(found):
        if token.kind in _NAMES and name_of(token) == old.name and _may_mean(found, index, old):
            parts += [text[position : token.start], sql.quote_ident(new.name)]
            position = token.end
    return "".join((*parts, text[position:]))


def _may_mean(found: Sequence[Token], index: int, renamed: Address) -> bool:
    """Whether the name at ``index`` may stand for the object: a type is often named like the column that has it.

    Under search_path = pg_catalog a server prints types and functions with their schema, columns at most with
    their table (PostgreSQL docs, 54.10 and ruleutils.c).
    """
    from provision.postgres.references import name_of

    follows = found[index + 1].text if index + 1 < len(found) else ""
    qualified = index > 1 and found[index - 1].text == "." and found[index - 2].kind in _NAMES
    if renamed.kind == "schema":
        return not qualified and follows == "."
    if renamed.kind in _IN_SCHEMA:
        return qualified and name_of(found[index - 2]) == renamed.names[0]
    is_cast = qualified and index > 2 and found[index - 3].text == "::"
    return follows != "(" and not (is_cast and renamed.kind == "column")
