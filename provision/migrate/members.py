"""What partitions have of their own: nothing that specs declare, so each is to be like its table. Pure.

A look at a server in use leaves this out, since ten thousand partitions cost one row each there. A rehearsal has few,
and a file that touches one of them is to be seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from provision.plan.assemble import Seen
from provision.plan.plan import Drift
from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds.partition_members import read_list
from provision.postgres.kinds.partitions import member_key
from provision.spec.ident import Address
from provision.spec.record import Plane, Record, Settings

#: The fact of a target that holds what ``portraits`` gives.
FACT = "members"
#: What ``changed`` compares and ``odd`` does not: the table's record has it, or a partition does not follow its table.
_OWN = ("access method", "storage parameters", " tuning")
_REPLICA = "replica identity"
_ACL = (
    "(SELECT string_agg(e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END || ' to '"
    " || CASE e.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(e.grantee) END, ', '"
    " ORDER BY e.privilege_type, e.grantee)"
    " FROM (SELECT * FROM aclexplode({acl}) x WHERE x.grantee <> r.relowner) e)"
)


def _sql(major: int) -> str:
    """Root, partition at the first level, partition, kind, and what it has as JSON; absent is the usual."""
    columns = """FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped"""
    member = "FROM rel r {join} WHERE r.relispartition"
    published = "JOIN pg_publication_rel x ON x.prrelid = r.oid JOIN pg_publication p ON p.oid = x.prpubid"
    return f"""
        WITH rel AS (
          SELECT c.*, n.nspname, pg_partition_root(c.oid)::oid AS root,
                 (SELECT p.relid::oid FROM pg_partition_ancestors(c.oid) WITH ORDINALITY p (relid, nr)
                   ORDER BY nr DESC OFFSET 1 LIMIT 1) AS first
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE (c.relispartition OR c.relkind = 'p') AND c.relkind IN ('r', 'p', 'f') AND {SYSTEM_SCHEMAS}
        ), fact (oid, what, value) AS (
          SELECT r.oid, 'owner', pg_get_userbyid(r.relowner)::text FROM rel r
          UNION ALL
          SELECT r.oid, 'tablespace', s.spcname FROM rel r JOIN pg_tablespace s ON s.oid = r.reltablespace
          UNION ALL
          SELECT r.oid, '{_REPLICA}', r.relreplident::text FROM rel r WHERE r.relreplident <> 'd'
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || ' not null', 'true' {columns} WHERE a.attnotnull
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || CASE a.attgenerated WHEN '' THEN ' default' ELSE ' generated' END,
                 pg_get_expr(d.adbin, d.adrelid) {columns}
            JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || ' storage', a.attstorage::text {columns}
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || ' grants', {_ACL.format(acl="a.attacl")} {columns}
           WHERE r.relispartition AND a.attacl IS NOT NULL
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || ' comment', d.description {columns}
            JOIN pg_description d ON d.objoid = r.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = a.attnum
           WHERE r.relispartition
          UNION ALL
          SELECT r.oid, 'column ' || a.attname || ' tuning',
                 concat_ws(' ', NULLIF(a.attcompression::text, ''), NULLIF(a.attstattarget, -1), a.attoptions::text)
            {columns} WHERE r.relispartition
          UNION ALL
          SELECT r.oid, 'unlogged', 'true' {member.format(join="")} AND r.relpersistence = 'u'
          UNION ALL
          SELECT r.oid, 'access method', m.amname {member.format(join="JOIN pg_am m ON m.oid = r.relam")}
          UNION ALL
          SELECT r.oid, 'storage parameters', r.reloptions::text {member.format(join="")}
          UNION ALL
          SELECT r.oid, 'row security', CASE WHEN r.relforcerowsecurity THEN 'forced' ELSE 'enabled' END
            {member.format(join="")} AND (r.relrowsecurity OR r.relforcerowsecurity)
          UNION ALL
          SELECT r.oid, 'grants', {_ACL.format(acl="r.relacl")} {member.format(join="")} AND r.relacl IS NOT NULL
          UNION ALL
          SELECT r.oid, 'comment', obj_description(r.oid, 'pg_class') {member.format(join="")}
          UNION ALL
          SELECT r.oid, 'constraint ' || k.conname, pg_get_constraintdef(k.oid)
            {member.format(join="JOIN pg_constraint k ON k.conrelid = r.oid")}
             AND k.conparentid = 0 AND (k.contype IN ('f', 'p', 'u', 'x') OR k.contype = 'c' AND k.coninhcount = 0)
          UNION ALL
          SELECT r.oid, 'index ' || x.relname,
                 concat(pg_get_indexdef(x.oid), CASE WHEN NOT i.indisvalid THEN ' INVALID' END)
            {member.format(join="JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid")}
             AND NOT x.relispartition
             AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid AND k.conrelid = r.oid
                                AND k.contype IN ('p', 'u', 'x'))
          UNION ALL
          SELECT r.oid, 'trigger ' || t.tgname, pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
            {member.format(join="JOIN pg_trigger t ON t.tgrelid = r.oid")} AND t.tgparentid = 0 AND NOT t.tgisinternal
          UNION ALL
          SELECT r.oid, 'trigger ' || t.tgname || ' enabled', t.tgenabled::text
            {member.format(join="JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_trigger p ON p.oid = t.tgparentid")}
             AND NOT p.tgisinternal AND t.tgenabled <> p.tgenabled
          UNION ALL
          SELECT r.oid, 'policy ' || p.polname,
                 concat_ws(' ', p.polcmd::text, p.polpermissive::text, p.polroles::regrole[]::text,
                           'USING ' || pg_get_expr(p.polqual, r.oid), 'CHECK ' || pg_get_expr(p.polwithcheck, r.oid))
            {member.format(join="JOIN pg_policy p ON p.polrelid = r.oid")}
          UNION ALL
          SELECT r.oid, 'rule ' || w.rulename, pg_get_ruledef(w.oid)
            {member.format(join="JOIN pg_rewrite w ON w.ev_class = r.oid")}
          UNION ALL
          SELECT r.oid, 'statistics ' || s.stxname, pg_get_statisticsobjdef(s.oid)
            {member.format(join="JOIN pg_statistic_ext s ON s.stxrelid = r.oid")}
          UNION ALL
          SELECT r.oid, 'publication ' || p.pubname, 'published'
            {member.format(join=published)}
        )
        SELECT r.root, f.nspname, f.relname, r.nspname, r.relname, r.relkind,
               (SELECT json_object_agg(t.what, t.value ORDER BY t.what) FROM fact t
                 WHERE t.oid = r.oid AND t.value <> '')::text
          FROM rel r LEFT JOIN rel f ON f.oid = r.first ORDER BY r.root, r.nspname, r.relname"""


QUERY = Query("members", _sql)


class Portrait(NamedTuple):
    """What a partition has. ``within`` is the one at the first level that it is or is part of; None for the table."""

    within: str | None
    keeps_rows: bool
    has: Mapping[str, str]


#: The address of a partition set, to its table and partitions by name.
Portraits = Mapping[Address, Mapping[str, Portrait]]


def portraits(catalog: Catalog) -> Portraits:
    """What the rows of ``QUERY`` say."""
    found: dict[Address, dict[str, Portrait]] = {}
    for root, home, first, schema, name, kind, has in catalog.rows(QUERY.name):
        table = catalog.relation_address(str(root))
        if table is not None:
            within = member_key(table, str(home), str(first)) if first is not None else None
            portrait = Portrait(within, kind != "p", json.loads(has or "{}"))
            found.setdefault(table.child("partitions", "set"), {})[member_key(table, str(schema), str(name))] = portrait
    return found


def odd(desired: Plane, seen: Seen) -> Iterator[Drift]:
    """Partitions that no values ask for, and what declared ones have that their table does not have.

    Ranges are left out: they come and go with time, and follow their newest sibling.
    """
    for record in desired.of_kind("partitions"):
        live, all_of = seen.live.get(record.address), _portraits(seen).get(record.address)
        if live is None or all_of is None or record.parent is None:
            continue
        table = next(p for p in all_of.values() if p.within is None)
        unlogged = bool(desired[record.parent].settings["unlogged"])
        for member, bound in live.settings["members"].items():
            if record.settings["by"] == "range" and bound != "DEFAULT":
                continue
            if _is_extra(record, bound):
                yield Drift(_text(record.address, member), "undeclared")
                continue
            for name, portrait in all_of.items():
                if portrait.within == member and (fields := _oddities(portrait, table, unlogged)):
                    yield Drift(_text(record.address, name), "changed", fields)


def changed(before: Seen, after: Seen) -> Iterator[Drift]:
    """How partitions differ that both looks show; that one came or went their set tells."""
    then = _portraits(before)
    for address, now in _portraits(after).items():
        for name, portrait in now.items():
            was = then.get(address, {}).get(name)
            if portrait.within is not None and was is not None and (fields := _between(portrait.has, was.has)):
                yield Drift(_text(address, name), "changed", fields)


def _portraits(seen: Seen) -> Portraits:
    return {a: p for facts in seen.facts.values() for a, p in facts.options.get(FACT, {}).items()}


def _is_extra(record: Record, bound: str) -> bool:
    settings: Settings = record.settings
    if settings["by"] != "list" or settings["values"] is None:
        return False
    values = read_list(bound)
    return values is not None and frozenset(values) not in {frozenset(v) for v in settings["values"].values()}


def _oddities(portrait: Portrait, table: Portrait, unlogged: bool) -> dict[str, dict[str, Any]]:
    expected = dict(table.has)
    if unlogged and portrait.keeps_rows:
        expected["unlogged"] = "true"
    if _REPLICA not in portrait.has:
        expected.pop(_REPLICA, None)
    return {what: both for what, both in _between(portrait.has, expected).items() if not what.endswith(_OWN)}


def _between(live: Mapping[str, str], declared: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    every = sorted({*live, *declared})
    return {w: {"live": live.get(w), "declared": declared.get(w)} for w in every if live.get(w) != declared.get(w)}


def _text(address: Address, member: str) -> str:
    return str(address.child("member", member))
