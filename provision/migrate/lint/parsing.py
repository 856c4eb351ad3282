"""SQL read by PostgreSQL's own parser, as plain dictionaries. The only module that knows the binding. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from provision.migrate.files import Statement
from provision.migrate.statements import Places, split
from provision.postgres.lexer import content, scan

#: One node of the parser's tree: its fields by name, unset ones left out, and its kind under "node".
Tree = dict[str, Any]
#: Schema and name; the schema is "" where the text names none.
Name = tuple[str, str]
#: Levels of a tree that are looked at.
_DEEPEST = 100
#: The parser recurses; a chain of this many tokens that no comma breaks could exhaust a thread's stack.
_LONGEST_CHAIN = 2000
#: Parts of a dynamic statement that are looked at together.
_MOST_PIECES = 8
#: After these words and signs a statement begins.
_OPENS = (";", "begin", "then", "else", "loop")
#: What PL/pgSQL understands in its own way, or what the body of a block cannot hold as SQL.
_NOT_SQL = frozenset(
    "TransactionStmt ExecuteStmt PrepareStmt DeallocateStmt FetchStmt ClosePortalStmt DeclareCursorStmt DoStmt".split()
)


class Fault(NamedTuple):
    """Why there is no tree; ``offset`` counts characters of the statement. A ``syntax`` fault is the writer's."""

    syntax: bool
    message: str
    offset: int


class Parsed(NamedTuple):
    """A statement and its tree, empty where ``fault`` says why."""

    statement: Statement
    tree: Tree
    fault: Fault | None = None

    @property
    def kind(self) -> str:
        """The parser's name for the statement, such as AlterTableStmt."""
        return str(self.tree.get("node", ""))

    def offset(self, location: int) -> int:
        """Characters before a place that the parser gives in bytes."""
        return _characters(self.statement.text, location)


def parse(statement: Statement) -> Parsed:
    """Read one statement. Never raises."""
    import postgast  # loads a shared library

    text = statement.text
    chain, at = _longest_chain(text) if len(text) > _LONGEST_CHAIN else (0, 0)
    if chain > _LONGEST_CHAIN:
        return Parsed(statement, {}, Fault(False, "the statement is one expression of too many parts", at))
    if "\0" in text:
        return Parsed(statement, {}, Fault(True, "SQL cannot hold a zero byte", text.index("\0")))
    try:
        found = postgast.parse(text).stmts
    except postgast.PgQueryError as error:
        message = " ".join(str(error.message).split())
        return Parsed(statement, {}, Fault(True, message, _characters(text, error.cursorpos - 1)))
    except UnicodeEncodeError as error:
        return Parsed(statement, {}, Fault(True, "the text is not Unicode", error.start))
    except Exception:  # the binding refuses trees of more than a hundred levels with an error of its transport
        return Parsed(statement, {}, Fault(False, "the statement is nested too deeply", 0))
    if len(found) > 1:
        return Parsed(statement, {}, Fault(False, "the statement holds several", 0))
    try:
        return Parsed(statement, _plain(found[0].stmt) if found else {})
    except RecursionError:
        return Parsed(statement, {}, Fault(False, "the statement is nested too deeply", 0))


def statements_of_do(parsed: Parsed) -> tuple[Statement, ...] | None:
    """The statements of a DO block, placed in its file; none where the body is no plain list between BEGIN and END.

    Variables, conditions, loops, handlers, dynamic SQL and other languages make it more than that.
    """
    options = {str(item.get("defname")): item.get("arg", {}).get("sval", "") for item in parsed.tree.get("args", ())}
    if parsed.kind != "DoStmt" or options.get("language", "plpgsql") != "plpgsql" or "as" not in options:
        return None
    body = str(options["as"])
    tokens = [(kind, body[start:end].lower(), start, end) for kind, start, end in scan(body)]
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    edges = [word for _, word, _, _ in (*tokens[:1], *tokens[-1:])]
    if len(tokens) < 2 or edges != ["begin", "end"] or (len(tokens) > 2 and tokens[-2][1] != ";"):
        return None
    start = tokens[0][3]
    return _placed(parsed.statement, body, start, body[start : tokens[-1][2]])


def unfolded(parsed: Parsed) -> tuple[Parsed, ...]:
    """The statements that a readable DO block or an EXPLAIN ANALYZE runs; any other statement itself."""
    if parsed.kind == "ExplainStmt" and option(parsed.tree.get("options", ()), "analyze"):
        return (parsed._replace(tree=parsed.tree.get("query", {})),)
    inner = statements_of_do(parsed)
    return (parsed,) if inner is None else tuple(map(parse, inner))


def hinted(parsed: Parsed) -> tuple[Parsed, ...]:
    """What a DO block that is no plain list may alter, drop, empty or delete, as far as a look at its words shows.

    Loops, branches and the text of dynamic SQL are looked at; the statements are placed where the block begins.
    """
    if parsed.kind != "DoStmt" or statements_of_do(parsed) is not None:
        return ()
    body = next((a.get("arg", {}).get("sval", "") for a in parsed.tree.get("args", ()) if a.get("defname") == "as"), "")
    read = (parse(parsed.statement._replace(text=text)) for text in _destructive(str(body)))
    return tuple(one for one in read if one.fault is None)


def _destructive(text: str) -> Iterator[str]:
    """The ends of a text that begin like a statement which takes something away; ``x`` stands for what is put in."""
    before, tokens = ";", list(scan(text))
    ends = [s for _, s, e in tokens if text[s:e] == ";"] + [len(text)]
    for kind, start, end in tokens:
        word = text[start:end].lower()
        if kind == "string":
            yield from _destructive(_filled(text[start:end]))
        elif word == "execute":
            stop = ends[bisect_right(ends, start)]
            pieces = [_filled(text[s:e]) for k, s, e in tokens if k == "string" and start < s < stop]
            for count in range(1, min(len(pieces), _MOST_PIECES) + 1):
                yield from _destructive(" x ".join((*pieces[:count], "")))
        elif word in ("alter", "delete", "drop", "truncate") and before in _OPENS:
            yield text[start : ends[bisect_right(ends, start)]]
        before = word


