"""Rules about function bodies: control flow, transactions, rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.checks.sqltext import is_word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene, Text
    from provision.checks.sqltext import Tokens
    from provision.checks.statements import Statement


def _plpgsql(scene: Scene) -> Iterator[tuple[Text, tuple[Statement, ...]]]:
    for text in scene.bodies:
        if text.language == "plpgsql":
            yield text, text.sql.plpgsql


@rule("HF0409", "plpgsql-select-without-destination", "SELECT without destination")
def select_without_destination(scene: Scene) -> Iterator[Finding]:
    """PL/pgSQL runs a SELECT and says nowhere where its result goes.

    The body is accepted and fails when it runs (SQLSTATE 42601).

    Fix: write PERFORM, SELECT … INTO, or RETURN QUERY.

    Source: PostgreSQL documentation, PL/pgSQL, Basic Statements. Mistakes: SB-31.

    Bad:
        schemas:
          shop:
            functions:
              f: {returns: integer, language: sql, body: SELECT 1}
              g: {returns: void, language: plpgsql, body: "BEGIN SELECT shop.f(); END"}

    Good:
        schemas:
          shop:
            functions:
              f: {returns: integer, language: sql, body: SELECT 1}
              g: {returns: void, language: plpgsql, body: "BEGIN PERFORM shop.f(); END"}
    """
    for text, statements in _plpgsql(scene):
        for statement in statements:
            if statement.word == "select" and not statement.has("into"):
                yield Finding(
                    text.where,
                    f"SELECT without destination in {scene.name(text.record)}",
                    "Write PERFORM, SELECT … INTO, or RETURN QUERY SELECT.",
                    offset=statement.tokens[0].start,
                )


@rule("HF0413", "lock-row-in-same-transaction", "lock row")
def lock_row_in_same_transaction(scene: Scene) -> Iterator[Finding]:
    """Function takes and releases a lock row in one transaction.

    A function runs in one transaction: nobody ever sees the row, rivals wait at the unique key instead of failing,
    and its expiry never counts.

    Fix: use pg_try_advisory_xact_lock(), or take the row in a transaction of its own.

    Source: PostgreSQL documentation, Explicit Locking, Advisory Locks. Mistakes: SB-36.

    Bad:
        schemas:
          shop:
            tables:
              locks: {columns: {name: {type: text, nullable: false}}, primary_key: [name]}
            functions:
              work:
                returns: void
                language: plpgsql
                body: |
                  BEGIN
                    INSERT INTO shop.locks VALUES ('work');
                    PERFORM pg_sleep(1);
                    DELETE FROM shop.locks WHERE name = 'work';
                  END

    Good:
        schemas:
          shop:
            functions:
              work:
                returns: void
                language: plpgsql
                body: |
                  BEGIN
                    IF NOT pg_try_advisory_xact_lock(42) THEN RAISE EXCEPTION 'busy'; END IF;
                    PERFORM pg_sleep(1);
                  END
    """
    for text in scene.bodies:
        items = [s.tokens for s in text.sql.plpgsql] if text.language == "plpgsql" else text.sql.statements
        inserted = {_target(s): _constants(s) for s in items if is_word(s, 0, "insert")}
        for statement in items:
            if not is_word(statement, 0, "delete"):
                continue
            table = _target(statement)
            if table and inserted.get(table, set()) & _constants(statement):
                yield Finding(
                    text.where,
                    f"lock row in {table} is taken and released in one transaction by {scene.name(text.record)}",
                    "Use pg_try_advisory_xact_lock(), with one key for all who exclude each other.",
                    offset=statement[0].start,
                )


def _target(tokens: Tokens) -> str:
    """The table of INSERT INTO or DELETE FROM."""
    name: list[str] = []
    for token in tokens[2:5]:
        if not token.is_name and token.text != ".":
            break
        if name and token.is_name and name[-1] != ".":
            break
        name.append(token.text)
    return "".join(name)


def _constants(tokens: Tokens) -> set[str]:
    return {t.text for t in tokens if t.kind == "string"}


_QUIET = frozenset({"notice", "warning", "info", "log", "debug"})
_WRITES = frozenset({"insert", "update", "delete"})


@rule("HF0415", "error-path-undone-by-raise", "write before RAISE", severity="warning")
def write_undone_by_raise(scene: Scene) -> Iterator[Finding]:
    """What is written just before RAISE disappears with it.

    An exception undoes everything of its block, the trace of the error and the cleanup included.

    Fix: let the caller write the trace in a transaction of its own.

    Source: PostgreSQL documentation, PL/pgSQL, Trapping Errors. Mistakes: SB-40.

    Bad:
        schemas:
          shop:
            tables:
              trace: {columns: {what: {type: text}}}
            functions:
              f:
                returns: void
                language: plpgsql
                body: BEGIN INSERT INTO shop.trace VALUES ('failed'); RAISE EXCEPTION 'failed'; END

    Good:
        schemas:
          shop:
            functions:
              f:
                returns: void
                language: plpgsql
                body: BEGIN RAISE EXCEPTION 'failed' USING DETAIL = 'what the caller should record'; END
    """
    for text, statements in _plpgsql(scene):
        for i, statement in enumerate(statements):
            if statement.word != "raise" or is_word(statement.tokens, 1, *_QUIET):
                continue
            before = i - 1
            while before >= 0 and statements[before].word in _WRITES | {"perform", "get"}:
                before -= 1
            written = next((s for s in statements[before + 1 : i] if s.word in _WRITES), None)
            if written is not None:
                yield Finding(
                    text.where,
                    f"write before RAISE in {scene.name(text.record)} is undone by it",
                    "Let the caller record it in its own transaction.",
                    offset=written.tokens[0].start,
                )


@rule("HF0423", "placeholder-body", "body of", severity="warning")
def placeholder_body(scene: Scene) -> Iterator[Finding]:
    """Function does nothing, or always gives an empty result.

    A body that selects WHERE false, or holds only NULL or RETURN, keeps its promise to nobody.

    Fix: write the body, or leave the function out until it has one.

    Source: Holdfast. Mistakes: SB-49.

    Bad:
        schemas:
          shop:
            functions:
              advice: {returns: "setof text", language: sql, body: "SELECT 'x'::text WHERE false"}

    Good:
        schemas:
          shop:
            tables:
              orders: {columns: {name: {type: text, nullable: false}}}
            functions:
              advice: {returns: "setof text", language: sql, body: SELECT name FROM shop.orders}
    """
    for text in scene.bodies:
        if text.role != "body":
            continue
        if text.language == "plpgsql":
            real = [
                s
                for s in text.sql.plpgsql
                if s.word not in ("declare", "begin", "end", "null") and not (s.word == "return" and len(s.tokens) == 1)
            ]
            empty = not real
        else:
            statements = text.sql.statements
            last = [t.text for t in statements[-1][-2:]] if len(statements) == 1 else []
            empty = last in (["where", "false"], ["limit", "0"])
        if empty:
            yield Finding(
                text.where,
                f"body of {scene.name(text.record)} is a placeholder",
                "Write it, or leave the function out.",
            )


@rule("HF0427", "case-without-else", "CASE without ELSE")
def case_without_else(scene: Scene) -> Iterator[Finding]:
    """CASE statement has no ELSE.

    In PL/pgSQL a value that no WHEN matches raises case_not_found (SQLSTATE 20000); only CASE expressions give NULL.

    Fix: add ELSE, with NULL; where nothing is to be done.

    Source: PostgreSQL documentation, PL/pgSQL, Conditionals. Mistakes: SB-52.

    Bad:
        schemas:
          shop:
            functions:
              f:
                arguments: [{name: x, type: text}]
                returns: void
                language: plpgsql
                body: BEGIN CASE x WHEN 'a' THEN PERFORM 1; END CASE; END

    Good:
        schemas:
          shop:
            functions:
              f:
                arguments: [{name: x, type: text}]
                returns: void
                language: plpgsql
                body: BEGIN CASE x WHEN 'a' THEN PERFORM 1; ELSE RAISE EXCEPTION 'no %', x; END CASE; END
    """
    for text, statements in _plpgsql(scene):
        for i, statement in enumerate(statements):
            if statement.word != "case":
                continue
            for later in statements[i + 1 :]:
                if later.word == "else" and later.depth == statement.depth + 1:
                    break
                if later.word == "end" and later.depth == statement.depth:
                    yield Finding(
                        text.where,
                        f"CASE without ELSE in {scene.name(text.record)} fails for any other value",
                        "Add ELSE; NULL; where nothing is to be done.",
                        offset=statement.tokens[0].start,
                    )
                    break


@rule("HF0437", "definer-without-search-path", "function", severity="warning")
def definer_without_search_path(scene: Scene) -> Iterator[Finding]:
    """SECURITY DEFINER function takes search_path from its caller.

    Such a function runs with its owner's rights. Whoever calls it chooses the path, and with it which operators
    and functions an unqualified name finds.

    Fix: add `set: {search_path: pg_catalog}`.

    Source: PostgreSQL documentation, CREATE FUNCTION, Writing SECURITY DEFINER Functions Safely. Mistakes: SB-28.

    Bad:
        schemas:
          shop:
            functions:
              f: {returns: integer, language: sql, security: definer, body: SELECT 1}

    Good:
        schemas:
          shop:
            functions:
              f: {returns: integer, language: sql, security: definer, set: {search_path: pg_catalog}, body: SELECT 1}
    """
    for record in scene.of("function"):
        settings = record.settings
        if settings.get("security") == "definer" and "search_path" not in (settings.get("set") or {}):
            yield Finding(
                (*(record.origin or ()), "security"),
                f"function {scene.qualified(record)} runs as its owner with the caller's search_path",
                "Add set: {search_path: pg_catalog}.",
            )


RULES = (
    select_without_destination, lock_row_in_same_transaction, write_undone_by_raise, placeholder_body,
    case_without_else, definer_without_search_path,
)  # fmt: skip
