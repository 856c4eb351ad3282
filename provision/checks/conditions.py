"""Rules about CHECK constraints and defaults: what they refuse, when they change their mind."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from provision.checks.relations import called
from provision.checks.rule import Finding, listed, rule
from provision.checks.sql import sql_of
from provision.checks.sqltext import CLOCK, clock_calls, is_op, is_word, split, unwrapped
from provision.checks.statements import alternatives, branches
from provision.checks.tables import column_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene, Text
    from provision.checks.sqltext import Tokens
    from provision.checks.tables import Table


@rule("HF0401", "volatile-check", "check")
def volatile_check(scene: Scene) -> Iterator[Finding]:
    """Check constraint reads the clock.

    A constraint is tested when a row is written. One that compares with the clock was true then and is false later:
    every update of the row fails, and so does restoring a dump (SQLSTATE 23514). PostgreSQL takes it all the same.

    Fix: compare with another column of the row, and filter expired rows in the query.

    Source: PostgreSQL documentation, CREATE TABLE, CHECK; Constraints, Check Constraints. Mistakes: SB-10.

    Bad:
        schemas:
          shop:
            tables:
              sessions:
                columns: {made: {type: timestamptz, nullable: false}, until: {type: timestamptz, nullable: false}}
                checks: {sessions_open: until > now()}

    Good:
        schemas:
          shop:
            tables:
              sessions:
                columns: {made: {type: timestamptz, nullable: false}, until: {type: timestamptz, nullable: false}}
                checks: {sessions_open: until > made}
    """
    readers = {
        name.split(".", 1)[1]
        for (_, name), functions in scene.functions.items()
        if any(clock_calls(sql_of(f.settings.get("body") or "").tokens) for f in functions)
    }
    suspect = CLOCK | readers
    for text in scene.texts:
        kind = text.record.address.kind
        if kind != "check" and not (kind == "domain" and "checks" in text.where):
            continue
        if not text.sql.mentions & suspect:
            continue
        found = clock_calls(text.tokens) or _clock_through_functions(scene, text)
        if found:
            yield Finding(
                text.where,
                f"check {_title(text)} reads the clock with {found[0]}, so rows turn invalid as time passes",
                "Compare with another column; filter by the time in queries.",
            )


def _title(text: Text) -> str:
    return str(text.where[-1] if text.where[-1] != "expression" else text.record.address.name)


def _clock_through_functions(scene: Scene, text: Text) -> list[str]:
    """The declared functions of an expression whose bodies read the clock."""
    target = text.record.address.target
    return [
        f"{call.qualified}()"
        for call in text.sql.called
        for f in scene.functions.get((target, call.qualified), ())
        if clock_calls(sql_of(f.settings.get("body") or "").tokens)
    ]


_EMPTY_DOCUMENTS = frozenset({"{}", "[]"})


@rule("HF0402", "default-violates-check", "default of")
def default_violates_check(scene: Scene) -> Iterator[Finding]:
    """Default fails the column's own check.

    A row that leaves the column out gets the default, and the check refuses it (SQLSTATE 23514). Offline the rule
    knows the empty document '{}' against a check that asks for keys, itself or through a declared function; the
    compile level evaluates the others.

    Fix: build a default that holds the keys, or have none.

    Source: PostgreSQL documentation, Default Values. Mistakes: SB-08.

    Bad:
        schemas:
          shop:
            tables:
              items:
                columns: {meta: {type: jsonb, nullable: false, default: "'{}'"}}
                checks: {items_meta: "meta ? 'version'"}

    Good:
        schemas:
          shop:
            tables:
              items:
                columns: {meta: {type: jsonb, nullable: false, default: "'{\\"version\\": 1}'"}}
                checks: {items_meta: "meta ? 'version'"}
    """
    for table, check, sql in scene.checks:
        if "?" not in sql.raw and not sql.mentions & scene.function_names:
            continue
        for name in column_words(table, sql):
            column = table.columns[name]
            default = sql_of(column.settings["default"] or "").tokens
            if not default or default[0].kind != "string" or default[0].text.strip() not in _EMPTY_DOCUMENTS:
                continue
            key = _wanted_key(scene, table.target, sql.tokens, name)
            if key is not None:
                yield Finding(
                    (*(column.origin or ()), "default"),
                    f"default of {table.qualified}.{name} lacks the key {key}, which {check.address.name} asks for",
                    f"Write a default that holds {key}, or none.",
                    related=((check.origin or (), "the check"),),
                )


def _wanted_key(scene: Scene, target: str, tokens: Tokens, column: str) -> str | None:
    """A key that every row's document must have, by ``column ? 'key'`` or by a function that tests it."""
    for part in branches(tokens, "and"):
        if len(part) >= 3 and part[0].text == column and part[1].text in ("?", "?&") and part[2].kind == "string":
            return part[2].text
        for call in called(part):
            inside = part[call.after + 1 : call.after + 2]
            if call.first != 0 or not inside or inside[0].text != column:
                continue
            for function in scene.functions.get((target, call.qualified), ()):
                body = sql_of(function.settings.get("body") or "").tokens
                tested = [b.text for a, b in pairwise(body) if a.text == "?" and b.kind == "string"]
                if tested:
                    return tested[0]
    return None