def _filled(literal: str) -> str:
    """A literal of dynamic SQL, with a name where ``format`` puts something in."""
    return re.sub(r"%(?:\d+\$)?[IsL]", "x", content(literal)).strip()


def _placed(block: Statement, body: str, start: int, inner: str) -> tuple[Statement, ...] | None:
    """The statements of ``inner``, which stands at ``start`` of a block's body."""
    literal = next((s for kind, s, e in scan(block.text) if kind == "string" and content(block.text[s:e]) == body), 0)
    at = block.text.find(body, literal)
    before = max(at, literal) + start
    in_block, in_body = Places(block.text), Places(inner)
    statements, _ = split(inner, transactional=True)
    found = []
    for one in statements:
        if one.text.lower() == "null":
            continue
        read = parse(one)
        if read.fault is not None or read.kind in _NOT_SQL:
            return None
        offset = before + in_body.offset(one.line, one.column) if at >= 0 else literal
        line, column = in_block(offset)
        found.append(Statement(one.text, block.line + line - 1, column if line > 1 else block.column + column - 1))
    return tuple(found)


def _characters(text: str, location: int) -> int:
    return len(text.encode(errors="replace")[: max(location, 0)].decode(errors="ignore"))


def _longest_chain(text: str) -> tuple[int, int]:
    """An upper bound of the tree's depth: tokens since the last comma of each open bracket; and where it is reached."""
    counts, total, worst, at = [0], 0, 0, 0
    for kind, start, end in scan(text):
        sign = text[start:end] if kind == "op" else ""
        if sign == ",":
            total -= counts[-1]
            counts[-1] = 0
            continue
        counts[-1] += 1
        total += 1
        if sign in ("(", "["):
            counts.append(0)
        elif sign in (")", "]") and len(counts) > 1:
            total -= counts.pop()
        if total > worst:
            worst, at = total, start
    return worst, at


def _plain(message: Any, level: int = 3) -> Tree:
    """A protobuf message as a dictionary; the wrapper around each child is left out, enumerations become names.

    Raises RecursionError beyond a hundred levels: whether the transport refuses them differs by what else is loaded.
    """
    if level > _DEEPEST:
        raise RecursionError
    if message.DESCRIPTOR.name == "Node":
        which = message.WhichOneof("node")
        return _plain(getattr(message, which), level + 1) if which else {}
    tree: Tree = {"node": message.DESCRIPTOR.name}
    for field, value in message.ListFields():
        if field.message_type is not None:
            tree[field.name] = (
                _plain(value, level + 1) if hasattr(value, "ListFields") else [_plain(i, level + 1) for i in value]
            )
        elif field.enum_type is not None and isinstance(value, int):
            tree[field.name] = field.enum_type.values_by_number[value].name
        else:
            tree[field.name] = value
    return tree


def walk(tree: Any) -> Iterator[Tree]:
    """Every node of a tree or a list of trees, the outer before the inner."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, dict):
            if node:
                yield node
            stack.extend(v for v in reversed(node.values()) if isinstance(v, (dict, list)))


def nodes(tree: Any, kind: str) -> Iterator[Tree]:
    """Every node of one kind."""
    return (node for node in walk(tree) if node.get("node") == kind)


def name_of(relation: Tree | None) -> Name:
    """The name that a RangeVar holds."""
    relation = relation or {}
    return relation.get("schemaname", ""), relation.get("relname", "")


def strings(items: Iterable[Tree]) -> list[str]:
    """The texts of a list of String nodes."""
    return [str(item.get("sval", "")) for item in items if item.get("node") == "String"]


def dotted(items: Iterable[Tree] | Tree | None) -> Name:
    """The name that a list of String nodes holds: schema and name."""
    if isinstance(items, dict):
        items = items.get("items") or items.get("names") or items.get("objname") or [items]
    parts = strings(items or ())
    return ("", *parts)[-2:] if parts else ("", "")  # type: ignore[return-value]


def type_text(type_name: Tree | None) -> str | None:
    """A TypeName as ``provision.postgres.types`` reads it; None for what takes more, such as interval fields."""
    if not type_name:
        return None
    parts = strings(type_name.get("names", ()))
    if parts[:1] == ["pg_catalog"]:
        parts = parts[1:]
    modifiers = [m.get("ival", {}).get("ival", 0) for m in type_name.get("typmods", ()) if "ival" in m]
    if len(modifiers) != len(type_name.get("typmods", ())) or parts in ([], ["interval"]):
        return None
    quoted = ".".join(p if p.isidentifier() and p == p.lower() else '"' + p.replace('"', '""') + '"' for p in parts)
    tail = f"({', '.join(map(str, modifiers))})" if modifiers else ""
    return quoted + tail + ("[]" if type_name.get("array_bounds") else "")


def called(tree: Any) -> list[str]:
    """The functions that an expression calls, as ``schema.name`` or ``name``."""
    return [".".join(strings(call.get("funcname", ()))) for call in nodes(tree, "FuncCall")]


def option(items: Iterable[Tree], name: str) -> bool:
    """Whether an option such as CONCURRENTLY or FULL is given and not switched off."""
    for item in items:
        if item.get("defname") == name:
            value = item.get("arg", {})
            return value.get("sval", "true") not in ("false", "off") and value.get("ival", 1) != 0
    return False
