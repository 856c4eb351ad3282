"""One SQL text of the plane, looked at as closely as a rule asks, and no closer. Pure."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from provision.checks import relations, sqltext, statements

if TYPE_CHECKING:
    from provision.checks.relations import Mention
    from provision.checks.sqltext import Name, Tokens
    from provision.checks.statements import Statement

_WORD = re.compile(r"[a-z_\x80-\uffff][\w$]*")


class Sql:
    """A text and what is found in it. Equal texts share one object, see ``sql_of``."""

    def __init__(self, raw: str) -> None:
        self.raw = raw

    @cached_property
    def mentions(self) -> frozenset[str]:
        """Every word in lower case, those of strings and comments too: a quick look before a closer one."""
        return frozenset(_WORD.findall(self.raw.lower()))

    @cached_property
    def tokens(self) -> Tokens:
        return sqltext.tokenize(self.raw)

    @cached_property
    def words(self) -> frozenset[str]:
        """The unquoted words of the code."""
        return sqltext.words(self.tokens)

    @cached_property
    def names(self) -> tuple[Name, ...]:
        return sqltext.names(self.tokens)

    @cached_property
    def relations(self) -> tuple[Mention, ...]:
        """The relations that it reads or writes."""
        return relations.relations(self.tokens) if self.mentions & relations.CLAUSES else ()

    @cached_property
    def called(self) -> tuple[Name, ...]:
        """The functions that it calls."""
        return tuple(relations.called(self.tokens)) if "(" in self.raw else ()

    @cached_property
    def qualified(self) -> tuple[tuple[str, str, int], ...]:
        """``schema.name`` of every relation, function and type, with its place."""
        if "." not in self.raw:
            return ()
        found = [(m.parts, m.start) for m in self.relations]
        found += [(n.parts, self.tokens[n.first].start) for n in self.called]
        found += [(n.parts, self.tokens[n.first].start) for n in relations.cast_types(self.tokens)]
        found += relations.regclass_names(self.tokens)
        return tuple((parts[0], parts[1], start) for parts, start in found if len(parts) == 2)

    @cached_property
    def plpgsql(self) -> tuple[Statement, ...]:
        """The statements of a PL/pgSQL body."""
        return statements.plpgsql(self.tokens)

    @cached_property
    def statements(self) -> tuple[Tokens, ...]:
        """The statements of an SQL text."""
        return statements.sql_statements(self.tokens)


@lru_cache(maxsize=65536)
def sql_of(raw: str) -> Sql:
    """The shared object of a text."""
    return Sql(raw)
