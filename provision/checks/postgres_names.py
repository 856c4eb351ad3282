"""Names that PostgreSQL and well-known extensions bring along: functions, settings, catalog columns. Pure."""

from __future__ import annotations

_TYPES_OF = {
    "vector": "vector halfvec sparsevec", "hstore": "hstore", "citext": "citext", "ltree": "ltree lquery ltxtquery",
    "postgis": "geometry geography box2d box3d", "cube": "cube", "seg": "seg", "isn": "isbn issn ean13 upc",
}  # fmt: skip
EXTENSION_OF_TYPE = {name: extension for extension, names in _TYPES_OF.items() for name in names.split()}
_FUNCTIONS_OF = {
    "pgcrypto": "digest hmac crypt gen_salt encrypt decrypt encrypt_iv decrypt_iv gen_random_bytes armor dearmor "
    "pgp_sym_encrypt pgp_sym_decrypt pgp_pub_encrypt pgp_pub_decrypt pgp_sym_encrypt_bytea pgp_sym_decrypt_bytea",
    "uuid-ossp": "uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 uuid_nil",
    "pg_trgm": "similarity word_similarity strict_word_similarity show_trgm set_limit show_limit",
    "unaccent": "unaccent",
    "fuzzystrmatch": "levenshtein levenshtein_less_equal soundex metaphone dmetaphone daitch_mokotoff",
    "tablefunc": "crosstab crosstab2 crosstab3 crosstab4 connectby normal_rand",
    "dblink": "dblink dblink_connect dblink_exec dblink_disconnect",
    "pg_stat_statements": "pg_stat_statements pg_stat_statements_reset pg_stat_statements_info",
    "vector": "cosine_distance l2_distance inner_product l1_distance vector_dims vector_norm",
    "pgstattuple": "pgstattuple pgstatindex pgstattuple_approx",
    "pg_buffercache": "pg_buffercache pg_buffercache_summary",
    "amcheck": "bt_index_check bt_index_parent_check verify_heapam",
    "earthdistance": "earth ll_to_earth earth_distance earth_box",
    "hypopg": "hypopg_create_index hypopg_reset",
}
EXTENSION_OF_FUNCTION = {name: ext for ext, names in _FUNCTIONS_OF.items() for name in names.split()}
EXTENSION_OF_METHOD = {"ivfflat": "vector", "hnsw": "vector", "bloom": "bloom", "rum": "rum"}
EXTENSION_OF_OPCLASS_SUFFIX = {"_trgm_ops": "pg_trgm"}
#: Built-in replacements of extension functions, for the hint.
BUILT_IN_INSTEAD = {
    "digest": "sha256(convert_to(x, 'UTF8')) is built in",
    "uuid_generate_v4": "gen_random_uuid() is built in",
}
#: Functions that a release took away: name -> (first major without it, what to use).
REMOVED_FUNCTIONS = {
    "pg_start_backup": (15, "pg_backup_start() in the session that later calls pg_backup_stop()"),
    "pg_stop_backup": (15, "pg_backup_stop()"),
    "pg_is_in_backup": (15, "nothing: exclusive backups are gone"),
    "pg_backup_start_time": (15, "nothing: exclusive backups are gone"),
    "pg_current_xlog_location": (10, "pg_current_wal_lsn()"),
    "pg_switch_xlog": (10, "pg_switch_wal()"),
    "pg_xlogfile_name": (10, "pg_walfile_name()"),
    "pg_last_xlog_replay_location": (10, "pg_last_wal_replay_lsn()"),
    "pg_last_xlog_receive_location": (10, "pg_last_wal_receive_lsn()"),
    "pg_xlog_location_diff": (10, "pg_wal_lsn_diff()"),
    "pg_xlog_replay_pause": (10, "pg_wal_replay_pause()"),
    "pg_xlog_replay_resume": (10, "pg_wal_replay_resume()"),
    "array_cat_agg": (14, "array_agg()"),
}
#: Settings that only a superuser may change (documentation, "Server Configuration"; pg_settings.context superuser).
SUPERUSER_SETTINGS = frozenset(
    "log_statement log_min_duration_statement log_min_error_statement log_min_messages log_duration "
    "log_error_verbosity log_executor_stats log_lock_waits log_parser_stats log_planner_stats log_statement_stats "
    "log_replication_commands log_temp_files log_transaction_sample_rate log_statement_sample_rate "
    "log_min_duration_sample log_parameter_max_length session_replication_role session_preload_libraries "
    "temp_file_limit track_activities track_counts track_functions track_io_timing track_wal_io_timing "
    "zero_damaged_pages ignore_checksum_failure wal_compression wal_consistency_checking commit_delay "
    "deadlock_timeout dynamic_library_path lc_messages max_stack_depth allow_system_table_mods "
    "update_process_title jit_provider compute_query_id".split()
)
#: Settings in milliseconds when no unit is given.
MILLISECOND_SETTINGS = frozenset(
    "statement_timeout lock_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout "
    "deadlock_timeout log_min_duration_statement".split()
)
#: Settings that people put into connection strings, where libpq has no such parameter.
SESSION_SETTINGS = MILLISECOND_SETTINGS | frozenset(
    "search_path timezone work_mem role default_transaction_isolation default_transaction_read_only datestyle "
    "intervalstyle synchronous_commit row_security jit plan_cache_mode statement_mem log_statement".split()
)
#: Columns of the system catalogs that have type ``name``.
NAME_COLUMNS = frozenset(
    "nspname relname schemaname tablename indexname indexrelname datname usename rolname attname typname proname "
    "conname tgname viewname matviewname extname collname amname opcname spcname sequencename policyname "
    "funcname tableowner viewowner indexdef_name".split()
)
#: Columns of statistics and catalog views that are often joined, for the rule of ambiguous columns.
CATALOG_COLUMNS = {
    "pg_stat_user_indexes": "relid indexrelid schemaname relname indexrelname idx_scan idx_tup_read idx_tup_fetch",
    "pg_stat_user_tables": "relid schemaname relname seq_scan idx_scan n_live_tup n_dead_tup last_vacuum",
    "pg_statio_user_tables": "relid schemaname relname heap_blks_read heap_blks_hit idx_blks_read idx_blks_hit",
    "pg_statio_user_indexes": "relid indexrelid schemaname relname indexrelname idx_blks_read idx_blks_hit",
    "pg_indexes": "schemaname tablename indexname tablespace indexdef",
    "pg_tables": "schemaname tablename tableowner tablespace hasindexes hasrules hastriggers rowsecurity",
    "pg_views": "schemaname viewname viewowner definition",
    "pg_policies": "schemaname tablename policyname permissive roles cmd qual with_check",
    "pg_stats": "schemaname tablename attname inherited null_frac n_distinct correlation",
    "pg_stat_activity": "datid datname pid leader_pid usesysid usename application_name client_addr state query "
    "backend_start xact_start query_start state_change wait_event wait_event_type",
    "pg_stat_database": "datid datname numbackends xact_commit xact_rollback blks_read blks_hit tup_returned",
    "pg_locks": "locktype database relation pid mode granted",
    "pg_stat_replication": "pid usesysid usename application_name client_addr backend_start state sent_lsn",
}
#: The longest text that well-known functions may give, in characters.
LONG_RESULTS = {"version": 105, "current_query": 1 << 20, "pg_get_functiondef": 1 << 20, "pg_get_viewdef": 1 << 20}
