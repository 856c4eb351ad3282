"""How indexes are made, changed, replaced and dropped while the table is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from provision.postgres import sql
from provision.postgres.kinds import index_build
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    chain,
    comment_on,
    extensions,
    is_fresh,
    is_partitioned,
    leftover,
    makes_way,
    table_of,
)
from provision.spec.change import Change, Context, Draft, Sql
from provision.spec.ident import Address
from provision.spec.record import Record, Settings

#: What changes without building the index again; ``valid`` and ``missing`` are states to be mended.
IN_PLACE = frozenset(("storage", "statistics", "clustered", "comment", "valid", "missing"))
IN_PLACE_STORAGE = frozenset(
    "fillfactor fastupdate gin_pending_list_limit deduplicate_items autosummarize buffering".split()
)
SpecOf = Callable[[Mapping[str, Any]], index_build.Spec]


def lower(change: Change, spec_of: SpecOf, context: Context) -> tuple[Draft, ...]:
    """The steps for one index; ``spec_of`` gives its parts as SQL."""
    return chain(_needing(_lower(change, spec_of, context), context))


def _lower(change: Change, spec_of: SpecOf, context: Context) -> Iterator[Draft]:
    address, before, after = change.address, change.before, change.after
    if after is None:
        yield _drop(address, context, "")
        return
    spec = spec_of(after.settings)
    if is_fresh(context, table_of(address)):
        yield _create_fresh(address, spec)
        yield from _rest(after, fresh=True)
    elif before is not None and change.action not in ("rebuild", "replace"):
        yield from _update(before, after, spec, context)
    else:
        if before is None:
            yield from _create(address, spec, context)
        elif change.action == "replace" and not (_columns_change(before, context) or makes_way(before, context)):
            yield from _replace(address, spec, context)
        else:
            yield _drop(address, context, "drop")
            yield from _create_again(address, spec, context)
        yield from _rest(after, fresh=False)


def _needing(drafts: Iterable[Draft], context: Context) -> Iterator[Draft]:
    """Methods and operator classes may come from an extension."""
    for draft in drafts:
        builds = draft.key.startswith("build")
        yield replace(draft, needs=(*draft.needs, *extensions(context))) if builds else draft


def _columns_change(before: Record, context: Context) -> bool:
    """Whether a column of the index gets another type: the old index must go before, the new one come after."""
    found = (context.changes.get(a) for a in before.refs if a.kind == "column")
    return any(c is not None and {"type", "collation"} & set(c.fields) for c in found)


def _create_fresh(address: Address, spec: index_build.Spec) -> Draft:
    return Draft(
        object=address,
        action="create",
        key="build",
        request=Sql(index_build.create_sql(spec, address.name, sql.table_name(address))),
        summary=f"create index {address.name}",
        makes=(address,),
        fresh=True,
        undo=Sql(f"DROP INDEX {_name(address)}"),
    )


def _create(address: Address, spec: index_build.Spec, context: Context) -> Iterator[Draft]:
    """What an interrupted replacement left behind under its working name becomes the index, or goes."""
    working = index_build.successor(address.name)
    left, _ = leftover(context, table_of(address).child("index", working))
    if left is not None and index_build.fits(left.settings, spec):
        yield _take_name(address, working, SHARE_UPDATE_EXCLUSIVE)
        return
    if is_partitioned(context, table_of(address)):
        if left is not None:
            yield replace(_drop(left.address, context, "clear"), object=address, destroys=())
        yield from index_build.on_parent(address, spec, address.name, context, makes=(address,))
        return
    if left is not None:
        summary = f"clear what is left of an earlier index {working}"
        yield index_build.drop_concurrently(address, working, "clear", summary)
    yield from index_build.concurrently(address, spec, address.name, context, makes=(address,))


def _replace(address: Address, spec: index_build.Spec, context: Context) -> Iterator[Draft]:
    """Build the new index, drop the old one, give it its name: queries never lack an index."""
    working = index_build.successor(address.name)
    left, _ = leftover(context, table_of(address).child("index", working))
    if is_partitioned(context, table_of(address)):
        yield from index_build.on_parent(address, spec, working, context)
    else:
        yield from index_build.concurrently(address, spec, working, context)
    yield _drop(address, context, "drop")
    reused = left is not None and index_build.fits(left.settings, spec)
    yield _take_name(address, working, SHARE_UPDATE_EXCLUSIVE if reused else None)


def _take_name(address: Address, working: str, lock: str | None = None) -> Draft:
    schema = address.names[0]
    return Draft(
        object=address,
        action="rename",
        key="rename",
        request=Sql(f"ALTER INDEX {sql.qualified(schema, working)} RENAME TO {sql.quote_ident(address.name)}"),
        summary=f"the new index takes the name {address.name}",
        makes=(address,),
        lock=lock,
        done_if=f"SELECT {sql.regclass(schema, working)} IS NULL",
    )


def _drop(address: Address, context: Context, key: str) -> Draft:
    if not is_partitioned(context, table_of(address)):
        summary = f"drop index {address.name} beside the traffic"
        return index_build.drop_concurrently(address, address.name, key, summary, destroys=(address,))
    return Draft(
        object=address,
        action="drop",
        key=key,
        request=Sql(f"DROP INDEX {_name(address)}"),
        summary=f"drop index {address.name} of the table and its partitions",
        destroys=(address,),
        lock=ACCESS_EXCLUSIVE,
    )


def _rest(after: Record, *, fresh: bool) -> Iterator[Draft]:
    """What CREATE INDEX has no words for. The index is new, but its table may not be."""
    blank: Settings = {"statistics": {}, "clustered": False, "comment": None}
    for draft in _attributes(after.address, blank, after.settings):
        lock = draft.lock if draft.key == "clustered" and not fresh else None
        yield replace(draft, lock=lock, fresh=fresh)


def _attributes(address: Address, old: Settings, new: Settings) -> Iterator[Draft]:
    numbers = [
        n for n in {**old["statistics"], **new["statistics"]} if old["statistics"].get(n) != new["statistics"].get(n)
    ]
    for number in numbers:
        words = [
            f"ALTER INDEX {_name(address)} ALTER COLUMN {number} SET STATISTICS {s['statistics'].get(number, -1)}"
            for s in (new, old)
        ]
        yield Draft(
            object=address,
            action="alter",
            key=f"statistics {number}",
            request=Sql(words[0]),
            summary=f"statistics target of part {number} of index {address.name}",
            lock=SHARE_UPDATE_EXCLUSIVE,
            undo=Sql(words[1]),
        )
    if old["clustered"] != new["clustered"]:
        yield index_build.cluster(address, clustered=new["clustered"])
    yield from comment_on(address, f"INDEX {_name(address)}", old, new, fresh=False)


def _update(before: Record, after: Record, spec: index_build.Spec, context: Context) -> Iterator[Draft]:
    address, old, new = after.address, before.settings, after.settings
    if old["missing"]:
        yield from index_build.leaf_by_leaf(address, spec, context, leaves=old["missing"])
    elif old["valid"] != new["valid"]:
        yield _drop(address, context, "drop")
        yield from _create_again(address, spec, context)
        yield from _rest(after, fresh=False)
        return
    if old["storage"] != new["storage"]:
        yield index_build.reset(address, old["storage"], new["storage"])
    yield from _attributes(address, old, new)


def _create_again(address: Address, spec: index_build.Spec, context: Context) -> Iterator[Draft]:
    """An index that was left INVALID has just been dropped, so there is no leftover of its name."""
    if is_partitioned(context, table_of(address)):
        yield from index_build.on_parent(address, spec, address.name, context, makes=(address,))
    else:
        yield index_build.build(address, spec, makes=(address,))


def _name(address: Address) -> str:
    return sql.qualified(address.names[0], address.name)
