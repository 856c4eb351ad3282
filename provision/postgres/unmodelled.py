"""What a database holds in a plane's schemas and no kind models. It is reported as drift, never silently ignored. Pure.

Each finding belongs to the nearest object that has an address: the table a rule stands on, the schema that
holds a materialized view. Only those of declared objects are told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from provision.postgres.catalog import SYSTEM_SCHEMAS, Catalog, Query
from provision.postgres.kinds.ownership import role_address
from provision.spec.ident import Address

_RELATIONS = {"m": "materialized view", "f": "foreign table", "S": "sequence"}


def _no_member(catalog: str, oid: str) -> str:
    """Condition that an object belongs to no extension."""
    return (
        f"NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid}"
        " AND e.deptype = 'e')"
    )


def _sql(major: int) -> str:
    return f"""
        SELECT 'relation', c.oid::text, 'rule ' || r.rulename, pg_get_ruledef(r.oid)
          FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE r.rulename <> '_RETURN' AND r.oid >= 16384 AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', c.oid::text, 'inherits ' || p.oid::regclass, 'INHERIT'
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND NOT c.relispartition AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', c.oid::text, 'of type', c.reloftype::regtype::text
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.reloftype <> 0 AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', c.oid::text, 'default of ' || a.attname, pg_get_expr(d.adbin, d.adrelid)
          FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE c.relkind = 'v' AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', c.oid::text, 'constraint ' || k.conname, pg_get_constraintdef(k.oid)
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE k.contype = 'x' AND k.conparentid = 0 AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', t.oid::text, 'statistics ' || s.stxname, pg_get_statisticsobjdef(s.oid)
          FROM pg_statistic_ext s JOIN pg_class t ON t.oid = s.stxrelid JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE NOT t.relispartition AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'schema', n.nspname, c.relkind::text || ' ' || c.relname, ''
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('m', 'f', 'S') AND NOT c.relispartition AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.deptype IN ('e', 'i'))
        UNION ALL
        SELECT 'schema', n.nspname, CASE t.typtype WHEN 'c' THEN 'composite' WHEN 'r' THEN 'range' ELSE 'base' END
                                    || ' type ' || t.typname, ''
          FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
         WHERE (t.typtype IN ('b', 'r') AND t.typcategory <> 'A' OR c.relkind = 'c') AND {SYSTEM_SCHEMAS}
           AND {_no_member("pg_type", "t.oid")}
        UNION ALL
        SELECT 'schema', n.nspname, 'aggregate ' || p.oid::regprocedure, ''
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE p.prokind = 'a' AND {SYSTEM_SCHEMAS} AND {_no_member("pg_proc", "p.oid")}
        UNION ALL
        SELECT 'relation', pg_partition_root(c.oid)::oid::text, 'partitions of partition ' || c.relname,
               pg_get_partkeydef(c.oid)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'p' AND c.relispartition AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'relation', c.oid::text, 'publication ' || p.pubname, ''
          FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'schema', n.nspname, 'publication ' || p.pubname, ''
          FROM pg_publication p JOIN pg_namespace n ON p.puballtables
               OR EXISTS (SELECT FROM pg_publication_namespace r WHERE r.pnpubid = p.oid AND r.pnnspid = n.oid)
         WHERE {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'schema', n.nspname, 'event trigger ' || g.evtname, g.evtevent
          FROM pg_event_trigger g JOIN pg_proc p ON p.oid = g.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE {SYSTEM_SCHEMAS} AND {_no_member("pg_event_trigger", "g.oid")}
        UNION ALL
        SELECT 'schema', n.nspname, 'default privileges of ' || pg_get_userbyid(a.defaclrole), a.defaclacl::text
          FROM pg_default_acl a JOIN pg_namespace n ON n.oid = a.defaclnamespace WHERE {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT DISTINCT 'schema', n.nspname, 'cast from ' || format_type(k.castsource, NULL) || ' to '
                                    || format_type(k.casttarget, NULL), ''
          FROM pg_cast k JOIN pg_type t ON t.oid IN (k.castsource, k.casttarget)
          JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE k.oid >= 16384 AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_cast'::regclass AND e.objid = k.oid
                              AND e.deptype IN ('e', 'i'))
        UNION ALL
        SELECT 'schema', n.nspname, o.what || ' ' || o.name, ''
          FROM (SELECT 'operator' AS what, oprname::text AS name, oprnamespace AS nsp, oid, 'pg_operator' AS cat
                  FROM pg_operator
                UNION ALL SELECT 'operator class', opcname, opcnamespace, oid, 'pg_opclass' FROM pg_opclass
                UNION ALL SELECT 'collation', collname, collnamespace, oid, 'pg_collation' FROM pg_collation
                UNION ALL SELECT 'conversion', conname, connamespace, oid, 'pg_conversion' FROM pg_conversion
                UNION ALL SELECT 'text search configuration', cfgname, cfgnamespace, oid, 'pg_ts_config'
                            FROM pg_ts_config
                UNION ALL SELECT 'text search dictionary', dictname, dictnamespace, oid, 'pg_ts_dict' FROM pg_ts_dict
               ) o JOIN pg_namespace n ON n.oid = o.nsp
         WHERE o.oid >= 16384 AND {SYSTEM_SCHEMAS}
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = o.cat::regclass AND e.objid = o.oid
                              AND e.deptype = 'e')
        UNION ALL
        SELECT 'schema', n.nspname, 'transforms of ' || p.oid::regprocedure, p.protrftypes::regtype[]::text
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE p.protrftypes IS NOT NULL AND {SYSTEM_SCHEMAS}
        UNION ALL
        SELECT 'role', r.rolname, 'settings in ' || d.datname, array_to_string(s.setconfig, ', ')
          FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase JOIN pg_roles r ON r.oid = s.setrole
         WHERE d.datname = current_database()
         ORDER BY 1, 2, 3"""


QUERY = Query("unmodelled", _sql)


def findings(catalog: Catalog) -> Iterator[tuple[Address, str, str]]:
    """Give (object, what stands there, its definition)."""
    yield from _sequences(catalog)
    for kind, key, what, text in catalog.rows(QUERY.name):
        word, _, name = str(what).partition(" ")
        shown = f"{_RELATIONS.get(word, word)} {name}"
        if kind == "schema":
            yield catalog.schema_address(str(key)), shown, text or shown
        elif kind == "role":
            yield role_address(catalog.target, str(key)), shown, str(text)
        elif (address := catalog.relation_address(str(key))) is not None:
            yield address, shown, str(text)


def _sequences(catalog: Catalog) -> Iterator[tuple[Address, str, str]]:
    """Sequences of identity columns that count in another type than the column has."""
    for row in catalog.rows("columns"):
        strange = json.loads(row[16]).get("type") if row[16] is not None else None
        address = catalog.relation_address(str(row[0])) if strange is not None else None
        if address is not None:
            yield address, f"type of the sequence of {row[2]}", str(strange)
