"""Every column of the catalogs behind the modelled kinds: which drifts change it, or why none does. Written by hand."""

from __future__ import annotations

from typing import NamedTuple


class By(NamedTuple):
    """The drifts that change a column. ``lasting``: why its value stays another one when all is mended."""

    drifts: tuple[str, ...]
    lasting: str = ""


class Excluded(NamedTuple):
    """A column that is not drifted, and why. ``reason`` begins with one of REASONS."""

    reason: str


class Constant(NamedTuple):
    """A column that no statement changes: in every object of the modelled kinds it has one of these values."""

    values: tuple[str | None, ...]
    reason: str


REASONS = ("object id", "counter", "size", "timestamp")
ID = Excluded("object id")


def by(*drifts: str, lasting: str = "") -> By:
    return By(drifts, lasting)


Row = By | Excluded | Constant

_SIZE = Excluded("size: what VACUUM and ANALYZE have counted")
_XID = Excluded("counter: of transactions")
_NUMBER = Excluded("object id: the number of a column inside its table; the names behind it are compared")
_GRANTOR = Excluded("object id: who gave it; what was given is compared")
_HINT = "the server keeps the hint until the next VACUUM"

COLUMNS: dict[str, dict[str, Row]] = {
    "pg_namespace": {
        "oid": ID, "nspname": by("schema_renamed"),
        "nspowner": by("schema_owner"), "nspacl": by("schema_acl"),
    },
    "pg_class": {
        "oid": ID, "relname": by("table_renamed", "index_renamed", "view_gone"), "relnamespace": by("table_moved"),
        "reltype": ID, "reloftype": by("typed"), "relowner": by("table_owner", "view_owner"),
        "relam": by("method", "index_method"),
        "relfilenode": ID, "reltablespace": by("tablespace"), "relpages": _SIZE, "reltuples": _SIZE,
        "relallvisible": _SIZE, "relallfrozen": _SIZE, "reltoastrelid": ID,
        "relhasindex": by("index_gone", "primary_key", lasting=_HINT),
        "relisshared": Constant(("false",), "catalogs of the server only"),
        "relpersistence": by("unlogged"), "relkind": by("kind"),
        "relnatts": by("column_added", lasting="dropped columns keep their numbers"),
        "relchecks": by("constraint_renamed", "constraint_elsewhere", "constraint_type"),
        "relhasrules": by("rule", lasting=_HINT),
        "relhastriggers": by("trigger_added", lasting=_HINT), "relhassubclass": by("inherits", "kind", lasting=_HINT),
        "relrowsecurity": by("row_security"), "relforcerowsecurity": by("forced"),
        "relispopulated": Constant(("true",), "false of materialized views only"),
        "relreplident": by("identity_full", "index_identity"),
        "relispartition": by("detached", "default_part"), "relrewrite": ID, "relfrozenxid": _XID, "relminmxid": _XID,
        "relacl": by("table_acl", "view_acl"), "reloptions": by("storage", "index_storage", "view_options"),
        "relpartbound": by("bound"),
    },
    "pg_attribute": {
        "attrelid": ID, "attname": by("column_renamed", "view_column"), "atttypid": by("type"),
        "attlen": by("array", "type"),
        "attnum": _NUMBER, "atttypmod": by("type_length"), "attndims": by("array"),
        "attbyval": by("column_dropped", "column_added"),
        "attalign": by("type"), "attstorage": by("column_storage"), "attcompression": by("compression"),
        "attnotnull": by("not_null"),
        "atthasdef": by("default_gone", "default_new", "view_default"),
        "atthasmissing": by("column_added"), "attidentity": by("identity"), "attgenerated": by("generated"),
        "attisdropped": by("column_dropped", lasting="the place of a dropped column stays"),
        "attislocal": by("child_of"),
        "attinhcount": by("inherits"), "attcollation": by("column_collation", "index_collation"),
        "attstattarget": by("statistics", "index_statistics"), "attacl": by("column_acl"),
        "attoptions": by("column_options"),
        "attfdwoptions": Constant((None,), "of foreign tables only"), "attmissingval": by("column_added"),
    },
    "pg_attrdef": {"oid": ID, "adrelid": ID, "adnum": by("default_gone", "default_new"),
                   "adbin": by("default", "generated")},
    "pg_sequence": {
        "seqrelid": ID, "seqtypid": by("sequence_type"), "seqstart": by("sequence"), "seqincrement": by("sequence"),
        "seqmax": by("sequence"), "seqmin": by("sequence"), "seqcache": by("sequence"), "seqcycle": by("sequence"),
    },
    "pg_constraint": {
        "oid": ID, "conname": by("constraint_renamed"), "connamespace": by("table_moved"),
        "contype": by("constraint_type"),
        "condeferrable": by("deferrable", "fk_deferrable"), "condeferred": by("deferred"),
        "conenforced": by("enforced"),
        "convalidated": by("validated", "domain_valid"), "conrelid": by("constraint_elsewhere"),
        "contypid": by("domain_check_gone"),
        "conindid": by("fk_key"), "conparentid": by("detached"), "confrelid": by("fk_table"),
        "confupdtype": by("fk_update"),
        "confdeltype": by("fk_delete"), "confmatchtype": by("fk_match"), "conislocal": by("child_of"),
        "coninhcount": by("inherits"),
        "connoinherit": by("no_inherit"), "conperiod": by("period"), "conkey": by("fk_columns"),
        "confkey": by("fk_key"),
        "conpfeqop": by("fk_wide"), "conppeqop": by("fk_wide"), "conffeqop": by("fk_type"),
        "confdelsetcols": by("fk_set"),
        "conexclop": by("exclusion"), "conbin": by("check", "domain_check"),
    },
    "pg_index": {
        "indexrelid": ID, "indrelid": ID, "indnatts": by("index_columns"), "indnkeyatts": by("index_columns"),
        "indisunique": by("index_unique"), "indnullsnotdistinct": by("index_nulls"), "indisprimary": by("primary_key"),
        "indisexclusion": by("exclusion"), "indimmediate": by("deferrable"), "indisclustered": by("index_clustered"),
        "indisvalid": by("index_invalid"), "indcheckxmin": _XID, "indisready": by("index_not_ready"),
        "indislive": by("index_not_live"),
        "indisreplident": by("index_identity"), "indkey": by("index_columns"), "indcollation": by("index_collation"),
        "indclass": by("index_class"), "indoption": by("index_order"), "indexprs": by("index_expression"),
        "indpred": by("index_where"),
    },
    "pg_partitioned_table": {
        "partrelid": ID, "partstrat": by("strategy"), "partnatts": by("part_key"), "partdefid": by("default_part"),
        "partattrs": by("part_key"), "partclass": by("part_class"), "partcollation": by("part_collation"),
        "partexprs": by("part_expression"),
    },
    "pg_inherits": {"inhrelid": ID, "inhparent": by("inherits"), "inhseqno": by("inherits"),
                    "inhdetachpending": Constant(("false",), "true while DETACH CONCURRENTLY runs")},
    "pg_type": {
        "oid": ID, "typname": by("enum_renamed"), "typnamespace": by("enum_moved"), "typowner": by("enum_owner"),
        "typlen": by("domain_base"), "typbyval": by("domain_base"), "typtype": by("type_kind"),
        "typcategory": by("domain_base"),
        "typispreferred": Constant(("false",), "of base types only"),
        "typisdefined": Constant(("true",), "shell types are base types"),
        "typdelim": Constant((",",), "of base types only"), "typrelid": ID,
        "typsubscript": Constant((None,), "of arrays only"), "typelem": ID, "typarray": ID,
        "typinput": by("type_kind"), "typoutput": by("domain_base"), "typreceive": by("type_kind"),
        "typsend": by("domain_base"),
        "typmodin": Constant((None,), "of base types only"), "typmodout": Constant((None,), "of base types only"),
        "typanalyze": Constant((None, "function array_typanalyze(internal)"), "whether the base is an array"),
        "typalign": by("domain_array"), "typstorage": by("domain_base"),
        "typnotnull": by("domain_null"), "typbasetype": by("domain_base"), "typtypmod": by("domain_length"),
        "typndims": by("domain_array"), "typcollation": by("domain_collation"), "typdefaultbin": by("domain_default"),
        "typdefault": by("domain_default"), "typacl": by("enum_acl"),
    },
    "pg_enum": {"oid": ID, "enumtypid": ID, "enumsortorder": by("enum_added"), "enumlabel": by("enum_label")},
    "pg_proc": {
        "oid": ID, "proname": by("function_renamed"), "pronamespace": by("function_moved"),
        "proowner": by("function_owner"),
        "prolang": by("function_language"), "procost": by("function_cost"), "prorows": by("function_rows"),
        "provariadic": by("function_variadic"), "prosupport": by("function_support"), "prokind": by("function_kind"),
        "prosecdef": by("function_security"), "proleakproof": by("function_leakproof"),
        "proisstrict": by("function_strict"),
        "proretset": by("function_result"), "provolatile": by("function_volatility"),
        "proparallel": by("function_parallel"),
        "pronargs": by("function_arguments"), "pronargdefaults": by("function_defaults"),
        "prorettype": by("function_result"),
        "proargtypes": by("function_arguments"), "proallargtypes": by("function_modes"),
        "proargmodes": by("function_modes"),
        "proargnames": by("function_names"), "proargdefaults": by("function_defaults"),
        "protrftypes": by("function_transform"),
        "prosrc": by("function_body"), "probin": by("function_library"), "prosqlbody": by("function_atomic"),
        "proconfig": by("function_set"), "proacl": by("function_acl"),
    },
    "pg_trigger": {
        "oid": ID, "tgrelid": ID, "tgparentid": ID, "tgname": by("trigger_renamed"), "tgfoid": by("trigger_function"),
        "tgtype": by("trigger_type"), "tgenabled": by("trigger_enabled"),
        "tgisinternal": Constant(("true", "false"), "whether it serves a foreign key"),
        "tgconstrrelid": by("trigger_from"), "tgconstrindid": ID, "tgconstraint": by("trigger_constraint"),
        "tgdeferrable": by("trigger_deferrable"), "tginitdeferred": by("trigger_deferred"),
        "tgnargs": by("trigger_arguments"),
        "tgattr": by("trigger_columns"), "tgargs": by("trigger_arguments"), "tgqual": by("trigger_when"),
        "tgoldtable": by("trigger_tables"), "tgnewtable": by("trigger_tables"),
    },
    "pg_policy": {
        "oid": ID, "polname": by("policy_renamed"), "polrelid": ID, "polcmd": by("policy_command"),
        "polpermissive": by("policy_permissive"),
        "polroles": by("policy_roles"), "polqual": by("policy_using"), "polwithcheck": by("policy_check"),
    },
    "pg_rewrite": {
        "oid": ID, "rulename": by("rule"), "ev_class": ID, "ev_type": by("rule"), "ev_enabled": by("rule_disabled"),
        "is_instead": by("rule"), "ev_qual": by("view_rule"), "ev_action": by("view_query"),
    },
    "pg_authid": {
        "oid": ID, "rolname": by("role_renamed"), "rolsuper": by("role_superuser"),
        "rolinherit": by("role_inherit"), "rolcreaterole": by("role_createrole"), "rolcreatedb": by("role_createdb"),
        "rolcanlogin": by("role_login"), "rolreplication": by("role_replication"), "rolbypassrls": by("role_bypassrls"),
        "rolconnlimit": by("role_limit"),
        "rolpassword": by("role_password", lasting="a verifier has a salt of its own each time"),
        "rolvaliduntil": by("role_until"),
    },
    "pg_auth_members": {
        "oid": ID, "roleid": ID, "member": by("member_gone"), "grantor": _GRANTOR, "admin_option": by("member_admin"),
        "inherit_option": by("member_inherit"), "set_option": by("member_set"),
    },
    "pg_extension": {
        "oid": ID, "extname": Excluded("object id: an extension of another name is another extension"),
        "extowner": Excluded("object id: who installed it; no statement changes that"),
        "extnamespace": by("extension_schema"),
        "extrelocatable": Constant(("true",), "said by the extension's own control file"),
        "extversion": by("extension_version"),
        "extconfig": Constant((None,), "said by the extension's own script"),
        "extcondition": Constant((None,), "said by the extension's own script"),
    },
    "pg_db_role_setting": {"setdatabase": by("role_database"), "setrole": by("role_settings_gone"),
                           "setconfig": by("role_settings")},
    "pg_description": {"objoid": ID, "classoid": ID, "objsubid": _NUMBER,
                       "description": by("table_comment", "column_comment",
        "constraint_comment", "index_comment", "enum_comment", "function_comment", "trigger_comment",
        "policy_comment", "view_comment",
        "schema_comment", "extension_comment", "domain_comment")},
    "pg_shdescription": {"objoid": ID, "classoid": ID, "description": by("role_comment")},
}  # fmt: skip
