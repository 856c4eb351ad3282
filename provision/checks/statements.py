"""Statements of a function body and branches of a condition, found in its tokens. Pure; used by the SQL rules.

PL/pgSQL is split by its block words (documentation, "PL/pgSQL - Control Structures"): each head (``IF … THEN``,
``FOR … LOOP``, ``WHEN … THEN``), block word and statement is one item, nested blocks lie flat in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from provision.checks.sqltext import Token, Tokens, is_op, is_word, split, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Statement(NamedTuple):
    """One statement or head. ``word`` is its first word; ``depth`` counts the blocks around it."""

    word: str
    tokens: Tokens
    depth: int

    def has(self, *texts: str) -> bool:
        """Whether one of these words stands in it."""
        return any(t.kind == "word" and t.text in texts for t in self.tokens)


#: The word that ends the head that a word opens.
_HEADS = dict.fromkeys(("if", "elsif", "elseif", "when"), "then") | dict.fromkeys(("while", "for", "foreach"), "loop")
_ALONE = frozenset({"begin", "loop", "else", "exception", "declare"})
_OPENS = frozenset({"begin", "if", "case", "loop", "while", "for", "foreach"})


def plpgsql(tokens: Tokens) -> tuple[Statement, ...]:
    """Split the body of a PL/pgSQL function."""
    out: list[Statement] = []
    i, depth = 0, 0
    while i < len(tokens):
        if is_op(tokens, i, ";"):
            i += 1
            continue
        if tokens[i].text == "<<":
            while i < len(tokens) and tokens[i].text != ">>":
                i += 1
            i += 1
            continue
        word = tokens[i].text if tokens[i].kind == "word" else ""
        if word == "end":
            depth -= 1
        after = _statement_end(tokens, i, word)
        out.append(Statement(word, tokens[i:after], depth))
        if word in _OPENS:
            depth += 1
        i = after
    return tuple(out)


def _statement_end(tokens: Sequence[Token], first: int, word: str) -> int:
    """Where the item that starts at ``first`` ends; the terminating semicolon is left out."""
    if word in _ALONE:
        return first + 1
    if word == "case":
        return _until(tokens, first + 1, "when", keep=False)
    if word in _HEADS:
        return _until(tokens, first + 1, _HEADS[word], keep=True)
    return _until(tokens, first + 1, None, keep=False)


def _until(tokens: Sequence[Token], i: int, word: str | None, *, keep: bool) -> int:
    """Go to ``word`` (or the semicolon) outside parentheses and CASE expressions."""
    parens = cases = 0
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "op":
            parens += (token.text in "([") - (token.text in ")]")
            if token.text == ";" and parens <= 0:
                return i
        elif token.kind == "word" and parens <= 0:
            if cases == 0 and token.text == word:
                return i + 1 if keep else i
            if token.text == "case":
                cases += 1
            elif token.text == "end" and cases:
                cases -= 1
        i += 1
    return i


def sql_statements(tokens: Tokens) -> tuple[Tokens, ...]:
    """Split SQL at semicolons. ``BEGIN ATOMIC … END`` bodies give their statements."""
    if is_word(tokens, 0, "begin") and is_word(tokens, 1, "atomic"):
        tokens = tokens[2:-1] if is_word(tokens, len(tokens) - 1, "end") else tokens[2:]
    return tuple(split(tokens, ";"))


def branches(tokens: Tokens, word: str) -> list[Tokens]:
    """Split a condition at AND or OR outside parentheses, CASE and BETWEEN; parentheses around parts are taken off."""
    tokens = unwrapped(tokens)
    out: list[Tokens] = []
    parens = cases = betweens = first = 0
    for i, token in enumerate(tokens):
        if token.kind == "op":
            parens += (token.text in "([") - (token.text in ")]")
        elif token.kind == "word" and parens == 0:
            if token.text == "case":
                cases += 1
            elif token.text == "end" and cases:
                cases -= 1
            elif cases:
                continue
            elif token.text == "between":
                betweens += 1
            elif token.text == "and" and betweens:
                betweens -= 1
            elif token.text == word:
                out.append(tokens[first:i])
                first = i + 1
    out.append(tokens[first:])
    return [unwrapped(part) for part in out]


def alternatives(tokens: Tokens) -> Iterator[list[Tokens]]:
    """Give each OR branch of a condition as the list of its AND parts."""
    for branch in branches(tokens, "or"):
        yield branches(branch, "and")
