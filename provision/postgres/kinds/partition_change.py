"""How members of a partition set come into being: with their table, or attached to one that is in use."""

from __future__ import annotations

from collections.abc import Iterator

from provision.postgres import sql
from provision.postgres.kinds.partition_like import below, own
from provision.postgres.kinds.steps import (
    ACCESS_EXCLUSIVE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    alter,
    blocking,
    chain,
    member_name,
    table_of,
)
from provision.postgres.kinds.type_swap import in_one_statement
from provision.spec.change import Change, Context, Draft, Hazard, Sql
from provision.spec.ident import Address
from provision.spec.record import Record, Settings

_LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION"


def fresh_members(split: Record, table: Record, role: str | None) -> Iterator[Draft]:
    """The partitions of a table that the plan creates, in a session of ``role``."""
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
        if _given_away(table.settings, role):
            owner = table.settings["owner"]
            yield Draft(
                object=split.address,
                action="create",
                key=f"owner {member}",
                request=Sql(f"ALTER TABLE {name} OWNER TO {sql.quote_ident(owner)}"),
                summary=f"give partition {member} to {owner}",
                needs=(Address.root("pg", split.address.target, "role", owner),),
                follows=(member,),
                fresh=True,
            )


def _kept_as(settings: Settings) -> str:
    """How rows are kept; a partition takes nothing of this from its parent but the tablespace."""
    from provision.postgres.kinds.table_change import parameters

    text = f" USING {sql.quote_ident(settings['access_method'])}" if settings["access_method"] is not None else ""
    if settings["storage"]:
        text += f" WITH ({parameters(settings['storage'])})"
    if settings["tablespace"] is not None:
        text += f" TABLESPACE {sql.quote_ident(settings['tablespace'])}"
    return text


def _given_away(settings: Settings, role: str | None) -> bool:
    """A partition belongs to its maker unless told otherwise."""
    return settings["owner"] is not None and settings["owner"] != role


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
        yield _drop_default(address, old["default"])
    for member, bound in new["members"].items():
        if member not in old["members"]:
            yield _attached(address, member, bound, table, old, context)
        elif old["members"][member] != bound:
            yield _moved(address, member, bound, old["members"][member])


def _attached(address: Address, member: str, bound: str, table: Record, old: Settings, context: Context) -> Draft:
    """CREATE TABLE LIKE and ATTACH lock the parent less than CREATE TABLE PARTITION OF, which stops everybody.

    One statement does both: a run that is interrupted leaves no table that belongs to nothing.
    """
    name, parent = member_name(table.address, member), sql.table_name(address)
    body = apart(member, table, context.facts(address).options.get("role"), old["like"])
    body.append(f"ALTER TABLE {parent} ATTACH PARTITION {name} {bound}")
    referring = bool(context.live.children(table.address, "foreign_key"))
    detail = "the DEFAULT partition is locked and searched for rows that belong here"
    guarded = bool(old["default"]) and bound != "DEFAULT"
    return Draft(
        object=address,
        action="create",
        key=member,
        request=Sql(in_one_statement(body)),
        summary=f"create partition {member} and attach it",
        lock=ACCESS_EXCLUSIVE if guarded else SHARE_ROW_EXCLUSIVE if referring else SHARE_UPDATE_EXCLUSIVE,
        hazards=(blocking(detail),) if guarded else (),
        undo=Sql(f"DROP TABLE {name}"),
    )


def apart(member: str, table: Record, role: str | None, like: Settings) -> list[str]:
    """The statements that make a table like its parent, ready to be attached, in a session of ``role``.

    ``like`` is what it takes from its newest sibling: parts of its own, privileges, row security.
    """
    name, parent = member_name(table.address, member), sql.table_name(table.address)
    body = f"CREATE {_unlogged(table, like)}TABLE {name} (LIKE {parent} {_LIKE})"
    found = [body + _split_or_kept(table, like), *_equipped(name, table, role, like)]
    for part, settings in below(like, member):
        found += _part(part, name, table, role, settings)
    return found


def _part(member: str, whole: str, table: Record, role: str | None, like: Settings) -> Iterator[str]:
    """The statements that make a part of a new partition, and its own parts."""
    name = member_name(table.address, member)
    of = f"CREATE {_unlogged(table, like)}TABLE {name} PARTITION OF {whole} {like['bound']}"
    yield of + _split_or_kept(table, like)
    yield from _equipped(name, table, role, like)
    for part, settings in below(like, member):
        yield from _part(part, name, table, role, settings)


def _unlogged(table: Record, like: Settings) -> str:
    return "UNLOGGED " if table.settings["unlogged"] and not like.get("split") else ""


def _split_or_kept(table: Record, like: Settings) -> str:
    """What follows the columns; a partitioned table keeps no rows."""
    return f" PARTITION BY {like['split']}" if like.get("split") else _kept_as(table.settings)


def _equipped(name: str, table: Record, role: str | None, like: Settings) -> list[str]:
    """Privileges and the like, given while the table still belongs to its maker; then the table is given away."""
    if not _given_away(table.settings, role):
        return own(like, name)
    return [*own(like, name), f"ALTER TABLE {name} OWNER TO {sql.quote_ident(table.settings['owner'])}"]


def _moved(address: Address, member: str, bound: str, old: str) -> Draft:
    """Bounds never change in place: the partition leaves and comes back, and every row of it is looked at."""
    table, name = f"ALTER TABLE {sql.table_name(address)}", member_name(table_of(address), member)

    def again(bound: str) -> Sql:
        return Sql(in_one_statement([f"{table} DETACH PARTITION {name}", f"{table} ATTACH PARTITION {name} {bound}"]))

    hazard = blocking(f"all rows of {member} are searched while the table is locked")
    return Draft(
        object=address,
        action="alter",
        key=member,
        request=again(bound),
        summary=f"change what partition {member} holds",
        lock=ACCESS_EXCLUSIVE,
        hazards=(hazard,),
        undo=again(old),
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


def _drop_default(address: Address, member: str) -> Draft:
    name = member_name(table_of(address), member)
    detail = f"the rows of the DEFAULT partition {member} are lost"
    return Draft(
        object=address,
        action="drop",
        key=member,
        request=Sql(f"DROP TABLE {name}"),
        summary=f"drop the DEFAULT partition {member}",
        lock=ACCESS_EXCLUSIVE,
        hazards=(Hazard("data_loss", detail, probe={"sql": f"SELECT count(*) FROM {name}"}),),
    )
