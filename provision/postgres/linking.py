"""Draw the reference edges that only SQL text shows: a view on its tables, a check on the function it calls. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from provision.postgres.references import TEXTS, names_in, qualified_names
from provision.spec.ident import Address
from provision.spec.record import Record

#: Objects that SQL text names as schema.name.
_NAMED = frozenset({"table", "view", "enum", "domain", "function", "sequence", "type"})
#: Kinds whose SQL text may name others; columns and constraints dominate a plane, so only texts that could are read.
_SPEAKING = frozenset({"domain", "function", "view", "trigger", "policy", "column", "check", "index"})
#: PL/pgSQL and other languages resolve the names in a body when it runs, so a body orders nothing.
_EARLY_BOUND = "sql"
Index = Mapping[tuple[str, str, str], list[Address]]


def link(records: Iterable[Record]) -> list[Record]:
    """Give the records with the objects that their SQL texts name added to ``refs``."""
    found = list(records)
    index = index_names(found)
    return [_linked(r, index) if r.address.kind in _SPEAKING else r for r in found]


def index_names(records: Iterable[Record]) -> Index:
    """Objects by (target, schema, name); overloaded functions share one entry."""
    index: dict[tuple[str, str, str], list[Address]] = defaultdict(list)
    for record in records:
        address = record.address
        if address.system == "pg" and address.kind in _NAMED:
            names = address.names
            name = names[-1].partition("(")[0] if address.kind == "function" else names[-1]
            index[address.target, names[0], name].append(address)
    return index


def _linked(record: Record, index: Index) -> Record:
    if not _speaks(record):
        return record
    extra: list[Address] = []
    own = (record.address, record.parent, *record.refs)
    for schema, name in sorted(_names(record)):
        extra += [a for a in index.get((record.address.target, schema, name), ()) if a not in own]
    return record._replace(refs=(*record.refs, *extra)) if extra else record


def _speaks(record: Record) -> bool:
    """A quick look that spares most records the lexer: no dot, no qualified name."""
    settings = record.settings
    return any("." in str(settings.get(key)) for key in TEXTS[record.address.kind])


def _names(record: Record) -> set[tuple[str, str]]:
    if record.address.kind != "function" or record.settings.get("language") == _EARLY_BOUND:
        return names_in(record)
    signature: list[Any] = [record.settings.get("returns"), *(record.settings.get("arguments") or ())]
    texts = [str(a.get("type", "")) if isinstance(a, Mapping) else str(a or "") for a in signature]
    return set().union(*(qualified_names(t) for t in texts)) if texts else set()