@rule("HF0403", "weak-json-check", "validator", severity="warning")
def weak_json_check(scene: Scene) -> Iterator[Finding]:
    """Validator of a document lets nonsense pass.

    `j ? 'key'` is true for an array that holds the word; a pattern without `$` takes anything after the match;
    NULL makes the whole test NULL, which a check takes as true.

    Fix: test `jsonb_typeof(j) = 'object'`, anchor the pattern at both ends, and say what NULL gives.

    Source: PostgreSQL documentation, JSON Functions and Operators; POSIX Regular Expressions. Mistakes: SB-09.

    Bad:
        schemas:
          shop:
            functions:
              ok:
                arguments: [{name: j, type: jsonb}]
                returns: boolean
                language: sql
                volatility: immutable
                body: SELECT j ? 'at' AND j->>'at' ~ '^[0-9]{4}'

    Good:
        schemas:
          shop:
            functions:
              ok:
                arguments: [{name: j, type: jsonb}]
                returns: boolean
                language: sql
                volatility: immutable
                body: SELECT coalesce(jsonb_typeof(j) = 'object' AND j ? 'at' AND j->>'at' ~ '^[0-9]{4}$', false)
    """
    for text in scene.bodies:
        settings = text.record.settings
        if text.role != "body" or str(settings.get("returns")) not in ("boolean", "bool"):
            continue
        if not any(str(a.get("type")) == "jsonb" for a in settings.get("arguments") or ()):
            continue
        weak: list[str] = []
        known = {t.text for t in text.tokens}
        tests_key = any(t.text in ("?", "?&", "?|") for t in text.tokens if t.kind == "op")
        if tests_key and "jsonb_typeof" not in known:
            weak.append("takes an array that holds the key's name")
        patterns = [b for a, b in pairwise(text.tokens) if a.text in ("~", "~*")]
        if any(p.kind == "string" and p.text.startswith("^") and not p.text.endswith("$") for p in patterns):
            weak.append("does not anchor a pattern with $")
        if not settings.get("strict") and not known & {"coalesce", "is"}:
            weak.append("says nothing of NULL")
        if tests_key and weak:
            yield Finding(
                text.where,
                f"validator {scene.qualified(text.record)} {listed(weak)}",
                "Test jsonb_typeof(…) = 'object', end patterns with $, and decide NULL with coalesce or IS NULL.",
            )


@rule("HF0404", "check-leaves-enum-values-out", "check")
def check_leaves_enum_values_out(scene: Scene) -> Iterator[Finding]:
    """Some enum values satisfy no branch of a check.

    A check written as one branch for each value refuses every row with a value that has no branch (SQLSTATE 23514),
    whatever the other columns hold.

    Fix: give each value a branch.

    Source: PostgreSQL documentation, Constraints, Check Constraints. Mistakes: SB-17.

    Bad:
        schemas:
          shop:
            enums: {status: [open, paid, lost]}
            tables:
              orders:
                columns: {status: {type: shop.status, nullable: false}, at: {type: timestamptz}}
                checks: {orders_paid: (status = 'paid' AND at IS NOT NULL) OR (status = 'open' AND at IS NULL)}

    Good:
        schemas:
          shop:
            enums: {status: [open, paid, lost]}
            tables:
              orders:
                columns: {status: {type: shop.status, nullable: false}, at: {type: timestamptz}}
                checks: {orders_paid: "(status = 'paid' AND at IS NOT NULL) OR status IN ('open', 'lost')"}
    """
    if not scene.of("enum"):
        return
    for table, check, sql in scene.checks:
        parts = list(alternatives(sql.tokens)) if "or" in sql.mentions else []
        if len(parts) < 2:
            continue
        for name in column_words(table, sql):
            values = scene.enum_values(table.target, table.columns[name].settings["type"])
            if not values:
                continue
            allowed = [_allowed(branch, name, values) for branch in parts]
            if any(a is None for a in allowed):
                continue
            left = [v for v in values if all(v not in (a or ()) for a in allowed)]
            if left:
                yield Finding(
                    (*(check.origin or ()), "expression"),
                    f"check {check.address.name} of {table.qualified} has no branch for {listed(left)} of {name}",
                    f"Add a branch for {listed(left)}.",
                )


def _allowed(parts: list[Tokens], column: str, values: list[str]) -> set[str] | None:
    """The values of a column that a branch allows; None where it does not say."""
    found: set[str] | None = None
    for part in parts:
        named = _values_of(part, column)
        if named is not None:
            literal, negated = named
            these = set(values) - literal if negated else literal
            found = these if found is None else found & these
    return found


