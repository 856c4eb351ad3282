"""Rules about the queries in functions and views: columns, results, division, removed functions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from provision.checks.postgres_names import CATALOG_COLUMNS, LONG_RESULTS, NAME_COLUMNS
from provision.checks.relations import relations
from provision.checks.rule import Finding, listed, rule
from provision.checks.sql import sql_of
from provision.checks.sqltext import (
    closing,
    is_op,
    is_word,
    names,
    spelled,
    split,
    tokenize,
)
from provision.postgres import types
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.relations import Mention
    from provision.checks.scene import Scene, Text
    from provision.checks.sqltext import Tokens
    from provision.checks.tables import Table
    from provision.spec.record import Record


def _statements(text: Text) -> Iterator[Tokens]:
    if text.language == "plpgsql":
        for statement in text.sql.plpgsql:
            yield statement.tokens
    else:
        yield from text.sql.statements


_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@rule("HF0440", "query-uses-missing-column", "column")
def query_uses_missing_column(scene: Scene) -> Iterator[Finding]:
    """SQL uses a column that the declared table lacks.

    Often the text was written for an older form of the table. A view is refused when it is made, a PL/pgSQL body
    fails when it runs (SQLSTATE 42703). The rule looks at columns with a table name or alias before them, at the
    column lists of INSERT, and at NEW and OLD of triggers.

    Fix: use the declared columns.

    Source: PostgreSQL documentation, Value Expressions. Mistakes: SB-26.

    Bad:
        schemas:
          shop:
            tables:
              state: {columns: {state_key: {type: text, nullable: false}}}
            views:
              all_keys: {query: SELECT s.key FROM shop.state s}

    Good:
        schemas:
          shop:
            tables:
              state: {columns: {state_key: {type: text, nullable: false}}}
            views:
              all_keys: {query: SELECT s.state_key FROM shop.state s}
    """
    for text in scene.bodies:
        for column, table, start in (*_aliased(scene, text), *_inserted(scene, text), *_row_variables(scene, text)):
            if table.lacks(column) and column not in _SYSTEM_COLUMNS:
                yield Finding(
                    text.where,
                    f"column {column}, which {scene.name(text.record)} uses, is not in {table.qualified}",
                    nearest(column, table.columns, f"Use a column of {table.qualified}."),
                    offset=start,
                )


def _aliased(scene: Scene, text: Text) -> Iterator[tuple[str, Table, int]]:
    """``alias.column`` where the alias means one declared table throughout the statement."""
    target = text.record.address.target
    for tokens in _statements(text):
        mentions = relations(tokens)
        if not mentions:
            continue
        meaning: dict[str, set[str]] = {}
        for mention in mentions:
            meaning.setdefault(mention.alias, set()).add(mention.qualified)
        own = {m.first for m in mentions}
        tables = {a: scene.table(target, next(iter(q))) for a, q in meaning.items() if len(q) == 1}
        for name in names(tokens):
            table = tables.get(name.parts[0]) if len(name.parts) == 2 and name.first not in own else None
            if table is not None and not name.is_call and not is_op(tokens, name.first - 1, "::"):
                yield name.parts[1], table, tokens[name.first].start


def _inserted(scene: Scene, text: Text) -> Iterator[tuple[str, Table, int]]:
    """The column lists of INSERT."""
    for mention in text.sql.relations:
        table = scene.table(text.record.address.target, mention.qualified) if mention.clause == "into" else None
        if table is None or not is_op(text.tokens, mention.after, "("):
            continue
        inside = text.tokens[mention.after + 1 : closing(text.tokens, mention.after)]
        if is_word(inside, 0, "select", "with", "values"):
            continue
        for part in split(inside, ","):
            if part:
                yield part[0].text, table, part[0].start


def _row_variables(scene: Scene, text: Text) -> Iterator[tuple[str, Table, int]]:
    """``NEW.column`` and ``OLD.column`` for each table that a trigger of the function is on."""
    if text.role != "body" or str(text.record.settings.get("returns")) != "trigger":
        return
    if "tg_table_name" in text.sql.words or "tg_relid" in text.sql.words:
        return
    tables = scene.tables_with_trigger(text.record)
    for name in text.sql.names:
        if len(name.parts) == 2 and name.parts[0] in ("new", "old") and not name.is_call:
            for table in tables:
                yield name.parts[1], table, text.tokens[name.first].start


@rule("HF0420", "ambiguous-column", "column")
def ambiguous_column(scene: Scene) -> Iterator[Finding]:
    """Unqualified column stands in two of the joined relations.

    The server refuses to choose (SQLSTATE 42702).

    Fix: write the alias before the column.

    Source: PostgreSQL documentation, Table Expressions. Mistakes: SB-48.

    Bad:
        schemas:
          shop:
            views:
              used:
                query: >-
                  SELECT schemaname FROM pg_catalog.pg_stat_user_indexes s
                  JOIN pg_catalog.pg_indexes i ON s.indexrelname = i.indexname

    Good:
        schemas:
          shop:
            views:
              used:
                query: >-
                  SELECT s.schemaname FROM pg_catalog.pg_stat_user_indexes s
                  JOIN pg_catalog.pg_indexes i ON s.indexrelname = i.indexname
    """
    for text in scene.bodies:
        for tokens in _statements(text):
            known = [t.text for t in tokens if t.kind == "word"]
            if known.count("select") != 1 or {"insert", "update", "delete"} & set(known) or "using" in known:
                continue
            mentions = relations(tokens)
            columns = [_columns_of(scene, text, m) for m in mentions]
            if len(mentions) < 2:
                continue
            counted = Counter(c for held in columns for c in held)
            renamed = {t.text for i, t in enumerate(tokens) if is_word(tokens, i - 1, "as")}
            for name in names(tokens):
                if len(name.parts) == 1 and counted[name.last] > 1 and not name.is_call and name.last not in renamed:
                    holders = _holders(mentions, columns, name.last)
                    yield Finding(
                        text.where,
                        f"column {name.last} in {scene.name(text.record)} stands in {holders}",
                        f"Write {mentions[0].alias}.{name.last}.",
                        offset=tokens[name.first].start,
                    )
                    break


def _columns_of(scene: Scene, text: Text, mention: Mention) -> frozenset[str]:
    table = scene.table(text.record.address.target, mention.qualified)
    if table is not None:
        return frozenset(table.columns)
    return frozenset(CATALOG_COLUMNS.get(mention.parts[-1], "").split())


def _holders(mentions: tuple[Mention, ...], columns: list[frozenset[str]], name: str) -> str:
    return listed(m.qualified for m, held in zip(mentions, columns, strict=True) if name in held)


@rule("HF0421", "name-returned-as-text", "result column")
def name_returned_as_text(scene: Scene) -> Iterator[Finding]:
    """PL/pgSQL returns a catalog name where text is promised.

    Names of the catalogs have the type `name`; RETURN QUERY does not convert (SQLSTATE 42804), and only a call shows
    it.

    Fix: cast, `nspname::text`.

    Source: PostgreSQL documentation, PL/pgSQL, Returning from a Function. Mistakes: SB-48.

    Bad:
        schemas:
          shop:
            functions:
              spaces:
                returns: table(space text)
                language: plpgsql
                body: BEGIN RETURN QUERY SELECT nspname FROM pg_catalog.pg_namespace; END

    Good:
        schemas:
          shop:
            functions:
              spaces:
                returns: table(space text)
                language: plpgsql
                body: BEGIN RETURN QUERY SELECT nspname::text FROM pg_catalog.pg_namespace; END
    """
    for text in scene.bodies:
        promised = _result_types(text.record) if text.language == "plpgsql" else []
        if not promised:
            continue
        for statement in text.sql.plpgsql:
            tokens = statement.tokens
            if statement.word != "return" or not is_word(tokens, 1, "query") or not is_word(tokens, 2, "select"):
                continue
            if not any(m.parts[-1].startswith("pg_") for m in relations(tokens)):
                continue
            for item, kind in zip(split(_until_from(tokens[3:]), ","), promised, strict=False):
                named = bool(item) and all(t.is_name or t.text == "." for t in item)
                bare = named and item[-1].text in NAME_COLUMNS
                if bare and kind in ("text", "character varying"):
                    yield Finding(
                        text.where,
                        f"result column {item[-1].text} of {scene.name(text.record)} is a name, promised as {kind}",
                        f"Write {spelled(item)}::text.",
                        offset=item[0].start,
                    )


def _result_types(function: Record) -> list[str]:
    """The types of ``table(a text, b integer)``."""
    tokens = tokenize(str(function.settings.get("returns") or ""))
    if not is_word(tokens, 0, "table"):
        return []
    return [types.ALIASES.get(p[1].text, p[1].text) if len(p) > 1 else "" for p in split(tokens[2:-1], ",")]


def _until_from(tokens: Tokens) -> Tokens:
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in "([") - (token.text in ")]") if token.kind == "op" else 0
        if depth == 0 and token.kind == "word" and token.text == "from":
            return tokens[:i]
    return tokens


_NEVER_ZERO = frozenset({"nullif", "greatest", "current_setting", "pi", "exp"})


@rule("HF0422", "division-by-zero", "division")
def division_by_zero(scene: Scene) -> Iterator[Finding]:
    """Query divides by something that may be zero.

    A ratio over a counter fails on the first quiet day (SQLSTATE 22012), and takes the whole query with it.

    Fix: divide by `nullif(x, 0)`.

    Source: PostgreSQL documentation, Conditional Expressions, NULLIF. Mistakes: SB-48, SB-76.

    Bad:
        schemas:
          shop:
            views:
              hits: {query: SELECT blks_hit / blks_read AS ratio FROM pg_catalog.pg_stat_database}

    Good:
        schemas:
          shop:
            views:
              hits: {query: "SELECT blks_hit / nullif(blks_read, 0) AS ratio FROM pg_catalog.pg_stat_database"}
    """
    for text in scene.bodies:
        tokens = text.tokens
        for i, token in enumerate(tokens):
            if token.text != "/" or token.kind != "op":
                continue
            divisor = _operand(tokens, i + 1)
            if divisor and not _cannot_be_zero(divisor) and not _is_guarded(tokens, divisor):
                yield Finding(
                    text.where,
                    f"division by {spelled(divisor)} in {scene.name(text.record)} may be by zero",
                    f"Divide by nullif({spelled(divisor)}, 0).",
                    offset=token.start,
                )


def _operand(tokens: Tokens, i: int) -> Tokens:
    """The operand that starts at ``i``: a literal, a name with its call, or a group."""
    end = i + 1
    if is_op(tokens, i, "("):
        end = closing(tokens, i) + 1
    elif i < len(tokens) and tokens[i].is_name:
        while is_op(tokens, end, ".") and end + 1 < len(tokens):
            end += 2
        if is_op(tokens, end, "("):
            end = closing(tokens, end) + 1
    return tokens[i:end]


def _cannot_be_zero(operand: Tokens) -> bool:
    if any(t.is_name and t.text in _NEVER_ZERO for t in operand):
        return True
    numbers = [t for t in operand if t.kind == "number"]
    only_numbers = bool(numbers) and not any(t.is_name or t.kind == "string" for t in operand)
    return only_numbers and any(float(t.text.replace("_", "")) != 0 for t in numbers)


def _is_guarded(tokens: Tokens, operand: Tokens) -> bool:
    """Whether the text compares the same operand with a number somewhere."""
    width, wanted = len(operand), [t.text for t in operand]
    comparing = {">", "<>", "!=", "=", ">=", "<", "<="}
    return any(
        [t.text for t in tokens[i : i + width]] == wanted
        and i + width + 1 < len(tokens)
        and tokens[i + width].text in comparing
        and tokens[i + width + 1].kind == "number"
        for i in range(len(tokens) - width)
    )


_BOUNDED = frozenset({"character varying", "character"})


@rule("HF0412", "value-too-long-for-column", "value for")
def value_too_long(scene: Scene) -> Iterator[Finding]:
    """Value cannot fit its column.

    `version()` gives about a hundred characters, a default may be longer than its `varchar(n)` (SQLSTATE 22001).

    Fix: widen the column, or shorten the value with left().

    Source: PostgreSQL documentation, Character Types. Mistakes: SB-35.

    Bad:
        schemas:
          shop:
            tables:
              marks: {columns: {made_by: {type: varchar(50), default: version()}}}

    Good:
        schemas:
          shop:
            tables:
              marks: {columns: {made_by: {type: text, default: version()}}}
    """
    for (target, declared), columns in scene.columns_by_type.items():
        bounded = scene.base_type(target, declared).name in _BOUNDED
        fitting: set[str | None] = {None}
        for table, name, column in columns if bounded else ():
            default = column.settings["default"]
            if default in fitting:
                continue
            long = _too_long(scene, table, name, sql_of(default).tokens)
            if long is None:
                fitting.add(default)
            else:
                yield Finding((*(column.origin or ()), "default"), *long)
    for text in scene.bodies:
        for mention in text.sql.relations:
            into = scene.table(text.record.address.target, mention.qualified)
            for name, value in _insert_pairs(into, text.tokens, mention) if into and mention.clause == "into" else ():
                found = _too_long(scene, into, name, value)
                if found is not None:
                    yield Finding(text.where, *found, offset=value[0].start)


def _insert_pairs(table: Table, tokens: Tokens, mention: Mention) -> Iterator[tuple[str, Tokens]]:
    """Columns and values of ``INSERT INTO t (a, b) VALUES (1, 2)`` or ``… SELECT 1, 2``; the first row."""
    at, columns = mention.after, list(table.columns)
    if is_op(tokens, at, "("):
        end = closing(tokens, at)
        columns = [p[0].text for p in split(tokens[at + 1 : end], ",") if p]
        at = end + 1
    if is_word(tokens, at, "values") and is_op(tokens, at + 1, "("):
        values = split(tokens[at + 2 : closing(tokens, at + 1)], ",")
    elif is_word(tokens, at, "select"):
        stop = next((i for i in range(at, len(tokens)) if is_op(tokens, i, ";")), len(tokens))
        values = split(_until_from(tokens[at + 1 : stop]), ",")
    else:
        return
    yield from ((c, v) for c, v in zip(columns, values, strict=False) if v)


def _too_long(scene: Scene, table: Table | None, name: str, value: Tokens) -> tuple[str, str] | None:
    column = table.columns.get(name) if table else None
    if column is None or table is None:
        return None
    base = scene.base_type(table.target, column.settings["type"])
    if not value or base.name not in _BOUNDED or not base.modifiers or base.is_array:
        return None
    limit, first = int(base.modifiers), value[0]
    if first.kind == "string" and (len(value) == 1 or value[1].text == "::"):
        length, shown = len(first.text), f"'{first.text[:20]}'"
    elif first.is_name and first.text in LONG_RESULTS and is_op(value, 1, "(") and closing(value, 1) == len(value) - 1:
        length, shown = LONG_RESULTS[first.text], f"{first.text}()"
    else:
        return None
    if length <= limit:
        return None
    return (
        f"value for {table.qualified}.{name}, {shown}, may have {length} characters, and {limit} fit",
        f"Widen the column, or write left({shown}, {limit}).",
    )


RULES = (
    query_uses_missing_column, ambiguous_column, name_returned_as_text, division_by_zero,
    value_too_long,
)  # fmt: skip
