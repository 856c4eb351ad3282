"""Rules about calls of PostgreSQL's own functions: how their fields are read, what they raise, what is gone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provision.checks.postgres_names import REMOVED_FUNCTIONS
from provision.checks.rule import Finding, rule
from provision.checks.sqltext import arguments, closing, is_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene

_AFTER_CALL = re.compile(r"\)\s*\.")


@rule("HF0424", "composite-access-syntax", "field")
def composite_access_syntax(scene: Scene) -> Iterator[Finding]:
    """Field of a call's result is taken without parentheses.

    `f(x).size` is no SQL (SQLSTATE 42601); the call needs parentheses of its own.

    Fix: write `(f(x)).size`, or put the call into FROM.

    Source: PostgreSQL documentation, Value Expressions, Field Selection. Mistakes: SB-50.

    Bad:
        schemas:
          shop:
            functions:
              size: {returns: bigint, language: sql, body: "SELECT pg_stat_file('PG_VERSION', true).size"}

    Good:
        schemas:
          shop:
            functions:
              size: {returns: bigint, language: sql, body: "SELECT (pg_stat_file('PG_VERSION', true)).size"}
    """
    for text in scene.texts:
        for call in text.sql.called if _AFTER_CALL.search(text.sql.raw) else ():
            end = closing(text.tokens, call.after)
            if is_op(text.tokens, end + 1, ".") and end + 2 < len(text.tokens) and text.tokens[end + 2].is_name:
                field = text.tokens[end + 2]
                yield Finding(
                    text.where,
                    f"field {field.text} of {call.last}(…) is taken without parentheses around the call",
                    f"Write ({call.last}(…)).{field.text}.",
                    offset=text.tokens[call.first].start,
                )


#: Functions that raise when the file is missing, unless their argument number n says otherwise.
_MISSING_OK = {"pg_stat_file": 2, "pg_read_file": 2, "pg_read_binary_file": 2, "pg_ls_dir": 3}


@rule("HF0425", "check-raises", "call of")
def file_check_raises(scene: Scene) -> Iterator[Finding]:
    """Test for a file raises when the file is missing.

    A verification that asks for a file wants "no" for an answer, not an error that ends it (SQLSTATE 58P01).

    Fix: pass missing_ok, `pg_stat_file('x', true)`.

    Source: PostgreSQL documentation, Generic File Access Functions. Mistakes: SB-50.

    Bad:
        schemas:
          shop:
            functions:
              size: {returns: bigint, language: sql, body: "SELECT (pg_stat_file('base.tar.gz')).size"}

    Good:
        schemas:
          shop:
            functions:
              size: {returns: bigint, language: sql, body: "SELECT (pg_stat_file('base.tar.gz', true)).size"}
    """
    for text in scene.bodies:
        for call in text.sql.called:
            needed = _MISSING_OK.get(call.last)
            if needed and len(arguments(text.tokens, call)) < needed:
                yield Finding(
                    text.where,
                    f"call of {call.last}() in {scene.name(text.record)} raises when the file is missing",
                    f"Pass missing_ok: {call.last}(…, {'true' if needed == 2 else 'true, false'}).",
                    offset=text.tokens[call.first].start,
                )


@rule("HF0429", "removed-function", "function")
def removed_function(scene: Scene) -> Iterator[Finding]:
    """SQL calls a function that the server no longer has.

    Exclusive backups went in PostgreSQL 15, the xlog names in 10 (SQLSTATE 42883).

    Fix: use the successor; pg_basebackup needs none of the backup functions.

    Source: PostgreSQL release notes 15 and 10. Mistakes: SB-54.

    Bad:
        schemas:
          shop:
            functions:
              begin_backup: {returns: pg_lsn, language: sql, body: "SELECT pg_start_backup('x', true)"}

    Good:
        schemas:
          shop:
            functions:
              begin_backup: {returns: pg_lsn, language: sql, body: "SELECT pg_backup_start('x', true)"}
    """
    for text in scene.texts:
        if not text.sql.mentions & REMOVED_FUNCTIONS.keys():
            continue
        facts = scene.target_facts(text.record)
        major = facts.version[0] if facts and facts.version else 15
        for call in text.sql.called:
            gone, instead = REMOVED_FUNCTIONS.get(call.last, (1000, ""))
            if major >= gone:
                yield Finding(
                    text.where,
                    f"function {call.last}() is gone since PostgreSQL {gone}",
                    f"Use {instead}.",
                    offset=text.tokens[call.first].start,
                )


RULES = (composite_access_syntax, file_check_raises, removed_function)
