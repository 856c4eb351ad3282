"""How each column of the catalog is drifted from outside, by SQL, for the kinds of PostgreSQL objects. Written by hand.

Every drift has a table of its own, ``app.t_<drift>``, so that all happen at once and each is told alone.
"""

from __future__ import annotations

from typing import NamedTuple

_P = "pg:main/"


class Drift(NamedTuple):
    """``sql`` changes live objects; then ``object`` must differ in ``option``.

    Where the object itself is gone or new, ``option`` is the word that drift uses: missing, undeclared.
    What no spec can say is only told, as unmodelled; ``undo`` is then what a person does about it.
    """

    sql: str
    object: str
    option: str
    undo: str = ""


def _t(name: str, sql: str, below: str, option: str, undo: str = "") -> Drift:
    """A drift of a table of its own: ``{t}`` in the SQL is its name."""
    t = f"app.t_{name}"
    return Drift(sql.format(t=t), f"{_P}app/t_{name}{below}", option, undo.format(t=t))


def _constraint(name: str, new: str, option: str, kind: str = "foreign_key", own: str = "fk") -> Drift:
    return _t(
        name,
        f"ALTER TABLE {{t}} DROP CONSTRAINT {own}; ALTER TABLE {{t}} ADD CONSTRAINT {own} {new}",
        f"/{kind}/{own}",
        option,
    )


def _index(name: str, new: str, option: str) -> Drift:
    own = f"ix_{name}"
    return _t(name, f"DROP INDEX app.{own}; CREATE {new.format(own=own, t=f'app.t_{name}')}", f"/index/{own}", option)


def _trigger(name: str, new: str, option: str) -> Drift:
    return _t(name, "DROP TRIGGER tr ON {t}; CREATE " + new, "/trigger/tr", option)


def _policy(name: str, new: str, option: str) -> Drift:
    return _t(f"policy_{name}", f"DROP POLICY po ON {{t}}; CREATE POLICY po ON {{t}} {new}", "/policy/po", option)


def _function(name: str, head: str, tail: str, option: str) -> Drift:
    """The function dropped and created otherwise."""
    drop = f"DROP ROUTINE app.f_{name}(integer);"
    return Drift(f"{drop} CREATE {head} {tail}", f"{_P}app/function/f_{name}(integer)", option)


def _alter_function(name: str, clause: str, option: str, arguments: str = "integer") -> Drift:
    return Drift(
        f"ALTER FUNCTION app.f_{name}({arguments}) {clause}", f"{_P}app/function/f_{name}({arguments})", option
    )


def _role(name: str, words: str, option: str) -> Drift:
    return Drift(f"ALTER ROLE r_{name} {words}", f"{_P}role/r_{name}", option)


_LATE_SQL = (
    "CONSTRAINT TRIGGER tr AFTER INSERT ON {t} DEFERRABLE INITIALLY %s FOR EACH ROW EXECUTE FUNCTION app.touch()"
)
_TRIGGER_SQL = "TRIGGER tr BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION app."
_FK_SQL = "FOREIGN KEY (b) REFERENCES app."
_FN = "RETURNS integer LANGUAGE sql AS 'SELECT x'"
_POLICY = "FOR UPDATE TO reader USING (b > 0) WITH CHECK (b > 1)"

