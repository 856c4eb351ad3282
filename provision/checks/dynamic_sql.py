"""Rules about statements that functions and sessions put together or may not run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provision.checks.postgres_names import SUPERUSER_SETTINGS
from provision.checks.rule import Finding, rule
from provision.checks.sqltext import arguments, calls, is_word, split, tokenize, words
from provision.checks.statements import plpgsql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene, Text
    from provision.checks.sqltext import Token, Tokens
    from provision.checks.statements import Statement


def _plpgsql(scene: Scene) -> Iterator[tuple[Text, tuple[Statement, ...]]]:
    for text in scene.bodies:
        if text.language == "plpgsql":
            yield text, text.sql.plpgsql


_PLACEHOLDER = re.compile(r"%(?:(\d+)\$)?-?\d*([sIL%])")


@rule("HF0408", "format-I-on-dotted-name", "%I")
def format_i_on_dotted_name(scene: Scene) -> Iterator[Finding]:
    """format() quotes a dotted name as one identifier.

    `%I` makes one identifier: 'shop.orders' becomes "shop.orders", a table with a dot in its name, which does not
    exist (SQLSTATE 42P01). A regclass becomes the same as soon as it shows its schema.

    Fix: take schema and table as two arguments with `%I.%I`, or a regclass with `%s`.

    Source: PostgreSQL documentation, String Functions, format. Mistakes: SB-29.

    Bad:
        schemas:
          shop:
            functions:
              grow:
                returns: void
                language: plpgsql
                body: BEGIN EXECUTE format('ALTER TABLE %I ADD COLUMN b int', 'shop.orders'); END

    Good:
        schemas:
          shop:
            functions:
              grow:
                returns: void
                language: plpgsql
                body: BEGIN EXECUTE format('ALTER TABLE %I.%I ADD COLUMN b int', 'shop', 'orders'); END
    """
    dotted = _dotted_parameters(scene)
    for text in scene.bodies:
        regclass = {
            str(a.get("name")) for a in text.record.settings.get("arguments") or () if a.get("type") == "regclass"
        } | _declared_as(text.tokens, {"regclass"})
        suspect = regclass | dotted.get(text.record.address.name, set())
        for call in text.sql.called:
            if call.last != "format":
                continue
            pattern, *values = arguments(text.tokens, call) or [()]
            if len(pattern) != 1 or pattern[0].kind != "string":
                continue
            for value in _quoted_values(pattern[0].text, values):
                wrong = [t for t in value if t.kind == "string" and "." in t.text]
                if wrong or (len(value) == 1 and value[0].text in suspect):
                    shown = value[0].text if len(value) == 1 else "a joined name"
                    yield Finding(
                        text.where,
                        f"%I in {scene.name(text.record)} makes one identifier of {shown}, which holds a dot",
                        "Write %I.%I with schema and table, or %s with a regclass.",
                        offset=value[0].start,
                    )


def _quoted_values(pattern: str, values: list[Tokens]) -> Iterator[Tokens]:
    """The arguments of format() that ``%I`` takes."""
    position = 0
    for match in _PLACEHOLDER.finditer(pattern):
        if match[2] == "%":
            continue
        position = int(match[1]) if match[1] else position + 1
        if match[2] == "I" and position <= len(values) and values[position - 1]:
            yield values[position - 1]


def _dotted_parameters(scene: Scene) -> dict[str, set[str]]:
    """Parameters of declared functions that some body calls with a dotted literal, by the function's name."""
    found: dict[str, set[str]] = {}
    for text in scene.bodies:
        for call in text.sql.called:
            for function in scene.functions.get((text.record.address.target, call.qualified), ()):
                parameters = function.settings.get("arguments") or []
                for parameter, value in zip(parameters, arguments(text.tokens, call), strict=False):
                    if len(value) == 1 and value[0].kind == "string" and re.fullmatch(r"\w+\.\w+", value[0].text):
                        found.setdefault(function.address.name, set()).add(str(parameter.get("name")))
    return found


def _declared_as(tokens: Tokens, names: set[str]) -> set[str]:
    """Variables that a DECLARE section gives one of these types."""
    return {
        s.tokens[0].text
        for s in plpgsql(tokens)
        if len(s.tokens) > 1 and s.tokens[0].is_name and s.tokens[1].text in names
    }


_ALONE = (
    ({"vacuum"}, "VACUUM"),
    ({"concurrently", "detach"}, "DETACH CONCURRENTLY"),
    ({"concurrently", "reindex"}, "REINDEX CONCURRENTLY"),
    ({"concurrently", "create", "index"}, "CREATE INDEX CONCURRENTLY"),
    ({"concurrently", "drop", "index"}, "DROP INDEX CONCURRENTLY"),
    ({"create", "database"}, "CREATE DATABASE"),
    ({"drop", "database"}, "DROP DATABASE"),
    ({"alter", "system"}, "ALTER SYSTEM"),
    ({"create", "tablespace"}, "CREATE TABLESPACE"),
)
_STARTS = frozenset({"vacuum", "create", "drop", "alter", "reindex"})


