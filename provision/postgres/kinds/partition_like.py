"""What a new partition takes from its newest sibling: how that is split further, and who may do what with it. Pure.

A table gives its partitions columns, checks and indexes; nothing gives them sub-partitions, privileges, row security or
a replica identity. Specs do not declare these for partitions, so those that somebody gave the newest one go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provision.postgres import sql
from provision.postgres.catalog import Catalog, Row
from provision.postgres.kinds.ownership import Noun
from provision.postgres.kinds.policy import create_sql, settings_of
from provision.postgres.kinds.privileges import parse_acl
from provision.postgres.relations import Partition, once, partitions
from provision.spec.record import Settings

_FROM = "FOR VALUES FROM ("
_IDENTITIES = {"f": "FULL", "n": "NOTHING"}
_WORD = re.compile(r"\w+")


def pattern(catalog: Catalog, key: Sequence[str], parts: Sequence[Partition]) -> Settings:
    """What the newest range partition of a set split by ``key`` has beyond its parent; empty where nothing.

    ``split`` is None for a partition that holds rows itself, and where the bounds of its parts follow the key of the
    set, so that they would fit no other partition: then ``unfit`` says how it is split.
    """
    policies = _policies(catalog)
    if not any(_is_special(p, policies) for p in parts):
        return {}
    newest = max((p for p in parts if p.bound.startswith(_FROM)), key=lambda p: _age(p.bound), default=None)
    if newest is None or not _is_special(newest, policies):
        return {}
    words = set(_WORD.findall(key[0]))
    return {"member": newest.name, **_one(catalog, newest, words)}


def _is_special(part: Partition, policies: Mapping[str, object]) -> bool:
    row = part.row
    return (
        part.kind == "p" or row[12] is not None or row[8] == "t" or row[9] == "t" or row[11] in _IDENTITIES
        or part.oid in policies
    )  # fmt: skip


def _age(bound: str) -> tuple[int, int, str]:
    """A sort key for lower bounds of one set; what has no beginning is the oldest."""
    low = bound[len(_FROM) :].partition(",")[0].partition(")")[0].strip("'")
    if low.lstrip("-").isdigit():
        return 1, int(low), ""
    return (1, 0, low) if low[:1].isdigit() else (0, 0, "")


def _one(catalog: Catalog, part: Partition, words: set[str]) -> Settings:
    row = part.row
    below = partitions(catalog).get(part.oid, ())
    split, unfit = row[16] if part.kind == "p" else None, None
    if split is not None and not split.startswith("HASH ") and words & set(_WORD.findall(split)):
        split, unfit, below = None, split, ()
    owner = catalog.roles.get(str(row[5]))
    held = parse_acl(row[12]) if row[12] is not None else {}
    return {
        "split": split,
        "unfit": unfit,
        "parts": [{"name": _ending(part.name, q.name), "bound": q.bound, **_one(catalog, q, words)} for q in below],
        "grants": {
            role: {"privileges": sorted(h.privileges), "grantable": sorted(h.grantable)}
            for role, h in sorted(held.items())
            if role != owner
        },
        "row_security": row[8] == "t",
        "force_row_security": row[9] == "t",
        "replica_identity": _IDENTITIES.get(str(row[11])),
        "policies": {str(r[1]): settings_of(catalog, r) for r in _policies(catalog).get(part.oid, ())},
    }


@once
def _policies(catalog: Catalog) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in catalog.rows("policies"):
        found.setdefault(str(row[0]), []).append(row)
    return found


def _ending(whole: str, part: str) -> str:
    """What tells a part from others of the same whole."""
    return part.removeprefix(whole).lstrip("_") or part


def below(like: Settings, name: str) -> Iterator[tuple[str, Settings]]:
    """The parts of a new partition with their own names, directly below it."""
    for part in like.get("parts", ()):
        yield sql.bounded(name, part["name"]), part


def own(like: Settings, quoted: str) -> list[str]:
    """The statements that give a new table, by its quoted name, what its sibling has; its maker runs them."""
    if not like:
        return []
    found = [statement for role, held in like["grants"].items() for statement in _granted(role, held, quoted)]
    found += [create_sql(Noun("POLICY", sql.quote_ident(n), f" ON {quoted}"), s) for n, s in like["policies"].items()]
    table = f"ALTER TABLE {quoted}"
    found += [f"{table} ENABLE ROW LEVEL SECURITY"] if like["row_security"] else []
    found += [f"{table} FORCE ROW LEVEL SECURITY"] if like["force_row_security"] else []
    found += [f"{table} REPLICA IDENTITY {like['replica_identity']}"] if like["replica_identity"] else []
    return found


def _granted(role: str, held: Any, quoted: str) -> list[str]:
    to = f"ON TABLE {quoted} TO {'PUBLIC' if role == 'public' else sql.quote_ident(role)}"
    plain = [p.upper() for p in held["privileges"] if p not in held["grantable"]]
    more = [p.upper() for p in held["grantable"]]
    found = [f"GRANT {', '.join(plain)} {to}"] if plain else []
    return [*found, f"GRANT {', '.join(more)} {to} WITH GRANT OPTION"] if more else found
