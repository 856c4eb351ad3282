"""How members of a partition set come into being: with their table, or attached to one that is in use."""

from __future__ import annotations

from collections.abc import Iterator

from provision.postgres import sql
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    ACCESS_SHARE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    alter,
    blocking,
    chain,
    member_name,
    table_of,
)
from provision.postgres.references import split_name
from provision.spec.change import Change, Context, Draft, Hazard, Sql
from provision.spec.ident import Address
from provision.spec.record import Record, Settings

_LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION"


def fresh_members(split: Record, table: Record) -> Iterator[Draft]:
    """The partitions of a table that the plan creates."""
    for member, bound in split.settings["members"].items():
        name = member_name(table.address, member)
        unlogged = "UNLOGGED " if table.settings["unlogged"] else ""
        of = f"CREATE {unlogged}TABLE {name} PARTITION OF {sql.table_name(table.address)} {bound}"
        yield Draft(
            object=split.address,
            action="create",
            key=member,
            request=Sql(of + _kept_as(table.settings)),
            summary=f"create partition {member}",
            needs=(table.address,),
            fresh=True,
            undo=Sql(f"DROP TABLE {name}"),
        )
        yield from _owned(split.address, member, name, table.settings, fresh=True, follows=(member,))


def _kept_as(settings: Settings) -> str:
    """How rows are kept; a partition takes nothing of this from its parent but the tablespace."""
    from provision.postgres.kinds.table_change import parameters

    text = f" USING {sql.quote_ident(settings['access_method'])}" if settings["access_method"] is not None else ""
    if settings["storage"]:
        text += f" WITH ({parameters(settings['storage'])})"
    if settings["tablespace"] is not None:
        text += f" TABLESPACE {sql.quote_ident(settings['tablespace'])}"
    return text


def _owned(
    address: Address, member: str, name: str, settings: Settings, *, fresh: bool, follows: tuple[str, ...]
) -> Iterator[Draft]:
    """A partition belongs to its maker unless told otherwise."""
    if settings["owner"] is None:
        return
    yield Draft(
        object=address,
        action="create",
        key=f"owner {member}",
        request=Sql(f"ALTER TABLE {name} OWNER TO {sql.quote_ident(settings['owner'])}"),
        summary=f"give partition {member} to {settings['owner']}",
        needs=(Address.root("pg", address.target, "role", settings["owner"]),),
        follows=follows,
        fresh=fresh,
    )


def lower(change: Change, context: Context) -> tuple[Draft, ...]:
    """Changes of a set whose table stays; any other is absorbed by the table."""
    assert change.before is not None
    assert change.after is not None
    address, old, new = change.address, change.before.settings, change.after.settings
    table = context.desired[table_of(address)]
    return chain(_update(address, old, new, table, context))


def _update(address: Address, old: Settings, new: Settings, table: Record, context: Context) -> Iterator[Draft]:
    for member in old["detaching"]:
        yield _finalize(address, member)
    if old["default"] and not new["default"]:
        yield from _drop_default(address, old["default"])
    for member, bound in new["members"].items():
        if member not in old["members"]:
            yield from _attached(address, member, bound, table, old, context)
        elif old["members"][member] != bound:
            yield from _moved(address, member, bound, old["members"][member])


def _attached(
    address: Address, member: str, bound: str, table: Record, old: Settings, context: Context
) -> Iterator[Draft]:
    """CREATE TABLE LIKE and ATTACH lock the parent less than CREATE TABLE PARTITION OF, which stops everybody."""
    name, parent = member_name(table.address, member), sql.table_name(address)
    schema, bare = split_name(name)
    unlogged = "UNLOGGED " if table.settings["unlogged"] else ""
    yield Draft(
        object=address,
        action="create",
        key=f"create {member}",
        request=Sql(f"CREATE {unlogged}TABLE {name} (LIKE {parent} {_LIKE}){_kept_as(table.settings)}"),
        summary=f"create partition {member}",
        lock=ACCESS_SHARE,
        undo=Sql(f"DROP TABLE {name}"),
        done_if=f"SELECT {sql.regclass(schema, bare)} IS NOT NULL",
    )
    yield from _owned(address, member, name, table.settings, fresh=False, follows=())
    referring = bool(context.live.children(table.address, "foreign_key"))
    detail = "the DEFAULT partition is locked and searched for rows that belong here"
    guarded = bool(old["default"]) and bound != "DEFAULT"
    attach = alter(
        address,
        f"attach {member}",
        f"ATTACH PARTITION {name} {bound}",
        f"attach partition {member}",
        action="create",
        lock=ACCESS_EXCLUSIVE if guarded else SHARE_ROW_EXCLUSIVE if referring else SHARE_UPDATE_EXCLUSIVE,
        hazards=(blocking(detail),) if guarded else (),
        undo=f"DETACH PARTITION {name}",
        done_if=_is_attached(schema, bare, address),
    )
    yield attach


def _is_attached(schema: str, name: str, address: Address) -> str:
    parent = sql.regclass(*table_of(address).names[:2])
    return (
        f"SELECT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = {sql.regclass(schema, name)}"
        f" AND h.inhparent = {parent})"
    )


def _moved(address: Address, member: str, bound: str, old: str) -> Iterator[Draft]:
    """Bounds never change in place: the partition leaves and comes back, and every row of it is looked at."""
    name = member_name(table_of(address), member)
    hazard = blocking(f"{member} is detached, and searched while it is attached with other bounds")
    yield alter(
        address,
        f"detach {member}",
        f"DETACH PARTITION {name}",
        f"detach partition {member} to change what it holds",
        undo=f"ATTACH PARTITION {name} {old}",
        hazards=(hazard,),
    )
    yield alter(
        address,
        f"attach {member}",
        f"ATTACH PARTITION {name} {bound}",
        f"attach partition {member} again",
        undo=f"DETACH PARTITION {name}",
        hazards=(hazard,),
    )


def _finalize(address: Address, member: str) -> Draft:
    """DETACH CONCURRENTLY was interrupted; only FINALIZE leads on (PostgreSQL docs, ALTER TABLE)."""
    name = member_name(table_of(address), member)
    return alter(
        address,
        f"finalize {member}",
        f"DETACH PARTITION {name} FINALIZE",
        f"finish the interrupted detaching of {member}",
        lock=ACCESS_EXCLUSIVE,
    )


def _drop_default(address: Address, member: str) -> Iterator[Draft]:
    name = member_name(table_of(address), member)
    detail = f"the rows of the DEFAULT partition {member} are lost"
    lost = Hazard("data_loss", detail, probe={"sql": f"SELECT count(*) FROM {name}"})
    yield alter(address, f"detach {member}", f"DETACH PARTITION {name}", f"detach the DEFAULT partition {member}")
    yield Draft(
        object=address,
        action="drop",
        key=f"drop {member}",
        request=Sql(f"DROP TABLE {name}"),
        summary=f"drop the DEFAULT partition {member}",
        lock=ACCESS_EXCLUSIVE,
        hazards=(lost,),
    )
