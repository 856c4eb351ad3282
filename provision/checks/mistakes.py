"""The classes of mistakes found in the source documents, and what catches each where no rule of checks does.

``NAMES`` are the classes by number. Rules name the classes they catch in their docstrings; ``ELSEWHERE`` says for
the others, and for what a rule covers only in part, which stage or which later issue takes it.
"""

from __future__ import annotations

NAMES: dict[int, str] = {
    1: "pk-misses-partition-key", 2: "pk-misses-partition-key (list)", 3: "pk-misses-partition-key (default)",
    4: "pk-misses-partition-key (domain)", 5: "unique-misses-partition-key", 6: "fk-target-not-unique",
    7: "notnull-domain-on-nullable-column", 8: "default-violates-check", 9: "weak-json-check", 10: "volatile-check",
    11: "nonimmutable-index-predicate", 12: "index-expression-parens", 13: "unbounded-column-in-btree",
    14: "list-table-without-partitions", 15: "hash-set-incomplete", 16: "range-without-default-or-premake",
    17: "check-leaves-enum-values-out", 18: "check-refuses-both-null", 19: "check-contradicts-model",
    20: "extension-not-declared, ivfflat-on-empty-table", 21: "redundant-index",
    22: "index-order-cannot-serve-queue", 23: "unique-with-nullable-column", 24: "updated-at-never-touched",
    25: "schema-not-declared", 26: "object-defined-twice", 27: "timestamp-without-tz", 28: "unqualified-reference",
    29: "format-I-on-dotted-name", 30: "index-on-missing-column", 31: "plpgsql-select-without-destination",
    32: "partition-drop-by-name-pattern", 33: "date-bounds", 34: "function-needs-extension",
    35: "value-too-long-for-column", 36: "lock-row-in-same-transaction",
    37: "no-transaction-statement-inside-function", 38: "history-lost-on-rollback",
    39: "migration-dependency-not-enforced", 40: "error-path-undone-by-raise", 41: "backfill-in-one-transaction",
    42: "shadow-migration-incomplete", 43: "notify-payload-limit", 44: "notify-as-durable-transport",
    45: "publish-subject-without-stream", 46: "event-coverage-gap", 47: "oldest-newest-swapped",
    48: "ambiguous-column, name-returned-as-text, division-by-zero", 49: "placeholder-body",
    50: "composite-access-syntax, check-raises, constant-pass", 51: "pitr-config-incomplete",
    52: "case-without-else", 53: "start-equals-end", 54: "removed-function", 55: "rate-limit-on-pull-consumer",
    56: "duration-unit, unknown-field", 57: "interest-stream-uncovered-subjects", 58: "msg-size-over-max-payload",
    59: "replicas-exceed-cluster, placement-unmatched, storage-overcommit", 60: "kv-key-charset",
    61: "per-key-ttl-unsupported", 62: "unknown-cli-subcommand", 63: "memory-stream-snapshot",
    64: "backup-target-is-directory", 65: "conflicting-bucket-defaults", 66: "meaningless-consumer-option",
    67: "redelivery-outlives-stream", 68: "no-dead-letter-after-max-deliver", 69: "pipeline-hides-exit-status",
    70: "retention-unit, retention-deletes-root, wal-shorter-than-base", 71: "archive-command-ignores-failure",
    72: "verification-not-run", 73: "manifest-invalid-json, find-precedence, empty-checksum-set",
    74: "snapshot-without-common-point", 75: "pool-clamp-inverted",
    76: "ratio-by-zero, rate-from-lifetime-counter", 77: "conninfo-unknown-parameter", 78: "conninfo-not-encoded",
    79: "enum-case-without-implementation", 80: "tls-mode-too-weak",
    81: "superuser-setting, set-by-concatenation", 82: "isolation-alias", 83: "two-phase-unavailable",
    84: "saga-not-recoverable", 85: "flush-state-machine", 86: "put-where-create-is-meant",
    87: "conflict-strategy-incomplete", 88: "flush-only-by-count", 89: "lag-sign", 90: "conflicting-thresholds",
    91: "retryability-conflict", 92: "pool-declared-but-unused, metric-mislabelled",
    93: "conflicting-database-name", 94: "version-from-bucket-revision", 95: "count-mismatch",
    96: "primary-key-without-source",
    97: "health-check-counts-itself, per-database-count-against-server-limit", 98: "not-rerunnable",
    99: "mixed-delete-rules",
}  # fmt: skip

_MIGRATIONS = "issue 5 (migrations)"
_RUNTIME = "issue 6 (runtime)"
_BACKUP = "backup (later)"
ELSEWHERE: dict[int, str] = {
    8: "compile level, for defaults other than the empty document",
    14: "reading, HF0210: list partitions need values or a default",
    15: "reading, HF0210: hash partitions need a modulus; Holdfast makes every remainder",
    26: "reading, HF0102, HF0103 and HF0211: both places are shown",
    28: "reading, HF0210: types that are not built in name their schema",
    33: "by construction: bounds are written in UTC, retention looks at the upper bound",
    37: f"{_MIGRATIONS}, for statements in migrations",
    38: _MIGRATIONS,
    39: _MIGRATIONS,
    41: _MIGRATIONS,
    42: _MIGRATIONS,
    51: _BACKUP,
    56: "reading, HF0203 and HF0201: durations have units, unknown keys are refused with a suggestion",
    62: _BACKUP,
    63: _BACKUP,
    64: _BACKUP,
    65: "reading, HF0102 and HF0103: an object is declared once",
    **dict.fromkeys(range(69, 75), _BACKUP),
    76: _RUNTIME,
    79: "reading, HF0204: the forms of a connection are a closed list, each one built",
    83: f"{_RUNTIME}: staged records",
    84: _RUNTIME,
    85: f"{_RUNTIME}: the flusher itself",
    86: _RUNTIME,
    87: _RUNTIME,
    88: f"{_RUNTIME}: flush interval",
    89: _RUNTIME,
    91: _RUNTIME,
    92: f"{_RUNTIME}: metrics",
    94: _RUNTIME,
    98: "by construction: apply reconciles against the catalogs, a second run has no steps",
}
