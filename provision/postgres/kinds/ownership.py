"""What nearly every object carries: an owner, a comment, a former name. Shared fields and their statements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from provision.postgres import sql
from provision.postgres.kinds.steps import retitled_sql
from provision.spec.change import Draft, Sql
from provision.spec.fields import STRING, Field, FieldError, FieldTable, Json
from provision.spec.ident import Address
from provision.spec.kind import Reader
from provision.spec.record import Pointer, Record, Settings

OWNER = Field("owner", STRING, "The role that owns the object; without it, ownership is left as it is.")
COMMENT = Field("comment", STRING, "The comment stored with the object.")
#: Names of objects; more than 63 bytes, which characters do not count, are a rule's to find.
NAMES: Json = {"pattern": r"^[^\x00]{1,63}$", "description": "A name has 1 to 63 characters, none of them NUL."}
RENAMED_FROM = {"renamed_from": {"type": "string", "description": "The object's former name."}}
TARGET = {"target": {"type": "string", "default": "main", "description": "The declared server it lives on."}}


class Noun(NamedTuple):
    """How SQL names one object: ``Noun("SCHEMA", "agents")``. ``on`` follows names that need a table."""

    word: str
    name: str
    on: str = ""

    def __str__(self) -> str:
        return f"{self.word} {self.name}{self.on}"


def role_address(target: str, name: str) -> Address:
    return Address.root("pg", target, "role", name)


def role_refs(target: str, *names: str | None) -> tuple[Address, ...]:
    """The roles that an object refers to, without PUBLIC and the server's predefined ones."""
    kept = dict.fromkeys(n for n in names if n and n != "public" and not n.startswith("pg_"))
    return tuple(role_address(target, n) for n in kept)


def in_schema(address: Address) -> str:
    """The quoted ``schema.name`` of a schema's child: an enum, a domain, a view, a table."""
    names = address.names
    return sql.qualified(names[0], names[-1])


def relation_of(address: Address) -> Address:
    """The table or view that a trigger, a policy or a grant hangs on."""
    return address._replace(kind="view" if address.path[1] == "view" else "table", path=address.path[:-2])


def parse(fields: FieldTable, node: Mapping[str, Any], pointer: Pointer, reader: Reader) -> Settings | None:
    """Read the options of a node; None when one is refused, which is then reported."""
    try:
        return fields.parse(node)
    except FieldError as error:
        reader.fail(pointer, error)
        return None


def renamed_from(address: Address, node: Mapping[str, Any]) -> Address | None:
    """The former address of a renamed object, beside its new one."""
    old = node.get("renamed_from")
    if not old:
        return None
    segment = Address.root("pg", "", "", str(old), bare=True).path[0]
    return address._replace(path=(*address.path[:-1], segment))


def keep_live(desired: Record | None, live: Record | None, *names: str) -> Record | None:
    """The desired record with the live value wherever it says None: not managed, so never different."""
    if desired is None or live is None:
        return desired
    unset = {n: live.settings[n] for n in names if desired.settings[n] is None and live.settings[n] is not None}
    return desired._replace(settings={**desired.settings, **unset}) if unset else desired


def attributes(
    noun: Noun,
    address: Address,
    before: Settings | None,
    after: Settings,
    *,
    fresh: bool,
    follows: tuple[str, ...],
) -> Iterator[Draft]:
    """Statements for owner and comment where they differ; ``before`` is None for a new object."""
    old = before or {}
    owner, comment = after.get("owner"), after.get("comment")
    if owner is not None and owner != old.get("owner"):
        former = old.get("owner")
        yield Draft(
            object=address,
            action="create" if fresh else "alter",
            key="owner",
            request=Sql(f"ALTER {noun} OWNER TO {sql.quote_ident(owner)}"),
            summary=f"give {address.name} to {owner}",
            needs=role_refs(address.target, owner),
            follows=follows,
            lock=None if fresh or noun.word not in ("TABLE", "VIEW") else "ACCESS EXCLUSIVE",
            fresh=fresh,
            undo=Sql(f"ALTER {noun} OWNER TO {sql.quote_ident(former)}") if former else None,
        )
    if comment != old.get("comment"):
        yield Draft(
            object=address,
            action="create" if fresh else "alter",
            key="comment",
            request=_comment(noun, comment),
            summary=f"comment on {address.name}",
            follows=follows,
            fresh=fresh,
            undo=_comment(noun, old.get("comment")) if not fresh else None,
        )


def _comment(noun: Noun, text: str | None) -> Sql:
    return Sql(f"COMMENT ON {noun} IS {sql.quote_literal(text) if text else 'NULL'}")


def rename(noun: Noun, old: Address, new: Address, *, lock: str | None = None) -> Draft:
    """``ALTER … RENAME TO``; ``noun`` bears any name, the statement is made from the addresses."""
    shown = noun._replace(name=_renamed(noun.name, new.name, old.name))
    return Draft(
        object=new,
        action="rename",
        request=Sql(f"ALTER {shown} RENAME TO {sql.quote_ident(new.name)}"),
        summary=f"rename {old.name} to {new.name}",
        key="rename",
        makes=(new,),
        destroys=(old,),
        lock=lock,
        undo=Sql(f"ALTER {noun} RENAME TO {sql.quote_ident(old.name)}"),
    )


def _renamed(text: str, new: str, old: str) -> str:
    return text.removesuffix(sql.quote_ident(new)) + sql.quote_ident(old)


def retitle_texts(record: Record, old: Address, new: Address, *names: str) -> Record:
    """Follow a rename in the SQL texts of the named settings, so that the old text compares equal to the new."""
    if old.kind == "role":
        return record
    settings = {n: _retitled(record.settings[n], old, new) for n in names}
    return record._replace(settings=record.settings | settings)


def _retitled(value: Any, old: Address, new: Address) -> Any:
    if isinstance(value, str):
        return retitled_sql(value, old, new)
    if isinstance(value, Mapping):
        return {k: _retitled(v, old, new) for k, v in value.items()}
    return value


def retitle_owner(record: Record, old: Address, new: Address) -> Record:
    """Follow the rename of the role that owns the object."""
    if old.kind != "role" or record.settings.get("owner") != old.name:
        return record
    return record._replace(settings={**record.settings, "owner": new.name})
