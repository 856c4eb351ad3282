"""Which relations, functions and types a SQL text names, by the place where a name stands. Pure."""

from __future__ import annotations

from typing import NamedTuple

from provision.checks.sqltext import Name, Tokens, calls, closing, is_op, is_word, names, tokenize


class Mention(NamedTuple):
    """A relation that a text names after FROM, JOIN, INTO and the like. ``alias`` is its name in the query."""

    parts: tuple[str, ...]
    start: int
    alias: str
    #: Token positions of the name.
    first: int
    after: int
    #: The word that introduces it: from, join, into, update, truncate.
    clause: str

    @property
    def qualified(self) -> str:
        return ".".join(self.parts)


#: A text without one of these words names no relation.
CLAUSES = frozenset({"from", "join", "into", "update", "truncate"})
#: Calls in which FROM is punctuation, not a clause.
_FROM_IN_CALL = frozenset({"extract", "trim", "substring", "overlay", "position"})
_NOT_AN_ALIAS = frozenset(
    "where on using join left right inner outer full cross natural group order having limit offset union except "
    "intersect set values select returning loop for as window fetch when then default do tablesample and or is "
    "overriding with".split()
)


def relations(tokens: Tokens) -> tuple[Mention, ...]:
    """Every relation that the text reads or writes, common table expressions included."""
    inside_call = _positions_inside_calls(tokens)
    out: list[Mention] = []
    starts = {n.first: n for n in names(tokens)}
    for i, token in enumerate(tokens):
        if token.kind != "word" or not _introduces(tokens, i) or (token.text == "from" and i in inside_call):
            continue
        at = i + 1
        while is_word(tokens, at, "only", "lateral", "table"):
            at += 1
        while (name := starts.get(at)) is not None:
            if name.is_call and not _is_insert_target(tokens, i):
                break
            mention = _mention(tokens, name, token.text)
            out.append(mention)
            at = mention.after + _alias_width(tokens, mention.after)
            if token.text != "from" or not is_op(tokens, at, ","):
                break
            at += 1
    return tuple(out)


def _introduces(tokens: Tokens, i: int) -> bool:
    text = tokens[i].text
    if text == "from":
        return not is_word(tokens, i - 1, "distinct")
    if text == "into":
        return is_word(tokens, i - 1, "insert", "merge")
    if text == "update":
        return not is_word(tokens, i - 1, "do", "for", "on", "before", "after", "or", "key") and not is_word(
            tokens, i + 1, "set", "of"
        )
    return text == "join" or (text == "truncate" and not is_word(tokens, i - 1, "or", "before", "after"))


def _is_insert_target(tokens: Tokens, i: int) -> bool:
    return tokens[i].text == "into"


def _mention(tokens: Tokens, name: Name, clause: str) -> Mention:
    width = _alias_width(tokens, name.after)
    alias = tokens[name.after + width - 1].text if width else name.last
    return Mention(name.parts, tokens[name.first].start, alias, name.first, name.after, clause)


def _alias_width(tokens: Tokens, at: int) -> int:
    if is_word(tokens, at, "as") and at + 1 < len(tokens) and tokens[at + 1].is_name:
        return 2
    if at < len(tokens) and tokens[at].is_name and not is_word(tokens, at, *_NOT_AN_ALIAS):
        return 1
    return 0


def _positions_inside_calls(tokens: Tokens) -> set[int]:
    found: set[int] = set()
    for name in names(tokens):
        if name.is_call and name.last in _FROM_IN_CALL:
            found.update(range(name.after, closing(tokens, name.after)))
    return found


def local_relations(tokens: Tokens) -> frozenset[str]:
    """Names that the text gives to relations itself: common table expressions and temporary tables."""
    found: set[str] = set()
    for i, token in enumerate(tokens):
        if not token.is_name:
            continue
        # WITH x AS (…), a further "x AS (…)" of the list, and the same with column names.
        after = closing(tokens, i + 1) + 1 if is_op(tokens, i + 1, "(") else i + 1
        is_cte = is_word(tokens, after, "as") and (
            after > i + 1 or is_op(tokens, after + 1, "(") or is_word(tokens, i - 1, "with", "recursive")
        )
        is_temporary = is_word(tokens, i - 1, "table", "exists") and "temp" in _words_before(tokens, i)
        if is_cte or is_temporary:
            found.add(token.text)
    return frozenset(found)


def _words_before(tokens: Tokens, i: int) -> str:
    """The few words before a token, as one text."""
    return " ".join(t.text for t in tokens[max(0, i - 6) : i])


def called(tokens: Tokens) -> list[Name]:
    """Functions that the text calls; the column list of ``INSERT INTO t (…)`` is none."""
    targets = {m.first for m in relations(tokens)}
    return [c for c in calls(tokens) if c.first not in targets]


def cast_types(tokens: Tokens) -> list[Name]:
    """Qualified types of ``x::schema.type``, ``CAST(x AS schema.type)`` and of declarations in a body."""
    return [
        n
        for n in names(tokens)
        if len(n.parts) == 2
        and (is_op(tokens, n.first - 1, "::") or is_word(tokens, n.first - 1, "as"))
        and not n.is_call
    ]


def regclass_names(tokens: Tokens) -> list[tuple[tuple[str, ...], int]]:
    """Relations named as ``'schema.table'::regclass``."""
    return [
        (n.parts, token.start)
        for i, token in enumerate(tokens)
        if token.kind == "string" and is_op(tokens, i + 1, "::") and is_word(tokens, i + 2, "regclass")
        for n in names(tokenize(token.text))[:1]
    ]