DRIFTS: dict[str, Drift] = {
    # Schemas
    "schema_owner": Drift("ALTER SCHEMA app_owner OWNER TO owner_b", f"{_P}app_owner", "owner"),
    "schema_acl": Drift("REVOKE CREATE ON SCHEMA app_acl FROM reader", f"{_P}app_acl/grant/reader", "privileges"),
    "schema_renamed": Drift("ALTER SCHEMA app_named RENAME TO app_renamed", f"{_P}app_named", "missing"),
    "schema_comment": Drift("COMMENT ON SCHEMA app_comment IS 'theirs'", f"{_P}app_comment", "comment"),
    # Tables
    "table_renamed": _t("renamed", "ALTER TABLE {t} RENAME TO stray", "", "missing"),
    "table_moved": _t("moved", "ALTER TABLE {t} SET SCHEMA elsewhere", "", "missing"),
    "table_owner": _t("owner", "ALTER TABLE {t} OWNER TO owner_b", "", "owner"),
    "unlogged": _t("unlogged", "ALTER TABLE {t} SET UNLOGGED", "", "unlogged"),
    "method": _t("method", "CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;"
                           " ALTER TABLE {t} SET ACCESS METHOD heap_too", "", "access_method"),
    "tablespace": _t("tablespace", "ALTER TABLE {t} SET TABLESPACE elsewhere_too", "", "tablespace"),
    "kind": _t("kind", "DROP TABLE {t}; CREATE TABLE {t} (id bigint PRIMARY KEY, a varchar(50), b integer)"
                       " PARTITION BY LIST (id)",
               "", "partitioned"),
    "typed": _t("typed", "CREATE TYPE app.row_type AS (id bigint, a varchar(50), b integer); ALTER TABLE {t} OF"
                         " app.row_type",
                "", "of type", "ALTER TABLE {t} NOT OF; DROP TYPE app.row_type"),
    "column_added": _t("column_added",
                       "INSERT INTO {t} (id) VALUES (1); ALTER TABLE {t} ADD COLUMN extra integer NOT NULL DEFAULT 5",
                       "/column/extra", "undeclared"),
    "column_dropped": _t("column_dropped", "ALTER TABLE {t} DROP COLUMN b", "/column/b", "missing"),
    "column_renamed": _t("column_renamed", "ALTER TABLE {t} RENAME b TO c", "/column/b", "missing"),
    "inherits": _t("inherits", "ALTER TABLE {t} INHERIT app.t_parent", "", "inherits app.t_parent",
                   "ALTER TABLE {t} NO INHERIT app.t_parent"),
    "child_of": _t("child_of", "DROP TABLE {t}; CREATE TABLE {t} (PRIMARY KEY (id)) INHERITS (app.t_parent)", "",
                   "inherits app.t_parent", "ALTER TABLE {t} NO INHERIT app.t_parent"),
    "rule": _t("rule", "CREATE RULE aside AS ON INSERT TO {t} DO ALSO NOTHING", "", "rule aside",
               "DROP RULE aside ON {t}"),
    "rule_disabled": _t("rule_disabled",
                        "CREATE RULE aside AS ON INSERT TO {t} DO ALSO NOTHING; ALTER TABLE {t} DISABLE RULE aside",
                        "", "rule aside", "DROP RULE aside ON {t}"),
    "row_security": _t("row_security", "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY", "", "row_security"),
    "forced": _t("forced", "ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY", "", "row_security"),
    "identity_full": _t("identity_full", "ALTER TABLE {t} REPLICA IDENTITY FULL", "", "replica_identity"),
    "storage": _t("storage", "ALTER TABLE {t} SET (fillfactor = 70)", "", "storage"),
    "table_comment": _t("comment", "COMMENT ON TABLE {t} IS 'theirs'", "", "comment"),
    "table_acl": _t("acl", "REVOKE INSERT ON {t} FROM reader", "/grant/reader", "privileges"),
    # Partitions
    "detached": _t("detached", "ALTER TABLE {t} DETACH PARTITION {t}_one; DROP TABLE {t}_one", "/partitions/set",
                   "members"),
    "bound": _t("bound", "ALTER TABLE {t} DETACH PARTITION {t}_one; ALTER TABLE {t} ATTACH PARTITION {t}_one FOR"
                         " VALUES IN (1, 11)",
                "/partitions/set", "members"),
    "strategy": _t("strategy", "DROP TABLE {t}; CREATE TABLE {t} (id bigint PRIMARY KEY, a varchar(50), b integer)"
                               " PARTITION BY RANGE (id)",
                   "", "partitioned"),
    "part_key": _t("part_text", "DROP TABLE {t}; CREATE TABLE {t} (k text, m text, PRIMARY KEY (k, m)) PARTITION BY"
                                " RANGE (m COLLATE pg_catalog.\"default\", k)",
                   "", "partitioned"),
    "part_expression": _t("part_expression", "DROP TABLE {t}; CREATE TABLE {t} (k text) PARTITION BY LIST (upper(k))",
                          "", "partitioned"),
    "part_collation": _t("part_collation",
                         "DROP TABLE {t}; CREATE TABLE {t} (k text) PARTITION BY LIST (k COLLATE \"C\")", "",
                         "partitioned"),
    "part_class": _t("part_class", "DROP TABLE {t}; CREATE TABLE {t} (k text NOT NULL) PARTITION BY HASH (k"
                                   " text_pattern_ops);"
                     " CREATE TABLE {t}_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
                     " CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)", "",
                     "partitioned"),
    "default_part": _t("default_part", "CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT", "/partitions/set", "default"),
    # Columns
    "type": _t("type", "ALTER TABLE {t} ALTER b TYPE bigint", "/column/b", "type"),
    "type_length": _t("type_length", "ALTER TABLE {t} ALTER a TYPE varchar(40)", "/column/a", "type"),
    "array": _t("array", "ALTER TABLE {t} ALTER a TYPE text[] USING NULL", "/column/a", "type"),
    "column_storage": _t("column_storage", "ALTER TABLE {t} ALTER c SET STORAGE main", "/column/c", "storage"),
    "compression": _t("compression", "ALTER TABLE {t} ALTER c SET COMPRESSION default", "/column/c", "compression"),
    "not_null": _t("not_null", "ALTER TABLE {t} ALTER c DROP NOT NULL", "/column/c", "nullable"),
    "default": _t("default", "ALTER TABLE {t} ALTER c SET DEFAULT 8", "/column/c", "default"),
    "default_gone": _t("default_gone", "ALTER TABLE {t} ALTER c DROP DEFAULT", "/column/c", "default"),
    "default_new": _t("default_new", "ALTER TABLE {t} ALTER b SET DEFAULT 9", "/column/b", "default"),
    "identity": _t("identity", "ALTER TABLE {t} ALTER c SET GENERATED BY DEFAULT", "/column/c", "identity"),
    "sequence": _t("sequence", "ALTER TABLE {t} ALTER c SET START 6 SET INCREMENT 3 SET MINVALUE 2 SET MAXVALUE 998"
                               " SET CACHE 4 SET CYCLE",
                   "/column/c", "identity"),
    "sequence_type": _t("sequence_type", "ALTER SEQUENCE {t}_c_seq AS bigint MAXVALUE 2147483647", "",
                        "type of the sequence of c", "ALTER SEQUENCE {t}_c_seq AS integer"),
    "generated": _t("generated", "ALTER TABLE {t} ALTER c DROP EXPRESSION", "/column/c", "generated"),
    "column_collation": _t("column_collation", "ALTER TABLE {t} ALTER c TYPE text COLLATE \"POSIX\"", "/column/c",
                           "collation"),
    "statistics": _t("statistics", "ALTER TABLE {t} ALTER c SET STATISTICS 200", "/column/c", "statistics"),
    "column_acl": _t("column_acl", "REVOKE SELECT (b) ON {t} FROM reader", "/grant/reader", "privileges"),
    "column_options": _t("column_options", "ALTER TABLE {t} ALTER c SET (n_distinct = -0.4)", "/column/c", "options"),
    "column_comment": _t("column_comment", "COMMENT ON COLUMN {t}.c IS 'theirs'", "/column/c", "comment"),
    # Constraints
    "constraint_renamed": _t("constraint_renamed", "ALTER TABLE {t} RENAME CONSTRAINT positive TO stray",
                             "/check/positive", "missing"),
    "constraint_type": _t("constraint_type",
                          "ALTER TABLE {t} DROP CONSTRAINT once_type; ALTER TABLE {t} ADD CONSTRAINT once_type"
                          " CHECK (b > 0)",
                          "/unique/once_type", "missing"),
    "deferrable": _constraint("deferrable", "UNIQUE (a)", "deferrable", "unique", "once_deferrable"),
    "deferred": _constraint("deferred", "UNIQUE (a) DEFERRABLE INITIALLY IMMEDIATE", "initially_deferred", "unique",
                            "once_deferred"),
    "enforced": _constraint("enforced", "CHECK (b > 0) NOT ENFORCED", "enforced", "check", "positive"),
    "validated": _constraint("validated", "CHECK (b > 0) NOT VALID", "validated", "check", "positive"),
    "constraint_elsewhere": _t("constraint_elsewhere", "ALTER TABLE {t} DROP CONSTRAINT positive_here;"
                               " ALTER TABLE app.t_plain ADD CONSTRAINT positive_here CHECK (b > 0)",
                               "/check/positive_here", "missing"),
    "fk_table": _constraint("fk_table", _FK_SQL + "others (n)", "references"),
    "fk_wide": _constraint("fk_wide", _FK_SQL + "wide (n)", "references"),
    "fk_key": _constraint("fk_key", _FK_SQL + "keys (m)", "references"),
    "fk_update": _constraint("fk_update", _FK_SQL + "other (n) ON UPDATE RESTRICT", "on_update"),
    "fk_delete": _constraint("fk_delete", _FK_SQL + "other (n) ON DELETE CASCADE", "on_delete"),
    "fk_match": _constraint("fk_match", _FK_SQL + "other (n) MATCH FULL", "match"),
    "fk_columns": _constraint("fk_columns", "FOREIGN KEY (c) REFERENCES app.other (n)", "columns"),
    "fk_type": _t("fk_type", "ALTER TABLE {t} ALTER b TYPE bigint", "/column/b", "type"),
    "fk_set": _constraint("fk_set", "FOREIGN KEY (b, c) REFERENCES app.pair (n, m) ON DELETE SET NULL (c)",
                          "on_delete_columns"),
    "fk_deferrable": _t("fk_deferrable", "ALTER TABLE {t} ALTER CONSTRAINT fk NOT DEFERRABLE", "/foreign_key/fk",
                        "deferrable"),
    "no_inherit": _constraint("no_inherit", "CHECK (b > 0)", "no_inherit", "check", "positive"),
    "check": _constraint("check", "CHECK (b > 1)", "expression", "check", "positive"),
    "period": _constraint("period", "PRIMARY KEY (id, span)", "without_overlaps", "primary_key", "t_period_pkey"),
    "exclusion": _t("exclusion", "ALTER TABLE {t} ADD CONSTRAINT apart EXCLUDE USING btree (b WITH =)", "",
                    "constraint apart",
                    "ALTER TABLE {t} DROP CONSTRAINT apart"),
    "primary_key": _t("primary_key", "ALTER TABLE {t} DROP CONSTRAINT t_primary_key_pkey",
                      "/primary_key/t_primary_key_pkey", "missing"),
    "constraint_comment": _t("constraint_comment", "COMMENT ON CONSTRAINT positive ON {t} IS 'theirs'",
                             "/check/positive", "comment"),
    "unique_include": _constraint("unique_include", "UNIQUE (a)", "include", "unique", "once_include"),
    # Indexes
    "index_gone": _t("index_gone", "DROP INDEX app.ix_index_gone", "/index/ix_index_gone", "missing"),
    "index_renamed": _t("index_renamed", "ALTER INDEX app.ix_index_renamed RENAME TO stray_index",
                        "/index/ix_index_renamed", "missing"),
    "index_unique": _index("index_unique", "INDEX {own} ON {t} (a)", "unique"),
    "index_nulls": _index("index_nulls", "UNIQUE INDEX {own} ON {t} (a)", "nulls_not_distinct"),
    "index_clustered": _t("index_clustered", "ALTER TABLE {t} CLUSTER ON ix_index_clustered",
                          "/index/ix_index_clustered", "clustered"),
    "index_invalid": _t("index_invalid",
                        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.ix_index_invalid'::regclass",
                        "/index/ix_index_invalid", "valid"),
    **{f"index_not_{word}": _t(f"index_not_{word}", f"UPDATE pg_index SET indisvalid = false, indis{word} = false"
                               f" WHERE indexrelid = 'app.ix_index_not_{word}'::regclass",
                               f"/index/ix_index_not_{word}", "valid")
       for word in ("ready", "live")},
    "index_comment": _t("index_comment", "COMMENT ON INDEX app.ix_index_comment IS 'theirs'",
                        "/index/ix_index_comment", "comment"),
    "index_identity": _t("index_identity", "ALTER TABLE {t} REPLICA IDENTITY DEFAULT", "", "replica_identity"),
    "index_columns": _index("index_columns", "INDEX {own} ON {t} (a, b)", "columns"),
    "index_include": _index("index_include", "INDEX {own} ON {t} (a)", "include"),
    "index_collation": _index("index_collation", "INDEX {own} ON {t} (a COLLATE \"POSIX\")", "columns"),
    "index_class": _index("index_class", "INDEX {own} ON {t} (a)", "columns"),
    "index_order": _index("index_order", "INDEX {own} ON {t} (a DESC NULLS LAST)", "columns"),
    "index_expression": _index("index_expression", "INDEX {own} ON {t} (upper(a))", "columns"),
    "index_where": _index("index_where", "INDEX {own} ON {t} (a) WHERE b > 1", "where"),
    "index_method": _index("index_method", "INDEX {own} ON {t} USING hash (a)", "method"),
    "index_storage": _t("index_storage", "ALTER INDEX app.ix_index_storage SET (fillfactor = 60)",
                        "/index/ix_index_storage", "storage"),
    "index_statistics": _t("index_statistics", "ALTER INDEX app.ix_index_statistics ALTER COLUMN 1 SET STATISTICS 200",
                           "/index/ix_index_statistics", "statistics"),
    # Types
    "enum_added": Drift("ALTER TYPE app.mood ADD VALUE 'wild'", f"{_P}app/enum/mood", "values"),
    "enum_label": Drift("ALTER TYPE app.mood_order RENAME VALUE 'busy' TO 'idle'", f"{_P}app/enum/mood_order",
                        "values"),
    "enum_renamed": Drift("ALTER TYPE app.mood_renamed RENAME TO stray_type", f"{_P}app/enum/mood_renamed", "missing"),
    "type_kind": Drift("DROP TYPE app.mood_kind; CREATE DOMAIN app.mood_kind AS text", f"{_P}app/enum/mood_kind",
                       "missing"),
    "enum_owner": Drift("ALTER TYPE app.mood_owner OWNER TO owner_b", f"{_P}app/enum/mood_owner", "owner"),
    "enum_moved": Drift("ALTER TYPE app.mood_moved SET SCHEMA elsewhere", f"{_P}app/enum/mood_moved", "missing"),
    "enum_comment": Drift("COMMENT ON TYPE app.mood_comment IS 'theirs'", f"{_P}app/enum/mood_comment", "comment"),
    "enum_acl": Drift("REVOKE GRANT OPTION FOR USAGE ON TYPE app.mood_acl FROM reader",
                      f"{_P}app/enum/mood_acl/grant/reader", "grantable"),
    "domain_null": Drift("ALTER DOMAIN app.d_null DROP NOT NULL", f"{_P}app/domain/d_null", "nullable"),
    "domain_base": Drift("DROP DOMAIN app.d_base; CREATE DOMAIN app.d_base AS text", f"{_P}app/domain/d_base", "type"),
    "domain_length": Drift("DROP DOMAIN app.d_length; CREATE DOMAIN app.d_length AS varchar(11)",
                           f"{_P}app/domain/d_length", "type"),
    "domain_array": Drift("DROP DOMAIN app.d_array; CREATE DOMAIN app.d_array AS integer[]",
                          f"{_P}app/domain/d_array", "type"),
    "domain_collation": Drift("DROP DOMAIN app.d_collation; CREATE DOMAIN app.d_collation AS text COLLATE \"POSIX\"",
                              f"{_P}app/domain/d_collation", "collation"),
    "domain_default": Drift("ALTER DOMAIN app.d_default SET DEFAULT 2", f"{_P}app/domain/d_default", "default"),
    "domain_check": Drift("ALTER DOMAIN app.d_check DROP CONSTRAINT ok; ALTER DOMAIN app.d_check ADD CONSTRAINT ok"
                          " CHECK (VALUE > 1)",
                          f"{_P}app/domain/d_check", "conditions"),
    "domain_check_gone": Drift("ALTER DOMAIN app.d_check_gone DROP CONSTRAINT ok", f"{_P}app/domain/d_check_gone",
                               "conditions"),
    "domain_comment": Drift("COMMENT ON DOMAIN app.d_comment IS 'theirs'", f"{_P}app/domain/d_comment", "comment"),
    "domain_valid": Drift("ALTER DOMAIN app.d_valid DROP CONSTRAINT ok; ALTER DOMAIN app.d_valid ADD CONSTRAINT ok"
                          " CHECK (VALUE > 0) NOT VALID",
                          f"{_P}app/domain/d_valid", "conditions"),
    # Functions
    "function_renamed": Drift("ALTER FUNCTION app.f_renamed(integer) RENAME TO stray",
                              f"{_P}app/function/f_renamed(integer)", "missing"),
    "function_moved": Drift("ALTER FUNCTION app.f_moved(integer) SET SCHEMA elsewhere",
                            f"{_P}app/function/f_moved(integer)", "missing"),
    "function_owner": _alter_function("owner", "OWNER TO owner_b", "owner", ""),
    "function_language": _function("language", "FUNCTION app.f_language(x integer)",
                                   "RETURNS integer LANGUAGE plpgsql AS $$BEGIN RETURN x;END$$", "language"),
    "function_cost": _alter_function("cost", "COST 9", "cost"),
    "function_rows": _alter_function("rows", "ROWS 9", "rows", ""),
    "function_variadic": Drift("DROP FUNCTION app.f_variadic(integer); CREATE FUNCTION app.f_variadic(VARIADIC x"
                               " integer[])"
                               " RETURNS integer LANGUAGE sql AS 'SELECT 1'", f"{_P}app/function/f_variadic(integer)",
                               "missing"),
    "function_support": _alter_function("support", "SUPPORT generate_series_int4_support", "support", ""),
    "function_kind": Drift("DROP FUNCTION app.f_kind(integer); CREATE PROCEDURE app.f_kind(x integer) LANGUAGE sql"
                           " AS 'SELECT x'",
                           f"{_P}app/function/f_kind(integer)", "procedure"),
    "function_window": _function("window", "FUNCTION app.f_window(x integer)",
                                 "RETURNS integer LANGUAGE internal WINDOW AS 'window_ntile'", "window"),
    "function_security": _alter_function("security", "SECURITY DEFINER", "security"),
    "function_leakproof": _alter_function("leakproof", "LEAKPROOF", "leakproof"),
    "function_strict": _alter_function("strict", "STRICT", "strict"),
    "function_volatility": _alter_function("volatility", "STABLE", "volatility"),
    "function_parallel": _alter_function("parallel", "PARALLEL SAFE", "parallel"),
    "function_arguments": Drift("DROP FUNCTION app.f_arguments(integer); CREATE FUNCTION app.f_arguments(x integer,"
                                " y integer) " + _FN,
                                f"{_P}app/function/f_arguments(integer)", "missing"),
    "function_defaults": _function("defaults", "FUNCTION app.f_defaults(x integer DEFAULT 1)", _FN, "arguments"),
    "function_result": _function("result", "FUNCTION app.f_result(x integer)",
                                 "RETURNS SETOF bigint LANGUAGE sql AS 'SELECT x::bigint'", "returns"),
    "function_modes": _function("modes", "FUNCTION app.f_modes(x integer, OUT y integer)",
                                "LANGUAGE sql AS 'SELECT x'", "arguments"),
    "function_names": _function("names", "FUNCTION app.f_names(z integer)",
                                "RETURNS integer LANGUAGE sql AS 'SELECT z'", "arguments"),
    "function_body": _function("body", "FUNCTION app.f_body(x integer)",
                               "RETURNS integer LANGUAGE sql AS 'SELECT x + 1'", "body"),
    "function_atomic": Drift("CREATE OR REPLACE FUNCTION app.f_atomic() RETURNS integer LANGUAGE sql RETURN 2",
                             f"{_P}app/function/f_atomic()", "sql_body"),
    "function_set": _alter_function("set", "SET work_mem = '9MB'", "set", ""),
    "function_transform": Drift(
        "CREATE TRANSFORM FOR integer LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal));"
        " DROP FUNCTION app.f_transform(integer);"
        " CREATE FUNCTION app.f_transform(x integer) RETURNS integer LANGUAGE sql TRANSFORM FOR TYPE integer AS"
        " 'SELECT x'",
        f"{_P}app", "transforms of app.f_transform(integer)",
        "DROP FUNCTION app.f_transform(integer); DROP TRANSFORM FOR integer LANGUAGE sql;"
        " CREATE FUNCTION app.f_transform(x integer) RETURNS integer LANGUAGE sql AS 'SELECT x'",
    ),
    "function_acl": Drift("REVOKE EXECUTE ON FUNCTION app.f_acl() FROM reader",
                          f"{_P}app/function/f_acl()/grant/reader", "missing"),
    "function_comment": Drift("COMMENT ON FUNCTION app.f_comment() IS 'theirs'", f"{_P}app/function/f_comment()",
                              "comment"),
    "function_library": _function("library", "FUNCTION app.f_library(x integer)",
                                  "RETURNS integer LANGUAGE c AS '$libdir/vector', 'vector_in'",
                                  "library"),
    # Triggers
    "trigger_renamed": _t("trigger_renamed", "ALTER TRIGGER tr ON {t} RENAME TO stray", "/trigger/tr", "missing"),
    "trigger_added": _t("trigger_added", "CREATE " + _TRIGGER_SQL + "touch()", "/trigger/tr", "undeclared"),
    "trigger_function": _trigger("trigger_function", _TRIGGER_SQL + "touch_too()", "function"),
    "trigger_type": _trigger("trigger_type",
                             "TRIGGER tr AFTER UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION app.touch()", "timing"),
    "trigger_enabled": _t("trigger_enabled", "ALTER TABLE {t} DISABLE TRIGGER tr", "/trigger/tr", "enabled"),
    "trigger_deferrable": _trigger("trigger_deferrable",
                                   "CONSTRAINT TRIGGER tr AFTER INSERT ON {t} NOT DEFERRABLE FOR EACH ROW"
                                   " EXECUTE FUNCTION app.touch()", "deferrable"),
    "trigger_deferred": _trigger("trigger_deferred", _LATE_SQL % "IMMEDIATE", "initially_deferred"),
    "trigger_constraint": _trigger("trigger_constraint",
                                   "TRIGGER tr AFTER INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION app.touch()",
                                   "constraint"),
    "trigger_from": _trigger("trigger_from", _LATE_SQL % "DEFERRED", "from_table"),
    "trigger_arguments": _trigger("trigger_arguments", _TRIGGER_SQL + "touch('y', 'z')", "arguments"),
    "trigger_columns": _trigger("trigger_columns",
                                "TRIGGER tr BEFORE UPDATE OF b ON {t} FOR EACH ROW EXECUTE FUNCTION app.touch()",
                                "events"),
    "trigger_when": _trigger("trigger_when",
                             "TRIGGER tr BEFORE INSERT ON {t} FOR EACH ROW WHEN (NEW.b > 1) EXECUTE FUNCTION"
                             " app.touch()", "when"),
    "trigger_tables": _trigger("trigger_tables",
                               "TRIGGER tr AFTER UPDATE ON {t} REFERENCING OLD TABLE AS p NEW TABLE AS q FOR EACH"
                               " STATEMENT"
                               " EXECUTE FUNCTION app.touch()", "referencing"),
    "trigger_comment": _t("trigger_comment", "COMMENT ON TRIGGER tr ON {t} IS 'theirs'", "/trigger/tr", "comment"),
    # Policies
    "policy_renamed": _t("policy_renamed", "ALTER POLICY po ON {t} RENAME TO stray", "/policy/po", "missing"),
    "policy_command": _policy("command", "FOR ALL TO reader USING (b > 0) WITH CHECK (b > 1)", "for"),
    "policy_permissive": _policy("permissive", "AS RESTRICTIVE " + _POLICY, "permissive"),
    "policy_roles": _policy("roles", _POLICY.replace("reader", "owner_a"), "to"),
    "policy_using": _policy("using", _POLICY.replace("b > 0", "b > 9"), "using"),
    "policy_check": _policy("check", _POLICY.replace("b > 1", "b > 9"), "with_check"),
    "policy_comment": _t("policy_comment", "COMMENT ON POLICY po ON {t} IS 'theirs'", "/policy/po", "comment"),
    # Views
    "view_query": Drift("CREATE OR REPLACE VIEW app.v_query AS SELECT 2 AS one", f"{_P}app/view/v_query", "query"),
    "view_options": Drift("ALTER VIEW app.v_options SET (security_invoker = false)", f"{_P}app/view/v_options",
                          "options"),
    "view_gone": Drift("DROP VIEW app.v_gone", f"{_P}app/view/v_gone", "missing"),
    "view_owner": Drift("ALTER VIEW app.v_owner OWNER TO owner_b", f"{_P}app/view/v_owner", "owner"),
    "view_comment": Drift("COMMENT ON VIEW app.v_comment IS 'theirs'", f"{_P}app/view/v_comment", "comment"),
    "view_acl": Drift("REVOKE INSERT ON app.v_acl FROM reader", f"{_P}app/view/v_acl/grant/reader", "privileges"),
    "view_column": Drift("ALTER VIEW app.v_column RENAME COLUMN one TO two", f"{_P}app/view/v_column", "query"),
    "view_rule": Drift("CREATE RULE aside AS ON INSERT TO app.v_rule WHERE false DO INSTEAD NOTHING",
                       f"{_P}app/view/v_rule", "rule aside", "DROP RULE aside ON app.v_rule"),
    "view_default": Drift("ALTER VIEW app.v_default ALTER COLUMN one SET DEFAULT 5", f"{_P}app/view/v_default",
                          "default of one",
                          "ALTER VIEW app.v_default ALTER COLUMN one DROP DEFAULT"),
    # Roles
    "role_renamed": Drift("ALTER ROLE role_gone RENAME TO role_renamed", f"{_P}role/role_gone", "missing"),
    **{f"role_{flag}": _role(flag, flag.upper(), flag) for flag in
       ("superuser", "createdb", "createrole", "login", "replication", "bypassrls")},
    "role_inherit": _role("inherit", "NOINHERIT", "inherit"),
    "role_limit": _role("limit", "CONNECTION LIMIT 6", "connection_limit"),
    "role_password": _role("password", "PASSWORD 'theirs'", "password"),
    "role_until": _role("until", "VALID UNTIL '2089-01-01'", "valid_until"),
    "role_settings": _role("settings", "SET statement_timeout = '31s'", "settings"),
    "role_settings_gone": Drift("ALTER ROLE r_comment SET work_mem = '5MB'", f"{_P}role/r_comment", "settings"),
    "role_database": Drift("ALTER ROLE r_database IN DATABASE {database} SET work_mem = '5MB'",
                           f"{_P}role/r_database", "settings in {database}",
                           "ALTER ROLE r_database IN DATABASE {database} RESET ALL"),
    "role_comment": Drift("COMMENT ON ROLE r_comment IS 'theirs'", f"{_P}role/r_comment", "comment"),
    "member_gone": Drift("REVOKE group_a FROM m_gone", f"{_P}role/m_gone/membership/group_a", "missing"),
    "member_admin": Drift("GRANT group_a TO m_admin WITH ADMIN OPTION", f"{_P}role/m_admin/membership/group_a",
                          "admin"),
    "member_inherit": Drift("GRANT group_a TO m_inherit WITH INHERIT FALSE", f"{_P}role/m_inherit/membership/group_a",
                            "inherit"),
    "member_set": Drift("GRANT group_a TO m_set WITH SET FALSE", f"{_P}role/m_set/membership/group_a", "set"),
    # Extensions
    "extension_version": Drift("UPDATE pg_extension SET extversion = '0.8.4' WHERE extname = 'vector'",
                               f"{_P}extension/vector", "version"),
    "extension_schema": Drift("ALTER EXTENSION vector SET SCHEMA elsewhere", f"{_P}extension/vector", "schema"),
    "extension_comment": Drift("COMMENT ON EXTENSION vector IS 'theirs'", f"{_P}extension/vector", "comment"),
}  # fmt: skip
