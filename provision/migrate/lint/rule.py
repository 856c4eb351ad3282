"""What a rule on migrations is: a code, a severity, one generator, and a docstring that is its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from provision.checks.rule import Documented
from provision.spec.diagnostic import Severity

#: What the generator looks at: one statement with what is known before it (``Step``), or a whole ``File``; "last" is a
#: file of which the other rules have told everything.
Scope = Literal["statement", "file", "last"]


class Finding(NamedTuple):
    """One hazard. ``statement`` is its number in the file, ``offset`` characters inside it; without, its ``line``."""

    message: str
    help: str
    statement: int | None = None
    offset: int = 0
    line: int = 1


@dataclass(frozen=True, slots=True)
class MigrationRule(Documented):
    """A rule and its page. ``opening`` words begin each of its messages."""

    code: str
    slug: str
    severity: Severity
    scope: Scope
    opening: str
    find: Callable[[Any], Iterator[Finding]]


def rule(
    code: str, slug: str, opening: str, *, severity: Severity = "warning", scope: Scope = "statement"
) -> Callable[[Callable[[Any], Iterator[Finding]]], MigrationRule]:
    """Make a rule of a generator. It registers nothing: ``registry.RULES`` lists the rules."""

    def made(find: Callable[[Any], Iterator[Finding]]) -> MigrationRule:
        return MigrationRule(code, slug, severity, scope, opening, find)

    return made
