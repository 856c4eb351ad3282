"""Rules about what queries claim: oldest and newest, durations, health, constant verdicts, counts in comments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.checks.sqltext import clock_calls, closing, is_op, is_word, spelled, split, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.checks.sqltext import Tokens
    from provision.checks.tables import Table

_EXTREMES = {
    "max": (("oldest", "earliest"), "min"),
    "min": (("newest", "latest", "youngest"), "max"),
}


@rule("HF0419", "oldest-newest-swapped", "column", severity="warning")
def oldest_newest_swapped(scene: Scene) -> Iterator[Finding]:
    """Column called oldest holds the newest, or the reverse.

    The oldest of several times is their minimum. An age is another matter: the rule looks at plain columns only.

    Fix: swap min() and max().

    Source: PostgreSQL documentation, Aggregate Functions. Mistakes: SB-47.

    Bad:
        schemas:
          shop:
            views:
              conns: {query: SELECT max(backend_start) AS oldest_connection FROM pg_catalog.pg_stat_activity}

    Good:
        schemas:
          shop:
            views:
              conns: {query: SELECT min(backend_start) AS oldest_connection FROM pg_catalog.pg_stat_activity}
    """
    for text in scene.bodies:
        for call in text.sql.called:
            prefixes, right = _EXTREMES.get(call.last, ((), ""))
            end = closing(text.tokens, call.after) if prefixes else 0
            if not prefixes or not is_word(text.tokens, end + 1, "as") or end + 2 >= len(text.tokens):
                continue
            inside = text.tokens[call.after + 1 : end]
            alias = text.tokens[end + 2].text
            if alias.startswith(prefixes) and all(t.is_name or t.text == "." for t in inside):
                yield Finding(
                    text.where,
                    f"column {alias} of {scene.name(text.record)} is {call.last}({spelled(inside)})",
                    f"Write {right}({spelled(inside)}).",
                    offset=text.tokens[call.first].start,
                )


_GOOD = frozenset({"pass", "passed"})
_OTHERWISE = re.compile(r"fail|error|warn|bad|missing|invalid|unknown|skip", re.IGNORECASE)


@rule("HF0426", "constant-pass", "verdict of")
def constant_pass(scene: Scene) -> Iterator[Finding]:
    """Verification can only pass.

    A function that knows the word PASS and no other verdict proves nothing.

    Fix: test something, and give FAIL where the test fails.

    Source: Holdfast. Mistakes: SB-50.

    Bad:
        schemas:
          shop:
            functions:
              verify: {returns: text, language: sql, body: SELECT 'PASS'}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {total: {type: numeric}}}
            functions:
              verify:
                returns: text
                language: sql
                body: SELECT CASE WHEN EXISTS (SELECT FROM shop.orders) THEN 'PASS' ELSE 'FAIL' END
    """
    for text in scene.bodies:
        strings = [t for t in text.tokens if t.kind == "string"]
        verdict = next((t for t in strings if t.text.lower() in _GOOD), None)
        if verdict is not None and not any(_OTHERWISE.search(t.text) for t in strings):
            yield Finding(
                text.where,
                f"verdict of {scene.name(text.record)} is always '{verdict.text}'",
                "Test something, and give 'FAIL' where it fails.",
                offset=verdict.start,
            )


_ENDS = re.compile(r"^(ended|finished|completed|stopped)(_at|_time)?$|^end_time$")
_STARTS = re.compile(r"^(began|begun|started|start)(_at|_time)?$|^start_time$")


@rule("HF0428", "start-equals-end", "record of", severity="warning")
def start_equals_end(scene: Scene) -> Iterator[Finding]:
    """One INSERT writes start and end, so the duration is nothing.

    `now()` is the start of the transaction: written into both columns, or into one whose partner has it as default,
    it records that the work took no time.

    Fix: insert the start first and update the end, or pass the measured start.

    Source: PostgreSQL documentation, Current Date/Time. Mistakes: SB-53.

    Bad:
        schemas:
          shop:
            tables:
              runs: {columns: {began: {type: timestamptz, default: now()}, ended: {type: timestamptz}}}
            functions:
              note: {returns: void, language: sql, body: INSERT INTO shop.runs (ended) VALUES (now())}

    Good:
        schemas:
          shop:
            tables:
              runs: {columns: {began: {type: timestamptz, default: now()}, ended: {type: timestamptz}}}
            functions:
              note:
                arguments: [{name: since, type: timestamptz}]
                returns: void
                language: sql
                body: INSERT INTO shop.runs (began, ended) VALUES (since, clock_timestamp())
    """
    for text in scene.bodies:
        for mention in text.sql.relations:
            if mention.clause != "into" or not is_op(text.tokens, mention.after, "("):
                continue
            values = _row(text.tokens, mention.after)
            table = scene.table(text.record.address.target, mention.qualified)
            ended = next((v for c, v in values.items() if _ENDS.match(c) and clock_calls(v)), None)
            if ended is None or not _starts_now(values, table):
                continue
            yield Finding(
                text.where,
                f"record of {mention.qualified} in {scene.name(text.record)} starts and ends at one moment",
                "Insert the start first and update the end, or pass the measured start.",
                offset=ended[0].start,
            )


def _row(tokens: Tokens, opening: int) -> dict[str, Tokens]:
    """Column -> value of ``(a, b) VALUES (1, 2)``; the first row."""
    end = closing(tokens, opening)
    columns = [p[0].text for p in split(tokens[opening + 1 : end], ",") if p]
    if not is_word(tokens, end + 1, "values") or not is_op(tokens, end + 2, "("):
        return {}
    values = split(tokens[end + 3 : closing(tokens, end + 2)], ",")
    return dict(zip(columns, values, strict=False))


def _starts_now(values: dict[str, Tokens], table: Table | None) -> bool:
    for column, value in values.items():
        if _STARTS.match(column):
            return bool(clock_calls(value))
    return table is not None and any(
        _STARTS.match(c) and clock_calls(tokenize(r.settings.get("default") or "")) for c, r in table.columns.items()
    )


@rule("HF0434", "health-check-counts-itself", "health check", severity="warning")
def health_check_counts_itself(scene: Scene) -> Iterator[Finding]:
    """Health check counts the session that runs it.

    On an idle server the checking session is the only one, so all connections are active and the advice is wrong.

    Fix: add `pid <> pg_backend_pid()`.

    Source: PostgreSQL documentation, The Cumulative Statistics System. Mistakes: SB-97.

    Bad:
        schemas:
          shop:
            functions:
              busy:
                returns: bigint
                language: sql
                body: SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE state = 'active'

    Good:
        schemas:
          shop:
            functions:
              busy:
                returns: bigint
                language: sql
                body: >-
                  SELECT count(*) FROM pg_catalog.pg_stat_activity
                  WHERE state = 'active' AND pid <> pg_backend_pid()
    """
    for text in scene.bodies:
        known = text.sql.words
        if text.role == "body" and {"pg_stat_activity", "count"} <= known and "pg_backend_pid" not in known:
            at = next(t for t in text.tokens if t.text == "pg_stat_activity")
            yield Finding(
                text.where,
                f"health check {scene.qualified(text.record)} counts its own session",
                "Add AND pid <> pg_backend_pid().",
                offset=at.start,
            )


@rule("HF0435", "per-database-count-against-server-limit", "health check", severity="warning")
def database_count_against_server_limit(scene: Scene) -> Iterator[Finding]:
    """Connections of one database are compared with the limit of the server.

    max_connections holds for all databases together; another database can use it up while this count looks well.

    Fix: count every database.

    Source: PostgreSQL documentation, Connections and Authentication. Mistakes: SB-97.

    Bad:
        schemas:
          shop:
            functions:
              room:
                returns: bigint
                language: sql
                body: >-
                  SELECT current_setting('max_connections')::int - count(*) FROM pg_catalog.pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()

    Good:
        schemas:
          shop:
            functions:
              room:
                returns: bigint
                language: sql
                body: >-
                  SELECT current_setting('max_connections')::int - count(*) FROM pg_catalog.pg_stat_activity
                  WHERE pid <> pg_backend_pid()
    """
    for text in scene.bodies:
        if not {"pg_stat_activity", "current_database"} <= text.sql.words:
            continue
        if any("max_connections" in t.text for t in text.tokens):
            at = next(t for t in text.tokens if t.text == "current_database")
            yield Finding(
                text.where,
                f"health check {scene.name(text.record)} compares one database with the limit of the server",
                "Count the connections of every database.",
                offset=at.start,
            )


_COUNT = re.compile(r"\b(\d+)\s+(?:hash\s+|list\s+)?(partition|index|column)(?:e?s)?\b", re.IGNORECASE)


@rule("HF0350", "count-mismatch", "comment on", severity="warning")
def count_mismatch(scene: Scene) -> Iterator[Finding]:
    """Comment claims a number that the declaration does not have.

    Numbers in prose go stale; readers plan with them.

    Fix: correct the number, or leave it out.

    Source: Holdfast. Mistakes: SB-95.

    Bad:
        schemas:
          shop:
            tables:
              state:
                comment: Split into 16 partitions.
                columns: {id: {type: uuid, nullable: false}}
                partitions: {by: hash, key: [id], modulus: 8}

    Good:
        schemas:
          shop:
            tables:
              state:
                comment: Split into 8 partitions.
                columns: {id: {type: uuid, nullable: false}}
                partitions: {by: hash, key: [id], modulus: 8}
    """
    for table in scene.tables.values():
        for match in _COUNT.finditer(table.record.settings.get("comment") or ""):
            claimed, noun = int(match[1]), match[2].lower()
            actual = _counted(table, noun)
            if actual is not None and actual != claimed:
                yield Finding(
                    (*(table.record.origin or ()), "comment"),
                    f"comment on {table.qualified} claims {match[0]}, and {actual} are declared",
                    "Correct the number, or leave it out.",
                )


def _counted(table: Table, noun: str) -> int | None:
    if noun == "column":
        return len(table.columns)
    if noun == "index":
        return len(table.of("index")) + len(table.keys)
    settings = table.partitions.settings if table.partitions else {}
    if settings.get("by") == "hash":
        return int(settings.get("modulus") or 0)
    if settings.get("by") == "list":
        return len(settings.get("values") or {}) + bool(settings.get("default"))
    return None


RULES = (
    oldest_newest_swapped, constant_pass, start_equals_end, health_check_counts_itself,
    database_count_against_server_limit, count_mismatch,
)  # fmt: skip