@rule("HF0414", "no-transaction-statement-inside-function", "statement")
def statement_refuses_transaction(scene: Scene) -> Iterator[Finding]:
    """Function runs a statement that no transaction may hold.

    CREATE INDEX CONCURRENTLY, VACUUM, CREATE DATABASE and their like run only outside transactions, and a function
    is always inside one (SQLSTATE 25001). COMMIT and ROLLBACK are for procedures (SQLSTATE 2D000).

    Fix: put the statement into a migration that runs outside a transaction; declare indexes, and apply builds them.

    Source: PostgreSQL documentation, CREATE INDEX; PL/pgSQL, Transaction Management. Mistakes: SB-37.

    Bad:
        schemas:
          shop:
            functions:
              reindex:
                returns: void
                language: plpgsql
                body: BEGIN EXECUTE 'CREATE INDEX CONCURRENTLY ON shop.orders (a)'; END

    Good:
        schemas:
          shop:
            functions:
              clean:
                returns: void
                language: plpgsql
                body: BEGIN EXECUTE 'ANALYZE shop.orders'; END
    """
    for text in scene.bodies:
        if text.role != "body":
            continue
        statements = _all_statements(text)
        for first, known in statements:
            shown = next((name for needed, name in _ALONE if needed <= known), None)
            if first.text in ("commit", "rollback"):
                shown = None if text.record.settings.get("procedure") else first.text.upper()
            elif first.text not in _STARTS:
                shown = None
            if shown:
                yield Finding(
                    text.where,
                    f"statement {shown} in {scene.name(text.record)} cannot run inside a transaction",
                    "Run it from a migration with transaction: false.",
                    offset=first.start,
                )


def _all_statements(text: Text) -> Iterator[tuple[Token, frozenset[str]]]:
    """First token and words of each statement, and of those inside strings that EXECUTE runs."""
    if text.language != "plpgsql":
        for tokens in text.sql.statements:
            yield tokens[0], words(tokens)
        return
    for statement in text.sql.plpgsql:
        yield statement.tokens[0], words(statement.tokens)
        for token in statement.tokens if statement.word == "execute" else ():
            inner = tokenize(token.text) if token.kind == "string" else ()
            if inner:
                yield inner[0]._replace(start=token.start), words(inner)


_SAFE_TYPES = {"regclass", "regtype", "regproc", "integer", "int", "bigint", "smallint", "oid", "boolean"}
_QUOTING = frozenset({"quote_ident", "quote_literal", "quote_nullable", "format"})


@rule("HF0431", "set-by-concatenation", "dynamic SQL")
def dynamic_sql_by_concatenation(scene: Scene) -> Iterator[Finding]:
    """EXECUTE joins a value into SQL text.

    A value that is pasted into a statement is read as SQL: names break, and whoever chooses the value chooses what
    runs.

    Fix: use format() with %I and %L, EXECUTE … USING for values, set_config(name, value, true) for settings.

    Source: PostgreSQL documentation, PL/pgSQL, Executing Dynamic Commands. Mistakes: SB-81.

    Bad:
        schemas:
          shop:
            functions:
              slow:
                arguments: [{name: t, type: text}]
                returns: void
                language: plpgsql
                body: BEGIN EXECUTE 'SET LOCAL statement_timeout = ' || t; END

    Good:
        schemas:
          shop:
            functions:
              slow:
                arguments: [{name: t, type: text}]
                returns: void
                language: plpgsql
                body: BEGIN PERFORM set_config('statement_timeout', t, true); END
    """
    for text, statements in _plpgsql(scene):
        safe = _declared_as(text.tokens, _SAFE_TYPES) | {
            str(a.get("name")) for a in text.record.settings.get("arguments") or () if a.get("type") in _SAFE_TYPES
        }
        for statement in statements:
            if statement.word != "execute":
                continue
            parts = split(statement.tokens[1:], "||")
            if len(parts) < 2:
                continue
            pasted = next((p for p in parts if p and p[0].is_name and p[0].text not in safe | _QUOTING), None)
            if pasted is not None:
                yield Finding(
                    text.where,
                    f"dynamic SQL in {scene.name(text.record)} joins {pasted[0].text} into the statement",
                    "Use format() with %I and %L, EXECUTE … USING, or set_config(name, value, true).",
                    offset=pasted[0].start,
                )


@rule("HF0430", "superuser-setting", "setting")
def superuser_setting(scene: Scene) -> Iterator[Finding]:
    """Session sets what only a superuser may set.

    The statement fails and takes its transaction with it (SQLSTATE 42501).

    Fix: set it for the role as an administrator, ALTER ROLE … SET, through `settings` of the role.

    Source: PostgreSQL documentation, pg_settings, context superuser. Mistakes: SB-81.

    Bad:
        roles: {app: {login: true, password: {env: APP_PASSWORD}}}
        pools:
          primary: {role: app, min: 1, max: 5, after_connect: ["SET log_statement = 'all'"]}

    Good:
        roles: {app: {login: true, password: {env: APP_PASSWORD}, settings: {log_statement: all}}}
        pools:
          primary: {role: app, min: 1, max: 5}
    """
    for text in scene.texts:
        if text.role in ("query", "expression"):
            continue
        items = text.sql.plpgsql if text.language == "plpgsql" else ()
        statements = [s.tokens for s in items] or list(text.sql.statements)
        for tokens in statements:
            at = 2 if is_word(tokens, 1, "local", "session") else 1
            named = [(tokens[at].text, tokens[at].start)] if is_word(tokens, 0, "set") and len(tokens) > at else []
            named += [
                (first[0].text, tokens[call.first].start)
                for call in calls(tokens)
                for first in arguments(tokens, call)[:1]
                if call.last == "set_config" and first and first[0].kind == "string"
            ]
            for name, start in named:
                if name in SUPERUSER_SETTINGS:
                    yield Finding(
                        text.where,
                        f"setting {name} in {scene.name(text.record)} is for superusers only",
                        "Put it under settings of the role.",
                        offset=start,
                    )


RULES = (
    format_i_on_dotted_name, statement_refuses_transaction, dynamic_sql_by_concatenation, superuser_setting,
)  # fmt: skip
