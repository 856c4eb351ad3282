"""SQL text of a file cut into statements by PostgreSQL's lexical rules, and what each needs of the runner. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from provision.postgres.lexer import Kind, content, named, scan

_Token = tuple[Kind, int, int]
_COMMENT = re.compile(r"--[^\n]*|/\*|\*/")
_LINE_END = re.compile(r"\n")
#: The runner begins and ends transactions; DISCARD would take its lock away.
_TRANSACTION_WORDS = frozenset({"begin", "start", "commit", "end", "abort", "rollback", "discard"})
#: Their effect ends with a transaction or is the session's, which a resumed run does not have.
_LASTING = frozenset({"set", "savepoint", "release", "lock", "declare", "fetch", "move", "prepare"})
#: Commands that PreventInTransactionBlock() refuses whatever their options (PostgreSQL docs, their pages).
_ALONE = frozenset(
    {
        ("create", "database"),
        ("drop", "database"),
        ("create", "tablespace"),
        ("drop", "tablespace"),
        ("alter", "system"),
        ("drop", "subscription"),
    }
)
#: These give the same result however often they run (PostgreSQL docs, their pages).
REPEATABLE = frozenset({"vacuum", "analyze", "cluster", "reindex"})
_REINDEXED_ALONE = ("database", "system", "schema")
_OFF = frozenset({"false", "off", "0"})


class Statement(NamedTuple):
    """One statement without its final semicolon, and where its first word stands in the file, from 1."""

    text: str
    line: int
    column: int


class Fault(NamedTuple):
    """What makes a text no script of ours: ``offset`` counts characters from 0, ``width`` those to underline."""

    code: str
    offset: int
    width: int
    message: str
    help: str


class Places:
    """Line and column, from 1, of an offset in a text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(m.end() for m in _LINE_END.finditer(text))]

    def __call__(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and a column."""
        return self._starts[line - 1] + column - 1


def split(text: str, *, transactional: bool) -> tuple[tuple[Statement, ...], tuple[Fault, ...]]:
    """Cut a script into statements; a semicolon in a literal, a comment, brackets or a BEGIN ATOMIC body cuts nothing.

    What only psql understands, and what the runner does itself, is a fault.
    """
    place = Places(text)
    found: list[Statement] = []
    faults = list(_endless(text))
    for tokens in _runs(text):
        start, end = tokens[0][1], tokens[-1][2]
        statement = Statement(text[start:end], *place(start))
        found.append(statement)
        faults += _faults(text, tokens, transactional)
    return tuple(found), tuple(faults)


def _runs(text: str) -> Iterator[list[_Token]]:
    """The tokens of each statement."""
    tokens: list[_Token] = []
    brackets = body = 0
    for kind, start, end in scan(text):
        sign = text[start:end]
        if sign == ";" and brackets <= 0 and not body:
            if tokens:
                yield tokens
            tokens, brackets = [], 0
            continue
        if kind == "word":
            body = _depth(text, tokens, sign.lower(), body)
        elif kind == "op":
            brackets += (sign == "(") - (sign == ")")
        tokens.append((kind, start, end))
    if tokens:
        yield tokens


def _depth(text: str, before: Sequence[_Token], word: str, depth: int) -> int:
    """How deep in the SQL-standard body of a function we are: BEGIN ATOMIC and CASE go in, END comes out."""
    last = text[before[-1][1] : before[-1][2]].lower() if before else ""
    if last == ".":
        return depth
    if depth == 0:
        return int(word == "atomic" and last == "begin" and _makes_routine(text, before))
    return depth + (word == "case") - (word == "end")


def _makes_routine(text: str, tokens: Sequence[_Token]) -> bool:
    first = [text[s:e].lower() for _, s, e in tokens[:4]]
    return first[:1] == ["create"] and bool({"function", "procedure"} & set(first))


def _endless(text: str) -> Iterator[Fault]:
    """A literal, a quoted name or a comment that nobody ends: the rest of the file would vanish in it."""
    last = 0
    for kind, start, last in scan(text):
        if last == len(text) and kind in ("string", "quoted") and not _is_closed(text[start:]):
            yield Fault("HF0811", start, 1, "what is opened here is never closed", "Close the quote.")
    depth = opened = 0
    for match in _COMMENT.finditer(text, last):
        if match[0] == "/*":
            opened = opened if depth else match.start()
            depth += 1
        elif match[0] == "*/":
            depth -= 1
    if depth > 0:
        yield Fault("HF0811", opened, 2, "this comment is never closed", "Close it with */.")


def _is_closed(token: str) -> bool:
    if token[0] == "$":
        tag = token[: token.index("$", 1) + 1]
        return len(token) >= 2 * len(tag) and token.endswith(tag)
    quote = '"' if '"' in token.partition("'")[0] else "'"
    inner = token[token.index(quote) + 1 :]
    if token[0] in "eE" and quote == "'":
        inner = re.sub(r"\\.", "", inner, flags=re.DOTALL)
    return len(inner.replace(quote * 2, "")) > 0 and inner.replace(quote * 2, "").endswith(quote)


def _faults(text: str, tokens: Sequence[_Token], transactional: bool) -> Iterator[Fault]:
    backslash = next((s for kind, s, e in tokens if kind == "op" and text[s] == "\\"), None)
    if backslash is not None:
        told = "a backslash command is for psql, not for the server"
        yield Fault("HF0808", backslash, 1, told, "Write the SQL itself; data go into INSERT statements.")
        return
    spoken = _words(text, tokens)
    start, width = tokens[0][1], tokens[0][2] - tokens[0][1]
    if is_copy_from_client(spoken):
        told = "COPY FROM STDIN needs data that a migration file does not carry"
        yield Fault(
            "HF0808", start, width, told, "Write the rows as INSERT … VALUES, or COPY FROM a file of the server."
        )
    elif controls_session(spoken):
        told = f"{spoken[0].upper()} is the runner's work: it begins and ends transactions and keeps its session"
        yield Fault(
            "HF0809", start, width, told, "Leave it out; for a file without a transaction write: -- transaction: none"
        )
    elif not transactional and spoken[0] in _LASTING:
        told = f"{spoken[0].upper()} does not last to the next statement in a file without a transaction"
        yield Fault("HF0809", start, width, told, "Write names with their schema, or give the file a transaction.")
    elif transactional and runs_alone(spoken):
        told = "this statement cannot run inside a transaction"
        yield Fault("HF0810", start, width, told, "Put it into a file of its own with the line: -- transaction: none")
    elif spoken[:1] == ("create",) and "concurrently" in spoken[:4] and not index_of(spoken):
        told = "an index that is built concurrently needs a name, or nobody can tell whether it was built"
        yield Fault("HF0812", start, width, told, "Write CREATE INDEX CONCURRENTLY name ON table …")


def words(statement: str) -> tuple[str, ...]:
    """The tokens of a statement as rules compare them: words folded, quoted names and signs as they are."""
    return _words(statement, list(scan(statement)))


def _words(text: str, tokens: Sequence[_Token]) -> tuple[str, ...]:
    return tuple(text[s:e].lower() if kind == "word" else text[s:e] for kind, s, e in tokens)


def is_copy_from_client(spoken: Sequence[str]) -> bool:
    """Whether the server would wait for data from us."""
    return spoken[:1] == ("copy",) and ("from", "stdin") in pairwise(spoken)


def controls_session(spoken: Sequence[str]) -> bool:
    """Whether a statement begins or ends a transaction, or empties the session. ROLLBACK TO a savepoint does not."""
    first, second = (*spoken, "", "")[:2]
    if first == "rollback":
        return "to" not in spoken[:3]
    return first in _TRANSACTION_WORDS or (first, second) == ("prepare", "transaction")


def runs_alone(spoken: Sequence[str]) -> bool:
    """Whether the server refuses a statement inside a transaction, as far as the statement shows it.

    What depends on the object shows only there: REINDEX and CLUSTER of a partitioned table are refused too, DROP
    SUBSCRIPTION is not once its slot was taken from it.
    """
    first, second = (*spoken, "", "")[:2]
    if first == "vacuum" or (first, second) in _ALONE:
        return True
    if first in ("reindex", "cluster"):
        options, rest = _options(spoken[1:])
        if first == "cluster":
            return not rest or rest == ("verbose",)
        is_concurrent = "concurrently" in rest[1:2] or _is_on(options, "concurrently")
        return is_concurrent or bool({*rest[:1]} & {*_REINDEXED_ALONE})
    if (first, second) == ("create", "subscription"):
        return not (_is_off(spoken, "connect") or _is_off(spoken, "create_slot"))
    if first in ("create", "drop"):
        return "index" in spoken[1:3] and "concurrently" in spoken[2:4]
    return first == "alter" and _alters_alone(second, spoken[2:])


def _alters_alone(sort: str, rest: Sequence[str]) -> bool:
    if sort == "table":
        return "detach" in rest and rest[-1] == "concurrently"
    if sort == "database":
        return tuple(rest[1:3]) == ("set", "tablespace")
    if sort != "subscription":
        return False
    if tuple(rest[1:3]) == ("set", "("):
        return "failover" in rest or _is_off(rest, "two_phase")
    return rest[1:2] == ("refresh",) or (rest[2:3] == ("publication",) and not _is_off(rest, "refresh"))


def _options(spoken: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The list of options in brackets at the start, and what follows it."""
    end = list(spoken).index(")") + 1 if spoken[:1] == ("(",) and ")" in spoken else 0
    return tuple(spoken[:end]), tuple(spoken[end:])


def _is_on(options: Sequence[str], name: str) -> bool:
    return name in options and not _is_off(options, name)


def _is_off(spoken: Sequence[str], name: str) -> bool:
    """Whether an option is given and switched off: ``name = false``, ``name off``."""
    for at, word in enumerate(spoken):
        if word == name:
            value = next((w for w in spoken[at + 1 : at + 3] if w != "="), "")
            return (content(value) if value[:1] == "'" else value).lower() in _OFF
    return False


def shows_its_effect(spoken: Sequence[str]) -> bool:
    """Whether the catalogs show that a statement took effect, or a second time does no harm."""
    first, second = (*spoken, "", "")[:2]
    if first in ("create", "drop") and "index" in spoken[1:3]:
        return True
    if first == "drop":
        return ("if", "exists") in pairwise(spoken[1:5])
    return first in REPEATABLE or (first, second) == ("alter", "system") or (first == "alter" and "detach" in spoken)


def may_commit(spoken: Sequence[str]) -> bool:
    """Whether a statement may end transactions itself: a procedure, or a DO block that says so."""
    if spoken[:1] == ("call",):
        return True
    if spoken[:1] != ("do",):
        return False
    body = next((content(w) for w in spoken if w[:1] in ("$", "'") or w[:2].lower() == "e'"), "")
    return bool({"commit", "rollback"} & set(words(body)))


def index_of(spoken: Sequence[str]) -> tuple[str, ...]:
    """The name, in parts, of the index that CREATE or DROP INDEX speaks of; empty where it has none.

    CREATE INDEX names no schema: the index lies in that of its table, whose name stands after ON.
    """
    after = [w for w in spoken if w not in ("if", "not", "exists", "unique", "only")]
    while after and after[0] in ("create", "drop", "index", "concurrently"):
        after.pop(0)
    if spoken[0] == "drop":
        return name_at(after)
    if not after or after[0] == "on":
        return ()
    name, rest = named(after[0]), after[1:]
    table = name_at(rest[1:]) if rest[:1] == ["on"] else ()
    return (*table[:-1], name)


def name_at(spoken: Sequence[str]) -> tuple[str, ...]:
    """The dotted name at the start of some tokens, as the catalogs spell it."""
    parts: list[str] = []
    for i, word in enumerate(spoken):
        if i % 2:
            if word != ".":
                break
        else:
            parts.append(named(word))
    return tuple(parts)