def _values_of(part: Tokens, column: str) -> tuple[set[str], bool] | None:
    """The literals of ``column = 'x'``, ``<>``, ``IN (…)``, ``NOT IN (…)`` or ``= ANY (…)``."""
    if len(part) < 3 or part[0].text != column:
        return None
    strings = {t.text for t in part if t.kind == "string"}
    if part[1].text == "=" and (part[2].kind == "string" or is_word(part, 2, "any")):
        return strings, False
    if part[1].text in ("<>", "!=") and part[2].kind == "string":
        return strings, True
    if is_word(part, 1, "in"):
        return strings, False
    if is_word(part, 1, "not") and is_word(part, 2, "in"):
        return strings, True
    return None


@rule("HF0405", "check-refuses-both-null", "check", severity="warning")
def check_refuses_both_null(scene: Scene) -> Iterator[Finding]:
    """Check refuses rows in which both columns are NULL.

    `a IS DISTINCT FROM b` is false when both are NULL, so a row that has neither is refused although both columns
    are optional.

    Fix: add `OR (a IS NULL AND b IS NULL)`, or make a column NOT NULL.

    Source: PostgreSQL documentation, Comparison Functions and Operators. Mistakes: SB-18.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {was: {type: text}, is_now: {type: text}}
                checks: {events_change: was IS DISTINCT FROM is_now}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {was: {type: text}, is_now: {type: text}}
                checks: {events_change: was IS DISTINCT FROM is_now OR (was IS NULL AND is_now IS NULL)}
    """
    for table, check, sql in scene.checks:
        for part in branches(sql.tokens, "and") if "distinct" in sql.mentions else ():
            if len(part) != 5 or not is_word(part, 1, "is") or not is_word(part, 2, "distinct"):
                continue
            left, right = part[0].text, part[4].text
            if left != right and table.is_nullable(left) and table.is_nullable(right):
                yield Finding(
                    (*(check.origin or ()), "expression"),
                    f"check {check.address.name} of {table.qualified} refuses rows in which {left} and {right} are "
                    "both NULL",
                    f"Add OR ({left} IS NULL AND {right} IS NULL), or make one NOT NULL.",
                )


@rule("HF0406", "check-contradicts-model", "check", severity="warning")
def check_contradicts_model(scene: Scene) -> Iterator[Finding]:
    """Check demands one of two columns, and the table has a third.

    A check that wants exactly one of two references refuses rows that use a third way, such as a message that goes
    to a channel and to no receiver.

    Fix: count the third column in, `num_nonnulls(a, b, c) = 1`, or allow it in a branch of its own.

    Source: PostgreSQL documentation, Comparison Functions and Operators. Mistakes: SB-19.

    Bad:
        schemas:
          shop:
            tables:
              mail:
                columns: {channel: {type: integer}, receiver: {type: integer}, everybody: {type: text}}
                checks: {mail_route: (receiver IS NULL) <> (everybody IS NULL)}

    Good:
        schemas:
          shop:
            tables:
              mail:
                columns: {channel: {type: integer}, receiver: {type: integer}, everybody: {type: text}}
                checks: {mail_route: "num_nonnulls(channel, receiver, everybody) = 1"}
    """
    for table, check, sql in scene.checks:
        if not sql.mentions & {"null", "num_nonnulls"}:
            continue
        pair = next((p for branch in branches(sql.tokens, "or") if (p := _exactly_one(branch, table))), None)
        if pair is None:
            continue
        mentioned = set(column_words(table, sql))
        referring = {c for k in table.of("foreign_key") for c in k.settings.get("columns") or ()}
        kinds = {table.columns[c].settings["type"] for c in pair}
        other = next(
            (
                c
                for c, record in table.columns.items()
                if c not in mentioned
                and table.is_nullable(c)
                and not record.settings.get("default")
                and (c in referring if referring else record.settings["type"] in kinds)
            ),
            None,
        )
        if other is not None and not mentioned - set(pair) & (referring or set(table.columns)):
            yield Finding(
                (*(check.origin or ()), "expression"),
                f"check {check.address.name} of {table.qualified} wants one of {listed(pair)}, and refuses rows that "
                f"have only {other}",
                f"Count it in: num_nonnulls({', '.join(pair)}, {other}) = 1, or give it a branch.",
            )


def _exactly_one(tokens: Tokens, table: Table) -> list[str] | None:
    """The two columns of which a condition wants exactly one set, in the usual ways to write that."""
    tokens = unwrapped(tokens)
    columns = list(dict.fromkeys(t.text for t in tokens if t.is_name and t.text in table.columns))
    if len(columns) != 2 or not all(map(table.is_nullable, columns)):
        return None
    known = [t.text for t in tokens]
    sides = split(tokens, "<>") if "<>" in known else split(tokens, "!=")
    if len(sides) == 2 and all(_null_test(unwrapped(side)) for side in sides):
        return columns
    if known[0] == "num_nonnulls" and is_op(tokens, len(tokens) - 2, "=") and known[-1] == "1":
        return columns
    return None


def _null_test(tokens: Tokens) -> bool:
    return [t.text for t in tokens[1:]] in (["is", "null"], ["is", "not", "null"])


RULES = (
    volatile_check, default_violates_check, weak_json_check, check_leaves_enum_values_out,
    check_refuses_both_null, check_contradicts_model,
)  # fmt: skip
